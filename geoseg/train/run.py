"""A training run: a recipe in, a folder with weights and all that is known about them out.

::

    RUN/
      config.yaml          the recipe as it was resolved
      split.gpkg           which blocks trained and which validated
      log/metrics.csv      losses and validation IoU by step
      last.ckpt            for going on after an interruption (moving average inside)
      weights.safetensors  the moving average at the end
      result.json          threshold, temperature, validation scores
      sample.npz           a chip for the bundle's golden sample
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from geoseg import models
from geoseg.errors import DataError
from geoseg.grid import Window
from geoseg.metrics import ScoreHistogram
from geoseg.models.weights import load_encoder
from geoseg.train.calibrate import fit_temperature
from geoseg.train.config import TrainConfig
from geoseg.train.data import (
    IGNORE,
    Onwards,
    Sheet,
    Windows,
    cut,
    load_places,
    split_frame,
    validation_blocks,
)
from geoseg.train.loop import MovingAverage, Task, ValidationBlocks, depthwise_in_float32

# On places never seen, networks tend to miss more than they invent: of three places left out of
# short runs of two recipes, all six had their best threshold below a half (0.03 to 0.46).
GENEROUS = 0.005

PRECISION: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def run(config: TrainConfig, root: Path, folder: Path, *, progress: bool = True) -> Path:
    """Train `config` on the data under `root`; goes on where an earlier run in `folder` ended."""
    schedule = config.schedule
    torch.set_num_threads(schedule.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    lightning.seed_everything(schedule.seed, verbose=False)
    folder.mkdir(parents=True, exist_ok=True)
    _keep_recipe(config, folder)
    sheets = load_places(config.data, root, schedule.seed)
    block = round(config.data.split.block / config.data.gsd)
    split_frame(sheets, block).to_file(folder / "split.gpkg", layer="split", driver="GPKG")

    network = new_network(config)
    if schedule.precision == "bfloat16":
        depthwise_in_float32(network)
    task = Task(network.to(memory_format=torch.channels_last), config)
    training, validation = loaders(config, sheets, lambda: task.global_step)
    last = folder / "last.ckpt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer = new_trainer(config, folder, progress)
        trainer.fit(task, training, validation, ckpt_path=last if last.exists() else None)
    save_sample(config, sheets, folder / "sample.npz")
    finish(task, validation, folder)
    return folder


def new_network(config: TrainConfig) -> nn.Module:
    """The network of the recipe, its encoder pretrained if the recipe says so."""
    network = models.build(
        config.model.architecture,
        classes=len(config.data.classes),
        bands=len(config.data.bands),
        **config.model.arguments,
    )
    if config.model.encoder_weights:
        load_encoder(network, config.model.encoder_weights)
    return network


def loaders(
    config: TrainConfig, sheets: list[Sheet], step: Callable[[], int]
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training windows, an epoch being what lies between two validations; validation blocks.

    `step` tells how many steps were done, so that each begins where the last epoch ended.
    """
    s, d = config.schedule, config.data
    windows = Windows(
        sheets,
        blank=d.offset,
        chip=s.chip,
        zoom=config.augment.zoom,
        balance=d.balance,
        focus=d.focus,
        seed=s.seed,
        length=s.steps * s.batch,
    )
    per_epoch = min(s.validate_every, s.steps) * s.batch
    onwards = Onwards(per_epoch, lambda: step() * s.batch)
    training = DataLoader(windows, batch_size=s.batch, sampler=onwards)
    blocks = ValidationBlocks(sheets, round(d.split.block / d.gsd), d.offset)
    return training, DataLoader(blocks, batch_size=None)


def new_trainer(config: TrainConfig, folder: Path, progress: bool) -> lightning.Trainer:
    """Lightning's trainer; logs and checkpoints go to `folder`."""
    return lightning.Trainer(
        accelerator="cpu",
        precision=PRECISION[config.schedule.precision],
        max_steps=config.schedule.steps,
        max_epochs=-1,
        logger=CSVLogger(folder, name="log", version="", flush_logs_every_n_steps=50),
        log_every_n_steps=10,
        callbacks=_callbacks(config, folder, progress),
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )


