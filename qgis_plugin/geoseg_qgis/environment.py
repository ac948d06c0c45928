"""Finds the engine, or sets it up in a private environment: standard library only, no Qt."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess  # nosec B404 - only for STDOUT; Child starts it
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .runner import (
    Child,
    Engine,
    EngineCanceled,
    EngineError,
    EngineMissing,
    clean_environment,
    tr,
)

MARK = "geoseg-engine.json"  # makes a folder ours: nothing else is ever replaced or removed
LIGHT, FULL = "light", "full"  # kinds of engines: without PyTorch, and with all there is
REQUIREMENTS = "requirements-light.txt"  # in the package: what a light engine needs beside it
EXTRAS = "geoseg[train,instances,onnx]"  # of a full one
PYTHONS = ((3, 13), (3, 12), (3, 11))  # those that geoseg runs on, the best first
SLOW = 180  # seconds: torch from a cold network disk takes its time
# Offices set these for pip; the other PIP_ variables change where it installs to.
PIP_SETTINGS = tuple(
    f"PIP_{name}"
    for name in "INDEX_URL EXTRA_INDEX_URL NO_INDEX FIND_LINKS CERT CLIENT_CERT PROXY TRUSTED_HOST "
    "CONFIG_FILE".split()
)
# pip's second index, by platform and device, where PyPI's torch is not the one that is wanted (on
# Linux it is CUDA's, elsewhere the CPU's); GEOSEG_TORCH_INDEX replaces it.
TORCH_INDEX: dict[tuple[str, str], str] = {}
# Shims, launchers and virtual environments tell the Python that is behind them.
QUESTION = """
import ensurepip, json, sys, venv
program = getattr(sys, "_base_executable", "") or sys.executable
print(json.dumps([*sys.version_info[:2], program]))
"""

Line = Callable[[str], None]


def _silent(line: str) -> None:
    """Nobody listens."""


def _never() -> bool:
    return False


# Finding


def find_engine(configured: str = "") -> Engine:
    """The setting, GEOSEG_PYTHON or GEOSEG_ENGINE, the private environment, or PATH's geoseg.

    What was named and does not exist is an error: another engine than the user's own would be
    a surprise.
    """
    named = {
        tr("the setting"): configured.strip(),
        "GEOSEG_PYTHON": os.environ.get("GEOSEG_PYTHON", ""),
        "GEOSEG_ENGINE": os.environ.get("GEOSEG_ENGINE", ""),
    }
    for origin, path in named.items():
        if path:
            return _named(path, origin)
    if _is_complete(default_folder()):
        return _of_folder(default_folder())
    on_path = shutil.which("geoseg")
    if on_path:
        return Engine((on_path,))
    raise EngineMissing(tr("geoseg's engine is not set up yet.") + " " + _set_up())


def _set_up() -> str:
    return tr(
        "Set it up under Raster ▸ geoseg ▸ Engine and models, or name there the Python that has "
        "geoseg."
    )


def _named(name: str, origin: str) -> Engine:
    """Of a Python, of geoseg itself, or of the folder of an environment."""
    path = Path(name).expanduser()
    if path.is_dir():
        path = _python(path)
    if not path.is_file():
        text = tr("{origin} names {path}, which does not exist.")
        raise EngineMissing(text.format(origin=origin, path=path) + " " + _set_up())
    if origin == "GEOSEG_PYTHON" or re.match(r"(python|pypy)", path.name, re.IGNORECASE):
        return Engine((str(path), "-m", "geoseg"))
    return Engine((str(path),))


def _of_folder(folder: Path) -> Engine:
    return Engine((str(_python(folder)), "-m", "geoseg"))


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def default_folder() -> Path:
    """The private environment's, beside other programs' data: plugin updates do not delete it."""
    home = Path.home()
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "geoseg" / "qgis-engine"


def _mark(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_private(folder: Path) -> bool:
    """Whether the plugin made it, or began to."""
    return folder.is_absolute() and bool(_mark(folder))


def kind_of(folder: Path) -> str:
    """LIGHT or FULL, "" where the plugin has made nothing."""
    mark = _mark(folder)
    return str(mark.get("kind", FULL)) if mark else ""


def _is_complete(folder: Path) -> bool:
    return bool(_mark(folder).get("complete")) and _python(folder).exists()


# Looking after it


def check(engine: Engine, is_canceled: Callable[[], bool] = _never) -> dict[str, Any]:
    """What `geoseg doctor` says: versions, devices, models, trouble."""
    until = time.monotonic() + SLOW
    try:
        return engine.run(["doctor"], is_canceled=lambda: is_canceled() or time.monotonic() > until)
    except EngineCanceled:
        if is_canceled():
            raise
        text = tr(
            "geoseg does not answer within {seconds} s. Try again; if it stays so, repair the "
            "engine."
        )
        raise EngineError(text.format(seconds=SLOW)) from None


def diagnostics(engine: Engine | None) -> str:
    """Text to copy into a report of a bug; no passwords."""
    lines = [
        f"host: Python {platform.python_version()} on {platform.platform()}",
        f"engine: {' '.join(engine.command) if engine else 'none'}",
        f"private environment: {default_folder()} {json.dumps(_mark(default_folder()))}",
    ]
    prefixes = ("GEOSEG_", "PYTHON", "PIP_", "PROJ_", "GDAL_", "CUDA_", "LD_")
    names = [k for k in os.environ if k.startswith(prefixes) or k.lower().endswith("_proxy")]
    lines += [f"{name}={_without_password(os.environ[name])}" for name in sorted(names)]
    if engine is None:
        return "\n".join(lines)
    try:
        report = json.dumps(check(engine), indent=1, ensure_ascii=False)
    except EngineError as e:
        report = f"doctor fails: {e}"
    return "\n".join([*lines, report])


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//…@", text)


def remove(folder: Path) -> None:
    """Delete a private environment; a folder that is not one stays, with an error."""
    folder = Path(folder)
    if not folder.exists():
        return
    if not _mark(folder) and any(folder.iterdir()):
        text = tr(
            "{folder} was not made by this plugin, so it stays. Delete it by hand if it may go."
        )
        raise EngineError(text.format(folder=folder))
    # A moved folder is gone for everybody at once; one whose files are in use does not move.
    doomed = folder.with_name(f"{folder.name}.removed-{os.getpid()}-{time.time_ns()}")
    try:
        folder.rename(doomed)
    except OSError as e:
        text = tr("{folder} cannot be removed ({error}). End all runs of geoseg and try again.")
        raise EngineError(text.format(folder=folder, error=e.strerror)) from e
    shutil.rmtree(doomed, ignore_errors=True)


# Setting it up


def create(
    folder: Path,
    *,
    kind: str = FULL,
    device: str = "cpu",
    wheelhouse: Path | None = None,
    source: str = "geoseg",
    torch_index: str = "",
    proxy: str = "",
    certificate: str = "",
    on_line: Line = _silent,
    is_canceled: Callable[[], bool] = _never,
) -> Engine:
    """Make a private environment with geoseg in `folder`, and check it.

    An environment that is there is replaced, and comes back if this fails. `kind` is LIGHT or
    FULL. `wheelhouse` is a folder of wheels that replaces the index, `source` what pip is told to
    install, `torch_index` an index beside the first.
    """
    folder = Path(folder).absolute()
    if wheelhouse is not None and not Path(wheelhouse).is_dir():
        text = tr("{folder} is no folder. Choose the one that holds the wheels.")
        raise EngineError(text.format(folder=wheelhouse))
    base = base_python(is_canceled)
    with _Place(folder) as place:
        on_line(tr("{python} makes {folder}").format(python=base, folder=folder))
        _call([base, "-m", "venv", str(folder)], on_line, is_canceled)
        about = {"kind": kind, "device": device, "source": source}
        place.mark(complete=False, **about)
        command = [str(_python(folder)), "-m", "pip", "install", "--no-input", "--no-color"]
        command += ["--disable-pip-version-check", "--progress-bar", "off"]
        command += ["--no-compile"]  # most modules are never imported
        command += _origin(device, wheelhouse, torch_index)
        # Not as options: everybody on the machine sees those, and a proxy may have a password.
        settings = {"PIP_PROXY": proxy, "PIP_CERT": certificate}
        # geoseg first: whatever the source, it knows itself what it needs.
        _call([*command, "--no-deps", source], on_line, is_canceled, settings=settings)
        needs = _light(folder, source) if kind == LIGHT else [EXTRAS]
        _call([*command, *needs], on_line, is_canceled, settings=settings)
        engine = _of_folder(folder)
        on_line(tr("Checking …"))
        report = engine.run(["doctor"], is_canceled=is_canceled)
        for trouble in report.get("trouble") or ():
            on_line(f"warning: {trouble}")
        place.mark(complete=True, geoseg=report.get("geoseg"), **about)
    return engine


def _light(folder: Path, source: str) -> list[str]:
    """What pip is told to install beside a geoseg that is in the environment already."""
    # Not lib64, which is the same.
    for path in folder.glob(f"[Ll]ib/**/site-packages/geoseg/{REQUIREMENTS}"):
        # That torch is missing is no conflict here.
        return ["--no-warn-conflicts", "--requirement", str(path)]
    raise EngineError(
        f"{source} is a geoseg without a light engine: choose the full one, or a newer geoseg."
    )


def _origin(device: str, wheelhouse: Path | None, torch_index: str = "") -> list[str]:
    """Where packages come from."""
    if wheelhouse is not None:
        return ["--no-index", "--find-links", str(Path(wheelhouse).absolute())]
    index = torch_index or os.environ.get("GEOSEG_TORCH_INDEX")
    index = index or TORCH_INDEX.get((sys.platform, device))
    return ["--extra-index-url", index] if index else []


class _Place:
    """The folder while an environment is made in it: complete at the end, or as it was before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.old = folder.with_name(folder.name + ".old")

    def __enter__(self) -> _Place:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if _mark(self.old):  # of a set-up that was killed
            if _is_complete(self.folder) or not _is_complete(self.old):
                remove(self.old)
            else:
                remove(self.folder)
                self.old.rename(self.folder)
        if self.folder.exists() and any(self.folder.iterdir()):
            if not _mark(self.folder):
                text = tr("{folder} holds other files. Choose an empty or a new folder.")
                raise EngineError(text.format(folder=self.folder))
            try:
                self.folder.rename(self.old)
            except OSError as e:
                text = tr("{folder} is in use ({error}). End all runs of geoseg and try again.")
                raise EngineError(text.format(folder=self.folder, error=e.strerror)) from e
        # Before anything else is in it: what is killed half-way is still known as ours.
        self.mark(complete=False)
        return self

    def mark(self, **what: object) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / MARK).write_text(json.dumps(what), encoding="utf-8")

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            remove(self.old)
            return
        remove(self.folder)
        if self.old.exists():
            self.old.rename(self.folder)


