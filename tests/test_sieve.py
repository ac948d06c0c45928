"""Sieving and filling of holes while rows pass, held against the same on the whole mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from geoseg.vectorize.sieve import ROUNDS, Cleaner


def clean(mask, valid=None, *, band=10**6, **limits):
    valid = np.ones(mask.shape, bool) if valid is None else valid
    cleaner = Cleaner(mask.shape[1], **limits)
    place = np.arange(mask.size).reshape(mask.shape)
    found = [
        cleaner.add(mask[t : t + band], valid[t : t + band], place[t : t + band])
        for t in range(0, len(mask), band)
    ]
    found = [f for f in [*found, cleaner.finish()] if f is not None]
    assert (np.concatenate([f.before for f in found]) == mask).all()
    assert (np.concatenate([f.valid for f in found]) == valid).all()
    assert (np.concatenate([f.planes[0] for f in found]) == place).all()
    return np.concatenate([f.labels for f in found])


def by_hand(mask, valid, sieve, holes):
    """One round on a whole mask, region by region."""
    number, result = np.zeros(mask.shape, int), mask.copy()
    for label in np.unique(mask[valid]):
        pieces = ndimage.label((mask == label) & valid)[0]
        number[pieces > 0] = pieces[pieces > 0] + number.max()
    sizes = np.bincount(number.ravel())

    def is_large(k, label):
        return sizes[k] >= (max(sieve, holes) if label == 0 else sieve)

    padded = np.pad(number, 1, constant_values=-1)
    for k in range(1, number.max() + 1):
        own = number == k
        label = mask[own][0]
        if is_large(k, label):
            continue
        border, rim = {}, False
        inside = np.pad(own, 1)
        for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            beside = np.roll(inside, shift, (0, 1)) & ~inside
            for other in padded[beside]:
                if other <= 0:
                    rim = True
                    continue
                at = mask[number == other][0]
                if is_large(other, at):
                    border[at] = border.get(at, 0) + 1
        if not border:
            continue
        hole = label == 0 and sizes[k] < holes and len(border) == 1 and not rim
        if sizes[k] < sieve or hole:
            result[own] = min(border, key=lambda m: (-border[m], m))
    return result


@st.composite
def masks(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=16))
    labels = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 3)))
    if draw(st.booleans()):
        labels = ndimage.median_filter(labels, 3)
    valid = draw(hnp.arrays(bool, shape, elements=st.sampled_from([True] * 9 + [False])))
    return np.where(valid, labels, 0).astype(np.uint8), valid


@settings(max_examples=300, deadline=None)
@given(masks(), st.integers(1, 16), st.integers(0, 12), st.integers(0, 12))
def test_as_by_hand_whatever_the_bands(mask, band, sieve, holes):
    mask, valid = mask
    expected = mask
    for _ in range(ROUNDS if sieve > 1 else 1):
        expected = by_hand(expected, valid, sieve, holes)
    assert (clean(mask, valid, sieve=sieve, holes=holes) == expected).all()
    assert (clean(mask, valid, band=band, sieve=sieve, holes=holes) == expected).all()
    assert (expected[~valid] == 0).all()


def test_what_is_small_goes_and_what_is_large_stays():
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal((4, 300, 400)), (0, 2, 2))
    mask = noise.argmax(axis=0).astype(np.uint8)
    out = clean(mask, band=64, sieve=60)
    for label in range(4):
        before, _ = ndimage.label(mask == label)
        keep = np.bincount(before.ravel()) >= 60
        keep[0] = False
        assert (out[keep[before]] == label).all()
        after, _ = ndimage.label(out == label)
        assert (np.bincount(after.ravel())[1:] >= 60).mean() > 0.99


def test_holes():
    mask = np.zeros((20, 20), np.uint8)
    mask[2:12, 2:12] = 1
    mask[4:6, 4:6] = 0  # 4 pixels inside of one class
    mask[2:12, 12:16] = 2
    mask[7:9, 11:13] = 0  # between two classes
    mask[9:11, 2:4] = 0  # open to the outside
    filled = clean(mask, holes=5)
    expected = mask.copy()
    expected[4:6, 4:6] = 1
    assert (filled == expected).all()
    assert (clean(mask, holes=4) == mask).all()
    valid = np.ones(mask.shape, bool)
    valid[3, 4] = False
    assert (clean(mask, valid, holes=5)[valid] == mask[valid]).all()


def test_rows_leave_soon():
    rng = np.random.default_rng(1)
    mask = (rng.random((600, 200)) < 0.02).astype(np.int32)
    cleaner, held = Cleaner(200, sieve=9), 0
    for top in range(0, 600, 20):
        found = cleaner.add(mask[top : top + 20], np.ones((20, 200), bool))
        held += 20 - (0 if found is None else len(found.labels))
        assert held <= 60
        assert found is None or found.labels.dtype == np.int32


@pytest.mark.parametrize("band", [1, 7])
def test_nothing_to_do(band):
    mask = np.arange(12, dtype=np.int16).reshape(4, 3)
    assert (clean(mask, band=band) == mask).all()
    assert Cleaner(5, sieve=3).finish() is None
