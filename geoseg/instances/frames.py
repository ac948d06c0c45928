"""Detections in a layer of polygons to whole objects, by the rule of rule.py: of any tool's tiles,
or of neighbouring scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geoseg.components import components
from geoseg.errors import DataError, UsageError
from geoseg.instances import rule
from geoseg.instances.rule import Pairs

if TYPE_CHECKING:
    import geopandas as gpd

_REACH = 0.04  # of its longer side: a polygon that ends so near to an edge of its view is cut by it

Shapes = NDArray[np.object_]


def merge_instances(
    detections: gpd.GeoDataFrame,
    views: gpd.GeoDataFrame | None = None,
    *,
    view: str = "view",
    score: str | None = "score",
    label: str | None = "class",
) -> gpd.GeoDataFrame:
    """One row per object, out of detections made in tiles or scenes that overlap.

    `view` names the column that says in which tile or scene a polygon was found; `views` has the
    footprint of each, with that column or as its index. Without it a footprint is taken to be the
    box around what was found there, which is right where objects reach its edges. `score` and
    `label` name the columns of scores (0..1; None: all alike) and classes (None: only one).

    The columns stay, each row is that of the detection that stands for the object; parts says of
    how many detections it is made, truncated whether it may go on beyond a view (see
    geoseg.predictions.Objects). Where an object is the union of its detections its score is their
    mean, weighted by area. Near-linear in the number of detections. Raises DataError where
    polygons are none, and UsageError where columns are missing.
    """
    frame = detections.reset_index(drop=True)
    for column in (view, score, label):
        if column is not None and column not in frame.columns:
            raise UsageError(
                f"merge_instances: the detections have no column {column!r}; they have: "
                f"{', '.join(map(str, frame.columns))}"
            )
    names, number = np.unique(frame[view].astype(str), return_inverse=True)
    shapes = _polygons(frame)
    ground = _footprints(views, view, names, shapes, number, frame.crs)
    labels = pd.factorize(frame[label])[0] if label is not None else np.zeros(len(frame), np.int64)
    scores = frame[score].to_numpy(float) if score is not None else np.ones(len(frame))
    objects, _ = join(frame, shapes, number, ground, labels=labels, scores=scores, score=score)
    return objects


def join(
    frame: gpd.GeoDataFrame,
    shapes: Shapes,
    number: NDArray[np.int64],
    ground: Shapes,
    *,
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    score: str | None,
) -> tuple[gpd.GeoDataFrame, NDArray[np.int64]]:
    """`merge_instances` of (N,) valid `shapes`; also the row of each detection's object, or -1.

    number: (N,) view of each, of (V,) grounds; of equals the first ones stay.
    """
    areas = np.asarray(shapely.area(shapes))
    pairs, cut = _pairs(shapes, number, ground)
    joined = rule.same_object(pairs, labels, number)
    apart = rule.in_conflict(pairs, labels, areas, joined)
    count, groups = components(len(frame), pairs.one[joined], pairs.two[joined])
    shown = rule.whole(pairs, joined, areas, cut)
    chosen = rule.representatives(groups, count, shown, scores, areas)
    out = _objects(frame, shapes, groups, chosen, scores, areas, score)
    ends = np.bincount(groups, rule.open_ends(pairs, joined, cut), minlength=count) > 0
    out["truncated"] = ends & (chosen < 0)
    kept = np.ones(count, np.bool_)
    one, two = rule.opposed(pairs.take(apart), groups, chosen, number)
    if len(one):
        key = out[score].to_numpy(float) if score is not None else np.ones(count)
        order = np.lexsort((np.arange(count), -shapely.area(out.geometry), -key, out["truncated"]))
        ranks = np.empty(count, np.int64)
        ranks[order] = np.arange(count)
        kept = rule.survivors(ranks, one, two)
    row = np.where(kept, np.cumsum(kept) - 1, -1)
    return out[kept].reset_index(drop=True), row[groups]


def _polygons(frame: gpd.GeoDataFrame) -> Shapes:
    """The geometries, valid; a DataError where one is no polygon."""
    shapes = np.asarray(frame.geometry.array)
    kinds = shapely.get_type_id(shapes)
    other = ~np.isin(kinds, (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON))
    other |= shapely.is_empty(shapes)
    if other.any():
        row = int(np.flatnonzero(other)[0])
        raise DataError(
            f"merge_instances: {int(other.sum())} of {len(frame)} detections are no polygons (the "
            f"first is row {row}): leave them out"
        )
    broken = ~shapely.is_valid(shapes)
    if broken.any():
        shapes = shapes.copy()
        shapes[broken] = shapely.make_valid(shapes[broken], method="structure")
    return shapes


def _footprints(
    views: gpd.GeoDataFrame | None,
    view: str,
    names: NDArray[Any],
    shapes: Shapes,
    number: NDArray[np.int64],
    crs: Any,
) -> Shapes:
    """(views,) What each view shows of the ground."""
    if views is None:
        bounds = shapely.bounds(shapes)
        low, high = np.full((len(names), 2), np.inf), np.full((len(names), 2), -np.inf)
        np.minimum.at(low, number, bounds[:, :2])
        np.maximum.at(high, number, bounds[:, 2:])
        return np.asarray(shapely.box(*low.T, *high.T))
    if crs is not None and views.crs is not None:
        views = views.to_crs(crs)
    keys = (views[view] if view in views.columns else views.index.to_series()).astype(str)
    found = dict(zip(keys, views.geometry, strict=True))
    if missing := [name for name in names if name not in found]:
        raise UsageError(
            f"merge_instances: views has no footprint of {missing[0]!r}"
            + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
        )
    return np.array([found[name] for name in names], object)


def _pairs(
    shapes: Shapes, number: NDArray[np.int64], ground: Shapes
) -> tuple[Pairs, NDArray[np.uint8]]:
    """All that overlap in different views; and whether each is cut by an edge that others see."""
    tree = shapely.STRtree(shapes)
    one, two = tree.query(shapes, predicate="intersects")
    rows = (one < two) & (number[one] != number[two])
    one, two = one[rows].astype(np.int64), two[rows].astype(np.int64)
    common = np.asarray(shapely.area(shapely.intersection(shapes[one], shapes[two])))
    one, two, common = (a[common > 0] for a in (one, two, common))
    edges = _inner_edges(ground)
    bounds = shapely.bounds(shapes)
    reach = _REACH * np.maximum(*(bounds[:, 2:] - bounds[:, :2]).T)
    cut = np.asarray(shapely.dwithin(shapes, edges[number], reach)).astype(np.uint8)
    area_one, cut_one = _seen(shapes, one, number, two, ground, edges, reach * cut)
    area_two, cut_two = _seen(shapes, two, number, one, ground, edges, reach * cut)
    return Pairs(one, two, common, area_one, area_two, cut_one, cut_two), cut


def _inner_edges(ground: Shapes) -> Shapes:
    """(views,) The part of each footprint's border that lies inside of others."""
    one, two = shapely.STRtree(ground).query(ground, predicate="intersects")
    other = one != two
    one, two = one[other], two[other]
    # an edge that both have is the end of what is known, not a cut
    lines = shapely.intersection(shapely.boundary(ground[one]), ground[two])
    lines = shapely.difference(lines, shapely.boundary(ground[two]))
    out = np.full(len(ground), shapely.LineString(), object)
    for view in np.unique(one):
        out[view] = shapely.union_all(lines[one == view])
    return out


