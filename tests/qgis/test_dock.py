"""Parts of the dock that need no window and no engine."""

from __future__ import annotations

import threading
import time

import pytest
from geoseg_qgis import preflight
from geoseg_qgis.bands import BandBox, guess, obvious
from geoseg_qgis.model_box import about, outline_defaults
from geoseg_qgis.preflight import Report
from geoseg_qgis.runner import EngineCanceled, EngineError
from geoseg_qgis.tasks import BackgroundTask
from osgeo import gdal
from qgis.core import QgsRasterLayer
from qgis.PyQt.QtCore import QCoreApplication
from qgis.PyQt.QtWidgets import QComboBox

RGB = ["red", "green", "blue"]


def until(condition) -> None:
    """Let the main thread's events come."""
    last = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < last
        QCoreApplication.processEvents()
        time.sleep(0.01)


@pytest.fixture
def raster(tmp_path):
    """A function that makes a layer whose bands have these names or colours."""

    def made(*bands: str) -> QgsRasterLayer:
        path = str(tmp_path / f"{len(bands)}{bands[0]}.tif")
        options = ["PHOTOMETRIC=MINISBLACK"]
        dataset = gdal.GetDriverByName("GTiff").Create(path, 4, 4, len(bands), options=options)
        colors = {"red": gdal.GCI_RedBand, "green": gdal.GCI_GreenBand, "blue": gdal.GCI_BlueBand}
        for number, name in enumerate(bands, start=1):
            band = dataset.GetRasterBand(number)
            if name in colors:
                band.SetColorInterpretation(colors[name])
            else:
                band.SetDescription(name)
        del band, dataset
        return QgsRasterLayer(path, "r")

    return made


def test_bands_are_asked_only_where_they_are_not_obvious(raster):
    box = BandBox()
    model = {"bands": RGB}
    box.show_for(raster(*RGB), model)
    assert box.isHidden()
    assert box.value() == ""
    box.show_for(raster("coastal", "blue wide", "green wide", "red wide"), model)
    assert not box.isHidden()
    assert box.value() == ""  # the engine's choice until the user wants another
    box.setChecked(True)
    assert box.value() == "4,3,2"
    box.findChildren(QComboBox)[0].setCurrentIndex(0)
    assert box.value() == "1,3,2"
    box.show_for(raster(*RGB), model)
    assert box.value() == ""


def test_guesses(raster):
    assert obvious(raster("blue", "green", "red"), RGB)
    nameless = raster("a", "b", "c", "d")
    assert not obvious(nameless, RGB)
    assert [guess(nameless, name, i) for i, name in enumerate([*RGB, "nir", "swir"])] == [
        *(1, 2, 3),
        *(4, 4),
    ]


def test_defaults_of_outlines():
    houses = {"gsd": 0.3, "classes": [{"name": "building", "color": "#e6550d"}]}
    assert outline_defaults(houses) == {"REGULARIZE": 1.0, "SIMPLIFY": 0, "MIN_AREA": 10}
    cover = {"gsd": 10.0, "classes": ["water", "forest"]}
    assert outline_defaults(cover) == {"REGULARIZE": 0, "SIMPLIFY": 15.0, "MIN_AREA": 2500.0}


def test_what_models_say_is_text_not_html():
    said = about({"description": "<script>", "classes": ["a<b"], "bands": ["red"], "gsd": 0.3})
    assert "<script>" not in said
    assert "a&lt;b" in said
    report = Report()
    report.add(preflight.WARNING, "value < 0\nsecond line")
    assert "value &lt; 0<br>second line" in report.html()
    assert not report.failed
    report.add(preflight.ERROR, "no")
    assert report.failed


def test_a_task_tells_in_the_main_thread():
    told = []

    def work(is_canceled):
        assert threading.current_thread() is not threading.main_thread()
        return 7

    def done(result):
        told.append((result, threading.current_thread() is threading.main_thread()))

    task = BackgroundTask(work, done, told.append).start()
    until(lambda: told)
    assert told == [(7, True)]
    del task


def test_a_task_catches_everything():
    told = []

    def work(is_canceled):
        raise EngineError("what to do")

    task = BackgroundTask(work, told.append, lambda error: told.append(str(error))).start()
    until(lambda: told)
    assert told == ["what to do"]
    del task


def test_a_task_that_was_stopped_is_silent():
    told, seen = [], []

    def work(is_canceled):
        while not is_canceled():
            time.sleep(0.01)
        seen.append(True)
        raise EngineCanceled

    task = BackgroundTask(work, told.append, told.append).start()
    task.stop(wait=10)
    assert seen == [True]
    finished = BackgroundTask(lambda is_canceled: 1, told.append, told.append).start()
    finished._thread.join()
    finished.stop()  # its end is on its way through the queue of events
    for _ in range(5):
        QCoreApplication.processEvents()
    assert told == []
