"""Bad labels, found and told: everything that is wrong with the data of a recipe, at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely

from geoseg.data.align import MOST, REACH, Alignment
from geoseg.data.config import DataConfig, PlaceConfig
from geoseg.data.labels import Labels, is_vector, layers_of, read_raw
from geoseg.data.masks import MaskLabels
from geoseg.data.meaning import Meaning
from geoseg.data.polygons import (
    Finding,
    Said,
    counted,
    of_area,
    of_features,
    of_place,
    of_size,
)
from geoseg.data.sheets import (
    Strip,
    Truth,
    beside,
    block_pixels,
    files,
    open_scene,
    open_variant,
    strips,
)
from geoseg.data.split import NAMES, TRAIN, UNUSED, VALIDATE, deal, need, outline, separate
from geoseg.data.stats import Plot, class_balance, count_labels
from geoseg.errors import DataError, GeosegError
from geoseg.grid import Grid, Window
from geoseg.metrics import IGNORE
from geoseg.scene import Scene

_ON_NODATA = 0.01  # of the labelled pixels of a raster: below, it is the rim of the imagery
_SPREAD = 0.6  # of the rasters: labels that spread less far were hardly sought everywhere
_PIECES = 40  # of a place, in which labels are held against the image
_PIECE = 128  # pixels that are looked at along such a piece, at least
_BLOCK = 16  # pixels along a block of the split, at least
_COARSE = 2.0  # times: a raster's pixels over those of the recipe


def examine(config: DataConfig, root: Path, *, seed: int = 0) -> list[Finding]:
    """All findings, place by place; reads all rasters once."""
    found: list[Finding] = []
    plots: list[Plot] = []
    dtypes: dict[str, str] = {}
    blind = False
    for place in config.places:
        look = _Look(place, config, root)
        found += look.findings()
        plots += look.plots
        blind |= bool(place.labels) and not any(plot.counts.any() for plot in look.plots)
        dtypes |= {str(dtype): place.name for dtype in look.dtypes}
        try:
            deal(look.plots, place, config.split, root=root, seed=seed)
        except DataError as e:
            file = config.split.file or ""
            found.append(Finding("error", place.name, file, str(e), "write the split anew"))
    if len(dtypes) > 1:
        kinds = ", ".join(f"{dtype} ({place})" for dtype, place in dtypes.items())
        what = f"rasters have different types of values: {kinds}"
        found.append(Finding("error", "", "", what, "convert some, their units the same"))
    if blind:  # what would be said of classes and the split only follows from that
        return found
    return [*found, *_of_split(plots, config)]


class _Look:
    """What is found in one place; `plots` are its rasters that could be read."""

    def __init__(self, place: PlaceConfig, config: DataConfig, root: Path) -> None:
        self.place, self.config, self.root = place, config, root
        self.plots: list[Plot] = []
        self.dtypes: set[np.dtype[Any]] = set()
        self.meaning = Meaning(config.classes, background=config.background, ignore=config.ignore)
        self.alignment = Alignment(config.gsd)
        self._paths: list[Path] = []
        self._opened: list[tuple[Path, Grid]] = []

    def findings(self) -> Iterator[Finding]:
        try:
            self._paths = files(self.root, self.place.rasters, self.place.name)
        except DataError as e:
            yield self._error(self.root / self.place.rasters, e)
            return
        truth, wrong = self._truth()
        yield from wrong
        for path in self._paths:
            yield from self._raster(path, truth)
        if self._opened:
            yield from self._vectors()
        if self._opened and truth and self.place.labels:
            if not any(plot.counts.any() for plot in self.plots):
                message = "no pixel with data is labelled in the whole place"
                yield self._say(self._labels, ("error", message, "see the other findings"))
            elif not any(plot.counts[:, :, self.config.first :].any() for plot in self.plots):
                message, remedy = "no pixel of the place has a class", "check its labels"
                yield self._say(self._labels, ("warning", message, remedy))
            yield from self._shifted()

    # --- vectors

    def _truth(self) -> tuple[Truth | None, list[Finding]]:
        """What is known of the place, if its files can be read at all."""
        try:
            return Truth(self.place, self.config, self.root), []
        except DataError as e:
            # what is wrong with the attribute is told with the rest of that file
            vectors = self.place.labels and layers_of(self._labels)
            return None, [] if vectors and "attribute" in str(e) else [self._error(self._labels, e)]

    @property
    def _labels(self) -> Path:
        return self.root / (self.place.labels or self.place.rasters)

    def _vectors(self) -> Iterator[Finding]:
        """The files of polygons against all rasters of the place."""
        grids = [grid for _, grid in self._opened]
        area = self._read(self.root / self.place.aoi) if self.place.aoi else None
        if area is not None:
            yield from self._against_rasters(self.root / str(self.place.aoi), area, grids)
        pairs = [(self._labels, grids)] if self.place.labels else []
        if self.place.labels and "*" in self.place.labels:
            beside = [(self._beside(p, self.place.labels), [grid]) for p, grid in self._opened]
            pairs = [(path, own) for path, own in beside if path]
        for path, own in pairs:
            frame = self._read(path, self.place.layer) if is_vector(path) else None
            if frame is not None:
                yield from self._features(path, frame, area, own)

    def _features(
        self,
        path: Path,
        frame: gpd.GeoDataFrame,
        area: gpd.GeoDataFrame | None,
        grids: Sequence[Grid],
    ) -> Iterator[Finding]:
        for said in of_features(frame, self.config.attribute, self.meaning):
            yield self._say(path, said)
        yield from self._against_rasters(path, frame, grids)
        for said in of_size(frame, grids[0], self.config.gsd):
            yield self._say(path, said)
        for said in self._labelled_area(frame, area, grids):
            yield self._say(path, said)

    def _beside(self, path: Path, pattern: str) -> Path | None:
        try:
            return beside(path, self.root, self.place, pattern)
        except DataError:
            return None  # was told when the raster was looked at

    def _read(self, path: Path, layer: str | None = None) -> gpd.GeoDataFrame | None:
        try:
            return read_raw(path, layer)
        except DataError:
            return None  # was told by _truth

    def _against_rasters(
        self, path: Path, frame: gpd.GeoDataFrame, grids: Sequence[Grid]
    ) -> Iterator[Finding]:
        covered = _covered(grids, frame)
        if covered is not None:
            for said in of_place(frame, covered):
                yield self._say(path, said)

    def _labelled_area(
        self, frame: gpd.GeoDataFrame, area: gpd.GeoDataFrame | None, grids: Sequence[Grid]
    ) -> Iterator[Said]:
        """Labels outside of the aoi; or no aoi, where the labels do not spread over the raster."""
        if area is not None:
            if area.crs is not None and frame.crs is not None:
                own = area.to_crs(frame.crs).geometry
                yield from of_area(frame, own.make_valid().union_all())
            return
        covered = _covered(grids, frame)
        if covered is None or not self.config.background or self.place.use == "unlabelled":
            return
        hull = shapely.convex_hull(shapely.union_all(frame.geometry.envelope.to_numpy()))
        spread = shapely.area(shapely.intersection(hull, covered)) / shapely.area(covered)
        if 0 < spread < _SPREAD:
            yield (
                "warning",
                f"the labels spread over {spread:.0%} of the raster, and there is no aoi: all "
                "else is trained as background",
                "if it was not labelled, draw what was and name it as aoi",
            )

    # --- rasters

    def _raster(self, path: Path, truth: Truth | None) -> Iterator[Finding]:
        try:
            with open_scene(path, self.place, self.config) as scene:
                self._opened.append((path, scene.grid))
                self.dtypes.add(scene.dtype)
                yield from self._pixels(scene, path, truth)
        except GeosegError as e:
            yield self._error(path, e)

    def _pixels(self, scene: Scene, path: Path, truth: Truth | None) -> Iterator[Finding]:
        labels = truth.labels(path, scene.grid) if truth else None
        area = truth.known(path, scene.grid) if truth else None
        native = scene.gsd[0] if scene.gsd else 0
        if native > _COARSE * self.config.gsd:
            message = f"its pixels are {native:.3g} m, the recipe's {self.config.gsd:g} m"
            remedy = "there is no detail to learn: make data.gsd larger"
            yield self._say(path, ("warning", message, remedy))
        tally = _Tally(labels, area, self.config.first)
        counts = count_labels(scene.grid, tally.over(strips(scene, labels, area)), self.config)
        parts = np.where(counts.any(axis=2), np.uint8(TRAIN), np.uint8(UNUSED))
        block = block_pixels(self.config)
        plot = Plot(self.place.name, path, scene.grid, block, counts, parts)
        self.plots.append(plot)
        for said in tally.findings(self.meaning):
            mask = isinstance(labels, MaskLabels) and said[1].startswith("values")
            yield self._say(labels.path if mask and isinstance(labels, MaskLabels) else path, said)
        if labels is not None:
            self._align(scene, labels, area, plot)
        for pattern in self.place.variants:
            file = beside(path, self.root, self.place, pattern)
            open_variant(file, self.place, self.config, scene.grid).close()

    def _align(self, scene: Scene, labels: Labels, area: Labels | None, plot: Plot) -> None:
        """Hold some pieces with objects, of one block or more, against the image."""
        factor = self.alignment.factor
        reach, blocks = REACH * factor, -(-_PIECE * factor // plot.block)
        side = blocks * plot.block
        starts = [np.arange(0, n, blocks) for n in plot.parts.shape]
        counts = np.add.reduceat(plot.counts, starts[0], axis=0)
        counts = np.add.reduceat(counts, starts[1], axis=1)
        whole = counts.sum(axis=2)
        mixed = np.argwhere((whole > 0) & (counts.max(axis=2) < 0.98 * whole))
        most = max(4, _PIECES // len(self._paths))
        for row, col in np.random.default_rng(0).permutation(mixed)[:most]:
            top, left = int(row) * side - reach, int(col) * side - reach
            window = Window(top, left, side + 2 * reach, side + 2 * reach)
            window = window.intersection(scene.grid.window)
            image, valid = scene.read(window)
            known = valid if area is None else valid & (area.burn(window) > 0)
            label = np.where(known, labels.burn(window), np.uint8(IGNORE))
            self.alignment.add(image, valid, label)

    def _shifted(self) -> Iterator[Finding]:
        shift = self.alignment.shift()
        if shift is None or not shift.clear:
            return
        down, right = shift.rows * self.config.gsd, shift.cols * self.config.gsd
        sides = [
            f"{abs(value):.1f} m ({abs(pixels)} px) to the {names[value > 0]}"
            for value, pixels, names in (
                (down, shift.rows, ("top", "bottom")),
                (right, shift.cols, ("left", "right")),
            )
            if pixels
        ]
        more = "more than " if shift.gain >= MOST else ""
        yield self._say(
            self._labels,
            (
                "warning",
                f"labels lie beside the image: moved {' and '.join(sides)}, they fit its edges "
                f"{more}{shift.gain:.1f} times better",
                "look at both in QGIS, and move the labels by that",
            ),
        )

    # --- how it is said

    def _say(self, path: Path, said: Said) -> Finding:
        inside = path.is_relative_to(self.root)
        file = str(path.relative_to(self.root)) if inside else str(path)
        return Finding(said[0], self.place.name, file, *said[1:])

    def _error(self, path: Path, error: GeosegError) -> Finding:
        message, _, remedy = str(error).removeprefix(f"{path}: ").rpartition(": ")
        if not message:
            message, remedy = remedy, "correct the recipe or the file"
        return self._say(path, ("error", message, remedy))


class _Tally:
    """What is counted while the strips of a raster pass."""

    def __init__(self, labels: Labels | None, area: Labels | None, first: int) -> None:
        """first: label of the first class."""
        self.labels, self.area, self.first = labels, area, first
        self.valid = self.on_data = self.on_nodata = 0
        self.unknown: Counter[str] = Counter()

    def over(self, pieces: Iterable[Strip]) -> Iterator[Strip]:
        for strip in pieces:
            yield strip
            self.valid += int(strip.valid.sum())
            if self.labels is None:
                continue
            if isinstance(self.labels, MaskLabels):
                self.unknown += self.labels.unknown(strip.window)
            objects = self.labels.burn(strip.window)
            meant = (objects >= self.first) & (objects != IGNORE)
            if self.area is not None:
                meant &= self.area.burn(strip.window) > 0
            self.on_data += int((meant & strip.valid).sum())
            self.on_nodata += int((meant & ~strip.valid).sum())

    def findings(self, meaning: Meaning) -> Iterator[Said]:
        if not self.valid:
            yield "warning", "has no data at all", "leave it out, or check its nodata value"
        labelled = self.on_data + self.on_nodata
        if self.valid and labelled and self.on_nodata > _ON_NODATA * labelled:
            yield (
                "warning",
                f"{self.on_nodata / labelled:.1%} of the labelled pixels have no data",
                "they are not used; check the extent of the labels and the nodata value",
            )
        if self.unknown:
            become = "background" if meaning.rest == 0 else "unlabelled"
            yield (
                "warning",
                f"values of the mask that are no class: {counted(self.unknown)} pixels",
                f"they become {become}; list them in the values of a class, or in data.ignore",
            )


def _covered(grids: Sequence[Grid], frame: gpd.GeoDataFrame) -> shapely.Geometry | None:
    """The ground of the rasters in the CRS of a frame; None where they cannot be compared."""
    if not len(grids) or any((g.crs is None) != (frame.crs is None) for g in grids):
        return None
    outlines = [gpd.GeoSeries([outline(g.window, g)], crs=g.crs) for g in grids]
    if frame.crs is not None:
        outlines = [
            o.segmentize(shapely.length(o.iloc[0]) / 256).to_crs(frame.crs) for o in outlines
        ]
    return shapely.union_all([o.iloc[0] for o in outlines])


def _of_split(plots: list[Plot], config: DataConfig) -> Iterator[Finding]:
    """Classes that the parts of the split miss, and parts that are empty."""
    before = sum(int((plot.parts != UNUSED).sum()) for plot in plots)
    separate(plots)
    dropped = before - sum(int((plot.parts != UNUSED).sum()) for plot in plots)
    if dropped:
        message = f"rasters overlap: {dropped} blocks lie on ground that is held back elsewhere"
        yield Finding("warning", "", "", message, "they are not used; name each ground once")
    if block_pixels(config) < _BLOCK:
        message = f"blocks of {config.split.block:g} m are less than {_BLOCK} pixels wide"
        remedy = "make data.split.block larger: ground that near is too much alike to validate"
        yield Finding("warning", "", "", message, remedy)
    for part in (TRAIN, VALIDATE):
        try:
            need(plots, part)
        except DataError as e:
            message, _, remedy = str(e).partition(": ")
            yield Finding("error", "", "", message, remedy)
    balance = class_balance(plots)
    every = [counts for parts in balance.values() for counts in parts.values()]
    if config.background and every and not any(counts.get(0) for counts in every):
        message = "nothing is background: all that is labelled is one of the classes"
        remedy = "if a mask declares its 0 as nodata, undo that; or say background: false"
        yield Finding("warning", "", "", message, remedy)
    for label, each in enumerate(config.classes, config.first):
        where = {
            name: sum(parts.get(name, {}).get(label, 0) for parts in balance.values())
            for name in NAMES.values()
        }
        named = f"class {each.name!r}"
        if not any(where.values()):
            values = ", ".join(map(str, each.values or (each.name, each.id)))
            remedy = f"check what stands for it ({values}), or leave it out"
            yield Finding("error", "", "", f"{named} has no pixel anywhere", remedy)
        elif not where["train"]:
            message = f"{named} has no pixel in training"
            yield Finding("error", "", "", message, "split otherwise")
        elif not where["validate"]:
            message = f"{named} has no pixel in validation, so that no one will see it go wrong"
            yield Finding("warning", "", "", message, "split otherwise")
