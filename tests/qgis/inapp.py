"""Runs inside the desktop (`qgis --code`): a scenario of scenarios.py, a step at a time.

A scenario is a generator. It yields conditions, each a function that becomes true; meanwhile
QGIS goes on. What it finds is written as JSON for the test that started QGIS.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path

from qgis.core import QgsProject
from qgis.PyQt.QtCore import QTimer
from qgis.utils import iface

sys.path.insert(0, os.environ["GEOSEG_TESTS"])
PATIENCE = 90  # seconds that a condition may take


class Desktop:
    """What a scenario sees of QGIS."""

    def __init__(self) -> None:
        self.iface = iface
        self.window = iface.mainWindow()
        self.found: dict = {}
        self._shots = Path(os.environ["GEOSEG_SCREENSHOTS"])

    def shot(self, name: str, widget=None) -> None:
        """Keep a picture of the window, or of a widget."""
        (widget or self.window).grab().save(str(self._shots / f"{name}.png"))

    def write(self) -> None:
        Path(os.environ["GEOSEG_FOUND"]).write_text(json.dumps(self.found), encoding="utf-8")

    def quit(self) -> None:
        """Close QGIS; changes of the project are no reason to ask."""
        self.write()
        QgsProject.instance().clear()
        QgsProject.instance().setDirty(False)
        self.iface.actionExit().trigger()


class Player:
    """Goes through the scenario between QGIS's own events."""

    def __init__(self, desktop: Desktop, scenario) -> None:
        self._desktop, self._steps = desktop, scenario(desktop)
        self._ready, self._until = (lambda: True), time.monotonic() + PATIENCE
        self._timer = QTimer()
        self._timer.setInterval(30)
        self._timer.timeout.connect(self._step)
        self._timer.start()
        self._busy = False

    def _step(self) -> None:
        if self._busy:  # a step that opened a modal window
            return
        self._busy = True
        try:
            if not self._ready():
                if time.monotonic() > self._until:
                    raise TimeoutError(f"waited {PATIENCE} s at {self._where()}")
                return
            self._ready = next(self._steps)
            self._until = time.monotonic() + PATIENCE
        except StopIteration:
            self._end()
        except Exception:  # noqa: BLE001  the test shall read it
            self._desktop.found["error"] = traceback.format_exc()
            self._desktop.shot("error")
            self._end()
        finally:
            self._busy = False

    def _where(self) -> str:
        frame = self._steps.gi_frame
        return f"line {frame.f_lineno}" if frame else "the end"

    def _end(self) -> None:
        self._timer.stop()
        QTimer.singleShot(0, self._desktop.quit)


def play() -> None:
    import scenarios

    global player
    player = Player(Desktop(), getattr(scenarios, os.environ["GEOSEG_SCENARIO"]))


iface.initializationCompleted.connect(play)
