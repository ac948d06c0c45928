"""Sheets: labelled rasters at the model's GSD, decoded once, cut at random without decoding again.

A sheet's pixels lie in files that are mapped into memory (in a folder of the run), so that they
may be larger than memory and several workers share them. They are filled by bands of rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from numpy.typing import DTypeLike, NDArray

from geoseg.data.config import DataConfig, PlaceConfig
from geoseg.data.labels import (
    Labels,
    VectorLabels,
    codes_of,
    is_vector,
    read_vector,
)
from geoseg.data.masks import MaskLabels
from geoseg.data.meaning import Meaning
from geoseg.data.outlines import Outlines, outlines_of
from geoseg.data.split import (
    TRAIN,
    UNUSED,
    belongs,
    blocks_of,
    check_labelled,
    deal,
    separate,
    windows,
)
from geoseg.errors import DataError, OutputError
from geoseg.grid import Grid, Window
from geoseg.metrics import IGNORE
from geoseg.scene import Scene
from geoseg.spec import Band

_FINER = 20  # times: at most, the recipe's pixels may be so much finer than a raster's
_BAND = 32 << 20  # bytes of pixels that are read at a time


@dataclass(frozen=True, slots=True)
class Sheet:
    """One raster with its labels.

    image: (C, H, W), the raster's dtype. valid: (H, W) bool, True where the raster has data.
    label: (H, W) uint8, see geoseg/data/labels.py; IGNORE where nothing is known.
    block: pixels along a block of the split. parts: (rows, columns of blocks) uint8: UNUSED,
    TRAIN, VALIDATE or TEST. variants: (C, H, W) each, the raster with another look. outlines: of
    the labelled objects, where they were asked for.
    """

    place: str
    file: str
    grid: Grid
    image: NDArray[Any]
    valid: NDArray[np.bool_]
    label: NDArray[np.uint8]
    block: int
    parts: NDArray[np.uint8]
    variants: tuple[NDArray[Any], ...] = field(default=())
    outlines: Outlines | None = None

    def target(self, window: Window, part: int) -> NDArray[np.uint8]:
        """(h, w) uint8 under a window: the label where the pixel belongs to `part`, else IGNORE.

        A window may reach beyond the sheet.
        """
        inside = window.intersection(self.grid.window)
        out = np.full((window.height, window.width), IGNORE, np.uint8)
        if inside.pixels:
            np.copyto(
                out[inside.slices(window)],
                self.label[inside.slices()],
                where=belongs(self, inside, part),
            )
        return out

    @property
    def labelled(self) -> NDArray[np.int64]:
        """(rows, columns of blocks): labelled pixels of each."""
        return blocks_of(self.label, self.block)

    def labels(self, part: int) -> set[int]:
        """The labels that occur in the blocks of a part."""
        found: set[int] = set()
        for window in windows(self, part):
            found.update(map(int, np.unique(self.label[window.slices()])))
        return found - {IGNORE}

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes: files are opened again, instead of sending all that is in them."""
        return _sheet, tuple(_sent(getattr(self, each.name)) for each in fields(self))


@dataclass(frozen=True, slots=True)
class _Mapped:
    """A file of pixels on its way to another process."""

    path: str


def _sent(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_sent, value))
    return _Mapped(str(value.filename)) if isinstance(value, np.memmap) else value


def _sheet(*values: Any) -> Sheet:
    def received(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(received, value))
        return np.load(value.path, mmap_mode="r") if isinstance(value, _Mapped) else value

    return Sheet(*map(received, values))


