"""What users do in the desktop; inapp.py plays these inside QGIS."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

from osgeo import gdal
from qgis import utils
from qgis.core import (
    QgsApplication,
    QgsFeature,
    QgsGeometry,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsSettings,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QEvent, QPoint, Qt, QTimer
from qgis.PyQt.QtGui import QMouseEvent
from qgis.PyQt.QtWidgets import QAction, QApplication, QComboBox, QDockWidget, QMessageBox

SCENE = os.environ.get("GEOSEG_SCENE", "")
FOLDER = Path(os.environ.get("GEOSEG_FOLDER", "."))
PLUGIN = "geoseg_qgis"


def action(desktop, name="geosegSegment"):
    return desktop.window.findChild(QAction, name)


def dock_of(desktop):
    return desktop.window.findChild(QDockWidget, "geosegDock")


def show(desktop, layer):
    """Add a layer, and look at all of it."""
    QgsProject.instance().addMapLayer(layer)
    desktop.iface.setActiveLayer(layer)
    desktop.iface.zoomToActiveLayer()
    return layer


def open_dock(desktop):
    action(desktop).trigger()
    return dock_of(desktop)


def drawn(desktop):
    """The map is up to date."""
    canvas = desktop.iface.mapCanvas()
    return lambda: not canvas.isDrawing()


def look(layer) -> dict:
    """What a test wants to know of a layer."""
    about = {
        "name": layer.name(),
        "renderer": layer.renderer().type(),
        "styles": sorted(layer.styleManager().styles()),
        "abstract": layer.metadata().abstract(),
        "source": layer.source(),
    }
    if isinstance(layer, QgsVectorLayer):
        about["count"] = layer.featureCount()
        about["area"] = sum(f["area_m2"] for f in layer.getFeatures())
        extent = layer.extent()
        about["extent"] = [
            extent.xMinimum(),
            extent.yMinimum(),
            extent.xMaximum(),
            extent.yMaximum(),
        ]
    return about


def results() -> list[dict]:
    """Layers that runs have added, polygons first."""
    layers = [one for one in QgsProject.instance().mapLayers().values() if "–" in one.name()]
    return [look(one) for one in sorted(layers, key=lambda one: one.type())]


def pause(seconds: float):
    """A condition that comes true after a while."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


# Scenarios


def segment(desktop):
    """The toolbar's button, the dock, preflight, a run, styled layers."""
    found = desktop.found
    desktop.window.resize(1400, 900)
    yield pause(0.3)
    button = desktop.iface.pluginToolBar().widgetForAction(action(desktop))
    found["toolbar"] = button.isVisible()
    show(desktop, QgsRasterLayer(SCENE, "Banepa"))
    dock = open_dock(desktop)
    found["layer"] = dock.layer.currentLayer().name()
    yield lambda: dock.model.combo.count() >= 3
    yield lambda: dock.go.isEnabled()
    found["preflight"] = dock.preflight.text()
    yield drawn(desktop)
    desktop.shot("1-preflight")
    dock.output.setFilePath(str(FOLDER / "houses.gpkg"))
    dock.probabilities.setChecked(True)
    dock.go.click()
    yield lambda: dock.bar.maximum() > 0 and dock.bar.value() > 0
    desktop.shot("2-running")
    found["cancel shown"] = dock.stop.isVisible()
    yield lambda: dock._run is None
    yield pause(0.3)
    yield drawn(desktop)
    desktop.shot("3-result")
    found["status"] = dock.status.text()
    found["results"] = results()
    found["engines"] = engines()
    yield lambda: dock.go.isEnabled()
    dock.go.click()  # into what is a layer now
    found["again"] = dock.status.text()
    found["runs again"] = dock._run is not None
    layers = QgsProject.instance().mapLayers().values()
    polygons = next(one for one in layers if isinstance(one, QgsVectorLayer))
    desktop.iface.zoomToActiveLayer()
    polygons.styleManager().setCurrentStyle("confidence")
    yield pause(0.5)
    yield drawn(desktop)
    desktop.shot("4-confidence")
    QTimer.singleShot(300, lambda: close_box(found, "details"))
    dock.details.click()
    desktop.window.resizeDocks([dock], [300], Qt.Orientation.Horizontal)
    yield lambda: dock.go.isEnabled()
    yield drawn(desktop)
    found["narrow"] = dock.width()
    desktop.shot("5-narrow", dock)


def close_box(found, key):
    """Read and close the message that is open."""
    box = QApplication.activeModalWidget()
    found[key] = box.detailedText() if isinstance(box, QMessageBox) else repr(box)
    box.reject()


