"""What the algorithms share: parameters that mean the same, and a run of the engine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Callable

from qgis.core import (
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterNumber,
    QgsProcessingParameterString,
)
from qgis.PyQt.QtGui import QIcon

from .. import settings
from ..i18n import tr
from ..runner import EngineCanceled, EngineError, Event

ICON = Path(__file__).parents[1] / "icons" / "geoseg.svg"
POLYGON = QgsProcessing.SourceType.TypeVectorPolygon
DOUBLE = QgsProcessingParameterNumber.Type.Double
INTEGER = QgsProcessingParameterNumber.Type.Integer


class EngineAlgorithm(QgsProcessingAlgorithm):
    """A verb of the engine; runs in Processing's background thread.

    A subclass sets `verb`, `title` and `help` (both through tr at call), declares its parameters,
    gathers in `prepareAlgorithm` what needs the main thread, and runs in `processAlgorithm`.
    """

    verb = ""

    def title(self) -> str:
        raise NotImplementedError

    def help(self) -> str:
        raise NotImplementedError

    def name(self) -> str:
        return self.verb

    def displayName(self) -> str:
        return self.title()

    def shortHelpString(self) -> str:
        return self.help()

    def icon(self) -> QIcon:
        return QIcon(str(ICON))

    def createInstance(self) -> EngineAlgorithm:
        return type(self)()

    def add(self, *parameters: QgsProcessingParameterDefinition, advanced: bool = False) -> None:
        """Declare parameters."""
        for parameter in parameters:
            if advanced:
                flag = QgsProcessingParameterDefinition.Flag.FlagAdvanced
                parameter.setFlags(parameter.flags() | flag)
            self.addParameter(parameter)

    def working_folder(self) -> tempfile.TemporaryDirectory[str]:
        """A folder for files that only this run needs."""
        return tempfile.TemporaryDirectory(prefix="geoseg-qgis-")

    def run_engine(self, arguments: list[str], feedback: QgsProcessingFeedback) -> Event | None:
        """The result of `geoseg ARGUMENTS`; None when the user canceled."""
        feedback.pushCommandInfo("geoseg " + " ".join(arguments))
        try:
            return settings.engine().run(
                arguments, on_event=teller(feedback), is_canceled=feedback.isCanceled
            )
        except EngineCanceled:
            feedback.pushInfo(tr("Canceled; no output was touched."))
            return None
        except EngineError as e:
            raise QgsProcessingException(str(e)) from e


def teller(feedback: QgsProcessingFeedback) -> Callable[[Event], None]:
    """What tells a feedback of the engine's events; an odd event is passed over."""

    def tell(event: Event) -> None:
        kind = event.get("event")
        if kind == "start" and "device" in event:
            text = tr("{model} on {device}")
            feedback.pushInfo(text.format(model=event.get("model"), device=event["device"]))
        elif kind == "info":
            feedback.pushInfo(str(event.get("message")))
        elif kind == "warning":
            feedback.pushWarning(str(event.get("message")))
        elif kind == "progress" and isinstance(event.get("tiles"), (int, float)):
            done, tiles = event.get("done") or 0, event["tiles"] or 1
            feedback.setProgress(100 * done / tiles)
            text = tr("{done} of {tiles}, {left} left")
            left = duration(event.get("eta"))
            feedback.setProgressText(text.format(done=done, tiles=tiles, left=left))

    return tell


def duration(seconds: Any) -> str:
    """Seconds for users: 45 s, 3 min, 2 h 5 min."""
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e7:
        return "?"
    if seconds < 60:
        return tr("{n} s").format(n=round(seconds))
    minutes = round(seconds / 60)
    if minutes < 60:
        return tr("{n} min").format(n=minutes)
    return tr("{h} h {n} min").format(h=minutes // 60, n=minutes % 60)


# Parameters and the options that they become


def model_parameter() -> QgsProcessingParameterString:
    """A name of a model, or a path of one; the known names are offered."""
    parameter = QgsProcessingParameterString("MODEL", tr("Model"), settings.DEFAULT_MODEL)
    names = [str(m["name"]) for m in settings.known_models()]
    if names:
        parameter.setMetadata({"widget_wrapper": {"value_hints": names}})
    return parameter


def metres(name: str, text: str, maximum: float = 1e6) -> QgsProcessingParameterNumber:
    """A length or area; 0 = off."""
    return QgsProcessingParameterNumber(name, text, DOUBLE, 0, False, 0, maximum)


# name of the parameter -> option; a value of 0, "" or None is not said
OUTLINES = {
    "SIMPLIFY": "--simplify",
    "REGULARIZE": "--regularize",
    "MIN_AREA": "--min-area",
}


def outline_parameters() -> list[QgsProcessingParameterDefinition]:
    """Those of OUTLINES; the same in predict, batch and vectorize."""
    return [
        metres("SIMPLIFY", tr("Simplify outlines by up to (m)")),
        metres("REGULARIZE", tr("Straight outlines with right angles, moved by up to (m)")),
        metres("MIN_AREA", tr("Drop polygons smaller than (m²)"), 1e12),
    ]


def said(options: dict[str, Any]) -> list[str]:
    """Options for the command line, without those that are not set."""
    return [
        part
        for option, value in options.items()
        if value not in (None, "", 0, False)
        for part in ([option] if value is True else [option, str(value)])
    ]
