"""Random windows with the objects on them, for training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from affine import Affine
from torch import Tensor

from geoseg.data.sheets import Sheet
from geoseg.data.split import TRAIN
from geoseg.metrics import IGNORE
from geoseg.train.config import TrainConfig
from geoseg.train.instances.targets import Target, targets_of
from geoseg.train.turn import Turn
from geoseg.train.windows import Blank, Windows, cut, resample


class ObjectWindows(Windows):
    """Random training windows; item i is (picture (C, chip, chip) float32, its objects).

    Drawn as `Windows` are. Where, how large and how turned is decided here, once: the picture is
    read by it, and the polygons moved by its inverse. Ground that is not labelled, or validates,
    is blank, so that no object on it is learnt as background.
    """

    def __init__(
        self, sheets: Sequence[Sheet], config: TrainConfig, blank: Blank, *, corners: bool = False
    ) -> None:
        super().__init__(sheets, config, blank)
        self.corners = corners
        self._blank = np.array(blank, np.float32)[:, None]

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:  # type: ignore[override]
        schedule = self.config.schedule
        rng = np.random.default_rng([schedule.seed, index])
        sheet, window = self._drawn(rng)
        assert sheet.outlines is not None  # loaded for a model of objects
        image = self._picture(sheet, window, rng)
        known = sheet.target(window, TRAIN) != IGNORE
        image[:, cut(sheet.valid[None], window, fill=False)[0] & ~known] = self._blank
        pixels, seen = resample(image, known.astype(np.uint8), self.size)
        turn = Turn.drawn(schedule.chip, self.config.augment.rotate, rng)
        to_sheet = (
            Affine.translation(window.col, window.row)
            @ Affine.scale(window.width / self.size)
            @ turn.to_window(self.size)
        )
        target = targets_of(
            sheet.outlines,
            to_sheet,
            (turn.target(seen) == 1).numpy(),
            first=self.config.data.first,
            corners=self.corners,
        )
        return turn.image(pixels), target