def areas(desktop):
    """The kinds of area, and what each plans; then a run on selected polygons."""
    found = desktop.found
    layer = show(desktop, QgsRasterLayer(SCENE, "Banepa"))
    polygons = QgsVectorLayer(f"Polygon?crs={layer.crs().authid()}", "Blocks", "memory")
    box = layer.extent()
    third = box.width() / 3
    for number in (0, 2):
        left = box.xMinimum() + number * third
        feature = QgsFeature(polygons.fields())
        rectangle = QgsRectangle(left, box.yMinimum(), left + third / 2, box.yMinimum() + third / 2)
        feature.setGeometry(QgsGeometry.fromRect(rectangle))
        polygons.dataProvider().addFeature(feature)
    polygons.updateExtents()
    QgsProject.instance().addMapLayer(polygons)
    polygons.selectByIds([2])
    desktop.iface.setActiveLayer(layer)
    dock = open_dock(desktop)
    yield lambda: dock.model.combo.count() >= 3
    dock.outlines["MIN_AREA"].setValue(77)
    dock.refresh_models()
    yield lambda: dock._asked is None
    found["outlines stay"] = dock.outlines["MIN_AREA"].value()
    found["probabilities"] = []
    for name in ("buildings-instances-v1", "buildings-v1"):
        dock.model.combo.setCurrentIndex(dock.model.combo.findData(name))
        found["probabilities"].append(dock.probabilities.isEnabled())
    yield lambda: dock.go.isEnabled()

    gone = QgsRasterLayer("/no/such.tif", "Gone")
    QgsProject.instance().addMapLayer(gone)
    dock.layer.setLayer(gone)
    yield lambda: "Gone cannot be read" in dock.preflight.text()
    found["gone"] = dock.go.isEnabled()
    QgsProject.instance().removeMapLayer(gone.id())
    dock.layer.setLayer(layer)
    yield lambda: dock.go.isEnabled()

    dock.area.kind.setCurrentIndex(2)
    found["rectangle asked"] = not dock.go.isEnabled()
    yield lambda: "rectangle" in dock.preflight.text()
    drag(desktop.iface.mapCanvas(), 0.4, 0.4, 0.6, 0.6)
    yield lambda: dock.go.isEnabled()
    found["rectangle"] = dock.preflight.text()
    found["rectangle box"] = dock.area.area(layer).extent.area() / box.area()
    desktop.shot("areas-rectangle")

    dock.area.kind.setCurrentIndex(1)
    canvas = desktop.iface.mapCanvas()
    away = canvas.extent()
    away.setXMinimum(box.xMaximum() + 5000)
    away.setXMaximum(box.xMaximum() + 6000)
    canvas.setExtent(away)
    yield lambda: "outside" in dock.preflight.text()
    found["outside"] = dock.go.isEnabled()
    desktop.iface.zoomToActiveLayer()

    dock.area.kind.setCurrentIndex(3)
    dock.area.selected.setChecked(True)
    yield lambda: dock.go.isEnabled()
    found["polygons"] = dock.preflight.text()
    desktop.shot("areas-polygons")
    dock.go.click()
    yield lambda: dock._run is None
    yield drawn(desktop)
    desktop.shot("areas-result")
    found["results"] = results()
    found["status"] = dock.status.text()
    rectangle = polygons.getFeature(2).geometry().boundingBox()
    found["selected"] = [
        rectangle.xMinimum(),
        rectangle.yMinimum(),
        rectangle.xMaximum(),
        rectangle.yMaximum(),
    ]

    five = str(FOLDER / "five.tif")
    gdal.Translate(five, SCENE, bandList=[3, 1, 2, 1, 2])
    dock.area.prefer(0)
    dock.model.combo.setCurrentIndex(dock.model.combo.findData("landcover-v0"))
    show(desktop, QgsRasterLayer(five, "Five bands"))
    open_dock(desktop)
    dock.bands.setChecked(True)
    for combo, band in zip(dock.bands.findChildren(QComboBox), (2, 3, 1)):
        combo.setCurrentIndex(band - 1)
    found["bands"] = dock.bands.value()
    yield lambda: dock.go.isEnabled()
    yield drawn(desktop)
    desktop.shot("bands")
    found["preflight of bands"] = dock.preflight.text()


