"""The command line as a user meets it: real processes, exit codes, one message, no leftovers."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from affine import Affine
from models import bright_bundle

from geoseg import testing

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}


def geoseg(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "geoseg", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=ENV, **options)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_bundle(tmp_path_factory.mktemp("models") / "bright")


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mask = testing.planted_rectangles((300, 420), count=60, seed=1)
    return testing.planted_scene(tmp_path_factory.mktemp("scenes") / "scene.tif", mask)


def test_help_answers_at_once() -> None:
    geoseg("--help")  # once for the file cache
    started = time.perf_counter()
    done = geoseg("--help")
    assert "predict" in done.stdout
    assert time.perf_counter() - started < 2  # half a second on a quiet machine: see benchmarks/
    assert geoseg("--version").stdout.startswith("geoseg, version")


def test_predict_is_quiet_in_a_pipe_and_sums_up(scene: Path, model: Path, tmp_path: Path) -> None:
    done = geoseg("predict", scene, "-o", tmp_path / "o.gpkg", "-m", model)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    count = len(gpd.read_file(tmp_path / "o.gpkg"))
    assert done.stdout.startswith(f"{count} polygons of object")


def test_closed_streams_do_not_matter(scene: Path, model: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m geoseg predict {scene} -o {tmp_path}/o.gpkg -m {model} >&- 2>&-"
    assert subprocess.run(command, shell=True, env=ENV).returncode == 0  # noqa: S602
    assert len(gpd.read_file(tmp_path / "o.gpkg")) > 0


def test_json_lines(scene: Path, model: Path, tmp_path: Path) -> None:
    done = geoseg("predict", scene, "-o", tmp_path / "o.fgb", "-m", model, "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0] == {"event": "alive"}
    assert events[1]["event"] in ("alive", "start", "info")
    assert events[-1]["event"] == "result"
    assert events[-1]["output"] == str(tmp_path / "o.fgb")
    failed = geoseg("predict", "missing.tif", "-o", tmp_path / "p.fgb", "-m", model, "--json")
    error = json.loads(failed.stdout.splitlines()[-1])
    assert (error["event"], error["kind"], error["exit_code"]) == ("error", "SceneError", 1)
    assert failed.returncode == 1


def test_info_plan_model_and_doctor(scene: Path, model: Path) -> None:
    assert json.loads(geoseg("info", scene, "--json").stdout)["width"] == 420
    assert "EPSG:32633" in geoseg("info", scene).stdout
    planned = json.loads(geoseg("plan", scene, "-m", model, "--json").stdout.splitlines()[-1])
    assert planned["tiles"] > 1
    assert planned["seconds"] > 0
    assert "bright" in geoseg("model", "show", model).stdout
    assert geoseg("model", "check", model).returncode == 0
    assert "torch" in geoseg("doctor").stdout


def truncated(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    data = rng.integers(1, 255, (3, 300, 300), dtype=np.uint8)
    path = testing.write_scene(folder / "truncated.tif", data)
    path.write_bytes(path.read_bytes()[:100_000])
    return path


def not_a_raster(folder: Path) -> Path:
    path = folder / "text.tif"
    path.write_text("this is no raster")
    return path


def empty_file(folder: Path) -> Path:
    path = folder / "empty.tif"
    path.touch()
    return path


def one_band(folder: Path) -> Path:
    return testing.write_scene(folder / "two.tif", np.ones((2, 50, 50), np.uint8))


def complex_values(folder: Path) -> Path:
    return testing.write_scene(folder / "complex.tif", np.ones((3, 50, 50), np.complex64))


def all_nodata(folder: Path) -> Path:
    return testing.write_scene(folder / "void.tif", np.zeros((3, 50, 50), np.uint8), nodata=0)


def far_too_coarse(folder: Path) -> Path:
    data = np.random.default_rng(0).integers(1, 255, (3, 50, 50), dtype=np.uint8)
    transform = Affine(10, 0, 500_000, 0, -10, 5_800_000)
    return testing.write_scene(folder / "coarse.tif", data, transform=transform)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "missing.tif", "missing.tif"),
        (truncated, "truncated.tif"),
        (not_a_raster, "text.tif"),
        (empty_file, "empty.tif"),
        (one_band, "band"),
        (complex_values, "complex"),
        (all_nodata, "void.tif"),
        (far_too_coarse, "10"),
        (lambda folder: folder, "folder"),
    ],
)
def test_bad_scenes(make, words: str, model: Path, tmp_path: Path) -> None:
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    outputs.mkdir()
    done = geoseg("predict", make(inputs), "-o", outputs / "o.gpkg", "-m", model)
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("geoseg: ")
    assert words in message
    assert "Traceback" not in done.stderr
    assert list(outputs.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["-o", "/dev/null/o.gpkg"], 1, "/dev/null is not a folder"),
        (["-o", "o.xyz"], 2, ".gpkg"),
        (["-o", "o.gpkg", "--tile", "100", "--overlap", "100"], 2, "overlap"),
        (["-o", "o.gpkg", "--bands", "red,,blue"], 2, "left out"),
        (["-o", "o.gpkg", "--bounds", "1,2,3"], 2, "W,S,E,N"),
        (["-o", "o.gpkg", "--bounds=-9,0,9,9", "--aoi", "a.gpkg"], 2, "leave one of them out"),
        (["-o", "o.gpkg", "--bounds=-9,0,9,9"], 1, "bounds: lies outside of the scene"),
        (["-o", "o.gpkg", "--batch", "0"], 2, "batch"),
        (["-o", "o.gpkg", "--batch", "many"], 2, "batch"),
        (["-o", "o.gpkg", "--tlie", "100"], 2, "--tile"),
        (["-o", "o.gpkg", "-m", "no-such-model"], 1, "no-such-model"),
        ([], 2, "nothing to write"),
    ],
)
def test_bad_arguments(
    args: list[str], code: int, words: str, scene: Path, model: Path, tmp_path: Path
) -> None:
    if "-m" not in args:
        args = [*args, "-m", str(model)]
    done = geoseg("predict", scene, *args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(scene: Path, model: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writing fails midway."""

    args = [scene, "-o", tmp_path / "o.gpkg", "-m", model]
    assert geoseg("predict", *args).returncode == 0  # kernels are compiled and cached now
    (tmp_path / "o.gpkg").unlink()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, 16_384))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = geoseg("predict", *args, preexec_fn=limit)
    assert done.returncode == 1
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("verb", [["doctor"], ["predict", "nothing.tif", "-o", "o.gpkg"]])
def test_a_full_disk_under_stdout_is_said(verb: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "geoseg", *verb, "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=ENV,
        )
    assert done.returncode != 0
    assert done.stderr.startswith("geoseg: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("stdin", ["ended", "none"])
def test_a_run_without_a_parent_ends_in_a_sentence(stdin: str, scene: Path, tmp_path: Path) -> None:
    """Where stdin has ended before the run began; without any there is nothing to watch."""
    end = "</dev/null" if stdin == "ended" else "<&-"
    command = f'"$0" -m geoseg "$@" {end}'
    # Without errors for warnings: an import that is broken off leaves its file to the collector.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GEOSEG_WATCH_STDIN": "1"}
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, "info", str(scene), "--json"],
        capture_output=True,
        text=True,
        env=env,
    )
    assert "Traceback" not in done.stderr
    if stdin == "none":
        assert done.returncode == 0
    else:
        assert done.returncode == 130
        assert json.loads(done.stdout.splitlines()[-1])["kind"] == "Interrupted"


@pytest.fixture(scope="session")
def long_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mask = testing.planted_rectangles((6000, 3000), count=3000, seed=1)
    return testing.planted_scene(tmp_path_factory.mktemp("scenes") / "long.tif", mask)


@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT] * 3],
    ids=["INT", "TERM", "impatient"],
)
def test_interrupted_runs_leave_nothing(
    long_scene: Path, model: Path, tmp_path: Path, numbers: list[int]
) -> None:
    command = ["predict", long_scene, "-o", tmp_path / "o.gpkg", "--mask", tmp_path / "m.tif"]
    command += ["-m", model, "--json", "--tile", 128]
    process = subprocess.Popen(
        [sys.executable, "-m", "geoseg", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
        # a shell that starts the tests in the background has them ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":
            break
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.02)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert json.loads(out.splitlines()[-1])["event"] == "error"
    assert list(tmp_path.iterdir()) == []
