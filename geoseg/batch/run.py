"""An archive, from sources to outputs.

Sources name Items, the ledger keeps them, an engine gives those that wait to Workers, and what
they report goes into the ledger: a run that ends at any moment is gone on with by the next one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from geoseg import errors, registry
from geoseg.batch.catalog import write_catalog
from geoseg.batch.dataset import write_dataset
from geoseg.batch.engines import open_engine
from geoseg.batch.items import Item
from geoseg.batch.ledger import NAME, Ledger
from geoseg.batch.options import (
    BatchOptions,
    config_hash,
    config_of,
    must_match,
    sorted_options,
    work_of,
)
from geoseg.batch.outcome import Outcome
from geoseg.batch.page import write_page
from geoseg.batch.sources import listed
from geoseg.batch.split import FOLDER as PARTS
from geoseg.batch.split import Queue
from geoseg.batch.stac import Search
from geoseg.batch.watch import Watch
from geoseg.batch.work import FOLDERS, Work, stamps_of
from geoseg.errors import GeosegError, OutputError, UsageError
from geoseg.events import Listener, ignore
from geoseg.loaded import Loaded, Model
from geoseg.sinks.alone import alone
from geoseg.sinks.atomic import PREFIX, SUFFIX, in_use
from geoseg.spec import Band

Source = str | os.PathLike[str]
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a folder holds after a run: scenes by state, polygons, files. km2: of what is done."""

    output: Path
    scenes: int
    done: int
    failed: int
    skipped: int
    polygons: int
    tiles: int
    km2: float
    seconds: float
    outputs: tuple[str, ...]
    report: Path

    @property
    def exit_code(self) -> int:
        """Of the command: 0, or 3 where scenes failed."""
        return 3 if self.failed else 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "output": str(self.output), "report": str(self.report)}


def batch(
    sources: Source | Iterable[Source] = (),
    output: Source = "",
    *,
    model: Model | Loaded = registry.DEFAULT_MODEL,
    listener: Listener = ignore,
    **options: Any,
) -> BatchResult:
    """Predict all scenes of `sources` that are not done yet, into the folder `output`.

    sources: see geoseg.batch.sources.listed; with none it goes on with what the folder's ledger
    knows. options: the fields of geoseg.batch.options.BatchOptions, geoseg.batch.stac.Search and
    geoseg.options.PredictOptions. A scene that fails is no error: it is told (event `scene`) and
    kept in the ledger with its reason. Raises a GeosegError where no scene could be done, or no
    further one; what is done then stays.
    """
    started = time.perf_counter()
    own, predicting, search = sorted_options(options)
    folder = _folder(output)
    loaded = model if isinstance(model, Loaded) else Loaded(model)
    work = work_of(loaded, folder, own, predicting)
    items = peeked(sources, loaded.spec(predicting).bands, search)
    with _ledger(folder, items is not None) as ledger:
        settle(ledger, folder, config_of(work, predicting, search), overwrite=own.overwrite)
        ledger.enroll(items or ())
        recover(ledger, folder, own, listener)
        about = {"model": loaded.spec(predicting).id}
        _predict_waiting(ledger, work, own, listener, about)
        if own.dataset is not None:
            how: dict[str, Any] = {"metadata": about, "dedupe": own.dedupe, "listener": listener}
            with _anew(ledger, folder / own.dataset, own.dedupe) as path:
                if path is not None:
                    write_dataset(path, ledger, folder, **how)
        with _anew(ledger, folder / REPORT) as path:
            if path is not None:
                write_catalog(folder, ledger.entries("done"), loaded.bundles, ledger["config"])
                write_page(path, ledger, **about)
        result = _result(ledger, folder, own, time.perf_counter() - started)
    listener({"event": "result", **result.as_dict()})
    return result


def peeked(
    sources: Source | Iterable[Source], bands: Sequence[Band], search: Search
) -> Iterator[Item] | None:
    """The scenes of the sources, of which the first was found; None where no source is given."""
    several = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not several:
        return None
    items = listed(several, bands, search)
    first = next(items)  # what cannot be read is told before anything is made
    return chain([first], items)


def settle(
    ledger: Ledger, folder: Path, config: dict[str, Any], *, overwrite: bool = False
) -> None:
    """Hold the configuration against that of earlier runs; with `overwrite` forget these."""
    if overwrite:
        _forget(ledger, folder)
    before = ledger["config"]
    if before is None:
        ledger["config"] = config
        ledger["hash"] = config_hash(config)
    else:
        must_match(folder, before, config)


def recover(
    ledger: Ledger, folder: Path, own: BatchOptions, listener: Listener, *, sweep: bool = True
) -> None:
    """Let all scenes wait that are to be done: begun but not ended, lost, or failed if asked.

    sweep: what killed workers have left is removed.
    """
    ledger.again("running")
    if own.retry_failed:
        ledger.again("failed")
    lost, changed = list[str](), list[str]()
    for entry in ledger.entries("done"):
        done = entry.outcome
        if done and not all((folder / o.path).exists() for o in done.outputs):
            lost.append(entry.item.id)
        elif done and _changed(done.about.get("stamps", []), stamps_of(entry.item)):
            changed.append(entry.item.id)
    for names, what in ((lost, "outputs of {} are gone"), (changed, "rasters of {} have changed")):
        if names:
            ledger.again(names=names)
            few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            many = what.format(f"{len(names)} scenes that were done")
            message = f"{many}, so they are done anew: {few}"
            listener({"event": "warning", "topic": "output", "message": message})
    if sweep:
        _sweep(folder)


