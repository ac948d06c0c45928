"""Corners rounded off: what neighbours share stays shared, nothing overlaps, little moves."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS
from scipy import ndimage

from geoseg.cli import cli
from geoseg.config import check
from geoseg.errors import ConfigError
from geoseg.instances.features import features as object_features
from geoseg.options import PolygonOptions
from geoseg.predictions import Masks, Objects
from geoseg.vectorize import Polygonizer, Polygons, features, vectorize
from geoseg.vectorize.simplify import simplify
from geoseg.vectorize.smooth import smooth

UTM = CRS(32632)
TO_MAP = Affine(0.5, 0, 4e5, 0, -0.5, 5e6)


def blobs(rng, shape):
    noise = rng.standard_normal((3, *shape))
    return ndimage.gaussian_filter(noise, (0, 1.5, 1.5)).argmax(axis=0)


def boxes(rng, shape):
    """Long edges, with small things beside their corners."""
    mask = np.zeros(shape, np.uint8)
    for _ in range(rng.integers(2, 14)):
        row, col = rng.integers(0, shape)
        height, width = rng.choice([1, 2, 3, 8, 20], 2)
        mask[row : row + height, col : col + width] = rng.integers(0, 4)
    return mask


def noise(rng, shape):
    return rng.integers(0, 3, shape)


MASKS = st.builds(
    lambda seed, kind, shape, full: (
        kind(np.random.default_rng(seed), shape).astype(np.uint8) + np.uint8(full)
    ),
    st.integers(0, 2**32 - 1),
    st.sampled_from([blobs, boxes, noise]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.booleans(),
)


def polygons_of(mask, band=10**6, **how):
    polygonizer = Polygonizer(mask.shape[1], whole_clusters=True, **how)
    batches = [polygonizer.add(mask[top : top + band]) for top in range(0, len(mask), band)]
    return [*batches, polygonizer.finish()]


def edges_of(shapes):
    """Edges (E, 2, 2) of polygons, one end before the other, and how often each occurs."""
    rings = shapely.get_rings(shapely.get_parts(shapes))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    pairs = np.stack((points[:-1], points[1:]), axis=1)[ring[1:] == ring[:-1]]
    z = np.sort(pairs[..., 0] + 1j * pairs[..., 1], axis=1)
    z, count = np.unique(z, axis=0, return_counts=True)
    return np.stack((z.real, z.imag), axis=-1), count


def holes_of(shapes):
    return shapely.get_num_interior_rings(shapely.get_parts(shapes)).tolist()


@settings(max_examples=150)
@given(MASKS, st.floats(0.1, 8), st.sampled_from([0, 0.7, 2]), st.sampled_from([4, 8]))
def test_neighbours_keep_what_they_share(mask, tolerance, simplified, connectivity):
    polygons = Polygons.concat(polygons_of(mask, connectivity=connectivity))
    before = polygons.to_shapely(TO_MAP)
    if simplified:
        before = simplify(before, simplified * 0.5, groups=polygons.cluster)
    after = smooth(before, tolerance * 0.5, groups=polygons.cluster)
    assert len(after) == len(before)
    assert holes_of(after) == holes_of(before)
    assert shapely.is_valid(after).all()
    moved = shapely.hausdorff_distance(shapely.boundary(before), shapely.boundary(after))
    assert (moved <= tolerance * 0.5 + 1e-6).all()
    for cluster in np.unique(polygons.cluster):
        old, new = (shapes[polygons.cluster == cluster] for shapes in (before, after))
        assert shapely.coverage_is_valid(new)
        union = shapely.union_all(new)
        assert shapely.area(new).sum() == pytest.approx(union.area, abs=1e-6)
        assert holes_of(union) == holes_of(shapely.union_all(old))  # no gaps
        edges, count = edges_of(new)
        assert count.max() <= 2  # to the last bit the same on both sides
        shared = np.hypot(*(edges[count == 2, 1] - edges[count == 2, 0]).T).sum()
        assert shapely.length(new).sum() - 2 * shared == pytest.approx(union.length)
        assert_nodes_stay(old, new)


def assert_nodes_stay(old, new):
    """Where other than two edges meet is the same before and after."""
    nodes = []
    for shapes in (old, new):
        ends = edges_of(shapes)[0].reshape(-1, 2)
        points, degree = np.unique(ends, axis=0, return_counts=True)
        nodes.append(points[degree != 2])
    np.testing.assert_array_equal(*nodes)


@settings(max_examples=60)
@given(MASKS, st.floats(0.1, 1.99))
def test_up_to_two_pixels_what_does_not_touch_stays_apart(mask, tolerance):
    polygons = Polygons.concat(polygons_of(mask))
    after = smooth(polygons.to_shapely(), tolerance, groups=polygons.cluster)
    assert shapely.area(after).sum() == pytest.approx(shapely.union_all(after).area)


@settings(max_examples=30)
@given(MASKS, st.integers(1, 40), st.sampled_from([0, 0.7]), st.sampled_from([UTM, CRS(4326)]))
def test_features_do_not_depend_on_the_bands(mask, band, simplified, crs):
    scale = 0.5 if crs == UTM else 5e-6
    options = {
        "transform": Affine(scale, 0, 9, 0, -scale, 48),
        "crs": crs,
        "classes": {},
        "simplify_m": simplified,
        "smooth_m": 0.9,
        "min_area_m2": 0.5,
    }
    whole = features(Polygons.concat(polygons_of(mask)), **options)
    frames = [features(batch, **options) for batch in polygons_of(mask, band)]
    parts = pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)
    assert parts.geometry.to_wkb().equals(whole.geometry.to_wkb())
    assert parts.drop(columns="geometry").equals(whole.drop(columns="geometry"))


def test_a_corner_is_a_parabola_however_long_its_edges():
    for size in (8, 1000):  # metres; twice the tolerance along each edge, whose half is no less
        (result,) = smooth(np.array([shapely.box(0, 0, size, size)]), 2.0)
        lost = size**2 - result.area
        assert lost == pytest.approx(4 * 4**2 * (1 / 6 + 1 / 48))  # of four pieces: 1 / 3 / 4²
        assert result.exterior.distance(shapely.Point(0, 0)) == pytest.approx(2**0.5)
    (drop,) = smooth(np.array([shapely.box(0, 0, 1, 1)]), 0.3)
    assert drop.area == pytest.approx(5 / 6, rel=0.03)  # Chaikin's corner cutting comes to that
    (drop,) = smooth(np.array([shapely.box(0, 0, 1, 1)]), 100.0)
    assert drop.area == pytest.approx(3 / 4)  # of two pieces
    assert len(smooth(np.array([], dtype=object), 1.0)) == 0
    box = np.array([shapely.box(0, 0, 1, 1)])
    assert smooth(box, 0.0)[0].equals(box[0])
    assert smooth(box, np.array([np.nan]))[0].equals(box[0])  # where metres are not known


def test_steps_of_pixels_go_and_areas_stay():
    rows, cols = np.mgrid[:100, :100] + 0.5
    disc = ((rows - 50) ** 2 + (cols - 50) ** 2 < 40**2).astype(np.uint8)
    exact, round_ = vectorize(disc), vectorize(disc, smooth_m=2)
    assert round_.area_m2[0] == pytest.approx(exact.area_m2[0], rel=2e-3)
    assert exact.perimeter_m[0] > 1.25 * 2 * np.pi * 40
    assert round_.perimeter_m[0] == pytest.approx(2 * np.pi * 40, rel=0.08)
    assert round_.area_m2[0] == pytest.approx(round_.geometry[0].area)


@pytest.mark.parametrize("inside", [0, 2])
def test_a_corner_gives_way_to_what_lies_in_it(inside):
    """A pixel beside the corner of a square would come to lie outside."""
    mask = np.zeros((30, 30), np.uint8)
    mask[2:26, 2:26] = 1
    mask[3, 3] = inside
    frame = vectorize(mask, smooth_m=5).set_index("class_id").geometry
    assert frame.is_valid.all()
    assert shapely.coverage_is_valid(frame.to_numpy())
    assert holes_of(frame.to_numpy())[0 if inside == 0 else frame.index.get_loc(1)] == 1
    outline = frame[1].exterior
    near, far = outline.distance(shapely.Point(2, 2)), outline.distance(shapely.Point(26, 26))
    assert 0 < near < 2**0.5 / 2 < 5 / 2**0.5 == pytest.approx(far)


def test_what_is_valid_no_longer_stays_with_its_cluster(monkeypatch):
    monkeypatch.setitem(
        smooth.__globals__, "_with_room", lambda points, first, last, most, group: most
    )
    hollow = shapely.box(0, 0, 20, 20) - shapely.box(1, 1, 2, 2)
    shapes = np.array([hollow, shapely.box(1, 1, 2, 2), shapely.box(30, 0, 40, 10)])
    result = smooth(shapes, 6.0, groups=np.array([0, 0, 1]))
    assert (result == shapes).tolist() == [True, True, False]


def test_outlines_that_lie_on_each_other_but_for_rounding_errors():
    """Two edges go the same way from a common point; simplified outlines have such."""
    corners = [
        [(9, 4), (9, 5), (10, 4)],
        [(11, 3), (9, 5), (8, 5), (8, 7), (9, 8), (11, 9), (12, 6), (12, 3)],
    ]
    shapes = np.array(
        [shapely.Polygon([(9 + 1e-6 * x, 48 - 1e-6 * y) for x, y in ring]) for ring in corners]
    )
    assert shapely.coverage_is_valid(shapes)
    result = smooth(shapes, 2e-6, groups=np.zeros(2, np.int64))
    assert shapely.coverage_is_valid(result)
    assert (shapely.area(result) < shapely.area(shapes)).all()  # elsewhere corners are rounded


def test_regularized_classes_keep_their_corners():
    mask = np.full((60, 80), 2, np.uint8)
    mask[10:30, 10:40] = 1
    mask[40:, 50:] = 3
    how = {"transform": TO_MAP, "crs": UTM, "classes": {1: "house", 2: "grass", 3: "water"}}
    plain = vectorize(mask, regularize_m={"house": 0.75}, **how).set_index("class")
    mixed = vectorize(mask, regularize_m={"house": 0.75}, smooth_m=2, **how).set_index("class")
    assert mixed.geometry["house"].equals_exact(plain.geometry["house"], 0, normalize=True)
    assert mixed.area_m2["water"] < plain.area_m2["water"] - 1
    assert shapely.coverage_is_valid(mixed.geometry.to_numpy())
    with pytest.raises(ConfigError, match="keep their corners"):
        check({"regularize": 1, "smooth": 1}, PolygonOptions, source="predict")
    assert PolygonOptions(regularize={"house": 1}, smooth=1).whole_clusters


def test_objects_are_smoothed_each_by_itself():
    pixels = np.ones((2, 20, 20), np.bool_)
    pixels[1, :, 8:12] = False  # in two pieces
    objects = Objects(
        labels=np.ones(2, np.uint8),
        scores=np.ones(2, np.float32),
        masks=Masks(np.array([[0, 0, 20, 20]] * 2, np.int32), pixels.ravel(), 400 * np.arange(3)),
        parts=np.ones(2, np.int32),
        truncated=np.zeros(2, np.bool_),
    )
    how = {"transform": TO_MAP, "crs": UTM, "classes": {1: "house"}}
    plain, round_ = (object_features(objects, smooth_m=m, **how) for m in (0, 1))
    assert round_.is_valid.all()
    assert round_.geom_type.tolist() == plain.geom_type.tolist() == ["Polygon", "MultiPolygon"]
    lost = plain.area_m2 - round_.area_m2
    assert lost.tolist() == pytest.approx([4 * 2**2 * 3 / 16, 8 * 2**2 * 3 / 16], rel=0.01)


def test_the_command(tmp_path: Path) -> None:
    mask = (blobs(np.random.default_rng(5), (120, 90)) + 1).astype(np.uint8)
    where = {"driver": "GTiff", "height": 120, "width": 90, "count": 1, "dtype": "uint8"}
    with rasterio.open(
        tmp_path / "m.tif", "w", crs="EPSG:32632", transform=TO_MAP, **where
    ) as raster:
        raster.write(mask, 1)
    out = tmp_path / "o.gpkg"
    command = ["vectorize", str(tmp_path / "m.tif"), "-o", str(out)]
    done = CliRunner().invoke(cli, [*command, "--smooth", "1", "--crs", "EPSG:4326"])
    assert done.exit_code == 0, done.output
    frame = gpd.read_file(out)
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())
    assert frame.area_m2.to_numpy() == pytest.approx(frame.to_crs(UTM).area, rel=2e-3)
    exact = vectorize(mask, transform=TO_MAP, crs=UTM)
    assert len(frame) == len(exact)
    assert frame.area_m2.sum() == pytest.approx(exact.area_m2.sum(), rel=1e-3)
    assert frame.perimeter_m.sum() < 0.9 * exact.perimeter_m.sum()
    done = CliRunner().invoke(cli, [*command, "--smooth", "-1"])
    assert done.exit_code != 0
    assert "smooth needs a number of at least 0" in done.output
