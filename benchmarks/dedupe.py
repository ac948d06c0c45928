"""geoseg batch --dedupe: time and peak memory as an archive grows.

Square mosaics of scenes of 1000 m that overlap by 100 m, of which the polygons lie on disk as a
batch leaves them: about 270 round ones a scene. Only the dataset is made, of all scenes, with and
without --dedupe; each run is a process of its own. Goal: time in proportion to the polygons, and
memory with the scenes that a line across the mosaic meets, not with all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIDE, STEP, SPACING = 1000.0, 900.0, 60.0  # metres
EAST, NORTH = 400_000.0, 5_000_000.0


def make(folder: Path, across: int) -> None:
    """A folder as geoseg batch leaves it, of across² scenes."""
    import geopandas as gpd
    import numpy as np
    import shapely

    from geoseg.batch.items import Item
    from geoseg.batch.ledger import NAME, Ledger
    from geoseg.batch.outcome import Outcome, Output
    from geoseg.sinks import VectorSink
    from geoseg.vectorize.measure import area_perimeter

    (folder / "polygons").mkdir(parents=True)
    count = int((across * STEP + SIDE) / SPACING)
    rng = np.random.default_rng(0)
    middles = np.indices((count, count)).reshape(2, -1).T + rng.uniform(0.3, 0.7, (count**2, 2))
    discs = shapely.buffer(
        shapely.points(middles * SPACING + (EAST, NORTH)), rng.uniform(4, 24, count**2)
    )
    tree = shapely.STRtree(discs)
    with Ledger.open(folder / NAME) as ledger:
        ledger["config"] = {}
        for i in range(across**2):
            x, y = EAST + STEP * (i % across), NORTH + STEP * (i // across)
            ground = shapely.box(x, y, x + SIDE, y + SIDE)
            shapes = shapely.intersection(discs[tree.query(ground, "intersects")], ground)
            frame = gpd.GeoDataFrame({"class": ["disc"] * len(shapes)}, geometry=shapes, crs=32633)
            frame["class_id"] = 1
            frame["confidence"] = frame["confidence_min"] = np.float32(0.9)
            frame["area_m2"], frame["perimeter_m"] = area_perimeter(shapes, frame.crs)
            name = f"s{i:06}"
            path = f"polygons/{name}.parquet"
            with VectorSink.open(folder / path, crs=frame.crs) as sink:
                sink.write(frame)
            ledger.enroll([Item(name, name)])
            about = {"crs": "EPSG:32633", "gsd": 0.3}
            outputs = (Output("polygons", path, 0, ""),)
            counts: dict[str, Any] = {"polygons": {"disc": len(frame)}, "outputs": outputs}
            ledger.finish(name, Outcome("done", valid=ground.wkt, about=about, **counts))


def child(folder: Path, dedupe: bool) -> dict[str, Any]:
    """One dataset; seconds, and megabytes at most over those after the imports."""
    from geoseg.batch.dataset import write_dataset
    from geoseg.batch.ledger import NAME, Ledger

    before = peak()
    start, cpu = time.perf_counter(), time.process_time()
    with Ledger.open(folder / NAME, create=False) as ledger:
        out = folder / "all.parquet"
        count = write_dataset(out, ledger, folder, metadata={}, dedupe=dedupe, bucket=16 << 20)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"polygons": count, "seconds": seconds, "cpu": cpu, "MB": peak() - before}


def peak() -> float:
    """Megabytes; of this process only, while getrusage goes on with those of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--across", type=int, nargs="+", default=[10, 20, 40])
    p.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--dedupe", action="store_true", help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.child is not None:
        print(json.dumps(child(options.child, options.dedupe)))
        return
    print("| scenes | dedupe | polygons | seconds | CPU seconds | MB |\n|---|---|---|---|---|---|")
    for across in options.across:
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work, "out")
            make(folder, across)
            for dedupe in (False, True):
                command = [sys.executable, __file__, "--child", str(folder)]
                run = subprocess.run(
                    [*command, *["--dedupe"] * dedupe], check=True, capture_output=True, text=True
                )
                found = json.loads(run.stdout)
                cells = (
                    across**2,
                    dedupe,
                    found["polygons"],
                    *(round(found[k], 1) for k in ("seconds", "cpu", "MB")),
                )
                print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
