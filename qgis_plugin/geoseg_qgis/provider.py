"""The Processing provider "geoseg"."""

from __future__ import annotations

from pathlib import Path

from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithms import ALGORITHMS


class GeosegProvider(QgsProcessingProvider):
    """All verbs of the engine that make sense on layers."""

    def id(self):
        return "geoseg"

    def name(self):
        return "geoseg"

    def icon(self):
        return QIcon(str(Path(__file__).parent / "icons" / "geoseg.svg"))

    def loadAlgorithms(self):
        for algorithm in ALGORITHMS:
            self.addAlgorithm(algorithm())

    def supportsNonFileBasedOutput(self):
        return False  # the engine writes files

    def supportedOutputVectorLayerExtensions(self):
        return ["gpkg", "fgb", "geojson", "parquet", "shp"]

    def defaultVectorFileExtension(self, hasGeometry=True):
        return "gpkg"

    def supportedOutputRasterLayerExtensions(self):
        return ["tif"]

    def defaultRasterFileExtension(self):
        return "tif"