class Store:
    """Where sheets keep their pixels: files in `folder`, or memory without one."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self._count = folder, 0
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    def new(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        if self.folder is None:
            return np.empty(shape, dtype)
        self._count += 1
        path = self.folder / f"{self._count:05}.npy"
        pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        if hasattr(os, "posix_fallocate"):  # a mapped file that outgrows the disk kills the process
            size = path.stat().st_size
            try:
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, size)
            except OSError as e:
                raise OutputError(
                    f"{path}: {size >> 20} MiB of pixels cannot be written ({e.strerror})"
                ) from e
        return pixels


def load_places(
    config: DataConfig,
    root: Path,
    *,
    seed: int,
    store: Store | None = None,
    outlines: bool = False,
) -> list[Sheet]:
    """All sheets of all places; the blocks of each are dealt out to the parts of the split.

    outlines: also keep those of the objects, as instance models need them.
    """
    store = store or Store()
    sheets: list[Sheet] = []
    for place in config.places:
        own = list(load_place(place, config, root, store, outlines))
        check_labelled(own, place)
        deal(own, place, config.split, root=root, seed=seed)
        sheets += own
    separate(sheets)
    return sheets


def load_place(
    place: PlaceConfig, config: DataConfig, root: Path, store: Store, outlines: bool = False
) -> Iterator[Sheet]:
    """The sheets of one place, not yet split: every labelled block is in TRAIN."""
    truth = Truth(place, config, root)
    for file in files(root, place.rasters, place.name):
        with open_scene(file, place, config) as scene:
            sheet, labels = _fill(scene, place, file, truth, config, root, store)
            if outlines:
                sheet = replace(sheet, outlines=outlines_of(labels, sheet.label, config.first))
            yield sheet


def files(root: Path, pattern: str, place: str) -> list[Path]:
    """The rasters of a place, sorted."""
    path = root / pattern
    found = [path] if path.exists() else sorted(path.parent.glob(path.name))
    if not found:
        raise DataError(
            f"place {place}: no raster at {path} (only the last part of a path may be a pattern)"
        )
    return found


def open_scene(file: Path, place: PlaceConfig, config: DataConfig) -> Scene:
    """The raster at the GSD of the recipe."""
    bands = [Band(b.name, b.common_name) for b in config.bands]
    scene = Scene.open(file, bands=bands, gsd=config.gsd, scene_gsd=place.gsd)
    if scene.gsd is None:
        scene.close()
        raise DataError(f"{file}: does not know its GSD: say gsd (metres) for its place")
    if max(scene.gsd) > _FINER * config.gsd:
        scene.close()
        raise DataError(
            f"{file}: its pixels are {max(scene.gsd):.3g} m, data.gsd is {config.gsd:g}: is that "
            "in metres? There is no such detail"
        )
    return scene


class Truth:
    """What is known of a place: labels and area; vectors are read once for all its rasters."""

    def __init__(self, place: PlaceConfig, config: DataConfig, root: Path) -> None:
        self.place, self.root = place, root
        self.meaning = Meaning(config.classes, background=config.background, ignore=config.ignore)
        self.attribute = config.attribute
        self.area = read_vector(root / place.aoi) if place.aoi else None
        self.frame: gpd.GeoDataFrame | None = None
        if place.labels and "*" not in place.labels and is_vector(root / place.labels):
            self.frame, self.codes = self._vectors(root / place.labels)

    def _vectors(self, path: Path) -> tuple[gpd.GeoDataFrame, NDArray[np.uint8]]:
        frame = read_vector(path, self.place.layer)
        return frame, codes_of(frame, self.attribute, self.meaning, path)

    def labels(self, file: Path, grid: Grid) -> Labels | None:
        """The labels of one raster on its grid; None for a place that has none."""
        if self.place.labels is None:
            return None
        path = beside(file, self.root, self.place, self.place.labels)
        if self.frame is not None:
            frame, codes = self.frame, self.codes
        elif is_vector(path):  # one file for each raster
            frame, codes = self._vectors(path)
        else:
            return MaskLabels(path, self.meaning, grid)
        need_crs(frame, grid, path, file)
        return VectorLabels(frame, codes, grid).on(self.meaning.rest)

    def known(self, file: Path, grid: Grid) -> Labels | None:
        """1 where the place was labelled; None if everywhere."""
        if self.area is None:
            return None
        need_crs(self.area, grid, self.root / (self.place.aoi or ""), file)
        return VectorLabels(self.area, np.ones(len(self.area), np.uint8), grid)


def beside(file: Path, root: Path, place: PlaceConfig, pattern: str) -> Path:
    """The file that belongs to a raster: '*' stands for the same as in the place's `rasters`."""
    name = Path(place.rasters).name
    if "*" in pattern and name.count("*") != 1:
        raise DataError(
            f"place {place.name}: {pattern} has a '*' for what the '*' of rasters stands for: "
            f"{place.rasters} needs exactly one"
        )
    before, _, after = name.partition("*")
    stem = file.name[len(before) : len(file.name) - len(after)]
    path = root / pattern.replace("*", stem)
    if not path.exists():
        raise DataError(f"place {place.name}: {path} does not exist ({file.name} needs it)")
    return path


