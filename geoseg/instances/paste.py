"""Masks of a network (a small square of probabilities per box) to masks of pixels in their boxes.

A mask is stretched over its box and read bilinearly at the centres of pixels, as zero beyond its
edge, as Detectron2 does (torchvision first rounds the box, which moves outlines by up to a pixel).
No array is ever as large as the tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geoseg.grid import Tile
from geoseg.jit import jit
from geoseg.predictions import Detections, InstancePrediction, Masks

INSIDE = 0.5  # a pixel belongs to the object from this probability on


def paste(
    tile: Tile, found: Detections, valid: NDArray[np.bool_], ids: Sequence[int]
) -> InstancePrediction:
    """The detections of a tile on the scene's grid; `ids` are the class ids of the labels.

    Pixels that are not valid (H, W) belong to no object; objects without a pixel are left out.
    """
    windows = np.empty((len(found), 4), np.int32)
    starts = np.zeros(len(found) + 1, np.int64)
    pixels = np.empty(_most_pixels(found.boxes, *valid.shape), np.bool_)
    _paste(found.boxes, _masks(found), valid, windows, starts, pixels)
    kept = np.flatnonzero(np.diff(starts) > 0)
    windows[:, :2] += np.array([tile.read.row, tile.read.col], np.int32)
    points = found.keypoints
    if points is not None:
        points = points[kept] + np.array([tile.read.col, tile.read.row, 0], np.float32)
    return InstancePrediction(
        tile,
        np.asarray(ids, np.uint8)[found.labels[kept]],
        found.scores[kept],
        Masks(windows[kept], pixels[: starts[-1]].copy(), np.append(starts[kept], starts[-1])),
        points,
    )


def paint(found: Detections, classes: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """(classes, H, W): the greatest score x probability of the objects of a class over a pixel.

    Two pictures that are alike mean detections that are alike: so the golden sample of an
    instance model is compared as that of any other.
    """
    out = np.zeros((classes, *shape), np.float32)
    _paint(found.boxes, _masks(found), found.labels, found.scores, out)
    return out


def _masks(found: Detections) -> NDArray[np.float32]:
    """(N, M, M); of a model without masks empty squares, for which the box stands."""
    if found.masks is None:
        return np.empty((len(found), 0, 0), np.float32)
    return np.ascontiguousarray(found.masks, np.float32)


def _most_pixels(boxes: NDArray[np.float32], height: int, width: int) -> int:
    """At most so many pixels lie in the boxes."""
    limits = np.array([width, height, width, height], np.float32)
    left, top, right, bottom = np.clip(boxes, 0, limits).astype(np.float64).T
    return int(((np.ceil(right) - np.floor(left)) * (np.ceil(bottom) - np.floor(top))).sum())


@jit
def _span(low, high, limit):  # type: ignore[no-untyped-def]
    """The pixels (first, stop) whose centres may lie between two edges."""
    return max(0, int(np.floor(low))), min(limit, int(np.ceil(high)))


@jit
def _probability(mask, x, y):  # type: ignore[no-untyped-def]
    """Bilinear value of a square at (x, y) in 0..1 of its edge; 1 for one without cells."""
    m = mask.shape[0]
    if m == 0:
        return 1.0 if 0 <= x < 1 and 0 <= y < 1 else 0.0
    u, v = x * m - 0.5, y * m - 0.5
    c, r = int(np.floor(u)), int(np.floor(v))
    total = 0.0
    for i in range(2):
        for j in range(2):
            if 0 <= r + i < m and 0 <= c + j < m:
                weight = (v - r if i else 1 - (v - r)) * (u - c if j else 1 - (u - c))
                total += weight * mask[r + i, c + j]
    return total


@jit
def _paste(boxes, masks, valid, windows, starts, pixels):  # type: ignore[no-untyped-def]
    height, width = valid.shape
    at = 0
    for n in range(len(boxes)):
        x0, y0, x1, y1 = boxes[n]
        left, right = _span(x0, x1, width)
        top, bottom = _span(y0, y1, height)
        starts[n + 1] = at
        windows[n, :] = 0
        if right <= left or bottom <= top:
            continue
        # The whole box goes to where the mask will lie, then its empty edges are cut off.
        wide = right - left
        first_row, last_row, first_col, last_col = bottom, -1, right, -1
        for r in range(top, bottom):
            y = (r + 0.5 - y0) / (y1 - y0)
            for c in range(left, right):
                inside = valid[r, c] and (
                    _probability(masks[n], (c + 0.5 - x0) / (x1 - x0), y) >= INSIDE
                )
                pixels[at + (r - top) * wide + c - left] = inside
                if inside:
                    first_row, last_row = min(first_row, r), r
                    first_col, last_col = min(first_col, c), max(last_col, c)
        if last_row < 0:
            continue
        source, tight = at, last_col - first_col + 1
        for r in range(first_row, last_row + 1):
            line = source + (r - top) * wide + first_col - left
            for c in range(tight):  # never ahead of what is still to be read
                pixels[at + c] = pixels[line + c]
            at += tight
        windows[n, 0], windows[n, 1] = first_row, first_col
        windows[n, 2], windows[n, 3] = last_row - first_row + 1, tight
        starts[n + 1] = at


@jit
def _paint(boxes, masks, labels, scores, out):  # type: ignore[no-untyped-def]
    for n in range(len(boxes)):
        x0, y0, x1, y1 = boxes[n]
        left, right = _span(x0, x1, out.shape[2])
        top, bottom = _span(y0, y1, out.shape[1])
        plane = out[labels[n]]
        for r in range(top, bottom):
            y = (r + 0.5 - y0) / (y1 - y0)
            for c in range(left, right):
                value = scores[n] * _probability(masks[n], (c + 0.5 - x0) / (x1 - x0), y)
                plane[r, c] = max(plane[r, c], value)
