"""Average precision of scored objects, counted as COCO does (Lin et al. 2014), for whole scenes.

A scene is one picture of COCO. pycocotools, against which the tests hold this, is not used: it
compares every object of a picture with every other (10^10 pairs in a scene of 100,000), takes
masks as runs of pixels, knows no ground that counts for nothing, and cannot resample blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geoseg.jit import jit

IOUS = np.linspace(0.5, 0.95, 10)  # the levels over which the mean is taken
RECALLS = np.linspace(0, 1, 101)  # where precision is read
MOST = 100  # of AR100: objects of a class in one block of ground, the best first
FALSE, HIT, NOTHING = range(3)  # outcomes; the last one counts neither as right nor as wrong
ALL, CAPPED, SIZES = range(3)  # views: all objects, at most MOST of a block; then sizes, one each

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Objects that may be matched; N of them.

    label, area: (N,). block: (N,) index of the block of ground, -1 on ground that counts for
    nothing.
    """

    label: NDArray[Any]
    area: Array
    block: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ranking:
    """D scored objects held against G true ones in V views and at T levels of IoU.

    label, score, block: (D,); a hit lies in the block of what it hit. masks, boxes: (V, T, D)
    uint8, outcomes by the IoU of the outlines, and of the boxes around them. true_label,
    true_block: (G,). counts: (V, G) bool, whether a true object is to be found.
    """

    label: NDArray[Any]
    score: Array
    block: NDArray[np.int64]
    masks: NDArray[np.uint8]
    boxes: NDArray[np.uint8]
    true_label: NDArray[Any]
    true_block: NDArray[np.int64]
    counts: Bools

    @classmethod
    def concatenate(cls, rankings: Sequence[Ranking], blocks: Sequence[int]) -> Self:
        """Of several rasters with so many blocks each, which are numbered through."""
        first = np.cumsum([0, *blocks])
        moved = [
            replace(r, block=r.block + start, true_block=r.true_block + start)
            for r, start in zip(rankings, first, strict=False)
        ]
        return cls(
            *(np.concatenate([getattr(r, name) for r in moved], axis=-1) for name in cls.__slots__)
        )


def rank(
    found: Candidates,
    score: Array,
    wanted: Candidates,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    ious: tuple[Array, Array],
    levels: Sequence[float] = (),
    sizes: Sequence[tuple[float, float]] = (),
) -> Ranking:
    """Match objects, the best score first, each with the best true one that is still free.

    pairs: (P,) each, indices into `found` and `wanted` of what overlaps and has one label.
    ious: (P,) each, of outlines and of boxes. levels: of IoU, after those of `IOUS`. sizes:
    (from, below) in units of the areas. As COCO has it for its crowds and sizes: what matches a
    true object that does not count is neither right nor wrong, nor is what matches nothing and
    lies on ground, or is of a size, that does not count.
    """
    order = np.argsort(-score, kind="stable")
    limits = [(-np.inf, np.inf)] * 2 + list(sizes)
    views = [
        np.stack([(c.area >= low) & (c.area < high) & (c.block >= 0) for low, high in limits])
        for c in (found, wanted)
    ]
    absent = np.zeros(views[0].shape, np.bool_)
    absent[CAPPED, order] = _place(found.label[order], found.block[order]) >= MOST
    masks, boxes = (
        _matched(order, pairs, iou, absent, views, np.array([*IOUS, *levels])) for iou in ious
    )
    block = _blocks(found, wanted, pairs, ious[0])
    kept = order[block[order] >= 0]
    true = np.flatnonzero(wanted.block >= 0)
    return Ranking(
        found.label[kept],
        score[kept],
        block[kept],
        masks[:, :, kept],
        boxes[:, :, kept],
        wanted.label[true],
        wanted.block[true],
        views[1][:, true],
    )


def _place(label: NDArray[Any], block: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) how many of the same label and block come before, in this order."""
    group = np.lexsort((block, label))  # stable
    key = np.stack([label, block]).astype(np.int64)[:, group]
    starts = np.flatnonzero((np.diff(key, prepend=-9) != 0).any(0))
    place = np.empty(len(label), np.int64)
    place[group] = np.arange(len(label)) - np.repeat(starts, np.diff(starts, append=len(label)))
    return place


def _matched(
    order: NDArray[np.intp],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    iou: Array,
    absent: Bools,
    views: Sequence[Bools],
    levels: Array,
) -> NDArray[np.uint8]:
    """(V, T, D) outcomes."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    high = np.flatnonzero(iou >= min(levels.min(), 1 - 1e-10))
    i, j = (side[high] for side in pairs)
    by = np.lexsort((j, place[i]))  # of equals the last true one wins, as with COCO
    starts = np.searchsorted(place[i][by], np.arange(len(order) + 1))
    outcomes = np.empty((len(absent), len(levels), len(order)), np.uint8)
    outside, ignored = ~views[0], ~views[1]
    _match(order, starts, j[by], iou[high][by], absent, outside, ignored, levels, outcomes)
    return outcomes


