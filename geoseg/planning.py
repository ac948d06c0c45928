"""What a run will cost, and the tile size that its memory allows: arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from geoseg.grid import Grid, Plan, Tiling

if TYPE_CHECKING:
    from geoseg.spec import ModelSpec

MEMORY_LIMIT = 1_200_000_000  # bytes for the row buffers; the network comes on top of it


@dataclass(frozen=True, slots=True)
class PixelCost:
    """Bytes that one pixel of a row of tiles holds while the row is under way."""

    bands: int
    itemsize: int
    scores: int

    @property
    def total(self) -> int:
        # What is read, in the scene's dtype, and its validity; float32 scores and theirs. Chips
        # on their way and bands of finished rows are small beside these.
        return (self.bands * self.itemsize + 1) + (4 * self.scores + 1)


def cost_of(spec: ModelSpec, itemsize: int) -> PixelCost:
    return PixelCost(len(spec.bands), itemsize, len(spec.classes))


def fit_memory(tiling: Tiling, width: int, cost: PixelCost, *, limit: int = MEMORY_LIMIT) -> Tiling:
    """`tiling`, with smaller tiles where rows of the preferred size would take over `limit` bytes.

    Tiles get no smaller than 256 pixels or four overlaps, whichever is more.
    """
    if tiling.fixed:
        return tiling
    largest_height = limit // (cost.total * width)
    # The planner may go a quarter over the preferred size.
    size = min(tiling.size, largest_height * 4 // 5)
    size = max(size, 256, 4 * tiling.overlap) // tiling.stride * tiling.stride
    return replace(tiling, size=min(size, tiling.size))


def row_buffers(plan: Plan, cost: PixelCost) -> int:
    """Bytes of the row buffers of a run over `plan`."""
    height, width = plan.tile_shape[0], plan.grid.width
    return cost.total * min(height, plan.grid.height) * width


def computed_share(grid: Grid, plan: Plan) -> float:
    """Pixels that go through the network over pixels of the scene."""
    return sum(t.read.pixels for t in plan.tiles) / grid.pixels
