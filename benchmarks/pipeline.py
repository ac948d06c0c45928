"""What the pipeline around the network costs.

a) A real network (smp.Unet, resnet34) on 4096 x 4096 pixels: geoseg from GeoTIFF to GPKG over
   the network alone on the same tiles. Goal: at most 1.05.
b) A one-convolution network, which lays the pipeline bare, on 8192 x 8192 pixels, tiles of 512
   that share 128, batch 4, float32, class raster out: whole time less the network's. geoseg
   against geoai, torchgeo, terratorch, MONAI and pytorch-toolbelt. Goal: a quarter of the best.
"""

from __future__ import annotations

import sys

import common
from common import Bench, Case, gigabytes, seconds, table

PEERS = {
    "geoai predict_geotiff": ("bare_geoai", {}),
    "torchgeo loop": ("bare_torchgeo", {}),
    "terratorch tiled_inference": ("bare_terratorch", {}),
    "MONAI, uniform weights (default)": ("bare_monai", {"mode": "constant"}),
    "MONAI, gaussian weights": ("bare_monai", {"mode": "gaussian"}),
    "pytorch-toolbelt TileMerger": ("bare_toolbelt", {}),
}
OURS = "geoseg"
BARE = {"tile": 512, "overlap": 128, "batch": 4, "precision": "float32"}


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--part", choices=["a", "b", "ab"], default="ab")
    p.add_argument("--size-a", type=int, default=4096, help="edge of the scene of part a")
    p.add_argument(
        "--classes", type=int, choices=[1, 2], default=1, help="outputs of the network of part b"
    )
    p.add_argument("--only", default="", help="of the peers, those whose name contains this")
    options = common.parse(p)
    if "a" in options.part:
        real(options)
    if "b" in options.part:
        bare(options)


def real(options: common.argparse.Namespace) -> None:
    bench = Bench(options)
    scene = str(common.scene(options.work, options.size_a, seed=options.seed))
    warm = str(common.scene(options.work, 1024, seed=options.seed))
    bundle = str(options.work / "resnet34")
    bench.prepare(
        Case("bundle", sys.executable, "ours.py", "bundle_unet", {"out": bundle, "scene": scene})
    )
    cases, out = [], str(options.work / "real.gpkg")
    for precision in ("float32", "auto"):
        given = {"scene": scene, "warm": warm, "bundle": bundle, "precision": precision}
        cases += [
            Case(f"network, {precision}", sys.executable, "ours.py", "model", given),
            Case(
                f"geoseg, {precision}", sys.executable, "ours.py", "predict", given | {"out": out}
            ),
        ]
    bench.compare(cases)
    rows, figures = [], {}
    for precision in ("float32", "auto"):
        alone, whole = f"network, {precision}", f"geoseg, {precision}"
        ratio = bench.median(whole, "wall") / bench.median(alone, "wall")
        by_cpu = bench.median(whole, "cpu") / bench.median(alone, "cpu")
        figures[precision] = {"wall": ratio, "cpu": by_cpu, "goal": 1.05}
        rows.append(
            [
                bench.runs[whole][0]["device"],
                seconds(bench.median(alone, "wall")),
                seconds(bench.median(whole, "wall")),
                f"{ratio:.3f}",
                f"{by_cpu:.3f}",
                bench.runs[whole][0]["polygons"],
                gigabytes(bench.median(whole, "peak_rss")),
            ]
        )
    header = [
        "runtime",
        "network alone",
        "scene to GPKG",
        "ratio",
        "of CPU time",
        "polygons",
        "peak",
    ]
    title = f"Pipeline around Unet/resnet34, {options.size_a}² pixels (goal: 1.05)"
    bench.report("pipeline-real", title, table(header, rows), figures)


def bare(options: common.argparse.Namespace) -> None:
    bench = Bench(options)
    scene = str(common.scene(options.work, options.size, seed=options.seed))
    warm = str(common.scene(options.work, 1024, seed=options.seed))
    bundle = str(options.work / f"oneconv-{options.classes}")
    made = {"out": bundle, "classes": options.classes}
    bench.prepare(Case("bundle", sys.executable, "ours.py", "bundle_oneconv", made))
    both = {"scene": scene, "warm": warm}
    mask = str(options.work / "bare-geoseg.tif")
    ours = {**both, "out": None, "bundle": bundle, "mask": mask, **BARE}
    cases = [Case(OURS, sys.executable, "ours.py", "predict", ours)]
    if options.peers_python:
        for label, (name, extra) in PEERS.items():
            if options.only in label:
                out = str(options.work / f"{name}.tif")
                given = {**both, "out": out, "classes": options.classes, **extra}
                cases.append(Case(label, options.peers_python, "peers.py", name, given))
    bench.compare(cases)

    def own(label: str, clock: str) -> float:
        """Whole less the network; with one thread the network's own time is its CPU time."""
        model = "model_cpu" if options.threads == 1 or clock == "cpu" else "model_wall"
        return bench.median(label, clock) - bench.median(label, model)

    labels = [case.label for case in cases]
    best = {c: min((own(x, c) for x in labels if x != OURS), default=0.0) for c in ("wall", "cpu")}
    figures = {
        x: {
            "own_wall": own(x, "wall"),
            "own_cpu": own(x, "cpu"),
            "peak": bench.median(x, "peak_rss"),
        }
        for x in labels
    }
    rows = []
    for x in labels:
        share = own(OURS, "wall") / own(x, "wall"), own(OURS, "cpu") / own(x, "cpu")
        rows.append(
            [
                x,
                seconds(own(x, "wall")),
                seconds(own(x, "cpu")),
                seconds(bench.median(x, "kernel")),
                gigabytes(bench.median(x, "peak_rss")),
                "" if x == OURS else f"{share[0]:.2f}",
                "" if x == OURS else f"{share[1]:.2f}",
            ]
        )
    header = [
        "",
        "own time",
        "own CPU time",
        "of it in the kernel",
        "peak",
        "geoseg takes",
        "by CPU time",
    ]
    title = (
        f"Pipeline bare: one convolution, {options.classes} output(s), {options.size}² pixels, "
        "tiles 512/384, class raster out (goal: 0.25 of the best)"
    )
    figures["best"] = best
    bench.report(f"pipeline-bare-{options.classes}", title, table(header, rows), figures)


if __name__ == "__main__":
    main()
