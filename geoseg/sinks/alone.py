"""One run at a time in a folder: two would write over each other's pixels and checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geoseg.errors import OutputError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder; an OutputError if another process does. A kill lets go of it, too."""
    try:
        import fcntl
    except ImportError:  # Windows, where nothing is guarded
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(handle)
        raise OutputError(
            f"{folder}: another run is at work in it: wait for its end, or take another folder"
        ) from e
    except OSError:  # a network folder without locks
        pass
    try:
        yield
    finally:
        os.close(handle)
