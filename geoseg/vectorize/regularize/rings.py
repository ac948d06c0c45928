"""Rings out of the graph of outlines, once its edges lie on their lines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoseg.jit import jit
from geoseg.vectorize.regularize import lines as straight
from geoseg.vectorize.regularize.graph import Edges, next_kept
from geoseg.vectorize.regularize.lines import Lines

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

TOGETHER = 1e-7  # metres: vertices that near are one


def rings_of(placed: Float64, edges: Edges, lines: Lines) -> tuple[Float64, Int64, Bool]:
    """(V, 2) coordinates of the closed rings, (R + 1,) offsets into them, and whether each is
    still a ring: of one that is not there are three points in its place.

    Vertices that fell together are one, and go where a line runs straight on through them. Where
    outlines lie on one line, each gets the vertices that others have there. `placed` as from
    `placed_vertices`.
    """
    count = len(edges.rings) - 1
    steps = np.empty((len(edges.steps) + 3 * count, 2), np.int64)
    offsets, whole = np.zeros(count + 1, np.int64), np.zeros(count, np.bool_)
    _corners(placed, edges, lines, steps, offsets, whole)
    steps = steps[: offsets[-1]]
    starts, on_line = straight.by_line(lines, np.unique(steps[:, 0]))
    ends = np.zeros(count + 1, np.int64)
    xy = np.empty((0, 2))
    for _ in range(2):  # how many there are, then which
        _write(placed, steps, offsets, lines, starts, on_line, ends, xy)
        xy = np.empty((ends[-1], 2)) if not len(xy) else xy
    return xy, ends, whole


@jit
def placed_vertices(points: Float64, edges: Edges, lines: Lines) -> Float64:
    """(n, 2) where the vertices lie; to the last bit the same where they fell together."""
    placed = np.empty_like(points)
    for v in range(len(points)):
        placed[v, 0], placed[v, 1] = straight.place(points, lines, v)
    first = np.arange(len(points))
    for e in range(len(edges.length)):
        u, v = edges.ends[e]
        if np.hypot(placed[u, 0] - placed[v, 0], placed[u, 1] - placed[v, 1]) < TOGETHER:
            u, v = straight.root(first, u), straight.root(first, v)
            first[max(u, v)] = min(u, v)
    for v in range(len(points)):
        placed[v] = placed[straight.root(first, v)]
    return placed


@jit
def _together(placed: Float64, edges: Edges, start: int, k: int, m: int) -> bool:
    """Whether the vertex of a step has fallen together with the one before."""
    u, v = edges.steps[start + (k - 1) % m, 0], edges.steps[start + k % m, 0]
    return bool(placed[u, 0] == placed[v, 0] and placed[u, 1] == placed[v, 1])


@jit
def _line(lines: Lines, e: int) -> int:
    """The line of an edge, -1 for a free one."""
    return -1 if np.isnan(lines.target[e]) else straight.root(lines.parent, e)


@jit
def _corners(
    placed: Float64, edges: Edges, lines: Lines, steps: Int64, offsets: Int64, whole: Bool
) -> None:
    """Fill in the corners of each ring, and the line from each to the next."""
    at = 0
    for r in range(len(offsets) - 1):
        start, m = edges.rings[r], edges.rings[r + 1] - edges.rings[r]
        first = 0
        while first < m and _together(placed, edges, start, first, m):
            first += 1
        k = first
        while k < first + m and first < m:
            last = k
            while last + 1 < first + m and _together(placed, edges, start, last + 1, m):
                last += 1
            before = _line(lines, edges.steps[start + (k - 1) % m, 1])
            after = _line(lines, edges.steps[start + last % m, 1])
            if before < 0 or before != after:
                steps[at, 0], steps[at, 1] = edges.steps[start + k % m, 0], after
                at += 1
            k = last + 1
        whole[r] = at - offsets[r] >= 3
        if not whole[r]:
            at = offsets[r]
            for k in range(3):
                steps[at, 0], steps[at, 1] = edges.steps[start + k, 0], -1
                at += 1
        offsets[r + 1] = at


@jit
def _write(
    placed: Float64,
    steps: Int64,
    offsets: Int64,
    lines: Lines,
    starts: Int64,
    on_line: Int64,
    ends: Int64,
    xy: Float64,
) -> None:
    """Fill in where the rings end, and if there is room, their points."""
    at = 0
    for r in range(len(offsets) - 1):
        begin = at
        for k in range(offsets[r], offsets[r + 1]):
            u, a = steps[k]
            v = steps[k + 1 if k + 1 < offsets[r + 1] else offsets[r], 0]
            if len(xy):
                xy[at] = placed[u]
            at += 1
            if a < 0 or starts[a + 1] - starts[a] <= 2:
                continue
            c, s = np.cos(lines.target[a]), np.sin(lines.target[a])
            here, there = c * placed[u, 0] + s * placed[u, 1], c * placed[v, 0] + s * placed[v, 1]
            sign = 1 if there > here else -1
            last, there = sign * here + TOGETHER, sign * there - TOGETHER
            while True:
                nearest, t = -1, there
                for w in on_line[starts[a] : starts[a + 1]]:
                    along = sign * (c * placed[w, 0] + s * placed[w, 1])
                    if last < along < t:
                        nearest, t = w, along
                if nearest < 0:
                    break
                if len(xy):
                    xy[at] = placed[nearest]
                at += 1
                last = t + TOGETHER
        if len(xy):
            xy[at] = xy[begin]
        at += 1
        ends[r + 1] = at


@jit
def swept(
    points: Float64, placed: Float64, walk: Int64, rings: Int64, keep: Bool, part: Int64, parts: int
) -> Float64:
    """(P,) What the outlines sweep on their way from `points` to the new edges, each point to the
    nearest of its edge's line: at least the area by which a part differs from what it was."""
    total = np.zeros(parts)
    for r in range(len(rings) - 1):
        start, m = rings[r], rings[r + 1] - rings[r]
        low = next_kept(walk, keep, start, m, -1)
        end = low + m
        while low < end:
            high = next_kept(walk, keep, start, m, low)
            u, v = placed[walk[start + low % m]], placed[walk[start + high % m]]
            length = np.hypot(v[0] - u[0], v[1] - u[1])
            c, s = 1.0, 0.0
            if length > TOGETHER:
                c, s = (v[0] - u[0]) / length, (v[1] - u[1]) / length
            for k in range(low, high):
                p, q = points[walk[start + k % m]], points[walk[start + (k + 1) % m]]
                if length <= TOGETHER:  # all of it goes to one point
                    cross = (p[0] - u[0]) * (q[1] - u[1]) - (p[1] - u[1]) * (q[0] - u[0])
                    total[part[r]] += abs(cross) / 2
                    continue
                one = (p[1] - u[1]) * c - (p[0] - u[0]) * s
                two = (q[1] - u[1]) * c - (q[0] - u[0]) * s
                along = abs((q[0] - p[0]) * c + (q[1] - p[1]) * s)
                height = abs(one + two)
                if one * two < 0:
                    height = (one * one + two * two) / (abs(one) + abs(two))
                total[part[r]] += height * along / 2
            for k, corner in ((low, u), (high, v)):
                p = points[walk[start + k % m]]
                x, y = p[0] - corner[0], p[1] - corner[1]
                if length > TOGETHER:
                    total[part[r]] += abs((y * c - x * s) * (x * c + y * s)) / 2
            low = high
    return total
