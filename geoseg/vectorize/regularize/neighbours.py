"""Which polygons of any layer touch, and vertices for them where neighbours have some."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.components import components

Shapes = NDArray[np.object_]
Int64 = NDArray[np.int64]


def joined(shapes: Shapes, near: float) -> tuple[Shapes, Int64]:
    """(N,) polygons that touch get the vertices of each other along the boundary they share; and
    the number of the cluster of each (N,), for which they can be told to keep it.

    `near` (map units) is how far a vertex may be off a neighbour's edge. Clusters in which polygons
    overlap are taken apart: there is no common boundary to keep.
    """
    one, two = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    _, group = components(len(shapes), one, two)
    some = np.flatnonzero(np.bincount(group)[group] > 1)
    if not len(some):
        return shapes, group
    shapes = shapes.copy()
    shapes[some] = _with_vertices(shapes[some], group[some], near)
    next_ = group.max() + 1
    order = some[np.argsort(group[some], kind="stable")]
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        parts = shapely.get_parts(shapes[rows])
        if not shapely.coverage_is_valid(parts):
            group[rows] = next_ + np.arange(len(rows))
            next_ += len(rows)
    return shapes, group


def _with_vertices(shapes: Shapes, group: Int64, near: float) -> Shapes:
    """The polygons, with a vertex where one of the same group has one on their edge."""
    parts, owner = shapely.get_parts(shapes, return_index=True)
    _, points, (rings, polygons) = shapely.to_ragged_array(parts)
    part = np.repeat(np.repeat(np.arange(len(parts)), np.diff(polygons)), np.diff(rings))
    inner = np.ones(len(points), np.bool_)
    inner[rings[1:] - 1] = False
    start = np.flatnonzero(inner)  # an edge leads from each of these to the next point
    edges = shapely.linestrings(np.stack((points[start], points[start + 1]), axis=1))
    dots = shapely.points(points[start])
    dot, edge = shapely.STRtree(edges).query(dots, predicate="dwithin", distance=near)
    p, a, b = points[start[dot]], points[start[edge]], points[start[edge] + 1]
    of_dot, of_edge = owner[part[start[dot]]], owner[part[start[edge]]]
    fits = (of_dot != of_edge) & (group[of_dot] == group[of_edge])
    fits &= (np.hypot(*(p - a).T) > near) & (np.hypot(*(p - b).T) > near)
    p, a, b, edge = p[fits], a[fits], b[fits], edge[fits]
    along = np.einsum("ij,ij->i", p - a, b - a)
    order = np.lexsort((p[:, 1], p[:, 0], along, edge))
    p, edge = p[order], edge[order]
    new = np.ones(len(p), np.bool_)  # several neighbours may have the same vertex
    new[1:] = (np.diff(edge) != 0) | (p[1:] != p[:-1]).any(axis=1)
    p, at = p[new], start[edge[new]] + 1
    rings = rings + np.searchsorted(at, rings, side="left")
    made = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, np.insert(points, at, p, axis=0), (rings, polygons)
    )
    whole = shapely.is_valid(made)
    made[~whole] = parts[~whole]
    out = shapes.copy()
    counts = np.bincount(owner, minlength=len(shapes))
    out[counts == 1] = made[counts[owner] == 1]
    several = np.flatnonzero(counts > 1)
    number = np.cumsum(counts > 1) - 1
    rows = counts[owner] > 1
    if len(several):
        out[several] = shapely.multipolygons(made[rows], indices=number[owner[rows]])
    return out


def overlapping(shapes: Shapes, least: float) -> tuple[Int64, Int64]:
    """Pairs (K,), (K,) of polygons that have more than `least` of their areas in common."""
    one, two = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    one, two = one[one < two], two[one < two]
    inside = shapely.relate_pattern(shapes[one], shapes[two], "2********")
    one, two = one[inside], two[inside]
    common = shapely.area(shapely.intersection(shapes[one], shapes[two])) > least
    return one[common], two[common]
