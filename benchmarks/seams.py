"""Do the tiles show? Jumps of the probability across their edges, over the same elsewhere.

Edges are those of the write windows and of the read windows. A jump is the mean absolute
difference of neighbouring pixels across a line; it is compared with the lines of the same pixels
that lie whole strides of the network away (up-sampling has a rhythm of its own). Blending with
the default overlap, crop mode, and no overlap at all. Goal: at most 1.02 by default.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import REPO, Bench, Case, table

TRAINED = REPO / "geoseg" / "bundles" / "buildings-v1"
MODES: dict[str, dict[str, Any]] = {
    "blend, default overlap": {},
    "crop, default overlap": {"stitch": "crop"},
    "no overlap": {"overlap": 0},
}
SEGMENT = 64  # pixels of a line that are one sample of the bootstrap


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--bundle", type=Path, default=TRAINED, help="folder of the model")
    p.add_argument("--scene", help="a scene of your own, instead of a made one")
    p.add_argument("--tile", type=int, help="edge of the tiles, instead of the planner's choice")
    options = common.parse(p)
    options.rounds = 1  # nothing is timed
    bench = Bench(options)
    from geoseg.bundle import Bundle

    spec = Bundle.open(options.bundle).spec
    scene = options.scene or str(
        common.scene(options.work, options.size, gsd=spec.gsd, seed=options.seed)
    )
    rows, figures = [], {}
    for name, mode in MODES.items():
        given = dict(mode) | ({"tile": options.tile} if options.tile else {})
        if given.get("overlap") == 0 and "tile" not in given:
            given["tile"] = spec.tiling.size
        out = options.work / "seams.tif"
        bench.prepare(
            Case(
                name,
                sys.executable,
                "ours.py",
                "predict",
                {
                    "scene": scene,
                    "bundle": str(options.bundle),
                    "out": None,
                    "probabilities": str(out),
                    **given,
                },
            )
        )
        found = measure(out, scene, spec, given)
        figures[name] = found
        rows.append(
            [name, found["tile"], found["lines"]]
            + [shown(found[kind]) if kind in found else "" for kind in ("all", "write", "read")]
        )
    header = ["", "tile", "edges", "all edges", "write windows", "read windows"]
    where = Path(options.scene).name if options.scene else f"{options.size}² pixels"
    title = f"Seams, {where}, {options.bundle.name} (goal: 1.02)"
    note = "\n\nIn brackets: 95 % of a bootstrap over pieces of the edges."
    bench.report("seams", title, table(header, rows) + note, figures)


def measure(path: Path, scene: str, spec: Any, given: dict[str, Any]) -> dict[str, Any]:
    import rasterio

    from geoseg.options import PredictOptions
    from geoseg.predict import lay_tiles, open_scene

    opts = PredictOptions.of(given)
    with open_scene(scene, spec, opts) as source:
        plan = lay_tiles(source, spec, opts, None)
    with rasterio.open(path) as source:
        data = source.read(1)
        p = np.where(data == source.nodata, np.nan, data * np.float32(source.scales[0]))
    samples: dict[str, list[np.ndarray]] = {"write": [], "read": []}
    lines = 0
    for axis, found in ((p, plan.row_spans), (p.T, plan.col_spans)):
        edges = edges_of(found, len(axis))
        every = set().union(*edges.values())
        for kind, places in edges.items():
            for place in sorted(places):
                samples[kind].append(jumps(axis, place, every, spec.tiling.stride))
                lines += 1
    joined = {kind: np.concatenate(parts, axis=1) for kind, parts in samples.items() if parts}
    joined["all"] = np.concatenate(list(joined.values()), axis=1)
    return {
        "tile": "{} x {}".format(*plan.tile_shape),
        "lines": lines,
        **{kind: ratio(*both) for kind, both in joined.items()},
    }


def edges_of(spans: Any, length: int) -> dict[str, set[int]]:
    """First pixel after each edge inside the scene."""
    write = {start for _, _, start, _ in spans}
    read = {at for start, size, *_ in spans for at in (start, start + size)}
    inside = set(range(1, length))
    return {"write": write & inside, "read": (read - write) & inside}


def jumps(p: np.ndarray, place: int, edges: set[int], stride: int) -> np.ndarray:
    """(2, n): jumps across line `place`, and across lines nearby, in pieces of a line."""
    near = (
        [place + k * stride for k in (-4, -3, -2, -1, 1, 2, 3, 4)]
        if stride > 1
        else [place + k for k in range(-40, 41, 8) if k]
    )
    near = [n for n in near if 0 < n < len(p) and n not in edges]
    here = np.abs(p[place] - p[place - 1])
    there = np.mean([np.abs(p[n] - p[n - 1]) for n in near], axis=0)
    usable = np.isfinite(here) & np.isfinite(there)
    pieces = np.arange(len(here)) // SEGMENT
    return np.stack([np.bincount(pieces, np.where(usable, v, 0)) for v in (here, there)])


def shown(found: tuple[float, float, float]) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(*found)


def ratio(here: np.ndarray, there: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the means, and 95 % of its bootstrap."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(here), (1000, len(here)))
    spread = here[picks].sum(axis=1) / there[picks].sum(axis=1)
    low, high = np.quantile(spread, (0.025, 0.975))
    return float(here.sum() / there.sum()), float(low), float(high)


if __name__ == "__main__":
    main()