@jit
def _match(order, starts, wanted, iou, absent, outside, ignored, levels, outcomes):  # type: ignore[no-untyped-def]
    for v in range(len(absent)):
        for t in range(len(levels)):
            taken = np.zeros(ignored.shape[1], np.bool_)
            level = min(levels[t], 1 - 1e-10)
            for d in range(len(order)):
                own = order[d]
                if absent[v, own]:
                    outcomes[v, t, own] = NOTHING
                    continue
                best, most, idle = -1, level, False
                for k in range(starts[d], starts[d + 1]):
                    g = wanted[k]
                    # One that counts is taken before one that does not, whatever their IoU.
                    if taken[g] or (ignored[v, g] and best >= 0 and not idle):
                        continue
                    if iou[k] >= (level if idle and not ignored[v, g] else most):
                        best, most, idle = g, iou[k], ignored[v, g]
                if best >= 0:
                    taken[best] = True
                    outcomes[v, t, own] = NOTHING if idle else HIT
                else:
                    outcomes[v, t, own] = NOTHING if outside[v, own] else FALSE


def _blocks(
    found: Candidates,
    wanted: Candidates,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    iou: Array,
) -> NDArray[np.int64]:
    """(D,) the block of the true object that each overlaps best, if that counts; else its own."""
    block = found.block.copy()
    good = np.flatnonzero((iou >= IOUS[0]) & (wanted.block[pairs[1]] >= 0))
    good = good[np.argsort(iou[good], kind="stable")]  # the best is written last
    block[pairs[0][good]] = wanted.block[pairs[1][good]]
    return block


# --- what follows ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curves:
    """Of R resamplings, L labels and T levels of IoU; NaN of labels without true objects.

    ap, recall: (R, L, T). precision: (R, L, T, 101) at `RECALLS`, the best from there on.
    """

    ap: Array
    recall: Array
    precision: Array


def curves(
    ranking: Ranking,
    labels: Sequence[int],
    *,
    boxes: bool = False,
    view: int = ALL,
    levels: Sequence[int] = range(len(IOUS)),
    weights: Array | None = None,
) -> Curves:
    """Precision at all recalls; `weights` (R, blocks): how often each block is taken."""
    if weights is None:
        last = max((b.max() for b in (ranking.block, ranking.true_block) if len(b)), default=0)
        weights = np.ones((1, int(last) + 1))
    shape = (len(weights), len(labels), len(levels))
    result = Curves(np.full(shape, np.nan), np.full(shape, np.nan), np.full((*shape, 101), np.nan))
    order = np.argsort(-ranking.score, kind="stable")
    outcomes = (ranking.boxes if boxes else ranking.masks)[view]
    for at, label in enumerate(labels):
        own = order[ranking.label[order] == label]
        true = ranking.true_block[(ranking.true_label == label) & ranking.counts[view]]
        number = np.bincount(true, minlength=weights.shape[1]) @ weights.T
        part = np.ascontiguousarray(outcomes[np.ix_(list(levels), own)])
        precision = result.precision[:, at]
        _curves(part, ranking.block[own], weights, number, result.recall[:, at], precision)
    result.ap[:] = result.precision.mean(-1)
    return result


@jit
def _curves(outcomes, block, weights, number, recalls, precisions):  # type: ignore[no-untyped-def]
    """Fill in recalls (R, T) and precisions (R, T, 101) where there is something to find."""
    levels, count = outcomes.shape
    recall, precision = np.empty(count), np.empty(count)
    for r in range(len(weights)):
        if number[r] == 0:
            continue
        for t in range(levels):
            hits = alarms = 0.0
            n = 0
            for d in range(count):  # between hits precision only falls
                if outcomes[t, d] == HIT:
                    hits += weights[r, block[d]]
                    recall[n] = hits / number[r]
                    precision[n] = hits / (alarms + hits + 2.220446049250313e-16)
                    n += 1
                elif outcomes[t, d] == FALSE:
                    alarms += weights[r, block[d]]
            for k in range(n - 1, 0, -1):
                precision[k - 1] = max(precision[k - 1], precision[k])
            recalls[r, t] = recall[n - 1] if n else 0.0
            k = 0
            for i in range(len(RECALLS)):
                while k < n and recall[k] < RECALLS[i]:
                    k += 1
                precisions[r, t, i] = precision[k] if k < n else 0.0


MEASURES = ("ap", "ap50", "ap75", "ar", "ar100")


def averages(
    ranking: Ranking,
    labels: Sequence[int],
    *,
    boxes: bool = False,
    view: int = ALL,
    weights: Array | None = None,
) -> dict[str, Array]:
    """Name -> (R,): means over the labels that have true objects, by the IoU of masks or boxes.

    ap: mean over the IoU levels 0.50 to 0.95 of the area under the curve of precision and recall.
    ap50, ap75: at one level. ar: recall of all objects, mean over the levels. ar100, of all sizes
    only: the same of the 100 best in each block of ground, which is to a scene what a chip is to
    a data set.
    """
    found = curves(ranking, labels, boxes=boxes, view=view, weights=weights)
    result = {
        "ap": _mean(found.ap),
        "ap50": _mean(found.ap[..., 0]),
        "ap75": _mean(found.ap[..., 5]),
        "ar": _mean(found.recall),
    }
    if view == ALL:
        outcomes = ranking.boxes if boxes else ranking.masks
        if (outcomes[ALL] != outcomes[CAPPED]).any():  # mostly no block has that many
            found = curves(ranking, labels, boxes=boxes, view=CAPPED, weights=weights)
        result["ar100"] = _mean(found.recall)
    return result


def _mean(values: Array) -> Array:
    """(R,) over all but the first axis, without NaN."""
    flat = values.reshape(len(values), -1)
    known = ~np.isnan(flat)
    number = known.sum(1)
    total = np.where(known, flat, 0).sum(1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
