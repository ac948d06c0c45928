"""The whole way from a raster to files, with networks whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from models import bright_bundle
from rasterio.features import rasterize
from shapely import box

import geoseg
from geoseg import testing
from geoseg.errors import AoiError, ConfigError, OutputError, SceneError, UsageError
from geoseg.sinks import raster, read_metadata


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_bundle(tmp_path_factory.mktemp("models") / "bright")


@pytest.fixture(scope="session")
def mask() -> np.ndarray:
    return testing.planted_rectangles((300, 420), count=60, seed=1)


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray) -> Path:
    return testing.planted_scene(tmp_path_factory.mktemp("scenes") / "scene.tif", mask)


def burned(frame: gpd.GeoDataFrame, transform: Affine, shape: tuple[int, int]) -> np.ndarray:
    if frame.empty:
        return np.zeros(shape, np.uint8)
    return rasterize(frame.geometry, out_shape=shape, transform=transform)


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("options", [{}, {"tile": 64, "overlap": 24}, {"stitch": "crop"}])
def test_finds_exactly_what_was_planted(
    scene: Path, mask: np.ndarray, model: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    out, mask_out = tmp_path / "objects.gpkg", tmp_path / "mask.tif"
    result = geoseg.predict(scene, out, model=model, mask=mask_out, **options)
    frame = gpd.read_file(out)
    with rasterio.open(scene) as dataset:
        transform, crs = dataset.transform, dataset.crs
    assert frame.crs == crs
    assert frame.is_valid.all()
    assert (burned(frame, transform, mask.shape) == mask).all()
    with rasterio.open(mask_out) as dataset:
        assert (dataset.read(1) == mask).all()
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert result.polygons == {"object": len(frame)}
    assert frame["area_m2"].sum() == pytest.approx(mask.sum() * 0.09, rel=2e-3)
    assert (frame["confidence"] >= frame["confidence_min"]).all()
    assert (frame["confidence_min"] >= 0.5).all()
    assert read_metadata(out)["geoseg:model"] == "bright-1"


def test_batch_size_changes_nothing(scene: Path, model: Path, tmp_path: Path) -> None:
    frames = []
    for batch in (1, 3):
        out = tmp_path / f"{batch}.gpkg"
        geoseg.predict(scene, out, model=model, batch=batch, precision="float32")
        frames.append(gpd.read_file(out))
    assert frames[0].geom_equals_exact(frames[1], 0).all()


def test_probabilities_are_the_models(
    scene: Path, model: Path, mask: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "p.tif"
    geoseg.predict(scene, model=model, probabilities=out, precision="float32")
    with rasterio.open(scene) as a, rasterio.open(out) as b:
        mean = a.read().astype(float).mean(0)
        got = b.read(1) * b.scales[0]
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-8 * (mean - 127.5) / 127.5)), atol=1e-3)


def test_pixels_without_data_stay_without_class(
    mask: np.ndarray, model: Path, tmp_path: Path
) -> None:
    scene = testing.planted_scene(tmp_path / "scene.tif", mask, nodata=0)
    with rasterio.open(scene, "r+") as dataset:
        data = dataset.read()
        data[:, 100:200, :150] = 0
        dataset.write(data)
    geoseg.predict(scene, tmp_path / "o.gpkg", model=model, mask=tmp_path / "m.tif")
    expected = mask.copy()
    expected[100:200, :150] = 255
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert dataset.nodata == 255
        assert (dataset.read(1) == expected).all()


def test_aoi_in_another_crs(scene: Path, mask: np.ndarray, model: Path, tmp_path: Path) -> None:
    with rasterio.open(scene) as dataset:
        transform = dataset.transform
    left, top = transform @ (50, 60)
    right, bottom = transform @ (250, 200)
    aoi = gpd.GeoDataFrame(geometry=[box(left, bottom, right, top)], crs="EPSG:32633")
    aoi.to_crs(4326).to_file(tmp_path / "aoi.geojson")
    geoseg.predict(scene, tmp_path / "o.gpkg", model=model, aoi=tmp_path / "aoi.geojson")
    got = burned(gpd.read_file(tmp_path / "o.gpkg"), transform, mask.shape)
    expected = np.zeros_like(mask)
    expected[60:200, 50:250] = mask[60:200, 50:250]
    assert (got != expected).mean() < 1e-3  # the edge, after two reprojections


def read_mask(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def test_bounds_are_an_aoi_without_a_file(scene: Path, model: Path, tmp_path: Path) -> None:
    with rasterio.open(scene) as dataset:
        left, bottom, right, top = dataset.bounds
        bounds = (left - 10, bottom + 20, right - 30, top - 15)
        rectangle = gpd.GeoDataFrame(geometry=[box(*bounds)], crs=dataset.crs)
    rectangle.to_file(tmp_path / "aoi.gpkg")
    found = []
    for name, area in {"file": {"aoi": tmp_path / "aoi.gpkg"}, "box": {"bounds": bounds}}.items():
        files = {"output": tmp_path / f"{name}.gpkg", "mask": tmp_path / f"{name}-mask.tif"}
        result = geoseg.predict(scene, model=model, **files, **area)
        found.append((result.polygons, result.area_m2, result.tiles))
    assert found[0] == found[1]
    assert found[0][0]["object"] > 0
    assert geoseg.plan(scene, model=model, bounds=bounds).tiles == result.tiles
    polygons = [gpd.read_file(tmp_path / f"{name}.gpkg") for name in ("file", "box")]
    assert polygons[0].geometry.equals(polygons[1].geometry)
    masks = [read_mask(tmp_path / f"{name}-mask.tif") for name in ("file", "box")]
    assert (masks[0] == masks[1]).all()
    assert (masks[0] == 255).any()


def test_resampled_scene_and_rasters_on_its_own_grid(
    mask: np.ndarray, model: Path, tmp_path: Path
) -> None:
    """A scene of 0.1 m for a model of 0.3 m: polygons where the objects are."""
    fine = np.kron(mask, np.ones((3, 3), np.uint8))
    transform = Affine(0.1, 0, 500_000, 0, -0.1, 5_800_000)
    scene = testing.planted_scene(tmp_path / "fine.tif", fine, transform=transform)
    events = []
    geoseg.predict(
        scene,
        tmp_path / "o.gpkg",
        model=model,
        mask=tmp_path / "m.tif",
        raster_grid="scene",
        listener=events.append,
    )
    assert any(e["event"] == "info" and e.get("topic") == "gsd" for e in events)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert dataset.transform == transform
        assert (dataset.read(1) != fine).mean() < 2e-3
    got = burned(gpd.read_file(tmp_path / "o.gpkg"), transform, fine.shape)
    assert (got != fine).mean() < 2e-3


def test_simplified_and_filtered(scene: Path, model: Path, tmp_path: Path) -> None:
    geoseg.predict(
        scene, tmp_path / "o.gpkg", model=model, simplify=0.4, min_area=5.0, crs="EPSG:4326"
    )
    frame = gpd.read_file(tmp_path / "o.gpkg")
    assert frame.crs == "EPSG:4326"
    assert frame.is_valid.all()
    assert (frame["area_m2"] >= 5).all()


def test_an_empty_result_is_a_valid_file(model: Path, tmp_path: Path) -> None:
    nothing = np.zeros((100, 100), np.uint8)
    scene = testing.planted_scene(tmp_path / "scene.tif", nothing)
    result = geoseg.predict(scene, tmp_path / "o.gpkg", model=model)
    assert result.polygons == {}
    assert len(gpd.read_file(tmp_path / "o.gpkg")) == 0


def test_an_ensemble_of_the_same_is_the_same(scene: Path, model: Path, tmp_path: Path) -> None:
    geoseg.predict(scene, tmp_path / "one.gpkg", model=model)
    geoseg.predict(scene, tmp_path / "two.gpkg", model=[model, model], tta=("hflip",))
    one, two = gpd.read_file(tmp_path / "one.gpkg"), gpd.read_file(tmp_path / "two.gpkg")
    assert one.geom_equals_exact(two, 0).all()


def test_events_tell_the_whole_story(scene: Path, model: Path, tmp_path: Path) -> None:
    events = []
    geoseg.predict(scene, tmp_path / "o.gpkg", model=model, listener=events.append)
    kinds = [e["event"] for e in events]
    assert kinds.index("start") < kinds.index("progress") < kinds.index("result")
    last = [e for e in events if e["event"] == "progress"][-1]
    assert last["done"] == last["tiles"] > 1
    json.dumps(events, default=str)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"overlap": 128, "tile": 128}, UsageError, "smaller overlap or a larger tile"),
        ({"batch": 0}, ConfigError, "batch"),
        ({"batch": -2}, ConfigError, "batch"),
        ({"tile": 0}, ConfigError, "tile"),
        ({"simplfy": 1}, ConfigError, "did you mean 'simplify'"),
        ({"crs": "EPSG:0"}, UsageError, "EPSG:0"),
        ({"device": "toaster"}, UsageError, "toaster"),
        ({"bands": (1, 2, 9)}, SceneError, "9"),
        ({"aoi": "missing.gpkg"}, AoiError, "missing.gpkg"),
        ({"bounds": (0, 0, 9, 9)}, AoiError, "^bounds: lies outside of the scene: the area is 0"),
        ({"bounds": (9, 0, 0, 9)}, ConfigError, "bounds: left, bottom, right, top"),
        ({"bounds": (0, 0, 9, float("nan"))}, ConfigError, "bounds: left, bottom, right, top"),
        ({"bounds": (0, 0, 9, 9), "aoi": "a.gpkg"}, UsageError, "leave one of them out"),
        ({"mask": "mask.png"}, UsageError, "tif"),
    ],
)
def test_senseless_options_leave_nothing(
    scene: Path,
    model: Path,
    tmp_path: Path,
    options: dict[str, object],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        geoseg.predict(scene, tmp_path / "o.gpkg", model=model, **options)
    assert files(tmp_path) == []


def test_existing_outputs_are_kept(scene: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.gpkg"
    out.write_text("precious")
    with pytest.raises(OutputError, match="--overwrite"):
        geoseg.predict(scene, out, model=model)
    assert out.read_text() == "precious"
    geoseg.predict(scene, out, model=model, overwrite=True)
    assert len(gpd.read_file(out)) > 0
    assert files(tmp_path) == ["o.gpkg"]


def test_a_scene_that_breaks_midway_leaves_nothing(
    mask: np.ndarray, model: Path, tmp_path: Path
) -> None:
    scene = testing.planted_scene(
        tmp_path / "scene.tif", mask, tiled=True, blockxsize=64, blockysize=64, compress="deflate"
    )
    content = bytearray(scene.read_bytes())
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    scene.write_bytes(content)
    with pytest.raises(SceneError, match="scene.tif"):
        geoseg.predict(scene, tmp_path / "o.gpkg", model=model, mask=tmp_path / "m.tif")
    assert files(tmp_path) == ["scene.tif"]


@pytest.mark.parametrize("gsd", [None, 0.1])
def test_without_crs_sizes_follow_the_gsd_that_is_assumed(
    mask: np.ndarray, model: Path, tmp_path: Path, gsd: float | None
) -> None:
    zoom = 1 if gsd is None else 3
    fine = np.kron(mask, np.ones((zoom, zoom), np.uint8))
    identity = Affine.identity()
    scene = testing.planted_scene(tmp_path / "s.tif", fine, crs=None, transform=identity)
    options = {} if gsd is None else {"gsd": gsd}
    geoseg.predict(scene, tmp_path / "o.gpkg", model=model, min_area=1.0, **options)
    frame = gpd.read_file(tmp_path / "o.gpkg")
    assert frame.crs is None
    np.testing.assert_allclose(frame["area_m2"], frame.area * (0.3 / zoom) ** 2, rtol=1e-6)
    assert (burned(frame, identity, fine.shape) != fine).mean() < 2e-3


@pytest.mark.parametrize("stretch", [(255, 0), (5, 5), (0, float("inf")), (float("nan"), 1)])
def test_a_senseless_stretch_is_refused(
    scene: Path, model: Path, tmp_path: Path, stretch: tuple[float, float]
) -> None:
    with pytest.raises(ConfigError, match="stretch"):
        geoseg.predict(scene, tmp_path / "o.gpkg", model=model, stretch=stretch)


def test_inputs_are_never_overwritten(scene: Path, model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "scene.tif"
    copy.write_bytes(scene.read_bytes())
    aoi = tmp_path / "aoi.gpkg"
    with rasterio.open(scene) as dataset:
        gpd.GeoDataFrame(geometry=[box(*dataset.bounds)], crs=dataset.crs).to_file(aoi)
    before = files(tmp_path)
    for output, options in [
        (tmp_path / "o.gpkg", {"mask": copy}),
        (tmp_path / "o.gpkg", {"probabilities": tmp_path / "." / "scene.tif"}),
        (aoi, {"aoi": aoi}),
    ]:
        with pytest.raises(UsageError, match="is an input of this run"):
            geoseg.predict(copy, output, model=model, overwrite=True, **options)
    assert files(tmp_path) == before
    assert copy.read_bytes() == scene.read_bytes()


@pytest.mark.parametrize(
    ("crs", "words"),
    [("EPSG:5773", "is no map"), ("EPSG:4978", "is no map"), ("IAU_2015:30100", "no way leads")],
)
def test_crs_that_polygons_cannot_have(
    scene: Path, model: Path, tmp_path: Path, crs: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        geoseg.predict(scene, tmp_path / "o.gpkg", model=model, crs=crs)
    assert files(tmp_path) == []


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_polygons_over_the_date_line_stay_in_one_piece(
    model: Path, tmp_path: Path, crs: str
) -> None:
    mask = np.zeros((100, 200), np.uint8)
    mask[40:60, 50:150] = 1
    east = Affine(0.3, 0, 833_950, 0, -0.3, 10)  # zone 60 south; the date line is near 833 979
    scene = testing.planted_scene(tmp_path / "s.tif", mask, crs="EPSG:32660", transform=east)
    geoseg.predict(scene, tmp_path / "o.gpkg", model=model, crs=crs)
    (polygon,) = gpd.read_file(tmp_path / "o.gpkg").to_dict("records")
    assert polygon["geometry"].is_valid
    west, _, east_end, _ = polygon["geometry"].bounds
    half = 180 if crs == "EPSG:4326" else 20037508.342789244
    assert west < half < east_end < half * 1.001
    assert polygon["area_m2"] == pytest.approx(mask.sum() * 0.09, rel=5e-3)


def test_a_tile_larger_than_the_scene_costs_no_more(
    scene: Path, mask: np.ndarray, model: Path, tmp_path: Path
) -> None:
    result = geoseg.predict(scene, tmp_path / "o.gpkg", model=model, tile=1_000_000)
    assert result.tiles == 1
    with rasterio.open(scene) as dataset:
        found = burned(gpd.read_file(tmp_path / "o.gpkg"), dataset.transform, mask.shape)
    assert (found == mask).all()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("broken", [OSError("no more"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["_to_cog", "_check_blocks"])
def test_outputs_appear_together(
    scene: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overwrite: bool,
    broken: BaseException,
    step: str,
) -> None:
    """The polygons are finished before the rasters; neither is there when one fails."""
    names = ("o.shp", "m.tif", "p.tif")
    if overwrite:
        for name in (*names, "o.dbf", "o.qix", "m.tif.aux.xml"):
            (tmp_path / name).write_text("old")
    before = files(tmp_path)
    real, calls = getattr(raster, step), []

    def last_fails(*arguments: object) -> None:
        calls.append(arguments)
        if any(getattr(a, "name", "") == "m.tif" for a in arguments):
            raise broken
        real(*arguments)

    output, mask, probabilities = (tmp_path / name for name in names)
    options = {"mask": mask, "probabilities": probabilities, "overwrite": overwrite}
    with monkeypatch.context() as patch:
        patch.setattr(raster, step, last_fails)
        with pytest.raises((OutputError, KeyboardInterrupt)):
            geoseg.predict(scene, output, model=model, **options)
    assert len(calls) > 1  # the probabilities were complete
    assert files(tmp_path) == before
    assert all((tmp_path / name).read_text() == "old" for name in before)
    geoseg.predict(scene, output, model=model, **options)
    assert set(files(tmp_path)) == {*names, "o.cpg", "o.dbf", "o.prj", "o.shx"}


def test_names_that_cannot_be_are_refused_before_anything(model: Path, tmp_path: Path) -> None:
    scene = tmp_path / "missing.tif"  # opened later, or its error came first
    (tmp_path / "o.dbf").write_text("old")
    (tmp_path / "m.tif.aux.xml").write_text("old")
    long = "x" * 250
    for output, options, words in [
        ("o.shp", {}, r"o\.dbf already exists and would be taken for a part of o\.shp"),
        (None, {"mask": tmp_path / "m.tif"}, r"m\.tif\.aux\.xml already exists"),
        (f"{long}.gpkg", {}, r"x\.gpkg: cannot be written \(.*too long"),
        (None, {"mask": tmp_path / f"{long}.tif"}, r"x\.tif: cannot be written \(.*too long"),
    ]:
        path = tmp_path / output if output else None
        with pytest.raises(OutputError, match=words):
            geoseg.predict(scene, path, model=model, **options)
    assert files(tmp_path) == ["m.tif.aux.xml", "o.dbf"]


@pytest.mark.parametrize("suffix", [".geojson", ".geojsonl", ".gpkg", ".parquet"])
def test_a_crs_without_a_place_on_earth(
    mask: np.ndarray, model: Path, tmp_path: Path, suffix: str
) -> None:
    site = 'LOCAL_CS["site",UNIT["metre",1]]'
    scene, out = testing.planted_scene(tmp_path / "s.tif", mask, crs=site), tmp_path / f"o{suffix}"
    geoseg.predict(scene, out, model=model)
    frame = gpd.read_parquet(out) if suffix == ".parquet" else gpd.read_file(out)
    with rasterio.open(scene) as dataset:
        assert (burned(frame, dataset.transform, mask.shape) == mask).all()


def test_clean_up(model: Path, tmp_path: Path) -> None:
    mask = np.zeros((200, 220), np.uint8)
    mask[20:80, 20:90] = 1
    mask[40:44, 40:44] = 0  # a hole of 16 pixels
    mask[150:153, 30:33] = 1  # a speck of 9
    mask[120:122, 100:180] = 1  # a sliver
    source = testing.planted_scene(tmp_path / "scene.tif", mask)
    with rasterio.open(source) as dataset:
        pixel = abs(dataset.transform.determinant)

    def shapes(**options: object) -> list[int]:
        geoseg.predict(source, tmp_path / "o.gpkg", model=model, overwrite=True, **options)
        areas = gpd.read_file(tmp_path / "o.gpkg").area / pixel
        return sorted(round(a) for a in areas)

    whole = 60 * 70
    assert shapes() == [9, 160, whole - 16]
    assert shapes(fill_holes=17.5 * pixel) == [9, 160, whole]
    assert shapes(sieve=17.5 * pixel) == [160, whole]
    assert shapes(min_width=2.5 * pixel**0.5) == [9, whole - 16]
    assert shapes(dissolve=True) == [whole - 16 + 160 + 9]
    assert shapes(sieve=17.5 * pixel, tile=64, overlap=24, attributes=True) == [160, whole]
