"""`geoseg batch --dry-run`: what a run would do, without doing any of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geoseg import registry
from geoseg.aoi import Aoi
from geoseg.batch.items import Item
from geoseg.batch.ledger import NAME, Ledger
from geoseg.batch.options import config_of, sorted_options, work_of
from geoseg.batch.run import Source, peeked, recover, settle
from geoseg.batch.work import source_of
from geoseg.errors import GeosegError
from geoseg.events import Listener, ignore
from geoseg.loaded import Loaded, Model
from geoseg.options import PredictOptions
from geoseg.predict import lay_tiles, open_scene
from geoseg.survey import bytes_to_read, seconds_per_tile

LOOKED = 100  # scenes that are opened; more are estimated from these


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What a run would do.

    scenes:  that the sources name, and the ledger knows; to_do: of these, that are not done.
    opened:  how many of these were looked at, evenly spread; what follows is estimated from them.
    unusable: those that could not be opened. tiles, read_bytes (of decoded pixels), km2, seconds:
    of all to do; seconds with the engine's workers, upper bounds as in `geoseg plan`.
    """

    model: str
    engine: str
    workers: int
    scenes: int
    to_do: int
    opened: int
    unusable: int
    tiles: int
    km2: float
    read_bytes: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def plan(
    sources: Source | Iterable[Source] = (),
    output: Source = "",
    *,
    model: Model | Loaded = registry.DEFAULT_MODEL,
    listener: Listener = ignore,
    **options: Any,
) -> BatchPlan:
    """What `batch` with the same arguments would do; nothing is written."""
    own, predicting, search = sorted_options(options)
    folder = Path(output or ".").expanduser()
    loaded = model if isinstance(model, Loaded) else Loaded(model)
    work = work_of(loaded, folder, own, predicting)
    items = peeked(sources, loaded.spec(predicting).bands, search)
    with Ledger.open(None) as ledger:
        if (folder / NAME).exists() and not own.overwrite:
            with Ledger.open(folder / NAME, create=False) as existing:
                existing.copy_to(ledger)
        settle(ledger, folder, config_of(work, predicting, search))
        ledger.enroll(items or ())
        recover(ledger, folder, own, listener, sweep=False)
        counts = ledger.counts()
        waiting = counts["pending"]
        step = max(1, -(-waiting // LOOKED))
        looked = [item for i, item in enumerate(ledger.waiting()) if i % step == 0]
    sums, shape = _look(looked, loaded, predicting, listener)
    usable = len(looked) - sums["unusable"]
    share = waiting / len(looked) if looked else 0.0
    workers = own.workers or 1
    tile_seconds = seconds_per_tile(loaded.network(predicting), shape) if usable and shape else 0.0
    tiles = round(sums["tiles"] * share)
    return BatchPlan(
        model=loaded.spec(predicting).id,
        engine=own.engine,
        workers=workers,
        scenes=counts.total(),
        to_do=waiting,
        opened=len(looked),
        unusable=sums["unusable"],
        tiles=tiles,
        km2=round(sums["m2"] * share / 1e6, 6),
        read_bytes=round(sums["bytes"] * share),
        seconds=round(tile_seconds * tiles / workers, 1),
    )


def _look(
    items: Iterable[Item], loaded: Loaded, options: PredictOptions, listener: Listener
) -> tuple[Counter[str], tuple[int, int, int] | None]:
    """Sums over the scenes; and the shape of the largest of their tiles."""
    spec = loaded.spec(options)
    sums: Counter[str] = Counter()
    shape: tuple[int, int, int] | None = None
    for item in items:
        try:
            with open_scene(source_of(item, spec), spec, options) as scene:
                aoi = Aoi.open(options.area, scene.grid) if options.area else None
                tiles = lay_tiles(scene, spec, options, aoi)
                gsd = scene.gsd or (spec.gsd, spec.gsd)
                sums["tiles"] += len(tiles)
                sums["bytes"] += bytes_to_read(scene, tiles)
                sums["m2"] += round(scene.native.pixels * gsd[0] * gsd[1])
                shape = max(shape or (0, 0, 0), (len(spec.bands), *tiles.tile_shape))
        except GeosegError as e:
            sums["unusable"] += 1
            listener({"event": "warning", "topic": "output", "message": f"{item.id}: {e}"})
    return sums, shape
