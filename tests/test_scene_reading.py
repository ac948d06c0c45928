"""Chips: the same as reading every tile by itself, every row read once; threads that end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from geoseg.grid import Grid, Tiling, Window, plan
from geoseg.reading import ahead, chips, normalize
from geoseg.scene import Scene
from geoseg.spec import Scaling
from geoseg.testing import ArrayScene


@dataclass
class Counting:
    """A source that counts how often each pixel is read."""

    scene: ArrayScene
    count: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.count = np.zeros(self.scene.valid.shape, np.int64)

    @property
    def grid(self) -> Grid:
        return self.scene.grid

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        self.count[window.intersection(self.grid.window).slices()] += 1
        return self.scene.read(window)


def array_scene(height: int, width: int, *, seed: int = 0, holes: bool = False) -> ArrayScene:
    rng = np.random.default_rng(seed)
    data = rng.integers(1, 255, (2, height, width)).astype(np.uint8)
    valid = np.ones((height, width), np.bool_)
    if holes:
        valid[: height // 2, : width // 2] = False
        valid &= rng.random((height, width)) > 0.1
    return ArrayScene(data, valid)


@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    size=st.integers(2, 8),
    overlap=st.integers(0, 40),
    fixed=st.booleans(),
    seed=st.integers(0, 3),
)
def test_chips_equal_tiles_read_by_themselves(
    height: int, width: int, size: int, overlap: int, fixed: bool, seed: int
) -> None:
    scene = array_scene(height, width, seed=seed, holes=True)
    tiling = Tiling(8 * size, min(overlap, 8 * size - 8), 8, fixed=fixed)
    rng = np.random.default_rng(seed)
    layout = plan(scene.grid, tiling, keep=lambda _: bool(seed == 0 or rng.random() < 0.5))
    source = Counting(scene)
    made = list(chips(source, layout))
    expected = list(scene.chips(layout))
    assert [c.tile for c in made] == [c.tile for c in expected]
    for a, b in zip(made, expected, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
        np.testing.assert_array_equal(a.valid, b.valid)
    # Once, and nothing that no tile needs.
    needed = np.zeros_like(source.count)
    for tile in layout.tiles:
        needed[tile.read.intersection(scene.grid.window).slices()] = 1
    np.testing.assert_array_equal(source.count, needed)


def test_chips_own_their_pixels() -> None:
    scene = array_scene(64, 32)
    made = chips(scene, plan(scene.grid, Tiling(16, 8, 8)))
    first = next(made)
    before = first.data.copy()
    list(made)
    np.testing.assert_array_equal(first.data, before)


def test_blocks_of_a_file_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time and GDAL's cache cannot be asserted; the rows that are asked of the file can."""
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": 300, "height": 500, "count": 3, "dtype": "uint8"}
    transform = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    with rasterio.open(path, "w", crs="EPSG:32610", transform=transform, **profile) as f:
        f.write(np.random.default_rng(0).integers(1, 255, (3, 500, 300)).astype(np.uint8))
    for gsd, spare in [(None, 0), (0.8, 2)]:
        with Scene.open(path, gsd=gsd) as scene:
            rows = np.zeros(500, int)
            read = scene.raster.read

            def count(window: Window) -> Any:
                rows[window.row : window.row_stop] += 1  # noqa: B023  used in this turn only
                return read(window)  # noqa: B023

            monkeypatch.setattr(scene.raster, "read", count)
            layout = plan(scene.grid, Tiling(64, 32, 8))
            made = list(chips(scene, layout))
            assert len(made) == len(layout)
            assert rows.min() == 1
            # Resampled, the row at a seam counts for both sides.
            assert rows.sum() - 500 <= spare * len(layout.rows)


def threads() -> int:
    return sum(t.name == "geoseg-ahead" for t in threading.enumerate())


def test_ahead_gives_the_same_items() -> None:
    assert list(ahead(iter(range(100)), depth=3)) == list(range(100))
    assert list(ahead([])) == []
    assert threads() == 0


def test_ahead_works_in_advance_but_not_without_bound() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(50):
            made.append(i)
            yield i

    stream = ahead(items(), depth=2)
    assert next(stream) == 0
    time.sleep(0.1)
    assert 2 <= len(made) <= 4
    stream.close()
    assert len(made) <= 4
    assert threads() == 0


def test_ahead_passes_exceptions_on() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    stream = ahead(items())
    assert next(stream) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(stream)
    assert threads() == 0


def test_an_interrupt_does_not_wait_for_the_item_at_hand() -> None:
    """Who is told to end may be killed soon, and has files to remove before."""
    begun, go_on = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        begun.set()
        go_on.wait(30)
        yield 1

    def interrupt() -> None:
        begun.wait(30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    stream = ahead(items())
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert threads() == 1
    go_on.set()
    stream.close()
    assert threads() == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, GeneratorExit])
def test_ahead_ends_with_its_consumer(error: type[BaseException]) -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    def consume() -> None:
        for _ in ahead(items()):
            raise error

    with pytest.raises(error):
        consume()
    assert closed.wait(5)
    assert threads() == 0


@given(
    dtype=st.sampled_from(["uint8", "int16", "uint16", "int32", "float32", "float64"]),
    clip=st.sampled_from([None, (10.0, 200.0), (0.0, 1.0)]),
    offset=st.floats(-500, 500),
    scale=st.floats(0.1, 500),
    seed=st.integers(0, 100),
)
def test_normalize_is_the_formula(
    dtype: str, clip: tuple[float, float] | None, offset: float, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 255, (2, 9, 11)).astype(dtype)
    valid = rng.random((9, 11)) > 0.3
    if np.dtype(dtype).kind == "f":
        data[:, ~valid] = np.nan
    scaling = Scaling((offset, 1.0), (scale, 2.0), clip)
    values = np.clip(data.astype(float), *clip) if clip else data.astype(float)
    expected = (values - [[[offset]], [[1.0]]]) / [[[scale]], [[2.0]]]
    expected[:, ~valid] = 0
    out = np.empty((2, 9, 11), np.float32)
    made = normalize(data, valid, scaling, out)
    assert made is out
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5 * (1 + abs(offset)) / scale)
    np.testing.assert_array_equal(normalize(data[:, ::2, 1:], valid[::2, 1:], scaling),
                                  out[:, ::2, 1:])  # fmt: skip


def test_normalize_wants_a_scaling_for_each_band() -> None:
    with pytest.raises(ValueError, match="3 bands"):
        normalize(np.zeros((3, 2, 2)), np.ones((2, 2), np.bool_), Scaling((0.0,), (1.0,)))
