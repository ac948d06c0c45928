"""ARCHITECTURE.md's table of rooms, held against the imports; and what imports cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import geoseg

PACKAGE = Path(geoseg.__file__).parent
# From the bottom up: a room may import the rooms before it.
ROOMS = (
    "errors jit components grid predictions config spec events testing scene aoi preflight "
    "reading stitch vectorize instances sinks models bundle runtime registry exchange options "
    "planning layer outputs loaded kept predict vectorize_raster survey batch metrics "
    "average_precision data train evaluate preview doctor terminal cli"
).split()
WITH_TORCH = {"models", "runtime", "exchange", "train", "doctor"}
WITH_RASTERIO = {
    *("testing", "scene", "aoi", "preflight", "sinks", "data", "train", "evaluate", "preview"),
    "doctor",
}


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Dotted names of all that the file imports, also inside functions."""
    package = ("geoseg", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (tuple(n.name.split(".")) for n in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = (*package[: len(package) - level + 1],) if level else ()
                full = (*base, *(module or "").split(".")) if module else base
                yield from ((*full, n.name) for n in names)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.name not in ("__init__.py", "__main__.py")
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_rooms_before_them(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        if name[0] == "geoseg" and len(name) > 1 and name[1] in ROOMS and name[1] != room:
            assert ROOMS.index(name[1]) < ROOMS.index(room), f"{room} imports {'.'.join(name)}"
        if name[0] in ("torch", "torchvision", "segmentation_models_pytorch", "timm"):
            assert room in WITH_TORCH, f"{room} imports {'.'.join(name)}"
        if name[0] == "rasterio":
            assert room in WITH_RASTERIO, f"{room} imports {'.'.join(name)}"


def test_the_table_in_the_document_is_complete() -> None:
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
    missing = [r for r in ROOMS if f"`{r}.py`" not in text and f"`{r}/`" not in text]
    assert not missing


def modules_after(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has loaded after `code`."""
    script = f"{code}\nimport sys; print(*{{m.split('.')[0] for m in sys.modules}})"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_help_is_light() -> None:
    heavy = {"torch", "numpy", "rasterio", "geopandas", "pydantic", "numba", "yaml"}
    assert not heavy & modules_after("import geoseg.cli")


def test_predicting_does_not_import_the_training_stack() -> None:
    loaded = modules_after("import geoseg.predict")
    assert not {"torch", "lightning", "torchgeo", "kornia", "tensorboard"} & loaded
