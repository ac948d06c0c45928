"""What runtimes that run a bundle's model.onnx have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.bundle import GRAPH, WEIGHTS, Bundle, CheckReport
from geoseg.errors import GeosegError, ModelError
from geoseg.instances.paste import paint
from geoseg.predictions import Detections
from geoseg.runtime import yolo
from geoseg.spec import ModelSpec

INPUT = "pixels"  # of the graphs that geoseg writes
OBJECTS = ("boxes", "labels", "scores")  # outputs of those that find objects
_MORE = ("masks", "keypoints")  # that they may have


def graph_of(bundle: Bundle) -> tuple[bytes, bytes | None]:
    """The content of model.onnx and of the file into which it points, checksums verified."""
    if not bundle.has(GRAPH):
        raise ModelError(
            f"{bundle.path}: it has no {GRAPH}: geoseg model export {bundle.spec.name} --to bundle "
            "makes a model that has one, where torch is installed"
        )
    return bundle.file(GRAPH), bundle.file(WEIGHTS) if bundle.has(WEIGHTS) else None


def objects_in(
    outputs: Mapping[str, NDArray[Any]], spec: ModelSpec, shape: tuple[int, int]
) -> list[Detections]:
    """What a graph that finds objects gives, by name, for pictures of `shape` (height, width).

    A graph of ours has one picture's objects as its outputs (geoseg.exchange.objects); that of a
    YOLO has candidates of any number of pictures.
    """
    if "detector" in spec.arguments:
        floats = [np.asarray(o, np.float32) for o in outputs.values()]
        every = yolo.detections(floats, spec, shape)
    else:
        every = [_said_by(outputs, spec)]
    for found in every:
        if len(found) and not 0 <= found.labels.min() <= found.labels.max() < len(spec.classes):
            raise ModelError(f"{spec.id}: {GRAPH} gives objects of classes that it does not have")
    return every


def _said_by(outputs: Mapping[str, NDArray[Any]], spec: ModelSpec) -> Detections:
    """The objects that the outputs are."""
    try:
        return Detections(
            outputs["boxes"].astype(np.float32),
            outputs["labels"].astype(np.int64),
            outputs["scores"].astype(np.float32),
            *(outputs[n].astype(np.float32) if n in outputs else None for n in _MORE),
        )
    except (KeyError, ValueError) as e:
        raise ModelError(f"{spec.id}: {GRAPH} does not give objects ({e})") from e


def painted(
    found: Sequence[Detections], spec: ModelSpec, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """The objects of pictures of `shape` as (N, K, H, W)."""
    return np.stack([paint(one, len(spec.classes), shape) for one in found])


def scores_in(
    outputs: Mapping[str, NDArray[Any]], spec: ModelSpec, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """What a graph gives, by name, for pictures of `shape`, as (N, K, H, W): its first output, or
    its objects painted."""
    if spec.finds_objects:
        return painted(objects_in(outputs, spec, shape), spec, shape)
    return np.asarray(next(iter(outputs.values())), np.float32)


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
