"""Objects of prediction and truth held against each other, over a whole raster.

A pair is a hit from an IoU on (`EvaluateOptions.match`), the best first. Beside that, two errors
that an IoU does not tell apart, as Hoover et al. (1996) define over- and under-segmentation, with
more than half for their tolerance, but whether or not the parts add up to most of the whole:

split   a true object in which two or more predicted ones lie with more than half of their area;
merged  a predicted object in which two or more true ones lie with more than half of their area.

Parts that are less than a tenth of the largest one do not count: a speck splits no building, and
a shed beside a house merges none. Of objects that overlap, two for one true object are a split.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.average_precision import Candidates, Ranking, rank
from geoseg.data.labels import Labels, VectorLabels
from geoseg.evaluate.options import EvaluateOptions
from geoseg.evaluate.predictions import Objects, Prediction, outline
from geoseg.grid import Grid
from geoseg.metrics import IGNORE, Overlaps, overlapping
from geoseg.vectorize.measure import area_perimeter

SPECK = 0.1  # of the largest part: smaller ones do not count
_POLYGONS = (3, 6)  # shapely's numbers of the types that have an area


@dataclass(frozen=True, slots=True)
class ObjectTable:
    """Polygons of truth and prediction: N rows.

    from_truth: (N,) bool, else from the prediction. shown: all of the truth, and what is delivered
    of the prediction; only they are matched here. matched: has a partner. iou: with it (else 0).
    split, merged: takes part in such an error, see above. score: NaN without one. area,
    partner_area: m². block: index of the block, -1 where its inner point is no known ground.
    pixels: geometry in pixels of the grid.
    """

    from_truth: NDArray[np.bool_]
    label: NDArray[np.uint8]
    shown: NDArray[np.bool_]
    matched: NDArray[np.bool_]
    iou: NDArray[np.float64]
    split: NDArray[np.bool_]
    merged: NDArray[np.bool_]
    score: NDArray[np.float64]
    area: NDArray[np.float64]
    partner_area: NDArray[np.float64]
    block: NDArray[np.int64]
    pixels: NDArray[np.object_]

    def take(self, rows: NDArray[Any]) -> ObjectTable:
        return ObjectTable(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Compared:
    """The objects of a raster (the true ones first), and what overlaps what among them.

    pairs: indices into the predicted and into the true ones, of one class each. ranked: which of
    the predicted ones are ranked by scores; None if they have none.
    """

    table: ObjectTable
    pairs: Overlaps
    ranked: NDArray[np.bool_] | None

    def ranking(self, options: EvaluateOptions) -> Ranking | None:
        """By scores, once the blocks are known; the last level of IoU is that of a hit."""
        if self.ranked is None:
            return None
        true, found = (self.table.take(self.table.from_truth == side) for side in (True, False))
        found = found.take(self.ranked)
        pairs = self.pairs.take(self.ranked[self.pairs.found])
        number = np.cumsum(self.ranked) - 1  # among those that are ranked
        return rank(
            Candidates(found.label, found.area, found.block),
            found.score,
            Candidates(true.label, true.area, true.block),
            (number[pairs.found], pairs.wanted),
            (pairs.iou, pairs.box_iou),
            (options.match,),
            size_ranges(options),
        )


def size_ranges(options: EvaluateOptions) -> list[tuple[float, float]]:
    """(from, below) in m² of the sizes of objects that are told apart."""
    return list(itertools.pairwise([0.0, *options.sizes, math.inf]))


def compared(
    prediction: Prediction, truth: Labels, grid: Grid, pixel_m: float, options: EvaluateOptions
) -> Compared:
    """All polygons of both sides; their blocks are still to be found."""
    found = _whole(prediction.objects())
    found_area = areas_m2(found.pixels, grid, pixel_m)
    large = found_area >= prediction.min_area
    found, found_area = found.take(large), found_area[large]
    wanted = _true_objects(truth, grid, prediction.legend.first)
    true_area = areas_m2(wanted.pixels, grid, pixel_m)
    pairs = _pairs(found, wanted)
    table = _table(found, wanted, (found_area, true_area), pairs, options.match)
    return Compared(table, pairs, found.ranked)


def _pairs(found: Objects, wanted: Objects) -> Overlaps:
    """What overlaps and is of one class."""
    parts = []
    for label in np.union1d(found.labels, wanted.labels):
        i, j = (np.flatnonzero(o.labels == label) for o in (found, wanted))
        own = overlapping(found.pixels[i], wanted.pixels[j])
        parts.append(Overlaps(i[own.found], j[own.wanted], own.common, own.iou, own.box_iou))
    empty = overlapping([], [])
    return Overlaps(
        *(np.concatenate([getattr(p, f.name) for p in (empty, *parts)]) for f in fields(Overlaps))
    )


def _table(
    found: Objects,
    wanted: Objects,
    areas: tuple[NDArray[np.float64], NDArray[np.float64]],
    all_pairs: Overlaps,
    match: float,
) -> ObjectTable:
    """Rows of the truth, then of the prediction; areas: (found, wanted) in m²."""
    sides, counts = (wanted, found), (len(wanted.labels), len(found.labels))
    shown = np.ones(counts[1], np.bool_) if found.shown is None else found.shown
    pairs = all_pairs.take(shown[all_pairs.found])
    best = pairs.matches(match)
    partner = [np.full(n, -1, np.int64) for n in counts]
    partner[0][best.wanted], partner[1][best.found] = best.found, best.wanted
    iou = [np.zeros(n) for n in counts]
    iou[0][best.wanted] = iou[1][best.found] = best.iou
    found_px, true_px = (shapely.area(o.pixels) for o in (found, wanted))
    split = _in_parts(pairs.wanted, pairs.found, pairs.common, found_px, counts[0])
    merged = _in_parts(pairs.found, pairs.wanted, pairs.common, true_px, counts[1])
    area = (areas[1], areas[0])
    partner_area = [
        np.where(partner[side] >= 0, np.append(area[1 - side], 0)[partner[side]], 0)
        for side in (0, 1)
    ]
    own = np.full(counts[1], np.nan) if found.scores is None else found.scores
    scores = [np.append(own, np.nan)[partner[0]], own]  # a true object: that by which it was found
    return ObjectTable(
        from_truth=np.arange(sum(counts)) < counts[0],
        label=np.concatenate([o.labels for o in sides]),
        shown=np.concatenate([np.ones(counts[0], np.bool_), shown]),
        matched=np.concatenate(partner) >= 0,
        iou=np.concatenate(iou),
        split=np.concatenate(split),
        merged=np.concatenate(merged[::-1]),
        score=np.concatenate(scores),
        area=np.concatenate(area),
        partner_area=np.concatenate(partner_area),
        block=np.full(sum(counts), -1, np.int64),
        pixels=np.concatenate([o.pixels for o in sides]),
    )


def _in_parts(
    whole: NDArray[np.int64],
    part: NDArray[np.int64],
    common: NDArray[np.float64],
    part_area: NDArray[np.float64],
    count: int,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of `count` objects have several parts, and which objects are such a part."""
    inside = common > 0.5 * part_area[part]
    largest = np.zeros(count)
    np.maximum.at(largest, whole[inside], common[inside])
    counts = inside & (common >= SPECK * largest[whole])
    several = np.bincount(whole[counts], minlength=count) > 1
    parts = np.zeros(len(part_area), np.bool_)
    parts[part[counts & several[whole]]] = True
    return several, parts


