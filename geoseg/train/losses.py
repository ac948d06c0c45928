"""Losses of segmentation; pixels whose target is IGNORE never count, in none of them.

One class against the background is one channel and a sigmoid (label 1 is the object); several
are a softmax over the labels. What a loss measures over regions (Dice, Jaccard, Lovász, Tversky)
it measures over the whole batch, as an image without objects has no Dice of its own, and of
several classes it is the mean over those that the targets of the batch hold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from segmentation_models_pytorch.losses import LovaszLoss
from torch import Tensor
from torch.nn import functional as F

from geoseg.metrics import IGNORE
from geoseg.train.config import LossConfig

_REACH = 4.0  # standard deviations; beyond, the border weight is below a 2000th of its most


def loss(logits: Tensor, target: Tensor, config: LossConfig, *, gsd: float) -> Tensor:
    """The weighted sum of the configured terms.

    logits: (N, K, H, W) float, K = 1: sigmoid, else softmax. target: (N, H, W) uint8, 0 .. K - 1
    (0 or 1 for K = 1) or IGNORE. gsd: metres per pixel. Without any labelled pixel it is 0.
    """
    batch = Batch(logits, target)
    weights = {name: getattr(config, name) for name in TERMS}
    values = [w * TERMS[name](batch, config, gsd) for name, w in weights.items() if w]
    return torch.stack(values).sum()


class Batch:
    """Logits (N, K, H, W) and target (N, H, W), and what several terms need of them."""

    def __init__(self, logits: Tensor, target: Tensor) -> None:
        self.target, self.known = target, target != IGNORE
        # Whatever the network says there, be it NaN, has no effect and no gradient.
        self.logits = logits.float().masked_fill(~self.known[:, None], 0)

    @property
    def binary(self) -> bool:
        return self.logits.shape[1] == 1

    @cached_property
    def wanted(self) -> Tensor:
        """(N, K, H, W) float: 1 where the target is the channel's class."""
        classes = [1] if self.binary else range(self.logits.shape[1])
        wanted = self.target[:, None] == self.target.new_tensor(classes).view(-1, 1, 1)
        return wanted.float()

    @cached_property
    def probability(self) -> Tensor:
        """(N, K, H, W): sigmoid or softmax, 0 where nothing is known."""
        each = self.logits.sigmoid() if self.binary else self.logits.softmax(1)
        return each * self.known[:, None]

    @cached_property
    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Soft hits, false alarms and misses of each class, (K,) over the batch."""
        hits = (self.probability * self.wanted).sum((0, 2, 3))
        alarms = self.probability.sum((0, 2, 3)) - hits
        return hits, alarms, self.wanted.sum((0, 2, 3)) - hits

    def mean_of_present(self, values: Tensor) -> Tensor:
        """Mean of (K,) values over the classes in the target; with one class, its value."""
        if self.binary:
            return values[0]
        present = self.wanted.amax((0, 2, 3))
        return (values * present).sum() / present.sum().clamp(min=1)

    def mean_of_pixels(
        self, values: Tensor, config: LossConfig, extra: Tensor | None = None
    ) -> Tensor:
        """Mean of (N, H, W) values over labelled pixels, weighted by class if so configured.

        extra: (N, H, W) weights on top of the classes', by which the mean is not divided.
        """
        known = self.known.float()
        weights = known
        if config.class_weights is not None:
            classes = known.new_tensor(config.class_weights)
            weights = known * classes[self.target.masked_fill(~self.known, 0).long()]
        heavier = weights if extra is None else weights + extra * known
        return (values * heavier).sum() / weights.sum().clamp(min=1e-6)


# --- terms that look at pixels --------------------------------------------------------------


def _cross_entropy(batch: Batch, config: LossConfig, gsd: float) -> Tensor:
    """Cross entropy, mean over labelled pixels.

    smoothing: as much probability moves from the true class to all others, in equal parts.
    With `border`, the map of `border_weights` is added to the weights, as in the U-Net paper.
    """
    each = _pixelwise(batch, config.smoothing)
    if not config.border:
        return batch.mean_of_pixels(each, config)
    sigma = config.border_width / gsd
    maps = [border_weights(t, sigma) for t in batch.target.cpu().numpy()]
    emphasis = config.border * torch.from_numpy(np.stack(maps)).to(each)
    return batch.mean_of_pixels(each, config, emphasis)


def _focal(batch: Batch, config: LossConfig, gsd: float) -> Tensor:
    """(1 - p) ** gamma * cross entropy, p of the true class (Lin et al. 2017)."""
    each = _pixelwise(batch)
    missing = (-torch.expm1(-each)).clamp(min=1e-6)  # at 0 some powers have no gradient
    return batch.mean_of_pixels(missing**config.gamma * each, config)


def _pixelwise(batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Cross entropy of each pixel, (N, H, W); anything where nothing is known."""
    if batch.binary:
        wanted = batch.wanted[:, 0] * (1 - 2 * smoothing) + smoothing
        return F.binary_cross_entropy_with_logits(batch.logits[:, 0], wanted, reduction="none")
    k = batch.logits.shape[1]
    return F.cross_entropy(
        batch.logits,
        batch.target.long(),
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=smoothing * k / (k - 1),  # torch spreads it over the true class, too
    )


