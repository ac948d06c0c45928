"""The loop: batches in, one step after the other, validation and checkpoints in between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from geoseg.train.config import ScheduleConfig
from geoseg.train.devices import Fabric, part
from geoseg.train.learner import Job, Learner
from geoseg.train.log import Log
from geoseg.train.memory import capped, exhausted, too_large

MINUTES = 5.0  # between checkpoints, at most; validations make some, too


def fit(fabric: Fabric, job: Job) -> None:
    """Train to the end, from the last checkpoint on if there is one; runs in every process."""
    schedule = job.config.schedule
    torch.set_num_threads(schedule.threads)
    with capped(fabric.device, schedule.devices):
        try:
            _fit(fabric, job)
        except (RuntimeError, MemoryError) as e:
            if not exhausted(e):
                raise
            raise too_large(schedule, fabric.device.type) from e
    part(fabric)


def _fit(fabric: Fabric, job: Job) -> None:
    learner = Learner(fabric, job)
    learner.resume()
    blocks, saved = job.task.blocks(job.sheets, job.scaling.offset), time.monotonic()
    with Log(job, learner.step, active=fabric.is_global_zero) as log:
        for images, targets in () if learner.finished else batches(fabric, job, learner.step):
            rate = learner.rate
            log.loss(learner.learn(images, targets), rate)
            late = learner.any(time.monotonic() - saved > 60 * MINUTES)
            if learner.validates:
                found = learner.validate(blocks)
                log.scores(found)
                learner.judge(found.judged)
            if learner.validates or late:
                log.flush()
                learner.save()
                saved = time.monotonic()
            if learner.finished:
                break


def batches(fabric: Fabric, job: Job, first: int) -> Iterator[tuple[Tensor, Any]]:
    """This process's windows of each step from `first` on, on its device."""
    schedule, device = job.config.schedule, fabric.device
    loader = DataLoader(
        job.task.windows(job.sheets, job.scaling.offset),
        batch_sampler=shares(schedule, first, fabric.global_rank),
        collate_fn=job.task.collate,
        num_workers=schedule.workers,
        pin_memory=device.type == "cuda",
    )
    for images, targets in loader:
        yield images.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def shares(s: ScheduleConfig, first: int, rank: int) -> Iterator[list[int]]:
    """Which windows the process `rank` goes through, in each step from `first` on."""
    share = s.batch // s.devices
    for step in range(first, s.steps):
        start = step * s.batch + rank * share
        yield list(range(start, start + share))
