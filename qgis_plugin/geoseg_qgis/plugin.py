"""The plugin: what it adds to QGIS, and takes away again."""

from __future__ import annotations

from pathlib import Path

from qgis.core import QgsApplication
from qgis.PyQt.QtGui import QIcon

from . import jobs
from .i18n import install_translator, remove_translator, tr
from .provider import GeosegProvider

try:  # Qt 6
    from qgis.PyQt.QtGui import QAction
except ImportError:  # Qt 5
    from qgis.PyQt.QtWidgets import QAction

ICON = Path(__file__).parent / "icons" / "geoseg.svg"


class GeosegPlugin:
    """Toolbar and menu actions, the dock, and the Processing provider."""

    def __init__(self, iface):
        """iface: QGIS's window, or None in qgis_process."""
        self._iface = iface
        self._translator = install_translator()
        self._provider = None
        self._actions: list[QAction] = []
        self._dock = None

    # QGIS calls these by their names.

    def initProcessing(self):
        """Add the algorithms; all that qgis_process asks for."""
        if self._provider is None:
            self._provider = GeosegProvider()
            QgsApplication.processingRegistry().addProvider(self._provider)

    def initGui(self):
        """Add the algorithms, the actions, and nothing that costs time."""
        self.initProcessing()
        self._add_action("geosegSegment", tr("Segment this layer"), self.show_dock, toolbar=True)
        self._add_action("geosegEngine", tr("Engine and models …"), self.show_setup)

    def unload(self):
        """Leave QGIS as it was."""
        jobs.cancel_all()
        for action in self._actions:
            self._iface.removePluginRasterMenu("geoseg", action)
            self._iface.removeToolBarIcon(action)
            action.deleteLater()
        self._actions.clear()
        if self._dock is not None:
            self._dock.leave()
            self._iface.removeDockWidget(self._dock)
            self._dock.deleteLater()
            self._dock = None
        if self._provider is not None:
            QgsApplication.processingRegistry().removeProvider(self._provider)
            self._provider = None
        remove_translator(self._translator)
        self._translator = None

    def _add_action(self, name, text, slot, *, toolbar=False):
        action = QAction(QIcon(str(ICON)), text, self._iface.mainWindow())
        action.setObjectName(name)
        action.triggered.connect(lambda checked=False: slot())
        self._iface.addPluginToRasterMenu("geoseg", action)
        if toolbar:
            self._iface.addToolBarIcon(action)  # the raster toolbar is hidden at first
        self._actions.append(action)

    def show_dock(self):
        """Open the dock on the active layer."""
        from .dock import SegmentDock

        if self._dock is None:
            self._dock = SegmentDock(self._iface, self.show_setup)
            self._iface.addDockWidget(SegmentDock.AREA, self._dock)
        self._dock.show()
        self._dock.raise_()
        self._dock.take_layer(self._iface.activeLayer())

    def show_setup(self):
        """Open the window that finds, makes, checks and removes the engine."""
        from .setup_dialog import SetupDialog

        dialog = SetupDialog(self._iface.mainWindow())
        dialog.exec()
        dialog.deleteLater()
        if self._dock is not None:
            self._dock.refresh_models()
