"""A cheap look at a raster: a few small windows spread over it, whatever its size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.grid import Window
from geoseg.scene.files import is_remote
from geoseg.scene.raster import Raster

_WHOLE = 1 << 20  # pixels: a raster up to this size is read as a whole
_EDGE = 128  # pixels: largest edge of a window, or of the columns kept of a strip
_ENOUGH = 4096  # valid pixels: with fewer, a second, denser look
_SCAN = 500_000_000  # pixels: beyond this, no search through the whole raster


@dataclass(frozen=True, slots=True)
class Sample:
    """values: (C, n) of the valid pixels. seen: number of pixels looked at, valid or not."""

    values: NDArray[Any]
    seen: int

    @property
    def valid_share(self) -> float:
        return self.values.shape[1] / self.seen if self.seen else 0.0

    @property
    def zero_share(self) -> float:
        """Of the valid pixels, those that are 0 in every band."""
        return float((self.values == 0).all(axis=0).mean()) if self.values.size else 0.0

    @property
    def constant(self) -> bool:
        v = self.values
        return bool(v.size and (v == v[:, :1]).all())

    def percentiles(self, *q: float) -> tuple[float, ...]:
        """Joint over all bands, so that a stretch by them keeps the colours."""
        return tuple(float(p) for p in np.percentile(self.values, q))


def sample(raster: Raster) -> Sample:
    """At most 32 blocks are touched (8 over a network; 128 more where few pixels are valid)."""
    count = 4 if is_remote(raster.source) else 8
    first = _look(raster, count)
    if first.values.shape[1] >= _ENOUGH or first.seen == raster.grid.pixels or count < 8:
        return first
    second = _look(raster, 2 * count)
    return second if second.values.shape[1] > first.values.shape[1] else first


def is_empty(raster: Raster) -> bool | None:
    """Whether no pixel of the raster has data: looks until it finds one. None: too large."""
    if raster.grid.pixels > _SCAN or is_remote(raster.source):
        return None
    return not any(raster.read(w)[1].any() for w in _bands(raster))


def _bands(raster: Raster) -> Iterator[Window]:
    height, width = raster.grid.height, raster.grid.width
    step = max(64, (16 << 20) // width)
    for row in range(0, height, step):
        yield Window(row, 0, min(step, height - row), width)


def _look(raster: Raster, count: int) -> Sample:
    """A sample from every other of count x count blocks, as on a chess board."""
    values, seen = [], 0
    for window in _windows(raster, count):
        data, valid = raster.read(window)
        thin = max(1, window.width // (_EDGE * count)) if window.width > _EDGE else 1
        data, valid = data[:, :, ::thin], valid[:, ::thin]
        values.append(data[:, valid])
        seen += valid.size
    return Sample(np.concatenate(values, axis=1), seen)


def _windows(raster: Raster, count: int) -> Iterator[Window]:
    grid = raster.grid
    if grid.pixels <= _WHOLE:
        yield grid.window
        return
    height, width = raster.dataset.block_shapes[0]
    if width >= grid.width:  # strips are decoded in full width: fewer of them, all columns
        height, rows, cols = min(height, 16), 2 * count, 1
    else:
        rows = cols = count
    starts = _starts(grid.width, width, cols)
    for i, row in enumerate(_starts(grid.height, height, rows)):
        for col in starts[i % 2 :: 2] or starts:
            # The middle of a block: a border is where compression and mosaics look worst.
            top = row + max(0, (min(height, grid.height - row) - _EDGE) // 2)
            left = col + (max(0, (min(width, grid.width - col) - _EDGE) // 2) if cols > 1 else 0)
            yield Window(
                top,
                left,
                min(_EDGE, height, grid.height - top),
                min(_EDGE if cols > 1 else grid.width, grid.width - left),
            )


def _starts(length: int, block: int, count: int) -> list[int]:
    """Starts of up to `count` blocks, spread evenly, first and last not preferred."""
    blocks = -(-length // block)
    picks = {int((i + 0.5) * blocks / count) for i in range(count)}
    return sorted(p * block for p in picks)
