"""The model of objects that comes along, on a real scene that it has not been trained on."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import pytest

import geoseg
from geoseg.metrics import match_polygons

DATA = Path(__file__).parent / "data"
MODEL = "buildings-instances-v1"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> gpd.GeoDataFrame:
    path = tmp_path_factory.mktemp("instances") / "b.gpkg"
    geoseg.predict(DATA / "banepa.tif", path, model=MODEL, threads=2)
    return gpd.read_file(path)


def test_it_tells_buildings_apart(found: gpd.GeoDataFrame) -> None:
    """What it finds is mostly a building by itself: more than the semantic model can say."""
    truth = gpd.read_file(DATA / "banepa_buildings.gpkg").to_crs(found.crs)
    scores = match_polygons(found.geometry.to_numpy(), truth.geometry.to_numpy(), 0.5)
    assert scores.f1 > 0.4
    assert found.is_valid.all()
    assert found["score"].between(0, 1).all()
    assert found["id"].is_unique
