"""geoseg:predict in a real QGIS, with the real engine."""

from __future__ import annotations

import subprocess

import processing
import pytest
from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsFeature,
    QgsGeometry,
    QgsProcessingAlgRunnerTask,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeatureSourceDefinition,
    QgsProcessingModelAlgorithm,
    QgsProcessingModelChildAlgorithm,
    QgsProcessingModelChildParameterSource,
    QgsProcessingModelOutput,
    QgsProcessingModelParameter,
    QgsProcessingOutputLayerDefinition,
    QgsProcessingParameterExtent,
    QgsProcessingParameterRasterLayer,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
    QgsWkbTypes,
)
from qgis.PyQt.QtCore import QEventLoop


def transformed(rectangle: QgsRectangle, source: str, target: str) -> QgsRectangle:
    """Its bounds in another CRS."""
    ends = QgsCoordinateReferenceSystem(source), QgsCoordinateReferenceSystem(target)
    return QgsCoordinateTransform(*ends, QgsProject.instance()).transformBoundingBox(rectangle)


def test_polygons_and_rasters_of_a_real_scene(predicted):
    layer = QgsVectorLayer(predicted["OUTPUT"])
    assert layer.featureCount() == predicted["POLYGONS"] > 10
    assert layer.geometryType() == QgsWkbTypes.GeometryType.PolygonGeometry
    assert layer.crs().authid() == "EPSG:3857"
    assert "compactness" in layer.fields().names()
    assert min(f["area_m2"] for f in layer.getFeatures()) >= 50
    mask = QgsRasterLayer(predicted["MASK"])
    assert mask.isValid()
    assert mask.crs().authid() == "EPSG:3857"
    assert "PROBABILITIES" not in predicted


def test_selected_polygons_of_another_crs_in_a_background_task(part, tmp_path, feedback):
    image = QgsRasterLayer(part, "équipe 影像")
    area = QgsVectorLayer("Polygon?crs=EPSG:4326&field=name:string", "Fläche, 区域", "memory")
    extent = image.extent()
    extent.setXMaximum(extent.center().x())
    wanted, far = QgsFeature(area.fields()), QgsFeature(area.fields())
    west = transformed(extent, "EPSG:3857", "EPSG:4326")
    wanted.setGeometry(QgsGeometry.fromRect(west))
    far.setGeometry(QgsGeometry.fromRect(QgsRectangle(0, 0, 1, 1)))
    area.dataProvider().addFeatures([wanted, far])
    area.selectByExpression("x(centroid($geometry)) > 50")
    assert area.selectedFeatureCount() == 1
    project = QgsProject.instance()
    project.addMapLayers([image, area])
    context = QgsProcessingContext()
    context.setProject(project)
    output = QgsProcessingOutputLayerDefinition(str(tmp_path / "häuser 房屋.gpkg"), project)
    parameters = {
        "INPUT": image.id(),
        "AOI": QgsProcessingFeatureSourceDefinition(area.id(), True),
        "OUTPUT": output,
    }
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("geoseg:predict")
    task = QgsProcessingAlgRunnerTask(algorithm, parameters, context, feedback)
    ended, loop = [], QEventLoop()
    task.executed.connect(lambda successful, results: ended.append((successful, results)))
    task.executed.connect(loop.quit)
    QgsApplication.taskManager().addTask(task)
    loop.exec()
    ((successful, results),) = ended
    assert successful, feedback.text
    polygons = QgsVectorLayer(results["OUTPUT"])
    assert polygons.featureCount() == results["POLYGONS"] > 1
    assert extent.buffered(0.5).contains(polygons.extent())
    # QGIS loads the layer, and asks for its style.
    details = context.layerToLoadOnCompletionDetails(results["OUTPUT"])
    details.postProcessor().postProcessLayer(polygons, context, feedback)
    assert "could not be styled" not in feedback.text
    assert polygons.renderer().type() == "categorizedSymbol"
    assert "buildings-v1" in polygons.metadata().abstract()
    project.clear()


