"""A torch network on a device, in one mode, that takes batches as large as memory holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoseg.errors import GeosegError
from geoseg.spec import ModelSpec

# Where one tile more in a batch no longer makes a GPU faster, and host memory begins to count.
MAX_BATCH_PIXELS = 16 << 20
GPU_SHARE = 0.6  # of the free memory that a batch may take

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ENCODER = "encoder"  # what smp's networks, and those like them, call it

T = TypeVar("T")


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
        return DTYPES.get(self.precision, torch.float32)

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


class TorchNetwork:
    """What all torch runtimes have in common; see geoseg.runtime.Runtime."""

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
            for name, child in network.named_children():
                if name != ENCODER:
                    self._lower(child)
        self._network.to(memory_format=mode.layout)

    @property
    def description(self) -> str:
        where = self.device.type
        if where == "cpu":
            where += f" ({torch.get_num_threads()} threads)"
        elif where == "cuda":
            where += f" ({torch.cuda.get_device_name(self.device)})"
        return f"torch {self.mode} {where}"

    def _lower(self, child: nn.Module) -> None:
        """A child of the network in bfloat16, for inputs of any precision."""
        child.to(torch.bfloat16).register_forward_pre_hook(_lower_inputs)

    def _in_parts(self, batch: NDArray[np.float32], answer: Callable[[Tensor], T]) -> list[T]:
        """`answer` to the pictures, on the device, a part of them at a time.

        When memory is full, smaller parts are taken.
        """
        parts: list[T] = []
        done = 0
        while done < len(batch):
            part = batch[done : done + self.batch_size]
            answered = self._try(part, answer)
            if answered is not None:
                parts.append(answered)
                done += len(part)
        return parts

    def _try(self, batch: NDArray[np.float32], answer: Callable[[Tensor], T]) -> T | None:
        """The answer, or None after halving the batch size for lack of memory."""
        if self._grow:
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            with torch.inference_mode():
                answered = answer(self._moved(batch))
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
            return answered
        # Only here, out of the handler, has the exception let go of the tensors.
        torch.cuda.empty_cache()
        return None

    def _moved(self, batch: NDArray[np.float32]) -> Tensor:
        """The batch on the device, as the network wants it."""
        if min(batch.strides) < 0:  # also on axes of one pixel, which require would leave
            batch = batch.copy()
        x = torch.from_numpy(np.require(batch, np.float32, ["C", "W"]))
        if self.device.type == "cuda":
            x = x.pin_memory().to(self.device, non_blocking=True)
        return x.to(self.device, self.mode.dtype, memory_format=self.mode.layout)

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


def _lower_inputs(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_lowered(v) for v in inputs)


def _lowered(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(torch.bfloat16)
    return [_lowered(v) for v in value] if isinstance(value, list | tuple) else value
