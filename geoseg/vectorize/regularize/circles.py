"""Outlines that are round: which they are, and as circles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoseg.jit import jit

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

# Share of the radius: a square has 0.15, a hexagon 0.06, an octagon 0.035 (it is taken as round);
# pixels bring 0.02 where the radius is ten of them.
WAVES = 0.05
LEAST = 16  # corners of the roundest outline that is told from a polygon
FINE = 8  # a circle keeps within the tolerance divided by this
MOST = 72  # corners of a circle


@jit
def _middle(points: Float64, chain: Int64) -> tuple[float, float, float]:
    """Centroid and signed area of a ring."""
    x0, y0 = points[chain[0]]
    area = sx = sy = 0.0
    for k in range(len(chain)):
        x, y = points[chain[k], 0] - x0, points[chain[k], 1] - y0
        after = chain[(k + 1) % len(chain)]
        u, v = points[after, 0] - x0, points[after, 1] - y0
        cross = x * v - u * y
        area += cross / 2
        sx += cross * (x + u) / 6
        sy += cross * (y + v) / 6
    if area == 0:
        return x0, y0, 0.0
    return x0 + sx / area, y0 + sy / area, area


@jit
def _waves(points: Float64, chain: Int64, x0: float, y0: float, radius: float) -> float:
    """How much the distance from the middle waves two to eight times on the way around, over the
    radius: what an ellipse, a square or an octagon does, and the steps of pixels hardly do."""
    waves = np.zeros((7, 2))
    for k in range(len(chain)):
        p, q = points[chain[k]], points[chain[(k + 1) % len(chain)]]
        pieces = int(np.hypot(q[0] - p[0], q[1] - p[1]) / (0.1 * radius)) + 1
        dx, dy = (q[0] - p[0]) / pieces, (q[1] - p[1]) / pieces
        for j in range(pieces):
            x, y = p[0] + (j + 0.5) * dx - x0, p[1] + (j + 0.5) * dy - y0
            distance, angle = np.hypot(x, y), np.arctan2(y, x)
            sweep = (x * dy - y * dx) / distance**2
            for n in range(7):
                waves[n, 0] += distance * sweep * np.cos((n + 2) * angle)
                waves[n, 1] += distance * sweep * np.sin((n + 2) * angle)
    return float(np.sqrt((waves**2).sum()) / (np.pi * radius))


@jit
def round_off(
    points: Float64,
    walk: Int64,
    rings: Int64,
    nodes: Bool,
    tolerance: Float64,
    may: Bool,
    keep: Bool,
    pinned: Bool,
) -> None:
    """Make circles of the rings that are round: of their vertices as many as a circle needs are
    kept, moved onto it and pinned, so that a neighbour in there follows.

    Only rings without nodes all of whose vertices `may` (n,), of a radius larger than twice the
    tolerance. The circle has the ring's centroid and area.
    """
    for r in range(len(rings) - 1):
        chain = walk[rings[r] : rings[r + 1]]
        m = len(chain)
        if m < LEAST or pinned[chain].any() or nodes[chain].any() or not may[chain].all():
            continue
        x0, y0, area = _middle(points, chain)
        radius = np.sqrt(abs(area) / np.pi)
        fine = tolerance[chain[0]]
        if radius < 2 * fine or _waves(points, chain, x0, y0, radius) > WAVES:
            continue
        sides = int(np.ceil(np.pi / np.arccos(1 - min(fine / FINE / radius, 0.5)) / 4)) * 4
        sides = min(max(sides, LEAST), MOST, m)
        radius = np.sqrt(abs(area) / (sides * np.sin(2 * np.pi / sides) / 2))
        start, worst = 0, -1.0
        for k in range(m):
            distance = np.hypot(points[chain[k], 0] - x0, points[chain[k], 1] - y0)
            if distance > worst:
                start, worst = k, distance
        phase = np.arctan2(points[chain[start], 1] - y0, points[chain[start], 0] - x0)
        for k in range(m):
            keep[chain[k]] = False
        for k in range(sides):
            v = chain[(start + k * m // sides) % m]
            angle = phase + np.sign(area) * 2 * np.pi * k / sides
            points[v, 0] = x0 + radius * np.cos(angle)
            points[v, 1] = y0 + radius * np.sin(angle)
            keep[v] = pinned[v] = True
