"""The options of Mask R-CNN, checked: they come out of recipes and bundles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from geoseg.errors import ModelError
from geoseg.models import nearest

LEVELS = 5  # of the pyramid: strides of 4, 8, 16, 32 and 64 pixels
_SMALLEST = 2  # edge of an anchor, pixels

_CHOICES = {
    "roi": ("align", "pool"),
    "mask_loss": ("sigmoid", "softmax"),
    "mask_head": ("fcn", "mlp"),
}
_MOST = {  # bundles may come from anybody
    "channels": 4096,
    "box_hidden": 16384,
    "mask_channels": 4096,
    "keypoint_channels": 4096,
    "proposals": 100_000,
    "samples": 100_000,
    "detections": 10_000,
}
_MOST_KEYPOINTS = 1000
_MOST_EDGE = 100_000


@dataclass(frozen=True, slots=True)
class Options:
    """The defaults are the paper's, as torchvision has them.

    channels: of the pyramid. anchors: edge of the boxes that proposals start from, in pixels, one
    or several for each of the five levels; aspect_ratios: height through width. roi: how a box's
    features are read: RoIAlign, or RoIPool, which rounds (tables 2c and d of the paper). masks:
    without them it is Faster R-CNN. mask_loss: a sigmoid for each class by itself, or a softmax
    over them and the background (table 2b). mask_head: convolutions, or fully connected layers
    (table 2e). keypoints: how many an object has. box_hidden, mask_channels, keypoint_channels:
    widths of the heads (a mask head of 'mlp' has four times as many). proposals: how many boxes
    are looked at in training and in evaluation, of each level before those that overlap go, and of
    a picture after; samples: from how many anchors and proposals of a picture is learned.
    detections: at most so many objects in a picture; floor: their least score; nms: of two boxes
    of a class with a greater IoU the lower one goes. picture: edge in pixels of the picture that
    proposals and detections of the evaluation are meant for; a larger one gets more, by its area:
    a tile of a town holds more objects than a chip of it. 0: as many in any, as torchvision has
    it. freeze_norms: batch norms of the encoder keep their statistics in training, as the paper
    has it: for batches of a few pictures, and an encoder that is pretrained.
    """

    encoder: str = "resnet50"
    channels: int = 256
    anchors: Sequence[float | Sequence[float]] = (32, 64, 128, 256, 512)
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    roi: str = "align"
    masks: bool = True
    mask_loss: str = "sigmoid"
    mask_head: str = "fcn"
    keypoints: int = 0
    box_hidden: int = 1024
    mask_channels: int = 256
    keypoint_channels: int = 512
    proposals: Sequence[int] = (2000, 1000)
    samples: Sequence[int] = (256, 512)
    detections: int = 100
    floor: float = 0.05
    nms: float = 0.5
    picture: int = 0
    freeze_norms: bool = False

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Options:
        """A name that is not known, or a value that means nothing, is a ModelError."""
        known = [f.name for f in fields(cls)]
        for name in arguments:
            if name not in known:
                raise ModelError(f"mask_rcnn has no argument {name!r}{nearest(name, known)}")
        return cls(**arguments)

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            _whole_numbers(name, getattr(self, name), 1, most)
        _whole_numbers("keypoints", self.keypoints, 0, _MOST_KEYPOINTS)
        _whole_numbers("picture", self.picture, 0, _MOST_EDGE)
        for name in ("proposals", "samples"):
            given = getattr(self, name)
            if not isinstance(given, Sequence) or len(given) != 2:
                raise ModelError(f"{name}: two whole numbers are needed, not {given!r:.60}")
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ModelError(f"{name}: {value!r:.60} is neither of {', '.join(known)}")
        for name in ("masks", "freeze_norms"):
            if not isinstance(value := getattr(self, name), bool):
                raise ModelError(f"{name}: {value!r:.60} is neither true nor false")
        if not self.masks and (self.mask_loss, self.mask_head) != ("sigmoid", "fcn"):
            raise ModelError("mask_loss and mask_head mean nothing without masks: leave them out")
        for name in ("floor", "nms"):
            if not _numbers([getattr(self, name)]) or not 0 <= getattr(self, name) <= 1:
                raise ModelError(f"{name}: {getattr(self, name)!r:.60} is no number in 0..1")
        if not isinstance(self.aspect_ratios, Sequence) or not _numbers(self.aspect_ratios, 0.01):
            raise ModelError(f"aspect_ratios: {self.aspect_ratios!r:.60} are no positive numbers")
        self._check_anchors()

    def _check_anchors(self) -> None:
        given = self.anchors
        if not isinstance(given, Sequence) or len(given) != LEVELS:
            raise ModelError(
                f"anchors: one entry for each of the {LEVELS} levels of the pyramid is needed, "
                f"not {given!r:.60}"
            )
        for level in self.sizes:
            if not _numbers(level, _SMALLEST):
                raise ModelError(
                    f"anchors: {level!r:.60} are no edges of {_SMALLEST} pixels or more"
                )
        counts = sorted({len(level) for level in self.sizes})
        if len(counts) > 1:  # one head serves all levels
            raise ModelError(f"anchors: each level needs equally many, not {counts}")

    @property
    def sizes(self) -> tuple[tuple[float, ...], ...]:
        """The anchors of each level."""
        return tuple(tuple(a) if isinstance(a, Sequence) else (a,) for a in self.anchors)

    def times(self, height: int, width: int) -> float:
        """How many times as much as in its own picture is looked for in one of this size."""
        return max(1.0, height * width / self.picture**2) if self.picture else 1.0

    @property
    def anchors_per_place(self) -> int:
        return len(self.sizes[0]) * len(self.aspect_ratios)


def _whole_numbers(name: str, value: Any, least: int, most: int) -> None:
    for number in value if isinstance(value, list | tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
            raise ModelError(f"{name} must be {least} to {most}, not {value!r:.60}")


def _numbers(values: Sequence[Any], least: float = 0.0) -> bool:
    return len(values) > 0 and all(
        isinstance(v, int | float) and not isinstance(v, bool) and least <= v < math.inf
        for v in values
    )
