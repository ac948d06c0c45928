"""The torch runtime: on a CPU, a CUDA GPU or Apple's mps.

The fastest way to run a network differs by machine: so each candidate (precision, memory layout)
is held against the bundle's golden sample, and the fastest that agrees is taken. Its name is
remembered per model, torch and processor; the golden sample is checked every time.
"""

from __future__ import annotations

import copy
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoseg import models
from geoseg.bundle import Bundle, Sample, check_sample, rounded
from geoseg.errors import GeosegError, ModelError, UsageError
from geoseg.grid import round_up
from geoseg.runtime.allocator import keep_freed_memory
from geoseg.runtime.folding import fold_norms
from geoseg.runtime.remembered import recall, remember
from geoseg.spec import ModelSpec

# Where one tile more in a batch no longer makes a GPU faster, and host memory begins to count.
MAX_BATCH_PIXELS = 16 << 20
GPU_SHARE = 0.6  # of the free memory that a batch may take

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ENCODER = "encoder"  # what smp's networks, and those like them, call it


@dataclass(frozen=True, slots=True)
class Mode:
    """How to run: the precision of weights and activations, and the layout of memory.

    precision: float32, bfloat16, float16, or mixed: the encoder in float32, what follows in
    bfloat16. Nearly all that bfloat16 spoils it spoils in the encoder, whose first layers see the
    pixels; most of the time goes into the decoder (U-Net/efficientnet-lite0 on aerial images:
    0.2 % of pixels change class and 57 % of the time, mixed 0.02 % and 75 %).
    """

    precision: str
    channels_last: bool

    def __str__(self) -> str:
        return f"{self.precision} channels_last" if self.channels_last else self.precision

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES.get(self.precision, torch.float32)

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


