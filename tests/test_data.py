"""Labelled data on planted scenes: burning, splitting, streaming, statistics."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.warp import reproject, transform_bounds
from shapely.geometry import LineString, Point, Polygon, box

from geoseg.data import (
    TEST,
    TRAIN,
    UNUSED,
    VALIDATE,
    DataConfig,
    Sheet,
    Store,
    load_places,
    measure,
    split_frame,
    write_split,
)
from geoseg.data import sheets as sheets_module
from geoseg.data.config import ClassConfig
from geoseg.data.labels import VectorLabels, read_vector
from geoseg.data.meaning import Meaning
from geoseg.data.split import belongs, need, windows
from geoseg.data.stats import (
    Histogram,
    Moments,
    class_balance,
    described,
    measure_files,
    survey,
)
from geoseg.errors import DataError, OutputError
from geoseg.grid import Grid, Window
from geoseg.metrics import IGNORE
from geoseg.testing import write_scene

CRS = "EPSG:32633"
GSD = 0.5
LEFT, TOP = 400_000.0, 5_000_000.0
SIZE = 160
TO_GROUND = Affine(GSD, 0, LEFT, 0, -GSD, TOP)


def ground(pixels: shapely.Geometry) -> shapely.Geometry:
    """A shape in pixels (x right, y down) in coordinates of the CRS."""
    return shapely.transform(pixels, lambda xy: np.column_stack(TO_GROUND @ (xy[:, 0], xy[:, 1])))


def layer(path: Path, shapes: list[Any], crs: Any = CRS, **columns: Any) -> Path:
    frame = gpd.GeoDataFrame(columns, geometry=[ground(s) for s in shapes], crs=CRS)
    (frame.to_crs(crs) if crs else frame).to_file(path)
    return path


def plant(folder: Path, name: str, seed: int = 0, shift: float = 0, **options: Any) -> Path:
    """A noisy RGB scene SIZE² pixels large, `shift` metres to the east."""
    rng = np.random.default_rng(seed)
    image = rng.integers(1, 200, (3, SIZE, SIZE)).astype(options.pop("dtype", np.uint8))
    transform = Affine(GSD, 0, LEFT + shift, 0, -GSD, TOP)
    return write_scene(folder / name, image, crs=CRS, transform=transform, **options)


def config(*places: dict[str, Any], **given: Any) -> DataConfig:
    content = {
        "places": places,
        "bands": [{"name": "red"}, {"name": "green"}, {"name": "blue"}],
        "classes": [{"id": 1, "name": "house"}],
        "gsd": GSD,
        "split": {"block": 20 * GSD, "share": 0.25},
    }
    return DataConfig.model_validate(content | given)


# no edge runs through the centre of a pixel, which may go either way
HOUSES = [
    box(10, 10, 30, 40),
    box(90, 20, 130, 50),
    Polygon([(40.3, 90.1), (90.7, 120.2), (50.2, 150.6)]),
]


@pytest.fixture
def place(tmp_path: Path) -> dict[str, Any]:
    """A scene of three houses, everything labelled but the lowest 20 rows."""
    plant(tmp_path, "a.tif")
    layer(tmp_path / "a.gpkg", HOUSES)
    layer(tmp_path / "aoi.gpkg", [box(-50, -50, SIZE + 50, SIZE - 20)])
    return {"name": "a", "rasters": "a.tif", "labels": "a.gpkg", "aoi": "aoi.gpkg"}


def only(folder: Path, data: DataConfig, seed: int = 0, store: Store | None = None) -> Sheet:
    (sheet,) = load_places(data, folder, seed=seed, store=store)
    return sheet


def dumb(shapes: list[Any], labels: list[int], rest: int = 0, size: int = SIZE) -> np.ndarray:
    """(size, size): label of the last shape over each pixel's centre; shapely, pixel by pixel."""
    rows, cols = np.mgrid[:size, :size] + 0.5
    out = np.full((size, size), rest, np.uint8)
    for shape, label in zip(shapes, labels, strict=True):
        out[shapely.contains_xy(shape, cols, rows)] = label
    return out


# --- burning --------------------------------------------------------------------------------


