"""Polygons to GeoPackage, GeoParquet, FlatGeobuf, GeoJSON, GeoJSONSeq and Shapefile.

Features are streamed: memory does not grow with their number (but FlatGeobuf sorts its index in
memory when it is closed, some 100 bytes per feature). A format is one row in `FORMATS`.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from geoseg.errors import OutputError, UsageError
from geoseg.sinks.atomic import Commit, free_bytes, replacing, write_failure
from geoseg.sinks.writers import OgrWriter, ParquetWriter, Writer, check_complete

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pyproj import CRS

GEOMETRY = "geometry"
METADATA_KEY = "geoseg"  # one item of the file's metadata, a JSON object
BATCH_ROWS = 1024  # while OGR writes a batch no other thread gets on: a few milliseconds

# The columns of the product. Others are taken as they come.
COLUMNS: Mapping[str, pa.DataType] = {
    "class": pa.string(),
    "class_id": pa.int32(),
    "confidence": pa.float32(),
    "confidence_min": pa.float32(),
    "area_m2": pa.float64(),
    "perimeter_m": pa.float64(),
}

# dBASE has room for ten characters.
SHAPEFILE_NAMES = {
    "confidence": "confidence",
    "confidence_min": "conf_min",
    "confidence_mean": "conf_mean",
    "confidence_std": "conf_std",
    "perimeter_m": "perim_m",
    "compactness": "compact",
    "orientation": "orient",
}


@dataclass(frozen=True, slots=True)
class Format:
    """How one vector format is written.

    options: layer creation options of the OGR driver. metadata: where the metadata go.
    stale: files beside an older file that must not survive it (see `replacing`).
    """

    name: str
    suffixes: tuple[str, ...]
    driver: str | None  # None: pyarrow
    options: Mapping[str, str] = field(default_factory=dict)
    metadata: Literal["layer", "file", "member", "none"] = "none"
    stale: tuple[str, ...] = ()


_SHAPEFILE_PARTS = ("shx", "dbf", "prj", "cpg", "qpj", "qix", "sbn", "sbx", "qmd")
FORMATS = (
    Format(
        "GeoPackage",
        (".gpkg",),
        "GPKG",
        {"SPATIAL_INDEX": "YES"},
        metadata="layer",
        # SQLite would play an old journal into the new file.
        stale=("{name}-wal", "{name}-shm", "{name}-journal"),
    ),
    Format("GeoParquet", (".parquet", ".geoparquet"), None, metadata="file"),
    Format("FlatGeobuf", (".fgb",), "FlatGeobuf", {"SPATIAL_INDEX": "YES"}, metadata="layer"),
    Format("GeoJSON", (".geojson", ".json"), "GeoJSON", {"RFC7946": "YES"}, metadata="member"),
    Format("GeoJSONSeq", (".geojsonl", ".geojsonseq"), "GeoJSONSeq", {"RS": "NO"}),
    Format(
        "Shapefile",
        (".shp",),
        "ESRI Shapefile",
        {"2GB_LIMIT": "YES", "ENCODING": "UTF-8"},
        stale=tuple(f"{{stem}}.{part}" for part in _SHAPEFILE_PARTS),
    ),
)


def vector_format(path: Path) -> Format:
    """The format that the suffix of `path` names."""
    for fmt in FORMATS:
        if path.suffix.lower() in fmt.suffixes:
            return fmt
    known = ", ".join(suffix for fmt in FORMATS for suffix in fmt.suffixes)
    what = f"unknown suffix {path.suffix!r}" if path.suffix else "no suffix"
    raise UsageError(f"{path}: {what}; vector outputs end in {known}")


class VectorSink:
    """A vector file being written; see `VectorSink.open`."""

    def __init__(
        self,
        path: Path,
        temp: Path,
        fmt: Format,
        crs: CRS | None,
        columns: Mapping[str, pa.DataType] | None,
        geometry: Literal["Polygon", "MultiPolygon"],
        metadata: Mapping[str, str],
    ) -> None:
        self.path, self.format, self.crs, self.geometry = path, fmt, crs, geometry
        self.count = 0
        self.notes: list[str] = []  # what the format cannot keep, for the user
        self._temp, self._metadata = temp, metadata
        self._columns = dict(columns) if columns is not None else None
        self._writer: Writer | None = None
        if metadata and fmt.metadata == "none":
            self.notes.append(f"{fmt.name} has no place for metadata: they are not written")
        if fmt.name.startswith("GeoJSON") and not _on_earth(crs):
            what = "no CRS" if crs is None else f"{crs.name} is a CRS without a place on Earth"
            whose = "pixels" if crs is None else "its own"
            self.notes.append(f"{what}: the coordinates in the GeoJSON are {whose}, not degrees")

    @classmethod
    @contextmanager
    def open(
        cls,
        path: str | Path,
        *,
        crs: CRS | None,
        columns: Mapping[str, pa.DataType] | None = None,
        geometry: Literal["Polygon", "MultiPolygon"] = "Polygon",
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = False,
        commit: Commit | None = None,
    ) -> Iterator[VectorSink]:
        """Write features to `path`, whose suffix names the format.

        Everything that can be refused is refused on entering. The file appears on leaving, or
        with the others of `commit`; after an exception nothing does. `columns` (without the
        geometry) default to those of the first frame, and to `COLUMNS` where there is none. With
        `geometry` MultiPolygon all polygons are promoted, so that the layer has one type.
        """
        path = Path(path)
        fmt = vector_format(path)
        with replacing(path, overwrite=overwrite, stale=fmt.stale, commit=commit) as temp:
            sink = cls(path, temp, fmt, crs, columns, geometry, metadata or {})
            try:
                yield sink
                sink._finish()
            except BaseException:
                sink._abort()
                raise

    def write(self, frame: GeoDataFrame) -> None:
        """Add features; every frame has the same columns, in any order."""
        import shapely

        if frame.crs is not None and frame.crs != self.crs:
            raise ValueError(f"features in {frame.crs} for a file in {self.crs}")
        attributes = frame.drop(columns=frame.geometry.name)
        if self._columns is None:
            self._columns = _columns_of(attributes)
        if set(attributes.columns) != set(self._columns):
            raise ValueError(f"columns {list(attributes.columns)}, expected {list(self._columns)}")
        for start in range(0, len(frame), BATCH_ROWS):
            part = attributes.iloc[start : start + BATCH_ROWS]
            shapes = self._one_type(frame.geometry.array[start : start + BATCH_ROWS])
            table = pa.Table.from_pandas(part, preserve_index=False)
            wkb = pa.array(shapely.to_wkb(shapes), pa.binary())
            self._write(table.append_column(GEOMETRY, wkb))

    def write_table(self, table: pa.Table) -> None:
        """The same of a table whose column geometry is WKB, of the kind of the layer."""
        if self._columns is None:
            names = table.drop_columns([GEOMETRY]).column_names
            self._columns = {name: COLUMNS[name] for name in names}
        self._write(table)

    def _write(self, table: pa.Table) -> None:
        schema = self._schema()
        table = table.select([*(self._columns or COLUMNS), GEOMETRY])
        for batch in table.rename_columns(schema.names).cast(schema).to_batches(BATCH_ROWS):
            self._guarded(self._add, batch)

    def _add(self, batch: pa.RecordBatch) -> None:
        # Drivers notice a full disk late, and with a line of noise per feature.
        if free_bytes(self._temp.parent) < 2 * batch.nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._start().write(batch)
        self.count += len(batch)

    def _one_type(self, geometries: Any) -> Any:
        import shapely

        shapes = np.array(geometries, dtype=object)
        kinds = shapely.get_type_id(shapes)
        polygon, multi = shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON
        allowed = (polygon,) if self.geometry == "Polygon" else (polygon, multi)
        if not np.isin(kinds, allowed).all():
            other = shapely.GeometryType(int(kinds[~np.isin(kinds, allowed)][0])).name
            raise ValueError(f"a {other} in a layer of {self.geometry}s")
        if self.geometry == "MultiPolygon":
            single = kinds == polygon
            shapes[single] = shapely.multipolygons(shapes[single], indices=np.arange(single.sum()))
        return shapes

    def _schema(self) -> pa.Schema:
        """The columns as they are named in the file, the geometry last."""
        columns = self._columns if self._columns is not None else COLUMNS
        names = shapefile_names(tuple(columns)) if self.format.name == "Shapefile" else {}
        fields = [pa.field(names.get(name, name), type_) for name, type_ in columns.items()]
        wkb = {"ARROW:extension:name": "geoarrow.wkb"}
        return pa.schema([*fields, pa.field(GEOMETRY, pa.binary(), metadata=wkb)])

    def _start(self) -> Writer:
        if self._writer is None:
            schema = self._schema()
            self._writer = self._new_writer(schema)
            if self.format.name == "Shapefile":
                for name, short in shapefile_names(tuple(self._columns or COLUMNS)).items():
                    self.notes.append(f"Shapefile: the field {name} is named {short}")
        return self._writer

    def _new_writer(self, schema: pa.Schema) -> Writer:
        fmt = self.format
        text = json.dumps(dict(self._metadata))
        if fmt.driver is None:
            return ParquetWriter(self._temp, schema, self.crs, {METADATA_KEY: text})
        options = dict(fmt.options)
        if fmt.metadata == "member":  # a foreign member of the FeatureCollection (RFC 7946, 6.1)
            options["NATIVE_DATA"] = f'{{"type":"FeatureCollection","{METADATA_KEY}":{text}}}'
            options["NATIVE_MEDIA_TYPE"] = "application/vnd.geo+json"
        crs = None if self.crs is None else self.crs.to_wkt()
        if fmt.name.startswith("GeoJSON") and not _on_earth(self.crs):
            options.pop("RFC7946", None)
            crs = "OGC:CRS84"  # what a reader assumes in any case; keeps GDAL from warning
        if crs is None:
            warnings.filterwarnings("ignore", "'crs' was not provided")  # so it is meant
        return OgrWriter(
            self._temp,
            schema,
            driver=fmt.driver,
            layer=self.path.stem,
            geometry_name=GEOMETRY,
            geometry_type=self.geometry,
            crs=crs,
            layer_options=options,
            layer_metadata={METADATA_KEY: text} if fmt.metadata == "layer" else None,
        )

    def _finish(self) -> None:
        self._guarded(self._close)

    def _close(self) -> None:
        self._start().close()
        if self.format.driver is not None:
            check_complete(self._temp, self.format.driver, self.count)

    def _abort(self) -> None:
        if self._writer is not None:
            self._writer.abort()

    def _guarded(self, function: Any, *arguments: Any) -> None:
        """Turn what the drivers raise into one sentence."""
        try:
            function(*arguments)
        except (OSError, RuntimeError, pa.ArrowException) as e:  # pyogrio's are RuntimeErrors
            raise write_failure(self.path, e, temp=self._temp) from e


def read_metadata(path: str | Path) -> dict[str, str]:
    """What geoseg wrote about the making of a vector file; empty where there is nothing."""
    path = Path(path)
    fmt = vector_format(path)
    if not path.is_file():
        raise OutputError(f"{path} does not exist")
    match fmt.metadata:
        case "file":
            import pyarrow.parquet as pq

            text = (pq.read_metadata(path).metadata or {}).get(METADATA_KEY.encode(), b"{}")
        case "layer":
            import pyogrio

            text = (pyogrio.read_info(path)["layer_metadata"] or {}).get(METADATA_KEY, "{}")
        case "member":
            text = _head_member(path)
        case _:
            text = "{}"
    return {str(key): str(value) for key, value in json.loads(text).items()}


def shapefile_names(columns: tuple[str, ...]) -> dict[str, str]:
    """Column name -> field name of at most ten characters, for those that have to change."""
    taken = {c for c in columns if len(c) <= 10}
    names = {}
    for column in columns:
        if len(column) <= 10:
            continue
        short = SHAPEFILE_NAMES.get(column, column[:10])
        number = 1
        while short in taken:
            number += 1
            short = f"{column[: 9 - len(str(number))]}_{number}"
        taken.add(short)
        names[column] = short
    return names


def _on_earth(crs: CRS | None) -> bool:
    """Whether degrees can be made of the coordinates: not without CRS, nor in an engineering's."""
    return crs is not None and crs.geodetic_crs is not None


def _columns_of(attributes: Any) -> dict[str, pa.DataType]:
    found = pa.Schema.from_pandas(attributes, preserve_index=False)
    return {name: COLUMNS.get(name, found.field(name).type) for name in attributes.columns}


def _head_member(path: Path) -> str:
    """The foreign member that geoseg writes before the features, as JSON text."""
    with path.open(encoding="utf-8") as file:
        head = file.read(1 << 20)
    start = head.find(f'"{METADATA_KEY}":')
    if start < 0 or start > head.find('"features":'):
        return "{}"
    value, _ = json.JSONDecoder().raw_decode(head[start + len(METADATA_KEY) + 3 :].lstrip())
    return json.dumps(value)
