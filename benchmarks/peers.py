"""The peers, called as their documentation shows; runs in the environment that has them.

`bare`: GeoTIFF to class raster with a one-convolution network, tiles 512, stride 384, batch 4.
`end`: GeoTIFF to polygons with the weights of a bundle, each peer with its defaults.
"""

from __future__ import annotations

from typing import Any

import common
import numpy as np
import rasterio
import torch
from nets import Clock, OneConvolution, Probability, unpacked

TILE, STRIDE, BATCH = 512, 384, 4


# Pieces that the documentation of several peers leaves to the user -------------------------------


def read_scene(path: str) -> tuple[np.ndarray, dict[str, Any]]:
    """(C, H, W) uint8 and the profile."""
    with rasterio.open(path) as source:
        return source.read(), source.profile


def write_classes(path: str, classes: np.ndarray, profile: dict[str, Any]) -> None:
    """(H, W) uint8 as a GeoTIFF with the tiles and compression of the scene."""
    with rasterio.open(
        path, "w", **{**profile, "count": 1, "nodata": 255, "photometric": None}
    ) as out:
        out.write(classes, 1)


def decide(scores: torch.Tensor) -> np.ndarray:
    """(K, H, W) logits -> (H, W) uint8."""
    if len(scores) == 1:
        return (scores[0] > 0).to(torch.uint8).numpy()
    return scores.argmax(0).to(torch.uint8).numpy()


# One convolution ---------------------------------------------------------------------------------


def bare_geoai(scene: str, out: str, classes: int) -> dict[str, Any]:
    from geoai.inference import predict_geotiff

    def postprocess(scores: np.ndarray) -> np.ndarray:
        if len(scores) == 1:
            return (scores > 0).astype(np.uint8)
        return scores.argmax(0).astype(np.uint8)

    result: dict[str, Any] = {}
    with common.timed(result):
        predict_geotiff(
            OneConvolution(classes, 3),
            scene,
            out,
            tile_size=TILE,
            overlap=TILE - STRIDE,
            batch_size=BATCH,
            num_classes=classes,
            output_dtype="uint8",
            output_nodata=255,
            postprocess_fn=postprocess,
            device="cpu",
            verbose=False,
        )
    return result | Clock.take()


