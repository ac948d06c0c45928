"""What is evaluated: class masks, probabilities and polygons, as labels on one grid.

A model that runs gives all three; a finished prediction one of them, from which the labels (and
the polygons) follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import rasterio.windows
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.errors import RasterioError

from geoseg.data.labels import Labels, VectorLabels, is_vector, meets, outside, read_vector
from geoseg.errors import DataError, UsageError
from geoseg.evaluate.places import Legend
from geoseg.grid import Grid, Window
from geoseg.metrics import IGNORE
from geoseg.scene import Scene
from geoseg.scene.files import open_dataset, pyproj_crs
from geoseg.spec import BACKGROUND, ClassInfo
from geoseg.vectorize import Polygonizer, Polygons

Labelled = NDArray[np.uint8]
# Okabe and Ito's, for classes without a colour of their own.
_COLORS = [f"#{c}" for c in "e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7 999999".split()]
SCORE = "score"  # the column of polygons that says how likely each is
_BAND = 1 << 24  # pixels of whole rows that are vectorized at a time


@dataclass(frozen=True, slots=True)
class Objects:
    """Polygons in pixel coordinates of a grid (x = column, y = row), and their labels (N,).

    scores: (N,) how likely it is that there is such an object; None where nothing says so.
    shown, ranked: (N,) bool; those of a score high enough to be delivered, which are counted, and
    those that are ranked by their scores. Without scores all are shown and none is ranked.
    """

    pixels: NDArray[np.object_]
    labels: NDArray[np.uint8]
    scores: NDArray[np.float64] | None = None
    shown: NDArray[np.bool_] | None = None
    ranked: NDArray[np.bool_] | None = None

    def take(self, rows: NDArray[Any]) -> Objects:
        pixels, labels = self.pixels[rows], self.labels[rows]
        if self.scores is None or self.shown is None or self.ranked is None:
            return Objects(pixels, labels)
        return Objects(pixels, labels, self.scores[rows], self.shown[rows], self.ranked[rows])

    def with_ranked(self, others: Objects) -> Objects:
        """These, to be shown, and others, to be ranked in their place; all have scores."""
        scores = [o.scores for o in (self, others) if o.scores is not None]
        first = np.arange(len(self.labels) + len(others.labels)) < len(self.labels)
        shown = first.copy()
        shown[first] = self.shown
        return Objects(
            np.concatenate([self.pixels, others.pixels]),
            np.concatenate([self.labels, others.labels]),
            np.concatenate(scores),
            shown,
            ~first,
        )


@dataclass(slots=True)
class Prediction:
    """A prediction on its grid; a context manager, to be used in one thread.

    mask: class ids; probabilities: one band per class in `channels`; polygons: with class_id or
    class, maybe a score; scene: where it has data, for polygons alone, which are then `burnt`, the
    best on top. threshold: for a single probability. min_area: smaller polygons (m²) do not
    count. white: the mask has 255 for its only class.
    """

    legend: Legend
    grid: Grid
    mask: Any = None
    probabilities: Any = None
    polygons: Objects | None = None
    burnt: VectorLabels | None = None
    scene: Scene | None = None
    threshold: float = 0.5
    min_area: float = 0.0
    white: bool = False
    _close: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def open(
        cls,
        legend: Legend,
        *,
        mask: Path | None = None,
        probabilities: Path | None = None,
        polygons: Path | None = None,
        ranked: Path | None = None,
        scene: Path | Scene | None = None,
        threshold: float = 0.5,
        least: float = 0.0,
        min_area: float = 0.0,
    ) -> Self:
        """Any of the files; the grid is that of a raster among them, else the scene's.

        Polygons with a score below `least` are not shown, but ranked, unless `ranked` holds those.
        """
        with ExitStack() as stack:
            rasters = [
                stack.enter_context(_open(path)) if path else None for path in (mask, probabilities)
            ]
            image = None
            given = next((r for r in rasters if r is not None), None)
            if given is not None:
                grid = _grid(given)
            elif scene is not None:
                opened = scene if isinstance(scene, Scene) else Scene.open(scene)
                image = stack.enter_context(opened)
                grid = image.grid
            else:
                raise UsageError(
                    f"{polygons}: of which scene are these polygons? Name it (--scene)"
                )
            outlines = burnt = None
            if polygons is not None:
                named = scene if isinstance(scene, Path) else None
                outlines = _read_polygons(polygons, legend, grid, least, named)
                burnt = _burnt(outlines, grid) if given is None else None
            if outlines is not None and ranked is not None:
                outlines = outlines.with_ranked(_read_polygons(ranked, legend, grid, least))
            return cls(
                legend,
                grid,
                rasters[0],
                rasters[1],
                outlines,
                burnt,
                image,
                threshold,
                min_area,
                mask is not None and _is_white(mask),
                stack.pop_all(),
            )
        raise AssertionError("unreachable: an ExitStack without callbacks swallows nothing")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def labels(self, window: Window) -> Labelled:
        """(h, w) uint8 of a window inside the grid; IGNORE where nothing was predicted."""
        if self.mask is not None:
            return self._named(_read(self.mask, window, 1))
        if self.probabilities is not None:
            return self._decided(*self.scores(window))
        if self.burnt is None or self.scene is None:
            raise AssertionError("a prediction holds a mask, probabilities, or polygons and scene")
        valid = self.scene.read(window)[1]
        return np.where(valid, self.burnt.burn(window), np.uint8(IGNORE))

    def _named(self, ids: NDArray[Any]) -> Labelled:
        """Labels of class ids."""
        known = np.where((ids >= 0) & (ids <= 254), ids, IGNORE).astype(np.uint8)
        labels = self.legend.table()[known]
        if self.white:
            labels[ids == IGNORE] = self.legend.first
        if self.mask.nodata:  # one of 0 mostly means the background
            labels[ids == self.mask.nodata] = IGNORE
        return labels

    def scores(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(K, h, w) probabilities in the order of `channels`, and (h, w) where there are any."""
        raster = self.probabilities
        raw = _read(raster, window, list(range(1, raster.count + 1)))
        valid = np.ones(raw.shape[1:], np.bool_)
        if raster.nodata is not None and not np.isnan(raster.nodata):
            valid = (raw != raster.nodata).all(0)
        scores = raw.astype(np.float32) * np.float32(raster.scales[0])
        valid &= np.isfinite(scores).all(0)
        return scores, valid

    def _decided(self, scores: NDArray[np.float32], valid: NDArray[np.bool_]) -> Labelled:
        if len(scores) == 1:
            best = (scores[0] >= self.threshold).astype(np.uint8)
        else:
            best = self.channels[scores.argmax(0)]
        return np.where(valid, best, np.uint8(IGNORE))

    @property
    def channels(self) -> NDArray[np.uint8]:
        """(K,) the label of each channel, found by the names of the bands."""
        names = [c.name.lower() for c in self.legend.labels]
        bands = [(d or "").lower() for d in self.probabilities.descriptions]
        if len(bands) == 1:
            return np.array([self.legend.first], np.uint8)
        if set(bands) == set(names) and len(bands) == len(names):
            return np.array([names.index(b) for b in bands], np.uint8)
        raise DataError(
            f"{self.probabilities.name}: its bands ({', '.join(bands)}) are not the classes "
            f"({', '.join(names)})"
        )

    def objects(self) -> Objects:
        """The polygons; outlined from the labels where there are none."""
        if self.polygons is not None:
            return self.polygons
        return outline(self, self.grid, self.legend.first)


