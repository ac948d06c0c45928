"""What the algorithms share: parameters that mean the same, and a run of the engine."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from qgis.core import (
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeatureSource,
    QgsProcessingFeedback,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterCrs,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterNumber,
    QgsProcessingParameterString,
    QgsRasterLayer,
)
from qgis.PyQt.QtGui import QIcon

from .. import settings
from ..i18n import tr
from ..runner import EngineCanceled, EngineError, Event

ICON = Path(__file__).parents[1] / "icons" / "geoseg.svg"
POLYGON = QgsProcessing.SourceType.TypeVectorPolygon
DOUBLE = QgsProcessingParameterNumber.Type.Double
INTEGER = QgsProcessingParameterNumber.Type.Integer

Options = dict[str, QgsProcessingParameterDefinition]  # of the command line -> what asks for it


class EngineAlgorithm(QgsProcessingAlgorithm):
    """A verb of the engine; runs in Processing's background thread.

    A subclass sets `verb`, `title` and `help` (both through tr at call), declares its parameters,
    gathers in `prepareAlgorithm` what needs the main thread, and runs in `processAlgorithm`.
    """

    verb = ""

    def __init__(self) -> None:
        super().__init__()
        self._options: dict[str, str] = {}  # name of a parameter -> option

    def title(self) -> str:
        raise NotImplementedError

    def help(self) -> str:
        raise NotImplementedError

    # What Processing asks for.

    def name(self) -> str:
        return self.verb

    def displayName(self) -> str:
        return self.title()

    def shortHelpString(self) -> str:
        return self.help()

    def shortDescription(self) -> str:
        return self.help().split("\n")[0]

    def icon(self) -> QIcon:
        return QIcon(str(ICON))

    def createInstance(self) -> EngineAlgorithm:
        return type(self)()

    # Declaring.

    def add(self, *parameters: QgsProcessingParameterDefinition, advanced: bool = False) -> None:
        """Declare parameters."""
        for parameter in parameters:
            if advanced:
                flag = QgsProcessingParameterDefinition.Flag.FlagAdvanced
                parameter.setFlags(parameter.flags() | flag)
            self.addParameter(parameter)

    def offer(self, options: Options, *, advanced: bool = False) -> None:
        """Declare parameters that `said` turns into options of the command line."""
        self._options.update({p.name(): option for option, p in options.items()})
        self.add(*options.values(), advanced=advanced)

    # Reading.

    def check(self, parameters: dict[str, Any], context: QgsProcessingContext) -> None:
        """Raise a QgsProcessingException for what can be known to be wrong before a run."""

    def checkParameterValues(
        self, parameters: dict[str, Any], context: QgsProcessingContext
    ) -> tuple[bool, str]:
        """What Processing asks before a run; the message is shown in the dialog."""
        fine, message = super().checkParameterValues(parameters, context)
        if fine:
            try:
                self.check(parameters, context)
            except QgsProcessingException as e:
                return False, str(e)
        return fine, message

    def said(self, parameters: dict[str, Any], context: QgsProcessingContext) -> list[str]:
        """The offered options that were set; what was not is left to the engine and the model."""
        words = []
        for name, option in self._options.items():
            text = self._text(name, parameters, context)
            if text:
                words.append(option if text is True else f"{option}={text}")
        return words

    def _text(
        self, name: str, parameters: dict[str, Any], context: QgsProcessingContext
    ) -> str | bool:
        """A value for the command line; "" or False where it is not set."""
        parameter = self.parameterDefinition(name)
        kind = parameter.type()
        if kind == "boolean":
            return self.parameterAsBoolean(parameters, name, context)
        if kind == "enum":
            return self.parameterAsEnumString(parameters, name, context)
        if kind == "crs":
            crs = self.parameterAsCrs(parameters, name, context)
            known = crs.authid() and not crs.authid().startswith("USER:")
            return crs.authid() if known else crs.toWkt()
        text = self.parameterAsString(parameters, name, context).strip()
        # Options that may be 0 are off then; some models refuse them even so.
        if kind == "number" and parameter.minimum() == 0 and text and float(text) == 0:
            return ""
        return text

    def raster(
        self, parameters: dict[str, Any], name: str, context: QgsProcessingContext
    ) -> QgsRasterLayer:
        """The layer of a parameter that must be set."""
        layer = self.parameterAsRasterLayer(parameters, name, context)
        if layer is None:
            raise QgsProcessingException(self.invalidRasterError(parameters, name))
        return layer

    def features(
        self, parameters: dict[str, Any], name: str, context: QgsProcessingContext
    ) -> QgsProcessingFeatureSource:
        """The features of a parameter that must be set."""
        source = self.parameterAsSource(parameters, name, context)
        if source is None:
            raise QgsProcessingException(self.invalidSourceError(parameters, name))
        return source

    # Running.

    def working_folder(self) -> tempfile.TemporaryDirectory[str]:
        """A folder for files that only this run needs."""
        return tempfile.TemporaryDirectory(prefix="geoseg-qgis-")

    def run_engine(
        self,
        arguments: Sequence[str],
        feedback: QgsProcessingFeedback,
        *,
        on_event: Callable[[Event], None] = lambda event: None,
        canceled: str = "",
    ) -> Event | None:
        """The result of `geoseg ARGUMENTS`; None when the user canceled, who reads `canceled`."""
        feedback.pushCommandInfo("geoseg " + " ".join(map(quoted, arguments)))
        tell = teller(feedback)

        def listen(event: Event) -> None:
            tell(event)
            on_event(event)

        try:
            return settings.engine().run(
                arguments, on_event=listen, is_canceled=feedback.isCanceled
            )
        except EngineCanceled:
            feedback.pushInfo(canceled or tr("Canceled; no output was touched."))
            return None
        except EngineError as e:
            raise QgsProcessingException(str(e)) from e


def quoted(word: str) -> str:
    """As it could be typed."""
    return f'"{word}"' if not word or set(word) & set(" '()&;|<>$*") else word


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
            if done >= tiles:
                feedback.setProgressText(tr("Writing the results …"))
                return
            text = tr("{done} of {tiles}, {left} left")
            left = duration(event.get("eta"))
            feedback.setProgressText(text.format(done=done, tiles=tiles, left=left))
        elif kind == "score" and isinstance(event.get("metrics"), dict):
            values = (f"{k} {v:.3f}" for k, v in event["metrics"].items() if v is not None)
            text = tr("Step {step}: {values}")
            feedback.pushInfo(text.format(step=event.get("step"), values=", ".join(values)))

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


def total(polygons: Any) -> int:
    """Number of polygons in a result that counts them by class."""
    return sum(polygons.values()) if isinstance(polygons, dict) else int(polygons or 0)


# Parameters; those without a default are not said unless they are set


def number(
    name: str,
    text: str,
    kind: QgsProcessingParameterNumber.Type = DOUBLE,
    *,
    least: float | None = None,
    most: float | None = None,
) -> QgsProcessingParameterNumber:
    """A number that may be left out."""
    parameter = QgsProcessingParameterNumber(name, text, kind, None, True)
    if least is not None:
        parameter.setMinimum(least)
    if most is not None:
        parameter.setMaximum(most)
    return parameter


def metres(name: str, text: str) -> QgsProcessingParameterNumber:
    """A length or area on the ground; 0 = off."""
    return number(name, text, least=0)


def words(name: str, text: str) -> QgsProcessingParameterString:
    """A text that may be left out."""
    return QgsProcessingParameterString(name, text, optional=True)


def choice(name: str, text: str, options: Sequence[str]) -> QgsProcessingParameterEnum:
    """One of the command line's own words, or none of them."""
    return QgsProcessingParameterEnum(
        name, text, list(options), optional=True, usesStaticStrings=True
    )


