"""Objects across tiles: the rule against a dumb one, and planted objects found whole and once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from geoseg.grid import Grid, Plan, Tile, Tiling, Window, plan
from geoseg.instances import masks as ops
from geoseg.instances.mosaic import InstanceMosaic, take
from geoseg.instances.paste import paint, paste
from geoseg.predictions import Detections, InstancePrediction, Masks, Objects
from geoseg.testing import planted_objects, see_planted


def merged(
    tiles: Plan, predictions: Sequence[InstancePrediction], **options: Any
) -> tuple[Objects, InstanceMosaic]:
    mosaic = InstanceMosaic(tiles, **options)
    found = [o for p in predictions for o in mosaic.add(p)]
    found += list(mosaic.finish())
    return joined(found), mosaic


def joined(parts: list[Objects]) -> Objects:
    return Objects(
        np.concatenate([np.empty(0, np.uint8), *(p.labels for p in parts)]),
        np.concatenate([np.empty(0, np.float32), *(p.scores for p in parts)]),
        ops.concatenate([p.masks for p in parts]),
        np.concatenate([np.empty(0, np.int32), *(p.parts for p in parts)]),
        np.concatenate([np.empty(0, np.bool_), *(p.truncated for p in parts)]),
    )


def picture(masks: Masks, i: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    out = np.zeros(shape, np.bool_)
    row, col, height, width = masks.windows[i]
    own = masks.pixels[masks.starts[i] : masks.starts[i + 1]].reshape(height, width)
    out[row : row + height, col : col + width] = own
    return out


def grid(height: int, width: int) -> Grid:
    return Grid(None, Affine.identity(), height, width)


@st.composite
def planted(draw: st.DrawFn) -> tuple[NDArray[np.int32], Plan]:
    height, width = draw(st.integers(20, 160)), draw(st.integers(20, 160))
    stride = draw(st.sampled_from([1, 4, 8]))
    size = stride * draw(st.integers(3, 10))
    overlap = stride * draw(st.integers(1, max(1, size // stride - 1)))
    overlap = min(overlap, size - stride)
    exact = draw(st.booleans())
    tiles = plan(grid(height, width), Tiling(size, overlap, stride, exact=exact))
    longest = draw(st.integers(3, max(height, width)))
    seed = draw(st.integers(0, 2**32 - 1))
    truth = planted_objects(
        (height, width), count=draw(st.integers(0, 25)), longest=longest, seed=seed
    )
    return truth, tiles


@settings(max_examples=300)
@given(planted(), st.booleans(), st.randoms())
def test_planted_objects_are_found_whole_and_once(
    scene: tuple[NDArray[np.int32], Plan], apart: bool, random: Any
) -> None:
    """Objects of any length against any overlap; each tile sees them cut at its edges, with
    `apart` also what hangs together only outside of the tile as several. Tiles of a row come in
    any order."""
    truth, tiles = scene
    predictions = []
    for row in tiles.rows:
        order = list(row)
        random.shuffle(order)
        predictions += [see_planted(truth, tile, apart=apart) for tile in order]
    found, mosaic = merged(tiles, predictions)
    numbers = np.unique(truth[truth > 0])
    assert len(found) == len(numbers)
    assert not found.truncated.any()
    assert mosaic.unconfirmed == 0
    seen = set()
    for i in range(len(found)):
        own = picture(found.masks, i, truth.shape)
        number = truth[own][0]
        assert np.array_equal(own, truth == number)
        seen.add(number)
    assert seen == set(numbers)
