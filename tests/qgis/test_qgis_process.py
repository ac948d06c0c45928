"""The plugin without windows: qgis_process finds its algorithms and runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from conftest import ROOT
from geoseg_qgis.environment import find_engine
from geoseg_qgis.runner import clean_environment
from qgis.core import QgsVectorLayer

# Debian's wrapper of 3.22 does not work.
PROGRAM = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
ALGORITHMS = {"predict", "vectorize", "evaluate", "batch", "train"}


@pytest.fixture(scope="module")
def qgis_process(tmp_path_factory):
    """Run it with a profile of its own, in which the plugin is enabled; its stdout."""
    if PROGRAM is None:
        pytest.skip("qgis_process is not installed (Debian: apt-get install qgis)")
    env = {
        **os.environ,
        "QGIS_PLUGINPATH": str(ROOT / "qgis_plugin"),
        "QGIS_CUSTOM_CONFIG_PATH": str(tmp_path_factory.mktemp("profile")),
    }

    def run(*arguments: str) -> str:
        command = [PROGRAM, *arguments]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    run("plugins", "enable", "geoseg_qgis")
    return run


def rows(path: str) -> list[tuple]:
    """All there is to a layer's features, in their order."""
    layer = QgsVectorLayer(path)
    assert layer.isValid()
    return [(f.attributes(), f.geometry().asWkt(6)) for f in layer.getFeatures()]


def test_the_algorithms_are_listed_with_their_help(qgis_process):
    listed = qgis_process("list")
    for name in ALGORITHMS:
        assert f"geoseg:{name}" in listed
    assert "Decision level" in qgis_process("help", "geoseg:predict")


def test_the_same_features_as_the_command_line(qgis_process, part, tmp_path):
    ours, theirs = str(tmp_path / "ours.gpkg"), str(tmp_path / "theirs.gpkg")
    options = ["--simplify=0.5", "--min-area=20"]
    command = [*find_engine().command, "predict", part, "--output", ours, *options]
    env = clean_environment()
    del env["GEOSEG_WATCH_STDIN"]
    subprocess.run(command, env=env, check=True)
    said = ["SIMPLIFY=0.5", "MIN_AREA=20", f"INPUT={part}", f"OUTPUT={theirs}"]
    told = json.loads(qgis_process("--json", "run", "geoseg:predict", "--", *said))
    assert told["results"]["POLYGONS"] == len(rows(theirs)) > 5
    assert rows(theirs) == rows(ours)
