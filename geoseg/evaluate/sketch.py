"""Objects drawn on the image: what was found, what was missed, and what is not there.

Each has its own outline, so that objects that overlap or touch are told apart.
"""

from __future__ import annotations

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rasterio.features import rasterize

from geoseg.evaluate.objects import ObjectTable
from geoseg.grid import Window

# Told apart also by readers who see no red, or no green: Okabe & Ito's, a little brighter.
HIT, MISS, ALARM = "#00b386", "#2f6bff", "#ff8a00"
FILL = {HIT: 0.38, MISS: 0.72, ALARM: 0.72}
TRUTH = "#ffffff"  # outline of a true object that was found

Pixels = NDArray[np.uint8]  # (h, w, 3)


def sketch(image: Pixels, objects: ObjectTable, window: Window) -> Pixels:
    """The objects of a window over its image, which may be of another size."""
    height, width = image.shape[:2]
    box = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
    here = objects.take(shapely.intersects(objects.pixels, box))
    scale = Affine.scale(window.width / width, window.height / height)
    to_grid = Affine.translation(window.col, window.row) @ scale
    kinds = {
        ALARM: ~here.from_truth & ~here.matched,
        MISS: here.from_truth & ~here.matched,
        HIT: ~here.from_truth & here.matched,
    }
    pairs = [(g, i) for i, own in enumerate(kinds.values(), 1) for g in here.pixels[own]]
    out = image.astype(np.float32)
    if pairs:  # the later one lies on top
        filled = rasterize(pairs, (height, width), transform=to_grid, dtype="uint8")
        for i, color in enumerate(kinds, 1):
            where = filled == i
            out[where] = out[where] * (1 - FILL[color]) + rgb(color) * FILL[color]
    picture = Image.fromarray(out.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    to_picture = ~to_grid
    for color, own in ((TRUTH, here.from_truth & here.matched), *kinds.items()):
        for ring in shapely.get_rings(here.pixels[own]):
            x, y = to_picture @ tuple(shapely.get_coordinates(ring).T)
            draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=color)
    return np.array(picture)


def rgb(color: str) -> NDArray[np.float32]:
    """(3,) of #rrggbb."""
    return np.array(list(bytes.fromhex(color[1:])), np.float32)
