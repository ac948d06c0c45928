"""What a report says of objects with scores: average precision, thresholds, another merge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from geoseg.average_precision import (
    ALL,
    HIT,
    IOUS,
    NOTHING,
    SIZES,
    Ranking,
    averages,
    curves,
)
from geoseg.evaluate.count import Counted
from geoseg.evaluate.places import Legend
from geoseg.evaluate.tally import Tally, differences, estimates, plain
from geoseg.metrics import ratio

Record = dict[str, Any]

SHOWN = (0, 5)  # levels whose curves are drawn: IoU 0.5 and 0.75


def joined(counted: Sequence[Counted]) -> Ranking | None:
    """The objects of all rasters; None if those of one have no scores."""
    rankings = [c.ranking for c in counted if c.ranking is not None]
    if len(rankings) < len(counted):
        return None
    return Ranking.concatenate(rankings, [len(c.blocks) for c in counted])


def detection(ranking: Ranking | None, legend: Legend, sizes: Sequence[float]) -> Record | None:
    """Average precision and recall by outlines and by boxes, by size and class; curves."""
    if ranking is None:
        return None
    labels = range(legend.first, len(legend.labels))
    precision = curves(ranking, labels, levels=SHOWN).precision[0]
    known = precision[~np.isnan(precision).any(axis=(1, 2))]
    return {
        "candidates": len(ranking.score),
        "least_score": plain(ranking.score.min()) if len(ranking.score) else None,
        "masks": _by(ranking, legend, sizes, boxes=False),
        "boxes": _by(ranking, legend, sizes, boxes=True),
        "curves": [
            {"iou": plain(IOUS[level]), "precision": [plain(p) for p in known[:, i].mean(0)]}
            for i, level in enumerate(SHOWN)
            if len(known)
        ],
        "thresholds": _thresholds(ranking),
    }


def _by(ranking: Ranking, legend: Legend, sizes: Sequence[float], *, boxes: bool) -> Record:
    labels = range(legend.first, len(legend.labels))
    limits = itertools.pairwise([0.0, *sizes, math.inf])
    return {
        **_averages(ranking, labels, boxes=boxes),
        "sizes": [
            {
                "from": low,
                "to": None if math.isinf(high) else high,
                **_averages(ranking, labels, boxes=boxes, view=view),
            }
            for view, (low, high) in enumerate(limits, start=SIZES)
        ],
        "classes": [
            {"id": legend.labels[i].id, "name": legend.labels[i].name}
            | _averages(ranking, [i], boxes=boxes)
            for i in labels
        ],
    }


def _averages(ranking: Ranking, labels: Sequence[int], *, boxes: bool, view: int = ALL) -> Record:
    true = ranking.counts[view] & np.isin(ranking.true_label, list(labels))
    values = averages(ranking, labels, boxes=boxes, view=view)
    return {"truth": int(true.sum()), **{name: plain(v[0]) for name, v in values.items()}}


def _thresholds(ranking: Ranking) -> Record | None:
    """F1, precision and recall of objects by their least score, and the best one."""
    order = np.argsort(-ranking.score, kind="stable")
    score, outcome = ranking.score[order], ranking.masks[ALL, -1][order]
    hits, found = np.cumsum(outcome == HIT), np.cumsum(outcome != NOTHING)
    true = int(ranking.counts[ALL].sum())
    if not len(score) or not true:
        return None
    f1 = ratio(2 * hits, found + true)
    f1[:-1][score[:-1] == score[1:]] = np.nan  # equal scores come together
    best = int(np.nanargmax(f1))
    curve = []
    for threshold in np.arange(1, 100) / 100:
        last = int(np.searchsorted(-score, -threshold, side="right")) - 1
        h, n = (int(hits[last]), int(found[last])) if last >= 0 else (0, 0)
        curve.append(
            {
                "threshold": plain(threshold),
                "f1": plain(2 * h / (n + true)),
                "precision": plain(h / n) if n else None,
                "recall": plain(h / true),
            }
        )
    return {"best": plain(score[best]), "best_f1": plain(f1[best]), "curve": curve}


def against(
    own: Sequence[Counted], other: Sequence[Counted], legend: Legend, sizes: Sequence[float]
) -> Record:
    """The measures of `other`, and the differences of `own` to them on the same blocks."""
    strata = np.array([c.case.place for c in own for _ in c.blocks])
    tallies = [Tally.concatenate([c.tally for c in side]) for side in (own, other)]
    rankings = [joined(side) for side in (own, other)]
    found = [
        estimates(tally, strata, legend.first, ranking)
        for tally, ranking in zip(tallies, rankings, strict=True)
    ]
    return {
        "measures": found[1],
        "detection": detection(rankings[1], legend, sizes),
        "differences": differences(tallies, strata, legend.first, found, rankings),
    }
