"""The part of the dock that says where: whole layer, map view, drawn rectangle, polygons."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from qgis.core import (
    QgsCoordinateTransform,
    QgsCsException,
    QgsGeometry,
    QgsMapLayerProxyModel,
    QgsProcessingFeatureSourceDefinition,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsReferencedRectangle,
    QgsVectorLayer,
    QgsWkbTypes,
)
from qgis.gui import QgsMapLayerComboBox, QgsMapToolExtent, QgsRubberBand
from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtGui import QColor
from qgis.PyQt.QtWidgets import QCheckBox, QComboBox, QPushButton, QVBoxLayout, QWidget

from .i18n import tr

LAYER, VIEW, DRAWN, POLYGONS = range(4)


class AreaError(Exception):
    """One message for users: what must be chosen yet."""


@dataclass(frozen=True)
class Area:
    """extent: in the raster's CRS, None for all of it; or polygons, maybe the selected ones."""

    extent: QgsRectangle | None = None
    polygons: QgsVectorLayer | None = None
    selected: bool = False

    def parameters(self, raster: QgsRasterLayer) -> dict[str, Any]:
        """Of geoseg:predict."""
        if self.polygons is not None:
            source = QgsProcessingFeatureSourceDefinition(self.polygons.id(), self.selected)
            return {"AOI": source}
        if self.extent is not None:
            return {"EXTENT": QgsReferencedRectangle(self.extent, raster.crs())}
        return {}

    def box(self) -> tuple[QgsRectangle, QgsVectorLayer | None]:
        """The rectangle around, and the layer whose CRS it is in (None: the raster)."""
        if self.polygons is None:
            return self.extent or QgsRectangle(), None
        layer = self.polygons
        return (layer.boundingBoxOfSelected() if self.selected else layer.extent()), layer


