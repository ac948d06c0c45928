"""Band statistics, class balance and split of a large scene in constant memory.

`geoseg data stats` and `split` on four bands of uint16 with polygons: peak memory and time at
20000² over 5000². Goal: it grows with the width of the scene only, and stays under 1 GB.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import common
from common import Bench, Case, gigabytes, seconds, table, timed
from loader import GSD, labels_of, multispectral


def measure(scene: str, vector: str, out: str, **_: Any) -> dict[str, Any]:
    from geoseg.data.config import DataConfig
    from geoseg.data.split import write_split
    from geoseg.data.stats import measure_files, survey

    content = {
        "places": [{"name": "here", "rasters": Path(scene).name, "labels": Path(vector).name}],
        "bands": [{"name": str(i)} for i in range(1, 5)],
        "classes": [{"id": 1, "name": "house"}],
        "gsd": GSD,
    }
    config = DataConfig.model_validate(content)
    result: dict[str, Any] = {}
    with timed(result):
        plots = survey(config, Path(scene).parent, seed=0)
        Path(out).unlink(missing_ok=True)
        write_split(plots, Path(out))
    statistics: dict[str, Any] = {}
    with timed(statistics):
        found = measure_files(config, plots)
    blocks = sum(int((plot.parts > 0).sum()) for plot in plots)
    return result | {"statistics": statistics["wall"], "blocks": blocks, "mean": found.mean[0]}


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--small", type=int, default=5000, help="edge of the smaller scene")
    p.set_defaults(size=20_000, rounds=1, threads=0)  # limiting them would import torch
    options = common.parse(p)
    bench = Bench(options)
    cases = []
    for size in (options.small, options.size):
        scene = multispectral(options.work, size, seed=options.seed)
        vector, _ = labels_of(scene, seed=options.seed)
        given = {"scene": str(scene), "vector": str(vector)}
        given["out"] = str(options.work / "split.gpkg")
        cases.append(Case(f"{size}²", sys.executable, "streaming.py", "measure", given))
    bench.compare(cases)
    keys = ("peak_rss", "wall", "statistics", "blocks")
    found = {c.label: {k: bench.median(c.label, k) for k in keys} for c in cases}
    rows = [
        [label, gigabytes(f["peak_rss"]), seconds(f["wall"]), seconds(f["statistics"]), f["blocks"]]
        for label, f in found.items()
    ]
    small, large = (found[c.label]["peak_rss"] for c in cases)
    result = table(["scene", "peak memory", "survey, split", "statistics", "blocks"], rows)
    area = (options.size / options.small) ** 2
    result += f"\n\nThe peak grows {large / small:.2f} times, the area {area:.0f} times."
    title = "Statistics and split of large scenes (goal: under 1 GB)"
    bench.report("streaming", title, result, found | {"growth": large / small, "peak": large})


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2].startswith("{"):
        common.child({"measure": measure})
    else:
        main()
