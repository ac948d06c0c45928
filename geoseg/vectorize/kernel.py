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

For contours (contour.py) nodes have places beside their corners. Then every edge between two
pixels has a node for each of its labels too, its crossing, and a corner is dropped when rings
are written unless outlines meet there. Without them `contour` is None, and costs nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoseg.jit import jit
from geoseg.vectorize.contour import DROPPED, HALF, STAY, STEPS, drop_straight, is_odd, place_joint

Int8 = NDArray[np.int8]
Int16 = NDArray[np.int16]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

# Columns of a run (START, LABEL known beforehand); the last run of a row is (width, 0).
START, LABEL, PART_OF, LEFT, RIGHT, RUN_COLUMNS = range(6)

# Columns of a node: pixel corner, successor on the ring. Kept small: rings are walked through
# memory in no order, and what is unfinished should fit the cache of a core.
X, Y, NEXT, NODE_COLUMNS = range(4)

# Some nodes are marked, in the list (LINK) of an element: as a start for walking its rings, or as
# a pinch: there TWIN is the node at the same point for the same label in the diagonally opposite
# pixel, TWIN_PART its element.
NODE, LINK, TWIN, TWIN_PART, MARK_COLUMNS = range(5)

# Columns of an element: at each level its parent and its successor in the circular list of the
# set; first mark; label; last row that has reached the set (true in the root of a BATCH);
# next finished batch.
PART, SHAPE, BATCH = range(3)
MEMBER = 3
MARKS, CLASS, LAST, DONE, PART_COLUMNS = range(6, 11)

# Counters: the row; of nodes, marks and elements each, in this order, the head of the free list,
# the first index never used, and the number in use; the queue of finished batches; the number of
# batches that left.
ROW, NODE_FREE, NODE_TOP, NODES, PART_FREE, PART_TOP, PARTS = range(7)
MARK_FREE, MARK_TOP, MARKED, DONE_HEAD, DONE_TAIL, BATCHES, COUNTERS = range(7, 14)


class Contour(NamedTuple):
    """What contours need beside nodes and runs; see contour.Edges for the crossings."""

    places: Int16  # (len(nodes), 2) from the corner of each node, 1/STEPS pixel; or DROPPED
    across: Int8  # (h + 1, W + 1) along each row, and first along the last one of the call before
    down: Int8  # (h + 1, W) between each row and the one before; the first is not used


class Output(NamedTuple):
    """Where `emit` writes; long enough for all nodes and elements in use."""

    coords: Int32 | Float64  # (V, 2) column, row: int32 pixel corners, or float64 contours
    rings: Int64  # (R + 1,) offsets into coords
    parts: Int64  # (P + 1,) offsets into rings; the first ring of a part is its exterior
    shapes: Int64  # (N + 1,) offsets into parts
    label: Int32  # (N,)
    pixels: Int64  # (N,)
    moments: Float64  # (N, 3) sum, sum of squares and minimum of the confidence
    bbox: Int32  # (N, 4) first column, first row, last column + 1, last row + 1
    cluster: Int64  # (N,) running number of the batch


@jit
def count_runs(labels: NDArray[Any]) -> int:
    """Number of runs in all rows of (h, W) labels, with the one that closes each row."""
    height, width = labels.shape
    count = 2 * height
    for row in range(height):
        line = labels[row]
        changes = 0
        for x in range(1, width):
            changes += int(line[x] != line[x - 1])
        count += changes
    return int(count)


@jit
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


@jit
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


@jit(forceinline=True)
def find(parts: Int32, level: int, k: int) -> int:
    """Root of element k at a level."""
    while parts[k, level] != k:
        parts[k, level] = parts[parts[k, level], level]
        k = parts[k, level]
    return k


@jit(forceinline=True)
def unite(parts: Int32, level: int, a: int, b: int) -> None:
    """Join the sets of a and b at a level and all above it."""
    for at in range(level, 3):
        a = find(parts, at, a)
        b = find(parts, at, b)
        if a == b:
            return
        parts[b, at] = a
        after = parts[a, MEMBER + at]
        parts[a, MEMBER + at] = parts[b, MEMBER + at]
        parts[b, MEMBER + at] = after


@jit(forceinline=True)
def _take(table: Int32, link: int, counters: Int64, kind: int) -> int:
    """A row that has left or was never used; those that left are linked by a column.

    `kind`: the first of the three counters of the table.
    """
    row = counters[kind]
    if row >= 0:
        counters[kind] = table[row, link]
    else:
        row = counters[kind + 1]
        counters[kind + 1] += 1
    counters[kind + 2] += 1
    return int(row)


