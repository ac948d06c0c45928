"""What a run leaves: the weights that count, result.json, a golden chip; and its two lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from geoseg.data.sheets import Sheet
from geoseg.data.split import TEST, TRAIN, VALIDATE, windows
from geoseg.errors import DataError
from geoseg.grid import Window
from geoseg.runtime.torch_runtime import find_device
from geoseg.train import checkpoint
from geoseg.train.config import TrainConfig
from geoseg.train.devices import described
from geoseg.train.learner import Job
from geoseg.train.networks import Blueprint, Scale
from geoseg.train.task import Predict
from geoseg.train.windows import cut

RESULT = "result.json"


def save_sample(config: TrainConfig, sheets: Sequence[Sheet], path: Path, size: int = 256) -> None:
    """The chip with the most classes, and of those the most of them, among the validation blocks.

    Where no place lets its pixels out, patches of chance: they prove a network as well.
    """
    allowed = {p.name for p in config.data.places if p.sample}
    chips = [
        (sheet, Window(block.row, block.col, size, size))
        for sheet in sheets
        if sheet.place in allowed
        for block in windows(sheet, VALIDATE)
    ]
    if not chips:
        image, valid = _patches(config, sheets[0].image.dtype, size), np.ones((size, size), bool)
        np.savez_compressed(path, image=image, valid=valid)
        return

    def richness(chip: tuple[Sheet, Window]) -> tuple[int, int]:
        sheet, window = chip
        classes = config.data.first + np.arange(len(config.data.classes))
        if sheet.outlines is not None:
            there = sheet.outlines.labels[sheet.outlines.in_window(window)]
            return len(np.unique(there)), len(there)
        seen = sheet.target(window, VALIDATE)
        return len(np.intersect1d(seen, classes)), int(np.isin(seen, classes).sum())

    sheet, window = max(chips, key=richness)
    valid = cut(sheet.valid[None], window, fill=False)[0]
    np.savez_compressed(path, image=cut(sheet.image, window, fill=0), valid=valid)


def _patches(config: TrainConfig, dtype: np.dtype[Any], size: int) -> NDArray[Any]:
    """(C, size, size): squares of 16 pixels, each of one colour of the range of values."""
    low, high = config.data.value_range or (0.0, 255.0)
    rng = np.random.default_rng(0)
    small = rng.uniform(low, high, (len(config.data.bands), size // 16, size // 16))
    return small.repeat(16, 1).repeat(16, 2).astype(dtype)


def finish(job: Job) -> dict[str, Any]:
    """Weights and result.json of the trained network; the result."""
    state, steps, chosen = kept(job.folder, job.config)
    job.network.load_state_dict(state)
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, job.folder / "weights.safetensors")
    blueprint = Blueprint.of(job.config)
    result = {
        **job.task.examine(predictor(job), job.task.blocks(job.sheets, job.scaling.offset)),
        **job.task.sizes(job.sheets),
        "steps_done": steps,
        "best_step": chosen,
        "dtype": str(job.sheets[0].image.dtype),
        "architecture": blueprint.architecture,
        "arguments": dict(blueprint.arguments),
        "start": blueprint.start.spec.id if blueprint.start else None,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    part = job.folder / f".{RESULT}.part"
    part.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    part.replace(job.folder / RESULT)
    return result


def kept(folder: Path, config: TrainConfig) -> tuple[dict[str, Tensor], int, int]:
    """The weights that count, how many steps were done, and after which these weights were."""
    wanted = ("average", "step")
    last = checkpoint.read(folder / checkpoint.LAST, wanted=(*wanted, "best_step"))
    assert last is not None  # fit has written it
    if config.schedule.patience and last["best_step"] not in (0, last["step"]):
        best = checkpoint.read(folder / checkpoint.BEST, wanted=wanted)
        if best is None:
            raise DataError(f"{folder}: {checkpoint.BEST} is gone; remove the folder to begin anew")
        return best["average"], last["step"], best["step"]
    return last["average"], last["step"], last["step"]


def predictor(job: Job) -> Predict:
    """predict(image (C, h, w)) -> what the trained network says of it, in float32."""
    device = find_device(job.config.schedule.device)
    network: nn.Module = job.network.to(device).eval()
    scale = Scale(job.scaling, device)

    def predict(image: Tensor) -> Any:
        return job.task.answer(network(scale(image[None].to(device))))

    return predict


def opening(job: Job) -> str:
    """What is trained on what, in one line."""
    s = job.config.schedule
    blocks = {
        p: sum(int((x.parts == p).sum()) for x in job.sheets) for p in (TRAIN, VALIDATE, TEST)
    }
    parameters = sum(p.numel() for p in job.network.parameters())
    return (
        f"{len({x.place for x in job.sheets})} places: {blocks[TRAIN]} blocks to train on, "
        f"{blocks[VALIDATE]} to validate, {blocks[TEST]} to test; {s.steps * s.batch} windows of "
        f"{s.chip} x {s.chip} pixels, {s.batch} a step; {Blueprint.of(job.config).architecture}, "
        f"{parameters / 1e6:.1f} million parameters; {described(s)}, {s.precision}"
    )


def closing(job: Job, result: dict[str, Any]) -> str:
    """How good it became, in one line."""
    return f"{job.task.verdict(result)}; {job.folder}"