# --- terms that look at regions -------------------------------------------------------------


def _dice(batch: Batch, config: LossConfig, gsd: float) -> Tensor:
    """1 - soft Dice (Milletari et al. 2016, without their squares)."""
    return _overlap(batch, 0.5, 0.5, 0.5)


def _jaccard(batch: Batch, config: LossConfig, gsd: float) -> Tensor:
    """1 - soft intersection over union (Rahman & Wang 2016)."""
    return _overlap(batch, 1, 1, 1)


def _tversky(batch: Batch, config: LossConfig, gsd: float) -> Tensor:
    """1 - Tversky's index: alpha and beta weigh false alarms and misses (Salehi et al. 2017)."""
    return _overlap(batch, config.alpha, config.beta, 1)


def _overlap(batch: Batch, alpha: float, beta: float, smooth: float) -> Tensor:
    """`smooth` pixels of agreement are taken for granted, so that nothing is divided by 0."""
    hits, alarms, misses = batch.counts
    index = (hits + smooth) / (hits + alpha * alarms + beta * misses + smooth)
    return batch.mean_of_present(1 - index)


def _lovasz(batch: Batch, config: LossConfig, gsd: float) -> Tensor:
    """Lovász hinge for one class, Lovász-softmax for several (Berman et al. 2018)."""
    term = LovaszLoss("binary" if batch.binary else "multiclass", ignore_index=IGNORE)
    value: Tensor = term(batch.logits, batch.target)
    return value.sum()  # of one number; of none where nothing is known


# --- terms that look at borders -------------------------------------------------------------


def _boundary(batch: Batch, config: LossConfig, gsd: float) -> Tensor:
    """Boundary loss (Kervadec et al. 2019): wrong probability times its distance to the border.

    In pixels, mean over labelled pixels and classes. The paper's integral before the constant
    is dropped, so that a perfect prediction gives 0; the gradient is the same. It knows nothing
    of classes that an image lacks: it is for use beside another term, with a small weight.
    """
    classes = [1] if batch.binary else range(batch.logits.shape[1])
    maps = [[signed_distance(t, k) for k in classes] for t in batch.target.cpu().numpy()]
    distance = torch.from_numpy(np.array(maps)).to(batch.logits)
    each = (distance * (batch.probability - batch.wanted)).mean(1)
    return (each * batch.known).sum() / batch.known.sum().clamp(min=1)


def signed_distance(target: NDArray[np.uint8], label: int) -> NDArray[np.float32]:
    """(H, W) distance in pixels to the border of a class, negative inside of it.

    The border runs between pixels, half a pixel from their centres. Only labelled pixels make a
    border; 0 everywhere if the class has none, or all of them.
    """
    inside = target == label
    outside = (target != IGNORE) & ~inside
    if not inside.any() or not outside.any():
        return np.zeros(target.shape, np.float32)
    away = ndimage.distance_transform_edt(~inside) - 0.5
    depth = ndimage.distance_transform_edt(~outside) - 0.5
    distance: NDArray[np.float32] = np.where(inside, -depth, away).astype(np.float32)
    return distance


def border_weights(target: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    """(H, W) 0..1: how narrow the background (label 0) is between the two nearest objects.

    exp(-(d1 + d2)² / 2 sigma²) of the distances to them, in pixels, as in Ronneberger et al.
    2015; 0 outside of the background. Objects are the connected pixels (at edges) of a class.
    """
    reach = int(np.ceil(_REACH * sigma))
    nearest = np.full((2, *target.shape), np.inf, np.float32)
    for label in np.setdiff1d(target, (0, IGNORE)):
        objects, _ = ndimage.label(target == label)
        for number, box in enumerate(ndimage.find_objects(objects), 1):
            around = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in box)
            distance = ndimage.distance_transform_edt(objects[around] != number)
            first, second = nearest[:, *around]
            later = np.maximum(first, distance)
            np.minimum(first, distance, out=first)
            np.minimum(second, later, out=second)
    between = np.exp(-(nearest.sum(0) ** 2) / (2 * sigma**2))
    return np.where(target == 0, between, 0).astype(np.float32)


TERMS: dict[str, Callable[[Batch, LossConfig, float], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "focal": _focal,
    "dice": _dice,
    "jaccard": _jaccard,
    "lovasz": _lovasz,
    "tversky": _tversky,
    "boundary": _boundary,
}
