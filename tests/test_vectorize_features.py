"""From pixels to the map: measures on the ellipsoid, simplified coverages, frames of features."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer
from scipy import ndimage

from geoseg.vectorize import Polygonizer, Polygons, features, vectorize
from geoseg.vectorize.measure import area_perimeter, metres_to_units
from geoseg.vectorize.simplify import simplify

UTM = CRS(32632)
COLUMNS = ["class", "class_id", "confidence", "confidence_min", "area_m2", "perimeter_m"]

# (crs, lon, lat): degrees, web mercator far north, metres, feet, poles, grads, compound
PLACES = [
    (4326, 10.0, 50.0),
    (4326, 10.0, 85.0),
    (3857, 10.0, 60.0),
    (32632, 9.0, 48.0),
    (2154, 3.0, 45.0),
    (2263, -74.0, 40.7),
    (3031, 30.0, -75.0),
    (3031, 0.0, -89.999),
    (4807, 0.0, 46.0),
    (7405, -1.0, 52.0),
    (3832, 179.999, 10.0),
]


def to_degrees(crs):
    """A function from map coordinates (V, 2) to longitude and latitude."""
    transformer = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    unit = np.degrees(crs.geodetic_crs.axis_info[0].unit_conversion_factor)
    return lambda xy: np.column_stack(transformer.transform(*xy.T)) * unit


def place(crs, lon, lat):
    transformer = Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
    unit = np.degrees(crs.geodetic_crs.axis_info[0].unit_conversion_factor)
    return np.array(transformer.transform(lon / unit, lat / unit))


def on_ellipsoid(polygon, crs):
    """Area and perimeter by pyproj.Geod, of a polygon with vertices so near that edges agree."""
    geod = Geod(a=crs.ellipsoid.semi_major_metre, b=crs.ellipsoid.semi_minor_metre)
    width, height = np.ptp(shapely.get_coordinates(polygon), axis=0)
    fine = shapely.segmentize(polygon, max(width, height) / 50)
    fine = shapely.orient_polygons(shapely.transform(fine, to_degrees(crs)))
    return abs(geod.geometry_area_perimeter(fine)[0]), geod.geometry_length(fine.boundary)


def stars(count, seed=0):
    """Polygons of about unit size with many directions of edges, half of them with a hole."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 12)))
        radius = rng.uniform(0.4, 1, len(angle))
        star = shapely.Polygon(np.column_stack((np.cos(angle), np.sin(angle))) * radius[:, None])
        middle = shapely.point_on_surface(star)
        hole = middle.buffer(middle.distance(star.exterior) / 2, quad_segs=2)
        yield star.difference(hole) if k % 2 else star


@pytest.mark.parametrize(("code", "lon", "lat"), PLACES)
@pytest.mark.parametrize("metres", [30, 2000, 15000])
def test_measures_agree_with_geod(code, lon, lat, metres):
    crs = CRS(code)
    origin = place(crs, lon, lat)
    unit = metres_to_units(metres, crs, origin[None])[0]
    polygons = np.array(
        [shapely.transform(star, lambda xy: xy * unit + origin) for star in stars(6)]
    )
    expected = np.array([on_ellipsoid(polygon, crs) for polygon in polygons]).T
    np.testing.assert_allclose(area_perimeter(polygons, crs), expected, rtol=2e-5)


@pytest.mark.parametrize("code", [4326, 3857, 3035])
def test_large_polygons_are_measured_too(code):
    crs = CRS(code)
    country = shapely.Polygon([(5, 47), (15, 47), (14, 55), (6, 54)])
    into = Transformer.from_crs(4326, crs, always_xy=True)
    polygon = shapely.transform(country, lambda xy: np.column_stack(into.transform(*xy.T)))
    expected = on_ellipsoid(shapely.segmentize(polygon, polygon.length / 5000), crs)
    measured = np.ravel(area_perimeter(np.array([polygon]), crs))
    np.testing.assert_allclose(measured, expected, rtol=1e-4)


def test_measures_without_a_place_on_earth():
    square = shapely.box(10, 10, 13, 14) - shapely.box(11, 11, 12, 12)
    several = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(5, 5, 7, 7)])
    geometries = np.array([square, several, shapely.Polygon()])
    area, perimeter = area_perimeter(geometries, None)
    assert area.tolist() == [11, 5, 0]
    assert perimeter.tolist() == [18, 12, 0]
    feet = CRS.from_wkt(
        'ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],'
        'LENGTHUNIT["foot",0.3048]]'
    )
    assert area_perimeter(geometries, feet)[0] == pytest.approx(np.array([11, 5, 0]) * 0.3048**2)
    assert metres_to_units(0.3048, feet, np.zeros((1, 2))) == pytest.approx(1)
    assert [len(a) for a in area_perimeter(geometries[:0], UTM)] == [0, 0]


