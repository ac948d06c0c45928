"""A training as other programs follow it: its events, its end when stopped, and the next go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import yaml
from planted import PLAIN, plant_place, recipe
from test_events import check

from geoseg.bundle import Bundle
from geoseg.train import train
from geoseg.train.devices import heard_across

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own

STEPS = 400


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    place = plant_place(folder, "here", 0)
    config = recipe([place], model=PLAIN, steps=STEPS, chip=32, validate_every=10)
    path = folder / "planted.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    return path


def of(kind: str, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


def test_the_events_of_a_training(
    recipe_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[Any] = []
    given: Any = {"output": tmp_path / "run", "listener": events.append, "progress": False}
    made = train(recipe_file, steps=20, **given)
    assert capfd.readouterr().err == ""
    for event in events:
        check(event)
        json.dumps(event, allow_nan=False)
    (start,) = of("start", events)
    assert start["tiles"] == 20
    assert start["recipe"] == "tiny"
    done = [event["done"] for event in of("progress", events)]
    assert done == sorted(set(done))
    assert done[-1] == 20
    scores = of("score", events)
    assert [event["step"] for event in scores] == [10, 20]
    assert {"iou", "place/here", "class/roof"} <= scores[0]["metrics"].keys()
    result, spec = events[-1], Bundle.open(made).spec
    assert result["event"] == "result"
    assert (result["output"], result["run"]) == (str(made), str(tmp_path / "run"))
    assert (result["model"], result["classes"]) == (spec.id, ["roof"]) == (start["model"], ["roof"])
    assert (result["steps"], result["best_step"], result["measure"]) == (20, 20, "iou")
    assert 0 <= result["score"] <= 1
    events.clear()
    assert train(recipe_file, steps=20, **given) == made
    assert [event["event"] for event in events] == ["info", "result"]  # nothing was left to do
    assert events[-1] == result


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("how", ["SIGTERM", "end of stdin"])
def test_a_training_that_is_stopped_goes_on(recipe_file: Path, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "geoseg", "train", str(recipe_file), "-o", str(folder)]
    process = subprocess.Popen(
        [*command, "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GEOSEG_WATCH_STDIN": "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if len(of("score", events)) == 2:  # so the first one's checkpoint is written
            break
    if how == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)  # which closes stdin
    events += map(json.loads, out.splitlines())
    assert process.returncode == 130, err
    assert events[0] == {"event": "alive"}
    assert events[-1]["kind"] == "Interrupted"
    assert "Traceback" not in err
    assert (folder / "last.ckpt").exists()
    assert not (folder / "bundle").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]

    again: list[Any] = []
    made = train(recipe_file, output=folder, progress=False, listener=again.append)
    assert of("progress", again)[0]["done"] > 10
    assert of("score", again)[0]["step"] > 10
    assert again[-1]["output"] == str(made)
    assert again[-1]["steps"] == STEPS


def test_what_another_process_tells_is_heard() -> None:
    heard: list[Any] = []
    with heard_across(heard.append, 2) as listener:
        for step in (1, 2):
            child = get_context("spawn").Process(target=listener, args=({"step": step},))
            child.start()
            child.join()
    assert heard == [{"step": 1}, {"step": 2}]
    with heard_across(heard.append, 1) as listener:
        assert listener == heard.append


def test_a_listener_that_has_gone_does_not_hold_the_processes() -> None:
    def gone(event: Any) -> None:
        raise BrokenPipeError

    with heard_across(gone, 2) as listener:
        for _ in range(10_000):  # far more than a pipe holds
            listener({"event": "progress"})
