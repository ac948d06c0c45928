"""Engines: who runs a function over the scenes of an archive.

An engine is a module with a context manager `engine`, imported when it is asked for. What it
gives has one method that matters::

    map(function, items) -> iterator of (item, outcome), as they are ready

`items` are taken one by one, when there is a worker for them, so that an archive need not fit into
memory. An item whose worker dies is tried again by another, `TRIES` times in all; then its outcome
is `failed`. What `function` raises ends the run, and so does leaving the iterator early.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from geoseg.batch.items import Item
from geoseg.batch.outcome import Outcome

Function = Callable[[Item], Outcome]
TRIES = 3  # of a scene whose worker dies
ENGINES = {
    "serial": "geoseg.batch.engines.serial",
    "processes": "geoseg.batch.engines.processes",
    "dask": "geoseg.batch.engines.dask",
}


class Engine(Protocol):
    """Ready to run.

    workers: how many scenes are under way at once. dashboard: where to watch, if anywhere.
    """

    @property
    def workers(self) -> int: ...
    @property
    def dashboard(self) -> str | None: ...

    def map(self, function: Function, items: Iterable[Item]) -> Iterator[tuple[Item, Outcome]]: ...


def open_engine(
    name: str, *, workers: int | None = None, scheduler: str | None = None
) -> AbstractContextManager[Engine]:
    """The engine of that name; workers are chosen when not given, scheduler is of a cluster."""
    module: Any = importlib.import_module(ENGINES[name])
    opened: AbstractContextManager[Engine] = module.engine(workers=workers, scheduler=scheduler)
    return opened


def lost(item: Item, tries: int = TRIES) -> Outcome:
    """Of a scene that takes its workers with it."""
    return Outcome(
        "failed",
        f"{item.id}: its worker died {tries} times: does the scene need more memory than there is? "
        "(smaller tiles: --tile; fewer workers: --workers)",
        "WorkerLost",
    )
