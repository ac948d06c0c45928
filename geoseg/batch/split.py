"""A big scene over several workers, by rows of tiles, with the very polygons of one worker.

Workers keep what the network says of their rows of tiles (a file for each part); when all are
there, one worker goes through the scene as ever, but for the network: it takes its predictions out
of these files. Stitching and vectorizing see what they would have seen, so nothing can differ.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.batch.items import Item
from geoseg.batch.outcome import Outcome
from geoseg.errors import OutputError
from geoseg.grid import Plan, Tile
from geoseg.options import PredictOptions
from geoseg.predict import Loaded
from geoseg.predictions import Chip, InstancePrediction, Masks, SemanticPrediction
from geoseg.runtime import Prediction
from geoseg.scene import Scene
from geoseg.sinks.atomic import replacing
from geoseg.spec import Scaling

FOLDER = "parts"
_MASKS = ("windows", "pixels", "starts")
_ABOUT = "about.json"
_COVERED = "covered.npy"
Rows = tuple[int, int]  # of tiles: first, and the one after the last


def parts_of(tiles: Plan, most: int) -> list[Rows]:
    """Rows of tiles for each part, of up to `most` tiles but whole rows; one: it is not split."""
    if len(tiles) <= most:
        return [(0, len(tiles.rows))]
    step = max(1, most // len(tiles.col_spans))
    return [(i, min(i + step, len(tiles.rows))) for i in range(0, len(tiles.rows), step)]


@dataclass(frozen=True, slots=True)
class Parts:
    """The files of the parts of one scene, in a folder of their own."""

    folder: Path

    @classmethod
    def of(cls, output: str | Path, item: Item) -> Parts:
        return cls(Path(output, FOLDER, item.id))

    def path(self, rows: Rows) -> Path:
        return self.folder / f"{rows[0]}-{rows[1]}.zip"

    def complete(self, every: Iterable[Rows]) -> bool:
        """Whether all parts are there."""
        return all(self.path(rows).exists() for rows in every)

    def write(
        self,
        rows: Rows,
        predictions: Iterable[Prediction],
        *,
        device: str,
        covered: NDArray[np.int64],
    ) -> None:
        """Keep predictions, one after the other; the file appears when it is whole.

        covered: what Coverage has counted, when all predictions have come.
        """
        with (
            replacing(self.path(rows), overwrite=True) as temp,
            zipfile.ZipFile(temp, "w") as archive,  # not compressed: floats do not shrink
        ):
            numbers = []
            for prediction in predictions:
                number = prediction.tile.index
                numbers.append(number)
                for name, array in _arrays(prediction):
                    with archive.open(f"{number}/{name}", "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, array, allow_pickle=False)
            counts = io.BytesIO()
            np.save(counts, covered)
            archive.writestr(_COVERED, counts.getvalue(), zipfile.ZIP_DEFLATED)
            archive.writestr(_ABOUT, json.dumps({"tiles": numbers, "device": device}))

    def read(self, rows: Rows, tiles: Plan) -> Iterator[Prediction]:
        """The predictions of a part, in their order."""
        by_number = {tile.index: tile for tile in tiles.tiles}
        with zipfile.ZipFile(self.path(rows)) as archive:
            names = set(archive.namelist())
            for number in json.loads(archive.read(_ABOUT))["tiles"]:
                yield _prediction(archive, names, by_number[number])

    def device(self, rows: Rows) -> str:
        """What the network of a part ran on."""
        with zipfile.ZipFile(self.path(rows)) as archive:
            return str(json.loads(archive.read(_ABOUT))["device"])

    def covered(self, rows: Rows) -> NDArray[np.int64]:
        """Where the scene has data there, as `write` was told."""
        with zipfile.ZipFile(self.path(rows)) as archive:
            return np.asarray(np.load(io.BytesIO(archive.read(_COVERED))), np.int64)

    def remove(self) -> None:
        """They have served."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()


class Joined(Loaded):
    """A model that has seen the scene already, in parts."""

    def __init__(self, model: Loaded, parts: Parts, every: list[Rows]) -> None:
        super().__init__(model.paths)
        self._parts, self._every = parts, every

    def network(self, options: PredictOptions) -> Any:
        return _Seen(self.spec(options), self._parts.device(self._every[0]))

    def covered(self) -> Any:
        """Where the scene has data: see Coverage."""
        return sum(self._parts.covered(rows) for rows in self._every)

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


def only(tiles: Plan, rows: Rows) -> Plan:
    """The same plan with these rows of tiles alone."""
    kept = (row if rows[0] <= i < rows[1] else () for i, row in enumerate(tiles.rows))
    return replace(tiles, rows=tuple(kept))


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


def _arrays(prediction: Prediction) -> Iterator[tuple[str, NDArray[Any]]]:
    if isinstance(prediction, SemanticPrediction):
        yield "scores", prediction.scores
        yield "valid", prediction.valid
        return
    yield "labels", prediction.labels
    yield "scores", prediction.scores
    yield from ((name, getattr(prediction.masks, name)) for name in _MASKS)
    if prediction.keypoints is not None:
        yield "keypoints", prediction.keypoints


def _prediction(archive: zipfile.ZipFile, names: set[str], tile: Tile) -> Prediction:
    def array(name: str) -> NDArray[Any]:
        with archive.open(f"{tile.index}/{name}") as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))

    if f"{tile.index}/labels" not in names:
        return SemanticPrediction(tile, array("scores"), array("valid"))
    masks = Masks(*(array(name) for name in _MASKS))
    points = array("keypoints") if f"{tile.index}/keypoints" in names else None
    return InstancePrediction(tile, array("labels"), array("scores"), masks, points)
