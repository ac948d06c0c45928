"""Objects as a YOLO's candidates, for programs that know no Mask R-CNN; geoseg/runtime/yolo.py
reads such, too.

There are always as many candidates as the network finds objects at most; those to spare have a
score of 0. Each takes all of one prototype and nothing of the others: the mask of the object,
stretched over its box.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geoseg.exchange.objects import Objects

STEP = 4  # pixels of the picture along the edge of a prototype's cell, as with YOLO
_NEAREST = 1e-6  # to 0 and 1 that a probability is taken, which else would have no logit


class Candidates(nn.Module):
    """(1, C, H, W) scaled pixels -> (1, 4 + K + N, N): centre, width and height of boxes, scores of
    the classes, shares of the prototypes; and (1, N, H / 4, W / 4), the logits of the prototypes.
    Of a network without masks (1, 4 + K, N) alone. H and W are to be known when it is exported."""

    def __init__(self, objects: Objects) -> None:
        super().__init__()
        self.objects = objects
        self.masks = "masks" in objects.outputs
        self.outputs = ("candidates", "prototypes") if self.masks else ("candidates",)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        shape = (pixels.shape[2], pixels.shape[3])
        most = self.objects.most(shape)
        found = dict(zip(self.objects.outputs, self.objects(pixels), strict=True))
        low, high = found["boxes"][:, :2], found["boxes"][:, 2:]
        own = found["labels"][:, None] == torch.arange(len(self.objects.spec.classes))
        rows = [(low + high) / 2, high - low, own * found["scores"][:, None]]
        filled = _filled(torch.cat(rows, 1), most)
        if not self.masks:
            return (filled.T[None],)
        masks = _stretched(found["masks"], found["boxes"], shape)
        candidates = torch.cat([filled, torch.eye(most)], 1).T[None]
        return candidates, _filled(torch.logit(masks, eps=_NEAREST), most)[None]


def _filled(values: Tensor, most: int) -> Tensor:
    """(n, ...) -> (most, ...), with zeros."""
    out = values.new_zeros((most, *values.shape[1:]))
    return out.index_copy(0, torch.arange(values.shape[0]), values)


def _stretched(masks: Tensor, boxes: Tensor, shape: tuple[Any, Any]) -> Tensor:
    """(n, M, M) masks of boxes -> (n, H / 4, W / 4), read bilinearly at the centres of the cells.
    Beyond its box a mask goes on as its edge is: whoever reads it cuts there."""
    size = masks.shape[2]
    across = _weights(boxes[:, 0::2], shape[1] // STEP, size)
    down = _weights(boxes[:, 1::2], shape[0] // STEP, size)
    return down @ masks @ across.transpose(1, 2)


def _weights(spans: Tensor, cells: int, size: int) -> Tensor:
    """(n, cells, size): how much each of `size` steps along a span (n, 2) counts in each cell."""
    low, high = spans[:, :1], spans[:, 1:]
    centres = (torch.arange(cells) + 0.5) * STEP
    at = ((centres - low) / (high - low) * size - 0.5).clamp(0, size - 1)
    return (1 - (at[:, :, None] - torch.arange(size)).abs()).relu()
