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
