"""What a run would do, told before it starts: `geoseg plan` in the user's words."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Callable

from qgis.core import QgsFeatureRequest, QgsVectorLayer, QgsVectorLayerFeatureSource

from . import settings
from .algorithms.base import duration
from .i18n import tr
from .inputs import save_features
from .render import Rendering
from .runner import EngineBroken, EngineError, EngineMissing, Event

OK, INFO, WARNING, ERROR = "ok", "info", "warning", "error"
MARKS = {
    OK: ("✓", "#1a7f37"),
    INFO: ("✓", "#1a7f37"),
    WARNING: ("⚠", "#b35900"),
    ERROR: ("✗", "#c62828"),
}


class Polygons:
    """Polygons of a layer for the background; made in the main thread."""

    def __init__(self, layer: QgsVectorLayer, *, selected: bool) -> None:
        self._source = QgsVectorLayerFeatureSource(layer)
        self._crs, self._type = layer.crs(), layer.wkbType()
        self._request = QgsFeatureRequest()
        if selected:
            self._request.setFilterFids(layer.selectedFeatureIds())

    def fields(self):
        return self._source.fields()

    def wkbType(self):
        return self._type

    def sourceCrs(self):
        return self._crs

    def getFeatures(self):
        return self._source.getFeatures(self._request)


@dataclass
class Report:
    """Lines for users, each with its level; `missing` when there is no engine that works."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    missing: bool = False

    def add(self, level: str, text: str) -> None:
        self.lines.append((level, text))

    @property
    def failed(self) -> bool:
        """The run would fail, too."""
        return any(level == ERROR for level, _ in self.lines)

    def html(self) -> str:
        """A table with a mark before each line."""
        rows = []
        for level, text in self.lines:
            mark, color = MARKS[level]
            said = escape(text).replace("\n", "<br>")
            rows.append(f'<tr><td style="color:{color}">{mark}&nbsp;</td><td>{said}</td></tr>')
        return f"<table cellspacing=2>{''.join(rows)}</table>"


def of_file(
    arguments: Sequence[str], polygons: Polygons | None, is_canceled: Callable[[], bool]
) -> Report:
    """Ask the engine, in a background thread. arguments: those of `plan`."""
    report = Report()
    events: list[Event] = []
    command = ["plan", *arguments]
    try:
        with tempfile.TemporaryDirectory(prefix="geoseg-qgis-") as folder:
            if polygons is not None:
                command += ["--aoi", save_features(polygons, f"{folder}/aoi.gpkg")]
            plan = settings.engine().run(command, on_event=events.append, is_canceled=is_canceled)
    except (EngineMissing, EngineBroken) as e:
        report.missing = True
        report.add(ERROR, str(e))
        return report
    except EngineError as e:
        _tell(report, events)
        report.add(ERROR, str(e))
        return report
    _costs(report, plan)
    _tell(report, events)
    if not any(event.get("topic") == "gsd" for event in events):
        report.add(OK, tr("the resolution fits the model: {gsd} m").format(gsd=_g(plan.get("gsd"))))
    return report


def of_service(rendering: Rendering, gsd: float) -> Report:
    """Of a map service, which must be rendered first; in the main thread, asks nobody."""
    report = Report()
    size = rendering.size(gsd)
    text = tr("{columns} × {rows} pixels of {gsd} m are fetched from the map service first")
    report.add(OK, text.format(columns=size.columns, rows=size.rows, gsd=_g(gsd)))
    warning = rendering.coarse(gsd)
    if warning:
        report.add(WARNING, warning)
    return report


def _costs(report: Report, plan: dict[str, Any]) -> None:
    tiles, seconds = plan.get("tiles"), max(1, plan.get("seconds") or 0)
    if tiles == 0:
        report.add(WARNING, tr("nothing to do: no valid pixels in this area"))
        return
    text = tr("tiles: {tiles}; about {time} on {device} once the model is loaded")
    report.add(OK, text.format(tiles=tiles, time=duration(seconds), device=_device(plan)))
    memory = plan.get("row_buffer_bytes")
    if isinstance(memory, (int, float)):
        text = tr("{size} of memory for image and scores, beside the model")
        report.add(OK, text.format(size=_bytes(memory)))


def _tell(report: Report, events: list[Event]) -> None:
    for event in events:
        if event.get("event") in (INFO, WARNING):
            report.add(str(event["event"]), str(event.get("message")))


def _device(plan: dict[str, Any]) -> str:
    """ "torch mixed channels_last cpu (2 threads)" says too much: the processor or the GPU."""
    said = str(plan.get("device", "?"))
    for name in ("cuda", "mps", "cpu"):
        if name in said:
            return tr("the processor") if name == "cpu" else tr("the GPU")
    return said


def _bytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{max(1, round(number / 1e6))} MB"


def _g(number: Any) -> str:
    return f"{number:g}" if isinstance(number, (int, float)) else "?"
