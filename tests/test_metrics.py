"""Pixel and polygon scores against counts made by hand and by scikit-learn's definitions."""

from __future__ import annotations

import numpy as np
import pytest
from shapely.geometry import box

from geoseg.metrics import IGNORE, Confusion, ScoreHistogram, Scores, match_polygons


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
