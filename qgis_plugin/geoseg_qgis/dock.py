"""The dock "Segment this layer"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgis.core import (
    Qgis,
    QgsMapLayer,
    QgsMapLayerProxyModel,
    QgsProcessing,
    QgsProcessingException,
    QgsProcessingOutputLayerDefinition,
    QgsProject,
    QgsRasterLayer,
)
from qgis.gui import QgsDockWidget, QgsFileWidget, QgsMapLayerComboBox
from qgis.PyQt.QtCore import Qt, QTimer
from qgis.PyQt.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QFormLayout,
    QFrame,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from . import preflight, settings
from .algorithms.predict import bounds
from .area import VIEW, Area, AreaChooser, AreaError, narrow
from .bands import BandBox
from .i18n import tr
from .inputs import layer_file, raster_source, same_file
from .model_box import OBJECTS, ModelBox, outline_defaults
from .preflight import Polygons, Report
from .render import Rendering, needs_rendering
from .run import Run
from .runner import EngineBroken, EngineMissing
from .tasks import BackgroundTask

CALM = 500  # milliseconds without a change before the engine is asked


class OutputError(Exception):
    """One message for users: why nothing is written there."""


class SegmentDock(QgsDockWidget):
    """Choose layer, model and area; see what will happen; run; the polygons appear."""

    AREA = Qt.DockWidgetArea.RightDockWidgetArea

    def __init__(self, iface, show_setup) -> None:
        super().__init__(tr("Segment this layer"), iface.mainWindow())
        self.setObjectName("geosegDock")
        self._iface, self._show_setup = iface, show_setup
        self._asked: BackgroundTask | None = None  # for the models
        self._planned: BackgroundTask | None = None
        self._run: Run | None = None
        self._report = Report()
        self._outlined = ""  # the model whose outlines were proposed
        self._is_old = True  # what is shown does not belong to what is chosen
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(CALM)
        self._timer.timeout.connect(self._plan)
        self._build()
        self._connect()
        self._model_changed()
        self._layer_changed(self.layer.currentLayer())
        self.refresh_models()

    # What the plugin calls

    def take_layer(self, layer: QgsMapLayer | None) -> None:
        """Choose this layer, if it is a raster."""
        if isinstance(layer, QgsRasterLayer):
            self.layer.setLayer(layer)

    def refresh_models(self) -> None:
        """Ask the engine for its models, in the background."""
        if self._asked is not None:
            self._asked.stop()
        self._asked = BackgroundTask(
            lambda is_canceled: settings.list_models(settings.engine(), is_canceled),
            self._got_models,
            self._got_no_models,
        ).start()

    def leave(self) -> None:
        """Stop all that runs, and let go of QGIS's window."""
        self._timer.stop()
        for task in (self._asked, self._planned):
            if task is not None:
                task.stop(wait=2)  # seconds; the engine ends within one
        if self._run is not None:
            self._run.leave()
            self._run = None
        self.layer.layerChanged.disconnect(self._layer_changed)
        self.area.leave()

    # Building

    def _build(self) -> None:
        self.layer = QgsMapLayerComboBox()
        self.layer.setFilters(QgsMapLayerProxyModel.Filter.RasterLayer)
        self.layer.setToolTip(tr("An image: a file, or a map service, which is rendered first"))
        narrow(self.layer)
        self.model = ModelBox()
        self.area = AreaChooser(self._iface.mapCanvas())
        self.bands = BandBox()
        form = QFormLayout()
        form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow(tr("&Layer"), self.layer)
        form.addRow(tr("&Model"), self.model)
        form.addRow(tr("&Area"), self.area)

        content = QWidget()
        column = QVBoxLayout(content)
        column.addLayout(form)
        column.addWidget(self.bands)
        column.addWidget(self._outline_group())
        column.addWidget(self._output_group())
        column.addStretch()
        scroll = QScrollArea()
        scroll.setWidget(content)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

        whole = QWidget()
        outer = QVBoxLayout(whole)
        outer.setContentsMargins(0, 0, 0, 6)
        outer.addWidget(scroll, 1)
        outer.addLayout(self._bottom())  # what will happen, and the button, are always in sight
        self.setWidget(whole)

    def _outline_group(self) -> QGroupBox:
        group = QGroupBox(tr("Outlines"))
        form = QFormLayout(group)
        form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        self.outlines = {
            "REGULARIZE": _amount(
                " m", tr("Straight walls and right angles; points move so far at most")
            ),
            "SIMPLIFY": _amount(" m", tr("Fewer points; the outline moves so far at most")),
            "MIN_AREA": _amount(" m²", tr("Smaller polygons are dropped")),
        }
        form.addRow(tr("&Straighten by"), self.outlines["REGULARIZE"])
        form.addRow(tr("Sim&plify by"), self.outlines["SIMPLIFY"])
        form.addRow(tr("Smallest a&rea"), self.outlines["MIN_AREA"])
        return group

    def _output_group(self) -> QGroupBox:
        group = QGroupBox(tr("Result"))
        column = QVBoxLayout(group)
        self.output = QgsFileWidget()
        self.output.setStorageMode(QgsFileWidget.StorageMode.SaveFile)
        self.output.setFilter(tr("GeoPackage") + " (*.gpkg)")
        self.output.setDialogTitle(tr("Polygons"))
        self.output.lineEdit().setPlaceholderText(tr("Temporary layer"))
        self.output.setToolTip(tr("A GeoPackage, or nothing for a layer that goes with QGIS"))
        self.probabilities = QCheckBox(tr("&Probabilities as a raster, too"))
        self.probabilities.setToolTip(tr("A GeoTIFF beside the polygons, one band a class"))
        column.addWidget(self.output)
        column.addWidget(self.probabilities)
        return group

    def _preflight_panel(self) -> QGroupBox:
        group = QGroupBox(tr("What will happen"))
        column = QVBoxLayout(group)
        self.preflight = QLabel()
        self.preflight.setObjectName("geosegPreflight")
        self.preflight.setWordWrap(True)
        self.preflight.setTextFormat(Qt.TextFormat.RichText)
        self.preflight.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setup = QPushButton(tr("Set up the &engine …"))
        self.setup.setVisible(False)
        column.addWidget(self.preflight)
        column.addWidget(self.setup)
        return group

    def _bottom(self) -> QVBoxLayout:
        self.bar = QProgressBar()
        self.bar.setVisible(False)
        self.status = QLabel()
        self.status.setWordWrap(True)
        self.status.setVisible(False)
        self.details = QPushButton(tr("&Details"))
        self.details.setToolTip(tr("All that the run said"))
        self.details.setVisible(False)
        self.go = QPushButton(tr("Se&gment"))
        self.go.setObjectName("geosegRun")
        self.go.setDefault(True)
        self.stop = QPushButton(tr("&Cancel"))
        self.stop.setObjectName("geosegCancel")
        self.stop.setVisible(False)
        buttons = QHBoxLayout()
        buttons.addWidget(self.details)
        buttons.addStretch()
        buttons.addWidget(self.stop)
        buttons.addWidget(self.go)
        column = QVBoxLayout()
        column.setContentsMargins(9, 0, 9, 0)
        column.addWidget(self._preflight_panel())
        column.addWidget(self.bar)
        column.addWidget(self.status)
        column.addLayout(buttons)
        return column

    def _connect(self) -> None:
        self.layer.layerChanged.connect(self._layer_changed)
        self.model.changed.connect(self._model_changed)
        self.area.changed.connect(self._later)
        self.bands.changed.connect(self._later)
        self.setup.clicked.connect(lambda checked=False: self._show_setup())
        self.go.clicked.connect(lambda checked=False: self._start())
        self.stop.clicked.connect(lambda checked=False: self._cancel())
        self.details.clicked.connect(lambda checked=False: self._show_details())
        self.visibilityChanged.connect(lambda visible: self._later() if self._is_old else None)

    # Choosing

    def _layer_changed(self, layer: QgsRasterLayer | None) -> None:
        if layer is not None and needs_rendering(layer) and self.area.kind.currentIndex() == 0:
            self.area.prefer(VIEW)  # all of a map service is the world
        self._chosen_anew()

    def _model_changed(self) -> None:
        model = self.model.model()
        if model is not None:
            if model["name"] != self._outlined:  # else the list is only read anew
                self._outlined = model["name"]
                for name, value in outline_defaults(model).items():
                    self.outlines[name].setValue(value)
            # Of objects there are none.
            self.probabilities.setEnabled(model.get("task") != OBJECTS)
        self._chosen_anew()

    def _chosen_anew(self) -> None:
        """Another layer or model: the last run's end says nothing of it."""
        if self._run is None:
            self.status.setVisible(False)
            self.details.setVisible(False)
        self.bands.show_for(self.layer.currentLayer(), self.model.model())
        self._later()

    def _got_models(self, models: list[dict[str, Any]]) -> None:
        self._asked = None
        self.setup.setVisible(False)
        self.model.fill(models)

    def _got_no_models(self, error: Exception) -> None:
        self._asked = None
        self._tell(_failure(error))

    # Preflight

    def _later(self) -> None:
        """Something changed: what is shown is old, and the engine is asked soon."""
        if self._planned is not None:
            self._planned.stop()
            self._planned = None
        self._is_old = True
        self.go.setEnabled(False)
        self._timer.start()

    def _plan(self) -> None:
        """Say what will happen; starts no engine while one runs or nobody looks."""
        if self._run is not None or not self.isVisible():
            return
        self._is_old = False
        layer, model = self.layer.currentLayer(), self.model.model()
        if layer is None:
            self._tell(_line(preflight.INFO, tr("Add an image to the map first.")))
            return
        if not layer.isValid():
            text = tr("{layer} cannot be read: its file or its server is gone.")
            self._tell(_line(preflight.WARNING, text.format(layer=layer.name())))
            return
        if model is None:
            if self._asked is None and not self._report.missing:
                self.refresh_models()
            return
        try:
            area = self.area.area(layer)
            if needs_rendering(layer):
                settings.engine()  # nobody is asked, but there must be one
                rendering = self._rendering(layer, area)
                self._tell(preflight.of_service(rendering, float(model["gsd"])), ready=True)
                return
            arguments = self._plan_arguments(layer, model, area)
        except (AreaError, QgsProcessingException) as e:
            self._tell(_line(preflight.WARNING, str(e)))
            return
        except EngineMissing as e:
            self._tell(_failure(e))
            return
        polygons = None
        if area.polygons is not None:
            polygons = Polygons(area.polygons, selected=area.selected)
        self.preflight.setText(tr("Looking at the image …"))
        self._planned = BackgroundTask(
            lambda is_canceled: preflight.of_file(arguments, polygons, is_canceled),
            self._planned_well,
            lambda error: self._tell(_failure(error)),
        ).start()

    def _planned_well(self, report: Report) -> None:
        self._planned = None
        self._tell(report, ready=not report.failed)

    def _plan_arguments(self, layer: QgsRasterLayer, model: dict[str, Any], area: Area):
        arguments = [raster_source(layer), "--model", str(model["name"])]
        if area.extent is not None:
            arguments.append(f"--bounds={bounds(area.extent)}")
        if self.bands.value():
            arguments += ["--bands", self.bands.value()]
        return arguments

    def _rendering(self, layer: QgsRasterLayer, area: Area) -> Rendering:
        extent, of = area.box()
        crs = (of or layer).crs()
        transforms = QgsProject.instance().transformContext()
        return Rendering(layer, layer.extent() if extent.isEmpty() else extent, crs, transforms)

    def _tell(self, report: Report, *, ready: bool = False) -> None:
        self._report = report
        self.preflight.setText(report.html())
        self.setup.setVisible(report.missing)
        self.go.setEnabled(ready and self._run is None)

    # Running

    def _parameters(self) -> dict[str, Any]:
        """Of geoseg:predict."""
        layer, model = self.layer.currentLayer(), self.model.model()
        values = {name: spin.value() for name, spin in self.outlines.items() if spin.value()}
        path = self.output.filePath().strip()
        if path and not Path(path).suffix:
            path += ".gpkg"
        name = f"{layer.name()} – {model['name']}"
        parameters = {
            "INPUT": layer.id(),
            "MODEL": str(model["name"]),
            **self.area.area(layer).parameters(layer),
            **values,
            "OUTPUT": _loaded(path, name),
        }
        if self.bands.value():
            parameters["BANDS"] = self.bands.value()
        _spare_layers(path)
        if self.probabilities.isChecked() and self.probabilities.isEnabled():
            beside = str(Path(path).with_suffix("")) + "_probabilities.tif" if path else ""
            _spare_layers(beside)
            parameters["PROBABILITIES"] = _loaded(
                beside, tr("{name}, probabilities").format(name=name)
            )
        return parameters

    def _start(self) -> None:
        try:
            parameters = self._parameters()
        except AreaError as e:
            self._tell(_line(preflight.WARNING, str(e)))
            return
        except OutputError as e:
            self.status.setText(f"✗ {e}")
            self.status.setVisible(True)
            return
        self.model.remember()
        self._run = Run(parameters, self)
        self._run.progress.connect(self._progress)
        self._run.said.connect(self.status.setText)
        self._run.ended.connect(self._ended)
        self._log = ""
        self.status.setText(tr("The engine starts …"))
        self.bar.setRange(0, 0)
        self._running(True)
        self._run.start()

    def _running(self, on: bool) -> None:
        for widget in (self.bar, self.status, self.stop):
            widget.setVisible(on)
        self.go.setVisible(not on)
        self.details.setVisible(False)
        self.stop.setEnabled(on)

    def _progress(self, percent: float) -> None:
        if percent > 0:
            self.bar.setRange(0, 100)
            self.bar.setValue(round(percent))

    def _cancel(self) -> None:
        self.stop.setEnabled(False)
        self.status.setText(tr("Canceling …"))
        self._run.cancel()

    def _ended(self, ok: bool, results: dict[str, Any]) -> None:
        run, self._run = self._run, None
        self._log = run.log()
        self._running(False)
        self.status.setVisible(True)
        self.details.setVisible(bool(self._log))
        if ok:
            text = tr("{n} polygons").format(n=results.get("POLYGONS", "?"))
            self.status.setText(f"✓ {text}")
        elif run.canceled:
            self.status.setText(tr("Canceled; no output was touched."))
        else:
            text = run.error() or tr("The run failed.")
            self.status.setText(f"✗ {text}")
            self._complain(text.splitlines()[0])
        run.deleteLater()
        self.go.setEnabled(True)
        if self._is_old:
            self._later()

    def _complain(self, text: str) -> None:
        """In QGIS's message bar, too: the dock may be hidden by now."""
        bar = self._iface.messageBar()
        item = bar.createMessage("geoseg", text)
        button = QPushButton(tr("Details"), item)
        log = self._log
        button.clicked.connect(lambda checked=False: show_log(self._iface.mainWindow(), text, log))
        item.layout().addWidget(button)
        bar.pushWidget(item, Qgis.MessageLevel.Critical, 0)

    def _show_details(self) -> None:
        show_log(self, self.status.text(), self._log)


