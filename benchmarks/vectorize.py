"""A mask on disk to polygons in a GPKG: time, memory, and whether every pixel is where it was.

Masks by seed: buildings (rotated rectangles and L-shapes, 250 on 1000²) and land cover (6 classes
of smoothed noise). Sides: geoseg on one core and on two, rasterio.features.shapes with shapely
and geopandas as tutorials show it, OpenCV's contours (which are not exact).

Goals: 8 times faster than rasterio's way, 1.6 times more on two cores, peak memory of a mask of
four times the area at most 1.3 times, no pixel of another class.
"""

from __future__ import annotations

import sys
from typing import Any

import common
from common import Bench, Case, gigabytes, seconds, table

PARTS = {"buildings": (5_000, 10_000, 20_000), "landcover": (2_500, 5_000, 10_000)}


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--kinds", default="buildings,landcover")
    p.add_argument("--second-core", default="0,1", help="cores for the side with two of them")
    options = common.parse(p)
    bench, rows = Bench(options), []
    one = options.cores or "0"
    for kind in options.kinds.split(","):
        small, middle, large = PARTS[kind]
        masks = {n: _mask(bench, options, kind, n) for n in (small // 5, small, middle, large)}
        warm = {"warm": masks[small // 5]}
        sides: list[tuple[str, str, str, str]] = [
            ("geoseg, one core", sys.executable, "geoseg", one),
            ("geoseg, two cores", sys.executable, "geoseg", options.second_core),
            ("rasterio, shapely, geopandas", sys.executable, "rasterio", one),
        ]
        if options.peers_python:
            sides.append(("OpenCV", options.peers_python, "opencv", one))
        for i in range(options.rounds):
            for name, python, case, cores in sides:
                given = {"scene": masks[middle], "out": _out(options, kind, case), **warm}
                _one(
                    bench, f"{kind}, {name}", Case(name, python, "polygons.py", case, given), cores
                )
            given = {"scene": masks[large], "out": _out(options, kind, "large"), **warm}
            for size in (small, large):
                given = {**given, "scene": masks[size]}
                case_of = Case("geoseg", sys.executable, "polygons.py", "geoseg", given)
                _one(bench, f"{kind} {size}²", case_of, one)
            print(f"round {i + 1}", file=sys.stderr)
        base = f"{kind}, rasterio, shapely, geopandas"
        for name, _, case, _ in sides:
            label = f"{kind}, {name}"
            given = {"scene": masks[middle], "out": _out(options, kind, case)}
            checked = bench._run(Case("check", sys.executable, "polygons.py", "check", given))
            rows.append(
                [
                    f"{kind} {middle}², {name}",
                    bench.runs[label][0]["polygons"],
                    seconds(bench.median(label, "cpu")),
                    seconds(bench.median(label, "wall")),
                    f"{bench.median(base, 'cpu') / bench.median(label, 'cpu'):.1f}",
                    f"{bench.median(base, 'wall') / bench.median(label, 'wall'):.1f}",
                    gigabytes(bench.median(label, "peak_rss")),
                    checked["different"],
                    checked["invalid"],
                ]
            )
        rows += _growth(bench, kind, (small, middle, large))
    header = ["", "polygons", "CPU time", "time", "times faster (CPU)", "(time)", "peak memory"]
    header += ["other pixels", "invalid"]
    bench.report("vectorize", "A mask to polygons in a GPKG", table(header, rows), {})


def _growth(bench: Bench, kind: str, sizes: tuple[int, int, int]) -> list[list[Any]]:
    """Time per pixel and memory, over the size."""
    rows = []
    labels = [f"{kind} {sizes[0]}²", f"{kind}, geoseg, one core", f"{kind} {sizes[2]}²"]
    for size, label in zip(sizes, labels, strict=True):
        cpu = bench.median(label, "cpu")
        shown = f"{cpu / size**2 * 1e9:.1f} ns a pixel"
        memory = gigabytes(bench.median(label, "peak_rss"))
        polygons = bench.runs[label][0]["polygons"]
        if size != sizes[1]:
            name = f"{kind} {size}², geoseg, one core: {shown}"
            wall = seconds(bench.median(label, "wall"))
            rows.append([name, polygons, seconds(cpu), wall, "", "", memory, "", ""])
    return rows


def _one(bench: Bench, label: str, case: Case, cores: str) -> None:
    bench.cores = cores
    run = bench._run(case)
    bench.runs.setdefault(label, []).append(run)
    print(f"  {label}: {run}", file=sys.stderr, flush=True)


def _mask(bench: Bench, options: Any, kind: str, size: int) -> str:
    path = str(options.work / f"{kind}-{size}-{options.seed}.tif")
    given = {"out": path, "size": size, "seed": options.seed}
    bench.prepare(Case(kind, sys.executable, "polygons.py", kind, given))
    return path


def _out(options: Any, kind: str, case: str) -> str:
    return str(options.work / f"{kind}-{case}.gpkg")


if __name__ == "__main__":
    main()
