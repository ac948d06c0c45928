"""`predict --resume`: whatever ended a run, the next one ends as if nothing had been."""

from __future__ import annotations

import errno
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import rasterio
from models import bright_bundle, scene_and_model_of_objects

import geoseg
from geoseg import kept, testing
from geoseg.errors import OutputError, UsageError

SMALL: dict[str, Any] = {"tile": 64, "overlap": 16}
KILLED = """
import os, signal, geoseg
from geoseg import kept
kept.MOST = 8

def die(chip, read=[]):
    read.append(chip)
    if len(read) == {last}:
        os.kill(os.getpid(), signal.SIGKILL)

geoseg.predict({scene!r}, {out!r}, model={model!r}, on_chip=die, resume=True, **{options!r})
"""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST", 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_bundle(tmp_path_factory.mktemp("models") / "bright")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mask = testing.planted_rectangles((400, 300), count=60, seed=1, edge=(4, 90))
    return testing.planted_scene(tmp_path_factory.mktemp("scenes") / "scene.tif", mask)


def kill(scene: Path, out: Path, model: Path, last: int, **options: Any) -> list[Path]:
    """A run that does not survive reading a chip; the parts that it left."""
    names = {"scene": str(scene), "out": str(out), "model": str(model)}
    code = KILLED.format(last=last, options=options, **names)
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert not out.exists()
    return sorted(out.with_name(f"{out.name}.parts").glob("*.zip"))


def run(scene: Path, out: Path, model: Path, **options: Any) -> tuple[Any, int, list[str]]:
    """Result, number of chips that were read, and what was said of earlier runs."""
    seen, said = [], []

    def listen(event: Any) -> None:
        if event["event"] == "info" and "earlier run" in event["message"]:
            said.append(event["message"])

    result = geoseg.predict(
        scene, out, model=model, on_chip=seen.append, listener=listen, **options
    )
    return result, len(seen), said


def rows(path: Path) -> list[tuple[Any, ...]]:
    frame = gpd.read_file(path)
    plain = frame.drop(columns="geometry").itertuples(index=False, name=None)
    return list(zip(frame.geometry.to_wkb(), plain, strict=True))


@pytest.mark.parametrize("last", [3, 20, 30])
def test_a_killed_run_goes_on(scene: Path, model: Path, tmp_path: Path, last: int) -> None:
    whole, chips, _ = run(scene, tmp_path / "whole.gpkg", model, mask=tmp_path / "w.tif", **SMALL)
    out = tmp_path / "killed" / "out.gpkg"
    parts = kill(scene, out, model, last, **SMALL)
    assert bool(parts) == (last > 3)
    result, again, said = run(scene, out, model, resume=True, mask=out.with_name("m.tif"), **SMALL)
    assert rows(out) == rows(tmp_path / "whole.gpkg")
    assert result.tiles == whole.tiles
    with rasterio.open(tmp_path / "w.tif") as a, rasterio.open(out.with_name("m.tif")) as b:
        assert (a.read() == b.read()).all()
    assert again == chips - 6 * len(parts)  # a row of tiles each
    assert len(said) == bool(parts)
    assert sorted(p.name for p in out.parent.iterdir()) == ["m.tif", "out.gpkg"]


