"""From a raster to a file of objects, with a model of objects that sees what was planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
from click.testing import CliRunner
from models import bright_bundle
from numpy.typing import NDArray

import geoseg
from geoseg.bundle import Bundle, Sample
from geoseg.cli import cli
from geoseg.errors import UsageError
from geoseg.grid import Tiling
from geoseg.runtime.fake import fake_instances, planted
from geoseg.testing import planted_objects, write_scene
from geoseg.vectorize.attributes import attributes, mean_width

SHAPE = (300, 420)


@pytest.fixture(scope="module")
def truth() -> NDArray[np.int32]:
    """Some objects are longer than the overlap, some than a tile."""
    return planted_objects(SHAPE, count=90, longest=150, seed=5)


@pytest.fixture(scope="module")
def scene(truth: NDArray[np.int32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Band 1: the number of an object, 0 between them; band 2: its class."""
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    bands = np.stack([truth, truth % 2]).astype(np.uint16)
    return write_scene(path, bands)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = fake_instances(bands=2, classes=2, tiling=Tiling(96, 24, 8), dtype="uint16")
    picture = np.zeros((1, 2, 64, 64), np.float32)
    picture[0, 0, 10:20, 10:30] = 1
    sample = Sample(picture, planted(spec).predict(picture))
    folder = tmp_path_factory.mktemp("models") / "planted"
    return Bundle.write(folder, spec, {"none": np.zeros(1, np.float32)}, sample, "# planted\n")


def run(scene: Path, output: Path, model: Path, **options: Any) -> gpd.GeoDataFrame:
    given: dict[str, Any] = {"runtime": "fake", "stretch": "none", "tile": 96}
    geoseg.predict(scene, output, model=model, **{**given, **options})
    return gpd.read_parquet(output) if output.suffix == ".parquet" else gpd.read_file(output)


def test_one_row_per_object(
    scene: Path, model: Path, truth: NDArray[np.int32], tmp_path: Path
) -> None:
    found = run(scene, tmp_path / "o.gpkg", model)
    numbers, counts = np.unique(truth[truth > 0], return_counts=True)
    assert found["id"].tolist() == list(range(1, len(numbers) + 1))
    assert sorted((found.area / 0.09).round().astype(int)) == sorted(counts)
    assert found["area_m2"].to_numpy() == pytest.approx(found.area, rel=2e-3)
    assert found.is_valid.all()
    assert not found["truncated"].any()
    assert found["score"].to_numpy() == pytest.approx(0.9)
    for row in found.itertuples():
        point = row.geometry.representative_point()
        number = truth[int((5_800_000 - point.y) / 0.3), int((point.x - 500_000) / 0.3)]
        assert row.class_id == number % 2 + 1
    assert set(found["class"]) == {"thing1", "thing2"}
    about = pyogrio.read_info(tmp_path / "o.gpkg")
    types = dict(zip(about["fields"], about["dtypes"], strict=True))
    assert types["id"] == "int64"
    assert types["truncated"] == "bool"
    assert types["score"] == "float32"


@pytest.mark.parametrize("suffix", [".parquet", ".fgb", ".geojson", ".geojsonl", ".shp"])
def test_every_format(scene: Path, model: Path, tmp_path: Path, suffix: str) -> None:
    first = run(scene, tmp_path / "o.gpkg", model)
    found = run(scene, tmp_path / f"o{suffix}", model)
    assert sorted(found["id"]) == first["id"].tolist()
    areas = found.sort_values("id")["area_m2"].to_numpy()
    assert areas == pytest.approx(first["area_m2"].to_numpy(), rel=1e-6)


def test_the_tile_size_changes_nothing(scene: Path, model: Path, tmp_path: Path) -> None:
    one = run(scene, tmp_path / "a.gpkg", model)
    for tile, overlap in ((64, 8), (200, 40), (512, 0)):
        other = run(scene, tmp_path / f"{tile}.gpkg", model, tile=tile, overlap=overlap)
        assert set(one.normalize().to_wkb()) == set(other.normalize().to_wkb())


