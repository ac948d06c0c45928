"""What `geoseg batch` is given: folders, globs, lists, tile indexes, rasters, as Items.

Sources are read as a stream, in an order that is the same in every run. A raster is one scene,
a VRT too, whatever it is made of: polygons are then whole across its members.
"""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TextIO
from urllib.parse import urlsplit

from geoseg.batch.items import Item, safe_name
from geoseg.batch.ledger import NAME as LEDGER
from geoseg.batch.stac import Search, is_stac, stac_items
from geoseg.errors import DataError
from geoseg.scene.files import is_remote, shown
from geoseg.sinks.atomic import PREFIX
from geoseg.spec import Band

RASTERS = frozenset(
    ".tif .tiff .gtiff .cog .vrt .jp2 .j2k .img .png .jpg .jpeg .webp .sid .ecw .nitf .ntf .bil "
    ".bip .bsq .asc .kea".split()
)
LISTS = frozenset((".txt", ".lst", ".csv"))
DOCUMENTS = frozenset((".json", ".geojson", ""))
INDEXES = frozenset((".gpkg", ".shp", ".geojson", ".fgb", ".parquet", ".gti"))
LOCATION = ("location", "source", "path", "file", "url", "href")  # columns, the likeliest first
_NO_TABLE = "name its column of paths or addresses location"


def listed(
    sources: Iterable[str | os.PathLike[str]],
    bands: Sequence[Band] = (),
    search: Search | None = None,
) -> Iterator[Item]:
    """The scenes of all sources, one after the other.

    A source is a folder (searched to the bottom), a glob, a raster or its URL, a list (.txt, .csv),
    a vector file with a column of locations (a tile index), or STAC: of that `search` says what is
    wanted, and `bands` which assets the model takes. Raises DataError or SceneError where one
    cannot be read, or holds no scene.
    """
    for source in (os.fspath(s) for s in sources):
        empty = True
        reader = _reader(source)
        items = reader(source) if reader else stac_items(source, bands, search)
        for item in items:
            empty = False
            yield item
        if empty:
            raise DataError(f"{shown(source)}: holds no scenes: give a folder, glob, list or STAC")


def _reader(source: str) -> Callable[[str], Iterator[Item]] | None:
    """What reads a source; None for STAC."""
    path, suffix = Path(source).expanduser(), Path(urlsplit(source).path).suffix.lower()
    if path.is_dir():
        return _folder
    if glob.has_magic(source) and not path.exists() and not is_remote(source):
        return _glob
    if suffix in LISTS:
        return _csv if suffix == ".csv" else _lines
    if (suffix in DOCUMENTS or is_remote(source)) and suffix not in RASTERS and is_stac(source):
        return None
    return _index if suffix in INDEXES else _raster


def _raster(source: str) -> Iterator[Item]:
    path = Path(source).expanduser()
    if _is_local(source) and path.suffix.lower() not in RASTERS and not path.exists():
        raise DataError(f"{source}: no such file or folder: check the path")
    yield item_of(source)


def _is_local(source: str) -> bool:
    return not (is_remote(source) or source.startswith(("/vsi", "<")))


def _folder(source: str) -> Iterator[Item]:
    root = Path(source).expanduser()
    for folder, below, files in os.walk(root):
        if LEDGER in files:  # what a batch has made, maybe this very one: no scenes
            below.clear()
            continue
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in RASTERS and not name.startswith((".", PREFIX)):
                path = Path(folder, name)
                yield item_of(str(path), name=str(path.relative_to(root)))


def _glob(source: str) -> Iterator[Item]:
    pattern = str(Path(source).expanduser())
    fixed = Path(*_before_magic(pattern))
    made = cache(lambda folder: (folder / LEDGER).exists())  # by a batch: no scenes
    for name in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207  of any root
        path = Path(name)
        if any(made(p) for p in path.parents if p != fixed and p.is_relative_to(fixed)):
            continue
        if path.is_file() and path.suffix.lower() not in (".ovr", ".xml", ".aux", ".msk"):
            yield item_of(name, name=str(path.relative_to(fixed)))


