"""`geoseg data`: what is wrong is told, all of it; recipes, splits and chips as tools read them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import yaml
from affine import Affine
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import gaussian_filter
from shapely.geometry import Polygon, box

import geoseg
from geoseg.cli import cli
from geoseg.data.align import REACH, Alignment
from geoseg.data.check import examine
from geoseg.data.chips import export, without_holes
from geoseg.data.config import DataConfig
from geoseg.data.labels import read_vector
from geoseg.data.polygons import Finding
from geoseg.data.sheets import load_places
from geoseg.data.split import VALIDATE
from geoseg.errors import ConfigError, DataError, ModelError, OutputError, UsageError
from geoseg.testing import write_scene
from geoseg.train.config import TrainConfig
from geoseg.train.recipe import recipe, write_recipe

CRS = "EPSG:32633"
GSD = 0.5
LEFT, TOP = 400_000.0, 5_000_000.0
SIZE = 256
TO_GROUND = Affine(GSD, 0, LEFT, 0, -GSD, TOP)


def ground(pixels: shapely.Geometry) -> shapely.Geometry:
    return shapely.transform(pixels, lambda xy: np.column_stack(TO_GROUND @ (xy[:, 0], xy[:, 1])))


def houses(count: int = 50, seed: int = 0) -> list[Polygon]:
    rng = np.random.default_rng(seed)
    cells = rng.permutation(100)[:count]  # one in a cell of 25 pixels: none touch
    return [
        box(x := 25 * (c % 10) + rng.integers(1, 9), y := 25 * (c // 10) + rng.integers(1, 9),
            x + rng.integers(8, 14), y + rng.integers(8, 14))
        for c in cells
    ]  # fmt: skip


def layer(path: Path, shapes: list[Any], crs: Any = CRS, **columns: Any) -> Path:
    frame = gpd.GeoDataFrame(
        columns, geometry=[None if s is None else ground(s) for s in shapes], crs=crs
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*crs.* was not provided")
        frame.to_file(path)
    return path


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def paint(path: Path, shapes: list[Any], **options: Any) -> Path:
    """A scene of bright roofs with shadows on textured ground."""
    rng = np.random.default_rng(0)
    inside = rasterio.features.rasterize([(s, 1) for s in shapes], (SIZE, SIZE)).astype(float)
    field = gaussian_filter(rng.normal(0, 60, (SIZE, SIZE)), 3)
    shadow = np.roll(inside, (4, 4), (0, 1)) * (1 - inside)
    image = 90 + 2 * field + 70 * inside - 50 * shadow + rng.normal(0, 8, (3, SIZE, SIZE))
    values = image.clip(1, 255).astype(np.uint8)
    return write_scene(path, values, crs=CRS, transform=TO_GROUND, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene, its polygons (kinds a and b), a mask, and an area."""
    folder = tmp_path_factory.mktemp("data")
    shapes = houses()
    paint(folder / "scene.tif", shapes)
    layer(folder / "houses.gpkg", shapes, kind=["a", "b"] * 25)
    layer(folder / "aoi.gpkg", [box(0, 0, SIZE, SIZE - 50)])
    mask = rasterio.features.rasterize([(s, 255) for s in shapes], (SIZE, SIZE)).astype(np.uint8)
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


def config(place: dict[str, Any], **given: Any) -> DataConfig:
    content = {
        "places": [{"name": "here", "rasters": "scene.tif", "labels": "houses.gpkg", **place}],
        "bands": [{"name": "red"}, {"name": "green"}, {"name": "blue"}],
        "classes": [{"id": 1, "name": "house"}],
        "gsd": GSD,
        "split": {"block": 32 * GSD, "share": 0.2},
    }
    return DataConfig.model_validate(content | given)


def findings(folder: Path, place: dict[str, Any], **given: Any) -> list[Finding]:
    return examine(config(place, **given), folder)


def told(found: list[Finding], severity: str, *parts: str) -> bool:
    """Whether some finding of that severity has all these words; all findings are whole."""
    assert all(f.message and f.remedy and "\n" not in str(f) for f in found)
    return any(f.severity == severity and all(p in str(f) for p in parts) for f in found)


# --- check ----------------------------------------------------------------------------------


def test_good_data_is_not_complained_of(folder: Path) -> None:
    assert findings(folder, {"aoi": "aoi.gpkg"}) == [
        f for f in findings(folder, {"aoi": "aoi.gpkg"}) if "outside of the labelled area" in str(f)
    ]
    assert findings(folder, {}) == []
    assert findings(folder, {"labels": "mask.png"}) == []


