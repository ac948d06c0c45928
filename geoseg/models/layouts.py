"""Names of tensors: each library that publishes weights has its own for the same layers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping

import timm
from torch import Tensor

from geoseg.errors import ModelError

State = Mapping[str, Tensor]

# What may stand before the encoder's names: the file is of a whole network, or of a wrapper.
_PREFIXES = ("", "encoder.", "model.", "encoder.model.", "backbone.", "backbone.body.")
_HEADS = ("conv_head.",)  # last layers that look like parts of the encoder by name
_STAGE = re.compile(r"(?:model_)?((?:stages|blocks|layers|features)_\d+|[^_]+)")
_FOREIGN = (LookupError, AttributeError, TypeError, ValueError, RuntimeError)


def by_name(given: State, wanted: State, *, source: str, encoder: str) -> dict[str, Tensor]:
    """The tensors of `given` under the names of `wanted`, in the first layout that has them all.

    Stages and heads that the encoder does not have are left out; further layers within a stage
    that it has belong to another network. encoder: its name, for timm's own conversions.
    """
    for layout in _layouts(given, encoder):
        for prefix in _PREFIXES:
            inside = {k.removeprefix(prefix): v for k, v in layout.items() if k.startswith(prefix)}
            for outer in ("", "model."):  # smp wraps timm's encoders once more
                named = {_flat(outer + k): v for k, v in inside.items()}
                if all(_flat(k) in named or _optional(k) for k in wanted):
                    _refuse_deeper([outer + k for k in inside], wanted, source)
                    return {k: named.get(_flat(k), v) for k, v in wanted.items()}
    missing = next((k for k in wanted if k not in given), "")
    whose = f"the encoder {encoder}" if encoder else "this encoder"
    raise ModelError(f"{source}: not the weights of {whose}: {missing!r} is missing")


def in_order(given: State, wanted: State, *, source: str, fits: str) -> dict[str, Tensor]:
    """The tensors of `given`, which lists the same layers in the same order under other names.

    They are paired by order, and kind (weight, running_mean ...) and shape must agree, but for
    the bands of the first. What comes after the encoder's last tensor is left out.
    """
    pairs = list(zip(wanted, given, strict=False))
    for i, (ours, theirs) in enumerate(pairs):
        same_kind = ours.rpartition(".")[2] == theirs.rpartition(".")[2]
        skipped = 2 if i == 0 else 0
        if not same_kind or wanted[ours].shape[skipped:] != given[theirs].shape[skipped:]:
            raise ModelError(
                f"{source} fits the encoder {fits} only: {ours!r} {tuple(wanted[ours].shape)} is "
                f"not {theirs!r} {tuple(given[theirs].shape)}"
            )
    if len(pairs) < len(wanted):
        raise ModelError(f"{source} fits the encoder {fits} only")
    return {ours: given[theirs] for ours, theirs in pairs}


# torchvision's detectors to geoseg/models/mask_rcnn.py, one after the other; the last three are
# of files as old as its Mask R-CNN of COCO, from before its layers were blocks.
_DETECTOR = (
    (r"^backbone\.body\.", "encoder."),
    (r"^backbone\.fpn\.", "fpn."),
    (r"^roi_heads\.(mask|keypoint)_", r"heads.\1."),
    (r"^roi_heads\.", "heads."),
    (r"^(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^(heads\.mask\.head)\.mask_fcn(\d)\.", lambda m: f"{m[1]}.{int(m[2]) - 1}.0."),
)


def from_torchvision_detector(given: State) -> dict[str, Tensor]:
    """torchvision's Faster, Mask or Keypoint R-CNN with an FPN under the names of `mask_rcnn`.

    Its first class is the background, so it fits a network of one class less. Nothing is left of
    a state that is none.
    """
    out = {}
    for name, tensor in given.items():
        ours = name
        for pattern, new in _DETECTOR:
            ours = re.sub(pattern, new, ours)
        if ours.startswith(("encoder.", "fpn.", "rpn.", "heads.")):
            out[ours] = tensor
    return out


def _flat(name: str) -> str:
    """timm writes stages_0 for stages.0 where only feature maps are wanted."""
    return name.replace(".", "_")


def _optional(name: str) -> bool:
    """Older files do not count batches."""
    return name.endswith("num_batches_tracked")


def _refuse_deeper(names: list[str], wanted: State, source: str) -> None:
    flat = {_flat(k) for k in wanted}
    stages = {_stage(k) for k in wanted}
    for name in names:
        if _flat(name) in flat or name.removeprefix("model.").startswith(_HEADS):
            continue
        if _stage(name) in stages:
            raise ModelError(f"{source}: this encoder has no tensor {name!r}")


def _stage(name: str) -> str:
    found = _STAGE.match(_flat(name))
    return found[1] if found else name


def _layouts(given: State, encoder: str) -> Iterator[State]:
    """The state as it is, then as other libraries would write it, as far as they know how."""
    yield given
    if "features.1.0.attn.qkv.weight" in given:
        yield dict(_from_torchvision_swin(given))
    name = encoder.removeprefix("tu-")
    if name != encoder and timm.is_model(name):
        module = sys.modules[timm.model_entrypoint(name).__module__]
        convert = getattr(module, "checkpoint_filter_fn", None)
        if convert:
            try:
                yield convert(dict(given), timm.create_model(name))
            except _FOREIGN:  # it asks for tensors of its own network
                return


def _from_torchvision_swin(given: State) -> Iterator[tuple[str, Tensor]]:
    """torchvision's Swin transformers (V1 and V2) under timm's names."""
    for name, tensor in given.items():
        if name.endswith(("relative_coords_table", "relative_position_index")):
            continue  # made anew
        place = re.match(r"features\.(\d+)\.(\d+\.)?(.*)", name)
        if place is None:  # the last norm, and the classifier
            yield name, tensor
            continue
        number, block, rest = int(place[1]), place[2] or "", place[3]
        rest = re.sub(r"^mlp\.0\.", "mlp.fc1.", re.sub(r"^mlp\.3\.", "mlp.fc2.", rest))
        if number == 0:
            yield f"patch_embed.{'proj' if block == '0.' else 'norm'}.{rest}", tensor
        elif number % 2 == 0:
            yield f"layers.{number // 2}.downsample.{block}{rest}", tensor
        elif rest == "attn.qkv.bias" and name.replace("qkv.bias", "logit_scale") in given:
            query, _, value = tensor.chunk(3)  # V2 has no bias for keys
            yield f"layers.{number // 2}.blocks.{block}attn.q_bias", query
            yield f"layers.{number // 2}.blocks.{block}attn.v_bias", value
        else:
            yield f"layers.{number // 2}.blocks.{block}{rest}", tensor
