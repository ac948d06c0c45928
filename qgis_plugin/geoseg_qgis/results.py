"""What came out of a run, as QGIS shows it: each layer gets its style once it is loaded."""

from __future__ import annotations

from typing import Any, ClassVar

from qgis.core import QgsProcessingContext, QgsProcessingLayerPostProcessorInterface

from . import settings
from .i18n import tr

# name of an output -> the function of style.py
STYLES = {
    "OUTPUT": "style_result",
    "MASK": "style_mask",
    "PROBABILITIES": "style_probabilities",
}


def model_record(name: str) -> dict[str, Any] | None:
    """What is known of a model, by its name or path; None when nothing."""
    known = settings.known_models()
    return next((m for m in known if name in (m["name"], m.get("path"))), None)


def style_later(
    context: QgsProcessingContext, outputs: dict[str, str], result: dict[str, Any], model: str = ""
) -> None:
    """Style those layers of a run that are going to be loaded, when they are."""
    for name, destination in outputs.items():
        if name in STYLES and context.willLoadLayerOnCompletion(destination):
            details = context.layerToLoadOnCompletionDetails(destination)
            details.setPostProcessor(Finish.kept(STYLES[name], result, model))


class Finish(QgsProcessingLayerPostProcessorInterface):
    """Styles a layer when QGIS has loaded it."""

    _alive: ClassVar[list[Finish]] = []  # QGIS holds only the C++ half

    def __init__(self, style: str, result: dict[str, Any], model: str) -> None:
        super().__init__()
        self.style, self.result, self.model = style, result, model

    @classmethod
    def kept(cls, *about: Any) -> Finish:
        """A new one that lives until QGIS must have used it."""
        cls._alive = [*cls._alive[-99:], cls(*about)]
        return cls._alive[-1]

    def postProcessLayer(self, layer, context, feedback) -> None:
        """Called by QGIS in the main thread."""
        try:
            from . import style

            getattr(style, self.style)(layer, self.result, model_record(self.model))
        except Exception as e:  # noqa: BLE001  an error would end QGIS
            feedback.pushWarning(tr("The layer could not be styled: {error}").format(error=e))
