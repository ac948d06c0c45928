"""geoseg:predict: a raster layer to polygons."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    QgsProcessingException,
    QgsProcessingOutputNumber,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterVectorDestination,
)

from ..i18n import tr
from ..inputs import raster_source, save_features
from ..results import style_later
from .base import (
    POLYGON,
    EngineAlgorithm,
    choice,
    model_parameter,
    models,
    more_outline_parameters,
    outline_parameters,
    predict_parameters,
    total,
)

GRIDS = ("model", "scene")
OUTPUTS = {"OUTPUT": "--output", "MASK": "--mask", "PROBABILITIES": "--probabilities"}


class Predict(EngineAlgorithm):
    """Semantic or instance, as the model is."""

    verb = "predict"

    def title(self) -> str:
        return tr("Segment a raster")

    def help(self) -> str:
        return tr(
            "Finds what the model knows (buildings, land cover, your own classes) in a raster of "
            "any size and writes polygons, each with its class, confidence and area. The raster is "
            "resampled to the model's resolution; bands or values that do not fit are reported.\n\n"
            "Model: a name of the list, or the folder or zip of a model; several, with a semicolon "
            "between, are averaged. Advanced options that are not set are the model's own; some "
            "suit only models of pixels, or of objects, and are refused for others.\n\n"
            "The engine must be set up once: Raster ▸ geoseg ▸ Engine and models."
        )

    def initAlgorithm(self, config: dict[str, Any] | None = None) -> None:
        self.add(
            QgsProcessingParameterRasterLayer("INPUT", tr("Image")),
            model_parameter(),
            QgsProcessingParameterExtent("EXTENT", tr("Only this extent"), optional=True),
            QgsProcessingParameterFeatureSource(
                "AOI", tr("Only inside these polygons"), [POLYGON], optional=True
            ),
        )
        self.offer(outline_parameters())
        self.offer(more_outline_parameters(), advanced=True)
        self.offer(predict_parameters(), advanced=True)
        grid = choice(
            "RASTER_GRID", tr("Pixels of the rasters: the model's, or the image's"), GRIDS
        )
        self.offer({"--raster-grid": grid}, advanced=True)
        self.add(
            QgsProcessingParameterVectorDestination("OUTPUT", tr("Polygons"), POLYGON),
            QgsProcessingParameterRasterDestination(
                "MASK", tr("Classes as a raster"), optional=True, createByDefault=False
            ),
            QgsProcessingParameterRasterDestination(
                "PROBABILITIES", tr("Probabilities"), optional=True, createByDefault=False
            ),
        )
        self.addOutput(QgsProcessingOutputNumber("POLYGONS", tr("Number of polygons")))

    def prepareAlgorithm(self, parameters, context, feedback) -> bool:
        layer = self.raster(parameters, "INPUT", context)
        self._source = raster_source(layer)
        self._model = self.parameterAsString(parameters, "MODEL", context)
        self._aoi = self.parameterAsSource(parameters, "AOI", context)
        extent = self.parameterAsExtent(parameters, "EXTENT", context, layer.crs())
        self._area = [] if extent.isNull() else [f"--bounds={bounds(extent)}"]
        if self._area and self._aoi is not None:
            raise QgsProcessingException(tr("Choose an extent or polygons, not both."))
        self._said = self.said(parameters, context)
        return True

    def processAlgorithm(self, parameters, context, feedback) -> dict[str, Any]:
        outputs = {
            name: path
            for name in OUTPUTS
            if (path := self.parameterAsOutputLayer(parameters, name, context))
        }
        with self.working_folder() as folder:
            command = ["predict", self._source, *models(self._model), *self._said, *self._area]
            if self._aoi is not None:
                command += ["--aoi", save_features(self._aoi, f"{folder}/aoi.gpkg")]
            for name, path in outputs.items():
                command += [OUTPUTS[name], path]
            result = self.run_engine([*command, "--overwrite"], feedback)
        if result is None:
            return {}
        style_later(context, outputs, result, self._model)
        return {**outputs, "POLYGONS": total(result.get("polygons"))}


def bounds(extent) -> str:
    """A rectangle for the command line: west, south, east, north."""
    sides = (extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum())
    return ",".join(map(repr, sides))
