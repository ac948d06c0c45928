"""Rasters of class numbers from any tool, and probabilities beside them, by bands of rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.vrt import WarpedVRT

from geoseg.errors import SceneError
from geoseg.grid import Grid, Window
from geoseg.scene.legend import class_names
from geoseg.scene.scene import Scene

BAND_BYTES = 2 << 20  # that a band of rows has: little is held, and the processor's cache holds it
LOWEST, HIGHEST = -(2**31) + 16, 2**31 - 1  # numbers that a class may have; some below are in use

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]


class ClassRaster:
    """An open raster whose one band holds a whole number for each pixel: its class.

    names: class number -> name, where the file tells (see legend.py).
    """

    def __init__(self, scene: Scene) -> None:
        self.scene, self.grid, self.source = scene, scene.grid, scene.source
        self.names = class_names(scene.raster.dataset, scene.raster.source, scene.bands[0])

    @classmethod
    @contextmanager
    def open(
        cls,
        source: str | os.PathLike[str],
        *,
        band: int | None = None,
        nodata: float | None = None,
        gsd: float | None = None,
    ) -> Iterator[ClassRaster]:
        """Open any raster of whole numbers; `band` counts from 1, the others as in Scene.open."""
        bands = None if band is None else [band]
        with Scene.open(source, bands=bands, nodata=nodata, scene_gsd=gsd) as scene:
            if len(scene.bands) > 1:
                listed = ", ".join(map(str, scene.bands[:12]))
                raise SceneError(
                    f"{scene.source}: has the bands {listed}: say with band which one holds the "
                    "classes (a picture in colours holds none)"
                )
            if scene.dtype.kind not in "iu":
                raise SceneError(
                    f"{scene.source}: holds {scene.dtype} numbers, not classes: make whole numbers "
                    "of them first (gdal_translate -ot Int32), or classes by a threshold"
                )
            _must_not_be_warped(scene)
            yield cls(scene)

    def read(self, window: Window) -> tuple[NDArray[Any], Bool]:
        """(h, W) class numbers in a window, and (h, W) where there is data."""
        data, valid = self.scene.read(window)
        if data.dtype.itemsize >= 4:
            self._check(np.where(valid, data[0], 0))
        return data[0], valid

    def _check(self, labels: NDArray[Any]) -> None:
        low, high = int(labels.min()), int(labels.max())
        worst = low if low < LOWEST else high
        if not LOWEST <= worst <= HIGHEST:
            raise SceneError(
                f"{self.source}: has the value {worst}, and classes are from {LOWEST} to {HIGHEST}:"
                " number them anew, or say with nodata that this is none"
            )


class Probabilities:
    """Probabilities on the grid of a ClassRaster: a band for each class, or one for all.

    names: of the bands, as the file describes them.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene, self.source, self.names = scene, scene.source, scene.band_names
        dataset = scene.raster.dataset
        self._scale, self._offset = (
            np.array([values[i - 1] for i in scene.bands], np.float32)[:, None, None]
            for values in (dataset.scales, dataset.offsets)
        )

    @classmethod
    @contextmanager
    def open(cls, source: str | os.PathLike[str], grid: Grid) -> Iterator[Probabilities]:
        """Open the raster of probabilities; it must lie on `grid`, pixel on pixel."""
        with Scene.open(source) as scene:
            _must_not_be_warped(scene)
            _must_agree(scene, grid)
            dataset = scene.raster.dataset
            for i in scene.bands:
                if np.dtype(dataset.dtypes[i - 1]).kind != "f" and dataset.scales[i - 1] == 1:
                    raise SceneError(
                        f"{scene.source}: holds {dataset.dtypes[i - 1]} numbers without a scale "
                        "that makes probabilities of them: set it (gdal_edit -scale 0.01 for "
                        "percent)"
                    )
            yield cls(scene)

    def read(self, window: Window) -> Float32:
        """(K, h, W) probabilities 0..1 in a window; 0 where there is no data."""
        data, valid = self._scene.read(window)
        scores: Float32 = data.astype(np.float32) * self._scale + self._offset
        scores[:, ~valid] = 0
        low, high = float(scores.min()), float(scores.max())
        if low < -1e-4 or high > 1 + 1e-4:
            raise SceneError(
                f"{self.source}: has values from {low:.6g} to {high:.6g} in the rows "
                f"{window.row} to {window.row_stop - 1}; probabilities are from 0 to 1"
            )
        return np.clip(scores, 0, 1)


def row_windows(scene: Scene, *, extra: int = 0) -> list[Window]:
    """Windows of full width from the top; whole rows of blocks, unless these are very large.

    extra: bytes that a pixel needs beside its own.
    """
    grid, raster = scene.grid, scene.raster
    block = min(raster.dataset.block_shapes[raster.choice.indexes[0] - 1][0], grid.height)
    rows = BAND_BYTES // (grid.width * (scene.dtype.itemsize + extra))
    height = rows // block * block if rows >= block else max(rows, min(block, 64))
    return [
        Window(top, 0, min(height, grid.height - top), grid.width)
        for top in range(0, grid.height, height)
    ]


def _must_not_be_warped(scene: Scene) -> None:
    if isinstance(scene.raster.dataset, WarpedVRT):
        raise SceneError(
            f"{scene.source}: is placed by control points or RPCs, and classes cannot be mixed: "
            "warp it first (gdalwarp -r near)"
        )


def _must_agree(scene: Scene, grid: Grid) -> None:
    own = scene.grid
    if (own.height, own.width) != (grid.height, grid.width):
        raise SceneError(
            f"{scene.source}: has {own.width} x {own.height} pixels, the classes {grid.width} x "
            f"{grid.height}: both must lie on the same grid (gdalwarp -te ... -ts ...)"
        )
    if own.crs is None or grid.crs is None:
        return
    corners = [(0, 0), (grid.width, 0), (0, grid.height)]
    off = max(
        abs(a - b)
        for corner in corners
        for a, b in zip(~grid.transform @ (own.transform @ corner), corner, strict=True)
    )
    if own.crs != grid.crs or off > 0.1:
        raise SceneError(
            f"{scene.source}: does not lie where the classes lie: both must have one grid and CRS "
            "(gdalwarp -t_srs ... -te ... -ts ...)"
        )
