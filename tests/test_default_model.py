"""The model that comes along, on a real scene that it has not been trained on."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize

import geoseg

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("default")
    geoseg.predict(DATA / "banepa.tif", folder / "b.gpkg", mask=folder / "mask.tif", threads=2)
    return folder


def test_it_finds_most_buildings_of_banepa(found: Path) -> None:
    """The floor that a first try reached on the whole of this place was an IoU of 0.53."""
    truth = gpd.read_file(DATA / "banepa_buildings.gpkg")
    with rasterio.open(found / "mask.tif") as dataset:
        mask = dataset.read(1) == 1
        labels = rasterize(
            truth.to_crs(dataset.crs).geometry, mask.shape, transform=dataset.transform
        )
    iou = np.logical_and(mask, labels).sum() / np.logical_or(mask, labels).sum()
    assert iou > 0.5


def test_its_polygons_are_clean(found: Path) -> None:
    frame = gpd.read_file(found / "b.gpkg")
    assert len(frame) > 50
    assert frame.is_valid.all()
    assert set(frame["class"]) == {"building"}
    assert frame["confidence"].between(frame["confidence_min"], 1).all()


def test_the_picture(found: Path) -> None:
    path = geoseg.preview(found / "b.gpkg", DATA / "banepa.tif", found / "b.png", width=600)
    assert path.stat().st_size > 100_000
