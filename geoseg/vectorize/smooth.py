"""Corners rounded off, with boundaries that neighbours share still shared."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.vectorize.coverage import gathered, shared_vertices
from geoseg.vectorize.regularize.graph import mark_nodes

Shapes = NDArray[np.object_]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

FLAT = 1 / 20  # of the tolerance: how far a curve may lie off the pieces it is drawn with
NEAR = 1e-6  # of a triangle or edge: vertices so near are in it, or on it


def smooth(
    geometries: Shapes,
    tolerance: float | Float64,
    *,
    groups: NDArray[np.integer[Any]] | None = None,
) -> Shapes:
    """(N,) polygons (or MultiPolygons) with their corners rounded off, by up to `tolerance`: one
    or (N,), in map units, see `metres_to_units`; 0 for polygons that stay as they are.

    A corner becomes a parabola, from the middle of the one edge to the middle of the other, but
    from no farther than two tolerances off. Without that bound it is what Chaikin's corner cutting
    (1974) comes to, a quadratic B-spline (Riesenfeld 1975). A length says how much, as in ArcGIS
    and for all that geoseg does to outlines, and not rounds of cutting, as in PostGIS and QGIS:
    those take a quarter of each edge, be it a pixel's or a field's, so that fields become ovals.

    `groups` (N,) are numbers, in ascending order, of clusters of polygons that may touch; these
    must have the same vertices along the boundary they share, and keep it. Where other than two
    edges meet vertices stay. Without `groups` each polygon is taken by itself. None vanishes, nor
    does a hole, and none comes to overlap another of its cluster: where the triangle that is cut
    off would hold another vertex, it is made smaller.
    """
    if len(geometries) == 0:
        return geometries
    parts, owner = shapely.get_parts(geometries, return_index=True)
    group = np.arange(len(geometries)) if groups is None else np.asarray(groups)
    group = np.cumsum(np.diff(group, prepend=group[0]) != 0)[owner]
    own = np.broadcast_to(np.asarray(tolerance, np.float64), len(geometries))[owner]
    own = np.where(own > 0, own, 0.0)  # NaN, where the map is not defined, is none
    _, points, (rings, polygons) = shapely.to_ragged_array(parts)
    ring_part = np.repeat(np.arange(len(parts)), np.diff(polygons))
    walk, rings, points = shared_vertices(points, rings, group[ring_part])
    most = np.full(len(points), np.inf)
    np.minimum.at(most, walk, own[np.repeat(ring_part, np.diff(rings))])
    nodes = np.zeros(len(points), np.bool_)
    mark_nodes(walk, rings, nodes)
    most[nodes] = 0.0
    corners = _Corners.around(points[walk], rings)
    step = np.unique(walk, return_index=True)[1]
    in_group = group[ring_part[corners.ring[step]]]
    most[_on_edges(points, np.stack((walk, walk[corners.after]), axis=1), in_group)] = 0.0
    most = _with_room(points, corners.first[step], corners.last[step], most, in_group)
    xy, offsets = _rounded(corners, most[walk])
    made = shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, (offsets, polygons))
    broken = np.isin(group, group[~shapely.is_valid(made)])  # by rounding errors
    return gathered(geometries, made, owner, ~broken)


class _Corners(NamedTuple):
    """K corners around rings that are not closed. Of its two neighbours the one that lies lower is
    the first, whichever way the ring runs, so that arithmetic comes to the same, to the last bit.
    """

    points: Float64  # (K, 2)
    first: Float64  # (K, 2)
    last: Float64  # (K, 2)
    turned: Bool  # (K,) whether the ring comes from the last and goes to the first
    after: Int64  # (K,) the number of the corner that follows in the ring
    ring: Int64  # (K,) its number

    @classmethod
    def around(cls, points: Float64, rings: Int64) -> _Corners:
        """Those of points (K, 2) around rings with offsets (R + 1,)."""
        steps = np.arange(len(points))
        before, after = steps - 1, steps + 1
        before[rings[:-1]], after[rings[1:] - 1] = rings[1:] - 1, rings[:-1]
        (x, y), (u, v) = points[before].T, points[after].T
        turned = (x > u) | ((x == u) & (y > v))
        first, last = np.where(turned, after, before), np.where(turned, before, after)
        ring = np.repeat(np.arange(len(rings) - 1), np.diff(rings))
        return cls(points, points[first], points[last], turned, after, ring)


def _with_room(
    points: Float64, first: Float64, last: Float64, most: Float64, group: Int64
) -> Float64:
    """(n,) how far the outline may move at vertices between first and last neighbours (n, 2): by
    `most` (n,), or less where the triangle cut off would hold another vertex of the group (n,).

    That is enough: an edge that enters a triangle without ending there leaves it by one of the
    corner's own edges, which no edge crosses; so all triangles are empty, and apart.
    """
    rows = np.flatnonzero(most > 0)
    start = _toward(points[rows], first[rows], 2 * most[rows]) - points[rows]
    end = _toward(points[rows], last[rows], 2 * most[rows]) - points[rows]
    low, high = np.minimum(np.minimum(start, end), 0), np.maximum(np.maximum(start, end), 0)
    row, vertex = _inside(points, points[rows] + low, points[rows] + high)
    other = (vertex != rows[row]) & (group[vertex] == group[rows[row]])
    row, vertex = row[other], vertex[other]
    u, v, way = start[row], end[row], points[vertex] - points[rows[row]]
    area = _cross(u, v)
    row, u, v, way, area = (values[area != 0] for values in (row, u, v, way, area))
    along, across = _cross(way, v) / area, _cross(u, way) / area  # way = along u + across v
    inside = (np.minimum(along, across) >= -NEAR) & (along + across <= 1 + NEAR)
    reach = along * _length(u) + across * _length(v)  # of the triangle it lies on
    most = most.copy()
    np.minimum.at(most, rows[row[inside]], np.maximum(reach[inside], 0) / 4)  # half of that
    return most


def _on_edges(points: Float64, edges: Int64, group: Int64) -> Int64:
    """Vertices that lie on an edge of their group (E, 2) but for rounding errors, and its ends.

    Simplified outlines have such, by chance valid; a new point on either edge may cross the other.
    """
    edges = np.unique(np.sort(edges, axis=1), axis=0)
    one, other = points[edges[:, 0]], points[edges[:, 1]]
    edge, vertex = _inside(points, np.minimum(one, other), np.maximum(one, other))
    apart = (edges[edge] != vertex[:, None]).all(axis=1) & (group[edges[edge, 0]] == group[vertex])
    edge, vertex = edge[apart], vertex[apart]
    way, along = points[vertex] - one[edge], other[edge] - one[edge]
    on = np.abs(_cross(way, along)) <= NEAR * (along**2).sum(axis=1)
    return np.union1d(vertex[on], edges[edge[on]])


def _inside(points: Float64, low: Float64, high: Float64) -> tuple[Int64, Int64]:
    """Pairs of a box between low and high (B, 2) and a point in it."""
    box, point = shapely.STRtree(shapely.points(points)).query(shapely.box(*low.T, *high.T))
    return box, point


def _length(vectors: Float64) -> Float64:
    """(n,) lengths of (n, 2) vectors; the same to the last bit if these point the other way."""
    return cast(Float64, np.sqrt((vectors**2).sum(axis=1)))


def _cross(u: Float64, v: Float64) -> Float64:
    """(n,) cross products of (n, 2) vectors."""
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]


def _rounded(corners: _Corners, most: Float64) -> tuple[Float64, Int64]:
    """Points (V, 2) of closed rings and their offsets (R + 1,): the corners rounded by `most`."""
    middle = corners.points
    start = _toward(middle, corners.first, 2 * most)
    end = _toward(middle, corners.last, 2 * most)
    off = _length(start - 2 * middle + end) / 4  # of n pieces: off / n²
    pieces = np.ceil(np.sqrt(np.divide(off, FLAT * most, out=np.zeros_like(off), where=most > 0)))
    sharp = off > FLAT * (_length(start - middle) + _length(end - middle))
    pieces = np.where(most > 0, np.maximum(pieces, 1 + sharp), 0).astype(np.int64)
    pieces += (pieces > 1) & (pieces % 2 == 1)  # a point on top: none moves by more than `most`
    at = np.repeat(np.arange(len(middle)), pieces + 1)
    place = np.arange(len(at)) - (np.cumsum(pieces + 1) - pieces - 1)[at]
    place = np.where(corners.turned[at], pieces[at] - place, place)
    t = (place / np.maximum(pieces, 1)[at])[:, None]
    xy = (1 - t) ** 2 * start[at] + 2 * t * (1 - t) * middle[at] + t**2 * end[at]
    return _closed(xy, corners.ring[at])


def _closed(xy: Float64, ring: Int64) -> tuple[Float64, Int64]:
    """Rings of points, without those that repeat the one before, closed; and their offsets."""
    stops = np.cumsum(np.bincount(ring))
    before = np.arange(len(xy)) - 1
    before[np.concatenate(([0], stops[:-1]))] = stops - 1
    new = (xy != xy[before]).any(axis=1)
    xy, ring = xy[new], ring[new]
    stops = np.cumsum(np.bincount(ring))
    xy = np.insert(xy, stops, xy[np.concatenate(([0], stops[:-1]))], axis=0)
    return xy, np.concatenate(([0], stops + np.arange(1, len(stops) + 1)))


def _toward(corners: Float64, others: Float64, reach: Float64) -> Float64:
    """(K, 2) the points `reach` (K,) away from corners toward others, or else in the middle."""
    way = others - corners
    length = _length(way)
    near = reach < length / 2
    share = np.where(near, reach, 0.0) / length
    return np.where(near[:, None], corners + way * share[:, None], (corners + others) / 2)
