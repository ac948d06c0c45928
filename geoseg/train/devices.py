"""Where training runs: device, precision and number of processes, by Lightning Fabric.

Fabric and not Lightning's Trainer: the loop stays our own and can be taken up again after any
step, exactly; the Trainer, and torchgeo's tasks that need it, only go on exactly from the end of
an epoch, and write checkpoints that a kill can tear.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch

from geoseg.errors import MissingDependencyError, UsageError
from geoseg.events import Listener
from geoseg.runtime.torch_runtime import find_device
from geoseg.train.config import ScheduleConfig

try:
    from lightning.fabric import Fabric as Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy
except ImportError as e:
    raise MissingDependencyError("lightning", "train") from e

PRECISION: dict[str, Any] = {
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
    "float16": "16-mixed",
}


for _name in ("fabric", "pytorch"):  # else they say what the recipe says
    logging.getLogger(f"lightning.{_name}").setLevel(logging.WARNING)


def new_fabric(schedule: ScheduleConfig) -> Fabric:
    """The devices that the recipe asks for; what is not there is a UsageError."""
    device, count = find_device(schedule.device).type, schedule.devices
    if schedule.precision == "float16" and device == "cpu":
        raise UsageError(
            "schedule.precision: float16 needs a GPU; take bfloat16 or float32 on a CPU"
        )
    there = torch.cuda.device_count() if device == "cuda" else 1
    if count > there and device != "cpu":
        raise UsageError(f"schedule.devices: {count}, but there is {there} x {device}")
    # Processes that are started afresh: forked ones cannot use CUDA, nor OpenMP's threads.
    # An encoder may have stages that the decoder does not look at: unused parameters.
    several = DDPStrategy(start_method="spawn", find_unused_parameters=True)
    return Fabric(
        accelerator=device,
        devices=count,
        strategy=several if count > 1 else "auto",
        precision=PRECISION[schedule.precision],
    )


def described(schedule: ScheduleConfig) -> str:
    """The devices in words: cuda, 2 x cuda."""
    device, count = find_device(schedule.device).type, schedule.devices
    return f"{count} x {device}" if count > 1 else device


@contextmanager
def heard_across(listener: Listener, processes: int) -> Iterator[Listener]:
    """The listener as it can be given to the processes of a run: what one of them tells it is
    handed on here."""
    if processes == 1:
        yield listener
        return
    receiver, sender = get_context("spawn").Pipe(duplex=False)

    def hand_on() -> None:
        with receiver, suppress(EOFError):  # all senders are closed, or gone
            while True:
                event = receiver.recv()
                with suppress(OSError):  # nobody reads on, but the training goes on
                    listener(event)

    thread = threading.Thread(target=hand_on, daemon=True)
    thread.start()
    try:
        yield sender.send
    finally:
        sender.close()
        thread.join()


def part(fabric: Fabric) -> None:
    """End the group of processes: with its threads still at work, a process aborts as it exits."""
    if fabric.world_size > 1:
        fabric.barrier()  # none leaves while another still talks to it
        torch.distributed.destroy_process_group()


def use_threads(threads: int) -> None:
    """Let torch compute with so many threads."""
    cpus = os.cpu_count() or 1
    if threads > cpus:
        warnings.warn(
            f"schedule.threads: {threads} threads on {cpus} CPUs are slower than {cpus}",
            stacklevel=2,
        )
    torch.set_num_threads(threads)


def _by_name(array: np.memmap[Any, Any]) -> tuple[Any, ...]:
    """How a mapped file goes to another process: by its name, not by its pixels."""
    whole = not isinstance(array.base, np.ndarray)
    if whole and array.filename is not None and array.flags.c_contiguous:
        how = (array.filename, array.dtype, "r", array.offset, array.shape)
        return np.memmap, how
    return np.asarray, (np.array(array),)


ForkingPickler.register(np.memmap, _by_name)
