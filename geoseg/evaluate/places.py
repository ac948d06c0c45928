"""What is compared with what: places with their rasters and truth, from arguments or a recipe."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.data.config import BandConfig, ClassConfig, DataConfig, PlaceConfig
from geoseg.data.labels import Labels, VectorLabels, meets, outside, read_vector
from geoseg.data.sheets import Truth, files
from geoseg.errors import DataError, UsageError
from geoseg.evaluate.options import EvaluateOptions
from geoseg.grid import Grid, Window
from geoseg.metrics import IGNORE
from geoseg.options import Box
from geoseg.spec import BACKGROUND, ClassInfo


@dataclass(frozen=True, slots=True)
class Legend:
    """The classes, and how arrays number them: label 0 is the background (if there is one),
    then the classes in their order."""

    classes: tuple[ClassInfo, ...]
    background: bool = True

    @classmethod
    def of(cls, classes: Sequence[ClassInfo]) -> Legend:
        """The channels of a network: of one class, all else is the background."""
        named = tuple(c for c in classes if c.id != BACKGROUND)
        return cls(named, background=len(classes) == 1 or len(named) < len(classes))

    @property
    def first(self) -> int:
        return 1 if self.background else 0

    @property
    def labels(self) -> tuple[ClassInfo, ...]:
        """One per label."""
        ground = (ClassInfo(BACKGROUND, "background", "#9aa0a6"),) if self.background else ()
        return (*ground, *self.classes)

    def table(self) -> NDArray[np.uint8]:
        """(256,) class id -> label; IGNORE for what is no class."""
        table = np.full(256, IGNORE, np.uint8)
        for label, info in enumerate(self.labels):
            table[info.id] = label
        return table

    def config(self, place: PlaceConfig, options: EvaluateOptions) -> DataConfig:
        """The same as a recipe says it, for reading the truth (which asks for no bands)."""
        given = {k.lower(): v for k, v in options.values.items()}
        if unknown := set(given) - {c.name.lower() for c in self.classes}:
            raise UsageError(f"values: {min(unknown)!r} is none of the classes: {self.names}")
        classes = tuple(
            ClassConfig(id=c.id, name=c.name, color=c.color, values=given.get(c.name.lower(), ()))
            for c in self.classes
        )
        return DataConfig(
            places=(place,),
            bands=(BandConfig(name="any"),),
            classes=classes,
            attribute=options.attribute,
            background=self.background,
            gsd=1.0,
        )

    @property
    def names(self) -> str:
        return ", ".join(c.name for c in self.classes)


@dataclass(frozen=True, slots=True)
class Case:
    """One raster of one place, with its truth.

    part: only what lies in these polygons counts. prediction: if it is finished; `file` is then
    the image of the scene, or the prediction itself. gsd: metres per pixel, where the raster
    does not know. bounds: (left, bottom, right, top) in the raster's CRS: only what lies inside
    counts. sure: that the truth belongs here is not doubted, even if it has no object.
    """

    place: str
    file: Path
    truth: Truth
    part: gpd.GeoDataFrame | None = None
    prediction: Path | None = None
    gsd: float | None = None
    bounds: Box | None = None
    sure: bool = False

    def labels(self, grid: Grid) -> Labels:
        """Truth on a grid."""
        labels = self.truth.labels(self.file, grid)
        if labels is None:
            raise DataError(f"place {self.place}: has no labels to compare with")
        if isinstance(labels, VectorLabels) and not self.sure:
            _must_meet(labels, grid, self)
        return labels

    def areas(self, grid: Grid) -> list[VectorLabels]:
        """All of these must cover a pixel for its truth to count; none: everything counts."""
        known = self.truth.known(self.file, grid)
        areas = [known] if isinstance(known, VectorLabels) else []
        if self.part is not None:
            areas.append(VectorLabels(self.part, np.ones(len(self.part), np.uint8), grid))
        if self.bounds is not None:
            frame = gpd.GeoDataFrame(geometry=[shapely.box(*self.bounds)], crs=grid.crs)
            inside = VectorLabels(frame, np.ones(1, np.uint8), grid)
            if not meets(inside.pixels, grid):
                raise Elsewhere(outside("bounds", frame, grid, self.file))
            areas.append(inside)
        return areas


def known(areas: Sequence[Labels], window: Window) -> NDArray[np.bool_]:
    """(h, w) True where all areas cover the pixel."""
    inside = np.ones((window.height, window.width), np.bool_)
    for area in areas:
        inside &= area.burn(window) > 0
    return inside


def _must_meet(labels: VectorLabels, grid: Grid, case: Case) -> None:
    """Refuse truth that lies elsewhere, unless an area says that it is meant to be empty here."""
    source, frame, near = case.truth.place.labels, case.truth.frame, labels
    if case.truth.area is not None:
        source, frame = case.truth.place.aoi, case.truth.area
        near = VectorLabels(frame, np.ones(len(frame), np.uint8), grid)
    if meets(near.pixels, grid):
        return
    if frame is None or not len(frame):
        raise Elsewhere(
            f"{source}: has no polygons: if there truly are none, say where they were looked for "
            "(aoi)"
        )
    raise Elsewhere(outside(source, frame, grid, case.file))


class Elsewhere(DataError):
    """The truth lies outside of this scene; of several scenes, this one is left out."""


# --- from arguments -------------------------------------------------------------------------


def cases_of_files(
    subjects: Sequence[Path],
    truths: Sequence[Path],
    aois: Sequence[Path],
    legend: Legend,
    options: EvaluateOptions,
    *,
    scenes: Sequence[Path] | None = None,
    gsd: float | None = None,
) -> list[Case]:
    """One case per subject: a scene, or (with `scenes`) the finished prediction of one."""
    count = len(subjects)
    images = [_one(scenes, i, count, "scene") for i in range(count)] if scenes else subjects
    cases: list[Case] = []
    shared: dict[tuple[Path, Path | None], Truth] = {}
    for i, name in enumerate(_unique(images)):
        truth = _one(truths, i, count, "truth")
        aoi = _one(aois, i, count, "aoi") if aois else None
        if (truth, aoi) not in shared:  # vectors are read once
            place = PlaceConfig(
                name=name, rasters=str(images[i]), labels=str(truth), aoi=str(aoi) if aoi else None
            )
            config = legend.config(place, options)
            shared[truth, aoi] = Truth(place, config, Path())
        prediction = None if scenes is None else subjects[i]
        cases.append(Case(name, images[i], shared[truth, aoi], None, prediction, gsd))
    return cases


def _one(paths: Sequence[Path], index: int, count: int, what: str) -> Path:
    if len(paths) not in (1, count):
        raise UsageError(f"{what}: give one for all, or one for each of the {count} scenes")
    return paths[index if len(paths) > 1 else 0]


def _unique(files: Sequence[Path]) -> list[str]:
    """Names of files; with their folder where two are equal, and numbered where these are."""
    names = [file.stem for file in files]
    longer = [f"{file.absolute().parent.name}/{file.stem}" for file in files]
    names = [a if names.count(a) == 1 else b for a, b in zip(names, longer, strict=True)]
    return [
        name if names.count(name) == 1 else f"{name}-{names[:i].count(name) + 1}"
        for i, name in enumerate(names)
    ]


# --- from a recipe --------------------------------------------------------------------------


def cases_of_recipe(config: DataConfig, root: Path, options: EvaluateOptions) -> list[Case]:
    """The rasters of all places that are kept for the part, whole or in blocks of the split."""
    part = options.part
    split = options.split or (root / config.split.file if config.split.file else None)
    blocks = _blocks(split, part) if split else None
    cases: list[Case] = []
    for place in config.places:
        if place.use == part or (place.use == "train" and blocks is not None):
            cases += _cases_of_place(place, config, root, blocks)
    if not cases:
        raise UsageError(
            f"no place of the recipe has `use: {part}`; for the blocks of that part, name the "
            "split.gpkg of the training run (--split)"
        )
    return cases


def _cases_of_place(
    place: PlaceConfig, config: DataConfig, root: Path, blocks: gpd.GeoDataFrame | None
) -> Iterator[Case]:
    """All of its rasters; of a training place those with blocks, and these blocks only."""
    own = None
    if place.use == "train" and blocks is not None:
        own = blocks[blocks["place"] == place.name]
    if own is not None and not len(own):
        return
    truth = Truth(place, config, root)
    for raster in files(root, place.rasters, place.name):
        inside = None if own is None else own[own["file"] == raster.name]
        if inside is None or len(inside):
            yield Case(place.name, raster, truth, inside, gsd=place.gsd, sure=True)


def _blocks(path: Path, part: str) -> gpd.GeoDataFrame:
    """Those of the split that belong to `part`: columns place, file, part."""
    frame = read_vector(path)
    if not {"place", "file", "part"} <= set(frame.columns):
        raise DataError(f"{path}: a split needs the columns place, file and part")
    return frame[frame["part"] == part]


def agreed(model: Legend, recipe: DataConfig) -> Legend:
    """The classes of the recipe, in its order, if they are also the model's.

    Of two single classes nothing has to agree: truth and prediction have one label each.
    """
    wanted = {(c.id, c.name.lower()) for c in recipe.classes}
    have = {(c.id, c.name.lower()) for c in model.classes}
    if len(wanted) == len(have) == 1:
        return model
    if wanted != have or model.background != recipe.background:
        raise DataError(
            f"classes do not match: the model has {_listed(have, model.background)}; the recipe "
            f"has {_listed(wanted, recipe.background)}"
        )
    order = [c.id for c in recipe.classes]
    return Legend(tuple(sorted(model.classes, key=lambda c: order.index(c.id))), model.background)


def _listed(classes: Collection[tuple[int, str]], background: bool) -> str:
    names = ", ".join(f"{i} {name}" for i, name in sorted(classes))
    return f"{names} ({'with' if background else 'without'} a background)"
