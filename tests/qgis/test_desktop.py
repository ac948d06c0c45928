"""The real desktop under a virtual screen: what users click, and what they see.

Each test starts QGIS with a fresh profile and plays a scenario of scenarios.py in it. Pictures are
kept in the folder that GEOSEG_SCREENSHOTS names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from osgeo import gdal
from tiles import TileServer, photo

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHOTS = Path(os.environ.get("GEOSEG_SCREENSHOTS") or tempfile.mkdtemp(prefix="geoseg-shots-"))
LIMIT = 150  # seconds for a QGIS, which waits for ever where it asks

pytestmark = pytest.mark.skipif(
    not (shutil.which("qgis") and shutil.which("xvfb-run")), reason="needs qgis and xvfb"
)


@pytest.fixture(scope="module")
def town(scene, tmp_path_factory) -> str:
    """The scene, with the pixels that the model expects, four times: some fifty tiles."""
    folder = tmp_path_factory.mktemp("town")
    width, height, pixel = 3072, 2048, 0.3
    parts = []
    for number in range(4):
        left = 400_000 + (number % 2) * width * pixel
        top = 3_060_000 - (number // 2) * height * pixel
        box = [left, top, left + width * pixel, top - height * pixel]
        part = str(folder / f"{number}.vrt")
        gdal.Translate(part, scene, outputBounds=box, outputSRS="EPSG:32645")
        parts.append(part)
    gdal.BuildVRT(str(folder / "town.vrt"), parts)
    return str(folder / "town.vrt")


class Desktop:
    """A QGIS under Xvfb that plays a scenario."""

    def __init__(self, scenario: str, folder: Path, scene: Path | str, **more: str) -> None:
        self.folder, self.mark = folder / "out", f"geoseg-{os.getpid()}-{time.time_ns()}"
        self.folder.mkdir(exist_ok=True)
        SHOTS.mkdir(parents=True, exist_ok=True)
        self._found = folder / "found.json"
        profile = folder / "profiles" / "ci" / "QGIS"
        profile.mkdir(parents=True)
        settings = "[PythonPlugins]\ngeoseg_qgis=true\nprocessing=true\n"
        (profile / "QGIS3.ini").write_text(settings, encoding="utf-8")
        env = {**os.environ, "QGIS_PLUGINPATH": str(ROOT / "qgis_plugin")}
        for name in ("QT_QPA_PLATFORM", "QGIS_CUSTOM_CONFIG_PATH"):
            env.pop(name, None)
        env.update(
            GEOSEG_TESTS=str(HERE),
            GEOSEG_SCENARIO=scenario,
            GEOSEG_SCENE=str(scene),
            GEOSEG_FOLDER=str(self.folder),
            GEOSEG_FOUND=str(self._found),
            GEOSEG_SCREENSHOTS=str(SHOTS),
            GEOSEG_MARK=self.mark,
            **more,
        )
        command = ["xvfb-run", "-a", "-s", "-screen 0 1400x900x24", "qgis"]
        command += ["--profiles-path", str(folder), "--profile", "ci"]
        command += ["--nologo", "--code", str(HERE / "inapp.py")]
        self._log = (folder / "log").open("w+b")
        self._process = subprocess.Popen(
            command, env=env, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def __enter__(self) -> Desktop:
        return self

    def __exit__(self, *exc) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._log.close()

    def end(self) -> dict:
        """What it found, when QGIS has ended by itself and well."""
        try:
            code = self._process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            code = f"none within {LIMIT} s"
        found = self.found()
        assert "error" not in found, found["error"]
        assert code == 0, f"QGIS ended with {code}; {found}\n{self.log()}"
        assert "Traceback" not in self.log(), self.log()
        return found

    def found(self) -> dict:
        """What it has found so far."""
        return json.loads(self._found.read_text()) if self._found.exists() else {}

    def log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text(errors="replace")[-6000:]

    def processes(self, named: str) -> list[int]:
        """Those of this QGIS, itself or its engines, that are alive."""
        alive = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environ = (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if f"GEOSEG_MARK={self.mark}".encode() in environ and re.search(
                named.encode(), command.replace(b"\0", b" ")
            ):
                alive.append(int(folder.name))
        return alive

    def outputs(self) -> list[str]:
        """What runs have left, hidden files and folders, too."""
        return [path.name for path in self.folder.iterdir()]

    def until(self, condition, seconds: float) -> bool:
        """Whether it comes true in time."""
        last = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > last:
                return False
            time.sleep(0.1)
        return True


ENGINE = r"-m geoseg "


def played(scenario: str, folder: Path, scene: Path | str, **more: str) -> tuple[dict, Desktop]:
    """A scenario from begin to end, after which nothing of it is alive."""
    with Desktop(scenario, folder, scene, **more) as desktop:
        found = desktop.end()
        assert desktop.until(lambda: not desktop.processes(ENGINE), 3)
    return found, desktop


def test_from_the_button_to_styled_polygons(scene, tmp_path):
    found, desktop = played("segment", tmp_path, scene)
    assert found["toolbar"]
    assert found["layer"] == "Banepa"
    assert "tiles" in found["preflight"]
    assert "0.132 m" in found["preflight"]
    assert found["cancel shown"]
    polygons, probabilities = found["results"]
    assert polygons["renderer"] == "categorizedSymbol"
    assert polygons["styles"] == ["classes", "confidence"]
    assert re.search(r"geoseg \d+\.\d+.* model buildings-v1-", polygons["abstract"])
    assert 50 < polygons["count"] < 500
    assert str(polygons["count"]) in found["status"]
    assert polygons["source"].startswith(str(desktop.folder / "houses.gpkg"))
    assert probabilities["renderer"] == "singlebandpseudocolor"
    assert found["engines"] == 0
    assert "houses.gpkg is a layer of the project" in found["again"]
    assert not found["runs again"]
    assert "geoseg predict" in found["details"]
    assert found["narrow"] <= 310
    assert {"1-preflight.png", "3-result.png"} <= {path.name for path in SHOTS.iterdir()}


def test_areas(scene, tmp_path):
    found, _ = played("areas", tmp_path, scene)
    assert found["outlines stay"] == 77
    assert found["probabilities"] == [False, True]
    assert found["gone"] is False
    assert found["rectangle asked"]
    assert "tiles: " in found["rectangle"]
    assert 0 < found["rectangle box"] < 0.2
    assert found["outside"] is False
    (result,) = found["results"]
    west, south, east, north = found["selected"]
    left, bottom, right, top = result["extent"]
    assert west - 1 <= left < right <= east + 1
    assert south - 1 <= bottom < top <= north + 1
    assert found["bands"] == "2,3,1"
    assert "tiles: " in found["preflight of bands"]


def test_map_tiles(scene, tmp_path):
    with TileServer(photo(scene)) as server:
        found, _ = played("service", tmp_path, scene, GEOSEG_TILES=server.uri)
    assert found["area"] == "Map view"
    assert "pixels of 0.3 m" in found["preflight"]
    (result,) = found["results"]
    assert result["area"] > 30_000
    assert found["world"] is False


def test_no_engine(scene, tmp_path):
    found, _ = played("no_engine", tmp_path, scene, GEOSEG_PYTHON=str(tmp_path / "none"))
    assert found["run"] is False
    assert "does not exist" in found["text"]
    assert found["service"] == [True, False]


def test_cancel(town, tmp_path):
    found, desktop = played("cancel", tmp_path, town)
    assert found["engines before"] == 1
    assert "Canceled" in found["status"]
    assert found["results"] == []
    assert found["again"]
    assert desktop.outputs() == ["file"]
    # A run that fails is told in the dock, in the message bar, and at length behind a button.
    assert "below.gpkg" in found["error status"]
    assert "geoseg" in found["error bar"]
    assert "geoseg predict" in found["details"]


def test_reloads_leave_nothing_behind(town, tmp_path):
    found, _ = played("reload", tmp_path, town)
    assert found["loaded"]
    assert found["without"]["provider"] is False
    assert found["without"]["actions"] == 0
    for after in found["rounds"]:
        assert after == found["without"]
    assert found["output"] == []


def test_closed_in_the_midst_of_a_run(town, tmp_path):
    found, desktop = played("close", tmp_path, town)
    assert found["engines"] == 1
    assert "asked" in found
    assert desktop.outputs() == []


def test_killed_in_the_midst_of_a_run(town, tmp_path):
    with Desktop("killed", tmp_path, town) as desktop:
        assert desktop.until(lambda: desktop.found().get("engines"), LIMIT), desktop.log()
        assert desktop.processes(ENGINE)
        os.kill(desktop.found()["pid"], signal.SIGKILL)
        assert desktop.until(lambda: not desktop.processes(ENGINE), 35)
        assert desktop.outputs() == []
