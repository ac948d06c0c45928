"""What was measured on this machine, kept between runs in the user's cache folder."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import platformdirs

KEPT = 200  # measurements; the oldest are forgotten


def recall(key: str) -> str | None:
    """What was remembered under `key`, if anything."""
    return _load().get(key)


def remember(key: str, value: str) -> None:
    """Keep `value`; where the cache cannot be written, the next run measures again."""
    entries = {k: v for k, v in _load().items() if k != key} | {key: value}
    text = json.dumps(dict(list(entries.items())[-KEPT:]), indent=1)
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(text)
        Path(file.name).replace(path)
    except OSError:
        return


def _path() -> Path:
    home = os.environ.get("GEOSEG_HOME")
    cache = Path(home) / "cache" if home else Path(platformdirs.user_cache_dir("geoseg"))
    return cache / "modes.json"


def _load() -> dict[str, str]:
    try:
        entries = json.loads(_path().read_text())
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
