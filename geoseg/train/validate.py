"""Validation: a confusion matrix per place, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoseg.data.config import DataConfig
from geoseg.metrics import Confusion, ratio
from geoseg.train.windows import Blocks

Predict = Callable[[Tensor], Tensor]  # image (C, h, w) -> logits (K, h, w) float32


@dataclass(frozen=True, slots=True)
class Scores:
    """IoU: of each place (the mean of its classes), each class (all places), and the places' mean.

    The background is no class here; a class that a place neither has nor was given there does
    not count in its mean. NaN where there is nothing to score.
    """

    iou: float
    places: Mapping[str, float]
    classes: Mapping[str, float]

    @property
    def judged(self) -> float:
        """By what the best weights are told from others."""
        return self.iou

    def as_dict(self) -> dict[str, float]:
        """By the names that the log uses."""
        places = {f"place/{name}": value for name, value in self.places.items()}
        return {"iou": self.iou, **places, **{f"class/{k}": v for k, v in self.classes.items()}}


def labels_of(data: DataConfig) -> list[str]:
    """The name of each label."""
    return [*(["background"] if data.background else []), *(c.name for c in data.classes)]


@torch.inference_mode()
def confusions(
    predict: Predict, blocks: Blocks, chosen: Iterable[int], data: DataConfig
) -> dict[str, Confusion]:
    """Place -> confusion matrix over the labels, for the chosen blocks; every place is there."""
    count = len(labels_of(data))
    found = {sheet.place: Confusion(count) for sheet, _ in blocks.blocks}
    for i in chosen:
        place, image, target = blocks[i]
        found[place].add(decided(predict(image)).cpu().numpy(), target.numpy())
    return found


def decided(logits: Tensor) -> Tensor:
    """(K, h, w) -> (h, w) labels: the likeliest, of one channel where it is positive."""
    return (logits[0] > 0).byte() if len(logits) == 1 else logits.argmax(0).byte()


def scores(found: Mapping[str, Confusion], data: DataConfig) -> Scores:
    places = {place: mean(ious(c.matrix)[data.first :]) for place, c in found.items()}
    matrices = [c.matrix for c in found.values()]
    total = ious(np.sum(matrices, axis=0))
    names = labels_of(data)
    classes = {names[i]: float(total[i]) for i in range(data.first, len(names))}
    return Scores(mean(np.array(list(places.values()))), places, classes)


def ious(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """(L,) IoU of each label of a confusion matrix (L, L); NaN where a label never occurs."""
    hits = np.diagonal(matrix)
    return ratio(hits, matrix.sum(0) + matrix.sum(1) - hits)


def mean(values: NDArray[np.float64]) -> float:
    """Of those that are numbers; NaN if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