def test_labels_are_burnt_as_shapely_says(tmp_path: Path, place: dict[str, Any]) -> None:
    sheet = only(tmp_path, config(place))
    want = dumb(HOUSES, [1, 1, 1])
    want[SIZE - 20 :] = IGNORE
    assert (sheet.label == want).all()
    assert set(np.unique(want)) == {0, 1, IGNORE}


@settings(max_examples=25)
@given(
    corners=st.lists(
        st.lists(st.tuples(*[st.floats(-10, 60, width=32)] * 2), min_size=3, max_size=3),
        min_size=1,
        max_size=5,
    ),
    cut=st.integers(1, 49),
)
def test_burning_in_pieces_is_burning_whole(corners: Any, cut: int) -> None:
    shapes = [p for p in map(Polygon, corners) if p.is_valid and p.area > 0]
    grid = Grid(None, Affine.identity(), 50, 50)
    frame = gpd.GeoDataFrame(geometry=shapes)
    codes = np.arange(1, len(shapes) + 1).astype(np.uint8)
    labels = VectorLabels(frame, codes, grid)
    whole = labels.burn(grid.window)
    pieces = [labels.burn(w) for w in (Window(0, 0, cut, 50), Window(cut, 0, 50 - cut, 50))]
    assert (np.concatenate(pieces) == whole).all()
    # pixel centres that lie on an outline may go either way
    edges = shapely.union_all([s.boundary for s in shapes]) if shapes else Point()
    rows, cols = np.mgrid[:50, :50] + 0.5
    clear = shapely.distance(shapely.points(cols, rows), edges) > 1e-3 if shapes else rows > 0
    assert (whole == dumb(shapes, list(codes), size=50))[clear].all()


def test_streaming_by_rows_is_reading_at_once(
    tmp_path: Path, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = config(place, gsd=0.7)
    whole = only(tmp_path, data)
    monkeypatch.setattr(sheets_module, "_BAND", whole.grid.width * 3 * 7)  # seven rows at a time
    streamed = only(tmp_path, data, store=Store(tmp_path / "store"))
    for name in ("image", "valid", "label", "parts"):
        assert (getattr(streamed, name) == getattr(whole, name)).all()
    assert isinstance(streamed.image, np.memmap)


def test_polygons_of_another_crs_and_far_away_ones(tmp_path: Path) -> None:
    plant(tmp_path, "a.tif")
    far = box(1e6, 1e6, 1.1e6, 1.1e6)
    layer(tmp_path / "a.geojson", [*HOUSES, far], crs=4326)
    sheet = only(tmp_path, config({"name": "a", "rasters": "a.tif", "labels": "a.geojson"}))
    differ = sheet.label != dumb(HOUSES, [1, 1, 1])
    assert differ.sum() < 5  # degrees in GeoJSON are rounded
    place = {"name": "a", "rasters": "a.tif", "labels": "a.geojson"}
    grid = sheet.grid
    frame = read_vector(tmp_path / place["labels"])
    assert len(VectorLabels(frame, np.ones(4, np.uint8), grid).pixels) == 3


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["wood", " Water ", None, "rock"], [{"values": ["wood"]}, {"values": ["WATER"]}]),
        ([3, 7, 0, 9], [{"values": [3]}, {"values": [7]}]),
        ([3.0, 7.0, np.nan, 9.5], [{"values": ["3"]}, {"values": [7]}]),
        (["3", "07", "", "x"], [{"values": [3]}, {"values": ["7"]}]),
        (["a", "b", "c", "d"], [{"name": "a"}, {"name": "b"}]),
    ],
)
def test_class_by_attribute(tmp_path: Path, values: Any, classes: Any) -> None:
    named = [{"id": 5 + i, "name": f"c{i}", **each} for i, each in enumerate(classes)]
    shapes = [box(10 * i, 0, 10 * i + 5, 5) for i in range(4)]
    plant(tmp_path, "a.tif")
    layer(tmp_path / "a.gpkg", shapes, kind=values)
    place = {"name": "a", "rasters": "a.tif", "labels": "a.gpkg"}
    sheet = only(tmp_path, config(place, classes=named, attribute="kind"))
    assert [int(sheet.label[2, 10 * i + 2]) for i in range(4)] == [1, 2, 0, 0]
    rest = only(tmp_path, config(place, classes=named, attribute="kind", background=False))
    assert [int(rest.label[2, 10 * i + 2]) for i in range(4)] == [0, 1, IGNORE, IGNORE]
    assert (rest.label[50:] == IGNORE).all()


