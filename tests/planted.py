"""Places for training tests, made by code: coloured rectangles on noisy ground, and recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from affine import Affine
from numpy.typing import DTypeLike, NDArray
from rasterio.features import shapes
from shapely.geometry import box, shape

from geoseg.testing import planted_rectangles, write_scene
from geoseg.train import TrainConfig

CRS = "EPSG:32633"
LEFT, TOP, GSD = 400_000.0, 5_000_000.0, 0.3
NAMES = ("roof", "pond", "field")
COLOURS = np.array([[150, 60, 60], [40, 60, 170], [200, 190, 60]])

UNET: dict[str, Any] = {
    "encoder": "tu-tf_efficientnet_lite0",
    "encoder_depth": 3,
    "decoder_channels": [16, 8, 8],
}
# Two convolutions, no normalization, no chance: what it gives can be compared to the last digits.
PLAIN: dict[str, Any] = {"architecture": "tiny", "arguments": {"width": 4, "depth": 2}}


# Planted places differ by nothing but their colours: augmentation that changes little.
MILD: dict[str, Any] = {
    "brightness": 0.1,
    "contrast": 0.1,
    "saturation": 0.1,
    "gamma": 0.1,
    "band": 0.05,
    "coarse": 0,
    "gray": 0,
}


def plant_mask(seed: int, classes: int = 1, size: int = 256) -> NDArray[np.uint8]:
    """(size, size) of 0 and the classes 1, 2 ..."""
    mask = np.zeros((size, size), np.uint8)
    for label in range(1, classes + 1):
        count = 16 // classes + 4
        own = planted_rectangles((size, size), count=count, seed=10 * seed + label, edge=(20, 50))
        mask[own > 0] = label
    return mask


def plant_place(
    folder: Path, name: str, seed: int, *, classes: int = 1, dtype: DTypeLike = np.uint8
) -> dict[str, str]:
    """A place of coloured rectangles on grey; the lowest eighth was not labelled."""
    mask = plant_mask(seed, classes)
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 8, (3, *mask.shape))
    for label in range(1, classes + 1):
        image[:, mask == label] += COLOURS[label - 1][:, None] - 100
    if np.dtype(dtype) != np.uint8:
        image *= 40  # reflectances of some thousands
    left = LEFT + 1000 * seed  # places do not lie on each other
    transform = Affine(GSD, 0, left, 0, -GSD, TOP)
    write_scene(folder / f"{name}.tif", image.clip(0).astype(dtype), transform=transform)
    found = [(shape(s), NAMES[int(v) - 1]) for s, v in shapes(mask, transform=transform) if v]
    frame = {"kind": [kind for _, kind in found]}
    gpd.GeoDataFrame(frame, geometry=[s for s, _ in found], crs=CRS).to_file(
        folder / f"{name}.gpkg"
    )
    size = mask.shape[0] * GSD
    known = box(left, TOP - size * 7 / 8, left + size, TOP)
    gpd.GeoDataFrame(geometry=[known], crs=CRS).to_crs(4326).to_file(folder / f"{name}_aoi.gpkg")
    return {
        "name": name,
        "rasters": f"{name}.tif",
        "labels": f"{name}.gpkg",
        "aoi": f"{name}_aoi.gpkg",
    }


def recipe(
    places: list[dict[str, str]],
    *,
    classes: int = 1,
    model: dict[str, Any] | None = None,
    loss: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    augment: dict[str, Any] | None = None,
    **schedule: Any,
) -> TrainConfig:
    """A few steps of a small network."""
    return TrainConfig.model_validate(
        {
            "name": "tiny",
            "data": {
                "places": places,
                "bands": [{"name": name} for name in ("red", "green", "blue")],
                "classes": [{"id": 5 * i + 1, "name": NAMES[i]} for i in range(classes)],
                "attribute": "kind",
                "gsd": GSD,
                "offset": [127.5] * 3,
                "scale": [127.5] * 3,
                "split": {"block": 19.2, "share": 0.2},
                **(data or {}),
            },
            "model": model or {"architecture": "unet", "arguments": UNET},
            "augment": augment or {},
            "loss": loss or {},
            "schedule": {"steps": 4, "batch": 2, "chip": 64, "validate_every": 2, **schedule},
        }
    )
