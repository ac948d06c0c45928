"""Edges of outlines onto lines in few directions.

Each polygon has one main direction and those at right angles to it, and a second such pair if
enough of its outline lies that way; neighbours that lie almost alike share theirs. Every edge
asks for the nearest of them. The longest are heard first: an edge becomes a *line*, or joins the
line of the same direction that runs through one of its ends, if no vertex on it would then be
farther off than the tolerance. A vertex lies where its two lines meet, so at most two run through
it, and never two that are almost parallel; an edge that is refused stays as it leads from one of
its ends to the other. Lines lie where they leave as much of the outlines they stand for on the
one side as on the other (as building outlines are fitted by Gribov 2018 and others), so that areas
are kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoseg.jit import jit
from geoseg.vectorize.regularize.graph import Edges

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

RIGHT = np.pi / 2
BINS = 90  # of the histogram of directions, one degree each
NEAR = np.radians(10)  # edges that are taken for one direction
OTHER = np.radians(15)  # edges that may be of a second one
SECOND = 0.25  # least share of the outline for that
ALIKE = np.radians(6)  # neighbours whose directions differ by less share one
DIAGONAL = np.radians(10)  # so near to 45 degrees a second direction is that
SHARP = np.radians(25)  # lines must not meet at less
LONG = np.radians(25)  # edges longer than twice the tolerance turn by less


class Lines(NamedTuple):
    """Sets of edges on one line, by union-find; the root of a set knows all of it."""

    parent: Int64  # (E,)
    target: Float64  # (E,) direction, radians in 0..pi; NaN for edges that stay free
    area: Float64  # (E,) between the outlines and the parallel through the origin
    length: Float64  # (E,) along the line
    bounds: Float64  # (E, 3) least and largest offset of a vertex, and what they may be off
    of: Int64  # (n, 2) an edge of each line through a vertex, -1 for none


@jit
def _turn(a: float, b: float, period: float) -> float:
    """From direction b to a, the short way."""
    return float((a - b + period / 2) % period - period / 2)


@jit
def _peak(angle: Float64, weight: Float64) -> float:
    """The direction modulo 90 degrees near which the most weight lies."""
    bins = np.zeros(BINS)
    width = RIGHT / BINS
    for k in range(len(angle)):
        at = (angle[k] % RIGHT) / width
        for step in range(-4, 6):
            b = int(at) + step
            bins[b % BINS] += weight[k] * max(0.0, 1 - abs(b + 0.5 - at) / 5)
    best = (bins.argmax() + 0.5) * width
    for _ in range(3):
        total = shift = 0.0
        for k in range(len(angle)):
            turn = _turn(angle[k], best, RIGHT)
            if abs(turn) < NEAR:
                total += weight[k] ** 2
                shift += weight[k] ** 2 * turn
        if total > 0:
            best += shift / total
    return float(best % RIGHT)


@jit
def by_part(sides: Int64, parts: int) -> tuple[Int64, Int64]:
    """(parts + 1,) offsets into the (K,) edges of each part."""
    offsets = np.zeros(parts + 1, np.int64)
    for e in range(len(sides)):
        for p in sides[e]:
            if p >= 0:
                offsets[p + 1] += 1
    for p in range(parts):
        offsets[p + 1] += offsets[p]
    out = np.empty(offsets[-1], np.int64)
    at = offsets.copy()
    for e in range(len(sides)):
        for p in sides[e]:
            if p >= 0:
                out[at[p]] = e
                at[p] += 1
    return offsets, out


@jit
def directions(edges: Edges, offsets: Int64, own: Int64) -> tuple[Float64, Float64]:
    """(P, 2) first and second direction of each part, modulo 90 degrees, NaN where there is no
    second; and (P,) the length of its outline. Arguments as from `by_part`."""
    parts = len(offsets) - 1
    out = np.full((parts, 2), np.nan)
    size = np.zeros(parts)
    for p in range(parts):
        mine = own[offsets[p] : offsets[p + 1]]
        if len(mine) == 0:
            continue
        angle, length = edges.angle[mine], edges.length[mine]
        size[p] = length.sum()
        out[p, 0] = _peak(angle, length)
        for k in range(len(mine)):
            if abs(_turn(angle[k], out[p, 0], RIGHT)) < OTHER:
                length[k] = 0
        if length.sum() >= SECOND * size[p]:
            out[p, 1] = _peak(angle, length)
            if abs(_turn(out[p, 1], out[p, 0] + RIGHT / 2, RIGHT)) < DIAGONAL:
                out[p, 1] = (out[p, 0] + RIGHT / 2) % RIGHT
    return out, size


@jit
def share_directions(
    edges: Edges, offsets: Int64, own: Int64, size: Float64, order: Int64, direction: Float64
) -> None:
    """Give parts that touch and lie almost alike one first direction: the largest (`order`) takes
    in its neighbours, and theirs, while they are like itself."""
    taken = np.zeros(len(size), np.bool_)
    for seed in order:
        if taken[seed]:
            continue
        taken[seed] = True
        group = [seed]
        total, shift, k = size[seed], 0.0, 0
        while k < len(group):
            p = group[k]
            k += 1
            for e in own[offsets[p] : offsets[p + 1]]:
                q = edges.sides[e, 0] + edges.sides[e, 1] - p
                if edges.sides[e, 1] < 0 or taken[q]:
                    continue
                turn = _turn(direction[q, 0], direction[seed, 0], RIGHT)
                if abs(turn) < ALIKE:
                    taken[q] = True
                    group.append(q)
                    total += size[q]
                    shift += size[q] * turn
        if len(group) == 1:
            continue
        common = (direction[seed, 0] + shift / total) % RIGHT
        for p in group:
            half = abs(_turn(direction[p, 1], direction[p, 0] + RIGHT / 2, RIGHT)) < 1e-9
            direction[p, 0] = common
            if half:
                direction[p, 1] = (common + RIGHT / 2) % RIGHT


@jit
def aim(edges: Edges, direction: Float64, slack: Float64, pinned: Bool) -> Float64:
    """(E,) the direction each edge asks for; NaN for those that turn too far, or may not move.

    `slack` (E,) is how far the ends of an edge may turn away; `pinned` (n,) vertices stay.
    """
    out = np.full(len(edges.length), np.nan)
    for e in range(len(out)):
        if slack[e] <= 0 or pinned[edges.ends[e, 0]] or pinned[edges.ends[e, 1]]:
            continue
        length, least = edges.length[e], np.inf
        for side in range(2):
            p = edges.sides[e, side]
            if p < 0:
                continue
            for k in range(4):
                if np.isnan(direction[p, k // 2]):
                    continue
                asked = (direction[p, k // 2] + (k % 2) * RIGHT) % np.pi
                turn = abs(_turn(edges.angle[e], asked, np.pi))
                if turn < least:
                    least = turn
                    near = length * np.sin(turn) / 2 <= slack[e]
                    steep = length > 2 * slack[e] and turn > LONG
                    out[e] = asked if near and not steep else np.nan
    return out


@jit
def root(parent: Int64, e: int) -> int:
    """Of the set of edge e."""
    while parent[e] != e:
        parent[e] = parent[parent[e]]
        e = parent[e]
    return int(e)


@jit
def _across(target: float, x: float, y: float) -> float:
    """Offset of a point from the line through the origin, to its left."""
    return float(y * np.cos(target) - x * np.sin(target))


@jit
def _stand(points: Float64, edges: Edges, slack: Float64, lines: Lines) -> None:
    """Make each edge that has a target a line of its own."""
    for e in range(len(slack)):
        lines.parent[e] = e
        target = lines.target[e]
        if np.isnan(target):
            continue
        c, s = np.cos(target), np.sin(target)
        u, v = points[edges.ends[e, 0]], points[edges.ends[e, 1]]
        length = (v[0] - u[0]) * c + (v[1] - u[1]) * s
        m = edges.moments[e]
        area = c * (m[1, 0] * c + m[1, 1] * s) - s * (m[0, 0] * c + m[0, 1] * s)
        lines.area[e] = area if length > 0 else -area
        lines.length[e] = abs(length)
        one, two = _across(target, u[0], u[1]), _across(target, v[0], v[1])
        lines.bounds[e, 0], lines.bounds[e, 1] = min(one, two), max(one, two)
        lines.bounds[e, 2] = slack[e]


@jit
def fit(lines: Lines, roots: Int64) -> bool:
    """Whether parallel lines may be one: no vertex would be too far off."""
    low, high, slack, area, length = np.inf, -np.inf, np.inf, 0.0, 0.0
    for k in range(len(roots)):
        a = roots[k]
        if a < 0 or a in roots[:k]:
            continue
        low, high = min(low, lines.bounds[a, 0]), max(high, lines.bounds[a, 1])
        slack = min(slack, lines.bounds[a, 2])
        area += lines.area[a]
        length += lines.length[a]
    return bool(
        length > 0
        and high * length - area <= slack * length
        and area - low * length <= slack * length
    )


@jit
def unite(lines: Lines, a: int, b: int) -> None:
    """Make one line of two parallel ones."""
    a, b = root(lines.parent, a), root(lines.parent, b)
    if a == b:
        return
    if lines.length[b] > lines.length[a]:
        a, b = b, a
    lines.parent[b] = a
    lines.area[a] += lines.area[b]
    lines.length[a] += lines.length[b]
    lines.bounds[a, 0] = min(lines.bounds[a, 0], lines.bounds[b, 0])
    lines.bounds[a, 1] = max(lines.bounds[a, 1], lines.bounds[b, 1])
    lines.bounds[a, 2] = min(lines.bounds[a, 2], lines.bounds[b, 2])


@jit
def _room(lines: Lines, v: int, target: float) -> int:
    """A line in this direction through v: an edge of it, -1 if there is none yet, -2 if there can
    be none."""
    count = 0
    for e in lines.of[v]:
        if e < 0:
            continue
        count += 1
        turn = abs(_turn(lines.target[e], target, np.pi))
        if turn < 1e-9:
            return int(e)
        if turn < SHARP:
            return -2
    return -1 if count < 2 else -2


@jit
def settle(points: Float64, edges: Edges, slack: Float64, order: Int64, lines: Lines) -> None:
    """Hear the edges in their order; those that are refused lose their target."""
    _stand(points, edges, slack, lines)
    for e in order:
        target = lines.target[e]
        if np.isnan(target):
            continue
        u, v = edges.ends[e]
        roots = np.array([_room(lines, u, target), _room(lines, v, target), e])
        for k in range(2):
            if roots[k] >= 0:
                roots[k] = root(lines.parent, roots[k])
        if roots.min() == -2 or not fit(lines, roots):
            lines.target[e] = np.nan
            continue
        for k in range(2):
            if roots[k] >= 0:
                unite(lines, e, roots[k])
            elif lines.of[edges.ends[e, k], 0] < 0:
                lines.of[edges.ends[e, k], 0] = e
            else:
                lines.of[edges.ends[e, k], 1] = e


@jit
def place(points: Float64, lines: Lines, v: int) -> tuple[float, float]:
    """Where v lies: where its lines meet, on its line, or as it was."""
    x, y = points[v]
    a = b = -1
    if lines.of[v, 0] >= 0:
        a = root(lines.parent, lines.of[v, 0])
    if lines.of[v, 1] >= 0:
        b = root(lines.parent, lines.of[v, 1])
    if a < 0:
        return x, y
    if b > a:  # the same, to the last bit, whichever came first
        a, b = b, a
    ca, sa, oa = np.cos(lines.target[a]), np.sin(lines.target[a]), lines.area[a] / lines.length[a]
    if b < 0:
        off = oa - _across(lines.target[a], x, y)
        return x - off * sa, y + off * ca
    cb, sb, ob = np.cos(lines.target[b]), np.sin(lines.target[b]), lines.area[b] / lines.length[b]
    cross = ca * sb - sa * cb
    return (oa * cb - ob * ca) / cross, (oa * sb - ob * sa) / cross


@jit
def _neighbour(edges: Edges, v: int, e: int) -> int:
    """The other edge at v; -1 if there are more than two."""
    end = edges.first[v]
    found, count = -1, 0
    while end >= 0:
        count += 1
        if end // 2 != e:
            found = end // 2
        end = edges.other[end]
    return int(found) if count == 2 else -1


@jit
def tidy(
    points: Float64, edges: Edges, slack: Float64, order: Int64, pinned: Bool, lines: Lines
) -> None:
    """Do away with short edges: the lines on both sides become one, if it is shorter than the
    slack, or meet, if that is nearer to it (as at a corner that thinning has cut)."""
    for e in order:
        u, v = edges.ends[e]
        if slack[e] <= 0 or pinned[u] or pinned[v]:
            continue
        a, b = _neighbour(edges, u, e), _neighbour(edges, v, e)
        if a < 0 or b < 0 or np.isnan(lines.target[a]) or np.isnan(lines.target[b]):
            continue
        ux, uy = place(points, lines, u)
        vx, vy = place(points, lines, v)
        length = np.hypot(vx - ux, vy - uy)
        turn = abs(_turn(lines.target[a], lines.target[b], np.pi))
        if length >= slack[e] * (1 if turn < SHARP else 3):
            continue
        if turn < 1e-9:
            if fit(lines, np.array([root(lines.parent, a), root(lines.parent, b)])):
                unite(lines, a, b)
        elif turn > SHARP:
            old_u, old_v = lines.of[u].copy(), lines.of[v].copy()
            lines.of[u, 0], lines.of[u, 1] = a, b
            lines.of[v, 0], lines.of[v, 1] = a, b
            x, y = place(points, lines, u)
            off = abs((vx - ux) * (y - uy) - (vy - uy) * (x - ux))
            far = max(np.hypot(x - ux, y - uy), np.hypot(x - vx, y - vy)) > 3 * slack[e]
            if far or off > 1.25 * slack[e] * length:
                lines.of[u], lines.of[v] = old_u, old_v


@jit
def by_line(lines: Lines, vertices: Int64) -> tuple[Int64, Int64]:
    """(E + 1,) offsets into the (K,) vertices, out of some, on the line of each root."""
    starts = np.zeros(len(lines.parent) + 1, np.int64)
    for v in vertices:
        for e in lines.of[v]:
            if e >= 0:
                starts[root(lines.parent, e) + 1] += 1
    for e in range(len(lines.parent)):
        starts[e + 1] += starts[e]
    out = np.empty(starts[-1], np.int64)
    at = starts.copy()
    for v in vertices:
        for e in lines.of[v]:
            if e >= 0:
                a = root(lines.parent, e)
                out[at[a]] = v
                at[a] += 1
    return starts, out


@jit
def meet(points: Float64, slack: Float64, starts: Int64, corners: Int64, lines: Lines) -> None:
    """Make one of parallel lines that meet another line within half the slack of each other, as
    the fronts of houses with a common wall do. Arguments as from `by_line`."""
    for a in range(len(starts) - 1):
        mine = corners[starts[a] : starts[a + 1]]
        if len(mine) < 3:
            continue
        along = np.empty(len(mine))
        for k in range(len(mine)):
            x, y = place(points, lines, mine[k])
            along[k] = x * np.cos(lines.target[a]) + y * np.sin(lines.target[a])
        order = np.argsort(along)
        for k in range(1, len(mine)):
            if along[order[k]] - along[order[k - 1]] > slack[a] / 2:
                continue
            pair = np.empty(2, np.int64)
            for i in range(2):
                e, f = lines.of[mine[order[k - i]]]
                e, f = root(lines.parent, e), root(lines.parent, f)
                pair[i] = f if e == root(lines.parent, a) else e
            turn = abs(_turn(lines.target[pair[0]], lines.target[pair[1]], np.pi))
            if pair[0] != pair[1] and turn < 1e-9 and fit(lines, pair):
                unite(lines, pair[0], pair[1])
