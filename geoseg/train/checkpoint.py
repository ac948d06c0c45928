"""Checkpoints that a kill cannot tear: written beside their name, then renamed."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from geoseg.errors import DataError, OutputError

LAST, BEST = "last.ckpt", "best.ckpt"

_TORN = (
    *(EOFError, OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError),
    *(pickle.UnpicklingError, zipfile.BadZipFile),
)


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`: at any moment the old or the new one lies there, whole."""
    buffer = io.BytesIO()  # torch.save hides what a full disk says
    torch.save(dict(state), buffer)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as e:
        raise OutputError(f"{path}: the checkpoint cannot be written ({e.strerror})") from e
    finally:
        part.unlink(missing_ok=True)  # of an interrupt in the midst of it


def read(path: Path, *, wanted: tuple[str, ...]) -> dict[str, Any] | None:
    """The checkpoint at `path`, on the CPU, with at least these keys; None if there is none."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {**state, **{key: state[key] for key in wanted}}
    except _TORN as e:
        raise DataError(
            f"{path}: no intact checkpoint ({type(e).__name__}): remove it, and the run begins "
            "anew, or restore it from a copy"
        ) from e
