"""The network of a recipe: built anew, or taken over from a bundle; and what it is shown."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geoseg import models
from geoseg.bundle import Bundle
from geoseg.errors import ConfigError, ModelError
from geoseg.models.bands import adapt_bands
from geoseg.models.weights import load_encoder
from geoseg.registry import find
from geoseg.spec import BACKGROUND, ClassInfo, Scaling
from geoseg.train.config import ScheduleConfig, TrainConfig


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Architecture and arguments of a network, and the bundle that it goes on from, if any."""

    architecture: str
    arguments: Mapping[str, Any]
    start: Bundle | None = None

    @classmethod
    def of(cls, config: TrainConfig) -> Blueprint:
        if config.model.start:
            bundle = Bundle.open(find(config.model.start))
            return cls(bundle.spec.architecture, bundle.spec.arguments, bundle)
        for reserved in ("classes", "bands"):
            if reserved in config.model.arguments:
                raise ConfigError(
                    f"model.arguments: {reserved!r} follows from data.{reserved}; leave it out"
                )
        return cls(config.model.architecture, config.model.arguments)

    def classes(self, config: TrainConfig) -> tuple[ClassInfo, ...]:
        """In the order of the network's outputs; one that finds objects has no background."""
        channels = config.data.channels
        if models.task_of(self.architecture) == "instance-segmentation":
            return tuple(c for c in channels if c.id != BACKGROUND)
        return channels

    def build(self, config: TrainConfig) -> nn.Module:
        """The network with random weights."""
        return models.build(
            self.architecture,
            classes=len(self.classes(config)),
            bands=len(config.data.bands),
            **self.arguments,
        )


def new_network(config: TrainConfig) -> tuple[nn.Module, list[str]]:
    """The network with the weights that it starts from, and what is to be said about them.

    Other bands or classes than in the bundle that it starts from: the first convolution is
    adapted, the last layers begin with random weights; everything else is taken over.
    """
    blueprint = Blueprint.of(config)
    network = blueprint.build(config)
    if blueprint.start is not None:
        classes = len(blueprint.classes(config))
        return network, _take_over(network, blueprint.start, config, classes)
    if config.model.encoder_weights:
        names = [band.common_name or band.name for band in config.data.bands]
        return network, load_encoder(network, config.model.encoder_weights, bands=names)
    return network, []


def _take_over(network: nn.Module, bundle: Bundle, config: TrainConfig, count: int) -> list[str]:
    """Load the weights of a bundle; what was taken over, and what not."""
    spec, wanted = bundle.spec, network.state_dict()
    given = {name: torch.from_numpy(np.array(a)) for name, a in bundle.weights().items()}
    theirs, ours = ([b.common_name or b.name for b in x.bands] for x in (spec, config.data))
    classes = len(spec.classes), count
    said, fresh = [f"goes on from {spec.id}"], []
    first = next((n for n, t in given.items() if t.ndim == 4 and t.shape[1] == len(theirs)), "")
    if first and theirs != ours:
        given[first] = _for_bands(given[first], theirs, ours)
        said.append(f"{first} was made for {', '.join(theirs)}, and adapted to {', '.join(ours)}")
    for name, tensor in wanted.items():
        shape = given[name].shape if name in given else None
        if shape is not None and _is_last(shape, tensor.shape, classes):
            given[name] = tensor
            fresh.append(name)
        elif shape != tensor.shape:
            raise ModelError(
                f"{bundle.path}: the tensor {name!r} is {shape and tuple(shape)}, but this "
                f"network needs {tuple(tensor.shape)}"
            )
    network.load_state_dict(given)
    if fresh:
        said.append(f"{classes[1]} classes instead of {classes[0]}: {', '.join(fresh)} begin anew")
    return said


def _for_bands(kernel: Tensor, theirs: Sequence[str], ours: Sequence[str]) -> Tensor:
    """A first convolution for our bands: each its own kernel where all are known by name."""
    if set(ours) <= set(theirs):
        return kernel[:, [theirs.index(name) for name in ours]] * (len(theirs) / len(ours))
    return adapt_bands(kernel, len(ours))


def _is_last(given: torch.Size, wanted: torch.Size, classes: tuple[int, int]) -> bool:
    """Whether two shapes differ in nothing but the number of classes, their first axis.

    Heads of objects also count the background, and may have several numbers for each class.
    """
    if classes[0] == classes[1] or not given or not wanted or given[1:] != wanted[1:]:
        return False
    theirs, ours = classes
    return any(given[0] * (ours + n) == wanted[0] * (theirs + n) for n in (0, 1))


def scaling_of(config: TrainConfig, dtype: str) -> Scaling:
    """How the network sees pixels, in training as from its bundle.

    Numbers other than bytes may have wild outliers, so they are clipped to the value range.
    """
    data = config.data
    if data.offset is None or data.scale is None:
        raise ValueError("offset and scale are not yet measured")
    return Scaling(data.offset, data.scale, None if dtype == "uint8" else data.value_range)


class Scale:
    """scale(images (N, C, H, W)) -> what the network sees, as reading.normalize makes it."""

    def __init__(self, scaling: Scaling, device: torch.device) -> None:
        shape = (1, -1, 1, 1)
        self.clip = scaling.clip
        self.offset = torch.tensor(scaling.offset, device=device).view(shape)
        self.gain = torch.tensor([1 / s for s in scaling.scale], device=device).view(shape)

    def __call__(self, images: Tensor) -> Tensor:
        if self.clip:
            images = images.clamp(*self.clip)
        seen = (images - self.offset) * self.gain
        return seen.contiguous(memory_format=torch.channels_last)


def prepared(network: nn.Module, device: torch.device, s: ScheduleConfig) -> nn.Module:
    """The network as it trains best on the device."""
    if device.type == "cpu" and s.precision == "bfloat16":
        depthwise_in_float32(network)
    if device.type == "cuda" and s.devices > 1:  # on a CPU torch has no such layer
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return network.to(memory_format=torch.channels_last).train()


def depthwise_in_float32(network: nn.Module) -> nn.Module:
    """Let depthwise convolutions leave bfloat16 autocast.

    Their backward pass in bfloat16 has no fast CPU kernel (torch 2.14): 50 ms instead of 5 ms
    for the layers of an EfficientNet, half of the whole training step.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.forward = types.MethodType(_float32_forward, module)  # type: ignore[method-assign]
    return network


def _float32_forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return type(self).forward(self, x.float()).to(x.dtype)