def base_python(is_canceled: Callable[[], bool] = _never) -> str:
    """A Python that geoseg runs on and that can make environments.

    QGIS's sys.executable may be QGIS itself, so every candidate is run.
    """
    found: dict[tuple[int, ...], str] = {}
    for candidate in _candidates():
        said: list[str] = []
        try:
            _call([*candidate, "-c", QUESTION], said.append, is_canceled, seconds=20)
            *version, program = json.loads(said[-1])
        except (EngineError, LookupError, TypeError, ValueError):
            continue  # too old, without ensurepip, or no Python at all
        found.setdefault(tuple(version), str(program))
        if PYTHONS[0] in found:
            break
    for version in PYTHONS:
        if version in found:
            return found[version]
    raise EngineError(
        tr(
            "No Python 3.11 to 3.13 that can make environments was found. Install one, without "
            "admin rights from python.org, or on Debian and Ubuntu the packages python3 and "
            "python3-venv."
        )
    )


def _candidates() -> Iterator[list[str]]:
    seen = set()
    names = [f"python{major}.{minor}" for major, minor in PYTHONS] + ["python3", "python"]
    roots = [Path(sys.base_prefix), Path(sys.base_prefix) / "bin", Path(sys.base_exec_prefix)]
    if os.name == "nt":
        launcher = shutil.which("py")
        for major, minor in PYTHONS if launcher else ():
            yield [str(launcher), f"-{major}.{minor}"]
        roots += [Path(sys.base_prefix).parent / f"Python{a}{b}" for a, b in PYTHONS]
    elif sys.platform == "darwin":
        roots += [Path("/opt/homebrew/bin"), Path("/usr/local/bin")]
    for name in names:
        beside = [root / (name + (".exe" if os.name == "nt" else "")) for root in roots]
        for path in [shutil.which(name), *map(str, filter(Path.is_file, beside))]:
            if path and os.path.realpath(path) not in seen:
                seen.add(os.path.realpath(path))
                yield [path]


