"""Finding, making, checking and removing the QGIS plugin's engine, without a network."""

from __future__ import annotations

import json
import os
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from geoseg_qgis import environment
from geoseg_qgis.environment import check, create, default_folder, diagnostics, find_engine, remove
from geoseg_qgis.runner import Engine, EngineCanceled, EngineError, EngineMissing

DOCTOR = """
import json, sys
assert sys.argv[1:] == ["doctor", "--json"], sys.argv
print(json.dumps({"geoseg": "9.9", "devices": ["cpu"], "trouble": ["one thing"], "at": sys.prefix}))
sys.exit(1)
"""


GEOSEG = {
    "geoseg/__init__.py": "",
    "geoseg/__main__.py": DOCTOR,
    f"geoseg/{environment.REQUIREMENTS}": "# those that predict\nsmall>=1\n",
}
# torch is in no wheelhouse of these tests.
NEEDS = "Requires-Dist: small\nRequires-Dist: large\nProvides-Extra: train\n"
NEEDS += "Requires-Dist: learning; extra == 'train'\n"


def put_wheel(folder: Path, name: str, files: dict[str, str], needs: str = "") -> None:
    info = f"{name}-9.9.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-9.9-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def wheel(folder: Path) -> Path:
    """A folder with a tiny `geoseg` that only knows `doctor`."""
    folder.mkdir()
    put_wheel(folder, "geoseg", GEOSEG)
    return folder


@pytest.fixture(autouse=True)
def _no_engine_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GEOSEG_PYTHON", "GEOSEG_ENGINE", "GEOSEG_TORCH_INDEX"):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("PATH", os.defpath)


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_without_any_engine_the_message_says_what_to_do() -> None:
    with pytest.raises(EngineMissing, match=r"not set up yet\. Set it up under Raster"):
        find_engine()


def test_the_order_in_which_engines_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    geoseg = program(tmp_path / "path" / "geoseg")
    monkeypatch.setenv("PATH", str(geoseg.parent))
    assert find_engine() == Engine((str(geoseg),))

    folder = default_folder()
    python = program(environment._python(folder))
    assert find_engine() == Engine((str(geoseg),))  # half-made ones do not count
    (folder / environment.MARK).write_text(json.dumps({"complete": True}))
    assert find_engine() == Engine((str(python), "-m", "geoseg"))

    other = program(tmp_path / "other" / "geoseg")
    monkeypatch.setenv("GEOSEG_ENGINE", str(other))
    assert find_engine() == Engine((str(other),))
    monkeypatch.setenv("GEOSEG_PYTHON", sys.executable)
    assert find_engine() == Engine((sys.executable, "-m", "geoseg"))

    assert find_engine(f" {other} ") == Engine((str(other),))
    assert find_engine(str(folder)) == find_engine(str(python))
    assert find_engine(str(python)) == Engine((str(python), "-m", "geoseg"))


def test_an_engine_that_was_named_is_not_replaced_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(EngineMissing, match="the setting names /nowhere/geoseg"):
        find_engine("/nowhere/geoseg")
    monkeypatch.setenv("GEOSEG_PYTHON", "/nowhere/python")
    with pytest.raises(EngineMissing, match="GEOSEG_PYTHON names /nowhere/python"):
        find_engine()


def test_the_private_folder_is_not_the_plugins() -> None:
    assert "geoseg_qgis" not in default_folder().parts
    assert default_folder().is_absolute()


def test_check_gives_up_on_what_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "SLOW", 0.2)
    with pytest.raises(EngineError, match=r"does not answer.*repair"):
        check(Engine((sys.executable, "-S", "-c", "import time; time.sleep(60)")))


def test_diagnostics_tell_what_is_wrong_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    monkeypatch.setenv("PROJ_LIB", "/nowhere/proj")
    text = diagnostics(Engine((sys.executable, "-S", "-c", "raise SystemExit('broken torch')")))
    assert "broken torch" in text
    assert "PROJ_LIB=/nowhere/proj" in text
    assert "http://…@proxy:3128" in text
    assert "secret" not in text
    assert "engine: none" in diagnostics(None)


def test_made_from_a_wheelhouse_repaired_and_removed(tmp_path: Path) -> None:
    folder, lines = tmp_path / "a b" / "engine", list[str]()
    wheels = wheel(tmp_path / "wheel house")
    engine = create(folder, wheelhouse=wheels, on_line=lines.append)
    assert Path(check(engine)["at"]) == folder
    assert any("geoseg-9.9" in line for line in lines)  # pip speaks as it works
    assert "warning: one thing" in lines
    assert find_engine(str(folder)) == engine
    assert "9.9" in diagnostics(engine)

    # A repair that fails leaves what was there, and says why it failed.
    with pytest.raises(EngineError, match=r"(?s)No matching distribution.*try again"):
        create(folder, wheelhouse=wheels, source="geoseg==10")
    assert check(engine)["geoseg"] == "9.9"
    assert os.listdir(folder.parent) == [folder.name]  # noqa: PTH208

    remove(folder)
    assert list(folder.parent.iterdir()) == []
    remove(folder)


