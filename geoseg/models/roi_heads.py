"""The second stage of Mask R-CNN: what is in a proposed box, and where exactly.

torchvision's RoIHeads choose what is learned from and decode boxes; its way of going through the
branches is written anew here, because it knows only RoIAlign and one kind of mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import (  # type: ignore[import-untyped]
    FastRCNNPredictor,
    TwoMLPHead,
)
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
    keypointrcnn_loss,
    project_masks_on_boxes,
)

from geoseg.models.rcnn_options import Options
from geoseg.models.roi_pool import Features, Sizes, new_pooler

BOX_CELLS, MASK_CELLS = 7, 14  # along an edge of what is read of a box
MASK = 28  # cells along an edge of a mask
_AT_ONCE = 128  # boxes, or masks of truth: what is made of more does not have to be kept

Targets = Sequence[Mapping[str, Tensor]]


def fitting(x: Tensor, module: nn.Module) -> Tensor:
    """x in the precision that a module computes in."""
    if torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(next(module.parameters()).dtype)


class Heads(RoIHeads):  # type: ignore[misc]
    """torchvision's box head, and a branch for masks and one for keypoints."""

    def __init__(self, classes: int, options: Options) -> None:
        several = classes + 1  # with the background, which comes first
        super().__init__(
            box_roi_pool=new_pooler(options.roi, BOX_CELLS),
            box_head=TwoMLPHead(options.channels * BOX_CELLS**2, options.box_hidden),
            box_predictor=FastRCNNPredictor(options.box_hidden, several),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=options.samples[1],
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=options.floor,
            nms_thresh=options.nms,
            detections_per_img=options.detections,
        )
        self.options = options
        self.mask = MaskBranch(several, options) if options.masks else None
        self.keypoint = KeypointBranch(options) if options.keypoints else None

    def has_mask(self) -> bool:  # asked by torchvision's check of the targets
        return self.mask is not None

    def losses(
        self, features: Features, proposals: list[Tensor], sizes: Sizes, targets: Targets
    ) -> dict[str, Tensor]:
        """By name: class, box, and those of the branches. Labels count the background."""
        proposals, matched, labels, wanted = self.select_training_samples(proposals, targets)
        logits, deltas = self._boxes(features, proposals, sizes)
        if len(logits):
            of_class, of_box = fastrcnn_loss(logits, deltas, labels, wanted)
        else:
            of_class, of_box = logits.sum(), deltas.sum()
        losses = {"class": of_class, "box": of_box}
        objects = [torch.where(one > 0)[0] for one in labels]  # the others have nothing to outline
        positive = [box[i] for box, i in zip(proposals, objects, strict=True)]
        index = [one[i] for one, i in zip(matched, objects, strict=True)]
        for name, branch in (("mask", self.mask), ("keypoint", self.keypoint)):
            if branch is not None:
                losses[name] = branch.loss(features, positive, sizes, targets, index)
        return losses

    def detect(
        self, features: Features, proposals: list[Tensor], sizes: Sizes
    ) -> list[dict[str, Tensor]]:
        """The objects of each picture; labels from 0 on."""
        logits, deltas = self._boxes(features, proposals, sizes)
        self.detections_per_img = round(self.options.detections * self.options.times(*sizes[0]))
        found = self.postprocess_detections(logits, deltas, proposals, sizes)
        boxes, scores, labels = found
        table = {"boxes": boxes, "labels": [one - 1 for one in labels], "scores": scores}
        if self.mask is not None:
            table["masks"] = self.mask.infer(features, boxes, sizes, labels)
        if self.keypoint is not None:
            table["keypoints"] = self.keypoint.infer(features, boxes, sizes)
        columns = zip(*table.values(), strict=True)
        return [dict(zip(table, one, strict=True)) for one in columns]

    def _boxes(
        self, features: Features, proposals: list[Tensor], sizes: Sizes
    ) -> tuple[Tensor, Tensor]:
        """(n, classes) logits and (n, 4 classes) offsets of all proposals."""
        seen = self.box_roi_pool(features, proposals, sizes)
        logits, deltas = self.box_predictor(self.box_head(fitting(seen, self.box_head)))
        return logits.float(), deltas.float()


