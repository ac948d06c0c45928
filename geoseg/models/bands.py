"""First convolutions for other bands than they were trained with."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from geoseg.errors import ModelError

_COLOURS = 3


def _table(pairs: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in pairs.split())


# STAC's common names of the bands, for satellites by the beginning of torchgeo's weight names.
_LANDSAT_4_TO_7 = _table(
    "blue=B1 green=B2 red=B3 nir=B4 nir08=B4 swir16=B5 lwir=B6 swir22=B7 pan=B8"
)
_SATELLITES = {
    "SENTINEL2": _table(
        "coastal=B1 blue=B2 green=B3 red=B4 rededge071=B5 rededge075=B6 rededge078=B7 nir=B8 "
        "nir08=B8A nir09=B9 cirrus=B10 swir16=B11 swir22=B12"
    ),
    "LANDSAT_TM": _LANDSAT_4_TO_7,
    "LANDSAT_ETM": _LANDSAT_4_TO_7,
    "LANDSAT": _table(  # 8 and 9
        "coastal=B1 blue=B2 green=B3 red=B4 nir=B5 nir08=B5 swir16=B6 swir22=B7 pan=B8 cirrus=B9 "
        "lwir11=B10 lwir12=B11"
    ),
    "": _table("red=R green=G blue=B nir=N"),
}


def adapt_bands(kernel: Tensor, bands: int) -> Tensor:
    """A first convolution (out, 3, h, w) for `bands` bands (out, bands, h, w).

    The bands take the colours' kernels in turn, scaled so that the sums stay alike; one band
    takes the sum of all, as a grey picture would.
    """
    colours = kernel.shape[1]
    if bands == colours:
        return kernel
    if bands == 1:
        return kernel.sum(1, keepdim=True)
    repeated = kernel.repeat(1, -(-bands // colours), 1, 1)[:, :bands]
    return repeated * (colours / bands)


def choose_bands(
    kernel: Tensor, bands: int, *, ours: Sequence[str], theirs: Sequence[str], weights: str
) -> Tensor:
    """A first convolution (out, any, h, w) for the network's `bands` bands (out, bands, h, w).

    theirs: names of the bands that `weights` were trained with, if known. ours: names or common
    names of the network's, if known. Where all of ours are among theirs, their kernels are taken,
    scaled so that the sums stay alike; else those of three colours serve for any bands, and as
    many bands without names are taken to be the same. All else is a ModelError.
    """
    wanted = [_key(name, weights) for name in ours]
    known = [_key(name, weights) for name in theirs]
    if known and wanted == known:
        return kernel
    if wanted and set(wanted) <= set(known):
        return kernel[:, [known.index(name) for name in wanted]] * (len(known) / len(wanted))
    if kernel.shape[1] == _COLOURS:
        return adapt_bands(kernel, bands)
    if kernel.shape[1] == bands and not (ours and theirs):
        return kernel
    trained = ", ".join(theirs) or f"{kernel.shape[1]} bands that it does not name"
    given = ", ".join(ours) or f"{bands} bands without names"
    raise ModelError(
        f"{weights} was trained with {trained}; the network has {given}: give its bands those "
        f"names, or their common names (red, nir ...)"
    )


def _key(name: str, weights: str) -> str:
    """One spelling for all: SR_B4, B04 and 'red' of Landsat 8 are B4."""
    satellite = next(s for s in _SATELLITES if weights.rpartition(".")[2].startswith(s))
    plain = _SATELLITES[satellite].get(name.lower(), name.upper().removeprefix("SR_"))
    return re.sub(r"^B0(?=\d)", "B", plain)
