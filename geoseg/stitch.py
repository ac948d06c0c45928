"""Tiles of scores in, finished rows of labels out, in a buffer of one row of tiles.

Scores of overlapping tiles are averaged with weights that are the product of one weight along
the rows and one along the columns. Along an axis the weights of all tiles add up to one in every
pixel (a partition of unity), whatever the overlap, so nothing has to be divided afterwards and
the scene's border is no special case:

    crop    1 in the tile's write window, 0 elsewhere: exact where the halo covers the
            network's receptive field.
    blend   sin² ramps over the overlaps, 1 between them and out to the scene's border
            (Hann windows, as in Pielawski & Wählby 2020, doi:10.1371/journal.pone.0229839).

A row of the scene is final when no later tile reads it; then it goes out and is forgotten. Tiles
that were skipped hold no pixel that is valid and wanted, so leaving them out changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geoseg.grid import Plan, Span, Window
from geoseg.jit import jit
from geoseg.predictions import Rows, SemanticPrediction

Mode = Literal["blend", "crop"]
RowMask = Callable[[int, int], NDArray[np.bool_]]
BAND = 256  # finished rows go out in bands of at most this height


class Mosaic:
    """Stitches the semantic predictions of a plan.

    `ids` are the class ids in the order of the scores; with one class `threshold` decides. `mask`
    (row_start, row_stop) -> (h, W) bool says which pixels are wanted (area of interest).
    Predictions come one row of tiles after the other; inside a row in any order. The arrays of
    the rows that are yielded are valid until the next step of the iteration.
    """

    notes: tuple[str, ...] = ()  # it has nothing to say, as one of objects may have

    def __init__(
        self,
        plan: Plan,
        ids: Sequence[int],
        *,
        mode: Mode = "blend",
        threshold: float = 0.5,
        mask: RowMask | None = None,
    ) -> None:
        self._grid = plan.grid
        self._ids = np.asarray(ids, dtype=np.uint8)
        self._threshold = np.float32(threshold)
        self._mask = mask
        self._row_weights = axis_weights(plan.row_spans, plan.grid.height, mode)
        self._col_weights = axis_weights(plan.col_spans, plan.grid.width, mode)
        height = min(plan.tile_shape[0], plan.grid.height)
        self._scores = np.zeros((len(self._ids), height, plan.grid.width), dtype=np.float32)
        self._valid = np.zeros((height, plan.grid.width), dtype=np.bool_)
        self._top = 0  # the scene's row that the buffer starts with

    def add(self, prediction: SemanticPrediction) -> Iterator[Rows]:
        """Take in one tile; yields the rows that no later tile can touch."""
        read = prediction.tile.read
        if read.row < self._top:
            raise ValueError(f"tile {prediction.tile.index} comes after its rows went out")
        yield from self._release(read.row)
        inside = read.intersection(self._grid.window)
        here = inside.slices(Window(self._top, 0, 0, 0))
        there = inside.slices(read)
        _accumulate(
            self._scores[:, here[0], here[1]],
            prediction.scores[:, there[0], there[1]],
            self._row_weights[read.row],
            self._col_weights[read.col],
        )
        self._valid[here] |= prediction.valid[there]

    def finish(self) -> Iterator[Rows]:
        """The rows that are left."""
        yield from self._release(self._grid.height)

    def _release(self, stop: int) -> Iterator[Rows]:
        """Send out the rows up to `stop`, then move what is left to the top of the buffer."""
        height = self._valid.shape[0]
        ready = min(stop - self._top, height)
        for start in range(0, ready, BAND):
            yield self._rows(start, min(start + BAND, ready))
        if 0 < ready < height:
            rest = height - ready
            self._scores[:, :rest] = self._scores[:, ready:].copy()
            self._valid[:rest] = self._valid[ready:].copy()
        if ready > 0:
            self._scores[:, height - ready :] = 0
            self._valid[height - ready :] = False
        self._top += ready
        while self._top < stop:  # rows of tiles in which every tile was skipped
            ready = min(stop - self._top, height, BAND)
            yield self._rows(0, ready)
            self._top += ready

    def _rows(self, start: int, stop: int) -> Rows:
        scores, valid = self._scores[:, start:stop], self._valid[start:stop]
        row = self._top + start
        if self._mask is not None:
            valid = valid & self._mask(row, row + stop - start)
        labels = np.empty(valid.shape, dtype=np.uint8)
        confidence = np.empty(valid.shape, dtype=np.float32)
        if len(self._ids) == 1:
            _decide_one(scores[0], valid, self._threshold, self._ids[0], labels, confidence)
        else:
            _decide(scores, valid, self._ids, labels, confidence)
        return Rows(row, labels, confidence, valid, scores)


def axis_weights(spans: Sequence[Span], length: int, mode: Mode) -> dict[int, NDArray[np.float32]]:
    """Read start of each tile -> weight of each of its pixels that lie inside 0..length."""
    starts = [start for start, *_ in spans]
    weights = []
    for i, (start, size, write, write_stop) in enumerate(spans):
        x = np.arange(start, min(start + size, length))
        if mode == "crop":
            weights.append(((x >= write) & (x < write_stop)).astype(np.float64))
            continue
        w = np.ones(len(x))
        if i > 0 and starts[i - 1] + size > start:
            w *= _ramp(x - start, starts[i - 1] + size - start)
        if i + 1 < len(spans) and start + size > starts[i + 1]:
            w *= _ramp(start + size - 1 - x, start + size - starts[i + 1])
        weights.append(w)
    total = np.zeros(length)
    for start, w in zip(starts, weights, strict=True):
        total[start : start + len(w)] += w
    return {
        start: (w / total[start : start + len(w)]).astype(np.float32)
        for start, w in zip(starts, weights, strict=True)
    }


def _ramp(distance: NDArray[np.int_], overlap: int) -> NDArray[np.float64]:
    """From just above 0 at the tile's edge (distance 0) to 1 at the end of the overlap."""
    return np.sin(np.pi / 2 * np.clip((distance + 0.5) / overlap, 0, 1)) ** 2


