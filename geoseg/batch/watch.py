"""What a batch tells while it runs; see docs/events.md."""

from __future__ import annotations

import time
from typing import Any

from geoseg.batch.items import Item
from geoseg.batch.outcome import Outcome
from geoseg.events import Listener

EVERY = 0.1  # seconds between two events of progress


class Watch:
    """Tells a listener how far a batch is: scenes, ground, failures."""

    def __init__(self, listener: Listener, scenes: int, **about: Any) -> None:
        self._listener, self._scenes = listener, scenes
        self._done = self._failed = 0
        self._km2 = 0.0
        self._started = self._last = time.perf_counter()
        listener({"event": "start", "scenes": scenes, "tiles": scenes, **about})

    def update(self, item: Item, outcome: Outcome) -> None:
        """A scene has ended."""
        self._done += 1
        self._failed += outcome.state == "failed"
        self._km2 += outcome.km2
        self._listener(
            {
                "event": "scene",
                "id": item.id,
                "state": outcome.state,
                "polygons": outcome.total,
                "seconds": round(outcome.seconds, 3),
                "error": outcome.error,
                "warnings": list(outcome.warnings),
            }
        )
        now = time.perf_counter()
        if now - self._last < EVERY and self._done < self._scenes:
            return
        self._last = now
        seconds = now - self._started
        left = max(0, self._scenes - self._done)
        self._listener(
            {
                "event": "progress",
                "done": self._done,
                "tiles": self._scenes,
                "seconds": round(seconds, 2),
                "eta": round(seconds / self._done * left, 2),
                "failed": self._failed,
                "km2": round(self._km2, 6),
            }
        )
