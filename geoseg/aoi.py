"""Area of interest: polygons in any CRS, asked about in pixels of a grid."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely.geometry.base import BaseGeometry

from geoseg.errors import AoiError, OutsideError
from geoseg.grid import Grid, Window

Box = tuple[float, float, float, float]  # left, bottom, right, top
Read = Callable[[Window], tuple[NDArray[Any], NDArray[np.bool_]]]  # values and validity

_STEPS = 1024  # an edge is cut into pieces of this part of the area before it is reprojected
_BLOCK = (256, 2048)  # rows and columns that are looked at a time


class Aoi:
    """The area of interest on one grid.

    source: the file's name, as messages show it.
    pixels: the area as one (multi)polygon in pixel coordinates (x = column, y = row), cut to
            the grid.
    """

    def __init__(self, pixels: BaseGeometry, grid: Grid, source: str) -> None:
        self.source, self.pixels, self.grid = source, pixels, grid
        self._parts = shapely.get_parts(pixels)
        self._tree = shapely.STRtree(self._parts)

    @classmethod
    def open(
        cls, area: str | os.PathLike[str] | BaseGeometry | gpd.GeoDataFrame | Box, grid: Grid
    ) -> Aoi:
        """Read a vector file; or take a GeoDataFrame, or what is in the grid's own CRS: a
        geometry, or bounds (left, bottom, right, top)."""
        if isinstance(area, tuple):
            name, shapes = "bounds", gpd.GeoSeries([shapely.box(*area)], crs=grid.crs)
        elif isinstance(area, BaseGeometry):
            name, shapes = "the area of interest", gpd.GeoSeries([area], crs=grid.crs)
        elif isinstance(area, gpd.GeoDataFrame):
            name, shapes = "the area of interest", area.geometry
        else:
            name = os.fspath(area)
            shapes = _read(name)
        polygon = _polygon(shapes, name)
        if grid.crs is not None:
            if shapes.crs is None:
                raise AoiError(
                    f"{name}: has no CRS, but the scene has one ({grid.crs.name}): assign the "
                    "right one (ogr2ogr -a_srs)"
                )
            polygon = _reproject(polygon, shapes.crs, grid, name)
        pixels = _affine(polygon, ~grid.transform)
        cut = _clip(pixels, (0, 0, grid.width, grid.height))
        if cut.is_empty:
            raise _outside(name, polygon.bounds, _outline(grid).bounds, grid.crs)
        aoi = cls(cut, grid, name)
        if not any(aoi._burn(block).any() for block in aoi._blocks()):
            raise OutsideError(
                f"{name}: covers no pixel of the scene: no pixel's centre lies in it (it is "
                f"{_extent(polygon.bounds)}); draw it larger"
            )
        return aoi

    def intersects(self, window: Window) -> bool:
        """Whether any of the area lies in the window; a common border alone does not count."""
        box = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
        hits = self._parts[self._tree.query(box, predicate="intersects")]
        return bool(len(hits) and not shapely.touches(hits, box).all())

    def mask(self, row_start: int, row_stop: int) -> NDArray[np.bool_]:
        """(h, W) of these rows of the grid: True where a pixel's centre is in the area."""
        return self._burn(Window(row_start, 0, row_stop - row_start, self.grid.width))

    def has_data(self, read: Read) -> bool:
        """Whether any pixel of the area is valid; reads blocks of the area until one is."""
        wanted = ((block, self._burn(block)) for block in self._blocks())
        return any((mask & read(block)[1]).any() for block, mask in wanted if mask.any())

    def _burn(self, window: Window) -> NDArray[np.bool_]:
        """(h, w) of a window: True where a pixel's centre is in the area."""
        shape = (window.height, window.width)
        box = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
        parts = self._parts[self._tree.query(box, predicate="intersects")]
        if not len(parts) or not window.pixels:
            return np.zeros(shape, np.bool_)
        origin = Affine.translation(window.col, window.row)
        burnt = rasterio.features.rasterize(
            parts, out_shape=shape, transform=origin, dtype=np.uint8
        )
        return np.asarray(burnt, np.bool_)

    def _blocks(self) -> Iterator[Window]:
        """Blocks over the area's extent; its bands of rows are shuffled, to see all of it soon."""
        left, top, right, bottom = self.pixels.bounds
        bands = _cuts(math.floor(top), math.ceil(bottom), _BLOCK[0])
        for i in np.random.default_rng(0).permutation(len(bands)):
            for col, width in _cuts(math.floor(left), math.ceil(right), _BLOCK[1]):
                yield Window(bands[i][0], col, bands[i][1], width)


def _cuts(start: int, stop: int, step: int) -> list[tuple[int, int]]:
    """(start, length) of pieces of at most `step`."""
    return [(at, min(step, stop - at)) for at in range(start, stop, step)]


