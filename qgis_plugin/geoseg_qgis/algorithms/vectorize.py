"""geoseg:vectorize: a raster of classes, from any tool, to polygons."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    QgsPalettedRasterRenderer,
    QgsProcessingOutputNumber,
    QgsProcessingParameterBand,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterVectorDestination,
    QgsRasterLayer,
)

from ..i18n import tr
from ..inputs import raster_source
from ..results import style_later
from .base import (
    POLYGON,
    EngineAlgorithm,
    choice,
    metres,
    more_outline_parameters,
    number,
    outline_parameters,
    total,
    words,
)


class Vectorize(EngineAlgorithm):
    """Needs no model."""

    verb = "vectorize"

    def title(self) -> str:
        return tr("Polygons of a raster of classes")

    def help(self) -> str:
        return tr(
            "Writes the polygons of a raster of class numbers from any tool, in memory that does "
            "not grow with its size: neighbours keep their common edge, also when simplified or "
            "made straight.\n\n"
            "Names of classes that are not given are taken from the layer's style, if it is "
            "paletted, or from the file. Numbers of the background have no polygons. With a raster "
            "of probabilities on the same pixels, polygons get a confidence, and contours become "
            "smooth."
        )

    def initAlgorithm(self, config: dict[str, Any] | None = None) -> None:
        self.add(QgsProcessingParameterRasterLayer("INPUT", tr("Raster of classes")))
        band = QgsProcessingParameterBand("BAND", tr("Band"), 1, "INPUT", optional=True)
        self.offer({"--band": band})
        self.add(words("CLASSES", tr("Names of classes: 1=building,2=road")))
        self.offer({"--background": words("BACKGROUND", tr("Background: none, or numbers: 0,255"))})
        self.offer(outline_parameters())
        self.offer(more_outline_parameters(), advanced=True)
        self.add(
            QgsProcessingParameterRasterLayer(
                "CONFIDENCE", tr("Probabilities on the same pixels"), optional=True
            ),
            advanced=True,
        )
        self.offer(
            {
                "--threshold": number(
                    "THRESHOLD", tr("Decision level of the only class"), least=0, most=1
                ),
                "--connectivity": choice(
                    "CONNECTIVITY",
                    tr("8: pixels of a class that meet at a point are one polygon, too"),
                    ["4", "8"],
                ),
                "--nodata": number("NODATA", tr("Value that means no data")),
                "--gsd": metres("GSD", tr("Size of a pixel (m), where there is no CRS")),
            },
            advanced=True,
        )
        self.add(QgsProcessingParameterVectorDestination("OUTPUT", tr("Polygons"), POLYGON))
        self.addOutput(QgsProcessingOutputNumber("POLYGONS", tr("Number of polygons")))

    def check(self, parameters, context) -> None:
        raster_source(self.raster(parameters, "INPUT", context))

    def prepareAlgorithm(self, parameters, context, feedback) -> bool:
        layer = self.raster(parameters, "INPUT", context)
        classes = self.parameterAsString(parameters, "CLASSES", context).strip()
        classes = classes or names_of(layer, self.parameterAsInt(parameters, "BAND", context))
        confidence = self.parameterAsRasterLayer(parameters, "CONFIDENCE", context)
        self._command = ["vectorize", raster_source(layer)]
        if classes:
            self._command += [f"--classes={classes}"]
        if confidence is not None:
            self._command += ["--confidence", raster_source(confidence)]
        self._command += self.said(parameters, context)
        return True

    def processAlgorithm(self, parameters, context, feedback) -> dict[str, Any]:
        output = self.parameterAsOutputLayer(parameters, "OUTPUT", context)
        result = self.run_engine([*self._command, "--output", output, "--overwrite"], feedback)
        if result is None:
            return {}
        style_later(context, {"OUTPUT": output}, result)
        return {"OUTPUT": output, "POLYGONS": total(result.get("polygons"))}


def names_of(layer: QgsRasterLayer, band: int) -> str:
    """NUMBER=NAME,... of a paletted layer's labels, as far as they are more than the numbers."""
    renderer = layer.renderer()
    if not isinstance(renderer, QgsPalettedRasterRenderer) or renderer.band() != band:
        return ""
    named = {}
    for entry in renderer.classes():
        name = entry.label.replace(",", ";").strip()
        if name and not is_number(name) and float(entry.value).is_integer():
            named[int(entry.value)] = name
    return ",".join(f"{value}={name}" for value, name in named.items())


def is_number(text: str) -> bool:
    """Whether a label says no more than the value does."""
    try:
        float(text)
    except ValueError:
        return False
    return True
