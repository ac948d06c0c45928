"""Big scenes in parts: the polygons of one worker, whatever is split, and whoever is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import rasterio
from archive import features, leftovers, make_archive, states
from models import bright_bundle, scene_and_model_of_objects
from shapely.geometry import box

from geoseg import testing
from geoseg.batch.run import batch
from geoseg.batch.split import FOLDER
from geoseg.errors import OutputError
from geoseg.loaded import Loaded

SMALL = {"tile": 64, "overlap": 16}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_bundle(tmp_path_factory.mktemp("models") / "bright")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_archive(tmp_path_factory.mktemp("archive") / "in", 2, broken=False)
    mask = testing.planted_rectangles((400, 300), count=60, seed=1, edge=(4, 90))
    mask[150:250] = 0  # rows of tiles in which nothing is found
    testing.planted_scene(folder / "big.tif", mask)
    (folder / "broken.tif").write_bytes((folder / "big.tif").read_bytes()[:200_000])
    return folder


def run(archive: Path, out: Path, model: Path, **options: Any) -> Any:
    return batch(archive, out, model=model, runtime="fake", mask=True, **SMALL, **options)


@pytest.fixture(scope="module")
def whole(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    result = run(archive, out, model)
    assert (result.done, result.failed) == (3, 1)
    return out


def pixels(path: Path) -> Any:
    with rasterio.open(path) as raster:
        return raster.read()


@pytest.mark.parametrize(
    "how", [{}, {"engine": "processes", "workers": 2}, {"engine": "dask", "workers": 2}], ids=str
)
def test_parts_give_the_polygons_of_the_whole(
    archive: Path, model: Path, whole: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    out, seen = tmp_path / "out", []
    result = run(archive, out, model, split=10, listener=seen.append, **how)
    assert (result.scenes, result.done, result.failed) == (4, 3, 1)
    assert states(out) == states(whole)
    assert features(out) == features(whole)
    assert (pixels(out / "masks" / "big.tif") == pixels(whole / "masks" / "big.tif")).all()
    assert not (out / FOLDER).exists()
    assert not leftovers(out)
    assert sorted(e["id"] for e in seen if e["event"] == "scene") == sorted(states(out))


def test_an_area_leaves_whole_rows_out(archive: Path, model: Path, tmp_path: Path) -> None:
    x, y = 500_000, 5_800_000
    area = gpd.GeoDataFrame(geometry=[box(x + 30, y - 110, x + 60, y - 70)], crs="EPSG:32633")
    area.to_file(tmp_path / "aoi.gpkg")
    for name, split in (("whole", None), ("parts", 3)):
        run(archive / "big.tif", tmp_path / name, model, aoi=tmp_path / "aoi.gpkg", split=split)
    assert features(tmp_path / "parts")
    assert features(tmp_path / "parts") == features(tmp_path / "whole")


def test_parts_of_a_run_that_ended_are_not_seen_again(
    archive: Path, model: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, rows = Loaded.predictions, []

    def watched(self: Loaded, scene: Any, tiles: Any, *more: Any) -> Any:
        rows.append([i for i, row in enumerate(tiles.rows) if row])
        if fails and len(rows) == 3:
            raise OutputError("the disk is full")
        return true(self, scene, tiles, *more)

    monkeypatch.setattr(Loaded, "predictions", watched)
    fails = True
    with pytest.raises(OutputError, match="disk is full"):
        run(archive / "big.tif", tmp_path / "out", model, split=10)
    assert states(tmp_path / "out") == {"big": "pending"}
    fails, first = False, list(rows)
    rows.clear()
    assert run((), tmp_path / "out", model, split=10).done == 1
    assert not [r for r in rows if r in first[:2]]
    assert first[2] in rows
    one = [f for f in features(whole) if f[0] == "big.gpkg"]
    assert features(tmp_path / "out") == one


def test_parts_of_a_raster_that_has_changed_are_not_used(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, out = tmp_path / "big.tif", tmp_path / "out"
    scene.write_bytes((archive / "big.tif").read_bytes())
    true, seen = Loaded.predictions, []

    def stopped(self: Loaded, *scene_and_more: Any) -> Any:
        seen.append(self)
        if len(seen) == 3:
            raise OutputError("the disk is full")
        return true(self, *scene_and_more)

    with monkeypatch.context() as patched:
        patched.setattr(Loaded, "predictions", stopped)
        with pytest.raises(OutputError, match="disk is full"):
            run(scene, out, model, split=10)
    mask = testing.planted_rectangles((400, 300), count=30, seed=7, edge=(4, 90))
    testing.planted_scene(scene, mask)
    run((), out, model, split=10)
    run(scene, tmp_path / "whole", model)
    assert features(out) == features(tmp_path / "whole")


def test_objects_are_whole_across_parts(tmp_path: Path) -> None:
    scene, model = scene_and_model_of_objects(tmp_path)
    how: dict[str, Any] = {"runtime": "fake", "stretch": "none", "tile": 96}
    for name, split in (("whole", None), ("parts", 5)):
        batch(scene, tmp_path / name, model=model, split=split, **how)
    assert len(features(tmp_path / "whole")) > 30
    assert features(tmp_path / "parts") == features(tmp_path / "whole")
