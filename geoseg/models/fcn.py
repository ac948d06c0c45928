"""Fully convolutional networks: ours with skips (FCN-32s, -16s, -8s), and torchvision's.

Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation. CVPR 2015,
https://arxiv.org/abs/1411.4038
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import segmentation  # type: ignore[import-untyped]

from geoseg.models import Architecture
from geoseg.models.encoders import new_encoder

_SKIPS = {32: 0, 16: 1, 8: 2}  # of the variants


class FCN(nn.Module):
    """An encoder, a score per class at its end and at its skips, and learned up-sampling.

    variant: 32 enlarges the last scores 32 times; 16 and 8 add the scores of the feature maps
        down-sampled 16 and 8 times on the way. hidden: width of the two layers between encoder
        and scores that once were VGG's fully connected ones, 0 for none; the paper's network is
        encoder='vgg16', hidden=4096. They want chips of 128 pixels or more.
    """

    def __init__(
        self,
        classes: int,
        bands: int,
        *,
        encoder: str = "resnet34",
        variant: int = 8,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        if variant not in _SKIPS:
            raise ValueError("variant must be 8, 16 or 32")
        self.encoder, channels = new_encoder(encoder, bands=bands)
        self.encoder_name = encoder
        self.decoder = ScoreFusion(channels, classes, variant, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(N, bands, H, W) to logits (N, classes, H, W); H and W multiples of 32."""
        logits: Tensor = self.decoder(self.encoder(x))
        return logits


class ScoreFusion(nn.Module):
    """Feature maps to scores: from the coarsest, doubled and added to the next finer ones."""

    def __init__(self, channels: Sequence[int], classes: int, variant: int, hidden: int) -> None:
        super().__init__()
        skips = channels[-2::-1][: _SKIPS[variant]]
        self.last = scores_of(channels[-1], classes, hidden)
        self.skips = nn.ModuleList(silent_scores(c, classes) for c in skips)
        self.doublings = nn.ModuleList(bilinear_upsampling(classes, 2) for _ in skips)
        self.enlarge = bilinear_upsampling(classes, variant)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps, finest first, to logits in pixels of the first."""
        x = self.last(features[-1])
        finer = features[-2::-1]
        for skip, double, feature in zip(self.skips, self.doublings, finer, strict=False):
            x = double(x) + skip(feature)
        logits: Tensor = self.enlarge(x)
        return logits


def scores_of(channels: int, classes: int, hidden: int) -> nn.Module:
    """Scores by a 1 x 1 convolution, after VGG's fc6 and fc7 as convolutions if `hidden`."""
    if not hidden:
        return nn.Conv2d(channels, classes, 1)
    return nn.Sequential(
        *(nn.Conv2d(channels, hidden, 7, padding=3), nn.ReLU(), nn.Dropout2d(0.5)),
        *(nn.Conv2d(hidden, hidden, 1), nn.ReLU(), nn.Dropout2d(0.5)),
        nn.Conv2d(hidden, classes, 1),
    )


def silent_scores(channels: int, classes: int) -> nn.Conv2d:
    """Scores that are 0 at first, as in the paper: learning starts from what the last map says."""
    layer = nn.Conv2d(channels, classes, 1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def bilinear_upsampling(classes: int, factor: int) -> nn.ConvTranspose2d:
    """A transposed convolution that begins as bilinear interpolation (but darkens at the border).

    `factor` must be even, so that the output is exactly that much larger.
    """
    layer = nn.ConvTranspose2d(
        classes, classes, 2 * factor, stride=factor, padding=factor // 2, bias=False
    )
    middle = factor - 0.5
    tent = 1 - (torch.arange(2 * factor, device=layer.weight.device) - middle).abs() / factor
    with torch.no_grad():
        layer.weight.zero_()
        for c in range(classes):
            layer.weight[c, c] = torch.outer(tent, tent)
    return layer


class TorchvisionFCN(nn.Module):
    """torchvision's FCN: a dilated ResNet (stride 8), two convolutions, bilinear up-sampling.

    encoder: resnet50 or resnet101. Without the auxiliary classifier, which only helps training.
    """

    def __init__(self, classes: int, bands: int, *, encoder: str = "resnet50") -> None:
        super().__init__()
        makers = {"resnet50": segmentation.fcn_resnet50, "resnet101": segmentation.fcn_resnet101}
        if encoder not in makers:
            raise ValueError(f"encoder must be {' or '.join(makers)}")
        whole = makers[encoder](weights=None, weights_backbone=None, num_classes=classes)
        self.encoder = whole.backbone
        self.encoder["conv1"] = nn.Conv2d(bands, 64, 7, stride=2, padding=3, bias=False)
        self.encoder_name = encoder  # smp has the same networks under the same names
        self.decoder = whole.classifier

    def forward(self, x: Tensor) -> Tensor:
        """(N, bands, H, W) to logits (N, classes, H, W)."""
        scores = self.decoder(self.encoder(x)["out"])
        return F.interpolate(scores, size=x.shape[-2:], mode="bilinear", align_corners=False)


def _coarsest(**_: Any) -> int:
    return 32


def _dilated(**_: Any) -> int:
    return 8


FCN_SKIPS = Architecture(FCN, _coarsest)
FCN_TORCHVISION = Architecture(TorchvisionFCN, _dilated)
