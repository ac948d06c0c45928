"""What the benchmarks share: scenes made by code, fresh processes that alternate, tables.

Every measurement is a process of its own (`child` in it, `Bench` starts it), so that peak memory
is that of one case and nothing is warm for the second. A round runs every case once; the figures
are medians over the rounds. The time of a case is that of the call alone, after the imports.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPO = HERE.parent
SAMPLE = REPO / "tests" / "data" / "banepa.tif"
MARK = "RESULT "
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "GEOSEG_BENCHMARK_THREADS",
)


# Scenes -----------------------------------------------------------------------------------------


def scene(
    folder: Path,
    size: int,
    *,
    gsd: float = 0.3,
    seed: int = 0,
    source: Path = SAMPLE,
    **profile: Any,
) -> Path:
    """A GeoTIFF of size x size pixels of `gsd` metres, made of `source` (real imagery) and a seed.

    The picture is read at `gsd`, mirrored without a seam until it is large enough, and begins at
    a place that the seed chooses. Tiles of 512, deflate, unless `profile` says otherwise. Made
    once: what lies in `folder` is taken as it is.
    """
    import numpy as np
    import rasterio

    options = {"compress": "deflate", "tiled": True, "blockxsize": 512, "blockysize": 512} | profile
    key = "-".join(str(v) for v in (size, gsd, seed, source.stem, *options.values()))
    path = folder / f"scene-{key}.tif"
    if path.exists():
        return path
    picture = _picture(source, gsd)
    _, height, width = picture.shape
    first_row, first_col = np.random.default_rng(seed).integers(0, (2 * height, 2 * width))
    cols = _mirrored(np.arange(first_col, first_col + size), width)
    part = path.with_suffix(".part")
    with rasterio.open(
        part,
        "w",
        driver="GTiff",
        count=3,
        height=size,
        width=size,
        dtype="uint8",
        crs="EPSG:32645",
        transform=_transform(size, gsd),
        photometric="RGB",
        bigtiff="IF_SAFER",
        **options,
    ) as out:
        for row in range(0, size, 512):
            stop = min(row + 512, size)
            rows = _mirrored(np.arange(first_row + row, first_row + stop), height)
            band = picture[:, rows][:, :, cols]
            out.write(band, window=rasterio.windows.Window(0, row, size, stop - row))
    part.rename(path)
    return path


def _transform(size: int, gsd: float) -> Any:
    """Pixels of `gsd` metres, such that GDAL's own computation finds the very same.

    torchgeo warps a raster where that differs in the last digit, which would make it slow here.
    """
    from affine import Affine
    from rasterio.transform import array_bounds
    from rasterio.warp import calculate_default_transform

    transform = Affine(gsd, 0, 350_000, 0, -gsd, 3_060_000)
    for _ in range(10):
        bounds = array_bounds(size, size, transform)
        found, _, _ = calculate_default_transform("EPSG:32645", "EPSG:32645", size, size, *bounds)
        if found == transform:
            break
        transform = found
    return transform


def _picture(source: Path, gsd: float) -> Any:
    """(3, H, W) uint8 of `source` at `gsd` metres per pixel."""
    import math

    import rasterio
    from rasterio.enums import Resampling

    with rasterio.open(source) as raster:
        pixel = raster.res[0]
        if raster.crs and raster.crs.to_epsg() == 3857:
            middle = (raster.bounds.top + raster.bounds.bottom) / 2
            pixel /= math.cosh(middle / 6378137)
        shape = (round(raster.height * pixel / gsd), round(raster.width * pixel / gsd))
        return raster.read((1, 2, 3), out_shape=(3, *shape), resampling=Resampling.average)


def _mirrored(index: Any, length: int) -> Any:
    """Indexes that go forth and back over 0..length."""
    import numpy as np

    index = index % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)


# In the measured process ------------------------------------------------------------------------


def child(cases: Mapping[str, Callable[..., dict[str, Any] | None]]) -> None:
    """Main of a measured process: argv is the name of a case and its arguments as JSON.

    An argument `warm` is a small scene, on which the case is run before it is measured, so that
    imports and other first-time costs are left out.
    """
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    if os.environ.get("GEOSEG_BENCHMARK_THREADS"):
        limit_threads(int(os.environ["GEOSEG_BENCHMARK_THREADS"]))
    warm = arguments.pop("warm", None)
    if warm:
        cases[name](**{**arguments, "scene": warm})
    result = cases[name](**arguments)
    result["peak_rss"] = _peak()
    print(MARK + json.dumps(result), flush=True)


@contextmanager
def timed(result: dict[str, Any]) -> Iterator[None]:
    """Puts seconds of the block into `result`: `wall`; `cpu` of all threads and children; the
    part of it that was spent in the `kernel` (page faults, reading, writing)."""
    wall, (cpu, kernel) = time.perf_counter(), _cpu()
    yield
    result["wall"] = time.perf_counter() - wall
    result["cpu"], result["kernel"] = _cpu()[0] - cpu, _cpu()[1] - kernel


def limit_threads(count: int) -> None:
    """The libraries that do not look at OMP_NUM_THREADS."""
    import torch

    torch.set_num_threads(count)


def _cpu() -> tuple[float, float]:
    own, children = (
        resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    kernel = own.ru_stime + children.ru_stime
    return own.ru_utime + children.ru_utime + kernel, kernel


def _peak() -> int:
    """Bytes. (ru_maxrss would count what the parent held when it forked.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# In the process that compares -------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One side of a comparison: `script` is run by `python` with a case's name and arguments."""

    label: str
    python: str
    script: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Bench:
    """Runs cases in turn and keeps what they measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.threads, self.cores = options.threads, options.cores
        self.rounds, self.out, self.work = options.rounds, options.out, options.work
        self.runs: dict[str, list[dict[str, Any]]] = {}

    def compare(self, cases: Sequence[Case]) -> None:
        """All cases once a round."""
        for i in range(self.rounds):
            for case in cases:
                run = self._run(case)
                self.runs.setdefault(case.label, []).append(run)
                shown = ", ".join(f"{k} {_short(v)}" for k, v in run.items())
                print(f"  {i + 1}/{self.rounds} {case.label}: {shown}", file=sys.stderr, flush=True)

    def prepare(self, case: Case) -> None:
        """Run a case without keeping its figures."""
        self._run(case)

    def median(self, label: str, key: str) -> float:
        return statistics.median(run[key] for run in self.runs[label])

    def spread(self, label: str, key: str) -> tuple[float, float]:
        values = [run[key] for run in self.runs[label]]
        return min(values), max(values)

    def _run(self, case: Case) -> dict[str, Any]:
        command = [case.python, str(HERE / case.script), case.name, json.dumps(case.arguments)]
        if self.cores and shutil.which("taskset"):
            command = ["taskset", "-c", self.cores, *command]
        env = (
            os.environ
            | dict.fromkeys(THREADS if self.threads else (), str(self.threads))
            | {
                "PYTHONWARNINGS": "ignore",
                "GEOSEG_HOME": str(self.work / "home"),  # what geoseg remembers of this machine
            }
        )
        started = time.perf_counter()
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        process = time.perf_counter() - started
        lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
        if done.returncode or not lines:
            raise SystemExit(f"{case.label} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return {**json.loads(lines[-1].removeprefix(MARK)), "process": process}

    def report(self, name: str, title: str, table: str, figures: Mapping[str, Any]) -> None:
        """Prints the table; writes NAME.json and NAME.md."""
        about = machine() | {"threads": self.threads or "free", "cores": self.cores or "all"}
        text = f"### {title}\n\n{table}\n\n{_line(about)}; median of {self.rounds}.\n"
        self.out.mkdir(parents=True, exist_ok=True)
        record = {"title": title, "machine": about, "figures": figures, "runs": self.runs}
        (self.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        (self.out / f"{name}.md").write_text(text)
        print(text)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(_short(cell) for cell in line) + " |" for line in lines)


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = found[0].split(":")[1].strip() if found else model
    return {
        "cpu": f"{model}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "load": f"{os.getloadavg()[0]:.1f} at the end",
    }


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    p = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--peers-python", help="interpreter of the environment with the peers")
    p.add_argument("--size", type=int, default=8192, help="edge of the scene in pixels")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=1, help="of the libraries; 0 = as they like")
    p.add_argument("--cores", default="", help="CPUs to run on, as for taskset: 0 or 0,1")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "geoseg-benchmarks",
        help="folder for scenes (kept) and outputs",
    )
    p.add_argument("--out", type=Path, default=HERE / "results", help="folder for JSON and tables")
    return p


def parse(p: argparse.ArgumentParser) -> argparse.Namespace:
    options = p.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def seconds(value: float) -> str:
    return f"{value:.2f} s"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _line(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}: {v}" for k, v in about.items())
