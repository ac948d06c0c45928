"""Polygons written as WKB without geometry objects: the same as by way of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyproj import CRS

from geoseg.vectorize import Polygonizer, Polygons, features, wkb

UP = Affine(0.5, 0.1, 350_000, 0.2, -0.5, 3_060_000)
DOWN = Affine(0.5, 0, 350_000, 0, 0.5, 3_060_000)  # south-up: rings turn the other way


def polygons_of(mask, confidence=None, **options) -> Polygons:
    polygonizer = Polygonizer(mask.shape[1], **options)
    return Polygons.concat([polygonizer.add(mask, confidence), polygonizer.finish()])


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 12)] * 2), elements=st.integers(0, 3)),
    st.sampled_from([4, 8]),
    st.sampled_from([UP, DOWN]),
    st.sampled_from([0.0, 0.6]),
    st.booleans(),
)
def test_the_same_as_features(mask, connectivity, transform, least, confident) -> None:
    confidence = np.linspace(0, 1, mask.size, dtype=np.float32).reshape(mask.shape)
    polygons = polygons_of(mask, confidence if confident else None, connectivity=connectivity)
    how = {"transform": transform, "crs": CRS(32645), "classes": {1: "wood", 3: "water"}}
    how |= {"min_area_m2": least, "min_width_m": least}
    frame = features(polygons, **how)
    table = wkb.wkb_table(polygons, **how)
    shapes = shapely.from_wkb(table["geometry"].to_numpy())
    expected = frame.geometry.to_numpy()
    if transform is UP:
        assert shapely.equals_exact(shapes, expected).all()
    assert shapely.equals(shapes, expected).all()
    assert shapely.equals_exact(shapes, shapely.orient_polygons(shapes)).all()
    other = table.drop_columns(["geometry"]).to_pandas()
    for name in other:
        assert other[name].tolist() == pytest.approx(frame[name].tolist(), nan_ok=True)


def test_layers_of_multipolygons() -> None:
    polygons = polygons_of(np.eye(3, dtype=np.uint8))
    table = wkb.wkb_table(polygons, transform=UP, crs=None, classes={}, multi=True)
    shapes = shapely.from_wkb(table["geometry"].to_numpy())
    assert (shapely.get_type_id(shapes) == shapely.GeometryType.MULTIPOLYGON).all()
    assert shapely.area(shapes).sum() == pytest.approx(3 * abs(UP.determinant))


def test_what_is_too_long_is_left_to_others(monkeypatch) -> None:
    monkeypatch.setattr(wkb, "LARGEST", 100)
    polygons = polygons_of(np.eye(3, dtype=np.uint8))
    assert wkb.wkb_table(polygons, transform=UP, crs=None, classes={}) is None


def test_no_confidence_is_null() -> None:
    table = wkb.wkb_table(polygons_of(np.eye(3, dtype=int)), transform=UP, crs=None, classes={})
    assert table["confidence"].null_count == 3
    assert table.schema.field("class").type == pa.string()
