"""Where outlines cross between the pixels: contours of the probability at the decision level.

Marching squares on the grid of pixel centres (Lorensen and Cline 1987 in two dimensions). Two
neighbouring pixels of different labels have an edge in common, and there a decision went the
other way: for one class its probability passes the threshold, for several that of one label
passes that of the other. Taken as linear between the two centres, it changes sign at one point,
and the outline crosses there instead of at the edge. Crossings are joined around each corner of
the pixels, that is inside the square between four centres::

    ul  t  ur     Two crossings, of t, l, r, b: a straight line between them.
      l   r       Three or four labels: all are joined to one point, the joint, which is their
    dl  b  dr     mean, so that neighbours share their boundary.
                  Background at ul and dr, or at ur and dl: the two others are parted.

So polygons, parts and holes are those of the pixels (kernel.py), only their vertices move, by less
than half a pixel; outlines stay apart because those of different squares do. At the edge of the
raster, and of what is void (no data), outlines stay on the pixels, and a boundary that runs into
that edge goes on straight, as if the last pixel were repeated.

Crossings are kept as whole numbers of 1/256 pixel in a byte, so mathematics on them is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.jit import jit

STEPS = 256  # a pixel has so many
HALF = STEPS // 2
FARTHEST = HALF - 1  # from the edge: crossings never reach the centres of pixels
STAY = -HALF  # instead of a crossing: one side is void, or beyond the raster
DROPPED = 2 * STEPS  # instead of a place: a corner of pixels that is no vertex

Int8 = NDArray[np.int8]
Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """Crossings at all edges of (h, W) pixels but the lower ones, as 1/STEPS pixel.

    across: (h, W + 1) to the right of the edge between column c - 1 and c; 0 where both have one
            label, STAY where one of them, not both, is void or beyond the raster.
    down:   (h, W) below the edge between row r - 1 and r, likewise.
    void:   (h, W) pixels that nothing is known of; their label must be 0.
    """

    across: Int8
    down: Int8
    void: Bool

    def rows(self, start: int, stop: int) -> Edges:
        """Those of some rows."""
        return Edges(self.across[start:stop], self.down[start:stop], self.void[start:stop])


class Crossings:
    """Finds the Edges of a raster that comes in bands of rows.

    `ids` are the labels in the order of the scores. With one, `threshold` is where it ends, and so
    does any label against 0; with several, a label ends where another has the higher score. An edge
    between two labels of which the scores know nothing, or say something else, as where the mask
    was edited, stays where it is.
    """

    def __init__(self, width: int, ids: Sequence[int], *, threshold: float = 0.5) -> None:
        self._ids = np.asarray(ids, np.int32)
        self._threshold = np.float32(threshold)
        # The last row, before the first one that all is void of
        self._labels = np.zeros((1, width), np.int32)
        self._scores = np.zeros((len(self._ids), 1, width), np.float32)
        self._void = np.ones((1, width), np.bool_)

    def add(self, labels: NDArray[Any], scores: Float32, valid: Bool | None = None) -> Edges:
        """Edges of the next rows: (h, W) labels, (K, h, W) scores, (h, W) validity."""
        height, width = labels.shape
        if scores.shape != (len(self._ids), height, width):
            raise ValueError(
                f"scores of {scores.shape} are not those of {len(self._ids)} labels on "
                f"{height} x {width} pixels"
            )
        void = np.zeros(labels.shape, np.bool_) if valid is None else ~valid
        edges = Edges(
            np.empty((height, width + 1), np.int8), np.empty((height, width), np.int8), void
        )
        if height:
            labels = labels.astype(np.int32)
            scores = np.asarray(scores, np.float32)
            _cross_edges(
                labels,
                scores,
                void,
                self._labels,
                self._scores,
                self._void,
                self._ids,
                self._threshold,
                edges.across,
                edges.down,
            )
            self._labels, self._scores = labels[-1:].copy(), scores[:, -1:].copy()
            self._void = void[-1:].copy()
        return edges


@jit
def _cross_edges(
    labels: NDArray[np.int32],
    scores: Float32,
    void: Bool,
    label_before: NDArray[np.int32],
    score_before: Float32,
    void_before: Bool,
    ids: NDArray[np.int32],
    threshold: np.float32,
    across: Int8,
    down: Int8,
) -> None:
    """Fill in `across` and `down`."""
    height, width = labels.shape
    for r in range(height):
        if r == 0:
            above, above_void = label_before[0], void_before[0]
        else:
            above, above_void = labels[r - 1], void[r - 1]
        line, line_void = labels[r], void[r]
        across[r, 0] = 0 if line_void[0] else STAY
        across[r, width] = 0 if line_void[width - 1] else STAY
        for c in range(width):
            down[r, c] = 0
            if above_void[c] != line_void[c]:
                down[r, c] = STAY
            elif above[c] != line[c]:
                p = score_before[:, 0, c] if r == 0 else scores[:, r - 1, c]
                down[r, c] = _cross(above[c], line[c], p, scores[:, r, c], ids, threshold)
            if c == 0:
                continue
            across[r, c] = 0
            if line_void[c - 1] != line_void[c]:
                across[r, c] = STAY
            elif line[c - 1] != line[c]:
                p = scores[:, r, c - 1]
                across[r, c] = _cross(line[c - 1], line[c], p, scores[:, r, c], ids, threshold)


@jit
def _cross(
    a: int,
    b: int,
    p: NDArray[np.float32],
    q: NDArray[np.float32],
    ids: NDArray[np.int32],
    threshold: np.float32,
) -> int:
    """The crossing between a pixel of label a with scores p (K,) and one of label b with q."""
    if len(ids) == 1:
        if a != 0 and b != 0:
            return 0
        here, there = np.float64(p[0]) - threshold, np.float64(q[0]) - threshold
        if a == 0:
            here, there = -here, -there
    else:
        ka = kb = -1
        for k in range(len(ids)):
            ka = k if ids[k] == a else ka
            kb = k if ids[k] == b else kb
        if ka < 0 or kb < 0:
            return 0
        here, there = np.float64(p[ka]) - p[kb], np.float64(q[ka]) - q[kb]
    if not (here >= 0 and there <= 0 and here > there):
        return 0
    return int(max(-FARTHEST, min(FARTHEST, np.rint((here / (here - there) - 0.5) * STEPS))))


@jit
def is_odd(t: int, left: int, r: int, b: int) -> bool:
    """Whether the edge of what is void turns or ends at a corner with these four crossings."""
    if t != STAY and left != STAY and r != STAY and b != STAY:
        return False
    sideways = left == STAY and r == STAY and t != STAY and b != STAY
    upright = t == STAY and b == STAY and left != STAY and r != STAY
    return not (sideways or upright)


@jit
def place_joint(
    ul: int, ur: int, dl: int, dr: int, t: int, left: int, r: int, b: int
) -> tuple[int, int]:
    """Where outlines meet, from the corner of four pixels, or DROPPED if they do not."""
    if t == STAY or left == STAY or r == STAY or b == STAY:
        if is_odd(t, left, r, b):
            return 0, 0
        return (t + b, 0) if left == STAY else (0, left + r)
    x = y = count = 0
    if ul != ur:
        x, y, count = x + t, y - HALF, count + 1
    if dl != dr:
        x, y, count = x + b, y + HALF, count + 1
    if ul != dl:
        x, y, count = x - HALF, y + left, count + 1
    if ur != dr:
        x, y, count = x + HALF, y + r, count + 1
    if count <= 2 or (count == 4 and ((ul == 0 and dr == 0) or (ur == 0 and dl == 0))):
        return DROPPED, DROPPED
    return int(np.rint(x / count)), int(np.rint(y / count))


@jit
def drop_straight(coords: NDArray[Any], start: int, stop: int) -> int:
    """Take crossings out of a ring, coords[start:stop] not closed, where it goes straight on.

    Neighbours do the same, as both see the same three points. Returns the new stop.
    """
    n = start
    x0, y0 = coords[stop - 1]
    first_x, first_y = coords[start]
    for k in range(start, stop):
        x, y = coords[k]
        x1, y1 = (coords[k + 1, 0], coords[k + 1, 1]) if k + 1 < stop else (first_x, first_y)
        # Crossings are half way between two rows or columns, joints never are.
        crossing = x - np.floor(x) == 0.5 or y - np.floor(y) == 0.5
        if not crossing or (x - x0) * (y1 - y) != (y - y0) * (x1 - x):
            coords[n, 0], coords[n, 1] = x, y
            n += 1
        x0, y0 = x, y
    return n
