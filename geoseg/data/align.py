"""Labels that lie beside what they show: one shift for all labels of a place, estimated.

Outlines of labels are held against the edges of the image at all shifts up to `REACH` pixels.
A gradient counts by how much it points across the outline, so that edges of other things beside
it count little. Finer pixels than `PIXEL` are joined to such, so that what is found is a matter of
metres: offsets of imagery are, and it is the edge of a roof that counts, not that of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import MissingDependencyError
from geoseg.metrics import IGNORE

try:
    from scipy import fft
    from scipy.ndimage import gaussian_filter, minimum_filter
except ImportError as e:  # a light engine
    raise MissingDependencyError("scipy") from e

PIXEL = 0.3  # metres
REACH = 16  # pixels: the largest shift that is looked for, along each axis
MOST = 10.0  # times that anything is said to fit better: more is said of nothing
_LEAST = 2.0  # pixels: a smaller shift is no worse than labels are anyway
_CLEAR = 5.0  # standard errors by which the shifted outlines must fit better
_GAIN = 1.25  # times by which they must


@dataclass(frozen=True, slots=True)
class Shift:
    """Labels fit best when moved by so many pixels (down, to the right); `factor` of them are
    one that was looked at.

    gain: edges of the image along the outlines there, over those without moving; each above
    what outlines meet anywhere. errors: that gain in standard errors over the pieces.
    """

    rows: int
    cols: int
    gain: float
    errors: float
    factor: int = 1

    @property
    def clear(self) -> bool:
        far = float(np.hypot(self.rows, self.cols)) >= _LEAST * self.factor
        at_edge = max(abs(self.rows), abs(self.cols)) == REACH * self.factor
        return far and not at_edge and self.gain >= _GAIN and self.errors >= _CLEAR


class Alignment:
    """Collects pieces of image and label, of pixels of `gsd` metres; `shift` then is the best for
    all of them. factor: pixels along one that is looked at."""

    def __init__(self, gsd: float = PIXEL) -> None:
        self.factor = max(1, round(PIXEL / gsd))
        self._surfaces: list[NDArray[np.float64]] = []

    def add(
        self, image: NDArray[np.generic], valid: NDArray[np.bool_], label: NDArray[np.uint8]
    ) -> None:
        """image (C, h, w), valid (h, w), label (h, w); a piece without outlines adds nothing."""
        if min(label.shape) < 4 * REACH * self.factor:
            return
        image, valid, label = _joined(image, valid, label, self.factor)
        edges = _edges(image, valid)
        inner = np.zeros(label.shape, bool)
        inner[REACH:-REACH, REACH:-REACH] = True
        outlines = [t * inner for t in _outlines(label)]
        total = outlines[0].sum() + outlines[2].sum()
        if total < 4 * REACH or not edges[0].any():
            return
        surface = sum(
            weight * _correlation(a, b)
            for weight, a, b in zip((1, 2, 1), outlines, edges, strict=True)
        )
        self._surfaces.append(np.asarray(surface) / total)

    def shift(self) -> Shift | None:
        """None with fewer than four pieces: nothing could be told from chance."""
        if len(self._surfaces) < 4:
            return None
        surfaces = np.array(self._surfaces)
        level = np.median(surfaces, axis=(1, 2))  # what outlines meet anywhere
        mean = surfaces.mean(axis=0)
        row, col = np.unravel_index(int(mean.argmax()), mean.shape)
        # next to no shift counts as none: outlines are never exact
        middle = slice(REACH - 1, REACH + 2)
        here = surfaces[:, middle, middle].max(axis=(1, 2))
        gained = surfaces[:, row, col] - here
        error = gained.std(ddof=1) / np.sqrt(len(gained))
        base = max(float((here - level).mean()), 1e-9)
        gain = float((surfaces[:, row, col] - level).mean()) / base
        errors = float(gained.mean() / max(float(error), 1e-12))
        down, right = ((int(at) - REACH) * self.factor for at in (row, col))
        return Shift(down, right, min(gain, MOST), errors, self.factor)


def _joined(
    image: NDArray[np.generic], valid: NDArray[np.bool_], label: NDArray[np.uint8], factor: int
) -> tuple[NDArray[np.generic], NDArray[np.bool_], NDArray[np.uint8]]:
    """The same with `factor` pixels joined to one, along each axis; the last ones may be left."""
    if factor == 1:
        return image, valid, label
    height, width = (n // factor for n in label.shape)
    shape = (height, factor, width, factor)
    image = image[:, : height * factor, : width * factor].reshape(-1, *shape)
    known = valid[: height * factor, : width * factor].reshape(shape).all(axis=(1, 3))
    middle = slice(factor // 2, None, factor)
    label = label[middle, middle][:height, :width]
    return image.mean(axis=(2, 4), dtype=np.float32), np.asarray(known, np.bool_), label


Tensor = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]  # yy, yx, xx


def _edges(image: NDArray[np.generic], valid: NDArray[np.bool_]) -> Tensor:
    """Of the mean over the bands: gradients g as g gᵀ / |g|, over their mean; 0 near nodata."""
    gray = gaussian_filter(image.astype(np.float32).mean(axis=0), 1.0)
    down, right = np.gradient(gray)
    size = np.hypot(down, right)
    usable = minimum_filter(valid, 7) & (size > 0)
    if not usable.any():
        empty = np.zeros(valid.shape, np.float32)
        return empty, empty, empty
    # a few very sharp edges (a shadow, a car) must not outweigh all others
    limit = 3 * float(size[usable].mean())
    weight = np.where(usable, np.minimum(size, limit), 0) / np.maximum(size, 1e-9) ** 2
    weight /= float(np.minimum(size[usable], limit).mean())
    return down * down * weight, down * right * weight, right * right * weight


def _outlines(label: NDArray[np.uint8]) -> Tensor:
    """The same of the labels, added up over the classes; 0 where anything near is unknown."""
    known = minimum_filter(label != IGNORE, 5)
    tensor = [np.zeros(label.shape, np.float32) for _ in range(3)]
    for value in np.unique(label[known]):
        down, right = np.gradient(gaussian_filter((label == value).astype(np.float32), 1.0))
        weight = known / np.maximum(np.hypot(down, right), 1e-3)
        for total, product in zip(tensor, (down * down, down * right, right * right), strict=True):
            total += product * weight
    return tensor[0], tensor[1], tensor[2]


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """(2 REACH + 1,)²: sums of a(p) b(p + s) for each shift s; `a` is 0 near its border."""
    product = fft.irfft2(np.conj(fft.rfft2(a)) * fft.rfft2(b), s=a.shape)
    reach: Sequence[int] = range(-REACH, REACH + 1)
    cut: NDArray[np.float64] = product[np.ix_(reach, reach)]
    return cut