def _callbacks(config: TrainConfig, folder: Path, progress: bool) -> list[lightning.Callback]:
    keep_last = ModelCheckpoint(
        folder,
        filename="last",
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    bar: list[lightning.Callback] = [TQDMProgressBar(refresh_rate=10)] if progress else []
    return [MovingAverage(config.schedule.ema), keep_last, *bar]


def _keep_recipe(config: TrainConfig, folder: Path) -> None:
    """Write the recipe; a folder with another recipe in it is not gone on with."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    path = folder / "config.yaml"
    if path.exists() and path.read_text() != text and (folder / "last.ckpt").exists():
        raise DataError(f"{folder} holds a run of another recipe: take another folder")
    path.write_text(text)


def save_sample(config: TrainConfig, sheets: list[Sheet], path: Path, size: int = 256) -> None:
    """The chip with the most objects among the validation blocks of places that allow it."""
    allowed = {p.name for p in config.data.places if p.sample}
    blocks = [
        (sheet, Window(block.row, block.col, size, size))
        for sheet, block in validation_blocks(sheets, size)
        if sheet.place in allowed
    ]
    if not blocks:
        raise DataError("no place with `sample: true` has a validation block")
    sheet, window = max(blocks, key=lambda b: int((b[0].label[b[1].slices()] == 1).sum()))
    valid = cut(sheet.valid[None], window, fill=False)[0]
    np.savez_compressed(path, image=cut(sheet.image, window, fill=0), valid=valid)


def finish(task: Task, validation: DataLoader[Any], folder: Path) -> None:
    """Weights, threshold, temperature and validation scores of the trained network."""
    state = {k: v.contiguous() for k, v in task.network.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    result = choose(collect(task, validation))
    result["created"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")


def choose(logits: dict[str, tuple[NDArray[Any], NDArray[Any]]]) -> dict[str, Any]:
    """Temperature and threshold from place -> (logits, truth), every place counting the same.

    The threshold on the calibrated probability is the lowest, from 0.05 on, at which the mean
    IoU over the places is within GENEROUS of the best one's.
    """
    temperature = fit_temperature(
        np.concatenate([values for values, _ in logits.values()]),
        np.concatenate([truth for _, truth in logits.values()]),
    )
    histograms, everything = {}, ScoreHistogram()
    for place, (values, truth) in logits.items():
        probability = 1 / (1 + np.exp(-values / temperature))
        histograms[place] = ScoreHistogram()
        histograms[place].add(probability, truth)
        everything.add(probability, truth)
    curve = np.mean([h.iou() for h in histograms.values()], axis=0)
    twentieth = len(curve) // 20
    usable = curve[twentieth:-twentieth]
    best = twentieth + int((usable >= usable.max() - GENEROUS).argmax())
    return {
        "threshold": float(everything.edges[best]),
        "temperature": temperature,
        "calibration_error": everything.calibration_error(),
        "iou": float(curve[best]),
        "iou_best": float(curve.max()),
        "iou_at_half": float(curve[len(curve) // 2]),
        "validation": {p: h.scores(best).as_dict() for p, h in histograms.items()},
    }


@torch.inference_mode()
def collect(
    task: nn.Module, validation: DataLoader[Any]
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Place -> (logits, truth) of all its labelled validation pixels, flat."""
    task.eval()
    parts: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {}
    for place, image, target in validation:
        logits = task(image[None]).float()[0, 0].numpy()
        known = target.numpy() != IGNORE
        parts.setdefault(place, []).append((logits[known], target.numpy()[known]))
    return {
        place: (np.concatenate([p[0] for p in own]), np.concatenate([p[1] for p in own]))
        for place, own in parts.items()
    }
