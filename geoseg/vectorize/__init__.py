"""Polygons out of rows of labels.

    kernel      compiled: runs of labels -> corners, linked into rings while rows pass
    stream      Polygonizer: bands of rows in, Polygons (arrays on the pixel grid) out
    simplify    fewer vertices, boundaries of neighbours still shared
    measure     area and perimeter on the ellipsoid, in any CRS
    features    Polygons -> GeoDataFrame on the map

Outlines follow the pixels exactly: the area of a class is its number of pixels. A polygon leaves
as soon as the rows have passed it (with whole_clusters: it and all that touch it), so memory
is what unfinished polygons need, and results do not depend on how the rows came.
`vectorize` does it all for an array.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoseg.vectorize.features import features

if TYPE_CHECKING:
    import geopandas as gpd
    from affine import Affine

    from geoseg.vectorize.stream import Polygonizer as Polygonizer
    from geoseg.vectorize.stream import Polygons as Polygons

__all__ = ["Polygonizer", "Polygons", "features", "vectorize"]

BAND = 512  # rows at a time


def __getattr__(name: str) -> Any:
    if name not in __all__:  # the two that need the compiler
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("geoseg.vectorize.stream"), name)


def vectorize(
    mask: NDArray[Any],
    confidence: NDArray[np.floating[Any]] | None = None,
    *,
    transform: Affine | None = None,
    crs: Any = None,
    classes: Mapping[int, str] | None = None,
    connectivity: int = 4,
    simplify_m: float = 0.0,
    min_area_m2: float = 0.0,
    nodata: int | None = 0,
) -> gpd.GeoDataFrame:
    """Polygons of the connected pixels of equal value in a (H, W) array of integers.

    Pixels that are 0, `nodata`, or masked (numpy.ma) have no polygons. `confidence` (H, W) gives
    the columns confidence and confidence_min. `transform` (affine, (col, row) to map) and `crs`
    (whatever pyproj takes) say where the pixels lie; `classes` maps values to names. For
    `connectivity` see Polygonizer, for the columns and the other options `features`.
    """
    from affine import Affine
    from pyproj import CRS

    from geoseg.vectorize.stream import Polygonizer, Polygons

    mask = np.ma.filled(mask, 0)
    if mask.ndim != 2:
        raise ValueError(f"the mask must be (rows, columns), not {mask.shape}")
    polygonizer = Polygonizer(
        mask.shape[1], connectivity=connectivity, whole_clusters=simplify_m > 0
    )
    batches = []
    for top in range(0, len(mask), BAND):
        labels = mask[top : top + BAND]
        if nodata:
            labels = np.where(labels == nodata, 0, labels).astype(mask.dtype)
        scores = None if confidence is None else confidence[top : top + BAND]
        batches.append(polygonizer.add(labels, scores))
    batches.append(polygonizer.finish())
    return features(
        Polygons.concat(batches),
        transform=Affine.identity() if transform is None else transform,
        crs=None if crs is None else CRS.from_user_input(crs),
        classes=classes or {},
        simplify_m=simplify_m,
        min_area_m2=min_area_m2,
    )
