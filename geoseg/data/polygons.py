"""What is wrong with a file of vector labels: found before training, all of it at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.data.meaning import Meaning
from geoseg.grid import Grid

_SHOWN = 5  # ids and values in a message
_OVERLAP = 0.05  # of the smaller polygon: what two of different classes may share


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with the data: where, what, and what to do."""

    severity: Literal["error", "warning"]
    place: str
    file: str
    message: str
    remedy: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        where = ", ".join(filter(None, (self.place and f"place {self.place}", self.file)))
        return ": ".join(filter(None, (self.severity, where, self.message, self.remedy)))


Said = tuple[Literal["error", "warning"], str, str]  # severity, message, remedy


def of_features(frame: gpd.GeoDataFrame, attribute: str | None, meaning: Meaning) -> Iterator[Said]:
    """A file's features as they were read, wherever they lie."""
    if not len(frame):
        yield "warning", "has no features", "check that the right file and layer are named"
        return
    shapes = frame.geometry.to_numpy()
    empty = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    if empty.any():
        yield (
            "warning",
            f"{_features(empty)} {_verb(empty, 'has', 'have')} no geometry",
            "they are left out; delete them, or draw what they should be",
        )
    broken = ~empty & ~shapely.is_valid(shapes)
    if broken.any():
        why = shapely.is_valid_reason(shapes[np.flatnonzero(broken)[0]])
        yield (
            "warning",
            f"{_features(broken)} {_verb(broken, 'is', 'are')} invalid (first: {why})",
            "they are repaired for training, which may not be what was meant: see QGIS, "
            "Check Validity",
        )
    thin = ~empty & (shapely.get_dimensions(shapes) < 2)
    if thin.any():
        yield (
            "warning",
            f"{_features(thin)} {_verb(thin, 'is a point or line', 'are points or lines')}",
            "they are burnt one pixel wide; buffer them to the size of what they mark",
        )
    yield from _classes(frame, attribute, meaning)
    yield from _twice(frame[~empty], attribute, meaning)


def _classes(frame: gpd.GeoDataFrame, attribute: str | None, meaning: Meaning) -> Iterator[Said]:
    names = [c for c in frame.columns if c != frame.geometry.name]
    if attribute is None:
        if not meaning.anything:
            yield (
                "error",
                f"which attribute holds the class is not said (there are: {listed(names)})",
                "say it in data.attribute",
            )
    elif attribute not in frame.columns:
        yield (
            "error",
            f"has no attribute {attribute!r} (there are: {listed(names)})",
            "correct data.attribute",
        )
    elif unknown := Counter(map(str, meaning.unknown(frame[attribute]))):
        become = "background" if meaning.rest == 0 else "unlabelled"
        yield (
            "warning",
            f"values of {attribute} that are no class: {counted(unknown)}",
            f"they become {become}; list them in the values of a class, or in data.ignore",
        )


def _twice(frame: gpd.GeoDataFrame, attribute: str | None, meaning: Meaning) -> Iterator[Said]:
    """Features that are there twice, and those of different classes over each other."""
    shapes = shapely.normalize(frame.geometry.to_numpy())
    ids = frame.index.to_numpy()
    _, first, times = np.unique(shapely.to_wkb(shapes), return_index=True, return_counts=True)
    if (times > 1).any():
        yield (
            "warning",
            f"{int((times - 1).sum())} features are copies of others "
            f"(first: {_ids(ids[first[times > 1]])})",
            "delete the copies, which count as objects of their own in scores",
        )
    if attribute is None or attribute not in frame.columns:
        return
    codes = meaning.of(frame[attribute])
    valid = _valid(shapes)
    i, j = shapely.STRtree(valid).query(valid, predicate="intersects")
    differ = (i < j) & (codes[i] != codes[j])
    i, j = i[differ], j[differ]
    common = shapely.area(shapely.intersection(valid[i], valid[j]))
    smaller = np.minimum(shapely.area(valid[i]), shapely.area(valid[j]))
    over = common > _OVERLAP * smaller
    if over.any():
        pairs = zip(ids[i[over]][:_SHOWN], ids[j[over]][:_SHOWN], strict=True)
        shown = ", ".join(f"{a} and {b}" for a, b in pairs)
        yield (
            "warning",
            f"{int(over.sum())} pairs of features of different classes overlap (first: {shown})",
            "the later one in the file counts; cut one out of the other",
        )


