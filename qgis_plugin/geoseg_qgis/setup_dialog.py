"""The window that finds, makes, checks and removes the engine, and looks after its models."""

from __future__ import annotations

from typing import Any, Callable, Optional

from qgis.core import Qgis
from qgis.PyQt.QtCore import QT_VERSION_STR
from qgis.PyQt.QtWidgets import (
    QApplication,
    QDialog,
    QDialogButtonBox,
    QLabel,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from . import environment, settings
from .i18n import tr
from .runner import Engine, EngineError
from .setup_engine import EnginePage
from .setup_models import ModelsPage
from .tasks import BackgroundTask

# The engine, what `geoseg doctor` says, and what `geoseg model list` does.
Found = tuple[Optional[Engine], dict[str, Any], list[dict[str, Any]]]


class SetupDialog(QDialog):
    """Two pages, engine and models; all that takes time is done in the background.

    It may be closed at any time: a set-up goes on, and is shown again by the next one.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(tr("geoseg: engine and models"))
        self.resize(720, 640)
        self.engine_page = EnginePage(self)
        self.models_page = ModelsPage(self)
        self.engine_page.changed.connect(self.look)
        self.models_page.changed.connect(self.look)
        self.tabs = QTabWidget()
        self.tabs.addTab(self.engine_page, tr("Engine"))
        self.tabs.addTab(self.models_page, tr("Models"))
        self.said = QLabel()  # of the buttons below
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        self.copy = buttons.addButton(
            tr("Copy diagnostics"), QDialogButtonBox.ButtonRole.ActionRole
        )
        self.copy.clicked.connect(self.copy_diagnostics)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addWidget(self.tabs)
        layout.addWidget(self.said)
        layout.addWidget(buttons)
        self._looking: BackgroundTask | None = None
        self._copying: BackgroundTask | None = None
        self.look()

    def look(self) -> None:
        """Ask the engine that is there now what it is and what it has."""
        if self._looking is not None:
            self._looking.stop()
        self.engine_page.show_looking()
        self.models_page.setEnabled(False)
        task = BackgroundTask(
            _look, self._show_engine, lambda error: self._show_engine((None, {}, []), str(error))
        )
        self._looking = task.start()

    def done(self, result: int) -> None:
        """Close; what only looked has nobody left to tell."""
        for task in (self._looking, self._copying):
            if task is not None:
                task.stop()
        super().done(result)

    def _show_engine(self, found: Found, error: str = "") -> None:
        self._looking = None
        engine, report, models = found
        self.engine_page.show_engine(engine, report, error)
        self.models_page.show_models(models)
        self.models_page.setEnabled(engine is not None)

    def copy_diagnostics(self) -> None:
        """Put all that a report of a bug needs on the clipboard; no passwords."""
        self.copy.setEnabled(False)
        self.said.setText(tr("Gathering …"))
        task = BackgroundTask(
            _diagnostics, self._put_on_clipboard, lambda error: self._put_on_clipboard(str(error))
        )
        self._copying = task.start()

    def _put_on_clipboard(self, text: str) -> None:
        self._copying = None
        self.copy.setEnabled(True)
        QApplication.clipboard().setText(text)
        self.said.setText(tr("The diagnostics are on the clipboard."))


# In the background.


def _look(is_canceled: Callable[[], bool]) -> Found:
    engine = settings.engine()
    report = environment.check(engine, is_canceled)
    try:
        models = settings.list_models(engine, is_canceled)
    except EngineError as e:  # a model that is broken: the engine is none the worse for it
        models = []
        report.setdefault("trouble", []).append(str(e))
    return engine, report, models


def _diagnostics(is_canceled: Callable[[], bool]) -> str:
    try:
        engine = settings.engine()
    except EngineError:
        engine = None
    plugin = f"QGIS {Qgis.QGIS_VERSION}, Qt {QT_VERSION_STR}, plugin {settings.plugin_version()}"
    return f"{plugin}\n{environment.diagnostics(engine)}"
