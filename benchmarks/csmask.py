"""ukis-csmask's networks in geoseg, beside ukis-csmask: the same classes? in what time and memory?

Agreement: each of its four networks on real Sentinel-2 values, mirrored to about 1000 pixels. First
with tiles where ukis-csmask puts its own; then wherever geoseg puts them, beside what ukis-csmask
says of a scene that begins one pixel later. Cost: a whole tile of Sentinel-2 from file to file.
ukis-csmask holds the scene several times over: where this machine has less memory than that, give
it a smaller scene (--peer-size); both are then run on that too.

    pip install ukis-csmask onnx onnxruntime openvino
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import Bench, Case, gigabytes, seconds, table

BANDS = ["blue", "green", "red", "nir", "swir16", "swir22"]
CLASSES = ["background", "cloud", "shadow"]
NETWORKS = ("6b_l1c", "6b_l2a", "4b_l1c", "4b_l2a")
TILE, STEP, PAD = 256, 204, 51  # ukis-csmask's tiles: edge, distance, and how far out they begin
DATA = common.REPO.parent / "shared" / "data" / "clouds" / "sentinel2.npz"
FULL = 10000  # value of a reflectance of 1


def main() -> None:
    p = common.parser(__doc__)
    p.set_defaults(size=10980, rounds=1)
    p.add_argument("--data", type=Path, default=DATA, help="ukis-csmask's sentinel2.npz")
    p.add_argument("--peer-size", type=int, help="edge of ukis-csmask's scene, else --size")
    p.add_argument("--part", choices=("agreement", "cost", "both"), default="both")
    p.add_argument("--tiles", type=int, default=5, help="along an edge, for the agreement")
    options = common.parse(p)
    options.work = options.work / "csmask"
    options.work.mkdir(exist_ok=True)
    os.environ["GEOSEG_HOME"] = str(options.work / "home")
    bench = Bench(options)
    if options.part != "cost":
        report_agreement(bench, options)
    if options.part != "agreement":
        text, figures = cost(bench, import_network("6b_l1c", options), options)
        bench.report(
            "csmask-cost", "A Sentinel-2 scene to a mask of classes, 6 bands", text, figures
        )


# The models and the scenes ----------------------------------------------------------------------


def import_network(name: str, options: argparse.Namespace) -> str:
    """One of ukis-csmask's ONNX files as a bundle; its JSON says what the network wants."""
    import yaml

    import geoseg

    folder = Path(find_spec("ukis_csmask").submodule_search_locations[0])
    about = json.loads((folder / f"model_{name}.json").read_text())
    mean, std = about["data"]["dataset_statistics"]["img"]
    contract = {
        "name": f"csmask-{name.replace('_', '-')}",
        "version": about["model"]["version"].partition("-")[0],
        "license": "Apache-2.0",
        "attribution": "ukis-csmask, German Aerospace Center (DLR)",
        "bands": about["data"]["dataset_statistics"]["band_names"],
        "dtype": "uint16",
        "value_range": [0, FULL],
        "gsd": 30,
        "scaling": {"divide": FULL, "mean": mean, "std": std},
        "classes": CLASSES,
        "activation": "softmax",
    }
    path = options.work / f"{contract['name']}.yaml"
    path.write_text(yaml.safe_dump(contract, sort_keys=False))
    sample = scene(options, np.arange(PAD, PAD + TILE))
    done = geoseg.import_model(
        folder / f"model_{name}.onnx", contract=path, sample=sample, overwrite=True
    )
    return str(done.path)