class TorchRuntime:
    """A network on a device, in one mode."""

    def __init__(
        self,
        spec: ModelSpec,
        network: nn.Module,
        *,
        device: torch.device | str = "cpu",
        mode: Mode = Mode("float32", channels_last=False),
        batch_size: int | None = None,
    ) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.mode = mode
        self.batch_size = batch_size or 1
        # A CPU is as fast with one tile at a time; a GPU gets more once a tile has been measured.
        self._grow = batch_size is None and self.device.type == "cuda"
        self._network = network.eval().to(self.device, mode.dtype)
        if mode.precision == "mixed":
            _lower_decoder(network)
        self._network.to(memory_format=mode.layout)

    @property
    def description(self) -> str:
        where = self.device.type
        if where == "cpu":
            where += f" ({torch.get_num_threads()} threads)"
        elif where == "cuda":
            where += f" ({torch.cuda.get_device_name(self.device)})"
        return f"torch {self.mode} {where}"

    def predict(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """See geoseg.runtime.Runtime. When memory is full, smaller batches are taken."""
        parts: list[NDArray[np.float32]] = []
        done = 0
        while done < len(batch):
            part = self._try(batch[done : done + self.batch_size])
            if part is not None:
                parts.append(part)
                done += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _try(self, batch: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """The probabilities, or None after halving the batch size for lack of memory."""
        if self._grow:
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            scores = self._forward(batch)
        except (RuntimeError, MemoryError) as e:
            if not out_of_memory(e):
                raise
            if len(batch) == 1:
                other = "" if self.device.type == "cpu" else " or the processor (--device cpu)"
                raise GeosegError(
                    f"{self.device.type} has too little memory for one tile of "
                    f"{batch.shape[3]} x {batch.shape[2]} pixels: take smaller tiles "
                    f"(--tile){other}"
                ) from e
            self.batch_size = len(batch) // 2
            self._grow = False
        else:
            if self._grow:
                self._grow = False
                self.batch_size = self._fitting(batch)
            return scores
        # Only here, out of the handler, has the exception let go of the tensors.
        torch.cuda.empty_cache()
        return None

    @torch.inference_mode()
    def _forward(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        if min(batch.strides) < 0:  # also on axes of one pixel, which require would leave
            batch = batch.copy()
        x = torch.from_numpy(np.require(batch, np.float32, ["C", "W"]))
        if self.device.type == "cuda":
            x = x.pin_memory().to(self.device, non_blocking=True)
        x = x.to(self.device, self.mode.dtype, memory_format=self.mode.layout)
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

    def _fitting(self, batch: NDArray[np.float32]) -> int:
        """Tiles like those of `batch` that fit the GPU, by what this batch has taken."""
        taken = torch.cuda.max_memory_allocated(self.device) / len(batch)
        free, _ = torch.cuda.mem_get_info(self.device)
        free += torch.cuda.memory_reserved(self.device)
        return batch_that_fits(taken, free, pixels=batch.shape[2] * batch.shape[3])


def out_of_memory(error: BaseException) -> bool:
    """On a GPU torch has an error of its own for it, elsewhere only its words tell."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(w in str(error) for w in ("DefaultCPUAllocator", "bad_alloc", "out of memory"))


def batch_that_fits(taken: float, free: float, *, pixels: int) -> int:
    """Tiles of `pixels` at once, each taking `taken` bytes, in a share of `free` bytes."""
    by_memory = int(GPU_SHARE * free / max(taken, 1))
    return max(1, min(by_memory, MAX_BATCH_PIXELS // pixels))


def load(
    bundle: Bundle,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
) -> TorchRuntime:
    """The network of a bundle in the fastest mode that agrees with its golden sample."""
    where = find_device(device)
    if where.type == "cpu":
        torch.set_num_threads(threads or physical_cores())
        keep_freed_memory()
    if where.type == "cuda":
        torch.backends.cudnn.benchmark = True  # tiles have one shape: finding out pays
    spec, sample = bundle.spec, bundle.sample()
    network = models.build(
        spec.architecture, classes=len(spec.classes), bands=len(spec.bands), **spec.arguments
    ).eval()
    models.load_state(network, bundle.weights(), str(bundle.path))
    stride = models.stride_of(spec.architecture, spec.arguments)
    if spec.tiling.stride % stride:
        raise ModelError(
            f"{bundle.path}: the architecture needs tiles in steps of {stride} pixels, model.json "
            f"states {spec.tiling.stride}"
        )
    try:
        network = fold_norms(network, _probe(spec, sample))
    except (RuntimeError, AssertionError, ValueError, TypeError) as e:
        why = str(e).strip().partition("\n")[0]
        raise ModelError(f"{bundle.path}: the network fails on its golden sample: {why}") from e
    split = any(name == _ENCODER for name, _ in network.named_children())
    modes = [m for m in modes_for(where, precision) if split or m.precision != "mixed"]
    key = f"{bundle.checksum} torch {torch.__version__} {processor(where)} {precision}"
    remembered = [m for m in modes if str(m) == recall(key)]
    mode = _fastest(spec, network, sample, where, remembered or modes)
    if mode is None and remembered:
        mode = _fastest(spec, network, sample, where, modes)
    if mode is None:
        raise ModelError(_disagreement(spec, network, sample, where, modes))
    remember(key, str(mode))
    return TorchRuntime(spec, network, device=where, mode=mode, batch_size=batch_size)


def golden_sample(
    spec: ModelSpec, network: nn.Module, image: NDArray[np.float32], *, half: bool = True
) -> Sample:
    """The golden sample of a network as Bundle.write will store it: image (1, C, H, W), scaled."""
    stored = copy.deepcopy(network).cpu().float()
    models.load_state(stored, rounded(network.state_dict(), half=half), spec.id)
    return Sample(image, TorchRuntime(spec, stored).predict(image))


def _lower_decoder(network: nn.Module) -> None:
    """All but the encoder in bfloat16, for inputs of any precision."""

    def lowered(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(torch.bfloat16)
        return [lowered(v) for v in value] if isinstance(value, list | tuple) else value

    def lower(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(lowered(v) for v in inputs)

    for name, child in network.named_children():
        if name != _ENCODER:
            child.to(torch.bfloat16).register_forward_pre_hook(lower)


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
    if precision not in (*_DTYPES, "auto"):
        raise UsageError(
            f"no precision is named {precision!r}; there are: auto, {', '.join(_DTYPES)}"
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


def physical_cores() -> int:
    """Cores that this process may use; two threads on one core would only share it."""
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = torch.cpu.get_capabilities().get("num_physical_cores")
    return max(1, min(n for n in (cores, allowed, os.cpu_count()) if n))


def processor(device: torch.device) -> str:
    """Name of the hardware, as far as it matters for speed."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "mps"
    return f"{torch.cpu.get_capabilities().get('cpu_name')} {torch.get_num_threads()} threads"


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
        runtime = TorchRuntime(spec, copy.deepcopy(network), device=device, mode=mode)
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
        check_sample(sample, TorchRuntime(spec, copy.deepcopy(network), device=device, mode=m), "")
        for m in modes
    ]
    told = "; ".join(f"{r.runtime}: {r.difference:.2g}, allowed {r.tolerance:.2g}" for r in reports)
    return f"{spec.id} does not reproduce its golden sample (largest differences: {told})"
