"""Where a scene lies, as GeoJSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from pyproj import Transformer

from geoseg.grid import Grid

_POINTS = 8  # of each edge: straight lines do not stay straight
_DIGITS = 7  # of degrees: a centimetre


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
