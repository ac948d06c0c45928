"""Honest probabilities: one temperature, fitted on validation data (Guo et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def fit_temperature(
    logits: NDArray[np.floating[Any]], truth: NDArray[Any], most: int = 1_000_000
) -> float:
    """The T that minimises the cross entropy of sigmoid(logits / T) with `truth` (0 or 1), flat.

    Of more than `most` pixels an even sample is used.
    """
    step = max(1, len(logits) // most)
    values, wanted = logits[::step].astype(np.float64), truth[::step] == 1

    def cross_entropy(log_temperature: float) -> float:
        z = np.where(wanted, values, -values) * math.exp(-log_temperature)
        return float(np.logaddexp(0, -z).mean())

    return math.exp(_minimum(cross_entropy, -2.0, 2.0))


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is least in low..high, by the golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > 1e-3:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2