def _seen(
    shapes: Shapes,
    own: NDArray[np.int64],
    number: NDArray[np.int64],
    other: NDArray[np.int64],
    ground: Shapes,
    edges: Shapes,
    reach: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Of each pair's own polygon: its area in the other's view, and whether it is cut in there."""
    keys, inverse = np.unique(np.stack([own, number[other]]), axis=1, return_inverse=True)
    item, view = keys
    inside = np.asarray(shapely.within(shapes[item], ground[view]))
    area = np.asarray(shapely.area(shapes[item]))
    area[~inside] = shapely.area(shapely.intersection(shapes[item[~inside]], ground[view[~inside]]))
    cut = np.zeros(len(item), np.uint8)
    near = np.flatnonzero(reach[item] > 0)
    lines = shapely.intersection(edges[number[item[near]]], ground[view[near]])
    cut[near] = shapely.dwithin(shapes[item[near]], lines, reach[item[near]])
    return area[inverse.ravel()], cut[inverse.ravel()]


def _objects(
    frame: gpd.GeoDataFrame,
    shapes: Shapes,
    groups: NDArray[np.int64],
    chosen: NDArray[np.int64],
    scores: NDArray[np.float64],
    areas: NDArray[np.float64],
    score: str | None,
) -> gpd.GeoDataFrame:
    """A row per group: that of the detection that was chosen, or the best with all their ground."""
    parts = np.bincount(groups, minlength=len(chosen))
    order = np.lexsort((np.arange(len(groups)), -scores, groups))
    first = np.cumsum(parts) - parts
    stand = np.where(chosen >= 0, chosen, order[first])
    out = frame.iloc[stand].reset_index(drop=True)
    geometry, mean = shapes[stand].copy(), scores[stand].copy()
    for group in np.flatnonzero((chosen < 0) & (parts > 1)):
        members = order[first[group] : first[group] + parts[group]]
        geometry[group] = shapely.union_all(shapes[members])
        mean[group] = np.average(scores[members], weights=areas[members])
    out = out.set_geometry(geometry, crs=frame.crs)
    if score is not None:
        out[score] = mean.astype(frame[score].dtype)
    out["parts"] = parts
    return out