def test_a_run_that_was_interrupted_goes_on_also_with_other_polygons(
    scene: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.gpkg"

    read = []

    def stop(chip: Any) -> None:
        read.append(chip)
        if len(read) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        geoseg.predict(scene, out, model=model, on_chip=stop, resume=True, **SMALL)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["out.gpkg.parts"]
    left = [p.name for p in (tmp_path / "out.gpkg.parts").iterdir()]
    assert not [name for name in left if name.startswith(".")]
    _, chips, said = run(scene, out, model, resume=True, simplify=0.5, **SMALL)
    assert said
    assert chips < 40
    run(scene, tmp_path / "whole.gpkg", model, simplify=0.5, **SMALL)
    assert rows(out) == rows(tmp_path / "whole.gpkg")


@pytest.mark.parametrize("change", ["options", "scene", "model"])
def test_what_does_not_fit_is_not_used(
    scene: Path, model: Path, tmp_path: Path, change: str
) -> None:
    own, out, options = tmp_path / "scene.tif", tmp_path / "out.gpkg", dict(SMALL)
    own.write_bytes(scene.read_bytes())
    kill(own, out, model, 20, **options)
    match change:
        case "options":
            options["overlap"] = 24
        case "scene":
            mask = testing.planted_rectangles((400, 300), count=30, seed=2)
            testing.planted_scene(own, mask)
        case "model":
            model = bright_bundle(tmp_path / "other", threshold=0.7)
    _, chips, said = run(own, out, model, resume=True, **options)
    _, every, _ = run(own, tmp_path / "whole.gpkg", model, **options)
    assert chips == every
    assert said == ["the scene, the model or options are others than in an earlier run: anew"]
    assert rows(out) == rows(tmp_path / "whole.gpkg")


def test_objects_go_on_too(tmp_path: Path) -> None:
    scene, model = scene_and_model_of_objects(tmp_path)
    options = {"runtime": "fake", "stretch": "none", "tile": 96, "overlap": 24}
    kill(scene, tmp_path / "out.gpkg", model, 15, **options)
    _, _, said = run(scene, tmp_path / "out.gpkg", model, resume=True, **options)
    run(scene, tmp_path / "whole.gpkg", model, **options)
    assert said
    assert rows(tmp_path / "out.gpkg") == rows(tmp_path / "whole.gpkg")


def test_wrong_use_is_told(scene: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to write"):
        geoseg.predict(scene, model=model, resume=True)
    parts = tmp_path / "out.gpkg.parts"
    parts.write_text("a file")
    with pytest.raises(OutputError, match="in the way"):
        geoseg.predict(scene, tmp_path / "out.gpkg", model=model, resume=True)
    parts.unlink()
    parts.mkdir()
    (parts / "notes.doc").touch()
    with pytest.raises(OutputError, match="in the way"):
        geoseg.predict(scene, tmp_path / "out.gpkg", model=model, resume=True)
    assert [p.name for p in parts.iterdir()] == ["notes.doc"]


def test_a_part_that_is_broken_is_seen_again(scene: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gpkg"
    first = kill(scene, out, model, 30, **SMALL)[0]
    first.write_bytes(first.read_bytes()[:1000])
    run(scene, out, model, resume=True, **SMALL)
    run(scene, tmp_path / "whole.gpkg", model, **SMALL)
    assert rows(out) == rows(tmp_path / "whole.gpkg")


@pytest.mark.parametrize("left", ["nothing", "no key", "half a key", "garbage for a key"])
def test_what_a_kill_leaves_of_the_folder_is_in_nobodys_way(
    scene: Path, model: Path, tmp_path: Path, left: str
) -> None:
    parts = tmp_path / "out.gpkg.parts"
    parts.mkdir()
    (parts / ".geoseg-x.tmp").mkdir()
    if left != "nothing":
        key = {"no key": b"", "half a key": b"0123", "garbage for a key": b"\xff\xfe"}[left]
        (parts / "run.txt").write_bytes(key)
    _, _, said = run(scene, tmp_path / "out.gpkg", model, resume=True, **SMALL)
    assert not said
    assert [p.name for p in tmp_path.iterdir()] == ["out.gpkg"]


def test_the_key_is_what_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = kept.Parts(tmp_path / "out.gpkg.parts")
    parts.make()
    parts.begin("a")
    for rows in [(0, 2), (2, 4)]:
        list(parts.keeping(rows, [], device="none"))
    there = []

    def look(folder: Path, **how: Any) -> None:
        there.extend(p.name for p in Path(folder).iterdir())

    monkeypatch.setattr(kept.shutil, "rmtree", look)
    parts.remove()
    assert there == ["run.txt"]
    assert not parts.begin("b")


def test_of_two_runs_at_once_the_second_is_refused(
    scene: Path, model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("fcntl")
    out, told = tmp_path / "out.gpkg", []
    options = {**SMALL, "model": model, "resume": True, "overwrite": True}

    def another(chip: Any) -> None:
        if not told:
            with pytest.raises(OutputError, match="another run is at work") as refused:
                geoseg.predict(scene, out, **{**options, "overlap": 24})
            told.append(refused)

    geoseg.predict(scene, out, on_chip=another, **options)
    assert told
    run(scene, tmp_path / "whole.gpkg", model, **SMALL)
    assert rows(out) == rows(tmp_path / "whole.gpkg")
    geoseg.predict(scene, out, **options)  # nothing holds the folder any more


def test_a_full_disk_is_told_and_what_was_kept_stays(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, put, count = tmp_path / "out.gpkg", kept._put, []

    def full(*args: Any) -> None:
        count.append(args)
        if len(count) > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(*args)

    monkeypatch.setattr(kept, "_put", full)
    sentence = r"parts/2-3.zip: could not be written \(the disk is full\); the parts before it stay"
    with pytest.raises(OutputError, match=sentence):
        geoseg.predict(scene, out, model=model, resume=True, **SMALL)
    names = sorted(p.name for p in (tmp_path / "out.gpkg.parts").iterdir())
    assert names == ["0-1.zip", "1-2.zip", "run.txt"]
    monkeypatch.setattr(kept, "_put", put)
    assert run(scene, out, model, resume=True, **SMALL)[2]


@pytest.mark.parametrize("damage", ["pixels", "all of it", "its list"])
def test_a_damaged_part_is_told_once(scene: Path, model: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out.gpkg"
    first = kill(scene, out, model, 30, **SMALL)[0]
    raw = first.read_bytes()
    match damage:
        case "pixels":
            middle = len(raw) // 2
            raw = (
                raw[:middle] + bytes(255 - b for b in raw[middle : middle + 9]) + raw[middle + 9 :]
            )
        case "all of it":
            raw = bytes(len(raw) - 100) + raw[-100:]
        case "its list":
            with zipfile.ZipFile(first, "w"):
                pass
            raw = first.read_bytes()
    first.write_bytes(raw)
    with pytest.raises(OutputError, match=r"0-1.zip was damaged and is deleted"):
        geoseg.predict(scene, out, model=model, resume=True, **SMALL)
    run(scene, out, model, resume=True, **SMALL)
    run(scene, tmp_path / "whole.gpkg", model, **SMALL)
    assert rows(out) == rows(tmp_path / "whole.gpkg")
