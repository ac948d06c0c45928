"""Training data: rasters and vector labels of places, cut at random, split by place.

A `Sheet` is one raster with its labels, whole in memory at the model's GSD. Its `part` says of
every pixel whether it trains, validates or was never labelled; so a window may lie anywhere, and
what does not belong to the part that is asked for is ignored.

Sample i is always the same window: it depends on (seed, i) alone, not on workers or on where a
run was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pyogrio.errors import DataSourceError
from rasterio.features import rasterize
from shapely.geometry import Polygon
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

from geoseg.errors import DataError
from geoseg.grid import Grid, Window
from geoseg.scene import Scene
from geoseg.spec import Band
from geoseg.train.config import DataConfig, PlaceConfig, SplitConfig

IGNORE = 255  # in labels: not labelled, or no data
UNUSED, TRAIN, VALIDATE = 0, 1, 2  # values of Sheet.part

MARGIN = math.sqrt(2)  # a window is this much wider than the chip, so that it can be rotated


@dataclass(frozen=True, slots=True)
class Sheet:
    """One labelled raster in memory.

    image: (C, H, W), the raster's dtype. valid: (H, W) bool, True where the raster has data.
    label: (H, W) uint8, 1 = object, 0 = background, IGNORE where nothing is known.
    part: (H, W) uint8: UNUSED, TRAIN or VALIDATE.
    """

    place: str
    file: str
    grid: Grid
    image: NDArray[Any]
    valid: NDArray[np.bool_]
    label: NDArray[np.uint8]
    part: NDArray[np.uint8]

    def target(self, part: int) -> NDArray[np.uint8]:
        """(H, W) uint8: the label where the pixel belongs to `part`, else IGNORE."""
        return np.where(self.part == part, self.label, np.uint8(IGNORE))


def load_places(config: DataConfig, root: Path, seed: int) -> list[Sheet]:
    """All sheets of all places, each pixel assigned to its part."""
    sheets = [sheet for place in config.places for sheet in _load_place(place, config, root)]
    for place in config.places:
        own = [s for s in sheets if s.place == place.name]
        assign_blocks(own, config.split, config.gsd, seed)
    for part, name in ((TRAIN, "training"), (VALIDATE, "validation")):
        if not any((s.part == part).any() for s in sheets):
            raise DataError(f"no labelled pixel is left for {name}: change data.split")
    return sheets


def _load_place(place: PlaceConfig, config: DataConfig, root: Path) -> Iterator[Sheet]:
    pattern = root / place.rasters
    files = sorted(pattern.parent.glob(pattern.name))
    if not files:
        raise DataError(f"place {place.name}: no raster at {pattern}")
    labels = _read_vector(root / place.labels, place.name)
    aoi = _read_vector(root / place.aoi, place.name) if place.aoi else None
    for file in files:
        image, valid, grid = read(file, config)
        label = burn(labels, grid)
        known = valid if aoi is None else valid & (burn(aoi, grid) > 0)
        label[~known] = IGNORE
        if not known.any():
            raise DataError(f"{file}: no pixel lies inside the labelled area")
        part = np.where(known, np.uint8(TRAIN), np.uint8(UNUSED))
        yield Sheet(place.name, file.name, grid, image, valid, label, part)


def read(file: Path, config: DataConfig) -> tuple[NDArray[Any], NDArray[np.bool_], Grid]:
    """(image (C, H, W), valid (H, W), grid) of a raster at the model's GSD, as in predicting."""
    bands = [Band(b.name, b.common_name) for b in config.bands]
    with Scene.open(file, bands=bands, gsd=config.gsd) as scene:
        if scene.crs is None:
            raise DataError(f"{file}: has no CRS, so labels cannot be laid over it")
        image, valid = scene.read(scene.grid.window)
        return image, valid, scene.grid


def _read_vector(path: Path, place: str) -> gpd.GeoDataFrame:
    if not path.exists():
        raise DataError(f"place {place}: {path} does not exist")
    try:
        frame = gpd.read_file(path)
    except DataSourceError as e:
        raise DataError(f"place {place}: {path} cannot be read as vectors ({e})") from e
    if frame.crs is None:
        raise DataError(f"place {place}: {path} has no CRS")
    return frame[~(frame.geometry.is_empty | frame.geometry.isna())]


