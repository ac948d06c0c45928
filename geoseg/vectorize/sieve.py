"""Small regions taken out of rows of labels as they pass: sieve, and holes filled.

A region is a 4-connected set of pixels of one label; the background (0) has regions, too, what is
void (no data) has none. A region smaller than `sieve` takes the label that most of its border
with large regions has (a tie goes to the smaller number); one that touches no large region waits
for the next round, when its neighbours have become something. A hole is a region of background,
smaller than `holes`, whose border with large regions is all of one class, and that touches neither
the edge of the raster nor what is void: it takes that class.

Rows come in bands and leave as soon as all in them is decided, so what is held is bounded: a
region that is not yet known to be large has fewer pixels than the limit, and no more rows. What
comes out does not depend on the bands.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoseg.jit import jit
from geoseg.vectorize.kernel import LABEL, PART_OF, RUN_COLUMNS, START, count_runs, encode

ROUNDS = 3  # of sieving; what is small then lies deep among other small regions, and stays
VOID, DONE, HIDDEN = -(2**31), -(2**31) + 1, -(2**31) + 8  # labels of no region; the last of them
LARGE, OPEN, RIM, WAITS = 1, 2, 4, 8  # what is known of a region

Int8 = NDArray[np.uint8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


class Cleaned(NamedTuple):
    """Rows that are final: (h, W) labels, as they were and are; the planes that came with them."""

    before: NDArray[Any]
    labels: NDArray[Any]
    valid: Bool
    planes: tuple[NDArray[Any], ...]

    @property
    def changed(self) -> Bool:
        """(h, W) where the label is another."""
        return np.asarray(self.before != self.labels)


class Cleaner:
    """Sieves rows and fills holes; holds back what comes with the rows until they are final.

    `sieve` and `holes` are numbers of pixels, and may be fractions: less than that is small.
    """

    def __init__(self, width: int, *, sieve: float = 0.0, holes: float = 0.0) -> None:
        rounds = [_Round(width, sieve, holes)]
        rounds += [_Round(width, sieve, holes) for _ in range(ROUNDS - 1) if sieve > 1]
        self._rounds = rounds
        self._waiting: list[tuple[NDArray[Any], ...]] = []

    def add(self, labels: NDArray[Any], valid: Bool, *planes: NDArray[Any]) -> Cleaned | None:
        """Take rows, with planes (..., h, W); return those that no later row can change, if any."""
        if len(labels):
            self._waiting.append((labels, valid, *planes))
        rows, voids = labels, valid
        for step in self._rounds:
            rows, voids = step.add(rows, voids)
        return self._take(rows)

    def finish(self) -> Cleaned | None:
        """Return the rows that are left, if any."""
        rows, voids = self._rounds[0].finish()
        for step in self._rounds[1:]:
            parts = step.add(rows, voids), step.finish()
            rows, voids = (np.concatenate(pair) for pair in zip(*parts, strict=True))
        return self._take(rows)

    def _take(self, rows: NDArray[Any]) -> Cleaned | None:
        """These final rows with what came with them."""
        if not len(rows):
            return None
        taken: list[tuple[NDArray[Any], ...]] = []
        need = len(rows)
        while need:
            group = self._waiting.pop(0)
            height = min(need, len(group[0]))
            taken.append(tuple(a[..., :height, :] for a in group))
            if height < len(group[0]):
                self._waiting.insert(0, tuple(a[..., height:, :].copy() for a in group))
            need -= height
        arrays = taken[0]
        if len(taken) > 1:
            arrays = tuple(np.concatenate(parts, axis=-2) for parts in zip(*taken, strict=True))
        before, valid, *planes = arrays
        return Cleaned(before, rows.astype(before.dtype), valid, tuple(planes))


class _Round:
    """One pass over the rows; see the module."""

    def __init__(self, width: int, sieve: float, holes: float) -> None:
        self._limits = (float(sieve), float(max(sieve, holes)))  # of classes, and of the background
        self._sieve, self._holes = sieve, holes
        self._work = np.empty((0, width), np.int32)  # labels of rows that are held, VOID or DONE
        self._out = np.empty((0, width), np.int32)
        self._above = np.full(width, VOID, np.int32)  # the last row that left: as in work
        self._above_large = np.zeros(width, np.uint8)
        self._top, self._looked = True, 0

    def add(self, labels: NDArray[Any], valid: Bool) -> tuple[Int32, Bool]:
        """The next rows in; final ones out, with where they are valid."""
        labels = labels.astype(np.int32)
        self._work = np.concatenate((self._work, np.where(valid, labels, np.int32(VOID))))
        self._out = np.concatenate((self._out, labels))
        if 4 * (len(self._work) - self._looked) < self._looked:  # few are new: wait for more
            return self._out[:0], np.empty((0, self._out.shape[1]), np.bool_)
        return self._release(final=False)

    def finish(self) -> tuple[Int32, Bool]:
        return self._release(final=True)

    def _release(self, *, final: bool) -> tuple[Int32, Bool]:
        work, out = self._work, self._out
        height, width = work.shape
        if not height:
            return out, np.empty((0, width), np.bool_)
        offsets = np.zeros(height + 2, np.int64)
        runs = np.empty((count_runs(work), RUN_COLUMNS), np.int32)
        encode(work, runs, offsets)
        size, flags = np.zeros(len(runs), np.int64), np.zeros(len(runs), np.uint8)
        _find_regions(runs, offsets, size)
        above = self._above, self._above_large
        _look_at_regions(runs, offsets, *above, self._limits, self._top, final, size, flags)
        edges = np.empty((6 * len(runs) + width, 3), np.int64)
        count = _look_at_borders(runs, offsets, *above, flags, edges)
        to = self._decide(size, flags, runs, edges[:count])
        ready = _settle(runs, offsets, flags, to, work, out, self._above, self._above_large)
        valid = work[:ready] != VOID
        released = out[:ready]
        self._work, self._out = work[ready:].copy(), out[ready:].copy()
        self._looked = len(self._work)
        self._top = self._top and not ready
        return released, valid

    def _decide(self, size: Int64, flags: Int8, runs: Int32, edges: Int64) -> Int32:
        """(len(runs),) the new label of each small region that is decided, at its first run."""
        to = runs[:, LABEL].copy()
        if not len(edges):
            return to
        edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
        first = np.flatnonzero((np.diff(edges[:, :2], axis=0, prepend=-1) != 0).any(axis=1))
        region, label = edges[first, 0], edges[first, 1]
        length = np.add.reduceat(edges[:, 2], first)
        order = np.lexsort((label, -length, region))
        region, label = region[order], label[order]
        start = np.flatnonzero(np.diff(region, prepend=-1))
        kinds = np.diff(start, append=len(region))  # labels around it
        region, label = region[start], label[start]
        small = size[region] < self._sieve
        hole = (runs[region, LABEL] == 0) & (size[region] < self._holes) & (kinds == 1)
        hole &= (flags[region] & RIM) == 0
        change = small | hole
        to[region[change]] = label[change]
        return to


@jit
def _root(runs: Int32, k: int) -> int:
    while runs[k, PART_OF] != k:
        runs[k, PART_OF] = runs[runs[k, PART_OF], PART_OF]
        k = runs[k, PART_OF]
    return k


@jit
def _find_regions(runs: Int32, offsets: Int64, size: Int64) -> None:
    """Give each run the first run of its region, in PART_OF; and that the number of pixels."""
    for k in range(len(runs)):
        runs[k, PART_OF] = k
    for row in range(1, len(offsets) - 2):
        i = offsets[row]
        for j in range(offsets[row + 1], offsets[row + 2] - 1):
            start, stop, label = runs[j, START], runs[j + 1, START], runs[j, LABEL]
            if label <= HIDDEN:
                continue
            while runs[i + 1, START] <= start:
                i += 1
            k = i
            while runs[k, START] < stop:
                if runs[k, LABEL] == label:
                    a, b = _root(runs, k), _root(runs, j)
                    runs[max(a, b), PART_OF] = min(a, b)
                k += 1
    for row in range(len(offsets) - 2):
        for k in range(offsets[row + 1], offsets[row + 2] - 1):
            root = _root(runs, k)
            runs[k, PART_OF] = root
            size[root] += runs[k + 1, START] - runs[k, START]


@jit
def _look_at_regions(
    runs: Int32,
    offsets: Int64,
    above: Int32,
    above_large: Int8,
    limits: tuple[float, float],
    top: bool,
    final: bool,
    size: Int64,
    flags: Int8,
) -> None:
    """Find out which regions are large, open (may go on below), and lie at the rim."""
    rows, width = len(offsets) - 2, len(above)
    for row in range(rows):
        for k in range(offsets[row + 1], offsets[row + 2] - 1):
            root, label = runs[k, PART_OF], runs[k, LABEL]
            if label <= HIDDEN:
                continue
            if size[root] >= limits[1 if label == 0 else 0]:
                flags[root] |= LARGE
            if row == rows - 1:
                flags[root] |= RIM if final else OPEN
            if runs[k, START] == 0 or runs[k + 1, START] == width:
                flags[root] |= RIM
            if row == 0:
                if top:
                    flags[root] |= RIM
                for x in range(runs[k, START], runs[k + 1, START]):
                    if above_large[x] and above[x] == label:  # it went on from there
                        flags[root] |= LARGE


@jit
def _meet(runs: Int32, flags: Int8, a: int, b: int, length: int, edges: Int64, n: int) -> int:
    """Note that two runs have so much of their border in common."""
    for one, other in ((a, b), (b, a)):
        label, beside = runs[one, LABEL], runs[other, LABEL]
        if label <= HIDDEN or beside == DONE:
            continue
        root = runs[one, PART_OF]
        if flags[root] & (LARGE | OPEN):
            continue
        if beside == VOID:
            flags[root] |= RIM
            continue
        neighbour = runs[other, PART_OF]
        if flags[neighbour] & LARGE:
            edges[n, 0], edges[n, 1], edges[n, 2] = root, beside, length
            n += 1
        elif flags[neighbour] & OPEN:
            flags[root] |= WAITS
    return n


@jit
def _look_at_borders(
    runs: Int32, offsets: Int64, above: Int32, above_large: Int8, flags: Int8, edges: Int64
) -> int:
    """Borders of small closed regions with large ones: (root, label, length) each, not yet summed.

    Returns how many. Regions that have a neighbour of which it is not known whether it is large
    are marked as waiting.
    """
    n = 0
    for row in range(len(offsets) - 2):
        i = offsets[row]
        for j in range(offsets[row + 1], offsets[row + 2] - 1):
            start, stop, label = runs[j, START], runs[j + 1, START], runs[j, LABEL]
            if j > offsets[row + 1]:
                n = _meet(runs, flags, j - 1, j, 1, edges, n)
            if row == 0:
                root = runs[j, PART_OF]
                if label <= HIDDEN or flags[root] & (LARGE | OPEN):
                    continue
                for x in range(start, stop):
                    if above[x] == VOID:
                        flags[root] |= RIM
                    elif above_large[x]:
                        edges[n, 0], edges[n, 1], edges[n, 2] = root, above[x], 1
                        n += 1
                continue
            while runs[i + 1, START] <= start:
                i += 1
            k = i
            while runs[k, START] < stop:
                if runs[k, LABEL] != label:
                    length = min(stop, runs[k + 1, START]) - max(start, runs[k, START])
                    n = _meet(runs, flags, k, j, length, edges, n)
                k += 1
    return n


@jit
def _settle(
    runs: Int32,
    offsets: Int64,
    flags: Int8,
    to: Int32,
    work: Int32,
    out: Int32,
    above: Int32,
    above_large: Int8,
) -> int:
    """Write the labels of regions that are decided; returns the number of rows that are final.

    Then `above` becomes the last of these.
    """
    rows = len(offsets) - 2
    ready = rows
    for row in range(rows):
        for k in range(offsets[row + 1], offsets[row + 2] - 1):
            root = runs[k, PART_OF]
            if runs[k, LABEL] <= HIDDEN or flags[root] & LARGE:
                continue
            if flags[root] & (OPEN | WAITS):
                ready = min(ready, row)
                continue
            for x in range(runs[k, START], runs[k + 1, START]):
                work[row, x] = DONE
                out[row, x] = to[root]
    if ready:
        for k in range(offsets[ready], offsets[ready + 1] - 1):
            large = flags[runs[k, PART_OF]] & LARGE
            for x in range(runs[k, START], runs[k + 1, START]):
                above[x] = work[ready - 1, x]
                above_large[x] = large
    return ready
