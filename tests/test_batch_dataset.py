"""One dataset of all scenes: nothing lost, sorted by place, read in part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pytest
from affine import Affine
from archive import leftovers, make_archive
from geopandas.testing import assert_geodataframe_equal
from models import bright_bundle
from shapely.geometry import box

from geoseg import testing
from geoseg.batch.dataset import write_dataset
from geoseg.batch.ledger import NAME, Ledger
from geoseg.batch.run import batch
from geoseg.sinks import read_metadata, writers

SCENES = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_bundle(tmp_path_factory.mktemp("models") / "bright")


def run(source: Path, out: Path, model: Path, **options: Any) -> Any:
    return batch(source, out, model=model, runtime="fake", **options)


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    run(make_archive(folder / "in", SCENES), folder / "out", model, dataset="all.parquet")
    return folder / "out"


def parts(out: Path) -> gpd.GeoDataFrame:
    """The features of all scenes, with their scene."""
    frames = [gpd.read_parquet(p).assign(scene=p.stem) for p in (out / "polygons").iterdir()]
    return in_order(gpd.pd.concat(frames, ignore_index=True))


def in_order(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    frame = frame.drop(columns="bbox", errors="ignore")
    frame = frame.assign(wkb=[g.wkb for g in frame.geometry]).sort_values(["scene", "wkb"])
    columns = sorted(c for c in frame.columns if c != "wkb")
    return frame[columns].reset_index(drop=True)


def codes(frame: gpd.GeoDataFrame) -> np.ndarray:
    b = frame.geometry.bounds
    middle = gpd.GeoSeries(gpd.points_from_xy((b.minx + b.maxx) / 2, (b.miny + b.maxy) / 2))
    return middle.hilbert_distance(tuple(frame.total_bounds), level=16).to_numpy()


def test_nothing_is_lost_and_all_is_sorted_by_place(done: Path) -> None:
    frame = gpd.read_parquet(done / "all.parquet")
    assert frame["scene"].nunique() == SCENES
    assert_geodataframe_equal(in_order(frame), parts(done))
    assert (np.diff(codes(frame)) >= 0).all()
    assert read_metadata(done / "all.parquet")["geoseg:model"] == "bright-1"
    assert not leftovers(done)


def test_in_buckets_it_is_the_same(done: Path, tmp_path: Path) -> None:
    """Larger than memory: each bucket holds a few kilobytes."""
    with Ledger.open(done / NAME, create=False) as ledger:
        how = {"metadata": {"model": "bright-1"}}
        count = write_dataset(tmp_path / "few.parquet", ledger, done, bucket=4096, **how)
    whole = gpd.read_parquet(done / "all.parquet")
    assert count == len(whole)
    few = gpd.read_parquet(tmp_path / "few.parquet")
    assert (np.diff(codes(few)) >= 0).all()
    assert_geodataframe_equal(few, whole)


def test_readers_skip_what_lies_elsewhere(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "ROW_GROUP_ROWS", 8)
    monkeypatch.setattr("geoseg.sinks.vector.BATCH_ROWS", 8)
    path = tmp_path / "small.parquet"
    with Ledger.open(done / NAME, create=False) as ledger:
        write_dataset(path, ledger, done, metadata={})
    whole = gpd.read_parquet(path)
    x, y = whole.total_bounds[0], whole.total_bounds[1]
    window = (x, y, x + 15, y + 15)
    assert_geodataframe_equal(
        in_order(gpd.read_parquet(path, bbox=window)),
        in_order(whole[whole.intersects(box(*window))]),
    )
    file = pq.ParquetFile(path)
    names = {file.schema.column(i).path: i for i in range(len(file.schema))}

    def meets(group: int) -> bool:
        about = file.metadata.row_group(group)
        stats = {n: about.column(names[f"bbox.{n}"]).statistics for n in ("xmin", "ymin")}
        return bool(stats["xmin"].min <= window[2] and stats["ymin"].min <= window[3])

    wanted = sum(meets(group) for group in range(file.num_row_groups))
    assert file.num_row_groups > 8
    assert 0 < wanted <= file.num_row_groups / 3


@pytest.mark.parametrize("name", ["all.gpkg", "all.fgb"])
def test_other_formats_hold_the_same(done: Path, tmp_path: Path, name: str) -> None:
    with Ledger.open(done / NAME, create=False) as ledger:
        write_dataset(tmp_path / name, ledger, done, metadata={})
    frame = gpd.read_file(tmp_path / name)
    assert_geodataframe_equal(in_order(frame), parts(done), check_dtype=False, check_crs=False)
    part = gpd.read_file(tmp_path / name, bbox=tuple(frame.total_bounds[[0, 1, 0, 1]] + 10))
    assert 0 < len(part) < len(frame)


def test_scenes_in_several_crs_meet_in_degrees(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    mask = testing.planted_rectangles((96, 96), count=6, seed=0)
    for zone, x in ((32, 999_000), (33, 530_000)):
        where = Affine(0.3, 0, x, 0, -0.3, 5_800_000)
        path = tmp_path / "in" / f"z{zone}.tif"
        testing.planted_scene(path, mask, transform=where, crs=f"EPSG:326{zone}")
    seen: list[Mapping[str, Any]] = []
    out = tmp_path / "out"
    run(tmp_path / "in", out, model, dataset="all.parquet", listener=seen.append)
    frame = gpd.read_parquet(out / "all.parquet")
    assert frame.crs == "EPSG:4326"
    for zone in (32, 33):
        part = gpd.read_parquet(out / "polygons" / f"z{zone}.parquet").to_crs(4326)
        mine = frame[frame["scene"] == f"z{zone}"]
        assert mine.union_all().symmetric_difference(part.union_all()).area < 1e-15
    assert any("2 CRS" in e["message"] for e in seen if e["event"] == "warning")


def test_a_dataset_without_polygons_opens(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    testing.planted_scene(tmp_path / "in" / "dark.tif", np.zeros((96, 96), np.uint8))
    run(tmp_path / "in", tmp_path / "out", model, dataset="all.parquet", threshold=0.99)
    frame = gpd.read_parquet(tmp_path / "out" / "all.parquet")
    assert len(frame) == 0
    assert "class" in frame.columns


def test_the_dataset_is_written_when_something_is_new(done: Path, model: Path) -> None:
    path = done / "all.parquet"
    before = path.stat().st_mtime_ns
    result = run(done.parent / "in", done, model, dataset="all.parquet")
    assert path.stat().st_mtime_ns == before
    assert str(path) in result.outputs
    path.unlink()
    run(done.parent / "in", done, model, dataset="all.parquet")
    whole = gpd.read_parquet(path)
    (done / "polygons" / "s003.parquet").unlink()
    run((), done, model, format="parquet")  # without a dataset, of which it is no part then
    before = path.stat().st_mtime_ns
    run((), done, model, dataset="all.parquet")
    assert path.stat().st_mtime_ns > before
    assert_geodataframe_equal(gpd.read_parquet(path), whole)