class Branch(nn.Module):
    """What is said of each box: the features in it, a head, and a predictor."""

    def __init__(self, roi: str, head: nn.Module, predictor: nn.Module) -> None:
        super().__init__()
        self.roi_pool, self.head, self.predictor = new_pooler(roi, MASK_CELLS), head, predictor

    def forward(self, features: Features, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        """(n, K, M, M) logits of all boxes."""
        seen = self.roi_pool(features, boxes, sizes)
        logits: Tensor = self.predictor(self.head(fitting(seen, self.head))).float()
        return logits

    def in_parts(
        self, features: Features, boxes: list[Tensor], sizes: Sizes
    ) -> Iterator[tuple[Tensor, slice]]:
        """The same, some boxes at a time, and which of all they are."""
        picture = torch.cat([torch.full_like(b[:, 0], i) for i, b in enumerate(boxes)])
        every = torch.cat(boxes)
        for first in range(0, len(every), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            own = [every[part][picture[part] == i] for i in range(len(boxes))]
            yield self(features, own, sizes), part


class MaskBranch(Branch):
    """A mask for each box: 28 x 28 logits per class, of which the box's own class counts."""

    def __init__(self, classes: int, options: Options) -> None:
        channels, hidden = options.channels, options.mask_channels
        if options.mask_head == "mlp":
            head, predictor = _mlp(channels * MASK_CELLS**2, 4 * hidden, classes)
        else:
            head = MaskRCNNHeads(channels, (hidden,) * 4, 1)
            predictor = _MaskPredictor(hidden, hidden, classes)
        super().__init__(options.roi, head, predictor)
        self.softmax = options.mask_loss == "softmax"

    def loss(
        self,
        features: Features,
        boxes: list[Tensor],
        sizes: Sizes,
        targets: Targets,
        matched: list[Tensor],
    ) -> Tensor:
        """Cross entropy of the masks of boxes, each matched to an object: binary of the own
        class (Mask R-CNN), or over all classes and the background (FCN)."""
        logits: Tensor = self(features, boxes, sizes)
        if not len(logits):
            return logits.sum()
        each = list(zip(targets, boxes, matched, strict=True))
        wanted = torch.cat([_masks_in_boxes(t["masks"], box, i) for t, box, i in each])
        labels = torch.cat([t["labels"][i] for t, _, i in each])
        if self.softmax:
            return F.cross_entropy(logits, (wanted >= 0.5) * labels[:, None, None])
        return F.binary_cross_entropy_with_logits(_own(logits, labels), wanted)

    def infer(
        self, features: Features, boxes: list[Tensor], sizes: Sizes, labels: list[Tensor]
    ) -> list[Tensor]:
        """(n, M, M) probabilities for each picture."""
        every = torch.cat(labels)
        out = torch.empty((len(every), MASK, MASK), device=every.device)
        for logits, part in self.in_parts(features, boxes, sizes):
            given = logits.softmax(1) if self.softmax else logits
            own = _own(given, every[part])
            out[part] = own if self.softmax else own.sigmoid()
        return list(torch.split(out, [len(one) for one in boxes]))


class KeypointBranch(Branch):
    """P points of each object, each the highest place of a heat map (section 5 of the paper)."""

    def __init__(self, options: Options) -> None:
        hidden = options.keypoint_channels
        head = KeypointRCNNHeads(options.channels, (hidden,) * 8)
        super().__init__(options.roi, head, KeypointRCNNPredictor(hidden, options.keypoints))
        self.points = options.keypoints

    def loss(
        self,
        features: Features,
        boxes: list[Tensor],
        sizes: Sizes,
        targets: Targets,
        matched: list[Tensor],
    ) -> Tensor:
        """Cross entropy over the places of a heat map, of visible points."""
        logits: Tensor = self(features, boxes, sizes)
        if not len(logits):
            return logits.sum()
        logits = logits.contiguous()  # torchvision flattens them by `view`
        value: Tensor = keypointrcnn_loss(logits, boxes, [t["keypoints"] for t in targets], matched)
        return value

    def infer(self, features: Features, boxes: list[Tensor], sizes: Sizes) -> list[Tensor]:
        """(n, P, 3) x, y and a score in 0..1 for each picture."""
        every = torch.cat(boxes)
        out = torch.empty((len(every), self.points, 3), device=every.device)
        for logits, part in self.in_parts(features, boxes, sizes):
            out[part] = points_of(logits, every[part])
        return list(torch.split(out, [len(one) for one in boxes]))


class _MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    """torchvision's: masks are doubled by a transposed convolution, whose squares of 2 x 2 do not
    overlap. As a convolution it is the same, and its backward pass in bfloat16 several times as
    fast on a CPU; forwards it is slower."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not len(x):  # of nothing torch has no backward pass
            as_it_is: Tensor = super().forward(x)
            return as_it_is
        doubling = self.conv5_mask
        kernel = doubling.weight.permute(1, 2, 3, 0).flatten(0, 2)[..., None, None]
        x = F.pixel_shuffle(F.conv2d(x, kernel, doubling.bias.repeat_interleave(4)), 2)
        logits: Tensor = self.mask_fcn_logits(self.relu(x))
        return logits


def points_of(logits: Tensor, boxes: Tensor) -> Tensor:
    """(n, P, M, M) heat maps over boxes (n, 4) to (n, P, 3): x, y in pixels, and a score.

    The middle of what lies around the highest place, and how much of all that is. torchvision
    enlarges each map to its box, one by one; its scores are no probabilities.
    """
    n, points, size, _ = logits.shape
    heat = logits.flatten(2).softmax(2)
    peak = heat.argmax(2)
    row, col = peak // size, peak % size
    place = torch.arange(size, device=logits.device)
    near_row = (place - row[..., None]).abs() <= 1
    near_col = (place - col[..., None]).abs() <= 1
    around = heat.view(n, points, size, size) * near_row[..., :, None] * near_col[..., None, :]
    score = around.sum((2, 3))
    at = (place + 0.5) / size
    y, x = ((around.sum(axis) * at).sum(2) / score for axis in (3, 2))
    left, top, right, bottom = (edge[:, None] for edge in boxes.unbind(1))
    return torch.stack([left + x * (right - left), top + y * (bottom - top), score], 2)


def _own(maps: Tensor, labels: Tensor) -> Tensor:
    """(n, K, M, M) to (n, M, M): that of the label of each."""
    return maps[torch.arange(len(labels), device=labels.device), labels]


def _masks_in_boxes(masks: Tensor, boxes: Tensor, matched: Tensor) -> Tensor:
    """(n, M, M) in 0..1: what boxes (n, 4) should say of the masks (N, H, W) that they match."""
    out = boxes.new_zeros((len(boxes), MASK, MASK))
    for first in range(0, len(masks), _AT_ONCE):
        rows = torch.where((matched >= first) & (matched < first + _AT_ONCE))[0]
        some = masks[first : first + _AT_ONCE].to(boxes.dtype)
        out[rows] = project_masks_on_boxes(some, boxes[rows], matched[rows] - first, MASK)
    return out


def _mlp(inputs: int, hidden: int, classes: int) -> tuple[nn.Module, nn.Module]:
    """Two fully connected layers and the masks, as in table 2e of the paper."""
    head = nn.Sequential(
        *(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.ReLU()),
    )
    masks = (classes, MASK, MASK)
    return head, nn.Sequential(nn.Linear(hidden, classes * MASK**2), nn.Unflatten(1, masks))
