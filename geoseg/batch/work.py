"""What a worker does with one scene: predict it, and tell what became of it."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import shapely

from geoseg.aoi import Aoi
from geoseg.batch.footprint import Coverage, footprint
from geoseg.batch.items import Item
from geoseg.batch.outcome import Outcome, Output, Role
from geoseg.batch.split import COVERED, Joined, forget, parts_for
from geoseg.bundle import MULTIHASH_SHA256
from geoseg.errors import (
    ContractError,
    GeosegError,
    MissingDependencyError,
    ModelError,
    OutputError,
    OutsideError,
    SceneError,
)
from geoseg.kept import Parts, key_of, only, parts_of, stamp_of
from geoseg.loaded import Loaded
from geoseg.options import PredictOptions
from geoseg.predict import Result, check, lay_tiles, open_scene, predict
from geoseg.scene import Scene
from geoseg.spec import ModelSpec

FOLDERS: Mapping[Role, str] = {
    "polygons": "polygons",
    "mask": "masks",
    "probabilities": "probabilities",
}
# The next scene would not fare better: the run ends, and goes on when this has been seen to.
_STOPS = (OutputError, ModelError, MissingDependencyError)
_ENDS_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_busy = threading.Lock()  # one network in a process, whatever number of threads an engine has


@dataclass(frozen=True, slots=True)
class Work:
    """Called with an Item it predicts it; the same for all scenes of a run, in any process.

    models:  folders or zips of the bundles. checksums: of their weights, where the run began.
    options: those of predict, as plain values; outputs have no names yet.
    folder:  where all outputs of the run go. suffix: of the polygons. roles: what is written.
    split:   scenes of more tiles are done in parts (see geoseg.batch.split).
    """

    models: tuple[str, ...]
    checksums: tuple[str, ...]
    folder: str
    suffix: str
    roles: tuple[Role, ...]
    split: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, item: Item) -> Outcome:
        """How the scene ended. Only what ends the worker itself is raised."""
        begun, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
        known: dict[str, Any] = {}  # of the scene, also where it fails later
        with _busy:
            try:
                outcome = self._predicted(item, known)
            except GeosegError as e:
                outcome = Outcome(_ending(e), str(e), type(e).__name__, **known)
            except Exception as e:  # noqa: BLE001  no scene may end the run of all the others
                error = f"{item.source}: {type(e).__name__}: {e}"
                outcome = Outcome(_ending(e), error, type(e).__name__, **known)
        seconds = time.perf_counter() - begun
        return replace(outcome, started=started, seconds=seconds, worker=worker_name())

    def with_threads(self, threads: int) -> Work:
        """The same, on so many threads."""
        return replace(self, options={**self.options, "threads": threads})

    def paths(self, item: Item) -> dict[Role, str]:
        """Where the outputs of a scene go, relative to the folder."""
        return {
            role: f"{FOLDERS[role]}/{item.id}{self.suffix if role == 'polygons' else '.tif'}"
            for role in self.roles
        }

    def _predicted(self, item: Item, known: dict[str, Any]) -> Outcome:
        if item.problem:
            raise SceneError(item.problem)
        model = loaded(self.models, self.checksums)
        options = PredictOptions.of(self.options)
        spec = model.spec(options)
        source, parts = source_of(item, spec), parts_for(self.folder, item)
        stamps = stamps_of(item)  # before it is read: what changes later is another content
        with open_scene(source, spec, options) as scene:
            known |= _about(scene)
            known["about"]["stamps"] = stamps
            coverage, native = Coverage(scene.grid), scene.native
            if self.split is not None:
                seen = _in_parts(item, scene, model, options, parts=parts, most=self.split)
                if isinstance(seen, Outcome):
                    return seen
                model = seen
        paths = self.paths(item)
        result = predict(source, model=model, on_chip=coverage, **self._asked(paths))
        if isinstance(model, Joined):
            coverage.counts += model.covered()
        known["valid"] = shapely.to_wkt(coverage.outline(native), rounding_precision=-1)
        forget(parts)
        return Outcome(
            "done",
            polygons=result.polygons,
            area_m2=result.area_m2,
            tiles=result.tiles,
            outputs=tuple(written(Path(self.folder), role, path) for role, path in paths.items()),
            warnings=_warnings(result),
            **known,
        )

    def _asked(self, paths: Mapping[Role, str]) -> dict[str, Any]:
        """Keywords of predict. What lies there is of a run that was killed: it is replaced."""
        full: dict[str, Path] = {role: Path(self.folder, path) for role, path in paths.items()}
        output = full.pop("polygons", None)
        return {**self.options, **full, "output": output, "overwrite": True}


def _in_parts(
    item: Item, scene: Scene, model: Loaded, options: PredictOptions, *, parts: Parts, most: int
) -> Outcome | Loaded:
    """Of a scene of more than `most` tiles: a part is predicted, or that it has parts is told.

    Otherwise the model to predict it with: the one that has seen all parts, or `model` itself.
    """
    spec = model.spec(options)
    aoi = Aoi.open(options.area, scene.grid) if options.area else None
    tiles = lay_tiles(scene, spec, options, aoi)
    every = parts_of(tiles, most)
    if item.rows is None and len(every) == 1:
        return model
    scaling = check(scene, spec, options, aoi).scaling
    if item.rows is not None:
        if not parts.has(item.rows):  # else of a run that was killed
            covered = Coverage(scene.grid)
            seen = model.predictions(scene, only(tiles, item.rows), scaling, options, covered)
            device = model.network(options).description
            more = {COVERED: covered.counts}
            deque(parts.keeping(item.rows, seen, device=device, more=more), maxlen=0)
        return Outcome("part")
    parts.begin(key_of(scene, tiles, scaling, model.bundles, options))
    if not all(map(parts.has, every)):
        return Outcome("split", about={"rows": every})
    return Joined(model, parts, every)


def _ending(error: Exception) -> Literal["failed", "skipped", "stopped"]:
    """What an error means for its scene, and for those that follow."""
    if isinstance(error, OutsideError):
        return "skipped"
    full = isinstance(error, OSError) and error.errno in _ENDS_DISK
    return "stopped" if full or isinstance(error, _STOPS) else "failed"


@lru_cache(maxsize=1)
def loaded(models: tuple[str, ...], checksums: tuple[str, ...]) -> Loaded:
    """The model, once for a process. A ModelError if it is not the one that the run began with."""
    model = Loaded(models)
    for bundle, checksum in zip(model.bundles, checksums, strict=True):
        if bundle.checksum != checksum:
            raise ModelError(
                f"{bundle.path}: is not the model that this run began with (worker "
                f"{worker_name()}): give all workers the same models"
            )
    return model


def source_of(item: Item, spec: ModelSpec) -> str:
    """What Scene.open takes: the raster, or its bands stacked."""
    if not item.parts:
        return item.source
    from geoseg.scene.stack import stack

    return stack(item.parts, names=[band.name for band in spec.bands], name=item.source)


def stamps_of(item: Item) -> list[list[int]]:
    """By which it is noticed later that a raster of a scene has changed."""
    return [stamp_of(path) for path in item.parts or (item.source,)]


def worker_name() -> str:
    """Host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _about(scene: Scene) -> dict[str, Any]:
    """What is known of a scene before it is predicted. Without a place on Earth it fails."""
    if scene.crs is None or scene.gsd is None or scene.crs.geodetic_crs is None:
        raise ContractError(
            f"{scene.source}: has no CRS, and no place in an archive: assign the right one "
            "(gdal_edit.py -a_srs), or predict it by itself"
        )
    native = scene.native
    return {
        "km2": native.pixels * scene.gsd[0] * scene.gsd[1] / 1e6,
        "footprint": footprint(native),
        "about": {
            "crs": scene.crs.to_string(),
            "shape": [native.height, native.width],
            "gsd": round(sum(scene.gsd) / 2, 6),
        },
    }


def _warnings(result: Result) -> tuple[str, ...]:
    return tuple(f.message for f in result.findings if f.level == "warning")


def written(folder: Path, role: Role, path: str) -> Output:
    """An output that has appeared, with its size and checksum."""
    file = folder / path
    with file.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    return Output(role, path, file.stat().st_size, MULTIHASH_SHA256 + checksum)
