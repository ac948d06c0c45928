"""The STAC MLM item of a model, alone."""

from __future__ import annotations

import json
from pathlib import Path

from geoseg.bundle import Bundle


def write(source: Bundle, path: Path, tile: int | None) -> None:
    """The item as it is in the bundle; its assets say where the files would lie."""
    path.write_text(json.dumps(source.item, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