@jit(forceinline=True)
def _new_node(
    nodes: Int32, contour: Contour | None, counters: Int64, x: int, y: int, px: int, py: int
) -> int:
    node = _take(nodes, NEXT, counters, NODE_FREE)
    nodes[node, X] = x
    nodes[node, Y] = y
    if contour is not None:
        contour.places[node, 0] = px
        contour.places[node, 1] = py
    return node


@jit(forceinline=True)
def _new_part(parts: Int32, moments: Float64, counters: Int64, label: int) -> int:
    part = _take(parts, PART, counters, PART_FREE)
    for level in range(3):
        parts[part, level] = part
        parts[part, MEMBER + level] = part
    parts[part, MARKS] = -1
    parts[part, CLASS] = label
    moments[part, 0] = 0.0
    moments[part, 1] = 0.0
    moments[part, 2] = np.inf
    return part


@jit(forceinline=True)
def _mark(
    marks: Int32, parts: Int32, counters: Int64, part: int, node: int, twin: int, twin_part: int
) -> None:
    mark = _take(marks, LINK, counters, MARK_FREE)
    marks[mark, NODE] = node
    marks[mark, LINK] = parts[part, MARKS]
    marks[mark, TWIN] = twin
    marks[mark, TWIN_PART] = twin_part
    parts[part, MARKS] = mark


@jit(forceinline=True)
def _above(runs: Int32, parts: Int32, j: int, i: int) -> int:
    """The element that run j takes from the row above, whose run i is over j's start; or -1."""
    stop = runs[j + 1, START]
    while runs[i, START] < stop:
        if runs[i, LABEL] == runs[j, LABEL]:
            return find(parts, PART, runs[i, PART_OF])
        i += 1
    return -1


