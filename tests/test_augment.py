"""Augmentation: image and label together, any bands and values, and each operation by itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from geoseg.metrics import IGNORE
from geoseg.testing import planted_rectangles
from geoseg.train.augment import Augment, blur, coarsen, cutmix, drop, hue, noise
from geoseg.train.config import AugmentConfig

PROBABILITIES = "rotate blur noise coarse gray drop cutmix".split()
NOTHING = dict.fromkeys(
    [*PROBABILITIES, *"brightness contrast saturation gamma band hue".split()], 0.0
)
EVERYTHING = {
    **dict.fromkeys(PROBABILITIES, 0.5),
    **{"brightness": 0.3, "contrast": 0.3, "saturation": 0.5, "gamma": 0.3, "band": 0.2},
    "hue": 0.3,
}
SIZE, CHIP = 90, 64
RANGES = [(0.0, 255.0), (0.0, 3000.0), (-25.0, 5.0)]


def config(base: dict[str, float], **options: Any) -> AugmentConfig:
    return AugmentConfig.model_validate({**base, **options})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(n: int = 4) -> Tensor:
    """(n, SIZE, SIZE) labels 0..3, a corner of each ignored."""
    masks = [planted_rectangles((SIZE, SIZE), count=6, seed=s) * (s % 3 + 1) for s in range(n)]
    targets = np.stack(masks).astype(np.uint8)
    targets[:, :20, :20] = IGNORE
    return torch.from_numpy(targets)


def pictures(bands: int = 3, n: int = 8, seed: int = 0) -> Tensor:
    """(n, bands, SIZE, SIZE) in 0..1, random but not noise: neighbours are alike."""
    small = torch.rand(n, bands, 9, 9, generator=generator(seed))
    return torch.nn.functional.interpolate(small, size=(SIZE, SIZE), mode="bilinear")


# --- the whole ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"cutmix": 1.0}])
@pytest.mark.parametrize("bounds", RANGES)
@given(seed=st.integers(0, 99))
def test_flips_and_quarter_turns_move_image_and_label_exactly(
    options: dict[str, float], bounds: tuple[float, float], seed: int
) -> None:
    targets = labelled()
    low, high = bounds
    shown = low + targets.float()[:, None] / 255 * (high - low)  # the image shows its label
    augment = Augment(config(NOTHING, **options), CHIP, bounds)
    images, labels = augment(shown.expand(-1, 5, -1, -1), targets, generator(seed))
    assert images.shape == (4, 5, CHIP, CHIP)
    assert labels.shape == (4, CHIP, CHIP)
    assert labels.dtype == torch.uint8
    read = ((images - low) / (high - low) * 255).round().to(torch.uint8)
    assert (read == labels[:, None]).all()


def test_each_flip_and_quarter_turn_happens() -> None:
    targets = torch.arange(CHIP**2).view(1, CHIP, CHIP) % 251  # no symmetry
    targets = targets.to(torch.uint8).expand(80, -1, -1)
    images = targets.float()[:, None].expand(-1, 2, -1, -1)
    moved, _ = Augment(config(NOTHING), CHIP)(images, targets, generator())
    first = images[0, 0]
    ways = [torch.rot90(x, k) for x in (first, first.flip(-1)) for k in range(4)]
    which = [next(i for i, way in enumerate(ways) if (way - m[0]).abs().max() < 0.5) for m in moved]
    assert set(which) == set(range(8))


def test_free_rotations_keep_the_label_on_its_picture() -> None:
    targets = labelled(6)
    images = targets.float()[:, None].expand(-1, 2, -1, -1)
    moved, labels = Augment(config(NOTHING, rotate=1.0), CHIP)(images, targets, generator(1))
    assert set(labels.unique().tolist()) <= {0, 1, 2, 3, IGNORE}
    known = labels != IGNORE
    assert known.float().mean() > 0.8
    close = (moved[:, 0].round() == labels)[known].float().mean()
    assert close > 0.95  # the picture's edges are interpolated
    assert not torch.equal(labels, labels.rot90(1, (1, 2)))


def test_what_comes_from_beyond_the_window_is_ignored() -> None:
    targets = torch.ones(8, CHIP, CHIP, dtype=torch.uint8)  # no margin: corners are missing
    images = torch.full((8, 1, CHIP, CHIP), -20.0)
    augment = Augment(config(NOTHING, rotate=1.0), CHIP, (-25.0, 5.0))
    moved, labels = augment(images, targets, generator())
    assert (labels == IGNORE).any()
    assert (labels[:, 20:44, 20:44] == 1).all()
    torch.testing.assert_close(moved, images)  # continued, not black: 0 is a value like others


@pytest.mark.parametrize("bands", [1, 3, 4, 12])
@pytest.mark.parametrize("bounds", RANGES)
def test_any_bands_and_values(bands: int, bounds: tuple[float, float]) -> None:
    """What happens is the same for any unit, if nothing has to be clipped."""
    low, high = bounds
    inner = pictures(bands) * 0.2 + 0.4
    targets = torch.zeros(8, SIZE, SIZE, dtype=torch.uint8)
    gentle = config(EVERYTHING, contrast=0.1, brightness=0.1, gamma=0.1, band=0.1)
    images, _ = Augment(gentle, CHIP, bounds)(low + inner * (high - low), targets, generator())
    unit, _ = Augment(gentle, CHIP, (0.0, 1.0))(inner, targets, generator())
    torch.testing.assert_close((images - low) / (high - low), unit, atol=1e-4, rtol=1e-4)
    assert images.shape == (8, bands, CHIP, CHIP)


def test_the_same_seed_gives_the_same_and_nothing_else_is_drawn_from() -> None:
    images, targets = pictures() * 255, labelled(8)
    before = torch.random.get_rng_state()
    augment = Augment(config(EVERYTHING), CHIP)
    first, again, other = (augment(images, targets, generator(s)) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert first[0].min() >= 0
    assert first[0].max() <= 255


def test_the_batch_that_came_in_is_left_alone() -> None:
    images, targets = pictures() * 255, labelled(8)
    kept = images.clone(), targets.clone()
    Augment(config(EVERYTHING), CHIP)(images, targets, generator())
    assert torch.equal(images, kept[0])
    assert torch.equal(targets, kept[1])


def test_only_bytes_are_clipped() -> None:
    targets = torch.zeros(16, SIZE, SIZE, dtype=torch.uint8)
    strong = config(NOTHING, brightness=0.9)
    high = torch.full((16, 2, SIZE, SIZE), 200.0)
    images, _ = Augment(strong, CHIP)(high, targets, generator())
    assert images.max() == 255
    images, _ = Augment(strong, CHIP, (0.0, 250.0))(high, targets, generator())
    assert images.max() > 300
    clouds, shade = torch.full_like(high, 9000.0), torch.full_like(high, -40.0)
    for odd in (clouds, shade):
        images, _ = Augment(config(NOTHING), CHIP, (0.0, 3000.0))(odd, targets, generator())
        torch.testing.assert_close(images, odd[..., :CHIP, :CHIP], atol=0.5, rtol=1e-4)
    wild = (torch.randn(16, 2, SIZE, SIZE, generator=generator()) * 5000).requires_grad_()
    images, _ = Augment(config(EVERYTHING), CHIP, (0.0, 3000.0))(wild, targets, generator())
    images.sum().backward()
    assert images.isfinite().all()
    assert wild.grad is not None
    assert wild.grad.isfinite().all()


# --- light and colour -----------------------------------------------------------------------


def after(images: Tensor, **options: float) -> Tensor:
    """Images (0..1, not clipped) after one augmentation; flipped and turned, which no test sees."""
    targets = torch.zeros(len(images), *images.shape[-2:], dtype=torch.uint8)
    augment = Augment(config(NOTHING, **options), images.shape[-1], (0.0, 1.0))
    return augment(images, targets, generator())[0]


def test_brightness_is_one_factor_per_image() -> None:
    images = torch.rand(20, 3, 16, 16, generator=generator()) * 0.5 + 0.25
    factor = after(images, brightness=0.4).mean((2, 3)) / images.mean((2, 3))
    torch.testing.assert_close(factor[:, 0], factor[:, 2])
    assert factor.min() < 0.8
    assert factor.max() > 1.2
    assert ((factor > 0.6) & (factor < 1.4)).all()


def test_bands_differ_in_strength() -> None:
    flat = torch.full((20, 4, 8, 8), 0.5)
    changed = after(flat, band=0.2)
    assert changed.std((2, 3)).max() < 1e-5
    level = changed.mean((2, 3))
    assert level.std(1).min() > 1e-3
    assert (level - 0.5).abs().max() <= 0.5 * 0.2 + 0.2 / 3


def test_contrast_and_gamma() -> None:
    images = torch.rand(20, 2, 16, 16, generator=generator()) * 0.5 + 0.25
    changed = after(images, contrast=0.5)
    torch.testing.assert_close(changed.mean((2, 3)), images.mean((2, 3)))
    ratio = changed.std((2, 3)) / images.std((2, 3))
    torch.testing.assert_close(ratio[:, 0], ratio[:, 1])
    assert ratio.min() < 0.75
    assert ratio.max() > 1.25
    exponent = after(images, gamma=0.3).clamp(min=1e-6).sort(-1).values.flatten(1).sort(1).values
    exponent = exponent.log() / images.flatten(1).sort(1).values.log()
    assert exponent.std(1).max() < 1e-3  # one exponent for the whole image
    assert exponent.min() < 0.9
    assert exponent.max() > 1.1
    assert (exponent.log().abs() <= 0.3 + 1e-4).all()


def test_saturation_and_grey() -> None:
    images = pictures()
    torch.testing.assert_close(after(images, saturation=0.5).mean(1).sum(), images.mean(1).sum())
    grey = after(images, gray=1.0)
    assert grey.std(1).max() < 1e-6


def test_hue_turns_about_the_grey_axis() -> None:
    images = pictures(n=40)
    changed = hue(images, 0.5, generator())
    torch.testing.assert_close(changed.mean(1), images.mean(1), atol=1e-5, rtol=1e-4)
    chroma, turned = (x - x.mean(1, keepdim=True) for x in (images, changed))
    torch.testing.assert_close(turned.norm(dim=1), chroma.norm(dim=1), atol=1e-4, rtol=1e-3)
    cosine = (chroma * turned).sum((1, 2, 3)) / chroma.square().sum((1, 2, 3))
    assert cosine.min() < 0.3  # nearly a quarter circle, which is the most
    assert cosine.min() > -1e-3
    assert torch.equal(hue(images, 0.0, generator()), images)


def test_a_third_of_a_circle_makes_red_green_or_blue() -> None:
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(2000, -1, -1, -1)
    turned = hue(red, 1.0, generator())[:, :, 0, 0]
    for colour in torch.eye(3):
        assert (turned - colour).norm(dim=1).min() < 0.01
    angle = torch.atan2((turned[:, 1] - turned[:, 2]) / math.sqrt(3), turned[:, 0] - 1 / 3)
    assert angle.std() == pytest.approx(math.pi / math.sqrt(3), rel=0.1)  # uniform


@pytest.mark.parametrize("bands", [1, 2, 4, 9])
def test_hue_is_for_three_bands_only(bands: int) -> None:
    assert torch.equal(hue(pictures(bands), 1.0, generator()), pictures(bands))


@pytest.mark.parametrize("bands", [2, 3, 12])
def test_one_band_is_dropped(bands: int) -> None:
    images = pictures(bands, n=150)
    changed = drop(images, 0.5, generator())
    lost = (changed != images).any(-1).any(-1)
    assert set(lost.sum(1).tolist()) == {0, 1}
    assert 55 < lost.sum() < 95
    assert lost.any(0).all()  # it may be any band
    for i, band in lost.nonzero().tolist():
        mean = images[i, band].mean().expand(SIZE, SIZE)
        torch.testing.assert_close(changed[i, band], mean)
    assert drop(images, 1.0, generator()).std((2, 3)).min(1).values.max() < 1e-6


def test_an_only_band_stays() -> None:
    assert torch.equal(drop(pictures(1), 1.0, generator()), pictures(1))


# --- blur, noise, mixing --------------------------------------------------------------------


@pytest.mark.parametrize("operation", [blur, coarsen])
def test_softer_images(operation: Any) -> None:
    rough = torch.rand(40, 2, 33, 33, generator=generator())
    changed = operation(rough, 0.5, generator(5))
    some = (changed != rough).flatten(1).any(1)
    assert 10 < some.sum() < 30
    assert (changed.std((2, 3))[some] < 0.9 * rough.std((2, 3))[some]).all()
    torch.testing.assert_close(changed.mean(), rough.mean(), atol=2e-3, rtol=0)
    flat = torch.full((4, 3, 20, 20), 0.37)
    torch.testing.assert_close(operation(flat, 1.0, generator()), flat)
    assert torch.equal(operation(rough, 0.0, generator()), rough)


def test_blur_by_hand() -> None:
    point = torch.zeros(1, 1, 7, 7)
    point[0, 0, 3, 3] = 16
    line = torch.tensor([1.0, 2, 1])
    once = torch.zeros(7, 7)
    once[2:5, 2:5] = line[:, None] * line
    wide = torch.tensor([1.0, 4, 6, 4, 1])
    twice = torch.zeros(7, 7)
    twice[1:6, 1:6] = wide[:, None] * wide / 16
    got = [blur(point, 1.0, generator(s))[0, 0] for s in range(8)]
    kinds = [[torch.allclose(g, kernel) for kernel in (once, twice)] for g in got]
    assert all(any(k) for k in kinds)
    assert all(any(k) for k in zip(*kinds, strict=True))


def test_noise_is_at_most_four_per_cent() -> None:
    flat = torch.full((60, 2, 40, 40), 0.5)
    changed = noise(flat, 0.5, generator())
    deviation = changed.std((1, 2, 3))
    assert 15 < (deviation > 0).sum() < 45
    assert deviation.max() < 0.042
    assert deviation.max() > 0.03
    assert (changed.mean((1, 2, 3)) - 0.5).abs().max() < 0.005


def test_cutmix_pastes_the_next_image_with_its_label() -> None:
    n, size = 12, 40
    number = torch.arange(n, dtype=torch.float32)
    images = number.view(n, 1, 1, 1).expand(n, 3, size, size).clone()
    targets = number.view(n, 1, 1).expand(n, size, size).to(torch.uint8).clone()
    mixed, labels = cutmix(images, targets, 0.5, generator())
    assert (mixed == labels[:, None]).all()
    pasted = 0
    for i in range(n):
        assert set(labels[i].unique().tolist()) <= {i, (i + 1) % n}
        foreign = (labels[i] != i).nonzero()
        if len(foreign):
            pasted += 1
            sides = foreign.max(0).values - foreign.min(0).values + 1
            assert len(foreign) == sides.prod()  # a full rectangle
            assert (sides >= size // 4).all()
            assert (sides <= size * 3 // 4).all()
    assert 2 < pasted < 10
