"""Several rasters of one scene as one: the XML of a GDAL VRT, which Scene.open takes.

Satellites deliver a file for each band, at different resolutions (Sentinel-2: 10, 20 and 60 m).
The stack has the pixels of the finest. Coarser ones are repeated, not interpolated: a mean over
them is exact, nothing mixes with nodata, and nothing moves. Each part lies where its
georeference says, to fractions of a pixel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from affine import Affine
from rasterio.dtypes import dtype_rev, typename_fwd
from rasterio.enums import MaskFlags

from geoseg.errors import ContractError, SceneError, UsageError
from geoseg.scene.bands import band_name
from geoseg.scene.files import NAME, open_dataset, shown, vsi

_BANDS = re.compile(r"(.+)#(\d+(?:,\d+)*)", re.DOTALL)
_NOISE = 1e-3  # pixels: what georeferences of one scene differ by from rounding


def stack(
    parts: Sequence[str | os.PathLike[str]],
    *,
    names: Sequence[str] | None = None,
    name: str | None = None,
) -> str:
    """The XML of a VRT with the bands of all `parts`, on the pixels of the finest.

    parts: paths, URLs or /vsi..., each with all its bands but alpha, or with those that follow a
           '#': `B04.tif`, `image.tif#4,1`. Their headers are read.
    names: of the bands of the result, in order; else the files' own, else the files' names.
    name:  what messages call the whole; else the first part's name.

    Nodata, offset, scale and the first mask that a part has are kept. Raises SceneError where a
    part cannot be opened, or its CRS, or its extent (by more than a pixel), is another one.
    """
    if not parts:
        raise UsageError("stack: no rasters are given: name at least one")
    headers = [_header(os.fspath(part)) for part in parts]
    finest = min(headers, key=lambda h: abs(h.transform.determinant))
    count = sum(len(h.bands) for h in headers)
    if names is not None and len(names) != count:
        given = ", ".join(h.source for h in headers)
        raise ContractError(
            f"{name or headers[0].source}: {given} have {count} bands together, but "
            f"{len(names)} are named ({', '.join(names)}): choose bands with '#', as image.tif#1"
        )
    vrt = Element("VRTDataset", rasterXSize=str(finest.width), rasterYSize=str(finest.height))
    if finest.crs:
        SubElement(vrt, "SRS", dataAxisToSRSAxisMapping="1,2").text = finest.crs
    # A file without georeference has the identity: written out, it would be taken for one.
    if finest.transform != Affine.identity():
        SubElement(vrt, "GeoTransform").text = ",".join(map(repr, finest.transform.to_gdal()))
    _label(SubElement(vrt, "Metadata"), NAME, name or f"stack of {headers[0].source}")
    bands = [(header, band) for header in headers for band in header.bands]
    for number, (header, band) in enumerate(bands, start=1):
        label = names[number - 1] if names is not None else band.name
        _add_band(vrt, number, label, header, band, finest)
    if masked := next((h for h in headers if h.masked), None):
        inside = SubElement(SubElement(vrt, "MaskBand"), "VRTRasterBand", dataType="Byte")
        _add_source(inside, masked, f"mask,{masked.bands[0].index}", masked.bands[0], finest)
    return tostring(vrt, encoding="unicode")


@dataclass(frozen=True, slots=True)
class _Band:
    """A band that is taken: what its file says of it."""

    index: int
    name: str
    dtype: str  # as GDAL calls it
    nodata: float | None
    scale: float
    offset: float
    unit: str | None
    colour: str


@dataclass(frozen=True, slots=True)
class _Header:
    """One part: where its pixels are, and the bands that are taken."""

    source: str  # as messages show it
    path: str  # as GDAL opens it
    crs: str | None  # WKT
    crs_object: Any
    transform: Affine
    width: int
    height: int
    block: tuple[int, int]
    masked: bool
    bands: tuple[_Band, ...]


def _header(part: str) -> _Header:
    match = None if Path(part).is_file() else _BANDS.fullmatch(part)
    path, wanted = (match[1], match[2]) if match else (part, None)
    source = shown(path)
    with open_dataset(path) as f:
        if f.gcps[0] and f.transform.is_identity:
            raise SceneError(
                f"{source}: is placed by control points and cannot be stacked: warp it first"
            )
        colours = [i for i in range(1, f.count + 1) if f.colorinterp[i - 1].name != "alpha"]
        indexes = [int(i) for i in wanted.split(",")] if wanted else colours
        for index in indexes:
            if not 1 <= index <= f.count:
                raise ContractError(f"{source}: has no band {index}: it has {f.count}")
        alone = len(colours) == 1 and f.descriptions[0] is None
        flags = f.mask_flag_enums[(indexes or [1])[0] - 1]
        return _Header(
            source=source,
            path=_whole(path),
            crs=f.crs.to_wkt() if f.crs else None,
            crs_object=f.crs,
            transform=f.transform,
            width=f.width,
            height=f.height,
            block=f.block_shapes[0],
            masked=MaskFlags.per_dataset in flags,  # alpha, too: GDAL counts it as a mask
            bands=tuple(_band(f, i, Path(source).stem if alone else None) for i in indexes),
        )


def _whole(path: str) -> str:
    """A name that means the same from wherever the VRT is opened."""
    return str(Path(path).absolute()) if Path(path).is_file() else vsi(path)


def _band(f: Any, index: int, stem: str | None) -> _Band:
    return _Band(
        index=index,
        name=stem or band_name(f, index),
        dtype=typename_fwd[dtype_rev[f.dtypes[index - 1]]],
        nodata=f.nodatavals[index - 1],
        scale=f.scales[index - 1],
        offset=f.offsets[index - 1],
        unit=f.units[index - 1],
        colour=f.colorinterp[index - 1].name.title(),
    )


def _add_band(
    vrt: Element, number: int, label: str, header: _Header, band: _Band, finest: _Header
) -> None:
    rows, cols = finest.block
    block = {"blockXSize": str(cols), "blockYSize": str(rows)}
    to = SubElement(vrt, "VRTRasterBand", {"dataType": band.dtype, "band": str(number), **block})
    SubElement(to, "Description").text = label
    if band.nodata is not None:
        SubElement(to, "NoDataValue").text = repr(band.nodata)
    if band.colour in ("Red", "Green", "Blue"):
        SubElement(to, "ColorInterp").text = band.colour
    if (band.offset, band.scale) != (0, 1):
        SubElement(to, "Offset").text = repr(band.offset)
        SubElement(to, "Scale").text = repr(band.scale)
    if band.unit:
        SubElement(to, "UnitType").text = band.unit
    _add_source(to, header, str(band.index), band, finest)


def _add_source(to: Element, header: _Header, index: str, band: _Band, finest: _Header) -> None:
    source = SubElement(to, "SimpleSource", resampling="nearest")
    SubElement(source, "SourceFilename", relativeToVRT="0").text = header.path
    SubElement(source, "SourceBand").text = index
    size = {"RasterXSize": str(header.width), "RasterYSize": str(header.height)}
    rows, cols = header.block
    block = {"BlockXSize": str(cols), "BlockYSize": str(rows)}
    SubElement(source, "SourceProperties", {"DataType": band.dtype, **size, **block})
    whole = {"xOff": "0", "yOff": "0", "xSize": str(header.width), "ySize": str(header.height)}
    SubElement(source, "SrcRect", whole)
    SubElement(source, "DstRect", dict(_place(header, finest)))


def _place(header: _Header, finest: _Header) -> Iterator[tuple[str, str]]:
    """Where a part lies, in pixels of the finest: attributes of DstRect."""
    if not _same_crs(header.crs_object, finest.crs_object):
        raise SceneError(
            f"{header.source}: its CRS ({_name(header.crs_object)}) is not that of "
            f"{finest.source} ({_name(finest.crs_object)}): reproject it first"
        )
    try:
        step = ~finest.transform @ header.transform
    except ArithmeticError as e:
        raise SceneError(
            f"{finest.source}: its pixels have no size: correct its geotransform"
        ) from e
    turned = max(abs(step.b) * header.height, abs(step.d) * header.width) > _NOISE
    sizes = (step.a * header.width, step.e * header.height)
    edges = (step.c, step.f, step.c + sizes[0] - finest.width, step.f + sizes[1] - finest.height)
    pixel = max(step.a, step.e, 1) + _NOISE
    if turned or min(step.a, step.e) <= 0 or max(map(abs, edges)) > pixel:
        raise SceneError(
            f"{header.source}: does not cover the same ground as {finest.source}, to a pixel: are "
            "these bands of one scene?"
        )
    for key, value in zip(
        ("xOff", "yOff", "xSize", "ySize"), (step.c, step.f, *sizes), strict=True
    ):
        near = round(value)
        yield key, str(near) if abs(value - near) < _NOISE else repr(value)


def _same_crs(one: Any, other: Any) -> bool:
    return bool(one == other) or bool(
        one and other and (code := one.to_epsg()) and code == other.to_epsg()
    )


def _name(crs: Any) -> str:
    return "none" if not crs else f"EPSG:{code}" if (code := crs.to_epsg()) else "of its own"


def _label(metadata: Element, key: str, value: str) -> None:
    SubElement(metadata, "MDI", key=key).text = value
