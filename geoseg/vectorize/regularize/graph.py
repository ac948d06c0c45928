"""Outlines of polygons as one graph, in which neighbours have vertices and edges in common.

A vertex that rings share is one vertex, so whoever moves it moves it for all of them: what touches
goes on touching. Where more than two edges meet there is a *node*. Between nodes outlines are
thinned (Douglas and Peucker 1973), each stretch once for both its sides. What is left are the
*edges*; each remembers the outline it stands for, so that it can be placed where it has as much
of that on the one side as on the other.

Nothing here reaches from one connected component to another: results do not depend on what else
is in a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoseg.jit import jit

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


class Edges(NamedTuple):
    """E edges between vertices that were kept, and the rings made of them."""

    ends: Int64  # (E, 2) vertices
    sides: Int64  # (E, 2) parts to the left and right of them, -1 for none
    moments: Float64  # (E, 2, 2) integral of p dp' along the outline it stands for
    angle: Float64  # (E,) of the line that fits this outline best, radians
    length: Float64  # (E,) from end to end
    reach: Float64  # (E,) the same, of the straight stretch of a ring that it is a piece of
    first: Int64  # (n,) an edge's end (2 * edge + side) at each vertex, -1 for none
    other: Int64  # (2 * E,) the next edge's end at the same vertex, -1 for none
    steps: Int64  # (K, 2) vertices around the rings, and the edge from each to the next
    rings: Int64  # (R + 1,) offsets into the steps


@jit
def mark_nodes(walk: Int64, rings: Int64, nodes: Bool) -> None:
    """Set `nodes` (n,) where other than two edges meet; `walk` are the vertices around rings."""
    around = np.full((len(nodes), 2), -1, np.int64)
    for r in range(len(rings) - 1):
        start, stop = rings[r], rings[r + 1]
        for k in range(start, stop):
            v = walk[k]
            before = walk[k - 1] if k > start else walk[stop - 1]
            after = walk[k + 1] if k + 1 < stop else walk[start]
            for u in (before, after):
                if around[v, 0] == u or around[v, 1] == u:
                    continue
                if around[v, 0] < 0:
                    around[v, 0] = u
                elif around[v, 1] < 0:
                    around[v, 1] = u
                else:
                    nodes[v] = True
    for v in range(len(nodes)):
        if around[v, 1] < 0:
            nodes[v] = True


@jit
def _distance(points: Float64, v: int, a: int, b: int) -> float:
    """From v to the stretch between a and b."""
    dx, dy = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1]
    x, y = points[v, 0] - points[a, 0], points[v, 1] - points[a, 1]
    length = dx * dx + dy * dy
    t = 0.0 if length == 0 else min(max((x * dx + y * dy) / length, 0.0), 1.0)
    return float(np.hypot(x - t * dx, y - t * dy))


@jit
def _thin(points: Float64, chain: Int64, low: int, high: int, tolerance: float, keep: Bool) -> None:
    """Keep what Douglas and Peucker keep between two kept vertices of a chain."""
    stack = [(low, high)]
    while len(stack) > 0:
        a, b = stack.pop()
        worst, at = tolerance, -1
        for k in range(a + 1, b):
            distance = _distance(points, chain[k], chain[a], chain[b])
            if distance > worst:
                worst, at = distance, k
        if at >= 0:
            keep[chain[at]] = True
            stack.append((a, at))
            stack.append((at, b))


@jit
def _thin_ring(points: Float64, chain: Int64, tolerance: float, keep: Bool) -> None:
    """The same for a ring without nodes; chain (m + 1,) ends where it starts.

    It begins at the vertex farthest from the middle, a corner whichever way the ring lies, and
    the one farthest from that; both go again if they were no corners.
    """
    m = len(chain) - 1
    x, y = points[chain[:m], 0].mean(), points[chain[:m], 1].mean()
    start = 0
    for turn in range(2):
        worst, at = -1.0, 0
        for k in range(m):
            distance = np.hypot(points[chain[k], 0] - x, points[chain[k], 1] - y)
            if distance > worst:
                worst, at = distance, k
        x, y = points[chain[at]]
        if turn == 0:
            start = at
    turned = np.empty(m + 1, np.int64)
    for k in range(m + 1):
        turned[k] = chain[(start + k) % m]
    far = (at - start) % m
    keep[turned[0]] = True
    keep[turned[far]] = True
    _thin(points, turned, 0, far, tolerance, keep)
    _thin(points, turned, far, m, tolerance, keep)
    for anchor in (0, far):
        after = anchor + 1
        while not keep[turned[after % m]]:
            after += 1
        before = anchor - 1
        while not keep[turned[before % m]]:
            before -= 1
        if (after - before) >= m:
            continue
        corner = False
        for k in range(before + 1, after):
            a, b = turned[before % m], turned[after % m]
            corner |= _distance(points, turned[k % m], a, b) > tolerance
        keep[turned[anchor]] = corner


@jit
def thin(
    points: Float64, walk: Int64, rings: Int64, nodes: Bool, tolerance: Float64, keep: Bool
) -> None:
    """Set `keep` (n,) for nodes and what lies farther from the thinned outline than `tolerance`
    (n,); 0 keeps all. Rings of which fewer than three vertices would be left keep all of them."""
    seen = np.zeros(len(points), np.bool_)
    for r in range(len(rings) - 1):
        start, stop = rings[r], rings[r + 1]
        m = stop - start
        first = 0
        while first < m and not nodes[walk[start + first]]:
            first += 1
        chain = np.empty(m + 1, np.int64)
        for k in range(m + 1):
            chain[k] = walk[start + (first + k) % m]
        if first == m:
            if not seen[chain[0]] and tolerance[chain[0]] > 0:
                _thin_ring(points, chain, tolerance[chain[0]], keep)
            for k in range(m):
                seen[chain[k]] = True
                keep[chain[k]] |= tolerance[chain[k]] <= 0
            continue
        low = 0
        while low < m:
            high = low + 1
            while not nodes[chain[high]]:
                high += 1
            keep[chain[low]] = True
            if high > low + 1 and not seen[chain[low + 1]]:
                if tolerance[chain[low + 1]] > 0:
                    _thin(points, chain, low, high, tolerance[chain[low + 1]], keep)
                for k in range(low + 1, high):
                    seen[chain[k]] = True
                    keep[chain[k]] |= tolerance[chain[k]] <= 0
            low = high
    for r in range(len(rings) - 1):
        count = 0
        for k in range(rings[r], rings[r + 1]):
            count += int(keep[walk[k]])
        if count < 3:
            for k in range(rings[r], rings[r + 1]):
                keep[walk[k]] = True


@jit
def overall(
    points: Float64, walk: Int64, rings: Int64, nodes: Bool, tolerance: Float64
) -> tuple[Float64, Float64]:
    """(K,) direction and (K,) length of the straight stretch that each step of a ring is part of,
    were the ring thinned by itself; NaN for rings without nodes.

    Where neighbours touch here and there, nodes lie so close that the edges between them do not
    know where the wall leads.
    """
    angle, length = np.full(len(walk), np.nan), np.zeros(len(walk))
    keep = np.zeros(len(points), np.bool_)
    for r in range(len(rings) - 1):
        start, m = rings[r], rings[r + 1] - rings[r]
        chain = np.empty(m + 1, np.int64)
        some, slack = False, np.inf
        for k in range(m + 1):
            chain[k] = walk[start + k % m]
            some |= nodes[chain[k]]
            slack = min(slack, tolerance[chain[k]])
            keep[chain[k]] = False
        if not some or slack <= 0:
            continue
        _thin_ring(points, chain, slack, keep)
        low = 0
        while low < m and not keep[chain[low]]:
            low += 1
        end = low + m
        while low < end:
            high = low + 1
            while not keep[chain[high % m]]:
                high += 1
            fit, long, _ = _fit(points, walk, start, m, low, high)
            for k in range(low, high):
                angle[start + k % m], length[start + k % m] = fit, long
            low = high
    return angle, length


@jit
def _find_edge(u: int, v: int, edges: Edges) -> int:
    """The edge between two vertices; -1 if there is none."""
    end = edges.first[u]
    while end >= 0:
        if edges.ends[end // 2, 1 - end % 2] == v:
            return int(end // 2)
        end = edges.other[end]
    return -1


@jit
def _fit(
    points: Float64, walk: Int64, start: int, m: int, low: int, high: int
) -> tuple[float, float, Float64]:
    """Of the outline from step low to high of a ring: the direction of the line that fits it best,
    how far it is from end to end, and the integral of p dp' (2, 2)."""
    u, v = walk[start + low % m], walk[start + high % m]
    x0, y0 = points[u]
    moments = np.zeros((2, 2))
    total = sx = sy = sxx = sxy = syy = 0.0
    for k in range(low, high):
        p, q = points[walk[start + k % m]], points[walk[start + (k + 1) % m]]
        dx, dy = q[0] - p[0], q[1] - p[1]
        mx, my = (p[0] + q[0]) / 2, (p[1] + q[1]) / 2
        moments[0, 0] += mx * dx
        moments[0, 1] += mx * dy
        moments[1, 0] += my * dx
        moments[1, 1] += my * dy
        length = np.hypot(dx, dy)
        mx, my = mx - x0, my - y0
        total += length
        sx += length * mx
        sy += length * my
        sxx += length * (mx * mx + dx * dx / 12)
        sxy += length * (mx * my + dx * dy / 12)
        syy += length * (my * my + dy * dy / 12)
    dx, dy = points[v, 0] - x0, points[v, 1] - y0
    angle = np.arctan2(dy, dx)
    if high > low + 3 and total > 0:
        cxx, cyy = sxx - sx * sx / total, syy - sy * sy / total
        fit = np.arctan2(2 * (sxy - sx * sy / total), cxx - cyy) / 2
        turn = (fit - angle + np.pi / 2) % np.pi - np.pi / 2
        if abs(turn) < 0.3:  # it is a long one, not a staircase of a few pixels
            angle += turn
    return angle, float(np.hypot(dx, dy)), moments


