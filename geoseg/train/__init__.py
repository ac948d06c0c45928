"""Training: from places (rasters and labels) and a recipe to a model bundle."""

from __future__ import annotations

from pathlib import Path

from geoseg.config import check
from geoseg.errors import need_torch
from geoseg.events import Listener, ignore
from geoseg.train.config import ScheduleConfig, TrainConfig

__all__ = ["TrainConfig", "train"]


def train(
    recipe: str | Path | TrainConfig,
    *,
    output: str | Path | None = None,
    data: str | Path | None = None,
    steps: int | None = None,
    progress: bool = True,
    listener: Listener = ignore,
) -> Path:
    """Train as `recipe` (a YAML file, or `geoseg.recipe`'s result) says; the path of the bundle.

    `output`: the folder of the run (by default the recipe's `output` / `name`, from where you
    are); an interrupted run in it goes on. `data` and `steps` stand in for what the recipe says.
    `progress`: a bar and remarks on stderr. `listener` is called with events (see geoseg.events).
    """
    need_torch("training", "train")
    from geoseg.train.export import outcome, write_bundle
    from geoseg.train.run import run

    if isinstance(recipe, TrainConfig):
        config, root = recipe, Path(data or recipe.data.root)
    else:
        config, root = TrainConfig.load(recipe, data)
    if steps is not None:
        given = {**config.schedule.model_dump(), "steps": steps}
        schedule = check(given, ScheduleConfig, source="train")
        config = config.model_copy(update={"schedule": schedule})
    folder = Path(output) if output else Path(config.output) / config.name
    run(config, root, folder, progress=progress, listener=listener)
    bundle = write_bundle(folder)
    listener({"event": "result", "output": str(bundle), "run": str(folder), **outcome(folder)})
    return bundle
