"""What a network of objects learns from one chip: boxes, classes and a mask for each object.

Every polygon goes the way of the pixels by itself and becomes a mask by itself, so objects that
touch or lie on each other keep all of their own pixels; no mask of classes lies in between.

An object that the chip's edge cuts stays, as what is visible of it: prediction goes by tiles, and
joins the parts of an object that each of two tiles has seen up to its edge. The same holds where
an object is cut by ground that is not labelled, or is held back for validation: such ground is
shown blank. What is left with fewer than LEAST pixels is no object, as nobody could tell what it
was a part of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import shapely
import torch
from affine import Affine
from numpy.typing import NDArray
from torch import Tensor

from geoseg.data.outlines import Outlines

LEAST = 12  # pixels
CORNERS = 4  # the points of an object that a keypoint head can learn

Target = Mapping[str, Tensor]  # of one chip, see `targets_of`


class Targets:
    """Those of a batch; moved and divided like the tensor of its pictures.

    No list: Fabric looks into lists, and in mixed precision makes their numbers bfloat16, in which
    a box at pixel 250.3 lies at 250.
    """

    def __init__(self, each: Iterable[Target]) -> None:
        self._each = tuple(each)

    def __len__(self) -> int:
        return len(self._each)

    def __getitem__(self, index: int) -> Target:
        return self._each[index]

    def __iter__(self) -> Iterator[Target]:
        return iter(self._each)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Targets:
        return Targets(
            {name: t.to(device, non_blocking=non_blocking) for name, t in one.items()}
            for one in self._each
        )

    def chunk(self, parts: int) -> list[Targets]:
        size = -(-len(self) // parts)
        return [Targets(self._each[i : i + size]) for i in range(0, len(self), size)]


def collate(items: Iterable[tuple[Tensor, Target]]) -> tuple[Tensor, Targets]:
    images, targets = zip(*items, strict=True)
    return torch.stack(images), Targets(targets)


def targets_of(
    outlines: Outlines,
    to_sheet: Affine,
    known: NDArray[np.bool_],
    *,
    first: int = 1,
    corners: bool = False,
) -> dict[str, Tensor]:
    """The objects of a chip; `to_sheet` takes its (x, y) to those that the outlines are in.

    known: (h, w), where the ground is labelled and shown. first: the label of the first class.

    boxes: (n, 4) float32 left, top, right, bottom; exact, but where unlabelled ground cuts the
    object, of whole pixels. labels: (n,) int64 from 0 on. masks: (n, h, w) uint8, pixels whose
    centre lies inside. With `corners` also keypoints (n, 4, 3) float32 x, y, visible: of the
    smallest rectangle around the object.
    """
    height, width = known.shape
    chip = shapely.box(0, 0, width, height)
    near = outlines.within(_moved(chip, to_sheet))
    shapes = _moved(outlines.shapes[near], ~to_sheet)
    visible = shapely.intersection(shapes, chip)
    boxes, masks, kept = [], [], []
    for i, shape in enumerate(visible):
        found = _seen(shape, known)
        if found is not None:
            boxes.append(found[0])
            masks.append(found[1])
            kept.append(i)
    labels = outlines.labels[near[kept]].astype(np.int64) - first
    out = {
        "boxes": torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
        "labels": torch.from_numpy(labels),
        "masks": torch.from_numpy(np.array(masks, np.uint8).reshape(-1, height, width)),
    }
    if corners:
        out["keypoints"] = torch.from_numpy(corners_of(shapes[kept], (height, width)))
    return out


def mask_of(shape: shapely.Geometry, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(h, w): the pixels whose centre lies inside of the shape."""
    mask = np.zeros(size, np.bool_)
    left, top, right, bottom = shape.bounds
    rows = slice(max(0, int(top)), min(size[0], int(np.ceil(bottom))))
    cols = slice(max(0, int(left)), min(size[1], int(np.ceil(right))))
    y, x = np.mgrid[rows, cols] + 0.5
    shapely.prepare(shape)
    mask[rows, cols] = shapely.contains_xy(shape, x, y)
    return mask


def corners_of(shapes: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """(n, 4, 3): x, y and 1 (0 beyond the picture) of the corners of each object.

    They go round to the right from the one that is nearest to the picture's upper left: the same
    corner then has the same number in pictures that look alike.
    """
    out = np.zeros((len(shapes), CORNERS, 3), np.float32)
    for points, shape in zip(out, shapely.oriented_envelope(shapes), strict=True):
        xy = shapely.get_coordinates(shapely.orient_polygons(shape))[:CORNERS]
        points[:, :2] = np.roll(xy, -int(xy.sum(1).argmin()), axis=0)
    inside = (out[..., :2] >= 0) & (out[..., :2] < (size[1], size[0]))
    out[..., 2] = inside.all(-1)
    return out


def _seen(
    shape: shapely.Geometry, known: NDArray[np.bool_]
) -> tuple[tuple[float, ...], NDArray[np.bool_]] | None:
    """Box and mask of what the chip shows of an object; None if that is next to nothing."""
    if shape.is_empty:
        return None
    mask = mask_of(shape, known.shape)
    whole = int(mask.sum())
    mask &= known
    left = int(mask.sum())
    if left < LEAST:
        return None
    if left == whole:
        return shape.bounds, mask
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1), mask


def _moved(shapes: Any, by: Affine) -> Any:
    return shapely.transform(shapes, lambda xy: np.column_stack(by @ (xy[:, 0], xy[:, 1])))
