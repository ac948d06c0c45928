"""Outlines of labelled objects on a raster's pixels: each stays one object, whatever touches it.

Masks of classes cannot tell two houses that share a wall, and one object that lies on another
takes its pixels away. Instance models therefore learn from these, never from `Sheet.label`, which
only says what ground is known.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes as regions

from geoseg.data.labels import Labels, VectorLabels
from geoseg.grid import Window
from geoseg.metrics import IGNORE


class Outlines:
    """Polygons in pixels of a grid (x right, y down), and the label of each; they may overlap.

    shapes: (n,) valid polygons or multipolygons, not cut at the raster's edge. labels: (n,) uint8.
    """

    def __init__(self, shapes: NDArray[Any], labels: NDArray[np.uint8]) -> None:
        self.shapes, self.labels = shapes, labels

    def __len__(self) -> int:
        return len(self.labels)

    def within(self, area: shapely.Geometry) -> NDArray[np.intp]:
        """Indexes of those that share a point with `area`, ascending."""
        return np.sort(self._tree.query(area, predicate="intersects"))

    def in_window(self, window: Window) -> NDArray[np.intp]:
        return self.within(shapely.box(window.col, window.row, window.col_stop, window.row_stop))

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.shapes)

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes: the tree is grown again there."""
        return Outlines, (self.shapes, self.labels)


def outlines_of(labels: Labels | None, label: NDArray[np.uint8], first: int) -> Outlines:
    """The objects of a raster; `label` (H, W) as in a Sheet, `first` the label of the first class.

    Of vectors each feature is an object, whatever lies on it. Of masks each region of pixels that
    touch at their edges is one: where objects of a class touch there, only vectors can tell.
    """
    if isinstance(labels, VectorLabels):
        shapes, codes = labels.pixels, labels.codes
        own = (codes >= first) & (codes != IGNORE) & (shapely.area(shapes) > 0)
        shapes, codes = shapes[own], codes[own]
        bent = ~shapely.is_valid(shapes)  # by the way into the raster's CRS
        if bent.any():
            shapes[bent] = shapely.make_valid(shapes[bent], method="structure")
        return Outlines(shapes, codes)
    object_ = (label >= first) & (label != IGNORE)
    found = [(shapely.geometry.shape(g), v) for g, v in regions(label, object_, connectivity=4)]
    shapes = np.empty(len(found), object)
    shapes[:] = [shape for shape, _ in found]
    return Outlines(shapes, np.array([v for _, v in found], np.uint8))
