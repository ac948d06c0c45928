"""Pixel and polygon scores against counts made by hand and by scikit-learn's definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box

from geoseg.metrics import (
    IGNORE,
    Calibration,
    Confusion,
    ScoreHistogram,
    Scores,
    boundary,
    boundary_counts,
    brier_score,
    calibration_error,
    match_polygons,
    pair_polygons,
)
from geoseg.testing import planted_rectangles


def test_scores_follow_from_counts() -> None:
    scores = Scores(hits=6, false_alarms=2, misses=4)
    assert scores.precision == 6 / 8
    assert scores.recall == 6 / 10
    assert scores.iou == 6 / 12
    assert scores.f1 == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    assert np.isnan(Scores().iou)
    assert Scores(1, 2, 3) + Scores(1, 1, 1) == Scores(2, 3, 4)


def test_confusion_in_pieces_equals_the_whole_and_skips_ignore() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 2, IGNORE], (40, 50)).astype(np.uint8)
    prediction = rng.integers(0, 3, (40, 50)).astype(np.uint8)
    whole, pieces = Confusion(3), Confusion(3)
    whole.add(prediction, truth)
    for rows in (slice(0, 7), slice(7, 40)):
        pieces.add(prediction[rows], truth[rows])
    assert (whole.matrix == pieces.matrix).all()
    assert whole.matrix.sum() == (truth != IGNORE).sum()
    known = truth != IGNORE
    both = ((truth == 2) & (prediction == 2) & known).sum()
    either = (((truth == 2) | (prediction == 2)) & known).sum()
    assert whole.scores(2).iou == both / either


def test_histogram_gives_the_iou_of_every_threshold() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(5000).astype(np.float32)
    truth = (rng.random(5000) < scores).astype(np.uint8)
    truth[::10] = IGNORE
    histogram = ScoreHistogram(bins=100)
    histogram.add(scores, truth)
    for index in (10, 50, 90):
        confusion = Confusion()
        at = (np.clip((scores * 100).astype(int), 0, 99) >= index).astype(np.uint8)
        confusion.add(at, truth)
        assert histogram.iou()[index] == pytest.approx(confusion.scores().iou)
        assert histogram.scores(index) == confusion.scores()
    assert histogram.calibration_error() < 0.05  # the truth was drawn with these probabilities


def test_overconfident_scores_have_a_calibration_error() -> None:
    histogram = ScoreHistogram()
    histogram.add(np.full(1000, 0.95), (np.arange(1000) % 2).astype(np.uint8))
    assert histogram.calibration_error() == pytest.approx(0.45, abs=0.01)


def test_polygons_match_once_each() -> None:
    truth = [box(0, 0, 10, 10), box(20, 0, 30, 10), box(40, 0, 50, 10)]
    found = [box(0, 0, 10, 9), box(0, 0, 10, 8), box(20, 0, 30, 4), box(90, 0, 99, 9)]
    scores = match_polygons(found, truth)
    assert scores == Scores(hits=1, false_alarms=3, misses=2)
    assert match_polygons([], truth) == Scores(0, 0, 3)
    assert match_polygons(found, []) == Scores(0, 4, 0)


def test_every_polygon_matches_itself() -> None:
    rng = np.random.default_rng(2)
    shapes = [box(x, y, x + 3, y + 2) for x, y in rng.random((50, 2)) * 100]
    assert match_polygons(shapes, shapes).f1 == 1.0


# --- against scikit-learn and torchmetrics ---------------------------------------------------


def drawn(classes: int = 3, size: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, classes, size).astype(np.uint8)
    prediction = np.where(rng.random(size) < 0.6, truth, rng.integers(0, classes, size))
    return prediction.astype(np.uint8), truth


def test_confusion_and_scores_are_those_of_scikit_learn() -> None:
    from sklearn import metrics as sk

    prediction, truth = drawn()
    confusion = Confusion(3)
    confusion.add(prediction, truth)
    assert (confusion.matrix == sk.confusion_matrix(truth, prediction)).all()
    precision, recall, f1, _ = sk.precision_recall_fscore_support(truth, prediction)
    jaccard = sk.jaccard_score(truth, prediction, average=None)
    for c in range(3):
        scores = confusion.scores(c)
        assert scores.precision == pytest.approx(precision[c])
        assert scores.recall == pytest.approx(recall[c])
        assert scores.f1 == pytest.approx(f1[c])
        assert scores.iou == pytest.approx(jaccard[c])


def test_calibration_of_two_classes_is_torchmetrics_and_brier_scikit_learns() -> None:
    import torch
    from sklearn.metrics import brier_score_loss
    from torchmetrics.functional.classification import binary_calibration_error

    rng = np.random.default_rng(6)
    said = rng.random(5000).astype(np.float32)
    true = rng.random(5000) < said**2
    whole, pieces = Calibration(15), Calibration(15)
    whole.add(said, true)
    for part in (slice(0, 1234), slice(1234, None)):
        pieces.add(said[part], true[part])
    assert whole.table == pytest.approx(pieces.table)
    expected = binary_calibration_error(torch.tensor(said), torch.tensor(true).int(), n_bins=15)
    assert calibration_error(whole.table) == pytest.approx(float(expected), abs=1e-6)
    assert brier_score(whole.table) == pytest.approx(brier_score_loss(true, said), abs=1e-6)


def test_calibration_of_several_classes_is_torchmetrics() -> None:
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    rng = np.random.default_rng(7)
    scores = rng.dirichlet([1, 1, 1], 3000).astype(np.float32)
    truth = rng.integers(0, 3, 3000)
    calibration = Calibration(15)
    calibration.add(scores.max(1), scores.argmax(1) == truth)
    expected = multiclass_calibration_error(
        torch.tensor(scores), torch.tensor(truth), num_classes=3, n_bins=15
    )
    assert calibration_error(calibration.table) == pytest.approx(float(expected), abs=1e-6)


def test_the_calibration_of_nothing_is_not_a_number() -> None:
    assert np.isnan(calibration_error(Calibration().table))
    calibration = Calibration(10)
    calibration.add(np.array([1.0, 0.0]), np.array([True, False]))  # the edges have a group, too
    assert calibration_error(calibration.table) == 0
    assert calibration.table[0].tolist() == [1, *[0] * 8, 1]


# --- boundaries ------------------------------------------------------------------------------


def test_the_boundary_is_the_inner_edge_and_none_runs_along_the_unknown() -> None:
    labels = np.zeros((7, 7), np.uint8)
    labels[1:6, 1:6] = 1
    edge = boundary(labels, 1)
    assert edge.sum() == 16
    assert not edge[3, 3]
    labels[:, 4:] = IGNORE  # what lies there is not known, so no edge is known either
    assert boundary(labels, 1).sum() == 3 + 3 + 5 - 2
    assert not boundary(np.ones((5, 5), np.uint8), 1).any()  # the end of the scene is no edge


def test_boundary_counts_follow_from_distances() -> None:
    truth, prediction = np.zeros((2, 40, 40), np.uint8)
    truth[10:30, 10:30] = 1
    prediction[10:30, 13:33] = 1  # three pixels to the right
    assert boundary_counts(prediction, truth, 1, 3).tolist() == [76, 76, 76, 76]
    # within two pixels: of the upper and lower edges all but one pixel that sticks out by three,
    # of the side inside the other square the two at each end, of the other side nothing more
    assert boundary_counts(prediction, truth, 1, 2).tolist() == [42, 76, 42, 76]
    nothing = np.zeros_like(truth)
    assert boundary_counts(nothing, truth, 1, 2).tolist() == [0, 0, 0, 76]


@given(st.integers(0, 10_000), st.sampled_from([1.0, 2.0, 2.9]), st.integers(7, 30))
def test_boundary_counts_of_tiles_add_up_to_the_whole(seed: int, near: float, tile: int) -> None:
    rng = np.random.default_rng(seed)
    truth, prediction = (
        planted_rectangles((47, 61), count=12, seed=seed + i, edge=(3, 15)) for i in range(2)
    )
    unknown = rng.random((47, 61)) < 0.02
    truth[unknown] = prediction[unknown] = IGNORE
    whole = boundary_counts(prediction, truth, 1, near)
    halo = int(np.ceil(near)) + 1
    total = np.zeros(4, int)
    for row in range(0, 47, tile):
        for col in range(0, 61, tile):
            top, left = max(0, row - halo), max(0, col - halo)
            rows, cols = slice(top, row + tile + halo), slice(left, col + tile + halo)
            core = (slice(row - top, row - top + tile), slice(col - left, col - left + tile))
            total += boundary_counts(prediction[rows, cols], truth[rows, cols], 1, near, core)
    assert total.tolist() == whole.tolist()


def test_pairs_name_who_found_whom() -> None:
    truth = [box(0, 0, 10, 10), box(20, 0, 30, 10)]
    found = [box(50, 0, 60, 10), box(20, 0, 30, 8)]
    pairs = pair_polygons(found, truth)
    assert (pairs.found.tolist(), pairs.wanted.tolist()) == ([1], [1])
    assert pairs.iou == pytest.approx([0.8])
    assert len(pair_polygons(found, truth, iou=0.81).iou) == 0
