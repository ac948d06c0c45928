"""What a pyramid of features holds in boxes: RoIAlign (He et al. 2017) and RoIPool (Girshick 2015).

Each box is read from the level that suits its size (Lin et al. 2017, Feature Pyramid Networks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign, roi_pool  # type: ignore[import-untyped]
from torchvision.ops.poolers import LevelMapper  # type: ignore[import-untyped]

MAPS = ("0", "1", "2", "3")  # of the pyramid; the fifth is for proposals only
STRIDES = (4, 8, 16, 32)
SAMPLES = 2  # in a cell, along an edge

Features = Mapping[str, Tensor]  # float32
Sizes = Sequence[tuple[int, int]]

level_of = LevelMapper(2, 5, 224, 4, 1e-6)


def new_pooler(kind: str, size: int) -> nn.Module:
    """pooler(features, boxes of each picture, sizes) -> (n, C, size, size) of all boxes."""
    return RoIAlign(size) if kind == "align" else RoIPool(size)


class RoIAlign(MultiScaleRoIAlign):  # type: ignore[misc]
    """torchvision's; on a CPU in another way, which takes an eighth of the time.

    There each cell is a sum of features with weights (four samples, bilinear between four pixels
    each), for which torch has the embedding bag: it goes over the channels of a pixel at once.
    """

    def __init__(self, size: int) -> None:
        super().__init__(list(MAPS), size, sampling_ratio=SAMPLES)
        self.size = size

    def forward(self, features: Features, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        maps = [features[name] for name in MAPS]
        if maps[0].device.type == "cpu":
            return _aligned(maps, boxes, self.size)
        given: Tensor = super().forward(features, boxes, sizes)
        return given


class RoIPool(nn.Module):
    """The greatest in each bin, which is rounded to whole pixels of its map: RoIAlign is not."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Features, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        levels = level_of(boxes)
        rois = torch.cat([_pictures(boxes)[:, None], torch.cat(boxes)], 1)
        maps = [features[name] for name in MAPS]
        out = maps[0].new_zeros((len(rois), maps[0].shape[1], self.size, self.size))
        for level, (one, stride) in enumerate(zip(maps, STRIDES, strict=True)):
            rows = torch.where(levels == level)[0]
            out = out.index_copy(0, rows, roi_pool(one, rois[rows], self.size, 1 / stride))
        return out


def _pictures(boxes: Sequence[Tensor]) -> Tensor:
    """(n,) of all boxes: the number of its picture."""
    return torch.cat([torch.full_like(b[:, 0], i) for i, b in enumerate(boxes)])


def _aligned(maps: Sequence[Tensor], boxes: list[Tensor], size: int) -> Tensor:
    """RoIAlign: (n, C, size, size) of boxes in maps (N, C, H, W)."""
    channels = maps[0].shape[1]
    # all pixels of all levels and pictures, one below the other
    pixels = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, channels) for m in maps])
    every = torch.cat(boxes)
    if not len(every):
        return pixels.new_zeros((0, channels, size, size))
    level = level_of(boxes)
    shapes = torch.tensor([m.shape[-2:] for m in maps])
    counts = torch.tensor([m.numel() // channels for m in maps])
    height, width = shapes[level].unbind(1)
    first = (counts.cumsum(0) - counts)[level] + _pictures(boxes).long() * height * width
    scaled = every / torch.tensor(STRIDES)[level][:, None]
    row, row_weight = _along(scaled[:, 1], scaled[:, 3], height, size)
    col, col_weight = _along(scaled[:, 0], scaled[:, 2], width, size)
    at = (row * width[:, None, None])[:, :, None, :, None] + col[:, None, :, None, :]
    weight = row_weight[:, :, None, :, None] * col_weight[:, None, :, None, :]
    cell = (first[:, None, None, None, None] + at).reshape(-1, (2 * SAMPLES) ** 2)
    seen = F.embedding_bag(cell, pixels, per_sample_weights=weight.view(cell.shape), mode="sum")
    return seen.view(-1, size, size, channels).permute(0, 3, 1, 2)


def _along(start: Tensor, stop: Tensor, limit: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Of boxes (n,) along an axis: the pixels (n, size, 4) of each cell, and their weights.

    As torchvision has it: no box is narrower than a pixel, what lies up to a pixel beyond the map
    is at its border, and what lies farther out is zero.
    """
    steps = (torch.arange(SAMPLES * size) + 0.5) / (SAMPLES * size)
    at = start[:, None] + (stop - start).clamp(min=1)[:, None] * steps
    last = (limit - 1)[:, None].to(at.dtype)
    inside = (at >= -1) & (at <= last + 1)
    at = torch.minimum(at.clamp(min=0), last)
    low = at.floor()
    high = torch.minimum(low + 1, last)
    share = at - low
    weights = torch.stack([1 - share, share], 2) * (inside / SAMPLES)[..., None]
    pixels = torch.stack([low, high], 2).long()
    return pixels.view(len(start), size, -1), weights.view(len(start), size, -1)
