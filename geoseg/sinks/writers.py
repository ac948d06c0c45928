"""The two machines under the vector sink: OGR fed through a thread, and pyarrow's Parquet."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from pyproj import CRS

QUEUED_BATCHES = 4
ROW_GROUP_ROWS = 65_536
ROW_GROUP_BYTES = 64 << 20
KINDS = {3: "Polygon", 6: "MultiPolygon"}  # by shapely's type id


class Writer(Protocol):
    """Takes record batches; the file is complete after `close` and worthless after `abort`."""

    def write(self, batch: pa.RecordBatch) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class OgrWriter:
    """One call of `pyogrio.write_arrow` in a thread, which pulls the batches out of a queue.

    So the file is opened once and every driver streams, whether it can append or not.
    """

    def __init__(self, path: Path, schema: pa.Schema, **options: Any) -> None:
        self._batches: queue.Queue[pa.RecordBatch | None] = queue.Queue(QUEUED_BATCHES)
        self._aborted = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="geoseg-write")
        self._done: Future[None] = self._pool.submit(self._run, path, schema, options)

    def write(self, batch: pa.RecordBatch) -> None:
        self._put(batch)

    def close(self) -> None:
        self._put(None)
        self._done.result()
        self._pool.shutdown()

    def abort(self) -> None:
        self._aborted.set()
        while not self._done.done():  # a full queue must not keep the thread waiting, nor us
            try:
                self._batches.put(None, timeout=0.05)
                break
            except queue.Full:
                self._batches.get()
        self._pool.shutdown()

    def _put(self, item: pa.RecordBatch | None) -> None:
        while not self._done.done():
            try:
                return self._batches.put(item, timeout=0.1)
            except queue.Full:
                continue
        self._done.result()  # the thread ends before the last batch only by raising
        raise RuntimeError("the writer ended before its time")

    def _run(self, path: Path, schema: pa.Schema, options: Mapping[str, Any]) -> None:
        import pyogrio

        reader = pa.RecordBatchReader.from_batches(schema, self._queued())
        with _threaded_index():
            pyogrio.write_arrow(reader, path, **options)

    def _queued(self) -> Iterator[pa.RecordBatch]:
        while (batch := self._batches.get()) is not None:
            if self._aborted.is_set():
                break
            yield batch
        if self._aborted.is_set():  # pyogrio then gives up without building indexes
            raise InterruptedError("aborted")


@contextlib.contextmanager
def _threaded_index() -> Iterator[None]:
    """GDAL builds the index of a GeoPackage while it writes, if there is a second core for it."""
    import pyogrio

    key = "OGR_GPKG_THREADED_RTREE_AT_FIRST_FEATURE"
    before = pyogrio.get_gdal_config_option(key)
    if before is None:
        pyogrio.set_gdal_config_options({key: "YES"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({key: before})


def check_complete(path: Path, driver: str, count: int) -> None:
    """Raise OSError unless the end of a closed file is what it should be.

    Drivers write their last buffers on closing, and not all of them tell when that fails.
    """
    if driver in ("GeoJSON", "GeoJSONSeq"):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16))
            end = b"".join(file.read().split())
        complete = end.endswith(b"]}" if driver == "GeoJSON" else b"}") or (not end and not count)
    else:
        complete = _last_is_there(path, driver, count)
    if not complete:
        raise OSError("the end of the file is missing")


def _last_is_there(path: Path, driver: str, count: int) -> bool:
    import pyogrio

    which: dict[str, Any] = {"skip_features": max(0, count - 1), "max_features": 2}
    if driver == "GPKG" and count:  # numbered from 1: found without reading those before it
        which = {"fids": [count]}
    try:
        *_, geometries, _ = pyogrio.raw.read(path, **which)
    except (ValueError, RuntimeError):  # pyogrio's errors, and what it makes of a failing seek
        return False
    return len(geometries) == min(count, 1)


class ParquetWriter:
    """GeoParquet 1.1: WKB, CRS as PROJJSON, a bbox column that covers the geometries."""

    def __init__(
        self, path: Path, schema: pa.Schema, crs: CRS | None, metadata: Mapping[str, str]
    ) -> None:
        import pyarrow.parquet as pq

        corner = pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])
        self._bbox = pa.field("bbox", corner)
        self._geometry = schema.field(schema.get_field_index("geometry")).with_metadata(None)
        fields = [f for f in schema if f.name != "geometry"]
        self._schema = pa.schema([*fields, self._geometry, self._bbox])
        self._crs, self._metadata = crs, metadata
        self._pending: list[pa.RecordBatch] = []
        self._kinds: set[str] = set()
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, batch: pa.RecordBatch) -> None:
        import shapely

        shapes = shapely.from_wkb(batch.column("geometry").to_numpy(zero_copy_only=False))
        bounds = shapely.bounds(shapes)
        bbox = pa.StructArray.from_arrays(list(bounds.T), fields=list(self._bbox.type))
        self._pending.append(pa.record_batch([*batch.columns, bbox], schema=self._schema))
        self._kinds.update(KINDS[kind] for kind in np.unique(shapely.get_type_id(shapes)))
        self._bounds[:2] = np.minimum(self._bounds[:2], bounds[:, :2].min(axis=0))
        self._bounds[2:] = np.maximum(self._bounds[2:], bounds[:, 2:].max(axis=0))
        rows = sum(len(b) for b in self._pending)
        if rows >= ROW_GROUP_ROWS or sum(b.nbytes for b in self._pending) >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.add_key_value_metadata({**self._metadata, "geo": json.dumps(self._geo())})
        self._file.close()

    def abort(self) -> None:
        with contextlib.suppress(OSError):  # of a full disk, which was told already
            self._file.close()

    def _flush(self) -> None:
        if self._pending:
            self._file.write_table(pa.Table.from_batches(self._pending))
            self._pending = []

    def _geo(self) -> dict[str, Any]:
        corners = {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": sorted(self._kinds),
            "crs": None if self._crs is None else self._crs.to_json_dict(),
            "covering": {"bbox": corners},
        }
        if np.isfinite(self._bounds).all():
            column["bbox"] = self._bounds.tolist()
        return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
