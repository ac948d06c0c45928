"""A newcomer's path: a zip, the plugin manager's own code, an engine, polygons."""

from __future__ import annotations

import os

from test_desktop import played
from test_package import package


def test_from_a_zip_to_polygons(scene, tmp_path):
    archive = package(tmp_path / "zip")
    empty = tmp_path / "no plugins"
    empty.mkdir()
    found, _ = played(
        "newcomer",
        tmp_path,
        scene,
        QGIS_PLUGINPATH=str(empty),
        XDG_DATA_HOME=str(tmp_path / "data"),
        GEOSEG_ZIP=str(archive),
        GEOSEG_OWN=os.environ["GEOSEG_PYTHON"],
        GEOSEG_PYTHON="",
        PATH=os.defpath,
    )
    assert "not set up yet" in found["asked"]
    assert "No engine yet." in found["before"]
    assert "buildings-v1" in found["after"]
    (result,) = found["results"]
    assert result["count"] > 50
