"""Objects across tiles: what merging costs, and how many objects come out whole.

a) A real model of objects on real imagery: geoseg from GeoTIFF to GPKG over its network's own
   time in the same run. Goal: at most 1.15.
b) Detections of planted objects in tiles of 512 that share 128, merged by geoseg (masks, tile by
   tile), by SAHI (GREEDYNMM and NMS, on masks and on boxes) and by torchvision's batched NMS
   (boxes). Goal: faster than SAHI, near-linear, and more objects right.
c) Peak memory of a run on four times the area. Goal: at most 1.2 times.
"""

from __future__ import annotations

import sys
from typing import Any

import common
from common import Bench, Case, gigabytes, seconds, table

# size, objects, longest edge: about 4,200 objects on 4096², as in what peers were measured with
RIGHT = (4096, 5200, 90)
GROWTH = {"10,000": (5120, 8200, 90), "100,000": (16384, 84_000, 90)}


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--part", default="abc", help="which of a, b and c")
    p.add_argument("--model", default="buildings-instances-v1")
    options = common.parse(p)
    if "a" in options.part:
        pipeline(options)
    if "b" in options.part:
        merging(options)
    if "c" in options.part:
        memory(options)


def pipeline(options: common.argparse.Namespace) -> None:
    bench = Bench(options)
    scene = str(common.scene(options.work, min(options.size, 4096), seed=options.seed))
    given = {"scene": scene, "out": str(options.work / "objects.gpkg"), "model": options.model}
    bench.compare([Case("geoseg", sys.executable, "objects.py", "predict", given)])
    run = {k: bench.median("geoseg", k) for k in ("wall", "cpu", "model_wall", "model_cpu")}
    wall, cpu = run["wall"] / run["model_wall"], run["cpu"] / run["model_cpu"]
    rows = [
        ["network", seconds(run["model_wall"]), seconds(run["model_cpu"])],
        ["GeoTIFF to GPKG", seconds(run["wall"]), seconds(run["cpu"])],
        ["ratio", f"{wall:.2f}", f"{cpu:.2f}"],
    ]
    bench.report(
        "instances-pipeline",
        "Objects: whole run over the network alone (goal 1.15)",
        table(["", "time", "CPU time"], rows),
        {"wall": wall, "cpu": cpu},
    )


def merging(options: common.argparse.Namespace) -> None:
    bench, peers = Bench(options), options.peers_python
    rows = []
    for name, (size, count, longest) in {"4096²": RIGHT, **GROWTH}.items():
        file = str(options.work / f"planted-{size}-{count}-{options.seed}.npz")
        made = {"out": file, "size": size, "count": count, "longest": longest}
        made["seed"] = options.seed
        bench.prepare(Case("plant", sys.executable, "objects.py", "plant", made))
        cases, found = _cases(file, peers, masks=name != "100,000", out=options.work, name=name)
        bench.compare(cases)
        for case in cases:
            run = bench.runs[case.label][0]
            rows.append(
                [
                    case.label,
                    run["detections"],
                    run["objects"],
                    seconds(bench.median(case.label, "wall")),
                    seconds(bench.median(case.label, "cpu")),
                    *_accuracy(bench, file, found.get(case.label)),
                ]
            )
    header = ["", "detections", "objects", "time", "CPU time", "planted", "recall", "precision"]
    large, small = (bench.median(f"geoseg, {name}", "cpu") for name in ("100,000", "10,000"))
    counts = [bench.runs[f"geoseg, {n}"][0]["detections"] for n in ("100,000", "10,000")]
    growth = large / small / (counts[0] / counts[1])
    text = table(header, rows) + f"\n\ngeoseg's CPU time per detection grows {growth:.2f} times."
    bench.report("instances-merging", "Merging detections of tiles", text, {"growth": growth})


def _cases(
    file: str, peers: str | None, *, masks: bool, out: Any, name: str
) -> tuple[list[Case], dict[str, str]]:
    """The sides of one comparison, and where those that give masks leave them."""
    found = {f"geoseg, {name}": str(out / f"ours-{name}.npz")}
    given: dict[str, Any] = {"file": file, "out": found[f"geoseg, {name}"]}
    cases = [Case(f"geoseg, {name}", sys.executable, "objects.py", "geoseg", given)]
    if peers:
        for kind in ("GREEDYNMM", "NMS"):
            boxes = f"SAHI {kind}, boxes only, {name}"
            given = {"file": file, "out": "", "kind": kind, "masks": False}
            cases.append(Case(boxes, peers, "objects.py", "sahi", given))
            if masks:
                label = f"SAHI {kind}, masks, {name}"
                found[label] = str(out / f"sahi-{kind}-{name}.npz")
                given = {"file": file, "out": found[label], "kind": kind}
                cases.append(Case(label, peers, "objects.py", "sahi", given))
        given = {"file": file}
        cases.append(Case(f"torchvision NMS, {name}", peers, "objects.py", "torchvision", given))
    return cases, found


def _accuracy(bench: Bench, file: str, found: str | None) -> list[str]:
    if found is None:
        return ["", "", ""]
    case = Case(
        "accuracy", sys.executable, "objects.py", "accuracy", {"file": file, "found": found}
    )
    run = bench._run(case)
    return [str(run["planted"]), f"{run['recall']:.1%}", f"{run['precision']:.1%}"]


def memory(options: common.argparse.Namespace) -> None:
    bench = Bench(options)
    cases = []
    for size in (options.size // 2, options.size):
        scene = str(common.scene(options.work, size, seed=options.seed))
        given = {"scene": scene, "out": str(options.work / "memory.gpkg"), "model": options.model}
        cases.append(Case(f"{size}²", sys.executable, "objects.py", "predict", given))
    bench.compare(cases)
    small, large = (bench.median(case.label, "peak_rss") for case in cases)
    rows = [
        [c.label, gigabytes(bench.median(c.label, "peak_rss")), bench.runs[c.label][0]["objects"]]
        for c in cases
    ]
    text = table(["scene", "peak memory", "objects"], rows)
    text += f"\n\nThe peak grows {large / small:.2f} times."
    bench.report("instances-memory", "Objects: memory of four times the area (goal 1.2)", text, {})


if __name__ == "__main__":
    main()
