"""docs/events.md, held against the events of real runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from models import bright_bundle

from geoseg import batch, predict, testing, vectorize_raster
from geoseg.errors import GeosegError
from geoseg.predict import Result
from geoseg.preflight import Topic

DOCUMENT = (Path(__file__).parents[1] / "docs" / "events.md").read_text()


def documented() -> dict[str, tuple[set[str], set[str]]]:
    """Each event's fields: those that it always has, and those that it may have."""
    table = {}
    for names, fields in re.findall(r"^\| (`.*?) \| (.*?) \|.*\|$", DOCUMENT, re.MULTILINE):
        always, _, sometimes = (re.findall(r"`(\w+)`", part) for part in fields.partition(";"))
        for name in re.findall(r"`(\w+)`", names):
            table[name] = (set(always), set(sometimes))
    return table


def check(event: Mapping[str, Any]) -> None:
    always, sometimes = documented()[event["event"]]
    fields = set(event) - {"event"}
    if event["event"] != "result":
        assert always <= fields <= always | sometimes, event


def test_the_table_is_read() -> None:
    named = "alive start info warning progress scene score row result error"
    assert set(documented()) == set(named.split())
    more = {"scene", "recipe", "model", "device", "scenes", "dashboard"}
    assert documented()["start"] == ({"tiles"}, more)
    assert all(f"`{topic}`" in DOCUMENT for topic in get_args(Topic))


def test_events_of_real_runs_are_as_documented(tmp_path: Path) -> None:
    mask = testing.planted_rectangles((200, 300), count=20, seed=1)
    scene = testing.planted_scene(tmp_path / "scene.tif", mask)
    model = bright_bundle(tmp_path / "bright")
    seen: list[Mapping[str, Any]] = []
    predict(scene, tmp_path / "o.gpkg", model=model, mask=tmp_path / "m.tif", listener=seen.append)
    assert seen[-1].keys() - {"event"} == set(Result.__dataclass_fields__)
    vectorize_raster(tmp_path / "m.tif", tmp_path / "v.gpkg", listener=seen.append)
    assert {"start", "progress", "result"} <= {event["event"] for event in seen}
    assert seen[-1]["event"] == "result"
    for event in seen:
        check(event)


def test_events_of_a_batch_are_as_documented(tmp_path: Path) -> None:
    mask = testing.planted_rectangles((64, 64), count=2, seed=1)
    (tmp_path / "in").mkdir()
    for name in "ab":
        testing.planted_scene(tmp_path / "in" / f"{name}.tif", mask)
    (tmp_path / "in" / "c.tif").touch()
    model = bright_bundle(tmp_path / "bright")
    seen: list[Mapping[str, Any]] = []
    batch(tmp_path / "in", tmp_path / "out", model=model, runtime="fake", listener=seen.append)
    assert [event["event"] for event in seen if event["event"] != "progress"] == [
        *("start", "scene", "scene", "scene", "result")
    ]
    assert {"done", "failed"} == {event["state"] for event in seen if event["event"] == "scene"}
    said = re.findall(r"`(\w+)`", DOCUMENT[DOCUMENT.index("`result` of `batch`") :])
    assert set(seen[-1]) - {"event"} <= set(said)
    for event in seen:
        check(event)


def test_an_error_is_as_documented() -> None:
    command = [sys.executable, "-m", "geoseg", "predict", "missing.tif", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    alive, *_, event = map(json.loads, done.stdout.splitlines())
    check(alive)
    check(event)
    assert alive["event"] == "alive"
    assert event["event"] == "error"
    assert event["exit_code"] == done.returncode
    kinds = {kind.__name__ for kind in all_kinds(GeosegError)}
    assert event["kind"] in kinds


SLOW = """
import sys, threading
import geoseg.cli, geoseg.terminal
geoseg.terminal.PULSE = 0.01

def predict(*args, listener, **options):
    sys.stdin.readline()
    listener({"event": "result"})
    threading.Event().wait(0.2)  # a beat after the last event would come now
    sys.exit(0)

import geoseg.predict
sys.modules["geoseg.predict"].predict = predict
sys.argv = ["geoseg", *sys.argv[1:]]
geoseg.cli.main()
"""


def test_a_slow_run_tells_that_it_lives_and_not_after_its_end() -> None:
    command = [sys.executable, "-c", SLOW, "predict", "scene.tif", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        seen = [json.loads(child.stdout.readline()) for _ in range(5)]
        assert seen == [{"event": "alive"}] * 5
        rest, _ = child.communicate("\n", timeout=60)
    assert child.returncode == 0
    *more, last = map(json.loads, rest.splitlines())
    assert last == {"event": "result"}
    assert all(event == {"event": "alive"} for event in more)


@pytest.mark.parametrize("verb", [["info", "missing.tif"], ["model", "list"]])
def test_short_verbs_only_report(verb: list[str]) -> None:
    command = [sys.executable, "-m", "geoseg", *verb, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "alive" not in done.stdout


def all_kinds(kind: type) -> list[type]:
    return [kind, *(k for sub in kind.__subclasses__() for k in all_kinds(sub))]
