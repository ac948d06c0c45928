"""geoseg:batch: many images, one model, one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingException,
    QgsProcessingOutputHtml,
    QgsProcessingOutputNumber,
    QgsProcessingOutputVectorLayer,
    QgsProcessingParameterFile,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterMultipleLayers,
)

from ..i18n import tr
from ..inputs import raster_source, save_features
from ..runner import Event
from .base import (
    EngineAlgorithm,
    area_parameter,
    choice,
    model_parameter,
    models,
    more_outline_parameters,
    outline_parameters,
    predict_parameters,
    switch,
    words,
)

FORMATS = ("gpkg", "parquet", "fgb", "geojson", "shp")
COUNTS = ("scenes", "done", "failed", "skipped", "polygons")


class Batch(EngineAlgorithm):
    """Goes on where an earlier run into the same folder ended."""

    verb = "batch"

    def title(self) -> str:
        return tr("Segment many rasters")

    def help(self) -> str:
        return tr(
            "Runs a model over layers, or over all rasters of a folder, and writes polygons for "
            "each into one folder; with a dataset also all of them into one file.\n\n"
            "An image that cannot be done fails alone, with its reason in the log and in the "
            "report. Run again with the same folder and settings, and it goes on: what is done is "
            "not done twice."
        )

    def initAlgorithm(self, config: dict[str, Any] | None = None) -> None:
        self.add(
            QgsProcessingParameterMultipleLayers(
                "LAYERS",
                tr("Images"),
                QgsProcessing.SourceType.TypeRaster,
                optional=True,
            ),
            QgsProcessingParameterFile(
                "FOLDER",
                tr("Folder of images"),
                QgsProcessingParameterFile.Behavior.Folder,
                optional=True,
            ),
            model_parameter(),
            area_parameter(),
        )
        self.offer(outline_parameters())
        self.offer(
            {
                "--dataset": words("DATASET", tr("All polygons also in one file: all.gpkg")),
                "--retry-failed": switch("RETRY", tr("Try again what failed in an earlier run")),
            }
        )
        self.offer(more_outline_parameters(), advanced=True)
        self.offer(predict_parameters(), advanced=True)
        self.offer(
            {
                "--format": choice("FORMAT", tr("Format of the polygons"), FORMATS),
                "--mask": switch("MASK", tr("Also the classes as rasters")),
                "--probabilities": switch("PROBABILITIES", tr("Also the probabilities")),
                "--overwrite": switch("OVERWRITE", tr("Forget what was done, and do all anew")),
            },
            advanced=True,
        )
        self.add(QgsProcessingParameterFolderDestination("OUTPUT", tr("Folder of the results")))
        self.addOutput(QgsProcessingOutputHtml("REPORT", tr("Report")))
        self.addOutput(QgsProcessingOutputVectorLayer("DATASET_FILE", tr("All polygons")))
        for name in COUNTS:
            self.addOutput(QgsProcessingOutputNumber(name.upper(), name))

    def check(self, parameters, context) -> None:
        if not self._sources(parameters, context):
            raise QgsProcessingException(tr("Choose images, or a folder of images."))

    def _sources(self, parameters, context) -> list[str]:
        layers = self.parameterAsLayerList(parameters, "LAYERS", context)
        folder = self.parameterAsString(parameters, "FOLDER", context).strip()
        return [raster_source(layer) for layer in layers] + ([folder] if folder else [])

    def prepareAlgorithm(self, parameters, context, feedback) -> bool:
        sources = self._sources(parameters, context)
        model = self.parameterAsString(parameters, "MODEL", context)
        self._aoi = self.parameterAsSource(parameters, "AOI", context)
        self._command = ["batch", *sources, *models(model), *self.said(parameters, context)]
        return True

    def processAlgorithm(self, parameters, context, feedback) -> dict[str, Any]:
        output = self.parameterAsFileOutput(parameters, "OUTPUT", context)
        canceled = tr("Canceled. What is done stays; run it again with the same folder to go on.")

        def tell(event: Event) -> None:
            if event.get("event") == "scene":
                tell_scene(event, feedback)

        with self.working_folder() as folder:
            command = [*self._command, "--output", output]
            if self._aoi is not None:
                command += ["--aoi", save_features(self._aoi, f"{folder}/aoi.fgb")]
            result = self.run_engine(command, feedback, on_event=tell, canceled=canceled)
        if result is None:
            return {}
        counts = {name: int(result.get(name) or 0) for name in COUNTS}
        text = tr("{done} of {scenes} images done, {failed} failed, {skipped} skipped.")
        feedback.pushInfo(text.format(**counts))
        outputs = {"OUTPUT": output, "REPORT": str(result.get("report") or "")}
        dataset = self.parameterAsString(parameters, "DATASET", context).strip()
        if dataset:
            outputs["DATASET_FILE"] = str(Path(output) / dataset)
        return {**outputs, **{name.upper(): n for name, n in counts.items()}}


def tell_scene(event: Event, feedback) -> None:
    """One image has ended: a failure is a warning with its reason."""
    state, name = event.get("state"), event.get("id")
    if state in ("failed", "skipped"):
        feedback.pushWarning(f"{name}: {event.get('error') or state}")
    else:
        text = tr("{name}: {polygons} polygons")
        feedback.pushInfo(text.format(name=name, polygons=event.get("polygons")))
    for warning in event.get("warnings") or ():
        feedback.pushWarning(f"{name}: {warning}")
