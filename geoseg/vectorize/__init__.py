"""Polygons out of rows of labels.

    kernel      compiled: runs of labels -> corners, linked into rings while rows pass
    contour     where outlines cross between pixels, by the probability
    stream      Polygonizer: bands of rows in, Polygons (arrays on the pixel grid) out
    regularize/ straight outlines with right angles, and circles
    simplify    fewer vertices, boundaries of neighbours still shared
    smooth      corners rounded off, boundaries of neighbours still shared; coverage for both
    measure     area and perimeter on the ellipsoid, in any CRS
    sieve       small regions and holes, out of the rows before they are outlined
    attributes  what else is told of a polygon; dissolve: all of a class made one
    features    Polygons -> GeoDataFrame on the map

Outlines follow the pixels exactly: the area of a class is its number of pixels. Or they are the
contours of the probability at the decision level, of the same polygons. A polygon leaves
as soon as the rows have passed it (with whole_clusters: it and all that touch it), so memory
is what unfinished polygons need, and results do not depend on how the rows came.
`vectorize` does it all for an array.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from geoseg.vectorize.features import features

if TYPE_CHECKING:
    import geopandas as gpd
    from affine import Affine

    from geoseg.vectorize.contour import Edges
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
    regularize_m: float | Mapping[str, float] = 0.0,
    simplify_m: float = 0.0,
    smooth_m: float = 0.0,
    min_area_m2: float = 0.0,
    min_width_m: float = 0.0,
    sieve_m2: float = 0.0,
    fill_holes_m2: float = 0.0,
    dissolve: bool = False,
    attributes: bool = False,
    nodata: int | None = 0,
    outline: Literal["pixel", "contour"] = "pixel",
    scores: NDArray[np.floating[Any]] | None = None,
    ids: Sequence[int] | None = None,
    threshold: float = 0.5,
) -> gpd.GeoDataFrame:
    """Polygons of the connected pixels of equal value in a (H, W) array of integers.

    Pixels that are 0, `nodata`, or masked (numpy.ma) have no polygons. `confidence` (H, W) gives
    the columns confidence and confidence_min. `transform` (affine, (col, row) to map) and `crs`
    (whatever pyproj takes) say where the pixels lie; `classes` maps values to names. For
    `connectivity` see Polygonizer, for the columns and the other options `features`.

    With `sieve_m2` regions smaller than that take the class around them, with `fill_holes_m2`
    such holes are filled (see sieve.py; the confidence of pixels stays what it was). With
    `dissolve` there is one MultiPolygon for each value.

    `outline="contour"` makes outlines smooth: they cross between the pixels where the probability
    does. `scores` are that of the only class, (H, W), and `threshold` where it ends; or (K, H, W),
    one per class, whose values in the mask are `ids`, by default 0 to K - 1, as of argmax.
    """
    from affine import Affine
    from pyproj import CRS

    from geoseg.vectorize.dissolve import dissolve as one_per_class
    from geoseg.vectorize.measure import pixel_area
    from geoseg.vectorize.stream import Polygonizer, Polygons

    hidden = np.ma.getmaskarray(mask) if np.ma.isMaskedArray(mask) else None
    mask = np.ma.filled(mask, 0)
    if mask.ndim != 2:
        raise ValueError(f"the mask must be (rows, columns), not {mask.shape}")
    if outline not in ("pixel", "contour"):
        raise ValueError(f"outline is pixel or contour, not {outline!r}")
    contours = outline == "contour"
    transform = Affine.identity() if transform is None else transform
    crs = None if crs is None else CRS.from_user_input(crs)
    if sieve_m2 > 0 or fill_holes_m2 > 0:
        pixel = pixel_area(crs, transform, mask.shape)
        mask = _cleaned(mask, hidden, nodata, sieve_m2 / pixel, fill_holes_m2 / pixel)
    polygonizer = Polygonizer(
        mask.shape[1],
        connectivity=connectivity,
        whole_clusters=simplify_m > 0 or smooth_m > 0 or bool(regularize_m),
        contours=contours,
    )
    edges = _edges(mask, hidden, scores, ids, threshold, nodata) if contours else None
    batches = []
    for top in range(0, len(mask), BAND):
        labels = mask[top : top + BAND]
        if nodata:
            labels = np.where(labels == nodata, 0, labels).astype(mask.dtype)
        own = None if confidence is None else confidence[top : top + BAND]
        batches.append(polygonizer.add(labels, own, next(edges) if edges else None))
    batches.append(polygonizer.finish())
    frame = features(
        Polygons.concat(batches),
        transform=transform,
        crs=crs,
        classes=classes or {},
        regularize_m=regularize_m,
        simplify_m=simplify_m,
        smooth_m=smooth_m,
        min_area_m2=min_area_m2,
        min_width_m=min_width_m,
        attributes=attributes,
    )
    return one_per_class(frame) if dissolve else frame


def _cleaned(
    mask: NDArray[Any],
    hidden: NDArray[np.bool_] | None,
    nodata: int | None,
    sieve: float,
    holes: float,
) -> NDArray[Any]:
    """The mask without small regions and holes; these are in pixels."""
    from geoseg.vectorize.sieve import Cleaner

    known = np.ones(mask.shape, np.bool_) if hidden is None else ~hidden
    if nodata:
        known &= mask != nodata
    cleaner = Cleaner(mask.shape[1], sieve=sieve, holes=holes)
    parts = [cleaner.add(mask, known), cleaner.finish()]
    return np.concatenate([part.labels for part in parts if part is not None])


def _edges(
    mask: NDArray[Any],
    hidden: NDArray[np.bool_] | None,
    scores: NDArray[np.floating[Any]] | None,
    ids: Sequence[int] | None,
    threshold: float,
    nodata: int | None,
) -> Iterator[Edges]:
    """The edges of each BAND of rows, for contours."""
    from geoseg.vectorize.contour import Crossings

    if scores is None:
        raise ValueError("outline='contour' needs scores: the probabilities the mask came from")
    planes = scores[None] if scores.ndim == 2 else scores
    if planes.ndim != 3 or planes.shape[1:] != mask.shape:
        raise ValueError(f"scores of {scores.shape} are not those of a mask of {mask.shape}")
    ids = list(range(len(planes)) if ids is None else ids)
    if len(ids) != len(planes):
        raise ValueError(f"{len(ids)} ids are not those of {len(planes)} planes of scores")
    known = np.ones(mask.shape, np.bool_) if hidden is None else ~hidden
    if nodata:
        known &= mask != nodata
    if len(planes) > 1:
        strange = np.setdiff1d(mask[known], [0, *ids]).tolist()
        if strange:
            raise ValueError(f"no scores are given for {strange} in the mask: ids are {ids}")
        if 0 not in ids:
            known &= mask != 0
    crossings = Crossings(mask.shape[1], ids, threshold=threshold)

    def bands() -> Iterator[Edges]:
        for top in range(0, len(mask), BAND):
            rows = slice(top, top + BAND)
            labels = np.where(known[rows], mask[rows], 0)
            yield crossings.add(labels, np.asarray(planes[:, rows], np.float32), known[rows])

    return bands()
