"""The part of the dock that says which band is which, where that is not obvious."""

from __future__ import annotations

from typing import Any

from qgis.core import QgsRasterLayer
from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtWidgets import QComboBox, QFormLayout, QGroupBox

from .area import narrow
from .i18n import tr


class BandBox(QGroupBox):
    """Emits `changed`. Unchecked: the engine finds the bands, and says how."""

    changed = pyqtSignal()

    def __init__(self) -> None:
        super().__init__(tr("Choose &bands myself"))
        self.setCheckable(True)
        self.setChecked(False)
        self.setToolTip(tr("Off: the engine finds the bands by their names and colours"))
        self._form = QFormLayout(self)
        self._form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        self._combos: list[QComboBox] = []
        self.toggled.connect(self._toggled)

    def show_for(self, layer: QgsRasterLayer | None, model: dict[str, Any] | None) -> None:
        """Ask for the model's bands among the layer's."""
        while self._form.rowCount():
            self._form.removeRow(0)
        self._combos = []
        wanted = list((model or {}).get("bands") or ())
        asked = layer is not None and bool(wanted) and not obvious(layer, wanted)
        self.setVisible(asked)
        if not asked:
            self.setChecked(False)
            return
        for position, name in enumerate(wanted):
            combo = QComboBox()
            for number in range(1, layer.bandCount() + 1):
                combo.addItem(layer.bandName(number), number)
            combo.setCurrentIndex(guess(layer, name, position) - 1)
            combo.currentIndexChanged.connect(lambda index: self.changed.emit())
            narrow(combo)
            combo.setVisible(self.isChecked())
            self._form.addRow(str(name), combo)
            self._form.labelForField(combo).setVisible(self.isChecked())
            self._combos.append(combo)

    def value(self) -> str:
        """BANDS of geoseg:predict; "" = let the engine find them."""
        if self.isHidden() or not self.isChecked():
            return ""
        return ",".join(str(combo.currentData()) for combo in self._combos)

    def _toggled(self, on: bool) -> None:
        for combo in self._combos:
            combo.setVisible(on)
            self._form.labelForField(combo).setVisible(on)
        self.changed.emit()


def colors(layer: QgsRasterLayer) -> list[str]:
    """What each band's colour is said to be: red, green, blue, alpha, gray …"""
    provider = layer.dataProvider()
    count = range(1, layer.bandCount() + 1)
    return [provider.colorInterpretationName(number).lower() for number in count]


def obvious(layer: QgsRasterLayer, wanted: list[str]) -> bool:
    """No need to ask: a picture, or a layer that is rendered to one."""
    if layer.providerType() != "gdal":
        return True
    found = [color for color in colors(layer) if color != "alpha"]
    return len(found) <= max(3, len(wanted)) and all(name in found for name in wanted)


def guess(layer: QgsRasterLayer, name: str, position: int) -> int:
    """The band that is meant, by its name, its colour, or its place."""
    known = colors(layer)
    for number in range(1, layer.bandCount() + 1):
        if name.lower() in layer.bandName(number).lower().replace(":", " ").split():
            return number
    if name.lower() in known:
        return known.index(name.lower()) + 1
    return min(position + 1, layer.bandCount())
