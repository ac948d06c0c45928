"""Runtimes without a network: the probabilities are a function of the pixels. For tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.bundle import Bundle
from geoseg.grid import Tiling
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
) -> FakeRuntime:
    """`identity` with the contract of a bundle; device, precision and threads mean nothing."""
    return identity(bundle.spec, batch_size=batch_size or 1)
