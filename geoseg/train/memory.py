"""What to do when memory does not suffice: tell how many windows at a time fit."""

from __future__ import annotations

from collections.abc import Callable

import torch

from geoseg.errors import GeosegError
from geoseg.runtime.torch_network import out_of_memory
from geoseg.train.config import ScheduleConfig


def advice(attempt: Callable[[int], None], schedule: ScheduleConfig, device: str) -> GeosegError:
    """The error to raise after a step did not fit: `attempt(n)` is a step on n windows.

    To be called outside of the handler, whose exception would hold on to what was allocated.
    """
    share = schedule.batch // schedule.devices
    part = share // schedule.accumulate
    fits = largest(attempt, part // 2)
    short = f"{device} has too little memory for {part} windows of {schedule.chip} pixels at a time"
    if not fits:
        return GeosegError(
            f"{short}, and not even one fits: make schedule.chip smaller, or take a smaller network"
        )
    parts = next(n for n in range(1, share + 1) if share % n == 0 and share // n <= fits)
    return GeosegError(
        f"{short}, but {share // parts} fit: set schedule.accumulate to {parts} (the batch stays "
        f"{schedule.batch})"
    )


def largest(attempt: Callable[[int], None], first: int) -> int:
    """The largest of first, first/2, first/4 ... windows that do fit; 0 if none does."""
    count = first
    while count and not _fits(attempt, count):
        count //= 2
    return count


def _fits(attempt: Callable[[int], None], count: int) -> bool:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        attempt(count)
    except (RuntimeError, MemoryError) as e:
        if not out_of_memory(e):
            raise
        return False
    return True
