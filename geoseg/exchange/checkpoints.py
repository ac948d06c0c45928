"""Files of torch: tensors of a checkpoint into geoseg's architectures, TorchScript into ONNX.

A checkpoint is read with `weights_only`: a pickle that wants to run code is refused. What its
trainer calls the network ('model.', 'module.' ...) is found by the names of its tensors.
"""

from __future__ import annotations

import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from geoseg import models
from geoseg.errors import ModelError

OPSET = 17  # the latest of torch's exporter of TorchScript
# torchgeo's SemanticSegmentationTask -> ours; its own FCN is another network than ours.
_TORCHGEO = {"unet": "unet", "deeplabv3+": "deeplabv3plus", "fpn": "fpn", "segformer": "segformer"}


def is_torchscript(path: Path) -> bool:
    """torch.jit writes a zip with code in it, torch.save one without."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint by name, and the keys of a contract that it states."""
    if path.suffix.lower() == ".safetensors":
        try:
            return load_file(path), {}
        except (safetensors.SafetensorError, OSError, ValueError) as e:
            raise ModelError(f"{path}: no intact safetensors file ({e})") from e
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles written by other versions
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:  # torch's own words advise to run the code
        raise ModelError(
            f"{path}: refused, it is no checkpoint or holds more than tensors and plain values "
            "(code, perhaps): have its trainer save the state_dict alone"
        ) from e
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as e:
        why = str(e) or "the file ends too early"  # EOFError has no words
        raise ModelError(f"{path}: no checkpoint that torch can read ({why})") from e
    return _tensors(content, path), _torchgeo(content)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {
        str(k): v
        for k, v in (content.items() if isinstance(content, Mapping) else ())
        if isinstance(v, Tensor)
    }
    if not tensors:
        raise ModelError(f"{path}: no tensors by name in it: is this a state_dict?")
    return tensors


def _torchgeo(content: Any) -> dict[str, Any]:
    """What a checkpoint of torchgeo's SemanticSegmentationTask says of its network."""
    hyper = content.get("hyper_parameters") if isinstance(content, Mapping) else None
    if not isinstance(hyper, Mapping) or hyper.get("model") not in _TORCHGEO:
        return {}
    said: dict[str, Any] = {
        "architecture": _TORCHGEO[hyper["model"]],
        "arguments": {"encoder": hyper.get("backbone")},
    }
    if hyper.get("task") in ("binary", "multiclass"):
        said["activation"] = "sigmoid" if hyper["task"] == "binary" else "softmax"
    return said


def network_from(
    state: Mapping[str, Tensor],
    path: Path,
    *,
    architecture: str,
    arguments: Mapping[str, Any],
    classes: int,
    bands: int,
) -> nn.Module:
    """The architecture with the checkpoint's tensors; every one of its own must be there.

    Tensors of the encoder that geoseg's network has no use for are left out: smp keeps stages that
    never run. Any other tensor of the network too many is a ModelError.
    """
    network = models.build(architecture, classes=classes, bands=bands, **arguments).eval()
    wanted = network.state_dict()
    prefix = _prefix(state, wanted)
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    parts = {name.partition(".")[0] for name in wanted} - {"encoder"}
    kept = {k: v for k, v in own.items() if k in wanted or k.partition(".")[0] in parts}
    arrays = {k: (v.float() if v.is_floating_point() else v).numpy() for k, v in kept.items()}
    models.load_state(network, arrays, str(path))
    return network


def _prefix(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What stands before the network's own names: the prefix under which most of them are."""
    first = next(iter(wanted))
    found = [k[: -len(first)] for k in state if k.endswith(first)]
    return max(found, key=lambda p: sum(p + name in state for name in wanted), default="")


def read_script(path: Path) -> nn.Module:
    """A TorchScript module, on the CPU."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch has deprecated TorchScript
            script: nn.Module = torch.jit.load(str(path), "cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as e:
        raise ModelError(f"{path}: no TorchScript that torch can read ({_first_line(e)})") from e
    return script.eval()


def script_to_onnx(path: Path, *, bands: int, size: int, fixed: bool, last: bool) -> bytes:
    """A TorchScript module as the bytes of an ONNX file."""
    script = read_script(path)
    shape = (1, size, size, bands) if last else (1, bands, size, size)
    rows, cols = (1, 2) if last else (2, 3)
    free = {"pixels": {0: "batch", rows: "rows", cols: "cols"}, "scores": {0: "batch"}}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="geoseg-") as folder,
            warnings.catch_warnings(),
            torch.no_grad(),
        ):
            made = Path(folder) / "model.onnx"
            warnings.simplefilter("ignore")  # the exporter of TorchScript is deprecated
            torch.onnx.export(
                script,
                (torch.zeros(shape),),
                made,
                dynamo=False,
                opset_version=OPSET,
                input_names=["pixels"],
                output_names=["scores"],
                dynamic_axes=None if fixed else free,
            )
            return made.read_bytes()
    except Exception as e:  # whatever the module does when it is run
        raise ModelError(f"{path}: torch cannot make ONNX of it ({_first_line(e)})") from e


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
