"""Losses against plain loops, hand-made numbers, and the same losses of other libraries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.segmentation import dice_score

from geoseg.metrics import IGNORE
from geoseg.train.config import LossConfig
from geoseg.train.losses import TERMS, border_weights, loss, signed_distance

GSD = 0.5
OVERLAPS = ("dice", "jaccard", "tversky")


def only(term: str, **options: Any) -> LossConfig:
    return LossConfig.model_validate({**dict.fromkeys(TERMS, 0), term: 1, **options})


def value(logits: Tensor, target: Tensor, term: str, **options: Any) -> Tensor:
    return loss(logits, target, only(term, **options), gsd=GSD)


def example(
    channels: int, seed: int = 0, *, size: int = 12, ignored: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Random logits (3, K, size, size) and blocky targets, some of them IGNORE."""
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, channels, size, size, generator=g)
    coarse = torch.randint(0, max(2, channels), (3, 1, size // 3, size // 3), generator=g)
    target = F.interpolate(coarse.float(), size=(size, size))[:, 0].to(torch.uint8)
    target[torch.rand(target.shape, generator=g) < ignored] = IGNORE
    return logits, target


def confident(target: Tensor, channels: int) -> Tensor:
    """Logits that are right and sure."""
    if channels == 1:
        return ((target == 1).float() * 80 - 40)[:, None]
    known = target.masked_fill(target == IGNORE, 0).long()
    return F.one_hot(known, channels).movedim(-1, 1).float() * 80


CASES = [
    *((term, channels, {}) for term in TERMS for channels in (1, 4)),
    *(("cross_entropy", channels, {"border": 5.0}) for channels in (1, 4)),
    ("cross_entropy", 1, {"smoothing": 0.1, "class_weights": (1.0, 3.0)}),
    ("cross_entropy", 4, {"smoothing": 0.1, "class_weights": (1.0, 3.0, 0.5, 2.0)}),
    ("focal", 4, {"gamma": 0.5, "class_weights": (1.0, 3.0, 0.5, 2.0)}),
]
every_case = pytest.mark.parametrize(("term", "channels", "options"), CASES)


# --- what holds for all of them -------------------------------------------------------------


@every_case
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999), noise=st.sampled_from([-40.0, 40.0, math.inf, math.nan]))
def test_ignored_pixels_never_count(
    term: str, channels: int, options: dict[str, Any], seed: int, noise: float
) -> None:
    logits, target = example(channels, seed)
    hidden = (target == IGNORE)[:, None].expand_as(logits)
    logits.requires_grad_()
    changed = logits.detach().masked_fill(hidden, noise).requires_grad_()
    first, second = (value(x, target, term, **options) for x in (logits, changed))
    assert torch.equal(first, second)
    first.backward()
    second.backward()
    assert logits.grad is not None
    assert changed.grad is not None
    assert torch.equal(logits.grad, changed.grad)
    assert logits.grad.isfinite().all()
    assert (logits.grad[hidden] == 0).all()
    assert (logits.grad[~hidden] != 0).any()


@every_case
def test_a_batch_without_labels_gives_zero_and_a_gradient(
    term: str, channels: int, options: dict[str, Any]
) -> None:
    logits, target = example(channels)
    logits.requires_grad_()
    nothing = value(logits, torch.full_like(target, IGNORE), term, **options)
    assert nothing.shape == ()
    assert nothing == 0
    nothing.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@every_case
def test_nothing_but_background(term: str, channels: int, options: dict[str, Any]) -> None:
    logits, target = example(channels)
    target[target != IGNORE] = 0
    right = value(confident(target, channels), target, term, **options)
    logits.requires_grad_()
    wrong = value(logits, target, term, **options)
    wrong.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    if term == "boundary":  # without objects there is no border
        assert right == wrong == 0
    elif not options.get("smoothing"):
        assert right == pytest.approx(0, abs=1e-4)
        assert wrong > 0.1


@every_case
def test_right_is_zero_and_worse_is_more(term: str, channels: int, options: dict[str, Any]) -> None:
    _, target = example(channels)
    sure = confident(target, channels)
    scores = [value(x * sure, target, term, **options).item() for x in (1.0, 0.03, -0.03, -1.0)]
    if not options.get("smoothing"):
        assert scores[0] == pytest.approx(0, abs=1e-5)
        assert scores == sorted(scores)
    assert scores[1] < scores[2] < scores[3]


