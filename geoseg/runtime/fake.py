"""Runtimes without a network: what they say is a function of the pixels. For tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.bundle import Bundle
from geoseg.grid import Tiling
from geoseg.instances.paste import paint
from geoseg.predictions import Detections
from geoseg.spec import Band, ClassInfo, ModelSpec, Scaling

Function = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass
class FakeRuntime:
    """Applies `function`: (N, C, H, W) scaled pixels -> (N, K, H, W) probabilities."""

    spec: ModelSpec
    function: Function
    batch_size: int = 1
    description: str = "fake float32"

    def predict(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        return np.array(self.function(batch), dtype=np.float32, order="C")


def identity(spec: ModelSpec | None = None, *, batch_size: int = 1) -> FakeRuntime:
    """The probability of class k is the value of band k, as scaled, cut to 0..1."""
    spec = spec or fake_spec()
    return FakeRuntime(spec, lambda x: x[:, : len(spec.classes)].clip(0, 1), batch_size)


def constant(
    *probabilities: float, spec: ModelSpec | None = None, batch_size: int = 1
) -> FakeRuntime:
    """The same probabilities everywhere, one per class."""
    values = np.array(probabilities, np.float32)[None, :, None, None]

    def scores(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.broadcast_to(values, (len(x), values.shape[1], *x.shape[2:]))

    spec = spec or fake_spec(classes=len(probabilities))
    return FakeRuntime(spec, scores, batch_size)


@dataclass
class FakeDetector:
    """Applies `function`: (C, H, W) scaled pixels -> the objects of a picture."""

    spec: ModelSpec
    function: Callable[[NDArray[np.float32]], Detections]
    batch_size: int = 1
    description: str = "fake float32"

    def detect(self, batch: NDArray[np.float32], /) -> list[Detections]:
        return [self.function(picture) for picture in batch]

    def predict(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        shape, classes = batch.shape[2:], len(self.spec.classes)
        return np.stack([paint(d, classes, (shape[0], shape[1])) for d in self.detect(batch)])


def planted(spec: ModelSpec | None = None, *, batch_size: int = 1) -> FakeDetector:
    """Sees every object, cut at the picture's edge as by a real model: an object is all pixels of
    one whole number but 0 in band 1. With several bands, band 2 holds the class."""
    return FakeDetector(spec or fake_instances(), _planted, batch_size)


def _planted(picture: NDArray[np.float32]) -> Detections:
    numbers = np.rint(picture[0]).astype(np.int64)
    ids = np.unique(numbers[numbers != 0])
    masks = [numbers == i for i in ids]
    at = [np.argwhere(m) for m in masks]
    # The network's masks are squares of one size: so are the boxes, for pixels to stay pixels.
    side = max((int(np.ptp(a, axis=0).max()) + 1 for a in at), default=1)
    squares, boxes, labels = np.zeros((len(ids), side, side), np.float32), [], []
    for square, points in zip(squares, at, strict=True):
        (top, left), own = points.min(0), points - points.min(0)
        square[own[:, 0], own[:, 1]] = 1
        boxes.append((left, top, left + side, top + side))
        labels.append(int(picture[1][tuple(points[0])]) if len(picture) > 1 else 0)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.full(len(ids), 0.9, np.float32),
        squares,
    )


def fake_instances(*, bands: int = 1, classes: int = 1, **changes: Any) -> ModelSpec:
    """The contract of `planted`: values as they are in the raster."""
    fields: dict[str, Any] = {
        "task": "instance-segmentation",
        "activation": "none",
        "scaling": Scaling((0.0,) * bands, (1.0,) * bands),
        "classes": tuple(ClassInfo(i + 1, f"thing{i + 1}") for i in range(classes)),
        "dtype": "float32",
        "value_range": (0.0, 65535.0),
    }
    return replace(fake_spec(bands=bands), **{**fields, **changes})


def fake_spec(*, bands: int = 1, classes: int = 1, **changes: Any) -> ModelSpec:
    """A contract: raw values 0..255 become 0..1, pixels of 0.3 m, tiles of any size."""
    fields: dict[str, Any] = {
        "name": "fake",
        "version": "0",
        "architecture": "tiny",
        "bands": tuple(Band(f"band{i + 1}") for i in range(bands)),
        "scaling": Scaling((0.0,) * bands, (255.0,) * bands),
        "gsd": 0.3,
        "classes": tuple(ClassInfo(i, f"class{i}") for i in range(classes))
        if classes > 1
        else (ClassInfo(1, "thing"),),
        "tiling": Tiling(size=64, overlap=16, stride=8),
        "activation": "sigmoid" if classes == 1 else "softmax",
    }
    return ModelSpec(**{**fields, **changes})


def load(
    bundle: Bundle, *, device: str, precision: str, batch_size: int | None, threads: int | None
) -> FakeRuntime | FakeDetector:
    """With the contract of a bundle `identity`, or `planted`; all else means nothing."""
    if bundle.spec.finds_objects:
        return planted(bundle.spec, batch_size=batch_size or 1)
    return identity(bundle.spec, batch_size=batch_size or 1)
