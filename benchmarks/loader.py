"""How fast training windows come, beside torchgeo's, and beside what a training step uses.

Random windows of one compressed scene (four bands of uint16, tiles of 512, deflate) with labels,
as batches of 512² after the same augmentation, geoseg's, on all sides; with 0 and with 2 workers.
torchgeo: RasterDataset & RasterDataset (a mask on the scene's grid) or VectorDataset,
RandomGeoSampler, DataLoader; its windows have the size that geoseg's have before they are rotated.
geoseg also zooms, as it does by default, and draws half of the windows around objects; "plain" is
without the zoom. Goal: ahead of torchgeo, and 1.2 times what a training step on the same threads
uses (Unet, efficientnet-lite0, bf16).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
from common import Bench, Case, seconds, table, timed

CHIP, BATCH, GSD = 512, 8, 0.3
VALUES = (0.0, 10_000.0)


def multispectral(folder: Path, size: int, *, seed: int) -> Path:
    """A GeoTIFF of four bands of uint16, made of the RGB scene of that size; made once."""
    import numpy as np
    import rasterio

    path = folder / f"four-{size}-{seed}.tif"
    if path.exists():
        return path
    part = path.with_suffix(".part")
    rng = np.random.default_rng(seed)
    with rasterio.open(common.scene(folder, size, gsd=GSD, seed=seed)) as source:
        profile = source.profile | {"count": 4, "dtype": "uint16", "predictor": 2}
        profile |= {"photometric": "MINISBLACK", "bigtiff": "IF_SAFER"}
        with rasterio.open(part, "w", **profile) as out:
            for row in range(0, size, 512):
                window = rasterio.windows.Window(0, row, size, min(512, size - row))
                rgb = source.read(window=window).astype(np.float32)
                infrared = 1.5 * rgb[1] - 0.5 * rgb[0] + 20
                bands = np.stack([*rgb, infrared]) * 30
                bands += rng.integers(0, 8, bands.shape)  # sensors are noisy
                out.write(bands.clip(0, 10_000).astype(np.uint16), window=window)
    part.rename(path)
    return path


def labels_of(scene: Path, *, seed: int) -> tuple[Path, Path]:
    """Polygons (GeoPackage) of houses all over a scene, and the same as a mask on its grid."""
    import geopandas as gpd
    import numpy as np
    import rasterio
    import shapely
    from rasterio.features import rasterize

    vector, mask = scene.with_suffix(".gpkg"), scene.with_name(f"{scene.stem}-mask.tif")
    if mask.exists():
        return vector, mask
    with rasterio.open(scene) as source:
        profile, t, size = source.profile, source.transform, source.width
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, size, (size * size // 3000, 2))
    edges = rng.uniform(15, 60, xy.shape)
    houses = shapely.box(*(xy - edges / 2).T, *(xy + edges / 2).T)
    houses = shapely.transform(houses, lambda p: p * (t.a, t.e) + (t.c, t.f))
    gpd.GeoDataFrame(geometry=houses, crs=profile["crs"]).to_file(vector)
    profile |= {"count": 1, "dtype": "uint8", "photometric": "MINISBLACK", "predictor": 1}
    with rasterio.open(mask, "w", **profile) as out:
        out.write(rasterize(houses, (size, size), transform=t, dtype="uint8"), 1)
    return vector, mask


# In the measured process ------------------------------------------------------------------------


def ours(
    scene: str, vector: str, batches: int, workers: int, zoom: list[float], **_: Any
) -> dict[str, Any]:
    from torch.utils.data import DataLoader

    from geoseg.data import Store, load_places
    from geoseg.train.config import TrainConfig
    from geoseg.train.windows import Windows

    place = {"name": "here", "rasters": Path(scene).name, "labels": Path(vector).name}
    config = TrainConfig.model_validate(
        {
            "name": "loader",
            "data": {
                "places": [place],
                "bands": [{"name": str(i)} for i in range(1, 5)],
                "classes": [{"id": 1, "name": "house"}],
                "gsd": GSD,
            },
            "augment": {"zoom": zoom},
            "schedule": {"steps": 10_000, "batch": BATCH, "chip": CHIP},
        }
    )
    result: dict[str, Any] = {}
    prepared: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=Path(scene).parent) as folder:
        with timed(prepared):
            store = Store(Path(folder))
            sheets = load_places(config.data, Path(scene).parent, seed=0, store=store)
            windows = Windows(sheets, config, (0.0,) * 4)
        indices = range(BATCH * batches)
        loader = DataLoader(windows, batch_size=BATCH, sampler=indices, num_workers=workers)
        _go_through(loader, batches, result, lambda batch: batch, windows.size)
    return result | {"prepare": prepared["wall"]}


def torchgeo(
    scene: str, vector: str, mask: str, batches: int, workers: int, labels: str, **_: Any
) -> dict[str, Any]:
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, VectorDataset, stack_samples
    from torchgeo.samplers import RandomGeoSampler

    class Image(RasterDataset):
        filename_glob = Path(scene).name

    class Mask(RasterDataset):
        filename_glob = Path(mask).name
        is_image = False

    class Houses(VectorDataset):
        filename_glob = Path(vector).name

    folder = Path(scene).parent
    image = Image(folder)
    truth = Mask(folder) if labels == "mask" else Houses(folder, res=image.res)
    size = round(CHIP * 2**0.5 / 2) * 2  # as wide as geoseg's windows: to be rotated
    sampler = RandomGeoSampler(image & truth, size=size, length=BATCH * batches)
    loader = DataLoader(
        image & truth,
        batch_size=BATCH,
        sampler=sampler,
        num_workers=workers,
        collate_fn=stack_samples,
    )
    result: dict[str, Any] = {}
    _go_through(loader, batches, result, lambda b: (b["image"], b["mask"].squeeze(1)), size)
    return result


def _go_through(loader: Any, batches: int, result: dict[str, Any], pair: Any, size: int) -> None:
    """Times all batches of `loader`, each augmented, from the start of its workers to their end.

    Nothing is fetched ahead of the clock or beyond it, so the CPU time of workers, which is only
    known when they have ended, is that of these batches.
    """
    import torch

    from geoseg.train.augment import Augment
    from geoseg.train.config import AugmentConfig

    augment = Augment(AugmentConfig(), CHIP, VALUES)
    generator = torch.Generator().manual_seed(0)
    augment(torch.zeros(1, 4, size, size), torch.zeros(1, size, size), generator)  # first-time cost
    augmenting, seen = 0.0, 0
    with timed(result):
        for batch in loader:
            images, targets = pair(batch)
            assert images.shape[-2:] == (size, size), images.shape
            started = time.process_time()
            images, targets = augment(images.float(), targets.to(torch.uint8), generator)
            augmenting += time.process_time() - started
            assert images.shape == (BATCH, 4, CHIP, CHIP)
            seen += 1
    assert seen == batches
    result["samples"] = batches * BATCH / result["wall"]
    result["samples_cpu"] = batches * BATCH / result["cpu"]
    result["loading"] = (result["cpu"] - augmenting) / (batches * BATCH)


def step(steps: int, **_: Any) -> dict[str, Any]:
    """Training steps of Unet/efficientnet-lite0 on batches that are there already."""
    import torch
    from torch.nn import functional as F

    from geoseg import models

    network = models.build(
        "unet",
        classes=1,
        bands=4,
        encoder="tu-tf_efficientnet_lite0",
        decoder_channels=[160, 80, 48, 24, 16],
    )
    network = network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())
    images = torch.rand(BATCH, 4, CHIP, CHIP).to(memory_format=torch.channels_last)
    targets = torch.rand(BATCH, 1, CHIP, CHIP).round()

    def once() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
        F.binary_cross_entropy_with_logits(logits.float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    once()
    result: dict[str, Any] = {}
    with timed(result):
        for _ in range(steps):
            once()
    result["samples"] = steps * BATCH / result["wall"]
    result["samples_cpu"] = steps * BATCH / result["cpu"]
    return result


# In the process that compares -------------------------------------------------------------------


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--batches", type=int, default=12, help="of 8 windows, measured per case")
    options = common.parse(p)
    bench = Bench(options)
    scene = multispectral(options.work, options.size, seed=options.seed)
    vector, mask = labels_of(scene, seed=options.seed)
    given = {"scene": str(scene), "vector": str(vector), "mask": str(mask)}
    given |= {"batches": options.batches}
    sides = {
        "geoseg": ("ours", {"zoom": [0.7, 1.6]}),
        "geoseg, plain": ("ours", {"zoom": [1.0, 1.0]}),
        "torchgeo, mask": ("torchgeo", {"labels": "mask"}),
        "torchgeo, polygons": ("torchgeo", {"labels": "polygons"}),
    }
    cases = [
        Case(f"{label}, {workers} workers", sys.executable, "loader.py", name,
             {**given, **extra, "workers": workers})
        for workers in (0, 2)
        for label, (name, extra) in sides.items()
    ]  # fmt: skip
    use = Case("training step", sys.executable, "loader.py", "step", {"steps": 1})
    bench.compare([*cases, use])
    needed = {k: bench.median(use.label, k) for k in ("samples", "samples_cpu")}
    rows, figures = [], {}
    for case in [*cases, use]:
        wall, cpu = (bench.median(case.label, k) for k in ("samples", "samples_cpu"))
        over = wall / needed["samples"], cpu / needed["samples_cpu"]
        figures[case.label] = {"samples": wall, "samples_cpu": cpu, "over_step": over}
        prepare = seconds(bench.median(case.label, "prepare")) if case.name == "ours" else ""
        loading = ""
        if case is not use:
            loading = f"{1000 * bench.median(case.label, 'loading'):.0f} ms"
        speeds = [f"{v:.1f}" for v in (wall, cpu, *over)]
        rows.append([case.label, *speeds, loading, prepare])
    header = ["", "samples/s", "per CPU second", "over the step's", "by CPU time"]
    header += ["loading one, CPU", "decoded once in"]
    title = f"Training windows of 512² from a scene of {options.size}², 4 x uint16 (goal: 1.2)"
    bench.report("loader", title, table(header, rows), figures)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2].startswith("{"):
        common.child({"ours": ours, "torchgeo": torchgeo, "step": step})
    else:
        main()
