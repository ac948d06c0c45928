"""Resampling by explicit weights: the same pixels whatever the window they are read in.

GDAL's windowed resampling depends a little on where a window begins. Here every target pixel is
a fixed weighted mean of fixed source pixels: the area average over its true footprint where
pixels grow, bilinear where they shrink, the nearest one for class numbers. Only source pixels
with data count; a target pixel is valid if they make up at least half of its weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geoseg.jit import jit

Method = Literal["mean", "nearest"]


@dataclass(frozen=True, slots=True)
class Weights:
    """Along one axis: target i is the sum of weight[i, k] * source[first[i] + k].

    first: (n,) int64, source index; count: (n,) int64, how many; weight: (n, K), adding up to 1.
    """

    first: NDArray[np.int64]
    count: NDArray[np.int64]
    weight: NDArray[np.float32]

    @property
    def start(self) -> int:
        return int(self.first.min())

    @property
    def stop(self) -> int:
        return int((self.first + self.count).max())


def weights(start: int, stop: int, factor: float, length: int, method: Method) -> Weights:
    """Weights of targets start..stop; `factor` = target pixel over source pixel, of `length`."""
    target = np.arange(start, stop, dtype=np.float64)
    if method == "nearest":
        nearest = np.clip(np.floor((target + 0.5) * factor).astype(np.int64), 0, length - 1)
        return Weights(nearest, np.ones_like(nearest), np.ones((len(target), 1), np.float32))
    if factor >= 1:
        low = np.minimum(target * factor, length - 1)
        high = np.clip((target + 1) * factor, low + 1e-6, length)
    else:  # bilinear: the hat between the two nearest centres is the overlap with a unit box
        low = np.clip((target + 0.5) * factor - 0.5, 0, length - 1)
        high = low + 1
    first = np.floor(low).astype(np.int64)
    count = np.minimum(np.ceil(high - 1e-9).astype(np.int64), length) - first
    steps = first[:, None] + np.arange(math.ceil(max(factor, 1)) + 1)
    overlap = np.minimum(high[:, None], steps + 1) - np.maximum(low[:, None], steps)
    overlap = np.where(steps < (first + count)[:, None], np.maximum(overlap, 0), 0)
    overlap /= overlap.sum(axis=1, keepdims=True)
    return Weights(first, count, overlap.astype(np.float32))


def resample(
    data: NDArray[Any],
    valid: NDArray[np.bool_],
    rows: Weights,
    cols: Weights,
    origin: tuple[int, int],
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """`data` (C, h, w) and `valid` (h, w), whose first pixel is at `origin`, at the targets."""
    wide = data.dtype.itemsize > 2 and data.dtype != np.float32
    real = np.dtype(np.float64 if wide else np.float32)
    shape = (data.shape[0], len(rows.first), len(cols.first))
    out = np.zeros(shape, real)
    first_row, first_col = rows.first - origin[0], cols.first - origin[1]
    row_weight, col_weight = rows.weight.astype(real), cols.weight.astype(real)
    across = np.empty((data.shape[1], shape[2]), real)
    if valid.all():
        for band, target in zip(data, out, strict=True):
            _across(band, first_col, cols.count, col_weight, across)
            _down(across, first_row, rows.count, row_weight, target)
        good = np.ones(shape[1:], np.bool_)
    else:
        share = np.zeros(shape[1:], real)
        _across(valid, first_col, cols.count, col_weight, across)
        _down(across, first_row, rows.count, row_weight, share)
        good = share >= 0.5 - 1e-4
        for band, target in zip(data, out, strict=True):
            _across_valid(band, valid, first_col, cols.count, col_weight, across)
            _down(across, first_row, rows.count, row_weight, target)
            # Not where all count: there it must be bit by bit what the branch above gives.
            with np.errstate(invalid="ignore"):  # of 0 / 0 in lanes that `where` leaves out
                np.divide(target, share, out=target, where=good & (share < 1 - 1e-4))
            target[~good] = 0
    return _cast(out, data.dtype), good


def _cast(out: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind not in "iu":
        return out.astype(dtype, copy=False)
    np.rint(out, out=out)
    if dtype.itemsize >= 4:  # the mean of large integers may round to one beyond the largest
        info = np.iinfo(dtype)
        highest = np.nextafter(np.float64(info.max), 0) if dtype.itemsize == 8 else info.max
        np.clip(out, info.min, highest, out=out)
    return out.astype(dtype)


@jit
def _across(band, first, count, weight, out):  # type: ignore[no-untyped-def]
    """out[i, j] = weighted sum of row i of `band` around target column j."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            total = weight[j, 0] * band[i, first[j]]
            for k in range(1, count[j]):
                total += weight[j, k] * band[i, first[j] + k]
            out[i, j] = total


@jit
def _across_valid(band, valid, first, count, weight, out):  # type: ignore[no-untyped-def]
    """As `_across`, counting valid pixels only."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            total = weight[j, 0] * 0
            for k in range(count[j]):
                if valid[i, first[j] + k]:
                    total += weight[j, k] * band[i, first[j] + k]
            out[i, j] = total


@jit
def _down(across, first, count, weight, out):  # type: ignore[no-untyped-def]
    """out[i, j] = weighted sum of column j of `across` around target row i."""
    for i in range(out.shape[0]):
        for k in range(count[i]):
            for j in range(out.shape[1]):
                out[i, j] += weight[i, k] * across[first[i] + k, j]