def need_crs(frame: gpd.GeoDataFrame, grid: Grid, path: Path, file: Path) -> None:
    """Both without a CRS are taken to have the same coordinates."""
    if (frame.crs is None) != (grid.crs is None):
        which = path if frame.crs is None else file
        raise DataError(
            f"{which}: has no CRS, so vectors cannot be laid over the raster: assign the one that "
            "it was made in"
        )


def _fill(
    scene: Scene,
    place: PlaceConfig,
    file: Path,
    truth: Truth,
    config: DataConfig,
    root: Path,
    store: Store,
) -> tuple[Sheet, Labels | None]:
    grid = scene.grid
    labels, area = truth.labels(file, grid), truth.known(file, grid)
    shape = (grid.height, grid.width)
    image = store.new((len(scene.bands), *shape), scene.dtype)
    valid, label = store.new(shape, np.bool_), store.new(shape, np.uint8)
    for strip in strips(scene, labels, area):
        rows = slice(strip.window.row, strip.window.row_stop)
        image[:, rows], valid[rows], label[rows] = strip.image, strip.valid, strip.label
    block = block_pixels(config)
    parts = np.where(blocks_of(label, block) > 0, np.uint8(TRAIN), np.uint8(UNUSED))
    variants = tuple(
        _variant(beside(file, root, place, pattern), place, config, grid, store)
        for pattern in place.variants
    )
    sheet = Sheet(place.name, file.name, grid, image, valid, label, block, parts, variants)
    return sheet, labels


@dataclass(frozen=True, slots=True)
class Strip:
    """Some whole rows of a raster: image (C, h, W), valid (h, W), label (h, W), as in Sheet."""

    window: Window
    image: NDArray[Any]
    valid: NDArray[np.bool_]
    label: NDArray[np.uint8]


def strips(scene: Scene, labels: Labels | None, area: Labels | None) -> Iterator[Strip]:
    """A raster and its labels, from the top to the bottom, in moderate memory."""
    for window in bands_of_rows(scene.grid, len(scene.bands) * scene.dtype.itemsize):
        image, valid = scene.read(window)
        label = np.full(valid.shape, IGNORE, np.uint8)
        if labels is not None:
            known = valid if area is None else valid & (area.burn(window) > 0)
            label[known] = labels.burn(window)[known]
        yield Strip(window, image, valid, label)


def block_pixels(config: DataConfig) -> int:
    """Pixels along a block of the split."""
    return max(1, round(config.split.block / config.gsd))


def _variant(
    file: Path, place: PlaceConfig, config: DataConfig, grid: Grid, store: Store
) -> NDArray[Any]:
    with open_variant(file, place, config, grid) as scene:
        image = store.new((len(scene.bands), grid.height, grid.width), scene.dtype)
        for window in bands_of_rows(grid, len(scene.bands) * scene.dtype.itemsize):
            image[:, window.row : window.row_stop] = scene.read(window)[0]
        return image


def open_variant(file: Path, place: PlaceConfig, config: DataConfig, grid: Grid) -> Scene:
    """A raster that has to have the pixels of another."""
    scene = open_scene(file, place, config)
    if scene.grid != grid:
        scene.close()
        raise DataError(
            f"{file}: its pixels are not those of the raster it is a variant of: make it from that"
        )
    return scene


def bands_of_rows(grid: Grid, pixel_bytes: int, multiple: int = 1) -> Iterator[Window]:
    """Windows of whole rows, each a multiple of so many rows, that take moderate memory."""
    rows = max(1, _BAND // (grid.width * pixel_bytes * multiple)) * multiple
    for row in range(0, grid.height, rows):
        yield Window(row, 0, min(rows, grid.height - row), grid.width)
