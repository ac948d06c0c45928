"""Encoders of segmentation_models_pytorch and timm ('tu-...'), for any number of bands.

Only those are let through that take pictures of any size in steps of their stride.
"""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
import timm
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import nn
from torchvision.models import ResNet  # type: ignore[import-untyped]

from geoseg.errors import ModelError
from geoseg.models import nearest

# timm marks whole families as bound to one size of picture. These take others once they are told,
_ASKED = {"swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr"}
# and these take others in any case, as long as only their feature maps are used.
_FREE = {"byobnet", "swiftformer", "twins"}


def new_encoder(name: str, *, bands: int, depth: int = 5) -> tuple[nn.Module, list[int]]:
    """An encoder with random weights, (N, bands, H, W) to a list of depth + 1 feature maps.

    The maps are down-sampled 1, 2, 4 ... 2**depth times, the first is the picture itself. Their
    channels come second; a map that a transformer does not have has 0.
    """
    encoder = smp.encoders.get_encoder(
        name, in_channels=bands, depth=depth, weights=None, **extra_arguments(name)
    )
    drop_unused(encoder)
    return encoder, list(encoder.out_channels)


def drop_unused(encoder: nn.Module) -> None:
    """Take away the stages after the last map that is asked for.

    smp's ResNets keep them as weights that never learn; timm's EfficientNets and MobileNets even
    run them.
    """
    if isinstance(encoder, ResNet):
        for number in range(len(encoder.out_channels), 6):
            delattr(encoder, f"layer{number - 1}")
    model = getattr(encoder, "model", None)
    if isinstance(model, EfficientNetFeatures | MobileNetV3Features):
        last = model.feature_info.module_name()[-1].removeprefix("blocks.")
        if last.isdecimal():
            model.blocks = model.blocks[: int(last) + 1]


def extra_arguments(name: object) -> dict[str, Any]:
    """What to tell an encoder so that it takes any size. A name that is not known is an error.

    Only listed names pass: timm would fetch 'hf-hub:...' from the network.
    """
    if not isinstance(name, str):
        raise ModelError(f"no encoder is named {name!r}")
    own = smp.encoders.get_encoder_names()
    if name in own:
        return {}
    timms = name.removeprefix("tu-")
    if timms == name or not timm.is_model(timms):
        known = [*own, *(f"tu-{n}" for n in timm.list_models())]
        raise ModelError(f"no encoder is named {name!r}{nearest(name, known)}")
    family = timm.model_entrypoint(timms).__module__.rpartition(".")[2]
    if family in _ASKED:
        return {"strict_img_size": False}
    trained = timm.get_pretrained_cfg(timms)
    if trained and trained.fixed_input_size and family not in _FREE:
        raise ModelError(f"the encoder {name} takes pictures of one size only; choose another")
    return {}