def _changed(before: list[list[int]], now: list[list[int]]) -> bool:
    """Whether a file that is still there has become another one."""
    return any(a and b and a != b for a, b in zip(before, now, strict=False))


def _sweep(folder: Path) -> None:
    """Remove what killed workers have left: hidden folders, never a file of a name.

    What `geoseg predict` is at work in, beside this batch, stays.
    """
    for name in ("", *FOLDERS.values(), f"{PARTS}/*"):
        for partial in folder.glob(f"{name or '.'}/{PREFIX}*{SUFFIX}"):
            if not in_use(partial):
                shutil.rmtree(partial, ignore_errors=True)


def _predict_waiting(
    ledger: Ledger, work: Work, own: BatchOptions, listener: Listener, about: dict[str, str]
) -> None:
    """Give the scenes that wait to the engine, and keep what becomes of them."""
    count = ledger.counts()["pending"]
    with (
        _ending(ledger, Path(work.folder), own),
        open_engine(own.engine, workers=own.workers, scheduler=own.scheduler) as engine,
    ):
        device = f"{own.engine}, {engine.workers} worker{'s' * (engine.workers != 1)}"
        watch = Watch(listener, count, **about, device=device, dashboard=engine.dashboard)
        queue = Queue(_begun(ledger))
        for item, outcome in engine.map(shared(work, own, engine.workers), queue):
            if outcome.state == "stopped":
                raise _error(outcome)
            if not queue.ended(item, outcome):
                continue
            ledger.finish(item.id, outcome)
            watch.update(item, outcome)


def _begun(ledger: Ledger) -> Iterator[Item]:
    """The scenes that wait; each is `running` when an engine has taken it."""
    for item in ledger.waiting():
        ledger.begin(item.id)
        yield item


@contextmanager
def _ending(ledger: Ledger, folder: Path, own: BatchOptions) -> Iterator[None]:
    """However the run ends, what it began and did not finish waits for the next one."""
    try:
        yield
    finally:
        ledger.again("running")
        if own.scheduler is None:  # the workers of another's cluster may still be at it
            _sweep(folder)


def shared(work: Work, own: BatchOptions, workers: int) -> Work:
    """The work for one of several workers on this machine: each has its share of the cores."""
    if workers == 1 or own.scheduler is not None or "threads" in work.options:
        return work
    return work.with_threads(max(1, (os.cpu_count() or 1) // workers))


@contextmanager
def _anew(ledger: Ledger, path: Path, way: bool = False) -> Iterator[Path | None]:
    """`path`, if it is gone, or was made another `way` or before scenes ended; else None."""
    key, stamp = f"stamp of {path.name}", [*ledger.stamp(), way]
    if path.exists() and ledger[key] == stamp:
        yield None
        return
    yield path
    ledger[key] = stamp


def _result(ledger: Ledger, folder: Path, own: BatchOptions, seconds: float) -> BatchResult:
    counts, totals = ledger.counts(), ledger.totals()
    dataset = [str(folder / own.dataset)] if own.dataset is not None else []
    outputs = (
        str(folder / output.path)
        for entry in ledger.entries("done")
        for output in (entry.outcome.outputs if entry.outcome else ())
        if not (dataset and output.role == "polygons")
    )
    return BatchResult(
        output=folder,
        scenes=counts.total(),
        done=counts["done"],
        failed=counts["failed"],
        skipped=counts["skipped"],
        polygons=int(totals["polygons"]),
        tiles=int(totals["tiles"]),
        km2=round(totals["km2"], 6),
        seconds=round(seconds, 3),
        outputs=(*dataset, *outputs),
        report=folder / REPORT,
    )


def _error(outcome: Outcome) -> GeosegError:
    """What a worker could not go on with, as it would have been raised here."""
    kind = getattr(errors, outcome.kind or "", GeosegError)
    if kind is errors.MissingDependencyError or not issubclass(kind, GeosegError):
        kind = GeosegError
    error: GeosegError = kind(f"{outcome.error} (what is done stays: run the command again)")
    return error


def _folder(output: Source) -> Path:
    if not os.fspath(output):
        raise UsageError("batch: no output is given: name a folder")
    folder = Path(output).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file: name a folder for the outputs")
    return folder


@contextmanager
def _ledger(folder: Path, has_items: bool) -> Iterator[Ledger]:
    """The ledger of a folder that no other run is at work in."""
    path = folder / NAME
    if not path.exists():
        if not has_items:
            raise UsageError(f"{folder}: holds no {NAME}: give a SOURCE of scenes")
        if folder.exists() and any(folder.iterdir()):
            raise OutputError(f"{folder}: is not empty and holds no {NAME}: name a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(f"{folder}: cannot be made ({e.strerror})") from e
    with alone(folder), Ledger.open(path) as ledger:
        yield ledger


def _forget(ledger: Ledger, folder: Path) -> None:
    """All scenes, and their outputs."""
    for entry in ledger.entries():
        for output in entry.outcome.outputs if entry.outcome else ():
            (folder / output.path).unlink(missing_ok=True)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    ledger.clear()
