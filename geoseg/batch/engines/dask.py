"""Scenes over a Dask cluster: an existing one, or one of processes of this machine."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

from geoseg.batch.engines import TRIES, Function, lost
from geoseg.batch.items import Item
from geoseg.batch.outcome import Outcome
from geoseg.errors import GeosegError, MissingDependencyError

AHEAD = 2  # scenes for each thread of the cluster: no worker waits for the next one
LOOK = 5.0  # seconds between two looks at how many workers there are
PATIENCE = 60  # seconds for a cluster to answer, and to have a worker
_LOST = "the scheduler {} is lost: start it, and run the command again; what is done stays"


class Dask:
    """See geoseg.batch.engines.Engine."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self._threads, self._looked = self._count(), time.monotonic()

    @property
    def workers(self) -> int:
        return self._threads

    @property
    def dashboard(self) -> str | None:
        if find_spec("bokeh") is None:
            return None
        link: str | None = self._client.dashboard_link
        return link

    def map(self, function: Function, items: Iterable[Item]) -> Iterator[tuple[Item, Outcome]]:
        import distributed

        rest = iter(items)
        running: dict[str, Item] = {}
        module: Any = distributed  # without types
        ended = module.as_completed()
        while True:
            while len(running) < AHEAD * self._wanted() and (item := next(rest, None)) is not None:
                key = f"geoseg-{item.id}-{uuid4().hex[:8]}"
                future = self._client.submit(function, item, key=key, pure=False)
                running[key] = item
                ended.add(future)
            if not running:
                return
            future = next(ended)
            item = running.pop(future.key)
            yield item, self._outcome(item, future)
            future.release()

    def _outcome(self, item: Item, future: Any) -> Outcome:
        from distributed import KilledWorker

        try:
            outcome: Outcome = future.result()
        except KilledWorker:
            return lost(item)
        except (CancelledError, asyncio.CancelledError, OSError) as e:
            raise GeosegError(_LOST.format(self._address)) from e
        return outcome

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
    if find_spec("distributed") is None:
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
                dashboard_address=":0" if find_spec("bokeh") else None,
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
        yield Dask(client, address)
