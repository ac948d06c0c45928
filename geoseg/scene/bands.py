"""Which bands of a file are meant: by index, by name, by colour interpretation, by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from geoseg.errors import ContractError, SceneError, UsageError
from geoseg.scene.files import shown
from geoseg.spec import Band

# Names that mean the same wherever they occur. Numbers that differ between satellites
# (B05 is red edge on Sentinel-2 and near infrared on Landsat 8) are left out on purpose.
_SYNONYMS = {
    "r": "red",
    "g": "green",
    "b": "blue",
    "b02": "blue",
    "b03": "green",
    "b04": "red",
    "b08": "nir",
    "near infrared": "nir",
    "near-infrared": "nir",
    "nir08": "nir",
    "grey": "gray",
}
_PALETTE = ("red", "green", "blue")
_RGB_NOTE = "its palette is shown as red, green, blue"


@dataclass(frozen=True, slots=True)
class BandChoice:
    """Bands of a file in the order that is wanted.

    indexes: 1-based, as GDAL counts; one may stand several times.
    names:   one per band: what was asked for, else the file's own name, else its number.
    palette: columns (0 red, 1 green, 2 blue) of the colour table, where the one band of the
             file is an index into it; None where the values are taken as they are.
    notes:   what the user should know of the choice, a clause each.
    by_position: True where nothing but their order says which band is which.
    """

    indexes: tuple[int, ...]
    names: tuple[str, ...]
    palette: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    by_position: bool = False


def choose_bands(dataset: Any, wanted: Sequence[int | str | Band] | None = None) -> BandChoice:
    """Find the `wanted` bands in an open rasterio dataset.

    None: all bands but alpha. Numbers and strings come from the user and must be there. A `Band`
    comes from a model: by its name, its common name or the colour interpretation, else, if
    nothing speaks against it, the first bands by position, with a note.
    """
    numbers = range(1, dataset.count + 1)
    colours = tuple(i for i in numbers if _interpretation(dataset, i) != "alpha")
    if not colours:
        raise SceneError(
            f"{shown(dataset.name)}: has no band but alpha; nothing can be read from it"
        )
    if wanted is None:
        return BandChoice(colours, tuple(band_name(dataset, i) for i in colours))
    if not wanted:
        raise ContractError(f"{shown(dataset.name)}: no bands are asked for")
    if any(isinstance(band, str) and not band.strip() for band in wanted):
        listed = ",".join(str(b.name if isinstance(b, Band) else b) for b in wanted)
        raise UsageError(f"bands: {listed!r} has an empty name in it: name or number each band")
    if _has_palette(dataset) and (choice := _from_palette(wanted)):
        return choice
    found = [_find(dataset, colours, band) for band in wanted]
    names = tuple(b.name if isinstance(b, Band) else str(b) for b in wanted)
    if all(found):
        return BandChoice(tuple(i for i in found if i), names)
    for band, index in zip(wanted, found, strict=True):
        if index is None and not isinstance(band, Band):
            raise ContractError(
                f"{shown(dataset.name)}: has no band {band!r}; {_inventory(dataset)}"
            )
    if len(colours) == 1 and {_common(b) for b in wanted} <= {*_PALETTE, "gray"}:
        note = f"its only band stands for {', '.join(names)}"
        return BandChoice(colours * len(wanted), names, notes=(note,))
    return _by_position(dataset, colours, found, names)


def band_name(dataset: Any, index: int) -> str:
    """The description of a band, else its colour, else its number."""
    colour = _interpretation(dataset, index)
    known = colour if colour not in ("undefined", "palette") else str(index)
    return dataset.descriptions[index - 1] or known


def _by_position(
    dataset: Any, colours: tuple[int, ...], found: list[int | None], names: tuple[str, ...]
) -> BandChoice:
    """The first bands, if there are enough and none is known to be another one."""
    indexes = colours[: len(names)]
    if len(indexes) < len(names):
        raise ContractError(
            f"{shown(dataset.name)}: {len(names)} bands are needed ({', '.join(names)}); "
            f"{_inventory(dataset)}"
        )
    if any(known not in (None, index) for known, index in zip(found, indexes, strict=True)):
        missing = ", ".join(n for n, i in zip(names, found, strict=True) if i is None)
        raise ContractError(
            f"{shown(dataset.name)}: cannot tell which band is {missing}; {_inventory(dataset)}: "
            "name the bands in the model's order"
        )
    pairs = ", ".join(f"{i} = {n}" for i, n in zip(indexes, names, strict=True))
    return BandChoice(
        indexes, names, notes=(f"bands taken by position: {pairs}",), by_position=True
    )


def _find(dataset: Any, colours: tuple[int, ...], band: int | str | Band) -> int | None:
    """The 1-based index of a band, or None."""
    if isinstance(band, int) or (isinstance(band, str) and band.isdecimal()):
        return int(band) if 1 <= int(band) <= dataset.count else None
    if isinstance(band, Band):
        wanted = [band.name, *([band.common_name] if band.common_name else [])]
    else:
        wanted = [band]
    names = {i: (dataset.descriptions[i - 1] or "").strip().lower() for i in colours}
    for name in wanted:  # the exact name first: B8A beside B08
        for i in colours:
            if names[i] == name.strip().lower():
                return i
    meant = {plain_name(name) for name in wanted}
    for i in colours:
        if plain_name(names[i]) in meant:
            return i
    for i in colours:  # a band whose name is another colour is not what its interpretation says
        if _interpretation(dataset, i) in meant and plain_name(names[i]) not in _SYNONYMS.values():
            return i
    if "alpha" in meant:
        return next((i for i in range(1, dataset.count + 1) if i not in colours), None)
    return None


def _from_palette(wanted: Sequence[int | str | Band]) -> BandChoice | None:
    """The colours of a palette, where colours are asked for by name, or three bands are."""
    common = [_common(band) for band in wanted]
    names = tuple(b.name if isinstance(b, Band) else str(b) for b in wanted)
    if set(common) <= set(_PALETTE):
        columns = tuple(_PALETTE.index(c) for c in common)
    elif len(wanted) == 3 and (common == ["1", "2", "3"] or isinstance(wanted[0], Band)):
        columns = (0, 1, 2)
    else:
        return None
    return BandChoice((1,) * len(columns), names, columns, (_RGB_NOTE,))


def _common(band: int | str | Band) -> str:
    name = (band.common_name or band.name) if isinstance(band, Band) else str(band)
    return plain_name(name)


def plain_name(name: str) -> str:
    """A name without case and synonyms."""
    name = name.strip().lower()
    return _SYNONYMS.get(name, name)


def _has_palette(dataset: Any) -> bool:
    return dataset.count == 1 and _interpretation(dataset, 1) == "palette"


def _interpretation(dataset: Any, index: int) -> str:
    return str(dataset.colorinterp[index - 1].name).lower()


def _inventory(dataset: Any) -> str:
    names = [band_name(dataset, i) for i in range(1, dataset.count + 1)]
    bands = [str(i) if n == str(i) else f"{i} ({n})" for i, n in enumerate(names, 1)]
    shown = [*bands[:12], *(["…"] if len(bands) > 12 else [])]
    return f"there {'is band' if len(bands) == 1 else 'are bands'} {', '.join(shown)}"
