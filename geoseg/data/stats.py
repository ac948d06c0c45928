"""Band statistics and class balance by streaming: memory does not grow with the scenes.

`measure` goes over sheets that are there already; `survey` reads places from their files, by
bands of rows, and keeps no pixels at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.data.config import DataConfig
from geoseg.data.sheets import (
    Sheet,
    Strip,
    Truth,
    bands_of_rows,
    block_pixels,
    files,
    open_scene,
    strips,
)
from geoseg.data.split import (
    NAMES,
    TRAIN,
    UNUSED,
    Blocked,
    belongs,
    check_labelled,
    deal,
    need,
    separate,
)
from geoseg.errors import DataError
from geoseg.grid import Grid
from geoseg.metrics import IGNORE

TAILS = (0.1, 99.9)  # percent: below and above lie outliers
_KEYS = 1 << 20  # bins of a histogram of numbers that are not 8 or 16 bit integers
_LEAST_SCALE = 1e-6


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the pixels of some blocks hold.

    mean, std: per band, of all pixels with data, labelled or not. low, high: 0.1 and 99.9
    percent of all values of all bands lie below; exact for integers of 8 and 16 bits, else to
    0.1 %. pixels: of each label; places: the same of each place.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: float
    high: float
    pixels: Mapping[int, int]
    places: Mapping[str, Mapping[int, int]]

    @property
    def offset(self) -> tuple[float, ...]:
        """What makes the mean of each band 0; see DataConfig."""
        return self.mean

    @property
    def scale(self) -> tuple[float, ...]:
        """What makes the deviation of each band 1; of a band without contrast, 1."""
        return tuple(s if s > _LEAST_SCALE * max(1, abs(m)) else 1.0 for m, s in self._both)

    @property
    def value_range(self) -> tuple[float, float]:
        """low and high, but never empty."""
        return self.low, self.high if self.high > self.low else self.low + 1

    @property
    def _both(self) -> Iterator[tuple[float, float]]:
        return zip(self.mean, self.std, strict=True)

    def class_weights(self, labels: int) -> tuple[float, ...]:
        """A weight for each of 0..labels-1, the rarer the larger; their mean over pixels is 1.

        The square root of median frequency balancing (Eigen & Fergus 2015), which itself makes
        rare classes so heavy that they are found everywhere. Labels that do not occur get 1.
        """
        counts = np.array([self.pixels.get(label, 0) for label in range(labels)], float)
        weights = np.ones(labels)
        there = counts > 0
        weights[there] = np.sqrt(np.median(counts[there]) / counts[there]) if there.any() else 1
        if there.any():
            weights[there] *= counts.sum() / (weights * counts).sum()
        return tuple(float(w) for w in weights)

    def as_dict(self) -> dict[str, Any]:
        return {
            "mean": [_short(v) for v in self.mean],
            "std": [_short(v) for v in self.std],
            "low": _short(self.low),
            "high": _short(self.high),
            "pixels": dict(self.pixels),
            "places": {place: dict(counts) for place, counts in self.places.items()},
        }


def measure(sheets: Sequence[Sheet], part: int = TRAIN) -> Statistics:
    """The statistics of the blocks of one part."""
    return _gathered(_pieces_of(sheet, _cut(sheet), part) for sheet in sheets)


def _cut(sheet: Sheet) -> Iterator[Strip]:
    for window in bands_of_rows(sheet.grid, len(sheet.image) * sheet.image.itemsize):
        rows = slice(window.row, window.row_stop)
        yield Strip(window, sheet.image[:, rows], sheet.valid[rows], sheet.label[rows])


# --- from files -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plot:
    """The blocks of one raster, without its pixels; see Blocked.

    counts: (rows, columns of blocks, labels) int64, pixels of each label.
    """

    place: str
    path: Path
    grid: Grid
    block: int
    counts: NDArray[np.int64]
    parts: NDArray[np.uint8] = field(repr=False)

    @property
    def file(self) -> str:
        return self.path.name

    @property
    def labelled(self) -> NDArray[np.int64]:
        total: NDArray[np.int64] = self.counts.sum(axis=2)
        return total


def survey(config: DataConfig, root: Path, *, seed: int) -> list[Plot]:
    """All rasters of all places, split as `load_places` would, in one pass over the files."""
    plots: list[Plot] = []
    for place in config.places:
        truth, own = Truth(place, config, root), []
        for path in files(root, place.rasters, place.name):
            with open_scene(path, place, config) as scene:
                labels, area = truth.labels(path, scene.grid), truth.known(path, scene.grid)
                counts = count_labels(scene.grid, strips(scene, labels, area), config)
                some = counts.any(axis=2)
                parts = np.where(some, np.uint8(TRAIN), np.uint8(UNUSED))
                own.append(Plot(place.name, path, scene.grid, block_pixels(config), counts, parts))
        check_labelled(own, place)
        deal(own, place, config.split, root=root, seed=seed)
        plots += own
    separate(plots)
    return plots


def measure_files(config: DataConfig, plots: Sequence[Plot], part: int = TRAIN) -> Statistics:
    """As `measure`, with another pass over the files; the labels were counted by `survey`."""
    need(plots, part)
    places = {place.name: place for place in config.places}
    types: dict[str, str] = {}

    def pieces() -> Iterator[Iterator[_Piece]]:
        for plot in plots:
            if (plot.parts == part).any():
                with open_scene(plot.path, places[plot.place], config) as scene:
                    types[str(scene.dtype)] = plot.file
                    one_type(types)
                    yield _pieces_of(plot, strips(scene, None, None), part)

    found = _gathered(pieces())
    balance = class_balance(plots)
    own = {place: parts[NAMES[part]] for place, parts in balance.items() if NAMES[part] in parts}
    return Statistics(found.mean, found.std, found.low, found.high, _added(own.values()), own)


def one_type(types: Mapping[str, str]) -> None:
    """Raise a DataError if there are several types of pixels (name -> a file that has it)."""
    if len(types) > 1:
        told = ", ".join(f"{name} ({file})" for name, file in types.items())
        raise DataError(f"the rasters differ in their type of pixels: {told}: convert some of them")


def class_balance(plots: Sequence[Plot]) -> dict[str, dict[str, dict[int, int]]]:
    """Pixels of each label by place and part ('train' ...)."""
    balance: dict[str, dict[str, dict[int, int]]] = {}
    for plot in plots:
        for part, name in NAMES.items():
            mine = plot.parts == part
            if mine.any():
                parts = balance.setdefault(plot.place, {})
                now = dict(enumerate(map(int, plot.counts[mine].sum(axis=0))))
                parts[name] = _added([parts.get(name, {}), now])
    return balance


def count_labels(grid: Grid, pieces: Iterator[Strip], config: DataConfig) -> NDArray[np.int64]:
    """(rows, columns of blocks, labels): pixels of each label, the background included."""
    block, labels = block_pixels(config), len(config.classes) + config.first
    rows, cols = -(-grid.height // block), -(-grid.width // block)
    counts = np.zeros((rows, cols, labels + 1), np.int64)
    column = (np.arange(grid.width) // block * (labels + 1)).astype(np.int32)
    for strip in pieces:
        label = np.minimum(strip.label, labels)  # unknown ones last
        for row in range(strip.window.row // block, -(-strip.window.row_stop // block)):
            own = slice(
                max(0, row * block - strip.window.row), (row + 1) * block - strip.window.row
            )
            flat = np.bincount((label[own] + column).ravel(), minlength=cols * (labels + 1))
            counts[row] += flat.reshape(cols, labels + 1)
    return counts[:, :, :labels]


def described(
    config: DataConfig, plots: Sequence[Plot], found: Statistics
) -> dict[str, dict[str, Any]]:
    """For people and recipes: shares of the classes, bands, and what to write into a recipe."""
    names = (["background"] if config.background else []) + [c.name for c in config.classes]
    balance = {
        place: {
            part: {
                "Mpx": round(sum(counts.values()) / 1e6, 3),
                **{
                    name: round(counts.get(label, 0) / max(1, sum(counts.values())), 4)
                    for label, name in enumerate(names)
                },
            }
            for part, counts in parts.items()
        }
        for place, parts in class_balance(plots).items()
    }
    bands = {
        band.name: {"mean": _short(mean), "std": _short(std)}
        for band, mean, std in zip(config.bands, found.mean, found.std, strict=True)
    }
    suggested = {
        "offset": [_short(v) for v in found.offset],
        "scale": [_short(v) for v in found.scale],
        "value_range": [_short(v) for v in found.value_range],
        "class_weights": [round(w, 3) for w in found.class_weights(len(names))],
    }
    return {"balance": balance, "bands": bands, "suggested": suggested}


# --- sums -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Piece:
    """place; values: (C, n) of pixels with data; labels: (256,) how often each occurs."""

    place: str
    values: NDArray[Any]
    labels: NDArray[np.int64]


def _pieces_of(sheet: Blocked, pieces: Iterator[Strip], part: int) -> Iterator[_Piece]:
    for strip in pieces:
        mine = belongs(sheet, strip.window, part)
        if mine.any():
            labels = np.bincount(strip.label[mine], minlength=256)
            mine = mine & strip.valid
            values = strip.image[:, mine] if not mine.all() else strip.image
            yield _Piece(sheet.place, values.reshape(len(strip.image), -1), labels)


def _gathered(sources: Iterator[Iterator[_Piece]]) -> Statistics:
    moments, histogram = Moments(), Histogram()
    places: dict[str, dict[int, int]] = {}
    for pieces in sources:
        for piece in pieces:
            moments.add(piece.values)
            histogram.add(piece.values)
            now = {i: int(piece.labels[i]) for i in np.flatnonzero(piece.labels[:IGNORE])}
            places[piece.place] = _added([places.get(piece.place, {}), now])
    low, high = histogram.percentiles(*TAILS)
    mean, std = moments.mean, moments.std
    return Statistics(tuple(mean), tuple(std), low, high, _added(places.values()), places)


class Moments:
    """Mean and standard deviation per band, piece by piece (Chan, Golub & LeVeque 1983)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = np.zeros(0)
        self._squares = np.zeros(0)  # sum of squared differences from the mean

    def add(self, values: NDArray[Any]) -> None:
        """values: (C, n)."""
        n = values.shape[1]
        if not n:
            return
        if not self.count:
            self._mean, self._squares = np.zeros(len(values)), np.zeros(len(values))
        total = self.count + n
        for i, band in enumerate(values):
            real = band.astype(np.float64)
            mean = real.mean()
            real -= mean
            step = mean - self._mean[i]
            self._squares[i] += real @ real + step**2 * self.count * n / total
            self._mean[i] += step * n / total
        self.count = total

    @property
    def mean(self) -> list[float]:
        return [float(v) for v in self._mean]

    @property
    def std(self) -> list[float]:
        return [math.sqrt(v / self.count) for v in self._squares]


