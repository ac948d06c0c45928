"""Objects across tiles: the rule against a dumb one, and planted objects found whole and once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from geoseg.grid import Grid, Plan, Tile, Tiling, Window, plan
from geoseg.instances import masks as ops
from geoseg.instances.mosaic import InstanceMosaic
from geoseg.predictions import InstancePrediction, Masks, Objects
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
            if not any(self._conflict(one[0], other[0], joined) for other in kept):
                kept.append(one)
        return {(lab, round(s, 5), cut, m.tobytes()) for _, m, lab, s, cut in kept}

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
    ) -> tuple[NDArray[np.bool_], int, float, bool]:
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
            return self.mask[best], self.label[best], self.score[best], False
        areas = [int(self.mask[i].sum()) for i in group]
        score = float(np.average([self.score[i] for i in group], weights=areas))
        cut = any(
            self.edges[i]
            - set().union(*(self._edges(i, self.window[self.view[j]]) for j in partners[i]))
            for i in group
        )
        return np.any([self.mask[i] for i in group], axis=0), self.label[group[0]], score, cut

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
        _, mask, _, score, cut = found
        top, left, *_ = self._box(mask)
        return cut, -np.float32(score), -mask.sum(), top, left

    def _conflict(self, one: list[int], two: list[int], joined: set[tuple[int, int]]) -> bool:
        if {self.view[i] for i in one} & {self.view[i] for i in two}:
            return False
        for i in one:
            for j in two:
                common, a, b = self._common(i, j), self.mask[i].sum(), self.mask[j].sum()
                whole = min(a, b) if self.label[i] == self.label[j] else a + b - common
                if common and common >= 0.5 * whole:
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
