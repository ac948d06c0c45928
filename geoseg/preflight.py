"""Before predicting: hold a scene against the model's contract and say what differs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geoseg.errors import ContractError, SceneError
from geoseg.grid import Grid
from geoseg.scene import Scene
from geoseg.scene.bands import band_name
from geoseg.scene.sample import Sample, is_empty, sample
from geoseg.spec import ModelSpec, Scaling

if TYPE_CHECKING:
    from geoseg.aoi import Aoi

Level = Literal["info", "warning", "error"]
Topic = Literal["gsd", "bands", "values", "crs", "nodata", "aoi"]
Stretch = Literal["auto", "none"] | tuple[float, float]

SAME_GSD = (0.8, 1.25)  # scene's GSD over the model's: not worth a word
COARSE, FINE = 2.0, 5.0  # times off from which a warning is due
REFUSED = 20.0  # times off, either way, that no resampling mends
_EMPTY_SHARE = 0.05  # of exact zeros that look like undeclared nodata


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the user should know before predicting."""

    level: Level
    topic: Topic
    message: str


@dataclass(frozen=True, slots=True)
class Preflight:
    """How a scene will be read for a model, and what was found on the way.

    bands:    1-based indexes in the file, in the model's order, and their names.
    gsd:      (x, y) metres per native pixel, None where not known.
    factor:   (x, y) native pixels per pixel of the model's grid; > 1: resampled to coarser.
    scaling:  from the scene's values to what the network sees.
    valid_share: part of a small sample that has data, 0..1.
    """

    source: str
    bands: tuple[int, ...]
    band_names: tuple[str, ...]
    dtype: str
    native: Grid
    grid: Grid
    gsd: tuple[float, float] | None
    factor: tuple[float, float]
    scaling: Scaling
    valid_share: float
    findings: tuple[Finding, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(f.message for f in self.findings if f.level != "info")


def open_for(
    source: str | os.PathLike[str],
    spec: ModelSpec,
    *,
    bands: Sequence[int | str] | None = None,
    nodata: float | None = None,
    scene_gsd: float | None = None,
) -> Scene:
    """The scene at the model's GSD, with the bands that the model wants or the user names.

    bands: the user's own choice, in the model's order; nodata, scene_gsd: see `Scene.open`.
    """
    if bands is not None and len(bands) != len(spec.bands):
        raise ContractError(
            f"{len(bands)} bands are given, {spec.name} takes {len(spec.bands)} "
            f"({', '.join(b.name for b in spec.bands)}): name one for each"
        )
    return Scene.open(
        source, bands=bands or spec.bands, gsd=spec.gsd, nodata=nodata, scene_gsd=scene_gsd
    )


def preflight(
    scene: Scene, spec: ModelSpec, *, stretch: Stretch = "auto", aoi: Aoi | None = None
) -> Preflight:
    """Check a scene that was opened for `spec`.

    stretch: auto finds the scaling from a sample of the values; none takes the model's; (low,
    high) maps these values to the model's range. aoi: the area that is asked for; it is said if
    none of it has data. Raises ContractError where the scene cannot be made to fit, SceneError
    where it has no data.
    """
    if len(scene.bands) != len(spec.bands):
        raise ContractError(
            f"{scene.source}: {len(scene.bands)} bands are open, {spec.name} takes "
            f"{len(spec.bands)}: open it with bands=spec.bands"
        )
    findings = [*_gsd(scene, spec), *_crs(scene), *_bands(scene, spec)]
    looked = sample(scene.raster)
    findings += _nodata(scene, looked)
    if aoi is not None and not aoi.has_data(scene.read):
        how = f"no pixel of it has data (by {scene.raster.validity})"
        findings.append(Finding("warning", "aoi", f"{aoi.source}: {how}: nothing will be found"))
    if stretch == "auto":
        scaling, values = _values(scene, spec, looked)
    elif stretch == "none":
        scaling, values = spec.scaling, []
    else:
        scaling, values = spec.scaling.after(*stretch, target=spec.value_range), []
    step = ~scene.native.transform @ scene.grid.transform
    return Preflight(
        source=scene.source,
        bands=scene.bands,
        band_names=scene.band_names,
        dtype=str(scene.dtype),
        native=scene.native,
        grid=scene.grid,
        gsd=scene.gsd,
        factor=(step.a, step.e),
        scaling=scaling,
        valid_share=looked.valid_share,
        findings=(*findings, *values),
    )


def _gsd(scene: Scene, spec: ModelSpec) -> Iterator[Finding]:
    if scene.gsd is None:
        return  # said with the CRS
    here, there = _metres(scene.gsd), spec.gsd
    ratio = mean_gsd(scene.gsd) / there
    if max(ratio, 1 / ratio) >= REFUSED:
        raise ContractError(
            f"{scene.source}: its pixels of {here} are {_times(ratio)} than the {there:g} m of "
            f"{spec.name}, which would find nothing: take another model, or, if the "
            "scene's georeference is wrong, give its true pixel size with --gsd"
        )
    if scene.resampled:
        silent = SAME_GSD[0] <= ratio <= SAME_GSD[1]
        if ratio > COARSE:
            yield Finding(
                "warning",
                "gsd",
                f"pixels of {here} are {_times(ratio)} than the model's {there:g} m: resampling "
                "brings no detail back, expect missed objects",
            )
        elif 1 / ratio > FINE:
            yield Finding(
                "warning",
                "gsd",
                f"pixels of {here} are {_times(ratio)} than the model's {there:g} m: resampled; "
                "is the georeference right?",
            )
        else:
            near = " (nearly the same)" if silent else ""
            yield Finding("info", "gsd", f"resampled from {here} to {there:g} m{near}")


def _crs(scene: Scene) -> Iterator[Finding]:
    for note in scene.warnings:
        if note not in scene.choice.notes:
            yield Finding("warning", "crs", note)


def _bands(scene: Scene, spec: ModelSpec) -> Iterator[Finding]:
    for note in scene.choice.notes:
        yield Finding("warning" if scene.choice.by_position else "info", "bands", note)
    if scene.choice.palette is not None or len(set(scene.bands)) < len(scene.bands):
        return
    known = {"red", "green", "blue", "nir"}
    for index, band in zip(scene.bands, spec.bands, strict=True):
        says = scene.raster.dataset.colorinterp[index - 1].name.lower()
        meant = (band.common_name or band.name).lower()
        if says != meant and {says, meant} <= known:
            yield Finding(
                "warning",
                "bands",
                f"band {index} is used as {meant}, but the file says that it is {says}",
            )


def _nodata(scene: Scene, looked: Sample) -> Iterator[Finding]:
    if not looked.values.size:
        empty = is_empty(scene.raster)
        if empty:
            raise SceneError(
                f"{scene.source}: has no pixel with data (by {scene.raster.validity}): "
                "nothing to predict"
            )
        yield Finding("warning", "nodata", "hardly any pixel has data: none in a sample")
        return
    if looked.valid_share < 1:
        empty_share = 1 - looked.valid_share
        yield Finding("info", "nodata", f"about {_percent(empty_share)} of the scene has no data")
    if scene.raster.validity == "all" and looked.zero_share >= _EMPTY_SHARE:
        yield Finding(
            "warning",
            "nodata",
            f"about {_percent(looked.zero_share)} of the pixels are 0 in every band and no nodata "
            "value is declared: if they are empty, give --nodata 0",
        )


def _values(scene: Scene, spec: ModelSpec, looked: Sample) -> tuple[Scaling, list[Finding]]:
    """The scaling to use, and why: as it is, from a known range, or stretched by a sample."""
    if not looked.values.size:
        return spec.scaling, []
    if looked.constant:
        same = "all pixels of a sample have the same value: is this an image?"
        return spec.scaling, [Finding("warning", "values", same)]
    low, high = spec.value_range
    bottom, p2, p98, top = looked.percentiles(0.1, 2, 98, 99.9)
    span = f"{scene.dtype} values {bottom:.4g} to {top:.4g}"
    slack = 0.01 * (high - low)
    fits = low - slack <= bottom and top <= high + slack
    unit = scene.dtype.kind == "f" and bottom >= -0.1 and top <= 1.5
    if str(scene.dtype) == spec.dtype or (fits and not (unit and high - low > 10)):
        if fits:
            return spec.scaling, []
        beyond = f"{span} go beyond the {low:g} to {high:g} of {spec.name}"
        return spec.scaling, [Finding("warning", "values", f"{beyond}: taken as they are")]
    if unit or scene.dtype == np.uint8:
        natural = (0.0, 1.0) if unit else (0.0, 255.0)
        message = f"values rescaled from {natural[0]:g}..{natural[1]:g} to {low:g}..{high:g}"
        scaling = spec.scaling.after(*natural, target=spec.value_range)
        return scaling, [Finding("info", "values", message)]
    if p98 <= p2:  # nearly constant: the widest range there is
        p2, p98 = float(looked.values.min()), float(looked.values.max())
    message = (
        f"{span} differ from the model's {low:g} to {high:g}: stretched from {p2:.4g}..{p98:.4g} "
        "(2 to 98 % of a sample, all bands together)"
    )
    scaling = spec.scaling.after(p2, p98, target=spec.value_range)
    return scaling, [Finding("warning", "values", message)]


def mean_gsd(gsd: tuple[float, float]) -> float:
    return float((gsd[0] * gsd[1]) ** 0.5)


def _metres(gsd: tuple[float, float]) -> str:
    x, y = f"{gsd[0]:.3g}", f"{gsd[1]:.3g}"
    return f"{mean_gsd(gsd):.3g} m" if abs(gsd[0] / gsd[1] - 1) < 0.02 else f"{x} x {y} m"


def _times(ratio: float) -> str:
    times = max(ratio, 1 / ratio)
    shown = f"{times:.3g}" if times < 1000 else f"{times:,.0f}"
    return f"{shown} times {'coarser' if ratio > 1 else 'finer'}"


def _percent(share: float) -> str:
    return "less than 1 %" if share < 0.01 else f"{100 * share:.0f} %"


@dataclass(frozen=True, slots=True)
class BandInfo:
    """minimum, maximum: of a sample of the valid pixels, None where there are none."""

    index: int
    name: str
    dtype: str
    interpretation: str
    minimum: float | None
    maximum: float | None


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """What `geoseg info` shows. bounds: left, bottom, right, top; lonlat in WGS 84 degrees."""

    source: str
    driver: str
    width: int
    height: int
    bands: tuple[BandInfo, ...]
    crs: str | None
    crs_name: str | None
    transform: tuple[float, ...]
    gsd: tuple[float, float] | None
    bounds: tuple[float, float, float, float]
    lonlat: tuple[float, float, float, float] | None
    validity: str
    nodata: float | None
    valid_share: float
    block: tuple[int, int]
    compression: str | None
    overviews: tuple[int, ...]
    file_size: int | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe(source: str | os.PathLike[str], *, nodata: float | None = None) -> SceneInfo:
    """All that is worth knowing of a raster, from its header and a small sample."""
    with Scene.open(source, nodata=nodata) as scene:
        dataset, looked = scene.raster.dataset, sample(scene.raster)
        bounds = _bounds(scene.native)
        path, crs = Path(scene.source), scene.native.crs
        compression, value = dataset.compression, scene.nodata[0]
        return SceneInfo(
            source=scene.source,
            driver=dataset.driver,
            width=scene.native.width,
            height=scene.native.height,
            bands=tuple(_band_infos(scene, looked)),
            crs=None if crs is None else _code(crs),
            crs_name=crs.name if crs else None,
            transform=tuple(scene.native.transform)[:6],
            gsd=scene.gsd,
            bounds=bounds,
            lonlat=_lonlat(bounds, crs) if scene.gsd else None,
            validity=scene.raster.validity,
            nodata=None if value is None else float(value),
            valid_share=looked.valid_share,
            block=tuple(dataset.block_shapes[0]),
            compression=compression.value if compression else None,
            overviews=tuple(dataset.overviews(1)),
            file_size=path.stat().st_size if path.is_file() else None,
            notes=scene.warnings,
        )


def _band_infos(scene: Scene, looked: Sample) -> Iterator[BandInfo]:
    dataset = scene.raster.dataset
    for position, index in enumerate(scene.bands):
        values = looked.values[position]
        yield BandInfo(
            index=index,
            name=band_name(dataset, index),
            dtype=str(dataset.dtypes[index - 1]),
            interpretation=dataset.colorinterp[index - 1].name,
            minimum=float(values.min()) if values.size else None,
            maximum=float(values.max()) if values.size else None,
        )


def _code(crs: CRS) -> str:
    authority = crs.to_authority(min_confidence=90)
    return ":".join(authority) if authority else crs.to_wkt()


def _bounds(grid: Grid) -> tuple[float, float, float, float]:
    corners = [(0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height)]
    xs, ys = zip(*(grid.transform @ corner for corner in corners), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _lonlat(
    bounds: tuple[float, float, float, float], crs: CRS | None
) -> tuple[float, float, float, float] | None:
    """Bounds in degrees; None on another planet or where they reach beyond the projection."""
    try:
        box = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform_bounds(*bounds)
    except ProjError:
        return None
    return box if np.isfinite(box).all() else None