def drag(canvas, left, top, right, bottom):
    """With the mouse, in shares of the canvas."""
    target = canvas.viewport()

    def send(kind, x, y, buttons):
        point = QPoint(int(x * target.width()), int(y * target.height()))
        button = Qt.MouseButton.LeftButton
        event = QMouseEvent(kind, point, button, buttons, Qt.KeyboardModifier.NoModifier)
        QApplication.sendEvent(target, event)

    pressed = Qt.MouseButton.LeftButton
    send(QEvent.Type.MouseButtonPress, left, top, pressed)
    send(QEvent.Type.MouseMove, (left + right) / 2, (top + bottom) / 2, pressed)
    send(QEvent.Type.MouseMove, right, bottom, pressed)
    send(QEvent.Type.MouseButtonRelease, right, bottom, Qt.MouseButton.NoButton)


def service(desktop):
    """A layer of map tiles: the map view is proposed, rendered, and segmented."""
    found = desktop.found
    layer = QgsRasterLayer(os.environ["GEOSEG_TILES"], "Tiles", "wms")
    QgsProject.instance().addMapLayer(layer)
    yield pause(0.5)  # QGIS looks at all of a first layer
    canvas = desktop.iface.mapCanvas()
    canvas.setDestinationCrs(layer.crs())
    canvas.setExtent(QgsRasterLayer(SCENE, "scene").extent())
    desktop.iface.setActiveLayer(layer)
    dock = open_dock(desktop)
    yield lambda: dock.go.isEnabled()
    found["area"] = dock.area.kind.currentText()
    found["preflight"] = dock.preflight.text()
    yield drawn(desktop)
    desktop.shot("service-preflight")
    dock.go.click()
    yield lambda: dock._run is None
    yield drawn(desktop)
    desktop.shot("service-result")
    found["results"] = results()
    found["status"] = dock.status.text()
    dock.area.kind.setCurrentIndex(0)
    yield lambda: "smaller extent" in dock.preflight.text()
    found["world"] = dock.go.isEnabled()


def no_engine(desktop):
    """Nothing is set up: the dock says so and offers it."""
    show(desktop, QgsRasterLayer(SCENE, "Banepa"))
    dock = open_dock(desktop)
    yield lambda: dock.setup.isVisible()
    yield drawn(desktop)
    desktop.shot("no-engine")
    desktop.found["run"] = dock.go.isEnabled()
    desktop.found["text"] = dock.preflight.text()
    dock.model.fill([{"name": "remembered", "gsd": 0.3}])
    tiles = QgsRasterLayer("type=xyz&url=http://127.0.0.1:9/{z}/{x}/{y}.png", "Tiles", "wms")
    QgsProject.instance().addMapLayer(tiles)
    dock.layer.setLayer(tiles)
    yield lambda: not dock._is_old
    desktop.found["service"] = [dock.setup.isVisible(), dock.go.isEnabled()]


