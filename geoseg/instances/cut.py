"""Polygons that leave as the rows pass, cut into objects (see split.py), each by itself."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import OutputError
from geoseg.instances.split import Necks, skimage, split_one
from geoseg.jit import jit
from geoseg.vectorize.stream import Polygonizer, Polygons

LARGEST = 2**24  # pixels of the box of a polygon that is cut; it takes 50 bytes for each of them
LARGEST_CLUSTER = 2**27  # of the box of a cluster, which takes four
BAND = 512  # rows of a cluster that are outlined at a time

UInt8 = NDArray[np.uint8]
Int32 = NDArray[np.int32]


class CuttingPolygonizer:
    """A Polygonizer whose polygons are cut at their necks before they leave.

    `necks` are those of each label; polygons of other labels stay whole. A polygon is painted
    anew in its own bounding box and cut there, so that its pieces do not depend on the bands or
    tiles that it came in; their pixels partition its own, and their outlines are a Polygonizer's.
    With `whole_clusters` that is done to whole clusters, so that the pieces can be simplified
    together, without gaps. Polygons whose box has more than LARGEST pixels stay whole and are
    counted in `left_whole`.

    What a model was sure of is needed when a polygon ends, and may lie far above: it waits in a
    nameless file in `folder`, one byte a pixel, two if there are `boundaries`; that is disk, not
    memory. So pieces have a mean and least confidence of their own pixels, to 1/255.
    """

    def __init__(
        self,
        width: int,
        necks: Mapping[int, Necks],
        *,
        folder: Path,
        whole_clusters: bool = False,
        boundaries: bool = False,
    ) -> None:
        skimage("segmentation")  # if it is missing, now is the time to say so
        self._polygonizer = Polygonizer(width, whole_clusters=whole_clusters)
        self._whole_clusters, self._necks = whole_clusters, necks
        self._passed = _Passed(folder, width, 2 if boundaries else 1)
        self.left_whole = 0

    def add(
        self,
        labels: NDArray[Any],
        confidence: NDArray[np.float32],
        inside: NDArray[np.float32] | None = None,
    ) -> Polygons:
        """Take the next (h, width) rows, as a Polygonizer does; return finished pieces.

        `inside` is the confidence without that of being a boundary, and 0 where a boundary is.
        """
        planes = [confidence] if inside is None else [confidence, inside]
        self._passed.append(planes, empty=not labels.any())
        return self._cut(self._polygonizer.add(labels, confidence))

    def finish(self) -> Polygons:
        """Return the pieces that reach the last row. Nothing can be added afterwards."""
        return self._cut(self._polygonizer.finish())

    def close(self) -> None:
        """Let go of the file."""
        self._passed.close()

    def _cut(self, polygons: Polygons) -> Polygons:
        if not len(polygons):
            return polygons
        starts = np.flatnonzero(np.diff(polygons.cluster, prepend=polygons.cluster[0] - 1))
        batches, done = [], 0
        for start, stop in zip(starts, np.append(starts[1:], len(polygons)), strict=True):
            pieces = self._cut_cluster(polygons, int(start), int(stop))
            if pieces is not None:
                batches += [_between(polygons, done, int(start)), pieces]
                done = int(stop)
        return Polygons.concat([*batches, _between(polygons, done, len(polygons))])

    def _cut_cluster(self, polygons: Polygons, start: int, stop: int) -> Polygons | None:
        """The polygons from start to stop, cut; None if all stay as they are."""
        may = [k for k in range(start, stop) if self._may_be_cut(polygons, k)]
        boxes = polygons.bbox[start:stop]
        left, top = boxes[:, :2].min(axis=0).tolist()
        right, bottom = boxes[:, 2:].max(axis=0).tolist()
        if not may:
            return None
        if (right - left) * (bottom - top) > LARGEST_CLUSTER:
            self.left_whole += len(may)
            return None
        canvas = np.zeros((bottom - top, right - left), np.int32)
        owner: list[int] = [-1]  # of each number on the canvas, the polygon
        for k in range(start, stop):
            x0, y0, x1, y1 = polygons.bbox[k].tolist()
            mask = paint(polygons, k)
            pieces = mask.view(np.uint8).astype(np.int32)
            if k in may:
                inside = self._passed.read(-1, y0, y1, x0, x1)
                pieces = split_one(mask, self._necks[int(polygons.label[k])], inside)
            pieces[mask] += len(owner) - 1
            canvas[y0 - top : y1 - top, x0 - left : x1 - left][mask] = pieces[mask]
            owner += [k] * (int(pieces.max()) - len(owner) + 1)
        if len(owner) - 1 == stop - start:
            return None
        return self._outline(polygons, canvas, np.array(owner), left, top)
