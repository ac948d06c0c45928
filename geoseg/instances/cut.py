"""Polygons that leave as the rows pass, cut into objects (see split.py), each by itself."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import OutputError, UsageError
from geoseg.instances.split import Necks, skimage, split_one
from geoseg.jit import jit
from geoseg.predictions import Rows
from geoseg.spec import ModelSpec
from geoseg.vectorize.stream import Polygonizer, Polygons

LARGEST = 2**24  # pixels of the box of a polygon that is cut; it takes 50 bytes for each of them
LARGEST_CLUSTER = 2**27  # of the box of a cluster, which takes four
BAND = 512  # rows of a cluster that are outlined at a time

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]
Int32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Cuts:
    """What of a model's classes is cut.

    ids: of the classes, in the order of the scores. necks: by class id; others stay whole.
    boundary: id of the class that is a line between objects, not one of them.
    """

    ids: tuple[int, ...]
    necks: Mapping[int, Necks]
    boundary: int | None = None

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        neck_m: float | Mapping[str, float],
        boundary: str | None,
        *,
        min_area_m2: float = 0.0,
    ) -> Cuts:
        """By the names of a model's classes; a number is for all that are no boundary."""
        ids = {name: number for number, name in spec.names.items()}
        named = neck_m if isinstance(neck_m, Mapping) else {}
        for option, names in (("cut", named), ("boundary", [boundary] if boundary else [])):
            for name in names:
                if name not in ids:
                    raise UsageError(
                        f"{option}: {spec.id} has no class {name!r}; there are: {', '.join(ids)}"
                    )
        line = ids.pop(boundary) if boundary else None
        if not ids:
            raise UsageError(f"boundary: {boundary} is the only class of {spec.id}")
        if boundary in named:
            raise UsageError(f"cut: {boundary} is the boundary, which is no object to be cut")
        widths = named or dict.fromkeys(ids, 0.0 if isinstance(neck_m, Mapping) else neck_m)
        necks = {
            ids[name]: Necks.of(width, None, min_area_m2, spec.gsd)
            for name, width in widths.items()
        }
        return cls(tuple(c.id for c in spec.classes), necks, line)

    def separate(self, rows: Rows) -> tuple[UInt8, Float32, Float32 | None]:
        """(h, W) labels without the boundary, their confidence, and the same, 0 on the boundary.

        A pixel of the boundary gets the most probable label of those that are cut. The confidence
        of these is that of the class or its boundary: the line itself tells where objects end.
        """
        if self.boundary is None:
            return rows.labels, rows.confidence, None
        line = rows.labels == self.boundary
        cut = np.array([k for k, number in enumerate(self.ids) if number in self.necks])
        best = rows.scores[cut].argmax(axis=0)
        labels = np.where(line, np.array(self.ids, np.uint8)[cut][best], rows.labels)
        own = np.where(line, rows.scores[cut].max(axis=0), rows.confidence)
        border = rows.scores[self.ids.index(self.boundary)]
        confidence = own + np.where(np.isin(labels, list(self.necks)), border, 0)
        return labels, confidence, np.where(line, np.float32(0), confidence)


