"""geoseg:vectorize and geoseg:evaluate, with the real engine."""

from __future__ import annotations

from pathlib import Path

import processing
import pytest
from osgeo import gdal
from qgis.core import (
    QgsPalettedRasterRenderer,
    QgsProcessingException,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
    QgsWkbTypes,
)
from qgis.PyQt.QtGui import QColor


def test_the_polygons_of_a_mask_are_those_of_the_prediction(predicted, tmp_path):
    run = {"INPUT": predicted["MASK"], "MIN_AREA": 50, "OUTPUT": f"{tmp_path}/v.gpkg"}
    result = processing.run("geoseg:vectorize", run)
    assert result["POLYGONS"] == predicted["POLYGONS"]
    made, before = QgsVectorLayer(result["OUTPUT"]), QgsVectorLayer(predicted["OUTPUT"])
    assert made.geometryType() == QgsWkbTypes.GeometryType.PolygonGeometry
    assert made.crs() == before.crs()
    assert sorted(f["area_m2"] for f in made.getFeatures()) == pytest.approx(
        sorted(f["area_m2"] for f in before.getFeatures())
    )


def test_classes_are_named_as_in_the_style_of_the_layer(predicted, tmp_path):
    layer = QgsRasterLayer(predicted["MASK"], "classes")
    Entry = QgsPalettedRasterRenderer.Class
    entries = [Entry(0, QColor("white"), "0"), Entry(1, QColor("red"), "Häuser, 房屋")]
    layer.setRenderer(QgsPalettedRasterRenderer(layer.dataProvider(), 1, entries))
    QgsProject.instance().addMapLayer(layer)
    run = {"INPUT": layer, "SIEVE": 20, "OUTPUT": f"{tmp_path}/v.gpkg"}
    result = processing.run("geoseg:vectorize", run)
    named = QgsVectorLayer(result["OUTPUT"])
    assert named.uniqueValues(named.fields().lookupField("class")) == {"Häuser; 房屋"}
    QgsProject.instance().clear()


def test_polygons_against_the_truth(predicted, scene, truth, tmp_path, feedback):
    run = {
        "INPUT": predicted["OUTPUT"],
        "TRUTH": truth,
        "SCENE": scene,
        "ATTRIBUTE": "class",
        "TOLERANCE": 1,
        "OUTPUT": str(tmp_path / "report"),
    }
    result = processing.run("geoseg:evaluate", run, feedback=feedback)
    assert 0.7 < result["IOU"] < result["F1"] < 1
    assert 0 < result["OBJECT_F1"] < 1
    assert "AP" not in result  # there are no scores
    assert "building" in Path(result["REPORT"]).read_text(encoding="utf-8")
    assert QgsVectorLayer(result["PLACES"]).featureCount() > 100
    assert f"iou: {result['IOU']:.3f} (" in feedback.text


def test_truth_against_itself_in_a_subdataset(scene, truth, tmp_path):
    """The image is a table of a GeoPackage, which the engine gets by way of a VRT."""
    raster = tmp_path / "raster.gpkg"
    options = ["RASTER_TABLE=aerial view"]
    gdal.Translate(str(raster), scene, format="GPKG", width=768, creationOptions=options)
    image = QgsRasterLayer(f"GPKG:{raster}:aerial view", "Luftbild: 空中")
    assert image.isValid()
    run = {"INPUT": truth, "TRUTH": truth, "SCENE": image, "OUTPUT": "TEMPORARY_OUTPUT"}
    result = processing.run("geoseg:evaluate", run)
    assert result["IOU"] == result["OBJECT_F1"] == 1
    assert Path(result["REPORT"]).is_file()


def test_truth_that_lies_elsewhere(predicted, scene, truth, tmp_path):
    elsewhere = truth.replace("banepa_center_buildings", "banepa_buildings")
    run = {"INPUT": predicted["OUTPUT"], "TRUTH": elsewhere, "SCENE": scene}
    with pytest.raises(QgsProcessingException, match=r"truth\.gpkg"):
        processing.run("geoseg:evaluate", {**run, "OUTPUT": str(tmp_path / "report")})
    assert list(tmp_path.iterdir()) == []
