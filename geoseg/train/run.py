"""A training run: a recipe in, a folder with weights and all that is known about them out.

::

    RUN/
      recipe.yaml          the recipe as it was given
      config.yaml          and as it was resolved: offset, scale, value range, where the data is
      split.gpkg           which blocks trained, validated, and are kept for a test
      log/                 metrics.csv: loss of each step, IoU of each validation; TensorBoard's
      last.ckpt            for going on after an interruption
      best.ckpt            the best validation's weights, of a run with `patience`
      weights.safetensors  those that count: the moving average at the end, or the best one
      result.json          threshold, temperature, validation scores, steps
      sample.npz           a chip for the bundle's golden sample
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.multiprocessing.spawn import ProcessRaisedException

from geoseg.config import load_yaml
from geoseg.data.config import DataConfig
from geoseg.data.sheets import Sheet, Store, load_places
from geoseg.data.split import TRAIN, VALIDATE, need, write_split
from geoseg.data.stats import measure, one_type
from geoseg.errors import ConfigError, DataError, GeosegError, OutputError
from geoseg.events import Listener, ignore
from geoseg.sinks.alone import alone
from geoseg.train import checkpoint
from geoseg.train.config import TrainConfig
from geoseg.train.devices import Fabric, heard_across, new_fabric, use_threads
from geoseg.train.export import rehearse
from geoseg.train.learner import Job
from geoseg.train.loop import fit
from geoseg.train.networks import Blueprint, new_network, scaling_of
from geoseg.train.result import RESULT, closing, finish, opening, save_sample
from geoseg.train.task import task_of

RECIPE = "recipe.yaml"
WRITTEN = {  # before last.ckpt
    *(RECIPE, "config.yaml", "split.gpkg", "sample.npz", "log", "pixels"),
    *("recipe.part", "config.part", checkpoint.BEST),
}
MEASURED = ("offset", "scale", "value_range")  # where the recipe leaves them out


def _keep_quiet(line: str) -> None:
    pass


def run(
    config: TrainConfig,
    root: Path,
    folder: Path,
    *,
    progress: bool = True,
    listener: Listener = ignore,
) -> Path:
    """Train `config` on the data under `root`; goes on where an earlier run in `folder` ended.

    `progress`: a bar and what there is to say, on stderr. `listener` hears of the same.
    """
    task_of(config).check()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(f"{folder}: cannot be the folder of a run ({e.strerror})") from e
    with alone(folder):
        must_be_free(folder)
        return _run(config, root, folder, progress, listener)


def _run(config: TrainConfig, root: Path, folder: Path, progress: bool, listener: Listener) -> Path:
    def tell(line: str, level: str = "info") -> None:
        if progress:
            print(line, file=sys.stderr)
        listener({"event": level, "topic": "train", "message": line})

    begun = keep_recipe(config, folder)
    if begun:
        config = as_before(config, root, folder)
    if begun and (folder / RESULT).exists():
        tell(f"{folder}: finished before; nothing is left to do")
        return folder
    fabric = new_fabric(config.schedule)
    use_threads(config.schedule.threads)
    pixels = folder / "pixels"
    try:
        sheets = load_places(
            config.data,
            root,
            seed=config.schedule.seed,
            store=Store(pixels),
            outlines=task_of(config).outlines,
        )
        need(sheets, TRAIN, VALIDATE)
        for name in missing_classes(sheets, config.data):
            unknown = f"class {name} has no pixel in the blocks that train, so it cannot be learnt"
            tell(unknown, "warning")
        config = config if begun else resolve(config, sheets, root, folder, tell)
        rehearse(config, dtype_of(sheets))
        job = new_job(config, sheets, folder, progress, tell)
        tell(opening(job))
        launch(fabric, job, listener)
        tell(closing(job, finish(job)))
    finally:
        shutil.rmtree(pixels, ignore_errors=True)
    return folder


def must_be_free(folder: Path) -> None:
    """Refuse a folder with anything but what a run writes: it would be mixed up, or written over.

    A recipe of one's own may lie there under the name that a run gives to its copy.
    """
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if {checkpoint.LAST, RESULT} & there:
        return
    foreign = sorted(there - WRITTEN)
    if RECIPE in there and not _by_a_run(folder / RECIPE):
        foreign = [RECIPE, *foreign]
    if foreign:
        raise OutputError(
            f"{folder} holds something else than a run ({', '.join(foreign[:3])}): name another "
            "folder (--output)"
        )


def _by_a_run(path: Path) -> bool:
    try:
        return path.read_text() == _yaml(load_yaml(path, TrainConfig))
    except (ConfigError, ValueError):
        return False


def keep_recipe(config: TrainConfig, folder: Path) -> bool:
    """Write recipe.yaml; whether the folder holds a run of this recipe, to be gone on with.

    A run of another recipe, which its weights do not belong to, is a DataError.
    """
    path, begun = folder / RECIPE, (folder / checkpoint.LAST).exists()
    if begun and not path.exists():
        raise DataError(f"{folder} holds a run of another version: take another folder")
    if begun and (keys := _differing(_essence(load_yaml(path, TrainConfig)), _essence(config))):
        raise DataError(
            f"{folder} holds a run with other settings ({', '.join(keys[:3])}): give another "
            "folder (--output), or remove this one"
        )
    _write_yaml(config, path)
    return begun


def _differing(before: Any, now: Any, path: str = "") -> list[str]:
    """Dotted names of the settings that are not the same."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [d for k in keys for d in _differing(before.get(k), now.get(k), f"{path}.{k}")]
    return [] if before == now else [path.removeprefix(".")]


