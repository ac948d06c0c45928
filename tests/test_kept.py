"""`predict --resume`: whatever ended a run, the next one ends as if nothing had been."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from models import bright_bundle

import geoseg
from geoseg import kept, testing
from geoseg.bundle import Bundle, Sample
from geoseg.errors import OutputError, UsageError
from geoseg.grid import Tiling
from geoseg.runtime.fake import fake_instances, planted

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
    spec = fake_instances(bands=2, classes=2, tiling=Tiling(96, 24, 8), dtype="uint16")
    picture = np.zeros((1, 2, 64, 64), np.float32)
    picture[0, 0, 10:20, 10:30] = 1
    sample = Sample(picture, planted(spec).predict(picture))
    state = {"none": np.zeros(1, np.float32)}
    model = Bundle.write(tmp_path / "planted", spec, state, sample, "# planted\n")
    truth = testing.planted_objects((300, 420), count=90, longest=150, seed=5)
    bands = np.stack([truth, truth % 2]).astype(np.uint16)
    scene = testing.write_scene(tmp_path / "scene.tif", bands)
    options = {"runtime": "fake", "stretch": "none", "tile": 96, "overlap": 24}
    kill(scene, tmp_path / "out.gpkg", model, 15, **options)
    _, _, said = run(scene, tmp_path / "out.gpkg", model, resume=True, **options)
    run(scene, tmp_path / "whole.gpkg", model, **options)
    assert said
    assert rows(tmp_path / "out.gpkg") == rows(tmp_path / "whole.gpkg")


def test_wrong_use_is_told(scene: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to write"):
        geoseg.predict(scene, model=model, resume=True)
    (tmp_path / "out.gpkg.parts").mkdir()
    with pytest.raises(OutputError, match="in the way"):
        geoseg.predict(scene, tmp_path / "out.gpkg", model=model, resume=True)


def test_a_part_that_is_broken_is_seen_again(scene: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gpkg"
    first = kill(scene, out, model, 30, **SMALL)[0]
    first.write_bytes(first.read_bytes()[:1000])
    run(scene, out, model, resume=True, **SMALL)
    run(scene, tmp_path / "whole.gpkg", model, **SMALL)
    assert rows(out) == rows(tmp_path / "whole.gpkg")