def packages(folder: Path) -> set[str]:
    """What pip has put there."""
    found = folder.glob("lib/python*/site-packages/*.dist-info")
    return {path.name.partition("-")[0] for path in found} - {"pip", "setuptools"}


def test_light_is_what_geoseg_itself_lists_and_full_is_all_with_training(tmp_path: Path) -> None:
    wheels, folder, lines = tmp_path / "wheels", tmp_path / "engine", list[str]()
    wheels.mkdir()
    put_wheel(wheels, "geoseg", GEOSEG, NEEDS)
    put_wheel(wheels, "small", {"small.py": ""})
    engine = create(
        folder, kind=environment.LIGHT, device="cpu", wheelhouse=wheels, on_line=lines.append
    )
    assert check(engine)["geoseg"] == "9.9"
    assert packages(folder) == {"geoseg", "small"}
    assert not any("ERROR" in line for line in lines)  # as pip says of what is left out
    assert environment.kind_of(folder) == environment.LIGHT

    with pytest.raises(EngineError, match=r"No matching distribution found for (large|learning)"):
        create(folder, kind=environment.FULL, wheelhouse=wheels)
    assert packages(folder) == {"geoseg", "small"}
    for name in ("large", "learning"):
        put_wheel(wheels, name, {f"{name}.py": ""})
    create(folder, kind=environment.FULL, wheelhouse=wheels)
    assert packages(folder) == {"geoseg", "small", "large", "learning"}
    assert environment.kind_of(folder) == environment.FULL
    assert environment.kind_of(tmp_path) == ""


def test_a_geoseg_without_a_light_engine_says_so(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    put_wheel(wheels, "geoseg", {"geoseg/__init__.py": ""})
    with pytest.raises(EngineError, match="without a light engine: choose the full one"):
        create(tmp_path / "engine", kind=environment.LIGHT, wheelhouse=wheels)
    assert not (tmp_path / "engine").exists()


def test_cancel_leaves_nothing(tmp_path: Path) -> None:
    canceled = threading.Event()
    with pytest.raises(EngineCanceled):
        create(
            tmp_path / "engine",
            wheelhouse=wheel(tmp_path / "wheels"),
            on_line=lambda line: canceled.set(),
            is_canceled=canceled.is_set,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["wheels"]


def test_other_peoples_folders_are_safe(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(EngineError, match="was not made by this plugin"):
        remove(tmp_path)
    with pytest.raises(EngineError, match="holds other files"):
        create(tmp_path, wheelhouse=tmp_path)
    assert (tmp_path / "thesis.txt").exists()
    with pytest.raises(EngineError, match="is no folder"):
        create(tmp_path / "new", wheelhouse=tmp_path / "missing")
    assert not (tmp_path / "new").exists()


def test_a_set_up_that_was_killed_is_mended_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    old = folder.with_name("engine.old")
    old.mkdir()
    program(environment._python(old))
    (old / environment.MARK).write_text('{"complete": true}')
    folder.mkdir()
    (folder / environment.MARK).write_text('{"complete": false}')
    with pytest.raises(ZeroDivisionError), environment._Place(folder):
        raise ZeroDivisionError
    assert environment._is_complete(folder)
    assert not old.exists()


def test_proxy_and_certificate_reach_pip_unseen_and_pips_own_settings_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://wheels.example/simple")
    monkeypatch.delenv("PIP_CERT", raising=False)
    monkeypatch.setenv("PIP_TARGET", "/nowhere")
    said: list[str] = []
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    settings = {"PIP_PROXY": "http://p", "PIP_CERT": ""}
    command = [sys.executable, "-S", "-c", code]
    environment._call(command, said.append, lambda: False, settings=settings)
    env = json.loads(said[0])
    assert env["PIP_PROXY"] == "http://p"
    assert env["PIP_INDEX_URL"] == "https://wheels.example/simple"
    assert not {"PIP_CERT", "PIP_TARGET"} & set(env)


def test_where_torch_comes_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert environment._origin("cpu", tmp_path) == ["--no-index", "--find-links", str(tmp_path)]
    monkeypatch.setattr(environment, "TORCH_INDEX", {(sys.platform, "cpu"): "https://cpu.example"})
    assert environment._origin("cpu", None) == ["--extra-index-url", "https://cpu.example"]
    assert environment._origin("cuda", None) == []
    monkeypatch.setenv("GEOSEG_TORCH_INDEX", "https://own.example")
    assert environment._origin("cuda", None) == ["--extra-index-url", "https://own.example"]


def test_no_python_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_candidates", lambda: iter([["/nowhere/python3"], ["true"]]))
    with pytest.raises(EngineError, match=r"No Python 3\.11 to 3\.13.*Install one"):
        environment.base_python()
