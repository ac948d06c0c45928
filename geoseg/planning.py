"""What a run will cost, and the tile size that its memory allows: arithmetic only."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from geoseg.errors import UsageError
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
    scores = 0 if spec.finds_objects else len(spec.classes)  # masks are small beside pixels
    return PixelCost(len(spec.bands), itemsize, scores)


def fit_memory(tiling: Tiling, width: int, cost: PixelCost, *, limit: int = MEMORY_LIMIT) -> Tiling:
    """`tiling`, with smaller tiles where rows of the preferred size would take over `limit` bytes.

    Tiles get no smaller than 256 pixels or four overlaps, whichever is more.
    """
    if tiling.fixed or tiling.exact:
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


def check_memory(plan: Plan, cost: PixelCost) -> None:
    """Refuse tiles of which one row does not fit into this machine."""
    needed, there = row_buffers(plan, cost), physical_memory()
    if there is not None and needed > 0.8 * there:
        raise UsageError(
            f"one row of tiles of {plan.tile_shape[0]} pixels takes {needed / 1e9:.1f} GB, this "
            f"machine has {there / 1e9:.1f} GB: take smaller tiles (--tile)"
        )


def physical_memory() -> int | None:
    """Bytes of this machine's memory, where it tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def computed_share(grid: Grid, plan: Plan) -> float:
    """Pixels that go through the network over pixels of the scene."""
    return sum(t.read.pixels for t in plan.tiles) / grid.pixels