@jit(forceinline=True)
def _sweep(
    runs: Int32,
    i: int,
    j: int,
    nodes: Int32,
    marks: Int32,
    parts: Int32,
    moments: Float64,
    counters: Int64,
    eight: bool,
    clusters: bool,
    junctions: bool,
    contour: Contour | None,
    r: int,
) -> None:
    """Sweep the rows whose first runs are i (above) and j (below).

    For contours `r` is the row of crossings of the one below.
    """
    y, width = counters[ROW], runs[j - 1, START]
    x = ul = dl = 0
    i0, j0 = i, j  # runs left of the point
    bottom = top = hole = -1  # left ends of the edges in progress, of the labels above and below
    px = py = 0
    odd = False
    while True:
        ur, dr = runs[i, LABEL], runs[j, LABEL]
        if contour is not None:
            above, below = contour.across[r - 1, x], contour.across[r, x]
            before = contour.down[r, x - 1] if x > 0 else 0
            after = contour.down[r, x] if x < width else 0
            odd = is_odd(above, before, after, below)
            px, py = place_joint(ul, ur, dl, dr, above, before, after, below)
        born = False
        if dr and (j != j0 or x == 0):
            part = _above(runs, parts, j, i)
            if part < 0:
                born = True
                part = _new_part(parts, moments, counters, dr)
            runs[j, PART_OF] = part
        # The corner, if any, of each of the four pixels; a to d are the convex ones of ul, ur,
        # dl, dr. Of two edges on one line the one that ends here is seen to first.
        a = b = c = d = -1
        if ul and ul != ur:
            if ul != dl:
                a = _new_node(nodes, contour, counters, x, y, px, py)
                nodes[bottom, NEXT] = a
                nodes[a, NEXT] = runs[i0, RIGHT]
            elif ul == dr:
                top = _new_node(nodes, contour, counters, x, y, px, py)
                nodes[top, NEXT] = runs[i0, RIGHT]
            elif junctions and (ur != dr or odd):
                v = _new_node(nodes, contour, counters, x, y, px, py)
                nodes[v, NEXT] = runs[i0, RIGHT]
                runs[j0, RIGHT] = v
            else:
                runs[j0, RIGHT] = runs[i0, RIGHT]
        if ur and ur != ul:
            if ur != dr:
                b = _new_node(nodes, contour, counters, x, y, px, py)
                nodes[runs[i, LEFT], NEXT] = b
                bottom = b
                hole = -1
            elif ur == dl:
                v = _new_node(nodes, contour, counters, x, y, px, py)
                nodes[v, NEXT] = top
                nodes[runs[i, LEFT], NEXT] = v
            elif junctions and (ul != dl or odd):
                v = _new_node(nodes, contour, counters, x, y, px, py)
                nodes[runs[i, LEFT], NEXT] = v
                runs[j, LEFT] = v
            else:
                runs[j, LEFT] = runs[i, LEFT]
        if dl and dl != dr:
            if dl != ul:
                c = _new_node(nodes, contour, counters, x, y, px, py)
                nodes[c, NEXT] = top
                runs[j0, RIGHT] = c
            elif dl == ur:
                bottom = hole = _new_node(nodes, contour, counters, x, y, px, py)
                runs[j0, RIGHT] = bottom
        if dr and dr != dl:
            if dr != ur:
                d = _new_node(nodes, contour, counters, x, y, px, py)
                runs[j, LEFT] = top = d
                if born:
                    _mark(marks, parts, counters, part, d, -1, -1)
            elif dr == ul:
                v = _new_node(nodes, contour, counters, x, y, px, py)
                nodes[bottom, NEXT] = v
                runs[j, LEFT] = v
                if hole >= 0:
                    _mark(marks, parts, counters, runs[i, PART_OF], hole, -1, -1)
        if junctions and (dl != dr or odd) and ur and ul == ur and ur != dl and ur != dr:
            v = _new_node(nodes, contour, counters, x, y, px, py)
            nodes[bottom, NEXT] = v
            bottom = v
        if junctions and (ul != ur or odd) and dr and dl == dr and dr != ul and dr != ur:
            v = _new_node(nodes, contour, counters, x, y, px, py)
            nodes[v, NEXT] = top
            top = v
        # What belongs together
        if ur and ur == dr:
            unite(parts, PART, runs[i, PART_OF], runs[j, PART_OF])
        if a >= 0 and ul == dr:
            _mark(marks, parts, counters, runs[i0, PART_OF], a, d, runs[j, PART_OF])
            if eight:
                unite(parts, SHAPE, runs[i0, PART_OF], runs[j, PART_OF])
        if b >= 0 and ur == dl:
            _mark(marks, parts, counters, runs[i, PART_OF], b, c, runs[j0, PART_OF])
            if eight:
                unite(parts, SHAPE, runs[i, PART_OF], runs[j0, PART_OF])
        if clusters:
            known = -1
            for k in (i0 if ul else -1, i if ur else -1, j0 if dl else -1, j if dr else -1):
                if k >= 0:
                    if known >= 0:
                        unite(parts, BATCH, known, runs[k, PART_OF])
                    known = runs[k, PART_OF]
        if x == width:
            return
        # On to the next change
        ul, dl, i0, j0 = ur, dr, i, j
        change_above, change_below = runs[i + 1, START], runs[j + 1, START]
        stop = min(change_above, change_below)
        if contour is not None and ur != dr:
            for column in range(x, stop):
                crossing = contour.down[r, column]
                if crossing == STAY:
                    continue
                if ur:
                    v = _new_node(nodes, contour, counters, column, y, HALF, crossing)
                    nodes[bottom, NEXT] = v
                    bottom = v
                if dr:
                    v = _new_node(nodes, contour, counters, column, y, HALF, crossing)
                    nodes[v, NEXT] = top
                    top = v
        x = stop
        if change_above == x:
            i += 1
        if change_below == x:
            j += 1


@jit
def _cross_row(
    runs: Int32, j: int, stop: int, nodes: Int32, contour: Contour, counters: Int64, r: int
) -> None:
    """Crossings along a row (runs j to stop), when the outlines have come down to it."""
    y = counters[ROW]
    for k in range(j + 1, stop - 1):
        x = runs[k, START]
        crossing = contour.across[r, x]
        if runs[k - 1, LABEL] == runs[k, LABEL] or crossing == STAY:
            continue
        if runs[k - 1, LABEL]:
            v = _new_node(nodes, contour, counters, x, y, crossing, HALF)
            nodes[v, NEXT] = runs[k - 1, RIGHT]
            runs[k - 1, RIGHT] = v
        if runs[k, LABEL]:
            v = _new_node(nodes, contour, counters, x, y, crossing, HALF)
            nodes[runs[k, LEFT], NEXT] = v
            runs[k, LEFT] = v


@jit
def _unchanged(runs: Int32, i: int, j: int, count: int) -> bool:
    for k in range(count):
        if runs[i + k, START] != runs[j + k, START] or runs[i + k, LABEL] != runs[j + k, LABEL]:
            return False
    return True


