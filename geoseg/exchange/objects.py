"""Mask R-CNN as one module that can be exported: a picture in, its objects out.

The network's own way (geoseg/models/mask_rcnn.py, and torchvision's in it) branches on what it
sees and loops over pictures. Here the same is said for one picture of any height and width, in
operations that ONNX has: TopK, NonMaxSuppression, RoiAlign. Boxes agree with the network's to some
1e-5 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import nms, roi_align  # type: ignore[import-untyped]

from geoseg.errors import ModelError
from geoseg.models.mask_rcnn import FIRST, LAST, MaskRCNN
from geoseg.models.roi_heads import BOX_CELLS, MASK_CELLS, Branch, points_of
from geoseg.models.roi_pool import MAPS, SAMPLES, STRIDES, level_of
from geoseg.runtime.graphs import OBJECTS
from geoseg.runtime.torch_detector import calibrated
from geoseg.spec import ModelSpec

LEAST = 1e-2  # edge of an object's box in pixels; torchvision has it as a number, too

Shape = tuple[Any, Any]  # height and width: numbers that are not known yet


class Objects(nn.Module):
    """(1, C, H, W) scaled pixels -> what `outputs` names, as geoseg.predictions.Detections has it;
    the surest object first."""

    def __init__(self, network: MaskRCNN, spec: ModelSpec) -> None:
        super().__init__()
        if network.heads.options.roi != "align":
            raise ModelError(
                f"{spec.id} reads boxes by RoIPool, which ONNX has in another way: it runs with "
                "torch only"
            )
        self.network, self.spec = network, spec
        branches = {"masks": network.heads.mask, "keypoints": network.heads.keypoint}
        more = (name for name, branch in branches.items() if branch is not None)
        self.outputs = (*OBJECTS, *more)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        shape, heads = _edges(pixels), self.network.heads
        maps = self.network.encoder(pixels)[FIRST:LAST]
        pyramid = self.network.fpn({str(i): one for i, one in enumerate(maps)})
        features = [pyramid[name] for name in MAPS]
        proposals = self._proposals(list(pyramid.values()), shape)
        boxes, labels, scores = self._objects(features, proposals, shape)
        found = [boxes, labels, calibrated(scores, self.spec)]
        if heads.mask is not None:
            logits = _said(heads.mask, features, boxes)
            masks = logits.softmax(1) if heads.mask.softmax else logits.sigmoid()
            own = (labels + 1)[:, None, None, None].expand(-1, 1, *masks.shape[2:])
            found.append(masks.gather(1, own)[:, 0])
        if heads.keypoint is not None:
            found.append(points_of(_said(heads.keypoint, features, boxes), boxes))
        return tuple(found)

    def _proposals(self, maps: Sequence[Tensor], shape: Shape) -> Tensor:
        """(n, 4) boxes that may hold an object: the surest of each level, and of all of these."""
        rpn = self.network.rpn
        most = self._most(rpn.options.proposals[1], shape)
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        for level, (logits, deltas) in enumerate(zip(*rpn.head(maps), strict=True)):
            base = rpn.anchor_generator.cell_anchors[level]
            scores = logits[0].permute(1, 2, 0).reshape(-1)
            codes = deltas[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
            best, at = scores.topk(torch.sym_min(_known(scores.shape[0]), most))
            anchors = _anchors(base, _edges(logits), shape)
            boxes = rpn.box_coder.decode_single(codes[at], anchors[at])
            columns.append((boxes, best, torch.full_like(best, level)))
        boxes, logits, levels = (torch.cat(column) for column in zip(*columns, strict=True))
        boxes = _inside(boxes, shape)
        kept = _apart(boxes, logits.sigmoid(), levels, rpn.nms_thresh, rpn.min_size)
        return boxes[kept[:most]]

    def _objects(
        self, features: Sequence[Tensor], proposals: Tensor, shape: Shape
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, labels and scores: of each proposal all classes that are likely enough."""
        heads = self.network.heads
        seen = heads.box_head(_aligned(features, proposals, BOX_CELLS))
        logits, codes = heads.box_predictor(seen)
        classes = logits.shape[1] - 1  # without the background, which comes first
        boxes = heads.box_coder.decode_single(codes, proposals).unflatten(1, (-1, 4))
        boxes = _inside(boxes[:, 1:].reshape(-1, 4), shape)
        scores = logits.softmax(1)[:, 1:].reshape(-1)
        labels = torch.arange(classes).expand(logits.shape[0], classes).reshape(-1)
        likely = _where(scores > heads.score_thresh)
        boxes, scores, labels = boxes[likely], scores[likely], labels[likely]
        kept = _apart(boxes, scores, labels, heads.nms_thresh, LEAST)
        kept = kept[: self.most(shape)]
        return boxes[kept], labels[kept], scores[kept]

    def most(self, shape: Shape) -> Any:
        """So many objects it gives at most for a picture of that height and width."""
        return self._most(self.network.heads.options.detections, shape)

    def _most(self, many: int, shape: Shape) -> Any:
        """`many` times Options.times, in whole numbers."""
        area = self.network.heads.options.picture**2
        if not area:
            return many
        return torch.sym_max(many, (2 * many * shape[0] * shape[1] + area) // (2 * area))


def _edges(maps: Tensor) -> Shape:
    """Height and width."""
    return _known(maps.shape[2]), _known(maps.shape[3])


def _known(size: Any) -> Any:
    """A size as torch.export has it; torch.jit traces it as a tensor, so there it is made fixed."""
    jit: Any = torch.jit
    return int(size) if jit.is_tracing() else size


def _anchors(base: Tensor, cells: Shape, shape: Shape) -> Tensor:
    """(cells x n, 4): the n boxes `base` around the corner of each cell of a level."""
    x = torch.arange(cells[1]) * (shape[1] // cells[1])
    y = torch.arange(cells[0])[:, None] * (shape[0] // cells[0])
    corners = torch.stack([x.expand(*cells), y.expand(*cells)] * 2, 2)
    return (corners.reshape(-1, 1, 4) + base).reshape(-1, 4)


def _inside(boxes: Tensor, shape: Shape) -> Tensor:
    """Cut to the picture."""
    x, y = boxes[:, 0::2].clamp(0, shape[1]), boxes[:, 1::2].clamp(0, shape[0])
    return torch.stack([x, y], 2).reshape(-1, 4)


def _apart(boxes: Tensor, scores: Tensor, kinds: Tensor, iou: float, least: float) -> Tensor:
    """Indexes of boxes that no surer one of their kind overlaps by more than `iou`, the surest
    first; none whose edge is shorter than `least` pixels."""
    large = _where((boxes[:, 2:] - boxes[:, :2] >= least).all(1))
    boxes, scores, kinds = boxes[large], scores[large], kinds[large]
    # Kinds are moved so far that their boxes do not meet; the 0 is for a picture without any.
    edge = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max() + 1
    kept = nms(boxes + (kinds * edge)[:, None], scores, iou)
    return large[kept]


def _said(branch: Branch, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """(n, K, M, M) logits of a branch."""
    logits: Tensor = branch.predictor(branch.head(_aligned(features, boxes, MASK_CELLS)))
    return logits


def _aligned(features: Sequence[Tensor], boxes: Tensor, size: int) -> Tensor:
    """RoIAlign: (n, C, size, size), each box read from the level that suits its size."""
    levels = level_of([boxes])
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    out = boxes.new_zeros((boxes.shape[0], features[0].shape[1], size, size))
    for level, (one, stride) in enumerate(zip(features, STRIDES, strict=True)):
        rows = _where(levels == level)
        out = out.index_copy(0, rows, roi_align(one, rois[rows], size, 1 / stride, SAMPLES))
    return out


def _where(true: Tensor) -> Tensor:
    return torch.nonzero(true)[:, 0]
