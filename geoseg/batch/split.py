"""A big scene over several workers, by rows of tiles, with the very polygons of one worker.

Workers keep what the network says of their rows of tiles (geoseg.kept); when all are there, one
worker goes through the scene as ever, but for the network: it takes its predictions out of these
files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.batch.items import Item
from geoseg.batch.outcome import Outcome
from geoseg.errors import OutputError
from geoseg.grid import Plan
from geoseg.kept import Parts, Rows
from geoseg.loaded import Loaded
from geoseg.options import PredictOptions
from geoseg.predictions import Chip
from geoseg.runtime import Prediction
from geoseg.scene import Scene
from geoseg.spec import Scaling

FOLDER = "parts"
COVERED = "covered"  # what Coverage has counted in a part


def parts_for(output: str | Path, item: Item) -> Parts:
    """Where the parts of a scene lie."""
    return Parts(Path(output, FOLDER, item.id))


def forget(parts: Parts) -> None:
    """They have served; so has the folder of all, if these were the last."""
    parts.remove()
    with suppress(OSError):
        parts.folder.parent.rmdir()


class Joined(Loaded):
    """A model that has seen the scene already, in parts."""

    def __init__(self, model: Loaded, parts: Parts, every: list[Rows]) -> None:
        super().__init__(model.paths)
        self._parts, self._every = parts, every

    def network(self, options: PredictOptions) -> Any:
        return _Seen(self.spec(options), self._parts.device(self._every[0]))

    def covered(self) -> Any:
        """Where the scene has data: see Coverage."""
        return sum(self._parts.more(rows, COVERED) for rows in self._every)

    def predictions(
        self,
        scene: Scene,
        tiles: Plan,
        scaling: Scaling,
        options: PredictOptions,
        on_chip: Callable[[Chip], None] | None = None,
    ) -> Iterator[Prediction]:
        for rows in self._every:
            yield from self._parts.read(rows, tiles)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What remains of a runtime where its predictions are known."""

    spec: Any
    description: str
    batch_size: int = 1

    def predict(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        raise OutputError("a part of the scene was lost: run the command again")


class Queue:
    """What an engine takes its items from: the scenes that wait, and before them parts.

    An iterator that may have more after it was at its end: engines ask again when something ended.
    """

    def __init__(self, scenes: Iterator[Item]) -> None:
        self._scenes = scenes
        self._first: deque[Item] = deque()
        self._open: dict[str, int] = {}  # parts that are under way, by the id of the scene

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        return self._first.popleft() if self._first else next(self._scenes)

    def ended(self, item: Item, outcome: Outcome) -> bool:
        """Take in what an engine gave; whether it is the end of the scene."""
        if outcome.state == "split":
            every = outcome.about["rows"]
            self._open[item.id] = len(every)
            self._first.extend(replace(item, rows=(first, stop)) for first, stop in every)
            return False
        if item.rows is None:
            return True
        if item.id not in self._open:  # another part has failed before
            return False
        if outcome.state != "part":
            del self._open[item.id]
            self._first = deque(i for i in self._first if i.id != item.id)
            return True
        self._open[item.id] -= 1
        if not self._open[item.id]:
            del self._open[item.id]
            self._first.append(replace(item, rows=None))
        return False
