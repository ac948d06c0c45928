"""Outlines as a cartographer draws buildings: straight, with right angles, and round where round.

    neighbours  which polygons touch, and vertices for them where the others have some
    graph       outlines as one graph: what touches shares vertices and edges, and stays together
    lines       edges onto lines of few directions
    rings       the rings that are left, and what they swept
    circles     what is round

Here is what holds the result against the original: a polygon that came out invalid, overlaps a
neighbour, or covers too little of what it was, is tried anew with half the tolerance, then only
thinned, and at last left as it was.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.errors import DataError, UsageError
from geoseg.vectorize.coverage import gathered, shared_vertices
from geoseg.vectorize.measure import metres_to_units, metric_frames
from geoseg.vectorize.regularize import graph
from geoseg.vectorize.regularize import lines as straight
from geoseg.vectorize.regularize.circles import round_off
from geoseg.vectorize.regularize.graph import Edges
from geoseg.vectorize.regularize.lines import Lines
from geoseg.vectorize.regularize.neighbours import joined, overlapping
from geoseg.vectorize.regularize.rings import placed_vertices, rings_of, swept

if TYPE_CHECKING:
    import geopandas as gpd
    from pyproj import CRS

TOLERANCE_M = 0.75
MIN_IOU = 0.8
NEAR_M = 0.001  # a vertex that near to a neighbour's edge is on it
WIDTH = 0.3  # the tolerance is at most that of the mean width: what is small keeps its shape
REACH = 3.0  # tolerances that an outline may come to lie off
# Levels: the whole tolerance; half of it; only thinned; as it was.
HALF, THINNED, ORIGINAL = 1, 2, 3
PATIENCE = 5  # rounds after which what fails goes back to what it was at once
ROUNDS = 20

Shapes = NDArray[np.object_]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


def regularize(
    frame: gpd.GeoDataFrame, tolerance_m: float = TOLERANCE_M, *, min_iou: float = MIN_IOU
) -> gpd.GeoDataFrame:
    """The polygons of a layer with straight outlines and right angles, round ones as circles.

    Outlines move by about `tolerance_m` (metres on the ground, in any CRS) at the most; it should
    be larger than the pixels that they come from. Polygons that touch go on touching, none comes
    to overlap another. What would have an IoU with its original below `min_iou` is only
    simplified, or stays as it was. Columns stay as they are, those of areas too. Rows without a
    geometry are passed on, invalid polygons are repaired first. Raises DataError for other
    geometries, and UsageError where the CRS is no map.
    """
    import geopandas as gpd

    _check(frame, tolerance_m, min_iou)
    shapes = np.asarray(frame.geometry.array).copy()
    rows = np.flatnonzero(~(shapely.is_missing(shapes) | shapely.is_empty(shapes)))
    if not len(rows):
        return frame.copy()
    some = shapely.force_2d(shapes[rows])
    broken = ~shapely.is_valid(some)
    some[broken] = shapely.make_valid(some[broken], method="structure")
    middle = shapely.get_coordinates(shapely.centroid(some)).mean(axis=0, keepdims=True)
    unit = float(metres_to_units(1.0, frame.crs, middle)[0])
    some, group = joined(some, NEAR_M * unit)
    shapes[rows] = _apart(some, group, tolerance_m, frame.crs, min_iou, 1e-6 * unit**2)
    return frame.set_geometry(gpd.GeoSeries(shapes, index=frame.index, crs=frame.crs))


def _check(frame: gpd.GeoDataFrame, tolerance_m: float, min_iou: float) -> None:
    """Refuse what cannot be regularized."""
    if not tolerance_m >= 0 or not np.isfinite(tolerance_m):
        raise UsageError(f"regularize: the tolerance is a length in metres, not {tolerance_m}")
    if not 0 <= min_iou <= 1:
        raise UsageError(f"regularize: min_iou lies between 0 and 1, not at {min_iou}")
    if frame.crs is not None and not (frame.crs.is_projected or frame.crs.is_geographic):
        raise UsageError(f"regularize: {frame.crs.name} is no map: bring the layer to one")
    shapes = np.asarray(frame.geometry.array)
    kinds = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
    other = ~np.isin(shapely.get_type_id(shapes), kinds) & ~shapely.is_missing(shapes)
    if other.any():
        raise DataError(
            f"regularize: {int(other.sum())} of {len(frame)} geometries are no polygons (the first "
            f"is row {int(np.flatnonzero(other)[0])}): leave them out"
        )


def _apart(
    shapes: Shapes, group: Int64, tolerance_m: float, crs: CRS | None, min_iou: float, least: float
) -> Shapes:
    """`regular_shapes` of clusters in any order, of which none comes to overlap another: those
    that do are done anew with half the tolerance, and half of that, and at last not at all."""
    order = np.argsort(group, kind="stable")
    shapes, group = shapes[order], group[order]
    slack = np.full(len(shapes), tolerance_m)
    before = set(zip(*overlapping(shapes, least), strict=True))
    out = regular_shapes(shapes, slack, crs=crs, groups=group, min_iou=min_iou)
    for turn in count():
        pairs = [p for p in zip(*overlapping(out, least), strict=True) if p not in before]
        if not slack[np.array(pairs, np.int64)].any():
            break
        anew = np.isin(group, group[np.unique(pairs)])
        slack[anew] = slack[anew] / 2 if turn < 2 else 0.0
        out[anew] = regular_shapes(
            shapes[anew], slack[anew], crs=crs, groups=group[anew], min_iou=min_iou
        )
    back = np.empty_like(out)
    back[order] = out
    return back


def regular_shapes(
    geometries: Shapes,
    tolerance: float | Float64,
    *,
    crs: CRS | None,
    groups: NDArray[np.integer[Any]] | None = None,
    min_iou: float = MIN_IOU,
) -> Shapes:
    """(N,) polygons (or MultiPolygons), regularized; `tolerance` in metres on the ground, one or
    (N,), 0 for polygons that stay as they are.

    `groups` (N,) are numbers, in ascending order, of clusters of polygons that may touch; these
    must have the same vertices along the boundary they share, and keep it. Others are taken each
    by itself. A polygon does not depend on those in other clusters. Without a CRS, metres are map
    units.
    """
    if len(geometries) == 0:
        return geometries
    parts, owner = shapely.get_parts(shapely.force_2d(geometries), return_index=True)
    group = np.arange(len(geometries)) if groups is None else np.asarray(groups)
    group = np.cumsum(np.diff(group, prepend=group[0]) != 0)[owner]
    slack = np.broadcast_to(np.asarray(tolerance, np.float64), len(geometries))[owner]
    ground = _Ground(parts, group, crs)
    slack = np.where(ground.known, slack, 0.0)
    made, changed = _regular_parts(parts, group, slack, ground, min_iou)
    return gathered(geometries, made, owner, changed)


class _Ground:
    """The way from the map to metres around the middle of each group, and back."""

    def __init__(self, parts: Shapes, group: Int64, crs: CRS | None) -> None:
        bounds = shapely.bounds(parts)
        first = np.flatnonzero(np.diff(group, prepend=-1))
        low = np.minimum.reduceat(bounds[:, :2], first)
        high = np.maximum.reduceat(bounds[:, 2:], first)
        self._middle = (low + high) / 2
        self._frame = metric_frames(crs, self._middle)
        self._group = group
        known = np.isfinite(self._frame).all(axis=(1, 2)) & (np.linalg.det(self._frame) != 0)
        self._frame[~known] = np.eye(2)
        self.known: Bool = known[group]

    def to_metres(self, parts: Shapes) -> Shapes:
        """Parts in metres."""
        points, owner = shapely.get_coordinates(parts, return_index=True)
        at = self._group[owner]
        metres = np.einsum("nij,nj->ni", self._frame[at], points - self._middle[at])
        return cast(Shapes, shapely.set_coordinates(parts.copy(), metres))

    def to_map(self, parts: Shapes, rows: Int64) -> Shapes:
        """Parts in metres on the map; `rows` says which of all they are."""
        points, owner = shapely.get_coordinates(parts, return_index=True)
        at = self._group[rows][owner]
        back = np.linalg.inv(self._frame)
        xy = np.einsum("nij,nj->ni", back[at], points) + self._middle[at]
        return cast(Shapes, shapely.set_coordinates(parts.copy(), xy))


def _regular_parts(
    parts: Shapes, group: Int64, slack: Float64, ground: _Ground, min_iou: float
) -> tuple[Shapes, Bool]:
    """(P,) polygons, regularized, in groups (P,); and those of groups that changed."""
    local = ground.to_metres(parts)
    slack = np.minimum(slack, WIDTH * 2 * shapely.area(local) / shapely.length(local))
    out, changed = parts.copy(), np.zeros(len(parts), np.bool_)
    level = np.where(slack > 0, 0, ORIGINAL)
    rows = np.flatnonzero(np.bincount(group, level < ORIGINAL)[group] > 0)
    for turn in range(ROUNDS):
        if not len(rows):
            break
        numbers = np.cumsum(np.diff(group[rows], prepend=-1) > 0) - 1
        made, bad, off = _attempt(local[rows], numbers, slack[rows], level[rows])
        on_map = ground.to_map(made, rows)
        bad |= ~shapely.is_valid(on_map)
        bad |= _too_far(made, local[rows], off, slack[rows], min_iou, ~bad)
        bad |= _collide(on_map, numbers, bad)
        bad &= level[rows] < ORIGINAL
        fine = (np.bincount(numbers, bad) == 0)[numbers]
        out[rows[fine]] = on_map[fine]
        changed[rows[fine]] = (np.bincount(numbers, made != local[rows]) > 0)[numbers[fine]]
        level[rows[bad]] = level[rows[bad]] + 1 if turn < PATIENCE else ORIGINAL
        rows = rows[~fine]
    return out, changed  # of what does not come to an end, all is as it was


def _attempt(
    parts: Shapes, group: Int64, slack: Float64, level: Int64
) -> tuple[Shapes, Bool, Float64]:
    """The parts regularized at their levels, which of them lost a ring and are as before, and the
    area (m²) by which each differs at most from what it was."""
    _, points, (rings, polygons) = shapely.to_ragged_array(parts)
    ring_part = np.repeat(np.arange(len(parts)), np.diff(polygons))
    walk, rings, points = shared_vertices(points, rings, group[ring_part])
    n = len(points)
    of_step = np.repeat(ring_part, np.diff(rings))
    tolerance = np.full(n, np.inf)
    own = np.where(level == 0, slack, np.where(level < ORIGINAL, slack / 2, 0.0))
    np.minimum.at(tolerance, walk, own[of_step])
    highest = np.zeros(n, np.int64)
    np.maximum.at(highest, walk, level[of_step])
    nodes, keep = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    graph.mark_nodes(walk, rings, nodes)
    graph.thin(points, walk, rings, nodes, tolerance, keep)
    pinned = highest >= THINNED
    before = points.copy()
    round_off(points, walk, rings, nodes, tolerance, highest == 0, keep, pinned)
    edges = graph.edges_of(points, walk, rings, nodes, tolerance, ring_part, keep)
    lines = _lines(points, edges, own, level, pinned)
    placed = placed_vertices(points, edges, lines)
    off = swept(before, placed, walk, rings, keep, ring_part, len(parts))
    xy, offsets, whole = rings_of(placed, edges, lines)
    sound = np.bincount(ring_part, ~whole, minlength=len(parts)) == 0
    made = parts.copy()
    if len(xy):
        made = shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, (offsets, polygons))
    made[~sound] = parts[~sound]
    return made, ~sound, off


def _lines(points: Float64, edges: Edges, own: Float64, level: Int64, pinned: Bool) -> Lines:
    """The edges onto their lines."""
    number = len(edges.length)
    offsets, mine = straight.by_part(edges.sides, len(own))
    direction, size = straight.directions(edges, offsets, mine)
    largest = np.argsort(-size, kind="stable")
    straight.share_directions(edges, offsets, mine, size, largest, direction)
    own = np.where(level < THINNED, own, 0.0)
    slack = np.where(edges.sides >= 0, own[edges.sides], np.inf).min(axis=1)
    lines = Lines(
        parent=np.arange(number),
        target=straight.aim(edges, direction, slack, pinned),
        area=np.zeros(number),
        length=np.zeros(number),
        bounds=np.zeros((number, 3)),
        of=np.full((len(points), 2), -1, np.int64),
    )
    longest = np.argsort(-edges.reach, kind="stable")
    shortest = np.argsort(edges.length, kind="stable")
    straight.settle(points, edges, slack, longest, lines)
    for _ in range(2):
        straight.tidy(points, edges, slack, shortest, pinned, lines)
    corners = np.flatnonzero((lines.of >= 0).all(axis=1))
    straight.meet(points, slack, *straight.by_line(lines, corners), lines)
    return lines


def _too_far(
    made: Shapes, before: Shapes, off: Float64, slack: Float64, min_iou: float, chosen: Bool
) -> Bool:
    """(P,) Which of the chosen polygons are too far from what they were; they differ by at most
    the area `off`, which mostly is enough to know."""
    bad = np.zeros(len(made), np.bool_)
    rows = np.flatnonzero(chosen & (made != before))
    new, old = made[rows], before[rows]
    both = shapely.area(new) + shapely.area(old)
    iou = (both - off[rows]) / (both + off[rows])
    unsure = iou < min_iou
    common = shapely.area(shapely.intersection(new[unsure], old[unsure]))
    iou[unsure] = common / (both[unsure] - common)
    bad[rows] = (iou < min_iou) | (shapely.hausdorff_distance(new, old) > REACH * slack[rows])
    return bad


def _collide(made: Shapes, group: Int64, bad: Bool) -> Bool:
    """(P,) Which polygons of groups overlap others, or no longer have the vertices of these.

    Only groups without bad ones are looked at: those are made anew anyway.
    """
    out = np.zeros(len(made), np.bool_)
    sizes = np.bincount(group)
    look = (sizes > 1) & (np.bincount(group, bad) == 0)
    first = np.cumsum(sizes) - sizes
    for size in np.unique(sizes[look]):
        some = first[look & (sizes == size)]
        rows = some[:, None] + np.arange(size)
        wrong = ~shapely.lib.coverage_is_valid(made[rows], 0.0)
        for where in rows[wrong]:
            edges = shapely.lib.coverage_invalid_edges(made[where], 0.0)
            touched = ~shapely.is_empty(edges)
            out[where] = touched if touched.any() else True
    return out
