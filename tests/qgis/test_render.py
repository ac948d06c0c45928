"""Layers of map tiles as GeoTIFFs, against a real server on loopback."""

from __future__ import annotations

import json
import math
import threading
import time

import numpy as np
import processing
import pytest
from geoseg_qgis.render import LARGEST, Rendering, ground, metric, needs_rendering
from geoseg_qgis.run import Run
from osgeo import gdal
from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransformContext,
    QgsFeature,
    QgsFeedback,
    QgsGeometry,
    QgsPointXY,
    QgsProcessingException,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QCoreApplication
from tiles import EDGE, TileServer, color, photo

NONE = QgsCoordinateTransformContext()
MERCATOR = QgsCoordinateReferenceSystem("EPSG:3857")
WORLD = QgsCoordinateReferenceSystem("EPSG:4326")
HALF = math.pi * 6378137
X, Y = 9_519_926.0, 3_202_787.0  # 27.6° north


def box(width: float, height: float) -> QgsRectangle:
    return QgsRectangle(X, Y - height, X + width, Y)


def layer_of(server: TileServer) -> QgsRasterLayer:
    layer = QgsRasterLayer(server.uri, "tiles", "wms")
    assert layer.isValid()
    assert needs_rendering(layer)
    return layer


def in_background(work):
    """What it returns or raises, as from Processing's thread."""
    done = []

    def caught():
        try:
            done.append(work())
        except Exception as e:  # noqa: BLE001
            done.append(e)

    thread = threading.Thread(target=caught)
    thread.start()
    thread.join(60)
    if isinstance(done[0], Exception):
        raise done[0]
    return done[0]


def test_every_pixel_is_the_tiles_at_its_place(tmp_path):
    path = str(tmp_path / "r.tif")
    with TileServer() as server:
        rendering = Rendering(layer_of(server), box(400, 250), MERCATOR, NONE)
        assert in_background(lambda: rendering.write(path, 0.3, QgsFeedback()))
        zooms = {z for z, _, _ in server.asked}
    (zoom,) = zooms
    picture = gdal.Open(path)
    left, pixel, _, top, _, height = picture.GetGeoTransform()
    assert (left, top) == (X, Y)
    assert pixel == pytest.approx(-height)
    # Mercator stretches by 1 / cos(latitude); 0.3 m are meant on the ground.
    assert pixel * math.cos(math.radians(27.63)) == pytest.approx(0.3, rel=0.005)
    assert picture.RasterXSize == round(400 / pixel)
    array = picture.ReadAsArray()
    tile = 2 * HALF / 2**zoom
    columns = (left + (np.arange(array.shape[2]) + 0.5) * pixel + HALF) / tile
    rows = (HALF - top + (np.arange(array.shape[1]) + 0.5) * pixel) / tile
    inner = [np.abs(a - np.round(a)) * EDGE > 2 for a in (columns, rows)]  # not at an edge
    for r in np.flatnonzero(inner[1])[::40]:
        for c in np.flatnonzero(inner[0])[::40]:
            expected = (*color(zoom, int(columns[c]), int(rows[r])), 255)
            assert tuple(array[:, r, c]) == expected


def test_an_extent_in_degrees_and_a_layer_in_degrees(tmp_path):
    with TileServer() as server:
        extent = QgsRectangle(85.52, 27.63, 85.522, 27.631)
        rendering = Rendering(layer_of(server), extent, WORLD, NONE)
        assert rendering.crs == MERCATOR
        size = rendering.size(0.5)
    assert size.columns * 0.5 == pytest.approx(197.3, rel=0.005)  # metres on the ground
    assert size.rows * 0.5 == pytest.approx(110.9, rel=0.005)
    assert metric(WORLD, QgsPointXY(85.5, 27.6), NONE).authid() == "EPSG:32645"
    assert metric(WORLD, QgsPointXY(-70.6, -33.4), NONE).authid() == "EPSG:32719"
    assert metric(WORLD, QgsPointXY(0, 88), NONE).authid() == "EPSG:32661"


@pytest.mark.parametrize("latitude", [0, 27.6, 60, -45])
def test_ground_metres(latitude):
    y = math.log(math.tan(math.pi / 4 + math.radians(latitude) / 2)) * 6378137
    found = ground(MERCATOR, QgsPointXY(1e6, y), NONE)
    assert found == pytest.approx(math.cos(math.radians(latitude)), rel=0.006)
    zone = QgsCoordinateReferenceSystem("EPSG:32633")
    assert ground(zone, QgsPointXY(5e5, 5e6), NONE) == pytest.approx(1 / 0.9996, rel=1e-5)


