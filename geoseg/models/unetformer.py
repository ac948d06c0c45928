"""UNetFormer: any encoder, and a light decoder that attends locally and globally.

Wang et al.: UNetFormer: A UNet-like transformer for efficient semantic segmentation of remote
sensing urban scene imagery. ISPRS Journal 190 (2022), https://arxiv.org/abs/2109.08417

The auxiliary head, which the paper adds in training, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoseg.models import Architecture
from geoseg.models.encoders import new_encoder

_SMALLEST_SUM = 1e-8  # keeps the fusion's weights from a division by zero


class UNetFormer(nn.Module):
    """decoder_channels, heads, window: width, attention heads and window side of the decoder."""

    def __init__(
        self,
        classes: int,
        bands: int,
        *,
        encoder: str = "resnet18",
        decoder_channels: int = 64,
        heads: int = 8,
        window: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if min(decoder_channels, heads, window) < 1 or decoder_channels % heads:
            raise ValueError("decoder_channels must be a multiple of heads, window 1 or more")
        self.encoder, channels = new_encoder(encoder, bands=bands)
        self.encoder_name = encoder
        self.decoder = Decoder(channels[-4:], decoder_channels, heads, window)
        self.head = nn.Sequential(
            conv(decoder_channels, decoder_channels, 3, act=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(decoder_channels, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, bands, H, W) to logits (N, classes, H, W); H and W multiples of 32."""
        scores = self.head(self.decoder(self.encoder(x)[-4:]))
        return F.interpolate(scores, size=x.shape[-2:], mode="bilinear", align_corners=False)


class Decoder(nn.Module):
    """Maps down-sampled 4, 8, 16, 32 times to one of `width` channels at 1/4."""

    def __init__(self, channels: Sequence[int], width: int, heads: int, window: int) -> None:
        super().__init__()
        self.enter = conv(channels[-1], width, 1)
        self.blocks = nn.ModuleList(Block(width, heads, window) for _ in channels[1:])
        self.fusions = nn.ModuleList(Fusion(c, width) for c in channels[-2::-1])
        self.refine = Refinement(width)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps, finest first, to (N, width, H / 4, W / 4)."""
        x = self.enter(features[-1])
        finer = features[-2::-1]
        for block, fuse, feature in zip(self.blocks, self.fusions, finer, strict=True):
            x = fuse(block(x), feature)
        refined: Tensor = self.refine(x)
        return refined


class Block(nn.Module):
    """A global-local transformer block: attention, then a perceptron, each on a residual path."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.attention = GlobalLocalAttention(width, heads, window)
        self.norm2 = nn.BatchNorm2d(width)
        self.mlp = nn.Sequential(
            nn.Conv2d(width, 4 * width, 1), nn.ReLU6(), nn.Conv2d(4 * width, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same."""
        x = x + self.attention(self.norm1(x))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class GlobalLocalAttention(nn.Module):
    """Attention within windows, carried across them by cross-shaped means; beside it, convolutions.

    Maps are padded to whole windows by repeating their border, and cropped again.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.local1 = conv(width, width, 1)
        self.local3 = conv(width, width, 3)
        self.bias = nn.Parameter(torch.empty(heads, (2 * window - 1) ** 2))
        self.offsets: Tensor
        self.register_buffer("offsets", relative_offsets(window), persistent=False)
        self.project = separable(width, window)
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same."""
        height, width = x.shape[-2:]
        below, right = -height % self.window, -width % self.window
        qkv = F.pad(self.qkv(x), (0, right, 0, below), mode="replicate")
        context = self._within_windows(qkv)[..., :height, :width]
        result: Tensor = self.project(self._across(context) + self.local1(x) + self.local3(x))
        return result

    def _within_windows(self, qkv: Tensor) -> Tensor:
        """(N, 3 * width, H, W), H and W multiples of the window, to (N, width, H, W)."""
        w, (rows, columns) = self.window, (side // self.window for side in qkv.shape[-2:])
        parts = qkv.reshape(qkv.shape[0], 3, self.heads, -1, rows, w, columns, w)
        parts = parts.permute(1, 0, 4, 6, 2, 5, 7, 3)  # 3, N, rows, columns, heads, w, w, each
        shape = parts.shape[1:]
        q, k, v = parts.reshape(3, -1, self.heads, w * w, parts.shape[-1])
        bias = self.bias[:, self.offsets].to(q.dtype)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).reshape(shape)
        return seen.permute(0, 3, 6, 1, 4, 2, 5).reshape(qkv.shape[0], -1, rows * w, columns * w)

    def _across(self, x: Tensor) -> Tensor:
        """The sum of the means over a window's length, along columns and along rows."""
        w = self.window
        before, after = (w - 1) // 2, w // 2
        vertical = F.pad(x, (0, 0, before, after), mode="replicate")
        horizontal = F.pad(x, (before, after, 0, 0), mode="replicate")
        return F.avg_pool2d(vertical, (w, 1), stride=1) + F.avg_pool2d(horizontal, (1, w), stride=1)


class Fusion(nn.Module):
    """A map, doubled, and the encoder's at that size: a weighted sum with learned weights."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.enter = conv(channels, width, 1)
        self.weights = nn.Parameter(torch.ones(2))
        self.leave = conv(width, width, 3, act=True)

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        """x (N, width, h, w), feature (N, channels, H, W) to (N, width, H, W)."""
        x = F.interpolate(x, size=feature.shape[-2:], mode="bilinear", align_corners=False)
        weights = F.relu(self.weights)
        skip, deep = weights / (weights.sum() + _SMALLEST_SUM)
        result: Tensor = self.leave(skip * self.enter(feature) + deep * x)
        return result


class Refinement(nn.Module):
    """The feature refinement head: weights by place and by channel, with a short cut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = max(1, width // 16)
        self.place = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Sigmoid()
        )
        self.channel = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, narrow, 1, bias=False), nn.ReLU6()),
            *(nn.Conv2d(narrow, width, 1, bias=False), nn.Sigmoid()),
        )
        self.short = conv(width, width, 1)
        self.project = separable(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same."""
        return F.relu6(self.project(x * (self.place(x) + self.channel(x))) + self.short(x))


def conv(inputs: int, outputs: int, kernel: int, *, act: bool = False) -> nn.Sequential:
    """Convolution and batch normalization, with ReLU6 if `act`."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU6()] if act else []))


def separable(width: int, kernel: int) -> nn.Sequential:
    """A depthwise convolution of any (also even) kernel, normalized, and a pointwise one."""
    before, after = (kernel - 1) // 2, kernel // 2
    return nn.Sequential(
        nn.ReplicationPad2d((before, after, before, after)),
        nn.Conv2d(width, width, kernel, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 1, bias=False),
    )


def relative_offsets(window: int) -> Tensor:
    """(window**2, window**2) of int: which of the (2 * window - 1)**2 offsets lies between two."""
    line = torch.arange(window)
    y, x = (axis.flatten() for axis in torch.meshgrid(line, line, indexing="ij"))
    down, right = (axis[:, None] - axis[None, :] + window - 1 for axis in (y, x))
    return down * (2 * window - 1) + right


def _stride(**_: Any) -> int:
    return 32


UNETFORMER = Architecture(UNetFormer, _stride)
