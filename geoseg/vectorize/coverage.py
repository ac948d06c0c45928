"""Polygons that may touch, taken apart into vertices in common, and put together again."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

Shapes = NDArray[np.object_]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


def shared_vertices(points: Float64, rings: Int64, group: Int64) -> tuple[Int64, Int64, Float64]:
    """Vertices (n, 2), which rings of one group (R,) share where they are at the same point, and
    the way around the rings: (K,) vertices and (R + 1,) offsets."""
    inner = np.ones(len(points), np.bool_)
    inner[rings[1:] - 1] = False  # rings end where they start
    steps = points[inner]
    offsets = rings - np.arange(len(rings))
    of_step = np.repeat(group, np.diff(offsets))
    several = np.repeat((np.bincount(group) > 1)[group], np.diff(offsets))
    some = np.flatnonzero(several)  # a ring by itself shares nothing
    order = some[np.lexsort((steps[some, 1], steps[some, 0], of_step[some]))]
    new = np.ones(len(order), np.bool_)
    new[1:] = (steps[order[1:]] != steps[order[:-1]]).any(axis=1) | (np.diff(of_step[order]) > 0)
    walk = np.empty(len(steps), np.int64)
    walk[order] = np.cumsum(new) - 1
    alone = np.flatnonzero(~several)
    walk[alone] = new.sum() + np.arange(len(alone))
    return walk, offsets, np.concatenate((steps[order[new]], steps[alone]))


def gathered(geometries: Shapes, parts: Shapes, owner: Int64, changed: Bool) -> Shapes:
    """The geometries with their parts replaced where these changed."""
    counts = np.bincount(owner, minlength=len(geometries))
    out = geometries.copy()
    single = changed & (counts[owner] == 1)
    out[owner[single]] = parts[single]
    several = np.unique(owner[changed & (counts[owner] > 1)])
    if len(several):
        number = np.full(len(geometries), -1)
        number[several] = np.arange(len(several))
        of = number[owner]
        out[several] = shapely.multipolygons(parts[of >= 0], indices=of[of >= 0])
    return out
