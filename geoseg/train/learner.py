"""A network that learns: one step, one validation, one checkpoint.

All chance in a step comes from (seed, step), so a run that goes on from a checkpoint does what it
would have done anyway; on one CPU, to the last bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geoseg.bundle import rounded
from geoseg.data.sheets import Sheet
from geoseg.errors import GeosegError, ModelError, UsageError
from geoseg.events import Listener, ignore
from geoseg.spec import Scaling
from geoseg.train import checkpoint
from geoseg.train.augment import Augment
from geoseg.train.config import TrainConfig
from geoseg.train.devices import Fabric
from geoseg.train.memory import advice, broken, exhausted
from geoseg.train.networks import Scale, prepared
from geoseg.train.optimizer import MovingAverage, learning_rate, new_optimizer, set_rates
from geoseg.train.task import Judged, Task, task_of
from geoseg.train.windows import Blocks

CLIP = 1.0  # longest gradient (Pascanu et al. 2013)
_PROGRESS = ("step", "best", "best_step", "waited")
_STATE = ("network", "average", "optimizer", "precision", *_PROGRESS)


@dataclass(frozen=True)
class Job:
    """What is to be trained, on what, where it is written, and who is told of it."""

    config: TrainConfig
    network: nn.Module
    scaling: Scaling
    sheets: Sequence[Sheet]
    folder: Path
    progress: bool = False
    listener: Listener = ignore

    @property
    def task(self) -> Task:
        return task_of(self.config)


class Learner:
    """Weights, their moving average, the optimizer, and how far all of it is.

    step: how many were done. best, best_step: score and step of the best validation. waited:
    validations since then.
    """

    def __init__(self, fabric: Fabric, job: Job) -> None:
        self.fabric, self.config, self.folder = fabric, job.config, job.folder
        self.task = job.task
        s = job.config.schedule
        # A copy: tensors that came from another process share their memory with it.
        self.bare = prepared(copy.deepcopy(job.network), fabric.device, s)
        self.optimizer = new_optimizer(self.bare, s)
        self.network, self._stepper = fabric.setup(self.bare, self.optimizer)
        self.average = MovingAverage(self.bare, s.ema) if s.ema else None
        self.scale = Scale(job.scaling, fabric.device)
        assert job.config.data.value_range is not None  # resolved
        self.augment = Augment(job.config.augment, s.chip, job.config.data.value_range)
        self.step, self.best, self.best_step, self.waited = 0, -math.inf, 0, 0

    @property
    def rate(self) -> float:
        """Learning rate of the coming step, but for the encoder's factor."""
        return self.config.schedule.lr * learning_rate(self.step, self.config.schedule)

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept in the end: the moving average, if there is one."""
        return self.average.network if self.average else self.bare

    @property
    def validates(self) -> bool:
        """Whether it is time to, after a step."""
        s = self.config.schedule
        return self.step % s.validate_every == 0 or self.step >= s.steps

    @property
    def finished(self) -> bool:
        s = self.config.schedule
        return self.step >= s.steps or (s.patience is not None and self.waited >= s.patience)

    # --- a step ---

    def learn(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        """One step of the optimizer on windows (N, C, S, S); the loss and its terms, scalars.

        The windows are augmented together and gone through in `accumulate` parts. Parts (and
        processes) count by what their targets hold (labelled pixels), so that a loss that is a
        mean over that has the gradient of the whole batch. A loss of regions (Dice ...) is the
        mean of the parts' own, and batch normalization sees one part at a time.
        """
        try:
            return self._learn(images, targets)
        except (RuntimeError, MemoryError, ValueError) as e:
            if "more than 1 value per channel" in str(e):
                raise UsageError(
                    "this network normalizes over two windows at a time or more: make "
                    "schedule.batch larger, or schedule.accumulate smaller"
                ) from e
            if not exhausted(e):
                raise
            attempt = None if broken(e) else self._attempt
        raise advice(attempt, self.config.schedule, self.fabric.device.type)

    def _learn(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        seed = _seed(self.config.schedule.seed, self.step, self.fabric.global_rank)
        torch.manual_seed(seed)  # for dropout and its like
        generator = torch.Generator().manual_seed(seed)
        values = self._backward(*self.task.augment(self.augment, images, targets, generator))
        set_rates(self.optimizer, self.step, self.config.schedule)
        # a step that overflows in float16 is left out by the scaler
        self.fabric.clip_gradients(
            self.network, self._stepper, max_norm=CLIP, error_if_nonfinite=False
        )
        self._stepper.step()
        self._stepper.zero_grad()
        if self.average:
            self.average.update(self.bare)
        self.step += 1
        return values

    def _backward(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        """The loss of augmented windows, its gradient left in the parameters; and its terms."""
        s, counts = self.config.schedule, self.task.counts(targets)
        total = self._sum(counts.sum()).clamp(min=1)
        found: dict[str, Any] = {}
        parts = list(zip(*(t.chunk(s.accumulate) for t in (images, targets, counts)), strict=True))
        for i, (x, y, k) in enumerate(parts, 1):
            with self.fabric.no_backward_sync(self.network, enabled=i < len(parts)):
                terms = self.task.losses(self.network, self.scale(x), y)
                loss, share = torch.stack(list(terms.values())).sum(), k.sum() / total
                # processes take the mean of their gradients, where the sum is meant
                self.fabric.backward(loss * share * s.devices)
            for name, value in {"loss": loss, **terms}.items():
                found[name] = found.get(name, 0) + value.detach() * share
        values = self._sum(torch.stack(list(found.values())))
        return dict(zip(found, values, strict=True))

    def _sum(self, value: Tensor) -> Tensor:
        """Over all processes."""
        if self.fabric.world_size == 1:
            return value
        total = self.fabric.all_reduce(value, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return bool(self._sum(torch.tensor(float(flag), device=self.fabric.device)) > 0)

    def _attempt(self, count: int) -> None:
        """A step on `count` empty windows, to see whether they fit."""
        self.optimizer.zero_grad()
        if self.fabric.world_size > 1:
            return  # the others wait for this process's next message: nothing can be tried
        s, device = self.config.schedule, self.fabric.device
        images = torch.zeros((count, len(self.config.data.bands), s.chip, s.chip), device=device)
        targets = self.task.empty(count, device)
        with self.fabric.autocast():
            terms = self.task.losses(self.bare, self.scale(images), targets)
        self.fabric.backward(torch.stack(list(terms.values())).sum())

    # --- a validation ---

    def validate(self, blocks: Blocks) -> Judged:
        """Scores of the blocks; each process goes through its part of them."""
        fabric, network = self.fabric, self.judged
        training = network.training
        network.eval()

        def predict(image: Tensor) -> Any:
            with fabric.autocast():
                return self.task.answer(network(self.scale(image[None].to(fabric.device))))

        mine = range(fabric.global_rank, len(blocks), fabric.world_size)
        try:
            found = self.task.counted(predict, blocks, mine)
        except (RuntimeError, MemoryError) as e:
            if not exhausted(e):
                raise
            raise GeosegError(
                f"{fabric.device.type} has too little memory for a validation block of "
                f"{self.config.data.split.block:g} m: make data.split.block smaller"
            ) from e
        finally:
            network.train(training)
        for place, counts in found.items():
            found[place] = self._sum(torch.from_numpy(counts).to(fabric.device)).cpu().numpy()
        return self.task.scores(found)

    def judge(self, score: float) -> None:
        """Keep what is better than all before; count what is not."""
        if score > self.best:
            self.best, self.best_step, self.waited = score, self.step, 0
            if self.config.schedule.patience:
                self._write(checkpoint.BEST, {"step": self.step})
        else:
            self.waited += 1

    # --- a checkpoint ---

    def save(self) -> None:
        """Write last.ckpt."""
        state: dict[str, Any] = {
            "network": self.bare.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            **{key: getattr(self, key) for key in _PROGRESS},
        }
        self._write(checkpoint.LAST, state)

    def _write(self, name: str, state: dict[str, Any]) -> None:
        try:
            rounded(self.judged.state_dict())
        except ModelError as e:  # what a bundle could not hold is not worth keeping either
            what, _, _ = str(e).partition(": ")
            raise GeosegError(f"after step {self.step} {what}: make schedule.lr smaller") from e
        if self.fabric.is_global_zero:
            checkpoint.write(self.folder / name, {**state, "average": self.judged.state_dict()})

    def resume(self) -> None:
        """Go on from last.ckpt, if it is there."""
        state = checkpoint.read(self.folder / checkpoint.LAST, wanted=_STATE)
        if state is None:
            return
        self.bare.load_state_dict(state["network"])
        if self.average:
            self.average.load(state["average"], state["step"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        for key in _PROGRESS:
            setattr(self, key, state[key])


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