@pytest.mark.parametrize("channels", [1, 4])
def test_the_loss_is_the_weighted_sum_of_its_terms(channels: int) -> None:
    logits, target = example(channels)
    weights = {term: 0.5 + i for i, term in enumerate(TERMS)}
    together = loss(logits, target, LossConfig.model_validate(weights), gsd=GSD)
    apart = sum(w * value(logits, target, term) for term, w in weights.items())
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize("term", ["cross_entropy", "focal"])
@pytest.mark.parametrize("options", [{}, {"class_weights": (1.0, 4.0), "border": 3.0}])
def test_a_sigmoid_is_a_softmax_of_two(term: str, options: dict[str, Any]) -> None:
    logits, target = example(1)
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    if term == "cross_entropy":
        options = {**options, "smoothing": 0.1}
    one, other = value(logits, target, term, **options), value(two, target, term, **options)
    assert one.item() == pytest.approx(other.item(), rel=1e-5)


# --- against loops and numbers by hand ------------------------------------------------------


def probabilities(logits: Tensor) -> NDArray[np.float64]:
    """(N, K, H, W), of the background as well where there is one channel only."""
    x = logits.double()
    if x.shape[1] == 1:
        x = torch.cat([torch.zeros_like(x), x], 1)
    return x.softmax(1).numpy()


def pixels(logits: Tensor, target: Tensor) -> list[tuple[NDArray[np.float64], int]]:
    """(probability of each label, label) of every labelled pixel."""
    p = probabilities(logits).transpose(0, 2, 3, 1).reshape(-1, max(2, logits.shape[1]))
    known = target.numpy().ravel()
    return [(row, int(label)) for row, label in zip(p, known, strict=True) if label != IGNORE]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_and_focal_in_a_loop(channels: int, weighted: bool) -> None:
    logits, target = example(channels)
    weights = (0.5, 2.0, 3.0)[: max(2, channels)] if weighted else (1.0,) * 3
    s, gamma, k = 0.1, 1.5, max(2, channels)
    entropy = focal = total = 0.0
    for p, label in pixels(logits, target):
        wanted = [1 - s if i == label else s / (k - 1) for i in range(k)]
        entropy -= weights[label] * sum(w * math.log(q) for w, q in zip(wanted, p, strict=True))
        focal -= weights[label] * (1 - p[label]) ** gamma * math.log(p[label])
        total += weights[label]
    given_weights = weights if weighted else None
    got = value(logits, target, "cross_entropy", smoothing=s, class_weights=given_weights)
    assert got.item() == pytest.approx(entropy / total, rel=1e-5)
    got = value(logits, target, "focal", gamma=gamma, class_weights=given_weights)
    assert got.item() == pytest.approx(focal / total, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_overlaps_in_a_loop(channels: int) -> None:
    logits, target = example(channels)
    target[target == 2] = IGNORE  # of three classes one is not there
    classes = [1] if channels == 1 else [0, 1]
    expected = dict.fromkeys(OVERLAPS, 0.0)
    for k in classes:
        hits = alarms = misses = 0.0
        for p, label in pixels(logits, target):
            hits += p[k] * (label == k)
            alarms += p[k] * (label != k)
            misses += (1 - p[k]) * (label == k)
        dice = (2 * hits + 1) / (2 * hits + alarms + misses + 1)
        jaccard = (hits + 1) / (hits + alarms + misses + 1)
        tversky = (hits + 1) / (hits + 0.3 * alarms + 0.7 * misses + 1)
        for name, index in zip(OVERLAPS, (dice, jaccard, tversky), strict=True):
            expected[name] += (1 - index) / len(classes)
    for name, number in expected.items():
        assert value(logits, target, name).item() == pytest.approx(number, rel=1e-5)


def test_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 20.0], [-20.0, 20.0]]]])
    target = torch.tensor([[[1, 1], [0, IGNORE]]], dtype=torch.uint8)
    assert value(logits, target, "cross_entropy").item() == pytest.approx(math.log(2) / 3)
    assert value(logits, target, "focal").item() == pytest.approx(math.log(2) / 4 / 3)
    assert value(logits, target, "dice").item() == pytest.approx(1 - (2 * 1.5 + 1) / (1.5 + 2 + 1))
    assert value(logits, target, "jaccard").item() == pytest.approx(1 - 2.5 / 3)
    got = value(logits, target, "tversky", alpha=0.2, beta=0.8)
    assert got.item() == pytest.approx(1 - 2.5 / (1.5 + 0.8 * 0.5 + 1))
    # hinges 1, 0, 0 in that order; one of two objects missed: the Jaccard distance is 1 / 2
    assert value(logits, target, "lovasz").item() == pytest.approx(0.5)


