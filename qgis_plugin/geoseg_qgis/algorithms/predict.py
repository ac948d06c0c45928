"""geoseg:predict: a raster layer to polygons."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    QgsProcessingException,
    QgsProcessingFeatureSourceDefinition,
    QgsProcessingFeedback,
    QgsProcessingMultiStepFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingParameterExtent,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterVectorDestination,
)

from .. import settings
from ..i18n import tr
from ..inputs import layer_file, raster_source, same_file, save_features
from ..render import Rendering, needs_rendering
from ..results import model_record, style_later
from ..runner import EngineError
from .base import (
    POLYGON,
    EngineAlgorithm,
    area_parameter,
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
            "Model: one of the list; Engine and models adds others to it. Scripts may also name a "
            "folder or zip, or several with a semicolon between, which are averaged. Advanced "
            "options that are not set are the model's own; some suit only models of pixels, or of "
            "objects, and are refused for others.\n\n"
            "Map services (WMS, XYZ tiles) are rendered at the model's resolution first; choose an "
            "extent or polygons for them.\n\n"
            "The engine must be set up once: Raster ▸ geoseg ▸ Engine and models."
        )

    def initAlgorithm(self, config: dict[str, Any] | None = None) -> None:
        self.add(
            QgsProcessingParameterRasterLayer("INPUT", tr("Image")),
            model_parameter(),
            QgsProcessingParameterExtent("EXTENT", tr("Only this extent"), optional=True),
            area_parameter(),
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

    def check(self, parameters, context) -> None:
        layer = self.raster(parameters, "INPUT", context)
        if not needs_rendering(layer):
            raster_source(layer)
        extent = self.parameterAsExtent(parameters, "EXTENT", context)
        if not extent.isNull() and self.parameterAsSource(parameters, "AOI", context) is not None:
            raise QgsProcessingException(tr("Choose an extent or polygons, not both."))

    def prepareAlgorithm(self, parameters, context, feedback) -> bool:
        layer = self.raster(parameters, "INPUT", context)
        self._model = self.parameterAsString(parameters, "MODEL", context)
        self._aoi = self.parameterAsSource(parameters, "AOI", context)
        self._aoi_file = self._file("AOI", parameters, context)
        extent = self.parameterAsExtent(parameters, "EXTENT", context, layer.crs())
        self._area = [] if extent.isNull() else [f"--bounds={bounds(extent)}"]
        self._rendering = None
        if needs_rendering(layer):
            wanted, crs = (layer.extent() if extent.isNull() else extent), layer.crs()
            if self._aoi is not None:
                wanted, crs = self._aoi.sourceExtent(), self._aoi.sourceCrs()
            self._rendering = Rendering(layer, wanted, crs, context.transformContext())
            self._area = []  # it is all of the rendered file
        else:
            self._source = raster_source(layer)
        self._said = self.said(parameters, context)
        return True

    def processAlgorithm(self, parameters, context, feedback) -> dict[str, Any]:
        outputs = {
            name: path
            for name in OUTPUTS
            if (path := self.parameterAsOutputLayer(parameters, name, context))
        }
        self._spare_polygons(outputs)
        with self.working_folder() as folder:
            area = self._area
            if self._aoi is not None:  # before all that takes time: its layer may be removed
                area = ["--aoi", save_features(self._aoi, f"{folder}/aoi.gpkg")]
            if self._rendering is not None:
                feedback = QgsProcessingMultiStepFeedback(2, feedback)
                self._source = self._render(f"{folder}/image.tif", feedback)
                feedback.setCurrentStep(1)
            if feedback.isCanceled():
                return {}
            command = ["predict", self._source, *models(self._model), *self._said, *area]
            for name, path in outputs.items():
                command += [OUTPUTS[name], path]
            result = self.run_engine([*command, "--overwrite"], feedback)
        if result is None:
            return {}
        style_later(context, outputs, result, self._model)
        return {**outputs, "POLYGONS": total(result.get("polygons"))}

    def _file(self, name: str, parameters, context) -> str:
        """The path behind features that may be the selected ones only; "" where there is none."""
        value = parameters.get(name)
        if isinstance(value, QgsProcessingFeatureSourceDefinition):
            value, _ = value.source.valueAsString(context.expressionContext())
        return layer_file(self.parameterAsVectorLayer({name: value}, name, context))

    def _spare_polygons(self, outputs: dict[str, str]) -> None:
        """Refuse to write over the area's file: the engine sees only a copy of it."""
        for path in outputs.values():
            if same_file(path, self._aoi_file):
                text = tr("{path} holds the polygons of the area. Choose another output.")
                raise QgsProcessingException(text.format(path=path))

    def _render(self, path: str, feedback: QgsProcessingFeedback) -> str:
        """Make a file of a layer that is none; its path."""
        gsd = self.model_gsd()
        warning = self._rendering.coarse(gsd)
        if warning:
            feedback.pushWarning(warning)
        size = self._rendering.size(gsd)
        text = tr("Rendering {columns} × {rows} pixels of {gsd} m")
        text = text.format(columns=size.columns, rows=size.rows, gsd=f"{gsd:g}")
        feedback.pushInfo(text)
        feedback.setProgressText(text)
        self._rendering.write(path, gsd, feedback)
        return path

    def model_gsd(self) -> float:
        """Metres per pixel that the (first) model expects; asks the engine where need be."""
        name = self._model.split(";")[0].strip()
        known = model_record(name)
        try:
            contract = known or settings.engine().run(["model", "show", name])["properties"]
        except EngineError as e:
            raise QgsProcessingException(str(e)) from e
        return float(contract["gsd"])


def bounds(extent) -> str:
    """A rectangle for the command line: west, south, east, north."""
    sides = (extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum())
    return ",".join(map(repr, sides))
