"""Rows of labels in, finished polygons out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from geoseg.vectorize import kernel
from geoseg.vectorize.contour import STAY, Edges
from geoseg.vectorize.wkb import to_map

if TYPE_CHECKING:
    from affine import Affine

VOID = -(2**31)  # label that parts what is void from the background, for contours
STRIP = 32  # rows swept between two looks at what is finished; keeps the storage in the cache

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """N polygons on the pixel grid, as arrays; contours have vertices between the pixels.

    A polygon has one part, or several that meet at points only (8-connectivity); a part has an
    exterior ring and its holes; a ring repeats its first point at its end. Exteriors run
    counter-clockwise as the raster is looked at (first row on top), holes clockwise.
    """

    coords: Int32 | Float64  # (V, 2) column, row: int32 pixel corners, or float64 contours
    rings: Int64  # (R + 1,) offsets of the rings into coords
    parts: Int64  # (P + 1,) offsets of the parts into rings; the first is the exterior
    shapes: Int64  # (N + 1,) offsets of the polygons into parts
    label: Int32  # (N,)
    pixels: Int64  # (N,) number of pixels; it is the area in pixels, but for contours
    confidence_mean: Float32  # (N,) over the pixels of the polygon; NaN where none was given
    confidence_min: Float32  # (N,)
    confidence_std: Float32  # (N,)
    bbox: Int32  # (N, 4) of the pixels: first column, first row, last column + 1, last row + 1
    cluster: Int64  # (N,) running number; polygons that were held for each other share it

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def empty(cls) -> Polygons:
        """No polygons."""
        return cls(
            coords=np.empty((0, 2), np.int32),
            rings=np.zeros(1, np.int64),
            parts=np.zeros(1, np.int64),
            shapes=np.zeros(1, np.int64),
            label=np.empty(0, np.int32),
            pixels=np.empty(0, np.int64),
            confidence_mean=np.empty(0, np.float32),
            confidence_min=np.empty(0, np.float32),
            confidence_std=np.empty(0, np.float32),
            bbox=np.empty((0, 4), np.int32),
            cluster=np.empty(0, np.int64),
        )

    @classmethod
    def concat(cls, batches: Sequence[Polygons]) -> Polygons:
        """All polygons of the batches, in their order."""
        batches = [batch for batch in batches if len(batch)]
        if not batches:
            return cls.empty()
        if len(batches) == 1:
            return batches[0]
        columns: dict[str, Any] = {}
        for field in fields(cls):
            arrays = [getattr(batch, field.name) for batch in batches]
            if field.name in ("rings", "parts", "shapes"):
                ends = np.cumsum([array[-1] for array in arrays])
                shifted = [a[1:] + end for a, end in zip(arrays[1:], ends, strict=False)]
                arrays = [arrays[0], *shifted]
            columns[field.name] = np.concatenate(arrays)
        return cls(**columns)

    def map_coords(self, transform: Affine) -> NDArray[np.float64]:
        """(V, 2) map coordinates of `coords`; `transform` maps (column, row) to (x, y)."""
        return to_map(self.coords, *(float(v) for v in tuple(transform)[:6]))

    def to_shapely(self, transform: Affine | None = None) -> NDArray[np.object_]:
        """(N,) shapely Polygons, MultiPolygons where there are several parts.

        `transform` maps (column, row) to map coordinates; without it they are pixels.
        """
        coords = self.coords if transform is None else self.map_coords(transform)
        return self.build(coords)

    def sum_parts(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) sums over the parts of each polygon of (P,) values."""
        if len(values) == len(self):
            return values
        return np.add.reduceat(values, self.shapes[:-1])

    def build(self, coords: NDArray[Any]) -> NDArray[np.object_]:
        """`to_shapely` on other (V, 2) coordinates of the same vertices."""
        import shapely

        polygons = shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, coords, (self.rings, self.parts)
        )
        if len(polygons) == len(self):
            return cast(NDArray[np.object_], polygons)
        counts = np.diff(self.shapes)  # parts of each polygon
        geometries = polygons[self.shapes[:-1]]
        several = np.flatnonzero(counts > 1)
        geometries[several] = shapely.multipolygons(
            polygons[np.repeat(counts > 1, counts)],
            indices=np.repeat(np.arange(len(several)), counts[several]),
        )
        return cast(NDArray[np.object_], geometries)


