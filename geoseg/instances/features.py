"""Finished objects to features on the map: one row per object, outlines on the pixel grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoseg.instances import masks as ops
from geoseg.jit import jit
from geoseg.predictions import Masks, Objects

if TYPE_CHECKING:
    import geopandas as gpd
    from affine import Affine
    from pyproj import CRS

SHEET = 1 << 24  # pixels of the picture in which masks are laid side by side to be outlined
_WIDE = 4096  # its least width


def features(
    objects: Objects,
    *,
    transform: Affine,
    crs: CRS | None,
    classes: Mapping[int, str],
    first_id: int = 1,
    to_crs: CRS | None = None,
    regularize_m: float | Mapping[str, float] = 0.0,
    simplify_m: float = 0.0,
    smooth_m: float = 0.0,
    min_area_m2: float = 0.0,
    min_width_m: float = 0.0,
    attributes: bool = False,
    unit_m: float = 1.0,
) -> gpd.GeoDataFrame:
    """One row per object, in `to_crs` or else `crs`; those under `min_area_m2` are left out, and
    those narrower than `min_width_m` (see geoseg.vectorize.attributes.mean_width).

    Columns: id (running from `first_id`), class, class_id, score, truncated (see
    geoseg.predictions.Objects), area_m2 and perimeter_m (on the ellipsoid, of the final outline),
    with `attributes` those of the shape in geoseg.vectorize.attributes, and keypoints (WKT in the
    same CRS) of a model that finds them. `regularize_m` (of all or by
    the name of the class, see geoseg.vectorize.regularize), `simplify_m` (the tolerance of
    Douglas and Peucker 1973) and `smooth_m` (of what is not regularized, see
    geoseg.vectorize.smooth) are in metres; each object is drawn by itself. Without a CRS `unit_m`
    says how many metres a unit of the coordinates is.
    """
    import geopandas as gpd
    import shapely

    from geoseg.vectorize.attributes import attributes as describe
    from geoseg.vectorize.attributes import large_enough
    from geoseg.vectorize.features import class_names, project, tolerances
    from geoseg.vectorize.measure import area_perimeter, metres_to_units
    from geoseg.vectorize.regularize import regular_shapes
    from geoseg.vectorize.smooth import smooth

    shapes = outlines(objects.masks, transform)
    names = class_names(objects.labels.astype(np.int32), classes)
    if crs is not None:
        unit_m = 1.0  # metres are what comes out
    by_class = tolerances(regularize_m, names) / unit_m
    if regularize_m:
        shapes = regular_shapes(shapes, by_class, crs=crs)
    if simplify_m > 0 or smooth_m > 0:
        middles = shapely.get_coordinates(shapely.centroid(shapes))
        metre = metres_to_units(1.0, crs, middles) / unit_m
    if simplify_m > 0:
        shapes = shapely.simplify(shapes, simplify_m * metre)
    if smooth_m > 0:
        shapes = smooth(shapes, np.where(by_class > 0, 0.0, smooth_m * metre))
    area, perimeter = area_perimeter(shapes, crs)
    area, perimeter = area * unit_m**2, perimeter * unit_m
    large = large_enough(area, perimeter, min_area_m2=min_area_m2, min_width_m=min_width_m)
    kept = np.flatnonzero(large)
    shapes, area, perimeter = shapes[kept], area[kept], perimeter[kept]
    more = describe(shapes, crs, area, perimeter, unit_m=unit_m) if attributes else {}
    if to_crs is not None and to_crs != crs:
        shapes = project(shapes, crs, to_crs)
    columns = {
        "id": np.arange(first_id, first_id + len(kept), dtype=np.int64),
        "class": names.iloc[kept].reset_index(drop=True),
        "class_id": objects.labels[kept].astype(np.int32),
        "score": objects.scores[kept],
        "truncated": objects.truncated[kept],
        "area_m2": area,
        "perimeter_m": perimeter,
        **more,
    }
    if objects.keypoints is not None:
        points = _points(objects.keypoints[kept], transform)
        if to_crs is not None and to_crs != crs:
            points = project(points, crs, to_crs)
        columns["keypoints"] = shapely.to_wkt(points)
    return gpd.GeoDataFrame(columns, geometry=shapely.orient_polygons(shapes), crs=to_crs or crs)


def outlines(masks: Masks, transform: Affine) -> NDArray[np.object_]:
    """(N,) polygons along the edges of pixels, MultiPolygons of masks in several pieces.

    The masks are laid side by side in one picture, so that one pass of the kernel outlines all.
    """
    import shapely

    from geoseg.vectorize.stream import Polygonizer, Polygons

    out = np.empty(len(masks), object)
    for rows in _sheets(masks):
        some = ops.take(masks, rows)
        places, shape = _shelves(some.windows[:, 2:])
        sheet = np.zeros(shape, np.int32)
        _lay(some.windows, some.pixels, some.starts, places, sheet)
        polygonizer = Polygonizer(shape[1])
        found = Polygons.concat([polygonizer.add(sheet), polygonizer.finish()])
        owner = found.label - 1  # of each polygon; it has one part, without connectivity 8
        of_vertex = np.repeat(np.repeat(owner, np.diff(found.parts)), np.diff(found.rings))
        shift = (some.windows[:, :2] - places)[:, ::-1]
        col, row = (found.coords + shift[of_vertex]).T.astype(np.float64)
        polygons = found.build(_on_map(col, row, transform))
        order = np.argsort(owner, kind="stable")
        polygons, owner = polygons[order], owner[order]
        pieces = np.bincount(owner, minlength=len(some))
        shapes = polygons[np.searchsorted(owner, np.arange(len(some)))]
        several = np.flatnonzero(pieces > 1)
        if len(several):
            number = np.cumsum(pieces > 1) - 1
            inside = pieces[owner] > 1
            shapes[several] = shapely.multipolygons(polygons[inside], indices=number[owner[inside]])
        out[rows] = shapes
    return out


def _sheets(masks: Masks) -> Iterator[NDArray[np.int64]]:
    """Indices of masks, as many together as fit a sheet."""
    sheet = np.cumsum(masks.windows[:, 2:].astype(np.int64).prod(1)) // SHEET
    for number in np.unique(sheet):
        yield np.flatnonzero(sheet == number)


def _shelves(sizes: NDArray[np.int32]) -> tuple[NDArray[np.int32], tuple[int, int]]:
    """(N, 2) row and column for boxes (N, 2) of height and width, and the shape that holds all.

    The tallest first, in rows: little is left empty.
    """
    wide = max(_WIDE, int(sizes[:, 1].max()))
    order = np.argsort(-sizes[:, 0], kind="stable")
    places = np.empty_like(sizes)
    row = col = tall = 0
    for i, (height, width) in zip(order, sizes[order].tolist(), strict=True):
        if col + width > wide:
            row, col, tall = row + tall, 0, 0
        places[i] = row, col
        col, tall = col + width, max(tall, height)
    return places, (row + tall, wide)


@jit
def _lay(windows, pixels, starts, places, sheet):  # type: ignore[no-untyped-def]
    for n in range(len(windows)):
        height, width = windows[n, 2], windows[n, 3]
        row, col = places[n]
        for r in range(height):
            for c in range(width):
                if pixels[starts[n] + r * width + c]:
                    sheet[row + r, col + c] = n + 1


def _on_map(col: Any, row: Any, transform: Affine) -> NDArray[np.float64]:
    """(V, 2) map coordinates of corners of pixels."""
    return np.column_stack(transform @ (col, row))


def _points(keypoints: NDArray[np.float32], transform: Affine) -> NDArray[np.object_]:
    """(N,) MultiPoints of (N, P, 3) columns, rows and scores."""
    import shapely

    n, count = keypoints.shape[:2]
    col, row = keypoints[..., :2].reshape(-1, 2).astype(np.float64).T
    points = shapely.points(_on_map(col, row, transform))
    return np.asarray(shapely.multipoints(points, indices=np.repeat(np.arange(n), count)))
