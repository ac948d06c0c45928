"""How many threads a network should compute with, known without torch."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = "topology/thread_siblings_list"


def physical_cores() -> int:
    """Cores that this process may use; two threads on one core would only share it."""
    if (wanted := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        return max(1, int(wanted))
    cpus = os.cpu_count() or 1
    if not hasattr(os, "sched_getaffinity"):
        return cpus
    allowed = os.sched_getaffinity(0)
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, len(cores))


def _siblings(cpu: int) -> str:
    """The CPUs that share a core with this one; itself where Linux does not say."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/{_TOPOLOGY}").read_text()
    except OSError:
        return str(cpu)