def show_log(parent: QWidget, text: str, log: str) -> None:
    """A window with all that a run said, to be copied."""
    box = QMessageBox(parent)
    box.setWindowTitle("geoseg")
    box.setText(text)
    box.setDetailedText(log)
    box.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    box.exec()
    box.deleteLater()


def _amount(suffix: str, tip: str) -> QDoubleSpinBox:
    """Metres or square metres; 0 is off."""
    spin = QDoubleSpinBox()
    spin.setRange(0, 1e6)
    spin.setDecimals(2)
    spin.setSingleStep(0.5)
    spin.setSuffix(suffix)
    spin.setSpecialValueText(tr("off"))
    spin.setToolTip(tip)
    return spin


def _spare_layers(path: str) -> None:
    """Refuse to replace what the project shows: edits would be lost, and Windows locks it."""
    for layer in QgsProject.instance().mapLayers().values():
        if same_file(path, layer_file(layer)):
            text = tr(
                "{file} is a layer of the project ({layer}). Choose another name for the result, "
                "or remove that layer first."
            )
            file = Path(layer_file(layer)).name
            raise OutputError(text.format(file=file, layer=layer.name()))


def _loaded(path: str, name: str) -> QgsProcessingOutputLayerDefinition:
    """An output that becomes a layer of the project."""
    sink = path or QgsProcessing.TEMPORARY_OUTPUT
    definition = QgsProcessingOutputLayerDefinition(sink, QgsProject.instance())
    definition.destinationName = name
    return definition


def _line(level: str, text: str) -> Report:
    report = Report()
    report.add(level, text)
    return report


def _failure(error: Exception) -> Report:
    report = _line(preflight.ERROR, str(error))
    report.missing = isinstance(error, (EngineMissing, EngineBroken))
    return report
