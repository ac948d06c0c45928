"""Architectures: a file here and a line in ARCHITECTURES each; third parties by entry points.

A line names an `Architecture` as 'module:object'; the module is imported when it is first built,
because the libraries behind it are slow to import. A package of somebody else adds its own in the
entry-point group `geoseg.models`, in the same form.

The constructor's arguments, which a bundle keeps, rebuild the network; building never downloads.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from geoseg.errors import ModelError
from geoseg.spec import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

GROUP = "geoseg.models"

ARCHITECTURES = {
    "unet": "geoseg.models.smp:UNET",
    "unetplusplus": "geoseg.models.smp:UNETPLUSPLUS",
    "fpn": "geoseg.models.smp:FPN",
    "pspnet": "geoseg.models.smp:PSPNET",
    "deeplabv3": "geoseg.models.smp:DEEPLABV3",
    "deeplabv3plus": "geoseg.models.smp:DEEPLABV3PLUS",
    "segformer": "geoseg.models.smp:SEGFORMER",
    "fcn": "geoseg.models.fcn:FCN_SKIPS",
    "fcn_torchvision": "geoseg.models.fcn:FCN_TORCHVISION",
    "transunet": "geoseg.models.transunet:TRANSUNET",
    "unetformer": "geoseg.models.unetformer:UNETFORMER",
    "mask_rcnn": "geoseg.models.mask_rcnn:MASK_RCNN",
    "tiny": "geoseg.models.tiny:TINY",
}


# What constructors say, ours and others', to arguments of the wrong kind or size.
_UNBUILDABLE = (
    *(TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError),
    *(RuntimeError, MemoryError, SystemError),
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to build a network.

    build(classes=, bands=, **arguments): a module that maps (N, bands, H, W) float to logits
        (N, classes, H, W), H and W multiples of the stride; of one that finds objects see
        geoseg/models/mask_rcnn.py.
    stride(**arguments): its total down-sampling, in pixels.
    task: what it gives.
    """

    build: Callable[..., nn.Module]
    stride: Callable[..., int]
    task: Task = "semantic-segmentation"


def names() -> list[str]:
    """Architectures that can be built, ours and those of installed packages."""
    return sorted({*ARCHITECTURES, *(e.name for e in entry_points(group=GROUP))})


def build(architecture: str, *, classes: int, bands: int, **arguments: Any) -> nn.Module:
    """The network with random weights. An unknown name or argument is a ModelError."""
    make = _find(architecture).build
    try:
        return make(classes=classes, bands=bands, **arguments)
    except _UNBUILDABLE as e:
        raise _unbuildable(architecture, arguments, e) from e


def stride_of(architecture: str, arguments: Mapping[str, Any]) -> int:
    """Tiles must be multiples of this many pixels."""
    count = _find(architecture).stride
    try:
        return count(**arguments)
    except _UNBUILDABLE as e:
        raise _unbuildable(architecture, arguments, e) from e


def task_of(architecture: str) -> Task:
    """What networks of this architecture give."""
    return _find(architecture).task


def load_state(network: nn.Module, state: Mapping[str, NDArray[np.generic]], source: str) -> None:
    """Put the arrays of a bundle into the network, in the network's own precision.

    Raises a ModelError that names the first tensor that is missing, too much, or misshapen.
    """
    import torch

    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            raise ModelError(f"{source}: the tensor {name!r} is missing from the weights")
        if tuple(tensor.shape) != state[name].shape:
            raise ModelError(
                f"{source}: the tensor {name!r} is {_times(state[name].shape)}, "
                f"but the architecture in model.json needs {_times(tensor.shape)}"
            )
    for name in state:
        if name not in wanted:
            raise ModelError(f"{source}: the architecture in model.json has no tensor {name!r}")
    network.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})


def nearest(wrong: str, valid: Iterable[str]) -> str:
    """' (did you mean x?)' for error messages, or nothing where no name is near."""
    close = difflib.get_close_matches(wrong.lower(), list(valid), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _find(name: str) -> Architecture:
    if name in ARCHITECTURES:
        module, _, attribute = ARCHITECTURES[name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
    else:
        found = next((e.load() for e in entry_points(group=GROUP) if e.name == name), None)
    if found is None:
        raise ModelError(
            f"no architecture is named {name!r}{nearest(name, names())}; "
            f"there are: {', '.join(names())}"
        )
    if not isinstance(found, Architecture):
        raise ModelError(f"the entry point {name!r} in {GROUP} is no geoseg.models.Architecture")
    return found


def _unbuildable(name: str, arguments: Mapping[str, Any], error: Exception) -> ModelError:
    given = ", ".join(f"{k}={v!r:.60}" for k, v in arguments.items()) or "no arguments"
    why = str(error).strip().partition("\n")[0] or type(error).__name__
    return ModelError(f"{name} cannot be built with {given}: {why}")


def _times(shape: Iterable[int]) -> str:
    return " x ".join(str(n) for n in shape) or "a single number"