def test_labels_beside_the_raster(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scene.tif").symlink_to(folder / "scene.tif")
    away = [shapely.affinity.translate(s, 5000, 0) for s in houses()]
    layer(tmp_path / "houses.gpkg", away)
    found = findings(tmp_path, {})
    assert told(found, "error", "houses.gpkg", "outside of the raster", "402", "400000 to 400128")
    layer(tmp_path / "houses.gpkg", [*houses(), *away[:3]])
    assert told(findings(tmp_path, {}), "warning", "3 features (50, 51, 52) of 53 lie outside")
    turned = gpd.GeoDataFrame(
        geometry=[shapely.transform(ground(s), lambda xy: xy[:, ::-1]) for s in houses()], crs=CRS
    )
    turned.to_file(tmp_path / "houses.gpkg")
    assert told(findings(tmp_path, {}), "error", "x and y are swapped")
    metres = gpd.GeoDataFrame(geometry=[ground(s) for s in houses()], crs=4326)
    metres.to_file(tmp_path / "houses.gpkg")  # as QGIS writes GeoJSON of a layer without CRS
    assert told(findings(tmp_path, {}), "error", "outside of the raster", "in WGS 84")


def test_geometries_and_values(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scene.tif").symlink_to(folder / "scene.tif")
    good = houses(6)
    bow = Polygon([(10, 200), (40, 240), (40, 200), (10, 240)])
    tiny = box(120.2, 240.2, 120.4, 240.9)
    over = shapely.affinity.translate(good[1], 3, 3)
    shapes = [*good, bow, None, tiny, good[0], over, shapely.Point(5, 5), Polygon()]
    kinds = ["a"] * 6 + ["b", "b", "b", "a", "b", "rock", None]
    layer(tmp_path / "houses.gpkg", shapes, kind=kinds)
    classes = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "c"}]
    found = findings(tmp_path, {}, classes=classes, attribute="kind")
    for parts in (
        ("1 feature (6) is invalid (first: Self-intersection",),
        ("2 features (7, 12) have no geometry",),
        ("1 feature (11) is a point or line",),
        ("1 of 13 polygons are smaller than a pixel of 0.5 m",),
        ("1 features are copies of others (first: 0)",),
        ("pairs of features of different classes overlap (first: 1 and 10)",),
        ("values of kind that are no class: 1 x rock, 1 x ",),
    ):
        assert told(found, "warning", "houses.gpkg", *parts), parts
    assert told(found, "error", "class 'c' has no pixel anywhere")
    assert told(findings(tmp_path, {}, attribute="king"), "error", "no attribute 'king'", "kind")
    assert told(findings(tmp_path, {}, classes=classes), "error", "is not said (there are: kind)")


def test_files_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scene.tif").symlink_to(folder / "scene.tif")
    (tmp_path / "broken.tif").write_bytes(b"II*\0nothing")
    layer(tmp_path / "no_crs.shp", houses(), crs=None)
    layer(tmp_path / "far.gpkg", [box(9000, 0, 9100, 100)])
    layer(tmp_path / "houses.gpkg", houses())
    Image.fromarray(np.zeros((50, 99), np.uint8)).save(tmp_path / "shape.png")
    assert told(findings(tmp_path, {"rasters": "broken.tif"}), "error", "broken.tif", "cannot be")
    assert told(findings(tmp_path, {"rasters": "none*.tif"}), "error", "no raster at")
    assert told(findings(tmp_path, {"labels": "none.gpkg"}), "error", "none.gpkg does not exist")
    assert told(findings(tmp_path, {"labels": "no_crs.shp"}), "error", "no_crs.shp", "no CRS")
    assert told(findings(tmp_path, {"labels": "shape.png"}), "error", "99 x 50 pixels cannot lie")
    assert told(findings(tmp_path, {"aoi": "none.gpkg"}), "error", "none.gpkg", "no such file")
    elsewhere = tmp_path / "scene.tif"
    tiles = {"rasters": "*.tif", "labels": "*.gpkg"}  # broken.tif, scene.tif
    layer(tmp_path / "scene.gpkg", [*houses(), houses()[0]])
    layer(tmp_path / "broken.gpkg", houses())
    found = findings(tmp_path, tiles)
    assert told(found, "error", "broken.tif", "cannot be opened")
    assert told(found, "warning", "scene.gpkg", "copies of others")
    assert not told(found, "warning", "broken.gpkg")
    absolute = {"rasters": str(elsewhere), "labels": str(tmp_path / "scene.gpkg")}
    assert told(findings(folder, absolute), "warning", str(tmp_path / "scene.gpkg"), "copies")
    found = findings(tmp_path, {"aoi": "far.gpkg"})
    assert told(found, "error", "far.gpkg", "outside of the raster")
    assert told(found, "warning", "houses.gpkg", "outside of the labelled area")
    assert told(found, "error", "no pixel with data is labelled")


