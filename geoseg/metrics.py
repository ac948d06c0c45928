"""Predictions against truth: pixels (streaming) and polygons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

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


def match_polygons(prediction: ArrayLike, truth: ArrayLike, iou: float = 0.5) -> Scores:
    """Objects found: pairs of an IoU of at least `iou`, best first, each polygon used once.

    The measure of the SpaceNet challenges (Van Etten et al. 2018). Both are sequences of valid
    shapely polygons in one CRS; above an IoU of 0.5 pairs are unique without any choice.
    """
    found = np.asarray(prediction, dtype=object)
    wanted = np.asarray(truth, dtype=object)
    if not len(found) or not len(wanted):
        return Scores(0, len(found), len(wanted))
    i, j = shapely.STRtree(wanted).query(found, predicate="intersects")
    common = shapely.area(shapely.intersection(found[i], wanted[j]))
    union = shapely.area(found)[i] + shapely.area(wanted)[j] - common
    overlap = common / np.where(union > 0, union, 1)
    used_found, used_wanted = np.zeros(len(found), bool), np.zeros(len(wanted), bool)
    hits = 0
    for k in np.argsort(-overlap, kind="stable"):
        if overlap[k] < iou:
            break
        if not used_found[i[k]] and not used_wanted[j[k]]:
            used_found[i[k]] = used_wanted[j[k]] = True
            hits += 1
    return Scores(hits, len(found) - hits, len(wanted) - hits)