def _before_magic(pattern: str) -> list[str]:
    """The folders of a glob that are the same for all that it finds."""
    parts: list[str] = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return parts


def _lines(source: str) -> Iterator[Item]:
    """A path or URL a line; # begins a remark."""
    with _opened(source) as file:
        for line in file:
            text = line.strip()
            if text and not text.startswith("#"):
                yield item_of(text, beside=source)


def _csv(source: str) -> Iterator[Item]:
    """A table with a column of locations, and maybe id and datetime; others are properties."""
    with _opened(source) as file:
        table = csv.DictReader(file)
        column = _location(source, table.fieldnames or ())
        for row in table:
            if row[column]:
                yield _of_row(row, column, source)


def _index(source: str) -> Iterator[Item]:
    """A vector file with a column of locations, as gdaltindex writes it: footprints are known."""
    import pyogrio
    import shapely
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        frame = pyogrio.read_dataframe(source)
    except (DataSourceError, DataLayerError, OSError, ValueError) as e:
        raise DataError(f"{source}: cannot be read as a tile index ({e})") from e
    column = _location(source, [c for c in frame.columns if c != "geometry"])
    shapes: list[Any] = [None] * len(frame)
    if "geometry" in frame and frame.crs is not None:
        shapes = list(frame.geometry.to_crs("OGC:CRS84"))
    rows = frame.drop(columns="geometry", errors="ignore").to_dict("records")
    for row, shape in zip(rows, shapes, strict=True):
        found = shapely.geometry.mapping(shape) if shape is not None else None
        plain = {k: v for k, v in row.items() if isinstance(v, str | int | float | bool)}
        yield _of_row(plain, column, source, footprint=found)


def _of_row(row: Mapping[str, Any], column: str, source: str, **known: Any) -> Item:
    special = (column, "id", "datetime")
    return item_of(
        str(row[column]),
        name=row.get("id") or None,
        beside=source,
        datetime=str(row["datetime"]) if row.get("datetime") else None,
        properties={k: v for k, v in row.items() if k not in special and v not in (None, "")},
        **known,
    )


def item_of(
    source: str, *, name: str | None = None, beside: str | None = None, **known: Any
) -> Item:
    """The Item of a raster. name: what its id is made of; else its last part.

    beside: the file that names it, which a relative path is relative to.
    """
    if _is_local(source):
        path = Path(source).expanduser()
        if beside is not None and not path.is_absolute():
            path = Path(beside).expanduser().parent / path
        source = os.path.abspath(path)  # noqa: PTH100  links stay as they are
    if name is None:
        name = PurePosixPath(urlsplit(source).path if is_remote(source) else source).name
    source, name = _written_out(given := source), _written_out(name)
    if source != given:
        known["problem"] = f"{source}: its name is not UTF-8, which GDAL wants: rename it"
    pure = PurePosixPath(name.replace(os.sep, "/"))
    if pure.suffix.lower() in RASTERS:
        pure = pure.with_suffix("")
    return Item(safe_name("__".join(pure.parts)), source, **known)


def _written_out(text: str) -> str:
    """With the bytes of a name that are not UTF-8 as escapes."""
    return text.encode(errors="backslashreplace").decode()


def _location(source: str, columns: Iterable[str]) -> str:
    """The column that names the rasters."""
    by_lower = {name.strip().lower(): name for name in columns}
    for name in LOCATION:
        if name in by_lower:
            return by_lower[name]
    there = ", ".join(by_lower.values()) or "none"
    raise DataError(f"{source}: no column names rasters (there are: {there}): {_NO_TABLE}")


@contextmanager
def _opened(source: str) -> Iterator[TextIO]:
    path = Path(source).expanduser()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as e:
        raise DataError(f"{source}: cannot be read ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{source}: is not a text in UTF-8: save it as such") from e
    except csv.Error as e:
        raise DataError(f"{source}: is no table ({e})") from e
