"""The torch runtime: on a CPU, a CUDA GPU or Apple's mps.

The fastest way to run a network differs by machine: so each candidate (precision, memory layout)
is held against the bundle's golden sample, and the fastest that agrees is taken. Its name is
remembered per model, torch and processor; the golden sample is checked every time.
"""

from __future__ import annotations

import copy
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoseg import models
from geoseg.bundle import Bundle, Sample, check_sample, rounded
from geoseg.errors import ModelError, UsageError
from geoseg.grid import round_up
from geoseg.runtime.allocator import keep_freed_memory
from geoseg.runtime.cores import physical_cores
from geoseg.runtime.folding import fold_norms
from geoseg.runtime.remembered import recall, remember
from geoseg.runtime.torch_detector import TorchDetector
from geoseg.runtime.torch_network import DTYPES, ENCODER, Mode, TorchNetwork
from geoseg.spec import ModelSpec


class TorchRuntime(TorchNetwork):
    """A network that gives scores of pixels."""

    def predict(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """See geoseg.runtime.Runtime."""
        parts = self._in_parts(batch, self._scores)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _scores(self, x: Tensor) -> NDArray[np.float32]:
        logits = self._network(x).to(torch.float32, memory_format=torch.contiguous_format)
        scores: NDArray[np.float32] = self._activate(logits).cpu().numpy()
        return scores

    def _activate(self, logits: Tensor) -> Tensor:
        if self.spec.activation != "none" and self.spec.temperature != 1:
            logits = logits / self.spec.temperature
        match self.spec.activation:
            case "sigmoid":
                return torch.sigmoid(logits)
            case "softmax":
                return torch.softmax(logits, dim=1)
            case _:
                return logits.clone()  # a network that passes pixels on would hand out the input


def load(
    bundle: Bundle,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
) -> TorchRuntime | TorchDetector:
    """The network of a bundle in the fastest mode that agrees with its golden sample."""
    where = find_device(device)
    if where.type == "cpu":
        torch.set_num_threads(threads or physical_cores())
        keep_freed_memory()
    if where.type == "cuda":
        torch.backends.cudnn.benchmark = True  # tiles have one shape: finding out pays
    spec, sample = bundle.spec, bundle.sample()
    network = _network(bundle, sample)
    split = any(name == ENCODER for name, _ in network.named_children())
    modes = [m for m in modes_for(where, precision) if split or m.precision != "mixed"]
    key = f"{bundle.checksum} torch {torch.__version__} {processor(where)} {precision}"
    remembered = [m for m in modes if str(m) == recall(key)]
    mode = _fastest(spec, network, sample, where, remembered or modes)
    if mode is None and remembered:
        mode = _fastest(spec, network, sample, where, modes)
    if mode is None:
        raise ModelError(_disagreement(spec, network, sample, where, modes))
    remember(key, str(mode))
    return _kind(spec)(spec, network, device=where, mode=mode, batch_size=batch_size)


def golden_sample(
    spec: ModelSpec, network: nn.Module, image: NDArray[np.float32], *, half: bool = True
) -> Sample:
    """The golden sample of a network as Bundle.write will store it: image (1, C, H, W), scaled."""
    stored = copy.deepcopy(network).cpu().float()
    models.load_state(stored, rounded(network.state_dict(), half=half), spec.id)
    seen = _kind(spec)(spec, stored).predict(image)
    return Sample.of_objects(image, seen) if spec.finds_objects else Sample(image, seen)


def _kind(spec: ModelSpec) -> type[TorchRuntime] | type[TorchDetector]:
    return TorchDetector if spec.finds_objects else TorchRuntime


def find_device(name: str) -> torch.device:
    """The device of that name, or the best there is."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise UsageError(f"no device is named {name!r}; there are: auto, cpu, cuda, mps") from e
    match device.type:
        case "cpu":
            usable = True
        case "cuda":
            usable = (device.index or 0) < torch.cuda.device_count()
        case "mps":
            usable = torch.backends.mps.is_available()
        case _:
            raise UsageError(f"geoseg does not run on {name!r}; there are: auto, cpu, cuda, mps")
    if not usable:
        raise UsageError(f"the device {name!r} is not there, or torch cannot use it")
    return device


def modes_for(device: torch.device, precision: str) -> list[Mode]:
    """Modes worth trying on a device, the likely fastest first."""
    if precision not in (*DTYPES, "auto"):
        raise UsageError(
            f"no precision is named {precision!r}; there are: auto, {', '.join(DTYPES)}"
        )
    wanted = [*_fast_precisions(device), "float32"] if precision == "auto" else [precision]
    layouts = (False,) if device.type == "mps" else (True, False)
    # With fewer bits, channels_last was ahead on every network measured.
    return [
        Mode(p, channels_last=layout)
        for p in wanted
        for layout in (layouts if p == "float32" else layouts[:1])
    ]


def _fast_precisions(device: torch.device) -> list[str]:
    """Precisions of 16 bits for which the device has instructions of its own."""
    match device.type:
        case "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            return ["bfloat16", "float16"] if native else ["float16"]
        case "mps":
            return ["float16"]
        case _:
            has = torch.cpu.get_capabilities()
            native = any(has.get(k) for k in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
            return ["bfloat16", "mixed"] if native else []


def processor(device: torch.device) -> str:
    """Name of the hardware, as far as it matters for speed."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "mps"
    return f"{torch.cpu.get_capabilities().get('cpu_name')} {torch.get_num_threads()} threads"


def network_of(bundle: Bundle) -> nn.Module:
    """The network of a bundle with its weights, in float32 on the CPU."""
    spec = bundle.spec
    network = models.build(
        spec.architecture, classes=len(spec.classes), bands=len(spec.bands), **spec.arguments
    ).eval()
    models.load_state(network, bundle.weights(), str(bundle.path))
    return network


def _network(bundle: Bundle, sample: Sample) -> nn.Module:
    """The network of a bundle with its weights, norms folded. It keeps its contract, and runs."""
    spec = bundle.spec
    network = network_of(bundle)
    task = models.task_of(spec.architecture)
    if task != spec.task:
        raise ModelError(
            f"{bundle.path}: {spec.architecture} is an architecture for {task}, model.json states "
            f"{spec.task}"
        )
    stride = models.stride_of(spec.architecture, spec.arguments)
    if spec.tiling.stride % stride:
        raise ModelError(
            f"{bundle.path}: the architecture needs tiles in steps of {stride} pixels, model.json "
            f"states {spec.tiling.stride}"
        )
    try:
        return _folded(spec, network, _probe(spec, sample))
    except (RuntimeError, AssertionError, ValueError, TypeError) as e:
        why = str(e).strip().partition("\n")[0]
        raise ModelError(f"{bundle.path}: the network fails on its golden sample: {why}") from e


def _folded(spec: ModelSpec, network: nn.Module, probe: Tensor) -> nn.Module:
    """With its norms folded; of a network that finds objects only those of the encoder.

    There the numbers can be compared: of two boxes that are as good, a last bit that differs may
    let another one stay.
    """
    if not spec.finds_objects:
        return fold_norms(network, probe)
    with torch.inference_mode():
        network(probe)
    encoder = getattr(network, ENCODER, None)
    if isinstance(encoder, nn.Module):
        setattr(network, ENCODER, fold_norms(encoder, probe))
    return network


def _probe(spec: ModelSpec, sample: Sample) -> Tensor:
    """A corner of the golden input, which is enough to see how modules are connected."""
    edge = None if spec.tiling.fixed else round_up(64, spec.tiling.stride)
    return torch.from_numpy(sample.input[..., :edge, :edge].copy())


def _fastest(
    spec: ModelSpec, network: nn.Module, sample: Sample, device: torch.device, modes: list[Mode]
) -> Mode | None:
    """The mode with the shortest second pass over the golden sample among those that agree."""
    times = {}
    for mode in modes:
        runtime = _kind(spec)(spec, copy.deepcopy(network), device=device, mode=mode)
        if not check_sample(sample, runtime, spec.id).ok:
            continue
        started = time.perf_counter()
        if len(modes) > 1:
            runtime.predict(sample.input)
        times[mode] = time.perf_counter() - started
    return min(times, key=times.__getitem__, default=None)


def _disagreement(
    spec: ModelSpec, network: nn.Module, sample: Sample, device: torch.device, modes: list[Mode]
) -> str:
    reports = [
        check_sample(sample, _kind(spec)(spec, copy.deepcopy(network), device=device, mode=m), "")
        for m in modes
    ]
    told = "; ".join(f"{r.runtime}: {r.difference:.2g}, allowed {r.tolerance:.2g}" for r in reports)
    return f"{spec.id} does not reproduce its golden sample (differences: {told})"
