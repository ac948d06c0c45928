"""Anchors that fit the objects: their sizes are measured, in metres, before the first step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.data.sheets import Sheet
from geoseg.data.split import TRAIN, windows
from geoseg.errors import ConfigError

STRIDES = (4, 8, 16, 32, 64)  # of the pyramid's levels
SHARES = (0.25, 0.75)  # of a level's objects: the quantiles of their sizes are its anchors
_ROOM = 4  # strides: an object belongs to the coarsest level on which it is at least so large
_SMALLEST = 2.0  # pixels; the network takes no smaller anchors
_SQUARE = 1.2  # boxes that are longer than wide by less than this are squares


def measured(sheets: Sequence[Sheet]) -> NDArray[np.float64]:
    """(n, 2) width and height, in pixels, of the boxes of all objects that train."""
    boxes = np.concatenate([_boxes(sheet) for sheet in sheets] or [np.empty((0, 4))])
    sizes: NDArray[np.float64] = boxes[:, 2:] - boxes[:, :2]
    return sizes


def fitted(arguments: Mapping[str, Any], sizes: NDArray[np.float64], gsd: float) -> dict[str, Any]:
    """The network's arguments with anchors, in pixels, and aspect ratios.

    What the recipe says stays: `anchors` in pixels, or `anchors_m` in metres.
    """
    out = dict(arguments)
    metres = out.pop("anchors_m", None)
    if metres is not None:
        if "anchors" in out:
            raise ConfigError("model.arguments: anchors or anchors_m, not both")
        out["anchors"] = _in_pixels(metres, gsd)
    if not len(sizes):  # of nothing nothing can be told; run.py has said so
        return out
    out.setdefault("anchors", levels(np.sqrt(sizes.prod(1))))
    out.setdefault("aspect_ratios", ratios(sizes))
    return out


def levels(edges: NDArray[np.float64]) -> list[list[float]]:
    """Edges of the anchors of each level, for objects of these edges (the root of their area).

    An anchor meets an object only where the grid of its level is fine enough: one of four strides
    lies at most half a stride off, an overlap (IoU) of 0.6. So objects are dealt to the levels
    first, and each level's anchors are quantiles of its own; levels without any get what lies
    between their neighbours', where it does no harm.
    """
    edges = np.maximum(edges, _SMALLEST)
    coarsest = np.log2(edges / (_ROOM * STRIDES[0])).astype(int)
    level = np.clip(coarsest, 0, len(STRIDES) - 1)
    out = []
    for i, stride in enumerate(STRIDES):
        own = edges[level == i]
        middle = 1.5 * _ROOM * stride
        given = np.quantile(own, SHARES) if len(own) else middle * np.array([0.8, 1.2])
        out.append([round(float(v), 1) for v in given])
    return out


def ratios(sizes: NDArray[np.float64]) -> list[float]:
    """Height through width of the anchors: objects lie in all directions, so both ways alike."""
    long = np.maximum(sizes.max(1) / np.maximum(sizes.min(1), 1e-6), 1)
    ratio = round(float(np.quantile(long, 0.8)), 2)
    return [round(1 / ratio, 3), 1.0, ratio] if ratio >= _SQUARE else [1.0]


def said(arguments: Mapping[str, Any], gsd: float, objects: int) -> str:
    """The anchors in words, in metres."""
    edges = [e for level in arguments["anchors"] for e in _listed(level)]
    shown = ", ".join(f"{e * gsd:.3g}" for e in edges)
    shapes = ", ".join(f"{r:.2g}" for r in arguments.get("aspect_ratios", ())) or "the default's"
    return f"anchors of {shown} m, height through width {shapes}; {objects} objects train"


def _boxes(sheet: Sheet) -> NDArray[np.float64]:
    """(n, 4) of the objects whose middle lies in a block that trains."""
    if sheet.outlines is None or not len(sheet.outlines):
        return np.empty((0, 4))
    boxes: NDArray[np.float64] = shapely.bounds(sheet.outlines.shapes)
    middle = shapely.points((boxes[:, :2] + boxes[:, 2:]) / 2)
    inside = np.zeros(len(boxes), bool)
    for window in windows(sheet, TRAIN):
        box = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
        shapely.prepare(box)
        inside |= shapely.intersects(box, middle)
    return boxes[inside]


def _in_pixels(metres: Any, gsd: float) -> list[Any]:
    try:
        levels = [[round(float(v) / gsd, 1) for v in _listed(level)] for level in metres]
    except (TypeError, ValueError) as e:
        raise ConfigError(
            "model.arguments.anchors_m: edges in metres are needed, one per level of the pyramid "
            f"or a list of them, not {metres!r}"
        ) from e
    if not all(v > 0 and math.isfinite(v) for level in levels for v in level):
        raise ConfigError("model.arguments.anchors_m: edges are positive numbers")
    return levels


def _listed(level: Any) -> Iterator[Any]:
    yield from level if isinstance(level, list | tuple) else (level,)
