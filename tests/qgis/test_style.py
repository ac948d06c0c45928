"""Styles and metadata of results, on files as the engine writes them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from geoseg_qgis import style
from osgeo import gdal, ogr, osr
from qgis.core import QgsRasterLayer, QgsVectorLayer
from qgis.PyQt.QtGui import QColor

MODEL = {
    "name": "m",
    "description": "Two things.",
    "license": "MIT",
    "classes": [{"name": "roof", "color": "#e6550d"}, {"name": "tree", "color": "#3f9b3f"}],
}
OPTIONS = {"simplify": 0.5, "aoi": None, "outline": "pixel", "tile": 0}
ORIGIN = {"geoseg:version": "9.9", "geoseg:model": "m-1.0", "geoseg:options": json.dumps(OPTIONS)}


@pytest.fixture(params=["confidence", "score"])
def polygons(request, tmp_path):
    """Two squares of two classes; (layer, name of the measure)."""
    path = str(tmp_path / "p.gpkg")
    dataset = ogr.GetDriverByName("GPKG").CreateDataSource(path)
    crs = osr.SpatialReference()
    crs.ImportFromEPSG(32645)
    layer = dataset.CreateLayer("p", crs, ogr.wkbPolygon)
    layer.SetMetadataItem("geoseg", json.dumps(ORIGIN))
    layer.CreateField(ogr.FieldDefn("class", ogr.OFTString))
    layer.CreateField(ogr.FieldDefn(request.param, ogr.OFTReal))
    for x, name, value in ((0, "roof", 0.95), (20, "tree", 0.55)):
        feature = ogr.Feature(layer.GetLayerDefn())
        feature["class"], feature[request.param] = name, value
        square = f"POLYGON (({x} 0, {x + 9} 0, {x + 9} 9, {x} 9, {x} 0))"
        feature.SetGeometry(ogr.CreateGeometryFromWkt(square))
        layer.CreateFeature(feature)
    del layer, dataset
    return QgsVectorLayer(path, "result"), request.param


def test_two_styles_and_the_models_colours(polygons):
    layer, measure = polygons
    style.style_result(layer, {}, MODEL)
    assert sorted(layer.styleManager().styles()) == ["classes", "confidence"]
    renderer = layer.renderer()
    shown = {c.value(): c.symbol().color() for c in renderer.categories()}
    assert {k: v.name() for k, v in shown.items()} == {"roof": "#e6550d", "tree": "#3f9b3f"}
    assert all(0 < color.alpha() < 255 for color in shown.values())
    layer.styleManager().setCurrentStyle("confidence")
    renderer = layer.renderer()
    assert renderer.classAttribute() == measure
    ranges = renderer.ranges()
    assert ranges[0].lowerValue() == 0
    assert ranges[-1].upperValue() == 1
    colors = {
        r.symbol().color().name()
        for r in ranges
        for value in (0.95, 0.55)
        if r.lowerValue() <= value < r.upperValue()
    }
    assert len(colors) == 2


def test_a_model_that_is_gone_still_gives_colours(polygons):
    layer, _ = polygons
    style.style_result(layer, {}, None)
    shown = {c.value(): c.symbol().color().name() for c in layer.renderer().categories()}
    assert sorted(shown) == ["roof", "tree"]
    assert len(set(shown.values())) == 2


def test_metadata_says_where_it_comes_from(polygons):
    layer, _ = polygons
    style.style_result(layer, {"device": "cpu", "model": "ignored: the file knows"}, MODEL)
    metadata = layer.metadata()
    assert "9.9" in metadata.abstract()
    assert "m-1.0" in metadata.abstract()
    assert metadata.history() == [
        "geoseg version: 9.9",
        "geoseg model: m-1.0",
        "device: cpu",
        "outline: pixel",
        "simplify: 0.5",
    ]
    assert metadata.title() == "result"


def test_rasters(tmp_path):
    def written(name, array, kind):
        path = str(tmp_path / name)
        dataset = gdal.GetDriverByName("GTiff").Create(path, 8, 8, 1, kind)
        dataset.SetGeoTransform((0, 1, 0, 8, 0, -1))
        dataset.SetMetadataItem("geoseg", json.dumps(ORIGIN))
        band = dataset.GetRasterBand(1)
        band.WriteArray(array)
        if kind == gdal.GDT_Byte:
            band.SetMetadata({"CLASS_1": "roof", "CLASS_2": "tree"})
        del band, dataset
        return QgsRasterLayer(path, name)

    mask = written("m.tif", np.eye(8, dtype=np.uint8) * 2, gdal.GDT_Byte)
    style.style_mask(mask, {}, MODEL)
    shown = {c.value: (c.label, c.color.name()) for c in mask.renderer().classes()}
    assert shown == {1: ("roof", "#e6550d"), 2: ("tree", "#3f9b3f")}

    probabilities = written("p.tif", np.eye(8, dtype=np.float32), gdal.GDT_Float32)
    style.style_probabilities(probabilities, {}, MODEL)
    image = probabilities.renderer().block(1, probabilities.extent(), 8, 8).image()
    shown, meant = image.pixelColor(0, 0), QColor("#e6550d")
    assert shown.getRgb()[:3] == pytest.approx(meant.getRgb()[:3], abs=2)
    assert shown.alpha() == pytest.approx(0.7 * 255, abs=1)
    assert image.pixelColor(1, 0).alpha() == 0
    assert "m-1.0" in probabilities.metadata().abstract()