def _true_objects(truth: Labels, grid: Grid, first: int) -> Objects:
    if not isinstance(truth, VectorLabels):
        return outline(truth, grid, first)
    objects = _whole(Objects(truth.pixels, truth.codes))
    near = shapely.intersects(objects.pixels, shapely.box(0, 0, grid.width, grid.height))
    return objects.take(near & (objects.labels >= first) & (objects.labels != IGNORE))


def _whole(objects: Objects) -> Objects:
    """Objects that are valid polygons: lines and points have no area to compare."""
    objects = objects.take(np.isin(shapely.get_type_id(objects.pixels), _POLYGONS))
    broken = ~shapely.is_valid(objects.pixels)  # by the way from one CRS to another
    if not broken.any():
        return objects
    pixels = objects.pixels.copy()
    pixels[broken] = shapely.make_valid(pixels[broken], method="structure", keep_collapsed=False)
    return replace(objects, pixels=pixels).take(~shapely.is_empty(pixels))


def areas_m2(pixels: NDArray[np.object_], grid: Grid, pixel_m: float) -> NDArray[np.float64]:
    """(N,) areas on the ground of polygons in pixels of a grid."""
    if grid.crs is None or grid.crs.geodetic_crs is None:
        return np.asarray(shapely.area(pixels) * pixel_m**2)
    return area_perimeter(on_map(pixels, grid), grid.crs)[0]


def on_map(pixels: NDArray[np.object_], grid: Grid) -> NDArray[np.object_]:
    """Geometries in pixels of a grid, in its CRS."""
    moved: NDArray[np.object_] = shapely.transform(
        pixels, lambda xy: np.column_stack(grid.transform @ (xy[:, 0], xy[:, 1]))
    )
    return moved
