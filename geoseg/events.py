"""Events of a run, for progress bars and for other programs: see docs/events.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from geoseg.grid import Tile

Event = Mapping[str, Any]
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of a caller who does not care."""


class Progress:
    """Turns finished tiles into progress events, at most ten a second; `first` were done before."""

    def __init__(
        self,
        listener: Listener,
        order: Mapping[int, int],
        *,
        first: int = 0,
        every: float = 0.1,
        **about: str,
    ) -> None:
        self._listener, self._order, self._first, self._every = listener, order, first, every
        self._started = self._last = time.perf_counter()
        listener({"event": "start", **about, "tiles": len(order)})

    def update(self, tile: Tile) -> None:
        """`tile` is done, and so are all before it (skipped for lack of data, if not predicted)."""
        self.advance(self._order[tile.index])

    def advance(self, done: int) -> None:
        """So many are done."""
        now, total = time.perf_counter(), len(self._order)
        if now - self._last < self._every and done < total:
            return
        self._last = now
        seconds = now - self._started
        self._listener(
            {
                "event": "progress",
                "done": done,
                "tiles": total,
                "seconds": round(seconds, 2),
                "eta": round(seconds / (done - self._first) * (total - done), 2),
            }
        )