def _read(name: str) -> gpd.GeoSeries:
    remote = "://" in name or name.startswith("/vsi")
    if not remote and not Path(name).exists():
        raise AoiError(f"{name}: no such file: check the path")
    try:
        frame = pyogrio.read_dataframe(name, columns=[], use_arrow=False)
    except (DataSourceError, DataLayerError, OSError, ValueError) as e:
        raise AoiError(
            f"{name}: is not a vector file that GDAL can read: give a GPKG, GeoJSON, Shapefile ..."
        ) from e
    if not isinstance(frame, gpd.GeoDataFrame):
        raise AoiError(f"{name}: has no geometry: give a layer of polygons")
    return frame.geometry


def _polygon(shapes: gpd.GeoSeries, name: str) -> BaseGeometry:
    """All polygons of a layer as one valid geometry."""
    there = shapes[~(shapes.isna() | shapes.is_empty)]
    if there.empty:
        what = "has no features" if shapes.empty else "has features without geometry only"
        raise AoiError(f"{name}: {what}: draw at least one polygon")
    flat = shapely.force_2d(there.to_numpy())
    if not np.isin(shapely.get_type_id(flat), (3, 6, 7)).any():
        kinds = ", ".join(sorted({g.geom_type for g in flat}))
        raise AoiError(f"{name}: holds no polygons but {kinds}: draw polygons, or buffer them")
    if not np.isfinite(shapely.get_coordinates(flat)).all():
        raise AoiError(f"{name}: has coordinates that are not finite: repair its geometry")
    repaired = np.where(shapely.is_valid(flat), flat, shapely.make_valid(flat))
    whole = _polygons(shapely.union_all([_polygons(g) for g in repaired]))
    if whole.is_empty or not whole.area > 0:
        raise AoiError(f"{name}: its polygons are invalid and enclose no area: draw them anew")
    return whole


def _reproject(polygon: BaseGeometry, crs: CRS, grid: Grid, name: str) -> BaseGeometry:
    """In the grid's CRS; edges are densified first, for straight lines do not stay straight."""
    if grid.crs is None or crs == grid.crs:
        return polygon
    near = _around(grid, grid.crs, crs)
    if near:  # what is far away may lie where the scene's projection is not defined
        whole, polygon = polygon, _clip(polygon, near)
        if polygon.is_empty:
            raise _outside(name, whole.bounds, near, crs)
    left, bottom, right, top = polygon.bounds
    fine = shapely.segmentize(polygon, max(right - left, top - bottom) / _STEPS)
    moved = gpd.GeoSeries([fine], crs=crs).to_crs(grid.crs).iloc[0]
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise AoiError(
            f"{name}: cannot be brought into the scene's CRS ({grid.crs.name}): its extent is "
            f"{_extent(polygon.bounds)}; is its own CRS ({crs.name}) right?"
        )
    return _polygons(shapely.make_valid(moved))


def _around(grid: Grid, crs: CRS, target: CRS) -> Box | None:
    """The scene's bounds in another CRS, a tenth wider; None where they cannot be told."""
    try:
        move = Transformer.from_crs(crs, target, always_xy=True)
        left, bottom, right, top = move.transform_bounds(*_outline(grid).bounds)
    except ProjError:
        return None
    if not (np.isfinite((left, bottom, right, top)).all() and left < right):
        return None  # beyond the projection, or over the antimeridian
    x, y = (right - left) / 10, (top - bottom) / 10
    return left - x, bottom - y, right + x, top + y


def _outside(name: str, area: Box, scene: Box, crs: CRS | None) -> OutsideError:
    return OutsideError(
        f"{name}: lies outside of the scene: the area is {_extent(area)}, the scene "
        f"{_extent(scene)} ({crs.name if crs else 'pixels'})"
    )


def _outline(grid: Grid) -> BaseGeometry:
    return _affine(shapely.box(0, 0, grid.width, grid.height), grid.transform)


def _clip(geometry: BaseGeometry, box: Box) -> BaseGeometry:
    return _polygons(shapely.make_valid(shapely.clip_by_rect(geometry, *box)))


def _polygons(geometry: BaseGeometry) -> BaseGeometry:
    """The polygons of a geometry; lines and points, which repairs leave over, dropped."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.MultiPolygon([p for p in parts if p.geom_type == "Polygon" and not p.is_empty])


def _affine(geometry: BaseGeometry, transform: Affine) -> BaseGeometry:
    return shapely.transform(
        geometry,
        lambda xy: np.column_stack(transform @ (xy[:, 0], xy[:, 1])),
    )


def _extent(box: Box) -> str:
    left, bottom, right, top = box
    return f"{left:.8g} to {right:.8g}, {bottom:.8g} to {top:.8g}"