def switch(name: str, text: str) -> QgsProcessingParameterBoolean:
    """Off, if it is not switched on."""
    return QgsProcessingParameterBoolean(name, text, False)


def model_parameter(
    name: str = "MODEL", text: str = "", default: str | None = settings.DEFAULT_MODEL
) -> QgsProcessingParameterString:
    """A name of a model, or a path of one; the known names are offered."""
    parameter = QgsProcessingParameterString(
        name, text or tr("Model"), default, optional=default is None
    )
    names = [str(m["name"]) for m in settings.known_models() if settings.runs_here(m)]
    if names:
        parameter.setMetadata({"widget_wrapper": {"value_hints": names}})
    return parameter


def area_parameter() -> QgsProcessingParameterFeatureSource:
    """The area of interest."""
    return QgsProcessingParameterFeatureSource(
        "AOI", tr("Only inside these polygons"), [POLYGON], optional=True
    )


def outline_parameters() -> Options:
    """Of polygons, wherever they come from; the same in predict, batch and vectorize."""
    return {
        "--simplify": metres("SIMPLIFY", tr("Simplify outlines by up to (m)")),
        "--regularize": words(
            "REGULARIZE",
            tr("Straight outlines with right angles, moved by up to (m; or class=m,class=m)"),
        ),
        "--min-area": metres("MIN_AREA", tr("Drop polygons smaller than (m²)")),
    }


