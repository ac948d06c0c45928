"""What YOLO networks give, as Detections: boxes above a least score, of which overlapping ones of a
class become one, and masks where the network knows them.

A row per candidate: centre, width and height of its box in pixels of the picture; in some versions
the probability that there is an object at all; a score per class; and, with masks, how much of each
prototype its mask takes, whose weighted sum is the logit of the mask.

Networks that have sorted out overlapping boxes themselves give a row per object: left, top, right
and bottom, the score, the number of the class, and the shares of prototypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geoseg.predictions import Detections
from geoseg.spec import ModelSpec

LEAST = 0.05  # score of a candidate; what is delivered is decided by the threshold, later
MOST = 2000  # candidates of a picture, the surest
SIDE = 28  # cells along the edge of a mask
# YOLO cuts masks off at the box. Pasting (geoseg.instances.paste) lets them fade to zero there, so
# that unsure ones would end too early, by up to half a cell; sharper ones hardly do.
STEEP = 4.0
IOU = 0.45  # from which two boxes are one object, where nobody has said
_ROUNDING = 1e-3  # by which scores may leave 0..1

Objectness = Literal["none", "ignored", "times"]


@dataclass(frozen=True, slots=True)
class Layout:
    """across: candidates are columns, not rows. objectness: what to do with that probability.
    objects: rows are objects, sorted out by the network. steep: what logits of masks are times."""

    across: bool = False
    objectness: Objectness = "none"
    masks: bool = False
    objects: bool = False
    steep: float = STEEP

    @property
    def first(self) -> int:
        """Where the scores of classes begin."""
        return 4 if self.objectness == "none" else 5

    def values(self, classes: int) -> int:
        """Numbers of a row, without the shares of prototypes."""
        return 6 if self.objects else self.first + classes


# Deepness' names of the kinds, and ours of those that Deepness does not know.
LAYOUTS = {
    "YOLO_v5_or_v7_default": Layout(objectness="times"),
    "YOLO_v6": Layout(objectness="ignored"),
    "YOLO_v9": Layout(across=True),
    "YOLO_Ultralytics": Layout(across=True),
    "YOLO_Ultralytics_segmentation": Layout(across=True, masks=True),
    "YOLO_with_NMS": Layout(objects=True),
    "YOLO_with_NMS_segmentation": Layout(objects=True, masks=True),
}


def layout_of(spec: ModelSpec) -> Layout:
    """The one that the model's contract names."""
    layout = LAYOUTS[spec.arguments["detector"]]
    return replace(layout, steep=spec.arguments.get("steep", layout.steep))


def misfit(outputs: Sequence[NDArray[Any]], spec: ModelSpec) -> str | None:
    """In words what speaks against these being what such a network gives for one picture, or
    None."""
    layout, classes = layout_of(spec), len(spec.classes)
    if len(outputs) < 1 + layout.masks:
        return f"{len(outputs)} outputs where {1 + layout.masks} are needed"
    if outputs[0].ndim != 3 or (layout.masks and outputs[1].ndim != 4):
        return f"outputs of {' and '.join(str(o.shape) for o in outputs)}"
    if len(outputs[0]) != 1:
        return f"boxes of {len(outputs[0])} pictures for one"
    wanted = layout.values(classes) + (outputs[1].shape[1] if layout.masks else 0)
    values = outputs[0].shape[1 if layout.across else 2]
    if values != wanted:
        why = "" if layout.objects else f"{classes} classes make "
        return f"{values} values per box, where {why}{wanted} are needed"
    if not all(np.isfinite(o).all() for o in outputs):
        return "numbers that are not finite"
    rows = outputs[0][0].T if layout.across else outputs[0][0]
    scores = rows[:, 4:5] if layout.objects else rows[:, 4 : layout.values(classes)]
    if scores.size and not -_ROUNDING <= scores.min() <= scores.max() <= 1 + _ROUNDING:
        return f"scores from {scores.min():.3g} to {scores.max():.3g}"
    if layout.objects and rows.size and not 0 <= rows[:, 5].min() <= rows[:, 5].max() < classes:
        return f"classes from {rows[:, 5].min():.3g} to {rows[:, 5].max():.3g}"
    return None


