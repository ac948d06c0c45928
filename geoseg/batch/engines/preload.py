"""Loaded by the workers of a Dask cluster that belongs to a run: Ctrl-C is its parent's."""

from __future__ import annotations

import signal


def dask_setup(worker: object) -> None:
    """Called by distributed in the main thread of a new worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
