"""What travels between reading, the network and stitching: plain numpy, axis order named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.grid import Tile


@dataclass(frozen=True, slots=True)
class Chip:
    """The pixels of one tile.

    data:  (C, H, W), the scene's own values and dtype as read, at the model's GSD.
    valid: (H, W) bool, True = usable; False where there is no data or beyond the scene.
    """

    tile: Tile
    data: NDArray[Any]
    valid: NDArray[np.bool_]

    def __post_init__(self) -> None:
        shape = (self.tile.read.height, self.tile.read.width)
        if self.data.shape[1:] != shape or self.valid.shape != shape:
            raise ValueError(
                f"chip of {self.data.shape} with validity {self.valid.shape} "
                f"on a tile that reads {shape}"
            )


@dataclass(frozen=True, slots=True)
class SemanticPrediction:
    """Class probabilities of one tile.

    scores: (K, H, W) float32 in 0..1; K = 1: probability of the only class (sigmoid);
            K > 1: one per class, adding up to 1 (softmax).
    valid:  (H, W) bool, as in the chip.
    """

    tile: Tile
    scores: NDArray[np.float32]
    valid: NDArray[np.bool_]

    def __post_init__(self) -> None:
        shape = (self.tile.read.height, self.tile.read.width)
        if self.scores.ndim != 3 or self.scores.shape[1:] != shape or self.valid.shape != shape:
            raise ValueError(
                f"scores of {self.scores.shape} with validity {self.valid.shape} "
                f"on a tile that reads {shape}"
            )


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects that a network sees in one picture of height H and width W; N may be 0.

    boxes:     (N, 4) float32: left, top, right, bottom in pixels of the picture, whose first
               pixel reaches from 0 to 1.
    labels:    (N,) int64, index into the classes of the model's contract.
    scores:    (N,) float32 in 0..1: probability that there is such an object.
    masks:     (N, M, M) float32 in 0..1, stretched over the box: probability that a pixel
               belongs to the object; None where the model knows boxes only.
    keypoints: (N, P, 3) float32: x, y in pixels of the picture, and a score in 0..1; or None.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    masks: NDArray[np.float32] | None = None
    keypoints: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        shapes = (self.boxes.shape, self.labels.shape, self.scores.shape)
        if shapes != ((n, 4), (n,), (n,)) or any(
            a is not None and (a.ndim != 3 or len(a) != n) for a in (self.masks, self.keypoints)
        ):
            raise ValueError(f"boxes, labels, scores of {shapes} are not those of {n} objects")

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: NDArray[Any]) -> Detections:
        """Some of the objects, by index or by a mask of booleans."""
        masks = None if self.masks is None else self.masks[index]
        points = None if self.keypoints is None else self.keypoints[index]
        return Detections(self.boxes[index], self.labels[index], self.scores[index], masks, points)


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks of objects, each only as large as its box; N may be 0.

    windows: (N, 4) int32: row, col, height, width on the scene's grid, tight around the mask.
    pixels:  (P,) bool: the masks one after the other, each row by row.
    starts:  (N + 1,) int64: where in `pixels` each mask begins, and the last one ends.
    """

    windows: NDArray[np.int32]
    pixels: NDArray[np.bool_]
    starts: NDArray[np.int64]

    def __post_init__(self) -> None:
        n = len(self.starts) - 1
        if self.windows.shape != (n, 4) or self.pixels.shape != (self.starts[-1],):
            raise ValueError(
                f"windows of {self.windows.shape} and pixels of {self.pixels.shape} are not those "
                f"of {n} masks of {self.starts[-1]} pixels"
            )

    def __len__(self) -> int:
        return len(self.windows)


@dataclass(frozen=True, slots=True)
class InstancePrediction:
    """The objects that were seen in one tile.

    labels:    (N,) uint8, class id.
    scores:    (N,) float32 in 0..1.
    masks:     N, inside of the tile's read window and of the scene.
    keypoints: (N, P, 3) float32: column, row on the scene's grid, and a score; or None.
    """

    tile: Tile
    labels: NDArray[np.uint8]
    scores: NDArray[np.float32]
    masks: Masks
    keypoints: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.masks)
        if (self.labels.shape, self.scores.shape) != ((n,), (n,)):
            raise ValueError(f"labels and scores are not those of {n} masks")

    def __len__(self) -> int:
        return len(self.masks)


@dataclass(frozen=True, slots=True)
class Objects:
    """Finished objects of a scene: no later tile can change them. Fields as in a prediction.

    parts:     (N,) int32: how many detections became this object.
    truncated: (N,) bool: it goes on beyond a tile's edge, where nothing was found that it goes on
               as; so its outline there is that edge.
    """

    labels: NDArray[np.uint8]
    scores: NDArray[np.float32]
    masks: Masks
    parts: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    keypoints: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.masks)


@dataclass(frozen=True, slots=True)
class Rows:
    """Finished rows of the scene, full width, in order from the top.

    row:        first row in the scene's grid.
    labels:     (h, W) uint8, class id; 0 = background, and where nothing was predicted.
    confidence: (h, W) float32, the model's probability of that label; 0 where not predicted.
    valid:      (h, W) bool, True where the model had data and the area of interest is.
    scores:     (K, h, W) float32; 0 where not predicted.
    """

    row: int
    labels: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    valid: NDArray[np.bool_]
    scores: NDArray[np.float32]
