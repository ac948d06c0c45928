"""The polygons of an archive's scenes to one file, in which each thing on the ground is once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from geoseg.batch.dedupe import ROW, SCENE, Limits, Scene, deduped
from geoseg.batch.ledger import Ledger
from geoseg.batch.outcome import Entry, Outcome
from geoseg.batch.parts import ROWS, crs_of, crs_text, geo, part_of
from geoseg.batch.seams import Ground
from geoseg.sinks import VectorSink
from geoseg.vectorize.features import around_the_world, project
from geoseg.vectorize.measure import metres_to_units

if TYPE_CHECKING:
    import geopandas as gpd

_POINTS = 16  # of the longer side: straight lines do not stay straight
_LONGITUDES = CRS("OGC:CRS84")
_Is = Callable[["gpd.GeoDataFrame"], NDArray[np.bool_]]


def write_merged(
    path: Path,
    ledger: Ledger,
    folder: Path,
    *,
    crs: CRS | None,
    columns: Mapping[str, pa.DataType],
    geometry: Any,
) -> int:
    """Write GeoParquet in `crs`, with `columns`, of all scenes that are done; how many polygons."""
    config = ledger["config"] or {}
    limits = Limits(config.get("min_area", 0.0), config.get("min_width", 0.0))
    scenes = [
        scene
        for entry in sorted(ledger.entries("done"), key=lambda entry: entry.item.id)
        if (scene := _scene(entry, folder, crs)) is not None
    ]
    with VectorSink.open(path, crs=crs, columns=columns, geometry=geometry) as sink:
        for frame in deduped(scenes, crs, is_object=object_rule(config), limits=limits):
            sink.write(frame)
    return sink.count


def object_rule(config: Mapping[str, Any]) -> _Is:
    """Which polygons outline single objects, by how they were made: see dedupe.py."""
    ways = [config.get("regularize") or 0, config.get("cut") or 0]
    named = {name for way in ways if isinstance(way, dict) for name in way if way[name]}
    every = bool(config.get("boundary")) or any(way for way in ways if not isinstance(way, dict))

    def is_object(frame: gpd.GeoDataFrame) -> NDArray[np.bool_]:
        if every or "score" in frame.columns:
            return np.ones(len(frame), np.bool_)
        return np.asarray(frame["class"].isin(named), np.bool_)

    return is_object


def _scene(entry: Entry, folder: Path, crs: CRS | None) -> Scene | None:
    """A scene that is done; None where nothing is known of its place."""
    assert entry.outcome is not None
    ground = _ground(entry.item.id, entry.outcome, crs)
    boxes = [] if ground.shape.is_empty else [ground.shape.bounds]
    path = part_of(entry, folder)
    if path is not None:
        with pq.ParquetFile(path) as file:
            boxes.append(_box(geo(file)["bbox"], crs_of(crs_text(file)), crs))
    if not boxes:
        return None
    left, bottom, right, top = np.array(boxes).T
    extent = float(left.min()), float(bottom.min()), float(right.max()), float(top.max())
    return Scene(ground, extent, lambda: _frames(entry.item.id, path, crs))


def _ground(name: str, outcome: Outcome, crs: CRS | None) -> Ground:
    """What a scene shows; its footprint, where an older ledger does not tell where data are."""
    if outcome.valid is not None:
        shape, own = shapely.from_wkt(outcome.valid), CRS(outcome.about["crs"])
    else:
        shape, own = shapely.from_geojson(_text(outcome.footprint)), _LONGITUDES
    if crs is not None and own != crs and not shape.is_empty:
        low, high = np.reshape(shape.bounds, (2, 2))
        shape = shapely.segmentize(shape, (high - low).max() / _POINTS)
        shape = shapely.make_valid(project(np.array([shape]), own, crs)[0], method="structure")
    world = around_the_world(crs) if crs is not None else None
    if world is not None and not shape.is_empty and shape.bounds[2] > world / 2:
        # the date line: polygons east of it have small longitudes, those on it large ones
        shape = shapely.union(shape, shapely.transform(shape, lambda xy: xy - (world, 0)))
    at = shapely.get_coordinates(shape)[:1]
    pixel = metres_to_units(outcome.about.get("gsd", 1.0), crs, at)[0] if len(at) else 0.0
    return Ground(name, shape, float(pixel))


def _text(footprint: Mapping[str, Any] | None) -> str:
    return json.dumps(footprint or {"type": "Polygon", "coordinates": []})


def _box(box: Any, own: CRS | None, crs: CRS | None) -> Any:
    if own is None or crs is None or own == crs:
        return box
    left, bottom, right, top = Transformer.from_crs(own, crs, always_xy=True).transform_bounds(*box)
    if right < left and (world := around_the_world(crs)) is not None:  # over the date line
        left, right = -world / 2, world
    return left, bottom, right, top


def _frames(name: str, path: Path | None, crs: CRS | None) -> Iterator[gpd.GeoDataFrame]:
    """The polygons of a scene, some at a time."""
    import geopandas as gpd

    if path is None:
        return
    first = 0
    with pq.ParquetFile(path) as file:
        own = crs_of(crs_text(file))
        for batch in file.iter_batches(ROWS):
            table = pa.table(batch)
            shapes = shapely.from_wkb(table["geometry"].to_numpy())
            if own is not None and crs is not None and own != crs:
                shapes = project(shapes, own, crs)
            names = [n for n in table.column_names if n not in ("geometry", "bbox")]
            frame = table.select(names).to_pandas()
            frame[SCENE], frame[ROW] = name, np.arange(first, first + len(frame))
            first += len(frame)
            yield gpd.GeoDataFrame(frame, geometry=shapes, crs=crs)
