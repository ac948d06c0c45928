"""Truth on a raster's pixels: mask rasters, of numbers or of colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as Box

from geoseg.data.config import Value
from geoseg.data.meaning import Meaning
from geoseg.errors import DataError
from geoseg.grid import Grid, Window
from geoseg.metrics import IGNORE
from geoseg.scene.files import quiet

_ROWS = 512  # that are looked at together
_MOST = 1000  # values of a mask: with more it is a picture


class MaskLabels:
    """A raster of class numbers or colours; the nearest pixel counts.

    Both with a CRS: laid over each other by it. Else the mask must show the same ground as the
    raster, and only the number of pixels may differ.
    """

    def __init__(self, path: Path, meaning: Meaning, grid: Grid) -> None:
        self.path, self.meaning, self.grid = path, meaning, grid
        with _open(path) as mask:
            self._by_place = mask.crs is not None and grid.crs is not None
            ratio = (mask.width / mask.height) / (grid.width / grid.height)
            if not self._by_place and abs(ratio - 1) > 0.02:
                raise DataError(
                    f"{path}: {mask.width} x {mask.height} pixels cannot lie on a raster of "
                    f"{grid.width} x {grid.height}: give both a CRS, or the same shape"
                )

    def burn(self, window: Window) -> NDArray[np.uint8]:
        pixels, known = self.read(window)
        return np.where(known, self.meaning.of_pixels(pixels), np.uint8(IGNORE))

    def unknown(self, window: Window) -> Counter[str]:
        """How many pixels have a value that is no class, nor 0 where that is the background."""
        pixels, known = self.read(window)
        values, keys = self.meaning.keyed(pixels)
        if self.meaning.anything:
            return Counter()
        meant = [*keys, *([0] if self.meaning.rest == 0 else [])]
        found, counts = np.unique(values[known & ~np.isin(values, meant)], return_counts=True)
        colours = self.meaning.colours and len(pixels) >= 3
        names = (f"#{v:06x}" if colours else f"{v:g}" for v in found)
        return Counter(dict(zip(names, map(int, counts), strict=True)))

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The mask's bands (or the colours of its palette), and where it has data."""
        with _open(self.path) as mask:
            read = self._warped if self._by_place else self._plain
            try:
                pixels, known = read(mask, window)
            except RasterioError as e:
                raise DataError(
                    f"{self.path}: cannot be read: it is truncated or damaged; get it anew"
                ) from e
            if mask.count == 1 and self.meaning.colours:
                pixels = _painted(mask, pixels)
        return pixels, known

    def _warped(self, mask: Any, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        g = self.grid
        with WarpedVRT(
            mask,
            crs=g.crs,
            transform=g.transform,
            width=g.width,
            height=g.height,
            resampling=Resampling.nearest,
            add_alpha=mask.nodata is None and ColorInterp.alpha not in mask.colorinterp,
        ) as vrt:
            box = Box(window.col, window.row, window.width, window.height)
            bands = list(range(1, min(mask.count, 3) + 1))
            return vrt.read(bands, window=box), vrt.dataset_mask(window=box) > 0

    def _plain(self, mask: Any, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        rows = _nearest(window.row, window.row_stop, mask.height / self.grid.height, mask.height)
        cols = _nearest(window.col, window.col_stop, mask.width / self.grid.width, mask.width)
        box = Box(cols[0], rows[0], cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1)
        pick = np.ix_(rows - rows[0], cols - cols[0])
        bands = list(range(1, min(mask.count, 3) + 1))
        known = mask.dataset_mask(window=box) > 0
        return mask.read(bands, window=box)[:, *pick], known[pick]


def _painted(mask: Any, pixels: NDArray[Any]) -> NDArray[Any]:
    """(3, h, w) colours of a mask with a palette, from its indices (1, h, w)."""
    try:
        table = mask.colormap(1)
    except ValueError:  # it has none
        return pixels
    palette = np.zeros((max(table) + 1, 3), np.uint8)
    for index, colour in table.items():
        palette[index] = colour[:3]
    painted: NDArray[Any] = palette[pixels[0]].transpose(2, 0, 1)
    return painted


def _nearest(start: int, stop: int, factor: float, length: int) -> NDArray[np.intp]:
    index = np.floor((np.arange(start, stop) + 0.5) * factor).astype(np.intp)
    clipped: NDArray[np.intp] = np.clip(index, 0, length - 1)
    return clipped


def _open(path: Path) -> Any:
    try:
        with quiet():
            return rasterio.open(path)
    except RasterioIOError as e:
        raise DataError(f"{path}: cannot be read, neither as vectors nor as a mask ({e})") from e


def values_of_masks(masks: Iterable[MaskLabels]) -> list[Value]:
    """All values on the masks' grids: numbers, or colours '#rrggbb', in order; raises DataError."""
    numbers: set[int] = set()
    colours: set[int] = set()  # 0xrrggbb
    for mask in masks:
        for window in _pieces(mask.grid):
            pixels, known = mask.read(window)
            if len(pixels) < 3:
                numbers |= {int(v) for v in np.unique(pixels[0][known]) if v == v}
            else:
                red, green, blue = pixels[:, known].astype(np.int32)
                colours |= set(np.unique(red * 65536 + green * 256 + blue).tolist())
            if len(numbers) + len(colours) > _MOST:
                raise DataError(
                    f"{mask.path}: has more than {_MOST} values, so it is no mask of classes (was "
                    "it saved as JPEG?)"
                )
    if all(v == v % 256 * 0x010101 for v in colours):  # numbers, saved as gray
        return sorted(numbers | {v % 256 for v in colours})
    return [*sorted(numbers), *(f"#{v:06x}" for v in sorted(colours))]


def _pieces(grid: Grid) -> Iterator[Window]:
    for row in range(0, grid.height, _ROWS):
        yield Window(row, 0, min(_ROWS, grid.height - row), grid.width)