def engines() -> int:
    """Children of this QGIS that are engines."""
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            command = (stat.parent / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        count += parent == os.getpid() and b"geoseg" in command
    return count


def begin(desktop, output):
    """Start a run that takes a while, and wait until it is in the midst."""
    show(desktop, QgsRasterLayer(SCENE, "Banepa"))
    dock = open_dock(desktop)
    dock.output.setFilePath(str(output))
    yield lambda: dock.go.isEnabled()
    dock.go.click()
    yield lambda: dock.bar.maximum() > 0 and dock.bar.value() > 0


def cancel(desktop):
    """Cancel ends the engine and leaves no output; then the same window runs again."""
    found = desktop.found
    yield from begin(desktop, FOLDER / "canceled.gpkg")
    dock = dock_of(desktop)
    found["engines before"] = engines()
    dock.stop.click()
    yield lambda: dock._run is None
    yield lambda: engines() == 0
    found["status"] = dock.status.text()
    found["results"] = results()
    found["again"] = dock.go.isEnabled()
    desktop.shot("cancel")

    (FOLDER / "file").touch()
    dock.output.setFilePath(str(FOLDER / "file" / "below.gpkg"))
    dock.go.click()
    yield lambda: dock._run is None
    found["error status"] = dock.status.text()
    # QGIS tells of its own that a task has failed, before or after.
    found["error bar"] = [item.title() for item in desktop.iface.messageBar().items()]
    QTimer.singleShot(300, lambda: close_box(found, "details"))
    dock.details.click()
    desktop.shot("failed")


def traces(desktop) -> dict:
    """What a plugin could leave behind."""
    gc.collect()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    window = desktop.window
    return {
        "toolbar": len(desktop.iface.pluginToolBar().actions()),
        "menu": sum(a.text() == "geoseg" for a in desktop.iface.rasterMenu().actions()),
        "actions": sum(a.objectName().startswith("geoseg") for a in window.findChildren(QAction)),
        "docks": sum(d.objectName() == "geosegDock" for d in window.findChildren(QDockWidget)),
        "provider": QgsApplication.processingRegistry().providerById("geoseg") is not None,
        # Those of QGIS that have called Python stay listed as dummies.
        "threads": [t.name for t in threading.enumerate() if "Dummy" not in type(t).__name__],
        "canvas": len(desktop.iface.mapCanvas().scene().items()),
        "engines": engines(),
        "tasks": QgsApplication.taskManager().countActiveTasks(),
    }


def reload(desktop):
    """Unloaded three times, the last two in the midst of something; nothing stays behind."""
    found = desktop.found
    utils.unloadPlugin(PLUGIN)
    yield pause(0.2)
    found["without"] = traces(desktop)
    found["rounds"] = []
    for number in range(3):
        utils.loadPlugin(PLUGIN)
        utils.startPlugin(PLUGIN)
        found["loaded"] = action(desktop) is not None
        if number == 0:
            show(desktop, QgsRasterLayer(SCENE, "Banepa"))
            dock = open_dock(desktop)
            dock.area.kind.setCurrentIndex(2)  # the map tool is ours
            yield lambda: dock.model.combo.count() >= 3  # noqa: B023
        elif number == 1:
            dock = open_dock(desktop)  # unloaded while the engine is asked
            yield lambda: engines() > 0
        else:
            yield from begin(desktop, FOLDER / "unloaded.gpkg")
        dock = None
        utils.unloadPlugin(PLUGIN)
        yield lambda: engines() == 0
        yield pause(0.3)
        QgsProject.instance().clear()
        yield drawn(desktop)
        found["rounds"].append(traces(desktop))
    found["output"] = [path.name for path in FOLDER.iterdir()]


def close(desktop):
    """QGIS is closed in the midst of a run: it asks, cancels, and has to be closed again."""
    yield from begin(desktop, FOLDER / "closed.gpkg")
    desktop.found["engines"] = engines()
    desktop.shot("close")
    QTimer.singleShot(1000, lambda: say_yes(desktop))
    desktop.iface.actionExit().trigger()  # comes back when the question is answered
    yield lambda: QgsApplication.taskManager().countActiveTasks() == 0


def say_yes(desktop):
    box = QApplication.activeModalWidget()
    desktop.found["asked"] = box.text()
    box.button(QMessageBox.StandardButton.Yes).click()


def killed(desktop):
    """The test kills QGIS in the midst of a run."""
    yield from begin(desktop, FOLDER / "killed.gpkg")
    desktop.found["pid"] = os.getpid()
    desktop.found["engines"] = engines()
    desktop.write()
    yield lambda: False


def newcomer(desktop):
    """Install from a zip, set up the engine, segment; as in docs/qgis.md."""
    import pyplugin_installer

    found = desktop.found
    desktop.window.resize(1400, 900)
    show(desktop, QgsRasterLayer(SCENE, "Banepa"))
    QgsSettings().remove(f"PythonPlugins/{PLUGIN}")  # which is not there yet
    pyplugin_installer.instance().installFromZipFile(os.environ["GEOSEG_ZIP"])
    yield lambda: PLUGIN in utils.active_plugins
    dock = open_dock(desktop)
    yield lambda: dock.setup.isVisible()
    yield drawn(desktop)
    yield pause(0.5)
    desktop.shot("newcomer-1-first-click")
    found["asked"] = dock.preflight.text()
    QTimer.singleShot(0, dock.setup.click)  # the window is modal
    yield lambda: type(QApplication.activeModalWidget()).__name__ == "SetupDialog"
    window = QApplication.activeModalWidget()
    yield lambda: window._looking is None
    page = window.engine_page
    found["before"] = page.status.text()
    page.path.setFilePath(os.environ["GEOSEG_OWN"])
    page.use.click()
    yield lambda: window._looking is None
    yield pause(0.5)
    desktop.shot("newcomer-2-set-up", window)
    found["after"] = page.status.text()
    window.tabs.setCurrentIndex(1)
    yield pause(0.3)
    desktop.shot("newcomer-3-models", window)
    window.reject()
    yield lambda: dock.go.isEnabled()
    yield drawn(desktop)
    desktop.shot("newcomer-4-preflight")
    dock.go.click()
    yield lambda: dock._run is None
    yield lambda: dock.go.isEnabled()
    yield drawn(desktop)
    desktop.shot("newcomer-5-polygons")
    found["results"] = results()
