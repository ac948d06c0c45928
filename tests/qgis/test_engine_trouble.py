"""Algorithms with an engine that is missing, crashes, or is none; and what they say to it."""

from __future__ import annotations

import json
import shutil
import subprocess

import processing
import pytest
from geoseg_qgis.environment import find_engine
from geoseg_qgis.run import Run
from qgis.core import (
    QgsApplication,
    QgsProcessingException,
    QgsProcessingFeatureSourceDefinition,
    QgsProject,
    QgsVectorLayer,
)

RESULT = {"event": "result", "polygons": {"building": 3}, "findings": []}


@pytest.fixture
def predict(part, tmp_path, feedback):
    """Run predict with further parameters; its results."""

    def run(**parameters):
        given = {"INPUT": part, "OUTPUT": f"{tmp_path}/b.gpkg", **parameters}
        return processing.run("geoseg:predict", given, feedback=feedback)

    return run


def test_a_missing_engine_says_how_to_set_it_up(predict, monkeypatch):
    monkeypatch.delenv("GEOSEG_PYTHON")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(QgsProcessingException, match=r"not set up yet\. Set it up under Raster"):
        predict()


def test_an_engine_that_is_gone(predict, use_engine):
    use_engine("/no/such/engine/bin/python")
    with pytest.raises(QgsProcessingException, match=r"which does not exist\. Set it up"):
        predict()


def test_an_engine_that_crashes(predict, fake, tmp_path):
    fake("sys.stderr.write('Segmentation fault, says the driver'); os.abort()")
    with pytest.raises(QgsProcessingException, match=r"code -6[\s\S]*says the driver[\s\S]*Repair"):
        predict()
    assert not (tmp_path / "b.gpkg").exists()


@pytest.mark.parametrize(
    "garbage",
    ["b'GDAL: hello'", "b'\\xff\\x00\\xfe'", "b'[' * 100_000", "b'42'", "b'{\"event\": '"],
)
def test_an_engine_that_writes_garbage(predict, fake, garbage):
    fake(f"sys.stdout.buffer.write({garbage} + b'\\n')")
    with pytest.raises(QgsProcessingException, match="no event"):
        predict()


def test_an_engine_that_says_nothing(predict, fake):
    fake("pass")
    with pytest.raises(QgsProcessingException, match="code 0 and no result"):
        predict()


def test_an_engine_that_hangs_is_ended_on_cancel(part, fake, tmp_path, canceling):
    folder = fake(
        "import signal, subprocess\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '4711'])\n"
        "print(json.dumps({'event': 'progress', 'done': 1, 'tiles': 9}), flush=True)\n"
        "time.sleep(4711)"
    )
    run = {"INPUT": part, "OUTPUT": f"{tmp_path}/b.gpkg"}
    processing.run("geoseg:predict", run, feedback=canceling)
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "sleep 4711" not in running.stdout
    assert str(folder) not in running.stdout
    assert "no output was touched" in canceling.text


def test_events_reach_the_user(predict, fake, feedback):
    events = [
        {"event": "start", "model": "m", "device": "cuda", "tiles": 4},
        {"event": "warning", "topic": "gsd", "message": "twice as coarse"},
        {"event": "progress", "done": 2, "tiles": 4, "eta": 61},
        {"event": "progress", "done": None, "tiles": "odd"},
        {"event": "score", "step": 5, "metrics": {"iou": 0.5, "ap": None}},
        {"event": "of a later version"},
        RESULT,
    ]
    fake(f"for e in {events!r}: print(json.dumps(e))")
    assert predict()["POLYGONS"] == 3
    assert {"m on cuda", "warning: twice as coarse", "Step 5: iou 0.500"} <= set(feedback.lines)
    assert feedback.progress() == 50