def test_options_of_polygons(scene: Path, model: Path, tmp_path: Path) -> None:
    whole = run(scene, tmp_path / "a.gpkg", model)
    large = run(scene, tmp_path / "b.gpkg", model, min_area=40)
    assert len(large) == (whole["area_m2"] >= 40).sum() < len(whole)
    assert large["id"].tolist() == list(range(1, len(large) + 1))
    fewer = run(scene, tmp_path / "c.gpkg", model, simplify=0.6)
    assert (
        shapely.get_num_coordinates(fewer.geometry).sum()
        < 0.8 * shapely.get_num_coordinates(whole.geometry).sum()
    )
    assert fewer.is_valid.all()
    degrees = run(scene, tmp_path / "d.gpkg", model, crs="EPSG:4326")
    assert degrees.crs.to_epsg() == 4326
    assert degrees["area_m2"].to_numpy() == pytest.approx(whole["area_m2"].to_numpy())
    assert run(scene, tmp_path / "e.gpkg", model, threshold=0.95).empty


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_slivers_and_more_columns(scene: Path, model: Path, tmp_path: Path, suffix: str) -> None:
    whole = run(scene, tmp_path / f"a{suffix}", model)
    found = run(scene, tmp_path / f"b{suffix}", model, min_width=1.5, attributes=True)
    area, perimeter = whole["area_m2"].to_numpy(), whole["perimeter_m"].to_numpy()
    wide = mean_width(area, perimeter) >= 1.5
    assert 0 < wide.sum() < len(whole)
    assert found["area_m2"].tolist() == whole["area_m2"][wide].tolist()
    expected = attributes(whole.geometry.to_numpy()[wide], whole.crs, area[wide], perimeter[wide])
    for name, values in expected.items():
        assert found[name].to_numpy() == pytest.approx(values), name
    none = run(scene, tmp_path / f"c{suffix}", model, threshold=0.99, attributes=True)
    assert list(none.columns) == list(found.columns)
    assert none.empty


def test_an_area_of_interest(scene: Path, model: Path, tmp_path: Path) -> None:
    """Objects come whole; each belongs to one of two areas beside each other."""
    whole = run(scene, tmp_path / "a.gpkg", model)
    left, bottom, right, top = whole.total_bounds
    middle = (left + right) / 2 + 0.1
    parts = []
    for i, (a, b) in enumerate(((left - 9, middle), (middle, right + 9))):
        area = gpd.GeoDataFrame(geometry=[shapely.box(a, bottom - 9, b, top + 9)], crs=whole.crs)
        area.to_file(tmp_path / f"area{i}.gpkg")
        parts.append(run(scene, tmp_path / f"p{i}.gpkg", model, aoi=tmp_path / f"area{i}.gpkg"))
    assert min(map(len, parts)) > 5
    found = [w for p in parts for w in p.normalize().to_wkb()]
    assert sorted(found) == sorted(whole.normalize().to_wkb())


def test_fragments_are_told(scene: Path, model: Path, tmp_path: Path) -> None:
    events: list[Any] = []
    found = run(scene, tmp_path / "o.gpkg", model, tile=152, overlap=0, listener=events.append)
    assert found["truncated"].any()
    told = [e["message"] for e in events if e.get("topic") == "output"]
    assert any(f"{found['truncated'].sum()} objects may go on beyond" in line for line in told)


@pytest.mark.parametrize(
    "options",
    [{"mask": "m.tif"}, {"probabilities": "p.tif"}, {"stitch": "crop"}, {"tta": ("hflip",)}],
)
def test_what_only_pixels_have_is_refused(
    scene: Path, model: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(options))}: fake-0 finds objects, not"):
        run(scene, tmp_path / "o.gpkg", model, **options)
    assert list(tmp_path.iterdir()) == []


def test_merge_is_for_objects(scene: Path, tmp_path: Path) -> None:
    bundle = bright_bundle(tmp_path / "bright")
    with pytest.raises(UsageError, match="merge: bright-1 finds pixels, not objects; leave it out"):
        geoseg.predict(scene, tmp_path / "o.gpkg", model=bundle, merge="nms")


def test_on_the_command_line(scene: Path, model: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "o.gpkg")
    fixed = ["--runtime", "fake", "--stretch", "none", "--tile", "96"]
    arguments = ["predict", str(scene), "-o", output, "-m", str(model), *fixed]
    done = CliRunner().invoke(cli, [*arguments, "--merge", "nms"])
    assert done.exit_code == 0, done.output
    assert "polygons of thing1" in done.output
    again = CliRunner().invoke(cli, [*arguments, "--overwrite"])
    assert again.exit_code == 0
    drawn = CliRunner().invoke(
        cli, ["preview", output, str(scene), "-o", str(tmp_path / "p.png"), "--width", "300"]
    )
    assert drawn.exit_code == 0, drawn.output
