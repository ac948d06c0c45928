"""Polygons of a run on their way into one vector file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from geoseg.errors import UsageError
from geoseg.options import PolygonOptions
from geoseg.predictions import Rows
from geoseg.sinks import VectorSink
from geoseg.vectorize import Polygonizer, Polygons, features
from geoseg.vectorize.measure import pixel_area
from geoseg.vectorize.sieve import Cleaned, Cleaner
from geoseg.vectorize.wkb import wkb_table

if TYPE_CHECKING:
    import geopandas as gpd

    from geoseg.grid import Grid

BATCH = 16_384  # polygons that are turned into features at a time
SMALL_BATCH = 4_096  # where that is soon done, so that threads keep in step
_OF_TABLE = ("transform", "crs", "classes", "min_area_m2", "min_width_m", "unit_m")


class Counts:
    """What was written, by the name of the class. area_m2: square metres."""

    def __init__(self) -> None:
        self.polygons: Counter[str] = Counter()
        self.area_m2: defaultdict[str, float] = defaultdict(float)

    def add(self, names: Any, areas: Any) -> None:
        """Take in the columns class and area_m2 of polygons, be they pandas' or Arrow's."""
        table = pa.table({"name": names, "area": areas})
        for row in (
            table.group_by("name").aggregate([("area", "count"), ("area", "sum")]).to_pylist()
        ):
            self.polygons[row["name"]] += row["area_count"]
            self.area_m2[row["name"]] += row["area_sum"]


class Layer:
    """Turns finished polygons into features, as the options say; counts what it wrote."""

    def __init__(
        self,
        grid: Grid,
        names: Mapping[int, str],
        options: PolygonOptions,
        vectors: VectorSink,
        *,
        unit_m: float = 1.0,
    ) -> None:
        """names: of the classes. unit_m: metres that a unit is, where there is no CRS."""
        options.must_name(names)
        self._vectors = vectors
        self._how: dict[str, Any] = {
            "transform": grid.transform,
            "crs": grid.crs,
            "classes": names,
            "to_crs": flat_crs(options.crs) if options.crs else None,
            "regularize_m": options.regularize,
            "simplify_m": options.simplify,
            "smooth_m": options.smooth,
            "min_area_m2": options.min_area,
            "min_width_m": options.min_width,
            "attributes": options.attributes,
            "unit_m": unit_m,
        }
        # Outlines that stay on their vertices need no geometry library.
        idle = ("regularize", "simplify", "smooth", "crs", "attributes", "dissolve")
        self._as_they_are = not any(getattr(options, name) for name in idle)
        self._waiting: list[Polygons] = []
        self._held: list[gpd.GeoDataFrame] | None = [] if options.dissolve else None
        self.counts = Counts()

    @classmethod
    @contextmanager
    def open(
        cls,
        path: Path,
        grid: Grid,
        names: Mapping[int, str],
        options: PolygonOptions,
        *,
        unit_m: float = 1.0,
        **sink: Any,
    ) -> Iterator[Layer]:
        """A layer in a file of its own, which appears when the block is left normally.

        `sink`: metadata, geometry and commit, see VectorSink.open.
        """
        crs = output_crs(grid.crs, options.crs)
        if options.dissolve:
            sink["geometry"] = "MultiPolygon"
        with VectorSink.open(path, crs=crs, overwrite=options.overwrite, **sink) as vectors:
            layer = cls(grid, names, options, vectors, unit_m=unit_m)
            yield layer
            layer._finish()

    @property
    def notes(self) -> list[str]:
        """What a format could not keep, for the user."""
        return self._vectors.notes

    def add(self, polygons: Polygons) -> None:
        """Take in polygons that are final; of a Polygonizer made as `polygonizer` does."""
        self._waiting.append(polygons)
        if sum(map(len, self._waiting)) >= (SMALL_BATCH if self._as_they_are else BATCH):
            self._flush()

    def _flush(self) -> None:
        polygons = Polygons.concat(self._waiting)
        self._waiting.clear()
        if self._as_they_are:
            how = {k: v for k, v in self._how.items() if k in _OF_TABLE}
            multi = self._vectors.geometry == "MultiPolygon"
            table = wkb_table(polygons, multi=multi, **how)
            if table is not None:
                self.counts.add(table["class"], table["area_m2"])
                self._vectors.write_table(table)
                return
        frame = features(polygons, **self._how)
        if self._held is None:
            self._write(frame)
        else:
            self._held.append(frame)

    def _finish(self) -> None:
        self._flush()
        if self._held is not None:
            import pandas as pd

            from geoseg.vectorize.dissolve import dissolve

            frame = pd.concat(self._held, ignore_index=True)
            self._write(dissolve(frame, unit_m=self._how["unit_m"]))

    def _write(self, frame: gpd.GeoDataFrame) -> None:
        self.counts.add(frame["class"], frame["area_m2"])
        self._vectors.write(frame)


def polygonizer(width: int, options: PolygonOptions, **more: Any) -> Polygonizer:
    """One whose polygons can be treated as the options say."""
    return Polygonizer(
        width,
        whole_clusters=options.whole_clusters,
        junctions=options.crs is not None,
        contours=options.outline == "contour",
        **more,
    )


def unit_of(grid: Grid, gsd: float) -> float:
    """Metres that a unit of a grid without CRS is, whose pixels are `gsd` metres large."""
    return float(gsd / abs(grid.transform.determinant) ** 0.5)


def cleaner(grid: Grid, options: PolygonOptions, *, unit_m: float = 1.0) -> Cleaner | None:
    """What sieves and fills rows as the options say, by the size of a pixel in the middle."""
    if not (options.sieve or options.fill_holes):
        return None
    pixel = pixel_area(grid.crs, grid.transform, (grid.height, grid.width))
    if grid.crs is None:
        pixel *= unit_m**2
    return Cleaner(grid.width, sieve=options.sieve / pixel, holes=options.fill_holes / pixel)


class RowsCleaner:
    """A Cleaner of Rows: what it changed gets the probability of its new class."""

    def __init__(self, cleaner: Cleaner, ids: Sequence[int]) -> None:
        """ids: of the classes, in the order of the scores."""
        self._cleaner, self._ids, self._row = cleaner, ids, 0

    def add(self, rows: Rows) -> Rows | None:
        """Take the next rows; return those that are final, if any."""
        return self._made(self._cleaner.add(rows.labels, rows.valid, rows.confidence, rows.scores))

    def finish(self) -> Rows | None:
        """Return the rows that are left, if any."""
        return self._made(self._cleaner.finish())

    def _made(self, cleaned: Cleaned | None) -> Rows | None:
        if cleaned is None:
            return None
        confidence, scores = cleaned.planes
        changed = cleaned.changed
        if changed.any():
            confidence = np.where(changed, np.float32(0), confidence)
            for number, plane in zip(self._ids, scores, strict=True):
                np.copyto(confidence, plane, where=changed & (cleaned.labels == number))
        row, self._row = self._row, self._row + len(cleaned.labels)
        return Rows(row, cleaned.labels, confidence, cleaned.valid, scores)


def output_crs(crs: CRS | None, wanted: str | None) -> CRS | None:
    """The CRS of the polygons, which can be reached from the scene's."""
    if wanted is None:
        return crs
    if crs is None:
        raise UsageError(f"crs: the scene has no CRS to come from to {wanted}")
    try:
        Transformer.from_crs(crs, flat_crs(wanted), always_xy=True)
    except ProjError as e:
        raise UsageError(f"crs: no way leads from {crs.name} to {wanted} ({e})") from e
    return flat_crs(wanted)


def flat_crs(name: str) -> CRS:
    """The CRS of that name, if it can hold polygons."""
    try:
        crs = CRS(name)
    except CRSError as e:
        raise UsageError(f"crs: {name!r} is no CRS that PROJ knows") from e
    if not (crs.is_projected or crs.is_geographic):
        raise UsageError(f"crs: {name} ({crs.name}) is no map: name a projected or geographic CRS")
    return crs
