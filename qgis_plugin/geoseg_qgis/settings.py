"""What the plugin remembers between sessions, in QGIS's settings."""

from __future__ import annotations

import json
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

from qgis.core import QgsSettings

from . import network
from .environment import find_engine
from .runner import Engine

ENGINE = "geoseg/engine"  # path of a Python, of geoseg, or of an environment; "" = find it
MODELS = "geoseg/models"  # what `geoseg model list` said last, as JSON
DEFAULT_MODEL = "buildings-v1"


def engine() -> Engine:
    """The engine that the user chose, or the one that is there; else an EngineMissing."""
    found = find_engine(str(QgsSettings().value(ENGINE, "") or ""))
    return replace(found, variables=network.variables())


def plugin_version() -> str:
    """The plugin's own; an engine of another one may not know all that it asks for."""
    metadata = ConfigParser(interpolation=None)
    metadata.read(Path(__file__).with_name("metadata.txt"), encoding="utf-8")
    return metadata.get("general", "version", fallback="?")


def known_models() -> list[dict[str, Any]]:
    """The records of `geoseg model list` as they were last seen; [] when never."""
    try:
        models = json.loads(QgsSettings().value(MODELS, "") or "[]")
    except ValueError:
        return []
    return [m for m in models if isinstance(m, dict) and "name" in m]


def runs_here(model: dict[str, Any]) -> bool:
    """Whether the engine that told of a model can run it; a light one has no PyTorch."""
    return bool(model.get("runtimes", True))


def remember_models(models: list[dict[str, Any]]) -> None:
    """Keep them for the next start, and for where the engine must not be asked."""
    QgsSettings().setValue(MODELS, json.dumps(models))


def list_models(
    of: Engine, is_canceled: Callable[[], bool] = lambda: False
) -> list[dict[str, Any]]:
    """Ask the engine for its models, and remember them; takes a second or two."""
    models: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        if "event" not in event:
            models.append(event)

    of.run(["model", "list"], on_event=listen, is_canceled=is_canceled)
    remember_models(models)
    return models
