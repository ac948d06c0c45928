"""One QgsApplication for all tests, with a profile of its own, and the real engine.

Runs on QGIS's Python: `make test-qgis`.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROFILE = tempfile.mkdtemp(prefix="geoseg-test-qgis-")
os.environ["QGIS_CUSTOM_CONFIG_PATH"] = PROFILE  # before the first import of qgis
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("GEOSEG_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XDG_DATA_HOME"] = f"{PROFILE}/data"  # no engine or model of the developer's
sys.path[:0] = [str(ROOT / "qgis_plugin"), "/usr/share/qgis/python/plugins"]

from osgeo import gdal  # noqa: E402
from qgis.core import QgsApplication, QgsProcessingFeedback, QgsSettings  # noqa: E402

SCENE = ROOT / "tests" / "data" / "banepa_center.tif"


@pytest.fixture(scope="session", autouse=True)
def application():
    """QGIS without windows, with Processing and geoseg's provider."""
    app = QgsApplication([], True)
    app.initQgis()
    from processing.core.Processing import Processing

    Processing.initialize()
    from geoseg_qgis import classFactory

    plugin = classFactory(None)
    plugin.initProcessing()
    app.plugin = plugin  # keeps the provider
    return app


@pytest.fixture(scope="session")
def scene() -> str:
    """A real aerial image with three bands."""
    return str(SCENE)


@pytest.fixture(scope="session")
def truth() -> str:
    """Buildings on it."""
    return str(SCENE.with_name("banepa_center_buildings.gpkg"))


@pytest.fixture(scope="session")
def part(tmp_path_factory) -> str:
    """A part of it, in one tile, at a path with blanks and letters of other alphabets."""
    path = tmp_path_factory.mktemp("aerial views") / "équipe 影像.tif"
    gdal.Translate(str(path), str(SCENE), srcWin=[1024, 512, 768, 768])
    return str(path)


@pytest.fixture(scope="session")
def predicted(scene, tmp_path_factory) -> dict:
    """What geoseg:predict made of the scene: OUTPUT, MASK, POLYGONS."""
    import processing

    folder = tmp_path_factory.mktemp("predicted")
    outputs = {"OUTPUT": f"{folder}/buildings.gpkg", "MASK": f"{folder}/mask.tif"}
    options = {"ATTRIBUTES": True, "MIN_AREA": 50}
    return processing.run("geoseg:predict", {"INPUT": scene, **options, **outputs})


class Feedback(QgsProcessingFeedback):
    """Keeps what it is told; cancels when the progress (0 to 100) is beyond `cancel_at`."""

    def __init__(self, *, cancel_at: float = 100) -> None:
        super().__init__(False)
        self.lines: list[str] = []
        self.steps: list[float] = []  # of the progress
        self.cancel_at = cancel_at
        self.progressChanged.connect(self._advance)

    def _advance(self, progress: float) -> None:
        self.steps.append(progress)
        if progress > self.cancel_at:
            self.cancel()

    def pushInfo(self, info):
        self.lines.append(info)

    def pushWarning(self, warning):
        self.lines.append(f"warning: {warning}")

    def pushCommandInfo(self, info):
        self.lines.append(f"$ {info}")

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def feedback():
    """One that does not cancel."""
    return Feedback()


@pytest.fixture
def canceling():
    """One that cancels at the first progress."""
    return Feedback(cancel_at=0)


@pytest.fixture
def use_engine():
    """Takes the path of an engine, as a user would name it in the plugin's settings."""
    yield lambda path: QgsSettings().setValue("geoseg/engine", str(path))
    QgsSettings().remove("geoseg/engine")


@pytest.fixture
def fake(tmp_path, use_engine):
    """Takes the body of a Python script, which becomes the engine; its folder."""

    def make(body: str) -> Path:
        path = tmp_path / "engine" / "geoseg"
        path.parent.mkdir()
        path.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        use_engine(path)
        return path.parent

    return make


_status = 0


def pytest_sessionfinish(session, exitstatus):
    """Remember how it went."""
    global _status
    _status = int(exitstatus)


def pytest_unconfigure(config):
    """Leave at once: a layer that is alive when QGIS ends would crash it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_status)
