"""Grids, windows, tiles and the plan that lays tiles over a grid: integer mathematics only.

::

     read  |hhhh|wwwwwwwwwwwwww|hhhh|         h = halo: context, shared with the neighbour
                    read  |hhhh|wwwwwwwwwwwwww|hhhh|
     write      |wwwwwwwwwwwwww|wwwwwwwwwwwwww|   write windows partition the grid

Every tile is read with its halo and owns its write window. Reads start on multiples of the
model's stride (a strided network then sees the same phase as on the whole image) and reach
beyond the grid only to the next multiple of the stride, or where the model's input size is fixed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from geoseg.errors import UsageError

if TYPE_CHECKING:
    from affine import Affine
    from pyproj import CRS


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels; row and col may be negative where a read reaches beyond the grid."""

    row: int
    col: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 0 or self.width < 0:
            raise ValueError(f"a window cannot have a negative size: {self}")

    @property
    def row_stop(self) -> int:
        return self.row + self.height

    @property
    def col_stop(self) -> int:
        return self.col + self.width

    @property
    def pixels(self) -> int:
        return self.height * self.width

    def slices(self, origin: Window | None = None) -> tuple[slice, slice]:
        """(rows, cols) that cut this window out of an array whose first pixel is at `origin`."""
        row, col = (origin.row, origin.col) if origin else (0, 0)
        return (
            slice(self.row - row, self.row_stop - row),
            slice(self.col - col, self.col_stop - col),
        )

    def intersection(self, other: Window) -> Window:
        """The common part; of height or width 0 where there is none."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        return Window(
            row,
            col,
            max(0, min(self.row_stop, other.row_stop) - row),
            max(0, min(self.col_stop, other.col_stop) - col),
        )


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixels on the ground.

    `transform` maps (col, row) pixel corners to CRS units; `crs` is None for a raster without
    georeference (then CRS units are pixels of the file). `height` and `width` are in pixels.
    """

    crs: CRS | None
    transform: Affine
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a grid needs at least one pixel, not {self.height} x {self.width}")

    @property
    def window(self) -> Window:
        return Window(0, 0, self.height, self.width)

    @property
    def pixels(self) -> int:
        return self.height * self.width


