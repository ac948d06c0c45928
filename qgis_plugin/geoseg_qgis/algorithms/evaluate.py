"""geoseg:evaluate: finished polygons against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessingOutputHtml,
    QgsProcessingOutputNumber,
    QgsProcessingOutputVectorLayer,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterRasterLayer,
)

from ..i18n import tr
from ..inputs import raster_file, raster_source, save_features
from .base import POLYGON, EngineAlgorithm, metres, number, words

MEASURES = (  # of the report; those that polygons have
    *("iou", "f1", "precision", "recall", "boundary_f1", "accuracy"),
    *("object_f1", "object_precision", "object_recall", "object_iou", "count_error", "area_error"),
    *("ap50", "ap"),
)


class Evaluate(EngineAlgorithm):
    """Of one scene."""

    verb = "evaluate"

    def title(self) -> str:
        return tr("Compare polygons with the truth")

    def help(self) -> str:
        return tr(
            "Measures how good polygons are: IoU and F1 of pixels, boundaries and objects, each "
            "with its 95 % interval, in a report with pictures of the worst places.\n\n"
            "Polygons: a result of geoseg, or any layer with a field class (none is needed where "
            "the truth has one class only); with a field score there is average precision, too. "
            "Image: what they were made of; it says where there is data. Labelled area: outside "
            "of it the truth is unknown, and nothing counts. Selected features only are ordinary "
            "here.\n\n"
            "The folder gets report.html, report.json and places.gpkg: all objects, found, missed "
            "or false."
        )

    def initAlgorithm(self, config: dict[str, Any] | None = None) -> None:
        self.add(
            QgsProcessingParameterFeatureSource("INPUT", tr("Polygons"), [POLYGON]),
            QgsProcessingParameterFeatureSource("TRUTH", tr("Truth"), [POLYGON]),
            QgsProcessingParameterRasterLayer("SCENE", tr("Image")),
            QgsProcessingParameterFeatureSource(
                "AOI", tr("Labelled area"), [POLYGON], optional=True
            ),
        )
        field = QgsProcessingParameterField(
            "ATTRIBUTE", tr("Field of the truth with the class"), None, "TRUTH", optional=True
        )
        self.offer({"--attribute": field})
        self.offer(
            {
                "--tolerance": metres("TOLERANCE", tr("By how much boundaries may be off (m)")),
                "--min-area": metres("MIN_AREA", tr("Leave out polygons smaller than (m²)")),
                "--threshold": number(
                    "THRESHOLD", tr("Least score of objects that count"), least=0, most=1
                ),
                "--sizes": words("SIZES", tr("Limits of object sizes (m²): 50,200,1000")),
                "--block": metres("BLOCK", tr("Edge of the blocks for the intervals (m)")),
                "--gsd": metres("GSD", tr("Size of the image's pixels (m), if wrong or missing")),
            },
            advanced=True,
        )
        self.add(QgsProcessingParameterFolderDestination("OUTPUT", tr("Folder of the report")))
        self.addOutput(QgsProcessingOutputHtml("REPORT", tr("Report")))
        self.addOutput(
            QgsProcessingOutputVectorLayer("PLACES", tr("Found, missed and false objects"))
        )
        for measure in MEASURES:
            self.addOutput(QgsProcessingOutputNumber(measure.upper(), measure))

    def check(self, parameters, context) -> None:
        raster_source(self.raster(parameters, "SCENE", context))

    def prepareAlgorithm(self, parameters, context, feedback) -> bool:
        scene = self.raster(parameters, "SCENE", context)
        self._scene = raster_source(scene), scene.name()
        self._layers = {
            name: self.features(parameters, name, context) for name in ("INPUT", "TRUTH")
        }
        aoi = self.parameterAsSource(parameters, "AOI", context)
        if aoi is not None:
            self._layers["AOI"] = aoi
        self._said = self.said(parameters, context)
        return True

    def processAlgorithm(self, parameters, context, feedback) -> dict[str, Any]:
        output = self.parameterAsFileOutput(parameters, "OUTPUT", context)
        with self.working_folder() as folder:
            files = {
                name: save_features(layer, f"{folder}/{name.lower()}.gpkg")
                for name, layer in self._layers.items()
            }
            command = ["evaluate", files["INPUT"], "--truth", files["TRUTH"]]
            command += ["--scene", raster_file(*self._scene, folder), *self._said]
            if "AOI" in files:
                command += ["--aoi", files["AOI"]]
            result = self.run_engine([*command, "--output", output, "--overwrite"], feedback)
        if result is None:
            return {}
        report = Path(output)
        outputs = {
            "OUTPUT": output,
            "REPORT": str(report / "report.html"),
            "PLACES": f"{report / 'places.gpkg'}|layername=objects",
        }
        for note in result.get("notes") or ():
            feedback.pushInfo(str(note))
        return {**outputs, **self._figures(result.get("measures") or {}, feedback)}

    def _figures(self, measures: dict[str, Any], feedback) -> dict[str, float]:
        """Those that there are; they are told, too."""
        figures = {}
        for measure in MEASURES:
            value = (measures.get(measure) or {}).get("value")
            if value is not None:
                figures[measure.upper()] = value
                low, high = measures[measure].get("low"), measures[measure].get("high")
                interval = f" ({low:.3f} – {high:.3f})" if low is not None else ""
                feedback.pushInfo(f"{measure}: {value:.3f}{interval}")
        return figures
