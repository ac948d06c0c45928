"""Opening rasters: paths and URLs, GDAL's settings, and one clear sentence for each failure."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from pyproj import CRS
from pyproj.aoi import AreaOfInterest
from pyproj.database import query_utm_crs_info
from pyproj.exceptions import CRSError
from rasterio._err import CPLE_BaseError  # has no public name; some calls let it through
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import from_gcps
from rasterio.vrt import WarpedVRT

from geoseg.errors import SceneError

_REMOTE = tuple(f"{scheme}://" for scheme in ("http", "https", "ftp", "s3", "gs", "az", "oss"))
_REMOTE += tuple(f"/vsi{handler}" for handler in ("curl", "s3", "gs", "az", "oss"))
_MB = 1 << 20
_AFFINE_ENOUGH = 0.5  # pixels: control points that an affine transform fits so well need no warp


def shown(source: str) -> str:
    """The source as messages may show it: without the query, where signed URLs keep secrets."""
    return source.split("?")[0] if is_remote(source) else source


def is_remote(source: str) -> bool:
    return source.startswith(_REMOTE)


def settings(source: str, block_row: int = 0, *, warped: bool = False) -> dict[str, Any]:
    """GDAL's configuration for one source; what the user has set in the environment stays.

    `block_row`: bytes of one row of blocks over all bands. The cache holds three of them, so
    that bands of rows which end inside a block do not decode it twice.
    """
    options: dict[str, Any] = {
        "GDAL_CACHEMAX": min(max(3 * block_row, (256 if warped else 64) * _MB), 512 * _MB)
    }
    if is_remote(source):
        options |= {
            # Never list a remote folder; a local one is looked at, for .msk, .ovr, .aux.xml.
            "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
            "GDAL_HTTP_MAX_RETRY": "4",
            "GDAL_HTTP_RETRY_DELAY": "0.5",
            "GDAL_HTTP_CONNECTTIMEOUT": "20",
            "GDAL_INGESTED_BYTES_AT_OPEN": str(32 << 10),
            "VSI_CACHE": "TRUE",
            "VSI_CACHE_SIZE": str(32 * _MB),
        }
    return {key: value for key, value in options.items() if key not in os.environ}


@contextmanager
def quiet() -> Iterator[None]:
    """Missing georeference is said once, by geoseg, not as a Python warning of rasterio."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def open_dataset(source: str) -> Any:
    """An open rasterio dataset with at least one readable band, or SceneError."""
    name = shown(source)
    if not source:
        raise SceneError("the name of the raster is empty: give a file or a URL")
    try:
        with quiet(), rasterio.Env(**settings(source)):
            dataset = rasterio.open(source)
            if _worth_threads(dataset):
                dataset.close()
                dataset = rasterio.open(source, num_threads="all_cpus")
    except (RasterioError, CPLE_BaseError, OSError) as e:
        raise SceneError(_why(source, e)) from e
    if dataset.count == 0:
        inside = [s.rsplit(":", 1)[-1] for s in dataset.subdatasets]
        first = dataset.subdatasets[0] if inside else ""
        dataset.close()
        if inside:
            listed = ", ".join(inside[:8]) + (", …" if len(inside) > 8 else "")
            raise SceneError(f"{name}: holds several rasters ({listed}): name one, such as {first}")
        raise SceneError(f"{name}: holds no raster band: give an image, not a container")
    if any(str(d).startswith("complex") for d in dataset.dtypes):
        kind = next(d for d in dataset.dtypes if str(d).startswith("complex"))
        dataset.close()
        raise SceneError(f"{name}: has {kind} numbers: convert to amplitude or intensity first")
    return dataset


def _worth_threads(dataset: Any) -> bool:
    """Compressed tiles decode in parallel; for strips GDAL's threads cost more than they give."""
    return (
        dataset.count > 0
        and dataset.driver == "GTiff"
        and dataset.compression is not None
        and dataset.block_shapes[0][1] < dataset.width
    )


def _why(source: str, error: Exception) -> str:
    """What is wrong with a source that GDAL cannot open, and what to do."""
    name, reason = shown(source), str(error).replace(source, shown(source))
    if is_remote(source):
        return (
            f"{name}: cannot be reached ({reason.rstrip('.')}): check the address and access rights"
        )
    if ":" in source and not Path(source).exists():
        return f"{name}: cannot be opened ({reason.rstrip('.')}): check the name"
    path = Path(source)
    if source.startswith("/vsi"):
        return f"{name}: cannot be opened: check that it exists and is a raster"
    if not path.exists():
        return f"{name}: no such file: check the path"
    if path.is_dir():
        return f"{name}: is a folder: give one raster file in it"
    if not os.access(path, os.R_OK):
        return f"{name}: may not be read: check the file's permissions"
    if path.stat().st_size == 0:
        return f"{name}: is empty (0 bytes): was a download or copy interrupted?"
    if "not recognized" in reason:
        return f"{name}: is not a raster that GDAL knows: give a GeoTIFF, VRT, JPEG 2000 ..."
    return f"{name}: cannot be opened ({reason.rstrip('.')}): the file is damaged; get it anew"


