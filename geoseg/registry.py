"""Models by name: those in the package, and those in the user's own model folder.

The user's folder is platformdirs' data folder for geoseg, or $GEOSEG_HOME; models lie in `models`
below it, one folder (or zip) each.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import platformdirs

from geoseg.bundle import WEIGHTS, Bundle
from geoseg.bundle.files import ITEM, MAX_BYTES, installing
from geoseg.errors import ModelError, OutputError
from geoseg.spec import ClassInfo

DEFAULT_MODEL = "buildings-v1"
BUNDLED = Path(__file__).parent / "bundles"
_IN_THE_WAY = "take another name (--name), or replace it (--overwrite)"
# What is fetched from a Hugging Face repository, which may hold much else.
HF_PATTERNS = ["model.json", "README.md", "*.safetensors", "*.onnx", "sample.npz", "thumbnail.png"]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be named, with what there is to know when one is chosen.

    source: 'package' or 'user'. classes: without the background. gsd: metres per pixel. dtype,
    value_range: of the rasters that it was trained on. runtimes: those that are installed and can
    run it. thumbnail: a picture in the bundle, if it has one.
    """

    name: str
    id: str
    version: str
    source: str
    task: str
    description: str
    license: str
    classes: tuple[ClassInfo, ...]
    bands: tuple[str, ...]
    gsd: float
    dtype: str
    value_range: tuple[float, float]
    runtimes: tuple[str, ...]
    path: Path
    thumbnail: Path | None

    @classmethod
    def of(cls, name: str, path: Path) -> ModelEntry:
        """Of the bundle at `path`, which is known as `name`."""
        from geoseg.runtime.choice import candidates

        bundle = Bundle.open(path)
        spec = bundle.spec
        return cls(
            name=name,
            id=spec.id,
            version=spec.version,
            source="package" if path.parent == BUNDLED else "user",
            task=spec.task,
            description=spec.description,
            license=spec.license,
            classes=tuple(c for c in spec.classes if c.id in spec.names),
            bands=tuple(b.name for b in spec.bands),
            gsd=spec.gsd,
            dtype=spec.dtype,
            value_range=spec.value_range,
            runtimes=tuple(candidates(bundle)),
            path=path,
            thumbnail=bundle.thumbnail,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        thumbnail = str(self.thumbnail) if self.thumbnail else None
        return {**asdict(self), "path": str(self.path), "thumbnail": thumbnail}


def user_models() -> Path:
    """The folder into which models are pulled; it may not exist yet."""
    home = os.environ.get("GEOSEG_HOME")
    return (Path(home) if home else Path(platformdirs.user_data_dir("geoseg"))) / "models"


def find(model: str | Path) -> Path:
    """Where a model lies: `model` is a name, or the path of a bundle."""
    named = _named()
    if str(model) in named:
        return named[str(model)]
    if path := _local(str(model)):
        return path
    close = difflib.get_close_matches(str(model), list(named), n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ModelError(
        f"no model is named {str(model)!r}, and no folder or zip lies there{hint} "
        "(geoseg model list shows what there is, geoseg model pull gets more)"
    )


def list_models(*, skip: Callable[[ModelError], None] | None = None) -> list[ModelEntry]:
    """All models that can be named.

    A broken one is a ModelError that tells which; with `skip` it is left out, and `skip` is told.
    """
    entries = []
    for name, path in sorted(_named().items()):
        try:
            entries.append(ModelEntry.of(name, path))
        except ModelError as e:
            if skip is None:
                raise
            skip(e)
    return entries


def add_model(bundle: str | Path, *, name: str | None = None, overwrite: bool = False) -> Path:
    """Check the bundle in a folder or zip and keep a copy in the user's folder; where it lies then.

    It is known as `name`, or by the name in its model.json. Only the files that model.json lists
    are kept, each after its checksum.
    """
    opened = Bundle.open(Path(bundle).expanduser())
    if opened.has(WEIGHTS):
        opened.weights()  # intact, and what they claim to be
    opened.sample()
    name = _checked_name(name or opened.spec.name)
    there = _in(user_models()).get(name)
    if there is not None and there.is_file() and not overwrite:
        raise ModelError(f"{there} exists already: {_IN_THE_WAY}")
    target = user_models() / name
    try:
        with installing(target, overwrite=overwrite) as partial:
            partial.mkdir()
            opened.copy_to(partial)
    except OutputError as e:
        raise ModelError(f"{e}: {_IN_THE_WAY}") from e
    if there is not None and there.is_file():  # a zip of that name, which was to be replaced
        there.unlink()
    return target


def remove_model(name: str) -> Path:
    """Delete a model from the user's folder; where it was. Those of the package stay."""
    path = _in(user_models()).get(name)
    if path is None:
        if name in _in(BUNDLED):
            raise ModelError(f"{name} comes with geoseg and stays; only your own can be removed")
        raise ModelError(f"none of your models is named {name!r} (geoseg model list shows them)")
    doomed = path.with_name(f".{path.name}-removed-{os.getpid()}")  # at once gone for others
    try:
        path.rename(doomed)
        doomed.unlink() if doomed.is_file() else shutil.rmtree(doomed)
    except OSError as e:
        raise ModelError(f"{path} cannot be removed ({e.strerror}): is it in use?") from e
    return path


def pull(source: str | Path, *, name: str | None = None, overwrite: bool = False) -> Path:
    """Check a model and keep it in the user's folder; where it lies then.

    `source` is a folder, a zip, the http(s) address of a zip, or a Hugging Face repository as
    'owner/name' or 'hf:owner/name@revision'; see `add_model` for the rest.
    """
    with _fetched(str(source)) as path:
        return add_model(path, name=name, overwrite=overwrite)


def _named() -> dict[str, Path]:
    """Name -> bundle. The user's own win over the package's."""
    return {**_in(BUNDLED), **_in(user_models())}


def _in(folder: Path) -> dict[str, Path]:
    """Name -> bundle in one folder."""
    found: dict[str, Path] = {}
    if folder.is_dir():
        for path in folder.iterdir():
            if path.suffix == ".zip" and path.is_file():
                found[path.stem] = path
            elif (path / ITEM).is_file() and not path.name.startswith("."):
                found[path.name] = path
    return found


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ModelError(
            f"{name!r:.120} is no name for a model: letters, digits, '.', '_' and '-' only, "
            "a hundred at most"
        )
    return name


def _local(name: str) -> Path | None:
    """The file or folder of that name, if there is one; no text is a mistake here."""
    path = os.path.expanduser(name)  # noqa: PTH111 - pathlib's raises where no such user is
    return Path(path) if os.path.exists(path) else None  # noqa: PTH110 - and on long names


# --- where models come from -----------------------------------------------------------------


@contextmanager
def _fetched(source: str) -> Iterator[Path]:
    """The source as a local folder or zip, for as long as it is needed."""
    scheme, _, rest = source.partition("://")
    if scheme in ("http", "https") and rest:
        with tempfile.TemporaryDirectory(prefix="geoseg-") as folder:
            yield _download(source, Path(folder) / "model.zip")
    elif path := _local(source):
        yield path
    elif source.startswith("hf:") or re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", source):
        yield _snapshot(source.removeprefix("hf:"))
    else:
        raise ModelError(
            f"{source}: no such folder or zip, and neither an http(s) address nor a Hugging Face "
            "repository (owner/name)"
        )


def _download(url: str, target: Path) -> Path:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, target.open("wb") as file:
            while block := answer.read(1 << 20):
                file.write(block)
                if file.tell() > MAX_BYTES:
                    raise ModelError(f"{url}: refused, it is larger than {MAX_BYTES >> 30} GiB")
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as e:
        raise ModelError(f"{url} cannot be fetched: {getattr(e, 'reason', e)}") from e
    return target


def _snapshot(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = repository.partition("@")
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=HF_PATTERNS, max_workers=2
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as e:
        first = str(e).strip().partition("\n")[0]
        raise ModelError(f"hf:{repository} cannot be fetched: {first}") from e
    return Path(folder)
