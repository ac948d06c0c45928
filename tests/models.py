"""Bundles for tests: networks whose weights are set by hand, so that the answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from geoseg import testing
from geoseg.bundle import Bundle, Sample
from geoseg.grid import Tiling
from geoseg.runtime.fake import fake_instances, planted
from geoseg.spec import Band, ClassInfo, ModelSpec, Scaling

RGB = (Band("red", "red"), Band("green", "green"), Band("blue", "blue"))


def bright_spec(**changes: Any) -> ModelSpec:
    """A one-class model for RGB rasters of 0..255 at 0.3 m: bright pixels are objects."""
    values: dict[str, Any] = {
        "name": "bright",
        "version": "1",
        "architecture": "tiny",
        "arguments": {"depth": 1},
        "bands": RGB,
        "scaling": Scaling((127.5,) * 3, (127.5,) * 3),
        "gsd": 0.3,
        "classes": (ClassInfo(1, "object", "#d95f02"),),
        "tiling": Tiling(size=128, overlap=16, stride=1),
        **changes,
    }
    return ModelSpec(**values)


def bright_bundle(folder: Path, **changes: Any) -> Path:
    """The network: a 3 x 3 convolution of which only the centre counts; mean over the bands."""
    spec = bright_spec(**changes)
    weight = np.zeros((1, len(spec.bands), 3, 3), np.float32)
    weight[:, :, 1, 1] = 8 / len(spec.bands)
    state = {"0.weight": weight, "0.bias": np.zeros(1, np.float32)}
    chip = np.linspace(-1, 1, len(spec.bands) * 64 * 64, dtype=np.float32)
    chip = chip.reshape(1, len(spec.bands), 64, 64)
    scores = 1 / (1 + np.exp(-8 * chip.mean(1, keepdims=True)))
    return Bundle.write(folder, spec, state, Sample(chip, scores.astype(np.float32)), "# bright\n")


def scene_and_model_of_objects(folder: Path) -> tuple[Path, Path]:
    """A scene whose objects are planted in its pixels, and the model for the runtime 'fake' that
    sees them, in tiles of 96."""
    spec = fake_instances(bands=2, classes=2, tiling=Tiling(96, 24, 8), dtype="uint16")
    picture = np.zeros((1, 2, 64, 64), np.float32)
    picture[0, 0, 10:20, 10:30] = 1
    sample = Sample(picture, planted(spec).predict(picture))
    state = {"none": np.zeros(1, np.float32)}
    model = Bundle.write(folder / "planted", spec, state, sample, "# planted\n")
    truth = testing.planted_objects((300, 420), count=90, longest=150, seed=5)
    bands = np.stack([truth, truth % 2]).astype(np.uint16)
    return testing.write_scene(folder / "scene.tif", bands), model
