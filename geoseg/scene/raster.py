"""Windows of the chosen bands on the file's own grid, and where they have data."""

from __future__ import annotations

from typing import Any

import numpy as np
import rasterio.windows
from numpy.typing import NDArray
from rasterio.enums import MaskFlags

from geoseg.errors import UsageError
from geoseg.grid import Grid, Window
from geoseg.scene.bands import BandChoice
from geoseg.scene.files import configured, is_remote, patiently, reading, settings, shown


class Raster:
    """An open dataset, its chosen bands, and how it says where it has data.

    grid:     the file's own pixels.
    dtype:    of what `read` returns.
    nodata:   one value per chosen band, None where a band has none.
    validity: 'nodata', 'alpha', 'mask' or 'all': by what the file tells where it has data.
    """

    def __init__(
        self,
        dataset: Any,
        grid: Grid,
        choice: BandChoice,
        *,
        source: str,
        nodata: float | None = None,
        warped: bool = False,
    ) -> None:
        self.dataset, self.grid, self.choice, self.source = dataset, grid, choice, source
        flags = dataset.mask_flag_enums[choice.indexes[0] - 1]
        alpha = [i for i, c in enumerate(dataset.colorinterp, 1) if c.name == "alpha"]
        self._alpha = alpha[0] if MaskFlags.alpha in flags and alpha else None
        self._mask = not (
            self._alpha or MaskFlags.all_valid in flags or flags == [MaskFlags.nodata]
        )
        self.dtype = _common_dtype(dataset, choice)
        declared = [dataset.nodatavals[i - 1] for i in choice.indexes]
        if self._alpha or self._mask:
            declared = [None] * len(declared)  # GDAL's order: a mask stands above nodata
        values = declared if nodata is None else [nodata] * len(declared)
        file_dtypes = [np.dtype(dataset.dtypes[i - 1]) for i in choice.indexes]
        self.nodata = tuple(_representable(v, d) for v, d in zip(values, file_dtypes, strict=True))
        kinds = [("alpha", self._alpha), ("mask", self._mask), ("nodata", any(_given(self.nodata)))]
        self.validity = " and ".join(name for name, there in kinds if there) or "all"
        self._colours = _colours(dataset) if choice.palette is not None else None
        # Every chosen band once: gray may stand for three.
        self._bands = list(dict.fromkeys(choice.indexes))
        self._take = [self._bands.index(i) for i in choice.indexes]
        block = dataset.block_shapes[0]
        row = min(block[0], grid.height) * grid.width * dataset.count * self.dtype.itemsize
        self._settings, self._remote = settings(source, row, warped=warped), is_remote(source)

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(C, h, w) values and (h, w) validity of a window inside the grid.

        Values that are not finite are 0; other pixels without data keep the file's values.
        """
        bands = [*self._bands, *([self._alpha] if self._alpha else [])]
        box = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        # The settings belong to a thread, and this may be another one than that which opened.
        with reading(self.source, window.row, window.row_stop), configured(self._settings):
            raw, valid = patiently(lambda: self._raw(bands, box), remote=self._remote)
        if self._alpha:
            valid, raw = raw[-1] > 0, raw[:-1]
        if self._take != list(range(len(raw))):
            raw = raw[self._take]
        valid = self._with_nodata(raw, valid)
        if self._colours is not None and self.choice.palette is not None:
            entries = np.minimum(raw[0], len(self._colours) - 1)
            valid &= self._colours[entries, 3] > 0
            raw = np.stack([self._colours[:, c][entries] for c in self.choice.palette])
        elif raw.dtype.kind == "f":
            valid = _finite(raw, valid)
        return raw.astype(self.dtype, copy=False), valid

    def _raw(
        self, bands: list[int], box: rasterio.windows.Window
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """(C, h, w) values and, where the file has a mask, (h, w) validity by it."""
        values = self._values(bands, box)
        if not self._mask:
            return values, None
        return values, self.dataset.read_masks(self._bands[0], window=box) > 0

    def _values(self, bands: list[int], box: rasterio.windows.Window) -> NDArray[Any]:
        if len({self.dataset.dtypes[i - 1] for i in bands}) == 1:
            values: NDArray[Any] = self.dataset.read(bands, window=box)
            return values
        # A VRT may mix dtypes, which rasterio does not read together.
        return np.stack([self.dataset.read(i, window=box).astype(self.dtype) for i in bands])

    def _with_nodata(self, raw: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        """Valid where any band is not its nodata value; a band without one is always valid."""
        if not all(_given(self.nodata)):
            return np.ones(raw.shape[1:], np.bool_) if valid is None else valid
        has = np.zeros(raw.shape[1:], np.bool_)
        for band, value in zip(raw, self.nodata, strict=True):
            has |= ~np.isnan(band) if value != value else np.not_equal(band, value)
        return has if valid is None else has & valid


def _given(values: tuple[Any, ...]) -> list[bool]:
    return [v is not None for v in values]


def _finite(raw: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Validity less the pixels where any band is NaN or infinite; these become 0 in `raw`."""
    finite = np.isfinite(raw).all(axis=0)
    if finite.all():
        return valid
    raw[:, ~finite] = 0
    both: NDArray[np.bool_] = valid & finite
    return both


def check_nodata(dataset: Any, choice: BandChoice, value: float) -> None:
    """Refuse a nodata value of the user's that a chosen band cannot hold: it would hit nothing."""
    for dtype in dict.fromkeys(np.dtype(dataset.dtypes[i - 1]) for i in choice.indexes):
        held = _representable(value, dtype)
        if held is None or (np.isfinite(value) and not np.isfinite(held)):
            info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
            kind = "numbers" if dtype.kind == "f" else "whole numbers"
            raise UsageError(
                f"nodata: {value:.10g} is no value of {dtype}, in which {shown(dataset.name)} is "
                f"stored: it holds {kind} from {info.min} to {info.max}"
            )


def _representable(value: float | None, dtype: np.dtype[Any]) -> Any:
    """The nodata value as the band can hold it; None if it can hold no such value."""
    if value is None:
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # the lowest double, declared for floats: -inf then
            return dtype.type(value)
    if not float(value).is_integer():
        return None
    info = np.iinfo(dtype)
    return dtype.type(int(value)) if info.min <= int(value) <= info.max else None


def _common_dtype(dataset: Any, choice: BandChoice) -> np.dtype[Any]:
    """The dtype that holds all chosen bands, as rasterio reads them together."""
    if choice.palette is not None:
        return np.dtype(np.uint8)
    return np.result_type(*(np.dtype(dataset.dtypes[i - 1]) for i in choice.indexes))


def _colours(dataset: Any) -> NDArray[np.uint8]:
    """(n, 4) the palette: red, green, blue, alpha."""
    table = dataset.colormap(1)
    colours = np.zeros((max(table) + 1, 4), np.uint8)
    for index, colour in table.items():
        colours[index] = colour
    return colours