def detections(
    outputs: Sequence[NDArray[np.float32]], spec: ModelSpec, shape: tuple[int, int]
) -> list[Detections]:
    """The objects of each picture of `shape` (height, width), the surest first."""
    layout, iou = layout_of(spec), float(spec.arguments.get("iou", IOU))
    rows = outputs[0].transpose(0, 2, 1) if layout.across else outputs[0]
    protos = outputs[1] if layout.masks else [None] * len(rows)
    return [
        _of_picture(r, p, layout, len(spec.classes), iou, shape)
        for r, p in zip(rows, protos, strict=True)
    ]


def _of_picture(
    rows: NDArray[np.float32],
    protos: NDArray[np.float32] | None,
    layout: Layout,
    classes: int,
    iou: float,
    shape: tuple[int, int],
) -> Detections:
    boxes, labels, scores = _of_rows(rows, layout, classes)
    order = np.argsort(-scores, kind="stable")[:MOST]
    order = order[scores[order] >= LEAST]
    if not layout.objects:  # before they are cut at the edges, where parts may look alike
        order = order[suppress(boxes[order], labels[order], iou)]
    boxes = boxes[order].clip(0, np.array([shape[1], shape[0]] * 2, np.float32))
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    order, boxes = order[solid], boxes[solid]
    masks = None
    if protos is not None:
        shares = layout.steep * rows[order, layout.values(classes) :]
        masks = _masks(shares, protos, boxes, shape)
    return Detections(
        boxes.astype(np.float32),
        labels[order].astype(np.int64),
        scores[order].clip(0, 1).astype(np.float32),
        masks,
    )


def _of_rows(
    rows: NDArray[np.float32], layout: Layout, classes: int
) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.float32]]:
    """Left, top, right, bottom; the likeliest class; its score."""
    if layout.objects:
        return rows[:, :4], rows[:, 5].astype(np.intp), rows[:, 4]
    each = rows[:, layout.first : layout.first + classes]
    if layout.objectness == "times":
        each = each * rows[:, 4:5]
    half = rows[:, 2:4] / 2
    corners = np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1)
    return corners, each.argmax(1), each.max(1)


def suppress(boxes: NDArray[np.float32], labels: NDArray[np.intp], iou: float) -> NDArray[np.intp]:
    """Indexes of those that no surer box of their class overlaps by more than `iou`; they come
    sorted, the surest first."""
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)
    left = np.arange(len(boxes))
    kept: list[int] = []
    while left.size:
        best, left = left[0], left[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:], boxes[left, 2:])
        common = (high - low).clip(0).prod(1)
        same = labels[left] == labels[best]
        left = left[~(same & (common > iou * (areas[best] + areas[left] - common)))]
    return np.array(kept, np.intp)


def _masks(
    shares: NDArray[np.float32],
    protos: NDArray[np.float32],
    boxes: NDArray[np.float32],
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """(N, SIDE, SIDE): the prototypes (P, h, w), which cover the picture, read bilinearly at the
    centres of the cells of each box. Their outlines, at 0.5, are the network's."""
    _, height, width = protos.shape
    cells = (np.arange(SIDE) + 0.5) / SIDE
    out = np.empty((len(boxes), SIDE, SIDE), np.float32)
    for n, (left, top, right, bottom) in enumerate(boxes):
        xs, wx = _between((left + cells * (right - left)) * width / shape[1], width)
        ys, wy = _between((top + cells * (bottom - top)) * height / shape[0], height)
        lines = protos[:, ys] * (1 - wy)[:, None] + protos[:, ys + 1] * wy[:, None]
        patch = lines[:, :, xs] * (1 - wx) + lines[:, :, xs + 1] * wx
        logits = np.tensordot(shares[n], patch, 1)
        out[n] = 1 / (1 + np.exp(-logits.clip(-50, 50)))
    return out


def _between(
    at: NDArray[np.floating[Any]], length: int
) -> tuple[NDArray[np.intp], NDArray[np.floating[Any]]]:
    """The cell before each place, and the share of the one after it; a cell's centre is at 0.5."""
    at = (at - 0.5).clip(0, length - 1)
    before = np.minimum(at.astype(np.intp), max(length - 2, 0))
    return before, at - before