def test_areas_nodata_masks_and_the_split(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scene.tif").symlink_to(folder / "scene.tif")
    left = [s for s in houses() if s.bounds[2] < 120]
    layer(tmp_path / "houses.gpkg", left)
    assert told(findings(tmp_path, {}), "warning", "there is no aoi", "spread over 4")
    with rasterio.open(folder / "scene.tif") as source:
        values = source.read()
    values[:, :, :60] = 0
    write_scene(tmp_path / "holes.tif", values, crs=CRS, transform=TO_GROUND, nodata=0)
    found = findings(tmp_path, {"rasters": "holes.tif"})
    assert told(found, "warning", "holes.tif", "of the labelled pixels have no data")
    write_scene(tmp_path / "void.tif", values * 0, crs=CRS, transform=TO_GROUND, nodata=0)
    found = findings(tmp_path, {"rasters": "void.tif"})
    assert told(found, "warning", "void.tif", "has no data at all")
    assert told(found, "error", "no pixel with data is labelled")
    assert not told(found, "error", "no block for 'train'")  # that only follows
    Image.fromarray(np.tile(np.arange(256, dtype=np.uint8) // 64, (SIZE, 1))).save(
        tmp_path / "m.png"
    )
    classes = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    found = findings(tmp_path, {"labels": "m.png"}, classes=classes)
    assert told(found, "warning", "m.png", f"no class: {SIZE * 64} x 3 pixels", "background")
    assert told(findings(tmp_path, {"use": "test"}), "error", "no block for 'train'")
    mask = (np.arange(SIZE) % 50 < 20)[None, None].repeat(SIZE, 1).astype(np.uint8)
    write_scene(tmp_path / "m0.tif", mask, crs=CRS, transform=TO_GROUND, nodata=0)
    found = findings(tmp_path, {"labels": "m0.tif"})
    assert told(found, "warning", "nothing is background", "declares its 0 as nodata")
    coarse = findings(tmp_path, {}, gsd=0.1, split={"block": 12})
    assert told(coarse, "warning", "its pixels are 0.5 m, the recipe's 0.1 m")
    small = findings(tmp_path, {}, split={"block": 2})
    assert told(small, "warning", "blocks of 2 m are less than 16 pixels wide")


def test_what_training_refuses_is_an_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scene.tif").symlink_to(folder / "scene.tif")
    (tmp_path / "houses.gpkg").symlink_to(folder / "houses.gpkg")
    image = np.ones((3, SIZE, SIZE), np.uint16)
    write_scene(tmp_path / "deep.tif", image, crs=CRS, transform=TO_GROUND)
    write_scene(tmp_path / "cut.tif", image[:, 9:], crs=CRS, transform=TO_GROUND)
    assert told(findings(tmp_path, {"variants": ["no.tif"]}), "error", "no.tif does not exist")
    found = findings(tmp_path, {"variants": ["cut.tif"]})
    assert told(found, "error", "cut.tif", "its pixels are not those of the raster")
    place = {"name": "here", "rasters": "scene.tif", "labels": "houses.gpkg"}
    deep = {**place, "name": "deep", "rasters": "deep.tif"}
    found = findings(tmp_path, {}, places=[place, deep])
    assert told(found, "error", "different types of values: uint8 (here), uint16 (deep)")


@pytest.mark.parametrize("move", [(3, 0), (0, -4), (-4, 5), (6, 6)])
def test_a_planted_shift_is_found(folder: Path, tmp_path: Path, move: tuple[int, int]) -> None:
    (tmp_path / "scene.tif").symlink_to(folder / "scene.tif")
    layer(tmp_path / "houses.gpkg", [shapely.affinity.translate(s, *move) for s in houses()])
    found = [f for f in findings(tmp_path, {}) if "beside the image" in f.message]
    assert len(found) == 1
    right, down = -move[0], -move[1]  # they must go back
    for pixels, names in ((right, ("left", "right")), (down, ("top", "bottom"))):
        words = f"{abs(pixels) * GSD:.1f} m ({abs(pixels)} px) to the {names[pixels > 0]}"
        assert (words in found[0].message) == bool(pixels)


@pytest.mark.parametrize("finer", [1, 2, 4])
def test_a_shift_is_found_in_metres(folder: Path, tmp_path: Path, finer: int) -> None:
    """3 m, whether these are 6 pixels or 24."""
    with rasterio.open(folder / "scene.tif") as source:
        values = np.kron(source.read(), np.ones((1, finer, finer), np.uint8))
    noise = np.random.default_rng(1).normal(0, 4, values.shape)
    there = TO_GROUND @ Affine.scale(1 / finer)
    fine = (values + noise).clip(1, 255).astype(np.uint8)
    write_scene(tmp_path / "scene.tif", fine, crs=CRS, transform=there)
    layer(tmp_path / "houses.gpkg", [shapely.affinity.translate(s, 6, 0) for s in houses()])
    found = [f for f in findings(tmp_path, {}, gsd=GSD / finer) if "beside the image" in f.message]
    assert len(found) == 1
    assert f"3.0 m ({6 * finer} px) to the left" in found[0].message
    assert "to the top" not in found[0].message


def test_no_gain_is_said_that_means_nothing() -> None:
    """Where outlines meet nothing without moving, they fit any number of times better elsewhere."""
    alignment = Alignment()
    surfaces = np.random.default_rng(0).random((6, 2 * REACH + 1, 2 * REACH + 1)) + 1
    surfaces[:, REACH - 1 : REACH + 2, REACH - 1 : REACH + 2] = 0
    surfaces[:, REACH, REACH - 8] += 4
    alignment._surfaces = list(surfaces)
    shift = alignment.shift()
    assert shift is not None
    assert (shift.rows, shift.cols, shift.gain) == (0, -8, 10)


def test_labels_without_any_relation_to_the_image_have_no_shift(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "scene.tif").symlink_to(folder / "scene.tif")
    layer(tmp_path / "houses.gpkg", houses(seed=7))
    assert not [f for f in findings(tmp_path, {}) if "beside the image" in f.message]
    assert Alignment().shift() is None


@pytest.mark.parametrize("east", [0.0, 2.0])
def test_a_shift_of_real_labels(shared_data: Path, tmp_path: Path, east: float) -> None:
    source = shared_data / "buildings" / "train" / "banepa_center_np"
    (tmp_path / "scene.tif").symlink_to(source / "image.tif")
    frame = read_vector(source / "buildings.gpkg")
    frame.translate(east, 0).to_file(tmp_path / "houses.gpkg")
    aoi = str(source / "aoi.gpkg")
    found = findings(tmp_path, {"aoi": aoi}, gsd=0.3, split={"block": 72})
    shifted = [f for f in found if "beside the image" in f.message]
    assert len(shifted) == (east > 0)
    if east:  # 2 units of the Mercator's are 1.77 m there
        assert "1.8 m (6 px) to the left" in shifted[0].message


# --- chips ----------------------------------------------------------------------------------


def test_masks_and_georeferenced_chips(folder: Path, tmp_path: Path) -> None:
    with rasterio.open(folder / "scene.tif") as source:
        values = source.read().astype(np.uint16) * 9
    write_scene(tmp_path / "scene.tif", values, crs=CRS, transform=TO_GROUND)
    for name in ("houses.gpkg", "aoi.gpkg"):
        (tmp_path / name).symlink_to(folder / name)
    classes = [{"id": 7, "name": "a"}, {"id": 3, "name": "b"}]
    data = config({"aoi": "aoi.gpkg"}, classes=classes, attribute="kind")
    written = export(data, tmp_path, tmp_path / "chips", size=20)
    (sheet,) = load_places(data, tmp_path, seed=0)
    assert written == {p: len(list((tmp_path / "chips" / p / "masks").iterdir())) for p in written}
    seen = np.full((SIZE, SIZE), 255, np.uint8)
    for part in written:
        for file in (tmp_path / "chips" / part / "masks").iterdir():
            with (
                rasterio.open(file) as mask,
                rasterio.open(file.parents[1] / "images" / file.name) as image,
            ):
                assert mask.crs.to_epsg() == 32633
                assert mask.shape == image.shape == (20, 20)
                col, row = (round(v) for v in ~TO_GROUND @ (mask.transform.c, mask.transform.f))
                ids = mask.read(1)
                picture = image.read()
            r, c = np.nonzero(ids != 255)
            assert len(r)
            assert (seen[row + r, col + c] == 255).all()  # in no other chip
            seen[row + r, col + c] = ids[r, c]
            assert (picture[:, r, c] == values[:, row + r, col + c]).all()
    want = np.array([0, 7, 3, *[255] * 253], np.uint8)[sheet.label]
    assert (seen == want).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' own
def test_coco_is_what_pycocotools_reads(folder: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    ring = box(60, 60, 90, 90).difference(box(68, 66, 80, 84))
    layer(tmp_path / "houses.gpkg", [*houses(8), ring])
    (tmp_path / "scene.tif").symlink_to(folder / "scene.tif")
    data = config({}, split={"block": 64 * GSD, "share": 0.2})
    export(data, tmp_path, tmp_path / "chips", size=64, format="coco", parts=("train",))
    assert [p.name for p in (tmp_path / "chips").iterdir() if p.is_dir()] == ["train"]
    found = coco.COCO(str(tmp_path / "chips" / "train" / "annotations.json"))
    (sheet,) = load_places(data, tmp_path, seed=0)
    total = 0
    for image in found.loadImgs(found.getImgIds()):
        *_, row, col = Path(image["file_name"]).stem.split("_")
        picture = opened(tmp_path / "chips" / "train" / image["file_name"])
        assert picture.shape == (image["height"], image["width"], 3) == (64, 64, 3)
        mask = np.zeros((64, 64), bool)
        for one in found.loadAnns(found.getAnnIds(imgIds=image["id"])):
            own = found.annToMask(one) > 0
            assert abs(own.sum() - one["area"]) <= 0.15 * one["area"] + 8
            x, y, w, h = one["bbox"]
            assert not own[: int(y)].any()
            assert not own[int(np.ceil(y + h)) :].any()
            assert not own[:, : int(x)].any()
            assert not own[:, int(np.ceil(x + w)) :].any()
            mask |= own
        want = sheet.label[int(row) : int(row) + 64, int(col) : int(col) + 64] == 1
        assert (mask != want).mean() < 0.01
        total += want.sum()
    assert total > 0


def test_polygons_without_holes_cover_the_same() -> None:
    shape = box(0, 0, 20, 20).difference(box(2, 2, 5, 5)).difference(box(8, 3, 15, 16))
    pieces = without_holes(shapely.MultiPolygon([shape, box(30, 0, 40, 10)]))
    assert not any(p.interiors for p in pieces)
    assert sum(p.area for p in pieces) == pytest.approx(shape.area + 100)
    assert shapely.union_all(pieces).symmetric_difference(shape).area == pytest.approx(100)


def test_yolo_labels(folder: Path, tmp_path: Path) -> None:
    data = config({}, classes=[{"id": 1, "name": "a"}, {"id": 2, "name": "b"}], attribute="kind")
    written = export(data, folder, tmp_path / "chips", size=32, format="yolo")
    about = yaml.safe_load((tmp_path / "chips" / "data.yaml").read_text())
    assert about == {
        "path": ".",
        "train": "train/images",
        "val": "validate/images",
        "names": {0: "a", 1: "b"},
    }
    (sheet,) = load_places(data, folder, seed=0)
    for part in written:
        images = {p.stem for p in (tmp_path / "chips" / part / "images").iterdir()}
        labels = list((tmp_path / "chips" / part / "labels").iterdir())
        assert {p.stem for p in labels} == images
        for path in labels:
            *_, row, col = path.stem.split("_")
            want = sheet.label[int(row) : int(row) + 32, int(col) : int(col) + 32]
            shapes = []
            for line in path.read_text().splitlines():
                kind, *numbers = line.split()
                xy = np.array(numbers, float).reshape(-1, 2)
                assert ((xy >= 0) & (xy <= 1)).all()
                shapes.append((Polygon(xy * 32), int(kind) + 1))
            burnt = rasterio.features.rasterize(shapes, (32, 32)) if shapes else np.zeros((32, 32))
            assert (burnt == want).mean() > 0.99


def test_chips_appear_whole_or_not_at_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "chips"
    with pytest.raises(DataError, match="no block for test: it has some for train, validate"):
        export(config({}), folder, tmp_path / "none", parts=("test",))
    with pytest.raises(UsageError, match="too small"):
        export(config({}), folder, target, size=4)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", fail)
        with pytest.raises(OutputError, match="No space left"):
            export(config({}), folder, target)
    assert list(tmp_path.iterdir()) == []
    export(config({}), folder, target)
    with pytest.raises(OutputError, match="exists already"):
        export(config({}), folder, target)
    export(config({}), folder, target, size=16, overwrite=True)
    sizes = {opened(p).shape for p in (target / "train" / "images").iterdir()}
    assert sizes == {(16, 16, 3)}


# --- recipes --------------------------------------------------------------------------------


def test_a_recipe_for_polygons_can_be_trained_with(folder: Path, tmp_path: Path) -> None:
    made = recipe(
        folder / "scene.tif",
        folder / "houses.gpkg",
        aoi=folder / "aoi.gpkg",
        attribute="kind",
        steps=300,
    )
    assert [(c.name, c.values) for c in made.data.classes] == [("a", ("a",)), ("b", ("b",))]
    assert [b.common_name for b in made.data.bands] == ["red", "green", "blue"]
    assert made.data.gsd == GSD
    assert made.data.offset == (127.5,) * 3
    assert made.schedule.steps == 300
    (sheet,) = load_places(made.data, Path(made.data.root), seed=0)
    assert (sheet.parts > 0).sum() >= 10
    assert (sheet.parts == 2).any()
    path = write_recipe(made, tmp_path / "mine.yaml")
    again, root = TrainConfig.load(path)
    assert root == folder
    assert again.model_dump(exclude={"data": {"root"}}) == made.model_dump(
        exclude={"data": {"root"}}
    )
    assert path.read_text().count("#") > 10
    here = write_recipe(made, folder / "mine.yaml")
    assert "root: ." in here.read_text()  # the folder may be moved
    assert TrainConfig.load(here)[1] == folder
    with pytest.raises(OutputError, match="already exists"):
        write_recipe(made, path)


def test_a_recipe_goes_on_from_a_model(folder: Path, tmp_path: Path) -> None:
    paths = [str(folder / "scene.tif"), str(folder / "houses.gpkg")]
    said = ["-o", str(tmp_path / "mine.yaml"), "--start", "buildings-v1", "--json"]
    ran = CliRunner().invoke(cli, ["data", "recipe", *paths, *said])
    assert json.loads(ran.stdout) == {"event": "result", "output": str(tmp_path / "mine.yaml")}
    config, _ = TrainConfig.load(tmp_path / "mine.yaml")
    assert config.model.start == "buildings-v1"
    assert config.data.gsd == 0.3  # the model's
    assert config.data.offset is None  # the model says it
    assert recipe(*paths, start="buildings-v1", gsd=0.4).data.gsd == 0.4
    objects = recipe(*paths, start="buildings-instances-v1")
    assert objects.augment.cutmix == 0  # refused for objects
    with pytest.raises(ModelError, match="nothing"):
        recipe(*paths, start="nothing")


def test_classes_of_a_recipe(folder: Path, tmp_path: Path) -> None:
    scene, labels = folder / "scene.tif", folder / "houses.gpkg"
    (only,) = recipe(scene, labels).data.classes
    assert (only.name, only.values) == ("houses", ())
    (named,) = recipe(scene, labels, classes=["roof"]).data.classes
    assert named.name == "roof"
    (one,) = recipe(scene, labels, attribute="kind", classes=["b"]).data.classes
    assert (one.name, one.values) == ("b", ("b",))
    both = {"house": ["a", "b"]}
    (joined,) = recipe(scene, labels, attribute="kind", classes=both).data.classes
    assert (joined.name, joined.values) == ("house", ("a", "b"))
    with pytest.raises(DataError, match="class 'z' does not occur; there are: a, b"):
        recipe(scene, labels, attribute="kind", classes=["z"])
    with pytest.raises(DataError, match="no attribute 'kin'"):
        recipe(scene, labels, attribute="kin")
    with pytest.raises(UsageError, match="which attribute"):
        recipe(scene, labels, classes=["a", "b"])
    with pytest.raises(DataError, match="no raster at"):
        recipe(folder / "none.tif", labels)
    with pytest.raises(UsageError, match="at least one"):
        recipe(scene, labels, steps=0)


def test_labels_that_lie_elsewhere_or_are_empty_make_no_recipe(
    folder: Path, tmp_path: Path
) -> None:
    scene, labels = folder / "scene.tif", folder / "houses.gpkg"
    far = layer(tmp_path / "far.gpkg", [box(9000, 9000, 9020, 9020)])
    empty = layer(tmp_path / "empty.gpkg", [])
    lost = layer(tmp_path / "lost.gpkg", houses(), crs=None)
    for path, told in (
        (far, r"far.gpkg: lies outside of the scene .*scene.tif: it is"),
        (empty, r"empty.gpkg: has no polygons"),
        (lost, r"lost.gpkg: has no CRS"),
    ):
        with pytest.raises(DataError, match=told):
            recipe(scene, path)
        with pytest.raises(DataError, match=told):
            recipe(scene, labels, aoi=path)
    for i in range(2):  # the labels lie on one of several rasters
        there = TO_GROUND @ Affine.translation(9000 * i, 9000 * i)
        write_scene(tmp_path / f"t{i}.tif", np.full((3, 64, 64), 9, np.uint8), transform=there)
    assert recipe(tmp_path / "t*.tif", far, steps=5).data.places[0].rasters == "t*.tif"
    nowhere = layer(tmp_path / "nowhere.gpkg", [box(5000, 5000, 5020, 5020)])
    with pytest.raises(DataError, match=r"nowhere.gpkg: lies outside .*any other of the 2 rasters"):
        recipe(tmp_path / "t*.tif", nowhere)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("2024 Roofs", "model-2024-roofs"),
        ("r", "model-r"),
        ("_x1_", "model-x1"),
        ("Roofs", "roofs"),
    ],
)
def test_a_recipe_has_a_name_that_training_takes(
    folder: Path, tmp_path: Path, file: str, name: str
) -> None:
    path = tmp_path / f"{file}.yaml"
    scene, labels = folder / "scene.tif", folder / "houses.gpkg"
    result = CliRunner().invoke(
        cli, ["data", "recipe", str(scene), str(labels), "-o", str(path)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    assert TrainConfig.load(path)[0].name == name
    same = layer(tmp_path / f"{file}.gpkg", houses())
    assert recipe(scene, same).name == name


@pytest.mark.parametrize("name", ["2024-roofs", "r", "roofs-", "my roofs", ""])
def test_a_name_that_no_model_may_have_is_refused_at_once(
    folder: Path, tmp_path: Path, name: str
) -> None:
    made = recipe(folder / "scene.tif", folder / "houses.gpkg")
    content = {**made.model_dump(mode="json"), "name": name}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=f"name: '{name}' is no name for a model: at least three"):
        geoseg.train(tmp_path / "bad.yaml", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    if name:
        with pytest.raises(ConfigError, match="is no name for a model"):
            recipe(folder / "scene.tif", folder / "houses.gpkg", name=name)


def test_recipes_for_masks(folder: Path, tmp_path: Path) -> None:
    made = recipe(folder / "scene.tif", folder / "mask.png").data
    assert len(made.classes) == 1
    assert made.classes[0].values == ()
    assert made.background
    values = np.random.default_rng(0).choice([2, 5, 255], (SIZE, SIZE)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "m.png")
    made = recipe(folder / "scene.tif", tmp_path / "m.png").data
    assert [c.values for c in made.classes] == [(2,), (5,)]
    assert not made.background
    assert made.ignore == (255,)
    colours = np.array([[0, 0, 0], [10, 20, 30], [200, 0, 0]], np.uint8)[
        np.searchsorted([2, 5, 255], values)
    ]
    Image.fromarray(colours).save(tmp_path / "c.png")
    made = recipe(folder / "scene.tif", tmp_path / "c.png").data
    assert made.background
    assert [c.values for c in made.classes] == [("#0a141e",), ("#c80000",)]
    assert [c.color for c in made.classes] == ["#0a141e", "#c80000"]
    striped = np.repeat(np.array([[[255, 255, 255]], [[200, 0, 0]]], np.uint8), 600, 0)
    Image.fromarray(striped.repeat(1200, 1)).save(tmp_path / "s.png")  # the white comes first
    made = recipe(folder / "scene.tif", tmp_path / "s.png").data
    assert [c.values for c in made.classes] == [("#c80000",), ("#ffffff",)]
    large = np.full((2 * SIZE, 2 * SIZE), 9, np.uint8)  # more than the raster shows
    large[:SIZE, :SIZE] = values
    write_scene(tmp_path / "l.tif", large[None], crs=CRS, transform=TO_GROUND)
    with rasterio.open(tmp_path / "l.tif", "r+") as file:  # numbers, in spite of its palette
        file.write_colormap(1, {v: (v, 9, 0, 255) for v in (2, 5, 9)})
    made = recipe(folder / "scene.tif", tmp_path / "l.tif").data
    assert [c.values for c in made.classes] == [(2,), (5,)]
    noise = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "n.png")
    with pytest.raises(DataError, match="no mask of classes"):
        recipe(folder / "scene.tif", tmp_path / "n.png")
    Image.fromarray(values * 0).save(tmp_path / "z.png")
    with pytest.raises(DataError, match="nothing but 0"):
        recipe(folder / "scene.tif", tmp_path / "z.png")


def test_small_tiles_leave_blocks_to_validate(tmp_path: Path) -> None:
    for i in range(10):
        Image.fromarray(np.full((64, 64, 3), 9 * i, np.uint8)).save(tmp_path / f"p{i}.png")
        Image.fromarray(np.eye(64, dtype=np.uint8)).save(tmp_path / f"m{i}.tif")
    made = recipe(tmp_path / "p*.png", tmp_path / "m*.tif", gsd=10)
    sheets = load_places(made.data, tmp_path, seed=0)
    assert sum(int((s.parts == VALIDATE).sum()) for s in sheets) >= 1


def test_recipes_for_rasters_of_all_kinds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (120, 90, 3), np.uint8)).save(tmp_path / f"p{i}.png")
        Image.fromarray(rng.integers(0, 2, (120, 90), np.uint8)).save(tmp_path / f"m{i}.tif")
    with pytest.raises(DataError, match="does not know its GSD: give gsd"):
        recipe(tmp_path / "p*.png", tmp_path / "m*.tif")
    made = recipe(tmp_path / "p*.png", tmp_path / "m*.tif", gsd=0.2)
    assert made.data.places[0].gsd == made.data.gsd == 0.2
    sheets = load_places(made.data, tmp_path, seed=0)
    assert len(sheets) == 3
    assert sum(int((s.parts > 0).sum()) for s in sheets) >= 10
    four = rng.integers(0, 9000, (4, 100, 100)).astype(np.uint16)
    write_scene(
        tmp_path / "four.tif", four, crs="EPSG:4326", transform=Affine(1e-5, 0, 10, 0, -1e-5, 50)
    )
    gpd.GeoDataFrame(geometry=[box(10, 49.9995, 10.0005, 50)], crs=4326).to_file(
        tmp_path / "l.gpkg"
    )
    made = recipe(tmp_path / "four.tif", tmp_path / "l.gpkg")
    assert made.data.offset is None  # will be measured
    assert len(made.data.bands) == 4
    assert 0.7 < made.data.gsd < 1.12
    text = write_recipe(made, tmp_path / "four.yaml").read_text()
    assert "left out, so measured" in text
    assert "aoi of a place: draw one" in text


