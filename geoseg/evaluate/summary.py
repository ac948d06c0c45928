"""What a report says: plain values out of counts, ready for JSON."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.evaluate.count import Counted
from geoseg.evaluate.detection import detection, joined
from geoseg.evaluate.objects import ObjectTable
from geoseg.evaluate.places import Legend
from geoseg.evaluate.tally import FEW, Tally, class_measures, estimates, plain
from geoseg.metrics import ScoreHistogram

Record = dict[str, Any]

SUPPORT = 0.02  # of a block: so much object or false alarm makes it worth showing


def figures(counted: Sequence[Counted], legend: Legend, sizes: Sequence[float]) -> Record:
    """Everything that is measured of these rasters together, and of each place (micro)."""
    places = list(dict.fromkeys(c.case.place for c in counted))
    tally, strata = _joined(counted)
    ranking = joined(counted)
    measures = estimates(tally, strata, legend.first, ranking)
    per_class = class_measures(tally.sum())
    support = tally.sum().confusion.sum(-1)
    objects = tally.sum().objects
    classes = [
        {
            "id": info.id,
            "name": info.name,
            "color": info.color,
            "support": int(support[label]),
            "objects": int(objects[label, 0] + objects[label, 2]),
            **{name: plain(values[label]) for name, values in per_class.items()},
        }
        for label, info in enumerate(legend.labels)
    ]
    return {
        "measures": measures,
        "classes": classes,
        "confusion": tally.sum().confusion.astype(int).tolist(),
        "objects": _objects([c.objects for c in counted], tally, sizes),
        "detection": detection(ranking, legend, sizes),
        "calibration": _reliability(tally.sum()),
        "thresholds": _thresholds(counted),
        "scenes": [
            _scene(
                name,
                [c for c in counted if c.case.place == name],
                legend,
                measures if len(places) == 1 else None,
            )
            for name in places
        ],
    }


def _joined(counted: Sequence[Counted]) -> tuple[Tally, NDArray[Any]]:
    """The blocks of all rasters, and the place of each."""
    strata = [c.case.place for c in counted for _ in c.blocks]
    return Tally.concatenate([c.tally for c in counted]), np.array(strata)


def _scene(
    name: str, counted: Sequence[Counted], legend: Legend, measures: Record | None
) -> Record:
    """Of one place; its measures may be known."""
    tally, strata = _joined(counted)
    return {
        "name": name,
        "files": [str(c.case.file) for c in counted],
        "pixel_m": plain(counted[0].pixel_m),
        "blocks": len(tally),
        "pixels": sum(c.known for c in counted),
        "lost_pixels": sum(c.lost for c in counted),
        "objects": int(tally.sum().objects[:, (0, 2)].sum()),
        "measures": measures or estimates(tally, strata, legend.first, joined(counted)),
    }


def _objects(tables: Sequence[ObjectTable], tally: Tally, sizes: Sequence[float]) -> Record:
    hits, alarms, misses = (int(n) for n in tally.sum().objects.sum(0))
    names = ("from_truth", "matched", "iou", "area", "partner_area", "split", "merged")
    join = {name: np.concatenate([getattr(t, name) for t in tables]) for name in names}
    paired = join["from_truth"] & join["matched"]
    error = np.abs(join["partner_area"] - join["area"])[paired] / join["area"][paired]
    limits = [0.0, *sizes, math.inf]
    return {
        "hits": hits,
        "false_alarms": alarms,
        "misses": misses,
        "predicted": int((~join["from_truth"]).sum()),
        "split": int((join["from_truth"] & join["split"]).sum()),
        "merged": int((~join["from_truth"] & join["merged"]).sum()),
        "mean_iou": plain(_mean(join["iou"][paired])),
        "median_area_error": plain(np.median(error) if len(error) else math.nan),
        "sizes": [_size(join, *pair) for pair in itertools.pairwise(limits)],
    }


def _size(join: Mapping[str, NDArray[Any]], low: float, high: float) -> Record:
    """Recall of true objects of a size, and precision of predicted ones of that size.

    predicted: how many predicted ones have that size, right or wrong; `found`, its older name, is
    kept for those who read it.
    """
    inside = (join["area"] >= low) & (join["area"] < high)
    true, found = inside & join["from_truth"], inside & ~join["from_truth"]
    return {
        "from": low,
        "to": None if math.isinf(high) else high,
        "truth": int(true.sum()),
        "predicted": int(found.sum()),
        "found": int(found.sum()),
        "recall": plain(_mean(join["matched"][true])),
        "precision": plain(_mean(join["matched"][found])),
        "mean_iou": plain(_mean(join["iou"][true & join["matched"]])),
    }


def _reliability(tally: Tally) -> list[Record]:
    """Per group of confidence: mean confidence and how often it came true."""
    count, said, seen, _ = tally.calibration
    return [
        {"said": plain(s / n), "seen": plain(t / n), "count": int(n)}
        for n, s, t in zip(count, said, seen, strict=True)
        if n
    ]


def _thresholds(counted: Sequence[Counted]) -> Record | None:
    """IoU, precision and recall by threshold, and the best one; of a single probability only."""
    histograms = [c.histogram for c in counted if c.histogram is not None]
    if not histograms:
        return None
    whole = ScoreHistogram()
    for histogram in histograms:
        whole.objects += histogram.objects
        whole.background += histogram.background
    iou = whole.iou()
    equal = np.flatnonzero(iou == iou.max())
    best = int(equal[len(equal) // 2])
    shown = range(10, len(iou), 10)
    scores = [whole.scores(i) for i in shown]
    return {
        "best": plain(whole.edges[best]),
        "best_iou": plain(iou[best]),
        "curve": [
            {
                "threshold": plain(whole.edges[i]),
                "iou": plain(s.iou),
                "precision": plain(s.precision),
                "recall": plain(s.recall),
            }
            for i, s in zip(shown, scores, strict=True)
        ],
    }


def notes(counted: Sequence[Counted], blocks: int, first: int) -> list[str]:
    """What a reader must know before believing the figures; `first` as in a Legend."""
    found = []
    empty = [c.case for c in counted if first and not c.tally.confusion[..., first:].any()]
    found += [
        f"{case.prediction or case.file}: nothing is predicted where there is truth, so all of its "
        "objects count as missed."
        for case in empty
    ]
    if blocks < FEW:
        what = "block of ground has truth" if blocks == 1 else "blocks of ground have truth"
        found.append(
            f"Only {blocks} {what}: intervals mean little, or cannot be given. Label more ground, "
            "or take smaller blocks (--block)."
        )
    known, lost = sum(c.known for c in counted), sum(c.lost for c in counted)
    if lost > 0.001 * known:
        found.append(
            f"{lost / known:.1%} of the pixels with truth have no prediction (no data in the "
            "scene, or outside of the prediction's area); they count for nothing."
        )
    if any(c.outlined for c in counted):
        found.append("The truth is a mask: objects that touch in it count as one.")
    if any(c.grid.crs is None for c in counted):
        found.append("Some scenes have no CRS: sizes are in pixels of the size that was given.")
    return found


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else math.nan
