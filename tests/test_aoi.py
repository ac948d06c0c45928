"""Area of interest: any CRS in, pixels of the grid out; one sentence for each unusable one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS
from shapely import MultiPolygon, Point, Polygon, box

from geoseg.aoi import Aoi
from geoseg.errors import AoiError
from geoseg.grid import Grid, Window
from geoseg.testing import ArrayScene

GRID = Grid(CRS("EPSG:32610"), Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), 200, 300)
# Two boxes in pixels: columns 10..50, rows 20..40, and columns 100..110, rows 150..160.
BOXES = MultiPolygon([box(10, 20, 50, 40), box(100, 150, 110, 160)])
EXPECTED = np.zeros((200, 300), np.bool_)
EXPECTED[20:40, 10:50] = EXPECTED[150:160, 100:110] = True


def on_ground(geometry: Any, grid: Grid = GRID) -> Any:
    t = grid.transform
    return shapely.transform(geometry, lambda xy: np.column_stack(t @ (xy[:, 0], xy[:, 1])))


def layer(*geometries: Any, crs: Any = "EPSG:32610") -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(geometry=list(geometries), crs=crs)


def test_bounds_in_the_grids_crs() -> None:
    west, south, east, north = on_ground(box(10, 20, 50, 40)).bounds
    aoi = Aoi.open((west, south, east, north), GRID)
    expected = np.zeros_like(EXPECTED)
    expected[20:40, 10:50] = True
    np.testing.assert_array_equal(aoi.mask(0, 200), expected)
    with pytest.raises(AoiError, match="^bounds: lies outside of the scene"):
        Aoi.open((0.0, 0.0, 1.0, 1.0), GRID)


def test_a_geometry_in_the_grids_crs() -> None:
    aoi = Aoi.open(on_ground(BOXES), GRID)
    np.testing.assert_array_equal(aoi.mask(0, 200), EXPECTED)
    for start, stop in [(0, 1), (19, 22), (35, 155), (199, 200), (7, 7)]:
        np.testing.assert_array_equal(aoi.mask(start, stop), EXPECTED[start:stop])


@pytest.mark.parametrize(
    ("window", "inside"),
    [
        (Window(0, 0, 200, 300), True),
        (Window(0, 0, 20, 300), False),  # touches the upper box's edge
        (Window(0, 0, 21, 11), True),
        (Window(50, 50, 50, 50), False),
        (Window(155, 105, 1, 1), True),
        (Window(-50, -50, 75, 75), True),
    ],
)
def test_windows_that_share_an_area(window: Window, inside: bool) -> None:
    assert Aoi.open(on_ground(BOXES), GRID).intersects(window) is inside


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "shp"])
def test_files_in_another_crs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"aoi.{suffix}"
    layer(*on_ground(BOXES).geoms).to_crs("EPSG:4326").to_file(path)
    # A corner that is moved by less than a thousandth of a pixel may still change sides.
    np.testing.assert_array_equal(Aoi.open(path, GRID).mask(0, 200), EXPECTED)


def test_long_edges_are_bent_by_the_projection() -> None:
    """A parallel is no straight line in UTM: 300 km of it sag by kilometres."""
    crs = CRS("EPSG:32610")
    grid = Grid(crs, Affine(1000, 0, 350_000, 0, -1000, 5_800_000), 600, 300)
    aoi = Aoi.open(layer(box(-130, 50, -110, 60), crs="EPSG:4326"), grid)
    columns, rows = np.meshgrid(np.arange(300) + 0.5, np.arange(600) + 0.5)
    x, y = grid.transform @ (columns, rows)
    points = gpd.GeoSeries(gpd.points_from_xy(x.ravel(), y.ravel()), crs=crs).to_crs(4326)
    expected = ((points.y > 50) & (points.y < 60)).to_numpy().reshape(600, 300)
    assert (aoi.mask(0, 600) != expected).sum() <= 3


def test_the_world_is_clipped_before_it_is_projected() -> None:
    aoi = Aoi.open(layer(box(-180, -90, 180, 90), crs="EPSG:4326"), GRID)
    assert aoi.mask(0, 200).all()


def test_rotated_and_unreferenced_grids() -> None:
    rotated = Grid(GRID.crs, Affine(0.3, 0.4, 500_000, 0.4, -0.3, 5_000_000), 200, 300)
    aoi = Aoi.open(on_ground(BOXES, rotated), rotated)
    np.testing.assert_array_equal(aoi.mask(0, 200), EXPECTED)
    bare = Grid(None, Affine.identity(), 200, 300)
    np.testing.assert_array_equal(Aoi.open(layer(BOXES, crs=None), bare).mask(0, 200), EXPECTED)
    with pytest.raises(AoiError, match="outside of the scene"):
        Aoi.open(layer(box(1000, 1000, 1001, 1001), crs=None), bare)


def test_one_pixel_is_found_anywhere() -> None:
    """An area that goes between the pixels almost everywhere, in blocks far and near."""
    grid = Grid(None, Affine.identity(), 1500, 5000)
    thread = MultiPolygon([box(0.6, 0, 0.7, 1500), box(0, 0.6, 5000, 0.7)])
    for col, row in [(0, 0), (4999, 3), (2048, 256), (2047, 1499), (77, 700)]:
        area = shapely.union_all([thread, box(col + 0.3, row + 0.3, col + 0.6, row + 0.6)])
        aoi = Aoi.open(layer(area, crs=None), grid)
        assert np.argwhere(aoi.mask(0, 1500)).tolist() == [[row, col]]
        valid = np.zeros((1500, 5000), np.bool_)
        valid[row, col] = True
        assert aoi.has_data(ArrayScene(np.ones((1, 1500, 5000), np.uint8), valid).read)
        assert not aoi.has_data(ArrayScene(np.ones((1, 1500, 5000), np.uint8), ~valid).read)


def test_invalid_polygons_are_repaired() -> None:
    bow_tie = Polygon([(10, 10), (30, 30), (30, 10), (10, 30)])
    mask = Aoi.open(layer(on_ground(bow_tie)), GRID).mask(0, 200)
    assert 180 <= mask.sum() <= 220


UNUSABLE: list[tuple[Any, str]] = [
    (layer(), "has no features"),
    (layer(Polygon()), "without geometry only"),
    (layer(None), "without geometry only"),
    (layer(Point(1, 2)), "no polygons but Point"),
    (layer(on_ground(Polygon([(1, 1), (9, 9), (1, 1)]))), "enclose no area"),
    (layer(box(0, 0, 1, 1)), r"outside of the scene: the area is 0 to 1, 0 to 1, the scene 5"),
    (layer(box(9, 49, 10, 50), crs="EPSG:4326"), r"the area is 9 to 10, 49 to 50, the scene -123"),
    (layer(on_ground(BOXES), crs=None), "has no CRS, but the scene has one"),
    (layer(on_ground(box(5.1, 5.1, 5.4, 5.4))), "covers no pixel of the scene: no pixel's centre"),
    (layer(on_ground(box(0, 5.6, 300, 6.4))), "covers no pixel of the scene"),
]


@pytest.mark.parametrize(("area", "says"), UNUSABLE, ids=[s[:20] for _, s in UNUSABLE])
def test_unusable_areas_get_one_sentence(area: gpd.GeoDataFrame, says: str) -> None:
    with pytest.raises(AoiError, match=says) as caught:
        Aoi.open(area, GRID)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "text.gpkg").write_text("no database")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    for name, says in [
        ("missing.gpkg", "no such file"),
        ("text.gpkg", "not a vector file"),
        ("table.csv", "no geometry"),
    ]:
        with pytest.raises(AoiError, match=says):
            Aoi.open(tmp_path / name, GRID)
