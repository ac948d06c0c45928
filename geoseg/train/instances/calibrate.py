"""Scores of objects that can be believed, and the threshold, out of validation blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from geoseg.metrics import Calibration, calibration_error
from geoseg.train.calibrate import numbers
from geoseg.train.instances.match import Verdict
from geoseg.train.instances.validate import (
    BINS,
    ObjectBlocks,
    Predict,
    Tally,
    best_threshold,
    scores,
    verdicts,
)

_ENOUGH = 10  # right ones, and wrong ones, from which on a curve through them means something
_LONGEST = 20.0  # temperature
_NEAREST = 1e-6  # to 0 and 1 that scores are looked at


def examine(predict: Predict, blocks: ObjectBlocks, names: Sequence[str]) -> dict[str, Any]:
    """Temperature, bias, threshold and validation scores, ready for JSON."""
    found = list(verdicts(predict, blocks, range(len(blocks))))
    said = np.concatenate([v.scores for _, v in found])
    right = np.concatenate([v.right for _, v in found])
    temperature, bias = fit_platt(said, right)
    tallies = {sheet.place: Tally.empty(len(names)) for sheet, _ in blocks.blocks}
    trust = Calibration()
    for place, verdict in found:
        honest = calibrated(verdict.scores, temperature, bias)
        trust.add(honest, verdict.right)
        tallies[place].add(Verdict(verdict.labels, honest, verdict.right, verdict.truths))
    index, f1 = best_threshold(tallies)
    seen = scores(tallies, names)
    error = float(calibration_error(trust.table)) if len(said) else math.nan
    return {
        "temperature": temperature,
        "bias": bias,
        "threshold": index / BINS,
        **_known({"calibration_error": error}),
        "ap50": seen.judged,
        "f1": f1,
        "validation": {p: _row(t, index, seen.places[p]) for p, t in tallies.items()},
        "classes": {n: _known({"ap50": seen.classes[n]}) for n in names},
        "labels": list(names),
    }


def fit_platt(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[float, float]:
    """(T, b) so that sigmoid(logit(score) / T + b) is how often such objects are right.

    Platt 1999, with his two targets a little inside of 0 and 1, which keep the curve finite. With
    too few objects to say so, scores stay as they are: (1, 0).
    """
    hits, alarms = int(right.sum()), int((~right).sum())
    if min(hits, alarms) < _ENOUGH:
        return 1.0, 0.0
    x = logit(np.clip(scores, _NEAREST, 1 - _NEAREST))
    target = np.where(right, (hits + 1) / (hits + 2), 1 / (alarms + 2))

    def cross_entropy(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = values[0] * x + values[1]
        off = expit(z) - target
        loss = (np.logaddexp(0, z) - target * z).mean()
        return float(loss), np.array([(off * x).mean(), off.mean()])

    # scores that say the less the surer they are would turn the order round: never
    limits = [(1 / _LONGEST, _LONGEST), (None, None)]
    found = minimize(cross_entropy, np.array([1.0, 0.0]), jac=True, bounds=limits).x
    return float(1 / found[0]), float(found[1])


def calibrated(scores: NDArray[np.float64], temperature: float, bias: float) -> NDArray[np.float64]:
    """The scores that a bundle with these numbers gives."""
    honest: NDArray[np.float64] = expit(
        logit(np.clip(scores, _NEAREST, 1 - _NEAREST)) / temperature + bias
    )
    return honest


def _row(tally: Tally, index: int, ap50: float) -> dict[str, float]:
    """The scores of one place at the threshold; no IoU: objects have none together."""
    counted = {k: v for k, v in numbers(tally.scores(index)).items() if k != "iou"}
    return {**_known({"ap50": ap50}), **counted, "objects": int(tally.truths.sum())}


def _known(values: dict[str, float]) -> dict[str, float]:
    """Those that are numbers, as JSON knows no NaN."""
    return {name: round(v, 4) for name, v in values.items() if not math.isnan(v)}
