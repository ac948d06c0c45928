"""One file of the polygons of all scenes, sorted along a Hilbert curve, larger than memory.

What lies near each other on the ground then lies near each other in the file, and readers skip
the row groups whose bbox they do not want. The parts are gone through twice: to count how many
polygons lie along which stretch of the curve, and to deal them into buckets that fit into memory;
each bucket is then sorted by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from geoseg.batch.dedupe import SCENE, SCENES
from geoseg.batch.ledger import Ledger
from geoseg.batch.merge import write_merged
from geoseg.batch.parts import ROWS, Parts, crs_of, crs_text, geo, parts
from geoseg.events import Listener, ignore
from geoseg.sinks import VectorSink
from geoseg.sinks.atomic import HiddenFolder
from geoseg.sinks.vector import COLUMNS
from geoseg.vectorize.features import project

_CODE = "_hilbert"
_BITS = 16  # of each axis of the curve
_BUCKET = 128 << 20  # bytes of the decoded polygons that are sorted at a time
_MOST = 256  # buckets, each an open file


def write_dataset(
    path: Path,
    ledger: Ledger,
    folder: Path,
    *,
    metadata: Mapping[str, str],
    dedupe: bool = False,
    listener: Listener = ignore,
    bucket: int = _BUCKET,
) -> int:
    """Write the polygons of all scenes that are done to `path`; return how many these are.

    Scenes in several CRS all go to longitude and latitude, which is told. dedupe: what several
    scenes show is there once (see dedupe.py). bucket: bytes that are sorted at a time.
    """
    source: Parts = partial(parts, ledger, folder)
    layout = _layout(source)
    if len(layout.crs) > 1:
        names = ", ".join(sorted(CRS(c).name for c in layout.crs))
        message = f"the scenes have {len(layout.crs)} CRS ({names}): the dataset is in EPSG:4326"
        listener({"event": "warning", "topic": "crs", "message": message})
    with ExitStack() as stack:
        temp = stack.enter_context(HiddenFolder(path.parent))
        if dedupe:
            source, layout = _merged(layout, ledger, folder, temp, listener)
        how: dict[str, Any] = {
            "crs": layout.target,
            "columns": {SCENE: pa.string(), **layout.columns},
            "geometry": layout.geometry,
            "metadata": {f"geoseg:{key}": value for key, value in metadata.items()},
            "overwrite": True,
        }
        sink = stack.enter_context(VectorSink.open(path, **how))
        edges = _edges(layout, source, bucket)
        for file in _dealt(layout, source, edges, temp):
            with pa.memory_map(str(file)) as source:
                table = pa.ipc.open_file(source).read_all()
            table = table.take(pa.array(np.argsort(table[_CODE].to_numpy(), kind="stable")))
            sink.write_table(table.drop_columns([_CODE]))
            file.unlink()
    return sink.count


def _merged(
    layout: _Layout, ledger: Ledger, folder: Path, temp: Path, listener: Listener
) -> tuple[Parts, _Layout]:
    """The polygons of all scenes merged, as one part; and its layout."""
    columns = {SCENE: pa.string(), **layout.columns, SCENES: pa.int32()}
    path = temp / "merged.parquet"
    count = write_merged(
        path, ledger, folder, crs=layout.target, columns=columns, geometry=layout.geometry
    )
    message = f"dedupe: {layout.rows} polygons of single scenes became {count}"
    listener({"event": "info", "topic": "output", "message": message})
    if not count:
        return lambda: iter(()), replace(layout, columns=columns, rows=0, bytes=0)

    def source() -> Iterator[tuple[str | None, pq.ParquetFile]]:
        with pq.ParquetFile(path) as file:
            yield None, file

    return source, _layout(source)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the parts have in common. bounds: of all in `target`. bytes: decoded."""

    crs: frozenset[str]  # JSON of each that occurs
    target: CRS | None
    geometry: Any
    columns: Mapping[str, pa.DataType]
    bounds: NDArray[np.float64]
    rows: int
    bytes: int


