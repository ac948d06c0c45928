"""Truth on a raster's pixels: vector labels, burnt window by window; for rasters see masks.py.

What comes out is an index into the recipe's classes: 0 is the background (if there is one), then
the classes in their order; IGNORE where nothing is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from rasterio import Affine
from rasterio.features import rasterize

from geoseg.data.meaning import Meaning
from geoseg.errors import DataError
from geoseg.grid import Grid, Window

__all__ = ["Labels", "VectorLabels", "codes_of", "is_vector", "layers_of"]
__all__ += ["meets", "outside", "read_raw", "read_vector"]


class Labels(Protocol):
    """Truth on one grid."""

    def burn(self, window: Window) -> NDArray[np.uint8]:
        """(h, w) uint8 of a window inside the grid: label of the class, or IGNORE."""


class VectorLabels:
    """Polygons on a grid; where two overlap, the later one counts, as in GDAL.

    pixels, codes, rows: (N,) of those around the grid: geometry in its pixels, label, and index
    in the frame.
    """

    def __init__(self, frame: gpd.GeoDataFrame, codes: NDArray[np.uint8], grid: Grid) -> None:
        """codes: (len(frame),) uint8, label of each feature."""
        near = _near(frame, grid)
        shapes = frame.geometry.iloc[near]
        if grid.crs and frame.crs and grid.crs != frame.crs:
            shapes = _dense(shapes).to_crs(grid.crs)
        inverse = ~grid.transform
        pixels = shapely.transform(
            shapely.force_2d(shapes.to_numpy()),
            lambda xy: np.column_stack(inverse @ (xy[:, 0], xy[:, 1])),
        )
        finite = np.isfinite(shapely.bounds(pixels)).all(axis=1)  # others have no place in the CRS
        self.pixels, codes = pixels[finite], codes[near][finite]
        self.codes, self.rows, self.rest = codes, near[finite], 0
        self._tree = shapely.STRtree(self.pixels)

    def on(self, rest: int) -> VectorLabels:
        """The same with `rest` where no polygon is."""
        self.rest = rest
        return self

    def burn(self, window: Window) -> NDArray[np.uint8]:
        shape = (window.height, window.width)
        box = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
        hits = np.sort(self._tree.query(box, predicate="intersects"))
        if not len(hits) or not window.pixels:
            return np.full(shape, self.rest, np.uint8)
        pairs = [(self.pixels[i], int(self.codes[i])) for i in hits]
        origin = Affine.translation(window.col, window.row)
        burnt = rasterize(pairs, shape, fill=self.rest, transform=origin, dtype="uint8")
        return np.asarray(burnt, np.uint8)

    def shapes(self, window: Window) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """The polygons in a window, cut to it, in its pixels (x right, y down); their labels."""
        box = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
        hits = np.sort(self._tree.query(box, predicate="intersects"))
        parts = shapely.intersection(self.pixels[hits], box)
        moved = shapely.transform(parts, lambda xy: xy - (window.col, window.row))
        return moved, self.codes[hits]


def _near(frame: gpd.GeoDataFrame, grid: Grid) -> NDArray[np.intp]:
    """Indexes of the features around a grid, ascending: a place may have many small rasters."""
    t, (height, width) = grid.transform, (grid.height, grid.width)
    xs, ys = zip(*(t @ p for p in ((0, 0), (width, 0), (0, height), (width, height))), strict=True)
    box = min(xs), min(ys), max(xs), max(ys)
    if grid.crs and frame.crs and grid.crs != frame.crs:
        try:
            transformer = Transformer.from_crs(grid.crs, frame.crs, always_xy=True)
            box = transformer.transform_bounds(*box)
        except ProjError:
            return np.arange(len(frame))
    left, bottom, right, top = box
    if not (left <= right and bottom <= top and np.isfinite(box).all()):  # over the date line
        return np.arange(len(frame))
    more = 0.05 * max(right - left, top - bottom)
    around = shapely.box(left - more, bottom - more, right + more, top + more)
    near: NDArray[np.intp] = np.sort(frame.sindex.query(around))
    return near


def meets(pixels: NDArray[np.object_], grid: Grid) -> bool:
    """Whether any of the geometries, in pixels of the grid, lies on it."""
    return bool(shapely.intersects(pixels, shapely.box(0, 0, grid.width, grid.height)).any())


def outside(source: object, frame: gpd.GeoDataFrame, grid: Grid, scene: Path) -> str:
    """That a layer lies elsewhere, and where both are."""
    where = _extent(frame.total_bounds, frame.crs)
    corners = [grid.transform @ corner for corner in ((0, 0), (grid.width, grid.height))]
    there = _extent((*np.min(corners, axis=0), *np.max(corners, axis=0)), grid.crs)
    return f"{source}: lies outside of the scene {scene}: it is {where}, the scene {there}"


def _extent(bounds: Sequence[float], crs: CRS | None) -> str:
    left, bottom, right, top = bounds
    name = crs.name if crs else "no CRS"
    return f"{left:.8g} to {right:.8g}, {bottom:.8g} to {top:.8g} ({name})"


def _dense(shapes: gpd.GeoSeries) -> gpd.GeoSeries:
    """Long edges with more vertices, as straight lines become bent in another CRS."""
    if not len(shapes):
        return shapes
    left, bottom, right, top = shapes.total_bounds
    step = max(right - left, top - bottom) / 1024
    return shapes.segmentize(step) if step > 0 else shapes


def is_vector(path: Path) -> bool:
    """Whether GDAL reads the file as vectors; a mask raster otherwise."""
    return bool(layers_of(path))


def layers_of(path: Path) -> tuple[str, ...]:
    """The layers of a vector file that have geometry; none where GDAL sees no vectors."""
    try:
        layers = pyogrio.list_layers(path)
    except (DataSourceError, DataLayerError):
        return ()
    return tuple(str(name) for name, kind in layers if kind is not None)


def read_raw(path: Path, layer: str | None = None) -> gpd.GeoDataFrame:
    """All features of a vector file as they are; raises DataError."""
    if not path.exists():
        raise DataError(f"{path}: no such file of labels: check the path")
    layers = layers_of(path)
    if layer is None and len(layers) > 1:
        raise DataError(f"{path}: has the layers {', '.join(layers)}: say which one")
    try:
        frame = gpd.read_file(path, layer=layer or (layers[0] if layers else None))
    except (DataSourceError, DataLayerError, ValueError) as e:
        raise DataError(f"{path}: cannot be read as vectors ({e})") from e
    if not isinstance(frame, gpd.GeoDataFrame):
        raise DataError(f"{path}: has no geometry: give a layer of polygons")
    return frame


def read_vector(path: Path, layer: str | None = None) -> gpd.GeoDataFrame:
    """The features of a vector file, invalid polygons repaired, empty ones left out."""
    frame = _not_empty(read_raw(path, layer))
    shapes = frame.geometry.to_numpy()
    broken = ~shapely.is_valid(shapes)
    if not broken.any():
        return frame
    # Of this method nothing is left of a spike; the other would make it a line, to be burnt.
    mended = shapely.make_valid(shapes[broken], method="structure", keep_collapsed=False)
    shapes = shapes.copy()
    shapes[broken] = mended
    return _not_empty(frame.set_geometry(gpd.GeoSeries(shapes, index=frame.index, crs=frame.crs)))


def _not_empty(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    return frame[~(frame.geometry.is_empty | frame.geometry.isna())].reset_index(drop=True)


def codes_of(
    frame: gpd.GeoDataFrame, attribute: str | None, meaning: Meaning, path: Path
) -> NDArray[np.uint8]:
    """(len(frame),) uint8: label of each feature by its attribute."""
    if not len(frame):  # tiles without objects; their files often lack the attribute, too
        return np.empty(0, np.uint8)
    if attribute is None:
        if not meaning.anything:
            raise DataError(
                f"{path}: which attribute holds the class? name it (data.attribute, or --attribute)"
            )
        return np.ones(len(frame), np.uint8)
    if attribute not in frame.columns:
        there = ", ".join(c for c in frame.columns if c != frame.geometry.name)
        raise DataError(f"{path}: has no attribute {attribute!r}; there are: {there or 'none'}")
    return meaning.of(frame[attribute])
