"""A batch written down as YAML: sources, output, model, and any option of the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geoseg.config import Strict, check, read_yaml
from geoseg.registry import DEFAULT_MODEL

_OWN = ("sources", "output", "model")


class BatchConfig(Strict):
    """What is run on what. Paths are relative to the current folder, as on the command line."""

    sources: tuple[str, ...] = ()
    output: Path | None = None
    model: str | tuple[str, ...] = DEFAULT_MODEL


def asked(
    path: Path | None,
    *,
    sources: Sequence[str] = (),
    output: Path | None = None,
    model: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Keywords of `batch`: those in the file at `path`, and before them those that are given."""
    content = read_yaml(path) if path is not None else {}
    own = {key: content[key] for key in _OWN if key in content}
    rest = {key: value for key, value in content.items() if key not in own}
    config = check(own, BatchConfig, source=str(path))
    return {
        "sources": list(sources) or list(config.sources),
        "output": output or config.output or "",
        "model": list(model) or config.model,
        **rest,
        **(options or {}),
    }