def test_ignored_values_are_unlabelled_and_the_later_polygon_counts(tmp_path: Path) -> None:
    plant(tmp_path, "a.tif")
    shapes = [box(0, 0, 40, 40), box(20, 20, 60, 60), box(30, 30, 35, 35)]
    layer(tmp_path / "a.gpkg", shapes, kind=["house", "unsure", "house"])
    place = {"name": "a", "rasters": "a.tif", "labels": "a.gpkg"}
    sheet = only(tmp_path, config(place, attribute="kind", ignore=["unsure"]))
    assert (sheet.label == dumb(shapes, [1, IGNORE, 1])).all()


def test_invalid_polygons_are_repaired(tmp_path: Path) -> None:
    plant(tmp_path, "a.tif")
    bow = Polygon([(10, 10.2), (50, 50.2), (50, 10.2), (10, 50.2)])
    spike = Polygon([(80, 80), (100, 80), (100, 150), (100, 80), (100, 100), (80, 100)])
    layer(tmp_path / "a.gpkg", [bow, spike])
    sheet = only(tmp_path, config({"name": "a", "rasters": "a.tif", "labels": "a.gpkg"}))
    lobes = [
        Polygon([(10, 10.2), (30, 30.2), (10, 50.2)]),
        Polygon([(50, 10.2), (30, 30.2), (50, 50.2)]),
    ]
    assert (sheet.label == dumb([*lobes, box(80, 80, 100, 100)], [1, 1, 1])).all()


def mask_place(folder: Path, mask: np.ndarray, **given: Any) -> np.ndarray:
    Image.fromarray(mask).save(folder / "m.png")
    plant(folder, "a.tif")
    place = {"name": "a", "rasters": "a.tif", "labels": "m.png"}
    return only(folder, config(place, **given)).label


def test_masks_of_numbers(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).choice(np.array([0, 3, 9, 77], np.uint8), (SIZE, SIZE))
    classes = [{"id": 9, "name": "a"}, {"id": 1, "name": "b", "values": [3]}]
    label = mask_place(tmp_path, mask, classes=classes, ignore=[77])
    want = np.select([mask == 9, mask == 3, mask == 77], [1, 2, IGNORE], 0)
    assert (label == want).all()
    binary = mask_place(tmp_path, np.where(mask == 77, 255, 0).astype(np.uint8))
    assert (binary == (mask == 77)).all()


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "palette"])
def test_masks_of_colours(tmp_path: Path, kind: str) -> None:
    colours = np.array([[226, 169, 41], [132, 41, 246], [155, 155, 155], [1, 2, 3]], np.uint8)
    index = np.random.default_rng(0).integers(0, 4, (SIZE, SIZE))
    picture = Image.fromarray(colours[index])
    if kind == "palette":
        picture = Image.fromarray(index.astype(np.uint8))
        picture.putpalette(colours.tobytes())
    elif kind == "RGBA":
        picture = picture.convert("RGBA")
    picture.save(tmp_path / "m.png")
    plant(tmp_path, "a.tif")
    classes = [
        {"id": 1, "name": "water", "values": ["#E2A929"]},
        {"id": 2, "name": "land", "values": ["#8429f6"]},
    ]
    place = {"name": "a", "rasters": "a.tif", "labels": "m.png"}
    given = {"classes": classes, "ignore": ["#9B9B9B"]}
    label = only(tmp_path, config(place, **given)).label
    assert (label == np.array([1, 2, IGNORE, 0])[index]).all()
    rest = only(tmp_path, config(place, **given, background=False)).label
    assert (rest == np.array([0, 1, IGNORE, IGNORE])[index]).all()


