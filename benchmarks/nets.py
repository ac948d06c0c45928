"""Networks of the benchmarks; the same weights on every side, with a clock inside."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

REPO = Path(__file__).resolve().parent.parent


class Clock:
    """Seconds spent in the networks of this process: on the wall, and of the calling thread.

    With one thread per network the latter is the network's own time even where other threads
    compete for the core.
    """

    wall = cpu = 0.0
    pixels = 0

    @classmethod
    def take(cls) -> dict[str, float]:
        """What was counted since the last time."""
        taken = {"model_wall": cls.wall, "model_cpu": cls.cpu, "model_pixels": float(cls.pixels)}
        cls.wall = cls.cpu = 0.0
        cls.pixels = 0
        return taken


class OneConvolution(nn.Module):
    """The least that can be called a model: lays the pipeline around it bare.

    It finds bright pixels, or with a kernel larger than 1 bright neighbourhoods. `classes` 1
    gives a logit, 2 those of dark and bright. Its input is in 0..1.
    """

    def __init__(self, classes: int, bands: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(bands, classes, kernel, padding=kernel // 2)
        with torch.no_grad():
            gain = torch.tensor([16.0] if classes == 1 else [-8.0, 8.0])
            self.conv.weight.copy_(
                (gain / (bands * kernel**2))[:, None, None, None].expand_as(self.conv.weight)
            )
            self.conv.bias.copy_(-0.601 * gain)  # no pixel is on the edge

    def forward(self, x: Tensor) -> Tensor:
        wall, cpu = time.perf_counter(), time.thread_time()
        y = self.conv(x)
        Clock.wall += time.perf_counter() - wall
        Clock.cpu += time.thread_time() - cpu
        Clock.pixels += x.shape[0] * x.shape[2] * x.shape[3]
        return y


def register() -> None:
    """Make the architecture 'oneconv' known to geoseg in this process."""
    sys.path.insert(0, str(REPO))
    from geoseg import models

    models.ARCHITECTURES["oneconv"] = "nets:ONECONV"


def __getattr__(name: str) -> Any:
    if name != "ONECONV":
        raise AttributeError(name)
    from geoseg.models import Architecture

    return Architecture(
        lambda classes, bands, **arguments: OneConvolution(classes, bands, **arguments),
        lambda **_: 1,
    )


def unpacked(bundle: str) -> tuple[nn.Module, Any]:
    """(network, spec) of a geoseg bundle, without geoseg's own pipeline: what the peers run.

    Only reads the folder: model.json, and the weights with safetensors.
    """
    import json

    from safetensors.numpy import load_file

    register()
    from geoseg.models import build, load_state
    from geoseg.spec import from_item

    folder = Path(bundle)
    spec = from_item(json.loads((folder / "model.json").read_text()), source=bundle)
    network = build(
        spec.architecture, classes=len(spec.classes), bands=len(spec.bands), **spec.arguments
    )
    load_state(network, load_file(folder / "weights.safetensors"), bundle)
    return network.eval(), spec


class Probability(nn.Module):
    """A one-class network as its card says: pixel values 0..255 in, probability out."""

    def __init__(self, network: nn.Module, spec: Any) -> None:
        super().__init__()
        self.network, self.temperature = network, spec.temperature
        self.register_buffer("offset", torch.tensor(spec.scaling.offset)[:, None, None])
        self.register_buffer("scale", torch.tensor(spec.scaling.scale)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.network((x - self.offset) / self.scale) / self.temperature)