@contextmanager
def reading(source: str, row: int, stop: int) -> Iterator[None]:
    """Turns a failed read of native rows row..stop into a sentence with file and rows."""
    try:
        yield
    except (RasterioError, CPLE_BaseError) as e:
        parts = str(e.__cause__ or e).strip(" .").split(": ")
        missing = parts[-1].startswith("No such file")  # of a VRT; then the part before names it
        detail = ": ".join(parts[-2:] if missing else parts[-1:])
        advice = (
            "check the connection" if is_remote(source) else "truncated or damaged; get it anew"
        )
        raise SceneError(
            f"{shown(source)}: rows {row} to {stop - 1} cannot be read ({detail}): {advice}"
        ) from e


def pyproj_crs(crs: Any, source: str) -> CRS | None:
    """rasterio's CRS as pyproj's; None for none."""
    if not crs:
        return None
    try:
        return CRS.from_wkt(crs.to_wkt(version="WKT2_2019"))
    except (CRSError, RasterioError, CPLE_BaseError) as e:
        raise SceneError(
            f"{shown(source)}: its CRS is not understood: assign one with gdal_edit -a_srs"
        ) from e


@contextmanager
def georeferenced(
    dataset: Any, source: str, nodata: float | None
) -> Iterator[tuple[Any, Any, Any, str | None]]:
    """(dataset, crs, transform, warning) with control points or RPCs turned into a grid.

    Control points that an affine transform fits to half a pixel become that transform: no pixel
    is touched. Others, and RPCs (at height 0 of their offset), are warped to a metric CRS.
    """
    points, points_crs = dataset.gcps
    if not dataset.transform.is_identity or not (points or dataset.rpcs):
        yield dataset, dataset.crs, dataset.transform, None
        return
    if points and points_crs:
        transform, off = _fit(points, source)
        if off <= _AFFINE_ENOUGH or dataset.crs:
            # A file with a CRS of its own beside control points keeps GDAL from warping by them.
            fit = f"georeferenced by {len(points)} control points (fit within {off:.2g} pixels)"
            yield dataset, points_crs, transform, fit
            return
        centre = _mean([(p.x, p.y) for p in points])
        target = points_crs if points_crs.is_projected else _utm(*centre)
        how = f"warped by {len(points)} control points to {_short(target)}"
    elif dataset.rpcs:
        target = _utm(dataset.rpcs.long_off, dataset.rpcs.lat_off)
        points_crs, how = "EPSG:4326", f"warped by its RPCs to {_short(target)}, heights ignored"
    else:
        yield dataset, dataset.crs, dataset.transform, "its control points have no CRS: not used"
        return
    override = {} if nodata is None else {"src_nodata": nodata}
    has_alpha = any(c.name == "alpha" for c in dataset.colorinterp)
    try:
        warped = WarpedVRT(
            dataset, src_crs=points_crs, crs=target, add_alpha=not has_alpha,
            resampling=Resampling.bilinear, **override,
        )  # fmt: skip
    except (RasterioError, CPLE_BaseError) as e:
        raise SceneError(
            f"{shown(source)}: its control points or RPCs make no sense: georeference it anew"
        ) from e
    with warped:
        yield warped, warped.crs, warped.transform, how


def _fit(points: list[Any], source: str) -> tuple[Any, float]:
    """The affine transform that fits the control points best; how far off, in pixels."""
    if not (
        _span_area([(p.col, p.row) for p in points]) and _span_area([(p.x, p.y) for p in points])
    ):
        raise SceneError(
            f"{shown(source)}: its {len(points)} control points span no area: georeference it anew"
        )
    transform = from_gcps(points)
    inverse = ~transform
    return transform, max(_distance(inverse @ (p.x, p.y), (p.col, p.row)) for p in points)


def _span_area(points: list[tuple[float, float]]) -> bool:
    """Whether the points do not all lie on one line."""
    centred = np.array(points) - np.mean(points, axis=0)
    widths = np.linalg.svd(centred, compute_uv=False)
    return len(points) > 2 and bool(widths[1] > 1e-6 * widths[0])


def _utm(lon: float, lat: float) -> Any:
    """The UTM zone of a place; polar stereographic beyond it."""
    area = AreaOfInterest(lon, lat, lon, lat)
    zones = query_utm_crs_info(datum_name="WGS 84", area_of_interest=area)
    code = zones[0].code if zones else (5041 if lat > 0 else 5042)
    return rasterio.crs.CRS.from_epsg(int(code))


def _short(crs: Any) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else "its CRS"


def _mean(points: list[tuple[float, float]]) -> tuple[float, float]:
    xs, ys = zip(*points, strict=True)
    return sum(xs) / len(xs), sum(ys) / len(ys)


def _distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    return float(((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5)
