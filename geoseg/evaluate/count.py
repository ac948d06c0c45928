"""One prediction held against the truth, block by block.

A window at a time is in memory (with a halo as wide as the boundary tolerance, so that seams do
not matter); of a scene only its polygons and a few numbers per block are kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.average_precision import ALL, HIT, NOTHING, Ranking
from geoseg.data.labels import Labels, VectorLabels
from geoseg.evaluate.objects import ObjectTable, compared
from geoseg.evaluate.options import EvaluateOptions
from geoseg.evaluate.places import Case, Legend, known
from geoseg.evaluate.predictions import Prediction
from geoseg.evaluate.tally import GROUPS, Tally
from geoseg.grid import Grid, Window
from geoseg.metrics import (
    IGNORE,
    Calibration,
    Confusion,
    ScoreHistogram,
    boundary_counts,
)
from geoseg.scene.gsd import ground_sample_distance

_TILE = 1024  # pixels, edge of the largest window that is read at a time

Block = tuple[int, int]  # row and column of a block in its raster


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted of one raster; all that has a leading axis is per block with truth.

    pixel_m: edge of a pixel of `grid` in metres. known, lost: pixels with truth, and those of
    them without prediction, which count for nothing. outlined: true objects are those of a mask.
    objects: those that count. ranking: of all with a score, also of those too low to be shown.
    """

    case: Case
    grid: Grid
    pixel_m: float
    block_m: float
    blocks: tuple[Block, ...]
    windows: tuple[Window, ...]
    tally: Tally
    histogram: ScoreHistogram | None
    objects: ObjectTable
    ranking: Ranking | None
    known: int
    lost: int
    outlined: bool


def pixel_metres(grid: Grid, given: float | None) -> float:
    """Edge of a pixel in metres: as the georeference says, else as given, else 1."""
    size = ground_sample_distance(grid)
    return math.sqrt(size[0] * size[1]) if size else given or 1.0


def blocks(grid: Grid, edge: float) -> Iterator[tuple[Block, Window]]:
    """Squares of `edge` pixels that partition the grid; at the far edges up to half larger.

    Fractions are rounded at each border, so that grids of other pixels get the same ground.
    """
    rows, cols = (_cuts(n, edge) for n in (grid.height, grid.width))
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(cols):
            yield (i, j), Window(top, left, bottom - top, right - left)


def _cuts(length: int, edge: float) -> list[tuple[int, int]]:
    edge = max(edge, 1.0)
    number = max(1, math.floor(length / edge + 0.5))
    at = [*(round(i * edge) for i in range(number)), length]
    return list(itertools.pairwise(at))


def count(case: Case, prediction: Prediction, options: EvaluateOptions) -> Counted:
    """Hold a prediction against the truth of its case."""
    grid = prediction.grid
    pixel_m = pixel_metres(grid, case.gsd)
    block_m = options.block_for(pixel_m)
    truth, areas = case.labels(grid), case.areas(grid)
    objects = compared(prediction, truth, grid, pixel_m, options)
    tolerance = options.tolerance_for(pixel_m) / pixel_m
    counter = _Counter(prediction, truth, areas, tolerance, objects.table)
    for block, window in blocks(grid, block_m / pixel_m):
        counter.add(block, window)
    tally = counter.tally()
    table = objects.table.take((objects.table.block >= 0) & objects.table.shown)
    _count_objects(tally, table)
    ranking = objects.ranking(options)
    if ranking is not None:
        _calibrate_objects(tally, ranking)
    return Counted(
        case=case,
        grid=grid,
        pixel_m=pixel_m,
        block_m=block_m,
        blocks=tuple(counter.blocks),
        windows=tuple(counter.windows),
        tally=tally,
        histogram=counter.histogram,
        objects=table,
        ranking=ranking,
        known=counter.known,
        lost=counter.lost,
        outlined=not isinstance(truth, VectorLabels),
    )


