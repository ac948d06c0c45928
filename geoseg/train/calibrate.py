"""Honest probabilities and the best threshold, out of validation blocks.

The blocks are gone through twice, for the temperature and for the scores at it, so that no more
than a sample of the pixels is held.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geoseg.data.config import DataConfig
from geoseg.metrics import IGNORE, Confusion, ScoreHistogram, Scores
from geoseg.train.validate import Predict, ious, labels_of, mean
from geoseg.train.windows import Blocks

MOST = 2_000_000  # numbers in the sample that a temperature is fitted on

# On places never seen, networks tend to miss more than they invent: of three places left out of
# short runs of two recipes, all six had their best threshold below a half (0.03 to 0.46).
GENEROUS = 0.005


def examine(predict: Predict, blocks: Blocks, data: DataConfig) -> dict[str, Any]:
    """Temperature, threshold (of one class) and validation scores, ready for JSON."""
    temperature = fit_temperature(*sample(predict, blocks))
    judge = _one_class if len(data.channels) == 1 else _several_classes
    return {"temperature": temperature, **judge(predict, blocks, data, temperature)}


@torch.inference_mode()
def sample(
    predict: Predict, blocks: Blocks, most: int = MOST
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Logits (n, K) and labels (n,) of labelled pixels, evenly out of all blocks."""
    logits, labels = [], []
    for _, image, target in (blocks[i] for i in range(len(blocks))):
        known = target.numpy() != IGNORE
        said = predict(image).cpu().numpy()[:, known]
        step = max(1, -(-said.size * len(blocks) // most))
        logits.append(said[:, ::step].T)
        labels.append(target.numpy()[known][::step])
    return np.concatenate(logits), np.concatenate(labels)


def fit_temperature(logits: NDArray[np.floating[Any]], labels: NDArray[np.uint8]) -> float:
    """The T at which logits / T have the least cross entropy with the labels (Guo et al. 2017).

    logits: (n, K); of one channel a sigmoid is taken (labels 0 and 1), else a softmax.
    """
    values = logits.astype(np.float64)
    if values.shape[1] == 1:  # a softmax over 0 and the logit is its sigmoid
        values = np.concatenate([np.zeros_like(values), values], axis=1)
    # against the truth's own logit: cross entropy is the log of the sum of what is left
    values -= np.take_along_axis(values, labels[:, None].astype(np.intp), axis=1)
    top = values.max(axis=1, keepdims=True)

    def cross_entropy(log_temperature: float) -> float:
        gain = math.exp(-log_temperature)
        total = np.exp((values - top) * gain).sum(axis=1)
        return float((top[:, 0] * gain + np.log(total)).mean())

    return math.exp(_minimum(cross_entropy, -2.0, 2.0))


@torch.inference_mode()
def _one_class(
    predict: Predict, blocks: Blocks, data: DataConfig, temperature: float
) -> dict[str, Any]:
    histograms = {sheet.place: ScoreHistogram() for sheet, _ in blocks.blocks}
    for place, image, target in (blocks[i] for i in range(len(blocks))):
        probability = torch.sigmoid(predict(image)[0] / temperature)
        histograms[place].add(probability.cpu().numpy(), target.numpy())
    result, best = choose(histograms)
    total = _total(histograms)
    rows = {place: numbers(h.scores(best)) for place, h in histograms.items()}
    hits = total.scores(best)
    return {
        **result,
        "validation": rows,
        "classes": {data.classes[0].name: numbers(hits)},
        "labels": labels_of(data),
        "confusion": [
            [int(total.background[:best].sum()), hits.false_alarms],
            [hits.misses, hits.hits],
        ],
    }


def choose(histograms: dict[str, ScoreHistogram]) -> tuple[dict[str, Any], int]:
    """Threshold and what follows, from the histograms of places; and the bin it begins at.

    Every place counts the same. The threshold is the lowest, from 0.05 on, at which the mean IoU
    over the places is within GENEROUS of the best one's.
    """
    curve = np.mean([h.iou() for h in histograms.values()], axis=0)
    twentieth = len(curve) // 20
    usable = curve[twentieth:-twentieth]
    best = twentieth + int((usable >= usable.max() - GENEROUS).argmax())
    total = _total(histograms)
    result = {
        "threshold": float(total.edges[best]),
        "calibration_error": total.calibration_error(),
        "iou": float(curve[best]),
        "iou_best": float(curve.max()),
        "iou_at_half": float(curve[len(curve) // 2]),
    }
    return result, best


@torch.inference_mode()
def _several_classes(
    predict: Predict, blocks: Blocks, data: DataConfig, temperature: float
) -> dict[str, Any]:
    names, first = labels_of(data), data.first
    places = {sheet.place: Confusion(len(names)) for sheet, _ in blocks.blocks}
    trust = ScoreHistogram()  # of the likeliest class: is it true as often as it is said to be?
    for place, image, target in (blocks[i] for i in range(len(blocks))):
        confidence, label = torch.softmax(predict(image) / temperature, dim=0).max(dim=0)
        found, truth = label.cpu().numpy(), target.numpy()
        places[place].add(found, truth)
        right = np.where(truth == IGNORE, IGNORE, found == truth)
        trust.add(confidence.cpu().numpy(), right)
    total = Confusion(len(names))
    total.matrix = np.sum([c.matrix for c in places.values()], axis=0)
    of_places = {place: _row(c, names, first) for place, c in places.items()}
    every = [row["iou"] for row in of_places.values() if "iou" in row]
    return {
        "calibration_error": trust.calibration_error(),
        "iou": mean(np.array(every)) if every else 0.0,
        "validation": of_places,
        "classes": {names[i]: numbers(total.scores(i)) for i in range(first, len(names))},
        "labels": names,
        "confusion": total.matrix.tolist(),
    }


def _row(confusion: Confusion, names: list[str], first: int) -> dict[str, float]:
    """The scores of one place: the mean IoU of its classes, accuracy, and each class's IoU."""
    each = ious(confusion.matrix)
    accuracy = np.trace(confusion.matrix) / max(1, confusion.matrix.sum())
    row = {"iou": mean(each[first:]), "accuracy": float(accuracy)}
    row |= {names[i]: float(each[i]) for i in range(first, len(names))}
    return {name: round(value, 4) for name, value in row.items() if not math.isnan(value)}


def numbers(scores: Scores) -> dict[str, float]:
    """Those that are defined, as JSON knows no NaN."""
    return {name: value for name, value in scores.as_dict().items() if not math.isnan(value)}


def _total(histograms: dict[str, ScoreHistogram]) -> ScoreHistogram:
    total = ScoreHistogram()
    for h in histograms.values():
        total.objects += h.objects
        total.background += h.background
    return total


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