def test_a_mask_on_another_grid_and_in_another_crs(tmp_path: Path) -> None:
    plant(tmp_path, "a.tif")
    want = dumb(HOUSES, [1, 1, 1])
    fine = np.repeat(np.repeat(want, 2, 0), 2, 1)[None]
    write_scene(tmp_path / "fine.tif", fine, crs=CRS, transform=TO_GROUND @ Affine.scale(0.5, 0.5))
    rgba = np.stack([want * 200, want * 0, want * 0, np.full_like(want, 255)])
    rgba[3, :, :10] = 0
    options = {"crs": CRS, "transform": TO_GROUND, "photometric": "RGB", "alpha": "YES"}
    write_scene(tmp_path / "rgba.tif", rgba, **options)
    half = np.pad(want, ((0, 0), (40, 0)))[:, :SIZE][None]  # 40 pixels to the west, cut there
    write_scene(
        tmp_path / "half.tif", half, crs=CRS, transform=TO_GROUND @ Affine.translation(-40, 0)
    )
    with rasterio.open(tmp_path / "fine.tif") as source:
        left, bottom, right, top = transform_bounds(source.crs, "EPSG:4326", *source.bounds)
        step = (right - left) / 400
        transform = Affine(step, 0, left, 0, -step, top)
        warped = np.full((1, int((top - bottom) / step) + 2, 402), 9, np.uint8)
        reproject(
            rasterio.band(source, 1),
            warped,
            dst_transform=transform,
            dst_crs="EPSG:4326",
            dst_nodata=9,
        )
    write_scene(tmp_path / "degrees.tif", warped, transform=transform, crs="EPSG:4326", nodata=9)
    places = {
        n: {"name": n, "rasters": "a.tif", "labels": f"{n}.tif"}
        for n in ("fine", "half", "degrees", "rgba")
    }
    labels = {n: only(tmp_path, config(p)).label for n, p in places.items()}
    assert (labels["fine"] == want).all()
    assert (labels["rgba"][:, 10:] == want[:, 10:]).all()
    assert (labels["rgba"][:, :10] == IGNORE).all()
    assert (labels["half"][:, : SIZE - 40] == want[:, : SIZE - 40]).all()
    assert (labels["half"][:, SIZE - 40 :] == IGNORE).all()
    known = labels["degrees"] != IGNORE
    assert known.mean() > 0.97
    assert (labels["degrees"] != want)[known].mean() < 0.01


def test_pictures_without_georeference(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (90, 120, 3), np.uint8)).save(tmp_path / f"p{i}.jpg")
        Image.fromarray(np.full((45, 60), i, np.uint8)).save(tmp_path / f"m{i}.png")  # half as fine
    place = {"name": "a", "rasters": "p*.jpg", "labels": "m*.png", "gsd": 0.25}
    sheets = load_places(config(place, split={"block": 10}), tmp_path, seed=0)
    assert [s.grid.height for s in sheets] == [45] * 3  # at 0.5 m
    assert [int(s.label.max()) for s in sheets] == [0, 1, 1]
    with pytest.raises(DataError, match="say gsd"):
        load_places(config({**place, "gsd": None}), tmp_path, seed=0)
    Image.fromarray(np.zeros((45, 90), np.uint8)).save(tmp_path / "m1.png")
    with pytest.raises(DataError, match="90 x 45 pixels cannot lie on"):
        load_places(config(place), tmp_path, seed=0)


