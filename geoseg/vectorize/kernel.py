"""The compiled part of vectorizing: rows of runs in, rings of corners out.

A row is a table of runs (stretches of one label). Two neighbouring rows are swept together from
left to right, and at every column where one of them changes its label the four pixels around
that point are looked at::

        ul | ur          A pixel that differs from both its neighbours across the point makes a
        ---+---          convex corner there, one that equals both but not the pixel diagonally
        dl | dr          opposite makes a reflex one; otherwise its outline goes straight on.

So only corners become nodes. Each node is linked at once to its neighbours along the outline:
horizontal edges end in the same sweep, vertical ones hang on their run (LEFT, RIGHT) until a
later row ends them. Outlines keep their label on the left hand as seen on the raster (exteriors
counter-clockwise, holes clockwise). What hangs together is known by union-find at three levels:

    PART    4-connected pixels of one label: one exterior ring and its holes
    SHAPE   what makes one polygon: a part, or for 8-connectivity parts of a label meeting at points
    BATCH   what must leave together: a shape, or a cluster of touching shapes

An element of these unions (a row of `parts`) is made for each run that has nothing of its label
above it. Elements and nodes that have left are used again, so that storage is bounded by what
is unfinished. Everything is exact integer mathematics but for the sums of confidence.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F")
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


def _jit(function: F) -> F:
    return cast(F, numba.njit(nogil=True, cache=True)(function))


# Columns of a run (START, LABEL known beforehand); the last run of a row is (width, 0).
START, LABEL, PART_OF, LEFT, RIGHT, RUN_COLUMNS = range(6)

# Columns of a node: pixel corner, successor on the ring. Some are marked: they are in the list
# (LINK) of an element, as a start for walking its rings, or as a pinch: there TWIN is the node at
# the same point for the same label in the diagonally opposite pixel, TWIN_PART its element.
X, Y, NEXT, LINK, TWIN, TWIN_PART, NODE_COLUMNS = range(7)

# Columns of an element: at each level its parent and its successor in the circular list of the
# set; first marked node; label; last row that has reached the set (true in the root of a BATCH);
# next finished batch.
PART, SHAPE, BATCH = range(3)
MEMBER = 3
MARKS, CLASS, LAST, DONE, PART_COLUMNS = range(6, 11)

# Counters: rows passed, ends of the free lists, elements ever in use, finished batches.
ROW, NODE_FREE, NODE_TOP, NODES, PART_FREE, PART_TOP, PARTS, DONE_HEAD, DONE_TAIL, BATCHES = range(10)
COUNTERS = 10


class Output(NamedTuple):
    """Where `emit` writes; long enough for all nodes and elements in use."""

    coords: Int32  # (V, 2) column, row of pixel corners
    rings: Int64  # (R + 1,) offsets into coords
    parts: Int64  # (P + 1,) offsets into rings; the first ring of a part is its exterior
    shapes: Int64  # (N + 1,) offsets into parts
    label: Int32  # (N,)
    pixels: Int64  # (N,)
    moments: Float64  # (N, 3) sum, sum of squares and minimum of the confidence
    bbox: Int32  # (N, 4) first column, first row, last column + 1, last row + 1
    cluster: Int64  # (N,) running number of the batch


@_jit
def count_runs(labels: NDArray[Any]) -> int:
    """Number of runs in all rows of (h, W) labels, with the one that closes each row."""
    height, width = labels.shape
    count = 2 * height
    for row in range(height):
        line = labels[row]
        changes = 0
        for x in range(1, width):
            changes += line[x] != line[x - 1]
        count += changes
    return count


@_jit
def encode(labels: NDArray[Any], runs: Int32, offsets: Int64) -> None:
    """Write the runs of (h, W) labels to `runs` from offsets[1] on; fills offsets[2:]."""
    height, width = labels.shape
    n = offsets[1]
    for row in range(height):
        line = labels[row]
        x = 0
        while x < width:
            label = line[x]
            runs[n, START] = x
            runs[n, LABEL] = label
            n += 1
            x += 1
            # Most runs are short; long ones are crossed in blocks the compiler can vectorize.
            stop = min(x + 16, width)
            while x < stop and line[x] == label:
                x += 1
            if x < stop:
                continue
            while x + 64 <= width:
                differs = label ^ label
                for value in line[x : x + 64]:
                    differs |= value ^ label
                if differs:
                    break
                x += 64
            while x < width and line[x] == label:
                x += 1
        runs[n, START] = width
        runs[n, LABEL] = 0
        n += 1
        offsets[row + 2] = n


@_jit
def run_moments(
    confidence: NDArray[np.float32], runs: Int32, offsets: Int64, moments: Float64
) -> None:
    """Sum, sum of squares and minimum of (h, W) confidence along each labelled run."""
    for row in range(confidence.shape[0]):
        line = confidence[row]
        for k in range(offsets[row + 1], offsets[row + 2] - 1):
            if runs[k, LABEL] == 0:
                continue
            total, squares, least = 0.0, 0.0, np.inf
            for x in range(runs[k, START], runs[k + 1, START]):
                value = np.float64(line[x])
                total += value
                squares += value * value
                least = min(least, value)
            moments[k, 0] = total
            moments[k, 1] = squares
            moments[k, 2] = least


@_jit
def find(parts: Int32, level: int, k: int) -> int:
    """Root of element k at a level."""
    while parts[k, level] != k:
        parts[k, level] = parts[parts[k, level], level]
        k = parts[k, level]
    return k


@_jit
def unite(parts: Int32, level: int, a: int, b: int) -> None:
    """Join the sets of a and b at a level and all above it."""
    for at in range(level, 3):
        a = find(parts, at, a)
        b = find(parts, at, b)
        if a != b:
            parts[b, at] = a
            ring = parts[a, MEMBER + at]
            parts[a, MEMBER + at] = parts[b, MEMBER + at]
            parts[b, MEMBER + at] = ring


@_jit
def _new_node(nodes: Int32, counters: Int64, x: int, y: int) -> int:
    node = counters[NODE_FREE]
    if node >= 0:
        counters[NODE_FREE] = nodes[node, NEXT]
    else:
        node = counters[NODE_TOP]
        counters[NODE_TOP] += 1
    counters[NODES] += 1
    nodes[node, X] = x
    nodes[node, Y] = y
    return node


@_jit
def _new_part(parts: Int32, moments: Float64, counters: Int64, label: int) -> int:
    part = counters[PART_FREE]
    if part >= 0:
        counters[PART_FREE] = parts[part, PART]
    else:
        part = counters[PART_TOP]
        counters[PART_TOP] += 1
    counters[PARTS] += 1
    for level in range(3):
        parts[part, level] = part
        parts[part, MEMBER + level] = part
    parts[part, MARKS] = -1
    parts[part, CLASS] = label
    moments[part, 0] = 0.0
    moments[part, 1] = 0.0
    moments[part, 2] = np.inf
    return part


@_jit
def _mark(nodes: Int32, parts: Int32, part: int, node: int, twin: int, twin_part: int) -> None:
    nodes[node, LINK] = parts[part, MARKS]
    nodes[node, TWIN] = twin
    nodes[node, TWIN_PART] = twin_part
    parts[part, MARKS] = node


@_jit
def _above(runs: Int32, parts: Int32, j: int, i: int) -> int:
    """The element that run j takes from the row above, whose run i is over j's start; or -1."""
    stop = runs[j + 1, START]
    while runs[i, START] < stop:
        if runs[i, LABEL] == runs[j, LABEL]:
            return find(parts, PART, runs[i, PART_OF])
        i += 1
    return -1


