"""Augmentation of a batch: one geometry for image and label, then the image's appearance.

Plain torch operations on (N, C, H, W); on one CPU thread they take a few per cent of a training
step, a tenth of what general augmentation libraries need. All randomness comes from the given
generator. Pixel values are 0..255 throughout (`full` = 255).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from geoseg.train.config import AugmentConfig
from geoseg.train.data import IGNORE


class Augment:
    """augment(images (N, C, S, S), targets (N, S, S)) -> the same at `chip` pixels."""

    def __init__(self, config: AugmentConfig, chip: int, full: float = 255.0) -> None:
        self.config, self.chip, self.full = config, chip, full

    def __call__(
        self, images: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        c, g = self.config, generator
        images, targets = turn(images, targets, self.chip, c.rotate, g)
        images = images / self.full
        images = self._light(images, g)
        images = blur(images, c.blur, g)
        images = coarsen(images, c.coarse, g)
        images = noise(images, c.noise, g)
        images, targets = cutmix(images, targets, c.cutmix, g)
        return images.clamp(0, 1) * self.full, targets

    def _light(self, images: Tensor, g: torch.Generator) -> Tensor:
        """Gamma, saturation, contrast, brightness and the strength of each band."""
        c, n, bands = self.config, images.shape[0], images.shape[1]
        images = images.clamp(1e-4, 1) ** torch.exp(spread((n, 1, 1, 1), c.gamma, g))
        gray = images.mean(1, keepdim=True)
        keep = 1 + spread((n, 1, 1, 1), c.saturation, g)
        keep = keep * (~chance(n, c.gray, g)).float().view(n, 1, 1, 1)
        images = gray + (images - gray) * keep
        middle = images.mean((2, 3), keepdim=True)
        images = middle + (images - middle) * (1 + spread((n, 1, 1, 1), c.contrast, g))
        gain = (1 + spread((n, 1, 1, 1), c.brightness, g)) * (
            1 + spread((n, bands, 1, 1), c.band, g)
        )
        return images * gain + spread((n, bands, 1, 1), c.band / 3, g)


def spread(shape: tuple[int, ...], amount: float, g: torch.Generator) -> Tensor:
    """Uniform in -amount .. amount."""
    return (torch.rand(shape, generator=g) * 2 - 1) * amount


def chance(n: int, probability: float, g: torch.Generator) -> Tensor:
    """(n,) bool, True with `probability`."""
    return torch.rand(n, generator=g) < probability


def turn(
    images: Tensor, targets: Tensor, chip: int, rotate: float, g: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random flip and quarter turn for each image, some turned freely, cut to `chip`.

    (N, C, S, S) and (N, S, S) -> (N, C, chip, chip) and (N, chip, chip); labels are never
    interpolated, and what comes from beyond the window is IGNORE.
    """
    out_images, out_targets = [], []
    free = chance(images.shape[0], rotate, g)
    for image, target, oblique in zip(images, targets, free, strict=True):
        quarter = int(torch.randint(4, (), generator=g))
        flip = bool(torch.rand((), generator=g) < 0.5)
        angle = float(torch.rand((), generator=g)) * math.pi / 2
        if oblique:
            image, target = _rotated(image, target, angle, chip)
        else:
            edge = (image.shape[-1] - chip) // 2
            image = image[:, edge : edge + chip, edge : edge + chip]
            target = target[edge : edge + chip, edge : edge + chip]
        if flip:
            image, target = image.flip(-1), target.flip(-1)
        out_images.append(torch.rot90(image, quarter, (-2, -1)))
        out_targets.append(torch.rot90(target, quarter, (-2, -1)))
    return torch.stack(out_images), torch.stack(out_targets)


def _rotated(image: Tensor, target: Tensor, angle: float, chip: int) -> tuple[Tensor, Tensor]:
    """The middle `chip` pixels of a window, turned by `angle` (radians) about its centre."""
    ratio = chip / image.shape[-1]
    c, s = math.cos(angle) * ratio, math.sin(angle) * ratio
    theta = torch.tensor([[[c, -s, 0.0], [s, c, 0.0]]])
    grid = F.affine_grid(theta, [1, 1, chip, chip], align_corners=False)
    image = F.grid_sample(image[None], grid, align_corners=False)[0]
    # grid_sample fills with 0 outside: shifted by one, 0 can stand for IGNORE
    shifted = (target.float() + 1) * (target != IGNORE)
    picked = F.grid_sample(shifted[None, None], grid, mode="nearest", align_corners=False)[0, 0]
    picked = picked.round()
    return image, torch.where(picked == 0, float(IGNORE), picked - 1).to(torch.uint8)


def blur(images: Tensor, probability: float, g: torch.Generator) -> Tensor:
    """Some images softened by a binomial kernel, once or twice."""
    n, bands = images.shape[:2]
    chosen = chance(n, probability, g).nonzero().flatten()
    if not len(chosen):
        return images
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (line[:, None] * line).expand(bands, 1, 3, 3)
    soft = images[chosen]
    for _ in range(int(torch.randint(1, 3, (), generator=g))):
        soft = F.conv2d(F.pad(soft, (1, 1, 1, 1), mode="replicate"), kernel, groups=bands)
    return images.index_copy(0, chosen, soft)


def coarsen(images: Tensor, probability: float, g: torch.Generator) -> Tensor:
    """Some images as if taken by a sensor with pixels 1.3 to 2.5 times as large."""
    chosen = chance(images.shape[0], probability, g).nonzero().flatten()
    if not len(chosen):
        return images
    size = images.shape[-1]
    small = round(size / (1.3 + 1.2 * float(torch.rand((), generator=g))))
    coarse = F.interpolate(images[chosen], size=(small, small), mode="bilinear", antialias=True)
    return images.index_copy(0, chosen, F.interpolate(coarse, size=(size, size), mode="bilinear"))


def noise(images: Tensor, probability: float, g: torch.Generator) -> Tensor:
    """Gaussian noise of up to 4 % of the full range on some images."""
    n = images.shape[0]
    level = torch.rand(n, generator=g) * 0.04 * chance(n, probability, g)
    if not level.any():
        return images
    return images + torch.randn(images.shape, generator=g) * level.view(n, 1, 1, 1)


def cutmix(
    images: Tensor, targets: Tensor, probability: float, g: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A rectangle of the next image of the batch laid over some images, label and all.

    CutMix (Yun et al. 2019), as used for segmentation by French et al. 2020.
    """
    n, size = images.shape[0], images.shape[-1]
    chosen = chance(n, probability, g)
    mixed_images, mixed_targets = images.clone(), targets.clone()
    for i in chosen.nonzero().flatten().tolist():
        height, width = (torch.rand(2, generator=g) * 0.5 + 0.25).mul(size).long().tolist()
        row = int(torch.randint(size - height + 1, (), generator=g))
        col = int(torch.randint(size - width + 1, (), generator=g))
        there = (slice(row, row + height), slice(col, col + width))
        mixed_images[i][:, *there] = images[(i + 1) % n][:, *there]
        mixed_targets[i][there] = targets[(i + 1) % n][there]
    return mixed_images, mixed_targets