def bare_torchgeo(scene: str, out: str, classes: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with common.timed(result):
        network = OneConvolution(classes, 3).eval()
        labels, profile = torchgeo_loop(
            scene, lambda x: decide_batch(network(x / 255)), size=TILE, stride=STRIDE, batch=BATCH
        )
        write_classes(out, labels, profile)
    return result | Clock.take()


def decide_batch(scores: torch.Tensor) -> torch.Tensor:
    return (scores[:, 0] > 0) if scores.shape[1] == 1 else scores.argmax(1)


def torchgeo_loop(
    scene: str, predict: Any, *, size: int, stride: int, batch: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """RasterDataset, GridGeoSampler, DataLoader; each tile keeps its half of the overlaps."""
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    dataset = RasterDataset(paths=[scene])
    sampler = GridGeoSampler(dataset, size=size, stride=stride)
    loader = DataLoader(dataset, batch_size=batch, sampler=sampler, collate_fn=stack_samples)
    with rasterio.open(scene) as source:
        profile, to_pixels, shape = source.profile, ~source.transform, source.shape
    labels = np.full(shape, 255, np.uint8)
    margin = (size - stride) // 2
    with torch.inference_mode():
        for samples in loader:
            decided = predict(samples["image"]).to(torch.uint8).numpy()
            for tile, bounds in zip(decided, samples["bounds"], strict=True):
                col, row = (round(v) for v in to_pixels * (bounds[0].start, bounds[1].stop))
                top, left = (0 if v <= 0 else margin for v in (row, col))
                bottom = size if row + size >= shape[0] else size - margin
                right = size if col + size >= shape[1] else size - margin
                # tiles may reach beyond the scene
                top, left = max(top, -row), max(left, -col)
                bottom, right = min(bottom, shape[0] - row), min(right, shape[1] - col)
                labels[row + top : row + bottom, col + left : col + right] = tile[
                    top:bottom, left:right
                ]
    return labels, profile


def bare_terratorch(scene: str, out: str, classes: int) -> dict[str, Any]:
    from terratorch.tasks.tiled_inference import tiled_inference

    result: dict[str, Any] = {}
    with common.timed(result):
        network = OneConvolution(classes, 3).eval()
        image, profile = read_scene(scene)
        scores = tiled_inference(
            network, torch.from_numpy(image)[None] / 255, crop=TILE, stride=STRIDE, batch_size=BATCH
        )
        write_classes(out, decide(scores[0]), profile)
    return result | Clock.take()


def bare_monai(scene: str, out: str, classes: int, mode: str = "gaussian") -> dict[str, Any]:
    from monai.inferers import SlidingWindowInferer

    result: dict[str, Any] = {}
    with common.timed(result), torch.inference_mode():
        network = OneConvolution(classes, 3).eval()
        image, profile = read_scene(scene)
        inferer = SlidingWindowInferer(
            roi_size=(TILE, TILE), sw_batch_size=BATCH, overlap=1 - STRIDE / TILE, mode=mode
        )
        scores = inferer(torch.from_numpy(image)[None] / 255, network)
        write_classes(out, decide(scores[0]), profile)
    return result | Clock.take()


def bare_toolbelt(scene: str, out: str, classes: int) -> dict[str, Any]:
    from pytorch_toolbelt.inference.tiles import ImageSlicer, TileMerger
    from pytorch_toolbelt.utils.torch_utils import tensor_from_rgb_image, to_numpy
    from torch.utils.data import DataLoader

    result: dict[str, Any] = {}
    with common.timed(result), torch.inference_mode():
        network = OneConvolution(classes, 3).eval()
        data, profile = read_scene(scene)
        image = np.moveaxis(data, 0, -1)
        tiler = ImageSlicer(
            image.shape, tile_size=(TILE, TILE), tile_step=(STRIDE, STRIDE), weight="pyramid"
        )
        tiles = [tensor_from_rgb_image(tile) for tile in tiler.split(image)]
        merger = TileMerger(tiler.target_shape, classes, tiler.weight)
        for batch, coords in DataLoader(
            list(zip(tiles, tiler.crops, strict=True)), batch_size=BATCH
        ):
            merger.integrate_batch(network(batch.float() / 255), coords)
        scores = tiler.crop_to_orignal_size(np.moveaxis(to_numpy(merger.merge()), 0, -1))
        if classes == 1:
            labels = (scores[..., 0] > 0).astype(np.uint8)
        else:
            labels = scores.argmax(-1).astype(np.uint8)
        write_classes(out, labels, profile)
    return result | Clock.take()


# From GeoTIFF to polygons ------------------------------------------------------------------------


def end_geoai(scene: str, out: str, bundle: str, mask: str) -> dict[str, Any]:
    """predict_geotiff and raster_to_vector, tiles and blending as they come."""
    from geoai.inference import predict_geotiff
    from geoai.utils.raster import raster_to_vector

    network, spec = unpacked(bundle)
    result: dict[str, Any] = {}
    with common.timed(result):
        predict_geotiff(
            Probability(network, spec),
            scene,
            mask,
            output_dtype="uint8",
            output_nodata=255,
            preprocess_fn=lambda tile: tile,
            postprocess_fn=lambda scores: (scores >= spec.threshold).astype(np.uint8),
            device="cpu",
            verbose=False,
        )
        result["polygons"] = len(raster_to_vector(mask, out))
    return result


def end_torchgeo(scene: str, out: str, bundle: str, mask: str, size: int = 512) -> dict[str, Any]:
    """The loop over a GridGeoSampler, rasterio's shapes, geopandas; a quarter of overlap."""
    import geopandas as gpd
    from rasterio.features import shapes
    from shapely.geometry import shape

    network, spec = unpacked(bundle)
    model = Probability(network, spec).eval()
    result: dict[str, Any] = {}
    with common.timed(result):
        labels, profile = torchgeo_loop(
            scene,
            lambda x: model(x)[:, 0] >= spec.threshold,
            size=size,
            stride=size * 3 // 4,
            batch=BATCH,
        )
        write_classes(mask, labels, profile)
        found = shapes(labels, mask=labels == 1, transform=profile["transform"])
        geometry = [shape(g) for g, _ in found]
        frame = gpd.GeoDataFrame(
            {"class": [1] * len(geometry)}, geometry=geometry, crs=profile["crs"]
        )
        frame.to_file(out, driver="GPKG")
        result["polygons"] = len(frame)
    return result


CASES = {name: value for name, value in globals().items() if name.startswith(("bare_", "end_"))}

if __name__ == "__main__":
    common.child(CASES)
