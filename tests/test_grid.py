"""Tiles over grids: the write windows partition every grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from affine import Affine
from hypothesis import assume, given
from hypothesis import strategies as st

from geoseg.errors import UsageError
from geoseg.grid import Grid, Tiling, Window, plan


def grid(height: int, width: int) -> Grid:
    return Grid(None, Affine.identity(), height, width)


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    stride = draw(st.sampled_from([1, 2, 4, 8]))
    size = stride * draw(st.integers(1, 16))
    overlap = draw(st.integers(0, size - 1))
    assume(-(-overlap // stride) * stride < size)
    kind = draw(st.sampled_from([{}, {"fixed": True}, {"exact": True}]))
    return Tiling(size, overlap, stride, **kind)


@given(st.integers(1, 150), st.integers(1, 150), tilings())
def test_write_windows_partition_the_grid(height: int, width: int, tiling: Tiling) -> None:
    owners = np.zeros((height, width), int)
    tiles = plan(grid(height, width), tiling)
    for tile in tiles.tiles:
        assert tile.write.intersection(tile.read) == tile.write
        owners[tile.write.slices()] += 1
        assert (tile.read.height, tile.read.width) == tiles.tile_shape
        assert tile.read.row % tiling.stride == tile.read.col % tiling.stride == 0
        assert tile.read.row >= 0
        assert tile.read.col >= 0
    assert (owners == 1).all()


@given(st.integers(1, 3000), tilings())
def test_neighbours_share_at_least_the_overlap(length: int, tiling: Tiling) -> None:
    tiles = list(plan(grid(1, length), tiling).tiles)
    for left, right in itertools.pairwise(tiles):
        assert left.read.col_stop - right.read.col >= tiling.overlap
        assert left.read.col < right.read.col
    beyond = tiles[-1].read.col_stop - length
    if not tiling.fixed:
        assert beyond < tiling.stride


@pytest.mark.parametrize("length", [4096, 5000, 8192, 10980, 20000, 32768, 100_000])
def test_few_pixels_are_computed_twice_by_default(length: int) -> None:
    tiles = plan(grid(length, length), Tiling())
    computed = sum(t.read.pixels for t in tiles.tiles)
    assert computed / length**2 <= 1.25


def test_keep_leaves_tiles_out() -> None:
    wanted = Window(0, 0, 10, 10)
    tiles = plan(grid(100, 100), Tiling(32, 8, 1), keep=lambda w: w.intersection(wanted).pixels > 0)
    assert [t.read.row for t in tiles.tiles] == [0]
    assert len(tiles.rows) > 1


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"size": 16, "overlap": 0, "stride": 32}, "smaller than the model's stride"),
        ({"size": 100, "overlap": 0, "stride": 32}, "take 96 or 128"),
        ({"size": 64, "overlap": 64, "stride": 32}, "smaller overlap or a larger tile"),
        ({"size": 64, "overlap": -1, "stride": 32}, "negative"),
        ({"size": 64, "overlap": 0, "stride": 0}, "stride"),
    ],
)
def test_senseless_tilings_are_refused(kwargs: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Tiling(**kwargs)
