"""The engines of geoseg batch against each other, and against SIGKILL."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from archive import BROKEN, deadly, features, leftovers, make_archive, states
from models import bright_bundle

from geoseg.batch.engines import dask as dask_engine
from geoseg.batch.engines import open_engine
from geoseg.batch.items import Item
from geoseg.batch.run import batch
from geoseg.errors import GeosegError

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of distributed's own
ROUNDS = int(os.environ.get("GEOSEG_CHAOS_ROUNDS", "2"))
SEED = int(os.environ.get("GEOSEG_CHAOS_SEED", "0"))
SCENES = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_bundle(tmp_path_factory.mktemp("models") / "bright")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive") / "in", SCENES)


@pytest.fixture(scope="module")
def options(model: Path) -> dict[str, Any]:
    return {"model": model, "runtime": "fake", "format": "parquet"}


@pytest.fixture(scope="module")
def serial(
    archive: Path, options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What all others are held against."""
    out = tmp_path_factory.mktemp("serial") / "out"
    assert batch(archive, out, **options).done == SCENES
    return out


@pytest.mark.parametrize("engine", ["processes", "dask"])
def test_all_engines_come_to_the_same(
    archive: Path, options: dict[str, Any], serial: Path, tmp_path: Path, engine: str
) -> None:
    result = batch(archive, tmp_path / "out", engine=engine, workers=2, **options)
    assert (result.done, result.failed) == (SCENES, len(BROKEN))
    assert states(tmp_path / "out") == states(serial)
    assert features(tmp_path / "out") == features(serial)
    assert len(features(serial)) > SCENES
    assert not leftovers(tmp_path / "out")


@pytest.mark.parametrize("engine", ["processes", "dask"])
def test_a_scene_whose_worker_dies_is_tried_elsewhere(tmp_path: Path, engine: str) -> None:
    marker = tmp_path / "marker"
    names = ["a", "once", "b", "poison", "c", "d"]
    items = [Item(name, str(marker if name == "once" else tmp_path)) for name in names]
    with open_engine(engine, workers=2) as opened:
        ended = {item.id: outcome for item, outcome in opened.map(deadly, items)}
    assert marker.exists()
    assert {name for name, outcome in ended.items() if outcome.state == "done"} == {
        *("a", "once", "b", "c", "d")
    }
    assert ended["poison"].state == "failed"
    assert "its worker died 3 times" in (ended["poison"].error or "")


@pytest.mark.parametrize("engine", ["serial", "processes", "dask"])
def test_items_are_taken_when_there_is_a_worker_for_them(tmp_path: Path, engine: str) -> None:
    taken = 0

    def endless() -> Iterator[Item]:
        nonlocal taken
        while True:
            taken += 1
            yield Item(f"i{taken}", str(tmp_path))

    with open_engine(engine, workers=1) as opened:
        for number, _ in enumerate(opened.map(deadly, endless()), start=1):
            assert taken <= number + 2
            if number == 20:
                break


def test_no_cluster_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_engine, "PATIENCE", 1)
    opened = open_engine("dask", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(GeosegError, match="no Dask scheduler"):
        opened.__enter__()


def test_a_script_without_its_guard_is_told_so(
    archive: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    call = (
        f"{str(archive)!r}, 'out', model={str(options['model'])!r}, engine='processes', workers=1"
    )
    script.write_text(f"import geoseg\ngeoseg.batch({call})\n")
    ended = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "no worker could be started" in ended.stderr.splitlines()[-1]
    assert set(states(tmp_path / "out").values()) == {"pending"}


def test_an_existing_cluster(
    archive: Path, options: dict[str, Any], serial: Path, tmp_path: Path
) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=2, dashboard_address=None, memory_limit=0
    ) as cluster:
        address = cluster.scheduler_address
        out = tmp_path / "out"
        batch(archive, out, engine="dask", scheduler=address, **options)
    assert states(out) == states(serial)
    assert features(out) == features(serial)


def test_a_cluster_without_geoseg_is_said(tmp_path: Path) -> None:
    from distributed import LocalCluster

    hidden = tmp_path / "hidden.py"
    hidden.write_text("import sys\nsys.modules['geoseg'] = None\n")
    with LocalCluster(
        n_workers=1, dashboard_address=None, memory_limit=0, preload=[str(hidden)]
    ) as cluster:
        opened = open_engine("dask", scheduler=cluster.scheduler_address)
        with pytest.raises(GeosegError, match="workers lack geoseg"):
            opened.__enter__()


@pytest.mark.skipif(os.name == "nt", reason="no signals")
@pytest.mark.parametrize(
    ("victim", "message"),
    [("scheduler", "scheduler .* is lost"), ("worker", "has no workers any more")],
)
def test_a_lost_cluster_ends_the_run_and_the_next_goes_on(
    archive: Path,
    options: dict[str, Any],
    serial: Path,
    tmp_path: Path,
    victim: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dask_engine, "LOOK", 0.2)
    monkeypatch.setattr(dask_engine, "PATIENCE", 5)
    told = tmp_path / "scheduler.json"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "dask"]
    with subprocess.Popen(
        [*dask, "scheduler", "--scheduler-file", str(told), "--port", "0", "--no-dashboard"],
        **quiet,
    ) as scheduler:
        worker = [*dask, "worker", "--scheduler-file", str(told), "--nthreads", "1"]
        with subprocess.Popen([*worker, "--no-nanny", "--no-dashboard"], **quiet) as process:
            while not told.exists():
                assert scheduler.poll() is None
                time.sleep(0.05)
            address = json.loads(told.read_text())["address"]

            def kill(event: Mapping[str, Any]) -> None:
                if event["event"] == "scene" and event["state"] == "done":
                    (scheduler if victim == "scheduler" else process).kill()

            how = {**options, "engine": "dask", "scheduler": address}
            with pytest.raises(GeosegError, match=f"{message}.*what is done stays"):
                batch(archive, tmp_path / "out", listener=kill, **how)
            process.kill()
            scheduler.kill()
    assert "running" not in states(tmp_path / "out").values()
    assert "done" in states(tmp_path / "out").values()
    batch(archive, tmp_path / "out", **options)  # with any other engine
    assert states(tmp_path / "out") == states(serial)
    assert features(tmp_path / "out") == features(serial)


