"""Training windows and validation blocks: repeatable, honest about the split, evenly drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from torch.nn import functional as F

from geoseg.data import TRAIN, UNUSED, VALIDATE, Sheet
from geoseg.grid import Grid, Window
from geoseg.metrics import IGNORE
from geoseg.train.config import TrainConfig
from geoseg.train.windows import HALO, MARGIN, Blocks, Windows, cut, picture, resample

SIZE, BLOCK = 256, 64
MARK = 250.0  # value of the pixels that validate


def plant(seed: int = 0, *, place: str = "a", size: int = SIZE, classes: int = 3) -> Sheet:
    """A sheet whose image shows its labels (times 10) and marks what validates."""
    rng = np.random.default_rng(seed)
    label = np.zeros((size, size), np.uint8)
    for i in range(40):
        row, col = rng.integers(0, size - 12, 2)
        label[row : row + 12, col : col + 12] = 1 + i % (classes - 1)
    parts = np.full((size // BLOCK, size // BLOCK), TRAIN, np.uint8)
    if size > BLOCK:
        parts[0, 1] = parts[2, 2] = VALIDATE
        parts[3, 0] = UNUSED
    image = np.stack([label * 10, rng.integers(0, 200, label.shape)]).astype(np.uint8)
    image[:, np.kron(parts, np.ones((BLOCK, BLOCK))) == VALIDATE] = MARK
    label[:20, 200:] = IGNORE
    grid = Grid(None, Affine.identity(), size, size)
    valid = np.ones((size, size), bool)
    return Sheet(place, f"{place}.tif", grid, image, valid, label, BLOCK, parts)


def config(augment: dict[str, Any] | None = None, chip: int = 64, **data: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": "tiny",
            "data": {
                "places": [{"name": "a", "rasters": "a.tif", "labels": "a.gpkg"}],
                "bands": [{"name": "1"}, {"name": "2"}],
                "classes": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
                "gsd": 1.0,
                **data,
            },
            "augment": {"zoom": (1.0, 1.0), **(augment or {})},
            "schedule": {"steps": 50, "batch": 4, "chip": chip},
        }
    )


def test_windows_are_repeatable_and_hold_no_validation_pixel() -> None:
    sheet = plant()
    first, second = (Windows([sheet], config(), (0, 0)) for _ in range(2))
    assert len(first) == 200
    assert first.size >= 64 * MARGIN - 1
    sides = set()
    for i in (0, 7, *range(60)):
        image, target = first[i]
        again = second[i]
        assert torch.equal(image, again[0])
        assert torch.equal(target, again[1])
        assert image.shape == (2, first.size, first.size)
        assert image.dtype == torch.float32
        assert target.dtype == torch.uint8
        known = target != IGNORE
        assert known.any()
        assert not (image[0][known] == MARK).any()
        assert (image[0][known] == 10 * target[known]).all()  # label and image fit
        sides.add(bool((image == MARK).any()))
    assert sides == {True, False}  # as context, what validates may be seen


def test_zoomed_windows_keep_label_and_image_together() -> None:
    windows = Windows([plant()], config({"zoom": (0.5, 2.0)}), (0, 0))
    agree = []
    for i in range(40):
        image, target = windows[i]
        assert image.shape[-2:] == target.shape == (windows.size, windows.size)
        known = target != IGNORE
        agree.append(float(((image[0] / 10).round() == target)[known].float().mean()))
    assert np.mean(agree) > 0.9  # edges are interpolated


def test_focus_draws_classes_alike_and_background_as_it_lies() -> None:
    sheet = plant()
    sheet.label[(sheet.label == 2) & (np.arange(SIZE) > 40)] = 0  # the second class gets rare
    rare = (sheet.target(sheet.grid.window, TRAIN) == 2).mean()
    assert 0 < rare < 0.02
    for focus, want in ((1.0, (0, 0.5, 0.5)), (0.0, None)):
        windows = Windows([sheet], config(focus=focus), (0, 0))
        rng = np.random.default_rng(0)
        drawn = [windows.pools[0].pixel(sheet, focus, rng) for _ in range(600)]
        labels = np.array([sheet.label[p] for p in drawn])
        shares = [(labels == label).mean() for label in range(3)]
        target = sheet.target(sheet.grid.window, TRAIN)
        known = target[target != IGNORE]
        natural = [(known == label).mean() for label in range(3)]
        assert shares == pytest.approx(want or natural, abs=0.07)
        assert all(target[p] != IGNORE for p in drawn)


def test_every_labelled_pixel_is_drawn_as_often_as_the_next() -> None:
    sheet = plant(size=64)
    sheet.parts[:] = TRAIN
    sheet.label[:] = IGNORE
    sheet.label[0, :8] = sheet.label[63, 60:] = sheet.label[33, 31] = 0
    windows = Windows([sheet], config(), (0, 0))
    rng = np.random.default_rng(0)
    counts = np.zeros((64, 64), int)
    for _ in range(2600):
        counts[windows.pools[0].pixel(sheet, 0.5, rng)] += 1
    drawn = counts[sheet.label == 0]
    assert drawn.sum() == 2600
    assert drawn.min() > 140  # 200 each
    assert drawn.max() < 260


def test_places_are_drawn_by_area_to_the_power_of_balance() -> None:
    small, large = plant(0), plant(1, place="b", size=512)
    area = [int((s.target(s.grid.window, TRAIN) != IGNORE).sum()) for s in (small, large)]
    for balance in (0.0, 0.3, 1.0):
        windows = Windows([small, large], config(balance=balance), (0, 0))
        want = np.array(area, float) ** balance
        assert windows.weights == pytest.approx(want / want.sum())
    twice = Windows([small, small, large], config(balance=0.0), (0, 0))
    assert twice.weights == pytest.approx([0.25, 0.25, 0.5])  # two rasters of one place


def test_where_there_is_no_data_half_the_windows_show_the_blank() -> None:
    sheet = plant()
    sheet.valid[:, :128] = False
    sheet.label[:, :128] = IGNORE
    sheet.image[:, :, :128] = 3
    windows = Windows([sheet], config(), (77, 88))
    blank = raw = 0
    for i in range(150):
        image, target = windows[i]
        blank += bool((image[0] == 77).any())
        raw += bool((image[0] == 3).any())
        assert (target[(image[0] == 77) | (image[0] == 3)] == IGNORE).all()
    assert blank > 15
    assert raw > 15


def test_variants_and_the_look_of_other_places() -> None:
    sheet = plant()
    styled = Sheet(
        *(getattr(sheet, n) for n in ("place", "file", "grid", "image", "valid", "label")),
        BLOCK,
        sheet.parts,
        (np.full_like(sheet.image, 99),),
    )
    windows = Windows([styled], config({"variant": 0.5}), (0, 0))
    seen = sum(bool((windows[i][0][0] == 99).any()) for i in range(80))
    assert 20 < seen < 60
    bare = plant(3, place="b")
    bare.parts[:] = UNUSED
    bare.image[:] = 200
    looks = Windows([sheet, bare], config({"match": 1.0}), (0, 0))
    plain = Windows([sheet, bare], config({"match": 0.0}), (0, 0))
    assert looks.sheets == plain.sheets == [sheet]
    for i in range(8):
        image, target = looks[i]
        assert torch.equal(target, plain[i][1])
        assert image[1].mean() > plain[i][0][1].mean() + 20
        assert torch.equal(image, looks[i][0])
    bare.image[:] = np.random.default_rng(0).gamma(1, 50, bare.image.shape).clip(0, 255)
    linear = Windows([sheet, bare], config({"match": 1.0, "match_by": "statistics"}), (0, 0))
    assert torch.equal(linear[0][1], looks[0][1])
    assert not torch.equal(linear[0][0], looks[0][0])


def test_without_unlabelled_places_training_places_lend_their_look() -> None:
    dark, bright = plant(), plant(1, place="b")
    bright.image[1] = 240
    lent = Windows([dark, bright], config({"match": 1.0}), (0, 0))
    plain = Windows([dark, bright], config(), (0, 0))
    brighter = []
    for i in range(40):
        (image, target), (before, same) = lent[i], plain[i]
        assert torch.equal(target, same)
        if before[1].mean() < 200:  # of the dark place
            brighter.append(bool(image[1].mean() > before[1].mean() + 20))
    assert 0.2 < np.mean(brighter) < 0.8


def test_a_sheet_smaller_than_a_window() -> None:
    sheet = plant(size=64)
    windows = Windows([sheet], config(chip=96), (5, 6))
    image, target = windows[1]
    assert image.shape[-1] == windows.size > 64
    assert (target != IGNORE).sum() <= 64 * 64


def test_blocks_have_their_context_and_no_other_label() -> None:
    sheet = plant()
    blocks = Blocks([sheet, plant(1, place="b")], VALIDATE, (7, 8))
    assert len(blocks) == 4
    for place, image, target in (blocks[i] for i in range(4)):
        assert place in "ab"
        assert image.shape[-1] % 32 == target.shape[-1] % 32 == 0
        inner = target[HALO : HALO + BLOCK, HALO : HALO + BLOCK]
        assert (target != IGNORE).sum() == (inner != IGNORE).sum() > 0
        assert (image[:, HALO : HALO + BLOCK, HALO : HALO + BLOCK] == MARK).all()
    _, image, _ = blocks[0]  # at the upper edge: nothing lies above
    assert (image[0, :HALO] == 7).all()
    assert (image[1, :HALO] == 8).all()
    part = Blocks([sheet], VALIDATE, (7, 8))[0]
    assert torch.equal(
        part[2][HALO : HALO + BLOCK, HALO : HALO + BLOCK],
        torch.from_numpy(sheet.target(Window(0, BLOCK, BLOCK, BLOCK), VALIDATE)),
    )


def test_cut_and_picture_beyond_the_edge() -> None:
    array = np.arange(12).reshape(1, 3, 4)
    assert cut(array, Window(-1, 2, 3, 3), fill=9).tolist() == [[[9, 9, 9], [2, 3, 9], [6, 7, 9]]]
    assert (cut(array, Window(10, 10, 2, 2), fill=9) == 9).all()
    valid = np.ones((3, 4), bool)
    valid[0, 2] = False
    shown = picture(array, valid, Window(-1, 2, 3, 3), (5.0,))
    assert shown.tolist() == [[[5, 5, 5], [5, 3, 5], [6, 7, 5]]]
    raw = picture(array, valid, Window(-1, 2, 3, 3), None)
    assert raw.tolist() == [[[0, 0, 0], [2, 3, 0], [6, 7, 0]]]


@pytest.mark.parametrize("side", [32, 64, 100])
def test_resampling_keeps_means_and_labels(side: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.random((2, side, side), np.float32)
    target = np.kron(rng.integers(0, 3, (4, 4)), np.ones((side // 4, side // 4))).astype(np.uint8)
    pixels, labels = resample(image, target, 64)
    assert pixels.shape == (2, 64, 64)
    assert float(pixels.mean()) == pytest.approx(float(image.mean()), abs=0.01)
    assert labels[8, 8] == target[side // 8, side // 8]
    assert set(labels.unique().tolist()) <= {0, 1, 2}
    if side == 64:
        assert (pixels.numpy() == image).all()
    if side == 32:
        whole = F.interpolate(torch.from_numpy(image)[None], size=(64, 64), mode="bilinear")
        assert torch.equal(pixels, whole[0])