def burn(frame: gpd.GeoDataFrame, grid: Grid) -> NDArray[np.uint8]:
    """(H, W) uint8: 1 where a geometry of `frame` covers the pixel's centre."""
    shapes = frame.to_crs(grid.crs).geometry
    shape = (grid.height, grid.width)
    if shapes.empty:
        return np.zeros(shape, np.uint8)
    burnt = rasterize(((s, 1) for s in shapes), shape, transform=grid.transform, dtype="uint8")
    return np.asarray(burnt, dtype=np.uint8)


# --- split by place -------------------------------------------------------------------------


def blocks(grid: Grid, size: int) -> Iterator[Window]:
    """Squares of `size` pixels (smaller at the far edges) that partition the grid."""
    for row in range(0, grid.height, size):
        for col in range(0, grid.width, size):
            yield Window(row, col, size, size).intersection(grid.window)


def assign_blocks(sheets: list[Sheet], split: SplitConfig, gsd: float, seed: int) -> None:
    """Mark the validation blocks of one place in the parts of its sheets.

    Small blocks at the far edges and blocks less than half labelled are left to training.
    """
    if sheets and sheets[0].place in split.places:
        for sheet in sheets:
            sheet.part[sheet.part == TRAIN] = VALIDATE
        return
    size = max(1, round(split.block / gsd))
    labelled = [
        (sheet, window)
        for sheet in sheets
        for window in blocks(sheet.grid, size)
        if (sheet.part[window.slices()] == TRAIN).mean() > 0.5 and window.pixels > size * size / 2
    ]
    count = min(split.most, round(split.share * len(labelled)))
    if split.share > 0 and len(labelled) > 1:
        count = max(1, count)
    order = np.random.default_rng([seed, len(labelled)]).permutation(len(labelled))
    for i in order[:count]:
        sheet, window = labelled[i]
        part = sheet.part[window.slices()]
        part[part == TRAIN] = VALIDATE


def validation_blocks(sheets: list[Sheet], size: int) -> list[tuple[Sheet, Window]]:
    """The blocks of `size` pixels that hold validation pixels."""
    return [
        (sheet, window)
        for sheet in sheets
        for window in blocks(sheet.grid, size)
        if (sheet.part[window.slices()] == VALIDATE).any()
    ]


def split_frame(sheets: list[Sheet], size: int) -> gpd.GeoDataFrame:
    """The split as polygons that can be looked at: place, file, part ('train', 'validate')."""
    frames = []
    for sheet in sheets:
        rows = []
        for window in blocks(sheet.grid, size):
            part = sheet.part[window.slices()]
            if (part != UNUSED).any():
                name = "validate" if (part == VALIDATE).any() else "train"
                rows.append((sheet.place, sheet.file, name, _outline(window, sheet.grid)))
        columns = ["place", "file", "part", "geometry"]
        frame = gpd.GeoDataFrame(rows, columns=columns, crs=sheet.grid.crs)
        frames.append(frame.to_crs(4326))
    return gpd.GeoDataFrame(pd.concat(frames, ignore_index=True), crs=4326)


def _outline(window: Window, grid: Grid) -> Polygon:
    t = grid.transform
    corners = [
        (window.col, window.row),
        (window.col_stop, window.row),
        (window.col_stop, window.row_stop),
        (window.col, window.row_stop),
    ]
    return Polygon([(t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f) for x, y in corners])


# --- random windows -------------------------------------------------------------------------


