"""What runtimes that run a bundle's model.onnx have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geoseg.bundle import GRAPH, WEIGHTS, Bundle, CheckReport
from geoseg.errors import GeosegError, ModelError

INPUT, OUTPUT = "pixels", "scores"  # of the graphs that geoseg writes


def graph_of(bundle: Bundle) -> tuple[bytes, bytes | None]:
    """The content of model.onnx and of the file into which it points, checksums verified."""
    if not bundle.has(GRAPH):
        raise ModelError(
            f"{bundle.path}: it has no {GRAPH}: geoseg model export {bundle.spec.name} --to bundle "
            "makes a model that has one, where torch is installed"
        )
    return bundle.file(GRAPH), bundle.file(WEIGHTS) if bundle.has(WEIGHTS) else None


def disagreement(bundle: Bundle, reports: Sequence[CheckReport]) -> ModelError:
    """That nothing which was tried reproduces the golden sample."""
    told = "; ".join(f"{r.runtime}: {r.difference:.2g}, allowed {r.tolerance:.2g}" for r in reports)
    return ModelError(
        f"{bundle.spec.id} does not reproduce its golden sample (differences: {told})"
    )


def too_little_memory(device: str, batch: NDArray[np.float32]) -> GeosegError:
    """That a batch does not fit."""
    return GeosegError(
        f"{device} has too little memory for {len(batch)} tiles of "
        f"{batch.shape[3]} x {batch.shape[2]} pixels: take smaller tiles (--tile)"
    )