def _layout(source: Parts) -> _Layout:
    found: dict[str, list[Any]] = {}  # bounds of the parts, by their CRS
    columns: dict[str, pa.DataType] = dict(COLUMNS)
    kinds: set[str] = set()
    rows = size = 0
    for _, file in source():
        about = geo(file)
        found.setdefault(crs_text(file), []).append(about["bbox"])
        kinds.update(about["geometry_types"])
        columns = {f.name: f.type for f in file.schema_arrow if f.name not in ("geometry", "bbox")}
        rows += file.metadata.num_rows
        groups = range(file.metadata.num_row_groups)
        size += sum(file.metadata.row_group(i).total_byte_size for i in groups)
    target = CRS("EPSG:4326") if len(found) != 1 else crs_of(next(iter(found)))
    boxes = []
    for crs, bounds in found.items():
        array = np.array(bounds)
        union = np.concatenate([array[:, :2].min(axis=0), array[:, 2:].max(axis=0)])
        boxes.append(_moved_box(union, crs_of(crs), target))
    every = np.array(boxes or [[0.0, 0.0, 1.0, 1.0]])
    return _Layout(
        frozenset(found),
        target,
        "MultiPolygon" if "MultiPolygon" in kinds else "Polygon",
        columns,
        np.concatenate([every[:, :2].min(axis=0), every[:, 2:].max(axis=0)]),
        rows,
        size,
    )


def _moved_box(box: NDArray[np.float64], crs: CRS | None, to: CRS | None) -> Any:
    if crs is None or to is None or crs == to:
        return box
    return Transformer.from_crs(crs, to, always_xy=True).transform_bounds(*box)


def _edges(layout: _Layout, source: Parts, bucket: int) -> NDArray[np.int64]:
    """First codes of all buckets but the first: each gets about as many polygons."""
    count = min(_MOST, -(-layout.bytes // bucket))
    if count <= 1:
        return np.empty(0, np.int64)
    bins = np.zeros(1 << _BITS, np.int64)
    for _, file in source():
        crs = crs_of(crs_text(file))
        for batch in file.iter_batches(ROWS, columns=["bbox"]):
            box = batch.column("bbox").flatten()
            bounds = np.stack([column.to_numpy() for column in box], axis=1)
            codes = _codes(bounds, crs, layout)
            bins += np.bincount(codes >> _BITS, minlength=len(bins))
    wanted = layout.rows * np.arange(1, count) / count
    return np.unique(np.searchsorted(np.cumsum(bins), wanted) + 1) << _BITS


def _dealt(layout: _Layout, source: Parts, edges: NDArray[np.int64], temp: Path) -> list[Path]:
    """Files of Arrow batches, one for each stretch of the curve, in its order."""
    files = [temp / f"{i}.arrow" for i in range(len(edges) + 1)]
    kinds = {SCENE: pa.string(), **layout.columns, "geometry": pa.binary(), _CODE: pa.int64()}
    schema = pa.schema(list(kinds.items()))
    with ExitStack() as stack:
        writers = [stack.enter_context(pa.ipc.new_file(file, schema)) for file in files]
        for name, part in source():
            crs = crs_of(crs_text(part))
            for batch in part.iter_batches(ROWS):
                table = _prepared(pa.table(batch), name, crs, layout).select(schema.names)
                which = np.searchsorted(edges, table[_CODE].to_numpy(), side="right")
                for i in np.unique(which):
                    rows = np.flatnonzero(which == i)
                    writers[i].write_table(table.take(pa.array(rows)).cast(schema))
    return files


def _prepared(table: pa.Table, name: str | None, crs: CRS | None, layout: _Layout) -> pa.Table:
    """With the name of the scene, in the CRS of the dataset, and with its place on the curve."""
    shapes = shapely.from_wkb(table["geometry"].to_numpy())
    bounds = shapely.bounds(shapes)  # of the part's CRS, as in the first pass
    if crs is not None and layout.target is not None and crs != layout.target:
        moved = pa.array(shapely.to_wkb(project(shapes, crs, layout.target)), pa.binary())
        table = table.set_column(table.column_names.index("geometry"), "geometry", moved)
    if name is not None:
        table = table.append_column(SCENE, pa.array([name] * len(table), pa.string()))
    return table.append_column(_CODE, pa.array(_codes(bounds, crs, layout)))


def _codes(bounds: NDArray[np.float64], crs: CRS | None, layout: _Layout) -> NDArray[np.int64]:
    """Places on the curve of the middles of boxes, in 0..2^32."""
    import geopandas as gpd

    x, y = (bounds[:, 0] + bounds[:, 2]) / 2, (bounds[:, 1] + bounds[:, 3]) / 2
    if crs is not None and layout.target is not None and crs != layout.target:
        x, y = Transformer.from_crs(crs, layout.target, always_xy=True).transform(x, y)
    points = gpd.GeoSeries(gpd.points_from_xy(x, y))
    codes = points.hilbert_distance(tuple(layout.bounds), level=_BITS)
    return np.asarray(codes, np.int64)
