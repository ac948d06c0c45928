"""Outlines as a cartographer draws buildings: right angles, circles, walls in common, the guard."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer
from rasterio.features import rasterize
from shapely import affinity

import geoseg
from geoseg.errors import DataError, UsageError
from geoseg.vectorize import Polygonizer, Polygons, features, vectorize
from geoseg.vectorize.regularize import MIN_IOU, regular_shapes

GSD = 0.3
TO_MAP = Affine.scale(GSD, -GSD)
SHAPES = {  # metres
    "rectangle": [(0, 0), (16, 0), (16, 9), (0, 9)],
    "L": [(0, 0), (18, 0), (18, 7), (8, 7), (8, 15), (0, 15)],
    "T": [(0, 0), (20, 0), (20, 7), (14, 7), (14, 16), (6, 16), (6, 7), (0, 7)],
    "U": [(0, 0), (22, 0), (22, 15), (15, 15), (15, 6), (7, 6), (7, 15), (0, 15)],
}


def pixels(shapes, size=200):
    """(polygons along the pixels, their clusters, which shape each is) of shapes in metres."""
    transform = Affine(GSD, 0, 0, 0, -GSD, size * GSD)
    numbered = [(shape, number) for number, shape in enumerate(shapes, start=1)]
    mask = rasterize(numbered, out_shape=(size, size), transform=transform, dtype="int32")
    return outlined(mask, transform)


def outlined(mask, transform=TO_MAP):
    polygonizer = Polygonizer(mask.shape[1], whole_clusters=True)
    found = Polygons.concat([polygonizer.add(mask), polygonizer.finish()])
    return found.to_shapely(transform), found.cluster, found.label - 1


def regular(shapes, groups=None, tolerance=0.75):
    return regular_shapes(shapes, tolerance, crs=None, groups=groups)


def iou(one, two):
    common = shapely.area(shapely.intersection(one, two))
    return common / (shapely.area(one) + shapely.area(two) - common)


def corners(polygon):
    """Angles in degrees at the corners of the exterior."""
    steps = np.diff(shapely.get_coordinates(polygon.exterior), axis=0)
    angle = np.degrees(np.arctan2(steps[:, 1], steps[:, 0]))
    return (angle - np.roll(angle, 1)) % 360


def turned(shape, angle, at=(30, 30)):
    shape = affinity.rotate(shapely.Polygon(shape), angle, origin="centroid")
    return affinity.translate(shape, at[0] - shape.centroid.x, at[1] - shape.centroid.y)


def speckle(seed, size=40, classes=3, smooth=2):
    """(size, size) blobs of some classes, 0 between them."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=(classes + 1, size, size))
    return np.stack([gaussian_filter(n, smooth) for n in noise]).argmax(axis=0).astype(np.int32)


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=60, deadline=None)
@given(angle=st.floats(0, 360), dx=st.floats(0, 1), dy=st.floats(0, 1))
def test_shapes_come_back_from_their_pixels(name, angle, dx, dy):
    truth = turned(SHAPES[name], angle, (30 + dx, 30 + dy))
    shapes, groups, _ = pixels([truth])
    (result,) = regular(shapes, groups)
    assert iou(result, truth) > 0.95
    assert len(corners(result)) == len(SHAPES[name])
    right = np.round(corners(result) / 90) * 90
    np.testing.assert_allclose(corners(result), right, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(radius=st.floats(3, 20), dx=st.floats(0, 1), dy=st.floats(0, 1))
def test_circles_stay_circles(radius, dx, dy):
    truth = shapely.Point(30 + dx, 30 + dy).buffer(radius, 64)
    shapes, groups, _ = pixels([truth])
    (result,) = regular(shapes, groups)
    assert iou(result, truth) > 0.95
    far = np.hypot(*(shapely.get_coordinates(result) - shapely.get_coordinates(result.centroid)).T)
    assert len(far) > 16
    np.testing.assert_allclose(far, far[0])
    np.testing.assert_allclose(result.area, shapes[0].area)


def test_holes_get_right_angles_and_stay():
    court = turned(SHAPES["rectangle"], 20).buffer(6, join_style="mitre")
    truth = court.difference(turned(SHAPES["rectangle"], 20))
    shapes, groups, _ = pixels([truth])
    (result,) = regular(shapes, groups)
    assert len(result.interiors) == 1
    assert [len(r.coords) for r in (result.exterior, *result.interiors)] == [5, 5]
    assert iou(result, truth) > 0.95


def test_a_second_direction_of_its_own():
    wing = affinity.rotate(shapely.box(-3, -4, 18, 4), 32, (0, 0))
    truth = affinity.translate(shapely.union(shapely.box(-18, -4, 3, 4), wing), 30, 30)
    shapes, groups, _ = pixels([truth])
    (result,) = regular(shapes, groups)
    assert iou(result, truth) > 0.93
    steps = np.diff(shapely.get_coordinates(result.exterior), axis=0)
    long = np.hypot(*steps.T) > 5
    angle = np.degrees(np.arctan2(steps[:, 1], steps[:, 0]))[long] % 90
    off = np.minimum.reduce([abs(angle - a) for a in (0, 90, 32)])
    assert (off < 1).all()


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.floats(4, 9), min_size=2, max_size=6),
    depths=st.lists(st.floats(7, 12), min_size=6, max_size=6),
    angle=st.floats(0, 180),
)
def test_a_wall_of_two_houses_stays_one(widths, depths, angle):
    left = 30 - sum(widths) / 2 + np.concatenate([[0], np.cumsum(widths)])
    houses = [
        affinity.rotate(shapely.box(a, 26, b, 26 + d), angle, (30, 30))
        for a, b, d in zip(left[:-1], left[1:], depths, strict=False)
    ]
    shapes, groups, number = pixels(houses)
    result = regular(shapes, groups)
    assert shapely.coverage_is_valid(result)
    assert shapely.union_all(result).geom_type == "Polygon"
    assert (iou(result, shapes) >= MIN_IOU).all()
    assert iou(result, np.array(houses)[number]).min() > 0.85
    # walls have no vertices but their ends, and those of shorter neighbours
    assert shapely.get_num_coordinates(result).sum() <= 9 * len(houses)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), tolerance=st.floats(0.2, 3), smooth=st.floats(0.5, 4))