class AreaChooser(QWidget):
    """Emits `changed` when another area is meant."""

    changed = pyqtSignal()

    def __init__(self, canvas) -> None:
        super().__init__()
        self._canvas = canvas
        self._drawn: QgsReferencedRectangle | None = None
        self._band: QgsRubberBand | None = None
        self._tool: QgsMapToolExtent | None = None
        self._previous = None
        self.kind = QComboBox()
        self.kind.setToolTip(tr("Which part of the layer is segmented"))
        for text in (
            tr("Whole layer"),
            tr("Map view"),
            tr("Rectangle"),
            tr("Polygons of a layer"),
        ):
            self.kind.addItem(text)
        self.draw = QPushButton(tr("&Draw on the map"))
        self.draw.setCheckable(True)
        self.draw.setToolTip(tr("Drag a rectangle on the map; Esc or another tool ends it"))
        self.polygons = QgsMapLayerComboBox()
        self.polygons.setFilters(QgsMapLayerProxyModel.Filter.PolygonLayer)
        self.polygons.setToolTip(tr("Only what lies inside these polygons, in any CRS"))
        self.selected = QCheckBox(tr("Selected features &only"))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for widget in (self.kind, self.draw, self.polygons, self.selected):
            column.addWidget(widget)
        for combo in (self.kind, self.polygons):
            narrow(combo)
        self.setFocusProxy(self.kind)
        self.kind.currentIndexChanged.connect(self._show)
        self.draw.toggled.connect(self._draw)
        self.polygons.layerChanged.connect(self._follow)
        self.selected.toggled.connect(lambda checked: self.changed.emit())
        self._canvas.extentsChanged.connect(self._moved)
        self._followed: QgsVectorLayer | None = None
        self._follow(self.polygons.currentLayer())
        self._show()

    def area(self, raster: QgsRasterLayer) -> Area:
        """What is chosen; an AreaError says what is missing."""
        kind = self.kind.currentIndex()
        if kind == POLYGONS:
            return self._area_of_polygons()
        if kind == LAYER:
            return Area()
        if kind == DRAWN and self._drawn is None:
            raise AreaError(tr("Draw a rectangle on the map."))
        box, crs = self._drawn, None
        if kind == VIEW:
            box, crs = self._canvas.extent(), self._canvas.mapSettings().destinationCrs()
        transform = QgsCoordinateTransform(crs or box.crs(), raster.crs(), QgsProject.instance())
        try:
            inside = transform.transformBoundingBox(QgsRectangle(box)).intersect(raster.extent())
        except QgsCsException:
            inside = QgsRectangle()
        if inside.isEmpty():
            raise AreaError(tr("The layer lies outside of this area. Zoom to it, or draw again."))
        return Area(extent=inside)

    def _area_of_polygons(self) -> Area:
        layer, selected = self.polygons.currentLayer(), self.selected.isChecked()
        if layer is None:
            raise AreaError(tr("Add a layer with polygons first."))
        if selected and not layer.selectedFeatureCount():
            raise AreaError(tr("Select polygons of {layer}.").format(layer=layer.name()))
        return Area(polygons=layer, selected=selected)

    def prefer(self, kind: int) -> None:
        """Choose a kind of area."""
        self.kind.setCurrentIndex(kind)

    def leave(self) -> None:
        """Take back all that reaches into QGIS's window."""
        self._canvas.extentsChanged.disconnect(self._moved)
        self._follow(None)
        self._end_drawing()
        self._forget_band()

    # Slots

    def _show(self) -> None:
        kind = self.kind.currentIndex()
        self.draw.setVisible(kind == DRAWN)
        self.polygons.setVisible(kind == POLYGONS)
        self.selected.setVisible(kind == POLYGONS)
        if self._band is not None:
            self._band.setVisible(kind == DRAWN)
        if kind == DRAWN and self._drawn is None:
            self.draw.setChecked(True)
        elif kind != DRAWN:
            self.draw.setChecked(False)
        self.changed.emit()

    def _moved(self) -> None:
        if self.kind.currentIndex() == VIEW:
            self.changed.emit()

    def _follow(self, layer: QgsVectorLayer | None) -> None:
        """Listen to the selection of the layer that is chosen."""
        if self._followed is not None:
            with suppress(RuntimeError, TypeError):  # the layer may be gone
                self._followed.selectionChanged.disconnect(self._selected)
        self._followed = layer
        if layer is not None:
            layer.selectionChanged.connect(self._selected)
        if self.kind.currentIndex() == POLYGONS:
            self.changed.emit()

    def _selected(self, *change) -> None:
        if self.selected.isChecked() and self.kind.currentIndex() == POLYGONS:
            self.changed.emit()

    def _draw(self, on: bool) -> None:
        if not on:
            self._end_drawing()
            return
        self._previous = self._canvas.mapTool()
        self._tool = QgsMapToolExtent(self._canvas)
        self._tool.extentChanged.connect(self._drew)
        self._tool.deactivated.connect(self._left_tool)
        self._canvas.setMapTool(self._tool)
        self._canvas.setFocus()

    def _left_tool(self) -> None:
        self._previous = None
        self.draw.setChecked(False)

    def _end_drawing(self) -> None:
        tool, self._tool = self._tool, None
        if tool is None:
            return
        tool.deactivated.disconnect(self._left_tool)
        if self._canvas.mapTool() is tool:
            self._canvas.unsetMapTool(tool)
            if self._previous is not None:
                self._canvas.setMapTool(self._previous)
        tool.deleteLater()

    def _drew(self, extent: QgsRectangle) -> None:
        if extent.isEmpty():
            return
        crs = self._canvas.mapSettings().destinationCrs()
        self._drawn = QgsReferencedRectangle(extent, crs)
        self._forget_band()
        self._band = QgsRubberBand(self._canvas, QgsWkbTypes.GeometryType.PolygonGeometry)
        self._band.setStrokeColor(QColor("#e6550d"))
        self._band.setFillColor(QColor(0, 0, 0, 0))
        self._band.setWidth(2)
        self._band.setToGeometry(QgsGeometry.fromRect(extent), crs)
        self.draw.setChecked(False)
        self.changed.emit()

    def _forget_band(self) -> None:
        if self._band is not None:
            self._canvas.scene().removeItem(self._band)
            self._band = None


def narrow(combo: QComboBox) -> None:
    """Let long names not widen the dock."""
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(10)
