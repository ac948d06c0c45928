"""The model of objects that comes along, on a real scene that it has not been trained on."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import pytest

import geoseg
from geoseg import runtime
from geoseg.bundle import Bundle
from geoseg.metrics import match_polygons
from geoseg.registry import find

DATA = Path(__file__).parent / "data"
MODEL = "buildings-instances-v1"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> gpd.GeoDataFrame:
    path = tmp_path_factory.mktemp("instances") / "b.gpkg"
    geoseg.predict(DATA / "banepa.tif", path, model=MODEL, threads=2)
    return gpd.read_file(path)


def test_it_is_small_and_proves_itself() -> None:
    bundle = Bundle.open(find(MODEL))
    assert sum(f.stat().st_size for f in find(MODEL).rglob("*")) < 20e6
    report = bundle.check(runtime.load(bundle, precision="float32"))
    assert report.ok, str(report)


def test_its_card_tells_data_licence_recipe_and_quality() -> None:
    card = Bundle.open(find(MODEL)).card
    for word in ("OpenAerialMap", "OpenStreetMap", "ap50", "licence", "geoseg train"):
        assert word.lower() in card.lower(), word


def test_it_tells_buildings_apart(found: gpd.GeoDataFrame) -> None:
    """What it finds is mostly a building by itself: more than the semantic model can say."""
    truth = gpd.read_file(DATA / "banepa_buildings.gpkg").to_crs(found.crs)
    scores = match_polygons(found.geometry.to_numpy(), truth.geometry.to_numpy(), 0.5)
    assert scores.f1 > 0.4
    assert found.is_valid.all()
    assert found["score"].between(0, 1).all()
    assert found["id"].is_unique