@_jit
def _sweep(
    runs: Int32,
    i: int,
    j: int,
    nodes: Int32,
    parts: Int32,
    moments: Float64,
    counters: Int64,
    eight: bool,
    clusters: bool,
    junctions: bool,
) -> None:
    """Sweep the rows whose first runs are i (above) and j (below)."""
    y = counters[ROW]
    x = ul = dl = 0
    i0, j0 = i, j  # runs left of the point
    bottom = top = hole = -1  # left ends of the edges in progress, of the labels above and below
    while True:
        ur, dr = runs[i, LABEL], runs[j, LABEL]
        born = False
        if dr and j != j0 or x == 0 and dr:
            part = _above(runs, parts, j, i)
            if part < 0:
                born = True
                part = _new_part(parts, moments, counters, dr)
            runs[j, PART_OF] = part
        # 1. edges that end here from the left, 2. edges that start here to the right
        a = b = c = d = -1
        if ul and ul != ur:
            if ul != dl:
                a = _new_node(nodes, counters, x, y)
                nodes[bottom, NEXT] = a
                nodes[a, NEXT] = runs[i0, RIGHT]
            elif ul == dr:
                top = _new_node(nodes, counters, x, y)
                nodes[top, NEXT] = runs[i0, RIGHT]
            elif junctions and ur != dr:
                v = _new_node(nodes, counters, x, y)
                nodes[v, NEXT] = runs[i0, RIGHT]
                runs[j0, RIGHT] = v
            else:
                runs[j0, RIGHT] = runs[i0, RIGHT]
        if ur and ur != ul:
            if ur != dr:
                b = _new_node(nodes, counters, x, y)
                nodes[runs[i, LEFT], NEXT] = b
                bottom = b
                hole = -1
            elif ur == dl:
                v = _new_node(nodes, counters, x, y)
                nodes[v, NEXT] = top
                nodes[runs[i, LEFT], NEXT] = v
            elif junctions and ul != dl:
                v = _new_node(nodes, counters, x, y)
                nodes[runs[i, LEFT], NEXT] = v
                runs[j, LEFT] = v
            else:
                runs[j, LEFT] = runs[i, LEFT]
        if dl and dl != dr:
            if dl != ul:
                c = _new_node(nodes, counters, x, y)
                nodes[c, NEXT] = top
                runs[j0, RIGHT] = c
            elif dl == ur:
                bottom = hole = _new_node(nodes, counters, x, y)
                runs[j0, RIGHT] = bottom
        if dr and dr != dl:
            if dr != ur:
                d = _new_node(nodes, counters, x, y)
                runs[j, LEFT] = top = d
                if born:
                    _mark(nodes, parts, part, d, -1, -1)
            elif dr == ul:
                v = _new_node(nodes, counters, x, y)
                nodes[bottom, NEXT] = v
                runs[j, LEFT] = v
                if hole >= 0:
                    _mark(nodes, parts, runs[i, PART_OF], hole, -1, -1)
        if junctions and dl != dr and ur and ul == ur and ur != dl and ur != dr:
            v = _new_node(nodes, counters, x, y)
            nodes[bottom, NEXT] = v
            bottom = v
        if junctions and ul != ur and dr and dl == dr and dr != ul and dr != ur:
            v = _new_node(nodes, counters, x, y)
            nodes[v, NEXT] = top
            top = v
        # What belongs together
        if ur and ur == dr:
            unite(parts, PART, runs[i, PART_OF], runs[j, PART_OF])
        if a >= 0 and ul == dr:
            _mark(nodes, parts, runs[i0, PART_OF], a, d, runs[j, PART_OF])
            if eight:
                unite(parts, SHAPE, runs[i0, PART_OF], runs[j, PART_OF])
        if b >= 0 and ur == dl:
            _mark(nodes, parts, runs[i, PART_OF], b, c, runs[j0, PART_OF])
            if eight:
                unite(parts, SHAPE, runs[i, PART_OF], runs[j0, PART_OF])
        if clusters:
            known = -1
            for k in (i0 if ul else -1, i if ur else -1, j0 if dl else -1, j if dr else -1):
                if k >= 0:
                    if known >= 0:
                        unite(parts, BATCH, known, runs[k, PART_OF])
                    known = runs[k, PART_OF]
        # On to the next change
        ul, dl, i0, j0 = ur, dr, i, j
        above, below = runs[i + 1, START], runs[j + 1, START]
        x = min(above, below)
        if above == x:
            i += 1
        if below == x:
            j += 1


@_jit
def emit(nodes: Int32, parts: Int32, moments: Float64, counters: Int64, out: Output) -> Any:
    """Write the finished batches, oldest first; returns (shapes, parts, rings, coords) written."""
    return 0, 0, 0, 0