def lovasz_by_definition(errors: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The Lovász extension of the Jaccard distance, term by term, sets and all (Berman, eq. 8)."""
    order = np.argsort(-errors)
    total, before = 0.0, 0.0
    for i in range(len(order)):
        wrong = set(order[: i + 1])
        objects = set(np.flatnonzero(truth))
        distance = len(wrong) / len(objects | wrong)
        total += errors[order[i]] * (distance - before)
        before = distance
    return total


def test_lovasz_by_its_definition() -> None:
    logits, target = example(1, size=6)
    known = target.numpy().ravel() != IGNORE
    truth = target.numpy().ravel()[known] == 1
    margins = logits.double().numpy().ravel()[known] * np.where(truth, 1, -1)
    expected = lovasz_by_definition((1 - margins).clip(0), truth)
    assert value(logits, target, "lovasz").item() == pytest.approx(expected, rel=1e-5)

    logits, target = example(3, size=6)
    target[target == 2] = IGNORE
    some = pixels(logits, target)
    labels, p = np.array([label for _, label in some]), np.array([p for p, _ in some])
    each = [lovasz_by_definition(abs((labels == k) - p[:, k]), labels == k) for k in (0, 1)]
    assert value(logits, target, "lovasz").item() == pytest.approx(np.mean(each), rel=1e-5)


def brute_distance(target: NDArray[np.uint8], label: int) -> NDArray[np.float64]:
    """From the pixel to the nearest one of the other side, half a pixel off; one by one."""
    inside = [tuple(p) for p in np.argwhere(target == label)]
    outside = [tuple(p) for p in np.argwhere((target != label) & (target != IGNORE))]
    result = np.zeros(target.shape)
    if inside and outside:
        for pixel in np.ndindex(target.shape):
            own = target[pixel] == label
            nearest = min(math.dist(pixel, other) for other in (outside if own else inside))
            result[pixel] = (0.5 - nearest) if own else (nearest - 0.5)
    return result


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), share=st.floats(0, 1))
def test_distances_pixel_by_pixel(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    target = (rng.random((7, 9)) < share).astype(np.uint8)
    target[rng.random((7, 9)) < 0.2] = IGNORE
    got = signed_distance(target, 1)
    np.testing.assert_allclose(got, brute_distance(target, 1), rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_boundary_pixel_by_pixel(channels: int) -> None:
    logits, target = example(channels)
    p, t = probabilities(logits), target.numpy()
    classes = [1] if channels == 1 else [0, 1, 2]
    total = 0.0
    for n in range(len(t)):
        for k in classes:
            distance = brute_distance(t[n], k)
            for r, c in np.argwhere(t[n] != IGNORE):
                total += distance[r, c] * (p[n, k, r, c] - (t[n, r, c] == k))
    expected = total / len(classes) / (t != IGNORE).sum()
    assert value(logits, target, "boundary").item() == pytest.approx(expected, rel=1e-5)


def test_boundary_loss_weighs_errors_by_their_distance() -> None:
    target = torch.zeros(1, 20, 20, dtype=torch.uint8)
    target[0, 5:10, 5:10] = 1
    sure = confident(target, 1)
    near, far = sure.clone(), sure.clone()
    near[0, 0, 11, 7] = 40.0  # a false alarm of one pixel, 1.5 pixels from the border
    far[0, 0, 19, 7] = 40.0  # ... and 9.5
    assert value(near, target, "boundary").item() == pytest.approx(1.5 / 400)
    assert value(far, target, "boundary").item() == pytest.approx(9.5 / 400)


def brute_border(target: NDArray[np.uint8], sigma: float) -> NDArray[np.float64]:
    """Flood fill for the objects, then all pixels against all."""
    objects: list[list[tuple[int, ...]]] = []
    seen: set[tuple[int, ...]] = set()
    for start in np.ndindex(target.shape):
        if target[start] in (0, IGNORE) or start in seen:
            continue
        found, border = [start], [start]
        seen.add(start)
        while border:
            r, c = border.pop()
            for n in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                inside = 0 <= n[0] < target.shape[0] and 0 <= n[1] < target.shape[1]
                if inside and n not in seen and target[n] == target[start]:
                    seen.add(n)
                    found.append(n)
                    border.append(n)
        objects.append(found)
    result = np.zeros(target.shape)
    if len(objects) > 1:
        for pixel in np.argwhere(target == 0):
            d = sorted(min(math.dist(pixel, other) for other in o) for o in objects)
            result[tuple(pixel)] = math.exp(-((d[0] + d[1]) ** 2) / (2 * sigma**2))
    return result


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), sigma=st.floats(0.4, 4))
def test_border_weights_pixel_by_pixel(seed: int, sigma: float) -> None:
    rng = np.random.default_rng(seed)
    target = rng.choice([0, 1, 2, IGNORE], (12, 14), p=[0.8, 0.08, 0.07, 0.05]).astype(np.uint8)
    np.testing.assert_allclose(
        border_weights(target, sigma), brute_border(target, sigma), atol=5e-4
    )


def test_border_emphasis_is_in_metres_and_adds_to_the_weights() -> None:
    target = torch.zeros(1, 9, 9, dtype=torch.uint8)
    target[0, :, :4] = 1
    target[0, :, 5:] = 1  # a gap of one pixel: the distances are 1 and 1
    logits, _ = example(1, size=9)
    logits = logits[:1]
    each = F.binary_cross_entropy_with_logits(logits[:, 0], target.float(), reduction="none")
    for gsd in (0.5, 1.0):
        weight = torch.ones(9, 9)
        weight[:, 4] += 7 * math.exp(-(2**2) / (2 * (1.5 / gsd) ** 2))
        config = only("cross_entropy", border=7, border_width=1.5)
        got = loss(logits, target, config, gsd=gsd)
        assert got.item() == pytest.approx((weight * each[0]).mean().item(), rel=1e-5)


# --- against other libraries ----------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 4])
def test_same_as_torch_and_smp(channels: int) -> None:
    logits, target = example(channels)
    mode = "binary" if channels == 1 else "multiclass"
    labels = target[:, None].long() if channels == 1 else target.long()
    options = {"mode": mode, "ignore_index": IGNORE}
    theirs = {
        "jaccard": smp.losses.JaccardLoss(**options, smooth=1.0),
        "tversky": smp.losses.TverskyLoss(**options, alpha=0.3, beta=0.7, smooth=1.0),
        "dice": smp.losses.DiceLoss(**options, smooth=0.5),  # in their form, a half of ours
        "lovasz": smp.losses.LovaszLoss(**options),
    }
    if channels == 1:  # of several classes, theirs is a sum of sigmoids
        theirs["focal"] = smp.losses.FocalLoss(**options, gamma=2.0)
    for term, other in theirs.items():
        expected = other(logits, labels).item()
        assert value(logits, target, term).item() == pytest.approx(expected, rel=1e-4), term
    if channels > 1:
        weights = (1.0, 2.0, 3.0, 4.0)
        expected = F.cross_entropy(
            logits, labels, weight=torch.tensor(weights), ignore_index=IGNORE
        ).item()
        got = value(logits, target, "cross_entropy", class_weights=weights)
        assert got.item() == pytest.approx(expected, rel=1e-5)


def test_dice_of_sure_predictions_is_torchmetrics() -> None:
    logits, target = example(4, size=60, ignored=0)
    found = logits.argmax(1)
    hard = F.one_hot(found, 4).movedim(-1, 1).float() * 80
    score = dice_score(
        found.flatten()[None],
        target.long().flatten()[None],
        num_classes=4,
        average="macro",
        input_format="index",
    )
    assert value(hard, target, "dice").item() == pytest.approx(1 - score.item(), abs=1e-3)
