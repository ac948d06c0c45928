"""The polygons of single scenes, which a dataset is made of: GeoParquet files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyproj import CRS

from geoseg.batch.ledger import Ledger
from geoseg.batch.outcome import Entry

# Scenes with their files; None where the polygons themselves name their scenes. May be gone
# through again and again.
Parts = Callable[[], Iterator[tuple[str | None, pq.ParquetFile]]]

ROWS = 65_536  # that are read at a time


def parts(ledger: Ledger, folder: Path) -> Iterator[tuple[str, pq.ParquetFile]]:
    """The scenes that gave polygons, with their files."""
    for entry in ledger.entries("done"):
        if (path := part_of(entry, folder)) is not None:
            with pq.ParquetFile(path) as file:
                yield entry.item.id, file


def part_of(entry: Entry, folder: Path) -> Path | None:
    """The file of a scene's polygons; None where it gave none."""
    if entry.outcome is None or not entry.outcome.total:
        return None
    paths = (folder / o.path for o in entry.outcome.outputs if o.role == "polygons")
    return next(paths, None)


def geo(file: pq.ParquetFile) -> dict[str, Any]:
    """What GeoParquet tells of the geometries."""
    about: dict[str, Any] = json.loads(file.metadata.metadata[b"geo"])["columns"]["geometry"]
    return about


def crs_text(file: pq.ParquetFile) -> str:
    """Stands for the file's CRS, among others."""
    return json.dumps(geo(file)["crs"], sort_keys=True)


@lru_cache(maxsize=64)
def crs_of(text: str) -> CRS | None:
    """What `crs_text` stands for."""
    return None if text == "null" else CRS.from_json(text)
