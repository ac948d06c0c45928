"""The training loop: Lightning, an exponential moving average, a cosine, honest validation."""

from __future__ import annotations

import math
import types
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from geoseg.grid import Window
from geoseg.metrics import ScoreHistogram
from geoseg.train.augment import Augment
from geoseg.train.config import TrainConfig
from geoseg.train.data import IGNORE, VALIDATE, Sheet, picture, validation_blocks
from geoseg.train.losses import loss

HALO = 64  # pixels of context around a validation block


class Task(lightning.LightningModule):
    """One network (N, C, H, W) -> logits (N, 1, H, W), its augmentation, loss and optimizer.

    It sees raw pixel values; scaling happens here, as it will from the bundle's contract.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, config: TrainConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.augment = Augment(config.augment, config.schedule.chip)
        shape = (1, -1, 1, 1)
        self.register_buffer("offset", torch.tensor(config.data.offset).view(shape), False)
        self.register_buffer("scale", torch.tensor(config.data.scale).view(shape), False)
        self._histograms: dict[str, ScoreHistogram] = {}

    def forward(self, images: Tensor) -> Tensor:
        scaled = (images - self.offset) / self.scale
        logits: Tensor = self.network(scaled.contiguous(memory_format=torch.channels_last))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        seed = self.config.schedule.seed
        generator = torch.Generator().manual_seed(seed * 1_000_003 + self.global_step)
        images, targets = self.augment(*batch, generator)
        value = loss(self(images), targets, self.config.loss)
        self.log("loss", value, prog_bar=True)
        return value

    def on_validation_epoch_start(self) -> None:
        self._histograms = {}

    def validation_step(self, batch: tuple[str, Tensor, Tensor], batch_idx: int) -> None:
        place, image, target = batch
        scores = torch.sigmoid(self(image[None]).float())[0, 0]
        histogram = self._histograms.setdefault(place, ScoreHistogram())
        histogram.add(scores.numpy(), target.numpy())

    def on_validation_epoch_end(self) -> None:
        values = {place: float(h.iou()[500]) for place, h in self._histograms.items()}
        self.log_dict({f"iou_{place}": value for place, value in values.items()})
        self.log("iou", sum(values.values()) / len(values), prog_bar=True)

    def configure_optimizers(self) -> Any:
        s = self.config.schedule
        encoder = [p for n, p in self.network.named_parameters() if n.startswith("encoder.")]
        others = [p for n, p in self.network.named_parameters() if not n.startswith("encoder.")]
        optimizer = torch.optim.AdamW(
            [{"params": encoder, "lr": s.lr * s.encoder_lr}, {"params": others, "lr": s.lr}],
            weight_decay=s.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(step, s.steps, s.warmup)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Factor on the rate: linear from 0 to 1, then half a cosine to 0 (Loshchilov 2017)."""
    begin = max(1, round(warmup * steps))
    if step < begin:
        return (step + 1) / begin
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - begin) / max(1, steps - begin))))


class MovingAverage(WeightAveraging):
    """Exponential moving average of weights and statistics; young averages forget faster."""

    def __init__(self, decay: float) -> None:
        super().__init__(avg_fn=lambda old, new, count: average(old, new, int(count), decay))


def average(old: Tensor, new: Tensor, count: int, decay: float) -> Tensor:
    keep = min(decay, (1 + count) / (10 + count))
    return old + (new - old) * (1 - keep) if old.is_floating_point() else new


class ValidationBlocks(torch.utils.data.Dataset[tuple[str, Tensor, Tensor]]):
    """Validation blocks with a halo: (place, image (C, h, w) float32, target (h, w) uint8)."""

    def __init__(self, sheets: list[Sheet], size: int, blank: tuple[float, ...]) -> None:
        self.blocks, self.blank = validation_blocks(sheets, size), blank

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> tuple[str, Tensor, Tensor]:
        sheet, block = self.blocks[index]
        height, width = (-(-(side + 2 * HALO) // 32) * 32 for side in (block.height, block.width))
        window = Window(block.row - HALO, block.col - HALO, height, width)
        image = torch.from_numpy(picture(sheet, window, self.blank))
        target = torch.full((height, width), IGNORE, dtype=torch.uint8)
        own = torch.from_numpy(sheet.target(VALIDATE)[block.slices()])
        target[HALO : HALO + block.height, HALO : HALO + block.width] = own
        return sheet.place, image, target


def depthwise_in_float32(network: nn.Module) -> nn.Module:
    """Let depthwise convolutions leave bfloat16 autocast.

    Their backward pass in bfloat16 has no fast CPU kernel (torch 2.14): 50 ms instead of 5 ms
    for the layers of an EfficientNet, half of the whole training step.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.forward = types.MethodType(_float32_forward, module)  # type: ignore[method-assign]
    return network


def _float32_forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return type(self).forward(self, x.float()).to(x.dtype)
