"""A picture of what a model does, for lists of models: its golden sample, and what it finds."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geoseg.spec import BACKGROUND, ModelSpec

if TYPE_CHECKING:
    from geoseg.bundle import Sample

EDGE = 192  # pixels of each half, at most
GAP = 4  # pixels between them
OPACITY = 0.6  # of the classes' colours


def draw_thumbnail(spec: ModelSpec, sample: Sample) -> bytes:
    """A PNG: the middle of the golden input, and beside it the same in the colours of the classes.

    Red, green and blue are the bands of these common names (STAC eo) or names, or else the first
    three; of fewer bands the first one.
    """
    from PIL import Image

    height, width = (min(EDGE, n) for n in sample.input.shape[2:])
    top, left = ((n - m) // 2 for n, m in zip(sample.input.shape[2:], (height, width), strict=True))
    part = (0, slice(None), slice(top, top + height), slice(left, left + width))
    before = _visible(sample.input[part], spec)
    after = _coloured(before, sample.scores[part], spec)
    gap = np.full((height, GAP, 3), 255, np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(np.concatenate((before, gap, after), axis=1))
    picture.quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _visible(data: NDArray[np.float32], spec: ModelSpec) -> NDArray[np.uint8]:
    """(H, W, 3) of (C, H, W) scaled values, stretched from the 2nd to the 98th percentile."""
    names = [b.common_name or b.name for b in spec.bands]
    wanted = ["red", "green", "blue"]
    if all(name in names for name in wanted):
        chosen = [names.index(name) for name in wanted]
    else:
        chosen = [0, 1, 2] if len(data) >= 3 else [0, 0, 0]
    scale = np.asarray(spec.scaling.scale, np.float32)[chosen, None, None]
    offset = np.asarray(spec.scaling.offset, np.float32)[chosen, None, None]
    values = data[chosen] * scale + offset  # as in the file: bands keep their colours
    low, high = np.percentile(values, (2, 98))
    stretched = np.clip((values - low) / max(float(high - low), 1e-9), 0, 1)
    return np.moveaxis(np.round(stretched * 255).astype(np.uint8), 0, 2)


def _coloured(
    picture: NDArray[np.uint8], scores: NDArray[np.float32], spec: ModelSpec
) -> NDArray[np.uint8]:
    """The picture with the colour of the likeliest class over each pixel; (K, H, W) scores."""
    likeliest = scores.argmax(axis=0)
    seen = np.ones(likeliest.shape, np.bool_)
    if len(spec.classes) == 1 or spec.finds_objects:  # of none of them
        seen = scores.max(axis=0) >= spec.threshold
    colours = np.array([_rgb(c.color) for c in spec.classes], np.float32)[likeliest]
    seen &= np.array([c.id != BACKGROUND for c in spec.classes])[likeliest]
    mixed = (1 - OPACITY) * picture + OPACITY * colours
    return np.where(seen[..., None], np.round(mixed), picture).astype(np.uint8)


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))
