"""How weights move: groups with rates of their own, the schedule, and the moving average."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from geoseg.train.config import ScheduleConfig


def new_optimizer(network: nn.Module, s: ScheduleConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over the encoder's parameters and the others."""
    named = list(network.named_parameters())
    encoder = [p for n, p in named if n.startswith("encoder.")]
    others = [p for n, p in named if not n.startswith("encoder.")]
    return torch.optim.AdamW(
        [{"params": encoder}, {"params": others}], lr=s.lr, weight_decay=s.weight_decay
    )


def set_rates(optimizer: torch.optim.Optimizer, step: int, s: ScheduleConfig) -> None:
    """The rates of a step, for the groups of `new_optimizer`."""
    factor = learning_rate(step, s)
    for group, peak in zip(optimizer.param_groups, (s.lr * s.encoder_lr, s.lr), strict=True):
        group["lr"] = peak * factor


def learning_rate(step: int, s: ScheduleConfig) -> float:
    """Factor on the rate: linear from 0 to 1, then to 0 by half a cosine or a power.

    Cosine: Loshchilov & Hutter 2017. Poly: Liu et al. 2015 (ParseNet).
    """
    begin = max(1, round(s.warmup * s.steps))
    if step < begin:
        return (step + 1) / begin
    done = min(1.0, (step - begin) / max(1, s.steps - begin))
    if s.decay == "poly":
        return float((1 - done) ** s.power)
    return 0.5 * (1 + math.cos(math.pi * done))


class MovingAverage:
    """Exponential moving average of weights and statistics; young averages forget faster.

    Not torch's AveragedModel: that asks the GPU for its count once per tensor.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.count = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the network after a step; the first time, its weights as they are."""
        keep = min(self.decay, (1 + self.count) / (10 + self.count)) if self.count else 0.0
        for old, new in zip(_tensors(self.network), _tensors(network), strict=True):
            if keep and old.is_floating_point():
                old.lerp_(new, 1 - keep)
            else:
                old.copy_(new)
        self.count += 1

    def load(self, state: Mapping[str, Tensor], count: int) -> None:
        self.network.load_state_dict(state)
        self.count = count


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()
