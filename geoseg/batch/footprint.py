"""Where a scene lies, as GeoJSON; and where it has data."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from pyproj import Transformer

from geoseg.grid import Grid
from geoseg.predictions import Chip

_POINTS = 8  # of each edge: straight lines do not stay straight
_DIGITS = 7  # of degrees: a centimetre
_CELLS = 512  # along the longer side of a scene: as finely its data are outlined
_SPECK = 16  # cells: smaller holes are none


def footprint(grid: Grid) -> dict[str, Any] | None:
    """The outline of a grid as a GeoJSON Polygon in longitude and latitude, counterclockwise.

    None where the grid has no CRS, or its outline cannot be brought there (beyond a pole).
    """
    if grid.crs is None:
        return None
    t = np.arange(_POINTS) / _POINTS
    one, zero = np.ones(_POINTS), np.zeros(_POINTS)
    cols = np.concatenate([zero, t, one, 1 - t]) * grid.width  # down, right, up, left
    rows = np.concatenate([t, one, 1 - t, zero]) * grid.height
    a = grid.transform
    x, y = a.a * cols + a.b * rows + a.c, a.d * cols + a.e * rows + a.f
    lon, lat = Transformer.from_crs(grid.crs, "OGC:CRS84", always_xy=True).transform(x, y)
    ring = np.stack([lon, lat], axis=1)
    if not np.isfinite(ring).all():
        return None
    if (lon * np.roll(lat, -1) - np.roll(lon, -1) * lat).sum() < 0:  # south-up, mirrored
        ring = ring[::-1]
    ring = np.vstack([ring, ring[:1]]).round(_DIGITS)
    return {"type": "Polygon", "coordinates": [ring.tolist()]}


def outline(grid: Grid) -> shapely.Polygon:
    """The four edges of a grid, in its own CRS."""
    corners = [(0, 0), (0, grid.height), (grid.width, grid.height), (grid.width, 0)]
    polygon: shapely.Polygon = shapely.Polygon([grid.transform @ corner for corner in corners])
    return polygon


class Coverage:
    """Learns from the chips of a scene where it has data: call it with each of them.

    Pixels are counted in square cells, at most 512 along a side, whatever the scene's size; the
    `counts` of parts of a scene may be added up.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._cell = -(-max(grid.height, grid.width) // _CELLS)
        shape = -(-grid.height // self._cell), -(-grid.width // self._cell)
        self.counts = np.zeros(shape, np.int64)

    def __call__(self, chip: Chip) -> None:
        own = chip.tile.write.intersection(self._grid.window)
        valid = chip.valid[own.slices(chip.tile.read)]
        rows = np.arange(own.row, own.row_stop) // self._cell
        cols = np.arange(own.col, own.col_stop) // self._cell
        sums = np.add.reduceat(valid, np.flatnonzero(np.diff(rows, prepend=-1)), 0, np.int64)
        sums = np.add.reduceat(sums, np.flatnonzero(np.diff(cols, prepend=-1)), 1)
        self.counts[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] += sums

    def outline(self, native: Grid) -> Any:
        """(Multi)Polygon in the scene's CRS around what has data, by half of each cell.

        native: the scene's own grid, whose edges it then has, also where pixels were resampled.
        """
        grid, cell = self._grid, self._cell
        shape = grid.height, grid.width
        high, wide = (np.diff(np.append(np.arange(0, n, cell), n)) for n in shape)
        full = 2 * self.counts >= np.outer(high, wide)
        edges = outline(native)
        if full.all():
            return edges
        from geoseg.vectorize import Polygonizer, Polygons

        polygonizer = Polygonizer(full.shape[1])
        found = Polygons.concat([polygonizer.add(full.astype(np.int32)), polygonizer.finish()])
        corners = np.minimum(found.coords * cell, shape[::-1]).astype(np.float64)
        on_map: Any = grid.transform @ (corners[:, 0], corners[:, 1])  # type: ignore[operator]
        polygons = found.build(np.column_stack(on_map))
        side = cell * float(np.sqrt(abs(grid.transform.determinant)))
        whole = shapely.union_all(_without_specks(polygons, _SPECK * side**2))
        parts = shapely.get_parts(
            shapely.intersection(shapely.simplify(whole, side), edges)  # steps of slanted edges
        )
        areal = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
        return shapely.union_all(parts[areal])


def _without_specks(polygons: Any, area: float) -> list[shapely.Polygon]:
    """Without small holes, where there are a few clouds or dark pixels."""
    return [
        shapely.Polygon(p.exterior, [r for r in p.interiors if shapely.Polygon(r).area >= area])
        for p in polygons
    ]
