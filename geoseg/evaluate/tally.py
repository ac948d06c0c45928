"""What is counted, and the measures that follow from it; both also for many resamplings at once.

Every measure is a function of sums, or of a ranking of objects of which each belongs to a block
of ground. So blocks can be counted on their own, added up for a scene or for all, and drawn again
and again for an interval (`bootstrap`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geoseg.average_precision import MEASURES as AVERAGES
from geoseg.average_precision import Ranking, averages
from geoseg.metrics import brier_score, calibration_error, ratio

Array = NDArray[np.float64]

GROUPS = 15  # of confidence, in a reliability diagram
RESAMPLES = 1000
SEED = 20_240_601
FEW = 10  # blocks; of fewer, an interval says little
_AT_ONCE = 100  # resamplings that are drawn together: memory is that times the blocks


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over pixels and objects; L labels, G groups; all arrays may have leading axes.

    confusion: (..., L, L) pixels, [truth, prediction].
    edges: (..., L, 4) boundary pixels, as `metrics.boundary_counts` gives them.
    objects: (..., L, 3) hits, false alarms, misses.
    calibration: (..., 4, G), see `metrics.Calibration`; of objects where these have scores.
    relations: (..., L, 4) sum of the IoU of the hits, predicted objects, true ones that are split,
    predicted ones that are merged; see evaluate/objects.py.
    """

    confusion: Array
    edges: Array
    objects: Array
    calibration: Array
    relations: Array

    @classmethod
    def zeros(cls, labels: int, blocks: int) -> Self:
        """Of so many blocks: the leading axis."""
        shapes = ((labels, labels), (labels, 4), (labels, 3), (4, GROUPS), (labels, 4))
        return cls(*(np.zeros((blocks, *shape)) for shape in shapes))

    @classmethod
    def concatenate(cls, tallies: Sequence[Tally]) -> Self:
        """All blocks of all of them, one after the other."""
        return cls(*(np.concatenate([getattr(t, f.name) for t in tallies]) for f in fields(cls)))

    def map(self, function: Callable[[Array], Array]) -> Tally:
        """The function applied to every array."""
        return Tally(*(function(getattr(self, f.name)) for f in fields(self)))

    def sum(self) -> Tally:
        """Over the blocks."""
        return self.map(lambda array: array.sum(0))

    def weighted(self, weights: Array) -> Tally:
        """Sums over the blocks, each taken `weights` (R, blocks) times: leading axis R."""
        return self.map(lambda array: np.tensordot(weights, array, axes=1))

    def classes(self, first: int) -> range:
        """The labels of all but the background."""
        return range(first, self.confusion.shape[-1])

    def __getitem__(self, blocks: Any) -> Tally:
        return self.map(lambda array: array[blocks])

    def __len__(self) -> int:
        return len(self.confusion)


def measures(tally: Tally, first: int) -> dict[str, Array]:
    """Name -> (...,), for all leading axes of the tally; NaN where there is nothing to measure.

    Means over the classes leave out the background (label 0, if `first` is 1) and classes that
    neither occur nor were predicted. Object measures are of all classes together; the area error
    is by how much more ground (or less) is predicted as any of them.
    """
    each = class_measures(tally)
    true, found = tally.confusion[..., first:, :], tally.confusion[..., :, first:]
    area = true.sum((-2, -1))
    result = {name: _mean(each[name][..., first:]) for name in _PIXELS}
    result["accuracy"] = ratio(
        np.trace(tally.confusion, axis1=-2, axis2=-1), tally.confusion.sum((-2, -1))
    )
    result |= {f"object_{name}": value for name, value in _scores(tally.objects.sum(-2)).items()}
    result |= _relations(tally.objects.sum(-2), tally.relations.sum(-2))
    error = ratio(found.sum((-2, -1)) - area, area)
    result["area_error"] = error if first else np.full_like(error, np.nan)  # all ground is a class
    result["ece"] = calibration_error(tally.calibration)
    result["brier"] = brier_score(tally.calibration)
    return result


_PIXELS = ("iou", "f1", "precision", "recall", "boundary_f1")


def class_measures(tally: Tally) -> dict[str, Array]:
    """Name -> (..., L): the measures of each label."""
    hits = np.diagonal(tally.confusion, axis1=-2, axis2=-1)
    alarms = tally.confusion.sum(-2) - hits
    misses = tally.confusion.sum(-1) - hits
    found_near, found, true_near, true = np.moveaxis(tally.edges, -1, 0)
    # as Csurka's F1 of precision and recall, but of counts summed over all blocks
    precision, recall = ratio(found_near, found), ratio(true_near, true)
    empty = (found == 0) ^ (true == 0)  # boundaries on one side only: nothing is right
    boundary_f1 = np.where(empty, 0.0, ratio(2 * precision * recall, precision + recall))
    nothing = (found > 0) & (true > 0) & (precision + recall == 0)
    return {
        "iou": ratio(hits, hits + alarms + misses),
        **_scores(np.stack([hits, alarms, misses], -1)),
        "boundary_f1": np.where(nothing, 0.0, boundary_f1),
        **{f"object_{name}": value for name, value in _scores(tally.objects).items()},
        **_relations(tally.objects, tally.relations),
    }


