"""Opening rasters: paths and URLs, GDAL's settings, and one clear sentence for each failure."""

from __future__ import annotations

import html
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rasterio
from pyproj import CRS
from pyproj.aoi import AreaOfInterest
from pyproj.database import query_utm_crs_info
from pyproj.exceptions import CRSError
from rasterio._err import CPLE_BaseError  # has no public name; some calls let it through
from rasterio.enums import Resampling
from rasterio.env import get_gdal_config, getenv, hasenv, setenv
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.session import DummySession
from rasterio.transform import from_gcps
from rasterio.vrt import WarpedVRT

from geoseg.errors import SceneError

T = TypeVar("T")

_STORES = {"s3": "vsis3", "gs": "vsigs", "az": "vsiaz", "oss": "vsioss"}
_WEB = ("http", "https", "ftp")
_REMOTE = tuple(f"{scheme}://" for scheme in (*_WEB, *_STORES))
_REMOTE += tuple(f"/{handler}" for handler in ("vsicurl", *_STORES.values()))
_MB = 1 << 20
_AFFINE_ENOUGH = 0.5  # pixels: control points that an affine transform fits so well need no warp
NAME = "geoseg:name"  # metadata of a VRT that is given as XML: what messages call it

# Servers and networks fail for moments. GDAL asks again after 429 and 5xx and broken connections,
# and waits about twice as long each time: 0.5, 1, 2, 4 seconds. A connection that brings nothing
# for half a minute is a broken one.
_RETRIES = {
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
}


_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds: GDAL does not repeat reads of several ranges by itself
_FAILURES = (RasterioError, CPLE_BaseError, OSError)


def shown(source: str) -> str:
    """The source as messages may show it: without the query, where signed URLs keep secrets."""
    if is_inline(source):
        named = re.search(f'<MDI key="{NAME}">(.*?)</MDI>', source)
        return html.unescape(named[1]) if named else "a VRT"
    return source.split("?")[0] if is_remote(source) else source


def is_inline(source: str) -> bool:
    """Whether this is no name, but the XML of a VRT itself."""
    return source.lstrip().startswith("<VRTDataset")


def is_remote(source: str) -> bool:
    """Whether any of it lies on another machine; of a VRT: of the files that it names."""
    if is_inline(source):
        return any(f">{start}" in source for start in _REMOTE)
    return source.startswith(_REMOTE) or (source.endswith(".vrt") and is_remote(_text(source)))


def _text(vrt: str) -> str:
    try:
        return Path(vrt).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def vsi(source: str) -> str:
    """The name of a URL in GDAL's virtual file systems; other names stay as they are."""
    scheme, separator, rest = source.partition("://")
    if not separator or scheme not in (*_WEB, *_STORES):
        return source
    return f"/{_STORES[scheme]}/{rest}" if scheme in _STORES else f"/vsicurl/{source}"


def settings(source: str, block_row: int = 0, *, warped: bool = False) -> dict[str, Any]:
    """GDAL's configuration for one source; what the user has set stays.

    Set: in the environment, GDAL's configuration file, or a rasterio.Env around the call.
    `block_row`: bytes of one row of blocks over all bands. The cache holds three of them, so
    that bands of rows which end inside a block do not decode it twice.
    """
    options: dict[str, Any] = {
        "GDAL_CACHEMAX": min(max(3 * block_row, (256 if warped else 64) * _MB), 512 * _MB),
        **_RETRIES,  # for local sources, too: a VRT may name remote ones
    }
    if is_remote(source):
        options |= {
            # Never list a remote folder; a local one is looked at, for .msk, .ovr, .aux.xml.
            "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
            "GDAL_INGESTED_BYTES_AT_OPEN": str(32 << 10),
            "VSI_CACHE": "TRUE",
            "VSI_CACHE_SIZE": str(32 * _MB),
        }
    theirs = getenv() if hasenv() else {}
    return theirs | {k: v for k, v in options.items() if k not in theirs and not _is_set(k)}


def _is_set(key: str) -> bool:
    # rasterio answers for the cache with its size, whether anybody has set it or not
    return key in os.environ or (key != "GDAL_CACHEMAX" and get_gdal_config(key) is not None)


@contextmanager
def configured(options: Mapping[str, Any]) -> Iterator[None]:
    """GDAL's configuration in this thread; rasterio.Env itself refuses credentials in it."""
    with rasterio.Env(DummySession()):  # GDAL finds credentials by itself, without boto3
        setenv(**options)
        yield


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
    path = source if source.startswith(_WEB) else vsi(source)
    try:
        with quiet(), configured(settings(source)):
            dataset = _opened(path)
            if _worth_threads(dataset):
                dataset.close()
                dataset = rasterio.open(path, num_threads="all_cpus")
    except _FAILURES as e:
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


def _opened(path: str) -> Any:
    try:
        return rasterio.open(path)
    except _FAILURES:
        if not path.startswith(_REMOTE):
            raise
    # GDAL keeps in mind which URL failed and does not ask for it again, until it opens it so:
    # then another attempt, now or after minutes, begins anew.
    afresh = {"CPL_VSIL_CURL_NON_CACHED": vsi(path), "GDAL_HTTP_MAX_RETRY": "0"}
    with rasterio.Env(DummySession(), **afresh):
        return rasterio.open(path)


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
    if is_inline(source):
        return f"{name}: is a VRT that cannot be opened ({reason.replace(source, name)})"
    if is_remote(source) and "response code: 404" in reason:
        return f"{name}: does not exist (HTTP 404): check the address"
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


def patiently(read: Callable[[], T], *, remote: bool) -> T:
    """What `read` gives; where it fails and the source is remote, it is tried again."""
    for wait in _WAITS if remote else ():
        try:
            return read()
        except (RasterioError, CPLE_BaseError):
            time.sleep(wait)
    return read()


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