# --- the command line -----------------------------------------------------------------------


def run(*args: Any) -> Any:
    return CliRunner().invoke(cli, ["data", *map(str, args)], catch_exceptions=False)


def test_from_labels_to_chips_by_the_command_line(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    labels = folder / "houses.gpkg"
    made = run("recipe", folder / "scene.tif", labels, "--attribute", "kind", "-o", mine)
    assert made.exit_code == 0, made.output
    assert made.output.strip() == str(mine)
    checked = run("check", mine)
    assert (checked.exit_code, checked.output) == (0, "all well\n")
    stats = json.loads(run("stats", mine, "--json").output)
    assert stats["balance"]["scene"]["train"].keys() == {"Mpx", "background", "a", "b"}
    assert len(stats["suggested"]["class_weights"]) == 3
    shown = run("stats", mine).output
    for word in ("place", "train", "background", "red", "offset", "class_weights"):
        assert word in shown
    assert run("split", mine, "-o", tmp_path / "split.gpkg").exit_code == 0
    assert set(gpd.read_file(tmp_path / "split.gpkg")["part"]) == {"train", "validate"}
    again = run("split", mine, "-o", tmp_path / "split.gpkg")
    assert again.exit_code == 1
    assert "already exists" in again.output
    chips = run("chips", mine, "-o", tmp_path / "chips", "--size", 32, "--part", "validate")
    assert chips.exit_code == 0
    assert "validate" in chips.output
    assert not (tmp_path / "chips" / "train").exists()


def test_check_ends_with_1_on_errors_and_speaks_json(folder: Path, tmp_path: Path) -> None:
    bad = recipe(folder / "scene.tif", folder / "houses.gpkg", attribute="kind")
    classes = [{**c.model_dump(), "values": [f"no {c.name}"]} for c in bad.data.classes]
    data = {**bad.data.model_dump(), "classes": classes}
    bad = TrainConfig.model_validate({**bad.model_dump(), "data": data})
    path = write_recipe(bad, tmp_path / "bad.yaml")
    result = run("check", path)
    assert result.exit_code == 1
    assert "25 x a, 25 x b" in result.output
    assert "2 errors, 2 warnings" in result.output
    lines = [json.loads(line) for line in run("check", path, "--json").output.splitlines()]
    assert len(lines) == 4
    one = {**bad.data.model_dump(), "classes": [bad.data.classes[0].model_dump()]}
    one = TrainConfig.model_validate({**bad.model_dump(), "data": one})
    result = run("check", write_recipe(one, tmp_path / "one.yaml"))
    assert "1 error, 2 warnings" in result.output
    assert {"severity", "place", "file", "message", "remedy"} == set(lines[0])
    assert run("check", tmp_path / "none.yaml").exit_code == 2


@pytest.mark.parametrize("verb", ["split", "border"])
def test_a_geopackage_is_named_so(folder: Path, tmp_path: Path, verb: str) -> None:
    made = recipe(folder / "scene.tif", folder / "houses.gpkg")
    given = {
        "split": [write_recipe(made, tmp_path / "mine.yaml")],
        "border": [folder / "houses.gpkg", "--width", 0.5],
    }
    result = run(verb, *given[verb], "-o", tmp_path / "out.txt")
    assert result.exit_code == 2
    assert "out.txt: is written as a GeoPackage: name it .gpkg" in result.output
    assert not (tmp_path / "out.txt").exists()
    assert run(verb, *given[verb], "-o", tmp_path / "out.GPKG").exit_code == 0


def test_recipe_is_a_function_of_the_package() -> None:
    assert geoseg.recipe is recipe
