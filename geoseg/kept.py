"""What the network says, kept on disk in parts: rows of tiles, a file for each.

So a run that was killed goes on where it was (`going_on`), and workers share a big scene
(geoseg.batch.split). Stitching and vectorizing see what they always see, so polygons are the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import geoseg
from geoseg import runtime
from geoseg.bundle import Bundle
from geoseg.errors import OutputError
from geoseg.events import Listener, ignore
from geoseg.grid import Plan, Tile
from geoseg.loaded import Loaded
from geoseg.options import PredictOptions
from geoseg.predictions import Chip, InstancePrediction, Masks, SemanticPrediction
from geoseg.runtime import Prediction
from geoseg.scene import Scene
from geoseg.sinks.alone import alone
from geoseg.sinks.atomic import reason_of, replacing
from geoseg.spec import Scaling

Rows = tuple[int, int]  # of tiles: first, and the one after the last
MOST = 32  # tiles of a part: what a run that is killed does twice
_MASKS = ("windows", "pixels", "starts")
_ABOUT = "about.json"
_KEY = "run.txt"
_DAMAGED = (zipfile.BadZipFile, KeyError, ValueError, EOFError)


def parts_of(tiles: Plan, most: int) -> list[Rows]:
    """Rows of tiles for each part, of up to `most` tiles but whole rows; one: it is not split."""
    if len(tiles) <= most:
        return [(0, len(tiles.rows))]
    step = max(1, most // len(tiles.col_spans))
    return [(i, min(i + step, len(tiles.rows))) for i in range(0, len(tiles.rows), step)]


def only(tiles: Plan, rows: Rows) -> Plan:
    """The same plan with these rows of tiles alone."""
    kept = (row if rows[0] <= i < rows[1] else () for i, row in enumerate(tiles.rows))
    return replace(tiles, rows=tuple(kept))


def going_on(
    parts: Parts, tiles: Plan, see: Callable[[Plan], Iterator[Prediction]], *, device: str
) -> Iterator[Prediction]:
    """The predictions of all tiles: those that are there, and `see` for the others, which are kept.

    device: what the network runs on.
    """
    for rows in parts_of(tiles, MOST):
        if parts.has(rows):
            yield from parts.read(rows, tiles)
        else:
            yield from parts.keeping(rows, see(only(tiles, rows)), device=device)


def key_of(
    scene: Scene, tiles: Plan, scaling: Scaling, bundles: Sequence[Bundle], options: PredictOptions
) -> str:
    """All that decides what the network says: parts of runs that have the same fit together."""
    how = options.model_dump(mode="json", include=_HOW)
    place = (scene.grid, tiles.tile_shape, [(t.index, t.read) for t in tiles.tiles])
    models = [(bundle.checksum, bundle.spec) for bundle in bundles]
    stamp = stamp_of(scene.source)
    everything = (geoseg.__version__, scene.source, stamp, place, scaling, models, how)
    return hashlib.sha256(repr(everything).encode()).hexdigest()


def stamp_of(source: str) -> list[int]:
    """Size and time of change of a file, by which another content is noticed; else []."""
    try:
        found = Path(source).stat()
    except (OSError, ValueError):
        return []
    return [found.st_size, found.st_mtime_ns]


_HOW = {"bands", "nodata", "runtime", "device", "precision", "tta"}


@contextmanager
def resuming(model: Loaded, output: Path, listener: Listener = ignore) -> Iterator[Loaded]:
    """The model for one run into `output`: what it says of the scene is kept beside that.

    When the block ends well, the parts have served and are removed. An OutputError where another
    run is at work with them.
    """
    parts = Parts(output.with_name(f"{output.name}.parts"))
    with ExitStack() as held:
        yield _Resuming(model, parts, held, listener)
        parts.remove()


class _Resuming(Loaded):
    """A model that says no part of a scene twice; `held` holds the parts while it is at work."""

    def __init__(self, model: Loaded, parts: Parts, held: ExitStack, listener: Listener) -> None:
        super().__init__(model.paths)
        self._model, self._parts, self._held, self._listener = model, parts, held, listener

    def network(self, options: PredictOptions) -> runtime.Runtime:
        return self._model.network(options)

    def predictions(
        self,
        scene: Scene,
        tiles: Plan,
        scaling: Scaling,
        options: PredictOptions,
        on_chip: Callable[[Chip], None] | None = None,
    ) -> Iterator[runtime.Prediction]:
        self._parts.make()
        self._held.enter_context(alone(self._parts.folder))
        anew = self._parts.begin(key_of(scene, tiles, scaling, self.bundles, options))
        every = parts_of(tiles, MOST)
        there = sum(map(self._parts.has, every))
        if anew:
            self._tell("the scene, the model or options are others than in an earlier run: anew")
        elif there:
            self._tell(f"an earlier run has seen {there} of {len(every)} parts: going on")

        def see(some: Plan) -> Iterator[runtime.Prediction]:
            return self._model.predictions(scene, some, scaling, options, on_chip)

        device = self.network(options).description
        return going_on(self._parts, tiles, see, device=device)

    def _tell(self, message: str) -> None:
        self._listener({"event": "info", "topic": "output", "message": message})


@dataclass(frozen=True, slots=True)
class Parts:
    """The files of the parts of one scene, in a folder of their own."""

    folder: Path

    def path(self, rows: Rows) -> Path:
        return self.folder / f"{rows[0]}-{rows[1]}.zip"

    def make(self) -> None:
        """The folder, where it is not there yet; an OutputError where something else is."""
        with self._writing(self.folder):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                raise self._in_the_way() from None

    def begin(self, key: str) -> bool:
        """Make the folder; parts that are there stay if they are of a run with this `key`.

        True where there were others, which are gone now.
        """
        note = self.folder / _KEY
        self.make()
        with self._writing(self.folder):
            if note.is_file() and note.read_bytes() == key.encode():
                return False
            others = self._visible()
            if others and not note.is_file():
                raise self._in_the_way()
            for other in others:
                other.unlink()
            note.write_text(key)
        return bool(others)

    def _visible(self) -> list[Path]:
        """What is in the folder, but for the key and hidden folders."""
        return [path for path in self.folder.glob("[!.]*") if path.name != _KEY]

    def _in_the_way(self) -> OutputError:
        return OutputError(f"{self.folder} is in the way: move it away")

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """In one sentence, what does not let `path` be written."""
        try:
            yield
        except OSError as e:
            raise OutputError(
                f"{path}: could not be written ({reason_of(path, e)}); the parts before it stay, "
                "and the same command goes on with them"
            ) from e

    def has(self, rows: Rows) -> bool:
        """Whether a part is there, and whole."""
        return zipfile.is_zipfile(self.path(rows))

    def keeping(
        self,
        rows: Rows,
        predictions: Iterable[Prediction],
        *,
        device: str,
        more: Mapping[str, NDArray[Any]] | None = None,
    ) -> Iterator[Prediction]:
        """Predictions as they come; when the last was taken, a part with all of them appears.

        more: arrays to be kept beside them, as they are then.
        """
        with (
            self._writing(self.path(rows)),
            replacing(self.path(rows), overwrite=True) as temp,
            zipfile.ZipFile(temp, "w") as archive,  # not compressed: floats do not shrink
        ):
            numbers = []
            for prediction in predictions:
                number = prediction.tile.index
                numbers.append(number)
                for name, array in _arrays(prediction):
                    _put(archive, f"{number}/{name}", array)
                yield prediction
            for name, array in (more or {}).items():
                _put(archive, name, array)
            archive.writestr(_ABOUT, json.dumps({"tiles": numbers, "device": device}))

    def read(self, rows: Rows, tiles: Plan) -> Iterator[Prediction]:
        """The predictions of a part, in their order. A damaged one is deleted: an OutputError."""
        by_number = {tile.index: tile for row in tiles.rows[slice(*rows)] for tile in row}
        try:
            with zipfile.ZipFile(self.path(rows)) as archive:
                names = set(archive.namelist())
                for number in json.loads(archive.read(_ABOUT))["tiles"]:
                    yield _prediction(archive, names, by_number[number])
        except _DAMAGED as e:
            self.path(rows).unlink(missing_ok=True)
            raise OutputError(
                f"{self.path(rows)} was damaged and is deleted: give the same command again"
            ) from e

    def device(self, rows: Rows) -> str:
        """What the network of a part ran on."""
        with zipfile.ZipFile(self.path(rows)) as archive:
            return str(json.loads(archive.read(_ABOUT))["device"])

    def more(self, rows: Rows, name: str) -> NDArray[Any]:
        """An array that was kept beside the predictions."""
        with zipfile.ZipFile(self.path(rows)) as archive:
            return _get(archive, name)

    def remove(self) -> None:
        """They have served. The key goes last: what a kill leaves of them is known by it."""
        with suppress(OSError):
            for path in self._visible():
                path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)


def _put(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with archive.open(name, "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _get(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


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
        return _get(archive, f"{tile.index}/{name}")

    if f"{tile.index}/labels" not in names:
        return SemanticPrediction(tile, array("scores"), array("valid"))
    masks = Masks(*(array(name) for name in _MASKS))
    points = array("keypoints") if f"{tile.index}/keypoints" in names else None
    return InstancePrediction(tile, array("labels"), array("scores"), masks, points)
