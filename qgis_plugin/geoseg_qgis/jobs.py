"""Work that takes longer than a click, in QGIS's background threads."""

from __future__ import annotations

import traceback
from typing import Any, Callable

from qgis.core import QgsApplication, QgsTask
from qgis.PyQt.QtCore import pyqtSignal

from .runner import EngineCanceled, EngineError

_alive: set[Job] = set()  # QGIS deletes what Python has let go


class Job(QgsTask):
    """One call in the background; its end is told in the main thread.

    `work(job)` may touch no widget and no layer; what it returns is `result`. What went wrong is
    `error`, a message for users; after a cancel both are empty.
    """

    told = pyqtSignal()  # `lines` has grown
    ended = pyqtSignal()

    def __init__(self, title: str, work: Callable[[Job], Any]) -> None:
        # Who closes QGIS meanwhile is not asked: what is half-made goes, what was there stays.
        super().__init__(title, QgsTask.Flag.CanCancel | QgsTask.Flag.CancelWithoutPrompt)
        self._work = work
        self.lines: list[str] = []
        self.result: Any = None
        self.error = ""

    def start(self) -> Job:
        """Hand it to QGIS, which shows it in its task manager."""
        _alive.add(self)
        QgsApplication.taskManager().addTask(self)
        return self

    def say(self, line: str) -> None:
        """Add a line to what is shown; from any thread."""
        self.lines.append(line)
        self.told.emit()

    def run(self) -> bool:
        try:
            self.result = self._work(self)
        except EngineCanceled:
            return False
        except EngineError as e:
            self.error = str(e)
        except Exception:  # noqa: BLE001 - one that leaves run() would end QGIS
            self.error = traceback.format_exc()
        return not self.error

    def finished(self, ok: bool) -> None:
        self.ended.emit()
        _alive.discard(self)


def cancel_all() -> None:
    """End what still runs, when the plugin goes."""
    for job in list(_alive):
        job.cancel()