class _Counter:
    """Adds up the pixels of blocks; finds the block of each object."""

    def __init__(
        self,
        prediction: Prediction,
        truth: Labels,
        areas: Sequence[VectorLabels],
        tolerance: float,
        objects: ObjectTable,
    ) -> None:
        self.prediction, self.truth, self.areas = prediction, truth, areas
        self.tolerance, self.halo = tolerance, math.ceil(tolerance) + 1
        self.legend: Legend = prediction.legend
        self.objects = objects
        points = shapely.get_coordinates(shapely.point_on_surface(objects.pixels))
        self._at = np.floor(points).astype(np.int64)  # (N, 2) column, row
        self._tree = shapely.STRtree(shapely.points(points))
        self.blocks: list[Block] = []
        self.windows: list[Window] = []
        self.known = self.lost = 0
        one = prediction.probabilities is not None and prediction.probabilities.count == 1
        self.histogram = ScoreHistogram() if one else None
        self._parts: list[Tally] = []

    def add(self, block: Block, window: Window) -> None:
        """Count the pixels of a block, unless it has no truth."""
        part = Tally.zeros(len(self.legend.labels), 1)
        before = self.known
        for row in range(window.row, window.row_stop, _TILE):
            for col in range(window.col, window.col_stop, _TILE):
                self._add(Window(row, col, _TILE, _TILE).intersection(window), part)
        if self.known > before:
            self.blocks.append(block)
            self.windows.append(window)
            self._parts.append(part)

    def tally(self) -> Tally:
        """(blocks, ...) of all that were added."""
        empty = Tally.zeros(len(self.legend.labels), 0)
        return Tally.concatenate([empty, *self._parts])

    def _add(self, core: Window, part: Tally) -> None:
        grown = _grown(core, self.halo, self.prediction.grid)
        inside = known(self.areas, grown)
        if not inside.any():
            return
        truth, predicted = self.truth.burn(grown), self.prediction.labels(grown)
        inside &= truth != IGNORE
        both = inside & (predicted != IGNORE)
        truth, predicted = (np.where(both, a, np.uint8(IGNORE)) for a in (truth, predicted))
        here = core.slices(grown)
        self.known += int(inside[here].sum())
        self.lost += int((inside & ~both)[here].sum())
        if not both[here].any():
            return
        confusion = Confusion(len(self.legend.labels))
        confusion.add(predicted[here], truth[here])
        part.confusion[0] += confusion.matrix
        for label in range(self.legend.first, len(self.legend.labels)):
            part.edges[0, label] += boundary_counts(predicted, truth, label, self.tolerance, here)
        self._calibrate(core, truth[here], part)
        self._locate(core, both[here])

    def _calibrate(self, core: Window, truth: NDArray[np.uint8], part: Tally) -> None:
        if self.prediction.probabilities is None:
            return
        scores, valid = self.prediction.scores(core)
        valid &= truth != IGNORE
        calibration = Calibration(GROUPS)
        if self.histogram is not None:
            said, true = scores[0][valid], truth[valid] == 1
            self.histogram.add(said, true)
        else:  # of several classes: how sure the model is of the one that it decides for
            said = scores.max(0)[valid]
            true = self.prediction.channels[scores.argmax(0)][valid] == truth[valid]
        calibration.add(said, true)
        part.calibration[0] += calibration.table

    def _locate(self, core: Window, here: NDArray[np.bool_]) -> None:
        """Objects whose inner point is known ground belong to the block that is being added."""
        box = shapely.box(core.col, core.row, core.col_stop, core.row_stop)
        hits = self._tree.query(box, predicate="intersects")
        col, row = (self._at[hits] - (core.col, core.row)).T
        inside = (row >= 0) & (row < core.height) & (col >= 0) & (col < core.width)
        inside[inside] = here[row[inside], col[inside]]
        self.objects.block[hits[inside]] = len(self.blocks)


def _grown(window: Window, halo: int, grid: Grid) -> Window:
    return Window(
        window.row - halo, window.col - halo, window.height + 2 * halo, window.width + 2 * halo
    ).intersection(grid.window)


# --- objects --------------------------------------------------------------------------------


def _count_objects(tally: Tally, table: ObjectTable) -> None:
    """A hit is a true object that was found: so hits and misses add up to the true objects."""
    true, matched = table.from_truth, table.matched
    for column, rows in enumerate((true & matched, ~true & ~matched, true & ~matched)):
        np.add.at(tally.objects, (table.block[rows], table.label[rows], column), 1)
    iou = tally.relations[..., 0]
    np.add.at(iou, (table.block[true], table.label[true]), table.iou[true])
    errors = (~true, true & table.split, ~true & table.merged)
    for column, rows in enumerate(errors, start=1):
        np.add.at(tally.relations, (table.block[rows], table.label[rows], column), 1)


def _calibrate_objects(tally: Tally, ranking: Ranking) -> None:
    """Scores are said to be the probability that an object is there: is it, at the IoU of a hit?"""
    outcome = ranking.masks[ALL, -1]
    counts = outcome != NOTHING
    for block in np.unique(ranking.block[counts]):
        own = counts & (ranking.block == block)
        calibration = Calibration(GROUPS)
        calibration.add(ranking.score[own], outcome[own] == HIT)
        tally.calibration[block] += calibration.table
