"""Objects found in a picture, held against the true ones: which are right, and how sure they were.

The rules are COCO's at an IoU of 0.5. Ground that is not part of the validation is not judged:
objects that mostly lie there are neither missed nor, when found, right or wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.grid import Tile, Window
from geoseg.instances.masks import areas, overlaps
from geoseg.instances.paste import paste
from geoseg.predictions import Detections, Masks

IOU = 0.5
_MOSTLY = 0.5


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of a picture (H, W).

    labels (m,), masks (m,): of its objects, cut at its edges, their labels counted from 0.
    own: (H, W) bool, the ground that is judged.
    """

    labels: NDArray[np.int64]
    masks: Masks
    own: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Verdict:
    """labels (n,), scores (n,) of what was found and is judged, right (n,) bool; and truths (m,),
    the labels of all that was there to be found."""

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    truths: NDArray[np.int64]


def judged(found: Detections, truth: Truth) -> Verdict:
    """The surest detections choose first, each the object of its class that it overlaps most."""
    height, width = truth.own.shape
    window = Window(0, 0, height, width)
    labels = range(int(found.labels.max(initial=0)) + 1)
    pasted = paste(Tile(0, window, window), found, np.ones(truth.own.shape, bool), labels)
    size, wanted = areas(pasted.masks), areas(truth.masks)
    i, j, common, _, _ = overlaps(pasted.masks, truth.masks, window)
    fits = (2 * common >= IOU * 2 * (size[i] + wanted[j] - common)) & (
        pasted.labels[i] == truth.labels[j]
    )
    i, j, iou = i[fits], j[fits], (common / (size[i] + wanted[j] - common))[fits]
    counts = _under(truth.masks, truth.own) > _MOSTLY * wanted
    alarm = _under(pasted.masks, truth.own) > _MOSTLY * size
    taken = np.zeros(len(wanted), bool)
    kept, right = [], []
    for n in np.argsort(-pasted.scores, kind="stable"):
        free = (i == n) & ~taken[j]
        if free.any():
            # an object of our own ground comes before others that fit better
            best = j[free][int((counts[j[free]] + iou[free]).argmax())]
            taken[best] = True
        if free.any() and counts[best]:
            kept.append(n)
            right.append(True)
        elif not free.any() and alarm[n]:
            kept.append(n)
            right.append(False)
    index = np.array(kept, np.intp)
    return Verdict(
        pasted.labels[index].astype(np.int64),
        pasted.scores[index].astype(np.float64),
        np.array(right, bool),
        truth.labels[counts],
    )


def packed(masks: NDArray[np.generic]) -> Masks:
    """Masks (n, H, W) of a picture, each cut to its box; none of them empty."""
    windows, pixels = [], []
    for mask in masks:
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, bottom, left, right = rows[0], rows[-1] + 1, cols[0], cols[-1] + 1
        windows.append((top, left, bottom - top, right - left))
        pixels.append(mask[top:bottom, left:right].astype(bool).ravel())
    starts = np.cumsum([0, *(len(p) for p in pixels)])
    return Masks(
        np.array(windows, np.int32).reshape(-1, 4),
        np.concatenate([np.empty(0, bool), *pixels]),
        starts.astype(np.int64),
    )


def _under(masks: Masks, ground: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n,): the pixels of each mask where `ground` (H, W) is True."""
    out = np.zeros(len(masks), np.int64)
    for n, (row, col, height, width) in enumerate(masks.windows):
        own = masks.pixels[masks.starts[n] : masks.starts[n + 1]].reshape(height, width)
        out[n] = np.count_nonzero(own & ground[row : row + height, col : col + width])
    return out
