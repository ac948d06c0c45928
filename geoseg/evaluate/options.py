"""The options of an evaluation, besides those of a prediction."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from geoseg.config import Strict
from geoseg.data.config import Value
from geoseg.errors import UsageError
from geoseg.options import Box, check_bounds

_BLOCK = 4  # pixels along a block, at least: smaller ones are no independent ground
_TOLERANCE = 0.6  # metres by which a boundary may be off: 2 pixels of the usual aerial imagery ...
_MOST = 100  # ... and pixels, at most

Positive = Annotated[float, Field(gt=0)]


class EvaluateOptions(Strict):
    """How predictions are held against the truth.

    bounds:    (left, bottom, right, top) in the CRS of each scene: only what lies inside counts, of
               what was labelled.
    attribute: of vector truth, holds the class.
    values:    class name -> what the attribute says for it; by default the class's name or id.
    part:      of a recipe: the places that are kept for 'test', or to 'validate'.
    split:     split.gpkg of a training run: also the blocks of that part, of its training places.
    data:      the folder of a recipe's data, if elsewhere.
    block:     edge in metres of the blocks of ground that are resampled for intervals, and shown;
               by default 100, for coarse pixels the next round number over 64 pixels.
    tolerance: metres by which a boundary may be off for the boundary F1; by default 0.6, for
               coarse pixels the next round number over 2 pixels: of all that is compared on
               a scene (models of 0.3 m, outlines on finer imagery) it is the same.
    match:     IoU from which a polygon counts as found.
    sizes:     limits in m² between the sizes of objects that are told apart.
    worst:     how many places are shown, worst first.
    keep:      keep the predictions of the models in the report's folder.
    against_nms: of a model that finds objects: evaluate it also with non-maximum suppression in
               place of merging, to show what merging brings.
    """

    bounds: Annotated[Box | None, AfterValidator(check_bounds)] = None
    attribute: str | None = None
    values: dict[str, tuple[Value, ...]] = Field(default_factory=dict)
    part: Literal["test", "validate"] = "test"
    split: Path | None = None
    data: Path | None = None
    block: Positive | None = None
    tolerance: Positive | None = None
    match: Annotated[float, Field(gt=0, le=1)] = 0.5
    sizes: tuple[Positive, ...] = (50.0, 200.0, 1000.0)
    worst: Annotated[int, Field(ge=0, le=100)] = 9
    keep: bool = False
    against_nms: bool = False

    @model_validator(mode="after")
    def _ascending(self) -> EvaluateOptions:
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError("sizes: give them in ascending order")
        return self

    def block_for(self, pixel_m: float) -> float:
        """Edge of a block in metres, for pixels of so many metres."""
        if self.block and self.block < _BLOCK * pixel_m:
            raise UsageError(
                f"block: {self.block:g} m is less than {_BLOCK} pixels of {pixel_m:g} m"
            )
        return self.block or max(100.0, _round_up(64 * pixel_m))

    def tolerance_for(self, pixel_m: float) -> float:
        """Metres by which a boundary may be off, for pixels of so many metres."""
        if self.tolerance and self.tolerance > _MOST * pixel_m:
            raise UsageError(
                f"tolerance: {self.tolerance:g} m is more than {_MOST} pixels of {pixel_m:g} m: "
                "give metres, fewer"
            )
        if self.tolerance:
            return self.tolerance
        least = 2 * pixel_m
        about = 0.9 * least  # pixels are seldom of exactly 0.3 or 10 m
        metres = _TOLERANCE if about <= _TOLERANCE else _round_up(about)
        return min(max(metres, least), _MOST * pixel_m)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 ..."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= value * (1 - 1e-9))