def test_whatever_comes_stays_a_coverage_within_the_guard(seed, tolerance, smooth):
    shapes, groups, _ = outlined(speckle(seed, smooth=smooth))
    result = regular(shapes, groups, tolerance)
    assert shapely.is_valid(result).all()
    assert (iou(result, shapes) >= MIN_IOU - 1e-9).all()
    for cluster in np.unique(groups):
        assert shapely.coverage_is_valid(result[groups == cluster])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_cluster_does_not_know_of_others(seed):
    mask = speckle(seed, smooth=1.5) * (speckle(seed + 1, classes=1) > 0)
    shapes, groups, _ = outlined(mask)
    together = regular(shapes, groups)
    for cluster in np.unique(groups):
        own = groups == cluster
        alone = regular(shapes[own], groups[own])
        assert (shapely.to_wkb(alone) == shapely.to_wkb(together[own])).all()


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(list(SHAPES)), angle=st.floats(0, 360))
def test_done_twice_is_done_once(name, angle):
    shapes, groups, _ = pixels([turned(SHAPES[name], angle)])
    once = regular(shapes, groups)
    twice = regular(once, groups)
    assert shapely.hausdorff_distance(once, twice).max() < 1e-6


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(SHAPES)),
    angle=st.floats(0, 360),
    turn=st.floats(0, 360),
    shift=st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)),
)
def test_turning_and_shifting_change_nothing(name, angle, turn, shift):
    shapes, groups, _ = pixels([turned(SHAPES[name], angle)])
    (here,) = regular(shapes, groups)

    def move(shape):
        return affinity.translate(affinity.rotate(shape, turn, (0, 0)), *shift)

    (there,) = regular(np.array([move(shapes[0])]), groups)
    assert iou(move(here), there) > 0.995


