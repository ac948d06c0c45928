"""Fewer vertices, with boundaries that neighbours share still shared."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.vectorize.measure import metres_to_units

__all__ = ["metres_to_units", "simplify"]


def simplify(
    geometries: NDArray[np.object_],
    tolerance: float | NDArray[np.float64],
    *,
    groups: NDArray[np.integer[Any]] | None = None,
) -> NDArray[np.object_]:
    """Simplify (N,) polygons that form a coverage; the result forms one too.

    Vertices go whose triangle with their neighbours is smaller than tolerance² (Visvalingam and
    Whyatt 1993, as GEOS does it for coverages); `tolerance` is in map units, see
    `metres_to_units`. Neighbours must have the same vertices along the boundary they share.

    `groups` (N,) are numbers, in ascending order, of clusters that are simplified each by itself,
    so that the result does not depend on what else is in the batch; then `tolerance` may be one
    number per polygon of which that of the first in each cluster counts. No polygon vanishes.
    """
    if len(geometries) == 0:
        return geometries
    if groups is None:
        return cast(NDArray[np.object_], shapely.coverage_simplify(geometries, tolerance))
    first = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
    number = np.repeat(np.arange(len(first)), np.diff(first, append=len(groups)))
    clusters = shapely.geometrycollections(geometries, indices=number)
    tolerances = np.broadcast_to(tolerance, len(geometries))[first]
    # What shapely.coverage_simplify calls with one collection; it takes many at once.
    simplified = shapely.lib.coverage_simplify(clusters, tolerances, True)
    return cast(NDArray[np.object_], shapely.get_parts(simplified))
