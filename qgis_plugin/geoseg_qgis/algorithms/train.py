"""geoseg:train: an image and labelled polygons to a model of one's own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessingException,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
)

from .. import settings
from ..i18n import tr
from ..inputs import raster_file, raster_source, save_features
from ..runner import Event
from .base import INTEGER, POLYGON, EngineAlgorithm, metres, model_parameter, switch, words


class Train(EngineAlgorithm):
    """Three runs of the engine: a recipe, the training, and the model into the list."""

    verb = "train"

    def title(self) -> str:
        return tr("Train a model")

    def help(self) -> str:
        return tr(
            "Learns from an image and polygons that were drawn on it, and adds the new model to "
            "the list. What no polygon covers is background: where not everything was drawn, give "
            "the area that was, as polygons.\n\n"
            "Start from: a model that knows something alike, as buildings-v1, needs fewer labels "
            "and steps. Without one, a network begins with general weights. A thousand steps take "
            "minutes on a graphics card and up to an hour on a processor.\n\n"
            "The folder gets the labels, the recipe and the run. If it is canceled, or the "
            "computer goes off, run it again with the same settings and the same folder: it goes "
            "on from its last checkpoint."
        )

    def initAlgorithm(self, config: dict[str, Any] | None = None) -> None:
        self.add(
            QgsProcessingParameterRasterLayer("INPUT", tr("Image")),
            QgsProcessingParameterFeatureSource("LABELS", tr("Labelled polygons"), [POLYGON]),
            QgsProcessingParameterFeatureSource(
                "AOI", tr("Area that was labelled"), [POLYGON], optional=True
            ),
            words("NAME", tr("Name of the new model, else the layer's")),
        )
        self.offer(
            {
                "--attribute": QgsProcessingParameterField(
                    "ATTRIBUTE", tr("Field with the class"), None, "LABELS", optional=True
                ),
                "--start": model_parameter("START", tr("Start from this model"), None),
                "--steps": QgsProcessingParameterNumber(
                    "STEPS", tr("Steps"), INTEGER, 1000, False, 1
                ),
            }
        )
        self.offer(
            {
                "--objects": switch("OBJECTS", tr("Tell objects apart (Mask R-CNN)")),
                "--classes": words("CLASSES", tr("Only these values of the field: house,road")),
                "--gsd": metres("GSD", tr("Size of a pixel to train at (m), else the image's")),
            },
            advanced=True,
        )
        self.add(switch("REPLACE", tr("Replace a model of that name")), advanced=True)
        self.add(QgsProcessingParameterFolderDestination("OUTPUT", tr("Folder of the training")))
        self.addOutput(QgsProcessingOutputString("MODEL", tr("Name of the model")))
        self.addOutput(QgsProcessingOutputString("BUNDLE", tr("Folder of the model")))
        self.addOutput(QgsProcessingOutputNumber("SCORE", tr("Score on the validation blocks")))

    def check(self, parameters, context) -> None:
        raster_source(self.raster(parameters, "INPUT", context))

    def prepareAlgorithm(self, parameters, context, feedback) -> bool:
        image = self.raster(parameters, "INPUT", context)
        self._image = raster_source(image), image.name()
        self._labels = self.features(parameters, "LABELS", context)
        self._aoi = self.parameterAsSource(parameters, "AOI", context)
        wanted = self.parameterAsString(parameters, "NAME", context).strip()
        self._name = wanted or plain_name(self._labels.sourceName())
        self._replace = self.parameterAsBoolean(parameters, "REPLACE", context)
        self._said = self.said(parameters, context)
        return True

    def processAlgorithm(self, parameters, context, feedback) -> dict[str, Any]:
        folder = Path(self.parameterAsFileOutput(parameters, "OUTPUT", context))
        bundle = folder / "run" / "bundle"
        result = None
        with self.working_folder() as own:
            files = self._save_layers(own)  # before the engine starts: they may be removed
            self._must_be_new(feedback)
            if self._write_recipe(folder, files, feedback) is not None:
                result = self._train(folder, feedback)
        if result is None or not self._keep(bundle, feedback):
            return {}
        outputs = {"OUTPUT": str(folder), "BUNDLE": str(bundle), "MODEL": self._name}
        score = result.get("score")
        return {**outputs, "SCORE": score} if isinstance(score, (int, float)) else outputs

    def _must_be_new(self, feedback) -> None:
        """Refuse a name that is taken: it would be said only after an hour of training."""
        models = self._list_models(feedback)
        taken = next((m for m in models if m["name"] == self._name), None)
        if taken and not (self._replace and taken.get("source") != "package"):
            raise QgsProcessingException(
                tr(
                    "There is a model {name} already. Give the new one another name, or choose "
                    "to replace it."
                ).format(name=self._name)
            )

    def _list_models(self, feedback) -> list[Event]:
        """All that can be named; remembered for the lists to choose from."""
        models: list[Event] = []
        self.run_engine(["model", "list"], feedback, on_event=models.append)
        models = [m for m in models if "event" not in m and "name" in m]
        if models:
            settings.remember_models(models)
        return models

    def _save_layers(self, own: str) -> list[str]:
        """The labels and, if there is one, the labelled area as files of this run."""
        labels = Path(own) / f"{plain_name(self._labels.sourceName())}.gpkg"
        files = [save_features(self._labels, labels)]
        if self._aoi is not None:  # a plain name has no blank, so it is another file
            files.append(save_features(self._aoi, Path(own) / "labelled area.gpkg"))
        return files

    def _write_recipe(self, folder: Path, files: list[str], feedback) -> Event | None:
        """What the engine makes of image and labels; those lie beside it for a run that goes on."""
        data = folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        image = raster_file(*self._image, data)
        labels, *area = [shutil.copy(file, data / Path(file).name) for file in files]
        command = ["data", "recipe", image, str(labels), "--output", str(folder / "recipe.yaml")]
        if area:
            command += ["--aoi", str(area[0])]
        command += [f"--name={self._name}", *self._said, "--overwrite"]
        return self.run_engine(command, feedback)

    def _train(self, folder: Path, feedback) -> Event | None:
        canceled = tr(
            "Canceled. Run it again with the same settings and the folder {folder}: it goes on "
            "from its last checkpoint."
        ).format(folder=folder)
        command = ["train", str(folder / "recipe.yaml"), "--output", str(folder / "run")]
        return self.run_engine(command, feedback, canceled=canceled)

    def _keep(self, bundle: Path, feedback) -> bool:
        """Add the model to the list; whether that was done."""
        command = ["model", "add", str(bundle), "--name", self._name]
        if self._replace:
            command.append("--overwrite")
        if self.run_engine(command, feedback) is None:
            return False
        self._list_models(feedback)
        return True


def plain_name(text: str) -> str:
    """A name for a model and its files, out of a layer's."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    return plain if re.match(r"[a-z].{2}", plain) else f"model-{plain or 'mine'}"