def _essence(config: TrainConfig) -> dict[str, Any]:
    """What decides over the weights: all but words, and how and where the work is done."""
    content = config.model_dump(mode="json")
    for words in ("version", "description", "license", "attribution", "output"):
        del content[words]
    for place in content["data"]["places"]:
        del place["about"], place["sample"]
    del content["data"]["root"], content["schedule"]["workers"]
    return content


def resolve(
    config: TrainConfig,
    sheets: Sequence[Sheet],
    root: Path,
    folder: Path,
    say: Callable[[str], None] = _keep_quiet,
) -> TrainConfig:
    """The recipe with what it leaves out of offset, scale and value range, and of the network's
    arguments, if the sizes of objects say them; kept in config.yaml.

    A network that goes on from a bundle has learned the bundle's, if it is shown the same kind
    of pixels; else they are measured on the training blocks.
    """
    data = config.data
    found: dict[str, Any] = {"value_range": (0.0, 255.0)} if dtype_of(sheets) == "uint8" else {}
    start = Blueprint.of(config).start
    if start and len(start.spec.bands) == len(data.bands) and start.spec.dtype == dtype_of(sheets):
        spec = start.spec
        found = {"offset": spec.scaling.offset, "scale": spec.scaling.scale}
        found["value_range"] = spec.value_range
    missing = [name for name in MEASURED if getattr(data, name) is None]
    if not found.keys() >= set(missing):
        seen = measure(sheets, TRAIN)
        found = {
            "offset": seen.offset,
            "scale": seen.scale,
            "value_range": seen.value_range,
        } | found
    arguments, said = task_of(config).resolve(sheets)
    for line in said:
        say(line)
    values = {name: found[name] for name in missing}
    return _resolved(config, root, folder, values, arguments)


def as_before(config: TrainConfig, root: Path, folder: Path) -> TrainConfig:
    """The recipe as it was resolved when the run began; new words (licence ...) are taken over."""
    before = load_yaml(folder / "config.yaml", TrainConfig)
    values = {name: getattr(before.data, name) for name in MEASURED}
    return _resolved(config, root, folder, values, before.model.arguments)


def _resolved(
    config: TrainConfig,
    root: Path,
    folder: Path,
    values: dict[str, Any],
    arguments: dict[str, Any],
) -> TrainConfig:
    data = config.data.model_copy(update={"root": str(root.resolve()), **values})
    model = config.model.model_copy(update={"arguments": arguments})
    resolved = config.model_copy(update={"data": data, "model": model})
    _write_yaml(resolved, folder / "config.yaml")
    return resolved


def dtype_of(sheets: Sequence[Sheet]) -> str:
    """The one type of pixels that all rasters have."""
    types = {str(s.image.dtype): s.file for s in sheets}
    one_type(types)
    return next(iter(types))


def missing_classes(sheets: Sequence[Sheet], data: DataConfig) -> list[str]:
    """Classes without a pixel in the training blocks; all of them missing is a DataError."""
    there = {label for sheet in sheets for label in sheet.labels(TRAIN)}
    missing = [c.name for label, c in enumerate(data.classes, data.first) if label not in there]
    if len(missing) == len(data.classes):
        raise DataError(
            f"no pixel of {', '.join(missing)} lies in the blocks that train, so there is nothing "
            "to learn: see 'geoseg data check'"
        )
    return missing


def new_job(
    config: TrainConfig,
    sheets: Sequence[Sheet],
    folder: Path,
    progress: bool,
    say: Callable[[str], None],
) -> Job:
    """The network with its first weights, and the files that describe the data."""
    write_split(sheets, folder / "split.gpkg")
    save_sample(config, sheets, folder / "sample.npz")
    torch.manual_seed(config.schedule.seed)
    network, said = new_network(config)
    for line in said:
        say(line)
    scaling = scaling_of(config, dtype_of(sheets))
    return Job(config, network, scaling, sheets, folder, progress)


def launch(fabric: Fabric, job: Job, listener: Listener) -> None:
    """Fit in this process, or in as many as the recipe wants."""
    try:
        with heard_across(listener, job.config.schedule.devices) as heard:
            fabric.launch(partial(fit, job=replace(job, listener=heard)))
    except ProcessRaisedException as e:
        kind, _, message = str(e).strip().rpartition("\n")[2].partition(": ")
        if kind.startswith("geoseg.errors."):
            raise GeosegError(message) from e
        raise


def _yaml(config: TrainConfig) -> str:
    content = config.model_dump(mode="json")
    if config.model.start:  # which says all the rest
        content["model"] = {"start": config.model.start}
    text: str = yaml.safe_dump(content, sort_keys=False)
    return text


def _write_yaml(config: TrainConfig, path: Path) -> None:
    part = path.with_suffix(".part")
    part.write_text(_yaml(config))
    part.replace(path)
