"""Objects of tiles in, finished objects of the scene out, while rows of tiles pass.

What tiles see of one object is found by the rule of rule.py. A group of detections is final when
no later tile can read its pixels; then it goes out as one object and is forgotten. An object is
delivered if the tile that owns its anchor (the pixel nearest to its centre of gravity; write
windows partition the scene) is among those that have seen it: so every place is judged by the
tile that sees it best, once, and there are not more false alarms where tiles overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geoseg.components import components
from geoseg.grid import Plan, Window
from geoseg.instances import masks as ops
from geoseg.instances import rule
from geoseg.instances.rule import Pairs
from geoseg.predictions import InstancePrediction, Masks, Objects

Merge = Literal["objects", "nms"]
RowMask = Callable[[int, int], NDArray[np.bool_]]
NMS_IOU = 0.5  # of boxes
_BAND = 256  # rows of the area of interest that are looked at together

# A mask that ends so near to an edge of its view is cut by it: networks stop a little early.
_REACH = 0.04  # of its longer side,
_REACH_PIXELS = (1, 6)  # but at least and at most so many pixels


@dataclass(frozen=True, slots=True)
class _View:
    """What is still under way of the detections of one tile.

    window: what the tile shows of the scene. ids: (N,) numbers over all tiles. areas: (N,)
    pixels. cut: (N,) edges of the view inside the scene (bits) that cut the object.
    """

    index: int
    window: Window
    ids: NDArray[np.int64]
    labels: NDArray[np.uint8]
    scores: NDArray[np.float32]
    masks: Masks
    areas: NDArray[np.float64]
    cut: NDArray[np.uint8]
    keypoints: NDArray[np.float32] | None

    def take(self, rows: NDArray[np.int64]) -> _View:
        return replace(
            self,
            ids=self.ids[rows],
            labels=self.labels[rows],
            scores=self.scores[rows],
            masks=ops.take(self.masks, rows),
            areas=self.areas[rows],
            cut=self.cut[rows],
            keypoints=None if self.keypoints is None else self.keypoints[rows],
        )


class InstanceMosaic:
    """Makes whole objects of the predictions of a plan.

    threshold: detections with a lower score do not count. mask (row_start, row_stop) -> (h, W)
    bool: objects whose anchor is outside of it (area of interest) are left out. merge: 'objects',
    or 'nms' for plain suppression of boxes as other tools do it, which joins nothing: to compare.

    Predictions come one row of tiles after the other; inside a row in any order. unconfirmed:
    how many objects were left out so far because the tile that owns them does not see them.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        threshold: float = 0.0,
        mask: RowMask | None = None,
        merge: Merge = "objects",
    ) -> None:
        self._plan, self._threshold, self._mask, self._merge = plan, threshold, mask, merge
        self._views: list[_View] = []
        self._fresh: list[Pairs] = []  # all that overlap, since the last row of tiles
        self._pairs: list[tuple[Pairs, NDArray[np.bool_]]] = []  # joined, or else in conflict
        self._count, self._row = 0, -1
        self._row_stops = np.array([stop for *_, stop in plan.row_spans])
        self._col_stops = np.array([stop for *_, stop in plan.col_spans])
        self.unconfirmed = 0

    def add(self, prediction: InstancePrediction) -> Iterator[Objects]:
        """Take in one tile; yields the objects that no later tile can touch."""
        row = prediction.tile.read.row
        if row < self._row:
            raise ValueError(f"tile {prediction.tile.index} comes after its rows went out")
        if row > self._row:
            self._row = row
            yield from self._release(row)
        view = self._view(prediction)
        for other in self._views:
            if view.window.intersection(other.window).pixels:
                self._compare(other, view)
        self._views.append(view)

    def finish(self) -> Iterator[Objects]:
        """The objects that are left."""
        yield from self._release(self._plan.grid.height)

    @property
    def notes(self) -> list[str]:
        """What became of objects that could not be delivered, for the user."""
        if not self.unconfirmed:
            return []
        count = "1 object" if self.unconfirmed == 1 else f"{self.unconfirmed} objects"
        return [f"left out, as the tile that sees the place best does not see it: {count}"]

    # --- tiles ------------------------------------------------------------------------------

    def _view(self, prediction: InstancePrediction) -> _View:
        window = prediction.tile.read.intersection(self._plan.grid.window)
        wanted = np.flatnonzero(prediction.scores >= self._threshold)
        masks = ops.take(prediction.masks, wanted)
        ids = self._count + np.arange(len(wanted))
        self._count += len(wanted)
        inner = _edges_inside(window, self._plan.grid.window)
        points = prediction.keypoints
        return _View(
            prediction.tile.index,
            window,
            ids,
            prediction.labels[wanted],
            prediction.scores[wanted],
            masks,
            ops.areas(masks).astype(np.float64),
            _bits(ops.touching(masks, window, _reach(masks)) & inner),
            None if points is None else points[wanted],
        )

    def _compare(self, one: _View, two: _View) -> None:
        """Remember which of two views' detections overlap."""
        if self._merge == "nms":
            self._pairs.append(_nms_pairs(one, two))
            return
        region = one.window.intersection(two.window)
        i, j, common, area_one, area_two = ops.overlaps(one.masks, two.masks, region)
        if len(i):
            self._fresh.append(
                Pairs(
                    one.ids[i],
                    two.ids[j],
                    common.astype(np.float64),
                    area_one.astype(np.float64),
                    area_two.astype(np.float64),
                    one.cut[i] & _bits(_edges_inside(one.window, two.window)),
                    two.cut[j] & _bits(_edges_inside(two.window, one.window)),
                )
            )

    def _decide(self, views: list[_View], ids: NDArray[np.int64]) -> None:
        """Which of the pairs that came since the last time are one object, which in conflict."""
        fresh = Pairs.concatenate(self._fresh)
        self._fresh = []
        local = replace(
            fresh, one=np.searchsorted(ids, fresh.one), two=np.searchsorted(ids, fresh.two)
        )
        labels = np.concatenate([v.labels for v in views])
        areas = np.concatenate([v.areas for v in views])
        joined = rule.same_object(local, labels, _numbers(views))
        kept = joined | rule.in_conflict(local, labels, areas, joined)
        self._pairs.append((fresh.take(kept), joined[kept]))

    # --- objects ----------------------------------------------------------------------------

    def _release(self, stop: int) -> Iterator[Objects]:
        """Send out what lies above row `stop`, with all that it depends on."""
        views = [v for v in self._views if len(v.ids)]
        if not views:
            self._views, self._pairs = [], []
            return
        ids = np.concatenate([v.ids for v in views])
        self._decide(views, ids)
        windows = np.concatenate([v.masks.windows for v in views])
        pairs = Pairs.concatenate([p for p, _ in self._pairs])
        joined = np.concatenate([np.empty(0, np.bool_), *(j for _, j in self._pairs)])
        one, two = (np.searchsorted(ids, number) for number in (pairs.one, pairs.two))
        number, cluster = components(len(ids), one, two)
        bottom = np.zeros(number, np.int64)
        np.maximum.at(bottom, cluster, windows[:, 0] + windows[:, 2])
        closed = (bottom <= stop)[cluster]
        if closed.any():
            out = closed[one]
            place = np.cumsum(closed) - 1
            final = replace(pairs.take(out), one=place[one[out]], two=place[two[out]])
            done = [v.take(rows) for v, rows in _split(views, closed)]
            yield from self._objects(done, final, joined[out])
            self._pairs = [(pairs.take(~out), joined[~out])]
        self._views = [v.take(rows) for v, rows in _split(views, ~closed)]

    def _objects(
        self, views: list[_View], pairs: Pairs, joined: NDArray[np.bool_]
    ) -> Iterator[Objects]:
        """The objects that closed detections (numbered as they lie in `views`) become."""
        table = _Table.of(views)
        number, groups = components(len(table.areas), pairs.one[joined], pairs.two[joined])
        ends = rule.open_ends(pairs, joined, table.cut)
        if self._merge == "nms":
            chosen = np.arange(number)
        else:
            shown = rule.whole(pairs, joined, table.areas, table.cut)
            chosen = rule.representatives(groups, number, shown, table.scores, table.areas)
        objects = table.objects(groups, chosen, ends)
        kept = np.ones(number, np.bool_)
        if self._merge == "objects":
            kept = self._wanted(objects, groups, table.views)
        one, two = rule.opposed(pairs.take(~joined), groups, chosen, table.views)
        both = kept[one] & kept[two]
        if both.any():
            ranks = np.empty(number, np.int64)
            ranks[_order(objects)] = np.arange(number)
            kept &= rule.survivors(ranks, one[both], two[both])
        rows = np.flatnonzero(kept)
        if len(rows):
            top, left = objects.masks.windows[rows, :2].T
            rows = rows[np.lexsort((rows, left, top))]
            yield take(objects, rows)

    def _wanted(
        self, objects: Objects, groups: NDArray[np.int64], views: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """(objects,) Whether the tile that owns an object sees it, and it is in the area."""
        rows, cols = ops.anchors(objects.masks).T
        tile_row = np.searchsorted(self._row_stops, rows, side="right")
        owner = tile_row * len(self._col_stops) + np.searchsorted(
            self._col_stops, cols, side="right"
        )
        tiles = len(self._row_stops) * len(self._col_stops)
        seen = np.isin(np.arange(len(owner)) * tiles + owner, groups * tiles + views)
        inside = np.ones(len(owner), np.bool_)
        if self._mask is not None:
            for band in np.unique(rows // _BAND):
                there = np.flatnonzero(rows // _BAND == band)
                top, stop = int(rows[there].min()), int(rows[there].max()) + 1
                inside[there] = self._mask(top, stop)[rows[there] - top, cols[there]]
        self.unconfirmed += int((inside & ~seen).sum())
        return seen & inside


@dataclass(frozen=True, slots=True)
class _Table:
    """The detections of several views one after the other."""

    views: NDArray[np.int64]
    labels: NDArray[np.uint8]
    scores: NDArray[np.float32]
    areas: NDArray[np.float64]
    cut: NDArray[np.uint8]
    masks: Masks
    keypoints: NDArray[np.float32] | None

    @classmethod
    def of(cls, views: list[_View]) -> _Table:
        points = [v.keypoints for v in views if v.keypoints is not None]
        return cls(
            views=_numbers(views),
            labels=np.concatenate([v.labels for v in views]),
            scores=np.concatenate([v.scores for v in views]),
            areas=np.concatenate([v.areas for v in views]),
            cut=np.concatenate([v.cut for v in views]),
            masks=ops.concatenate([v.masks for v in views]),
            keypoints=np.concatenate(points) if points else None,
        )

    def objects(
        self, groups: NDArray[np.int64], chosen: NDArray[np.int64], ends: NDArray[np.bool_]
    ) -> Objects:
        """One object per group: the detection that was chosen, or the union of all of it."""
        number = len(chosen)
        parts = np.bincount(groups, minlength=number).astype(np.int32)
        joint = np.flatnonzero(chosen < 0)
        order = np.argsort(groups, kind="stable")
        ends_of = np.cumsum(parts)
        # The best of the members lends an object without a whole one its label and keypoints.
        stand = chosen.copy()
        scores = self.scores[stand].copy()
        open_ = np.zeros(number, np.bool_)
        pieces = [ops.take(self.masks, np.flatnonzero(chosen[groups] == np.arange(len(groups))))]
        for group in joint:
            members = order[ends_of[group] - parts[group] : ends_of[group]]
            stand[group] = members[np.argmax(self.scores[members])]
            scores[group] = np.average(self.scores[members], weights=self.areas[members])
            open_[group] = ends[members].any()
            pieces.append(ops.union(ops.take(self.masks, members)))
        lone = np.flatnonzero(chosen >= 0)
        place = np.empty(number, np.int64)
        place[lone[np.argsort(chosen[lone], kind="stable")]] = np.arange(len(lone))
        place[joint] = len(lone) + np.arange(len(joint))
        return Objects(
            self.labels[stand],
            scores,
            ops.take(ops.concatenate(pieces), place),
            parts,
            open_,
            None if self.keypoints is None else self.keypoints[stand],
        )


def take(objects: Objects, rows: NDArray[np.int64]) -> Objects:
    """Some of the objects."""
    points = objects.keypoints
    return Objects(
        objects.labels[rows],
        objects.scores[rows],
        ops.take(objects.masks, rows),
        objects.parts[rows],
        objects.truncated[rows],
        None if points is None else points[rows],
    )


def _order(objects: Objects) -> NDArray[np.int64]:
    """Best first: whole ones by score, then by size, then by place."""
    row, col = objects.masks.windows[:, :2].T
    keys = (col, row, -ops.areas(objects.masks), -objects.scores, objects.truncated)
    return np.asarray(np.lexsort(keys), np.int64)


def _split(
    views: list[_View], wanted: NDArray[np.bool_]
) -> Iterator[tuple[_View, NDArray[np.int64]]]:
    """Each view with the rows that are wanted, of flags for all views one after the other."""
    start = 0
    for view in views:
        stop = start + len(view.ids)
        rows = np.flatnonzero(wanted[start:stop])
        if len(rows):
            yield view, rows
        start = stop


def _numbers(views: list[_View]) -> NDArray[np.int64]:
    """The tile of each detection."""
    return np.repeat([v.index for v in views], [len(v.ids) for v in views]).astype(np.int64)


def _reach(masks: Masks) -> NDArray[np.int64]:
    side = masks.windows[:, 2:].max(1, initial=0)
    reach: NDArray[np.int64] = np.clip(np.rint(_REACH * side), *_REACH_PIXELS).astype(np.int64)
    return reach


def _edges_inside(view: Window, other: Window) -> NDArray[np.bool_]:
    """(4,) Whether the top, left, bottom and right edge of a view lie inside another window."""
    return np.array(
        [
            other.row < view.row < other.row_stop,
            other.col < view.col < other.col_stop,
            other.row < view.row_stop < other.row_stop,
            other.col < view.col_stop < other.col_stop,
        ]
    )


def _bits(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(..., 4) bool to (...) bits."""
    return np.asarray((flags * np.array([1, 2, 4, 8], np.uint8)).sum(-1), np.uint8)


def _nms_pairs(one: _View, two: _View) -> tuple[Pairs, NDArray[np.bool_]]:
    """Boxes of one class with an IoU over NMS_IOU, all of them in conflict."""
    a, b = (v.masks.windows.astype(np.float64) for v in (one, two))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum((a[:, :2] + a[:, 2:])[:, None], (b[:, :2] + b[:, 2:])[None])
    common = np.clip(high - low, 0, None).prod(-1)
    both = a[:, 2:].prod(-1)[:, None] + b[:, 2:].prod(-1)[None] - common
    same = one.labels[:, None] == two.labels[None]
    i, j = np.nonzero(same & (common > NMS_IOU * both))
    size, cut = common[i, j], np.zeros(len(i), np.uint8)
    pairs = Pairs(one.ids[i], two.ids[j], size, size, size, cut, cut)
    return pairs, np.zeros(len(i), np.bool_)
