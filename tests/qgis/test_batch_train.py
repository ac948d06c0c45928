"""geoseg:batch and geoseg:train, with the real engine."""

from __future__ import annotations

from pathlib import Path

import processing
import pytest
from conftest import Feedback
from geoseg_qgis import settings
from osgeo import gdal
from qgis.core import (
    QgsFeature,
    QgsGeometry,
    QgsProcessingException,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty folder for models of one's own."""
    monkeypatch.setenv("GEOSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def crop(source: str, path: Path, column: int, row: int) -> str:
    """768 × 768 pixels of a raster."""
    gdal.Translate(str(path), source, srcWin=[column, row, 768, 768])
    return str(path)


def area_of(path: str) -> QgsVectorLayer:
    """Bounds of a raster, as a layer in memory."""
    layer = QgsVectorLayer("Polygon?crs=EPSG:3857", "area", "memory")
    feature = QgsFeature()
    feature.setGeometry(QgsGeometry.fromRect(QgsRasterLayer(path).extent()))
    layer.dataProvider().addFeatures([feature])
    return layer


def test_layers_and_a_folder_of_which_one_is_broken(scene, part, tmp_path, feedback):
    folder, output = tmp_path / "images of a survey", tmp_path / "ergebnisse 结果"
    folder.mkdir()
    crop(scene, folder / "north.tif", 0, 0)
    (folder / "broken.tif").write_bytes(b"II*\0 and nothing more")
    image = QgsRasterLayer(part, "équipe")
    QgsProject.instance().addMapLayer(image)
    run = {"LAYERS": [image.id()], "FOLDER": str(folder), "DATASET": "all.gpkg"}
    run.update(AOI=area_of(scene), SIMPLIFY=0.5, OUTPUT=str(output))
    result = processing.run("geoseg:batch", run, feedback=feedback)
    assert {k: result[k] for k in ("SCENES", "DONE", "FAILED")} == {
        "SCENES": 3,
        "DONE": 2,
        "FAILED": 1,
    }
    assert result["DATASET_FILE"] == f"{output}/all.gpkg"
    assert QgsVectorLayer(result["DATASET_FILE"]).featureCount() == result["POLYGONS"] > 10
    warnings = [line for line in feedback.lines if line.startswith("warning")]
    assert any("broken" in line and len(line) > 30 for line in warnings)
    assert Path(result["REPORT"]).is_file()
    # Once more: nothing is left to do but what failed, and that was not asked for.
    again = processing.run("geoseg:batch", run, feedback=feedback)
    assert (again["DONE"], again["POLYGONS"]) == (2, result["POLYGONS"])
    with pytest.raises(QgsProcessingException, match="simplify"):
        processing.run("geoseg:batch", {**run, "SIMPLIFY": 1})
    QgsProject.instance().clear()


def test_batch_of_nothing(tmp_path):
    with pytest.raises(QgsProcessingException, match="Choose images"):
        processing.run("geoseg:batch", {"OUTPUT": str(tmp_path / "out")})


def test_a_model_of_ones_own(truth, part, tmp_path, models, feedback):
    output = tmp_path / "my training"
    run = {
        "INPUT": part,
        "LABELS": truth,
        "NAME": "roofs",
        "START": "buildings-v1",
        "STEPS": 3,
        "OUTPUT": str(output),
    }
    canceling = Feedback(cancel_at=50)  # in the second of three steps
    processing.run("geoseg:train", run, feedback=canceling)
    assert canceling.isCanceled()
    assert "it goes on from its last checkpoint" in canceling.text
    assert not models.exists()
    assert Path(output, "run", "last.ckpt").is_file()
    # The same again goes on, to the end.
    result = processing.run("geoseg:train", run, feedback=feedback)
    assert min(feedback.steps) > 50
    assert result["MODEL"] == "roofs"
    assert 0.5 < result["SCORE"] < 1
    assert Path(result["BUNDLE"], "model.json").is_file()
    assert feedback.progress() == 100
    assert "roofs" in [m["name"] for m in settings.known_models()]
    predict = {"INPUT": part, "MODEL": "roofs", "OUTPUT": f"{tmp_path}/r.gpkg"}
    assert processing.run("geoseg:predict", predict)["POLYGONS"] > 3
    with pytest.raises(QgsProcessingException, match="There is a model roofs already"):
        processing.run("geoseg:train", {**run, "OUTPUT": str(tmp_path / "other")})


@pytest.mark.parametrize(
    ("name", "said"), [("x", "no name for a model"), ("buildings-v1", "already")]
)
def test_a_name_that_cannot_be(name, said, scene, truth, tmp_path, models):
    run = {"INPUT": scene, "LABELS": truth, "NAME": name, "OUTPUT": str(tmp_path / "run")}
    with pytest.raises(QgsProcessingException, match=said):
        processing.run("geoseg:train", {**run, "REPLACE": True})
