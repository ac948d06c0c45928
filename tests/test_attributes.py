"""Columns that tell of a polygon's shape, slivers, and all polygons of a class made one."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Transformer

from geoseg.vectorize import Polygonizer, Polygons, features, vectorize
from geoseg.vectorize.attributes import attributes, mean_width, rectangles
from geoseg.vectorize.dissolve import dissolve
from geoseg.vectorize.measure import area_perimeter

UTM = CRS(32645)
PLACE = np.array([350_000.0, 3_060_000.0])
TRANSFORM = Affine(0.5, 0, *PLACE[:1], 0, -0.5, PLACE[1])


def turned(width, length, angle):
    """A rectangle whose long side points `angle` degrees clockwise from up."""
    box = shapely.box(-width / 2, -length / 2, width / 2, length / 2)
    return shapely.affinity.rotate(box, -angle)


def frame_of(mask, confidence=None, **options):
    polygonizer = Polygonizer(mask.shape[1])
    polygons = Polygons.concat([polygonizer.add(mask, confidence), polygonizer.finish()])
    how = {"transform": TRANSFORM, "crs": UTM, "classes": {1: "house", 2: "shed"}}
    return features(polygons, **how, **options)


@pytest.mark.parametrize("angle", [0, 30, 89, 90, 135, 179])
@pytest.mark.parametrize("code", [32645, 4326, 3857, None])
def test_the_rectangle_of_a_rectangle_on_the_ground(angle, code) -> None:
    shape = shapely.transform(turned(8, 20, angle), lambda xy: xy + PLACE)
    crs = None if code is None else CRS(code)
    if code not in (None, 32645):
        to_map = Transformer.from_crs(UTM, crs, always_xy=True)
        shape = shapely.transform(shape, lambda xy: np.column_stack(to_map.transform(*xy.T)))
    length, width, orientation = rectangles(np.array([shape]), crs)
    assert length == pytest.approx(20, rel=1e-3)
    assert width == pytest.approx(8, rel=1e-3)
    off = (orientation[0] - angle + 90) % 180 - 90
    assert abs(off) < (1 if code in (4326, 3857) else 0.01)  # the grid's north is not true north


def test_every_column() -> None:
    hole = shapely.Polygon([(0, 0), (10, 0), (10, 10), (0, 10)], [[(4, 4), (4, 6), (6, 6), (6, 4)]])
    shapes = np.array([hole, shapely.MultiPolygon([turned(2, 2, 0), hole])])
    area, perimeter = area_perimeter(shapes, None)
    found = attributes(shapes, None, area, perimeter, unit_m=2.0)
    assert found["vertices"].tolist() == [8, 12]
    assert found["compactness"][0] == pytest.approx(4 * np.pi * 96 / 48**2)
    assert found["length_m"][0] == pytest.approx(20)
    assert found["width_m"][0] == pytest.approx(20)
    none = attributes(shapes[:0], None, area[:0], perimeter[:0])
    assert {len(column) for column in none.values()} == {0}


def test_mean_width() -> None:
    winding = shapely.LineString([(0, 0), (50, 0), (50, 40), (90, 40)]).buffer(
        1.5, cap_style="flat"
    )
    shapes = np.array([turned(3, 40, 20), turned(5, 5, 10), shapely.Point(0, 0).buffer(2), winding])
    width = mean_width(shapely.area(shapes), shapely.length(shapes))
    assert width == pytest.approx([3, 5, np.sqrt(shapes[2].area), 3], rel=0.03)


def test_slivers_are_dropped() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:7, 5:55] = 1  # 1 m wide
    mask[10:30, 10:30] = 2  # 10 m
    assert len(frame_of(mask)) == 2
    kept = frame_of(mask, min_width_m=1.5, attributes=True)
    assert kept["class"].tolist() == ["shed"]
    assert kept["width_m"].tolist() == pytest.approx([10], rel=1e-3)
    assert frame_of(mask, min_width_m=0.9)["class"].tolist() == ["house", "shed"]


def test_one_feature_a_class() -> None:
    rng = np.random.default_rng(3)
    mask = (rng.random((60, 80)) * 3).astype(np.uint8)
    confidence = rng.random(mask.shape, dtype=np.float32)
    whole = dissolve(frame_of(mask, confidence, attributes=True))
    assert whole["class"].tolist() == ["house", "shed"]
    assert whole.is_valid.all()
    for row in whole.itertuples():
        inside = confidence[mask == row.class_id].astype(float)
        assert row.geometry.area == pytest.approx(len(inside) / 4)
        assert row.confidence == pytest.approx(inside.mean(), abs=1e-6)
        assert row.confidence_min == inside.min()
        assert row.confidence_std == pytest.approx(inside.std(), abs=1e-4)
    parts = frame_of(mask, confidence, attributes=True)
    assert whole["area_m2"].sum() == pytest.approx(parts["area_m2"].sum())
    assert (whole.dtypes == parts.dtypes).all()
    assert len(dissolve(parts.iloc[:0])) == 0
    unknown = dissolve(frame_of(mask, attributes=True))
    for name in ("confidence", "confidence_min", "confidence_std"):
        assert unknown[name].isna().all()


def test_objects_that_touch_are_joined() -> None:
    parts = frame_of(np.array([[1, 1]], np.uint8)).iloc[[0, 0]]
    left, right = shapely.box(0, 0, 1, 1), shapely.box(1, 0, 2, 1)
    (whole,) = dissolve(parts.set_geometry([left, right], crs=UTM)).geometry
    assert whole.equals(shapely.MultiPolygon([shapely.box(0, 0, 2, 1)]))


def test_the_library_cleans_arrays() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:35, 5:35] = 1
    mask[10:14, 10:14] = 0  # 4 m²
    mask[20, 50:52] = 2  # 0.5 m²
    mask[2:4, 40:59] = 3
    mask[30:35, 40:45] = 255
    how = {"transform": TRANSFORM, "crs": UTM, "nodata": 255}
    assert len(vectorize(mask, **how)) == 3
    found = vectorize(mask, sieve_m2=1, fill_holes_m2=5, min_width_m=1.5, attributes=True, **how)
    assert found["class_id"].tolist() == [1]
    assert found["vertices"].tolist() == [4]
    whole = vectorize(np.eye(4, dtype=int), dissolve=True)
    assert whole["area_m2"].tolist() == [4]
    hidden = np.ma.masked_equal(mask, 1)
    assert vectorize(hidden, sieve_m2=1, **how)["class_id"].tolist() == [3]
