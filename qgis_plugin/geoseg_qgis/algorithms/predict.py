"""geoseg:predict: a raster layer to polygons."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    QgsProcessingException,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
)

from ..i18n import tr
from ..inputs import raster_source, save_features
from .base import (
    DOUBLE,
    INTEGER,
    OUTLINES,
    POLYGON,
    EngineAlgorithm,
    metres,
    model_parameter,
    outline_parameters,
    said,
)

# Further parameters, which are said as they are.
TEXTS = {
    "BANDS": "--bands",
    "STRETCH": "--stretch",
    "DEVICE": "--device",
}
NUMBERS = {
    "GSD": "--gsd",
    "TILE": "--tile",
    "THRESHOLD": "--threshold",
    "CUT": "--cut",
}
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
            "resampled to the model's resolution; bands or values that do not fit are reported. "
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
            *outline_parameters(),
        )
        self.add(
            metres("CUT", tr("Cut objects apart where narrower than (m)")),
            QgsProcessingParameterNumber(
                "THRESHOLD",
                tr("Decision level, instead of the model's"),
                DOUBLE,
                optional=True,
                minValue=0,
                maxValue=1,
            ),
            QgsProcessingParameterString(
                "BANDS", tr("Bands of the image for the model's: 4,3,2"), optional=True
            ),
            QgsProcessingParameterString(
                "STRETCH",
                tr("Values that become the model's range: auto, none, or LOW,HIGH"),
                optional=True,
            ),
            metres("GSD", tr("Size of the image's pixels (m), if it is wrong or missing")),
            QgsProcessingParameterNumber(
                "TILE", tr("Edge of the tiles (px)"), INTEGER, optional=True, minValue=0
            ),
            QgsProcessingParameterString(
                "DEVICE", tr("Device: auto, cpu, cuda, mps"), optional=True
            ),
            advanced=True,
        )
        self.add(
            QgsProcessingParameterVectorDestination("OUTPUT", tr("Polygons"), POLYGON),
            QgsProcessingParameterRasterDestination(
                "MASK", tr("Classes as a raster"), optional=True, createByDefault=False
            ),
            QgsProcessingParameterRasterDestination(
                "PROBABILITIES", tr("Probabilities"), optional=True, createByDefault=False
            ),
        )

    def prepareAlgorithm(self, parameters, context, feedback) -> bool:
        layer = self.parameterAsRasterLayer(parameters, "INPUT", context)
        if layer is None:
            raise QgsProcessingException(self.invalidRasterError(parameters, "INPUT"))
        self._source = raster_source(layer)
        self._model = self.parameterAsString(parameters, "MODEL", context)
        self._aoi = self.parameterAsSource(parameters, "AOI", context)
        extent = self.parameterAsExtent(parameters, "EXTENT", context, layer.crs())
        self._bounds = None
        if not extent.isNull():
            sides = (extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum())
            self._bounds = ",".join(map(repr, sides))
        if self._bounds and self._aoi is not None:
            raise QgsProcessingException(tr("Choose an extent or polygons, not both."))
        options = {o: self.parameterAsDouble(parameters, n, context) for n, o in OUTLINES.items()}
        options.update(
            {o: self.parameterAsString(parameters, n, context) for n, o in TEXTS.items()}
        )
        for name, option in NUMBERS.items():
            options[option] = self.parameterAsDouble(parameters, name, context)
        options["--tile"] = self.parameterAsInt(parameters, "TILE", context)
        self._options = said(options)
        return True

    def processAlgorithm(self, parameters, context, feedback) -> dict[str, Any]:
        outputs = {
            name: path
            for name in OUTPUTS
            if (path := self.parameterAsOutputLayer(parameters, name, context))
        }
        with self.working_folder() as folder:
            arguments = ["predict", self._source, "--model", self._model, *self._options]
            if self._bounds:
                arguments += [f"--bounds={self._bounds}"]
            if self._aoi is not None:
                arguments += ["--aoi", save_features(self._aoi, f"{folder}/aoi.gpkg")]
            for name, path in outputs.items():
                arguments += [OUTPUTS[name], path]
            result = self.run_engine([*arguments, "--overwrite"], feedback)
        if result is None:
            return {}
        return {**outputs, **counted(result)}


def counted(result: dict[str, Any]) -> dict[str, Any]:
    """What a result says in numbers."""
    polygons = result.get("polygons")
    return {"POLYGONS": sum(polygons.values()) if isinstance(polygons, dict) else 0}
