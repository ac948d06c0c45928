"""Scenes over a Dask cluster: an existing one, or one of processes of this machine."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

from geoseg.batch.engines import TRIES, Function, lost
from geoseg.batch.items import Item
from geoseg.batch.outcome import Outcome
from geoseg.errors import GeosegError, MissingDependencyError

AHEAD = 2  # scenes for each thread of the cluster: no worker waits for the next one
LOOK = 5.0  # seconds between two looks at how many workers there are
TICK = 0.02  # seconds between two looks at what has ended
PATIENCE = 60  # seconds for a cluster to answer, and to have a worker
_NO_WORKERS = (
    "the cluster {} has no workers any more: start some, and run the command again; what is done "
    "stays"
)
_LOST = "the scheduler {} is lost: start it, and run the command again; what is done stays"


class Dask:
    """See geoseg.batch.engines.Engine."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self._threads, self._looked = self._count(), time.monotonic()
        self._without: float | None = None  # since when there are no workers

    @property
    def workers(self) -> int:
        return self._threads

    @property
    def dashboard(self) -> str | None:
        if importlib.util.find_spec("bokeh") is None:
            return None
        link: str | None = self._client.dashboard_link
        return link

    def map(self, function: Function, items: Iterable[Item]) -> Iterator[tuple[Item, Outcome]]:
        import distributed

        module: Any = distributed  # without types
        rest, ended = iter(items), module.as_completed()
        running: dict[str, Item] = {}
        suspects: list[Item] = []
        while True:
            while len(running) < AHEAD * self._wanted() and (item := next(rest, None)) is not None:
                future = self._submit(function, item)
                running[future.key] = item
                ended.add(future)
            if not running:
                break
            future = self._next(ended)
            item = running.pop(future.key)
            if (outcome := self._outcome(future)) is None:
                suspects.append(item)
            else:
                yield item, outcome
        # A worker that dies takes with it what waited there, too: one by one it is known whose
        # fault it is.
        for item in suspects:
            yield item, self._outcome(self._submit(function, item)) or lost(item)

    def _submit(self, function: Function, item: Item) -> Any:
        key = f"geoseg-{item.id}-{uuid4().hex[:8]}"
        return self._client.submit(function, item, key=key, pure=False)

    def _outcome(self, future: Any) -> Outcome | None:
        """What became of a scene; None where its workers died."""
        from distributed import KilledWorker

        try:
            outcome = self._result(future)
        except KilledWorker:
            return None
        except (CancelledError, asyncio.CancelledError, OSError) as e:
            raise GeosegError(_LOST.format(self._address)) from e
        finally:
            future.release()
        return outcome

    def _next(self, ended: Any) -> Any:
        """The next future that has ended."""
        while not ended.has_ready():
            time.sleep(TICK)
            self._must_have_workers()
        return next(ended)

    def _result(self, future: Any) -> Outcome:
        """What a future gives; one that ended on a worker that is gone is computed again."""
        while True:
            try:
                outcome: Outcome = future.result(timeout=LOOK)
            except TimeoutError:
                self._must_have_workers()
            else:
                return outcome

    def _must_have_workers(self) -> None:
        """Who has lost all workers is not waited for for ever: a GeosegError."""
        self._wanted()  # looks now and then
        if self._threads:
            self._without = None
        elif self._without is None:
            self._without = time.monotonic()
        elif time.monotonic() - self._without > PATIENCE:
            raise GeosegError(_NO_WORKERS.format(self._address))

    def _wanted(self) -> int:
        """Threads of the cluster; it may grow and shrink."""
        if time.monotonic() - self._looked > LOOK:
            self._threads, self._looked = self._count(), time.monotonic()
        return max(1, self._threads)

    def _count(self) -> int:
        try:
            return sum(self._client.nthreads().values())
        except OSError as e:
            raise GeosegError(_LOST.format(self._address)) from e


@contextmanager
def engine(*, workers: int | None = None, scheduler: str | None = None) -> Iterator[Dask]:
    """scheduler: of an existing cluster, which must see the folders under the same names.

    Without one a cluster of `workers` processes is started here, and ended with the run.
    """
    if importlib.util.find_spec("distributed") is None:
        raise MissingDependencyError("distributed", "dask")
    import dask
    import distributed

    module: Any = distributed  # without types

    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": TRIES - 1}))
        if scheduler is None:
            cluster = module.LocalCluster(
                n_workers=workers or max(1, (os.cpu_count() or 1) // 4),
                threads_per_worker=1,
                memory_limit=0,  # a scene's memory does not grow, and is not the cluster's to guess
                dashboard_address=":0",  # any port that is free
                preload=["geoseg.batch.engines.preload"],
                silence_logs=logging.CRITICAL,
            )
            stack.enter_context(cluster)
        address = scheduler or cluster.scheduler_address
        try:
            client = stack.enter_context(module.Client(address, timeout=PATIENCE))
            client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, ValueError, TimeoutError) as e:
            raise GeosegError(
                f"{address}: no Dask scheduler with workers answers there ({e}): check the address"
            ) from e
        if scheduler is not None:
            _must_have_geoseg(client, address)
        yield Dask(client, address)


def _must_have_geoseg(client: Any, address: str) -> None:
    """A worker that cannot read its first scene would end, and the run wait for another one."""
    found = client.run(importlib.util.find_spec, "geoseg", on_error="return")
    lacking = sorted(worker for worker, spec in found.items() if spec is None)
    if lacking:
        raise GeosegError(
            f"{address}: its workers lack geoseg ({', '.join(lacking[:3])}): install the same "
            "version in their environment"
        )
