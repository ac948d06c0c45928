"""Class masks and probabilities as Cloud Optimized GeoTIFF, from rows as they are finished.

GDAL's COG driver only copies, so rows go into tiled sparse GeoTIFFs first (zstd at its fastest:
cheaper than the disk), and one copy at the end makes the COG. The overviews of a mask are built
on the way, in numpy: the commonest class of 2 x 2 pixels, at a sixth of the cost of GDAL's `mode`.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # GDAL's own errors, not all wrapped by rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.jit import jit
from geoseg.sinks.atomic import Commit, replacing, write_failure

SUFFIXES = (".tif", ".tiff")
BLOCK = 512  # pixels, edge of the blocks of the COG
BUFFERED_ROWS = 256  # height of the blocks of the temporary files; even
METADATA_KEY = "geoseg"
NO_CLASS = 255
LEVEL = 3  # of deflate: half the time of 6 (the default), a mask is a third larger
STALE = (
    "{name}.aux.xml",
    "{stem}.aux.xml",
    "{name}.ovr",
    "{name}.msk",
)  # sidecars of an older file

# Probabilities are stored in steps of 0.00002, finer than any calibration: half of the space of
# float32, and GDAL and QGIS show 0..1 by the scale in the file. (uint8 would be a third of this
# again, but its steps of 0.004 move pixels across a decision level.)
PROBABILITY_SCALE = 2e-5
PROBABILITY_NODATA = 65535


def check_raster_suffix(path: Path) -> None:
    """Refuse a name that does not end as a GeoTIFF's."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: raster outputs end in {' or '.join(SUFFIXES)}")


