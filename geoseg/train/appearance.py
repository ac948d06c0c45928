"""The look of one image given to another: histograms or colour statistics, numpy only.

Images are (C, h, w) float32 in any units; only pixels that are valid move. The two images may
differ in size, and where one of them has no valid pixel at all, nothing changes.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]  # (C, h, w)
Mask = NDArray[np.bool_]  # (h, w)


Way = Literal["histogram", "statistics"]


def match(
    image: Image,
    reference: Image,
    *,
    valid: Mask | None = None,
    reference_valid: Mask | None = None,
    by: Way = "histogram",
    amount: float = 1.0,
) -> Image:
    """`image` with the colours of `reference`.

    by 'histogram': that of each band becomes the reference's. Exact on values, without bins: the
    same as skimage.exposure.match_histograms, which knows no masks and so would match nodata, too.
    by 'statistics': the mean and the full covariance of the bands become the reference's; of all
    linear maps that do so, the one that moves the colours least (Monge-Kantorovich; Pitié &
    Kokaram 2007, "The linear Monge-Kantorovitch linear colour mapping"). It keeps the shape of the
    histograms, and is ten times cheaper. Bands without any contrast only take the mean.
    amount: 0 leaves the image, 1 matches it wholly.
    """
    _check(image, reference)
    known, given = _pixels(image, valid), _pixels(reference, reference_valid)
    if not known.size or not given.size:
        return image
    if by == "histogram":
        moved = np.stack([_matched(a, b) for a, b in zip(known, given, strict=True)])
    else:
        moved = _transported(known.astype(np.float64), given.astype(np.float64))
    return _blended(image, valid, known, moved, amount)


def _transported(known: NDArray[np.float64], given: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C, n) pixels with the mean and covariance of others (C, m)."""
    mean, wanted = known.mean(1, keepdims=True), given.mean(1, keepdims=True)
    transport = _monge_kantorovich(_covariance(known), _covariance(given))
    moved: NDArray[np.float64] = transport @ (known - mean) + wanted
    return moved


def _matched(values: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """Each value replaced by the reference's at the same quantile; two flat arrays."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    wanted, wanted_counts = np.unique(reference, return_counts=True)
    quantiles = np.cumsum(counts) / values.size
    moved = np.interp(quantiles, np.cumsum(wanted_counts) / reference.size, wanted)
    result: NDArray[np.float64] = moved[place]
    return result


def _monge_kantorovich(
    source: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The symmetric matrix T with T @ source @ T = target, for covariances (C, C)."""
    root, inverse = _roots(source)
    middle, _ = _roots(root @ target @ root)
    result: NDArray[np.float64] = inverse @ middle @ inverse
    return result


def _roots(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The square root of a covariance, and the (pseudo-)inverse of the root."""
    values, vectors = np.linalg.eigh(matrix)
    root = np.sqrt(values.clip(0))
    some = root > 1e-5 * root.max(initial=1e-12)  # no contrast in that direction: nothing to scale
    inverse = np.divide(1, root, out=np.zeros_like(root), where=some)
    return (vectors * root) @ vectors.T, (vectors * inverse) @ vectors.T


def _covariance(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.atleast_2d(np.cov(pixels, bias=True))


def _pixels(image: Image, valid: Mask | None) -> NDArray[np.float32]:
    """(C, n) values of the valid pixels."""
    return image.reshape(len(image), -1) if valid is None else image[:, valid]


def _blended(
    image: Image,
    valid: Mask | None,
    known: NDArray[np.floating[Any]],
    moved: NDArray[np.float64],
    amount: float,
) -> Image:
    mixed = (known + (moved - known) * amount).astype(np.float32)
    if valid is None:
        return mixed.reshape(image.shape)
    out = image.copy()
    out[:, valid] = mixed
    return out


def _check(image: Image, reference: Image) -> None:
    if len(image) != len(reference):
        raise ValueError(f"an image of {len(image)} bands, a reference of {len(reference)}")
