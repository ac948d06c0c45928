"""Polygons on the pixel grid to features on the map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    from affine import Affine
    from pyproj import CRS

    from geoseg.vectorize.stream import Polygons

Float64 = NDArray[np.float64]


def features(
    polygons: Polygons,
    *,
    transform: Affine,
    crs: CRS | None,
    classes: Mapping[int, str],
    to_crs: CRS | None = None,
    regularize_m: float | Mapping[str, float] = 0.0,
    simplify_m: float = 0.0,
    smooth_m: float = 0.0,
    min_area_m2: float = 0.0,
    min_width_m: float = 0.0,
    attributes: bool = False,
    unit_m: float = 1.0,
) -> gpd.GeoDataFrame:
    """One row per polygon, exteriors counter-clockwise, in `to_crs` or else `crs`.

    Columns: class (str, the name in `classes`, or the number where it has none), class_id,
    confidence (mean over the pixels) and confidence_min (both of the pixels outlined, NaN if
    none was given), area_m2 and perimeter_m (on the ellipsoid, of the final geometry), geometry;
    with `attributes` also those of attributes.py. Without a CRS `unit_m` says how many metres a
    unit of the coordinates is.

    `regularize_m` (metres, of all or by the name of the class, see regularize.py), `simplify_m`
    (metres, see `simplify`) and then `smooth_m` (metres, see `smooth`; classes that are
    regularized keep their corners) keep neighbours without gaps if the polygons come from a
    Polygonizer with whole_clusters, and `to_crs` if from one with junctions. Polygons that are
    smaller than `min_area_m2` after that are left out, as are slivers: those narrower than
    `min_width_m`, by the rectangle of the same area and perimeter (`mean_width`).
    """
    import geopandas as gpd
    import shapely

    from geoseg.vectorize.attributes import attributes as describe
    from geoseg.vectorize.attributes import large_enough
    from geoseg.vectorize.measure import area_perimeter, measure_rings, metres_to_units
    from geoseg.vectorize.regularize import regular_shapes
    from geoseg.vectorize.simplify import simplify
    from geoseg.vectorize.smooth import smooth

    coords = polygons.map_coords(transform)
    geometries = polygons.build(coords)
    if crs is not None:
        unit_m = 1.0  # metres are what comes out
    redrawn = bool(regularize_m) or simplify_m > 0 or smooth_m > 0
    by_class = tolerances(regularize_m, class_names(polygons.label, classes)) / unit_m
    if regularize_m:
        geometries = regular_shapes(geometries, by_class, crs=crs, groups=polygons.cluster)
    if simplify_m > 0 or smooth_m > 0:
        metre = metres_to_units(1.0, crs, _cluster_points(polygons, transform)) / unit_m
    if simplify_m > 0:
        geometries = simplify(geometries, simplify_m * metre, groups=polygons.cluster)
    if smooth_m > 0:
        own = np.where(by_class > 0, 0.0, smooth_m * metre)
        geometries = smooth(geometries, own, groups=polygons.cluster)
    if redrawn:
        area, perimeter = area_perimeter(geometries, crs)
    else:
        of_parts = measure_rings(coords, polygons.rings, polygons.parts, crs)
        area, perimeter = (polygons.sum_parts(values) for values in of_parts)
    area, perimeter = area * unit_m**2, perimeter * unit_m
    keep = large_enough(area, perimeter, min_area_m2=min_area_m2, min_width_m=min_width_m)
    geometries, label = geometries[keep], polygons.label[keep]
    area, perimeter = area[keep], perimeter[keep]
    more = {}
    if attributes:
        more["confidence_std"] = polygons.confidence_std[keep]
        more |= describe(geometries, crs, area, perimeter, unit_m=unit_m)
    if to_crs is not None and to_crs != crs:
        geometries = project(geometries, crs, to_crs)
    if redrawn or to_crs is not None or transform.determinant > 0:
        geometries = shapely.orient_polygons(geometries)
    return gpd.GeoDataFrame(
        {
            "class": class_names(label, classes),
            "class_id": label,
            "confidence": polygons.confidence_mean[keep],
            "confidence_min": polygons.confidence_min[keep],
            "area_m2": area,
            "perimeter_m": perimeter,
            **more,
        },
        geometry=geometries,
        crs=to_crs or crs,
    )


def project(geometries: NDArray[np.object_], crs: CRS | None, to_crs: CRS) -> NDArray[np.object_]:
    """Geometries of one CRS in another, vertex by vertex.

    One that crosses the date line goes on beyond 180 degrees, in one piece, instead of jumping
    around the world.
    """
    import shapely
    from pyproj import Transformer

    if crs is None:
        raise ValueError("polygons without a CRS cannot be brought to another one")
    transformer = Transformer.from_crs(crs, to_crs, always_xy=True)
    points, owner = shapely.get_coordinates(geometries, return_index=True)
    x, y = transformer.transform(*points.T)
    world = around_the_world(to_crs)
    if world is not None and len(x):
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        span = np.maximum.reduceat(x, first) - np.minimum.reduceat(x, first)
        jumps = (span > world / 2)[np.cumsum(np.diff(owner, prepend=-1) > 0) - 1]
        x = np.where(jumps & (x < 0), x + world, x)
    return np.asarray(shapely.set_coordinates(geometries.copy(), np.column_stack([x, y])))


def around_the_world(crs: CRS) -> float | None:
    """Length of the equator in the units of a CRS on which east and west meet; None for others."""
    if crs.is_geographic:
        radians: float = crs.axis_info[0].unit_conversion_factor
        return 2 * np.pi / radians
    return 2 * np.pi * 6_378_137 if crs.to_epsg() == 3857 else None


def class_names(label: NDArray[np.int32], classes: Mapping[int, str]) -> pd.Series[str]:
    """(N,) The names of class ids; the number where there is none."""
    import pandas as pd

    ids, index = np.unique(label, return_inverse=True)
    names = np.array([str(classes.get(i, i)) for i in ids.tolist()], dtype=object)
    return pd.Series(names[index], dtype="str")


def tolerances(metres: float | Mapping[str, float], names: pd.Series[str]) -> Float64:
    """(N,) metres for each of the (N,) classes; 0 for those that are not named."""
    if isinstance(metres, Mapping):
        return np.array([metres.get(name, 0.0) for name in names], np.float64)
    return np.full(len(names), metres, np.float64)


def _cluster_points(polygons: Polygons, transform: Affine) -> Float64:
    """(N, 2) for each polygon the middle of its cluster on the map."""
    if len(polygons) == 0:
        return np.empty((0, 2))
    first = np.flatnonzero(np.diff(polygons.cluster, prepend=polygons.cluster[0] - 1))
    low = np.minimum.reduceat(polygons.bbox[:, :2], first)
    high = np.maximum.reduceat(polygons.bbox[:, 2:], first)
    col, row = np.repeat((low + high) / 2, np.diff(first, append=len(polygons)), axis=0).T
    return np.column_stack(transform @ (col, row))