@jit
def _finish_batches(runs: Int32, parts: Int32, counters: Int64, i: int, j: int, stop: int) -> None:
    """Queue the batches of the row above (runs i to j) that the row below (to stop) has left."""
    row = counters[ROW]
    for k in range(j, stop):
        if runs[k, LABEL]:
            runs[k, PART_OF] = find(parts, PART, runs[k, PART_OF])
            parts[find(parts, BATCH, runs[k, PART_OF]), LAST] = row
    for k in range(i, j):
        if runs[k, LABEL]:
            batch = find(parts, BATCH, runs[k, PART_OF])
            if parts[batch, LAST] != row:
                parts[batch, LAST] = row  # once is enough
                parts[batch, DONE] = -1
                if counters[DONE_HEAD] < 0:
                    counters[DONE_HEAD] = batch
                else:
                    parts[counters[DONE_TAIL], DONE] = batch
                counters[DONE_TAIL] = batch


@jit
def sweep(
    first: int,
    runs: Int32,
    offsets: Int64,
    run_sums: Float64,
    nodes: Int32,
    marks: Int32,
    parts: Int32,
    moments: Float64,
    counters: Int64,
    eight: bool,
    clusters: bool,
    junctions: bool,
    contour: Contour | None,
) -> int:
    """Sweep the rows from `first` on; row r has the runs offsets[r] to offsets[r + 1].

    Row 0 is the last one of the call before. Returns the row before which `nodes`, `marks` or
    `parts` have to grow, or the number of rows when all are done. `run_sums` may be empty.
    """
    for r in range(first, len(offsets) - 1):
        i, j, stop = offsets[r - 1], offsets[r], offsets[r + 1]
        if contour is None and stop - j == j - i and _unchanged(runs, i, j, j - i):
            runs[j:stop, PART_OF:] = runs[i:j, PART_OF:]
        else:
            # At most four corners and three marks at a point, one new element for a run; and two
            # crossings at each edge between two rows, and along one
            need = 4 * (stop - i)
            if contour is not None:
                need += 2 * (runs[stop - 1, START] + stop - j)
            if (
                len(nodes) - counters[NODES] < need
                or len(marks) - counters[MARKED] < 3 * (stop - i)
                or len(parts) - counters[PARTS] < stop - j
            ):
                return r
            _sweep(
                runs,
                i,
                j,
                nodes,
                marks,
                parts,
                moments,
                counters,
                eight,
                clusters,
                junctions,
                contour,
                r,
            )
            _finish_batches(runs, parts, counters, i, j, stop)
            if contour is not None:
                _cross_row(runs, j, stop, nodes, contour, counters, r)
        for k in range(j, stop if len(run_sums) else j):
            if runs[k, LABEL]:
                part = runs[k, PART_OF]
                moments[part, 0] += run_sums[k, 0]
                moments[part, 1] += run_sums[k, 1]
                moments[part, 2] = min(moments[part, 2], run_sums[k, 2])
        counters[ROW] += 1
    return len(offsets) - 1


@jit(forceinline=True)
def _open_pinches(
    nodes: Int32, marks: Int32, contour: Contour | None, parts: Int32, part: int
) -> int:
    """Part the rings of a part where its pixels meet diagonally; returns its topmost node.

    Corners are linked around the pixels, which is right where two parts meet at a point. Where
    a part meets itself, linking around the gaps instead keeps its rings from touching themselves:
    a hole becomes a ring of its own that touches another ring. Contours that have no joint there
    do not meet.
    """
    first = -1
    member = part
    while True:
        mark = parts[member, MARKS]
        while mark >= 0:
            node, twin = marks[mark, NODE], marks[mark, TWIN]
            if twin < 0:
                if first < 0 or nodes[node, Y] < nodes[first, Y]:
                    first = node
            elif (
                # a twin whose part has left is somewhere else by now
                nodes[twin, X] == nodes[node, X]
                and nodes[twin, Y] == nodes[node, Y]
                and find(parts, PART, marks[mark, TWIN_PART]) == part
                and (contour is None or contour.places[node, 0] != DROPPED)
            ):
                after = nodes[node, NEXT]
                nodes[node, NEXT] = nodes[twin, NEXT]
                nodes[twin, NEXT] = after
            else:
                marks[mark, TWIN] = -1
            mark = marks[mark, LINK]
        member = parts[member, MEMBER + PART]
        if member == part:
            return first


