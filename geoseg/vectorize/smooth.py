"""Corners rounded off, with boundaries that neighbours share still shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.vectorize.coverage import gathered, shared_vertices
from geoseg.vectorize.regularize.graph import mark_nodes

Shapes = NDArray[np.object_]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

FLAT = 1 / 20  # of the tolerance: how far a curve may lie off the straight pieces it is drawn with
SHARES = np.array([1.0, 0.5, 0.0])  # of the tolerance that a corner gets; one at fault steps on
TURNS = 6  # after which a cluster that is still at fault stays as it was


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
    does a hole. Corners at which a cluster would overlap itself are rounded by half as much, or
    not at all; if that does not help, the cluster stays as it was.
    """
    if len(geometries) == 0:
        return geometries
    parts, owner = shapely.get_parts(geometries, return_index=True)
    group = np.arange(len(geometries)) if groups is None else np.asarray(groups)
    group = np.cumsum(np.diff(group, prepend=group[0]) != 0)[owner]
    own = np.broadcast_to(np.asarray(tolerance, np.float64), len(geometries))[owner]
    _, points, (rings, polygons) = shapely.to_ragged_array(parts)
    ring_part = np.repeat(np.arange(len(parts)), np.diff(polygons))
    walk, rings, points = shared_vertices(points, rings, group[ring_part])
    most = np.full(len(points), np.inf)
    np.minimum.at(most, walk, own[np.repeat(ring_part, np.diff(rings))])
    nodes = np.isnan(most)
    mark_nodes(walk, rings, nodes)
    most[nodes] = 0.0
    level = np.zeros(len(points), np.int64)
    rows = np.arange(len(parts))
    for _ in range(TURNS):
        xy, offsets, source = _rounded(points[walk], rings, (most * SHARES[level])[walk])
        made = shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, (offsets, polygons))
        fault = _at_fault(made, group, rows)
        if not fault.any():
            break
        of_point = np.repeat(ring_part, np.diff(offsets))
        rows = np.flatnonzero(np.isin(group, group[of_point[fault]]))
        vertices = np.unique(walk[source[fault]])
        level[vertices] = np.minimum(level[vertices] + 1, len(SHARES) - 1)
    else:
        made[rows] = parts[rows]
    return gathered(geometries, made, owner, made != parts)


def _rounded(corners: Float64, rings: Int64, most: Float64) -> tuple[Float64, Int64, Int64]:
    """Points (V, 2) of closed rings, (R + 1,) their offsets, and the corners (V,) they come from,
    of (K, 2) corners around rings that are not closed, rounded by up to `most` (K,).

    To the last bit the same whichever way a ring runs: of its two neighbours the one that lies
    lower comes first in all arithmetic.
    """
    steps = np.arange(len(corners))
    before, after = steps - 1, steps + 1
    before[rings[:-1]], after[rings[1:] - 1] = rings[1:] - 1, rings[:-1]
    first, last = corners[before], corners[after]
    turned = (first[:, 0] > last[:, 0]) | ((first[:, 0] == last[:, 0]) & (first[:, 1] > last[:, 1]))
    first, last = np.where(turned[:, None], (last, first), (first, last))
    start, end = _toward(corners, first, 2 * most), _toward(corners, last, 2 * most)
    bend = start - 2 * corners + end
    off = np.sqrt((bend**2).sum(axis=1)) / 4  # a parabola of n pieces lies off / n² from them
    pieces = np.ceil(np.sqrt(np.divide(off, FLAT * most, out=np.zeros_like(off), where=most > 0)))
    pieces = np.where(most > 0, np.maximum(pieces, 1), 0).astype(np.int64)
    pieces += (pieces > 1) & (pieces % 2 == 1)  # a point on top: none moves by more than `most`
    source = np.repeat(steps, pieces + 1)
    place = np.arange(len(source)) - (np.cumsum(pieces + 1) - pieces - 1)[source]
    place = np.where(turned[source], pieces[source] - place, place)
    t = (place / np.maximum(pieces, 1)[source])[:, None]
    xy = (1 - t) ** 2 * start[source] + 2 * t * (1 - t) * corners[source] + t**2 * end[source]
    ring = np.repeat(np.arange(len(rings) - 1), np.diff(rings))[source]
    return _closed(xy, ring, source)


def _closed(xy: Float64, ring: Int64, source: Int64) -> tuple[Float64, Int64, Int64]:
    """Rings of points, without those that repeat the one before, closed; and their offsets."""
    stops = np.cumsum(np.bincount(ring))
    before = np.arange(len(xy)) - 1
    before[np.concatenate(([0], stops[:-1]))] = stops - 1
    new = (xy != xy[before]).any(axis=1)
    xy, ring, source = xy[new], ring[new], source[new]
    stops = np.cumsum(np.bincount(ring))
    starts = np.concatenate(([0], stops[:-1]))
    xy, source = np.insert(xy, stops, xy[starts], axis=0), np.insert(source, stops, source[starts])
    return xy, np.concatenate(([0], stops + np.arange(1, len(stops) + 1))), source


def _toward(corners: Float64, others: Float64, reach: Float64) -> Float64:
    """(K, 2) the points `reach` (K,) away from corners toward others, or else in the middle."""
    way = others - corners
    length = np.sqrt((way**2).sum(axis=1))
    near = reach < length / 2
    share = np.where(near, reach, 0.0) / length
    return np.where(near[:, None], corners + way * share[:, None], (corners + others) / 2)


def _at_fault(made: Shapes, group: Int64, rows: Int64) -> Bool:
    """(V,) Which points of the (P,) polygons are those of invalid ones, or of edges that overlap
    others of the group; only the polygons of `rows`, whole groups, are looked at."""
    points, owner = shapely.get_coordinates(made, return_index=True)
    fault = np.isin(owner, rows[~shapely.is_valid(made[rows])])
    sizes = np.bincount(group)
    look = (sizes > 1) & (np.bincount(group[rows], minlength=len(sizes)) > 0)
    start = np.cumsum(sizes) - sizes
    edges = [np.empty(0, object)]
    for size in np.unique(sizes[look]):
        some = start[look & (sizes == size)][:, None] + np.arange(size)
        edges.append(shapely.lib.coverage_invalid_edges(made[some], 0.0).ravel())
    ends = shapely.get_coordinates(np.concatenate(edges))
    if len(ends):
        fault |= np.isin(_as_number(points), _as_number(ends)) & np.isin(owner, rows)
    return fault


def _as_number(points: Float64) -> NDArray[np.complex128]:
    """(V,) complex numbers of (V, 2) points."""
    return points[:, 0] + 1j * points[:, 1]
