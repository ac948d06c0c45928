"""All polygons of a class made one feature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from geoseg.vectorize.attributes import attributes

if TYPE_CHECKING:
    import geopandas as gpd


def dissolve(frame: gpd.GeoDataFrame, *, unit_m: float = 1.0) -> gpd.GeoDataFrame:
    """One MultiPolygon per class of a frame of `features`, in the order of the class numbers.

    Area and perimeter are sums, the confidence is that of all pixels (polygons count by their
    area). Other columns are those of the whole.
    """
    import geopandas as gpd

    rows: list[dict[str, Any]] = []
    for number, group in frame.groupby("class_id", sort=True):
        area = group["area_m2"].to_numpy()
        weight = area / area.sum() if area.sum() > 0 else np.full(len(area), 1 / len(area))
        means = group["confidence"].to_numpy(np.float64)
        mean = float(np.sum(weight * means))
        row = {
            "class": group["class"].iloc[0],
            "class_id": np.int32(number),
            "confidence": np.float32(mean),
            "confidence_min": group["confidence_min"].min(),
            "area_m2": area.sum(),
            "perimeter_m": group["perimeter_m"].sum(),
            "geometry": _one(group.geometry.to_numpy()),
        }
        if "confidence_std" in group:
            squares = group["confidence_std"].to_numpy(np.float64) ** 2 + means**2
            variance = float(np.sum(weight * squares)) - mean**2
            row["confidence_std"] = np.float32(np.sqrt(np.maximum(variance, 0)))
        rows.append(row)
    if not rows:
        return frame
    whole = gpd.GeoDataFrame(rows, geometry="geometry", crs=frame.crs)
    if "compactness" in frame:
        shapes, areas = whole.geometry.to_numpy(), whole["area_m2"].to_numpy()
        more = attributes(shapes, frame.crs, areas, whole["perimeter_m"].to_numpy(), unit_m=unit_m)
        whole = whole.assign(**more)
    return whole[frame.columns].astype(frame.drop(columns="geometry").dtypes)


def _one(geometries: Any) -> shapely.MultiPolygon:
    """A MultiPolygon of polygons; those that have an edge in common (cut objects) are joined."""
    whole = shapely.multipolygons(shapely.get_parts(geometries))
    if not shapely.is_valid(whole):
        whole = shapely.union_all(geometries)
        parts = shapely.get_parts(whole)
        whole = shapely.multipolygons(parts[shapely.get_dimensions(parts) == 2])
    return shapely.orient_polygons(whole)
