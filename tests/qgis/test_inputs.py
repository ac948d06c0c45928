"""What layers are to the engine: the same pixels, whatever GDAL reads them from."""

from __future__ import annotations

import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from geoseg_qgis import inputs, settings
from osgeo import gdal
from qgis.core import (
    QgsFeature,
    QgsFeatureRequest,
    QgsGeometry,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeatureSource,
    QgsRasterLayer,
    QgsVectorLayer,
)


@pytest.fixture
def server(part):
    """An address of the image, from a server that knows ranges."""
    content = Path(part).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer(b"")

        def do_GET(self):
            self._answer(content)

        def _answer(self, body: bytes) -> None:
            first, last = 0, len(content) - 1
            wanted = self.headers.get("Range", "")
            if wanted:
                first, end = wanted.replace("bytes=", "").split("-")
                first, last = int(first), min(int(end or last), last)
            self.send_response(206 if wanted else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(last + 1 - first))
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.end_headers()
            self.wfile.write(body[first : last + 1])

        def log_message(self, *args):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/image.tif"
        server.shutdown()


def seen(layer: QgsRasterLayer) -> tuple:
    """Columns, rows and bands that the engine sees of a layer."""
    assert layer.isValid()
    about = settings.engine().run(["info", inputs.raster_source(layer)])
    return about["width"], about["height"], len(about["bands"])


def test_sources_of_all_kinds(part, server, tmp_path):
    vrt, package, archive = tmp_path / "a b.vrt", tmp_path / "c.gpkg", tmp_path / "影像.zip"
    gdal.Translate(str(vrt), part, format="VRT", bandList=[1, 2])
    options = ["RASTER_TABLE=air", "TILE_FORMAT=PNG"]
    gdal.Translate(str(package), part, format="GPKG", creationOptions=options)
    with zipfile.ZipFile(archive, "w") as file:
        file.write(part, "image.tif")
    assert seen(QgsRasterLayer(str(vrt))) == (768, 768, 2)
    assert seen(QgsRasterLayer(f"{part}|option:NUM_THREADS=2")) == (768, 768, 3)
    assert seen(QgsRasterLayer(f"GPKG:{package}:air"))[2] >= 3
    assert seen(QgsRasterLayer(f"/vsizip/{archive}/image.tif")) == (768, 768, 3)
    assert seen(QgsRasterLayer(f"/vsicurl/{server}")) == (768, 768, 3)


def test_what_only_qgis_has(part, tmp_path):
    gdal.Translate("/vsimem/held.tif", part)
    with pytest.raises(QgsProcessingException, match=r"held is only in QGIS's memory\. Export"):
        inputs.raster_source(QgsRasterLayer("/vsimem/held.tif", "held"))
    gdal.Unlink("/vsimem/held.tif")
    tiles = QgsRasterLayer("type=xyz&url=http://127.0.0.1:9/{z}/{x}/{y}.png", "tiles", "wms")
    with pytest.raises(QgsProcessingException, match="tiles comes from wms"):
        inputs.raster_source(tiles)
    with pytest.raises(QgsProcessingException, match="gone"):
        inputs.raster_file("/vsizip/nothing.zip/a.tif", "gone", tmp_path)


@pytest.fixture
def areas():
    """Two polygons as Processing hands them over: one crosses itself, both have the same fid."""
    fields = "field=fid:integer&field=name:string"
    layer = QgsVectorLayer(f"MultiPolygon?crs=EPSG:4326&{fields}", "areas", "memory")
    bow = "MultiPolygon(((0 0, 1 1, 1 0, 0 1, 0 0)))"
    for wkt in (bow, "MultiPolygon(((3 0, 3 1, 4 1, 3 0)))"):
        feature = QgsFeature(layer.fields())
        feature.setAttributes([7, "Wiese, 草"])
        feature.setGeometry(QgsGeometry.fromWkt(wkt))
        layer.dataProvider().addFeatures([feature])
    context = QgsProcessingContext()
    context.setInvalidGeometryCheck(QgsFeatureRequest.InvalidGeometryCheck.GeometryAbortOnInvalid)
    yield QgsProcessingFeatureSource(layer, context)
    del layer, context  # they had to live so long


def test_features_go_to_the_engine_as_they_are(areas, tmp_path):
    saved = QgsVectorLayer(inputs.save_features(areas, tmp_path / "areas.gpkg"))
    assert saved.crs().authid() == "EPSG:4326"
    assert [(f["fid"], f["name"]) for f in saved.getFeatures()] == [(7, "Wiese, 草")] * 2
    assert [f.geometry().isGeosValid() for f in saved.getFeatures()] == [False, True]


def test_the_same_features_are_the_same_bytes(areas, tmp_path):
    """Batch knows an area again by its bytes."""
    paths = [tmp_path / "first.fgb", tmp_path / "again" / "first.fgb"]
    paths[1].parent.mkdir()
    written = [Path(inputs.save_features(areas, path)).read_bytes() for path in paths]
    assert written[0] == written[1]
    assert QgsVectorLayer(str(paths[0])).featureCount() == 2
