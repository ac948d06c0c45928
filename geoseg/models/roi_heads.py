"""The second stage of Mask R-CNN: what is in a proposed box, and where exactly.

torchvision's RoIHeads choose what is learned from and decode boxes; its way of going through the
branches is written anew here, because it knows only RoIAlign and one kind of mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.keypoint_rcnn import (  # type: ignore[import-untyped]
    KeypointRCNNHeads,
    KeypointRCNNPredictor,
)
from torchvision.models.detection.mask_rcnn import (  # type: ignore[import-untyped]
    MaskRCNNHeads,
    MaskRCNNPredictor,
)
from torchvision.models.detection.roi_heads import (  # type: ignore[import-untyped]
    RoIHeads,
    fastrcnn_loss,
    keypointrcnn_inference,
    keypointrcnn_loss,
    project_masks_on_boxes,
)
from torchvision.ops import MultiScaleRoIAlign, roi_pool  # type: ignore[import-untyped]
from torchvision.ops.poolers import LevelMapper  # type: ignore[import-untyped]

MAPS = ("0", "1", "2", "3")  # of the pyramid; the fifth is for proposals only
STRIDES = (4, 8, 16, 32)
Features = Mapping[str, Tensor]
Shapes = Sequence[tuple[int, int]]


class Heads(RoIHeads):  # type: ignore[misc]
    """torchvision's box head, and a branch for masks and one for keypoints."""

    def __init__(
        self, *, mask: MaskBranch | None, keypoint: KeypointBranch | None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.mask, self.keypoint = mask, keypoint

    def has_mask(self) -> bool:  # asked by torchvision's check of the targets
        return self.mask is not None

    def losses(
        self, features: Features, proposals: list[Tensor], shapes: Shapes, targets: Any
    ) -> dict[str, Tensor]:
        """By name: class, box, and those of the branches."""
        proposals, matched, labels, wanted = self.select_training_samples(proposals, targets)
        logits, boxes = self._boxes(features, proposals, shapes)
        of_class, of_box = fastrcnn_loss(logits, boxes, labels, wanted)
        losses = {"class": of_class, "box": of_box}
        objects = [torch.where(one > 0)[0] for one in labels]  # the others have nothing to outline
        positive = [box[i] for box, i in zip(proposals, objects, strict=True)]
        index = [one[i] for one, i in zip(matched, objects, strict=True)]
        for name, branch in (("mask", self.mask), ("keypoint", self.keypoint)):
            if branch is not None:
                losses[name] = branch.loss(features, positive, shapes, targets, index)
        return losses

    def detect(
        self, features: Features, proposals: list[Tensor], shapes: Shapes
    ) -> list[dict[str, Tensor]]:
        """The objects of each picture; labels count the background."""
        logits, deltas = self._boxes(features, proposals, shapes)
        found = zip(*self.postprocess_detections(logits, deltas, proposals, shapes), strict=True)
        objects = [{"boxes": b, "scores": s, "labels": n} for b, s, n in found]
        boxes = [one["boxes"] for one in objects]
        if self.mask is not None:
            masks = self.mask.infer(features, boxes, shapes, [one["labels"] for one in objects])
            objects = [{**o, "masks": m} for o, m in zip(objects, masks, strict=True)]
        if self.keypoint is not None:
            points = self.keypoint.infer(features, boxes, shapes)
            objects = [{**o, "keypoints": p} for o, p in zip(objects, points, strict=True)]
        return objects

    def _boxes(
        self, features: Features, proposals: list[Tensor], shapes: Shapes
    ) -> tuple[Tensor, Tensor]:
        seen = self.box_head(self.box_roi_pool(features, proposals, shapes))
        logits, deltas = self.box_predictor(seen)
        return logits.float(), deltas.float()


class MaskBranch(nn.Module):
    """A mask for each box: 28 x 28 logits per class, of which the box's own class counts."""

    def __init__(
        self, channels: int, hidden: int, classes: int, roi: str, head: str, loss: str
    ) -> None:
        super().__init__()
        self.roi_pool = new_pooler(roi, 14)
        self.softmax = loss == "softmax"
        if head == "mlp":
            self.head: nn.Module = _MlpHead(channels * 14**2, 4 * hidden)
            self.predictor: nn.Module = _MlpPredictor(4 * hidden, classes, 28)
        else:
            self.head = MaskRCNNHeads(channels, (hidden,) * 4, 1)
            self.predictor = MaskRCNNPredictor(hidden, hidden, classes)

    def _logits(self, features: Features, boxes: list[Tensor], shapes: Shapes) -> Tensor:
        seen = self.roi_pool(features, boxes, shapes)
        logits: Tensor = self.predictor(self.head(seen)).float()
        return logits

    def loss(
        self,
        features: Features,
        boxes: list[Tensor],
        shapes: Shapes,
        targets: Sequence[Mapping[str, Tensor]],
        matched: list[Tensor],
    ) -> Tensor:
        """Cross entropy of the masks of boxes, each matched to an object: binary of the own
        class (Mask R-CNN), or over all classes and the background (FCN)."""
        logits = self._logits(features, boxes, shapes)
        if not len(logits):
            return logits.sum() * 0
        size = logits.shape[-1]
        wanted = torch.cat(
            [
                project_masks_on_boxes(t["masks"].float(), box, i, size)
                for t, box, i in zip(targets, boxes, matched, strict=True)
            ]
        )
        labels = torch.cat([t["labels"][i] for t, i in zip(targets, matched, strict=True)])
        if self.softmax:
            return F.cross_entropy(logits, (wanted >= 0.5) * labels[:, None, None])
        own = logits[torch.arange(len(labels), device=labels.device), labels]
        return F.binary_cross_entropy_with_logits(own, wanted)

    def infer(
        self, features: Features, boxes: list[Tensor], shapes: Shapes, labels: list[Tensor]
    ) -> list[Tensor]:
        """(n, 28, 28) probabilities for each picture."""
        logits = self._logits(features, boxes, shapes)
        every = torch.cat(labels)
        given = logits.softmax(1) if self.softmax else logits.sigmoid()
        own = given[torch.arange(len(every), device=every.device), every]
        return list(torch.split(own, [len(one) for one in boxes]))


class KeypointBranch(nn.Module):
    """P points of each object, each the highest place of a heat map (section 5 of the paper)."""

    def __init__(self, channels: int, points: int, roi: str) -> None:
        super().__init__()
        self.roi_pool = new_pooler(roi, 14)
        self.head = KeypointRCNNHeads(channels, (512,) * 8)
        self.predictor = KeypointRCNNPredictor(512, points)

    def _logits(self, features: Features, boxes: list[Tensor], shapes: Shapes) -> Tensor:
        seen = self.roi_pool(features, boxes, shapes)
        logits: Tensor = self.predictor(self.head(seen)).float()
        return logits

    def loss(
        self,
        features: Features,
        boxes: list[Tensor],
        shapes: Shapes,
        targets: Sequence[Mapping[str, Tensor]],
        matched: list[Tensor],
    ) -> Tensor:
        """Cross entropy over the places of a heat map, of visible points."""
        logits = self._logits(features, boxes, shapes)
        if not len(logits):
            return logits.sum() * 0
        wanted = [t["keypoints"] for t in targets]
        value: Tensor = keypointrcnn_loss(logits, boxes, wanted, matched)
        return value

    def infer(self, features: Features, boxes: list[Tensor], shapes: Shapes) -> list[Tensor]:
        """(n, P, 3) x, y and a score in 0..1 for each picture."""
        logits = self._logits(features, boxes, shapes)
        if not len(logits):
            return [logits.new_zeros((0, logits.shape[1], 3)) for _ in boxes]
        points, scores = keypointrcnn_inference(logits, boxes)
        return [
            torch.cat([xy[..., :2], torch.sigmoid(s)[..., None]], -1)
            for xy, s in zip(points, scores, strict=True)
        ]


class _MlpHead(nn.Module):
    """Two fully connected layers, as in the ablation of table 2e."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU()),
            *(nn.Linear(hidden, hidden), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class _MlpPredictor(nn.Module):
    def __init__(self, inputs: int, classes: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, classes * size**2)
        self.classes, self.size = classes, size

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out.view(-1, self.classes, self.size, self.size)


def new_pooler(kind: str, size: int) -> nn.Module:
    """Features of boxes at `size` x `size`, each box from the level that suits its size."""
    if kind == "align":
        pooler: nn.Module = MultiScaleRoIAlign(list(MAPS), size, sampling_ratio=2)
        return pooler
    return MultiScaleRoIPool(size)


class MultiScaleRoIPool(nn.Module):
    """RoIPool (Girshick 2015) over a pyramid: bins are rounded to whole cells, what RoIAlign
    does not do. Levels as in Lin et al. 2017."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.level_of = LevelMapper(2, 5, 224, 4, 1e-6)

    def forward(self, features: Features, boxes: list[Tensor], shapes: Shapes) -> Tensor:
        levels = self.level_of(boxes)
        index = torch.cat([torch.full((len(b), 1), i).to(b) for i, b in enumerate(boxes)])
        rois = torch.cat([index, torch.cat(boxes)], 1)
        maps = [features[name] for name in MAPS]
        out = maps[0].new_zeros((len(rois), maps[0].shape[1], self.size, self.size))
        for level, (one, stride) in enumerate(zip(maps, STRIDES, strict=True)):
            rows = torch.where(levels == level)[0]
            seen = roi_pool(one.float(), rois[rows].float(), self.size, 1 / stride)
            out = out.index_copy(0, rows, seen.to(out.dtype))
        return out
