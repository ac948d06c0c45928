"""The set-up window's page of the engine: what is there, and how to make one."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from qgis.core import Qgis, QgsApplication, QgsSettings
from qgis.gui import QgsCollapsibleGroupBox, QgsFileWidget
from qgis.PyQt.QtCore import Qt, pyqtSignal
from qgis.PyQt.QtWidgets import (
    QButtonGroup,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMessageBox,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QRadioButton,
    QVBoxLayout,
    QWidget,
)
from qgis.utils import iface

from . import environment, network, settings
from .i18n import tr
from .jobs import Job
from .runner import Engine

# Work on the environment that goes on when the window is closed; one at a time.
_current: Job | None = None


class EnginePage(QWidget):
    """Status, the path of an engine, and the private environment."""

    changed = pyqtSignal()  # there may be another engine now

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.status = QLabel()
        self.status.setWordWrap(True)
        self.status.setTextFormat(Qt.TextFormat.RichText)
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
        self.path = QgsFileWidget()
        self.path.setStorageMode(QgsFileWidget.StorageMode.GetFile)
        self.path.lineEdit().setPlaceholderText(tr("found by itself"))
        self.path.setToolTip(
            tr("A Python that has geoseg, the geoseg command, or the folder of an environment")
        )
        self.use = QPushButton(tr("Use"))
        self.use.clicked.connect(self.use_path)
        row = QHBoxLayout()
        row.addWidget(QLabel(tr("Another engine:")))
        row.addWidget(self.path, 1)
        row.addWidget(self.use)
        layout = QVBoxLayout(self)
        layout.addWidget(self.status)
        layout.addLayout(row)
        layout.addWidget(self._environment())
        layout.addLayout(self._progress())
        self.log = QPlainTextEdit()
        self.log.setReadOnly(True)
        self.log.setMaximumBlockCount(5000)
        bar = self.log.verticalScrollBar()  # follows the last line, also a wrapped one
        bar.rangeChanged.connect(lambda low, high: bar.setValue(high))
        layout.addWidget(self.log, 1)
        self._job: Job | None = None
        self._shown = 0  # of its lines
        self._take_settings()
        self._follow(_current)

    def _environment(self) -> QGroupBox:
        """Choices for the private environment, and what can be done with it."""
        box = QGroupBox(tr("Private environment"))
        self.light = QRadioButton(tr("light: predicts, about 1 GB"))
        self.light.setToolTip(
            tr("Without PyTorch: no training, and only models that have an ONNX graph; on the CPU")
        )
        self.full = QRadioButton(tr("full: all models, training"))
        self.full.setToolTip(
            tr("With PyTorch: about 6.5 GB on Linux, where it brings its CUDA libraries")
        )
        self.light.setChecked(True)
        self.cpu = QRadioButton(tr("CPU"))
        self.cuda = QRadioButton(tr("NVIDIA GPU (CUDA)"))
        self.cpu.setChecked(True)
        self.index = QRadioButton(tr("the package index"))
        self.local = QRadioButton(tr("a folder of wheels:"))
        self.index.setChecked(True)
        self.wheels = QgsFileWidget()
        self.wheels.setStorageMode(QgsFileWidget.StorageMode.GetDirectory)
        self.wheels.setEnabled(False)
        self.local.toggled.connect(self.wheels.setEnabled)
        pairs = (self.light, self.full), (self.cpu, self.cuda), (self.index, self.local)
        self._groups = [_group(*pair) for pair in pairs]
        form = QFormLayout(box)
        form.addRow(tr("Engine:"), _row(self.light, self.full))
        form.addRow(tr("Runs on:"), _row(self.cpu, self.cuda))
        form.addRow(tr("Packages from:"), _row(self.index, self.local, self.wheels))
        form.addRow(self._advanced())
        self.light.toggled.connect(self._only_cpu)
        self._only_cpu(True)
        self.make = QPushButton(tr("Set up"))
        self.make.clicked.connect(self.set_up)
        self.delete = QPushButton(tr("Remove"))
        self.delete.clicked.connect(self.ask_and_remove)
        form.addRow(_row(self.make, self.delete, None))
        return box

    def _only_cpu(self, light: bool) -> None:
        """CUDA and the index of PyTorch are the full engine's."""
        if light:
            self.cpu.setChecked(True)
        self.cuda.setEnabled(not light)
        self.torch_index.setEnabled(not light)

    def _advanced(self) -> QGroupBox:
        box = QgsCollapsibleGroupBox(tr("Advanced"))
        self.source = QgsFileWidget()
        self.source.setStorageMode(QgsFileWidget.StorageMode.GetFile)
        self.source.setFilePath("geoseg")
        self.source.setToolTip(
            tr("What pip installs: a name with or without version, a wheel, a folder, an address")
        )
        self.torch_index = QLineEdit()
        self.torch_index.setPlaceholderText(tr("none"))
        self.torch_index.setToolTip(
            tr(
                "The address of a second index, for PyTorch's builds for one device only. The "
                "common index has CUDA's build on Linux (several GB) and the CPU's elsewhere."
            )
        )
        self.folder = QgsFileWidget()
        self.folder.setStorageMode(QgsFileWidget.StorageMode.GetDirectory)
        self.folder.setFilePath(str(environment.default_folder()))
        form = QFormLayout(box)
        form.addRow(tr("geoseg itself:"), self.source)
        form.addRow(tr("Index for PyTorch:"), self.torch_index)
        form.addRow(tr("Folder:"), self.folder)
        box.setCollapsed(True)
        return box

    def _progress(self) -> QHBoxLayout:
        self.busy = QProgressBar()
        self.busy.setRange(0, 0)
        self.cancel = QPushButton(tr("Cancel"))
        self.cancel.clicked.connect(self.cancel_job)
        row = QHBoxLayout()
        row.addWidget(self.busy, 1)
        row.addWidget(self.cancel)
        return row

    # What is there

    def show_looking(self) -> None:
        """Until the engine has answered."""
        self.status.setText(tr("Looking for the engine …"))

    def show_engine(self, engine: Engine | None, report: dict[str, Any], error: str) -> None:
        """What `geoseg doctor` says, or why it cannot."""
        if engine is None:
            self.status.setText(f"<p><b>{tr('No engine yet.')}</b></p>{_paragraphs(error)}")
        else:
            self.status.setText(described(engine, report))
        self._enable()

    def use_path(self) -> None:
        """Keep the path and look at it."""
        QgsSettings().setValue(settings.ENGINE, self.path.filePath().strip())
        self.changed.emit()

    # The private environment

    def set_up(self) -> None:
        """Make the environment, or make it again, in the background."""
        choice = {
            "kind": environment.LIGHT if self.light.isChecked() else environment.FULL,
            "device": "cuda" if self.cuda.isChecked() else "cpu",
            "wheelhouse": Path(self.wheels.filePath()) if self.local.isChecked() else None,
            "source": self.source.filePath().strip() or "geoseg",
            "torch_index": self.torch_index.text().strip(),
        }
        folder = self._folder()

        def work(job: Job) -> None:
            environment.create(
                folder,
                **choice,
                proxy=network.proxy(),
                certificate=network.certificate(),
                on_line=job.say,
                is_canceled=job.isCanceled,
            )
            _use_private(folder)
            job.say(tr("The engine is ready."))

        self._start(Job(tr("geoseg: setting up the engine"), work))

    def ask_and_remove(self) -> None:
        """Remove the environment once the user has agreed."""
        answer = QMessageBox.question(
            self,
            tr("Remove the environment"),
            tr("Delete {folder} and all packages in it?").format(folder=self._folder()),
        )
        if answer == QMessageBox.StandardButton.Yes:
            self.remove()

    def remove(self) -> None:
        """Delete the environment, in the background; models that were added stay."""
        folder = self._folder()

        def work(job: Job) -> None:
            environment.remove(folder)
            if Path(str(QgsSettings().value(settings.ENGINE, "") or "")) == folder:
                QgsSettings().setValue(settings.ENGINE, "")
            job.say(tr("{folder} is removed.").format(folder=folder))

        self._start(Job(tr("geoseg: removing the engine"), work))

    def cancel_job(self) -> None:
        """End what runs; what was there before comes back."""
        if self._job is not None:
            self.cancel.setEnabled(False)
            self._job.cancel()

    def _take_settings(self) -> None:
        named = str(QgsSettings().value(settings.ENGINE, "") or "")
        self.path.setFilePath(named)
        if environment.is_private(Path(named)):
            self.folder.setFilePath(named)
        if environment.kind_of(self._folder()) == environment.FULL:
            self.full.setChecked(True)

    def _folder(self) -> Path:
        return Path(self.folder.filePath().strip() or environment.default_folder())

    def _start(self, job: Job) -> None:
        global _current
        _current = job
        job.ended.connect(_forget)
        self.log.clear()
        self._follow(job)
        job.start()

    def _follow(self, job: Job | None) -> None:
        """Show a job's lines and end; it may have begun in a window that was closed since."""
        self._job, self._shown = job, 0
        if job is not None:
            job.told.connect(self._show_lines)
            job.ended.connect(self._show_end)
            self._show_lines()
        self._enable()

    def _show_lines(self) -> None:
        if self._job is not None:
            for line in self._job.lines[self._shown :]:
                self.log.appendPlainText(line)
                self._shown += 1

    def _show_end(self) -> None:
        self._show_lines()
        job, self._job = self._job, None
        if job is None:
            return
        if job.error:
            self.log.appendPlainText(job.error)
            if "No matching distribution found for geoseg" in job.error:
                self.log.appendPlainText(
                    tr(
                        "There is no such geoseg. Give a wheel, the folder of a clone, or an "
                        "address: Advanced ▸ geoseg itself."
                    )
                )
        elif job.isCanceled():
            self.log.appendPlainText(tr("Canceled; all is as it was before."))
        self._take_settings()
        self._enable()
        self.changed.emit()

    def _enable(self) -> None:
        running = self._job is not None
        there = environment.is_private(self._folder())
        self.make.setText(tr("Repair or update") if there else tr("Set up"))
        self.make.setEnabled(not running)
        self.delete.setEnabled(there and not running)
        self.use.setEnabled(not running)
        self.busy.setVisible(running)
        self.cancel.setVisible(running)
        self.cancel.setEnabled(running)