@jit
def _accumulate(
    total: NDArray[np.float32],
    scores: NDArray[np.float32],
    row_weight: NDArray[np.float32],
    col_weight: NDArray[np.float32],
) -> None:
    """total += scores * row_weight x col_weight; (K, H, W) arrays."""
    for k in range(scores.shape[0]):
        for r in range(scores.shape[1]):
            weight = row_weight[r]
            if weight == 0:
                continue
            for c in range(scores.shape[2]):
                total[k, r, c] += scores[k, r, c] * (weight * col_weight[c])


@jit
def _decide_one(
    score: NDArray[np.float32],
    valid: NDArray[np.bool_],
    threshold: np.float32,
    class_id: np.uint8,
    labels: NDArray[np.uint8],
    confidence: NDArray[np.float32],
) -> None:
    """Label and its probability where one class stands against the background."""
    for r in range(score.shape[0]):
        for c in range(score.shape[1]):
            p = score[r, c]
            hit = valid[r, c] and p >= threshold
            labels[r, c] = class_id if hit else 0
            confidence[r, c] = (p if hit else 1 - p) if valid[r, c] else 0


@jit
def _decide(
    scores: NDArray[np.float32],
    valid: NDArray[np.bool_],
    ids: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    confidence: NDArray[np.float32],
) -> None:
    """Most probable class and its probability; the first of equals."""
    for r in range(valid.shape[0]):
        for c in range(valid.shape[1]):
            if not valid[r, c]:
                labels[r, c] = 0
                confidence[r, c] = 0
                continue
            best, best_k = scores[0, r, c], 0
            for k in range(1, scores.shape[0]):
                if scores[k, r, c] > best:
                    best, best_k = scores[k, r, c], k
            labels[r, c] = ids[best_k]
            confidence[r, c] = best
