"""Labels with a class for the line between objects, so that a semantic model learns to part them.

A model that has such a class cuts objects that touch where the line is seen (`predict --boundary`);
three classes (ground, building, line) are the usual way in the SpaceNet challenges.
"""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from geoseg.errors import DataError, UsageError


def bordered(
    frame: gpd.GeoDataFrame,
    width_m: float,
    *,
    attribute: str = "class",
    name: str = "object",
    border: str = "boundary",
) -> gpd.GeoDataFrame:
    """Polygons without a strip of `width_m` metres along their outline, then these strips.

    The column `attribute` holds the class: what it says already, or else `name`; and `border` for
    the strips, which come last, so that they are never burnt over. Objects so narrow that nothing
    would remain of them stay as they are, without a strip. Widths are on the ground, in any CRS.
    """
    if not 0 < width_m < np.inf:
        raise UsageError(f"width: {width_m} is no width of a border in metres")
    if frame.crs is None:
        raise DataError("the labels have no CRS: how wide a metre is on them is not known")
    if attribute not in frame.columns:
        frame = frame.assign(**{attribute: name})
    area = shapely.get_dimensions(frame.geometry.to_numpy()) == 2
    frame = frame[area & ~frame.geometry.is_empty].reset_index(drop=True)
    if frame.empty:
        raise DataError("the labels have no polygons")
    metric = frame.to_crs(frame.estimate_utm_crs())
    whole = shapely.make_valid(metric.geometry.to_numpy())
    inner = shapely.buffer(whole, -width_m, join_style="mitre")
    strip = shapely.difference(whole, inner)
    narrow = shapely.is_empty(inner)
    inside = metric.set_geometry(np.where(narrow, whole, inner), crs=metric.crs)
    strips = metric.set_geometry(strip, crs=metric.crs)[~narrow].assign(**{attribute: border})
    both = gpd.GeoDataFrame(pd.concat([inside, strips], ignore_index=True), crs=metric.crs)
    return both.to_crs(frame.crs)