def _forget() -> None:
    """Whoever has closed the window is told by QGIS's own messages."""
    global _current
    job, _current = _current, None
    if job is None or job.isCanceled():
        return
    said = job.error or (job.lines or [""])[-1]
    level = Qgis.MessageLevel.Critical if job.error else Qgis.MessageLevel.Success
    QgsApplication.messageLog().logMessage(said, "geoseg", level)
    if iface is not None:
        iface.messageBar().pushMessage("geoseg", said, level)


def _use_private(folder: Path) -> None:
    """What was just made is what is meant."""
    default = folder == environment.default_folder()
    QgsSettings().setValue(settings.ENGINE, "" if default else str(folder))


def described(engine: Engine, report: dict[str, Any]) -> str:
    """An engine in a few lines of HTML, with what is wrong."""
    packages = report.get("packages") or {}
    torch = f"PyTorch {packages.get('torch', '?')}"
    if report.get("engine") == "light":
        torch = tr("light engine: no training")
    devices = [str(device) for device in report.get("devices") or []]
    rows = [
        (tr("Engine"), " ".join(engine.command)),
        (
            tr("Versions"),
            f"geoseg {report.get('geoseg')}, {torch}, Python {report.get('python')}",
        ),
        (tr("Runs on"), chosen_device(devices) or tr("no device")),
        (tr("Models"), ", ".join(map(str, report.get("models") or [])) or tr("none")),
    ]
    lines = [f"<b>{html.escape(name)}:</b> {html.escape(text)}" for name, text in rows]
    wrong = [str(trouble) for trouble in report.get("trouble") or []]
    ours, theirs = settings.plugin_version(), str(report.get("geoseg"))
    if ours != theirs:
        text = tr(
            "The plugin is version {ours}, the engine {theirs}: update the engine (Repair or "
            "update), or the plugin."
        )
        wrong.insert(0, text.format(ours=ours, theirs=theirs))
    return f"<p>{'<br>'.join(lines)}</p>" + "".join(map(_paragraphs, wrong))


def chosen_device(devices: list[str]) -> str:
    """The one that the engine takes by itself: a GPU where there is one."""
    for kind in ("cuda", "mps", "cpu"):
        for device in devices:
            if device.startswith(kind):
                return device
    return ""


def _paragraphs(text: str) -> str:
    escaped = html.escape(text).replace("\n", "<br>")
    return f'<p style="color: #b00020">{escaped}</p>' if text else ""


def _group(*buttons: QRadioButton) -> QButtonGroup:
    group = QButtonGroup(buttons[0])
    for button in buttons:
        group.addButton(button)
    return group


def _row(*widgets: QWidget | None) -> QWidget:
    """Widgets side by side; the last one, or the space for None, takes what is left."""
    holder = QWidget()
    row = QHBoxLayout(holder)
    row.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        row.addStretch(1) if widget is None else row.addWidget(widget)
    if isinstance(widgets[-1], QgsFileWidget):
        row.setStretch(len(widgets) - 1, 1)
    elif widgets[-1] is not None:
        row.addStretch(1)
    return holder
