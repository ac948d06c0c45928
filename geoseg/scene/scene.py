"""Scene: an open raster on a grid at the model's ground sample distance."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from geoseg.errors import SceneError, UsageError
from geoseg.grid import Grid, Window
from geoseg.scene.bands import BandChoice, choose_bands
from geoseg.scene.files import (
    configured,
    georeferenced,
    open_dataset,
    pyproj_crs,
    quiet,
    settings,
    shown,
)
from geoseg.scene.gsd import at_gsd, ground_sample_distance
from geoseg.scene.raster import Raster, check_nodata
from geoseg.scene.resample import Method, resample, weights
from geoseg.spec import Band

_CHUNK = 4 << 20  # bytes of native pixels that are resampled at a time
_SMALLEST, _LARGEST = 1e-6, 1e6  # metres: pixels of any image


class Scene:
    """An open raster; use it in one thread at a time, and as a context manager.

    source:   the path or URL, as messages show it.
    grid:     the pixels that `read` returns, at the model's GSD; all tiles are on it.
    native:   the pixels of the file (or of its warped view: control points, RPCs).
    gsd:      (x, y) metres per native pixel; None where the file does not tell.
    warnings: what the user should know, a sentence each.
    """

    def __init__(
        self,
        raster: Raster,
        grid: Grid,
        gsd: tuple[float, float] | None,
        warnings: Sequence[str],
        close: ExitStack,
    ) -> None:
        self.raster, self.grid, self.native = raster, grid, raster.grid
        self.gsd, self.warnings, self._close = gsd, tuple(warnings), close

    @classmethod
    def open(
        cls,
        source: str | os.PathLike[str],
        *,
        bands: Sequence[int | str | Band] | None = None,
        gsd: float | None = None,
        nodata: float | None = None,
        scene_gsd: float | None = None,
    ) -> Scene:
        """Open any raster that GDAL reads, or raise SceneError.

        bands: see `choose_bands`; None = all but alpha. gsd: metres per pixel to read at;
        None = the file's own. nodata: overrides what the file declares (masks and alpha stay).
        scene_gsd: metres per pixel of the file, where its georeference is missing or wrong.
        """
        for name, value in (("gsd", gsd), ("scene_gsd (--gsd)", scene_gsd)):
            if value is not None and not _SMALLEST <= value <= _LARGEST:
                raise UsageError(
                    f"{name}: pixels must be from {_SMALLEST:g} to {_LARGEST:g} metres large, "
                    f"not {value}"
                )
        name = os.fspath(source)
        with ExitStack() as stack:
            dataset = stack.enter_context(open_dataset(name))
            raster, notes = _raster(dataset, name, bands, nodata, stack)
            pixel = _pixel(raster.grid, name, scene_gsd)
            if note := _no_place(raster.grid.crs, pixel):
                notes.append(note)
            grid = raster.grid if pixel is None or gsd is None else at_gsd(raster.grid, pixel, gsd)
            return cls(raster, grid, pixel, notes, stack.pop_all())
        raise AssertionError("unreachable: an ExitStack without callbacks swallows nothing")

    @property
    def source(self) -> str:
        return shown(self.raster.source)

    @property
    def crs(self) -> CRS | None:
        return self.grid.crs

    @property
    def bands(self) -> tuple[int, ...]:
        """1-based indexes in the file, in the order of `read`."""
        return self.raster.choice.indexes

    @property
    def band_names(self) -> tuple[str, ...]:
        return self.raster.choice.names

    @property
    def choice(self) -> BandChoice:
        return self.raster.choice

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.raster.dtype

    @property
    def nodata(self) -> tuple[Any, ...]:
        """One value per band, None where a band has none."""
        return self.raster.nodata

    @property
    def georeferenced(self) -> bool:
        return self.grid.crs is not None

    @property
    def resampled(self) -> bool:
        return self.grid != self.native

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(C, h, w) values in the scene's dtype and (h, w) validity of a window of `grid`.

        A window may reach beyond the grid: 0 and not valid there. Where the file has no data,
        the values are the file's own (0 if not finite, or resampled).
        """
        inside = window.intersection(self.grid.window)
        if inside == window and not self.resampled and inside.pixels:
            return self.raster.read(window)
        shape = (window.height, window.width)
        data = np.zeros((len(self.bands), *shape), self.dtype)
        valid = np.zeros(shape, np.bool_)
        for part in self._chunks(inside):
            rows, cols = part.slices(window)
            data[:, rows, cols], valid[rows, cols] = (
                self._resampled(part) if self.resampled else self.raster.read(part)
            )
        return data, valid

    def _chunks(self, window: Window) -> list[Window]:
        """Bands of rows of `window` that need little memory while they are resampled."""
        if not window.pixels:
            return []
        if not self.resampled:
            return [window]
        fy, fx = self.native.height / self.grid.height, self.native.width / self.grid.width
        row = max(fy * fx, 1) * window.width * len(self.bands) * self.dtype.itemsize
        step = max(1, min(int(_CHUNK / row), window.height))
        return [
            Window(r, window.col, min(step, window.row_stop - r), window.width)
            for r in range(window.row, window.row_stop, step)
        ]

    def _resampled(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        # Pixel sizes differ by the same factor as the columns of the two transforms.
        method: Method = "nearest" if self._classes else "mean"
        scale = ~self.native.transform @ self.grid.transform
        rows = weights(window.row, window.row_stop, scale.e, self.native.height, method)
        cols = weights(window.col, window.col_stop, scale.a, self.native.width, method)
        source = Window(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)
        data, valid = self.raster.read(source)
        return resample(data, valid, rows, cols, (source.row, source.col))

    @property
    def _classes(self) -> bool:
        """Numbers of a palette are names, not quantities: no mean of them makes sense."""
        first = self.raster.dataset.colorinterp[self.bands[0] - 1].name
        return first == "palette" and self.choice.palette is None

    def close(self) -> None:
        self._close.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Scene({self.source!r}, {self.grid.width} x {self.grid.height}, {self.band_names})"


def _raster(
    dataset: Any,
    source: str,
    bands: Sequence[int | str | Band] | None,
    nodata: float | None,
    stack: ExitStack,
) -> tuple[Raster, list[str]]:
    """The chosen bands on the file's own grid, and notes on how they came about."""
    choice = choose_bands(dataset, bands)  # of the file: a warped view forgets names
    if nodata is not None:
        check_nodata(dataset, choice, nodata)
    with quiet(), configured(settings(source)):
        view, crs, transform, note = stack.enter_context(georeferenced(dataset, source, nodata))
    if transform.is_degenerate:
        raise SceneError(f"{shown(source)}: its pixels have no size: correct its geotransform")
    grid = Grid(pyproj_crs(crs, source), transform, view.height, view.width)
    warped = view is not dataset
    raster = Raster(
        view, grid, choice, source=source, nodata=None if warped else nodata, warped=warped
    )
    return raster, [n for n in (note, *choice.notes) if n]


def _pixel(grid: Grid, source: str, scene_gsd: float | None) -> tuple[float, float] | None:
    """(x, y) metres per pixel: as the user says, else as the georeference says."""
    if scene_gsd is not None:
        return scene_gsd, scene_gsd
    try:
        return ground_sample_distance(grid)
    except ValueError as e:
        x, y = grid.transform @ (grid.width / 2, grid.height / 2)
        raise SceneError(
            f"{shown(source)}: its centre ({x:.6g}, {y:.6g}) lies outside of its CRS "
            f"({grid.crs.name if grid.crs else 'none'}): correct the georeference"
        ) from e


def _no_place(crs: CRS | None, pixel: tuple[float, float] | None) -> str | None:
    """What to say of a scene that lies nowhere on a planet, or whose pixel size is not known."""
    if crs is not None and pixel is not None:
        return None
    what = "has no CRS" if crs is None else f"its CRS ({crs.name}) is tied to no place"
    size = "" if pixel else ", taken to be as large as the model's (if they are not, give --gsd)"
    return f"{what}: coordinates are those of the file{size}"
