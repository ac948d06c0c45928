"""Contours of the probability: held against scikit-image, against the pixels, and as coverages."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import bright_bundle
from pyproj import CRS
from scipy import ndimage
from skimage.measure import find_contours

import geoseg
from geoseg import testing
from geoseg.cli import cli
from geoseg.errors import UsageError
from geoseg.vectorize import Polygonizer, Polygons, features, vectorize
from geoseg.vectorize.contour import STEPS, Crossings, Edges

COARSE = 2 / STEPS  # crossings are rounded, and stay a little away from the centres of pixels


def contours(
    labels, scores, ids, *, valid=None, threshold=0.5, band=10**6, confidence=None, **options
) -> Polygons:
    crossings = Crossings(labels.shape[1], ids, threshold=threshold)
    polygonizer = Polygonizer(labels.shape[1], contours=True, **options)
    batches = []
    for top in range(0, len(labels), band):
        rows = slice(top, top + band)
        own = None if valid is None else valid[rows]
        edges = crossings.add(labels[rows], scores[:, rows], own)
        sure = None if confidence is None else confidence[rows]
        batches.append(polygonizer.add(labels[rows], sure, edges))
    return Polygons.concat([*batches, polygonizer.finish()])


def pixels(labels, **options) -> Polygons:
    polygonizer = Polygonizer(labels.shape[1], **options)
    return Polygons.concat([polygonizer.add(labels), polygonizer.finish()])


def same(a: Polygons, b: Polygons) -> bool:
    names = Polygons.__dataclass_fields__
    return all(np.array_equal(getattr(a, n), getattr(b, n), equal_nan=True) for n in names)


def smooth(seed: int, shape: tuple[int, ...], grain: float) -> np.ndarray:
    """(K, H, W) probabilities, one of one class or several that add up to one."""
    noise = np.random.default_rng(seed).normal(size=shape)
    hills = ndimage.gaussian_filter(noise, (0, grain, grain)) * 3 * max(grain, 0.3)
    if len(hills) == 1:
        return (1 / (1 + np.exp(-hills))).astype(np.float32)
    return (np.exp(2 * hills) / np.exp(2 * hills).sum(0)).astype(np.float32)


@st.composite
def scenes(draw):
    """Labels, scores, ids, validity: rough or smooth, one class or several, with holes of data."""
    classes = draw(st.integers(1, 5))
    shape = (classes, draw(st.integers(1, 14)), draw(st.integers(1, 14)))
    grain = draw(st.sampled_from([0.0, 0.0, 0.7, 1.5]))
    scores = smooth(draw(st.integers(0, 10**6)), shape, grain)
    if draw(st.booleans()):
        scores = np.round(scores * 4) / np.float32(4)  # many ties, and pixels on the level itself
    valid = np.ones(shape[1:], np.bool_)
    if draw(st.booleans()):
        valid = np.random.default_rng(draw(st.integers(0, 10**6))).random(shape[1:]) < 0.8
    if classes == 1:
        ids, labels = [1], (scores[0] >= 0.5).astype(np.uint8)
    else:
        first = draw(st.integers(0, 1))
        ids = list(range(first, first + classes))
        labels = (scores.argmax(0) + first).astype(np.uint8)
    return np.where(valid, labels, 0).astype(np.uint8), scores, ids, valid


@settings(max_examples=500, deadline=None)
@given(scenes(), st.integers(1, 14), st.sampled_from([4, 8]), st.booleans())
def test_polygons_of_the_pixels_with_other_vertices(scene, band, connectivity, clusters):
    labels, scores, ids, valid = scene
    options = {"connectivity": connectivity, "whole_clusters": clusters}
    found = contours(labels, scores, ids, valid=valid, band=band, **options)
    assert same(found, contours(labels, scores, ids, valid=valid, **options))
    plain = pixels(labels, **options)
    for name in ("label", "pixels", "bbox", "shapes", "cluster"):  # and holes, but those that open
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))
    geometries = found.to_shapely()
    assert shapely.is_valid(geometries).all()
    assert shapely.coverage_is_valid(geometries)
    # just the centres of their own pixels lie inside
    row, col = np.indices(labels.shape)
    for polygon, label in zip(geometries, found.label, strict=True):
        assert (labels[shapely.contains_xy(polygon, col + 0.5, row + 0.5)] == label).all()
    total = sum(int(shapely.contains_xy(g, col + 0.5, row + 0.5).sum()) for g in geometries)
    assert total == (labels > 0).sum()
    if len(ids) > 1 and 0 not in ids:  # what is predicted is covered, to the edge of its pixels
        everything = shapely.union_all(geometries)
        expected = shapely.union_all(pixels(valid).to_shapely())
        assert shapely.area(geometries).sum() == pytest.approx(valid.sum())
        assert shapely.symmetric_difference(everything, expected).area == pytest.approx(0)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 30), st.integers(3, 30), st.floats(0.2, 0.8))
def test_equal_to_scikit_image(seed, height, width, level):
    scores = smooth(seed, (1, height, width), 1.5)
    scores = np.pad(scores[0], 1, constant_values=0)[None]
    scores[:, [0, -1]] = scores[:, :, [0, -1]] = 0
    level = float(np.float32(level))
    labels = (scores[0] >= level).astype(np.uint8)
    assume(labels.any())
    found = contours(labels, scores, [1], threshold=level).to_shapely()
    lines = find_contours(scores[0].astype(np.float64), level)  # (row, col) of centres
    rings = [shapely.LinearRing(line[:, ::-1] + 0.5) for line in lines]
    ours = [shapely.LinearRing(r) for p in found for r in (p.exterior, *p.interiors)]
    assert len(ours) == len(rings)
    unmatched = list(rings)
    for ring in ours:
        distance = [shapely.hausdorff_distance(ring, other) for other in unmatched]
        best = int(np.argmin(distance))
        assert distance[best] <= COARSE
        # as many vertices, but for those on straight lines and that are one in scikit-image
        assert len(ring.coords) <= len(unmatched[best].coords)
        del unmatched[best]


@pytest.mark.parametrize("radius", [3, 5, 10, 30])
def test_a_disc(radius):
    rng = np.random.default_rng(radius)
    errors = []
    for _ in range(20):
        centre = radius + 5 + rng.random(2)
        row, col = np.mgrid[: 2 * radius + 11, : 2 * radius + 11] + 0.5
        away = np.hypot(row - centre[0], col - centre[1])
        scores = np.clip(radius - away + 0.5, 0, 1).astype(np.float32)[None]  # share of a pixel
        labels = (scores[0] >= 0.5).astype(np.uint8)
        (disc,) = contours(labels, scores, [1]).to_shapely()
        (plain,) = pixels(labels).to_shapely()
        true = shapely.Point(*centre[::-1]).buffer(radius, 256)
        assert shapely.hausdorff_distance(disc, true) < 0.15
        assert shapely.hausdorff_distance(plain, true) > 0.5
        errors.append((abs(disc.area / true.area - 1), abs(plain.area / true.area - 1)))
        assert disc.symmetric_difference(true).area < plain.symmetric_difference(true).area / 4
    contour, pixel = np.array(errors).T
    if radius >= 10:
        assert contour.max() < 0.005
        assert contour.mean() < pixel.mean() or radius > 10
    assert contour.max() < 0.04  # chords cut a small circle


def test_a_straight_boundary_is_straight_to_the_edge():
    """Whichever way it runs, through the edge of the raster and past what is void."""
    row, col = np.mgrid[:20, :30] + 0.5
    for slope in (0.0, 0.3, -0.8):
        scores = np.clip(0.5 + 0.2 * (col - 14.3 - slope * (row - 10)), 0, 1).astype(np.float32)
        labels = (scores >= 0.5).astype(np.uint8)
        (polygon,) = contours(labels, scores[None], [1]).to_shapely()
        wanted = shapely.Polygon(
            [(14.3 - 10 * slope, 0), (14.3 + 10 * slope, 20), (30, 20), (30, 0)]
        )
        off = polygon.symmetric_difference(wanted).area
        assert off < 20 * COARSE + abs(slope) / 4  # half a pixel at the ends, where it stands up
    # a corner of no data stays a corner of pixels
    scores = np.full((1, 6, 6), 0.9, np.float32)
    valid = np.ones((6, 6), bool)
    valid[2:4, 2:4] = False
    labels = valid.astype(np.uint8)
    (polygon,) = contours(labels, scores, [1], valid=valid).to_shapely()
    assert polygon.equals(shapely.box(0, 0, 6, 6) - shapely.box(2, 2, 4, 4))
    assert len(shapely.get_coordinates(polygon)) == 10


def test_saddles_are_parted_where_background_runs_through():
    scores = np.array([[[0.9, 0.2], [0.2, 0.9]]], np.float32)
    labels = (scores[0] >= 0.5).astype(np.uint8)
    first, second = contours(labels, scores, [1]).to_shapely()
    assert first.distance(second) > 0.5
    # two labels meet in one point, both
    scores = np.stack([scores[0], 1 - scores[0]])
    labels = np.array([[1, 2], [2, 1]], np.uint8)
    polygons = contours(labels, scores, [1, 2]).to_shapely()
    assert len(polygons) == 4
    assert shapely.union_all(polygons).equals(shapely.box(0, 0, 2, 2))
    assert shapely.intersection_all(polygons).equals(shapely.Point(1, 1))


def test_attributes_are_those_of_the_pixels():
    scores = smooth(1, (3, 80, 90), 2.0)
    labels = (scores.argmax(0) + 1).astype(np.uint8)
    confidence = scores.max(0)
    found = contours(labels, scores, [1, 2, 3], confidence=confidence, band=7)
    polygonizer = Polygonizer(90)
    plain = Polygons.concat([polygonizer.add(labels, confidence), polygonizer.finish()])
    for name in ("confidence_mean", "confidence_min", "confidence_std"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))


def test_storage_is_bounded_by_what_is_unfinished():
    scores = smooth(5, (1, 50, 200), 1.0)
    scores[0, -1] = 0
    labels = (scores[0] >= 0.5).astype(np.uint8)
    crossings, polygonizer = Crossings(200, [1]), Polygonizer(200, contours=True)
    sizes = []
    for _ in range(60):
        polygonizer.add(labels, None, crossings.add(labels, scores))
        sizes.append((len(polygonizer._nodes), len(polygonizer._places), len(polygonizer._parts)))
    assert sizes[-1] == sizes[2]
    assert polygonizer._counters[[3, 6]].tolist() == [0, 0]  # nodes and elements in use


def test_what_is_refused():
    labels, scores = np.ones((2, 3), np.uint8), np.ones((1, 2, 3), np.float32)
    with pytest.raises(ValueError, match="scores of"):
        Crossings(3, [1, 2]).add(labels, scores)
    edges = Crossings(3, [1]).add(labels, scores)
    with pytest.raises(ValueError, match="need the edges"):
        Polygonizer(3, contours=True).add(labels)
    with pytest.raises(ValueError, match="need the edges"):
        Polygonizer(3).add(labels, None, edges)
    with pytest.raises(ValueError, match="edges of"):
        Polygonizer(3, contours=True).add(labels, None, edges.rows(0, 1))
    assert isinstance(edges.rows(1, 2), Edges)


# --- arrays ---------------------------------------------------------------------------------


def test_vectorize_an_array():
    scores = smooth(3, (4, 700, 60), 3.0)
    mask = scores.argmax(0)
    frame = vectorize(mask, scores.max(0), scores=scores, outline="contour", connectivity=8)
    plain = vectorize(mask, scores.max(0), connectivity=8)
    assert list(frame.columns) == list(plain.columns)
    np.testing.assert_array_equal(frame.confidence, plain.confidence)
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())
    assert frame.area_m2.sum() == pytest.approx(frame.geometry.area.sum())
    assert frame.area_m2.sum() != pytest.approx(plain.area_m2.sum(), abs=0.1)
    one = vectorize(
        (scores[1] > 0.3).astype(int), scores=scores[1], threshold=0.3, outline="contour"
    )
    lines = find_contours(np.pad(scores[1], 1, mode="edge").astype(float), 0.3)
    length = sum(shapely.LineString(line).length for line in lines)
    inside = shapely.box(0.01, 0.01, 59.99, 699.99)
    ours = shapely.intersection(shapely.boundary(one.geometry.to_numpy()), inside)
    assert shapely.length(ours).sum() == pytest.approx(length, rel=0.02)


def test_vectorize_knows_no_data():
    scores = smooth(4, (3, 40, 40), 2.0)
    mask = (scores.argmax(0) + 5).astype(np.int16)
    mask[10:20, 10:20] = -1
    how = {"scores": scores, "ids": [5, 6, 7], "outline": "contour"}
    by_value = vectorize(mask, nodata=-1, **how)
    by_mask = vectorize(np.ma.masked_equal(mask, -1), **how)
    assert by_value.geometry.geom_equals_exact(by_mask.geometry, 0).all()
    hole = shapely.box(10, 10, 20, 20)
    assert by_value.union_all().equals(shapely.box(0, 0, 40, 40) - hole)
    mended = mask.copy()
    mended[30:, 30:] = 6  # what the scores do not say stays on the pixels
    frame = vectorize(mended, nodata=-1, **how)
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outline": "smooth"}, "pixel or contour"),
        ({}, "needs scores"),
        ({"scores": np.ones((4, 4), np.float32)}, "not those of a mask"),
        ({"scores": np.ones((2, 3, 3), np.float32)}, r"no scores are given for \[7\]"),
        ({"scores": np.ones((2, 3, 3), np.float32), "ids": [7]}, "1 ids are not"),
    ],
)
def test_vectorize_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        vectorize(np.full((3, 3), 7), **{"outline": "contour", **options})


def test_simplified_and_in_another_crs():
    scores = smooth(9, (5, 120, 130), 3.0)
    labels = (scores.argmax(0) + 1).astype(np.uint8)
    where = {"transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000), "crs": CRS(32632)}
    found = contours(labels, scores, range(1, 6), whole_clusters=True)
    exact = features(found, classes={}, **where)
    simple = features(found, classes={}, simplify_m=0.5, **where)
    moved = features(found, classes={}, to_crs=CRS(4326), **where)
    for frame in (exact, simple, moved):
        assert shapely.is_valid(frame.geometry.to_numpy()).all()
        assert shapely.coverage_is_valid(frame.geometry.to_numpy())
        assert shapely.is_ccw(shapely.get_exterior_ring(frame.geometry.to_numpy())).all()
    assert simple.count_coordinates().sum() < exact.count_coordinates().sum() / 3
    assert exact.geometry.area.sum() == pytest.approx(120 * 130 / 4)
    small = features(found, classes={}, min_area_m2=10, **where)
    assert (small.area_m2 >= 10).all()
    assert len(small) == (exact.area_m2 >= 10).sum()


# --- a run ----------------------------------------------------------------------------------


def test_predict_gives_the_same_contours_whatever_the_tiles(tmp_path: Path) -> None:
    model = bright_bundle(tmp_path / "bright")
    mask = testing.planted_rectangles((300, 420), count=60, seed=1)
    scene = testing.planted_scene(tmp_path / "scene.tif", mask)
    runs = {
        "pixel": {},
        "whole": {"outline": "contour"},
        "tiles": {"outline": "contour", "tile": 64, "overlap": 24, "stitch": "crop"},
        "simple": {"outline": "contour", "simplify": 0.5},
        "moved": {"outline": "contour", "crs": "EPSG:4326"},
        "large": {"outline": "contour", "min_area": 20},
    }
    frames = {}
    for name, options in runs.items():
        geoseg.predict(scene, tmp_path / f"{name}.gpkg", model=model, **options)
        frames[name] = gpd.read_file(tmp_path / f"{name}.gpkg")
    whole = frames["whole"]
    assert len(whole) == len(frames["pixel"])
    assert not whole.geometry.geom_equals(frames["pixel"].geometry).any()
    assert (
        whole.geometry.normalize().geom_equals_exact(frames["tiles"].geometry.normalize(), 0).all()
    )
    for frame in frames.values():
        assert shapely.is_valid(frame.geometry.to_numpy()).all()
        assert shapely.coverage_is_valid(frame.geometry.to_numpy())
    assert (frames["large"].area_m2 >= 20).all()
    np.testing.assert_allclose(whole.area_m2, whole.area, rtol=2e-3)


def test_on_the_command_line(tmp_path: Path) -> None:
    model = bright_bundle(tmp_path / "bright")
    scene = testing.planted_scene(tmp_path / "s.tif", np.ones((20, 20), np.uint8))
    common = ["predict", str(scene), "-m", str(model), "-o", str(tmp_path / "o.gpkg")]
    done = CliRunner().invoke(cli, [*common, "--outline", "contour"])
    assert done.exit_code == 0, done.output
    assert len(gpd.read_file(tmp_path / "o.gpkg")) == 1
    assert CliRunner().invoke(cli, [*common, "--outline", "round"]).exit_code == 2


def test_objects_that_are_cut_follow_the_pixels(tmp_path: Path) -> None:
    model = bright_bundle(tmp_path / "bright")
    scene = testing.planted_scene(tmp_path / "s.tif", np.ones((20, 20), np.uint8))
    with pytest.raises(UsageError, match="cut objects follow the pixels"):
        geoseg.predict(scene, tmp_path / "o.gpkg", model=model, outline="contour", cut=3)
    assert not (tmp_path / "o.gpkg").exists()
