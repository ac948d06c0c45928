"""Validation of objects: average precision and F1 at an IoU of 0.5, of each place.

What is kept of all the pictures are counts by score, which add up over blocks and processes, as
those of pixels do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from torch import Tensor

from geoseg.data.sheets import Sheet
from geoseg.metrics import IGNORE, Scores, ratio
from geoseg.predictions import Detections
from geoseg.train.instances.match import Truth, Verdict, judged, packed
from geoseg.train.instances.targets import targets_of
from geoseg.train.validate import mean
from geoseg.train.windows import Blank, Blocks

BINS = 1000  # of the scores 0..1
_RECALLS = np.linspace(0, 1, 101)  # at which COCO reads the precision

Predict = Callable[[Tensor], Detections]  # image (C, h, w) -> its objects


class ObjectBlocks(Blocks):
    """The blocks of a part with a halo: (place, image (C, h, w) float32, target, its objects).

    As `Blocks`, whose target tells which ground is judged; the objects of the halo are known, too.
    """

    def __init__(self, sheets: Sequence[Sheet], part: int, blank: Blank, first: int) -> None:
        super().__init__(sheets, part, blank)
        self.first = first

    def truth(self, index: int, target: Tensor) -> Truth:
        sheet, _ = self.blocks[index]
        assert sheet.outlines is not None
        window = self.window(index)
        found = targets_of(
            sheet.outlines,
            Affine.translation(window.col, window.row),
            np.ones(target.shape, bool),
            first=self.first,
        )
        masks = packed(found["masks"].numpy())
        return Truth(found["labels"].numpy(), masks, target.numpy() != IGNORE)


def verdicts(
    predict: Predict, blocks: ObjectBlocks, chosen: Iterable[int]
) -> Iterator[tuple[str, Verdict]]:
    """Place and verdict of the chosen blocks."""
    for i in chosen:
        place, image, target = blocks[i]
        yield place, judged(predict(image), blocks.truth(i, target))


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one place, for K classes.

    counts: (K, 2 * BINS + 1) int64: wrong and right detections by score, and true objects.
    """

    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, classes: int) -> Tally:
        return cls(np.zeros((classes, 2 * BINS + 1), np.int64))

    def add(self, verdict: Verdict) -> None:
        bins = np.clip((verdict.scores * BINS).astype(np.int64), 0, BINS - 1)
        np.add.at(self.wrong, (verdict.labels, bins), ~verdict.right)
        np.add.at(self.right, (verdict.labels, bins), verdict.right)
        np.add.at(self.truths, verdict.truths, 1)

    @property
    def wrong(self) -> NDArray[np.int64]:
        return self.counts[:, :BINS]

    @property
    def right(self) -> NDArray[np.int64]:
        return self.counts[:, BINS : 2 * BINS]

    @property
    def truths(self) -> NDArray[np.int64]:
        return self.counts[:, 2 * BINS]

    def precision(self) -> NDArray[np.float64]:
        """(K,) AP50: the mean of the best precisions at a recall of 0, 0.01 ... 1, as in COCO."""
        each = zip(self.wrong, self.right, self.truths, strict=True)
        return np.array([_average_precision(*one) for one in each])

    def f1(self) -> NDArray[np.float64]:
        """(BINS,) of all classes, when objects are delivered from each bin's lower edge on."""
        right = self.right.sum(0)[::-1].cumsum()[::-1]
        wrong = self.wrong.sum(0)[::-1].cumsum()[::-1]
        return ratio(2 * right, right + wrong + self.truths.sum())

    def scores(self, index: int) -> Scores:
        """Of all classes, at the threshold index / BINS."""
        right = int(self.right[:, index:].sum())
        return Scores(right, int(self.wrong[:, index:].sum()), int(self.truths.sum()) - right)


def _average_precision(
    wrong: NDArray[np.int64], right: NDArray[np.int64], truths: np.int64
) -> float:
    if not truths:
        return float("nan")
    hits, alarms = right[::-1].cumsum(), wrong[::-1].cumsum()  # from the surest down
    precision = ratio(hits, hits + alarms)
    precision = np.nan_to_num(precision)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a greater one
    at = np.searchsorted(hits / truths, _RECALLS, side="left")
    return float(np.append(best, 0)[at].mean())


@dataclass(frozen=True, slots=True)
class ObjectScores:
    """AP50 of masks (of boxes, where the network gives no masks) and the best F1 there is.

    places, classes: AP50 of each place (the mean of its classes) and each class (all places).
    """

    ap50: float
    f1: float
    places: Mapping[str, float]
    classes: Mapping[str, float]

    @property
    def judged(self) -> float:
        """By what the best weights are told from others; a place without objects says nothing."""
        return self.ap50 if self.ap50 == self.ap50 else 0.0

    def as_dict(self) -> dict[str, float]:
        """By the names that the log uses."""
        places = {f"place/{name}": value for name, value in self.places.items()}
        classes = {f"class/{name}": value for name, value in self.classes.items()}
        return {"ap50": self.ap50, "f1": self.f1, **places, **classes}


def scores(tallies: Mapping[str, Tally], names: Sequence[str]) -> ObjectScores:
    """The mean over the places, and of all classes by name."""
    places = {place: mean(t.precision()) for place, t in tallies.items()}
    total = Tally(np.sum([t.counts for t in tallies.values()], axis=0))
    classes = dict(zip(names, map(float, total.precision()), strict=True))
    _, f1 = best_threshold(tallies)
    return ObjectScores(mean(np.array(list(places.values()))), f1, places, classes)


def best_threshold(tallies: Mapping[str, Tally]) -> tuple[int, float]:
    """The bin from which on objects are best delivered, and the F1 then, the places' mean."""
    known = [t.f1() for t in tallies.values() if t.truths.any()]
    if not known:
        return BINS // 2, 0.0
    curve = np.mean(known, axis=0)
    usable = curve[BINS // 20 : -BINS // 20]
    if not usable.any():
        return BINS // 2, 0.0
    # the middle of the best stretch: between the scores of two objects nothing changes
    best = np.flatnonzero(usable == usable.max())
    index = BINS // 20 + int(best[len(best) // 2])
    return index, float(curve[index])
