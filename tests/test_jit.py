"""Kernels compile whatever their cache is: nowhere to be, in the way, full, or damaged."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import pytest
from numba.core.caching import IndexDataCacheFile

from geoseg.jit import jit

KERNELS = "reading stitch sinks.raster scene.resample vectorize.kernel vectorize.measure".split()
SOURCE = "from geoseg.jit import jit\n@jit\ndef add(x):\n    return x + {}\n"


@pytest.fixture(autouse=True)
def cache_beside_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")


def kernel(folder: Path, what: str = "1") -> Any:
    """A kernel as a run that starts now has it: `add(x)`, x + what."""
    path = folder / "kernels.py"
    path.write_text(SOURCE.format(what))
    spec = importlib.util.spec_from_file_location("kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.add


def hits(add: Any) -> int:
    return sum(add.stats.cache_hits.values())


def cached(folder: Path) -> list[Path]:
    return [p for p in (folder / "__pycache__").glob("*.nb?") if p.stem.startswith("kernels.add")]


def test_the_cache_is_used(tmp_path: Path) -> None:
    first, second = kernel(tmp_path), kernel(tmp_path)
    assert first(2) == second(2) == 3
    assert (hits(first), hits(second)) == (0, 1)
    assert len(cached(tmp_path)) == 2


def test_no_place_for_a_cache() -> None:
    """A read-only install and no home that can be written."""
    code = (
        "from numba.core.caching import CacheImpl; CacheImpl._locator_classes = []\n"
        f"import {', '.join(f'geoseg.{name}' for name in KERNELS)}\n"
        "import numpy as np\n"
        "from geoseg.vectorize.kernel import count_runs\n"
        "print(count_runs(np.eye(3, dtype=np.uint8)))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_a_cache_that_goes_away(tmp_path: Path) -> None:
    add = kernel(tmp_path)
    (tmp_path / "__pycache__").rename(tmp_path / "gone")
    (tmp_path / "__pycache__").write_text("a file in its place")
    assert add(2) == 3


def test_a_full_disk_leaves_no_old_code_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernel(tmp_path)(2) == 3  # the older version, whose code stays on the disk

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(IndexDataCacheFile, "_save_data", full)
        assert kernel(tmp_path, "100")(2) == 102
    assert kernel(tmp_path, "100")(2) == 102


@pytest.mark.parametrize("left", [b"", b"no pickle", b"\x80\x04"])
def test_a_damaged_cache_is_mended(tmp_path: Path, left: bytes) -> None:
    kernel(tmp_path)(2)
    for path in cached(tmp_path):
        path.write_bytes(left)
    assert kernel(tmp_path)(2) == 3
    kernel(tmp_path)(2)
    last = kernel(tmp_path)
    assert last(2) == 3
    assert hits(last) == 1


def test_options_reach_the_compiler() -> None:
    @jit(error_model="numpy")
    def divide(a: float, b: float) -> float:
        return a / b

    assert divide(1.0, 0.0) == float("inf")
