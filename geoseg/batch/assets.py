"""Which assets of a STAC item are the bands of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from geoseg.errors import ContractError
from geoseg.scene.bands import plain_name
from geoseg.spec import Band

if TYPE_CHECKING:
    import pystac

_NO_DATA = {"thumbnail", "overview", "metadata", "cloud", "cloud-shadow", "snow-ice", "saturation"}
_RASTER_TYPES = ("image/", "application/x-netcdf", "application/x-hdf", "application/vnd.stac.geo")
_RASTER_NAMES = (".tif", ".tiff", ".jp2", ".vrt", ".img", ".nc", ".zarr")


@dataclass(frozen=True, slots=True)
class AssetBand:
    """One band of an asset. number: from 1; None where the item does not tell its bands.

    names: what it may be asked by, the surest first: key of the asset (of one band), name,
    common name. rank: the lower, the more likely it is what a model wants.
    """

    asset: str
    href: str
    number: int | None
    names: tuple[str, ...]
    rank: int


def listed_assets(item: pystac.Item, base: str) -> list[AssetBand]:
    """The bands of an item's rasters; relative hrefs are relative to `base`."""
    from pystac.utils import make_absolute_href

    found = []
    for key, asset in item.assets.items():
        rank = _rank(asset)
        if rank is None:
            continue
        href = _local(make_absolute_href(asset.href, base, start_is_dir=False))
        bands = list(_names(asset))
        if len(bands) < 2:
            names = (key, *(bands[0] if bands else ()))
            found.append(AssetBand(key, href, 1 if bands else None, names, rank))
        else:
            found += [AssetBand(key, href, i, n, rank) for i, n in enumerate(bands, start=1)]
    return found


def choose_assets(
    there: Sequence[AssetBand], bands: Sequence[Band], wanted: Sequence[str] = ()
) -> tuple[str, ...]:
    """Parts of a stack (see geoseg.scene.stack), in the order of the model's `bands`.

    wanted: what the user names, one for each band; or one asset that has all. An asset whose
    bands the item does not tell is one part, without a number. Raises ContractError.
    """
    if len(wanted) == 1 and len(bands) != 1:
        return _within(there, bands, wanted[0])
    asked: list[tuple[str, ...]] = [(name,) for name in wanted] or [_asked(b) for b in bands]
    chosen = [_find(there, names) for names in asked]
    if all(chosen):
        return tuple(_part(band) for band in chosen if band)
    rasters = [band for band in there if band.rank == 0]
    if not wanted and not any(chosen) and len({b.asset for b in rasters}) == 1:
        return _within(there, bands, rasters[0].asset)  # the item's only image
    lacking = [names[0] for names, band in zip(asked, chosen, strict=True) if band is None]
    raise ContractError(f"has no asset for {', '.join(lacking)}; {_inventory(there)}")


def _within(there: Sequence[AssetBand], bands: Sequence[Band], asset: str) -> tuple[str, ...]:
    """The bands of one asset; by position where the item does not tell which is which."""
    own = [band for band in there if band.asset == asset]
    if not own:
        raise ContractError(f"has no asset {asset!r}; {_inventory(there)}")
    chosen = [_find(own, _asked(band)) for band in bands]
    if all(chosen) and all(band and band.number for band in chosen):
        return tuple(_part(band) for band in chosen if band)
    if len(own) > 1:
        lacking = [b.name for b, found in zip(bands, chosen, strict=True) if found is None]
        raise ContractError(f"the asset {asset!r} has no {', '.join(lacking)}; {_inventory(own)}")
    return (own[0].href,)


def _asked(band: Band) -> tuple[str, ...]:
    return (band.name, *([band.common_name] if band.common_name else []))


def _find(there: Sequence[AssetBand], names: Sequence[str]) -> AssetBand | None:
    """The likeliest band by one of the names: exactly, else without case and synonyms."""
    for same in (str, str.lower, plain_name):
        for name in names:
            fits = [b for b in there if same(name) in map(same, b.names)]
            if fits:
                return min(fits, key=lambda band: band.rank)
    return None


def _part(band: AssetBand) -> str:
    return band.href if band.number is None else f"{band.href}#{band.number}"


def _inventory(there: Iterable[AssetBand]) -> str:
    """What there is to choose from, as keys with the names of their bands."""
    by_key: dict[str, list[str]] = {}
    for band in there:
        others = [name for name in band.names if name != band.asset]
        by_key.setdefault(band.asset, []).extend(others[-1:])
    shown = [f"{k} ({', '.join(v)})" if v else k for k, v in by_key.items()]
    listed = ", ".join([*shown[:20], *(["…"] if len(shown) > 20 else [])]) or "no raster"
    return f"it has {listed}: choose with --assets"


def _rank(asset: pystac.Asset) -> int | None:
    """0 for data, 1 for pictures of it, 2 for what readers are slow with; None for no raster."""
    roles, kind = set(asset.roles or ()), (asset.media_type or "").lower()
    path = urlsplit(asset.href).path.lower()
    if roles & _NO_DATA and "data" not in roles:
        return None
    raster = kind.startswith(_RASTER_TYPES) if kind else path.endswith(_RASTER_NAMES)
    picture = kind.startswith(("image/png", "image/jpeg")) and "data" not in roles
    if not raster or picture:
        return None
    if "jp2" in kind:
        return 2
    return 1 if "visual" in roles else 0


def _names(asset: pystac.Asset) -> Iterator[tuple[str, ...]]:
    """The names of each band of an asset: STAC 1.1 has `bands`, before it was `eo:bands`."""
    fields: Mapping[str, Any] = asset.extra_fields
    for band in fields.get("bands") or fields.get("eo:bands") or ():
        told = (band.get("name"), band.get("eo:common_name"), band.get("common_name"))
        yield tuple(str(name) for name in told if name)


def _local(href: str) -> str:
    """A path for a file:// URL; other names stay as they are."""
    parts = urlsplit(href)
    return url2pathname(parts.path) if parts.scheme == "file" else href
