"""Stitching against the whole array, for every size, tile, overlap and pattern of no data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_grid import tilings

from geoseg.grid import Plan, Tiling, plan
from geoseg.predictions import Chip, Rows, SemanticPrediction
from geoseg.stitch import Mode, Mosaic
from geoseg.testing import ArrayScene

modes = st.sampled_from(["blend", "crop"])


@st.composite
def scenes(draw: st.DrawFn, classes: int = 1) -> ArrayScene:
    """Random scores (adding up to one over several classes) with patches of no data."""
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    data = rng.random((classes, height, width), dtype=np.float32)
    if classes > 1:
        data /= data.sum(0)
    valid = np.ones((height, width), bool)
    for _ in range(draw(st.integers(0, 4))):
        r, c = rng.integers(0, height), rng.integers(0, width)
        valid[r : r + rng.integers(1, 60), c : c + rng.integers(1, 60)] = False
    return ArrayScene(data, valid)


def identity(chip: Chip) -> SemanticPrediction:
    return SemanticPrediction(chip.tile, chip.data, chip.valid)


def stitched(
    scene: ArrayScene, tiles: Plan, mode: Mode, ids: list[int], shuffle: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """(scores, labels, confidence, valid) of the whole scene, through the mosaic."""
    mosaic = Mosaic(tiles, ids, mode=mode)
    rows: list[Rows] = []

    def keep(new: Rows) -> None:
        assert new.row == sum(len(r.labels) for r in rows)  # in order, no gap
        rows.append(Rows(new.row, new.labels, new.confidence, new.valid.copy(), new.scores.copy()))

    predictions = [identity(chip) for chip in scene.chips(tiles)]
    if shuffle is not None:  # any order inside a row of tiles
        rng = np.random.default_rng(shuffle)
        predictions.sort(key=lambda p: (p.tile.read.row, rng.random()))
    for prediction in predictions:
        for new in mosaic.add(prediction):
            keep(new)
    for new in mosaic.finish():
        keep(new)
    return (
        np.concatenate([r.scores for r in rows], axis=1),
        np.concatenate([r.labels for r in rows]),
        np.concatenate([r.confidence for r in rows]),
        np.concatenate([r.valid for r in rows]),
    )


@given(scenes(), tilings(), modes)
def test_identity_model_gives_the_scene_back(scene: ArrayScene, tiling: Tiling, mode: Mode) -> None:
    scores, labels, confidence, valid = stitched(scene, plan(scene.grid, tiling), mode, [7])
    assert (valid == scene.valid).all()
    whole = scene.data[0]
    np.testing.assert_allclose(scores[0][valid], whole[valid], atol=0 if mode == "crop" else 1e-6)
    sure = valid & (abs(whole - 0.5) > 1e-5)
    assert (labels[sure] == np.where(whole >= 0.5, 7, 0)[sure]).all()
    assert (labels[~valid] == 0).all()
    assert (confidence[~valid] == 0).all()
    np.testing.assert_allclose(confidence[sure], np.maximum(whole, 1 - whole)[sure], atol=1e-6)


@given(scenes(classes=3), tilings(), modes, st.integers(0, 99))
def test_several_classes_in_any_order_of_tiles(
    scene: ArrayScene, tiling: Tiling, mode: Mode, seed: int
) -> None:
    tiles = plan(scene.grid, tiling)
    scores, labels, confidence, valid = stitched(scene, tiles, mode, [0, 5, 9])
    again = stitched(scene, tiles, mode, [0, 5, 9], shuffle=seed)
    np.testing.assert_allclose(again[0], scores, atol=1e-6)
    np.testing.assert_allclose(scores[:, valid], scene.data[:, valid], atol=1e-6)
    assert (labels[valid] == np.array([0, 5, 9])[scores.argmax(0)][valid]).all()
    np.testing.assert_allclose(confidence[valid], scores.max(0)[valid])


@given(st.integers(1, 200), st.integers(1, 200), tilings(), modes)
def test_constant_model_is_constant_up_to_the_corners(
    height: int, width: int, tiling: Tiling, mode: Mode
) -> None:
    scene = ArrayScene(np.full((1, height, width), 0.7, np.float32), np.ones((height, width), bool))
    scores, *_ = stitched(scene, plan(scene.grid, tiling), mode, [1])
    np.testing.assert_allclose(scores, 0.7, atol=1e-6)


@given(scenes(), tilings(), st.integers(0, 2**32))
@settings(max_examples=50)
def test_wanted_pixels_only(scene: ArrayScene, tiling: Tiling, seed: int) -> None:
    wanted = np.zeros(scene.valid.shape, bool)
    rng = np.random.default_rng(seed)
    r, c = rng.integers(0, wanted.shape[0]), rng.integers(0, wanted.shape[1])
    wanted[r : r + 30, c : c + 30] = True
    tiles = plan(scene.grid, tiling, keep=lambda w: bool(wanted[w.slices()].any()))
    mosaic = Mosaic(tiles, [1], mask=lambda start, stop: wanted[start:stop])
    valid, scores = [], []
    for chip in scene.chips(tiles):
        for rows in mosaic.add(identity(chip)):
            valid.append(rows.valid)
            scores.append(rows.scores.copy())
    for rows in mosaic.finish():
        valid.append(rows.valid)
        scores.append(rows.scores.copy())
    got = np.concatenate(valid)
    assert (got == (scene.valid & wanted)).all()
    np.testing.assert_allclose(
        np.concatenate(scores, axis=1)[0][got], scene.data[0][got], atol=1e-6
    )


def test_memory_is_one_row_of_tiles() -> None:
    scene = ArrayScene(np.zeros((1, 50_000, 64), np.uint8), np.ones((50_000, 64), bool))
    tiles = plan(scene.grid, Tiling(64, 16, 1))
    mosaic = Mosaic(tiles, [1])
    assert mosaic._scores.shape == (1, tiles.tile_shape[0], 64)
    assert sum(len(r.labels) for r in mosaic.finish()) == 50_000


def test_a_tile_that_comes_too_late_is_refused() -> None:
    scene = ArrayScene(np.zeros((1, 100, 20), np.float32), np.ones((100, 20), bool))
    tiles = plan(scene.grid, Tiling(20, 4, 1))
    first, second, *_ = [identity(chip) for chip in scene.chips(tiles)]
    mosaic = Mosaic(tiles, [1])
    list(mosaic.add(first))
    list(mosaic.add(second))
    with pytest.raises(ValueError, match="after its rows went out"):
        list(mosaic.add(first))
