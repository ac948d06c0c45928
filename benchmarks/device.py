"""Pipeline cost on a GPU: bf16, batches as large as fit. Goal: at most 1.10.

smp.Unet (resnet34), from GeoTIFF to GPKG over the network alone (forward passes, pixels on the
GPU already). Needs geoseg and this repository only; says so and ends well where no GPU is.
"""

from __future__ import annotations

import sys

import common
from common import Bench, Case, gigabytes, seconds, table


def main() -> None:
    p = common.parser(__doc__)
    p.set_defaults(size=16384, threads=0)
    p.add_argument("--device", default="cuda")
    p.add_argument("--encoder", default="resnet34")
    p.add_argument("--precision", default="bfloat16")
    options = common.parse(p)
    import torch

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device here: nothing measured")
        return
    bench = Bench(options)
    scene = str(common.scene(options.work, options.size, seed=options.seed))
    bundle = str(options.work / f"unet-{options.encoder}")
    made = {"out": bundle, "scene": scene, "encoder": options.encoder}
    bench.prepare(Case("bundle", sys.executable, "ours.py", "bundle_unet", made))
    given = {
        "scene": scene,
        "bundle": bundle,
        "device": options.device,
        "precision": options.precision,
        "warm": str(common.scene(options.work, 4096, seed=options.seed)),
    }
    out = str(options.work / "device.gpkg")
    cases = [
        Case("network", sys.executable, "ours.py", "model", given),
        Case("geoseg", sys.executable, "ours.py", "predict", given | {"out": out}),
    ]
    bench.compare(cases)
    alone, whole = bench.median("network", "wall"), bench.median("geoseg", "wall")
    run = bench.runs["geoseg"][0]
    rows = [
        [
            run["device"],
            bench.runs["network"][0]["batch"],
            seconds(alone),
            seconds(whole),
            f"{whole / alone:.3f}",
            seconds(bench.median("geoseg", "cpu")),
            gigabytes(bench.median("geoseg", "peak_rss")),
            run["polygons"],
        ]
    ]
    header = [
        "runtime",
        "batch",
        "network alone",
        "scene to GPKG",
        "ratio",
        "CPU time",
        "host peak",
        "polygons",
    ]
    title = f"On a GPU: Unet/{options.encoder}, {options.size}² pixels (goal: 1.10)"
    bench.report("device", title, table(header, rows), {"ratio": whole / alone})


if __name__ == "__main__":
    main()
