"""Peak memory at 32768 x 32768 pixels over that at 8192 x 8192: it may grow with the width only.

A one-convolution network (9 x 9, so that it finds regions and not specks), tiles of 1024,
polygons written. Goal: at most 1.3 times the growth of the width, and under 2 GB.
"""

from __future__ import annotations

import sys

import common
from common import Bench, Case, gigabytes, seconds, table


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--large", type=int, default=32768, help="edge of the larger scene")
    options = common.parse(p)
    bench = Bench(options)
    bundle = str(options.work / "oneconv-9")
    made = {"out": bundle, "classes": 1, "kernel": 9}
    bench.prepare(Case("bundle", sys.executable, "ours.py", "bundle_oneconv", made))
    sizes = (options.size, options.large)
    cases = []
    for size in sizes:
        scene = str(common.scene(options.work, size, seed=options.seed))
        out = str(options.work / "memory.gpkg")
        given = {"scene": scene, "out": out, "bundle": bundle, "tile": 1024, "overlap": 96}
        cases.append(Case(f"{size}²", sys.executable, "ours.py", "predict", given))
    bench.compare(cases)
    small, large = (bench.median(case.label, "peak_rss") for case in cases)
    growth, width = large / small, options.large / options.size
    rows = [
        [
            case.label,
            gigabytes(bench.median(case.label, "peak_rss")),
            seconds(bench.median(case.label, "wall")),
            seconds(bench.median(case.label, "cpu")),
            bench.runs[case.label][0]["polygons"],
        ]
        for case in cases
    ]
    result = table(["scene", "peak memory", "time", "CPU time", "polygons"], rows)
    result += f"\n\nThe peak grows {growth:.2f} times, the width {width:.0f} times."
    figures = {"growth": growth, "over_width": growth / width, "peak": large}
    bench.report(
        "memory", "Memory (goal: grows at most 1.3 x the width; under 2 GB)", result, figures
    )


if __name__ == "__main__":
    main()