def outline(labels: Labels | Prediction, grid: Grid, first: int) -> Objects:
    """Connected pixels of one label as polygons; the background (0 if `first` is 1) has none."""
    polygonizer = Polygonizer(grid.width)
    batches = []
    rows = max(1, _BAND // grid.width)
    read = labels.labels if isinstance(labels, Prediction) else labels.burn
    for row in range(0, grid.height, rows):
        part = read(Window(row, 0, min(rows, grid.height - row), grid.width))
        # the polygonizer outlines what is not 0
        shifted = np.where(part == IGNORE, 0, part + np.uint8(1 - first)).astype(np.uint8)
        batches.append(polygonizer.add(shifted))
    batches.append(polygonizer.finish())
    found = Polygons.concat(batches)
    shapes = found.build(found.map_coords(rasterio.Affine.identity()))
    return Objects(shapes, (found.label - (1 - first)).astype(np.uint8))


# --- files ----------------------------------------------------------------------------------


def kind_of(path: Path) -> str:
    """'polygons', 'mask' or 'probabilities'."""
    if not path.exists():
        raise DataError(f"{path}: no such prediction: check the path")
    if is_vector(path) or path.suffix.lower() in (".parquet", ".geoparquet"):
        return "polygons"
    with _open(path) as raster:
        scaled = raster.dtypes[0].startswith("float") or raster.scales[0] != 1.0
        if scaled:
            return "probabilities"
        if raster.count == 1 and raster.dtypes[0] in ("uint8", "int16", "uint16", "int32"):
            return "mask"
    raise DataError(
        f"{path}: is neither polygons, nor a mask of class ids (one band of integers), nor "
        "probabilities (floats, or integers with a scale): with --model, scenes are predicted"
    )


def legend_of(path: Path, kind: str) -> Legend:
    """The classes that a finished prediction tells of."""
    if kind == "polygons":
        return _legend_of_polygons(_read_frame(path))
    with _open(path) as raster:
        if kind == "probabilities":
            names = [d or f"class {i}" for i, d in enumerate(raster.descriptions, 1)]
            start = 0 if names[0].lower() == "background" else 1
            return Legend.of([ClassInfo(i, name) for i, name in enumerate(names, start)])
        tags = raster.tags(1)
        ids = {int(k[6:]): v for k, v in tags.items() if k[:6] == "CLASS_" and k[6:].isdigit()}
        colors = raster.colormap(1) if raster.colorinterp[0].name == "palette" else {}
    return _numbered(ids or {i: f"class {i}" for i in _ids_in(path)}, colors)


def _numbered(names: dict[int, str], colors: Mapping[int, tuple[int, ...]] | None = None) -> Legend:
    """Classes by their ids, with the (red, green, blue, ...) that are given, or well-known ones."""
    own = {i: "#" + bytes(rgb[:3]).hex() for i, rgb in (colors or {}).items()}
    classes = [
        ClassInfo(i, names[i], own.get(i, _COLORS[k % 8])) for k, i in enumerate(sorted(names))
    ]
    named = [c for c in classes if c.id != BACKGROUND]
    return Legend.of(named if len(named) == 1 else classes)


def _ids_in(path: Path) -> list[int]:
    """The class ids of a mask that does not name them; 1 for what is white."""
    there = _values_in(path) - {IGNORE}
    if there <= {0, 1}:
        return [1]
    if not all(0 <= i <= 254 for i in there):
        raise DataError(f"{path}: class ids are from 0 to 254, not {max(there)}")
    return sorted(there)


def _is_white(path: Path) -> bool:
    """Whether a mask has 255 for its only class, not for no data."""
    with _open(path) as raster:
        declared = raster.nodata == IGNORE
    return not declared and _values_in(path) <= {0, IGNORE}


def _values_in(path: Path) -> frozenset[int]:
    return _values(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1024)
def _values(path: Path, written: int) -> frozenset[int]:
    """All values of a mask, looked through once per version of the file."""
    there: set[int] = set()
    with _open(path) as raster:
        for _, window in raster.block_windows(1):
            there |= set(np.unique(raster.read(1, window=window)).tolist())
        # a nodata value of 0 mostly means the background
        return frozenset(there - {raster.nodata} if raster.nodata else there)


def _legend_of_polygons(frame: gpd.GeoDataFrame) -> Legend:
    if "class" not in frame.columns or not len(frame):
        return Legend((ClassInfo(1, "object"),))
    named = frame[["class"]].astype(str)
    if "class_id" in frame.columns:
        pairs = {int(i): n for i, n in zip(frame["class_id"], named["class"], strict=True)}
    else:
        pairs = dict(enumerate(sorted(named["class"].unique()), 1))
    return _numbered(
        {i: n for i, n in pairs.items() if i != BACKGROUND}
        | ({BACKGROUND: "background"} if len(pairs) > 1 else {})
    )


def _read_frame(path: Path) -> gpd.GeoDataFrame:
    if path.suffix.lower() in (".parquet", ".geoparquet"):
        return gpd.read_parquet(path)
    return read_vector(path)


def _read_polygons(
    path: Path, legend: Legend, grid: Grid, least: float, scene: Path | None = None
) -> Objects:
    """In the order of their scores, the best last; those from `least` on are to be shown.

    Some must lie on the grid, if it is that of `scene`, which is named as their own.
    """
    frame = _read_frame(path)
    if grid.crs is not None and frame.crs is None:
        raise DataError(f"{path}: has no CRS, but the scene has one: it cannot be laid over it")
    frame = frame[frame.geom_type.isin(["Polygon", "MultiPolygon"])].reset_index(drop=True)
    scores = _scores(frame, path)
    if scores is not None:
        order = np.argsort(scores, kind="stable")
        frame, scores = frame.iloc[order].reset_index(drop=True), scores[order]
    labels = np.full(len(frame), legend.first, np.uint8)
    if len(legend.classes) > 1:
        names = {c.name.lower(): i for i, c in enumerate(legend.labels)}
        labels = np.array([names[str(n).lower()] for n in frame["class"]], np.uint8)
    laid = VectorLabels(frame, labels, grid)
    if scene is not None and len(frame) and not meets(laid.pixels, grid):
        raise DataError(outside(path, frame, grid, scene))
    if scores is None:
        return Objects(laid.pixels, laid.codes)
    scores = scores[laid.rows]
    return Objects(laid.pixels, laid.codes, scores, scores >= least, np.ones(len(scores), bool))


def _scores(frame: gpd.GeoDataFrame, path: Path) -> NDArray[np.float64] | None:
    """(len(frame),) of the column `score`; None without one."""
    if SCORE not in frame.columns:
        return None
    numbers = pd.to_numeric(frame[SCORE], errors="coerce")
    scores: NDArray[np.float64] = numbers.to_numpy(np.float64, na_value=np.nan)
    if not ((scores >= 0) & (scores <= 1)).all():  # NaN is neither
        raise DataError(
            f"{path}: the column {SCORE!r} must be a probability of each object, from 0 to 1; "
            "correct it, or name the column otherwise"
        )
    return scores


def _burnt(objects: Objects, grid: Grid) -> VectorLabels:
    """Those that are shown, to be burnt: they lie in pixels already."""
    shown = objects if objects.shown is None else objects.take(objects.shown)
    pixels = Grid(None, rasterio.Affine.identity(), grid.height, grid.width)
    return VectorLabels(gpd.GeoDataFrame(geometry=shown.pixels), shown.labels, pixels)


def _open(path: Path) -> Any:
    return open_dataset(str(path))


def grid_of(path: Path) -> Grid:
    """The pixels of a raster file."""
    with _open(path) as raster:
        return _grid(raster)


def _grid(raster: Any) -> Grid:
    crs: CRS | None = pyproj_crs(raster.crs, raster.name)
    return Grid(crs, raster.transform, raster.height, raster.width)


def _read(raster: Any, window: Window, bands: Any) -> NDArray[Any]:
    box = rasterio.windows.Window(window.col, window.row, window.width, window.height)
    try:
        values: NDArray[Any] = raster.read(bands, window=box)
    except RasterioError as e:
        raise DataError(f"{raster.name}: cannot be read ({e})") from e
    return values
