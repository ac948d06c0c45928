"""Models by name: those in the package, and those in the user's own model folder.

The user's folder is platformdirs' data folder for geoseg, or $GEOSEG_HOME; models lie in `models`
below it, one folder (or zip) each.
"""

from __future__ import annotations

import difflib
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import platformdirs

from geoseg.bundle import WEIGHTS, Bundle
from geoseg.bundle.files import ITEM, MAX_BYTES, installing
from geoseg.errors import ModelError, OutputError

DEFAULT_MODEL = "buildings-v1"
BUNDLED = Path(__file__).parent / "bundles"
# What is fetched from a Hugging Face repository, which may hold much else.
HF_PATTERNS = ["model.json", "README.md", "*.safetensors", "*.onnx", "sample.npz"]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be named. `source`: 'package' or 'user'; `gsd` in metres per pixel."""

    name: str
    version: str
    source: str
    task: str
    classes: tuple[str, ...]
    bands: tuple[str, ...]
    gsd: float
    path: Path

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}


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


def list_models() -> list[ModelEntry]:
    """All models that can be named. A broken one is a ModelError that tells which."""
    entries = []
    for name, path in sorted(_named().items()):
        spec = Bundle.open(path).spec
        entries.append(
            ModelEntry(
                name=name,
                version=spec.version,
                source="package" if path.parent == BUNDLED else "user",
                task=spec.task,
                classes=tuple(spec.names.values()),
                bands=tuple(b.name for b in spec.bands),
                gsd=spec.gsd,
                path=path,
            )
        )
    return entries


def pull(source: str | Path, *, name: str | None = None, overwrite: bool = False) -> Path:
    """Check a model and keep it in the user's folder; where it lies then.

    `source` is a folder, a zip, the http(s) address of a zip, or a Hugging Face repository as
    'owner/name' or 'hf:owner/name@revision'. It is known as `name`, or by the name in its
    model.json. Only the files that model.json lists are kept, each after its checksum.
    """
    with _fetched(str(source)) as path:
        bundle = Bundle.open(path)
        if bundle.has(WEIGHTS):
            bundle.weights()  # intact, and what they claim to be
        bundle.sample()
        target = user_models() / _checked_name(name or bundle.spec.name)
        try:
            with installing(target, overwrite=overwrite) as partial:
                partial.mkdir()
                bundle.copy_to(partial)
        except OutputError as e:
            raise ModelError(f"{e}: take another name (--name) or remove it") from e
    return target


def _named() -> dict[str, Path]:
    """Name -> bundle. The user's own win over the package's."""
    found: dict[str, Path] = {}
    for folder in (BUNDLED, user_models()):
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
