"""Random windows of sheets, for training; and the blocks that validate.

Sample i is always the same window: it depends on (seed, i) alone, not on workers or on where a
run was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from geoseg.data.sheets import Sheet, bands_of_rows
from geoseg.data.split import TRAIN, windows
from geoseg.grid import Window
from geoseg.metrics import IGNORE
from geoseg.train.appearance import match
from geoseg.train.config import TrainConfig

MARGIN = math.sqrt(2)  # a window is this much wider than the chip, so that it can be rotated
HALO = 64  # pixels of context around a block that validates
_LOOK = 256  # pixels along the sample of another place's colours
CELL = 32  # pixels along the squares in which labels are counted, for drawing

Blank = tuple[float, ...]  # a value per band


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Random training windows; item i is (image (C, S, S) float32, target (S, S) uint8).

    S = chip * MARGIN. The window covers `zoom` times the ground of S pixels at the model's GSD
    and is resampled to S. A place is drawn by (labelled area) ** balance, then a labelled pixel
    of it (with probability `focus` one of an object, each class alike), around which the window
    is laid.

    Predicting shows the network `blank`, the value that is scaled to 0, where there is no data;
    half of the windows do so too, the others keep what the raster has there (mostly black), as
    not every raster declares its nodata.
    """

    def __init__(self, sheets: Sequence[Sheet], config: TrainConfig, blank: Blank) -> None:
        schedule, data = config.schedule, config.data
        self.size = round(schedule.chip * MARGIN / 2) * 2
        self.config, self.blank = config, blank
        self.length = schedule.steps * schedule.batch
        self.sheets = [s for s in sheets if (s.parts == TRAIN).any()]
        unlabelled = [s for s in sheets if not s.parts.any() and s.valid.any()]
        # without such, places lend each other their colours
        self.looks = _by_place(unlabelled or self.sheets)
        self.pools = [Pool.of(s, data.first, len(data.classes)) for s in self.sheets]
        self.weights = _weights(self.sheets, [p.known.total for p in self.pools], data.balance)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.config.schedule.seed, index])
        sheet, window = self._drawn(rng)
        image = self._picture(sheet, window, rng)
        return resample(image, sheet.target(window, TRAIN), self.size)

    def _drawn(self, rng: np.random.Generator) -> tuple[Sheet, Window]:
        i = int(rng.choice(len(self.sheets), p=self.weights))
        return self.sheets[i], self._window(self.sheets[i], self.pools[i], rng)

    def _picture(
        self, sheet: Sheet, window: Window, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """(C, h, w) under the window, maybe with another look."""
        augment, pixels = self.config.augment, sheet.image
        if sheet.variants and rng.random() < augment.variant:
            pixels = sheet.variants[int(rng.integers(len(sheet.variants)))]
        blank = self.blank if rng.random() < 0.5 else None
        image = picture(pixels, sheet.valid, window, blank)
        if rng.random() < augment.match:
            image = self._matched(image, cut(sheet.valid[None], window, fill=False)[0], rng)
        return image

    def _window(self, sheet: Sheet, pool: Pool, rng: np.random.Generator) -> Window:
        schedule, augment = self.config.schedule, self.config.augment
        row, col = pool.pixel(sheet, self.config.data.focus, rng)
        zoom = math.exp(rng.uniform(math.log(augment.zoom[0]), math.log(augment.zoom[1])))
        side = round(self.size * zoom)
        jitter = rng.uniform(-0.4, 0.4, 2) * schedule.chip * zoom
        return Window(
            row - side // 2 + round(jitter[0]), col - side // 2 + round(jitter[1]), side, side
        )

    def _matched(
        self, image: NDArray[np.float32], valid: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """The image with the colours of a window of another place (half of them or more)."""
        place = self.looks[int(rng.integers(len(self.looks)))]
        sheet = place[int(rng.integers(len(place)))]
        side = min(4 * self.size, *sheet.valid.shape)
        row, col = (int(rng.integers(n - side + 1)) for n in sheet.valid.shape)
        step = -(-side // _LOOK)  # colours need no detail
        rows, cols = slice(row, row + side, step), slice(col, col + side, step)
        reference_valid = sheet.valid[rows, cols]
        if reference_valid.mean() < 0.25 or not valid.any():
            return image
        reference = sheet.image[:, rows, cols].astype(np.float32)
        amount = float(rng.uniform(0.5, 1))
        by = self.config.augment.match_by
        masks = {"valid": valid, "reference_valid": reference_valid}
        return match(image, reference, **masks, by=by, amount=amount)


@dataclass(frozen=True, slots=True)
class Cells:
    """How many pixels of some kind lie in each cell of a sheet, ready to be drawn from."""

    columns: int
    sums: NDArray[np.int64]  # running sum over the cells, row by row

    @property
    def total(self) -> int:
        return int(self.sums[-1])

    def draw(self, rng: np.random.Generator) -> Window:
        cell = int(np.searchsorted(self.sums, rng.integers(self.total), side="right"))
        return Window(cell // self.columns * CELL, cell % self.columns * CELL, CELL, CELL)


@dataclass(frozen=True, slots=True)
class Pool:
    """The training pixels of one sheet: all that are labelled, and those of each class there."""

    known: Cells
    classes: tuple[tuple[int, Cells], ...]  # (label, its pixels)

    @classmethod
    def of(cls, sheet: Sheet, first: int, classes: int) -> Pool:
        """`first` is the label of the first class."""
        labels = range(first, first + classes)
        counts: list[list[NDArray[np.int64]]] = [[] for _ in range(classes + 1)]
        for band in bands_of_rows(sheet.grid, 8, CELL):
            target = sheet.target(band, TRAIN)
            for i, mask in enumerate([target != IGNORE, *(target == label for label in labels)]):
                counts[i].append(_in_cells(mask))
        columns = counts[0][0].shape[1]
        known, *each = (Cells(columns, np.concatenate(c).ravel().cumsum()) for c in counts)
        present = ((label, c) for label, c in zip(labels, each, strict=True) if c.total)
        return cls(known, tuple(present))

    def pixel(self, sheet: Sheet, focus: float, rng: np.random.Generator) -> tuple[int, int]:
        """(row, column) of a labelled pixel; with probability `focus` of one of a class."""
        label, cells = None, self.known
        if rng.random() < focus and self.classes:
            label, cells = self.classes[int(rng.integers(len(self.classes)))]
        cell = cells.draw(rng)
        target = sheet.target(cell, TRAIN)
        rows, cols = np.nonzero(target != IGNORE if label is None else target == label)
        i = int(rng.integers(len(rows)))
        return cell.row + int(rows[i]), cell.col + int(cols[i])


def _in_cells(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(rows, columns of cells): how many pixels of each are True."""
    height, width = mask.shape
    down = np.add.reduceat(mask, np.arange(0, height, CELL), axis=0, dtype=np.int64)
    return np.add.reduceat(down, np.arange(0, width, CELL), axis=1)


def _weights(sheets: Sequence[Sheet], area: list[int], balance: float) -> NDArray[np.float64]:
    """Probability of each sheet: its place's, shared by labelled area."""
    areas = np.array(area, float)
    places = np.array([s.place for s in sheets])
    weights = np.empty_like(areas)
    for place in np.unique(places):
        own = places == place
        weights[own] = areas[own] / areas[own].sum() * areas[own].sum() ** balance
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities


def _by_place(sheets: Sequence[Sheet]) -> list[list[Sheet]]:
    places: dict[str, list[Sheet]] = {}
    for sheet in sheets:
        places.setdefault(sheet.place, []).append(sheet)
    return list(places.values())


class Blocks(Dataset[tuple[str, Tensor, Tensor]]):
    """The blocks of a part with a halo: (place, image (C, h, w) float32, target (h, w) uint8).

    h and w are multiples of 32; the halo is context only, its target is IGNORE.
    """

    def __init__(self, sheets: Sequence[Sheet], part: int, blank: Blank) -> None:
        self.blocks = [(sheet, window) for sheet in sheets for window in windows(sheet, part)]
        self.part, self.blank = part, blank

    def __len__(self) -> int:
        return len(self.blocks)

    def window(self, index: int) -> Window:
        """The block with its halo."""
        _, block = self.blocks[index]
        height, width = (-(-(side + 2 * HALO) // 32) * 32 for side in (block.height, block.width))
        return Window(block.row - HALO, block.col - HALO, height, width)

    def __getitem__(self, index: int) -> tuple[str, Tensor, Tensor]:
        (sheet, block), window = self.blocks[index], self.window(index)
        image = torch.from_numpy(picture(sheet.image, sheet.valid, window, self.blank))
        target = torch.full((window.height, window.width), IGNORE, dtype=torch.uint8)
        own = torch.from_numpy(sheet.target(block, self.part))
        target[HALO : HALO + block.height, HALO : HALO + block.width] = own
        return sheet.place, image, target


def cut(array: NDArray[Any], window: Window, *, fill: int) -> NDArray[Any]:
    """(C, h, w) under `window` of an array (C, H, W); `fill` beyond its edges."""
    inside = window.intersection(Window(0, 0, *array.shape[1:]))
    if inside == window:
        return array[:, *window.slices()]
    out = np.full((array.shape[0], window.height, window.width), fill, array.dtype)
    if inside.pixels:
        out[:, *inside.slices(window)] = array[:, *inside.slices()]
    return out


def picture(
    pixels: NDArray[Any], valid: NDArray[np.bool_], window: Window, blank: Blank | None
) -> NDArray[np.float32]:
    """(C, h, w): pixels (C, H, W) under `window`, `blank` where they are not valid.

    With `blank` None, what the raster has there, and 0 beyond it.
    """
    image = cut(pixels, window, fill=0).astype(np.float32)
    if blank is not None:
        missing = ~cut(valid[None], window, fill=False)[0]
        image[:, missing] = np.array(blank, np.float32)[:, None]
    return image


def resample(
    image: NDArray[np.float32], target: NDArray[np.uint8], size: int
) -> tuple[Tensor, Tensor]:
    """(C, size, size) float32 and (size, size) uint8 from an image (C, h, w) and its target."""
    pixels = torch.from_numpy(image)[None]
    labels = torch.from_numpy(target)[None, None]
    if pixels.shape[-1] != size:
        shrink = pixels.shape[-1] > size
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=shrink)
        labels = F.interpolate(labels, size=(size, size), mode="nearest-exact")
    return pixels[0], labels[0, 0]
