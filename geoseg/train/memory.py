"""What to do when memory does not suffice: notice it in time, tell how many windows fit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from geoseg.errors import GeosegError
from geoseg.runtime.torch_network import out_of_memory
from geoseg.train.config import ScheduleConfig

SHARE = 0.95  # of the memory that is free: what the kernel keeps to manage it also counts
_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


@contextmanager
def capped(device: torch.device, processes: int) -> Iterator[None]:
    """On a CPU, let an allocation fail that memory cannot hold, as it does on a GPU.

    Linux grants all that is asked for, and kills the process, mute, when it uses it. Inside of
    this, a process may take its part of what was free at the beginning, and no more.
    """
    free = free_memory() if device.type == "cpu" else None
    if free is None:
        yield
        return
    import resource

    soft, hard = before = resource.getrlimit(resource.RLIMIT_DATA)
    held = _table(_PROC / "self" / "status")["VmData"]
    most = held + int(SHARE * free / processes)
    for limit in (soft, hard):
        most = most if limit == resource.RLIM_INFINITY else min(most, limit)
    with contextlib.suppress(OSError, ValueError):  # a system that has no such limit
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def free_memory() -> int | None:
    """Bytes that this process may still take before something is killed; None if not known."""
    try:
        machine = _table(_PROC / "meminfo")
        return min([machine["MemAvailable"] + machine["SwapFree"], *_left_in_groups()])
    except (OSError, ValueError, KeyError):  # not Linux
        return None


def _left_in_groups() -> Iterator[int]:
    """Bytes left of each limit of a container or batch system (cgroups v1 and v2)."""
    for line in (_PROC / "self" / "cgroup").read_text().splitlines():
        _, kind, name = line.split(":", 2)
        if kind not in ("", "memory"):
            continue
        names = ("limit_in_bytes", "usage_in_bytes") if kind else ("max", "current")
        own = _GROUPS / kind / name.lstrip("/")
        for folder in (own, *own.parents):
            with contextlib.suppress(OSError, ValueError, KeyError):  # none, or "max"
                most, used = (int((folder / f"memory.{n}").read_text()) for n in names)
                pages = _table(folder / "memory.stat")
                cache = ("inactive_file", "active_file")  # given back when it is needed
                yield most - used + sum(pages.get(f"total_{n}", pages[n]) for n in cache)


def _table(path: Path) -> dict[str, int]:
    """Bytes by name, of the lines 'name: 12 kB' or 'name 12' in a file."""
    lines = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    numbers = (words for words in lines if len(words) > 1 and words[1].isdigit())
    return {words[0]: int(words[1]) << 10 * (words[-1] == "kB") for words in numbers}


def too_large(schedule: ScheduleConfig, device: str) -> GeosegError:
    """The error to raise when memory ends anywhere but in a step."""
    share = schedule.batch // schedule.devices
    return GeosegError(
        f"{device} has too little memory for the network and a batch of {share} windows of "
        f"{schedule.chip} pixels: make schedule.chip or schedule.batch smaller"
    )


def exhausted(error: BaseException) -> bool:
    """Whether an error in training is want of memory."""
    return out_of_memory(error) or broken(error)


def broken(error: BaseException) -> bool:
    """Want of memory that only oneDNN noticed: it has no other words, and never works again."""
    return "could not create a primitive" in str(error)


def advice(
    attempt: Callable[[int], None] | None, schedule: ScheduleConfig, device: str
) -> GeosegError:
    """The error to raise after a step did not fit: `attempt(n)` is a step on n windows, if any
    can be tried.

    To be called outside of the handler, whose exception would hold on to what was allocated.
    """
    share = schedule.batch // schedule.devices
    part = share // schedule.accumulate
    short = f"{device} has too little memory for {part} windows of {schedule.chip} pixels at a time"
    if attempt is None and part > 1:
        return GeosegError(
            f"{short}: make schedule.accumulate larger (the batch stays {schedule.batch}), or "
            "schedule.chip smaller"
        )
    fits = largest(attempt, part // 2) if attempt else 0
    if not fits:
        return GeosegError(
            f"{short}, and not even one fits: make schedule.chip smaller, or take a smaller network"
        )
    parts = next(n for n in range(1, share + 1) if share % n == 0 and share // n <= fits)
    return GeosegError(
        f"{short}, but {share // parts} fit: set schedule.accumulate to {parts} (the batch stays "
        f"{schedule.batch})"
    )


def largest(attempt: Callable[[int], None], most: int) -> int:
    """The largest of most, most/2, most/4 ... windows that do fit; 0 if none does.

    Few come first: what does not fit may leave a process in which nothing works any more.
    """
    halves = [most >> i for i in range(most.bit_length())]
    found = 0
    for count in reversed(halves):
        if not _fits(attempt, count):
            break
        found = count
    return found


def _fits(attempt: Callable[[int], None], count: int) -> bool:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        attempt(count)
    except (RuntimeError, MemoryError) as e:
        if not exhausted(e):
            raise
        return False
    return True
