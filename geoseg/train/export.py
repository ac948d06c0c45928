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
from geoseg.grid import Tiling
from geoseg.reading import normalize
from geoseg.runtime.torch_runtime import golden_sample
from geoseg.spec import Band, ClassInfo, ModelSpec, Scaling
from geoseg.train.config import TrainConfig

METRICS = "metrics.json"  # scores on test places, put beside a run's result by whoever made them

_LIMITS = """\
The probabilities are calibrated, and the threshold chosen, on blocks of the training places that
were kept out of training; on places never seen both are less sure, and the scores are lower.
Touching objects come out as one polygon.
"""


def write_bundle(folder: str | Path, target: str | Path | None = None) -> Path:
    """The bundle of a finished run, in `target` or the run's own `bundle` folder."""
    folder = Path(folder)
    if not (folder / "result.json").exists():
        raise DataError(f"{folder}: no finished run lies here (result.json is missing)")
    config = load_yaml(folder / "config.yaml", TrainConfig)
    result = json.loads((folder / "result.json").read_text())
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
            recipe=_recipe(config),
            attribution=config.attribution,
            limits=_LIMITS,
        ),
        overwrite=True,
    )


def contract(config: TrainConfig, result: dict[str, Any], tests: dict[str, Any]) -> ModelSpec:
    """The model's contract: the recipe knows it all but threshold, temperature and scores.

    `tests`: place -> scores, each a table of numbers.
    """
    d, m = config.data, config.model
    return ModelSpec(
        name=config.name,
        version=config.version,
        description=config.description,
        license=config.license,
        created=result["created"],
        architecture=m.architecture,
        arguments=m.arguments,
        bands=tuple(Band(b.name, b.common_name) for b in d.bands),
        scaling=Scaling(d.offset, d.scale),
        gsd=d.gsd,
        classes=tuple(ClassInfo(c.id, c.name, c.color) for c in d.classes),
        tiling=Tiling(stride=models.stride_of(m.architecture, m.arguments)),
        threshold=result["threshold"],
        temperature=result["temperature"],
        metrics={
            **{f"test: {place}": scores for place, scores in tests.items()},
            **{f"validation: {p}": s for p, s in result["validation"].items()},
        },
    )


def _data(config: TrainConfig) -> str:
    lines = [f"- {p.name}{': ' + p.about if p.about else ''}" for p in config.data.places]
    split = config.data.split
    return "\n".join(
        [
            *lines,
            "",
            f"{split.share:.0%} of each place ({split.most} at most) in blocks of "
            f"{split.block:g} m were kept for validation. Imagery was read at "
            f"{config.data.gsd:g} m; what lies outside of the labelled areas was ignored.",
        ]
    )


def _recipe(config: TrainConfig) -> str:
    s, loss = config.schedule, config.loss
    start = config.model.encoder_weights or "random weights"
    return (
        f"{s.steps} steps of {s.batch} windows of {s.chip} x {s.chip} pixels, from {start}; "
        f"cross entropy ({loss.cross_entropy:g}) and Dice ({loss.dice:g}), AdamW with a learning "
        f"rate of {s.lr:g} (encoder {s.lr * s.encoder_lr:g}), cosine schedule, moving average of "
        f"the weights ({s.ema:g}); seed {s.seed}. Again: `geoseg train configs/{config.name}.yaml`."
    )
