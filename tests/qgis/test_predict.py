"""geoseg:predict in a real QGIS, with the real engine."""

from __future__ import annotations

import processing
from qgis.core import QgsVectorLayer, QgsWkbTypes


def test_polygons_of_a_real_scene(scene, tmp_path):
    result = processing.run("geoseg:predict", {"INPUT": scene, "OUTPUT": str(tmp_path / "b.gpkg")})
    layer = QgsVectorLayer(result["OUTPUT"])
    assert layer.isValid()
    assert layer.featureCount() == result["POLYGONS"] > 10
    assert layer.geometryType() == QgsWkbTypes.GeometryType.PolygonGeometry
    assert layer.crs().authid() == "EPSG:3857"
