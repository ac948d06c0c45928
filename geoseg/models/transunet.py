"""TransUNet: a CNN down to 1/16, a vision transformer on what it found, and a U-Net's decoder.

Chen et al.: TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation. 2021,
https://arxiv.org/abs/2102.04306

The defaults are the paper's R50-ViT-B/16, but for the CNN: torchvision's ResNet-50 (batch
normalization, stages of 3, 4, 6 blocks) in place of BiT's (group normalization, 3, 4, 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from geoseg.models import Architecture
from geoseg.models.encoders import new_encoder

MOST = 100  # blocks
_LEVELS = 4  # halvings in the CNN
_WIDTH = 512  # channels that the decoder begins with


class TransUNet(nn.Module):
    """dim, depth, heads: of the transformer. grid: side of the table of position embeddings.

    For a smaller one take for instance encoder='tu-resnet18', dim=384, depth=6, heads=6.
    """

    def __init__(
        self,
        classes: int,
        bands: int,
        *,
        encoder: str = "tu-resnet50",
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        grid: int = 14,
        dropout: float = 0.1,
        decoder_channels: Sequence[int] = (256, 128, 64, 16),
    ) -> None:
        super().__init__()
        if not 1 <= depth <= MOST:
            raise ValueError(f"depth must be 1 to {MOST}")
        self.encoder, (*skips, last) = new_encoder(encoder, bands=bands, depth=_LEVELS)
        self.encoder_name = encoder
        self.transformer = Transformer(
            last, dim=dim, depth=depth, heads=heads, grid=grid, dropout=dropout
        )
        self.decoder = UnetDecoder(
            [*skips, _WIDTH],
            list(decoder_channels),
            n_blocks=_LEVELS,
            interpolation_mode="bilinear",
        )
        self.head = nn.Conv2d(decoder_channels[-1], classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, bands, H, W) to logits (N, classes, H, W); H and W multiples of 16."""
        features = self.encoder(x)
        features[-1] = self.transformer(features[-1])
        logits: Tensor = self.head(self.decoder(features))
        return logits


class Transformer(nn.Module):
    """Every pixel of a feature map is a token that attends to all others.

    The position embeddings were learned on a grid of `grid` x `grid` tokens and are interpolated
    to any other, as is usual where a vision transformer meets pictures of another size.
    """

    def __init__(
        self, channels: int, *, dim: int, depth: int, heads: int, grid: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, dim, 1)
        self.positions = nn.Parameter(torch.empty(1, dim, grid, grid))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(Block(dim, heads, qkv_bias=True, proj_drop=dropout) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.widen = nn.Sequential(
            nn.Conv2d(dim, _WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(_WIDTH), nn.ReLU()
        )
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks.apply(_initialize)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 512, H, W)."""
        x = self.embed(x)
        x = x + self._positions(x.shape[-2:]).to(x.dtype)
        tokens = self.dropout(x.flatten(2).transpose(1, 2))
        tokens = self.norm(self.blocks(tokens))
        wide: Tensor = self.widen(tokens.transpose(1, 2).unflatten(2, x.shape[-2:]))
        return wide

    def _positions(self, size: torch.Size) -> Tensor:
        if size == self.positions.shape[-2:]:
            return self.positions
        return F.interpolate(self.positions.float(), size=size, mode="bicubic", align_corners=False)


def _initialize(layer: nn.Module) -> None:
    """As vision transformers are."""
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)


def _stride(**_: Any) -> int:
    return int(2**_LEVELS)


TRANSUNET = Architecture(TransUNet, _stride)