def scene(options: argparse.Namespace, index: np.ndarray) -> Path:
    """A GeoTIFF of the real values at these rows and columns, mirrored beyond them."""
    import rasterio

    path = options.work / f"s2-{index[0]}-{len(index)}.tif"
    if path.exists():
        return path
    real = np.rint(np.load(options.data)["img"] * FULL).astype(np.uint16)
    at, size = common._mirrored(index, len(real)), len(index)
    part = path.with_suffix(".part")
    profile = {"count": 6, "height": size, "width": size, "dtype": "uint16", "crs": "EPSG:32632"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    with rasterio.open(
        part, "w", driver="GTiff", transform=common._transform(size, 30), **profile
    ) as out:
        out.descriptions = BANDS
        for row in range(0, size, 512):
            stop = min(row + 512, size)
            block = np.moveaxis(real[at[row:stop]][:, at], 2, 0)
            out.write(block, window=rasterio.windows.Window(0, row, size, stop - row))
    part.rename(path)
    return path


# Agreement --------------------------------------------------------------------------------------


def report_agreement(bench: Bench, options: argparse.Namespace) -> None:
    models = {name: import_network(name, options) for name in NETWORKS}
    shares = {name: agreement(name, models[name], options) for name in NETWORKS}
    columns = list(next(iter(shares.values())))
    rows = [[name, *(f"{100 * row[c]:.2f} %" for c in columns)] for name, row in shares.items()]
    text = table(["network", *columns], rows)
    bench.report("csmask-agreement", "Pixels of the same class as by ukis-csmask", text, shares)


def agreement(name: str, model: str, options: argparse.Namespace) -> dict[str, float]:
    """Shares of pixels of the same class."""
    size = TILE + STEP * (options.tiles - 1) - PAD
    theirs = by_csmask(scene(options, np.arange(size)), name, options.threads)
    later = by_csmask(scene(options, np.arange(1, size)), name, options.threads)
    padded = scene(options, np.arange(-PAD, size))
    same_tiles = by_geoseg(padded, model, options, overlap=TILE - STEP)[PAD:, PAD:]
    own_tiles = by_geoseg(scene(options, np.arange(size)), model, options)
    inside = (np.arange(PAD, PAD + size) % STEP) >= TILE - STEP  # in one tile only
    inside[-(TILE - STEP) :] = False  # where ukis-csmask has one tile more
    away, equal = inside[:, None] & inside, same_tiles == theirs
    return {
        "tiles as ukis-csmask's, away from seams": float(equal[away].mean()),
        "all pixels": float(equal.mean()),
        "geoseg's own tiles": float((own_tiles == theirs).mean()),
        "ukis-csmask and itself, a pixel later": float((theirs[1:, 1:] == later).mean()),
    }


def by_geoseg(path: Path, model: str, options: argparse.Namespace, **more: Any) -> np.ndarray:
    import rasterio

    import geoseg

    mask = options.work / "mask.tif"
    threads = options.threads or None
    geoseg.predict(path, model=model, mask=mask, overwrite=True, threads=threads, **more)
    with rasterio.open(mask) as done:
        return done.read(1)


def by_csmask(path: Path, name: str, threads: int) -> np.ndarray:
    import rasterio
    from ukis_csmask.mask import CSmask

    bands = BANDS[: int(name[0])]
    with rasterio.open(path) as source:
        values = source.read(list(range(1, len(bands) + 1)))
    reflectance = np.moveaxis(values, 0, 2).astype(np.float32) / np.float32(FULL)
    del values
    return CSmask(
        reflectance,
        band_order=bands,
        product_level=name[-3:],
        intra_op_num_threads=threads,
        providers=["CPUExecutionProvider"],
    ).csm[..., 0]


# Cost -------------------------------------------------------------------------------------------


def cost(
    bench: Bench, model: str, options: argparse.Namespace
) -> tuple[str, dict[str, dict[str, float]]]:
    """Both on the same scene; geoseg on the full one too, where that is larger."""
    peer = options.peer_size or options.size
    cases = [_case("ukis_csmask", "6b_l1c", peer, options), _case("geoseg", model, peer, options)]
    if peer != options.size:
        cases.append(_case("geoseg", model, options.size, options))
    bench.compare(cases)
    figures = {
        case.label: {key: bench.median(case.label, key) for key in ("wall", "cpu", "peak_rss")}
        for case in cases
    }
    rows = [
        [label, seconds(f["wall"]), seconds(f["cpu"]), gigabytes(f["peak_rss"]), _how(bench, label)]
        for label, f in figures.items()
    ]
    return table(["", "time", "CPU time", "peak memory", "how"], rows), figures


def _how(bench: Bench, label: str) -> str:
    return str(bench.runs[label][0]["how"])


def _case(side: str, model: str, size: int, options: argparse.Namespace) -> Case:
    given = {"path": str(scene(options, np.arange(size))), "model": model}
    given |= {"mask": str(options.work / f"{side}.tif"), "threads": options.threads}
    return Case(f"{side.replace('_', '-')}, {size}²", sys.executable, "csmask.py", side, given)


def run_csmask(path: str, model: str, mask: str, threads: int) -> dict[str, Any]:
    import rasterio
    import ukis_csmask.mask  # noqa: F401 - not measured

    result: dict[str, Any] = {"how": "onnx float32"}
    with common.timed(result):
        classes = by_csmask(Path(path), model, threads)
        with rasterio.open(path) as source:
            profile = source.profile | {"count": 1, "dtype": "uint8"}
        with rasterio.open(mask, "w", **profile) as out:
            out.write(classes, 1)
    return result


def run_geoseg(path: str, model: str, mask: str, threads: int) -> dict[str, Any]:
    from geoseg.predict import predict

    result: dict[str, Any] = {}
    with common.timed(result):
        done = predict(path, model=model, mask=mask, overwrite=True, threads=threads or None)
    return result | {"how": done.device, "tiles": done.tiles}


CASES = {"ukis_csmask": run_csmask, "geoseg": run_geoseg}

if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in CASES:
        common.child(CASES)
    else:
        main()