class Histogram:
    """How often values occur, for percentiles; every integer of 8 or 16 bits has its own bin.

    Other numbers fall into bins by the first 20 bits of their float32 (sign, exponent and 11
    of the fraction), which sort as the numbers do: no range has to be known before.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(0, np.int64)
        self._values: Callable[[NDArray[np.intp]], NDArray[Any]] = _values_of_keys

    def add(self, values: NDArray[Any]) -> None:
        """values: (C, n), always of one dtype."""
        dtype = values.dtype
        small = dtype.kind in "iu" and dtype.itemsize <= 2
        if small:
            least = int(np.iinfo(dtype).min)
            size = 1 << 8 * dtype.itemsize
            self._values = lambda keys: keys + least
        else:
            size = _KEYS
        if not len(self._counts):
            self._counts = np.zeros(size, np.int64)
        for band in values:
            keys: NDArray[Any] = band
            if not small:
                keys = _keys(band)
            elif least:
                keys = band.astype(np.int32) - least
            self._counts += np.bincount(keys.ravel(), minlength=size)

    def percentiles(self, *percent: float) -> tuple[float, ...]:
        """The least value that so many percent do not exceed; NaN where there are none."""
        total = self._counts.sum() if len(self._counts) else 0
        if not total:
            return (math.nan,) * len(percent)
        sums = self._counts.cumsum()
        ranks = np.maximum(1, np.ceil(np.array(percent) / 100 * total))
        return tuple(float(v) for v in self._values(np.searchsorted(sums, ranks)))


def _keys(values: NDArray[Any]) -> NDArray[Any]:
    """The first 20 bits of numbers as float32, such that they sort as the numbers."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    flipped: NDArray[Any] = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return flipped >> 12


def _values_of_keys(keys: NDArray[np.intp]) -> NDArray[Any]:
    """The middle of the bins."""
    bits = (keys.astype(np.uint32) << 12) + np.uint32(1 << 11)
    back = np.where(bits >> 31, bits & np.uint32((1 << 31) - 1), ~bits)
    return np.asarray(back, np.uint32).view(np.float32)


def _added(counts: Any) -> dict[int, int]:
    total: dict[int, int] = {}
    for each in counts:
        for label, n in each.items():
            total[label] = total.get(label, 0) + n
    return dict(sorted(total.items()))


def _short(value: float) -> float:
    return float(f"{value:.6g}")
