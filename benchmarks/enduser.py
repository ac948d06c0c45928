"""What a user feels: seconds from GeoTIFF to polygons (GPKG), same scene and weights, defaults.

geoseg against geoai (predict_geotiff, raster_to_vector) and torchgeo (RasterDataset,
GridGeoSampler with a quarter of overlap, rasterio's shapes). Goal: 3 times faster, and the same
class in 99.9 % of the pixels that lie in one tile only on either side.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import common
from common import REPO, Bench, Case, gigabytes, seconds, table

OURS = "geoseg"
TRAINED = REPO / "geoseg" / "bundles" / "buildings-v1"
# (tile, overlap) of the peers, as peers.py and their defaults have them
TILES = {"geoai": (256, 64), "torchgeo": (512, 128)}


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--bundle", type=Path, default=TRAINED, help="folder of the model")
    p.add_argument("--scene", help="a scene of your own, instead of a made one")
    p.add_argument("--only", default="", help="of the peers, those whose name contains this")
    options = common.parse(p)
    bench = Bench(options)
    from geoseg.bundle import Bundle

    gsd = Bundle.open(options.bundle).spec.gsd
    scene = options.scene or str(
        common.scene(options.work, options.size, gsd=gsd, seed=options.seed)
    )
    given = {"scene": scene, "bundle": str(options.bundle)}
    masks = {OURS: str(options.work / "end-geoseg.tif")}
    cases = [
        Case(
            OURS,
            sys.executable,
            "ours.py",
            "predict",
            given | {"out": str(options.work / "end-geoseg.gpkg")},
        )
    ]
    if options.peers_python:
        for label in TILES:
            if options.only in label:
                masks[label] = str(options.work / f"end-{label}.tif")
                more = {"out": str(options.work / f"end-{label}.gpkg"), "mask": masks[label]}
                cases.append(
                    Case(label, options.peers_python, "peers.py", f"end_{label}", given | more)
                )
    bench.compare(cases)
    # unmeasured: the mask, and in float32
    for precision, name in (("auto", OURS), ("float32", "geoseg float32")):
        masks[name] = str(options.work / f"end-geoseg-{precision}.tif")
        more = {"out": None, "mask": masks[name], "precision": precision}
        bench.prepare(Case(name, sys.executable, "ours.py", "predict", given | more))
    agreement = agreements(scene, options, masks)
    rows, figures = [], {}
    for case in cases:
        x = case.label
        figures[x] = {
            "wall": bench.median(x, "wall"),
            "process": bench.median(x, "process"),
            "cpu": bench.median(x, "cpu"),
            "times": bench.median(x, "wall") / bench.median(OURS, "wall"),
            **agreement.get(x, {}),
        }
        same = agreement.get(x)
        rows.append(
            [
                x,
                seconds(bench.median(x, "wall")),
                seconds(bench.median(x, "process")),
                seconds(bench.median(x, "cpu")),
                gigabytes(bench.median(x, "peak_rss")),
                bench.runs[x][0]["polygons"],
                f"{figures[x]['times']:.2f}",
                f"{same['away']:.4%}" if same else "",
                f"{same['all']:.4%}" if same else "",
            ]
        )
    figures["geoseg in float32"] = agreement["geoseg float32"]
    header = [
        "",
        "call",
        "process",
        "CPU time",
        "peak",
        "polygons",
        "times geoseg",
        "same class",
        "near seams too",
    ]
    where = Path(options.scene).name if options.scene else f"{options.size}² pixels"
    title = f"From GeoTIFF to polygons, {where}, {options.bundle.name} (goal: 3 times; 99.9 %)"
    note = (
        f"\n\ngeoseg ran on {bench.runs[OURS][0]['device']}; in float32 it gives the same class in "
    )
    note += f"{agreement['geoseg float32']['all']:.4%} of all pixels."
    bench.report("enduser", title, table(header, rows) + note, figures)


def agreements(
    scene: str, options: argparse.Namespace, masks: dict[str, str]
) -> dict[str, dict[str, float]]:
    """Share of pixels with geoseg's class: of all, and of those in one tile only on both sides."""
    import numpy as np
    import rasterio

    from geoseg.bundle import Bundle
    from geoseg.options import PredictOptions
    from geoseg.predict import lay_tiles, open_scene

    spec = Bundle.open(options.bundle).spec
    with open_scene(scene, spec, PredictOptions()) as source:
        plan = lay_tiles(source, spec, PredictOptions(), None)
    ours = [
        alone(n, [(s, s + size) for s, size, *_ in spans])
        for n, spans in zip(
            (plan.grid.height, plan.grid.width), (plan.row_spans, plan.col_spans), strict=True
        )
    ]
    classes = {}
    for name, path in masks.items():
        with rasterio.open(path) as source:
            classes[name] = source.read(1)
    result = {}
    for name, found in classes.items():
        if name == OURS or found.shape != classes[OURS].shape:
            continue
        same = found == classes[OURS]
        axes = list(ours)
        if name in TILES:
            tile, overlap = TILES[name]
            axes = [a & alone(len(a), spans(len(a), tile, tile - overlap)) for a in axes]
        away = same[np.ix_(*(np.flatnonzero(a) for a in axes))]
        result[name] = {
            "all": float(same.mean()),
            "away": float(away.mean()),
            "share": away.size / same.size,
        }
    return result


def spans(length: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Tiles along an axis, the last pulled back to the end."""
    starts = range(0, max(1, length - size + stride), stride)
    return [(min(s, max(0, length - size)), min(s + size, length)) for s in starts]


def alone(length: int, tiles: list[tuple[int, int]]) -> Any:
    """(length,) bool: in one tile only."""
    import numpy as np

    count = np.zeros(length, int)
    for start, stop in tiles:
        count[start:stop] += 1
    return count == 1


if __name__ == "__main__":
    main()