def test_in_a_model_with_an_extent_of_another_crs(part, tmp_path, feedback):
    image = QgsRasterLayer(part)
    extent = image.extent()
    extent.setYMinimum(extent.center().y())
    north = transformed(extent, "EPSG:3857", "EPSG:32645")
    model = centroids_model()
    sides = (north.xMinimum(), north.xMaximum(), north.yMinimum(), north.yMaximum())
    parameters = {
        "image": part,
        "extent": ",".join(map(str, sides)) + " [EPSG:32645]",
        "points:points": str(tmp_path / "points.gpkg"),
    }
    result = processing.run(model, parameters, feedback=feedback)
    points = QgsVectorLayer(result["points:points"])
    assert points.geometryType() == QgsWkbTypes.GeometryType.PointGeometry
    assert points.featureCount() > 1
    around = transformed(north, "EPSG:32645", "EPSG:3857").buffered(0.5)
    assert around.contains(points.extent())


def centroids_model() -> QgsProcessingModelAlgorithm:
    """An image and an extent -> predict -> native:centroids."""
    Source = QgsProcessingModelChildParameterSource
    model = QgsProcessingModelAlgorithm("centres", "tests")
    model.addModelParameter(
        QgsProcessingParameterRasterLayer("image", "Image"), QgsProcessingModelParameter("image")
    )
    model.addModelParameter(
        QgsProcessingParameterExtent("extent", "Extent"), QgsProcessingModelParameter("extent")
    )
    predict = QgsProcessingModelChildAlgorithm("geoseg:predict")
    predict.setChildId("houses")
    predict.addParameterSources("INPUT", [Source.fromModelParameter("image")])
    predict.addParameterSources("EXTENT", [Source.fromModelParameter("extent")])
    predict.addParameterSources("MODEL", [Source.fromStaticValue("buildings-v1")])
    model.addChildAlgorithm(predict)
    centroids = QgsProcessingModelChildAlgorithm("native:centroids")
    centroids.setChildId("points")
    centroids.addParameterSources("INPUT", [Source.fromChildOutput("houses", "OUTPUT")])
    output = QgsProcessingModelOutput("points")
    output.setChildId("points")
    output.setChildOutputName("OUTPUT")
    centroids.setModelOutputs({"points": output})
    model.addChildAlgorithm(centroids)
    return model


def test_cancel_leaves_neither_files_nor_processes(scene, tmp_path, canceling):
    folder = tmp_path / "results of a canceled run"
    folder.mkdir()
    parameters = {"INPUT": scene, "TILE": 256, "OUTPUT": f"{folder}/b.gpkg"}
    processing.run("geoseg:predict", parameters, feedback=canceling)
    assert canceling.isCanceled()
    assert 0 < canceling.progress() < 100
    assert list(folder.iterdir()) == []
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert folder.name not in running.stdout


def test_the_engine_says_what_is_wrong(part, tmp_path, feedback):
    run = {"INPUT": part, "MODEL": "no-such-model", "OUTPUT": f"{tmp_path}/b.gpkg"}
    with pytest.raises(QgsProcessingException, match="no-such-model"):
        processing.run("geoseg:predict", run, feedback=feedback)
    assert list(tmp_path.iterdir()) == []


def test_extent_or_polygons(part, truth, tmp_path):
    run = {"INPUT": part, "AOI": truth, "EXTENT": part, "OUTPUT": f"{tmp_path}/b.gpkg"}
    with pytest.raises(QgsProcessingException, match="not both"):
        processing.run("geoseg:predict", run)


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_a_file_that_is_no_raster(content, tmp_path):
    path = tmp_path / "broken.tif"
    path.write_bytes(content)
    with pytest.raises(QgsProcessingException, match="broken.tif"):
        processing.run("geoseg:predict", {"INPUT": str(path), "OUTPUT": f"{tmp_path}/b.gpkg"})
    assert [p.name for p in tmp_path.iterdir()] == ["broken.tif"]
