"""Ground sample distance: metres per pixel in any CRS, and the grid at another one."""

from __future__ import annotations

import math

import numpy as np
from affine import Affine
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from geoseg.grid import Grid

NEAR = 0.01  # a ratio of pixel sizes closer to 1 than this is not worth resampling
_SLIVER = 1e-3  # of a pixel: what a grid may lose at its lower and right border to rounding


def ground_sample_distance(grid: Grid) -> tuple[float, float] | None:
    """Metres per pixel (x along the columns, y along the rows) at the centre of the grid.

    Geodesic on the CRS's own ellipsoid, so right for degrees, feet, and EPSG:3857 far from the
    equator. None where there is no CRS, or one that is not tied to a planet (local, engineering).
    Raises ValueError where the grid lies nowhere on the planet.
    """
    geodetic = grid.crs.geodetic_crs if grid.crs else None
    if grid.crs is None or geodetic is None:
        return None
    row, col = grid.height / 2, grid.width / 2
    steps = [(col - 0.5, row), (col + 0.5, row), (col, row - 0.5), (col, row + 0.5)]
    xs, ys = zip(*(grid.transform @ step for step in steps), strict=True)
    lon, lat = _lonlat(grid.crs, geodetic, xs, ys)
    geod: Geod = geodetic.get_geod() or Geod(ellps="WGS84")
    _, _, metres = geod.inv(lon[[0, 2]], lat[[0, 2]], lon[[1, 3]], lat[[1, 3]])
    if not (np.isfinite(metres).all() and min(metres) > 0):
        raise ValueError("no place on the planet")
    return float(metres[0]), float(metres[1])


def _lonlat(
    crs: CRS, geodetic: CRS, xs: tuple[float, ...], ys: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    try:
        lon, lat = Transformer.from_crs(crs, geodetic, always_xy=True).transform(xs, ys)
    except ProjError as e:
        raise ValueError(str(e)) from e
    to_degrees = math.degrees(geodetic.axis_info[0].unit_conversion_factor or math.radians(1))
    lon, lat = np.asarray(lon) * to_degrees, np.asarray(lat) * to_degrees
    # Half a pixel beyond the pole happens in global rasters; hundreds of degrees do not.
    if not (np.isfinite(lon).all() and np.isfinite(lat).all() and (np.abs(lat) < 100).all()):
        raise ValueError("no place on the planet")
    return lon, np.clip(lat, -90, 90)


def at_gsd(native: Grid, pixel: tuple[float, float], gsd: float) -> Grid:
    """The grid over the same ground with pixels of `gsd` metres; `pixel` is (x, y) of `native`.

    Only the pixel's size changes: origin and axes stay, so rotated and south-up rasters keep
    their orientation. Sizes are rounded up: nothing is lost, the last row and column may reach
    beyond the file.
    """
    fx, fy = gsd / pixel[0], gsd / pixel[1]
    if abs(fx - 1) < NEAR and abs(fy - 1) < NEAR:
        return native
    return Grid(
        crs=native.crs,
        transform=native.transform @ Affine.scale(fx, fy),
        height=max(1, math.ceil(native.height / fy - _SLIVER)),
        width=max(1, math.ceil(native.width / fx - _SLIVER)),
    )
