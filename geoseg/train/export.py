"""From the folder of a run to a bundle: contract, weights, golden sample, model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from geoseg import models
from geoseg.bundle import Bundle, card
from geoseg.config import load_yaml
from geoseg.errors import DataError
from geoseg.reading import normalize
from geoseg.runtime.torch_runtime import golden_sample
from geoseg.spec import BACKGROUND, Band, ModelSpec, from_item, model_id, to_item
from geoseg.train.config import TrainConfig
from geoseg.train.networks import Blueprint, scaling_of
from geoseg.train.task import task_of

METRICS = "metrics.json"  # scores on test places, put beside a run's result by whoever made them


def write_bundle(folder: str | Path, target: str | Path | None = None) -> Path:
    """The bundle of a finished run, in `target` or the run's own `bundle` folder."""
    folder = Path(folder)
    if not (folder / "result.json").exists():
        raise DataError(f"{folder}: no finished run lies here (result.json is missing)")
    result = json.loads((folder / "result.json").read_text())
    if "architecture" not in result:
        raise DataError(f"{folder}: a run of an older version of geoseg, which can export it")
    config = load_yaml(folder / "config.yaml", TrainConfig)
    tests = folder / METRICS
    spec = contract(config, result, json.loads(tests.read_text()) if tests.exists() else {})
    network = models.build(
        spec.architecture, classes=len(spec.classes), bands=len(spec.bands), **spec.arguments
    ).eval()
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    with np.load(folder / "sample.npz") as sample:
        image: NDArray[np.float32] = normalize(sample["image"], sample["valid"], spec.scaling)
    return Bundle.write(
        Path(target) if target else folder / "bundle",
        spec,
        network.state_dict(),
        golden_sample(spec, network, image[None]),
        card(
            spec,
            data=_data(config),
            recipe=_recipe(config, result),
            attribution=config.attribution,
            limits=task_of(config).limits,
        ),
        overwrite=True,
    )


def outcome(folder: Path) -> dict[str, Any]:
    """What there is to tell of a finished run, for JSON; score: of the validation."""
    result = json.loads((folder / "result.json").read_text())
    config = load_yaml(folder / "config.yaml", TrainConfig)
    task = task_of(config)
    return {
        "model": model_id(config.name, config.version),
        "steps": result["steps_done"],
        "best_step": result["best_step"],
        "measure": task.measure,
        "score": result[task.measure],
        "classes": [c.name for c in task.classes if c.id != BACKGROUND],
    }


def rehearse(config: TrainConfig, dtype: str) -> None:
    """Raise a ModelError, before a long training, if no bundle could be written after it."""
    blueprint = Blueprint.of(config)
    known = {"architecture": blueprint.architecture, "arguments": blueprint.arguments}
    result = {**known, "created": "2026-01-01T00:00:00Z", "dtype": dtype, "temperature": 1.0}
    spec = contract(config, {**result, "validation": {}, "classes": {}}, {})
    from_item(to_item(spec, {}), source=f"recipe {config.name}")


def contract(config: TrainConfig, result: dict[str, Any], tests: dict[str, Any]) -> ModelSpec:
    """The model's contract: the recipe and the result of the run know it all.

    `tests`: place -> scores, each a table of numbers.
    """
    d, task = config.data, task_of(config)
    assert d.value_range is not None  # resolved
    several = len(task.classes) > 1
    return ModelSpec(
        name=config.name,
        version=config.version,
        description=config.description,
        license=config.license,
        created=result["created"],
        architecture=result["architecture"],
        arguments=result["arguments"],
        bands=tuple(Band(b.name, b.common_name) for b in d.bands),
        scaling=scaling_of(config, result["dtype"]),
        gsd=d.gsd,
        classes=task.classes,
        threshold=result.get("threshold", 0.5),
        temperature=result["temperature"],
        dtype=result["dtype"],
        value_range=d.value_range,
        metrics={
            **{f"test: {place}": scores for place, scores in tests.items()},
            **{f"validation: {place}": row for place, row in result["validation"].items()},
            **({f"class: {n}": row for n, row in result["classes"].items()} if several else {}),
        },
        **task.contract(result),
    )


_USES = {
    "train": "",
    "validate": " (all of it for validation)",
    "test": " (all of it for a test)",
    "unlabelled": " (its colours only)",
}


def _data(config: TrainConfig) -> str:
    places, split = config.data.places, config.data.split
    lines = [f"- {p.name}{_USES[p.use]}{': ' + p.about if p.about else ''}" for p in places]
    if split.file:
        kept = "Which blocks of them validated was laid down by hand. "
    elif split.share or split.test:
        kept = (
            f"{split.share:.0%} of each place ({split.most} blocks at most) in blocks of "
            f"{split.block:g} m were kept for validation"
            + (f", {split.test:.0%} for a test. " if split.test else ". ")
        )
    else:
        kept = ""
    read = (
        f"Imagery was read at {config.data.gsd:g} m; what lies outside of the labelled areas was "
        "ignored."
    )
    return "\n".join([*lines, "", kept + read])


def _recipe(config: TrainConfig, result: dict[str, Any]) -> str:
    s = config.schedule
    start = result["start"] or config.model.encoder_weights or "random weights"
    decay = "cosine" if s.decay == "cosine" else f"poly ({s.power:g})"
    average = f", moving average of the weights ({s.ema:g})" if s.ema else ""
    best = result["best_step"]
    chosen = f", the best of them after {best}" if best != result["steps_done"] else ""
    return (
        f"{result['steps_done']} steps of {s.batch} windows of {s.chip} x {s.chip} pixels{chosen}, "
        f"from {start}; loss: {task_of(config).terms()}; AdamW with a learning rate of {s.lr:g} "
        f"(encoder {s.lr * s.encoder_lr:g}), {decay} schedule{average}; {s.precision}, seed "
        f"{s.seed}. Again: `geoseg train` with the same recipe, config.yaml in the folder of the "
        "run."
    )
