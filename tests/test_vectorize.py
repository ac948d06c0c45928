"""Polygons out of rows: held against rasterio.features.shapes and numpy on every kind of mask."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from geoseg.vectorize import Polygonizer, Polygons, kernel


def polygonize(mask, confidence=None, *, band=10**6, **options) -> Polygons:
    polygonizer = Polygonizer(mask.shape[1], **options)
    batches = []
    for top in range(0, len(mask), band):
        rows = slice(top, top + band)
        batches.append(
            polygonizer.add(mask[rows], None if confidence is None else confidence[rows])
        )
    return Polygons.concat([*batches, polygonizer.finish()])


def as_set(geometries, labels) -> set[tuple[str, int]]:
    return {
        (wkt, int(label))
        for wkt, label in zip(shapely.to_wkt(shapely.normalize(geometries)), labels, strict=True)
    }


def gdal(mask) -> set[tuple[str, int]]:
    found = list(rasterio.features.shapes(mask.astype(np.int32), mask=mask != 0, connectivity=4))
    return as_set(
        np.array([shapely.geometry.shape(g) for g, _ in found], dtype=object),
        [value for _, value in found],
    )


def ours(polygons: Polygons) -> set[tuple[str, int]]:
    return as_set(polygons.to_shapely(), polygons.label)


def same(a: Polygons, b: Polygons) -> bool:
    names = Polygons.__dataclass_fields__
    return all(np.array_equal(getattr(a, n), getattr(b, n), equal_nan=True) for n in names)


def check_rings(polygons: Polygons) -> None:
    """Rings are closed, turn at every vertex, and never stand still."""
    for start, stop in zip(polygons.rings[:-1], polygons.rings[1:], strict=True):
        ring = polygons.coords[start:stop].astype(int)
        assert (ring[0] == ring[-1]).all()
        steps = np.diff(ring, axis=0)
        assert (np.abs(steps).sum(axis=1) > 0).all()
        vertical = steps[:, 0] == 0
        assert (vertical != (steps[:, 1] == 0)).all()
        assert (vertical != np.roll(vertical, 1)).all()


@st.composite
def masks(draw, largest=14):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=largest))
    classes = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from([np.uint8, np.int16, np.int32]))
    return draw(hnp.arrays(dtype, shape, elements=st.integers(0, classes)))


def spiral(n):
    mask, (r, c), (dr, dc) = np.zeros((n, n), np.uint8), (0, 0), (0, 1)
    mask[0, 0] = 1
    while True:
        for _ in range(2):
            far, here = (r + 2 * dr, c + 2 * dc), (r + dr, c + dc)
            free = 0 <= here[0] < n and 0 <= here[1] < n and not mask[here]
            ahead = not (0 <= far[0] < n and 0 <= far[1] < n) or not mask[far]
            if free and ahead:
                break
            dr, dc = dc, -dr
        else:
            return mask
        r, c = r + dr, c + dc
        mask[r, c] = 1


def nested(n):
    away = np.abs(np.indices((n, n)) - n // 2).max(axis=0)
    return (away % 2).astype(np.uint8)


NAMED = {
    "spiral": spiral(31),
    "spiral negative": 1 - spiral(31),
    "checkerboard": (np.indices((17, 23)).sum(axis=0) % 2).astype(np.uint8),
    "checkerboard of two": (np.indices((17, 23)).sum(axis=0) % 2).astype(np.uint8) + 1,
    "nested": nested(29),
    "nested of two": nested(29) + 1,
    "full": np.ones((40, 50), np.uint8),
    "empty": np.zeros((40, 50), np.uint8),
    "comb": np.vstack([np.ones((1, 41)), np.tile([1, 0], 21)[None, :41].repeat(9, 0)]).astype(int),
    "diagonal ring": np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.uint8),
    "hole at a corner": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8),
    "holes meeting": np.pad(np.eye(5, dtype=np.uint8) ^ 1, 1, constant_values=1),
    "one pixel": np.ones((1, 1), np.uint8),
    "negative labels": np.array([[-5, -5, 0], [7, -5, 7]], np.int32),
    "blocks of 64": np.repeat(np.arange(1, 6, dtype=np.uint8), 64)[None].repeat(70, 0),
}


def by_place(geometries, labels) -> list[tuple[tuple[float, float], int, shapely.Geometry]]:
    """In the order of the topmost leftmost corner, which is of one polygon of a label only."""
    found = []
    for geometry, label in zip(geometries, labels, strict=True):
        x, y = shapely.get_coordinates(geometry).T
        found.append(((y.min(), x[y == y.min()].min()), int(label), geometry))
    return sorted(found, key=lambda f: f[:2])


@settings(max_examples=1000)
@given(masks(), st.integers(1, 14), st.sampled_from([4, 8]))
def test_equal_to_gdal_whatever_the_bands(mask, band, connectivity):
    polygons = polygonize(mask, band=band, connectivity=connectivity)
    geometries = polygons.to_shapely()
    if connectivity == 4:
        assert ours(polygons) == gdal(mask)
    else:  # polygons of GDAL's that touch themselves are the same once they are valid
        found = list(rasterio.features.shapes(mask.astype(np.int32), mask != 0, connectivity=8))
        shapes = shapely.make_valid(np.array([shapely.geometry.shape(g) for g, _ in found], object))
        theirs = by_place(shapes, [value for _, value in found])
        mine = by_place(geometries, polygons.label)
        assert [m[:2] for m in mine] == [t[:2] for t in theirs]
        assert all(m[2].equals(t[2]) for m, t in zip(mine, theirs, strict=True))
    assert len(ours(polygons)) == len(polygons)
    assert same(polygons, polygonize(mask, connectivity=connectivity))
    assert shapely.is_valid(geometries).all()
    for label in np.unique(mask):
        if label:
            own = polygons.label == label
            assert shapely.area(geometries[own]).sum() == (mask == label).sum()
    check_rings(polygons)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("turned", [False, True])
def test_named_masks(name, turned):
    mask = NAMED[name].T if turned else NAMED[name]
    polygons = polygonize(mask)
    geometries = polygons.to_shapely()
    assert ours(polygons) == gdal(mask)
    assert shapely.is_valid(geometries).all()
    assert (shapely.area(geometries) == polygons.pixels).all()
    assert (shapely.bounds(geometries) == polygons.bbox).all()
    check_rings(polygons)
    for band in {1, 2, 3, len(mask) - 1, len(mask)} - {0}:
        assert same(polygonize(mask, band=band), polygons)


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (200, 333)])
@pytest.mark.parametrize("smooth", [0, 2])
def test_larger_masks(shape, smooth):
    noise = np.random.default_rng(0).standard_normal((3, *shape))
    mask = ndimage.gaussian_filter(noise, (0, smooth, smooth)).argmax(axis=0).astype(np.uint8)
    polygons = polygonize(mask, band=70)
    assert ours(polygons) == gdal(mask)
    for label in (1, 2):
        assert polygons.pixels[polygons.label == label].sum() == (mask == label).sum()


@settings(max_examples=200)
@given(masks(), st.integers(1, 14), st.booleans())
def test_eight_connected(mask, band, clusters):
    polygons = polygonize(mask, band=band, connectivity=8, whole_clusters=clusters)
    geometries = polygons.to_shapely()
    assert shapely.is_valid(geometries).all()
    assert (shapely.area(geometries) == polygons.pixels).all()
    expected = []
    for label in np.unique(mask[mask != 0]):
        pieces, _ = ndimage.label(mask == label, np.ones((3, 3)))
        expected += [(label, size) for size in np.bincount(pieces.ravel())[1:]]
    assert sorted(zip(polygons.label, polygons.pixels, strict=True)) == sorted(expected)
    # the parts are the 4-connected polygons
    if not clusters:  # which have more vertices
        parts, owner = shapely.get_parts(geometries, return_index=True)
        assert as_set(parts, polygons.label[owner]) == gdal(mask)


@settings(max_examples=150)
@given(masks(), st.integers(1, 14))
def test_whole_clusters(mask, band):
    polygonizer = Polygonizer(mask.shape[1], whole_clusters=True)
    batches = [polygonizer.add(mask[top : top + band]) for top in range(0, len(mask), band)]
    batches.append(polygonizer.finish())
    polygons = Polygons.concat(batches)
    assert same(polygons, polygonize(mask, whole_clusters=True))
    geometries = polygons.to_shapely()
    assert shapely.is_valid(geometries).all()
    assert shapely.coverage_is_valid(geometries)  # edges match vertex by vertex
    assert (shapely.area(geometries) == polygons.pixels).all()
    # a cluster is what touches, and lies in one batch, in one piece
    pieces, _ = ndimage.label(mask != 0, np.ones((3, 3)))
    inside = shapely.get_coordinates(shapely.point_on_surface(geometries)).astype(int)
    piece = pieces[inside[:, 1], inside[:, 0]]
    assert len(set(zip(piece, polygons.cluster, strict=True))) == len(set(piece))
    assert len(set(polygons.cluster)) == len(set(piece))
    assert (np.diff(polygons.cluster) >= 0).all()
    seen = [set(batch.cluster.tolist()) for batch in batches]
    assert sum(map(len, seen)) == len(set().union(*seen))


@settings(max_examples=100)
@given(masks(largest=20), st.integers(1, 20), st.sampled_from([4, 8]), st.integers(0, 2**32 - 1))
def test_confidence(mask, band, connectivity, seed):
    confidence = np.random.default_rng(seed).random(mask.shape, dtype=np.float32)
    polygons = polygonize(mask, confidence, band=band, connectivity=connectivity)
    structure = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    expected = []
    for label in np.unique(mask[mask != 0]):
        pieces, count = ndimage.label(mask == label, structure)
        for k in range(1, count + 1):
            values = confidence[pieces == k].astype(np.float64)
            expected.append((label, values.size, values.mean(), values.min(), values.std()))
    found = zip(
        polygons.label,
        polygons.pixels,
        polygons.confidence_mean,
        polygons.confidence_min,
        polygons.confidence_std,
        strict=True,
    )
    np.testing.assert_allclose(
        np.array(sorted(found)).reshape(-1, 5),
        np.array(sorted(expected)).reshape(-1, 5),
        rtol=1e-6,
        atol=1e-6,
    )


def test_polygons_leave_with_the_rows():
    mask = np.zeros((12, 8), np.uint8)
    mask[1:3, 1:3] = 1
    mask[4:8, 2:5] = 2
    polygonizer = Polygonizer(8, origin_row=100)
    counts = [len(polygonizer.add(mask[top : top + 1])) for top in range(12)]
    assert counts == [0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0]
    assert len(polygonizer.finish()) == 0
    first = Polygonizer(8, origin_row=100).add(mask[:6])
    assert first.bbox.tolist() == [[1, 101, 3, 103]]


@pytest.mark.parametrize("options", [{}, {"connectivity": 8}, {"whole_clusters": True}])
def test_storage_is_bounded_by_what_is_unfinished(options):
    rng = np.random.default_rng(1)
    pattern = (rng.random((50, 200)) < 0.5).astype(np.uint8)
    pattern[-1] = 0
    polygonizer = Polygonizer(200, **options)

    def capacity():
        tables = ("_nodes", "_marks", "_parts", "_moments")
        return [len(getattr(polygonizer, table)) for table in tables]

    sizes = []
    for _ in range(60):
        polygonizer.add(pattern)
        sizes.append(capacity())
    assert sizes[-1] == sizes[2]
    in_use = [kernel.NODES, kernel.MARKED, kernel.PARTS]
    assert polygonizer._counters[in_use].tolist() == [0, 0, 0]


def test_one_object_through_all_rows_needs_no_more_than_its_outline():
    polygonizer = Polygonizer(64)
    rows = np.zeros((64, 64), np.uint8)
    rows[:, 10:50] = 1
    for _ in range(100):
        assert len(polygonizer.add(rows)) == 0
    assert len(polygonizer._nodes) == 1024
    assert polygonizer.finish().pixels.tolist() == [6400 * 40]


def test_orientation_and_transform():
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
    polygons = polygonize(mask)
    (polygon,) = polygons.to_shapely(Affine(0.5, 0.1, 10, 0.2, -0.5, 20))
    assert polygon.exterior.is_ccw
    assert not polygon.interiors[0].is_ccw
    assert polygon.area == pytest.approx(8 * 0.27)
    assert polygon.bounds == pytest.approx((10, 18.5, 11.8, 20.6))


def test_empty_and_concat():
    assert len(Polygons.concat([])) == 0
    assert len(Polygons.empty().to_shapely()) == 0
    a, b = polygonize(NAMED["nested"]), polygonize(NAMED["diagonal ring"], connectivity=8)
    both = Polygons.concat([a, Polygons.empty(), b])
    assert len(both) == len(a) + len(b)
    assert shapely.equals_exact(
        both.to_shapely(), np.concatenate([a.to_shapely(), b.to_shapely()])
    ).all()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.uint16, np.int16, np.int64])
def test_any_integer_type(dtype):
    mask = NAMED["nested"].astype(dtype)
    assert same(polygonize(mask), polygonize(NAMED["nested"]))


def test_what_is_refused():
    with pytest.raises(ValueError, match="at least one column"):
        Polygonizer(0)
    with pytest.raises(ValueError, match="4 or 8"):
        Polygonizer(3, connectivity=6)
    polygonizer = Polygonizer(3)
    with pytest.raises(ValueError, match="must be"):
        polygonizer.add(np.zeros((2, 4), np.uint8))
    with pytest.raises(TypeError, match="integers"):
        polygonizer.add(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="32 bits"):
        polygonizer.add(np.full((2, 3), 2**40))
    polygonizer.add(np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="every band"):
        polygonizer.add(np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.float32))
    polygonizer.finish()
    with pytest.raises(ValueError, match="finished"):
        polygonizer.add(np.zeros((2, 3), np.uint8))
