"""Which scene a place belongs to, where several show it.

A scene sees a place the better, the farther it lies inside of it: so where scenes overlap, each
place belongs to the one whose inner edges are farthest from it, and seams run along the middle of
overlaps. Inner edges are those that lie in other scenes: where all end is no seam. Each scene has
its own depth at each place, of equals the first by name wins, so there are no gaps, places belong
to one scene only, and neither depends on the order of the scenes. Depths are of the convex hull,
hence seams are straight lines; what a scene claims has any form (holes, edges of nodata).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_ROUGH = 0.02  # of the root of its area: so much may a scene's hull be simplified
_INSIDE = 4  # pixels: edges lie in another scene if they are so far inside


@dataclass(frozen=True)
class Ground:
    """What a scene shows. shape: (Multi)Polygon of its data. pixel: edge, in units of the map."""

    name: str
    shape: Any
    pixel: float

    @cached_property
    def core(self) -> Any:
        """Without its rim."""
        return shapely.buffer(self.shape, -_INSIDE * self.pixel, join_style="mitre")

    @cached_property
    def hull(self) -> Float64:
        """(K, 2) corners of a simple convex polygon around it, counterclockwise."""
        hull = shapely.convex_hull(self.shape)
        if hull.area == 0:
            return np.empty((0, 2))
        hull = shapely.convex_hull(shapely.simplify(hull, _ROUGH * np.sqrt(hull.area)))
        return np.asarray(shapely.get_coordinates(shapely.orient_polygons(hull))[:-1])


class Seams:
    """Deals the ground out to `grounds`, which are sorted by name."""

    def __init__(self, grounds: Sequence[Ground]) -> None:
        names = [ground.name for ground in grounds]
        if names != sorted(names):
            raise ValueError("the grounds have to be sorted by name")
        self.grounds = grounds
        self._tree = shapely.STRtree([ground.shape for ground in grounds])
        self._depths: dict[int, Float64] = {}

    def neighbours(self, index: int, within: float) -> list[int]:
        """Other scenes that are nearer than that, in their order."""
        found = self._tree.query(self.grounds[index].shape, "dwithin", within)
        return sorted(int(i) for i in found if i != index)

    def foreign(self, index: int, within: float) -> Any:
        """What of the other scenes' grounds, of those that are so near, does not belong to a scene.

        All that no scene claims belongs to who has found something there.
        """
        own, others = self.grounds[index], self.neighbours(index, within)
        lost = [self._lost(index, other) for other in others]
        kept = shapely.difference(own.shape, shapely.union_all(lost))
        claims = shapely.union_all([self.grounds[other].shape for other in others])
        return shapely.difference(claims, kept)

    def _lost(self, index: int, other: int) -> Any:
        """The part of the other's ground where it sees better."""
        shape = self.grounds[other].shape
        first, second = sorted((index, other))
        better = self._better(first, second)  # where the second wins: of equals, the first does
        clip = shapely.intersection if other == second else shapely.difference
        return clip(shape, better)

    def _better(self, first: int, second: int) -> Any:
        """Where, in a box around the grounds of both, the second scene is deeper than the first."""
        behind, ahead = self._depth(first), self._depth(second)
        if not len(behind):  # it has no inner edges: nowhere is any deeper
            return shapely.Polygon()
        bounds = np.array([self.grounds[i].shape.bounds for i in (first, second)])
        low, high = bounds[:, :2].min(0), bounds[:, 2:].max(0)
        margin = (high - low).max()  # edges of the box meet neither ground
        return _deeper(behind, ahead, _box(low - margin, high + margin), (low + high) / 2)

    def _depth(self, index: int) -> Float64:
        """(E, 4) for each inner edge: a point of it, and the unit normal that points inside."""
        if index not in self._depths:
            cores = [self.grounds[i].core for i in self.neighbours(index, 0)]
            corners = self.grounds[index].hull
            inner = []
            for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                if shapely.intersects(cores, shapely.LineString([start, end])).any():
                    dx, dy = (end - start) / np.linalg.norm(end - start)
                    inner.append((*start, -dy, dx))
            self._depths[index] = np.array(inner).reshape(-1, 4)
        return self._depths[index]


def _box(low: Float64, high: Float64) -> Float64:
    return np.array([low, (high[0], low[1]), high, (low[0], high[1])])


def _deeper(behind: Float64, ahead: Float64, box: Float64, origin: Float64) -> Any:
    """The part of a box where the least of the distances `behind` is less than all of `ahead`."""

    def offsets(edges: Float64) -> Float64:
        return np.asarray(np.sum((edges[:, :2] - origin) * edges[:, 2:], axis=1))

    of_behind, of_ahead = offsets(behind), offsets(ahead)
    pieces = []
    for normal, offset in zip(behind[:, 2:], of_behind, strict=True):
        piece = box - origin
        for other, off in zip(ahead[:, 2:], of_ahead, strict=True):
            piece = _half(piece, other - normal, off - offset)
        if len(piece) > 2:
            pieces.append(shapely.Polygon(piece + origin))
    return shapely.union_all(pieces)


def _half(corners: Float64, normal: Float64, offset: float) -> Float64:
    """The part of a convex polygon (K, 2) where normal · p > offset (Sutherland, Hodgman 1974)."""
    if not len(corners):
        return corners
    side = corners @ normal - offset
    inside = side > 0
    if inside.all() or not inside.any():
        return corners[:0] if not inside.any() else corners
    out = []
    for i in range(len(corners)):
        j = i - 1
        if inside[i] != inside[j]:
            share = side[j] / (side[j] - side[i])
            out.append(corners[j] + share * (corners[i] - corners[j]))
        if inside[i]:
            out.append(corners[i])
    return np.array(out)
