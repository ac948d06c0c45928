"""Objects across tiles: the rule against a dumb one, and planted objects found whole and once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio.features
import shapely
import shapely.geometry
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import geoseg
from geoseg.errors import GeosegError
from geoseg.grid import Grid, Plan, Tile, Tiling, Window, plan
from geoseg.instances import masks as ops
from geoseg.instances.features import outlines
from geoseg.instances.mosaic import InstanceMosaic
from geoseg.instances.paste import paint, paste
from geoseg.predictions import Detections, InstancePrediction, Masks, Objects
from geoseg.testing import planted_objects, see_planted


def merged(
    tiles: Plan, predictions: Sequence[InstancePrediction], **options: Any
) -> tuple[Objects, InstanceMosaic]:
    mosaic = InstanceMosaic(tiles, **options)
    found = [o for p in predictions for o in mosaic.add(p)]
    found += list(mosaic.finish())
    return joined(found), mosaic


def joined(parts: list[Objects]) -> Objects:
    return Objects(
        np.concatenate([np.empty(0, np.uint8), *(p.labels for p in parts)]),
        np.concatenate([np.empty(0, np.float32), *(p.scores for p in parts)]),
        ops.concatenate([p.masks for p in parts]),
        np.concatenate([np.empty(0, np.int32), *(p.parts for p in parts)]),
        np.concatenate([np.empty(0, np.bool_), *(p.truncated for p in parts)]),
    )


def picture(masks: Masks, i: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    out = np.zeros(shape, np.bool_)
    row, col, height, width = masks.windows[i]
    own = masks.pixels[masks.starts[i] : masks.starts[i + 1]].reshape(height, width)
    out[row : row + height, col : col + width] = own
    return out


def grid(height: int, width: int) -> Grid:
    return Grid(None, Affine.identity(), height, width)


@st.composite
def planted(draw: st.DrawFn) -> tuple[NDArray[np.int32], Plan]:
    stride = draw(st.sampled_from([1, 4, 8]))
    size = stride * draw(st.integers(max(2, 16 // stride), 64 // stride))
    overlap = stride * draw(st.integers(1, size // stride - 1))
    step = size - overlap
    height, width = (draw(st.integers(size // 2, min(160, size + 6 * step))) for _ in range(2))
    tiles = plan(grid(height, width), Tiling(size, overlap, stride, exact=draw(st.booleans())))
    longest = draw(st.integers(3, max(height, width)))
    count, seed = draw(st.integers(0, 25)), draw(st.integers(0, 2**32 - 1))
    return planted_objects((height, width), count=count, longest=longest, seed=seed), tiles


@settings(max_examples=300)
@given(planted(), st.booleans(), st.randoms())
def test_planted_objects_are_found_whole_and_once(
    scene: tuple[NDArray[np.int32], Plan], apart: bool, random: Any
) -> None:
    """Objects of any length against any overlap; each tile sees them cut at its edges, with
    `apart` also what hangs together only outside of the tile as several. Tiles of a row come in
    any order."""
    truth, tiles = scene
    predictions = []
    for row in tiles.rows:
        order = list(row)
        random.shuffle(order)
        predictions += [see_planted(truth, tile, apart=apart) for tile in order]
    found, mosaic = merged(tiles, predictions)
    numbers = np.unique(truth[truth > 0])
    assert len(found) == len(numbers)
    assert not found.truncated.any()
    assert mosaic.unconfirmed == 0
    seen = set()
    for i in range(len(found)):
        own = picture(found.masks, i, truth.shape)
        number = truth[own][0]
        assert np.array_equal(own, truth == number)
        seen.add(number)
    assert seen == set(numbers)


# --- the rule, against a dumb one -----------------------------------------------------------


def noisy(truth: NDArray[np.int32], tile: Tile, rng: np.random.Generator) -> InstancePrediction:
    """What a poor model sees: objects missed, moved, cut short, doubled, of the wrong class."""
    seen = see_planted(truth, tile, apart=bool(rng.integers(2)))
    windows, pixels, labels = [], [], []
    for i, (row, col, height, width) in enumerate(seen.masks.windows.tolist()):
        mask = seen.masks.pixels[seen.masks.starts[i] : seen.masks.starts[i + 1]]
        mask = mask.reshape(height, width)
        for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):
            own = mask & (rng.random(mask.shape) < rng.choice([0.7, 1]))
            if rng.random() < 0.3:
                own[rng.integers(height) :] = False
            if rng.random() < 0.3:
                own[:, : rng.integers(width)] = False
            if own.any():
                r, c = (np.flatnonzero(own.any(axis)) for axis in (1, 0))
                windows.append((row + r[0], col + c[0], np.ptp(r) + 1, np.ptp(c) + 1))
                pixels.append(own[r[0] : r[-1] + 1, c[0] : c[-1] + 1].ravel())
                labels.append(1 + int(rng.random() < 0.2))
    order = rng.permutation(len(windows))
    return InstancePrediction(
        tile,
        np.array(labels, np.uint8)[order],
        rng.integers(1, 6, len(order)).astype(np.float32) / 5,
        ops.take(
            Masks(
                np.array(windows, np.int32).reshape(-1, 4),
                np.concatenate([np.empty(0, np.bool_), *pixels]),
                np.cumsum([0, *map(len, pixels)]),
            ),
            order,
        ),
    )


class Dumb:
    """rule.py and mosaic.py in plain words: all pairs, masks as large as the scene."""

    def __init__(self, tiles: Plan, predictions: Sequence[InstancePrediction]) -> None:
        shape = (tiles.grid.height, tiles.grid.width)
        self.tiles = tiles
        self.view, self.label, self.score, self.mask = [], [], [], []
        self.window = {}
        for p in predictions:
            self.window[p.tile.index] = p.tile.read.intersection(tiles.grid.window)
            for i in range(len(p)):
                self.view.append(p.tile.index)
                self.label.append(int(p.labels[i]))
                self.score.append(float(p.scores[i]))
                self.mask.append(picture(p.masks, i, shape))
        self.box = [self._box(m) for m in self.mask]
        self.edges = [self._edges(i, tiles.grid.window) for i in range(len(self.mask))]

    def objects(self) -> set[tuple[int, float, bool, bytes]]:
        n = range(len(self.mask))
        groups = {i: {i} for i in n}
        joined = self._joined()
        for i, j in joined:
            both = groups[i] | groups[j]
            for k in both:
                groups[k] = both
        members = [sorted(g) for g in {min(g): g for g in groups.values()}.values()]
        found: list[Any] = [(group, *self._object(group, joined)) for group in members]
        found = [f for f in found if self._owned(f)]
        found.sort(key=self._rank)
        kept: list[Any] = []
        for one in found:
            if not any(self._conflict(one, other) for other in kept):
                kept.append(one)
        return {(lab, round(s, 5), cut, m.tobytes()) for _, m, lab, s, cut, _ in kept}

    def _joined(self) -> set[tuple[int, int]]:
        n = range(len(self.mask))
        agreeing, joined = set(), set()
        for i in n:
            for j in n:
                if i < j and self._iou(i, j) >= 0.3 and self._is_best(i, j) and self._is_best(j, i):
                    agreeing.add((i, j))
        for i in n:
            for view in set(self.view) - {self.view[i]}:
                others = [j for j in n if self.view[j] == view and self._common(i, j)]
                if any((min(i, j), max(i, j)) in agreeing for j in others):
                    continue
                best = max(others, key=lambda j: (self._cover(i, j), -j), default=None)
                if best is not None and self._cover(i, best) >= 0.5:
                    joined.add((min(i, best), max(i, best)))
        return agreeing | joined

    def _common(self, i: int, j: int) -> int:
        return int((self.mask[i] & self.mask[j]).sum())

    def _inside(self, i: int, view: int) -> int:
        return int(self.mask[i][self.window[view].slices()].sum())

    def _iou(self, i: int, j: int) -> float:
        if self.view[i] == self.view[j] or self.label[i] != self.label[j]:
            return 0.0
        common = self._common(i, j)
        either = self._inside(i, self.view[j]) + self._inside(j, self.view[i]) - common
        return common / either if common else 0.0

    def _is_best(self, i: int, j: int) -> bool:
        """Of all that i overlaps in the view of j."""
        others = [k for k in range(len(self.mask)) if self.view[k] == self.view[j]]
        others = [k for k in others if self._common(i, k)]
        return j == max(others, key=lambda k: (self._iou(i, k), -k))

    def _cover(self, i: int, j: int) -> float:
        if self.label[i] != self.label[j] or not self._edges(i, self.window[self.view[j]]):
            return 0.0
        return self._common(i, j) / self._inside(i, self.view[j])

    def _edges(self, i: int, other: Window) -> set[str]:
        """The edges of i's view that cut it and lie inside of a window."""
        view = self.window[self.view[i]]
        top, left, bottom, right = self.box[i]
        reach = min(6, max(1, round(0.04 * max(bottom - top, right - left))))
        gaps = {
            "top": (top - view.row, view.row, other.row, other.row_stop),
            "left": (left - view.col, view.col, other.col, other.col_stop),
            "bottom": (view.row_stop - bottom, view.row_stop, other.row, other.row_stop),
            "right": (view.col_stop - right, view.col_stop, other.col, other.col_stop),
        }
        return {
            k for k, (gap, edge, low, high) in gaps.items() if gap < reach and low < edge < high
        }

    def _box(self, mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
        rows, cols = np.nonzero(mask)
        return rows.min(), cols.min(), rows.max() + 1, cols.max() + 1

    def _object(
        self, group: list[int], joined: set[tuple[int, int]]
    ) -> tuple[NDArray[np.bool_], int, float, bool, list[int]]:
        """Mask, label, score, truncated, and what stands for it."""
        partners = {i: [j for j in group if (min(i, j), max(i, j)) in joined] for i in group}
        whole = [
            i
            for i in group
            if not self.edges[i]
            and all(
                self.mask[j].sum() - self._inside(j, self.view[i]) <= 0.05 * self.mask[j].sum()
                for j in partners[i]
            )
        ]
        if whole:
            best = min(whole, key=lambda i: (-self.score[i], -self.mask[i].sum(), i))
            return self.mask[best], self.label[best], self.score[best], False, [best]
        areas = [int(self.mask[i].sum()) for i in group]
        score = float(np.average([self.score[i] for i in group], weights=areas))
        cut = any(
            self.edges[i]
            - set().union(*(self._edges(i, self.window[self.view[j]]) for j in partners[i]))
            for i in group
        )
        return (
            np.any([self.mask[i] for i in group], axis=0),
            self.label[group[0]],
            score,
            cut,
            group,
        )

    def _owned(self, found: Any) -> bool:
        group, mask = found[:2]
        rows, cols = np.nonzero(mask)
        far = (rows - rows.mean()) ** 2 + (cols - cols.mean()) ** 2
        nearest = np.flatnonzero(np.isclose(far, far.min(), rtol=0, atol=1e-9))[0]
        row, col = rows[nearest], cols[nearest]
        owner = [
            t.index
            for t in self.tiles.tiles
            if t.write.row <= row < t.write.row_stop and t.write.col <= col < t.write.col_stop
        ]
        return owner[0] in {self.view[i] for i in group}

    def _rank(self, found: Any) -> tuple[Any, ...]:
        _, mask, _, score, cut, _ = found
        top, left, *_ = self._box(mask)
        return cut, -np.float32(score), -mask.sum(), top, left

    def _conflict(self, one: Any, two: Any) -> bool:
        for i in one[5]:
            for j in two[5]:
                common, a, b = self._common(i, j), self.mask[i].sum(), self.mask[j].sum()
                whole = min(a, b) if self.label[i] == self.label[j] else a + b - common
                if self.view[i] == self.view[j] or not common or common < 0.5 * whole:
                    continue
                seen = [{self.view[k] for k in found[0]} for found in (one, two)]
                if not all({self.view[i], self.view[j]} <= views for views in seen):
                    return True
        return False


@settings(max_examples=400)
@given(planted(), st.integers(0, 2**32 - 1))
def test_rows_of_tiles_give_what_all_pairs_give(
    scene: tuple[NDArray[np.int32], Plan], seed: int
) -> None:
    truth, tiles = scene
    rng = np.random.default_rng(seed)
    predictions = [noisy(truth, tile, rng) for tile in tiles.tiles]
    assume(sum(map(len, predictions)) < 60)
    found, _ = merged(tiles, predictions)
    got = {
        (
            int(found.labels[i]),
            round(float(found.scores[i]), 5),
            bool(found.truncated[i]),
            picture(found.masks, i, truth.shape).tobytes(),
        )
        for i in range(len(found))
    }
    assert got == Dumb(tiles, predictions).objects()


# --- what is left out, and what is said of it ------------------------------------------------


def strip(length: int, size: int, overlap: int) -> Plan:
    return plan(grid(20, length), Tiling(size, overlap, 1, exact=True))


def test_without_overlap_fragments_are_flagged_not_lost() -> None:
    tiles = strip(64, 32, 0)
    truth = np.zeros((20, 64), np.int32)
    truth[5:15, 20:50] = 1
    truth[2:4, 2:9] = 2
    found, _ = merged(tiles, [see_planted(truth, tile) for tile in tiles.tiles])
    assert found.truncated.tolist() == [False, True, True]
    assert ops.areas(found.masks).tolist() == [14, 120, 180]


def test_objects_at_the_edge_of_the_scene_are_whole() -> None:
    tiles = strip(96, 48, 16)
    truth = np.zeros((20, 96), np.int32)
    truth[0:6, 0:10], truth[14:, 86:] = 1, 2
    found, _ = merged(tiles, [see_planted(truth, tile) for tile in tiles.tiles])
    assert len(found) == 2
    assert not found.truncated.any()


def test_the_tile_that_owns_a_place_decides_about_it() -> None:
    """Seen by the left tile near its edge, but not by the right one, in whose window it lies."""
    tiles = strip(96, 48, 16)
    truth = np.zeros((20, 96), np.int32)
    left, right = list(tiles.tiles)[:2]
    col = left.read.col_stop - 6
    truth[5:9, col : col + 4] = 1
    nothing = np.zeros_like(truth)
    assert col > left.write.col_stop
    rest = [see_planted(nothing, t) for t in list(tiles.tiles)[2:]]
    found, mosaic = merged(tiles, [see_planted(truth, left), see_planted(nothing, right), *rest])
    assert (len(found), mosaic.unconfirmed) == (0, 1)
    assert mosaic.notes == [
        "left out, as the tile that sees the place best does not see it: 1 object"
    ]
    found, mosaic = merged(tiles, [see_planted(nothing, left), see_planted(truth, right), *rest])
    assert (len(found), mosaic.unconfirmed) == (1, 0)


def test_of_two_opinions_the_surer_one_counts() -> None:
    """One tile sees two houses, the other one large one: not both, and not the union."""
    tiles = plan(grid(20, 80), Tiling(60, 40, 1, exact=True))
    two = np.zeros((20, 80), np.int32)
    two[5:15, 24:40], two[5:15, 41:55] = 1, 2
    one = (two > 0).astype(np.int32)
    left, right = tiles.tiles
    for sure, count in ((0.5, 2), (0.95, 1)):
        large = replace(see_planted(one, left), scores=np.array([sure], np.float32))
        found, _ = merged(tiles, [large, see_planted(two, right)])
        assert len(found) == count
        assert found.scores.max() == pytest.approx(max(sure, 0.9))


def test_what_goes_on_beyond_a_view_is_not_whole_in_it() -> None:
    """The left tile sees an object end where the right one sees it go on, by a third: neither
    touches an edge on its side, but the left one has not seen all of it."""
    tiles = plan(grid(20, 96), Tiling(64, 32, 1, exact=True))
    left, right = tiles.tiles
    truth = np.zeros((20, 96), np.int32)
    truth[5:15, 40:80] = 1
    short = truth.copy()
    short[:, 55:] = 0  # nine pixels before the edge
    seen = replace(see_planted(short, left), scores=np.array([0.99], np.float32))
    found, _ = merged(tiles, [seen, see_planted(truth, right)])
    assert ops.areas(found.masks).tolist() == [400]
    assert not found.truncated.any()


def test_plain_suppression_to_compare() -> None:
    """It doubles an object that is longer than the overlap."""
    tiles = strip(96, 48, 16)
    truth = np.zeros((20, 96), np.int32)
    truth[5:15, 10:80] = 1
    predictions = [see_planted(truth, tile) for tile in tiles.tiles]
    assert len(merged(tiles, predictions, merge="nms")[0]) > 1
    assert len(merged(tiles, predictions)[0]) == 1


def test_scores_below_the_threshold_do_not_count() -> None:
    tiles = strip(40, 40, 0)
    truth = np.zeros((20, 40), np.int32)
    truth[2:5, 2:5], truth[8:12, 8:12] = 1, 2
    seen = replace(see_planted(truth, next(tiles.tiles)), scores=np.array([0.3, 0.6], np.float32))
    assert merged(tiles, [seen], threshold=0.5)[0].scores.tolist() == pytest.approx([0.6])


def test_each_object_belongs_to_one_of_two_areas() -> None:
    tiles = strip(120, 48, 24)
    truth = planted_objects((20, 120), count=12, longest=18, seed=4)
    west = np.zeros((20, 120), np.bool_)
    west[:, :61] = True
    predictions = [see_planted(truth, tile) for tile in tiles.tiles]
    parts = [
        len(merged(tiles, predictions, mask=lambda top, stop, area=area: area[top:stop])[0])
        for area in (west, ~west)
    ]
    assert min(parts) > 0
    assert sum(parts) == len(np.unique(truth)) - 1


def test_rows_must_come_in_order() -> None:
    tiles = plan(grid(64, 20), Tiling(32, 8, 8, exact=True))
    first, second = (see_planted(np.zeros((64, 20), np.int32), t) for t in list(tiles.tiles)[:2])
    mosaic = InstanceMosaic(tiles)
    assert list(mosaic.add(second)) == []
    with pytest.raises(ValueError, match="comes after its rows"):
        list(mosaic.add(first))


def test_what_is_held_does_not_grow_with_the_scene() -> None:
    """Of a tall scene never more than what reaches into the next row of tiles."""
    truth = np.tile(planted_objects((100, 80), count=60, longest=20, seed=1), (20, 1))
    truth[truth > 0] += (np.arange(len(truth))[:, None] // 100 * 1000 + 0 * truth)[truth > 0]
    tiles = plan(grid(2000, 80), Tiling(40, 16, 8, exact=True))
    mosaic, held, out = InstanceMosaic(tiles), [], 0
    for tile in tiles.tiles:
        out += sum(len(o) for o in mosaic.add(see_planted(truth, tile)))
        held.append(sum(len(v.ids) for v in mosaic._views))
    assert max(held[len(held) // 2 :]) <= 1.2 * max(held[: len(held) // 4])
    assert out > 500


# --- masks ----------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_masks_are_pasted_as_by_the_book(seed: int, boxes_only: bool) -> None:
    """Bilinear at the centres of pixels, zero beyond the box; torch's grid_sample says the same."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    n, m, height, width = int(rng.integers(0, 5)), int(rng.integers(2, 9)), 24, 31
    low = rng.uniform(-10, 28, (n, 2))
    boxes = np.hstack([low, low + rng.uniform(0.5, 30, (n, 2))]).astype(np.float32)
    masks = rng.random((n, m, m)).astype(np.float32)
    valid = rng.random((height, width)) < 0.9
    labels, scores = np.zeros(n, np.int64), np.full(n, 0.5, np.float32)
    found = Detections(boxes, labels, scores, None if boxes_only else masks)
    tile = Tile(0, Window(100, 200, height, width), Window(100, 200, height, width))
    pasted = paste(tile, found, valid, [7])
    y, x = np.mgrid[:height, :width] + 0.5
    at = 0
    painted = np.zeros((height, width))
    for i in range(n):
        left, top, right, bottom = boxes[i].astype(np.float64)
        u, v = (x - left) / (right - left), (y - top) / (bottom - top)
        if boxes_only:
            p = ((u >= 0) & (u < 1) & (v >= 0) & (v < 1)).astype(float)
        else:
            where = torch.from_numpy(np.stack([u * 2 - 1, v * 2 - 1], -1))[None]
            source = torch.from_numpy(masks[i].astype(np.float64))[None, None]
            p = torch.nn.functional.grid_sample(source, where, align_corners=False)[0, 0].numpy()
            p[(x + 0.5 <= left) | (x - 0.5 >= right) | (y + 0.5 <= top) | (y - 0.5 >= bottom)] = 0
        assume(not (np.abs(p - 0.5) < 1e-6).any())
        painted = np.maximum(painted, p * 0.5)
        inside = (p >= 0.5) & valid
        if inside.any():
            whole = np.zeros((height + 100, width + 200), np.bool_)
            whole[100:, 200:] = inside
            assert np.array_equal(picture(pasted.masks, at, whole.shape), whole)
            rows, cols = np.nonzero(whole)
            tight = (rows.min(), cols.min(), np.ptp(rows) + 1, np.ptp(cols) + 1)
            assert tuple(pasted.masks.windows[at]) == tight
            at += 1
    assert len(pasted) == at
    assert (pasted.labels == 7).all()
    assert np.allclose(paint(found, 1, (height, width))[0], painted, atol=1e-5)


@given(st.integers(0, 2**32 - 1))
def test_outlines_are_those_of_the_pixels(seed: int) -> None:
    """Of masks in several pieces, with holes, over and beside each other, in any number."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 8))
    shapes = rng.integers(1, 12, (n, 2))
    masks = [rng.random(tuple(s)) < rng.choice([0.4, 0.8]) for s in shapes]
    masks = [m for m in masks if m.any()]
    places = rng.integers(0, 30, (len(masks), 2))
    several = Masks(
        np.array([(*p, *m.shape) for p, m in zip(places, masks, strict=True)], np.int32).reshape(
            -1, 4
        ),
        np.concatenate([np.empty(0, np.bool_), *(m.ravel() for m in masks)]),
        np.cumsum([0, *(m.size for m in masks)]),
    )
    transform = Affine(2, 0, 1000, 0, -3, 5000)
    outlined = outlines(several, transform)
    for i, shape in enumerate(outlined):
        drawn = picture(several, i, (50, 50))
        found = rasterio.features.shapes(drawn.astype(np.uint8), mask=drawn, transform=transform)
        expected = shapely.union_all([shapely.geometry.shape(s) for s, _ in found])
        assert shapely.equals(shape, expected)
        assert shape.is_valid
        assert shape.area == drawn.sum() * 6


def test_a_batch_larger_than_a_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = planted_objects((60, 300), count=40, longest=30, seed=2)
    tiles = strip(300, 300, 0)
    masks = see_planted(np.ascontiguousarray(truth[:20]), next(tiles.tiles)).masks
    whole = outlines(masks, Affine.identity())
    monkeypatch.setattr("geoseg.instances.features.SHEET", 50)
    assert shapely.equals(outlines(masks, Affine.identity()), whole).all()


# --- layers of polygons ---------------------------------------------------------------------


def as_layer(truth: NDArray[np.int32], tiles: Plan) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame]:
    """What a perfect model sees in each tile, and the tiles."""
    frames, views = [], []
    for tile in tiles.tiles:
        seen = see_planted(truth, tile, apart=True)
        content = {"view": tile.index, "score": seen.scores, "class": "thing"}
        shapes = outlines(seen.masks, Affine.identity())
        frames.append(gpd.GeoDataFrame(content, geometry=shapes, crs=32633))
        w = tile.read.intersection(tiles.grid.window)
        views.append(shapely.box(w.col, w.row, w.col_stop, w.row_stop))
    index = [tile.index for tile in tiles.tiles]
    return pd.concat(frames, ignore_index=True), gpd.GeoDataFrame(
        {"view": index}, geometry=views, crs=32633
    )


@settings(max_examples=40)
@given(planted())
def test_planted_polygons_of_any_tool_are_merged(scene: tuple[NDArray[np.int32], Plan]) -> None:
    truth, tiles = scene
    assume(truth.any())
    layer, views = as_layer(truth, tiles)
    found = geoseg.merge_instances(layer, views)
    numbers = np.unique(truth[truth > 0])
    assert len(found) == len(numbers)
    assert not found["truncated"].any()
    assert sorted(found.area) == sorted(np.bincount(truth[truth > 0])[numbers])


def test_scenes_may_come_without_footprints_and_with_broken_polygons() -> None:
    knot = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    layer = gpd.GeoDataFrame(
        {"scene": ["a", "b", "b"], "p": [0.5, 0.9, 0.7], "note": ["x", "y", "z"]},
        geometry=[knot, shapely.box(0, 0, 10, 9.5), shapely.box(30, 30, 40, 40)],
        crs=32633,
    )
    found = geoseg.merge_instances(layer, view="scene", score="p", label=None)
    assert found["note"].tolist() == ["y", "z"]
    assert found["parts"].tolist() == [2, 1]
    assert found.crs == layer.crs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="view"), "no column 'view'; they have: score, class"),
        (lambda f: f.set_geometry(f.centroid), "3 of 3 detections are no polygons"),
        (lambda f: f.assign(view="elsewhere"), "no footprint of 'elsewhere'"),
    ],
)
def test_layers_that_cannot_be_merged_are_told(change: Any, message: str) -> None:
    layer = gpd.GeoDataFrame(
        {"view": [0] * 3, "score": [0.5] * 3, "class": ["a"] * 3},
        geometry=[shapely.box(i, 0, i + 2, 2) for i in range(3)],
    )
    views = gpd.GeoDataFrame({"view": [0]}, geometry=[shapely.box(0, 0, 9, 9)])
    with pytest.raises(GeosegError, match=message):
        geoseg.merge_instances(change(layer), views)


def test_nothing_to_merge() -> None:
    layer = gpd.GeoDataFrame({"view": [], "score": [], "class": []}, geometry=[], crs=32633)
    assert len(geoseg.merge_instances(layer)) == 0
