"""When two detections are one object: the rule, on tables of pairs; whoever fills them may be a
raster (mosaic.py) or a layer of polygons (frames.py).

Every detection was made in a *view*: the ground that a tile (or a scene) shows. Where two views
overlap, both have seen the same ground, so there they can be held against each other, whatever
each sees elsewhere. That needs no rule for sizes: an object in two tiles agrees with itself
wherever both look, be it shorter than the overlap or longer than a tile.

1.  *Agree*: two detections of a class in two views are the same object if their IoU, of what lies
    in both views, is at least AGREE, and each is the other's best in that view.
2.  *Continue*: a fragment (cut by an edge of its view that lies inside the other view) without a
    partner there by 1 is the same object as the one that covers it best, if that covers at least
    COVER of what the other view shows of it. So the legs of a U, apart in one tile, come together.
3.  Objects are what is connected by 1 and 2. An object is *whole* in a view if it is not cut there
    and no partner reaches out of the view by more than SPILL of itself. Of several such detections
    the one with the best score stands for the object; if there is none, their union does.
4.  *Conflict*: where what stands for two objects was seen in two views and one covers at least
    OVERLAP of the other (of another class: with that IoU), they cannot both be there, unless each
    of the two views has seen both; the one with the lower score goes, greedily from the best on.

Nothing of it depends on the order of tiles, and a pair is decided by these two views alone, so a
row of tiles is all that has to be remembered. Sources: ownership and matching across tiles in
cell segmentation (Weigert et al. 2020, StarDist), intersection over the smaller one for cut
objects as in SAHI (Akyon et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

AGREE = 0.3
COVER = 0.5
SPILL = 0.05
OVERLAP = 0.5

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Detections of different views that overlap; (n,) each, `one` and `two` by number.

    common: area of their intersection. area_one, area_two: of each, inside the other's view.
    cut_one, cut_two: by which edges of its view (bits) it is cut that lie inside the other view.
    """

    one: Int64
    two: Int64
    common: Float64
    area_one: Float64
    area_two: Float64
    cut_one: NDArray[np.uint8]
    cut_two: NDArray[np.uint8]

    @classmethod
    def concatenate(cls, parts: list[Pairs]) -> Self:
        columns = {
            f.name: [getattr(p, f.name) for p in parts] or [np.empty(0, _TYPES[f.name])]
            for f in fields(cls)
        }
        return cls(**{name: np.concatenate(arrays) for name, arrays in columns.items()})

    def __len__(self) -> int:
        return len(self.one)

    def take(self, rows: NDArray[Any]) -> Pairs:
        return Pairs(*(getattr(self, f.name)[rows] for f in fields(self)))


_TYPES = {
    **dict.fromkeys(("one", "two"), np.int64),
    **dict.fromkeys(("common", "area_one", "area_two"), np.float64),
    **dict.fromkeys(("cut_one", "cut_two"), np.uint8),
}


def same_object(pairs: Pairs, labels: NDArray[Any], views: NDArray[Any]) -> Bool:
    """(n,) Whether each pair is one object, by 1 and 2.

    `labels` and `views` of all detections. The pairs of two views must be there all together.
    """
    alike = labels[pairs.one] == labels[pairs.two]
    iou = np.where(alike, pairs.common / (pairs.area_one + pairs.area_two - pairs.common), 0.0)
    to_two, to_one = (pairs.one, views[pairs.two]), (pairs.two, views[pairs.one])
    agree = (iou >= AGREE) & _best(*to_two, iou, pairs.two) & _best(*to_one, iou, pairs.one)
    joined = agree.copy()
    for key, cut, area, other in (
        (to_two, pairs.cut_one, pairs.area_one, pairs.two),
        (to_one, pairs.cut_two, pairs.area_two, pairs.one),
    ):
        cover = np.where(alike & (cut > 0) & ~_any_of(*key, agree), pairs.common / area, 0.0)
        joined |= (cover >= COVER) & _best(*key, cover, other)
    return joined


