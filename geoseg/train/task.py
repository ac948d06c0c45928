"""The seam between models of pixels and models of objects.

All of a run that is not in here is the same for both: places, split, drawing of windows, looks,
steps, precision, checkpoints, processes, early stopping, the bundle. `PixelTask` (pixels.py) and
`ObjectTask` (instances/) fill it in; which one a recipe wants follows from its architecture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from geoseg import models
from geoseg.data.sheets import Sheet
from geoseg.spec import ClassInfo
from geoseg.train.augment import Augment
from geoseg.train.config import TrainConfig
from geoseg.train.networks import Blueprint
from geoseg.train.windows import Blank, Blocks

Predict = Callable[[Tensor], Any]  # image (C, h, w) -> what Task.answer makes of the network's


class Targets(Protocol):
    """What is true of the windows of a batch: a tensor (N, ...), or something as easily handled."""

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Any: ...
    def chunk(self, parts: int) -> Sequence[Any]: ...


class Judged(Protocol):
    """Of a validation. judged: the greater, the better; as_dict: by the columns of the log."""

    @property
    def judged(self) -> float: ...
    def as_dict(self) -> dict[str, float]: ...


class Task(ABC):
    """What a network learns, and how well it did; made anew from a recipe wherever it is needed.

    outlines: whether sheets have to keep the outlines of objects. measure: what the best weights
    are told by, as the log and result.json name it.
    """

    outlines: ClassVar[bool]
    measure: ClassVar[str]

    def __init__(self, config: TrainConfig, blueprint: Blueprint) -> None:
        self.config, self.blueprint = config, blueprint

    # --- before the first step ---

    def check(self) -> None:  # noqa: B027
        """A ConfigError where the recipe asks for what this kind of model cannot do."""

    def resolve(self, sheets: Sequence[Sheet]) -> tuple[dict[str, Any], list[str]]:
        """The network's arguments, what the recipe leaves out measured; and what is to be said."""
        return dict(self.config.model.arguments), []

    # --- windows and steps ---

    @abstractmethod
    def windows(self, sheets: Sequence[Sheet], blank: Blank) -> Dataset[Any]:
        """Item i is (image (C, S, S) float32, target) of the window i."""

    @abstractmethod
    def collate(self, items: list[Any]) -> tuple[Tensor, Targets]:
        """Images (N, C, S, S) and targets of a batch."""

    @abstractmethod
    def augment(
        self, augment: Augment, images: Tensor, targets: Any, generator: torch.Generator
    ) -> tuple[Tensor, Any]:
        """The batch as the network is to see it: (N, C, chip, chip)."""

    @abstractmethod
    def counts(self, targets: Any) -> Tensor:
        """(N,) float32: how much each window counts beside the others of its batch."""

    @abstractmethod
    def losses(self, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        """The terms whose sum is the loss, each times its weight; mean over what they count."""

    @abstractmethod
    def empty(self, count: int, device: torch.device) -> Any:
        """Targets of so many windows on which there is nothing."""

    # --- validation ---

    @abstractmethod
    def blocks(self, sheets: Sequence[Sheet], blank: Blank) -> Blocks:
        """The blocks that validate."""

    @abstractmethod
    def answer(self, output: Any) -> Any:
        """What the network says of one picture, out of its output for a batch of one."""

    @abstractmethod
    def counted(
        self, predict: Predict, blocks: Any, chosen: Iterable[int]
    ) -> dict[str, NDArray[np.int64]]:
        """Place -> counts that add up over blocks and processes; every place is there."""

    @abstractmethod
    def scores(self, counts: Mapping[str, NDArray[np.int64]]) -> Judged: ...

    @abstractmethod
    def columns(self, places: Iterable[str]) -> list[str]:
        """Of the log: the terms of the loss, then the scores."""

    # --- the end ---

    @abstractmethod
    def examine(self, predict: Predict, blocks: Any) -> dict[str, Any]:
        """For result.json: temperature, threshold, validation (place -> numbers) and classes."""

    def sizes(self, sheets: Sequence[Sheet]) -> dict[str, Any]:
        """What else result.json has to keep for `contract`."""
        return {}

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """In the order of the network's channels, or of its labels."""
        return self.blueprint.classes(self.config)

    @abstractmethod
    def contract(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """What only this kind of model has in its ModelSpec, by field."""

    @property
    @abstractmethod
    def limits(self) -> str:
        """What a user of the model should know, for its card."""

    @abstractmethod
    def terms(self) -> str:
        """The loss in words."""

    @abstractmethod
    def verdict(self, result: Mapping[str, Any]) -> str:
        """How good it became, in half a line."""


def task_of(config: TrainConfig) -> Task:
    """What the recipe's network learns."""
    from geoseg.train.instances import ObjectTask
    from geoseg.train.pixels import PixelTask

    blueprint = Blueprint.of(config)
    objects = models.task_of(blueprint.architecture) == "instance-segmentation"
    return (ObjectTask if objects else PixelTask)(config, blueprint)
