"""Objects of a class that touch, told apart by their shape and by how sure a model is.

Every pixel has a *half-width*: its distance to the outline of its object, so that the ridge of an
object says how wide it is there. The watershed of scikit-image gives each hilltop of these
half-widths its basin (Beucher and Lantuéjoul 1979), and two basins are two objects only where the
pass between them is a *neck*: not wider than `neck_m`, and narrower than both sides by `step_m`.
So noise on an outline cuts nothing (markers by h-maxima say the same of the heights of hills;
joining basins over their passes needs no reconstruction of the whole surface, and the widths
stay metres).

Of a model the confidence of each pixel is known too, and between houses that touch it is lower
than inside of them. So the half-width is a mean over outlines: that of the object itself, and
those of what remains of it without the least sure of its pixels, once for each of SHARES. These
are ranks inside of an object: a model may be bold or timid, and give the same pieces. From SURE on
all pixels are taken as equal.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import MissingDependencyError, UsageError

SHARES = (0.3, 0.5, 0.7)  # of an object's pixels
SURE = 0.95
STEP = 1 / 5  # step_m, as a share of neck_m
LEAST_STEP = 3.0  # pixels: the outlines of convex things on a raster wobble by less

Bool = NDArray[np.bool_]
Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Necks:
    """What is a neck; in pixels. See `split_objects`."""

    width: float
    step: float
    least: float  # pixels that an object has

    @classmethod
    def of(cls, neck_m: float, step_m: float | None, min_area_m2: float, pixel_m: float) -> Necks:
        for name, value in (("neck_m", neck_m), ("step_m", step_m), ("min_area_m2", min_area_m2)):
            if value is not None and not 0 <= value < np.inf:
                raise UsageError(f"{name}: {value} is no length or area; 0 or more is needed")
        if not 0 < pixel_m < np.inf:
            raise UsageError(f"pixel_m: {pixel_m} is no size of a pixel in metres")
        step = (neck_m * STEP if step_m is None else step_m) / pixel_m
        return cls(neck_m / pixel_m, max(step, LEAST_STEP), min_area_m2 / pixel_m**2)


def split_objects(
    labels: NDArray[Any],
    *,
    neck_m: float,
    step_m: float | None = None,
    min_area_m2: float = 0.0,
    pixel_m: float = 1.0,
    confidence: NDArray[np.floating[Any]] | None = None,
    boundary: NDArray[np.bool_] | None = None,
) -> Int32:
    """(H, W) numbers of objects, from 1 on, for (H, W) labels of classes (0 is no object).

    Connected pixels of one label are one object, or several: it is cut where it is not wider than
    `neck_m` metres and at least `step_m` metres wider on both sides (a fifth of `neck_m` if not
    given, never less than three pixels). Pieces smaller than `min_area_m2` join the neighbour to
    which the passage is widest. `pixel_m` is the edge of a pixel in metres.

    `confidence` (H, W) in 0..1 makes an object narrower where it is low. Pixels of `boundary`
    (H, W), which have to have the label of an object, part it whatever its width, and then go to
    the object that is nearest. The pieces partition the pixels; `geoseg.vectorize` outlines them.
    """
    necks = Necks.of(neck_m, step_m, min_area_m2, pixel_m)
    labels = np.asarray(labels)
    for name, array in (("confidence", confidence), ("boundary", boundary)):
        if array is not None and array.shape != labels.shape:
            raise UsageError(f"{name}: its shape {array.shape} is not {labels.shape}, the labels'")
    if labels.ndim != 2 or labels.dtype.kind not in "biu":
        raise UsageError("labels: an array of integers is needed, (rows, columns)")
    inside = confidence
    if boundary is not None:
        inside = np.where(boundary, 0, 1 if confidence is None else confidence)
    regions = skimage("measure").label(labels, background=0, connectivity=1)
    from scipy import ndimage  # scikit-image brings it

    out = np.zeros(labels.shape, np.int32)
    last = 0
    for number, where in enumerate(ndimage.find_objects(regions), start=1):
        mask = regions[where] == number
        pieces = split_one(mask, necks, None if inside is None else inside[where])
        out[where][mask] = pieces[mask] + last
        last += int(pieces.max())
    return out


def split_one(
    mask: Bool, necks: Necks, confidence: NDArray[np.floating[Any]] | None = None
) -> Int32:
    """(h, w) numbers of the pieces of one connected object, in the order of their first pixels.

    Where the confidence is 0 there is a boundary.
    """
    from scipy.ndimage import label

    mask = np.pad(mask, 1)
    half = _half_width(mask, None if confidence is None else np.pad(confidence, 1))
    basins, count = label(skimage("morphology").local_maxima(half, connectivity=1) & (half > 0))
    if count < 2:
        return mask[1:-1, 1:-1].astype(np.int32)
    basins = skimage("segmentation").watershed(-half, basins, mask=mask, connectivity=1)
    pieces: Int32 = _join(basins, half, necks)[basins[1:-1, 1:-1]]
    return pieces


def skimage(module: str) -> Any:
    """A module of scikit-image, which is an optional package."""
    try:
        return importlib.import_module(f"skimage.{module}")
    except ImportError as e:
        raise MissingDependencyError("scikit-image", "instances") from e


def _half_width(mask: Bool, confidence: NDArray[np.floating[Any]] | None) -> Float32:
    """(h, w) in pixels, from the middle of each to the outline; 0 outside and on boundaries."""
    from scipy.ndimage import distance_transform_edt

    outlines = [mask]
    if confidence is not None:
        inside = mask & (confidence > 0)
        outlines = [inside]
        if inside.any():
            levels = np.quantile(confidence[inside], SHARES, method="lower")
            outlines += [inside & (confidence >= level) for level in np.minimum(levels, SURE)]
    total: Float32 = np.zeros(mask.shape, np.float32)
    for outline in outlines:
        distance = distance_transform_edt(outline).astype(np.float32)
        total += np.maximum(distance - np.float32(0.5), 0)
    total /= np.float32(len(outlines))
    return total


def _join(basins: Int32, half: Float32, necks: Necks) -> Int32:
    """(basins + 1,) the piece of each basin, by number; 0 for 0."""
    from scipy.ndimage import maximum

    count = int(basins.max())
    one, two, passes = _passes(basins, half)
    peak = np.zeros(count + 1, np.float32)
    peak[1:] = maximum(half, basins, np.arange(1, count + 1))
    parent = np.arange(count + 1)
    for a, b, height in zip(one.tolist(), two.tolist(), passes.tolist(), strict=True):
        a, b = _root(parent, a), _root(parent, b)
        low, high = (a, b) if (peak[a], b) < (peak[b], a) else (b, a)
        neck = 2 * height <= necks.width and 2 * (peak[low] - height) >= necks.step
        if not neck:
            parent[low] = high
    roots = np.array([_root(parent, k) for k in range(count + 1)])
    roots = _absorb(roots, np.bincount(basins.ravel(), minlength=count + 1), one, two, necks.least)
    return _numbered(roots, basins)


def _passes(basins: Int32, half: Float32) -> tuple[NDArray[Any], NDArray[Any], Float32]:
    """Pairs of basins (n,), (n,) that touch, and the height of the pass between them; highest
    first."""
    keys, heights = [], []
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        met = (basins[a] != basins[b]) & (basins[a] > 0) & (basins[b] > 0)
        pair = np.sort(np.stack([basins[a][met], basins[b][met]]), axis=0)
        keys.append(pair)
        heights.append(np.minimum(half[a][met], half[b][met]))
    (one, two), height = np.concatenate(keys, axis=1), np.concatenate(heights)
    order = np.lexsort((-height, two, one))
    one, two, height = one[order], two[order], height[order]
    first = np.ones(len(one), np.bool_)
    first[1:] = (one[1:] != one[:-1]) | (two[1:] != two[:-1])
    one, two, height = one[first], two[first], height[first]
    order = np.argsort(-height, kind="stable")
    return one[order], two[order], height[order]


def _root(parent: NDArray[Any], k: int) -> int:
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = int(parent[k])
    return k


def _absorb(
    roots: NDArray[Any], sizes: NDArray[Any], one: NDArray[Any], two: NDArray[Any], least: float
) -> NDArray[Any]:
    """`roots`, with pieces of fewer than `least` pixels, the smallest first, joined over their
    highest pass (the first one in `one`, `two`)."""
    while True:
        area = np.bincount(roots, sizes, minlength=len(roots))
        a, b = roots[one], roots[two]
        apart = a != b
        small = np.unique(np.concatenate([a[apart], b[apart]]))
        small = small[area[small] < least]
        if not len(small):
            return roots
        k = small[np.argmin(area[small])]
        way = np.flatnonzero(apart & ((a == k) | (b == k)))[0]
        other = b[way] if a[way] == k else a[way]
        roots = np.where(roots == k, other, roots)


def _numbered(roots: NDArray[Any], basins: Int32) -> Int32:
    """Pieces from 1 on, in the order in which their first pixels come."""
    numbers, first = np.unique(roots[basins[basins > 0]], return_index=True)
    out = np.zeros(len(roots), np.int32)
    out[numbers[np.argsort(first)]] = np.arange(1, len(numbers) + 1)
    pieces: Int32 = out[roots]
    return pieces
