"""The blocks of a report: the counts of each, from which reports are compared.

Where objects have scores, each is there too: label, score, and an outcome (a digit, see
geoseg/average_precision.py) for each level of IoU, by outlines and by boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.average_precision import ALL, IOUS, Ranking
from geoseg.evaluate.count import Counted
from geoseg.evaluate.tally import Tally, plain
from geoseg.grid import Grid, Window
from geoseg.metrics import ratio
from geoseg.vectorize.features import project

Record = dict[str, Any]


def block_records(counted: Sequence[Counted], first: int) -> list[Record]:
    """One per block of ground: where it is, its IoU, and its counts."""
    records = []
    for c in counted:
        iou = _block_iou(c.tally, first)
        scored = None if c.ranking is None else _scored(c.ranking, len(c.blocks))
        for i, ((row, col), window) in enumerate(zip(c.blocks, c.windows, strict=True)):
            lon, lat = lonlat(c.grid, window)
            tally = c.tally[i]
            records.append(
                {
                    "scene": c.case.place,
                    "file": c.case.file.name,
                    "row": row,
                    "col": col,
                    "lon": lon,
                    "lat": lat,
                    "iou": plain(iou[i]),
                    "support": plain(_support(tally, first) / window.pixels),
                    **{name: _short(getattr(tally, name)) for name in Tally.__slots__},
                    **({} if scored is None else {"scored": scored[i]}),
                }
            )
    return records


def _scored(ranking: Ranking, blocks: int) -> list[list[Any]]:
    """Of each block the objects: [label, score, outcomes by masks, outcomes by boxes]."""
    found: list[list[Any]] = [[] for _ in range(blocks)]
    texts = [
        ["".join(map(str, column)) for column in side[ALL, : len(IOUS)].T.tolist()]
        for side in (ranking.masks, ranking.boxes)
    ]
    columns = (ranking.block, ranking.label, ranking.score)
    for block, *row in zip(*(c.tolist() for c in columns), *texts, strict=True):
        found[block].append([row[0], plain(row[1]), *row[2:]])
    return found


def tally_of(records: Sequence[Mapping[str, Any]]) -> Tally:
    """The counts of `block_records` again; zeros for what older reports did not count."""
    labels = len(records[0]["confusion"])
    zeros = Tally.zeros(labels, len(records))
    return Tally(
        *(
            np.array([r[name] for r in records], float)
            if name in records[0]
            else getattr(zeros, name)
            for name in Tally.__slots__
        )
    )


def ranking_of(records: Sequence[Mapping[str, Any]]) -> Ranking | None:
    """The objects with scores of `block_records` again, of all sizes; None if they have none."""
    if not all("scored" in r for r in records):
        return None
    rows = [(block, *row) for block, r in enumerate(records) for row in r["scored"]]
    block, label, score, masks, boxes = zip(*rows, strict=True) if rows else ((),) * 5
    true = tally_of(records).objects[..., (0, 2)].sum(-1).astype(int)  # (blocks, labels)
    true_block, true_label = (
        np.repeat(index.ravel(), true.ravel()) for index in np.indices(true.shape)
    )
    return Ranking(
        np.array(label, np.uint8),
        np.array(score, float),
        np.array(block, np.int64),
        _outcomes(masks),
        _outcomes(boxes),
        true_label,
        true_block,
        np.ones((2, len(true_block)), np.bool_),
    )


def _outcomes(texts: Sequence[str]) -> NDArray[np.uint8]:
    """(2, T, D) of digits; twice, as which are the best of their block is not kept."""
    digits = np.array([list(map(int, text)) for text in texts], np.uint8).reshape(-1, len(IOUS))
    return np.stack([digits.T, digits.T])


def _block_iou(tally: Tally, first: int) -> NDArray[np.float64]:
    """(blocks,) IoU of all classes but the background together: hits over what either says."""
    hits = np.diagonal(tally.confusion, axis1=1, axis2=2)
    either = tally.confusion.sum(1) + tally.confusion.sum(2) - hits
    hit, all_ = hits[:, first:].sum(1), either[:, first:].sum(1)
    return ratio(hit, all_)


def _support(tally: Tally, first: int) -> float:
    """How many pixels of a block are or were predicted as an object."""
    return float(tally.confusion.sum() - tally.confusion[:first, :first].sum())


def lonlat(grid: Grid, window: Window) -> tuple[float | None, float | None]:
    """The middle of a window in degrees; None where the raster lies nowhere on the Earth."""
    import shapely
    from pyproj import CRS

    if grid.crs is None or grid.crs.geodetic_crs is None:
        return None, None
    middle = (window.col + window.width / 2, window.row + window.height / 2)
    point = shapely.Point(*(grid.transform @ middle))
    moved = project(np.array([point]), grid.crs, CRS("EPSG:4326"))[0]
    return round(moved.x, 6), round(moved.y, 6)


def _short(array: NDArray[np.float64]) -> list[Any]:
    """Nested lists in which whole numbers are integers and the others have six digits."""
    values: list[Any] = array.tolist()
    return [_shortened(v) for v in values]


def _shortened(value: Any) -> Any:
    if isinstance(value, list):
        return [_shortened(v) for v in value]
    return int(value) if float(value).is_integer() else float(f"{value:.6g}")
