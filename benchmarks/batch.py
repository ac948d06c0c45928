"""geoseg batch: engines side by side, what a scene costs beside its prediction, growth.

Part a: an archive of `--scenes` scenes of `--size` pixels by buildings-v1, with each engine.
Part b: small scenes by a network of one convolution: `batch` against `predict` in a loop, in both
        cases with a model that stays loaded; the difference is the cost of a scene in a batch.
Part c: 100, 1,000 and 10,000 scenes whose prediction is left out: what enrolling, ledger, events,
        report and catalog cost for each, how long a run takes that has nothing to do, and the peak
        memory of the process that runs the batch.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import common
from common import Bench, Case, gigabytes, seconds, table, timed

SMALL = 96  # pixels, edge of the scenes of parts b and c


def archive(folder: Path, scenes: int, size: int) -> Path:
    """Scenes side by side, of real imagery; made once."""
    import rasterio
    from affine import Affine

    made = folder / f"archive-{scenes}-{size}"
    if made.exists():
        return made
    part = made.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for number in range(scenes):
        with rasterio.open(common.scene(folder, size, seed=number)) as source:
            where = source.transform @ Affine.translation(size * number, 0)
            profile = {**source.profile, "transform": where}
            with rasterio.open(part / f"s{number:05}.tif", "w", **profile) as out:
                out.write(source.read())
    part.rename(made)
    return made


# In the measured process ------------------------------------------------------------------------


def engine(source: str, out: str, model: str, engine: str, workers: int | None) -> dict[str, Any]:
    from geoseg.batch.run import batch

    shutil.rmtree(out, ignore_errors=True)
    result: dict[str, Any] = {}
    how = {"device": "cpu", "precision": "float32", "engine": engine, "workers": workers}
    with timed(result):
        done = batch(source, out, model=model, **how)
    return result | {"scenes": done.done, "polygons": done.polygons}


def loop(source: str, out: str, model: str, batched: bool) -> dict[str, Any]:
    """Seconds of all scenes but the first, which loads the model."""
    from geoseg.batch.run import batch
    from geoseg.loaded import Loaded
    from geoseg.predict import predict

    shutil.rmtree(out, ignore_errors=True)
    result: dict[str, Any] = {}
    scenes = sorted(Path(source).iterdir())
    loaded = Loaded(model)
    how: dict[str, Any] = {"device": "cpu", "precision": "float32"}
    predict(scenes[0], Path(out) / "first.gpkg", model=loaded, **how)
    with timed(result):
        if batched:
            batch(source, Path(out) / "batch", model=model, **how)
        else:
            for scene in scenes:
                predict(scene, Path(out) / f"{scene.stem}.gpkg", model=loaded, **how)
    return result | {"scenes": len(scenes)}


def growth(out: str, model: str, scenes: int) -> dict[str, Any]:
    """A batch whose workers say at once that they are done."""
    from geoseg.batch import work
    from geoseg.batch.outcome import Outcome
    from geoseg.batch.run import batch

    shutil.rmtree(out, ignore_errors=True)
    Path(out).mkdir(parents=True)
    listed = Path(out) / "scenes.txt"
    listed.write_text("".join(f"/archive/s{i:05}.tif\n" for i in range(scenes)))
    ring = [[13, 52], [13.1, 52], [13.1, 52.1], [13, 52.1], [13, 52]]
    done = Outcome(
        "done",
        polygons={"house": 7},
        seconds=1.0,
        started="2026-01-01T00:00:00+00:00",
        footprint={"type": "Polygon", "coordinates": [ring]},
        about={"crs": "EPSG:32633", "shape": [SMALL, SMALL], "gsd": 0.3},
    )
    work.Work.__call__ = lambda self, item: done  # type: ignore[method-assign]
    result: dict[str, Any] = {}
    again: dict[str, Any] = {}
    with timed(result):
        batch(listed, Path(out) / "batch", model=model)
    with timed(again):
        batch(listed, Path(out) / "batch", model=model)
    return result | {"again": again["wall"]}


# In the process that compares -------------------------------------------------------------------


def part_a(bench: Bench, options: Any) -> None:
    source = archive(options.work, options.scenes, options.size)
    how = [("serial", None), ("processes", options.workers), ("dask", options.workers)]
    cases = []
    for name, workers in how:
        given = {"source": str(source), "out": str(options.work / "batch"), "model": "buildings-v1"}
        given |= {"engine": name, "workers": workers}
        label = name if workers is None else f"{name}, {workers} workers"
        cases.append(Case(label, sys.executable, "batch.py", "engine", given))
    bench.compare(cases)
    rows = []
    for case in cases:
        wall = bench.median(case.label, "wall")
        rate = f"{bench.median(case.label, 'scenes') / wall:.3g}"
        polygons = int(bench.median(case.label, "polygons"))
        peak = gigabytes(bench.median(case.label, "peak_rss"))
        rows.append([case.label, seconds(wall), rate, polygons, peak])
    text = table(
        ["engine", "time", "scenes a second", "polygons", "peak of the run's process"], rows
    )
    title = f"{options.scenes} scenes of {options.size}² by buildings-v1, with each engine"
    bench.report(
        "batch-engines", title, text, {c.label: bench.median(c.label, "wall") for c in cases}
    )


def part_b(bench: Bench, options: Any, model: str) -> None:
    count = 200
    source = archive(options.work, count, SMALL)
    given = {"source": str(source), "out": str(options.work / "batch"), "model": model}
    cases = [
        Case(label, sys.executable, "batch.py", "loop", {**given, "batched": batched})
        for label, batched in (("predict in a loop", False), ("batch", True))
    ]
    bench.compare(cases)
    walls = [bench.median(c.label, "wall") / count * 1e3 for c in cases]
    rows = [[c.label, f"{w:.1f} ms"] for c, w in zip(cases, walls, strict=True)]
    text = table(["", "a scene"], rows)
    text += f"\n\nA scene of a batch costs {walls[1] - walls[0]:.1f} ms more."
    title = f"What a batch costs beside predict: {count} scenes of {SMALL}², one convolution"
    bench.report("batch-overhead", title, text, {"ms": walls})


def part_c(bench: Bench, options: Any, model: str) -> None:
    sizes = (100, 1_000, 10_000)
    given = {"out": str(options.work / "batch"), "model": model}
    cases = [
        Case(f"{n:,}", sys.executable, "batch.py", "growth", {**given, "scenes": n}) for n in sizes
    ]
    bench.compare(cases)
    rows = []
    for case, n in zip(cases, sizes, strict=True):
        wall, again = bench.median(case.label, "wall"), bench.median(case.label, "again")
        peak = bench.median(case.label, "peak_rss")
        each = f"{wall / n * 1e3:.2f} ms"
        rows.append([case.label, seconds(wall), each, seconds(again), f"{peak / 1e6:.0f} MB"])
    text = table(["scenes", "all", "a scene", "nothing to do", "peak memory"], rows)
    bench.report("batch-growth", "A ledger that grows; scenes are not predicted", text, {})


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--part", default="abc", help="a, b, c, or several")
    p.add_argument("--scenes", type=int, default=16, help="of part a")
    p.add_argument("--workers", type=int, default=2, help="of part a")
    p.set_defaults(size=1024, threads=0)
    options = common.parse(p)
    sys.path.insert(0, str(common.REPO / "tests"))
    from models import bright_bundle

    model = options.work / "bright"
    if not model.exists():
        bright_bundle(model)
    for part in options.part:
        started = time.perf_counter()
        bench = Bench(options)
        if part == "a":
            part_a(bench, options)
        else:
            {"b": part_b, "c": part_c}[part](bench, options, str(model))
        print(f"part {part}: {time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2].startswith("{"):
        common.child({"engine": engine, "loop": loop, "growth": growth})
    else:
        main()
