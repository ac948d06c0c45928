"""Runs that are killed go on, and end as if nothing had been."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from killed import Patch, attempt, die, in_mid_step, on_call
from planted import plant_place, recipe

from geoseg.errors import DataError, OutputError
from geoseg.sinks.alone import alone
from geoseg.train import checkpoint, learner, loop, pixels
from geoseg.train import run as training
from geoseg.train.config import TrainConfig
from geoseg.train.run import run

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Lightning's own
    pytest.mark.skipif(os.name == "nt", reason="kills by signals"),
]

# Dropout, batch normalization, moving average: all that has a state or takes chances.
FPN = {
    "architecture": "fpn",
    "arguments": {
        "encoder": "tu-mobilenetv3_small_050",
        "decoder_pyramid_channels": 32,
        "decoder_segmentation_channels": 32,
        "decoder_dropout": 0.3,
    },
}


def torn(descriptor: int) -> None:
    """The disk has half of a checkpoint, and the process is gone."""
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    die()


def in_mid_step_after_a_checkpoint_by_time() -> None:
    loop.MINUTES = 0.0
    in_mid_step()


def while_a_checkpoint_is_written() -> None:
    on_call(checkpoint.os, "fsync", 2, torn)


def before_the_first_checkpoint() -> None:
    on_call(checkpoint.os, "fsync", 1, torn)


def between_best_and_last() -> None:
    on_call(learner.Learner, "save", 2, lambda *_: die())


def after_the_last_step() -> None:
    on_call(pixels, "examine", 1, lambda *_: die())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Path, Path]:
    """Recipe, data, and the folder of a run that nothing disturbed."""
    root = tmp_path_factory.mktemp("resume")
    config = recipe([plant_place(root, "here", 0)], model=FPN, chip=32, steps=5, patience=5)
    assert attempt(config, root, root / "whole") == 0
    return config, root, root / "whole"


@pytest.mark.parametrize(
    "patch",
    [
        before_the_first_checkpoint,
        in_mid_step,
        in_mid_step_after_a_checkpoint_by_time,
        while_a_checkpoint_is_written,
        between_best_and_last,
        after_the_last_step,
    ],
)
def test_a_killed_run_ends_as_if_nothing_had_been(whole: Any, tmp_path: Path, patch: Patch) -> None:
    config, root, undisturbed = whole
    assert attempt(config, root, tmp_path / "cut", patch) == -signal.SIGKILL
    assert not (tmp_path / "cut" / "result.json").exists()
    assert attempt(config, root, tmp_path / "cut") == 0
    for name in ("weights.safetensors", "log/metrics.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (undisturbed / name).read_bytes()


def test_a_finished_run_is_not_run_again(whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, root, folder = whole
    monkeypatch.setattr(training, "load_places", None)
    before = (folder / "result.json").read_bytes()
    words = config.model_copy(update={"description": "what it is decides nothing"})
    assert run(words, root, folder, progress=False) == folder
    assert (folder / "result.json").read_bytes() == before
    kept, _ = TrainConfig.load(folder / "config.yaml")
    assert kept.description == words.description
    assert kept.data.value_range == (0, 255)


def test_another_recipe_is_refused(whole: Any) -> None:
    config, root, folder = whole
    for changed in ({"steps": 6}, {"lr": 0.5}, {"seed": 1}):
        schedule = config.schedule.model_copy(update=changed)
        with pytest.raises(DataError, match=rf"other settings \(schedule\.{next(iter(changed))}\)"):
            run(config.model_copy(update={"schedule": schedule}), root, folder, progress=False)


def test_two_runs_do_not_share_a_folder(whole: Any, tmp_path: Path) -> None:
    config, root, _ = whole
    with alone(tmp_path), pytest.raises(OutputError, match="another run is at work in it"):
        run(config, root, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
    with alone(tmp_path):
        pass


@pytest.mark.parametrize("damage", ["cut", "noise", "other"])
def test_a_broken_checkpoint_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "last.ckpt"
    checkpoint.write(path, {"step": 3})
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "noise":
        path.write_bytes(b"no checkpoint")
    wanted = ("step", "network") if damage == "other" else ("step",)
    with pytest.raises(DataError, match=r"last\.ckpt: no intact checkpoint .* remove it"):
        checkpoint.read(path, wanted=wanted)


def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "last.ckpt"
    checkpoint.write(path, {"step": 3})
    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        checkpoint.write(path, {"step": 4})
    assert checkpoint.read(path, wanted=("step",)) == {"step": 3}
    assert checkpoint.read(tmp_path / "none.ckpt", wanted=()) is None