class Polygonizer:
    """Outlines the connected pixels of equal label in a raster that comes in bands of rows.

    `width` is that of the raster in pixels; label 0 has no polygons. With `connectivity` 4 each
    polygon is a 4-connected set of pixels. With 8, such polygons of one label that meet at a
    point become the parts of one MultiPolygon (so everything is valid; GDAL's 8-connected
    polygons touch themselves, and equal these after make_valid).

    With `junctions` outlines have a vertex wherever a neighbour's outline has one, even on a
    straight line, so that a change of CRS opens no slivers; otherwise rings have corners only.
    With `whole_clusters` they also have them, and polygons that touch one another, along an edge
    or at a point and whatever their label, leave together: what simplifying without gaps needs.

    With `contours` rows come with the Edges that `contour.Crossings` finds in their scores, and
    outlines are contours: the same polygons, parts and holes with other vertices (see contour.py),
    junctions among them.

    Polygons come in the order in which the rows finish them; they do not depend on the heights
    of the bands. Rows are counted from `origin_row`. Storage is bounded by what is unfinished.
    """

    def __init__(
        self,
        width: int,
        *,
        connectivity: int = 4,
        whole_clusters: bool = False,
        junctions: bool = False,
        contours: bool = False,
        origin_row: int = 0,
    ) -> None:
        if width < 1:
            raise ValueError(f"a raster has at least one column, not {width}")
        if connectivity not in (4, 8):
            raise ValueError(f"connectivity is 4 or 8, not {connectivity}")
        if origin_row < 0:
            raise ValueError(f"rows are counted from 0, not from {origin_row}")
        self._width = width
        junctions = junctions or whole_clusters or contours
        self._modes = (connectivity == 8, whole_clusters, junctions)
        self._has_confidence: bool | None = None
        self._finished = False
        self._counters = np.zeros(kernel.COUNTERS, np.int64)
        self._counters[kernel.ROW] = origin_row
        heads = [kernel.NODE_FREE, kernel.MARK_FREE, kernel.PART_FREE, kernel.DONE_HEAD]
        self._counters[heads] = -1
        self._nodes = np.empty((1024, kernel.NODE_COLUMNS), np.int32)
        self._marks = np.empty((1024, kernel.MARK_COLUMNS), np.int32)
        self._parts = np.empty((256, kernel.PART_COLUMNS), np.int32)
        self._moments = np.empty((256, 3), np.float64)
        self._places = np.empty((len(self._nodes), 2), np.int16) if contours else None
        self._across = np.zeros((1, width + 1), np.int8)  # of the last row swept
        # The last row swept; before the first there is one without labels.
        self._row = np.zeros((2, kernel.RUN_COLUMNS), np.int32)
        self._row[1, kernel.START] = width

    def add(
        self,
        labels: NDArray[Any],
        confidence: NDArray[np.floating[Any]] | None = None,
        edges: Edges | None = None,
    ) -> Polygons:
        """Take the next (h, width) rows; return the polygons that no later row can change.

        `labels` are integers that fit 32 bits; `confidence` (h, width) is what the attributes of
        the polygons are computed from, given with every band or with none. `edges` are those of
        these rows, for contours.
        """
        labels = self._checked(labels, confidence)
        if (edges is not None) is not (self._places is not None):
            raise ValueError("contours need the edges of every band, and nothing else takes them")
        if edges is not None and edges.void.shape != labels.shape:
            raise ValueError(f"edges of {edges.void.shape} are not those of {labels.shape} labels")
        batches = []
        for top in range(0, len(labels), STRIP):
            strip = labels[top : top + STRIP]
            scores = None
            if confidence is not None:
                scores = np.asarray(confidence[top : top + STRIP], np.float32)
            part = None if edges is None else edges.rows(top, top + STRIP)
            self._sweep(strip, scores, part)
            batches.append(self._emit())
        return Polygons.concat(batches)

    def finish(self) -> Polygons:
        """Return the polygons that reach the last row. Nothing can be added afterwards."""
        self._check_open()
        below = np.zeros((1, self._width), np.uint8)  # what lies beyond the last row
        edges = None
        if self._places is not None:
            across = np.zeros((1, self._width + 1), np.int8)
            edges = Edges(across, np.full(below.shape, STAY, np.int8), below == 0)
        self._sweep(below, None, edges)
        self._finished = True
        return self._emit()

    def _check_open(self) -> None:
        if self._finished:
            raise ValueError("this Polygonizer is finished: take a new one")

    def _checked(self, labels: NDArray[Any], confidence: NDArray[Any] | None) -> NDArray[Any]:
        """`labels` as uint8 or int32: what the kernel is compiled for."""
        self._check_open()
        if labels.ndim != 2 or labels.shape[1] != self._width:
            raise ValueError(f"labels must be (rows, {self._width}), not {labels.shape}")
        if confidence is not None and confidence.shape != labels.shape:
            raise ValueError(f"confidence is {confidence.shape}, the labels are {labels.shape}")
        if self._has_confidence is None:
            self._has_confidence = confidence is not None
        elif self._has_confidence is not (confidence is not None):
            raise ValueError("give confidence with every band of rows or with none")
        if labels.dtype == np.uint8:
            return labels
        if labels.dtype == np.bool_:
            return labels.view(np.uint8)
        if labels.dtype.kind not in "iu":
            raise TypeError(f"labels must be integers, not {labels.dtype}")
        limits = np.iinfo(np.int32)
        if (
            not np.can_cast(labels.dtype, np.int32)
            and labels.size
            and (labels.min() < limits.min or labels.max() > limits.max)
        ):
            raise ValueError("labels must fit 32 bits")
        return labels.astype(np.int32)

    def _sweep(self, labels: NDArray[Any], confidence: Float32 | None, edges: Edges | None) -> None:
        if edges is not None:
            labels = np.where(edges.void, np.int32(VOID), labels)
        offsets = np.empty(len(labels) + 2, np.int64)
        offsets[:2] = 0, len(self._row)
        count = int(offsets[1]) + kernel.count_runs(labels)
        runs = np.empty((count, kernel.RUN_COLUMNS), np.int32)
        runs[: offsets[1]] = self._row
        kernel.encode(labels, runs, offsets)
        if edges is not None:
            runs[runs[:, kernel.LABEL] == VOID, kernel.LABEL] = 0
            across = np.concatenate((self._across, edges.across))
            down = np.concatenate((edges.down[:1], edges.down))
            self._across = across[-1:].copy()
        sums = np.empty((0 if confidence is None else len(runs), 3))
        if confidence is not None:
            kernel.run_moments(confidence, runs, offsets, sums)
        row = 1
        while True:
            contour = None
            if self._places is not None:
                contour = kernel.Contour(self._places, across, down)
            row = kernel.sweep(
                row,
                runs,
                offsets,
                sums,
                self._nodes,
                self._marks,
                self._parts,
                self._moments,
                self._counters,
                *self._modes,
                contour,
            )
            if row > len(labels):
                break
            need = int(offsets[row + 1] - offsets[row - 1])
            more = 4 * need + (0 if contour is None else 2 * (self._width + need))
            self._nodes = _grown(self._nodes, int(self._counters[kernel.NODES]) + more)
            if self._places is not None:
                self._places = _grown(self._places, len(self._nodes))
            self._marks = _grown(self._marks, int(self._counters[kernel.MARKED]) + 3 * need)
            self._parts = _grown(self._parts, int(self._counters[kernel.PARTS]) + need)
            self._moments = _grown(self._moments, len(self._parts))
        self._row = runs[offsets[-2] :].copy()

    def _emit(self) -> Polygons:
        """The finished polygons."""
        counters = self._counters
        if counters[kernel.DONE_HEAD] < 0:
            return Polygons.empty()
        nodes, parts = int(counters[kernel.NODES]), int(counters[kernel.PARTS])
        rings = nodes // 4  # a ring has at least four corners, and repeats its first
        contour: kernel.Contour | None = None
        vertex: Any = np.int32
        if self._places is not None:
            contour = kernel.Contour(self._places, self._across, self._across)
            vertex = np.float64
        out = kernel.Output(
            coords=np.empty((nodes + rings, 2), vertex),
            rings=np.empty(rings + 1, np.int64),
            parts=np.empty(parts + 1, np.int64),
            shapes=np.empty(parts + 1, np.int64),
            label=np.empty(parts, np.int32),
            pixels=np.empty(parts, np.int64),
            moments=np.empty((parts, 3), np.float64),
            bbox=np.empty((parts, 4), np.int32),
            cluster=np.empty(parts, np.int64),
        )
        counts = np.zeros(4, np.int64)
        kernel.emit(
            self._nodes, self._marks, contour, self._parts, self._moments, counters, out, counts
        )
        n, p, r, v = counts.tolist()
        pixels = out.pixels[:n].copy()
        mean, least, std = _confidence(out.moments[:n], pixels, bool(self._has_confidence))
        return Polygons(
            coords=out.coords[:v].copy(),
            rings=out.rings[: r + 1].copy(),
            parts=out.parts[: p + 1].copy(),
            shapes=out.shapes[: n + 1].copy(),
            label=out.label[:n].copy(),
            pixels=pixels,
            confidence_mean=mean,
            confidence_min=least,
            confidence_std=std,
            bbox=out.bbox[:n].copy(),
            cluster=out.cluster[:n].copy(),
        )


def _grown(array: NDArray[Any], need: int) -> NDArray[Any]:
    """The array, copied to one of at least twice its length if it has fewer than `need` rows."""
    if need <= len(array):
        return array
    larger = np.empty((max(need, 2 * len(array)), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


def _confidence(
    moments: NDArray[np.float64], pixels: Int64, given: bool
) -> tuple[Float32, Float32, Float32]:
    """Mean, minimum and standard deviation out of sum, sum of squares and minimum."""
    if not given:
        none = np.full(len(pixels), np.nan, np.float32)
        return none, none.copy(), none.copy()
    total, squares, least = moments.T
    mean = total / pixels
    variance = np.maximum(squares / pixels - mean * mean, 0)
    return (
        mean.astype(np.float32),
        least.astype(np.float32),
        np.sqrt(variance).astype(np.float32),
    )
