"""What runs the networks: how fast, and how true.

a) Tiles per second of each runtime and precision, 512 x 512 pixels, side by side in one process.
   Networks: buildings-v1; U-Net/resnet34 and UNetFormer/resnet18 with random weights;
   buildings-instances-v1 (Mask R-CNN). The runtimes take turns, a tile (or as many as they like at
   once) each; figures are medians over the rounds. "Largest difference" is that of a probability
   from torch in float32. What a runtime refuses, because it does not reproduce the golden sample,
   is timed all the same and marked. Goal: the automatic choice is at least 0.95 of the best.
b) From GeoTIFF to polygons with buildings-v1 in each. Goal: OpenVINO 4 times faster than eager
   torch.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import common
from common import REPO, Bench, Case, gigabytes, seconds, table

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as geoseg sets it, before torch is imported
TILE = 512
RUNTIMES = [
    *(("torch", p) for p in ("eager", "float32", "mixed", "bfloat16")),
    *(("onnx", p) for p in ("float32",)),
    *(("openvino", p) for p in ("float32", "mixed", "bfloat16")),
]
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "U-Net/resnet34": ("unet", {"encoder": "resnet34"}),
    "UNetFormer/resnet18": ("unetformer", {"encoder": "resnet18"}),
}
LOOSE = {"float32": 9.0, "bfloat16": 9.0, "mixed": 9.0, "float16": 9.0}


def main() -> None:
    p = common.parser(__doc__)
    p.set_defaults(rounds=9, threads=0, size=4096)
    p.add_argument("--part", choices=["a", "b", "ab"], default="ab")
    p.add_argument("--network", action="append", help="of part a only this; may be repeated")
    p.add_argument("--rounds-b", type=int, default=3)
    options = common.parse(p)
    if "a" in options.part:
        networks(options)
    if "b" in options.part:
        options.rounds = options.rounds_b
        scenes(options)


def networks(options: Any) -> None:
    """Part a."""
    bench = Bench(options)
    threads = options.threads or None
    names = options.network or ["buildings-v1", *NETWORKS, "buildings-instances-v1"]
    rows = [row for name in names for row in _network(name, options, threads)]
    header = [
        *("network", "runtime", "tiles/s", "CPU s per tile", "largest difference"),
        *("times eager", "automatic"),
    ]
    bench.report("runtimes", "Runtimes, 512²", table(header, rows), {"rows": rows})


def scenes(options: Any) -> None:
    """Part b."""
    bench, bundle = Bench(options), REPO / "geoseg" / "bundles" / "buildings-v1"
    gsd = 0.3
    scene, warm = (
        str(common.scene(options.work, size, gsd=gsd, seed=options.seed))
        for size in (options.size, 1024)
    )
    given = {"scene": scene, "warm": warm, "bundle": str(bundle)}
    given["out"] = str(options.work / "runtime.gpkg")
    cases = [Case("torch eager", sys.executable, "ours.py", "predict_eager", given)]
    for name in ("torch", "onnx", "openvino", "auto"):
        more = given | {"runtime": name}
        cases.append(Case(name, sys.executable, "ours.py", "predict", more))
    bench.compare(cases)
    slowest, rows = cases[0].label, []
    for label, runs in bench.runs.items():
        how = [label, runs[0]["device"], runs[0]["polygons"]]
        wall, cpu = (bench.median(label, key) for key in ("wall", "cpu"))
        ratios = [bench.median(slowest, "wall") / wall, bench.median(slowest, "cpu") / cpu]
        peak = gigabytes(bench.median(label, "peak_rss"))
        rows += [[*how, seconds(wall), seconds(cpu), peak, *ratios]]
    header = [
        *("runtime", "runs as", "polygons", "time", "CPU time", "peak"),
        *("times eager", "by CPU time"),
    ]
    title = f"From GeoTIFF to polygons by runtime, {options.size}², {bundle.name}"
    bench.report("runtimes-scene", title, table(header, rows), {"rows": rows})


def _network(name: str, options: Any, threads: int | None) -> list[list[Any]]:
    """A row for each runtime that can run it."""
    import numpy as np

    from geoseg.bundle import Bundle
    from geoseg.runtime import load

    bundle = Bundle.open(_bundle(name, options.work))
    spec, sample = bundle.spec, bundle.sample()
    batch = _of_size(sample.input)
    loaded = {}
    for runtime, precision in RUNTIMES:
        try:
            loaded[runtime, precision] = _loaded(bundle, runtime, precision, threads)
        except Exception as e:  # noqa: BLE001  what it cannot do is no row
            print(f"{name}: {runtime} {precision}: {e}", file=sys.stderr)
    walls: dict[Any, list[float]] = {key: [] for key in loaded}
    cpus: dict[Any, list[float]] = {key: [] for key in loaded}
    scores = {}
    for round_ in range(1 + options.rounds):
        for key, network in loaded.items():
            many = np.repeat(batch, network.batch_size, axis=0)
            wall, cpu = time.perf_counter(), time.process_time()
            scores[key] = network.predict(many)[:1]
            if round_:  # the first is for getting warm
                walls[key].append((time.perf_counter() - wall) / len(many))
                cpus[key].append((time.process_time() - cpu) / len(many))
    right = scores["torch", "float32"]
    eager = statistics.median(walls["torch", "eager"])
    chosen = load(bundle, threads=threads).description.split()[:2]
    rows = []
    for key, network in loaded.items():
        wall = statistics.median(walls[key])
        agrees = sample.difference(network.predict(sample.input)) <= sample.allowed(
            network.description
        )
        rows.append(
            [
                name,
                " ".join(key) + ("" if agrees else " (refused)"),
                1 / wall,
                statistics.median(cpus[key]),
                float(abs(scores[key] - right).max()) if not spec.finds_objects else "-",
                eager / wall,
                "x" if list(key) == chosen else "",
            ]
        )
    return rows


def _loaded(bundle: Any, runtime: str, precision: str, threads: int | None) -> Any:
    from geoseg.bundle import Bundle
    from geoseg.runtime import load

    sample = Bundle.sample
    loose = lambda self: replace(sample(self), tolerance=LOOSE)  # noqa: E731
    if precision == "eager":  # as torch runs it by itself: norms not folded, no layout chosen
        from geoseg.runtime.torch_detector import TorchDetector
        from geoseg.runtime.torch_runtime import TorchRuntime, network_of

        kind = TorchDetector if bundle.spec.finds_objects else TorchRuntime
        return kind(bundle.spec, network_of(bundle), batch_size=1)
    with patch.object(Bundle, "sample", loose):
        if (runtime, precision) == ("torch", "mixed"):
            from geoseg.runtime import torch_runtime as module

            mode = module.Mode("mixed", channels_last=True)
            with patch.object(module, "modes_for", lambda *_: [mode]):
                return load(bundle, runtime=runtime, threads=threads)
        return load(bundle, runtime=runtime, precision=precision, threads=threads)


def _bundle(name: str, work: Path) -> Path:
    """The bundle of that name, or one of a network with random weights; with its graph."""
    from geoseg.registry import find

    if name not in NETWORKS:
        return find(name)
    path = work / name.replace("/", "-")
    if path.exists():
        return path
    import numpy as np
    import torch

    from geoseg import models
    from geoseg.bundle import Bundle
    from geoseg.errors import ModelError
    from geoseg.exchange import export
    from geoseg.grid import Tiling
    from geoseg.runtime.fake import fake_spec
    from geoseg.runtime.torch_runtime import golden_sample

    torch.manual_seed(0)
    architecture, arguments = NETWORKS[name]
    network = models.build(architecture, classes=1, bands=3, **arguments).eval()
    spec = fake_spec(
        bands=3,
        name="benchmark",
        architecture=architecture,
        arguments=arguments,
        tiling=Tiling(TILE, 64, 32),
    )
    image = np.random.default_rng(0).normal(size=(1, 3, 256, 256)).astype(np.float32)
    sample = golden_sample(spec, network, image)
    plain = path.with_name(f"{path.name}-plain")
    Bundle.write(plain, spec, network.state_dict(), sample, "", overwrite=True)
    try:
        return export(plain, "bundle", path).path
    except ModelError as e:
        print(f"{name}: {e}", file=sys.stderr)
        return plain


def _of_size(image: Any) -> Any:
    """The golden input mirrored to a tile."""
    import numpy as np

    image = image[:, :, :TILE, :TILE]
    missing = [(0, 0), (0, 0), *((0, TILE - n) for n in image.shape[2:])]
    return np.ascontiguousarray(np.pad(image, missing, "symmetric"))


if __name__ == "__main__":
    main()