@jit(forceinline=True)
def _walk(
    nodes: Int32,
    contour: Contour | None,
    counters: Int64,
    start: int,
    coords: Int32 | Float64,
    rings: Int64,
    at: Int64,
) -> int:
    """Write the closed ring that starts at a node and free its nodes; returns the signed area.

    That is the area along the pixels, also for contours.
    """
    n = at[3]
    count = area = np.int64(0)
    node = last = start
    x0, y0 = nodes[start, X], nodes[start, Y]
    x, y = x0, y0
    while True:
        if contour is None:
            coords[n, 0] = x
            coords[n, 1] = y
            n += 1
        elif contour.places[node, 0] != DROPPED:
            coords[n, 0] = x + contour.places[node, 0] / STEPS
            coords[n, 1] = y + contour.places[node, 1] / STEPS
            n += 1
        count += 1
        nodes[node, X] = -1
        last, node = node, nodes[node, NEXT]
        if node == start:
            break
        left = x
        x, y = nodes[node, X], nodes[node, Y]
        area += np.int64(y) * np.int64(x - left)  # only horizontal edges count
    area += np.int64(y0) * np.int64(x0 - x)
    if contour is not None:
        n = drop_straight(coords, at[3], n)
    coords[n] = coords[at[3]]
    counters[NODES] -= count
    nodes[last, NEXT] = counters[NODE_FREE]
    counters[NODE_FREE] = start
    at[3] = n + 1
    at[2] += 1
    rings[at[2]] = at[3]
    return int(area)


@jit(forceinline=True)
def _emit_part(
    nodes: Int32,
    marks: Int32,
    contour: Contour | None,
    parts: Int32,
    counters: Int64,
    part: int,
    out: Output,
    at: Int64,
) -> int:
    """Write the rings of a part, its exterior first; returns its number of pixels."""
    start = _open_pinches(nodes, marks, contour, parts, part)
    pixels = _walk(nodes, contour, counters, start, out.coords, out.rings, at)
    member = part
    while True:
        mark = parts[member, MARKS]
        while mark >= 0:
            for node in (marks[mark, NODE], marks[mark, TWIN]):
                if node >= 0 and nodes[node, X] >= 0:  # not walked yet
                    pixels += _walk(nodes, contour, counters, node, out.coords, out.rings, at)
            link = marks[mark, LINK]
            marks[mark, LINK] = counters[MARK_FREE]
            counters[MARK_FREE] = mark
            counters[MARKED] -= 1
            mark = link
        member = parts[member, MEMBER + PART]
        if member == part:
            break
    at[1] += 1
    out.parts[at[1]] = at[2]
    return pixels


@jit(forceinline=True)
def _emit_shape(
    nodes: Int32,
    marks: Int32,
    contour: Contour | None,
    parts: Int32,
    moments: Float64,
    counters: Int64,
    shape: int,
    out: Output,
    at: Int64,
) -> None:
    n, first = at[0], at[3]
    out.label[n] = parts[shape, CLASS]
    out.cluster[n] = counters[BATCHES]
    out.pixels[n] = 0
    out.moments[n, 0] = out.moments[n, 1] = 0.0
    out.moments[n, 2] = np.inf
    member = shape
    while True:
        if parts[member, PART] == member:
            out.pixels[n] += _emit_part(nodes, marks, contour, parts, counters, member, out, at)
        out.moments[n, 0] += moments[member, 0]
        out.moments[n, 1] += moments[member, 1]
        out.moments[n, 2] = min(out.moments[n, 2], moments[member, 2])
        member = parts[member, MEMBER + SHAPE]
        if member == shape:
            break
    left, top = right, bottom = out.coords[first]
    for k in range(first, at[3]):  # contours are less than half a pixel from the pixels
        x, y = out.coords[k]
        left, right = min(left, x), max(right, x)
        top, bottom = min(top, y), max(bottom, y)
    out.bbox[n, 0] = np.rint(left)
    out.bbox[n, 1] = np.rint(top)
    out.bbox[n, 2] = np.rint(right)
    out.bbox[n, 3] = np.rint(bottom)
    at[0] += 1
    out.shapes[at[0]] = at[1]


@jit
def emit(
    nodes: Int32,
    marks: Int32,
    contour: Contour | None,
    parts: Int32,
    moments: Float64,
    counters: Int64,
    out: Output,
    at: Int64,
) -> None:
    """Write the finished batches, oldest first, and free what they held.

    `at` becomes the numbers of shapes, parts, rings and coordinates written.
    """
    at[:] = 0
    out.rings[0] = out.parts[0] = out.shapes[0] = 0
    batch = counters[DONE_HEAD]
    while batch >= 0:
        member = batch
        while True:
            if parts[member, SHAPE] == member:
                _emit_shape(nodes, marks, contour, parts, moments, counters, member, out, at)
            member = parts[member, MEMBER + BATCH]
            if member == batch:
                break
        done = parts[batch, DONE]
        while True:
            after = parts[member, MEMBER + BATCH]
            parts[member, PART] = counters[PART_FREE]
            counters[PART_FREE] = member
            counters[PARTS] -= 1
            member = after
            if member == batch:
                break
        counters[BATCHES] += 1
        batch = done
    counters[DONE_HEAD] = -1
