"""Fakes and planted scenes for tests and benchmarks: each seam has one.

Everything is made by code from a seed, so that truth is known and no blob is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from geoseg.grid import Grid, Plan, Window
from geoseg.predictions import Chip


@dataclass(frozen=True)
class ArrayScene:
    """The reading seam (`.grid`, `.read`) over arrays: data (C, H, W), valid (H, W) bool."""

    data: NDArray[Any]
    valid: NDArray[np.bool_]

    @property
    def grid(self) -> Grid:
        return Grid(None, Affine.identity(), *self.valid.shape)

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels of `window`; zeros, invalid, beyond the scene."""
        data = np.zeros((len(self.data), window.height, window.width), self.data.dtype)
        valid = np.zeros((window.height, window.width), np.bool_)
        inside = window.intersection(self.grid.window)
        here, there = inside.slices(window), inside.slices()
        data[:, here[0], here[1]] = self.data[:, there[0], there[1]]
        valid[here] = self.valid[there]
        return data, valid

    def chips(self, plan: Plan) -> Iterator[Chip]:
        """The obvious implementation: every tile read by itself, wholly invalid ones left out."""
        for tile in plan.tiles:
            data, valid = self.read(tile.read)
            if valid.any():
                yield Chip(tile, data, valid)


def planted_rectangles(
    shape: tuple[int, int], *, count: int, seed: int, edge: tuple[int, int] = (4, 40)
) -> NDArray[np.uint8]:
    """(H, W) mask of 0 and 1 with `count` upright rectangles at random places."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    for _ in range(count):
        h, w = rng.integers(*edge, size=2)
        r, c = rng.integers(0, max(1, shape[0] - h)), rng.integers(0, max(1, shape[1] - w))
        mask[r : r + h, c : c + w] = 1
    return mask


def write_scene(
    path: Path,
    data: NDArray[Any],
    *,
    crs: str | None = "EPSG:32633",
    transform: Affine | None = None,
    **profile: Any,
) -> Path:
    """A GeoTIFF of `data` (C, H, W), 0.3 m pixels in UTM unless said otherwise."""
    import rasterio

    options: dict[str, Any] = {
        "driver": "GTiff",
        "count": data.shape[0],
        "height": data.shape[1],
        "width": data.shape[2],
        "dtype": data.dtype,
        "crs": crs,
        "transform": transform or Affine(0.3, 0, 500_000, 0, -0.3, 5_800_000),
        **profile,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # if it is meant
        with rasterio.open(path, "w", **options) as dataset:
            dataset.write(data)
    return path


def planted_scene(path: Path, mask: NDArray[np.uint8], *, seed: int = 0, **profile: Any) -> Path:
    """A noisy RGB picture of `mask` (H, W): bright objects on dark ground, as a GeoTIFF."""
    rng = np.random.default_rng(seed)
    ground = np.array([60, 80, 50])[:, None, None]
    roof = np.array([200, 180, 170])[:, None, None]
    picture = np.where(mask[None] > 0, roof, ground) + rng.normal(0, 8, (3, *mask.shape))
    return write_scene(path, np.clip(picture, 1, 255).astype(np.uint8), **profile)
