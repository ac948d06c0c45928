"""A plain stack of convolutions, for tests and benchmarks that lay the pipeline bare."""

from __future__ import annotations

from typing import Any

from torch import nn

from geoseg.models import Architecture

MOST = 1000  # of channels, and of layers


def build(classes: int, bands: int, *, width: int = 8, depth: int = 2) -> nn.Sequential:
    """`depth` 3 x 3 convolutions: an output pixel sees `depth` pixels in each direction."""
    for name, value in (("width", width), ("depth", depth)):
        if not 1 <= value <= MOST:
            raise ValueError(f"{name} must be 1 to {MOST}")
    channels = [bands, *[width] * (depth - 1), classes]
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(channels[i], channels[i + 1], 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def stride(**_: Any) -> int:
    """Every pixel is like every other."""
    return 1


TINY = Architecture(build, stride)