def test_a_map_in_another_crs_is_warped(tmp_path, monkeypatch):
    """As a WMS in degrees is: here the tiles' own CRS is taken for one without metres."""
    utm = QgsCoordinateReferenceSystem("EPSG:32645")
    monkeypatch.setattr("geoseg_qgis.render.metric", lambda *_: utm)
    path = str(tmp_path / "r.tif")
    with TileServer() as server:
        rendering = Rendering(layer_of(server), box(200, 100), MERCATOR, NONE)
        assert in_background(lambda: rendering.write(path, 0.5, QgsFeedback()))
    picture = gdal.Open(path)
    assert picture.GetGeoTransform()[1] == pytest.approx(0.5, rel=0.001)
    assert QgsRasterLayer(path, "r").crs().authid() == "EPSG:32645"
    assert picture.ReadAsArray()[:, 50, 50].any()


def test_too_large_is_said_at_once():
    with TileServer() as server:
        edge = 1.2 * math.sqrt(LARGEST) * 0.3
        rendering = Rendering(layer_of(server), box(edge, edge), MERCATOR, NONE)
        with pytest.raises(QgsProcessingException, match="smaller extent"):
            rendering.size(0.3)
        assert rendering.size(0.6).columns > 1
        assert server.asked == []


def test_outside_is_said():
    with TileServer() as server:
        far = QgsRectangle(3e7, 0, 3.1e7, 1e5)
        with pytest.raises(QgsProcessingException, match="outside tiles"):
            Rendering(layer_of(server), far, MERCATOR, NONE)


def test_a_layer_without_fine_pixels_is_told():
    with TileServer(zmax=14) as server:
        rendering = Rendering(layer_of(server), box(200, 100), MERCATOR, NONE)
        assert "8.4 m" in rendering.coarse(0.3)
    with TileServer() as server:
        assert Rendering(layer_of(server), box(200, 100), MERCATOR, NONE).coarse(0.3) == ""


def test_a_server_that_fails_is_an_error(tmp_path):
    with TileServer(status=500) as server:
        rendering = Rendering(layer_of(server), box(50, 50), MERCATOR, NONE)
        with pytest.raises(QgsProcessingException, match="no image"):
            in_background(lambda: rendering.write(str(tmp_path / "r.tif"), 1, QgsFeedback()))


def test_cancel_and_progress_reach_the_writer(tmp_path):
    with TileServer(delay=0.2) as server:
        rendering = Rendering(layer_of(server), box(2000, 2000), MERCATOR, NONE)
        feedback, seen = QgsFeedback(), []
        feedback.progressChanged.connect(seen.append)

        def cancel():
            while not server.asked:
                time.sleep(0.01)
            feedback.cancel()

        threading.Thread(target=cancel).start()
        path = str(tmp_path / "r.tif")
        assert in_background(lambda: rendering.write(path, 0.3, feedback)) is False
        assert len(server.asked) < 500  # of some 900


def test_predict_takes_a_layer_of_tiles(scene, tmp_path):
    """The same town by tiles and by its file: the tiles are resampled, so not to the polygon."""
    extent = QgsRasterLayer(scene, "scene").extent()
    with TileServer(photo(scene)) as server:
        inputs = {"INPUT": layer_of(server), "EXTENT": extent, "OUTPUT": str(tmp_path / "t.gpkg")}
        by_tiles = processing.run("geoseg:predict", inputs)
    layer = QgsVectorLayer(by_tiles["OUTPUT"], "t")
    assert layer.crs() == MERCATOR
    assert extent.buffered(1).contains(layer.extent())
    area = sum(f["area_m2"] for f in layer.getFeatures())
    assert area == pytest.approx(61_600, rel=0.1)  # of the file: tests/qgis/test_predict.py's run


def test_a_layer_that_is_removed_meanwhile(tmp_path, fake):
    """The area's polygons and the tiles go from the project while the tiles are fetched."""
    result = json.dumps({"event": "result", "polygons": {"building": 1}})
    fake(
        "if sys.argv[1] == 'model': print(json.dumps({'properties': {'gsd': 0.3}})); sys.exit()\n"
        "import sqlite3\n"
        "area = sqlite3.connect(sys.argv[sys.argv.index('--aoi') + 1])\n"
        "assert area.execute('select count(*) from aoi').fetchall() == [(1,)]\n"
        f"print({result!r})"
    )
    project, ended = QgsProject.instance(), []
    area = QgsVectorLayer("Polygon?crs=EPSG:3857", "area", "memory")
    feature = QgsFeature()
    feature.setGeometry(QgsGeometry.fromRect(box(200, 200)))
    area.dataProvider().addFeatures([feature])
    area.updateExtents()
    with TileServer(delay=0.2) as server:
        project.addMapLayers([layer_of(server), area])
        tiles, polygons = (project.mapLayersByName(name)[0].id() for name in ("tiles", "area"))
        output = str(tmp_path / "o.gpkg")
        run = Run({"INPUT": tiles, "AOI": polygons, "OUTPUT": output}, project)
        run.ended.connect(lambda ok, results: ended.append((ok, results, run.error())))
        run.start()
        del area
        until = time.monotonic() + 60
        while not ended and time.monotonic() < until:
            if server.asked:
                project.removeMapLayers([tiles, polygons])
            QCoreApplication.processEvents()
    ((ok, results, error),) = ended
    assert ok, error
    assert results["POLYGONS"] == 1