@pytest.mark.skipif(os.name == "nt", reason="no signals")
@pytest.mark.parametrize("engine", ["serial", "processes", "dask"])
def test_an_interrupt_leaves_nothing_half_done(
    archive: Path, model: Path, serial: Path, tmp_path: Path, engine: str
) -> None:
    """Ctrl-C, which the terminal sends to all processes of the group."""
    command = the_command(archive, tmp_path / "out", model, engine)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if '"s001"' in line:
                os.killpg(process.pid, signal.SIGINT)
                break
        last = json.loads(process.stdout.read().splitlines()[-1])
        said = process.stderr.read()
    assert (process.returncode, last["kind"]) == (130, "Interrupted"), (last, said)
    assert "Traceback" not in said
    assert not leftovers(tmp_path / "out")
    assert set(states(tmp_path / "out").values()) == {"done", "failed", "pending"}


@pytest.mark.skipif(os.name == "nt", reason="no signals")
def test_ctrl_c_while_workers_still_import(tmp_path: Path) -> None:
    """It is the parent's: workers start as if nothing had been."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, threading, time\n"
        "from geoseg.batch.engines.processes import Processes\n"
        "def keys():\n"
        "    for _ in range(100):\n"
        "        os.killpg(0, signal.SIGINT)\n"
        "        time.sleep(0.005)\n"
        "if __name__ == '__main__':\n"
        "    heard = []\n"
        "    signal.signal(signal.SIGINT, lambda *_: heard.append(1))\n"
        "    processes = Processes(2)\n"
        "    threading.Thread(target=keys).start()\n"
        "    processes.start()\n"
        "    print('started', len(heard) > 1)\n"
        "    processes.close()\n"
    )
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert (done.stdout, done.stderr) == ("started True\n", "")


@pytest.mark.skipif(os.name == "nt", reason="no signals")
@pytest.mark.parametrize("engine", ["processes", "dask"])
def test_what_is_killed_at_any_moment_ends_as_if_undisturbed(
    archive: Path, model: Path, serial: Path, tmp_path: Path, engine: str
) -> None:
    """In each round first a worker, then all of the run is killed; the last one is left alone."""
    chance = random.Random(f"{SEED} {engine}")
    out = tmp_path / "out"
    command = the_command(archive, out, model, engine)
    finished: set[str] = set()
    for number in range(ROUNDS if engine == "dask" else -(-ROUNDS // 2)):
        # What was done stays done: the later rounds have something to do as well.
        finished |= disturbed(command, chance, most=SCENES // (ROUNDS + 1))
        assert finished <= {name for name, state in known(out).items() if state != "pending"}, (
            f"round {number} of seed {SEED}"
        )
    last = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert last.returncode == 3, last.stderr
    again = {e["id"] for e in map(json.loads, last.stdout.splitlines()) if e["event"] == "scene"}
    assert not again & finished  # no finished scene is lost, and none is done twice
    assert states(out) == states(serial)
    assert features(out) == features(serial)
    assert not leftovers(out)


def the_command(archive: Path, out: Path, model: Path, engine: str) -> list[str]:
    command = [sys.executable, "-m", "geoseg", "batch", str(archive), "-o", str(out), "--json"]
    command += ["-m", str(model), "--runtime", "fake", "--format", "parquet"]
    return [*command, "--engine", engine, *([] if engine == "serial" else ["--workers", "2"])]


def known(out: Path) -> dict[str, str]:
    """States in the ledger; none where it was not even begun."""
    with suppress(GeosegError):
        return states(out)
    return {}


def disturbed(command: list[str], chance: random.Random, *, most: int) -> set[str]:
    """Run, kill a worker, kill the run, at random moments; return the scenes that were told."""
    told: set[str] = set()
    first, second = chance.randint(0, most // 2), chance.randint(1, most)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True) as process:
        assert process.stdout is not None
        if chance.random() < 0.2:  # before anything is heard of it
            time.sleep(chance.random() * 3)
            process.kill()
        for line in process.stdout:
            with suppress(ValueError):  # the last line may be cut
                event = json.loads(line)
                if event["event"] == "scene":
                    told.add(event["id"])
            if len(told) == first and event["event"] != "alive":
                kill_a_worker(process.pid, chance)
            if len(told) >= first + second:
                time.sleep(chance.random() * 0.1)
                process.kill()
                break
        rest = process.stdout.read().splitlines()
    for line in rest:
        with suppress(ValueError):
            event = json.loads(line)
            if event["event"] == "scene":
                told.add(event["id"])
    return told


def kill_a_worker(pid: int, chance: random.Random) -> None:
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(pid).children(recursive=True)
        workers = [p for p in below if "spawn_main" in " ".join(p.cmdline())]
        if workers:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(workers).pid, signal.SIGKILL)