def encode_labels(labels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(1, h, W) class ids for a mask; 255 where the model had no data."""
    return np.where(valid, labels, np.uint8(NO_CLASS)).astype(np.uint8, copy=False)[None]


def encode_probabilities(
    scores: NDArray[np.floating[Any]], valid: NDArray[np.bool_]
) -> NDArray[np.uint16]:
    """(K, h, W) probabilities 0..1 as multiples of `PROBABILITY_SCALE`; 65535 without data."""
    scaled = scores * np.float32(1 / PROBABILITY_SCALE)
    np.rint(scaled, out=scaled)
    np.clip(scaled, 0, 1 / PROBABILITY_SCALE, out=scaled)
    encoded = scaled.astype(np.uint16)
    encoded[:, ~valid] = PROBABILITY_NODATA
    return encoded


class RasterSink:
    """A raster being written row by row; see `RasterSink.open`."""

    def __init__(self, path: Path, temp: Path, levels: list[_Level]) -> None:
        self._path, self._temp, self._levels = path, temp, levels

    @classmethod
    @contextmanager
    def open(
        cls,
        path: str | Path,
        grid: Grid,
        *,
        bands: int = 1,
        dtype: str = "uint8",
        nodata: float = NO_CLASS,
        colors: Mapping[int, str] | None = None,
        names: Mapping[int, str] | None = None,
        descriptions: Sequence[str] = (),
        scale: float | None = None,
        overviews: Literal["mode", "average"] = "mode",
        target: Grid | None = None,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = False,
        commit: Commit | None = None,
    ) -> Iterator[RasterSink]:
        """Write a COG on `grid`, or resampled on `target`, a parallel grid of other pixels.

        colors: class id -> #rrggbb, a colour table. names: class id -> name, as metadata of the
        band. descriptions: one per band. scale: what a stored 1 is worth. overviews `mode` is
        for classes (resampled by nearest neighbour), `average` for quantities (bilinear). Rows
        that are never written are `nodata`. The file appears when the block is left normally, or
        with the others of `commit`.
        """
        path = Path(path)
        check_raster_suffix(path)
        target = None if target == grid else target
        profile = {"count": bands, "dtype": dtype, "nodata": nodata}
        pyramid = overviews == "mode" and target is None
        if grid.transform.is_identity:  # pixel coordinates: so it is meant
            warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
        with (
            replacing(path, overwrite=overwrite, stale=STALE, commit=commit) as temp,
            ExitStack() as stack,
        ):
            parts = temp.parent / "parts"
            with _one_sentence(path, temp):
                parts.mkdir()
                levels = _open_levels(parts, grid, profile, pyramid, stack)
                _describe(levels[0].file, colors, names, descriptions, scale, metadata)
            yield cls(path, temp, levels)
            with _one_sentence(path, temp), rasterio.Env():
                for level in levels:
                    level.flush()
                stack.close()
                for level in levels:
                    _check_blocks(Path(level.file.name), level.expected)
                vrt = _virtual(parts, levels, grid, target, overviews)
                _to_cog(vrt, temp, dtype, overviews)
                _check_blocks(temp, None)
                shutil.rmtree(parts, ignore_errors=True)  # space for the others of `commit`

    def write(self, row: int, data: NDArray[Any]) -> None:
        """Add rows from `row` on: `data` is (bands, h, width). Top to bottom, gaps allowed."""
        with _one_sentence(self._path, self._temp):
            self._levels[0].write(row, data)


@contextmanager
def _one_sentence(path: Path, temp: Path) -> Iterator[None]:
    """Only around what writes: errors of reading the scene are others' to tell."""
    try:
        yield
    except (RasterioError, CPLE_BaseError, OSError) as e:
        raise write_failure(path, e, temp=temp) from e


class _Level:
    """One resolution: a temporary tiled GeoTIFF, and the rows that do not fill a block yet."""

    def __init__(self, file: Any, coarser: _Level | None) -> None:
        self.file, self.coarser = file, coarser
        shape = (file.count, BUFFERED_ROWS, file.width)
        self._rows = np.full(shape, file.nodata, file.dtypes[0])
        self._top = 0  # row of the file at which the buffer starts
        self._next = 0  # first row that is not written yet
        self._used = False  # whether the buffer holds anything but nodata
        self.expected: set[tuple[int, int, int]] = set()  # (band, row, col) of blocks with data

    def write(self, row: int, data: NDArray[Any]) -> None:
        expected = (self.file.count, self.file.width)
        if (data.shape[0], data.shape[2]) != expected:
            raise ValueError(f"rows of {data.shape}, expected (bands, h, width) with {expected}")
        if row < self._next or row + data.shape[1] > self.file.height:
            raise ValueError(
                f"rows {row} to {row + data.shape[1]} after row {self._next} of {self.file.height}"
            )
        done = 0
        while done < data.shape[1]:
            while row + done >= self._top + BUFFERED_ROWS:
                self.flush()
            start = row + done - self._top
            part = data[:, done : done + BUFFERED_ROWS - start]
            self._rows[:, start : start + part.shape[1]] = part
            self._used = True
            done += part.shape[1]
        self._next = row + done
        if self._next == self._top + BUFFERED_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the buffer, and hand it reduced to the coarser level."""
        height = min(BUFFERED_ROWS, self.file.height - self._top)
        if self._used and height > 0:
            rows = self._rows[:, :height]
            window = rasterio.windows.Window(0, self._top, self.file.width, height)
            self.file.write(rows, window=window)
            nodata = self.file.nodata
            some = (~np.isnan(rows) if np.isnan(nodata) else rows != nodata).any(axis=1)
            blocks = np.logical_or.reduceat(some, np.arange(0, self.file.width, BLOCK), axis=1)
            row = self._top // BUFFERED_ROWS
            self.expected |= {(int(b) + 1, row, int(c)) for b, c in np.argwhere(blocks)}
            if self.coarser is not None:
                self.coarser.write(self._top // 2, commonest_of_four(rows))
            self._rows[:] = self.file.nodata
        self._top += BUFFERED_ROWS
        self._used = False


def commonest_of_four(data: NDArray[Any]) -> NDArray[Any]:
    """(B, h, w) -> (B, ceil(h/2), ceil(w/2)): the commonest of 2 x 2 values, ties to the first."""
    bands, height, width = data.shape
    result = np.empty((bands, -(-height // 2), -(-width // 2)), data.dtype)
    for band, out in zip(data, result, strict=True):
        _commonest(band, out)
    return result


@jit
def _commonest(data, out):  # type: ignore[no-untyped-def]
    height, width = data.shape
    for i in range(out.shape[0]):
        lower = min(2 * i + 1, height - 1)  # an edge that is left over counts twice
        for j in range(out.shape[1]):
            right = min(2 * j + 1, width - 1)
            a, b = data[2 * i, 2 * j], data[2 * i, right]
            c, d = data[lower, 2 * j], data[lower, right]
            if a in (b, c, d):
                out[i, j] = a
            elif b in (c, d):
                out[i, j] = b
            else:
                out[i, j] = c if c == d else a


def _open_levels(
    folder: Path, grid: Grid, profile: Mapping[str, Any], pyramid: bool, stack: ExitStack
) -> list[_Level]:
    """Full resolution first; each coarser one of half the size, until one block holds it."""
    sizes = [(grid.height, grid.width)]
    while pyramid and max(sizes[-1]) > BLOCK:
        sizes.append(tuple(-(-n // 2) for n in sizes[-1]))  # type: ignore[arg-type]
    files = []
    for number, (height, width) in enumerate(sizes):
        file = rasterio.open(
            folder / f"level{number}.tif",
            "w",
            driver="GTiff",
            height=height,
            width=width,
            crs=None if grid.crs is None else grid.crs.to_wkt(),
            transform=grid.transform,
            tiled=True,
            blockxsize=BLOCK,
            blockysize=BUFFERED_ROWS,
            compress="zstd",
            zstd_level=1,
            sparse_ok=True,
            bigtiff="IF_SAFER",
            **profile,
        )
        stack.callback(file.close)  # entered as a context, a dataset brings a GDAL environment
        files.append(file)
    levels: list[_Level] = []
    for file in reversed(files):
        levels.insert(0, _Level(file, levels[0] if levels else None))
    return levels


def _describe(
    file: Any,
    colors: Mapping[int, str] | None,
    names: Mapping[int, str] | None,
    descriptions: Sequence[str],
    scale: float | None,
    metadata: Mapping[str, str] | None,
) -> None:
    if colors:
        table = dict.fromkeys(range(256), (255, 255, 255, 255))
        for number, color in colors.items():
            table[number] = (*bytes.fromhex(color[1:]), 255)
        table[int(file.nodata)] = (0, 0, 0, 0)
        file.write_colormap(1, table)
    for number, name in (names or {}).items():
        file.update_tags(1, **{f"CLASS_{number}": name})
    for band, text in enumerate(descriptions, start=1):
        file.set_band_description(band, text)
    if scale is not None:
        file.scales = (scale,) * file.count
        file.offsets = (0.0,) * file.count
    if metadata:
        file.update_tags(**{METADATA_KEY: json.dumps(dict(metadata))})


def _virtual(
    folder: Path, levels: list[_Level], grid: Grid, target: Grid | None, overviews: str
) -> Path:
    """A VRT of the full resolution with the overviews, or resampled on the target grid."""
    path = folder / "whole.vrt"
    rasterio.shutil.copy(folder / "level0.tif", path, driver="VRT")
    tree = ET.parse(path)
    for number, band in enumerate(tree.getroot().iter("VRTRasterBand"), start=1):
        for level in range(1, len(levels)):
            overview = ET.SubElement(band, "Overview")
            name = ET.SubElement(overview, "SourceFilename", relativeToVRT="1")
            name.text = f"level{level}.tif"
            ET.SubElement(overview, "SourceBand").text = str(number)
    if target is not None:
        resampling = "nearest" if overviews == "mode" else "bilinear"
        _resample(tree.getroot(), grid, target, resampling)
    tree.write(path)
    return path


def _resample(vrt: ET.Element, grid: Grid, target: Grid, resampling: str) -> None:
    """Let every source of the VRT be read through a rectangle of other size."""
    here, there = (
        np.array(t, dtype=np.float64).reshape(3, 3) for t in (grid.transform, target.transform)
    )
    shift = np.linalg.inv(here) @ there  # target pixels -> grid pixels
    scale = shift[0, 0]
    if max(abs(shift[0, 1]), abs(shift[1, 0])) > 1e-6 * scale or scale <= 0 or shift[1, 1] <= 0:
        raise ValueError("the target grid of a raster output must be parallel to its own")
    vrt.set("rasterXSize", str(target.width))
    vrt.set("rasterYSize", str(target.height))
    georeference = vrt.find("GeoTransform")
    if georeference is not None:
        georeference.text = ", ".join(repr(v) for v in target.transform.to_gdal())
    # The part of the grid under the target, in pixels of either (both may be fractions).
    corners = shift @ [[0, target.width], [0, target.height], [1, 1]]
    inside = np.clip(corners, 0, [[grid.width], [grid.height], [1]])
    below = np.linalg.inv(shift) @ inside
    for tag in ("SimpleSource", "ComplexSource"):
        for source in vrt.iter(tag):
            source.set("resampling", resampling)
            _set_rect(source.find("SrcRect"), inside)
            _set_rect(source.find("DstRect"), below)


def _set_rect(rect: ET.Element | None, corners: NDArray[np.float64]) -> None:
    """`corners`: two columns of (x, y, 1)."""
    if rect is None:
        raise OSError("this GDAL writes a VRT that geoseg does not understand")
    (x0, x1), (y0, y1), _ = corners.tolist()
    values = {"xOff": x0, "yOff": y0, "xSize": x1 - x0, "ySize": y1 - y0}
    for key, value in values.items():
        rect.set(key, repr(value))


def _to_cog(source: Path, path: Path, dtype: str, overviews: str) -> None:
    integer = np.issubdtype(np.dtype(dtype), np.integer)
    # A predictor helps smooth values, and spoils the long runs of a mask.
    predictor = "NO" if overviews == "mode" else "STANDARD" if integer else "FLOATING_POINT"
    rasterio.shutil.copy(
        source,
        path,
        driver="COG",
        blocksize=BLOCK,
        compress="DEFLATE",
        level=LEVEL,
        predictor=predictor,
        overviews="AUTO",
        overview_resampling=overviews,
        bigtiff="IF_SAFER",
        num_threads=min(4, os.cpu_count() or 1),
    )


def _check_blocks(path: Path, expected: set[tuple[int, int, int]] | None) -> None:
    """Raise OSError unless blocks lie in the file, all or the `expected` (band, row, col).

    GDAL writes its last blocks on closing, and a disk that is full then is not told by rasterio.
    """
    size = path.stat().st_size
    with rasterio.open(path) as file:
        levels = len(file.overviews(1)) + 1 if expected is None else 1
        for level in range(levels):
            blocks = _all_blocks(path, level) if expected is None else expected
            where = {} if level == 0 else {"ovr": level - 1}
            for band, row, col in blocks:
                offset, length = (
                    file.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=band, **where)
                    for what in ("OFFSET", "SIZE")
                )
                if not offset or not length or int(offset) + int(length) > size:
                    raise OSError("blocks are missing in the file")


def _all_blocks(path: Path, level: int) -> Iterator[tuple[int, int, int]]:
    # How GDAL rounds the size of an overview depends on the version and on thin images: ask it.
    where = {} if level == 0 else {"overview_level": level - 1}
    with rasterio.open(path, **where) as file:
        rows, cols = (-(-n // BLOCK) for n in file.shape)
        return product(range(1, file.count + 1), range(rows), range(cols))
