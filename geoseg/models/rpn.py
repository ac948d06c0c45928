"""The first stage of Mask R-CNN: boxes that may hold an object (Ren et al. 2015, Faster R-CNN).

torchvision's, with its numbers of pixels in float32 in any precision, and objects matched to
anchors one by one: its table of all overlaps was half of a training step on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator  # type: ignore[import-untyped]
from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped]
from torchvision.models.detection.rpn import (  # type: ignore[import-untyped]
    RegionProposalNetwork,
    RPNHead,
)

from geoseg.models.rcnn_options import LEVELS, Options
from geoseg.models.roi_heads import fitting

_OBJECT, _BACKGROUND = 0.7, 0.3  # IoU of an anchor with an object, from which on and up to which


class Proposals(RegionProposalNetwork):  # type: ignore[misc]
    """rpn(pictures, pyramid, targets) -> boxes for each picture, losses."""

    def __init__(self, options: Options) -> None:
        train, test = options.proposals
        super().__init__(
            Anchors(options.sizes, (tuple(options.aspect_ratios),) * LEVELS),
            ProposalHead(options.channels, options.anchors_per_place),
            fg_iou_thresh=_OBJECT,
            bg_iou_thresh=_BACKGROUND,
            batch_size_per_image=options.samples[0],
            positive_fraction=0.5,
            pre_nms_top_n={"training": train, "testing": test},
            post_nms_top_n={"training": train, "testing": test},
            nms_thresh=0.7,
        )
        self.options = options

    def forward(self, images: ImageList, features: Any, targets: Any = None) -> Any:
        """torchvision's, with as many proposals as a picture of its size is worth."""
        if not self.training:
            test = round(self.options.proposals[1] * self.options.times(*images.image_sizes[0]))
            self._pre_nms_top_n["testing"] = self._post_nms_top_n["testing"] = test
        return super().forward(images, features, targets)

    def assign_targets_to_anchors(
        self, anchors: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of each anchor 1 (object), 0 (background) or -1 (neither), and its object's box."""
        if anchors[0].device.type != "cpu":
            given: tuple[list[Tensor], list[Tensor]]
            given = super().assign_targets_to_anchors(anchors, targets)
            return given
        labels, boxes = [], []
        for each, target in zip(anchors, targets, strict=True):
            best, index, nearest = match(each, target["boxes"])
            label = (best >= _OBJECT) | nearest
            between = (best >= _BACKGROUND) & ~label
            labels.append(label.float().masked_fill(between, -1.0))
            known = target["boxes"] if len(target["boxes"]) else each.new_zeros((1, 4))
            boxes.append(known[index])
        return labels, boxes


def match(anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors (A, 4) against the boxes of objects (n, 4), one after the other.

    (A,) each: its greatest IoU with one of them; which that is, the first of equals; and whether
    it is the best, or one of the best, that some object has.
    """
    best = anchors.new_zeros(len(anchors))
    index = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    nearest = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    left, top, right, bottom = (edge.contiguous() for edge in anchors.unbind(1))
    areas = (right - left) * (bottom - top)
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        width = (right.clamp(max=x1) - left.clamp(min=x0)).clamp_(min=0)
        height = (bottom.clamp(max=y1) - top.clamp(min=y0)).clamp_(min=0)
        common = width.mul_(height)
        iou = common / (areas + (x1 - x0) * (y1 - y0) - common)
        greatest = iou.max()
        if greatest > 0:
            nearest |= iou == greatest
            better = iou > best
            index[better] = i
            torch.maximum(best, iou, out=best)
    return best, index, nearest


class ProposalHead(RPNHead):  # type: ignore[misc]
    """torchvision's, in the precision of its weights; its numbers leave it in float32."""

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, boxes = super().forward([fitting(m, self) for m in maps])
        return [t.float() for t in logits], [t.float() for t in boxes]


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """torchvision's, in float32 whatever the features are in.

    It rounds half edges to whole pixels; here they remain one pixel at least, as a box without an
    area has no logarithm.
    """

    def generate_anchors(self, *args: Any, **options: Any) -> Tensor:
        boxes: Tensor = super().generate_anchors(*args, **options)
        return torch.cat([boxes[:, :2].clamp(max=-1), boxes[:, 2:].clamp(min=1)], 1)

    def forward(self, images: ImageList, maps: list[Tensor]) -> list[Tensor]:
        shapes = [m[:1, :1].float() for m in maps]  # of which only shape, type and device count
        anchors: list[Tensor] = super().forward(images, shapes)
        return anchors
