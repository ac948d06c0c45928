"""The part of the dock that says with which model, and what that model is."""

from __future__ import annotations

from html import escape
from typing import Any

from qgis.core import QgsSettings
from qgis.PyQt.QtCore import Qt, pyqtSignal
from qgis.PyQt.QtGui import QPixmap
from qgis.PyQt.QtWidgets import QComboBox, QLabel, QVBoxLayout, QWidget

from . import settings
from .area import narrow
from .i18n import tr
from .style import model_classes

LAST = "geoseg/lastModel"
THUMBNAIL = 96  # pixels high
OBJECTS = "instance-segmentation"


class ModelBox(QWidget):
    """Emits `changed` when another model is chosen."""

    changed = pyqtSignal()

    def __init__(self) -> None:
        super().__init__()
        self._models: list[dict[str, Any]] = []
        self.combo = QComboBox()
        self.combo.setToolTip(tr("What is looked for; models are added under Engine and models"))
        narrow(self.combo)
        self._picture = QLabel()
        self._about = QLabel()
        self._about.setWordWrap(True)
        self._about.setTextFormat(Qt.TextFormat.RichText)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for widget in (self.combo, self._about, self._picture):
            column.addWidget(widget)
        self.setFocusProxy(self.combo)
        self.combo.currentIndexChanged.connect(self._show)
        self.fill(settings.known_models())

    def fill(self, models: list[dict[str, Any]]) -> None:
        """Offer these; the choice stays where it can."""
        wanted = self.combo.currentData() or QgsSettings().value(LAST, settings.DEFAULT_MODEL)
        self._models = models
        self.combo.blockSignals(True)
        self.combo.clear()
        for model in models:
            self.combo.addItem(labelled(model), str(model["name"]))
        found = self.combo.findData(wanted)
        self.combo.setCurrentIndex(found if found >= 0 else (0 if models else -1))
        self.combo.blockSignals(False)
        self._show()

    def model(self) -> dict[str, Any] | None:
        """The record of the model that is chosen."""
        row = self.combo.currentIndex()
        return self._models[row] if 0 <= row < len(self._models) else None

    def remember(self) -> None:
        """Offer this model first, next time."""
        QgsSettings().setValue(LAST, self.combo.currentData())

    def _show(self) -> None:
        model = self.model()
        self._about.setText(about(model) if model else "")
        self._about.setVisible(model is not None)
        picture = QPixmap(str((model or {}).get("thumbnail") or ""))
        self._picture.setVisible(not picture.isNull())
        if not picture.isNull():
            mode = Qt.TransformationMode.SmoothTransformation
            self._picture.setPixmap(picture.scaledToHeight(THUMBNAIL, mode))
        self.changed.emit()


def labelled(model: dict[str, Any]) -> str:
    """A model's name in a list, and whether this engine is too light for it."""
    name = str(model.get("name"))
    if settings.runs_here(model):
        return name
    return tr("{name} (needs the full engine)").format(name=name)


def about(model: dict[str, Any]) -> str:
    """HTML: what it finds, in its colours, and what it expects."""
    classes = " ".join(
        f'<span style="color:{escape(color)}">■</span>&nbsp;{escape(name)}'
        for name, color in model_classes(model)
    )
    kind = tr("Finds single objects") if model.get("task") == OBJECTS else tr("Finds areas")
    needs = ", ".join(map(str, model.get("bands") or ()))
    gsd = model.get("gsd")
    expects = tr("{kind}. Expects {bands} at {gsd} m per pixel.").format(
        kind=kind, bands=escape(needs), gsd=f"{gsd:g}" if isinstance(gsd, (int, float)) else "?"
    )
    return "<br>".join(
        line for line in (escape(str(model.get("description") or "")), classes, expects) if line
    )


def outline_defaults(model: dict[str, Any]) -> dict[str, float]:
    """Where to start with a model's outlines: parameters of geoseg:predict, metres.

    Houses have straight walls and are no smaller than a shed; all else loses the pixels' steps.
    """
    gsd = float(model.get("gsd") or 0)
    if [name for name, _ in model_classes(model)] == ["building"]:
        return {"REGULARIZE": round(3.4 * gsd, 1), "SIMPLIFY": 0, "MIN_AREA": 10}
    return {"REGULARIZE": 0, "SIMPLIFY": round(1.5 * gsd, 2), "MIN_AREA": round(25 * gsd**2, 1)}
