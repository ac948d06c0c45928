"""Augmentation of a batch: one geometry for image and label, then the image's appearance.

Plain torch operations on (N, C, H, W), for any number of bands. All randomness comes from the
given generator, which lives on the CPU, so that a resumed run goes on as it would have; the images
may be on any device. Kornia and torchvision's v2 draw from the global state, and neither has all
of it (colour jitter is for one or three bands); on one CPU thread the same on 8 x 3 x 272² takes
kornia three times as long, and v2, image by image, a third longer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from geoseg.train.config import AugmentConfig
from geoseg.train.turn import turn

BYTES = (0.0, 255.0)


class Augment:
    """augment(images, targets, generator) -> the same at `chip` pixels.

    images: (N, C, S, S) float32, in the raster's values; targets: (N, S, S) uint8.
    value_range: least and greatest ordinary value of all bands. Its length is the unit in which
    brightness and noise are measured. Only bytes (0, 255) are clipped to it: of other numbers
    values outside are rare, but real (clouds in reflectances), and scenes will have them, too.
    """

    def __init__(
        self, config: AugmentConfig, chip: int, value_range: tuple[float, float] = BYTES
    ) -> None:
        self.config, self.chip = config, chip
        self.low, self.length = value_range[0], value_range[1] - value_range[0]
        self.clip = tuple(value_range) == BYTES

    def __call__(
        self, images: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        images, targets = turn(images, targets, self.chip, self.config.rotate, generator)
        return cutmix(self.appearance(images, generator), targets, self.config.cutmix, generator)

    def appearance(self, images: Tensor, g: torch.Generator) -> Tensor:
        """(N, C, h, w) with other light and colours, softer, coarser, noisier; nothing moves."""
        c = self.config
        images = (images - self.low) / self.length
        images = self._colours(images, g)
        images = self._light(images, g)
        images = blur(images, c.blur, g)
        images = coarsen(images, c.coarse, g)
        images = noise(images, c.noise, g)
        images = drop(images, c.drop, g)
        if self.clip:
            images = images.clamp(0, 1)
        return images * self.length + self.low

    def _colours(self, images: Tensor, g: torch.Generator) -> Tensor:
        """Gamma, hue and saturation."""
        c, n = self.config, images.shape[0]
        exponent = torch.exp(spread((n, 1, 1, 1), c.gamma, g)).to(images.device)
        # A power has no slope at 0; what is negative stays as it is.
        below = None if self.clip else images.clamp(max=0)
        images = images.clamp(1e-4, 1.0 if self.clip else None) ** exponent
        images = images if below is None else images + below
        images = hue(images, c.hue, g)
        gray = images.mean(1, keepdim=True)
        keep = 1 + spread((n, 1, 1, 1), c.saturation, g)
        keep = keep * (~chance(n, c.gray, g)).float().view(n, 1, 1, 1)
        return gray + (images - gray) * keep.to(images.device)

    def _light(self, images: Tensor, g: torch.Generator) -> Tensor:
        """Contrast, brightness, and the strength and haze of each band."""
        c, n, bands = self.config, images.shape[0], images.shape[1]
        contrast = 1 + spread((n, 1, 1, 1), c.contrast, g)
        gain = (1 + spread((n, 1, 1, 1), c.brightness, g)) * (
            1 + spread((n, bands, 1, 1), c.band, g)
        )
        haze = spread((n, bands, 1, 1), c.band / 3, g)
        contrast, gain, haze = (x.to(images.device) for x in (contrast, gain, haze))
        middle = images.mean((2, 3), keepdim=True)
        return (middle + (images - middle) * contrast) * gain + haze


def spread(shape: tuple[int, ...], amount: float, g: torch.Generator) -> Tensor:
    """Uniform in -amount .. amount."""
    return (torch.rand(shape, generator=g) * 2 - 1) * amount


def chance(n: int, probability: float, g: torch.Generator) -> Tensor:
    """(n,) bool, True with `probability`."""
    return torch.rand(n, generator=g) < probability


def chosen(images: Tensor, probability: float, g: torch.Generator) -> Tensor:
    """Indices of some images, each taken with `probability`; where the images are."""
    return chance(images.shape[0], probability, g).nonzero().flatten().to(images.device)


def hue(images: Tensor, amount: float, g: torch.Generator) -> Tensor:
    """The colours of each image turned about the grey axis by up to `amount` half circles.

    Of three bands only: of others it is not known which of them mix to grey, so nothing changes.
    """
    if not amount or images.shape[1] != 3:
        return images
    angle = spread((images.shape[0], 1, 1), amount * math.pi, g)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turned = angle.cos() * torch.eye(3) + (1 - angle.cos()) / 3 + angle.sin() * across
    return (turned.to(images.device) @ images.flatten(2)).view_as(images)


def blur(images: Tensor, probability: float, g: torch.Generator) -> Tensor:
    """Some images softened by a binomial kernel, once or twice."""
    some, bands = chosen(images, probability, g), images.shape[1]
    if not len(some):
        return images
    line = torch.tensor([1.0, 2.0, 1.0], device=images.device) / 4
    kernel = (line[:, None] * line).expand(bands, 1, 3, 3)
    soft = images[some]
    for _ in range(int(torch.randint(1, 3, (), generator=g))):
        soft = F.conv2d(F.pad(soft, (1, 1, 1, 1), mode="replicate"), kernel, groups=bands)
    return images.index_copy(0, some, soft)


def coarsen(images: Tensor, probability: float, g: torch.Generator) -> Tensor:
    """Some images as if taken by a sensor with pixels 1.3 to 2.5 times as large."""
    some = chosen(images, probability, g)
    if not len(some):
        return images
    size = images.shape[-1]
    small = round(size / (1.3 + 1.2 * float(torch.rand((), generator=g))))
    coarse = F.interpolate(images[some], size=(small, small), mode="bilinear", antialias=True)
    return images.index_copy(0, some, F.interpolate(coarse, size=(size, size), mode="bilinear"))


def noise(images: Tensor, probability: float, g: torch.Generator) -> Tensor:
    """Gaussian noise of up to 4 % of the value range on some images."""
    some = chosen(images, probability, g)
    if not len(some):
        return images
    level = torch.rand((len(some), 1, 1, 1), generator=g) * 0.04
    if images.device != g.device:  # a seed is moved, not as many numbers as there are pixels
        seed = int(torch.randint(1 << 62, (), generator=g))
        g = torch.Generator(images.device).manual_seed(seed)
    grain = torch.randn(images[some].shape, generator=g, device=images.device)
    return images.index_copy(0, some, images[some] + grain * level.to(images.device))


def drop(images: Tensor, probability: float, g: torch.Generator) -> Tensor:
    """One band of some images replaced by its mean there; an only band is never dropped."""
    bands = images.shape[1]
    if bands == 1:
        return images
    lost = torch.randint(bands, (images.shape[0], 1), generator=g) == torch.arange(bands)
    lost &= chance(images.shape[0], probability, g)[:, None]
    if not lost.any():
        return images
    where = lost[:, :, None, None].to(images.device)
    return torch.where(where, images.mean((2, 3), keepdim=True), images)


def cutmix(
    images: Tensor, targets: Tensor, probability: float, g: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A rectangle of the next image of the batch laid over some images, label and all.

    CutMix (Yun et al. 2019), as used for segmentation by French et al. 2020.
    """
    n, size = images.shape[0], images.shape[-1]
    some = chance(n, probability, g).nonzero().flatten().tolist()
    if not some:
        return images, targets
    mixed_images, mixed_targets = images.clone(), targets.clone()
    for i in some:
        height, width = (torch.rand(2, generator=g) * 0.5 + 0.25).mul(size).long().tolist()
        row = int(torch.randint(size - height + 1, (), generator=g))
        col = int(torch.randint(size - width + 1, (), generator=g))
        there = (slice(row, row + height), slice(col, col + width))
        mixed_images[i][:, *there] = images[(i + 1) % n][:, *there]
        mixed_targets[i][there] = targets[(i + 1) % n][there]
    return mixed_images, mixed_targets
