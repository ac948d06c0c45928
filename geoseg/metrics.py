"""Predictions against truth: pixels (streaming) and polygons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from geoseg.jit import jit

IGNORE = 255


@dataclass(frozen=True, slots=True)
class Scores:
    """Counts of one class and what follows from them; a ratio without cases is NaN."""

    hits: int = 0
    false_alarms: int = 0
    misses: int = 0

    def __add__(self, other: Scores) -> Scores:
        return Scores(
            self.hits + other.hits,
            self.false_alarms + other.false_alarms,
            self.misses + other.misses,
        )

    @property
    def precision(self) -> float:
        return _ratio(self.hits, self.hits + self.false_alarms)

    @property
    def recall(self) -> float:
        return _ratio(self.hits, self.hits + self.misses)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.hits, 2 * self.hits + self.false_alarms + self.misses)

    @property
    def iou(self) -> float:
        return _ratio(self.hits, self.hits + self.false_alarms + self.misses)

    def as_dict(self) -> dict[str, float]:
        """The four ratios, rounded, for reports."""
        names = ("iou", "f1", "precision", "recall")
        return {name: round(getattr(self, name), 4) for name in names}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


class Confusion:
    """Streaming confusion matrix: `add` as many pieces as there are, in any order."""

    def __init__(self, classes: int = 2) -> None:
        self.matrix = np.zeros((classes, classes), np.int64)  # [truth, prediction]

    def add(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        """Arrays of class ids of one shape; where the truth is IGNORE, nothing is counted."""
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ")
        known = truth != IGNORE
        n = len(self.matrix)
        pairs = truth[known].astype(np.int64) * n + prediction[known]
        self.matrix += np.bincount(pairs, minlength=n * n).reshape(n, n)

    def scores(self, class_id: int = 1) -> Scores:
        hits = int(self.matrix[class_id, class_id])
        return Scores(
            hits,
            int(self.matrix[:, class_id].sum()) - hits,
            int(self.matrix[class_id].sum()) - hits,
        )


class ScoreHistogram:
    """Streaming counts of pixels by score, for thresholds and calibration after the fact.

    Scores 0..1 fall into `bins` equal bins; `objects` and `background` count the pixels of each
    bin whose truth is 1 or 0.
    """

    def __init__(self, bins: int = 1000) -> None:
        self.objects = np.zeros(bins, np.int64)
        self.background = np.zeros(bins, np.int64)

    def add(self, scores: NDArray[np.floating[Any]], truth: NDArray[Any]) -> None:
        """scores and truth of one shape; truth 0, 1 or IGNORE."""
        bins = len(self.objects)
        index = np.clip((scores * bins).astype(np.int64), 0, bins - 1)
        self.objects += np.bincount(index[truth == 1], minlength=bins)
        self.background += np.bincount(index[truth == 0], minlength=bins)

    @property
    def edges(self) -> NDArray[np.float64]:
        """The lower edge of each bin: a threshold there takes the bin and all above."""
        return np.arange(len(self.objects)) / len(self.objects)

    def iou(self) -> NDArray[np.float64]:
        """The IoU for a threshold at each of `edges`."""
        hits = self.objects[::-1].cumsum()[::-1]
        alarms = self.background[::-1].cumsum()[::-1]
        iou: NDArray[np.float64] = hits / np.maximum(1, self.objects.sum() + alarms)
        return iou

    def scores(self, index: int) -> Scores:
        """Scores at the threshold `edges[index]`."""
        hits, alarms = int(self.objects[index:].sum()), int(self.background[index:].sum())
        return Scores(hits, alarms, int(self.objects[:index].sum()))

    def calibration_error(self, groups: int = 15) -> float:
        """Expected calibration error (Naeini et al. 2015) of the scores as probabilities."""
        bins = len(self.objects)
        group = np.arange(bins) * groups // bins
        count = np.bincount(group, self.objects + self.background, minlength=groups)
        middle = (np.arange(bins) + 0.5) / bins
        said = np.bincount(group, (self.objects + self.background) * middle, minlength=groups)
        seen = np.bincount(group, self.objects, minlength=groups)
        return float(np.abs(said - seen).sum() / max(1, count.sum()))


class Calibration:
    """Streaming sums for a reliability diagram: how often is right what is said to be likely?

    table: (4, groups) float64: per group of confidence the number of cases, the sum of their
    confidences, how many came true, and the sum of (confidence - outcome)². torchmetrics'
    CalibrationError keeps every score until the end, so it cannot see a whole scene.
    """

    def __init__(self, groups: int = 15) -> None:
        self.table = np.zeros((4, groups))

    def add(self, confidence: NDArray[np.floating[Any]], came_true: NDArray[Any]) -> None:
        """Confidences 0..1 and outcomes (bool, or 0 and 1), of one shape."""
        groups = self.table.shape[1]
        said = confidence.ravel().astype(np.float64)
        seen = came_true.ravel().astype(np.float64)
        group = np.clip((said * groups).astype(np.int64), 0, groups - 1)
        for row, weights in enumerate((None, said, seen, (said - seen) ** 2)):
            self.table[row] += np.bincount(group, weights, minlength=groups)


def calibration_error(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected calibration error (Naeini et al. 2015) of tables (..., 4, groups): (...)."""
    count, said, seen = table[..., 0, :], table[..., 1, :], table[..., 2, :]
    return ratio(np.abs(said - seen).sum(-1), count.sum(-1))


