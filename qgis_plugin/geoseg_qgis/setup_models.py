"""The set-up window's page of the models: those there are, adding and removing."""

from __future__ import annotations

from typing import Any

from qgis.PyQt.QtCore import Qt, pyqtSignal
from qgis.PyQt.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from . import settings
from .i18n import tr
from .jobs import Job
from .model_box import labelled

PACKAGE = "package"  # a model's source, where it comes with geoseg


class ModelsPage(QWidget):
    """A table of what `geoseg model list` says, and what adds to it or takes away."""

    changed = pyqtSignal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        heads = [tr("Name"), tr("Version"), tr("Pixel size (m)"), tr("Bands"), tr("Classes")]
        self.table = QTableWidget(0, len(heads))
        self.table.setHorizontalHeaderLabels(heads)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().setStretchLastSection(True)
        self.table.horizontalHeader().setSectionResizeMode(
            0, QHeaderView.ResizeMode.ResizeToContents
        )
        self.table.itemSelectionChanged.connect(self._enable)
        self.source = QLineEdit()
        self.source.setPlaceholderText(tr("folder, zip, web address, or owner/name"))
        self.source.setToolTip(
            tr("A model's folder or zip, the address of a zip, or a Hugging Face repository")
        )
        self.source.textChanged.connect(self._enable)
        self.said = QLabel()
        self.said.setWordWrap(True)
        self.said.setTextFormat(Qt.TextFormat.PlainText)
        self.delete = _button(tr("Remove"), self.remove)
        self.add = _button(tr("Add"), self.add_model)
        row = QHBoxLayout()
        row.addWidget(QLabel(tr("Add a model:")))
        row.addWidget(self.source, 1)
        row.addWidget(_button(tr("Folder …"), self._choose_folder))
        row.addWidget(_button(tr("Zip …"), self._choose_zip))
        row.addWidget(self.add)
        layout = QVBoxLayout(self)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.delete, 0, Qt.AlignmentFlag.AlignRight)
        layout.addLayout(row)
        layout.addWidget(self.said)
        self._models: list[dict[str, Any]] = []
        self._job: Job | None = None
        self._enable()

    def show_models(self, models: list[dict[str, Any]]) -> None:
        """The records of `geoseg model list`."""
        self._models = models
        self.table.setRowCount(len(models))
        for i, model in enumerate(models):
            cells = [
                labelled(model),
                str(model.get("version", "")),
                str(model.get("gsd", "")),
                ", ".join(map(_named, model.get("bands") or [])),
                ", ".join(map(_named, model.get("classes") or [])),
            ]
            for j, text in enumerate(cells):
                item = QTableWidgetItem(text)
                item.setToolTip(str(model.get("description") or text))
                self.table.setItem(i, j, item)
        self._enable()

    def add_model(self) -> None:
        """Have the engine get, check and keep the model."""
        self._run(
            tr("Getting and checking the model …"), ["model", "pull", self.source.text().strip()]
        )

    def remove(self) -> None:
        """Remove the chosen model; those that came with geoseg stay."""
        if (model := self._chosen()) is not None:
            self._run(tr("Removing …"), ["model", "remove", str(model["name"])])

    def _run(self, doing: str, arguments: list[str]) -> None:
        def work(job: Job) -> Any:
            return settings.engine().run(arguments, is_canceled=job.isCanceled)

        self.said.setText(doing)
        self._job = Job(tr("geoseg: models"), work)
        self._job.ended.connect(self._show_end)
        self._job.start()
        self._enable()

    def _show_end(self) -> None:
        job, self._job = self._job, None
        self.said.setText(job.error)
        if job.error:
            self._enable()
        else:
            self.source.clear()
            self.changed.emit()

    def _chosen(self) -> dict[str, Any] | None:
        rows = self.table.selectionModel().selectedRows()
        return self._models[rows[0].row()] if rows else None

    def _choose_folder(self) -> None:
        if path := QFileDialog.getExistingDirectory(self, tr("A model's folder")):
            self.source.setText(path)

    def _choose_zip(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, tr("A model's zip"), "", "*.zip")
        if path:
            self.source.setText(path)

    def _enable(self) -> None:
        model = self._chosen()
        idle = self._job is None
        self.add.setEnabled(idle and bool(self.source.text().strip()))
        self.delete.setEnabled(idle and model is not None and model.get("source") != PACKAGE)


def _named(thing: Any) -> str:
    """A class or band is a name, or a record that has one."""
    return str(thing.get("name")) if isinstance(thing, dict) else str(thing)


def _button(text: str, slot: Any) -> QPushButton:
    button = QPushButton(text)
    button.clicked.connect(lambda checked=False: slot())
    return button