def test_only_what_is_set_is_said(predict, fake):
    folder = fake(
        f"print({json.dumps(RESULT)!r})\n"
        "open(os.path.dirname(__file__) + '/said.json', 'w').write(json.dumps(sys.argv[1:]))"
    )

    def options(**parameters) -> list[str]:
        predict(**parameters)
        words = json.loads((folder / "said.json").read_text())
        return [w for w in words if w.startswith("--") and not w.startswith("--output")]

    usual = ["--overwrite", "--json"]
    assert options() == ["--model=buildings-v1", *usual]
    assert options(CUT="0", SIMPLIFY=0, DISSOLVE=False, TILE=0, CRS=None, OUTLINE=None) == [
        "--model=buildings-v1",
        "--cut=0",
        *usual,
    ]
    assert options(
        MODEL="a; b c",
        SIMPLIFY=0.5,
        REGULARIZE="building=1",
        NODATA=-9999,
        OUTLINE="contour",
        DISSOLVE=True,
        CRS="EPSG:32645",
        THRESHOLD=0.4,
        BANDS=" 4,3,2",
    ) == [
        *("--model=a", "--model=b c"),
        *("--simplify=0.5", "--regularize=building=1", "--outline=contour", "--dissolve"),
        *("--crs=EPSG:32645", "--threshold=0.4", "--bands=4,3,2", "--nodata=-9999"),
        *usual,
    ]
    (bounds,) = [w for w in options(EXTENT="1,3,2,4 [EPSG:3857]") if w.startswith("--bounds")]
    assert bounds == "--bounds=1.0,2.0,3.0,4.0"


def test_every_option_is_one_of_the_command_line():
    registry = QgsApplication.processingRegistry()
    engine = find_engine()
    for algorithm in registry.providerById("geoseg").algorithms():
        offered = algorithm.create()._options
        assert offered
        verb = ["data", "recipe"] if algorithm.name() == "train" else [algorithm.name()]
        command = [*engine.command, *verb, "--help"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        missing = [option for option in offered.values() if f"{option} " not in said]
        assert missing == [], algorithm.name()


def test_the_polygons_of_the_area_are_no_output(predict, fake, truth, tmp_path):
    """The engine sees only a copy of them, and could not tell."""
    fake(f"print({json.dumps(RESULT)!r})")
    area = str(shutil.copy(truth, tmp_path / "area.gpkg"))
    for source in (area, QgsProcessingFeatureSourceDefinition(area, False, 5)):
        with pytest.raises(QgsProcessingException, match="holds the polygons of the area"):
            predict(AOI=source, OUTPUT=f"{tmp_path}/engine/../area.gpkg")
    assert predict(AOI=area)["POLYGONS"] == 3


def test_a_cancel_that_comes_too_late():
    """What was written is a result."""
    run, ended = Run({}, QgsProject.instance()), []
    run.ended.connect(lambda ok, results: ended.append(ok))
    run.canceled = True
    run._executed(True, {"POLYGONS": 1})
    run._executed(True, {})
    assert ended == [True, False]


def test_labels_and_area_are_two_files(fake, part, truth, tmp_path):
    """Whatever the layers are called."""
    folder = fake(
        "if sys.argv[1] == 'model': print(json.dumps({'name': 'm'})); sys.exit()\n"
        "open(os.path.dirname(__file__) + '/said.json', 'w').write(json.dumps(sys.argv[1:]))\n"
        "print(json.dumps({'event': 'error', 'message': 'enough'}))"
    )
    shutil.copy(truth, tmp_path / "Labelled area.gpkg")
    labels = str(tmp_path / "Labelled area.gpkg")
    area = QgsVectorLayer(labels, "area")
    area.setSubsetString("fid < 3")
    run = {"INPUT": part, "LABELS": labels, "AOI": area, "OUTPUT": str(tmp_path / "run")}
    with pytest.raises(QgsProcessingException, match="enough"):
        processing.run("geoseg:train", {**run, "NAME": "mine"})
    said = json.loads((folder / "said.json").read_text())
    counts = [QgsVectorLayer(p).featureCount() for p in (said[3], said[said.index("--aoi") + 1])]
    assert counts[0] > counts[1] == 2