@pytest.mark.parametrize("crs", [4326, 3857, 32632, 2154, 2263, 4807])
def test_any_crs_is_metres_on_the_ground(crs):
    crs = CRS(crs)
    to_map = Transformer.from_crs(
        CRS.from_proj4("+proj=aeqd +lat_0=46 +lon_0=6 +datum=WGS84"), crs, always_xy=True
    )
    shapes, groups, _ = pixels([turned(SHAPES["L"], 25)])
    (flat,) = regular(shapes, groups)

    def mapped(shape):
        return shapely.transform(shape, lambda xy: np.column_stack(to_map.transform(*xy.T)))

    (result,) = regular_shapes(np.array([mapped(shapes[0])]), 0.75, crs=crs)
    assert shapely.get_num_coordinates(result) == 7
    assert iou(result, mapped(flat)) > 0.99


def test_what_has_no_tolerance_stays_with_its_neighbours():
    house, garden = shapely.box(10, 10, 20, 20), shapely.box(20, 10, 30, 20)
    shapes, groups, number = pixels([affinity.rotate(s, 10, (20, 15)) for s in (house, garden)])
    result = regular_shapes(shapes, np.where(number == 0, 0.75, 0.0), crs=None, groups=groups)
    assert result[number == 1][0].equals(shapes[number == 1][0])
    assert shapely.coverage_is_valid(result)
    assert shapely.get_num_coordinates(result[number == 0])[0] < 40


def test_nothing_of_nothing():
    assert len(regular(np.empty(0, object))) == 0


# The public function ----------------------------------------------------------------------------


def layer(shapes, crs=32632, **columns):
    return gpd.GeoDataFrame(columns or None, geometry=list(shapes), crs=crs)


def test_a_layer_keeps_its_columns_and_index():
    shapes, _, number = pixels([turned(SHAPES["L"], 33), turned(SHAPES["T"], 10, (48, 15))])
    shapes = shapes[np.argsort(number)]
    frame = layer([*shapes, None, shapely.Polygon()], name=list("abcd"))
    frame.index = [7, 5, 3, 1]
    result = geoseg.regularize(frame, 0.75)
    assert list(result.index) == [7, 5, 3, 1]
    assert list(result["name"]) == list("abcd")
    assert result.crs == frame.crs
    assert [len(g.exterior.coords) for g in result.geometry[:2]] == [7, 9]
    assert result.geometry.iloc[2] is None
    assert result.geometry.iloc[3].is_empty
    assert frame.geometry.iloc[0].equals(shapes[0])


def test_neighbours_without_common_vertices_stay_together():
    # the walls of the small house end at the other's, which has no vertices there
    big = shapely.box(0, 0, 10.2, 20.3)
    small = shapely.Polygon([(10.2, 5), (18, 5), (18.3, 12.2), (10.2, 12)])
    result = geoseg.regularize(layer(affinity.rotate(s, 20, (0, 0)) for s in (big, small)))
    assert shapely.coverage_is_valid(result.geometry.values)
    assert shapely.union_all(result.geometry.values).geom_type == "Polygon"
    np.testing.assert_allclose(corners(result.geometry[1]), 90)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), tolerance=st.floats(0.3, 2))
def test_no_polygons_come_to_overlap(seed, tolerance):
    mask = speckle(seed, classes=4, smooth=1.5)
    shapes, _, _ = outlined(np.where(mask == 4, 0, mask))
    result = geoseg.regularize(layer(shapes), tolerance).geometry.values
    assert shapely.is_valid(result).all()
    assert shapely.area(result).sum() - shapely.area(shapely.union_all(result)) < 1e-3


def test_polygons_that_overlap_are_taken_each_by_itself():
    shapes = [turned(SHAPES["L"], 33), turned(SHAPES["T"], 10, (38, 33))]
    drawn = [pixels([s])[0][0] for s in shapes]
    result = geoseg.regularize(layer(drawn), 0.75).geometry.values
    assert [len(g.exterior.coords) for g in result] == [7, 9]


