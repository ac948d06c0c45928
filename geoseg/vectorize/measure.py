"""Areas and lengths on the ground, in any CRS.

A polygon out of a raster is small against the Earth. Around it the way from map to ground is
given by three numbers: how long a map unit along x and one along y are on the ellipsoid, and
the cosine of the angle between the two. They change slowly, so they are worked out at the nodes
of a lattice of about 10 km and taken as linear in a cell. They come from the distances in space
of points a little apart, which holds in every CRS and knows no trouble at poles or the date
line. Polygons too large for that, or where the map is not smooth, go to pyproj.Geod one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer

from geoseg.jit import jit

Float64 = NDArray[np.float64]
Geometries = NDArray[np.object_]

CELL_M = 10_000.0  # edge of a lattice cell if map units were true
LARGEST = 2  # cells: polygons that are longer go to Geod
ROUGH = 0.05  # so do those in cells across which a measure changes by more than this


def area_perimeter(geometries: Geometries, crs: CRS | None) -> tuple[Float64, Float64]:
    """Area (m²) and perimeter (m, with that of the holes) of (N,) polygons on the ellipsoid.

    Edges are taken as straight in the CRS. Without a CRS, or with one that is not tied to the
    Earth, both are planar, in map units (metres where the CRS says how long its unit is).
    """
    owner = np.flatnonzero(~shapely.is_empty(geometries))
    polygons = geometries if len(owner) == len(geometries) else geometries[owner]
    if (shapely.get_type_id(polygons) == shapely.GeometryType.MULTIPOLYGON).any():
        polygons, of_part = shapely.get_parts(polygons, return_index=True)
        owner = owner[of_part]
    if len(polygons) == 0:
        return np.zeros(len(geometries)), np.zeros(len(geometries))
    _, coords, (rings, parts) = shapely.to_ragged_array(polygons)
    areas, lengths = measure_rings(coords, rings, parts, crs)
    total = np.zeros((2, len(geometries)))
    np.add.at(total[0], owner, areas)
    np.add.at(total[1], owner, lengths)
    return total[0], total[1]


def measure_rings(
    coords: Float64, rings: NDArray[np.int64], parts: NDArray[np.int64], crs: CRS | None
) -> tuple[Float64, Float64]:
    """`area_perimeter` of P polygons as arrays: (V, 2) map coordinates, (R + 1,) offsets of the
    closed rings into them, (P + 1,) offsets of the polygons into the rings, exterior first.
    """
    areas, lengths, sizes = np.zeros((3, len(parts) - 1))
    if not len(areas):
        return areas, lengths
    ground = _ground(crs)
    cells, lattice = _lattice(coords[rings[parts[:-1]]], ground, _unit(crs))
    _measure(coords, rings, parts, cells, lattice, areas, lengths, sizes)
    if ground is not None:
        rough = np.isnan(lattice[cells, 1, 0])
        for p in np.flatnonzero(rough | (sizes > LARGEST * ground.cell)):
            lines = [coords[rings[r] : rings[r + 1]] for r in range(parts[p], parts[p + 1])]
            areas[p], lengths[p] = _geodesic(shapely.Polygon(lines[0], lines[1:]), ground)
    return areas, lengths


def metres_to_units(metres: float, crs: CRS | None, at: NDArray[Any]) -> Float64:
    """How many map units `metres` are around the (N, 2) map points `at`: (N,).

    Where a unit is not equally long along x and y (geographic CRS) this is the mean that keeps
    areas: a square of so many units has an area of metres².
    """
    ground = _ground(crs)
    if ground is None:
        return np.full(len(at), metres / _unit(crs))
    along_x, along_y, cosine = ground.measures(*np.asarray(at, np.float64).T)
    return np.asarray(metres / np.sqrt(along_x * along_y * np.sqrt(1 - cosine**2)))


def metric_frames(crs: CRS | None, at: Float64) -> Float64:
    """(N, 2, 2) matrices that make metres on the ground of steps on the map around (N, 2) points.

    NaN where the map is not defined.
    """
    ground = _ground(crs)
    if ground is None:
        return np.tile(np.eye(2) * _unit(crs), (len(at), 1, 1))
    along_x, along_y, cosine = ground.measures(*np.asarray(at, np.float64).T)
    frames = np.zeros((len(at), 2, 2))
    frames[:, 0, 0] = along_x
    frames[:, 0, 1] = along_y * cosine
    frames[:, 1, 1] = along_y * np.sqrt(1 - cosine**2)
    return frames


def pixel_area(crs: CRS | None, transform: Any, shape: tuple[int, int]) -> float:
    """Square metres of a pixel in the middle of a raster of (rows, columns).

    `transform` maps (column, row) to the map. Without a CRS its units are taken to be metres.
    """
    middle = transform @ (shape[1] / 2, shape[0] / 2)
    on_ground = np.linalg.det(metric_frames(crs, np.array([middle]))[0])
    return float(abs(transform.determinant * on_ground))


@dataclass(frozen=True)
class _Ground:
    """The way from a map to the ellipsoid."""

    to_geodetic: Transformer
    radians: float  # per unit of the geodetic CRS
    equator: float  # semi-major axis, metres
    eccentricity2: float
    cell: float  # edge of a lattice cell, map units

    def measures(self, x: Float64, y: Float64) -> Float64:
        """(3, N): metres per unit along x, along y, and the cosine of the angle between them."""
        step = self.cell / 20
        along_x = self._in_space(x + step, y) - self._in_space(x - step, y)
        along_y = self._in_space(x, y + step) - self._in_space(x, y - step)
        length_x, length_y = np.linalg.norm(along_x, axis=0), np.linalg.norm(along_y, axis=0)
        cosine = np.sum(along_x * along_y, axis=0) / (length_x * length_y)
        return np.stack((length_x / (2 * step), length_y / (2 * step), cosine))

    def _in_space(self, x: Float64, y: Float64) -> Float64:
        """(3, N) geocentric coordinates, metres."""
        lon, lat = np.asarray(self.to_geodetic.transform(x, y)) * self.radians
        lon[~np.isfinite(lon)] = lat[~np.isfinite(lat)] = np.nan
        normal = self.equator / np.sqrt(1 - self.eccentricity2 * np.sin(lat) ** 2)
        return np.stack(
            (
                normal * np.cos(lat) * np.cos(lon),
                normal * np.cos(lat) * np.sin(lon),
                normal * (1 - self.eccentricity2) * np.sin(lat),
            )
        )


@lru_cache(maxsize=64)
def _ground(crs: CRS | None) -> _Ground | None:
    """None for maps that are not tied to the Earth."""
    geodetic = crs.geodetic_crs if crs is not None else None
    if crs is None or geodetic is None or crs.ellipsoid is None:
        return None
    equator = crs.ellipsoid.semi_major_metre
    eccentricity2 = 1 - (crs.ellipsoid.semi_minor_metre / equator) ** 2
    return _Ground(
        to_geodetic=Transformer.from_crs(crs, geodetic, always_xy=True),
        radians=geodetic.axis_info[0].unit_conversion_factor,
        equator=equator,
        eccentricity2=eccentricity2,
        cell=CELL_M / (equator * _unit(crs) if crs.is_geographic else _unit(crs)),
    )


def _unit(crs: CRS | None) -> float:
    """Metres (radians for geographic CRS) that a map unit is said to be."""
    return float(crs.axis_info[0].unit_conversion_factor) if crs is not None else 1.0


def _lattice(
    points: Float64, ground: _Ground | None, unit: float
) -> tuple[NDArray[np.int64], Float64]:
    """The cells in which (N, 2) map points lie, and what is measured there.

    Returns the cell of each point (N,), and the cells (C, 4, 3): origin (x, y, 0), then for each
    of the three measures its value there and its change per unit of x and of y; NaN where the
    map is not smooth.
    """
    if ground is None:
        flat = np.zeros((1, 4, 3))
        flat[0, :3, 0] = points[0, 0], unit, unit
        return np.zeros(len(points), np.int64), flat
    edge = ground.cell
    index = np.floor(points / edge).astype(np.int64)
    first = index.min(axis=0)
    columns = np.ptp(index[:, 0]) + 1
    numbers, cell = np.unique((index - first) @ [1, columns], return_inverse=True)
    index = first + np.column_stack((numbers % columns, numbers // columns))
    corners = index[:, None] + np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
    nodes, node = np.unique(corners.reshape(-1, 2), axis=0, return_inverse=True)
    at = ground.measures(*(nodes * edge).T)[:, node.reshape(-1, 4)]  # (measure, cell, corner)
    lattice = np.zeros((len(index), 4, 3))
    lattice[:, 0, :2] = (index + 0.5) * edge
    lattice[:, 1:, 0] = at.mean(axis=2).T
    lattice[:, 1:, 1] = (at @ [-1, 1, -1, 1]).T / (2 * edge)
    lattice[:, 1:, 2] = (at @ [-1, -1, 1, 1]).T / (2 * edge)
    spread = np.ptp(at, axis=2)
    spread[:2] /= at[:2].mean(axis=2)
    lattice[~(spread < ROUGH).all(axis=0)] = np.nan
    return cell.reshape(-1), lattice


@jit
def _measure(
    coords: Float64,
    rings: NDArray[np.int64],
    parts: NDArray[np.int64],
    cell: NDArray[np.int64],
    lattice: Float64,
    areas: Float64,
    lengths: Float64,
    sizes: Float64,
) -> None:
    """Fill in the area, the length of all rings, and the longest side of the bounds."""
    for p in range(len(parts) - 1):
        origin, along_x, along_y, cosine = lattice[cell[p]]
        area = area_x = area_y = length = 0.0
        left = low = np.inf
        right = high = -np.inf
        for r in range(parts[p], parts[p + 1]):
            ring = ring_x = ring_y = 0.0
            x, y = coords[rings[r]] - origin[:2]
            for k in range(rings[r] + 1, rings[r + 1]):
                x0, y0 = x, y
                x, y = coords[k, 0] - origin[0], coords[k, 1] - origin[1]
                left, right = min(left, x), max(right, x)
                low, high = min(low, y), max(high, y)
                cross = x0 * y - x * y0
                ring += cross
                ring_x += cross * (x0 + x)
                ring_y += cross * (y0 + y)
                mid_x, mid_y = (x0 + x) / 2, (y0 + y) / 2
                dx = (x - x0) * (along_x[0] + along_x[1] * mid_x + along_x[2] * mid_y)
                dy = (y - y0) * (along_y[0] + along_y[1] * mid_x + along_y[2] * mid_y)
                c = cosine[0] + cosine[1] * mid_x + cosine[2] * mid_y
                length += np.sqrt(dx * dx + 2 * c * dx * dy + dy * dy)
            sign = 1 if (ring > 0) == (r == parts[p]) else -1  # holes take away, either way round
            area += sign * ring / 2
            area_x += sign * ring_x / 6
            area_y += sign * ring_y / 6
        if area > 0:
            x, y = area_x / area, area_y / area
            x_unit = along_x[0] + along_x[1] * x + along_x[2] * y
            y_unit = along_y[0] + along_y[1] * x + along_y[2] * y
            c = cosine[0] + cosine[1] * x + cosine[2] * y
            areas[p] = area * x_unit * y_unit * np.sqrt(1 - c * c)
        lengths[p] = length
        sizes[p] = max(right - left, high - low)


def _geodesic(polygon: shapely.Polygon, ground: _Ground) -> tuple[float, float]:
    """The same by pyproj.Geod: edges are cut so finely that geodesics follow them."""
    geod = Geod(a=ground.equator, es=ground.eccentricity2)

    def on_earth(xy: Float64) -> Float64:
        return np.degrees(np.column_stack(ground.to_geodetic.transform(*xy.T)) * ground.radians)

    fine = shapely.segmentize(shapely.orient_polygons(polygon), ground.cell / 10)
    fine = shapely.transform(fine, on_earth)
    return abs(geod.geometry_area_perimeter(fine)[0]), geod.geometry_length(fine.boundary)
