"""Runtimes around runtimes: test-time augmentation and ensembles, means of probabilities.

Both work on numpy arrays, so they serve every runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import ModelError, UsageError
from geoseg.grid import Tiling
from geoseg.runtime import Runtime
from geoseg.spec import ModelSpec

Batch = NDArray[np.float32]  # (N, C, H, W)
Turn = Callable[[Batch], Batch]


@dataclass(frozen=True, slots=True)
class View:
    """Another way to look at a batch, and how to bring its probabilities back."""

    forward: Turn
    back: Callable[[Batch, tuple[int, int]], Batch]  # also given the (H, W) to come back to


class Augmented:
    """The mean over a batch seen plainly and through each of the views.

    Views: hflip, vflip, rot90 (three rotations), d4 (all eight turns of a square),
    scale:0.75 and other factors.
    """

    def __init__(self, runtime: Runtime, views: Sequence[str]) -> None:
        self._runtime = runtime
        self._views = [view for name in views for view in _views(name, runtime.spec.tiling)]
        self._names = ",".join(views)

    @property
    def spec(self) -> ModelSpec:
        return self._runtime.spec

    @property
    def description(self) -> str:
        return f"{self._runtime.description} tta {self._names}"

    @property
    def batch_size(self) -> int:
        return self._runtime.batch_size

    def predict(self, batch: Batch, /) -> Batch:
        total = self._runtime.predict(batch)
        for view in self._views:
            # not ascontiguousarray, which leaves negative strides on an axis of one pixel
            seen = self._runtime.predict(view.forward(batch).copy())
            total += view.back(seen, batch.shape[2:])
        total /= 1 + len(self._views)
        return total


class Ensemble:
    """The mean of several runtimes that answer the same question.

    Batches come scaled for the first one. Scaling is affine, so each other member gets them
    through one multiplication and addition per band.
    """

    def __init__(self, members: Sequence[Runtime]) -> None:
        self.spec = joined([m.spec for m in members])
        self._members = tuple(members)
        self._rescalings = [_rescaling(members[0].spec, m.spec) for m in members]

    @property
    def description(self) -> str:
        parts = " + ".join(m.spec.id for m in self._members)
        return f"{self._members[0].description} ensemble {parts}"

    @property
    def batch_size(self) -> int:
        return min(m.batch_size for m in self._members)

    def predict(self, batch: Batch, /) -> Batch:
        total: Batch | None = None
        for member, rescaling in zip(self._members, self._rescalings, strict=True):
            scores = member.predict(batch if rescaling is None else rescaling(batch))
            total = scores if total is None else np.add(total, scores, out=total)
        if total is None:
            raise UsageError("an ensemble needs at least one model")
        total /= len(self._members)
        return total


# --- views ----------------------------------------------------------------------------------


def _views(name: str, tiling: Tiling) -> Iterator[View]:
    kind, _, factor = name.partition(":")
    match kind:
        case "hflip":
            yield _turn(0, flip=True)
        case "vflip":
            yield _turn(2, flip=True)
        case "rot90":
            yield from (_turn(k) for k in (1, 2, 3))
        case "d4":
            yield from (_turn(k, flip=f) for f in (False, True) for k in range(4) if k or f)
        case "scale":
            yield _scale(_factor(name, factor), tiling)
        case _:
            raise UsageError(
                f"no test-time augmentation is named {name!r}; "
                "there are: hflip, vflip, rot90, d4, scale:FACTOR"
            )


def _turn(quarters: int, *, flip: bool = False) -> View:
    """Left-right flip (or not), then quarter turns; the way back is the same in reverse."""

    def forward(x: Batch) -> Batch:
        return np.rot90(x[..., ::-1] if flip else x, quarters, axes=(2, 3))

    def back(x: Batch, _: tuple[int, int]) -> Batch:
        x = np.rot90(x, -quarters, axes=(2, 3))
        return x[..., ::-1] if flip else x

    return View(forward, back)


def _scale(factor: float, tiling: Tiling) -> View:
    if tiling.fixed:
        raise UsageError("the model takes tiles of one size only: it cannot see them scaled")

    def forward(x: Batch) -> Batch:
        height, width = (_round(n * factor, tiling.stride) for n in x.shape[2:])
        return resize(x, height, width)

    def back(x: Batch, shape: tuple[int, int]) -> Batch:
        return resize(x, *shape)

    return View(forward, back)


def _factor(name: str, text: str) -> float:
    try:
        factor = float(text)
    except ValueError as e:
        raise UsageError(f"{name!r}: give a factor, such as scale:0.75") from e
    if not 0.25 <= factor <= 4:
        raise UsageError(f"{name!r}: the factor must lie in 0.25..4")
    return factor


def _round(value: float, multiple: int) -> int:
    return max(1, round(value / multiple)) * multiple


def resize(x: Batch, height: int, width: int) -> Batch:
    """Bilinear, over all source pixels when shrinking; as two matrix products."""
    rows, cols = _weights(x.shape[2], height), _weights(x.shape[3], width)
    out: Batch = np.matmul(np.matmul(rows, x), cols.T)
    return out


@lru_cache(maxsize=16)
def _weights(source: int, target: int) -> NDArray[np.float32]:
    """(target, source) matrix of linear interpolation between pixel centres; rows add up to 1."""
    ratio = source / target
    reach = max(1.0, ratio)  # of the tent over each target pixel, in source pixels
    centre = (np.arange(target) + 0.5) * ratio - 0.5
    tent = np.maximum(0, 1 - np.abs(np.arange(source) - centre[:, None]) / reach)
    weights: NDArray[np.float32] = (tent / tent.sum(1, keepdims=True)).astype(np.float32)
    return weights


# --- ensembles ------------------------------------------------------------------------------


def _must_agree(a: ModelSpec, b: ModelSpec) -> None:
    ours, theirs = _question(a), _question(b)
    if math.isclose(a.gsd, b.gsd, rel_tol=0.01):
        theirs["ground sample distances"] = ours["ground sample distances"]
    for what, left in ours.items():
        if left != theirs[what]:
            raise ModelError(
                f"{a.id} and {b.id} cannot be averaged: "
                f"their {what} differ, {left} and {theirs[what]}"
            )


def _question(spec: ModelSpec) -> dict[str, str]:
    """What the members of an ensemble must have in common, in words."""
    return {
        "tasks": spec.task,
        "classes": ", ".join(f"{c.id} {c.name}" for c in spec.classes),
        "bands": ", ".join(b.name for b in spec.bands),
        "ground sample distances": f"{spec.gsd:g} m",
        "value ranges": f"{spec.value_range}",
        "limits of values": f"{spec.scaling.clip}",
        "fixed tile sizes": f"{spec.tiling.size if spec.tiling.fixed else None}",
    }


def _rescaling(first: ModelSpec, other: ModelSpec) -> Turn | None:
    """From the first model's scaled values to another's; None where they are the same."""
    if first.scaling == other.scaling:
        return None
    offset, scale = (np.array([getattr(s.scaling, k) for s in (first, other)]) for k in _AFFINE)
    gain = (scale[0] / scale[1]).astype(np.float32)[:, None, None]
    shift = ((offset[0] - offset[1]) / scale[1]).astype(np.float32)[:, None, None]

    def rescale(batch: Batch) -> Batch:
        out: Batch = batch * gain
        out += shift
        return out

    return rescale


_AFFINE = ("offset", "scale")


def joined(specs: Sequence[ModelSpec]) -> ModelSpec:
    """The contract of an ensemble: the first one's, with tiles that suit all.

    Raises a ModelError where the models do not answer the same question.
    """
    if len(specs) == 1:
        return specs[0]
    for other in specs[1:]:
        _must_agree(specs[0], other)
    tilings = [s.tiling for s in specs]
    stride = math.lcm(*(t.stride for t in tilings))
    size = tilings[0].size
    tiling = Tiling(
        size=size if tilings[0].fixed else -(-size // stride) * stride,
        overlap=max(t.overlap for t in tilings),
        stride=stride,
        fixed=tilings[0].fixed,
    )
    return replace(
        specs[0],
        name="+".join(s.name for s in specs),
        tiling=tiling,
        threshold=sum(s.threshold for s in specs) / len(specs),
    )
