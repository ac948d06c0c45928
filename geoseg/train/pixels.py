"""Models that give each pixel a class: what their training has of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from geoseg import models
from geoseg.data.sheets import Sheet
from geoseg.data.split import VALIDATE
from geoseg.errors import ModelError
from geoseg.grid import Tiling
from geoseg.metrics import IGNORE, Confusion
from geoseg.train.augment import Augment
from geoseg.train.calibrate import examine
from geoseg.train.losses import loss
from geoseg.train.task import Predict, Task
from geoseg.train.validate import Scores, confusions, labels_of, scores
from geoseg.train.windows import Blank, Blocks, Windows

_TERMS = {
    "cross_entropy": "cross entropy",
    "focal": "focal",
    "dice": "Dice",
    "jaccard": "Jaccard",
    "lovasz": "Lovász",
    "tversky": "Tversky",
    "boundary": "boundary",
}


class PixelTask(Task):
    """Logits (N, K, H, W) against labels (N, H, W)."""

    outlines = False
    measure = "iou"

    def windows(self, sheets: Sequence[Sheet], blank: Blank) -> Dataset[Any]:
        return Windows(sheets, self.config, blank)

    def collate(self, items: list[Any]) -> tuple[Tensor, Tensor]:
        images, targets = default_collate(items)
        return images, targets

    def augment(
        self, augment: Augment, images: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        return augment(images, targets, generator)

    def counts(self, targets: Tensor) -> Tensor:
        """By their labelled pixels."""
        return (targets != IGNORE).sum((1, 2)).float()

    def losses(self, network: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        logits = network(images)
        if logits.shape[2:] != targets.shape[1:]:
            raise ModelError(
                f"the network gives {tuple(logits.shape)} for {tuple(images.shape)}: "
                "model.arguments do not fit each other"
            )
        return {"loss": loss(logits, targets, self.config.loss, gsd=self.config.data.gsd)}

    def empty(self, count: int, device: torch.device) -> Tensor:
        chip = self.config.schedule.chip
        return torch.zeros((count, chip, chip), dtype=torch.uint8, device=device)

    def blocks(self, sheets: Sequence[Sheet], blank: Blank) -> Blocks:
        return Blocks(sheets, VALIDATE, blank)

    def answer(self, output: Tensor) -> Tensor:
        """(K, h, w) logits."""
        return output[0].float()

    def counted(
        self, predict: Predict, blocks: Blocks, chosen: Iterable[int]
    ) -> dict[str, NDArray[np.int64]]:
        found = confusions(predict, blocks, chosen, self.config.data)
        return {place: confusion.matrix for place, confusion in found.items()}

    def scores(self, counts: Mapping[str, NDArray[np.int64]]) -> Scores:
        found = {}
        for place, matrix in counts.items():
            found[place] = Confusion(len(matrix))
            found[place].matrix = matrix
        return scores(found, self.config.data)

    def columns(self, places: Iterable[str]) -> list[str]:
        classes = labels_of(self.config.data)[self.config.data.first :]
        return [
            *("loss", "iou"),
            *(f"place/{name}" for name in places),
            *(f"class/{name}" for name in classes),
        ]

    def examine(self, predict: Predict, blocks: Blocks) -> dict[str, Any]:
        return examine(predict, blocks, self.config.data)

    def contract(self, result: Mapping[str, Any]) -> dict[str, Any]:
        several = len(self.classes) > 1
        stride = models.stride_of(result["architecture"], result["arguments"])
        return {
            "activation": "softmax" if several else "sigmoid",
            "tiling": Tiling(stride=stride),
        }

    @property
    def limits(self) -> str:
        chosen = ", and the threshold chosen," if len(self.classes) == 1 else ""
        return _LIMITS.format(threshold=chosen)

    def terms(self) -> str:
        own = self.config.loss
        return " + ".join(f"{n} ({w:g})" for key, n in _TERMS.items() if (w := getattr(own, key)))

    def verdict(self, result: Mapping[str, Any]) -> str:
        each = ", ".join(
            f"{place} {row['iou']:.3f}"
            for place, row in result["validation"].items()
            if "iou" in row
        )
        chosen = f" (step {result['best_step']} of {result['steps_done']})"
        return f"validation IoU {result['iou']:.3f}{chosen}: {each}"


_LIMITS = """\
The probabilities are calibrated{threshold} on ground that was kept out of training, mostly in the
places that trained; on places never seen both they and the scores are worse. Touching objects of
a class come out as one polygon.
"""
