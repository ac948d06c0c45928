"""The architectures of segmentation_models_pytorch, with its own encoders and timm's ('tu-...').

Arguments are those of smp's constructors, with `encoder` for `encoder_name`. What would download,
read files or change the output is not among them, because arguments come out of bundles.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
from torch import nn

from geoseg.errors import ModelError
from geoseg.models import Architecture, nearest
from geoseg.models.encoders import drop_unused, extra_arguments

# What smp sets from `classes` and `bands`, or what geoseg does itself.
_OURS = {"encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params"}
_CATCH_ALL = {"self", "kwargs"}


def _build(kind: type[nn.Module], *, classes: int, bands: int, **arguments: Any) -> nn.Module:
    valid = {"encoder", *inspect.signature(kind.__init__).parameters} - _OURS - _CATCH_ALL
    name = kind.__name__.lower()
    for key in arguments:
        if key not in valid:
            raise ModelError(f"{name} has no argument {key!r}{nearest(key, valid)}")
    encoder = arguments.pop("encoder", "resnet34")
    network = kind(
        encoder_name=encoder,
        encoder_weights=None,
        in_channels=bands,
        classes=classes,
        **extra_arguments(encoder),
        **arguments,
    )
    drop_unused(network.get_submodule("encoder"))
    network.encoder_name = encoder  # for pretrained weights
    return network


def _stride(depth: int, output_stride: int, **arguments: Any) -> int:
    depth = arguments.get("encoder_depth", depth)
    return int(min(arguments.get("encoder_output_stride", output_stride), 2**depth))


def _architecture(
    kind: type[nn.Module], *, depth: int = 5, output_stride: int = 32
) -> Architecture:
    return Architecture(partial(_build, kind), partial(_stride, depth, output_stride))


UNET = _architecture(smp.Unet)
UNETPLUSPLUS = _architecture(smp.UnetPlusPlus)
FPN = _architecture(smp.FPN)
PSPNET = _architecture(smp.PSPNet, depth=3)
DEEPLABV3 = _architecture(smp.DeepLabV3, output_stride=8)
DEEPLABV3PLUS = _architecture(smp.DeepLabV3Plus, output_stride=16)
SEGFORMER = _architecture(smp.Segformer)