@pytest.mark.parametrize(("code", "lon", "lat"), PLACES)
def test_metres_to_units(code, lon, lat):
    crs = CRS(code)
    x, y = place(crs, lon, lat)
    (unit,) = metres_to_units(50, crs, np.array([[x, y]]))
    square = shapely.box(x - unit / 2, y - unit / 2, x + unit / 2, y + unit / 2)
    assert on_ellipsoid(square, crs)[0] == pytest.approx(2500, rel=1e-4)


def land_cover(shape, seed, classes=3):
    noise = np.random.default_rng(seed).standard_normal((classes, *shape))
    return ndimage.gaussian_filter(noise, (0, 1.5, 1.5)).argmax(axis=0).astype(np.uint8)


def frame(mask, band=10**6, confidence=None, **options):
    options = {"transform": Affine(0.5, 0, 4e5, 0, -0.5, 5e6), "crs": UTM, "classes": {}} | options
    clusters = options.get("simplify_m", 0) > 0
    polygonizer = Polygonizer(mask.shape[1], whole_clusters=clusters)
    batches = []
    for top in range(0, len(mask), band):
        rows = slice(top, top + band)
        scores = None if confidence is None else confidence[rows]
        batches.append(polygonizer.add(mask[rows], scores))
    batches.append(polygonizer.finish())
    frames = [features(batch, **options) for batch in batches]
    return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(0.3, 4),
    st.booleans(),
)
def test_simplified_neighbours_have_no_gaps(seed, shape, tolerance, full):
    mask = land_cover(shape, seed) + np.uint8(full)
    polygonizer = Polygonizer(mask.shape[1], whole_clusters=True)
    polygons = Polygons.concat([polygonizer.add(mask), polygonizer.finish()])
    before = polygons.to_shapely()
    after = simplify(before, tolerance, groups=polygons.cluster)
    assert len(after) == len(before)
    assert shapely.is_valid(after).all()
    assert shapely.get_num_coordinates(after).sum() <= shapely.get_num_coordinates(before).sum()
    for cluster in np.unique(polygons.cluster):
        members = after[polygons.cluster == cluster]
        assert shapely.coverage_is_valid(members)
        union = shapely.union_all(members)
        assert shapely.area(members).sum() == pytest.approx(union.area)
        holes = shapely.get_num_interior_rings(shapely.get_parts(union)).sum()
        originals = shapely.get_parts(shapely.union_all(before[polygons.cluster == cluster]))
        assert holes <= shapely.get_num_interior_rings(originals).sum()


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([UTM, CRS(4326)]))
def test_features_do_not_depend_on_the_bands(seed, band, crs):
    mask = land_cover((40, 30), seed)
    scale = 0.5 if crs == UTM else 5e-6
    options = {
        "transform": Affine(scale, 0, 9, 0, -scale, 48),
        "crs": crs,
        "simplify_m": 0.7,
        "min_area_m2": 1.0,
    }
    whole, parts = frame(mask, **options), frame(mask, band, **options)
    assert parts.geometry.to_wkb().equals(whole.geometry.to_wkb())
    assert parts.drop(columns="geometry").equals(whole.drop(columns="geometry"))


def test_simplify_removes_steps_of_pixels():
    mask = np.tri(40, dtype=np.uint8)  # a staircase
    stepped, smooth = frame(mask), frame(mask, simplify_m=0.6)
    assert shapely.get_num_coordinates(stepped.geometry[0]) == 83  # with the one repeated
    assert shapely.get_num_coordinates(smooth.geometry[0]) < 10
    assert smooth.area_m2[0] == pytest.approx(stepped.area_m2[0], rel=0.03)
    assert len(simplify(np.array([], dtype=object), 1.0)) == 0
    assert simplify(np.array([shapely.box(0, 0, 1, 1)]), 5.0)[0].area > 0