def _call(
    command: Sequence[str],
    on_line: Line,
    is_canceled: Callable[[], bool],
    *,
    seconds: float = float("inf"),
    settings: Mapping[str, str] | None = None,
) -> None:
    """Run a step and hand on its lines; its end is in the error when it fails."""
    env = clean_environment()
    env.update({k: os.environ[k] for k in PIP_SETTINGS if k in os.environ})
    env.update({k: v for k, v in (settings or {}).items() if v})
    until = time.monotonic() + seconds
    tail: list[str] = []

    def stop() -> bool:
        return is_canceled() or time.monotonic() > until

    try:
        with Child(command, env, stderr=subprocess.STDOUT) as child:
            for raw in child.lines(stop):
                line = raw.decode("utf-8", "replace").rstrip()
                tail = [*tail[-11:], line]
                on_line(line)
            code = child.returncode
    except EngineCanceled:
        if is_canceled():
            raise
        text = tr("{command} did not answer within {seconds} s. Try again.")
        raise EngineError(text.format(command=command[0], seconds=f"{seconds:g}")) from None
    if code != 0:
        said = "\n".join(map(_without_password, tail))
        failed = tr("The engine's set-up failed (code {code}):").format(code=code)
        advice = tr(
            "Check the connection, the proxy and the free space on the disk, and try again."
        )
        raise EngineError(f"{failed}\n{said}\n{advice}")
