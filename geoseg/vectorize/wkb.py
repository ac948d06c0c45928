"""Polygons straight to WKB, as OGR and GeoParquet take them: no object is made for any of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geoseg.jit import jit
from geoseg.vectorize.attributes import large_enough
from geoseg.vectorize.measure import measure_rings

if TYPE_CHECKING:
    from affine import Affine
    from pyproj import CRS

    from geoseg.vectorize.stream import Polygons

LARGEST = 2**31 - 1  # bytes of WKB in one Arrow array
POLYGON, MULTIPOLYGON = 3, 6

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


def wkb_table(
    polygons: Polygons,
    *,
    transform: Affine,
    crs: CRS | None,
    classes: Mapping[int, str],
    min_area_m2: float = 0.0,
    min_width_m: float = 0.0,
    unit_m: float = 1.0,
    multi: bool = False,
) -> pa.Table | None:
    """What `features` gives without any change of outlines, as a table; geometry is WKB.

    `multi`: all are MultiPolygons. None where it would not fit one table.
    """
    coords = polygons.map_coords(transform)
    if crs is not None:
        unit_m = 1.0
    of_parts = measure_rings(coords, polygons.rings, polygons.parts, crs)
    area, perimeter = (polygons.sum_parts(values) for values in of_parts)
    area, perimeter = area * unit_m**2, perimeter * unit_m
    keep = large_enough(area, perimeter, min_area_m2=min_area_m2, min_width_m=min_width_m)
    rows = np.flatnonzero(keep)
    geometry = _wkb(polygons, coords, rows, multi, transform.determinant > 0)
    if geometry is None:
        return None
    label = polygons.label[rows]
    ids, index = np.unique(label, return_inverse=True)
    names = pa.array([str(classes.get(i, i)) for i in ids.tolist()], pa.string())
    numbers: dict[str, NDArray[Any]] = {
        "confidence": polygons.confidence_mean,
        "confidence_min": polygons.confidence_min,
        "area_m2": area,
        "perimeter_m": perimeter,
    }
    columns: dict[str, Any] = {
        "class": names.take(pa.array(index)),
        "class_id": pa.array(label),
        **{k: pa.array(values[rows], from_pandas=True) for k, values in numbers.items()},
        "geometry": geometry,
    }
    return pa.table(columns)


def _wkb(
    polygons: Polygons, coords: Float64, rows: NDArray[np.intp], multi: bool, reverse: bool
) -> pa.Array | None:
    """(len(rows),) WKB of some of the polygons; None where it is too long."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    layout = polygons.rings, polygons.parts, polygons.shapes
    _measure_bytes(*layout, rows, multi, offsets)
    if offsets[-1] > LARGEST:
        return None
    out = np.empty(offsets[-1], np.uint8)
    raw = coords.view(np.uint8).reshape(-1)
    _write_bytes(raw, *layout, rows, multi, reverse, offsets, out)
    ends = pa.py_buffer(offsets.astype(np.int32))
    return pa.Array.from_buffers(pa.binary(), len(rows), [None, ends, pa.py_buffer(out)])


@jit
def to_map(
    coords: NDArray[Any], a: float, b: float, c: float, d: float, e: float, f: float
) -> Float64:
    """(V, 2) map coordinates of (V, 2) columns and rows, by the six numbers of a transform."""
    out = np.empty((len(coords), 2), np.float64)
    for k in range(len(coords)):
        x, y = np.float64(coords[k, 0]), np.float64(coords[k, 1])
        out[k, 0] = x * a + y * b + c
        out[k, 1] = x * d + y * e + f
    return out


@jit
def _measure_bytes(
    rings: Int64,
    parts: Int64,
    shapes: Int64,
    rows: NDArray[np.intp],
    multi: bool,
    offsets: Int64,
) -> None:
    """Fill in where the WKB of each polygon ends."""
    for n in range(len(rows)):
        first, last = parts[shapes[rows[n]]], parts[shapes[rows[n] + 1]]
        count = shapes[rows[n] + 1] - shapes[rows[n]]
        size = 4 * (last - first) + 16 * (rings[last] - rings[first]) + 9 * count
        offsets[n + 1] = offsets[n] + size + (9 if multi or count > 1 else 0)


@jit
def _put(out: NDArray[np.uint8], at: int, value: int) -> int:
    """A number of 32 bits, little-endian; returns where it ends."""
    for k in range(4):
        out[at + k] = (value >> (8 * k)) & 255
    return at + 4


@jit
def _write_bytes(
    raw: NDArray[np.uint8],
    rings: Int64,
    parts: Int64,
    shapes: Int64,
    rows: NDArray[np.intp],
    multi: bool,
    reverse: bool,
    offsets: Int64,
    out: NDArray[np.uint8],
) -> None:
    for n in range(len(rows)):
        at, first, last = offsets[n], shapes[rows[n]], shapes[rows[n] + 1]
        if multi or last - first > 1:
            out[at] = 1
            at = _put(out, _put(out, at + 1, MULTIPOLYGON), last - first)
        for p in range(first, last):
            out[at] = 1
            at = _put(out, _put(out, at + 1, POLYGON), parts[p + 1] - parts[p])
            for r in range(parts[p], parts[p + 1]):
                start, stop = rings[r], rings[r + 1]
                at = _put(out, at, stop - start)
                if reverse:
                    for k in range(start, stop):
                        behind = start + stop - 1 - k
                        out[at + 16 * (k - start) : at + 16 * (k - start + 1)] = raw[
                            16 * behind : 16 * behind + 16
                        ]
                else:
                    out[at : at + 16 * (stop - start)] = raw[16 * start : 16 * stop]
                at += 16 * (stop - start)