def brier_score(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean squared difference of confidence and outcome (Brier 1950) of tables (..., 4, groups)."""
    return ratio(table[..., 3, :].sum(-1), table[..., 0, :].sum(-1))


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """part / whole, elementwise; NaN where the whole is 0."""
    out = np.full(np.broadcast_shapes(np.shape(part), np.shape(whole)), np.nan)
    np.divide(part, whole, out=out, where=np.asarray(whole) != 0)
    return out


def boundary(labels: NDArray[Any], label: int) -> NDArray[np.bool_]:
    """(h, w): pixels of `label` with another known label on one of their four sides."""
    own: NDArray[np.bool_] = labels == label
    other = ~own & (labels != IGNORE)
    beside = np.zeros_like(own)
    beside[1:] |= other[:-1]
    beside[:-1] |= other[1:]
    beside[:, 1:] |= other[:, :-1]
    beside[:, :-1] |= other[:, 1:]
    beside &= own
    return beside


def boundary_counts(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    label: int,
    tolerance: float,
    core: tuple[slice, slice] = (slice(None), slice(None)),
) -> NDArray[np.int64]:
    """(4,) boundary pixels of a class in `core`: predicted near a true one, predicted, and so on.

    For the boundary F1 (Csurka et al. 2013; Perazzi et al. 2016): [predicted and a true one
    within `tolerance` pixels, predicted, true and a predicted one within it, true]. Counts of
    cores that partition a scene add up to those of the whole, if the arrays reach `tolerance` + 1
    pixels beyond each core. Both arrays must be IGNORE at the same pixels.
    """
    found, wanted = boundary(prediction, label), boundary(truth, label)
    counts = []
    for own, other in ((found, wanted), (wanted, found)):
        near = 0
        if own[core].any() and other.any():
            inside = np.zeros_like(own)
            inside[core] = own[core]
            rows, cols = np.nonzero(inside)
            near = _near(rows, cols, other, tolerance)
        counts += [near, int(own[core].sum())]
    return np.array(counts, np.int64)


@jit
def _near(rows: NDArray[Any], cols: NDArray[Any], other: NDArray[Any], tolerance: float) -> int:
    """How many pixels have one of `other` (H, W) within `tolerance` pixels."""
    height, width = other.shape
    reach = math.floor(tolerance)
    count = 0
    for k in range(len(rows)):
        row, col = rows[k], cols[k]
        near = False
        for r in range(max(row - reach, 0), min(row + reach + 1, height)):
            for c in range(max(col - reach, 0), min(col + reach + 1, width)):
                near |= other[r, c] and (r - row) ** 2 + (c - col) ** 2 <= tolerance**2
            if near:
                break
        count += near
    return count


@dataclass(frozen=True, slots=True)
class Matches:
    """Pairs of polygons: index into the prediction, index into the truth, and their IoU."""

    found: NDArray[np.int64]
    wanted: NDArray[np.int64]
    iou: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Pairs of polygons whose bounding boxes overlap: (P,) each.

    found, wanted: index into the prediction and into the truth. common: area of the intersection.
    iou, box_iou: of the polygons, and of their boxes.
    """

    found: NDArray[np.int64]
    wanted: NDArray[np.int64]
    common: NDArray[np.float64]
    iou: NDArray[np.float64]
    box_iou: NDArray[np.float64]

    def take(self, rows: NDArray[Any]) -> Overlaps:
        return Overlaps(*(getattr(self, name)[rows] for name in self.__slots__))

    def matches(self, iou: float) -> Matches:
        """Pairs of an IoU of at least `iou`, best first, each polygon used once."""
        used_found = np.zeros(self.found.max(initial=-1) + 1, bool)
        used_wanted = np.zeros(self.wanted.max(initial=-1) + 1, bool)
        pairs = []
        for k in np.argsort(-self.iou, kind="stable"):
            i, j = self.found[k], self.wanted[k]
            if self.iou[k] < iou:
                break
            if not used_found[i] and not used_wanted[j]:
                used_found[i] = used_wanted[j] = True
                pairs.append(k)
        chosen = np.array(pairs, np.int64)
        return Matches(self.found[chosen], self.wanted[chosen], self.iou[chosen])


def overlapping(prediction: ArrayLike, truth: ArrayLike) -> Overlaps:
    """What overlaps, of two sequences of valid shapely polygons in one CRS."""
    found, wanted = np.asarray(prediction, dtype=object), np.asarray(truth, dtype=object)
    if not len(found) or not len(wanted):
        return Overlaps(*np.empty((2, 0), np.int64), *np.empty((3, 0)))
    i, j = shapely.STRtree(wanted).query(found)
    common = np.zeros(len(i))
    met = np.flatnonzero(shapely.intersects(found[i], wanted[j]))
    common[met] = shapely.area(shapely.intersection(found[i[met]], wanted[j[met]]))
    one, two = shapely.bounds(found)[i], shapely.bounds(wanted)[j]
    sides = np.minimum(one[:, 2:], two[:, 2:]) - np.maximum(one[:, :2], two[:, :2])
    areas = [np.prod(box[:, 2:] - box[:, :2], axis=1) for box in (one, two)]
    return Overlaps(
        i,
        j,
        common,
        _over_union(common, shapely.area(found)[i], shapely.area(wanted)[j]),
        _over_union(np.prod(sides.clip(0), axis=1), *areas),
    )


def _over_union(
    common: NDArray[np.float64], one: NDArray[np.float64], two: NDArray[np.float64]
) -> NDArray[np.float64]:
    union = one + two - common
    return common / np.where(union > 0, union, 1)


def match_polygons(prediction: ArrayLike, truth: ArrayLike, iou: float = 0.5) -> Scores:
    """Objects found, counted: see `pair_polygons`."""
    found, wanted = np.asarray(prediction, dtype=object), np.asarray(truth, dtype=object)
    hits = len(pair_polygons(found, wanted, iou).iou)
    return Scores(hits, len(found) - hits, len(wanted) - hits)


def pair_polygons(prediction: ArrayLike, truth: ArrayLike, iou: float = 0.5) -> Matches:
    """Objects found: pairs of an IoU of at least `iou`, best first, each polygon used once.

    The measure of the SpaceNet challenges (Van Etten et al. 2018). Both are sequences of valid
    shapely polygons in one CRS; where the polygons of each do not overlap each other, pairs above
    an IoU of 0.5 are unique without any choice.
    """
    return overlapping(prediction, truth).matches(iou)
