"""The split by place: squares of ground, or whole places, to training, validation and test.

Never random chips: neighbours that overlap, or lie in one block, would be on both sides.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geoseg.data.config import PlaceConfig, SplitConfig
from geoseg.data.labels import layers_of, read_vector
from geoseg.errors import DataError
from geoseg.grid import Grid, Window
from geoseg.metrics import IGNORE

UNUSED, TRAIN, VALIDATE, TEST = 0, 1, 2, 3  # values of Blocked.parts; the later, the more guarded
NAMES = {TRAIN: "train", VALIDATE: "validate", TEST: "test"}
_CODES = {name: part for part, name in NAMES.items()} | {"unused": UNUSED}
_PIXELS = "pixels"  # layer of a split for rasters without a CRS
_COMMON = 0.01  # of a block: neighbours that share less, by rounding, do not overlap


class Blocked(Protocol):
    """A raster whose blocks are dealt out, with its pixels (Sheet) or without them (Plot).

    block: pixels along a block. parts: (rows, columns of blocks) uint8: UNUSED, TRAIN ...
    labelled: (rows, columns) int64, labelled pixels of each block.
    """

    @property
    def place(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def grid(self) -> Grid: ...
    @property
    def block(self) -> int: ...
    @property
    def parts(self) -> NDArray[np.uint8]: ...
    @property
    def labelled(self) -> NDArray[np.int64]: ...


def blocks_of(label: NDArray[np.uint8], block: int) -> NDArray[np.int64]:
    """(rows, columns of blocks) int64: how many pixels of each block are labelled."""
    height, width = label.shape
    edges = np.arange(0, width, block)
    counts = [
        np.add.reduceat((label[row : row + block] != IGNORE).sum(0, dtype=np.int64), edges)
        for row in range(0, height, block)
    ]
    return np.array(counts, np.int64)


def windows(sheet: Blocked, *parts: int) -> Iterator[Window]:
    """The blocks of a sheet that belong to any of `parts`; those at the far edges are smaller."""
    for row, col in np.argwhere(np.isin(sheet.parts, parts)):
        yield _window(sheet, int(row), int(col))


def _window(sheet: Blocked, row: int, col: int) -> Window:
    block = sheet.block
    return Window(row * block, col * block, block, block).intersection(sheet.grid.window)


def belongs(sheet: Blocked, window: Window, part: int) -> NDArray[np.bool_]:
    """(h, w) bool of a window inside the sheet: whether the pixel's block is of `part`."""
    first, last = (window.row // sheet.block, (window.row_stop - 1) // sheet.block)
    left, right = (window.col // sheet.block, (window.col_stop - 1) // sheet.block)
    own = sheet.parts[first : last + 1, left : right + 1] == part
    shape = (window.height, window.width)
    if own.all() or not own.any():
        return np.broadcast_to(own.any(), shape)
    rows = np.arange(window.row, window.row_stop) // sheet.block - first
    cols = np.arange(window.col, window.col_stop) // sheet.block - left
    inside: NDArray[np.bool_] = own[rows][:, cols]
    return inside


def check_labelled(sheets: Sequence[Blocked], place: PlaceConfig) -> None:
    """Raise a DataError if a place has labels, but none of them lies on data."""
    if place.labels and not any(sheet.parts.any() for sheet in sheets):
        raise DataError(
            f"place {place.name}: no pixel with data lies in the labelled area: "
            "see 'geoseg data check'"
        )


def deal(
    sheets: Sequence[Blocked], place: PlaceConfig, split: SplitConfig, *, root: Path, seed: int
) -> None:
    """Assign the blocks of the sheets of one place, which all are in TRAIN so far.

    Blocks at the far edges that are less than half a square, and blocks less than half labelled,
    stay in training.
    """
    if place.use != "train":
        for sheet in sheets:
            sheet.parts[sheet.parts == TRAIN] = _CODES.get(place.use, UNUSED)
    elif split.file:
        _assign(sheets, root / split.file, place.name)
    else:
        _draw(sheets, split, seed)


def _draw(sheets: Sequence[Blocked], split: SplitConfig, seed: int) -> None:
    worthy = []
    for sheet in sheets:
        labelled = sheet.labelled
        for row, col in np.argwhere(sheet.parts == TRAIN):
            window = _window(sheet, int(row), int(col))
            large = 2 * window.pixels > sheet.block**2
            if large and 2 * labelled[row, col] > window.pixels:
                worthy.append((sheet, row, col))
    order = np.random.default_rng([seed, len(worthy)]).permutation(len(worthy))
    start = 0
    for part, share in ((VALIDATE, split.share), (TEST, split.test)):
        count = min(split.most, round(share * len(worthy)))
        if share > 0 and len(worthy) - start > 1:
            count = max(1, count)  # a place with two blocks can spare one
        for i in order[start : start + count]:
            sheet, row, col = worthy[i]
            sheet.parts[row, col] = part
        start += count


def _assign(sheets: Sequence[Blocked], path: Path, place: str) -> None:
    """Blocks take the part of the polygon of the split that their centre lies in."""
    located, pixels = _read_split(path)
    for sheet in sheets:
        own = located if sheet.grid.crs else pixels
        own = own[own["place"] == place]
        if "file" in own.columns and (own["file"] == sheet.file).any():
            own = own[own["file"] == sheet.file]
        areas = own.to_crs(sheet.grid.crs) if sheet.grid.crs else own
        tree = shapely.STRtree(areas.geometry.to_numpy())
        for window in list(windows(sheet, TRAIN)):
            hits = tree.query(outline(window, sheet.grid).centroid, predicate="intersects")
            if not len(hits):
                raise DataError(
                    f"{path}: says nothing of a block of {sheet.file} (place {place}): give it a "
                    "polygon with the part 'unused', or split anew"
                )
            part = _CODES[str(areas["part"].iloc[int(hits[0])])]
            sheet.parts[window.row // sheet.block, window.col // sheet.block] = part


def _read_split(path: Path) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame]:
    """The polygons of a split with a CRS, and those in pixels of rasters that have none."""
    empty = gpd.GeoDataFrame({"place": [], "part": []}, geometry=[], crs=4326)
    found = {_PIXELS: empty, "": empty}
    for layer in layers_of(path) or (None,):
        frame = read_vector(path, layer)
        if not {"place", "part"} <= set(frame.columns):
            raise DataError(f"{path}: a split needs the columns place and part")
        if unknown := sorted(set(map(str, frame["part"])) - set(_CODES)):
            raise DataError(f"{path}: part {unknown[0]!r} is none of: {', '.join(_CODES)}")
        if frame.crs is None and layer != _PIXELS:
            raise DataError(f"{path}: has no CRS: assign the one it was drawn in")
        found[_PIXELS if layer == _PIXELS else ""] = frame
    return found[""], found[_PIXELS]


def separate(sheets: Sequence[Blocked]) -> None:
    """Ground that one raster holds back trains in no other: rasters and places may overlap.

    Such blocks become UNUSED; what is held back for test does not validate either.
    """
    located = [sheet for sheet in sheets if sheet.grid.crs and sheet.parts.any()]
    if len(located) < 2 or not any((sheet.parts > TRAIN).any() for sheet in located):
        return
    frames = [_frame(sheet, *NAMES).assign(sheet=i) for i, sheet in enumerate(located)]
    blocks = pd.concat(frames, ignore_index=True)
    shapes, part = blocks.geometry.to_numpy(), blocks["code"].to_numpy()
    guarded = np.flatnonzero(part > TRAIN)
    i, j = shapely.STRtree(shapes[guarded]).query(shapes, predicate="intersects")
    j = guarded[j]
    clash = (part[i] < part[j]) & (blocks["sheet"].to_numpy()[i] != blocks["sheet"].to_numpy()[j])
    i, j = i[clash], j[clash]
    least = np.minimum(shapely.area(shapes[i]), shapely.area(shapes[j]))
    common = shapely.area(shapely.intersection(shapes[i], shapes[j])) > _COMMON * least
    for k in np.unique(i[common]):
        sheet, row, col = (int(blocks[name].iloc[k]) for name in ("sheet", "row", "col"))
        located[sheet].parts[row, col] = UNUSED


def need(sheets: Sequence[Blocked], *parts: int) -> None:
    """Raise a DataError if one of the parts has no block."""
    for part in parts:
        if not any((s.parts == part).any() for s in sheets):
            raise DataError(
                f"the split leaves no block for '{NAMES[part]}': make data.split.block smaller, "
                "change the shares, or keep a whole place for it (use)"
            )


def split_frame(sheets: Sequence[Blocked]) -> gpd.GeoDataFrame:
    """The split as polygons in EPSG:4326 that can be looked at: place, file, part.

    Rasters without a CRS keep their pixels as coordinates; theirs are only here if none has one.
    """
    located = [sheet for sheet in sheets if sheet.grid.crs]
    frames = [_frame(sheet, *NAMES, UNUSED) for sheet in located or sheets]
    frame = gpd.GeoDataFrame(pd.concat(frames, ignore_index=True), crs=frames[0].crs)
    return frame[["place", "file", "part", "geometry"]]


def write_split(sheets: Sequence[Blocked], path: Path) -> None:
    """The split as a GeoPackage that `data.split.file` takes, also after it was edited.

    Layer split: see `split_frame`; layer pixels: rasters without a CRS, in their pixels.
    """
    located = [sheet for sheet in sheets if sheet.grid.crs]
    others = [sheet for sheet in sheets if not sheet.grid.crs]
    for layer, some in (("split", located), (_PIXELS, others)):
        if some:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*crs.* was not provided")  # as it is meant
                split_frame(some).to_file(path, layer=layer, driver="GPKG")


def _frame(sheet: Blocked, *parts: int) -> gpd.GeoDataFrame:
    """The labelled blocks of a sheet in `parts`; in EPSG:4326 where it has a CRS."""
    wanted = np.isin(sheet.parts, parts)
    if UNUSED in parts:
        wanted &= (sheet.parts != UNUSED) | (sheet.labelled > 0)
    places = np.argwhere(wanted)
    codes = sheet.parts[wanted]
    content = {
        "place": sheet.place,
        "file": sheet.file,
        "part": [NAMES.get(int(code), "unused") for code in codes],
        "code": codes,
        "row": places[:, 0],
        "col": places[:, 1],
    }
    shapes = [outline(_window(sheet, int(row), int(col)), sheet.grid) for row, col in places]
    frame = gpd.GeoDataFrame(content, geometry=shapes, crs=sheet.grid.crs)
    return frame.to_crs(4326) if sheet.grid.crs else frame


def outline(window: Window, grid: Grid) -> shapely.Polygon:
    """A window's border in the CRS of its grid."""
    rows = (window.row, window.row, window.row_stop, window.row_stop)
    cols = (window.col, window.col_stop, window.col_stop, window.col)
    corners = (grid.transform @ (col, row) for row, col in zip(rows, cols, strict=True))
    return shapely.Polygon(list(corners))