def test_one_file_of_polygons_for_each_raster(tmp_path: Path) -> None:
    for i in range(2):
        plant(tmp_path, f"img_{i}.tif", shift=i * SIZE * GSD)
    layer(tmp_path / "lab_0.geojson", HOUSES, crs=4326)
    (tmp_path / "lab_1.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    place = {"name": "a", "rasters": "img_*.tif", "labels": "lab_*.geojson"}
    first, second = load_places(config(place), tmp_path, seed=0)
    assert first.label.max() == 1
    assert (second.label == 0).all()


def test_places_without_labels_and_variants(tmp_path: Path, place: dict[str, Any]) -> None:
    plant(tmp_path, "a_b.tif", seed=5)
    bare = {"name": "b", "rasters": "a_b.tif", "use": "unlabelled"}
    styled = {**place, "variants": ["a_b.tif"]}
    first, second = load_places(config(styled, bare), tmp_path, seed=0)
    assert (first.variants[0] == second.image).all()
    assert not second.parts.any()
    assert (second.label == IGNORE).all()
    write_scene(tmp_path / "small.tif", np.ones((3, 9, 9), np.uint8))
    with pytest.raises(DataError, match="not those of the raster"):
        load_places(config({**place, "variants": ["small.tif"]}), tmp_path, seed=0)


def test_missing_and_unusable_data_is_told_in_one_sentence(
    tmp_path: Path, place: dict[str, Any]
) -> None:
    (tmp_path / "text.gpkg").write_text("no vectors")
    plant(tmp_path, "b.tif")
    layer(tmp_path / "named.gpkg", HOUSES, kind=["x", "y", "z"])
    layer(tmp_path / "two.gpkg", HOUSES)
    gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs=CRS).to_file(tmp_path / "two.gpkg", layer="b")
    layer(tmp_path / "far.gpkg", [box(9000, 0, 9100, 100)])
    with pytest.warns(UserWarning, match="crs"):
        gpd.GeoDataFrame(geometry=HOUSES).to_file(tmp_path / "bare.gpkg")
    two = [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}]
    for change, given_, message in (
        ({"rasters": "nowhere.tif"}, {}, "no raster at"),
        ({"labels": "nowhere.gpkg"}, {}, "does not exist"),
        ({"labels": "text.gpkg"}, {}, "neither as vectors nor as a mask"),
        ({"aoi": "nowhere.gpkg"}, {}, "no such file"),
        ({"labels": "two.gpkg"}, {}, "has the layers two, b: say which"),
        ({"labels": "named.gpkg"}, {"attribute": "tpye"}, "no attribute 'tpye'; there are: kind"),
        ({"labels": "named.gpkg"}, {"classes": two}, "which attribute holds the class"),
        ({"aoi": "far.gpkg"}, {}, "no pixel with data lies in the labelled area"),
        ({"labels": "m*.png"}, {}, "needs exactly one"),
        ({"labels": "named.gpkg"}, {"gsd": 0.0005}, "is that in metres"),
        ({"labels": "bare.gpkg"}, {}, "has no CRS.*assign the one"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            load_places(config({**place, **change}, **given_), tmp_path, seed=0)
        assert "\n" not in str(caught.value)


# --- the split ------------------------------------------------------------------------------


def test_blocks_are_of_one_part_each_and_the_split_is_reproducible(
    tmp_path: Path, place: dict[str, Any]
) -> None:
    data = config(place, split={"block": 10, "share": 0.25, "test": 0.1, "most": 20})
    sheet = only(tmp_path, data)
    targets = [sheet.target(sheet.grid.window, p) != IGNORE for p in (TRAIN, VALIDATE, TEST)]
    assert (sum(t.astype(int) for t in targets) == (sheet.label != IGNORE)).all()
    worthy = 8 * 7  # blocks of 20 pixels; the lowest row of them is unlabelled
    assert (sheet.parts == VALIDATE).sum() == round(0.25 * worthy)
    assert (sheet.parts == TEST).sum() == round(0.1 * worthy)
    assert (sheet.parts[7] == UNUSED).all()
    assert (only(tmp_path, data).parts == sheet.parts).all()
    assert (only(tmp_path, data, seed=1).parts != sheet.parts).any()
    for window in windows(sheet, VALIDATE):
        assert belongs(sheet, window, VALIDATE).all()


def test_whole_places_are_kept(tmp_path: Path, place: dict[str, Any]) -> None:
    plant(tmp_path, "b.tif", shift=SIZE * GSD)
    other = {**place, "name": "b", "rasters": "b.tif", "aoi": None, "use": "test"}
    first, second = load_places(config(place, other), tmp_path, seed=0)
    assert set(np.unique(second.parts)) == {TEST}
    assert TEST not in first.parts
    with pytest.raises(DataError, match="no block for 'validate'"):
        need([second], VALIDATE)


def test_ground_that_is_held_back_trains_nowhere(tmp_path: Path, place: dict[str, Any]) -> None:
    plant(tmp_path, "b.tif", shift=30 * GSD)  # over most of the first, in another rhythm
    other = {**place, "name": "b", "rasters": "b.tif"}
    data = config(place, other)
    one, two = load_places(data, tmp_path, seed=0)
    shift = 30
    for a, b, move in ((one, two, -shift), (two, one, shift)):
        for window in windows(a, VALIDATE):
            moved = Window(window.row, window.col + move, window.height, window.width)
            assert (b.target(moved, TRAIN) == IGNORE).all()
    assert (one.parts == TRAIN).any()
    assert "unused" in set(split_frame([one, two])["part"])


def test_an_edited_split_is_read_back(tmp_path: Path, place: dict[str, Any]) -> None:
    sheet = only(tmp_path, config(place))
    write_split([sheet], tmp_path / "split.gpkg")
    split = {"block": 20 * GSD, "file": "split.gpkg"}
    again = only(tmp_path, config(place, split=split), seed=99)
    assert (again.parts == sheet.parts).all()
    frame = gpd.read_file(tmp_path / "split.gpkg", layer="split")
    assert set(frame.columns) >= {"place", "file", "part"}
    frame.loc[frame["part"] == "validate", "part"] = "test"
    frame.loc[0, "part"] = "unused"
    frame.to_file(tmp_path / "split.gpkg", layer="split")
    edited = only(tmp_path, config(place, split=split))
    want = np.where(sheet.parts == VALIDATE, TEST, sheet.parts)
    want[0, 0] = UNUSED
    assert (edited.parts == want).all()
    frame.iloc[5:].to_file(tmp_path / "split.gpkg", layer="split")
    with pytest.raises(DataError, match="says nothing of a block"):
        only(tmp_path, config(place, split=split))
    frame.loc[0, "part"] = "trian"
    frame.to_file(tmp_path / "split.gpkg", layer="split")
    with pytest.raises(DataError, match="'trian' is none of: train, validate, test, unused"):
        only(tmp_path, config(place, split=split))


def test_a_split_without_crs_beside_one_with(tmp_path: Path, place: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(rng.integers(0, 255, (100, 100, 3), np.uint8)).save(tmp_path / f"p{i}.png")
        Image.fromarray(rng.integers(0, 2, (100, 100), np.uint8)).save(tmp_path / f"m{i}.tiff")
    bare = {"name": "p", "rasters": "p*.png", "labels": "m*.tiff", "gsd": GSD}
    sheets = load_places(config(place, bare), tmp_path, seed=3)
    write_split(sheets, tmp_path / "split.gpkg")
    split = {"block": 20 * GSD, "file": "split.gpkg"}
    again = load_places(config(place, bare, split=split), tmp_path, seed=0)
    for a, b in zip(sheets, again, strict=True):
        assert (a.parts == b.parts).all()
    assert (sheets[1].parts != sheets[2].parts).any()  # told apart by their file


# --- statistics -----------------------------------------------------------------------------


@settings(max_examples=40)
@given(data=st.data())
def test_moments_and_percentiles_in_pieces(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    low, high = (0, 255) if dtype == np.uint8 else (-9000, 9000)
    low = 0 if dtype == np.uint16 else low
    values = rng.integers(low, high, (2, data.draw(st.integers(1, 400)))).astype(dtype)
    moments, histogram = Moments(), Histogram()
    for piece in np.array_split(values, data.draw(st.integers(1, 5)), axis=1):
        moments.add(piece)
        histogram.add(piece)
    real = values.astype(np.float64)
    assert moments.mean == pytest.approx(real.mean(1), rel=1e-9, abs=1e-9)
    assert moments.std == pytest.approx(real.std(1), rel=1e-6, abs=1e-9)
    want = np.percentile(values, (0.1, 50, 99.9), method="inverted_cdf").astype(float)
    exact = values.dtype.itemsize <= 2
    assert histogram.percentiles(0.1, 50, 99.9) == pytest.approx(
        want, rel=0 if exact else 1e-3, abs=0 if exact else 1e-30
    )


def test_statistics_of_the_training_blocks_from_sheets_and_from_files(
    tmp_path: Path, place: dict[str, Any]
) -> None:
    data = config(place, split={"block": 10, "share": 0.3, "test": 0.1})
    sheet = only(tmp_path, data)
    found = measure([sheet])
    part = np.kron(sheet.parts, np.ones((20, 20), int)) == TRAIN
    pixels = sheet.image[:, part].astype(float)
    assert found.mean == pytest.approx(pixels.mean(1))
    assert found.std == pytest.approx(pixels.std(1))
    assert (found.low, found.high) == (1, 199)
    known = part & (sheet.label != IGNORE)
    want = {0: int((sheet.label[known] == 0).sum()), 1: int((sheet.label[known] == 1).sum())}
    assert found.pixels == want
    assert found.places == {"a": want}
    plots = survey(data, tmp_path, seed=0)
    assert (plots[0].parts == sheet.parts).all()
    assert (plots[0].labelled == sheet.labelled).all()
    streamed = measure_files(data, plots)
    assert streamed == found
    balance = class_balance(plots)["a"]
    assert balance["train"] == want
    assert sum(balance["validate"].values()) == (sheet.parts == VALIDATE).sum() * 400


def test_statistics_that_cannot_be_made(tmp_path: Path, place: dict[str, Any]) -> None:
    plant(tmp_path, "deep.tif", shift=1000, dtype=np.uint16)
    layer(tmp_path / "all.gpkg", [box(0, 0, 9000, SIZE)])
    deep = {"name": "deep", "rasters": "deep.tif", "labels": "all.gpkg"}
    data = config(place, deep)
    with pytest.raises(DataError, match=r"uint8 \(a\.tif\), uint16 \(deep\.tif\)"):
        measure_files(data, survey(data, tmp_path, seed=0))
    data = config({**place, "use": "test"})
    with pytest.raises(DataError, match="no block for 'train'"):
        measure_files(data, survey(data, tmp_path, seed=0))


def test_suggestions_for_a_flat_raster_make_a_recipe(tmp_path: Path, place: dict[str, Any]) -> None:
    flat = np.full((3, SIZE, SIZE), 7, np.uint8)
    write_scene(tmp_path / "flat.tif", flat, crs=CRS, transform=TO_GROUND)
    data = config({**place, "rasters": "flat.tif"})
    plots = survey(data, tmp_path, seed=0)
    suggested = described(data, plots, measure_files(data, plots))["suggested"]
    del suggested["class_weights"]
    assert config(place, **suggested).value_range == (7, 8)


def test_weights_of_classes() -> None:
    labels = np.repeat([0, 1, 2], [10_000, 100, 1]).astype(np.uint8)
    grid = Grid(None, Affine.identity(), 1, len(labels))
    ones = np.ones((1, len(labels)), bool)
    parts = np.full((1, 1), TRAIN, np.uint8)
    image = np.zeros((1, 1, len(labels)), np.float32)
    sheet = Sheet("a", "a", grid, image, ones, labels[None], len(labels), parts)
    found = measure([sheet])
    weights = found.class_weights(4)
    assert weights[1] / weights[0] == pytest.approx(10)
    assert weights[2] / weights[1] == pytest.approx(10)
    assert weights[3] == 1
    total = 10_000 * weights[0] + 100 * weights[1] + weights[2]
    assert total / 10_101 == pytest.approx(1)
    assert found.scale == (1,)  # nothing to divide by


def test_sheets_travel_without_their_pixels(tmp_path: Path, place: dict[str, Any]) -> None:
    sheet = only(tmp_path, config(place), store=Store(tmp_path / "store"))
    sent = pickle.dumps(sheet)
    assert len(sent) < 20_000 < sheet.image.nbytes
    again = pickle.loads(sent)  # noqa: S301  our own
    assert (again.image == sheet.image).all()
    assert (again.label == sheet.label).all()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system reserves no space")
def test_a_full_disk_is_told_before_pixels_are_mapped(
    tmp_path: Path, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="MiB of pixels cannot be written .No space left"):
        only(tmp_path, config(place), store=Store(tmp_path / "pixels"))


def test_keys_of_values() -> None:
    classes = (
        ClassConfig(id=1, name="a", values=("#FF0000", 7)),
        ClassConfig(id=2, name="b", values=("-3",)),
    )
    meaning = Meaning(classes, ignore=("?",))
    assert meaning.of([7, "7", 7.0, "7.0", np.int64(7), -3, " -3 ", "?", "²", None]).tolist() == [
        *[1] * 5,
        2,
        2,
        IGNORE,
        0,
        0,
    ]
    assert meaning.unknown([7, 8, None]) == [8, None]


def test_points_and_lines_are_burnt(tmp_path: Path) -> None:
    plant(tmp_path, "a.tif")
    layer(tmp_path / "a.gpkg", [Point(20.5, 30.5), LineString([(50.5, 50.5), (60.5, 50.5)])])
    label = only(tmp_path, config({"name": "a", "rasters": "a.tif", "labels": "a.gpkg"})).label
    assert label[30, 20] == 1
    assert label[50, 50:61].all()
    assert label.sum() <= 13
