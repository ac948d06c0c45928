"""Small work in the background, whose end is told in the main thread.

A thread and not a QgsTask: before 3.26, QGIS announces each task that took five seconds, and a
preflight is nothing to announce.
"""

from __future__ import annotations

import threading
from typing import Any, Callable

from qgis.PyQt.QtCore import QObject, pyqtSignal

from .runner import EngineCanceled


class BackgroundTask(QObject):
    """Runs `work(is_canceled)`; then `done(result)` or `failed(exception)` in the main thread.

    `work` touches no widgets, no project and no layers that live in the main thread. After
    `stop()` nothing more is told.
    """

    _ended = pyqtSignal()

    def __init__(
        self,
        work: Callable[[Callable[[], bool]], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        super().__init__()
        self._work, self._done, self._failed = work, done, failed
        self._result: Any = None
        self._error: Exception | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ended.connect(self._tell)  # queued: this object lives in the main thread

    def start(self) -> BackgroundTask:
        """Begin; returns at once."""
        self._thread.start()
        return self

    def stop(self, *, wait: float = 0) -> None:
        """End it soon, without a word; `wait` so many seconds for that at most."""
        self._stopped.set()
        if wait:
            self._thread.join(wait)

    def _run(self) -> None:
        try:
            self._result = self._work(self._stopped.is_set)
        except EngineCanceled:
            return
        except Exception as e:  # noqa: BLE001  told below
            self._error = e
        if not self._stopped.is_set():
            self._ended.emit()

    def _tell(self) -> None:
        if self._stopped.is_set():
            return
        if self._error is not None:
            self._failed(self._error)
        else:
            self._done(self._result)
