"""A bundle's network as one module that can be exported: what comes in and goes out is chosen.

pixels -> (x - offset) / scale -> network -> temperature -> activation -> probabilities
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from geoseg.exchange.candidates import Candidates
from geoseg.exchange.objects import Objects
from geoseg.grid import round_up
from geoseg.models.mask_rcnn import MaskRCNN
from geoseg.spec import ModelSpec, Scaling

_SAMPLE = 128  # pixels along an edge of the example that is traced, or a little more
_MOST = 1 << 12  # strides along an edge of a picture


class Whole(nn.Module):
    """(N, C, H, W) scaled pixels -> (N, K, H, W) probabilities."""

    outputs = ("scores",)

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.network = network
        self.temperature, self.activation = spec.temperature, spec.activation

    def forward(self, pixels: Tensor) -> Tensor:
        scores: Tensor = self.network(pixels)
        if self.activation != "none" and self.temperature != 1:
            scores = scores / self.temperature
        match self.activation:
            case "sigmoid":
                return scores.sigmoid()
            case "softmax":
                return scores.softmax(1)
            case _:
                return scores


class Scaled(nn.Module):
    """What takes scaled pixels as what takes them as they come."""

    gain: Tensor
    shift: Tensor

    def __init__(self, network: Whole | Objects | Candidates, scaling: Scaling) -> None:
        super().__init__()
        self.network, self.outputs, self.clip = network, network.outputs, scaling.clip
        scale, offset = torch.tensor(scaling.scale), torch.tensor(scaling.offset)
        self.register_buffer("gain", (1 / scale).view(1, -1, 1, 1))
        self.register_buffer("shift", (-offset / scale).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Any:
        if self.clip is not None:
            pixels = pixels.clamp(*self.clip)
        return self.network(pixels * self.gain + self.shift)


Exportable = Whole | Objects | Candidates | Scaled


def whole(network: nn.Module, spec: ModelSpec) -> Whole | Objects:
    """The network ready to be exported, of scaled pixels; it is changed in place."""
    _fix_paddings(network)
    if isinstance(network, MaskRCNN):
        return Objects(network.eval(), spec).eval().requires_grad_(False)
    return Whole(network.eval(), spec).eval().requires_grad_(False)


def example(spec: ModelSpec, size: int | None = None) -> Tensor:
    """A batch of two pictures, higher than wide, such as the network takes, or one of `size`; of
    one that finds objects one picture, as each has as many as it has."""
    generator = torch.Generator().manual_seed(0)
    height = width = size or spec.tiling.size
    if size is None and not spec.tiling.fixed:
        width = max(round_up(_SAMPLE, spec.tiling.stride), 2 * spec.tiling.stride)
        height = width + spec.tiling.stride
    pictures = 1 if spec.finds_objects or size is not None else 2
    return torch.randn((pictures, len(spec.bands), height, width), generator=generator)


def axes(spec: ModelSpec) -> dict[int, Any]:
    """The axes of `example` that are free, and in which steps, as torch.export wants it."""
    free: dict[int, Any] = {} if spec.finds_objects else {0: torch.export.Dim("batch")}
    if not spec.tiling.fixed:
        for axis, name in ((2, "rows"), (3, "cols")):
            free[axis] = spec.tiling.stride * torch.export.Dim(name, min=1, max=_MOST)
    return free


# --- paddings -------------------------------------------------------------------------------


class _Padded(nn.Conv2d):
    """TensorFlow's 'same' convolution on maps whose edges are multiples of its stride.

    There the padding is a number, known beforehand, and not a sum over the size of the map: the
    graph becomes small, and torch exports it in seconds instead of minutes.
    """

    def forward(self, x: Tensor) -> Tensor:
        sides = [side for total in reversed(_totals(self)) for side in _halves(total)]
        x = nn.functional.pad(x, sides)
        return nn.functional.conv2d(
            x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


def _fix_paddings(network: nn.Module) -> None:
    """Tiles are multiples of the network's stride, so all its maps are multiples of theirs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and type(module).__name__ == "Conv2dSame":
            module.__class__ = _Padded


def _totals(conv: nn.Conv2d) -> list[int]:
    """Pixels to be added along height and width."""
    axes = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
    return [max((k - 1) * d + 1 - s, 0) for k, s, d in axes]


def _halves(total: int) -> Iterator[int]:
    yield total // 2
    yield total - total // 2