@jit
def next_kept(walk: Int64, keep: Bool, start: int, m: int, after: int) -> int:
    """The next place along a ring of `m` points, from `start` on in `walk`, that is kept; counted
    on beyond `m`, where the ring begins anew."""
    place = after + 1
    while not keep[walk[start + place % m]]:
        place += 1
    return place


@jit
def link(
    points: Float64,
    walk: Int64,
    rings: Int64,
    part: Int64,
    keep: Bool,
    angle: Float64,
    length: Float64,
    edges: Edges,
) -> int:
    """Fill in the edges of rings that lie around `part` (R,); returns how many there are."""
    count = step = 0
    for r in range(len(rings) - 1):
        start, stop = rings[r], rings[r + 1]
        m = stop - start
        low = next_kept(walk, keep, start, m, -1)
        end = low + m
        while low < end:
            high = next_kept(walk, keep, start, m, low)
            u, v = walk[start + low % m], walk[start + high % m]
            e = _find_edge(u, v, edges)
            if e < 0:
                e = count
                count += 1
                edges.ends[e, 0], edges.ends[e, 1] = u, v
                edges.other[2 * e], edges.other[2 * e + 1] = edges.first[u], edges.first[v]
                edges.first[u], edges.first[v] = 2 * e, 2 * e + 1
                edges.sides[e, 0] = part[r]
                fit, long, moments = _fit(points, walk, start, m, low, high)
                edges.angle[e], edges.length[e], edges.moments[e] = fit, long, moments
                edges.reach[e] = long
            else:
                edges.sides[e, 1] = part[r]
            middle = start + ((low + high) // 2) % m
            if length[middle] > edges.reach[e]:
                edges.angle[e], edges.reach[e] = angle[middle], length[middle]
            edges.steps[step, 0], edges.steps[step, 1] = u, e
            step += 1
            low = high
        edges.rings[r + 1] = step
    return count


def edges_of(
    points: Float64,
    walk: Int64,
    rings: Int64,
    nodes: Bool,
    tolerance: Float64,
    part: Int64,
    keep: Bool,
) -> Edges:
    """The graph of the vertices that were kept; arguments as of `thin`, `part` (R,) of rings."""
    angle, length = overall(points, walk, rings, nodes, tolerance)
    steps = int(keep[walk].sum())
    n = len(points)
    edges = Edges(
        ends=np.empty((steps, 2), np.int64),
        sides=np.full((steps, 2), -1, np.int64),
        moments=np.zeros((steps, 2, 2)),
        angle=np.empty(steps),
        length=np.empty(steps),
        reach=np.empty(steps),
        first=np.full(n, -1, np.int64),
        other=np.full(2 * steps, -1, np.int64),
        steps=np.empty((steps, 2), np.int64),
        rings=np.zeros(len(rings), np.int64),
    )
    count = link(points, walk, rings, part, keep, angle, length, edges)
    return edges._replace(
        ends=edges.ends[:count],
        sides=edges.sides[:count],
        moments=edges.moments[:count],
        angle=edges.angle[:count],
        length=edges.length[:count],
        reach=edges.reach[:count],
        other=edges.other[: 2 * count],
    )
