"""Where predictions come from: models that run on the scenes of the cases, or finished files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, Protocol

import geopandas as gpd
import numpy as np
import shapely

from geoseg import runtime
from geoseg.bundle import Bundle
from geoseg.errors import DataError, UsageError
from geoseg.evaluate.objects import on_map
from geoseg.evaluate.places import Case, Elsewhere, Legend
from geoseg.evaluate.predictions import Prediction, kind_of, legend_of
from geoseg.events import Event, Listener
from geoseg.grid import Grid
from geoseg.loaded import Model, find_models
from geoseg.options import PredictOptions
from geoseg.predict import open_scene, predict
from geoseg.sinks import read_metadata

FLOOR = 0.01  # least score of objects that are ranked; networks themselves end at 0.05 or so
NMS = "nms"  # the option `merge` of a prediction
MARGIN = 128  # pixels around the area that are predicted too: objects on its border stay whole


class Subject(Protocol):
    """What is evaluated. name: in one line; about: the same for the report.

    threshold: in use, of a single probability or of the scores of objects. probable: whether
    pixels have probabilities.
    """

    name: str
    about: dict[str, Any]
    legend: Legend
    threshold: float | None
    probable: bool

    def prepare(self, case: Case, folder: Path) -> None:
        """Predict the scene of a case, if that is not done."""

    def open(self, case: Case, folder: Path) -> Prediction:
        """The prediction of a case that was prepared."""


class Models:
    """A model, or the mean of several, that runs on each scene with `options`.

    One that finds objects runs a second time, down to the least score that is of use: average
    precision ranks all of them, and all else is of what `geoseg predict` delivers. That is more
    than a filter, as objects of low scores take part in merging; not so with plain suppression.
    """

    def __init__(self, model: Model, options: PredictOptions, listener: Listener) -> None:
        self.model, self.options, self.listener = model, options, listener
        self.paths = paths = find_models(model)
        bundles = [Bundle.open(path) for path in paths]
        self.spec = runtime.contract(bundles)
        self.instances = self.spec.finds_objects
        self.legend = Legend.of(self.spec.classes)
        if self.instances:  # all that is none of them is the background
            self.legend = Legend(self.spec.classes, background=True)
        self.threshold: float | None = options.threshold or self.spec.threshold
        self.suffix, self.probable = "", not self.instances
        self.name = " + ".join(b.spec.id for b in bundles)
        self.about = {
            "kind": "model",
            "models": [{"id": b.spec.id, "checksum": b.checksum} for b in bundles],
            "gsd": self.spec.gsd,
        }

    def with_nms(self) -> Models:
        """The same model, whose objects of overlapping tiles are not merged but suppressed."""
        if not self.instances:
            raise UsageError(f"against_nms: {self.name} finds no objects that could be merged")
        if self.options.merge == NMS:
            raise UsageError(f"against_nms: {NMS} is the merge already; leave one of them out")
        other = copy(self)
        other.options = self.options.model_copy(update={"merge": NMS})
        other.suffix = f"-{NMS}"
        return other

    def prepare(self, case: Case, folder: Path) -> None:
        files = _files(folder, case, self.suffix)
        with open_scene(case.file, self.spec, self._options(case)) as scene:
            case.labels(scene.grid)  # truth that lies elsewhere is told before hours of predicting
            area = _area(case, scene.grid)
        if area is not None:
            area.to_file(files["aoi"], layer="aoi", driver="GPKG")
        given = self._options(case).model_dump(exclude_unset=True)
        given |= {"aoi": files["aoi"]} if area is not None else {}
        if not self.instances:
            given |= {"mask": files["mask"], "probabilities": files["probabilities"]}
        low = {**given, "threshold": min(FLOOR, self.threshold or FLOOR)}
        if self.instances and self.options.merge == NMS:
            given = low
        tell = self._tell_again if self.suffix else self._tell
        predict(case.file, files["polygons"], model=self.model, listener=tell, **given)
        if self.instances and self.options.merge != NMS:
            again = self._tell_again
            predict(case.file, files["ranked"], model=self.model, listener=again, **low)

    def open(self, case: Case, folder: Path) -> Prediction:
        files = _files(folder, case, self.suffix)
        if self.instances:
            return Prediction.open(
                self.legend,
                polygons=files["polygons"],
                ranked=files["ranked"] if self.options.merge != NMS else None,
                scene=open_scene(case.file, self.spec, self._options(case)),
                least=self.threshold or 0.0,
            )
        return Prediction.open(
            self.legend,
            mask=files["mask"],
            probabilities=files["probabilities"],
            polygons=files["polygons"],
        )

    def _options(self, case: Case) -> PredictOptions:
        """A place of a recipe may know its GSD."""
        if case.gsd is None or self.options.gsd is not None:
            return self.options
        return self.options.model_copy(update={"gsd": case.gsd})

    def _tell(self, event: Event) -> None:
        if event["event"] != "result":  # the one result is the evaluation's
            self.listener(event)

    def _tell_again(self, event: Event) -> None:
        """What was said of the same scene before is not said again."""
        if event["event"] not in ("info", "warning"):
            self._tell(event)


def _files(folder: Path, case: Case, suffix: str) -> dict[str, Path]:
    name = case.place if case.place == case.file.stem else f"{case.place}-{case.file.stem}"
    stem = folder / f"{name.replace(os.sep, '_')}{suffix}"
    suffixes = {
        "polygons": ".gpkg",
        "ranked": "-ranked.gpkg",
        "mask": "-mask.tif",
        "probabilities": "-probabilities.tif",
        "aoi": "-aoi.gpkg",
    }
    return {name: stem.with_name(stem.name + suffix) for name, suffix in suffixes.items()}


def _area(case: Case, grid: Grid) -> gpd.GeoDataFrame | None:
    """What is predicted: the labelled area with a margin, cut to the grid; None for everything."""
    areas = case.areas(grid)
    if not areas:
        return None
    whole = shapely.box(0, 0, grid.width, grid.height)
    for area in areas:
        whole = whole & shapely.union_all(shapely.buffer(area.pixels, MARGIN))
    if whole.is_empty:
        raise Elsewhere(f"{case.file}: none of it lies in the labelled area")
    return gpd.GeoDataFrame(geometry=on_map(np.array([whole]), grid), crs=grid.crs)


class Finished:
    """Predictions that were made before, one file per case."""

    def __init__(self, paths: Sequence[Path], options: PredictOptions) -> None:
        self.kinds = {path: kind_of(path) for path in paths}
        legends = [legend_of(path, kind) for path, kind in self.kinds.items()]
        self.legend = legends[0]
        for path, legend in zip(paths, legends, strict=True):
            if legend.labels != self.legend.labels:
                raise DataError(
                    f"classes do not match: {paths[0]} has {self.legend.names}; {path} has "
                    f"{legend.names}"
                )
        self.options = options
        self.probable = "probabilities" in self.kinds.values()
        self.threshold = (options.threshold or 0.5) if self.probable else options.threshold
        self.name = ", ".join(path.name for path in paths)
        self.about = {"kind": ", ".join(dict.fromkeys(self.kinds.values())), "models": []}

    def prepare(self, case: Case, folder: Path) -> None:
        """Nothing to do."""

    def open(self, case: Case, folder: Path) -> Prediction:
        path = case.prediction
        if path is None:
            raise AssertionError("a case of a finished prediction names it")
        given: dict[str, Any] = {self.kinds[path]: path}
        return Prediction.open(
            self.legend,
            **given,
            scene=case.file if case.file != path else None,
            threshold=self.threshold or 0.5,
            least=self.threshold or 0.0,
            min_area=self.options.min_area,
        )


def scene_of(prediction: Path) -> Path | None:
    """The scene that a vector file by geoseg says it was made of, if it is still there."""
    if kind_of(prediction) != "polygons":
        return None
    try:
        name = read_metadata(prediction).get("geoseg:scene")
    except UsageError:  # not a format that geoseg writes
        return None
    return Path(name) if name and Path(name).exists() else None
