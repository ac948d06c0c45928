"""Every recipe in configs/ runs: data, one step, validation, bundle, on tiny data made by code."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.features import shapes
from shapely.geometry import shape

import geoseg
from geoseg.bundle import Bundle
from geoseg.data.config import DataConfig, PlaceConfig
from geoseg.testing import planted_rectangles, write_scene
from geoseg.train import TrainConfig

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(set(CONFIGS.rglob("*.yaml")) - set(CONFIGS.glob("batch/*")))
SIZE = 192  # pixels of a raster: nine blocks of 64


def plant(root: Path, place: PlaceConfig, data: DataConfig, seed: int) -> None:
    """What the recipe says lies at a place: a raster, its labels (polygons or a mask), its area."""
    objects = planted_rectangles((SIZE, SIZE), count=25, seed=seed, edge=(8, 24))
    kind = np.arange(SIZE)[:, None] * len(data.classes) // SIZE  # a class per belt of rows
    image = np.random.default_rng(seed).integers(0, 120, (len(data.bands), SIZE, SIZE))
    image += objects * 100
    left = 400_000 + 10_000 * seed  # places do not share ground
    transform = Affine(data.gsd, 0, left, 0, -data.gsd, 5_000_000)
    raster = root / place.rasters.replace("*", "one")
    raster.parent.mkdir(parents=True, exist_ok=True)
    write_scene(raster.with_suffix(".tif"), image.astype(np.uint8), transform=transform)
    raster.with_suffix(".tif").rename(raster)
    if place.labels is None:
        return
    labels = root / place.labels.replace("*", "one")
    labels.parent.mkdir(parents=True, exist_ok=True)
    if labels.suffix == ".png":
        colours = [str(c.values[0]) for c in data.classes]
        rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours], np.uint8)
        mask = np.broadcast_to(rgb[kind].transpose(2, 0, 1), (3, SIZE, SIZE))
        profile = {"driver": "PNG", "dtype": "uint8", "count": 3, "width": SIZE, "height": SIZE}
        with rasterio.open(labels, "w", **profile) as file:
            file.write(mask)
        return
    polygons = [shape(s) for s, v in shapes(objects, transform=transform) if v]
    frame = gpd.GeoDataFrame({"class": ["building"] * len(polygons)}, geometry=polygons)
    frame.set_crs("EPSG:32633").to_file(labels)
    if place.aoi:
        area = gpd.GeoSeries(polygons, crs="EPSG:32633").union_all().envelope
        gpd.GeoDataFrame(geometry=[area], crs="EPSG:32633").to_file(root / place.aoi)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_a_recipe_runs(path: Path, tmp_path: Path) -> None:
    config, _ = TrainConfig.load(path, tmp_path)
    assert config.name == path.stem
    for seed, place in enumerate(config.data.places):
        plant(tmp_path, place, config.data, seed)
    schedule = {"steps": 1, "batch": 2, "chip": 64, "accumulate": 1, "threads": 1}
    split = config.data.split.model_copy(update={"block": 64 * config.data.gsd, "share": 0.2})
    tiny = config.model_copy(
        update={
            "schedule": config.schedule.model_copy(update=schedule),
            "data": config.data.model_copy(update={"split": split}),
        }
    )
    bundle = geoseg.train(tiny, output=tmp_path / "run", data=tmp_path, progress=False)
    spec = Bundle.open(bundle).spec
    assert [c.name for c in spec.classes] == [c.name for c in config.data.channels]
    assert spec.metrics


def test_recipes_are_found() -> None:
    found = {p.stem for p in RECIPES}
    assert {"buildings", "buildings-v0", "unet", "fcn8s", "fcn16s", "fcn32s"} <= found
