"""What else is told of a polygon: how sure, how compact, its rectangle, its vertices.

    confidence_std  standard deviation of the confidence over its pixels
    compactness     4 pi area / perimeter²: 1 for a circle, 0.785 for a square (Polsby, Popper 1991)
    orientation     direction of the long side of its rectangle, degrees clockwise from the map's
                    up (north), 0 to 180
    length_m        long side of its rectangle, the smallest in any direction around it
    width_m         short side
    vertices        of all its rings, the closing ones not counted

All are of the final outline, as it is written, and on the ground: metres in any CRS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.vectorize.measure import metric_frames

if TYPE_CHECKING:
    from pyproj import CRS

Float64 = NDArray[np.float64]
Geometries = NDArray[np.object_]


def attributes(
    geometries: Geometries,
    crs: CRS | None,
    area: Float64,
    perimeter: Float64,
    *,
    unit_m: float = 1.0,
) -> dict[str, NDArray[Any]]:
    """The columns that come from the shape, of (N,) polygons with these areas and perimeters.

    Without a CRS `unit_m` says how many metres a unit of the coordinates is.
    """
    length, width, orientation = rectangles(geometries, crs)
    with np.errstate(divide="ignore", invalid="ignore"):
        compactness = np.where(perimeter > 0, 4 * np.pi * area / perimeter**2, 0)
    return {
        "compactness": compactness,
        "orientation": orientation,
        "length_m": length * unit_m,
        "width_m": width * unit_m,
        "vertices": count_vertices(geometries),
    }


def rectangles(geometries: Geometries, crs: CRS | None) -> tuple[Float64, Float64, Float64]:
    """(N,) length, width and orientation of the smallest rectangles around polygons."""
    if not len(geometries):
        return np.empty(0), np.empty(0), np.empty(0)
    bounds = shapely.bounds(geometries)
    middle = (bounds[:, :2] + bounds[:, 2:]) / 2
    frames = metric_frames(crs, middle)
    coords, owner = shapely.get_coordinates(geometries, return_index=True)
    on_ground = np.einsum("nij,nj->ni", frames[owner], coords - middle[owner])
    boxes = shapely.oriented_envelope(_lines(on_ground, owner, len(geometries)))
    corners = shapely.get_coordinates(boxes).reshape(len(boxes), 5, 2)
    sides = np.diff(corners[:, :3], axis=1)  # (N, 2, 2): two that meet
    lengths = np.linalg.norm(sides, axis=2)
    long = lengths.argmax(axis=1)
    dx, dy = sides[np.arange(len(sides)), long].T
    angle = np.degrees(np.arctan2(dx, dy)) % 180
    angle[angle > 180 - 1e-6] = 0  # or rounding makes 180 of what is upright
    return lengths.max(axis=1), lengths.min(axis=1), angle


def _lines(coords: Float64, owner: NDArray[np.int64], count: int) -> Geometries:
    """(count,) the corners of each polygon on one line, the cheapest thing that holds them."""
    offsets = np.searchsorted(owner, np.arange(count + 1))
    lines: Geometries = shapely.from_ragged_array(
        shapely.GeometryType.LINESTRING, coords, (offsets,)
    )
    return lines


def count_vertices(geometries: Geometries) -> NDArray[np.int32]:
    """(N,) number of vertices of polygons; a ring's last one is its first, and counts once."""
    parts, owner = shapely.get_parts(geometries, return_index=True)
    rings = np.bincount(owner, shapely.get_num_interior_rings(parts) + 1, len(geometries))
    counts: NDArray[np.int32] = (shapely.get_num_coordinates(geometries) - rings).astype(np.int32)
    return counts


def mean_width(area: Float64, perimeter: Float64) -> Float64:
    """(N,) short side of the rectangle of the same area and perimeter; of a square its side.

    Of a strip, straight or winding, that is its width. Shapes that are rounder than a square have
    no such rectangle: it is the side of the square of their area.
    """
    apart: Float64 = np.sqrt(np.maximum(perimeter**2 - 16 * area, 0))
    width: Float64 = np.where(apart > 0, (perimeter - apart) / 4, np.sqrt(area))
    return width


def large_enough(
    area: Float64, perimeter: Float64, *, min_area_m2: float, min_width_m: float
) -> NDArray[np.bool_]:
    """(N,) Whether each is neither too small nor a sliver: see `mean_width`."""
    keep: NDArray[np.bool_] = np.ones(len(area), np.bool_)
    if min_area_m2 > 0:
        keep &= area >= min_area_m2
    if min_width_m > 0:
        keep &= mean_width(area, perimeter) >= min_width_m
    return keep