class CuttingPolygonizer:
    """A Polygonizer whose polygons are cut at their necks before they leave.

    A polygon is painted anew in its own bounding box and cut there, so that its pieces do not
    depend on the bands or tiles that it came in; their pixels partition its own, and their
    outlines are a Polygonizer's. With `whole_clusters` that is done to whole clusters, so that the
    pieces can be simplified together, without gaps. Polygons whose box has more than LARGEST
    pixels stay whole, and `notes` tells how many.

    What a model was sure of is needed when a polygon ends, and may lie far above: it waits in
    nameless files in `folder`, one byte a pixel, two if there are boundaries; that is disk, not
    memory. So pieces have a mean and least confidence of their own pixels, to 1/255.
    """

    def __init__(
        self, width: int, cuts: Cuts, *, folder: Path, whole_clusters: bool = False
    ) -> None:
        skimage("segmentation")  # if it is missing, now is the time to say so
        self._polygonizer = Polygonizer(width, whole_clusters=whole_clusters)
        self._whole_clusters, self._cuts = whole_clusters, cuts
        self._passed = _Passed(folder, width, 1 if cuts.boundary is None else 2)
        self._left_whole = 0

    @property
    def notes(self) -> list[str]:
        """What could not be done, for the user."""
        if not self._left_whole:
            return []
        number = f"{self._left_whole} polygon{'s' * (self._left_whole > 1)}"
        edge = round(LARGEST**0.5)
        return [f"{number} of more than {edge} x {edge} pixels stayed whole, too large to be cut"]

    def add(self, rows: Rows) -> Polygons:
        """Take the next rows; return the pieces of polygons that no later row can change."""
        labels, confidence, inside = self._cuts.separate(rows)
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
        may = {k for k in range(start, stop) if self._may_be_cut(polygons, k)}
        if not may:
            return None
        left, top = polygons.bbox[start:stop, :2].min(axis=0).tolist()
        right, bottom = polygons.bbox[start:stop, 2:].max(axis=0).tolist()
        if (right - left) * (bottom - top) > LARGEST_CLUSTER:
            self._left_whole += len(may)
            return None
        canvas = np.zeros((bottom - top, right - left), np.int32)
        owners: list[int] = []  # the polygon of each number on the canvas, from 1 on
        for k in range(start, stop):
            mask, pieces = self._pieces(polygons, k, cut=k in may)
            x0, y0, x1, y1 = polygons.bbox[k].tolist()
            canvas[y0 - top : y1 - top, x0 - left : x1 - left][mask] = pieces[mask] + len(owners)
            owners += [k] * int(pieces.max())
        if len(owners) == stop - start:
            return None
        return self._outline(canvas, left, top, polygons, np.array(owners))

    def _may_be_cut(self, polygons: Polygons, k: int) -> bool:
        necks = self._cuts.necks.get(int(polygons.label[k]))
        x0, y0, x1, y1 = polygons.bbox[k].tolist()
        if necks is None or min(x1 - x0, y1 - y0) < necks.step:
            return False
        if (x1 - x0) * (y1 - y0) > LARGEST:
            self._left_whole += 1
            return False
        return True

    def _pieces(self, polygons: Polygons, k: int, *, cut: bool) -> tuple[Bool, Int32]:
        """(h, w) the pixels of a polygon in its box, and their pieces from 1 on."""
        rings = slice(*polygons.parts[polygons.shapes[[k, k + 1]]])
        x0, y0, x1, y1 = polygons.bbox[k].tolist()
        mask = np.zeros((y1 - y0, x1 - x0), np.bool_)
        corners = np.asarray(polygons.coords, np.int32)  # as they are: these are no contours
        _fill(corners, polygons.rings[rings.start : rings.stop + 1], x0, y0, mask)
        if not cut:
            return mask, mask.astype(np.int32)
        inside = self._passed.read(-1, polygons.bbox[k])
        return mask, split_one(mask, self._cuts.necks[int(polygons.label[k])], inside)

    def _outline(
        self, canvas: Int32, left: int, top: int, before: Polygons, owners: NDArray[np.int_]
    ) -> Polygons:
        """The polygons of a canvas; those that are still whole keep the confidence they had."""
        height, width = canvas.shape
        polygonizer = Polygonizer(width, whole_clusters=self._whole_clusters)
        batches = []
        for row in range(0, height, BAND):
            band = canvas[row : row + BAND]
            box = np.array([left, top + row, left + width, top + row + len(band)])
            batches.append(polygonizer.add(band, self._passed.read(0, box)))
        pieces = Polygons.concat([*batches, polygonizer.finish()])
        owner = owners[pieces.label - 1]
        whole = np.bincount(owner)[owner] == 1
        shift = np.array([left, top], np.int32)
        return replace(
            pieces,
            coords=pieces.coords + shift,
            bbox=pieces.bbox + np.tile(shift, 2),
            label=before.label[owner],
            cluster=before.cluster[owner],
            **{
                name: np.where(whole, getattr(before, name)[owner], getattr(pieces, name))
                for name in ("confidence_mean", "confidence_min", "confidence_std")
            },
        )


class _Passed:
    """Rows of numbers in 0..1, to 1/255, on disk: files without a name, one for each plane."""

    def __init__(self, folder: Path, width: int, planes: int) -> None:
        self._folder, self._width, self._row = folder, width, 0
        try:
            self._files = [
                tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  until close
                for _ in range(planes)
            ]
        except OSError as e:
            raise OutputError(f"{folder}: cannot write here ({e.strerror})") from e

    def append(self, planes: Sequence[Float32], *, empty: bool) -> None:
        """The next rows (h, width) of each plane; `empty` ones are never asked for."""
        for file, plane in zip(self._files, planes, strict=True):
            if not empty:
                data = np.rint(plane * np.float32(255)).astype(np.uint8)
                try:
                    file.seek(self._row * self._width)
                    _write(file, data)
                except OSError as e:
                    raise OutputError(f"{self._folder}: cannot write here ({e.strerror})") from e
        self._row += len(planes[0])

    def read(self, plane: int, box: NDArray[np.integer[Any]]) -> Float32:
        """(h, w) numbers of a plane in a box (first column, first row, last ones + 1)."""
        x0, y0, x1, y1 = box.tolist()
        out = np.zeros((y1 - y0, x1 - x0), np.uint8)
        file = self._files[plane]
        for row, line in enumerate(out, start=y0):
            file.seek(row * self._width + x0)
            file.readinto(line)
        return out.astype(np.float32) / np.float32(255)

    def close(self) -> None:
        for file in self._files:
            file.close()


def _write(file: Any, data: NDArray[np.uint8]) -> None:
    """All of it: a write to a file without a buffer may stop early."""
    view = memoryview(data.tobytes())
    while view:
        view = view[file.write(view) :]


def _between(polygons: Polygons, start: int, stop: int) -> Polygons:
    """The polygons from start to stop."""
    if start == stop:
        return Polygons.empty()
    columns: dict[str, Any] = {
        f.name: getattr(polygons, f.name)[start:stop] for f in fields(Polygons)
    }
    for name in ("shapes", "parts", "rings"):
        offsets = getattr(polygons, name)[start : stop + 1]
        columns[name] = offsets - offsets[0]
        start, stop = offsets[[0, -1]].tolist()
    return Polygons(**(columns | {"coords": polygons.coords[start:stop]}))


@jit
def _fill(coords: Int32, rings: NDArray[np.int64], left: int, top: int, mask: Bool) -> None:
    """Set the pixels of `mask`, whose first one is at (left, top), that the rings enclose."""
    height, width = mask.shape
    for r in range(len(rings) - 1):
        for k in range(rings[r], rings[r + 1] - 1):
            x = coords[k, 0] - left
            if x == coords[k + 1, 0] - left and x < width:  # a vertical edge
                low = min(coords[k, 1], coords[k + 1, 1]) - top
                high = max(coords[k, 1], coords[k + 1, 1]) - top
                for y in range(low, high):
                    mask[y, x] = not mask[y, x]
    for y in range(height):
        for x in range(1, width):
            mask[y, x] ^= mask[y, x - 1]