def _relations(objects: Array, relations: Array) -> dict[str, Array]:
    """Mean IoU of the hits; by how much too many objects are predicted (or too few); shares of
    the true objects that are split, and of the predicted ones that are merged."""
    iou, found, split, merged = np.moveaxis(relations, -1, 0)
    hits, true = objects[..., 0], objects[..., 0] + objects[..., 2]
    return {
        "object_iou": ratio(iou, hits),
        "count_error": ratio(found - true, true),
        "split_rate": ratio(split, true),
        "merge_rate": ratio(merged, found),
    }


def _scores(counts: Array) -> dict[str, Array]:
    """F1, precision and recall of (..., 3) hits, false alarms, misses."""
    hits, alarms, misses = np.moveaxis(counts, -1, 0)
    return {
        "f1": ratio(2 * hits, 2 * hits + alarms + misses),
        "precision": ratio(hits, hits + alarms),
        "recall": ratio(hits, hits + misses),
    }


def _mean(values: Array) -> Array:
    """Over the last axis, without NaN."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(-1), known.sum(-1))


# --- how sure: resampling blocks ------------------------------------------------------------


def ranked(ranking: Ranking | None, labels: range, weights: Array) -> dict[str, Array]:
    """Average precisions and recalls, name -> (R,), of blocks taken `weights` (R, blocks) times;
    those by boxes are called box_...; NaN without scores."""
    names = [prefix + name for prefix in ("", "box_") for name in AVERAGES]
    if ranking is None:
        return {name: np.full(len(weights), np.nan) for name in names}
    of = [averages(ranking, labels, boxes=boxes, weights=weights) for boxes in (False, True)]
    return dict(zip(names, [v for own in of for v in own.values()], strict=True))


def bootstrap(
    tallies: Sequence[Tally],
    strata: NDArray[Any],
    first: int,
    resamples: int = RESAMPLES,
    rankings: Sequence[Ranking | None] | None = None,
) -> list[dict[str, Array]]:
    """Measures of resampled blocks: for each tally (and its ranking), name -> (resamples,).

    Blocks of ground are drawn with replacement, since pixels beside each other are not
    independent (Efron & Tibshirani 1993, ch. 8); as many per stratum (scene) as it has. Scenes
    of few blocks are one stratum: drawing one of one would look like certainty. All tallies,
    which have the same blocks, are drawn alike: their differences are paired.
    """
    rankings = rankings or [None] * len(tallies)
    rng = np.random.default_rng(SEED)
    groups = _strata(strata)
    drawn: list[list[dict[str, Array]]] = [[] for _ in tallies]
    for start in range(0, resamples, _AT_ONCE):
        count = min(_AT_ONCE, resamples - start)
        weights = np.zeros((count, len(strata)))
        for own in groups:
            weights[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), count)
        for store, tally, ranking in zip(drawn, tallies, rankings, strict=True):
            sums = measures(tally.weighted(weights), first)
            store.append(sums | ranked(ranking, tally.classes(first), weights))
    return [
        {name: np.concatenate([s[name] for s in store]) for name in store[0]} for store in drawn
    ]


def _strata(names: NDArray[Any]) -> list[NDArray[np.intp]]:
    """The blocks of each scene; those of all small scenes together."""
    groups = [np.flatnonzero(names == name) for name in np.unique(names)]
    small = [own for own in groups if len(own) < FEW]
    large = [own for own in groups if len(own) >= FEW]
    return large + ([np.concatenate(small)] if small else [])


def interval(values: Array) -> tuple[float, float] | None:
    """The middle 95 % of resampled values; None where most of them are not defined."""
    known = values[~np.isnan(values)]
    if len(known) < max(1, len(values) // 2):
        return None
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)


def estimates(
    tally: Tally, strata: NDArray[Any], first: int, ranking: Ranking | None = None
) -> dict[str, dict[str, Any]]:
    """Name -> {value, low, high} of blocks (leading axis); no interval for a single block."""
    point = measures(tally.sum(), first)
    once = np.ones((1, len(tally)))
    point |= {n: v[0] for n, v in ranked(ranking, tally.classes(first), once).items()}
    drawn: Mapping[str, Array] = {}
    if len(tally) > 1:
        (drawn,) = bootstrap([tally], strata, first, rankings=[ranking])
    result = {}
    for name, value in point.items():
        low, high = (name in drawn and interval(drawn[name])) or (None, None)
        known = None if np.isnan(value) else float(value)
        result[name] = {"value": known, "low": low, "high": high}
    return result


def differences(
    tallies: Sequence[Tally],
    strata: NDArray[Any],
    first: int,
    found: Sequence[Mapping[str, Mapping[str, Any]]],
    rankings: Sequence[Ranking | None] | None = None,
) -> dict[str, dict[str, float | None]]:
    """Name -> {value, low, high}: the first of two less the second, drawn on the same blocks.

    found: of both, name -> {value, ...}; what one of them lacks has no difference.
    """
    drawn = bootstrap(tallies, strata, first, rankings=rankings)
    result: dict[str, dict[str, float | None]] = {}
    for name in drawn[0]:
        values = [side.get(name, {}).get("value") for side in found]
        if values[0] is not None and values[1] is not None:
            spread = interval(drawn[0][name] - drawn[1][name]) if len(strata) > 1 else None
            low, high = (plain(v) for v in spread) if spread else (None, None)
            result[name] = {"value": plain(values[0] - values[1]), "low": low, "high": high}
    return result


def plain(value: Any) -> float | None:
    """A number of six digits; None for NaN."""
    number = float(value)
    return None if math.isnan(number) else float(f"{number:.6g}")
