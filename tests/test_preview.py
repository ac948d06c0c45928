"""Pictures: polygons where they belong, whatever the raster."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from pyproj import CRS

from geoseg.errors import OutputError, SceneError, UsageError
from geoseg.preview import _heaviest_run, _scale_bar, preview

UTM = CRS.from_epsg(32633)
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
RED = {1: "#ff0000"}


def scene(
    path: Path,
    data: np.ndarray,
    transform: Affine = NORTH_UP,
    crs: CRS | None = UTM,
    **more: object,
) -> Path:
    bands, height, width = data.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width}
    with rasterio.open(
        path, "w", dtype=data.dtype, transform=transform, crs=crs, **profile, **more
    ) as file:
        file.write(data)
    return path


def gray(height: int = 200, width: int = 300, bands: int = 3) -> np.ndarray:
    return np.full((bands, height, width), 100, np.uint8)


def polygons(
    path: Path, *pixels: shapely.Polygon, transform: Affine = NORTH_UP, crs: CRS | None = UTM
) -> Path:
    """Polygons given in (col, row)."""
    a, b, c, d, e, f = tuple(transform)[:6]
    shapes = [shapely.affinity.affine_transform(p, [a, b, d, e, c, f]) for p in pixels]
    gpd.GeoDataFrame(
        {"class": ["roof"] * len(shapes), "class_id": [1] * len(shapes)}, geometry=shapes, crs=crs
    ).to_parquet(path)
    return path


def reddish(picture: Path, width: int, height: int) -> np.ndarray:
    """Where the fill is, without the legend."""
    with Image.open(picture) as image:
        assert image.width == width
        assert image.height > height
        data = np.asarray(image.convert("RGB"), np.int16)[:height]
    return (data[..., 0] - data[..., 1]) > 25


TRANSFORMS = {
    "north up": NORTH_UP,
    "south up": Affine(0.5, 0, 500_000, 0, 0.5, 5_000_000),
    "rotated": Affine(0.4, 0.3, 500_000, 0.3, -0.4, 5_000_000),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_polygons_lie_where_they_belong(tmp_path: Path, name: str) -> None:
    transform = TRANSFORMS[name]
    image = scene(tmp_path / "scene.tif", gray(), transform)
    ring = shapely.box(60, 40, 160, 140).difference(shapely.box(90, 70, 130, 110))
    island = shapely.box(105, 85, 115, 95)
    result = polygons(tmp_path / "result.parquet", island, ring, transform=transform)
    done = preview(result, image, tmp_path / "picture.png", width=600, alpha=0.5, colors=RED)
    found = reddish(done, 600, 400)
    expected = np.zeros((400, 600), bool)
    expected[80:280, 120:320] = True
    expected[140:220, 180:260] = False
    expected[170:190, 210:230] = True
    assert (found != expected).mean() < 0.02  # the outline
    assert found[90:130, 130:310].all()  # in the ring
    assert not found[145:165, 185:255].any()  # in its hole
    assert found[175:185, 215:225].all()  # on the island


def test_polygons_in_another_crs(tmp_path: Path) -> None:
    image = scene(tmp_path / "scene.tif", gray())
    result = polygons(tmp_path / "result.parquet", shapely.box(60, 40, 160, 140))
    other = tmp_path / "result.geojson"
    gpd.read_parquet(result).to_crs(4326).to_file(other)
    done = preview(other, image, tmp_path / "picture.png", width=300, alpha=0.5, colors=RED)
    assert reddish(done, 300, 200)[45:135, 65:155].all()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # in writing
def test_without_crs(tmp_path: Path) -> None:
    image = scene(tmp_path / "scene.tif", gray(), Affine.identity(), None)
    box = shapely.box(60, 40, 160, 140)
    result = polygons(tmp_path / "result.parquet", box, transform=Affine.identity(), crs=None)
    done = preview(result, image, tmp_path / "picture.png", width=300, alpha=0.5, colors=RED)
    assert reddish(done, 300, 200)[45:135, 65:155].all()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 5])
def test_other_values_are_stretched(tmp_path: Path, dtype: str, bands: int) -> None:
    ramp = np.tile(np.linspace(100, 3000, 300), (bands, 200, 1)).astype(dtype)
    ramp[:, :20] = -1 if dtype != "uint16" else 0
    if dtype == "float32":
        ramp[:, 30:35] = np.nan
    image = scene(tmp_path / "scene.tif", ramp, nodata=float(ramp[0, 0, 0]))
    result = polygons(tmp_path / "result.parquet")
    with Image.open(preview(result, image, tmp_path / "picture.png", width=300)) as picture:
        data = np.asarray(picture)[:200]
    assert (data[:18] == 255).all()  # nodata is white
    assert data[100, 2].max() < 10
    assert data[100, -3].min() > 245
    assert np.abs(data[100, 150].astype(int) - 127).max() < 10


def test_palette(tmp_path: Path) -> None:
    path = scene(tmp_path / "scene.tif", np.ones((1, 50, 60), np.uint8))
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {1: (10, 200, 30, 255)})
    result = polygons(tmp_path / "result.parquet")
    with Image.open(preview(result, path, tmp_path / "picture.png", width=64)) as picture:
        assert picture.getpixel((30, 20)) == (10, 200, 30)


def test_an_almost_empty_mosaic_is_shown_where_the_polygons_are(tmp_path: Path) -> None:
    """Two strips far apart; the one with more polygons fills the picture."""
    data = np.zeros((3, 2000, 1500), np.uint8)
    data[:, :200, 1100:] = 100
    data[:, 1700:, :300] = 100
    image = scene(tmp_path / "scene.tif", data, nodata=0)
    few, many = [shapely.box(1200, 50, 1250, 90)], []
    many = [shapely.box(20 + 90 * i, 1800, 80 + 90 * i, 1900) for i in range(3)]
    result = polygons(tmp_path / "result.parquet", *few, *many)
    done = preview(result, image, tmp_path / "picture.png", width=300, alpha=0.5, colors=RED)
    with Image.open(done) as picture:
        shown = np.asarray(picture)[:280]
    assert (shown == 255).all(axis=2).mean() < 0.1
    assert 0.1 < (shown[..., 0].astype(int) - shown[..., 1] > 25).mean() < 0.5


def test_bounds_choose_the_part(tmp_path: Path) -> None:
    image = scene(tmp_path / "scene.tif", gray())
    result = polygons(tmp_path / "result.parquet", shapely.box(60, 40, 160, 140))
    bounds = (500_030, 4_999_930, 500_080, 4_999_980)  # exactly the polygon
    output = tmp_path / "picture.jpg"
    preview(result, image, output, width=200, bounds=bounds, alpha=0.5, colors=RED)
    assert reddish(output, 200, 200).mean() > 0.98
    with pytest.raises(UsageError, match="outside"):
        preview(result, image, tmp_path / "other.png", bounds=(0, 0, 1, 1))


def test_nothing_found_is_a_picture_too(tmp_path: Path) -> None:
    image = scene(tmp_path / "scene.tif", gray())
    done = preview(polygons(tmp_path / "result.parquet"), image, tmp_path / "picture.png")
    with Image.open(done) as picture:
        assert picture.width == 1600


def test_many_classes_fit_the_legend(tmp_path: Path) -> None:
    image = scene(tmp_path / "scene.tif", gray())
    boxes = [shapely.box(500_000 + i, 4_999_990, 500_000.8 + i, 4_999_999) for i in range(25)]
    names = [f"class number {i}" for i in range(25)]
    result = tmp_path / "result.gpkg"
    gpd.GeoDataFrame({"class": names, "class_id": range(25)}, geometry=boxes, crs=UTM).to_file(
        result
    )
    with Image.open(preview(result, image, tmp_path / "picture.png", width=400)) as picture:
        assert picture.height > 450


def test_refusals(tmp_path: Path) -> None:
    image = scene(tmp_path / "scene.tif", gray())
    result = polygons(tmp_path / "result.parquet")
    output = tmp_path / "picture.png"
    output.write_text("old")
    broken = tmp_path / "broken.gpkg"
    broken.write_text("no database")
    other = tmp_path / "other.png"
    cases = [
        (result, image, output, {}, OutputError, "--overwrite"),
        (result, image, tmp_path / "picture.bmp", {}, UsageError, r"\.png"),
        (result, image, other, {"alpha": 2}, UsageError, "alpha"),
        (result, image, other, {"width": 1}, UsageError, "width"),
        (tmp_path / "none.gpkg", image, other, {}, UsageError, "does not exist"),
        (broken, image, other, {}, UsageError, "no vector file"),
        (result, broken, other, {}, SceneError, "cannot be read"),
    ]
    before = sorted(tmp_path.iterdir())
    for *paths, options, error, match in cases:
        with pytest.raises(error, match=match):
            preview(*paths, **options)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("longest", "pixel", "expected"),
    [(200, 0.3, (50 / 0.3, "50 m")), (100, 30, (2000 / 30, "2 km")), (100, 0.005, (100, "50 cm"))],
)
def test_scale_bar(longest: float, pixel: float, expected: tuple[float, str]) -> None:
    length, text = _scale_bar(longest, pixel)
    assert (pytest.approx(length), text) == expected


def test_heaviest_run() -> None:
    used = np.array([True, True, False, True, False, True])
    assert _heaviest_run(used, np.array([1.0, 1, 9, 3, 0, 1])) == (3, 4)


@pytest.mark.parametrize("bounds", [(float("nan"), 1, 2, 3), (2, 0, 1, 1), (0, 1, 1, 1)])
def test_senseless_bounds(tmp_path: Path, bounds: tuple[float, float, float, float]) -> None:
    with pytest.raises(UsageError, match="in this order"):
        preview("result.gpkg", "scene.tif", tmp_path / "p.png", bounds=bounds)


def test_polygons_that_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    raster = scene(tmp_path / "scene.tif", gray())
    far = polygons(tmp_path / "far.parquet", shapely.box(5000, 20, 5040, 60))
    with pytest.raises(UsageError, match=r"far.parquet: none of its polygons lies on .*scene.tif"):
        preview(far, raster, tmp_path / "picture.png")
    assert not (tmp_path / "picture.png").exists()
    touching = polygons(tmp_path / "edge.parquet", shapely.box(290, 20, 340, 60))
    preview(touching, raster, tmp_path / "picture.png")
    none = polygons(tmp_path / "none.parquet")
    preview(none, raster, tmp_path / "none.png")
    part = (500_000.0, 4_999_950.0, 500_020.0, 5_000_000.0)  # on the scene, beside the polygon
    preview(touching, raster, tmp_path / "part.png", bounds=part)
    lost = polygons(tmp_path / "lost.parquet", shapely.box(20, 20, 40, 60), crs=None)
    with pytest.raises(UsageError, match=r"lost.parquet: has no CRS, but the scene has one"):
        preview(lost, raster, tmp_path / "lost.png")