def test_multipolygons_and_bow_ties():
    two = shapely.union_all([turned(SHAPES["L"], 33), turned(SHAPES["L"], 50, (80, 30))])
    bow = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    result = geoseg.regularize(layer([two, bow])).geometry
    assert result.is_valid.all()
    assert [g.geom_type for g in result] == ["MultiPolygon", "MultiPolygon"]


def test_what_is_refused():
    with pytest.raises(DataError, match="1 of 2 geometries are no polygons .*row 1"):
        geoseg.regularize(layer([shapely.box(0, 0, 1, 1), shapely.Point(0, 0)]))
    with pytest.raises(UsageError, match="tolerance is a length"):
        geoseg.regularize(layer([shapely.box(0, 0, 1, 1)]), -1)
    with pytest.raises(UsageError, match="min_iou"):
        geoseg.regularize(layer([shapely.box(0, 0, 1, 1)]), min_iou=80)
    with pytest.raises(UsageError, match="no map"):
        geoseg.regularize(layer([shapely.box(0, 0, 1, 1)], crs=4978))


# Inside of vectorize ----------------------------------------------------------------------------


def test_vectorize_regularizes_by_class():
    shapes = [turned(SHAPES["L"], 33), turned(SHAPES["L"], 12, (45, 45))]
    transform = Affine(GSD, 0, 0, 0, -GSD, 60)
    mask = rasterize(
        [(s, n) for n, s in enumerate(shapes, 1)], out_shape=(200, 200), transform=transform
    )
    how = {"transform": transform, "crs": 32632, "classes": {1: "house", 2: "lawn"}}
    counts = vectorize(mask, regularize_m=0.75, **how).geometry.count_coordinates()
    assert list(counts) == [7, 7]
    some = vectorize(mask, regularize_m={"house": 0.75}, **how).set_index("class").geometry
    assert some["house"].exterior.coords.__len__() == 7
    assert shapely.get_num_coordinates(some["lawn"]) > 50
    assert vectorize(mask, regularize_m=0.75, **how)["area_m2"].notna().all()


@pytest.mark.parametrize("height", [1, 7, 64])
def test_heights_of_bands_do_not_matter(height):
    mask = speckle(5, size=60, smooth=1.5)
    transform = {"transform": TO_MAP, "crs": None, "classes": {}}
    whole = vectorize(mask, regularize_m=0.75, transform=TO_MAP)
    polygonizer = Polygonizer(60, whole_clusters=True)
    batches = [polygonizer.add(mask[top : top + height]) for top in range(0, 60, height)]
    frames = [
        features(batch, regularize_m=0.75, **transform)
        for batch in [*batches, polygonizer.finish()]
        if len(batch)
    ]
    geometry = np.concatenate([frame.geometry.values for frame in frames])
    assert sorted(shapely.to_wkb(geometry)) == sorted(shapely.to_wkb(whole.geometry.values))


def test_objects_are_regularized():
    from geoseg.instances.features import features as object_features
    from geoseg.predictions import Masks, Objects

    transform = Affine(GSD, 0, 0, 0, -GSD, 60)
    shape = turned(SHAPES["L"], 33)
    mask = rasterize([shape], out_shape=(200, 200), transform=transform).astype(np.bool_)
    masks = Masks(np.array([[0, 0, 200, 200]], np.int32), mask.ravel(), np.array([0, mask.size]))
    one = np.ones(1, np.float32)
    objects = Objects(one.astype(np.uint8), one, masks, one.astype(np.int32), one < 1)
    how = {"transform": transform, "crs": CRS(32632), "classes": {1: "house"}}
    (result,) = object_features(objects, regularize_m={"house": 0.75}, **how).geometry
    assert shapely.get_num_coordinates(result) == 7
    assert iou(result, shape) > 0.95


def test_a_class_that_is_not_there_is_told():
    from geoseg.options import PolygonOptions

    with pytest.raises(UsageError, match="no class 'hut'; there are: house, road"):
        PolygonOptions(regularize={"hut": 1}).must_name({1: "house", 2: "road"})