class Windows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random training windows; item i is (image (C, S, S) float32, target (S, S) uint8).

    S = chip * MARGIN. The window covers `zoom` times the ground of S pixels at the model's GSD
    and is resampled to S. A place is drawn by (labelled area) ** balance, then a labelled pixel
    of it (with probability `focus` one of an object), around which the window is laid.

    Predicting shows the network `blank`, the value that is scaled to 0, where there is no data;
    half of the windows do so too, the others keep what the raster has there (mostly black), as
    not every raster declares its nodata.
    """

    def __init__(
        self,
        sheets: list[Sheet],
        *,
        blank: tuple[float, ...],
        chip: int,
        zoom: tuple[float, float],
        balance: float,
        focus: float,
        seed: int,
        length: int,
    ) -> None:
        self.size = round(chip * MARGIN / 2) * 2
        self.chip, self.zoom, self.focus, self.blank = chip, zoom, focus, blank
        self.seed, self.length = seed, length
        self.sheets = [s for s in sheets if (s.part == TRAIN).any()]
        self.targets = [s.target(TRAIN) for s in self.sheets]
        self.known = [np.flatnonzero(t != IGNORE).astype(np.uint32) for t in self.targets]
        self.objects = [
            np.flatnonzero((t != IGNORE) & (t > 0)).astype(np.uint32) for t in self.targets
        ]
        self.weights = self._weights(balance)

    def _weights(self, balance: float) -> NDArray[np.float64]:
        """Probability of each sheet: its place's, shared by labelled area."""
        area = np.array([len(k) for k in self.known], float)
        places = np.array([s.place for s in self.sheets])
        weights = np.empty_like(area)
        for place in np.unique(places):
            own = places == place
            weights[own] = area[own] / area[own].sum() * area[own].sum() ** balance
        probabilities: NDArray[np.float64] = weights / weights.sum()
        return probabilities

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.seed, index])
        i = int(rng.choice(len(self.sheets), p=self.weights))
        pool = self.known[i]
        if rng.random() < self.focus and len(self.objects[i]):
            pool = self.objects[i]
        pixel = int(pool[rng.integers(len(pool))])
        zoom = math.exp(rng.uniform(math.log(self.zoom[0]), math.log(self.zoom[1])))
        side = round(self.size * zoom)
        jitter = rng.uniform(-0.4, 0.4, 2) * self.chip * zoom
        row, col = divmod(pixel, self.sheets[i].grid.width)
        window = Window(
            row - side // 2 + round(jitter[0]), col - side // 2 + round(jitter[1]), side, side
        )
        blank = self.blank if rng.random() < 0.5 else None
        image = picture(self.sheets[i], window, blank)
        target = cut(self.targets[i][None], window, fill=IGNORE)
        return resample(image, target, self.size)


def cut(array: NDArray[Any], window: Window, *, fill: int) -> NDArray[Any]:
    """(C, h, w) under `window` of an array (C, H, W); `fill` beyond its edges."""
    inside = window.intersection(Window(0, 0, *array.shape[1:]))
    if inside == window:
        return array[:, *window.slices()]
    out = np.full((array.shape[0], window.height, window.width), fill, array.dtype)
    if inside.pixels:
        out[:, *inside.slices(window)] = array[:, *inside.slices()]
    return out


def picture(sheet: Sheet, window: Window, blank: tuple[float, ...] | None) -> NDArray[np.float32]:
    """(C, h, w): the image under `window`, with `blank` (a value per band) where it is not valid.

    With `blank` None, what the raster has there, and 0 beyond it.
    """
    image = cut(sheet.image, window, fill=0).astype(np.float32)
    if blank is not None:
        missing = ~cut(sheet.valid[None], window, fill=False)[0]
        image[:, missing] = np.array(blank, np.float32)[:, None]
    return image


def resample(
    image: NDArray[np.float32], target: NDArray[np.uint8], size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(C, size, size) float32 and (size, size) uint8 from a square image and its target."""
    pixels = torch.from_numpy(image)[None]
    labels = torch.from_numpy(np.ascontiguousarray(target))[None]
    if pixels.shape[-1] != size:
        shrink = pixels.shape[-1] > size
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=shrink)
        labels = F.interpolate(labels, size=(size, size), mode="nearest-exact")
    return pixels[0], labels[0, 0]


class Onwards(Sampler[int]):
    """`length` indices from `first()` on, asked at the start of each epoch.

    With the number of samples seen so far as `first`, a resumed run goes on where it was.
    """

    def __init__(self, length: int, first: Callable[[], int]) -> None:
        self.length, self.first = length, first

    def __iter__(self) -> Iterator[int]:
        first = self.first()
        return iter(range(first, first + self.length))

    def __len__(self) -> int:
        return self.length