def more_outline_parameters() -> Options:
    """The advanced ones of polygons."""
    return {
        "--outline": choice(
            "OUTLINE", tr("Outlines along pixels, or smooth contours"), ["pixel", "contour"]
        ),
        "--smooth": metres("SMOOTH", tr("Round off corners by up to (m)")),
        "--sieve": metres("SIEVE", tr("Regions smaller than this take the class around them (m²)")),
        "--fill-holes": metres("FILL_HOLES", tr("Fill holes smaller than (m²)")),
        "--min-width": metres("MIN_WIDTH", tr("Drop polygons narrower than (m)")),
        "--dissolve": switch("DISSOLVE", tr("One feature for each class")),
        "--attributes": switch(
            "ATTRIBUTES", tr("More attributes: compactness, orientation, length, width …")
        ),
        "--crs": QgsProcessingParameterCrs(
            "CRS", tr("CRS of the polygons, if not the image's"), optional=True
        ),
    }


def predict_parameters() -> Options:
    """How a model looks at images; the advanced ones of predict and batch."""
    return {
        "--threshold": number(
            "THRESHOLD",
            tr("Decision level, or least score of an object, instead of the model's"),
            least=0,
            most=1,
        ),
        "--cut": words("CUT", tr("Cut objects apart where narrower than (m; or class=m,class=m)")),
        "--boundary": words("BOUNDARY", tr("Class that is the line between objects")),
        "--bands": words("BANDS", tr("Bands of the image for the model's: 4,3,2, or names")),
        "--stretch": words(
            "STRETCH", tr("Values that become the model's range: auto, none, or LOW,HIGH")
        ),
        "--gsd": metres("GSD", tr("Size of the image's pixels (m), if wrong or missing")),
        "--nodata": number("NODATA", tr("Value that means no data")),
        "--tile": number("TILE", tr("Edge of the tiles (px)"), INTEGER, least=0),
        "--overlap": number("OVERLAP", tr("What neighbouring tiles share (px)"), INTEGER, least=1),
        "--stitch": choice("STITCH", tr("How overlapping tiles are joined"), ["blend", "crop"]),
        "--merge": choice(
            "MERGE", tr("How objects that several tiles see become one"), ["objects", "nms"]
        ),
        "--tta": words("TTA", tr("Average over changed copies: hflip,vflip,rot90,scale:0.75")),
        "--device": words("DEVICE", tr("Device: auto, cpu, cuda, mps")),
        "--precision": choice(
            "PRECISION", tr("Precision"), ["auto", "float32", "bfloat16", "float16"]
        ),
        "--batch": number("BATCH", tr("Tiles that go through at once"), INTEGER, least=0),
        "--threads": number("THREADS", tr("Threads of the processor"), INTEGER, least=0),
    }


def models(text: str) -> list[str]:
    """--model for each name in a text that may have several."""
    return [f"--model={name.strip()}" for name in text.split(";") if name.strip()]