def of_place(frame: gpd.GeoDataFrame, covered: shapely.Geometry) -> Iterator[Said]:
    """Features against the ground that the place's rasters cover, both in the frame's CRS."""
    frame = frame[~(frame.geometry.is_empty | frame.geometry.isna())]
    if not len(frame):
        return
    shapes = _valid(frame.geometry.to_numpy())
    shapely.prepare(covered)
    outside = ~shapely.intersects(covered, shapes)
    if outside.all():
        swapped = shapely.transform(shapely.box(*frame.total_bounds), lambda xy: xy[:, ::-1])
        turned = shapely.intersects(covered, swapped)
        yield (
            "error",
            f"lies outside of the raster: it spans {extent(frame.total_bounds)}, the raster "
            f"{extent(covered.bounds)} (both in {crs_name(frame)})",
            "x and y are swapped: swap them" if turned else "check the CRS of both",
        )
    elif outside.any():
        crossing = int((~outside & ~shapely.covers(covered, shapes)).sum())
        yield (
            "warning",
            f"{_features(outside, frame.index.to_numpy())} of {len(frame)} "
            f"{_verb(outside, 'lies', 'lie')} outside of the raster, {crossing} cross its edge",
            "they are not used; check the CRS if they should be",
        )


def of_area(frame: gpd.GeoDataFrame, area: shapely.Geometry) -> Iterator[Said]:
    """Labels against the area that was labelled."""
    shapely.prepare(area)
    outside = ~shapely.intersects(area, _valid(frame.geometry.to_numpy()))
    outside &= ~(frame.geometry.is_empty | frame.geometry.isna()).to_numpy()
    if outside.any():
        yield (
            "warning",
            f"{_features(outside)} of {len(frame)} {_verb(outside, 'lies', 'lie')} outside of "
            "the labelled area",
            "they are not used; draw a larger aoi if that ground was labelled",
        )


def of_size(frame: gpd.GeoDataFrame, grid: Grid, gsd: float) -> Iterator[Said]:
    """Polygons against the pixels of a grid, that of one of the rasters."""
    if (frame.crs is None) != (grid.crs is None):
        return
    shapes = frame.to_crs(grid.crs).geometry if grid.crs else frame.geometry
    finite = shapes[np.isfinite(shapes.bounds).all(axis=1)]  # others have no place in that CRS
    areas = shapely.area(finite.to_numpy()) / abs(grid.transform.determinant)
    small = (areas > 0) & (areas < 1)
    if small.any():
        yield (
            "warning",
            f"{int(small.sum())} of {len(frame)} polygons are smaller than a pixel of {gsd:g} m",
            "most of them vanish; train at a smaller data.gsd, or drop them",
        )


def listed(names: Iterable[Any]) -> str:
    names = list(map(str, names))
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return (", ".join(names[:12]) or "none") + more


def counted(values: Counter[str]) -> str:
    """'12 x meadow, 3 x None', the most frequent first."""
    shown = ", ".join(f"{n} x {value}" for value, n in values.most_common(2 * _SHOWN))
    more = len(values) - 2 * _SHOWN
    return shown + (f" and {more} more" if more > 0 else "")


def extent(bounds: Iterable[float]) -> str:
    left, bottom, right, top = (f"{v:.7g}" for v in bounds)
    return f"{left} to {right}, {bottom} to {top}"


def crs_name(frame: gpd.GeoDataFrame) -> str:
    return frame.crs.name if frame.crs else "no CRS"


def _valid(shapes: NDArray[Any]) -> NDArray[Any]:
    """Without self-intersections, which GEOS does not compare."""
    return np.where(shapely.is_valid(shapes), shapes, shapely.make_valid(shapes))


def _features(which: NDArray[np.bool_], ids: NDArray[Any] | None = None) -> str:
    """'3 features (4, 17, 20)': how many, and the numbers of the first."""
    index = np.flatnonzero(which) if ids is None else ids[which]
    return f"{len(index)} feature{'s' * (len(index) != 1)} ({_ids(index)})"


def _ids(index: NDArray[Any]) -> str:
    return ", ".join(map(str, index[:_SHOWN])) + (", ..." if len(index) > _SHOWN else "")


def _verb(which: NDArray[np.bool_], one: str, many: str) -> str:
    return one if which.sum() == 1 else many
