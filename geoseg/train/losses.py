"""Losses of binary segmentation; pixels whose target is IGNORE never count."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from geoseg.train.config import LossConfig
from geoseg.train.data import IGNORE


def loss(logits: Tensor, target: Tensor, config: LossConfig) -> Tensor:
    """The weighted sum of the configured terms.

    logits: (N, 1, H, W) float. target: (N, H, W) uint8, 0, 1 or IGNORE.
    """
    logits = logits[:, 0].float()
    total = logits.new_zeros(())
    if config.cross_entropy:
        total = total + config.cross_entropy * cross_entropy(logits, target, config.smoothing)
    if config.dice:
        total = total + config.dice * dice(logits, target)
    return total


def cross_entropy(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross entropy, mean over labelled pixels; logits and target (N, H, W)."""
    known = target != IGNORE
    wanted = (target == 1).float() * (1 - 2 * smoothing) + smoothing
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice over the whole batch (Milletari et al. 2016); logits and target (N, H, W).

    Over the batch, not per image: an image without objects has no Dice of its own.
    """
    known = (target != IGNORE).float()
    wanted = (target == 1).float()
    probability = torch.sigmoid(logits) * known
    overlap = (probability * wanted).sum()
    return 1 - (2 * overlap + 1) / (probability.sum() + wanted.sum() + 1)
