"""One run of geoseg:predict for the dock: in the background, results loaded when it is over."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    QgsApplication,
    QgsProcessingAlgRunnerTask,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingUtils,
    QgsProject,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QObject, pyqtSignal

PATIENCE = 3000  # milliseconds that the plugin waits for a canceled run when it is unloaded


class Feedback(QgsProcessingFeedback):
    """Hands on what is said; QGIS calls it in the run's thread."""

    said = pyqtSignal(str)

    def __init__(self) -> None:
        super().__init__(False)
        self.errors: list[str] = []

    def setProgressText(self, text: str) -> None:
        super().setProgressText(text)
        self.said.emit(text)

    def reportError(self, error: str, fatalError: bool = False) -> None:
        super().reportError(error, fatalError)
        self.errors.append(error.strip())


class Run(QObject):
    """Signals: `progress` (percent), `said` (what to show beside), `ended` (went well, results)."""

    progress = pyqtSignal(float)
    said = pyqtSignal(str)
    ended = pyqtSignal(bool, dict)

    def __init__(self, parameters: dict[str, Any], parent: QObject) -> None:
        """parameters: of geoseg:predict."""
        super().__init__(parent)
        self.context = QgsProcessingContext()
        self.context.setProject(QgsProject.instance())
        self.feedback = Feedback()
        self.feedback.progressChanged.connect(self.progress)
        self.feedback.said.connect(self.said)
        self.canceled = False
        algorithm = QgsApplication.processingRegistry().createAlgorithmById("geoseg:predict")
        self._task = QgsProcessingAlgRunnerTask(algorithm, parameters, self.context, self.feedback)
        self._task.executed.connect(self._executed)

    def start(self) -> None:
        """Hand it to QGIS."""
        QgsApplication.taskManager().addTask(self._task)

    def cancel(self) -> None:
        """Ask it to end; `ended` follows within a second or so."""
        self.canceled = True
        if self._task is not None:
            self._task.cancel()

    def leave(self) -> None:
        """End it now, without results: the plugin goes."""
        self.blockSignals(True)
        if self._task is not None:
            task, self._task = self._task, None
            task.executed.disconnect(self._executed)
            task.cancel()
            task.waitForFinished(PATIENCE)

    def log(self) -> str:
        """All that was said."""
        return self.feedback.textLog().strip()

    def error(self) -> str:
        """What went wrong, for users."""
        return "\n".join(self.feedback.errors)

    def _executed(self, ok: bool, results: dict[str, Any]) -> None:
        self._task = None  # QGIS deletes it
        done = ok and bool(results)  # a cancel may have come too late
        if done:
            self._load()
        self.ended.emit(done, results)

    def _load(self) -> None:
        """Add the results to the project, rasters below polygons."""
        layers = []
        for source, details in self.context.layersToLoadOnCompletion().items():
            found = QgsProcessingUtils.mapLayerFromString(source, self.context)
            layer = self.context.takeResultLayer(found.id()) if found is not None else None
            if layer is None:
                self.feedback.reportError(source)
                continue
            layer.setName(details.name or layer.name())
            finish = details.postProcessor()
            if finish is not None:
                finish.postProcessLayer(layer, self.context, self.feedback)
            layers.append(layer)
        project = QgsProject.instance()
        for layer in sorted(layers, key=lambda one: isinstance(one, QgsVectorLayer)):
            project.addMapLayer(layer)
            if not isinstance(layer, QgsVectorLayer):  # would lie over the image, like the polygons
                project.layerTreeRoot().findLayer(layer.id()).setItemVisibilityChecked(False)
