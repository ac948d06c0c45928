"""Scenes over processes of this machine: one for each GPU, or for a group of cores.

Each worker is a pool of one process, so that it is known whose scene was lost when one dies.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from geoseg.batch.engines import TRIES, Function, lost
from geoseg.batch.items import Item
from geoseg.batch.outcome import Outcome
from geoseg.errors import GeosegError

T = TypeVar("T")
CORES = 4  # of a worker: with more a network gains little
PATIENCE = 30  # seconds for workers to clean up when the run is ended


class Processes:
    """See geoseg.batch.engines.Engine."""

    dashboard = None

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pools = [_pool(number) for number in range(workers)]

    def start(self) -> None:
        """Start all workers; a GeosegError if they cannot be."""
        started = [_submit(pool, os.getpid) for pool in self._pools]
        try:
            started[0].result()
        except BrokenProcessPool as e:  # each would run the script anew, and come to here
            raise GeosegError(
                "processes: no worker could be started: does the script that calls batch do so "
                'under `if __name__ == "__main__":`?'
            ) from e

    def map(self, function: Function, items: Iterable[Item]) -> Iterator[tuple[Item, Outcome]]:
        rest, free = iter(items), deque(range(self.workers))
        running: dict[Future[Outcome], tuple[int, Item, int]] = {}  # worker, scene, try
        while True:
            while free and (item := next(rest, None)) is not None:
                number = free.popleft()
                running[self._submit(number, function, item)] = number, item, 1
            if not running:
                return
            ended = []
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, item, tries = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    self._pools[number].shutdown(wait=False)
                    self._pools[number] = _pool(number)
                    if tries < TRIES:
                        again = self._submit(number, function, item)
                        running[again] = number, item, tries + 1
                        continue
                    outcome = lost(item)
                free.append(number)
                ended.append((item, outcome))
            yield from ended

    def _submit(self, number: int, function: Function, item: Item) -> Future[Outcome]:
        try:
            return _submit(self._pools[number], _call, function, item)
        except BrokenProcessPool:  # it died while it had nothing to do
            self._pools[number] = _pool(number)
            return _submit(self._pools[number], _call, function, item)

    def close(self) -> None:
        """End all workers; what they are at is cleaned up, or lost after a while."""
        ours = [process for pool in self._pools for process in _processes(pool)]
        for process in ours:
            with suppress(OSError, ValueError):
                process.terminate()
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for process in ours:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()


@contextmanager
def engine(*, workers: int | None = None, scheduler: str | None = None) -> Iterator[Processes]:
    """workers: as many as there are GPUs, or one for every four cores, when not given."""
    processes = Processes(workers or len(gpus()) or max(1, (os.cpu_count() or 1) // CORES))
    try:
        processes.start()
        yield processes
    finally:
        processes.close()


def gpus() -> list[str]:
    """NVIDIA GPUs as CUDA_VISIBLE_DEVICES names them, without asking a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    return [str(i) for i in range(64) if Path(f"/dev/nvidia{i}").exists()]


def _pool(number: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # threads and CUDA do not survive a fork
    return ProcessPoolExecutor(1, mp_context=context, initializer=_born, initargs=(number,))


def _submit(pool: ProcessPoolExecutor, call: Callable[..., T], *arguments: Any) -> Future[T]:
    """Give it to a pool. A worker that is started by it inherits that Ctrl-C is not for it, so
    that none has to be shielded while it is still importing; here it comes right after."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return pool.submit(call, *arguments)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(call, *arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _processes(pool: ProcessPoolExecutor) -> list[Any]:
    # Python 3.14 has terminate_workers; before it nothing public names the processes.
    return list((getattr(pool, "_processes", None) or {}).values())


_at_work = False
_ending = False


def _born(number: int) -> None:
    """In a new worker: Ctrl-C is its parent's, its parent's death is its own; one GPU is its."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if len(several := gpus()) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = several[number % len(several)]


def _call(function: Function, item: Item) -> Outcome:
    global _at_work
    _at_work = True
    try:
        if _ending:
            raise KeyboardInterrupt
        return function(item)
    finally:
        _at_work = False


def _end(signum: int, frame: object) -> None:
    """Break off what is under way, so that it cleans up; a worker without any is ended anyhow."""
    global _ending
    _ending = True
    if _at_work:
        raise KeyboardInterrupt


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