@dataclass(frozen=True, slots=True)
class Tile:
    """One step of the plan: `read` this window, own the `write` window inside it."""

    index: int
    read: Window
    write: Window


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a model likes its tiles; all in pixels at the model's GSD.

    `size`: preferred edge of a tile. `overlap`: least number of pixels that neighbouring reads
    share. `stride`: sizes and starts are multiples of it (the network's total down-sampling).
    `fixed`: the network takes `size` x `size` only, smaller scenes are padded. `exact`: tiles have
    just this size, or the scene's where it is smaller. Otherwise the planner may go to sizes from
    three quarters to five quarters of `size`, whichever computes the fewest pixels twice.
    """

    size: int = 1024
    overlap: int = 96
    stride: int = 32
    fixed: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UsageError(f"the stride must be at least 1 pixel, not {self.stride}")
        if self.size < self.stride:
            raise UsageError(
                f"a tile of {self.size} pixels is smaller than the model's stride of "
                f"{self.stride}: take at least {self.stride}"
            )
        if self.size % self.stride:
            lower = self.size // self.stride * self.stride
            raise UsageError(
                f"a tile of {self.size} pixels is no multiple of the model's stride of "
                f"{self.stride}: take {lower} or {lower + self.stride}"
            )
        if self.overlap < 0:
            raise UsageError(f"the overlap cannot be negative: {self.overlap}")
        if round_up(self.overlap, self.stride) >= self.size:
            raise UsageError(
                f"an overlap of {self.overlap} pixels leaves nothing of a tile of {self.size} "
                f"(at the model's stride of {self.stride}): take a smaller overlap or a larger tile"
            )


Span = tuple[int, int, int, int]  # along one axis: read start, read size, write start, write stop


@dataclass(frozen=True, slots=True)
class Plan:
    """The tiles over a grid: `rows` of tiles, top to bottom, each left to right.

    Tiles that the caller does not want (outside the area of interest) are left out, so a row
    may be empty; their pixels stay without class. `tile_shape` is (height, width) of every read;
    `row_spans` and `col_spans` are those of the full lattice, also where tiles are left out.
    """

    grid: Grid
    tile_shape: tuple[int, int]
    row_spans: tuple[Span, ...] = field(repr=False)
    col_spans: tuple[Span, ...] = field(repr=False)
    rows: tuple[tuple[Tile, ...], ...] = field(repr=False)

    @property
    def tiles(self) -> Iterator[Tile]:
        return (tile for row in self.rows for tile in row)

    def __len__(self) -> int:
        return sum(len(row) for row in self.rows)

    @property
    def redundancy(self) -> float:
        """Pixels that go through the network over pixels of the owned windows."""
        owned = sum(tile.write.pixels for tile in self.tiles)
        return sum(tile.read.pixels for tile in self.tiles) / owned if owned else 1.0


def plan(grid: Grid, tiling: Tiling, *, keep: Callable[[Window], bool] | None = None) -> Plan:
    """Lay tiles over `grid`; only those whose read window `keep` accepts are in the plan.

    All reads have one shape, neighbours share at least `tiling.overlap` pixels, starts are
    multiples of `tiling.stride`, and the write windows of all tiles partition the grid.
    """
    row_spans = axis_spans(grid.height, tiling)
    col_spans = axis_spans(grid.width, tiling)
    rows = []
    for i, (row, height, top, bottom) in enumerate(row_spans):
        tiles = (
            Tile(
                index=i * len(col_spans) + j,
                read=Window(row, col, height, width),
                write=Window(top, left, bottom - top, right - left),
            )
            for j, (col, width, left, right) in enumerate(col_spans)
        )
        rows.append(tuple(t for t in tiles if keep is None or keep(t.read)))
    shape = (row_spans[0][1], col_spans[0][1])
    return Plan(grid, shape, row_spans, col_spans, tuple(rows))


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def axis_spans(length: int, tiling: Tiling) -> tuple[Span, ...]:
    """The spans of all tiles along one axis of `length` pixels."""
    stride, overlap = tiling.stride, round_up(tiling.overlap, tiling.stride)
    covered = round_up(length, stride)
    if tiling.fixed or tiling.exact:
        size = tiling.size if tiling.fixed else min(tiling.size, covered)
        count = 1 if covered <= size else math.ceil((covered - overlap) / (size - overlap))
    else:
        count, size = _fewest_pixels(covered, tiling.size, overlap, stride)
    # Spread the slack over all overlaps; flooring to the stride keeps each at least `overlap`.
    slack = max(0, covered - size)
    starts = [i * slack // max(1, count - 1) // stride * stride for i in range(count)]
    # Neighbours meet in the middle of what both have read.
    cuts = [(left + size + right) // 2 for left, right in itertools.pairwise(starts)]
    bounds = [0, *cuts, length]
    return tuple((start, size, bounds[i], bounds[i + 1]) for i, start in enumerate(starts))


def _fewest_pixels(covered: int, size: int, overlap: int, stride: int) -> tuple[int, int]:
    """(number, size) of tiles along an axis that compute the fewest pixels in all."""
    largest = size + size // 4 // stride * stride
    if covered <= largest:
        return 1, covered
    smallest = max(size - size // 4 // stride * stride, overlap + stride)
    options = []
    for limit in range(smallest, largest + 1, stride):
        count = math.ceil((covered - overlap) / (limit - overlap))
        fit = round_up(math.ceil((covered + (count - 1) * overlap) / count), stride)
        options.append((count * fit, fit, count))
    _, fit, count = min(options)
    return count, fit
