"""One QgsApplication for all tests, with a profile of its own, and the real engine.

Runs on QGIS's Python: `make test-qgis`.
"""

from __future__ import annotations

import os
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

from qgis.core import QgsApplication  # noqa: E402

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
