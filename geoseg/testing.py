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

from geoseg.grid import Grid, Plan, Tile, Window
from geoseg.predictions import Chip, InstancePrediction, Masks


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


def planted_objects(
    shape: tuple[int, int], *, count: int, longest: int, seed: int
) -> NDArray[np.int32]:
    """(H, W) numbers of up to `count` objects that touch but do not overlap, 0 between them.

    Boxes, discs, Ls, Us and rings of up to `longest` pixels; each is 4-connected.
    """
    from scipy.ndimage import label

    rng = np.random.default_rng(seed)
    out = np.zeros(shape, np.int32)
    number = 0
    for _ in range(count):
        h, w = rng.integers(2, longest + 1, size=2)
        form = _form(rng, int(h), int(w))
        r, c = rng.integers(-h // 3, shape[0]), rng.integers(-w // 3, shape[1])
        window = Window(int(r), int(c), int(h), int(w))
        inside = window.intersection(Window(0, 0, *shape))
        ground = out[inside.slices()]
        free = form[inside.slices(window)] & (ground == 0)
        parts, many = label(free)
        if many:  # what earlier objects cut off is no part of this one
            number += 1
            ground[parts == 1 + np.argmax(np.bincount(parts[free])[1:])] = number
    return out


def _form(rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
    form = np.ones((height, width), np.bool_)
    rows, cols = np.ogrid[:height, :width]
    inner = (slice(height // 3, height - height // 3), slice(width // 3, width - width // 3))
    match rng.integers(5):
        case 0:
            y, x = (rows + 0.5) / height - 0.5, (cols + 0.5) / width - 0.5
            form = y * y + x * x <= 0.25
        case 1:
            form[height // 2 :, width // 2 :] = False
        case 2:
            form[height // 2 :, inner[1]] = False
        case 3:
            form[inner] = False
    return form[::-1, ::-1] if rng.integers(2) else form


def see_planted(
    truth: NDArray[np.int32], tile: Tile, *, apart: bool = False, label_of: int = 1
) -> InstancePrediction:
    """What a perfect instance model sees in a tile: the objects of `truth` (H, W numbers), cut at
    its edges; with `apart` the pieces of one that only hang together outside as several."""
    from scipy.ndimage import find_objects, label

    window = tile.read.intersection(Window(0, 0, *truth.shape))
    numbers = truth[window.slices()]
    if apart:  # pieces of one number, told apart
        pieces, count = np.zeros_like(numbers), 0
        for number in np.unique(numbers[numbers > 0]):
            found, many = label(numbers == number)
            pieces[found > 0] = found[found > 0] + count
            count += many
        numbers = pieces
    windows, masks = [], []
    for i, place in enumerate(find_objects(numbers), 1):
        if place is not None:
            mask = numbers[place] == i
            top, left = place[0].start + window.row, place[1].start + window.col
            windows.append((top, left, *mask.shape))
            masks.append(mask.ravel())
    starts = np.cumsum([0, *map(len, masks)])
    return InstancePrediction(
        tile,
        np.full(len(masks), label_of, np.uint8),
        np.full(len(masks), 0.9, np.float32),
        Masks(
            np.array(windows, np.int32).reshape(-1, 4),
            np.concatenate([np.empty(0, np.bool_), *masks]),
            starts,
        ),
    )


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
