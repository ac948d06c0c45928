"""What came out of a run, as QGIS shows it: style and metadata of the layers."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingLayerPostProcessorInterface,
    QgsVectorLayer,
)

from . import settings
from .i18n import tr


def model_record(name: str) -> dict[str, Any] | None:
    """What is known of a model, by its name or path; None when nothing."""
    known = settings.known_models()
    return next((m for m in known if name in (m["name"], m.get("path"))), None)


class Finish(QgsProcessingLayerPostProcessorInterface):
    """Styles a layer of polygons when QGIS has loaded it, and writes down where it is from."""

    _kept: ClassVar[list[Finish]] = []  # QGIS holds only the C++ half

    def __init__(self, result: dict[str, Any], model: str, command: list[str]) -> None:
        super().__init__()
        self.result, self.model, self.command = result, model, command

    @classmethod
    def later(
        cls,
        context: QgsProcessingContext,
        destination: str,
        result: dict[str, Any],
        model: str,
        command: list[str],
    ) -> None:
        """Do so with the layer of this destination, if it is going to be loaded at all."""
        if context.willLoadLayerOnCompletion(destination):
            finish = cls(result, model, command)
            cls._kept = [*cls._kept[-99:], finish]
            context.layerToLoadOnCompletionDetails(destination).setPostProcessor(finish)

    def postProcessLayer(self, layer, context, feedback) -> None:
        """Called by QGIS in the main thread; must not fail."""
        try:
            finish(layer, self.result, self.model, self.command)
        except Exception as e:  # noqa: BLE001  an error here would end QGIS
            feedback.pushWarning(tr("The layer could not be styled: {error}").format(error=e))


def finish(
    layer: QgsVectorLayer, result: dict[str, Any], model: str = "", command: list[str] | None = None
) -> None:
    """Style and metadata of a layer that a run has made."""
    describe(layer, result, command or [])
    try:
        from .style import style_result
    except ImportError:
        return
    if isinstance(layer, QgsVectorLayer):
        style_result(layer, result, model_record(model))


def describe(layer: QgsVectorLayer, result: dict[str, Any], command: list[str]) -> None:
    """The layer's metadata: what made it of what, and all that the engine said."""
    about = layer.metadata()
    about.setType("dataset")
    about.setTitle(layer.name())
    about.setCrs(layer.crs())
    if result.get("model"):
        text = tr("Made by geoseg with the model {model} on {device}.")
        about.setAbstract(text.format(model=result["model"], device=result.get("device", "?")))
    else:
        about.setAbstract(tr("Made by geoseg."))
    findings = [str(f.get("message")) for f in result.get("findings") or () if isinstance(f, dict)]
    said = json.dumps({k: v for k, v in result.items() if k != "findings"}, ensure_ascii=False)
    about.setHistory([*filter(None, ["geoseg " + " ".join(command)]), *findings, said])
    layer.setMetadata(about)
