"""Overlapping scenes without doubled polygons, larger than memory.

Scenes are gone through from one side of the archive to the other. What no other scene can see goes
straight on. What several may see is held until no further scene can reach it, and is joined then:

*Pixels*: each place belongs to one scene (see seams.py). Polygons are cut to what belongs to their
scene, and those of a class that meet along a seam become one, as across tiles.

*Objects*: of models that find objects, and of classes whose outlines are those of single objects
(regularized, or cut apart). They stay whole: the rule of geoseg.instances.rule, with scenes for
tiles, says which detections are one object and which of them stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geoseg.batch.seams import Ground, Seams
from geoseg.components import components
from geoseg.instances.frames import join
from geoseg.vectorize.attributes import attributes, large_enough, mean_width
from geoseg.vectorize.measure import area_perimeter, metres_to_units

if TYPE_CHECKING:
    import geopandas as gpd
    from pyproj import CRS

SCENE = "scene"  # the column that names the scene
SCENES = "scenes"  # how many scenes an object was made of
ROW = "_row"  # in its scene
_GROUP = "_group"  # of what is joined
_CUT = "_cut"  # whether a polygon is only a part of what the scene has
_SEAM = "_seam"  # the part of a polygon's border that lies on a seam
_MILLIMETRE = 1e-3
_CONTACT = 0.5  # pixels along a seam: what meets there at least so long is one

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """A scene with its ground. extent: left, bottom, right, top of all its polygons, too.

    frames: gives its polygons, part by part, with columns scene and _row.
    """

    ground: Ground
    extent: tuple[float, float, float, float]
    frames: Callable[[], Iterable[gpd.GeoDataFrame]]


@dataclass(frozen=True)
class Limits:
    """What has to hold for polygons that were cut or joined, too; in metres."""

    min_area_m2: float = 0.0
    min_width_m: float = 0.0


def deduped(
    scenes: Sequence[Scene],
    crs: CRS | None,
    *,
    is_object: Callable[[gpd.GeoDataFrame], Bool],
    limits: Limits = Limits(),
) -> Iterator[gpd.GeoDataFrame]:
    """The polygons of all scenes, each thing on the ground once, with a column `scenes`.

    scenes: sorted by name. crs: of all polygons and grounds. is_object: which of the polygons are
    joined by the rule of objects. What comes out depends on neither the order of the scenes nor
    of their polygons in time; what is held is what scenes share that one line across all crosses.
    """
    seams = Seams([scene.ground for scene in scenes])
    extents = np.array([scene.extent for scene in scenes]).reshape(-1, 4)
    near = _millimetre(crs, extents)
    joiners = [_Pixels(seams, crs, near, limits), _Objects(seams, crs, near)]
    low, high = extents.min(0, initial=np.inf), extents.max(0, initial=-np.inf)
    axis = int(high[3] - low[1] > high[2] - low[0])  # the line that sweeps is the shorter one
    order = np.argsort(extents[:, axis], kind="stable")
    fronts = [*(extents[order[1:], axis] - 2 * near), np.inf]
    for index, front in zip(order.tolist(), fronts[: len(order)], strict=True):
        for frame in scenes[index].frames():
            objects = is_object(frame)
            for joiner, mine in zip(joiners, (~objects, objects), strict=True):
                if mine.any():
                    yield joiner.add(index, frame[mine])
        for joiner in joiners:
            if (final := joiner.close(axis, front)) is not None:
                yield final


def _millimetre(crs: CRS | None, extents: NDArray[np.float64]) -> float:
    """In units of the map, about; a power of two."""
    if not len(extents):
        return _MILLIMETRE
    middle = (extents[:1, :2] + extents[:1, 2:]) / 2
    return float(2 ** np.floor(np.log2(metres_to_units(_MILLIMETRE, crs, middle)[0])))


class _Joiner:
    """Features that may still be joined to others, and which of them are linked so far."""

    def __init__(self, seams: Seams, crs: CRS | None, near: float) -> None:
        self._seams, self._crs, self._near = seams, crs, near
        self._held: gpd.GeoDataFrame | None = None
        self._one = self._two = np.empty(0, np.int64)  # rows of `_held` that are linked
        self._number = {ground.name: i for i, ground in enumerate(seams.grounds)}

    def add(self, index: int, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        """Take in some polygons of a scene; those that are final already come back."""
        passed, held = self._sorted(index, frame)
        if len(held):
            if self._held is not None:
                one, two = self._linked(self._held, held)
                self._one = np.append(self._one, one)
                self._two = np.append(self._two, two + len(self._held))
                held = pd.concat([self._held, held], ignore_index=True)
            self._held = held.reset_index(drop=True)
        return _told(passed, np.ones(len(passed), np.int32))

    def close(self, axis: int, front: float) -> gpd.GeoDataFrame | None:
        """What lies before the front, with all that it is linked to; None for nothing."""
        held = self._held
        if held is None:
            return None
        count, groups = components(len(held), self._one, self._two)
        reach = np.full(count, -np.inf)
        np.maximum.at(reach, groups, held.geometry.bounds.to_numpy()[:, 2 + axis])
        final = (reach < front)[groups]
        if not final.any():
            return None
        place = np.cumsum(~final) - 1
        rest = ~final[self._one]
        self._one, self._two = place[self._one[rest]], place[self._two[rest]]
        self._held = None if final.all() else held[~final].reset_index(drop=True)
        done = held[final].assign(**{_GROUP: groups[final]})
        return self._joined(done.sort_values([SCENE, ROW], kind="stable", ignore_index=True))

    def _sorted(
        self, index: int, frame: gpd.GeoDataFrame
    ) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame]:
        """What no other scene can see; and what has to be held, as it has to be held."""
        raise NotImplementedError

    def _linked(self, old: gpd.GeoDataFrame, new: gpd.GeoDataFrame) -> tuple[Int64, Int64]:
        """Rows of both that have to be looked at together."""
        raise NotImplementedError

    def _joined(self, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        """What comes out of features that nothing else is linked to, sorted by scene and row."""
        raise NotImplementedError

    def _scenes(self, frame: gpd.GeoDataFrame) -> Int64:
        """(N,) Their numbers."""
        return np.asarray(frame[SCENE].map(self._number), np.int64)


def _told(frame: gpd.GeoDataFrame, scenes: NDArray[np.int32]) -> gpd.GeoDataFrame:
    """As it goes out: with the number of scenes."""
    helpers = [name for name in (ROW, _SEAM, _CUT, _GROUP) if name in frame.columns]
    return frame.drop(columns=helpers).assign(**{SCENES: scenes.astype(np.int32)})


class _Pixels(_Joiner):
    """Polygons are cut to what belongs to their scene, and united where they meet along seams."""

    def __init__(self, seams: Seams, crs: CRS | None, near: float, limits: Limits) -> None:
        super().__init__(seams, crs, near)
        self._limits = limits
        self._foreign: tuple[int, Any, Any] | None = None

    def _rim(self, index: int) -> tuple[Any, Any]:
        """What belongs to other scenes, and the same with a rim; of the last scene it is kept."""
        if self._foreign is None or self._foreign[0] != index:
            foreign = self._seams.foreign(index, self._near)
            rim = shapely.buffer(foreign, self._near, join_style="mitre")
            shapely.prepare([foreign, rim])
            self._foreign = index, foreign, rim
        return self._foreign[1:]

    def _sorted(
        self, index: int, frame: gpd.GeoDataFrame
    ) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame]:
        foreign, rim = self._rim(index)
        shapes = np.asarray(frame.geometry.array)
        meets = np.asarray(shapely.intersects(rim, shapes))
        rows = np.flatnonzero(meets)
        shapes = _mended(shapes, rows)
        rows = rows[~shapely.covers(foreign, shapes[rows])]
        pieces, of = shapely.get_parts(shapely.difference(shapes[rows], foreign), return_index=True)
        areas = shapely.area(pieces)
        real = mean_width(areas, np.asarray(shapely.length(pieces))) > 4 * self._near
        pieces, rows, areas = pieces[real], rows[of[real]], areas[real]
        held = frame.iloc[rows].set_geometry(pieces, crs=frame.crs)
        held[_CUT] = areas < shapely.area(shapes[rows]) * (1 - 1e-9)
        seam = shapely.intersection(shapely.boundary(pieces), rim)
        held[_SEAM] = pd.Series(seam, index=held.index, dtype=object)
        return frame[~meets], held

    def _linked(self, old: gpd.GeoDataFrame, new: gpd.GeoDataFrame) -> tuple[Int64, Int64]:
        two, one = shapely.STRtree(old.geometry.array).query(
            new.geometry.array, "dwithin", self._near
        )
        classes = old["class_id"].to_numpy()[one] == new["class_id"].to_numpy()[two]
        numbers = self._scenes(old)[one], self._scenes(new)[two]
        rows = classes & (numbers[0] != numbers[1])
        one, two = one[rows], two[rows]
        pixels = np.array([ground.pixel for ground in self._seams.grounds])
        pixel = np.minimum(pixels[numbers[0][rows]], pixels[numbers[1][rows]])
        edges = shapely.buffer(old[_SEAM].to_numpy()[one], 2 * self._near, cap_style="flat")
        meet = shapely.length(shapely.intersection(new[_SEAM].to_numpy()[two], edges))
        along = meet >= _CONTACT * pixel
        return one[along].astype(np.int64), two[along].astype(np.int64)

    def _joined(self, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        shapes, groups = np.asarray(frame.geometry.array), frame[_GROUP].to_numpy()
        area = area_perimeter(shapes, self._crs)[0]
        _, groups, counts = np.unique(groups, return_inverse=True, return_counts=True)
        order = np.lexsort((-area, groups))  # the largest of each group first
        starts = np.cumsum(counts) - counts
        out = frame.iloc[order[starts]].reset_index(drop=True)
        _pooled(out, frame.iloc[order], area[order], starts)
        keys = np.unique(groups * len(self._number) + self._scenes(frame)) // len(self._number)
        scenes = np.bincount(keys, minlength=len(counts)).astype(np.int32)
        several = counts > 1
        united = [
            self._united(shapes[np.sort(order[start : start + count])])
            for start, count in zip(starts[several], counts[several], strict=True)
        ]
        geometry = shapes[order[starts]]
        geometry[several] = united
        return self._measured(out.set_geometry(geometry, crs=frame.crs), several, scenes)

    def _united(self, shapes: NDArray[np.object_]) -> Any:
        """Their union; cracks that rounding leaves along seams are closed."""
        union = shapely.union_all(shapes, grid_size=self._near)
        return shapely.simplify(union, self._near)  # without the vertices where they met

    def _measured(
        self, frame: gpd.GeoDataFrame, several: Bool, scenes: NDArray[np.int32]
    ) -> gpd.GeoDataFrame:
        """With what is true of the new outlines, and without what is too small now."""
        new = several | frame[_CUT].to_numpy(bool)
        frame, of = _measured(frame, new, self._crs)
        new, several = new[of], several[of]
        keep = large_enough(
            frame["area_m2"].to_numpy(),
            frame["perimeter_m"].to_numpy(),
            min_area_m2=self._limits.min_area_m2,
            min_width_m=self._limits.min_width_m,
        )
        pixels = np.array([ground.pixel for ground in self._seams.grounds])[self._scenes(frame)]
        shapes = frame.geometry.array
        width = mean_width(np.asarray(shapely.area(shapes)), np.asarray(shapely.length(shapes)))
        keep &= several | (width >= pixels)  # grids that differ by half a pixel leave such strips
        keep |= ~new
        return _told(frame[keep], scenes[of][keep])


class _Objects(_Joiner):
    """Polygons stay whole; what several scenes see of an object becomes one by the rule."""

    def __init__(self, seams: Seams, crs: CRS | None, near: float) -> None:
        super().__init__(seams, crs, near)
        self._others: tuple[int, Any] | None = None

    def _sorted(
        self, index: int, frame: gpd.GeoDataFrame
    ) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame]:
        if self._others is None or self._others[0] != index:
            around = self._seams.neighbours(index, self._near)
            others = shapely.union_all([self._seams.grounds[i].shape for i in around])
            shapely.prepare(others)
            self._others = index, others
        shapes = np.asarray(frame.geometry.array)
        seen = np.asarray(shapely.intersects(self._others[1], shapes))
        held = frame[seen].set_geometry(_mended(shapes, np.flatnonzero(seen))[seen], crs=frame.crs)
        return frame[~seen], held

    def _linked(self, old: gpd.GeoDataFrame, new: gpd.GeoDataFrame) -> tuple[Int64, Int64]:
        two, one = shapely.STRtree(old.geometry.array).query(new.geometry.array, "intersects")
        apart = self._scenes(old)[one] != self._scenes(new)[two]
        return one[apart].astype(np.int64), two[apart].astype(np.int64)

    def _joined(self, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        scenes, grounds = self._scenes(frame), self._seams.grounds
        views = {v for i in np.unique(scenes).tolist() for v in self._seams.neighbours(i, 0)}
        views |= set(scenes.tolist())
        several = np.array(sorted(views))
        score = "score" if "score" in frame.columns else "confidence"
        if "truncated" in frame.columns:  # by a tile, inside of its scene
            frame = frame.assign(**{_CUT: frame["truncated"]})
        shapes = np.asarray(frame.geometry.array)
        out, place = join(
            frame,
            shapes,
            np.searchsorted(several, scenes),
            np.array([grounds[i].shape for i in several], object),
            labels=frame["class_id"].to_numpy(np.int64),
            scores=frame[score].to_numpy(float),
            score=score,
        )
        kept = place >= 0
        keys = np.unique(place[kept] * len(grounds) + scenes[kept]) // len(grounds)
        count = np.bincount(keys, minlength=len(out)).astype(np.int32)
        first = pd.Series(shapes, index=pd.MultiIndex.from_frame(frame[[SCENE, ROW]]))
        before = first.loc[pd.MultiIndex.from_frame(out[[SCENE, ROW]])].to_numpy()
        united = ~shapely.equals_identical(before, np.asarray(out.geometry.array))
        if "confidence_min" in out.columns:
            least = np.full(len(out), np.inf)
            np.minimum.at(least, place[kept], frame["confidence_min"].to_numpy(float)[kept])
            out.loc[united, "confidence_min"] = least[united].astype(np.float32)
        if _CUT in out.columns:
            out["truncated"] |= out[_CUT]
        else:
            out = out.drop(columns="truncated")
        out, of = _measured(out.drop(columns="parts"), united, self._crs, apart=score != "score")
        return _told(out, count[of])


def _mended(shapes: NDArray[np.object_], rows: Int64) -> NDArray[np.object_]:
    """With these rows valid, which outlines that were simplified may not be."""
    broken = rows[~shapely.is_valid(shapes[rows])]
    if len(broken):
        shapes = shapes.copy()
        shapes[broken] = shapely.make_valid(shapes[broken], method="structure")
    return shapes


def _pooled(
    out: gpd.GeoDataFrame, frame: gpd.GeoDataFrame, area: NDArray[np.float64], starts: Int64
) -> None:
    """The confidences of groups, which begin at `starts`: over all the ground of their members."""
    whole = np.add.reduceat(area, starts)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.add.reduceat(values * area, starts) / whole)

    several = np.diff(starts, append=len(frame)) > 1
    confidence = frame["confidence"].to_numpy(float)
    pooled = {
        "confidence": mean(confidence),
        "confidence_min": np.minimum.reduceat(frame["confidence_min"].to_numpy(), starts),
    }
    if "confidence_std" in frame.columns:
        square = mean(frame["confidence_std"].to_numpy(float) ** 2 + confidence**2)
        pooled["confidence_std"] = np.sqrt(np.maximum(square - pooled["confidence"] ** 2, 0))
    for name, values in pooled.items():
        before = frame[name].to_numpy()[starts]
        out[name] = np.where(several, values, before).astype(before.dtype)


def _measured(
    frame: gpd.GeoDataFrame, new: Bool, crs: CRS | None, *, apart: bool = True
) -> tuple[gpd.GeoDataFrame, Int64]:
    """With the measures of the outlines that are new, and of each row which one it was.

    apart: what is in several pieces becomes several rows.
    """
    of = np.arange(len(frame))
    if apart:
        parts, of = shapely.get_parts(frame.geometry.array, return_index=True)
        frame = frame.iloc[of].reset_index(drop=True).set_geometry(parts, crs=frame.crs)
    rows = np.flatnonzero(new[of])
    if len(rows):
        shapes = np.asarray(frame.geometry.array).copy()
        shapes[rows] = shapely.orient_polygons(shapes[rows])
        frame = frame.set_geometry(shapes, crs=frame.crs)
        area, perimeter = area_perimeter(shapes[rows], crs)
        values = {"area_m2": area, "perimeter_m": perimeter}
        if "compactness" in frame.columns:
            values |= attributes(shapes[rows], crs, area, perimeter)
        for name, column in values.items():
            everything = frame[name].to_numpy().copy()
            everything[rows] = column
            frame[name] = everything
    return frame, of
