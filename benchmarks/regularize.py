"""Outlines of buildings against the truth, before and after they are regularized.

Places are folders with image.tif and buildings.gpkg (labels); of each the outlines are taken
a) from the labels rasterized at 0.3 m: how well the outline alone comes back,
b) from a model's prediction, for buildings that it found (IoU of 0.5 with a label).

Sides: as they are, Douglas-Peucker, geoseg.regularize (which knows which polygons touch) and, with
--peers-python, buildingregulariser. Goals: thousands of polygons a second, at least as near to the
truth as the peer, no overlaps.
"""

from __future__ import annotations

import sys
from pathlib import Path

import common
from common import REPO, Bench, Case, table

SIDES = {  # label: case, its arguments
    "pixels": ("pixels", {}),
    "Douglas-Peucker 0.75 m": ("douglas", {"tolerance": 0.75}),
    "geoseg 0.5 m": ("geoseg", {"tolerance": 0.5}),
    "geoseg 0.75 m": ("geoseg", {"tolerance": 0.75}),
    "geoseg 1 m": ("geoseg", {"tolerance": 1.0}),
    "buildingregulariser, defaults": ("buildingregulariser", {"tolerance": 0.5}),
    "buildingregulariser 0.75 m": ("buildingregulariser", {"tolerance": 0.75}),
    "buildingregulariser 1 m": ("buildingregulariser", {"tolerance": 1.0}),
}
HEADER = (
    "outlines,polygons,a second,IoU,worst 5 %,Hausdorff,median,vertices,right angles,overlaps,lost"
)


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("places", nargs="*", type=Path, default=[REPO / "tests" / "data"])
    p.add_argument("--model", default="buildings-v1")
    options = common.parse(p)
    bench, rows = Bench(options), []
    for place in options.places:
        for kind in ("truth", "model"):
            rows += _place(bench, options, place, kind)
    bench.report("regularize", "Outlines against the truth", table(HEADER.split(","), rows), {})


def _place(
    bench: Bench, options: common.argparse.Namespace, place: Path, kind: str
) -> list[list[object]]:
    source = str(options.work / f"houses-{place.name}-{kind}.npz")
    given = {"place": str(place), "out": source, "model": options.model}
    bench.prepare(Case("prepare", sys.executable, "houses.py", kind, given))
    cases, outs = [], {}
    for side, (case, arguments) in SIDES.items():
        peer = case == "buildingregulariser"
        if peer and not options.peers_python:
            continue
        label = f"{place.name}, {kind}: {side}"
        outs[label] = str(options.work / f"houses-{case}-{arguments.get('tolerance')}.npz")
        python = options.peers_python if peer else sys.executable
        cases.append(
            Case(
                label, python, "houses.py", case, {"file": source, "out": outs[label], **arguments}
            )
        )
    bench.compare(cases)
    rows: list[list[object]] = []
    for label, out in outs.items():
        score = {"file": source, "out": out}
        got = bench._run(Case(label, sys.executable, "houses.py", "score", score))
        rate = bench.runs[label][0]["polygons"] / max(bench.median(label, "cpu"), 1e-9)
        rows.append(
            [
                label,
                f"{got['polygons']} of {bench.runs[label][0]['polygons']}",
                f"{rate:,.0f}" if "pixels" not in label else "",
                *(f"{got[k]:.4f}" for k in ("iou", "iou_5")),
                *(f"{got[k]:.3f} m" for k in ("hausdorff", "hausdorff_median")),
                f"{got['vertices']:.1f}",
                f"{100 * got['right']:.0f} %",
                f"{got['overlap']:.2f} m²",
                got["lost"],
            ]
        )
    return rows


if __name__ == "__main__":
    main()