def in_conflict(pairs: Pairs, labels: NDArray[Any], areas: Float64, joined: Bool) -> Bool:
    """(n,) Whether the detections of a pair cannot both stand for an object, by 4."""
    one, two = areas[pairs.one], areas[pairs.two]
    alike = labels[pairs.one] == labels[pairs.two]
    whole = np.where(alike, np.minimum(one, two), one + two - pairs.common)
    apart: Bool = ~joined & (pairs.common >= OVERLAP * whole)
    return apart


def whole(pairs: Pairs, joined: Bool, areas: Float64, cut: NDArray[np.uint8]) -> Bool:
    """(detections,) Whether each shows all of its object, by 3. `cut`: by edges of its view."""
    shown: Bool = cut == 0
    for own, other, seen in (
        (pairs.one, pairs.two, pairs.area_two),
        (pairs.two, pairs.one, pairs.area_one),
    ):
        beyond = areas[other] - seen > SPILL * areas[other]
        shown[own[joined & beyond]] = False
    return shown


def open_ends(pairs: Pairs, joined: Bool, cut: NDArray[np.uint8]) -> Bool:
    """(detections,) Whether each is cut by an edge beyond which no partner has looked."""
    settled = np.zeros_like(cut)
    np.bitwise_or.at(settled, pairs.one[joined], pairs.cut_one[joined])
    np.bitwise_or.at(settled, pairs.two[joined], pairs.cut_two[joined])
    unsettled: Bool = (cut & ~settled) > 0
    return unsettled


def representatives(
    groups: Int64, number: int, shown: Bool, scores: NDArray[Any], areas: Float64
) -> Int64:
    """(number,) The detection that stands for each group: of those that show all of it the one
    with the best score (then the largest, then the first); -1 where the union does."""
    members = np.flatnonzero(shown)
    order = np.lexsort((members, -areas[members], -scores[members], groups[members]))
    members = members[order]
    chosen = np.full(number, -1, np.int64)
    chosen[groups[members][::-1]] = members[::-1]  # the first of each group is written last
    return chosen


def survivors(ranks: Int64, one: Int64, two: Int64) -> Bool:
    """(objects,) Which remain of those in conflict (pairs), taken greedily, rank 0 first."""
    remain = np.ones(len(ranks), np.bool_)
    first, second = np.where(ranks[one] < ranks[two], (one, two), (two, one))
    for k in np.lexsort((ranks[second], ranks[first])):
        if remain[first[k]]:
            remain[second[k]] = False
    return remain


def opposed(pairs: Pairs, groups: Int64, chosen: Int64, views: NDArray[Any]) -> tuple[Int64, Int64]:
    """Pairs of groups that are in conflict, out of the pairs of detections that are.

    Only what stands for its group counts, and not where both views have seen both objects.
    """
    one, two = groups[pairs.one], groups[pairs.two]
    stands = np.ones(len(pairs), np.bool_)
    for item, group in ((pairs.one, one), (pairs.two, two)):
        stands &= (chosen[group] == item) | (chosen[group] < 0)
    several = int(views.max(initial=0)) + 1
    seen = groups * several + views
    both = np.isin(one * several + views[pairs.two], seen)
    both &= np.isin(two * several + views[pairs.one], seen)
    rows = stands & ~both & (one != two)
    return one[rows], two[rows]


def _best(item: Int64, view: NDArray[Any], value: Float64, other: Int64) -> Bool:
    """(n,) Whether a pair has the greatest value of all of its item in that view; the first of
    equals, by the number of the other."""
    order = np.lexsort((other, -value, view, item))
    item, view = item[order], view[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (item[1:] != item[:-1]) | (view[1:] != view[:-1])
    best = np.zeros(len(order), np.bool_)
    best[order[first]] = True
    return best


def _any_of(item: Int64, view: NDArray[Any], flag: Bool) -> Bool:
    """(n,) Whether the flag is set in any pair of the same item and view."""
    if not len(item):
        return flag
    _, inverse = np.unique(item * (int(view.max()) + 1) + view, return_inverse=True)
    any_: Bool = np.bincount(inverse, flag) > 0
    return any_[inverse]
