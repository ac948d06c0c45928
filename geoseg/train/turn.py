"""The turning of a window: one geometry for its pixels, its labels, and the outlines on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from affine import Affine
from torch import Tensor
from torch.nn import functional as F

from geoseg.metrics import IGNORE


@dataclass(frozen=True, slots=True)
class Turn:
    """The middle `chip` pixels of a square window, turned.

    angle: freely, in radians about the centre; None for upright. Then comes a flip of left and
    right, then so many quarter turns (counterclockwise, as torch.rot90).
    """

    chip: int
    angle: float | None
    flip: bool
    quarter: int

    @classmethod
    def drawn(cls, chip: int, rotate: float, rng: np.random.Generator) -> Turn:
        """One by chance; with probability `rotate` a free one."""
        angle = float(rng.uniform(0, math.pi / 2)) if rng.random() < rotate else None
        return cls(chip, angle, bool(rng.random() < 0.5), int(rng.integers(4)))

    def image(self, image: Tensor) -> Tensor:
        """(C, S, S) float -> (C, chip, chip)."""
        if self.angle is not None:
            grid = self._grid(image)
            image = F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]
        else:
            image = self._middle(image)
        return self._upright(image)

    def target(self, target: Tensor) -> Tensor:
        """(S, S) uint8 -> (chip, chip), never interpolated; IGNORE from beyond the window."""
        if self.angle is not None:
            # grid_sample fills with 0 outside: shifted by one, 0 can stand for IGNORE
            shifted = (target.float() + 1) * (target != IGNORE)
            grid = self._grid(target)
            picked = F.grid_sample(shifted[None, None], grid, mode="nearest", align_corners=False)
            picked = picked[0, 0].round()
            target = torch.where(picked == 0, float(IGNORE), picked - 1).to(torch.uint8)
        else:
            target = self._middle(target)
        return self._upright(target)

    def to_window(self, size: int) -> Affine:
        """Where a point (x, y) of the chip was on the window of `size` pixels, exactly."""
        half = self.chip / 2
        about_centre = Affine.translation(-half, -half)
        # what rot90 and flip do to pixels, undone: the last change first
        quarter = Affine(0, -1, 0, 1, 0, 0)  # x = -y', y = x'
        back = Affine.identity()
        for _ in range(self.quarter % 4):
            back = quarter @ back
        if self.flip:
            back = Affine.scale(-1, 1) @ back
        if self.angle is not None:
            back = Affine.rotation(math.degrees(self.angle)) @ back
        return Affine.translation(size / 2, size / 2) @ back @ about_centre

    def _middle(self, pixels: Tensor) -> Tensor:
        edge = (pixels.shape[-1] - self.chip) // 2
        inside = slice(edge, edge + self.chip)
        return pixels[..., inside, inside]

    def _upright(self, pixels: Tensor) -> Tensor:
        pixels = pixels.flip(-1) if self.flip else pixels
        return torch.rot90(pixels, self.quarter, (-2, -1))

    def _grid(self, pixels: Tensor) -> Tensor:
        """Where each pixel of the chip is read from, for grid_sample."""
        assert self.angle is not None
        ratio = self.chip / pixels.shape[-1]
        c, s = math.cos(self.angle) * ratio, math.sin(self.angle) * ratio
        theta = torch.tensor([[[c, -s, 0.0], [s, c, 0.0]]], device=pixels.device)
        return F.affine_grid(theta, [1, 1, self.chip, self.chip], align_corners=False)


def turn(
    images: Tensor, targets: Tensor, chip: int, rotate: float, g: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random flip and quarter turn for each image, some turned freely, cut to `chip`.

    (N, C, S, S) and (N, S, S) -> (N, C, chip, chip) and (N, chip, chip).
    """
    out_images, out_targets = [], []
    free = torch.rand(images.shape[0], generator=g) < rotate
    for image, target, oblique in zip(images, targets, free, strict=True):
        quarter = int(torch.randint(4, (), generator=g))
        flip = bool(torch.rand((), generator=g) < 0.5)
        angle = float(torch.rand((), generator=g)) * math.pi / 2
        own = Turn(chip, angle if oblique else None, flip, quarter)
        out_images.append(own.image(image))
        out_targets.append(own.target(target))
    return torch.stack(out_images), torch.stack(out_targets)
