"""Models that find objects: what their training has of its own.

targets.py    polygons to the boxes and masks of a chip
windows.py    random windows with them
anchors.py    the sizes of anchors, measured
match.py      detections against the truth of a picture; validate.py: counts and scores
calibrate.py  honest scores, and the threshold
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from geoseg import models
from geoseg.data.sheets import Sheet
from geoseg.data.split import VALIDATE
from geoseg.errors import ConfigError
from geoseg.grid import Tiling, round_up
from geoseg.predictions import Detections
from geoseg.train.augment import Augment
from geoseg.train.config import ObjectTerm
from geoseg.train.instances import anchors
from geoseg.train.instances.calibrate import examine
from geoseg.train.instances.targets import CORNERS, Targets, collate
from geoseg.train.instances.validate import ObjectBlocks, ObjectScores, Tally, scores, verdicts
from geoseg.train.instances.windows import ObjectWindows
from geoseg.train.task import Predict, Task
from geoseg.train.windows import Blank

TILE = 512  # pixels, preferred: the size of picture that it learned from is not far
OVERLAP = (64, 256)  # pixels: at least and at most
MOST_OBJECTS = 0.95  # of them are no longer than the overlap of tiles

_NAMES: dict[str, str] = {
    "objectness": "objectness",
    "rpn_box": "boxes of proposals",
    "class": "class",
    "box": "box",
    "mask": "mask",
    "keypoint": "keypoints",
}


class ObjectTask(Task):
    """Boxes, classes and masks against those of each object; see geoseg/models/mask_rcnn.py."""

    outlines = True
    measure = "ap50"

    def check(self) -> None:
        if self.config.augment.cutmix:
            raise ConfigError(
                "augment.cutmix: it would cut objects in two that no label knows of, so a model "
                "of objects cannot learn from it: set it to 0"
            )
        if not self.config.data.background:
            raise ConfigError(
                "data.background: a model of objects tells them from what no label covers: leave "
                "it out, and give an aoi where not everything is labelled"
            )
        points = self.config.model.arguments.get("keypoints", 0)
        if points not in (0, CORNERS):
            raise ConfigError(
                f"model.arguments.keypoints: {points!r}, but what geoseg knows to learn are the "
                f"{CORNERS} corners of objects: {CORNERS} or 0"
            )

    def resolve(self, sheets: Sequence[Sheet]) -> tuple[dict[str, Any], list[str]]:
        if self.config.model.start:  # whose anchors belong to its weights
            return super().resolve(sheets)
        sizes, gsd = anchors.measured(sheets), self.config.data.gsd
        arguments = anchors.fitted(self.config.model.arguments, sizes, gsd)
        arguments.setdefault("picture", self.config.schedule.chip)  # what counts of objects mean
        return arguments, [anchors.said(arguments, gsd, len(sizes))]

    def windows(self, sheets: Sequence[Sheet], blank: Blank) -> Dataset[Any]:
        return ObjectWindows(sheets, self.config, blank, corners=self._points > 0)

    def collate(self, items: list[Any]) -> tuple[Tensor, Targets]:
        return collate(items)

    def augment(
        self, augment: Augment, images: Tensor, targets: Targets, generator: torch.Generator
    ) -> tuple[Tensor, Targets]:
        """Looks only: how the window lies was decided when it was read."""
        return augment.appearance(images, generator), targets

    def counts(self, targets: Targets) -> Tensor:
        """All alike: each term is a mean over what the network sampled from each window."""
        device = targets[0]["boxes"].device
        return torch.ones(len(targets), device=device)

    def losses(self, network: nn.Module, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        weights = self.config.loss.objects
        found: dict[str, Tensor] = network(images, targets)
        return {name: found[name].float() * weights.get(name, 1.0) for name in self._terms}

    def empty(self, count: int, device: torch.device) -> Targets:
        chip = self.config.schedule.chip
        one = {
            "boxes": torch.zeros((0, 4)),
            "labels": torch.zeros(0, dtype=torch.int64),
            "masks": torch.zeros((0, chip, chip), dtype=torch.uint8),
        }
        if self._points:
            one["keypoints"] = torch.zeros((0, CORNERS, 3))
        return Targets([one] * count).to(device)

    def blocks(self, sheets: Sequence[Sheet], blank: Blank) -> ObjectBlocks:
        return ObjectBlocks(sheets, VALIDATE, blank, self.config.data.first)

    def answer(self, output: list[dict[str, Tensor]]) -> Detections:
        found = {name: value.detach().cpu() for name, value in output[0].items()}
        arrays = {n: v.float().numpy() for n, v in found.items() if n != "labels"}
        return Detections(labels=found["labels"].long().numpy(), **arrays)

    @torch.inference_mode()
    def counted(
        self, predict: Predict, blocks: ObjectBlocks, chosen: Iterable[int]
    ) -> dict[str, NDArray[np.int64]]:
        tallies = {s.place: Tally.empty(len(self.classes)) for s, _ in blocks.blocks}
        for place, verdict in verdicts(predict, blocks, chosen):
            tallies[place].add(verdict)
        return {place: tally.counts for place, tally in tallies.items()}

    def scores(self, counts: Mapping[str, NDArray[np.int64]]) -> ObjectScores:
        return scores({p: Tally(c) for p, c in counts.items()}, [c.name for c in self.classes])

    def columns(self, places: Iterable[str]) -> list[str]:
        return [
            *("loss", *self._terms, "ap50", "f1"),
            *(f"place/{name}" for name in places),
            *(f"class/{c.name}" for c in self.classes),
        ]

    @torch.inference_mode()
    def examine(self, predict: Predict, blocks: ObjectBlocks) -> dict[str, Any]:
        return examine(predict, blocks, [c.name for c in self.classes])

    def sizes(self, sheets: Sequence[Sheet]) -> dict[str, Any]:
        """object_length: of the boxes' longer edges (pixels), the quantile of MOST_OBJECTS."""
        long = anchors.measured(sheets).max(1)
        return {"object_length": float(np.quantile(long, MOST_OBJECTS)) if len(long) else 0.0}

    def contract(self, result: Mapping[str, Any]) -> dict[str, Any]:
        stride = models.stride_of(result["architecture"], result["arguments"])
        long = math.ceil(result.get("object_length", 0.0))
        overlap = round_up(min(max(long, OVERLAP[0]), OVERLAP[1]), stride)
        return {
            "task": "instance-segmentation",
            "activation": "none",
            "bias": result.get("bias", 0.0),
            "tiling": Tiling(size=round_up(TILE, stride), overlap=overlap, stride=stride),
        }

    @property
    def limits(self) -> str:
        return _LIMITS

    def terms(self) -> str:
        weights = self.config.loss.objects
        return " + ".join(f"{_NAMES[n]} ({weights.get(n, 1.0):g})" for n in self._terms)

    def verdict(self, result: Mapping[str, Any]) -> str:
        each = ", ".join(
            f"{place} {row['ap50']:.3f}"
            for place, row in result["validation"].items()
            if "ap50" in row
        )
        chosen = f" (step {result['best_step']} of {result['steps_done']})"
        return (
            f"validation AP50 {result['ap50']:.3f}, F1 {result['f1']:.3f} at a score of "
            f"{result['threshold']:.2f}{chosen}: {each}"
        )

    @property
    def _points(self) -> int:
        return int(self._arguments.get("keypoints", 0))

    @property
    def _terms(self) -> list[ObjectTerm]:
        """The losses that the network has."""
        without = {"keypoint"} if not self._points else set()
        if not self._arguments.get("masks", True):
            without |= {"mask"}
        return [term for term in get_args(ObjectTerm) if term not in without]

    @property
    def _arguments(self) -> Mapping[str, Any]:
        return self.blueprint.arguments


_LIMITS = """\
Scores are calibrated, and the threshold chosen, on ground that was kept out of training, mostly in
the places that trained: of objects with a score of 0.8 there, eight in ten overlapped a true one by
half or more. On places never seen both scores and objects are worse. Objects that are much larger
or smaller than those of the training places are found less often; objects larger than a tile are
put together from parts.
"""