def test_the_frame():
    mask = np.array([[1, 1, 0, 2], [1, 1, 0, 0], [0, 0, 0, 7]], np.uint8)
    confidence = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    found = frame(mask, 2, confidence, classes={1: "house", 2: "tree"})
    assert list(found.columns) == [*COLUMNS, "geometry"]
    assert found["class"].tolist() == ["tree", "house", "7"]
    assert found.class_id.tolist() == [2, 1, 7]
    assert found.area_m2.to_numpy() == pytest.approx([0.25, 1, 0.25], rel=2e-3)
    assert found.perimeter_m.to_numpy() == pytest.approx([2, 4, 2], rel=1e-3)
    assert found.confidence.to_numpy() == pytest.approx([3 / 11, 2.5 / 11, 1])
    assert found.confidence_min.to_numpy() == pytest.approx([3 / 11, 0, 1])
    assert found.crs == UTM
    assert found.geometry[1].bounds == (4e5, 5e6 - 1, 4e5 + 1, 5e6)


def test_no_polygons_give_the_same_columns():
    full, empty = frame(np.ones((3, 3), np.uint8)), frame(np.zeros((3, 3), np.uint8))
    assert len(empty) == 0
    assert (empty.dtypes == full.dtypes).all()
    assert empty.crs == full.crs
    for options in ({"simplify_m": 1.0}, {"to_crs": CRS(4326)}, {"crs": None}):
        assert list(frame(np.zeros((3, 3), np.uint8), **options).columns) == list(full.columns)


@pytest.mark.parametrize("options", [{}, {"simplify_m": 0.6}])
def test_other_crs(options):
    mask = land_cover((40, 40), 3) + np.uint8(1)
    here, there = frame(mask, **options), frame(mask, to_crs=CRS(4326), **options)
    assert there.crs == CRS(4326)
    assert there.area_m2.sum() == pytest.approx(here.area_m2.sum(), rel=1e-5)
    assert shapely.is_ccw(shapely.get_exterior_ring(there.geometry.to_numpy())).all()
    back = there.to_crs(UTM).geometry.union_all()
    assert back.area == pytest.approx(400, rel=1e-6)
    with pytest.raises(ValueError, match="without a CRS"):
        frame(mask, crs=None, to_crs=UTM)


@pytest.mark.parametrize("rows_up", [False, True])
def test_exteriors_are_counter_clockwise(rows_up):
    mask = land_cover((20, 20), 5)
    transform = Affine(1, 0, 4e5, 0, 1 if rows_up else -1, 5e6)
    found = frame(mask, transform=transform)
    assert shapely.is_ccw(shapely.get_exterior_ring(found.geometry.to_numpy())).all()


def test_min_area_counts_what_is_left_after_simplifying():
    mask = np.zeros((30, 30), np.uint8)
    mask[2:12, 2:12] = mask[20, 20] = 1
    assert len(frame(mask, min_area_m2=0.2)) == 2
    assert frame(mask, min_area_m2=1).area_m2.tolist() == pytest.approx([25], rel=2e-3)
    bump = np.zeros((14, 14), np.uint8)
    bump[2:12, 2:12] = bump[1, 6] = 1
    before, after = frame(bump).area_m2[0], frame(bump, simplify_m=1).area_m2[0]
    assert after < before - 0.1
    between = (before + after) / 2
    assert len(frame(bump, min_area_m2=between)) == 1
    assert len(frame(bump, min_area_m2=between, simplify_m=1)) == 0


def test_vectorize_an_array():
    mask = np.array([[1, 1, 255], [0, 2, 255]], np.uint8)
    found = vectorize(mask, nodata=255, classes={1: "a", 2: "b"})
    assert found["class"].tolist() == ["a", "b"]
    assert found.area_m2.tolist() == [2, 1]
    assert found.crs is None
    assert found.confidence.isna().all()
    masked = np.ma.masked_equal(mask, 255)
    assert vectorize(masked).area_m2.tolist() == [2, 1]
    assert vectorize(mask > 0, crs="EPSG:3857", connectivity=8).crs == CRS(3857)
    scores = np.full(mask.shape, 0.5, np.float32)
    assert vectorize(mask, scores).confidence.tolist() == [0.5] * 3
    with pytest.raises(ValueError, match="rows, columns"):
        vectorize(np.zeros(3, np.uint8))


def test_junctions_keep_neighbours_together_in_another_crs() -> None:
    """A long edge of one polygon meets two neighbours: reprojected, nothing gapes."""
    mask = np.zeros((60, 400), np.uint8)
    mask[:30], mask[30:, :170], mask[30:, 170:] = 1, 2, 3
    polygonizer = Polygonizer(400, junctions=True)
    polygons = Polygons.concat([polygonizer.add(mask), polygonizer.finish()])
    frame = features(
        polygons,
        transform=Affine(500, 0, 500_000, 0, -500, 7_000_000),
        crs=CRS("EPSG:32633"),
        to_crs=CRS("EPSG:4326"),
        classes={},
    )
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())
