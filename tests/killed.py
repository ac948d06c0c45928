"""Trainings in processes of their own, which may be killed at a chosen moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from geoseg.train import learner
from geoseg.train.config import TrainConfig

Patch = Callable[[], None]  # a function of a module: processes find it by its name

# Not forked from here: where a backward pass has been made autograd refuses to work in a fork.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["geoseg.train.run"])


def attempt(
    config: TrainConfig, root: Path, folder: Path, patch: Patch | None = None
) -> int | None:
    """Train, after `patch` has been called in that process; its exit code."""
    process = _SERVER.Process(target=_train, args=(config, root, folder, patch))
    process.start()
    process.join()
    return process.exitcode


def _train(config: TrainConfig, root: Path, folder: Path, patch: Patch | None) -> None:
    from geoseg.train.run import run

    if patch:
        patch()
    run(config, root, folder, progress=False)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(owner: Any, name: str, number: int, before: Callable[..., None]) -> None:
    """Let `before` see the arguments of a function's `number`th call."""
    original, calls = getattr(owner, name), [0]

    def patched(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            before(*args)
        return original(*args, **kwargs)

    setattr(owner, name, patched)


def in_mid_step() -> None:
    """Patch: the fourth step is not survived."""
    on_call(learner.Learner, "_backward", 4, lambda *_: die())
