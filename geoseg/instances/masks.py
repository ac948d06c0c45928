"""Masks in their boxes, many in one array: the layout of InstancePrediction and Objects.

windows (N, 4) int32 row, col, height, width; pixels (P,) bool, one mask after the other, row by
row; starts (N + 1,) int64 where each begins. Nothing here ever makes a mask of the scene.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.grid import Window
from geoseg.jit import jit
from geoseg.predictions import Masks

Int64 = NDArray[np.int64]


def take(masks: Masks, index: NDArray[np.integer[Any]]) -> Masks:
    """Some of the masks."""
    if len(index) == len(masks) and (np.diff(index) == 1).all():
        return masks
    sizes = np.diff(masks.starts)[index]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    pixels = np.empty(int(starts[-1]), np.bool_)
    _gather(masks.pixels, masks.starts[:-1][index], starts, pixels)
    return Masks(masks.windows[index], pixels, starts)


def concatenate(parts: list[Masks]) -> Masks:
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0, *(p.starts[-1] for p in parts)])
    starts = [p.starts[:-1] + end for p, end in zip(parts, ends, strict=False)]
    return Masks(
        np.concatenate([p.windows for p in parts] or [np.empty((0, 4), np.int32)]),
        np.concatenate([p.pixels for p in parts] or [np.empty(0, np.bool_)]),
        np.concatenate([*starts, ends[-1:]]).astype(np.int64),
    )


def union(masks: Masks) -> Masks:
    """One mask that covers what any of them does."""
    row, col = masks.windows[:, 0].min(), masks.windows[:, 1].min()
    height, width = (masks.windows[:, :2] + masks.windows[:, 2:]).max(0) - (row, col)
    canvas = np.zeros((height, width), np.bool_)
    for i, (r, c, h, w) in enumerate(masks.windows):
        own = masks.pixels[masks.starts[i] : masks.starts[i + 1]].reshape(h, w)
        canvas[r - row : r - row + h, c - col : c - col + w] |= own
    window = np.array([[row, col, height, width]], np.int32)
    return Masks(window, canvas.ravel(), np.array([0, canvas.size], np.int64))


def areas(masks: Masks) -> Int64:
    """(N,) pixels of each mask."""
    sums = np.concatenate([[0], np.cumsum(masks.pixels, dtype=np.int64)])
    return np.diff(sums[masks.starts])


def anchors(masks: Masks) -> Int64:
    """(N, 2) row and column of the pixel of each mask that is nearest to its centre of gravity."""
    out = np.empty((len(masks), 2), np.int64)
    _anchors(masks.windows, masks.pixels, masks.starts, out)
    return out


def overlaps(one: Masks, two: Masks, region: Window) -> tuple[Int64, ...]:
    """All pairs with a common pixel: (n,) index into `one`, index into `two`, number of such
    pixels, and how many pixels of the one and of the other lie inside of the window `region`,
    which holds all common ones."""
    pairs = np.empty((256, 5), np.int64)
    while True:
        count = _overlaps(
            *(one.windows, one.pixels, one.starts),
            *(two.windows, two.pixels, two.starts),
            *(region.row, region.col, region.row_stop, region.col_stop),
            pairs,
        )
        if count <= len(pairs):
            return tuple(np.ascontiguousarray(pairs[:count].T))
        pairs = np.empty((count, 5), np.int64)


def touching(masks: Masks, view: Window, reach: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """(N, 4) Whether each box is nearer than `reach` (N,) pixels to the top, left, bottom, right
    edge of a view."""
    row, col, height, width = masks.windows.astype(np.int64).T
    gaps = (row - view.row, col - view.col, view.row_stop - row - height)
    return np.stack([*gaps, view.col_stop - col - width], 1) < reach[:, None]


@jit
def _gather(pixels, begins, starts, out):  # type: ignore[no-untyped-def]
    for n in range(len(begins)):
        size = starts[n + 1] - starts[n]
        out[starts[n] : starts[n + 1]] = pixels[begins[n] : begins[n] + size]


@jit
def _anchors(windows, pixels, starts, out):  # type: ignore[no-untyped-def]
    for n in range(len(windows)):
        row, col, height, width = windows[n]
        total, rows, cols = 0, 0, 0
        for r in range(height):
            line = starts[n] + r * width
            for c in range(width):
                if pixels[line + c]:
                    total += 1
                    rows += r
                    cols += c
        best = np.inf
        for r in range(height):
            line = starts[n] + r * width
            for c in range(width):
                if pixels[line + c]:
                    y, x = r - rows / total, c - cols / total
                    if y * y + x * x < best:
                        best = y * y + x * x
                        out[n, 0], out[n, 1] = row + r, col + c


@jit
def _area_inside(window, pixels, start, top, left, bottom, right):  # type: ignore[no-untyped-def]
    row, col, height, width = window
    total = 0
    for r in range(max(0, top - row), min(height, bottom - row)):
        line = start + r * width
        for c in range(max(0, left - col), min(width, right - col)):
            total += pixels[line + c]
    return total


@jit
def _overlaps(  # type: ignore[no-untyped-def]
    windows_a,
    pixels_a,
    starts_a,
    windows_b,
    pixels_b,
    starts_b,
    row,
    col,
    row_stop,
    col_stop,
    pairs,
):
    """Fills `pairs` as far as it reaches; the number of pairs there are."""
    count = 0
    areas_b = np.full(len(windows_b), -1, np.int64)
    for i in range(len(windows_a)):
        row_a, col_a, height_a, width_a = windows_a[i]
        if row_a >= row_stop or col_a >= col_stop:
            continue
        if row_a + height_a <= row or col_a + width_a <= col:
            continue
        area_a = -1
        for j in range(len(windows_b)):
            row_b, col_b, height_b, width_b = windows_b[j]
            top, bottom = max(row_a, row_b), min(row_a + height_a, row_b + height_b)
            left, right = max(col_a, col_b), min(col_a + width_a, col_b + width_b)
            if bottom <= top or right <= left:
                continue
            common = 0
            for r in range(top, bottom):
                line_a = starts_a[i] + (r - row_a) * width_a + left - col_a
                line_b = starts_b[j] + (r - row_b) * width_b + left - col_b
                for c in range(right - left):
                    common += pixels_a[line_a + c] & pixels_b[line_b + c]
            if not common:
                continue
            if count < len(pairs):
                box = (row, col, row_stop, col_stop)
                if area_a < 0:
                    area_a = _area_inside(windows_a[i], pixels_a, starts_a[i], *box)
                if areas_b[j] < 0:
                    areas_b[j] = _area_inside(windows_b[j], pixels_b, starts_b[j], *box)
                pairs[count, 0], pairs[count, 1], pairs[count, 2] = i, j, common
                pairs[count, 3], pairs[count, 4] = area_a, areas_b[j]
            count += 1
    return count
