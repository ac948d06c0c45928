"""Runtimes: what turns a batch of scaled pixels into class probabilities, or into objects.

A runtime is a module with a function `load` (see RUNTIMES), imported when it is asked for; torch
comes into the process that way and no other. Test-time augmentation and ensembles are runtimes
around runtimes, so whoever runs one need not know.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from geoseg.bundle import Bundle
from geoseg.errors import UsageError, need_torch
from geoseg.instances.paste import paste
from geoseg.predictions import Chip, Detections, InstancePrediction, SemanticPrediction
from geoseg.reading import normalize
from geoseg.spec import ModelSpec, Scaling

# Name -> module. `load(bundle, *, device, precision, batch_size, threads)`.
RUNTIMES = {
    "torch": "geoseg.runtime.torch_runtime",
    "onnx": "geoseg.runtime.onnx_runtime",
    "openvino": "geoseg.runtime.openvino_runtime",
    "fake": "geoseg.runtime.fake",
}


class Runtime(Protocol):
    """A loaded network, ready to predict.

    spec:        its contract.
    description: 'torch bfloat16 channels_last cpu ...': runtime and precision come first.
    batch_size:  how many tiles it likes at once; may change between calls.
    """

    @property
    def spec(self) -> ModelSpec: ...
    @property
    def description(self) -> str: ...
    @property
    def batch_size(self) -> int: ...

    def predict(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """(N, C, H, W) scaled pixels -> (N, K, H, W) probabilities.

        A new, C-contiguous array: the caller may change it.
        """
        ...


class Detector(Runtime, Protocol):
    """A loaded network that finds objects.

    Its `predict` paints them (`geoseg.instances.paste.paint`), so that whoever times or checks a
    network need not know of what kind it is.
    """

    def detect(self, batch: NDArray[np.float32], /) -> list[Detections]:
        """(N, C, H, W) scaled pixels -> the objects of each picture."""
        ...


Prediction = SemanticPrediction | InstancePrediction


def load(
    bundles: Bundle | Sequence[Bundle],
    *,
    runtime: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    tta: Sequence[str] = (),
) -> Runtime:
    """The network of a bundle, or the mean of several.

    runtime: one of RUNTIMES, or auto: the fastest of those that are installed. device: auto, cpu,
    cuda, cuda:1, mps, and others that a runtime knows. precision: auto, float32, bfloat16,
    float16; auto takes the fastest that agrees with the bundle's golden sample. `batch_size` and
    `threads` are chosen when not given. tta: see geoseg.runtime.augment.
    """
    from geoseg.runtime.augment import Augmented, Ensemble
    from geoseg.runtime.choice import fastest

    if runtime == "torch":
        need_torch("the runtime torch")
    several = [bundles] if isinstance(bundles, Bundle) else list(bundles)
    if not several:
        raise UsageError("no model was given")
    if several[0].spec.finds_objects and (tta or len(several) > 1):
        raise UsageError(
            f"{several[0].spec.id} finds objects, which cannot be averaged: give one model, and no "
            "test-time augmentation"
        )
    for name, value in (("batch size", batch_size), ("number of threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"the {name} must be at least 1, not {value}")
    cpus = os.cpu_count() or 1
    if threads is not None and threads > cpus:  # a great many crash the process
        raise UsageError(f"the number of threads must be at most the {cpus} CPUs, not {threads}")
    # Waiting threads of OpenMP, which torch computes with, spin by default and take the cores from
    # our reader and writer: beside other work a tile took 0.3 s instead of 5 with this setting.
    # It is read when torch is first imported, and the user's own wins.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    load_one = fastest if runtime == "auto" else importlib.import_module(_module(runtime)).load
    members: list[Runtime] = [
        load_one(b, device=device, precision=precision, batch_size=batch_size, threads=threads)
        for b in several
    ]
    network = members[0] if len(members) == 1 else Ensemble(members)
    return Augmented(network, tta) if tta else network


def contract(bundles: Sequence[Bundle]) -> ModelSpec:
    """What a bundle, or several together, want to see and give; known without loading them."""
    from geoseg.runtime.augment import joined

    return joined([b.spec for b in bundles])


def run(
    runtime: Runtime | Detector, chips: Iterable[Chip], scaling: Scaling
) -> Iterator[Prediction]:
    """One prediction per chip, in order; chips of one shape go through the network together.

    `scaling` is the model's own, or what preflight made of it for this scene.
    """
    batch: NDArray[np.float32] = np.empty((0, 0, 0, 0), np.float32)  # one for all of a size
    for group in _groups(runtime, chips):
        shape = (len(group), *group[0].data.shape)
        if batch.shape != shape:
            batch = np.empty(shape, np.float32)
        for chip, out in zip(group, batch, strict=True):
            normalize(chip.data, chip.valid, scaling, out=out)
        yield from _predictions(runtime, group, batch)


def _predictions(
    runtime: Runtime | Detector, group: list[Chip], batch: NDArray[np.float32]
) -> Iterator[Prediction]:
    if runtime.spec.finds_objects:
        ids = [c.id for c in runtime.spec.classes]
        for chip, found in zip(group, cast(Detector, runtime).detect(batch), strict=True):
            yield paste(chip.tile, found, chip.valid, ids)
    else:
        for chip, scores in zip(group, runtime.predict(batch), strict=True):
            yield SemanticPrediction(chip.tile, scores, chip.valid)


def _groups(runtime: Runtime, chips: Iterable[Chip]) -> Iterator[list[Chip]]:
    """Neighbours of equal shape, up to the batch size that the runtime wants at that moment."""
    group: list[Chip] = []
    for chip in chips:
        if group and chip.data.shape != group[0].data.shape:
            yield group
            group = []
        group.append(chip)
        if len(group) >= runtime.batch_size:
            yield group
            group = []
    if group:
        yield group


def _module(name: str) -> str:
    if name not in RUNTIMES:
        raise UsageError(f"no runtime is named {name!r}; there are: auto, {', '.join(RUNTIMES)}")
    return RUNTIMES[name]
