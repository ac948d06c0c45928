"""places.gpkg: the blocks and objects of an evaluation, to be looked at in a GIS."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from geoseg.evaluate.count import Counted
from geoseg.evaluate.objects import on_map
from geoseg.evaluate.places import Legend
from geoseg.vectorize.features import project

WGS84 = CRS("EPSG:4326")


def write_map(
    path: Path, counted: Sequence[Counted], records: Sequence[Mapping[str, Any]], legend: Legend
) -> None:
    """Layers `blocks` (IoU) and `objects` (result: found, missed, false alarm), in EPSG:4326.

    Without any CRS, in pixels; scenes without one are left out beside others that have one.
    """
    crs = WGS84 if any(c.grid.crs for c in counted) else None
    blocks, objects, start = [], [], 0
    for c in counted:
        own = records[start : start + len(c.blocks)]
        start += len(c.blocks)
        if crs is not None and c.grid.crs is None:
            continue
        boxes = [shapely.box(w.col, w.row, w.col_stop, w.row_stop) for w in c.windows]
        columns = {name: [r[name] for r in own] for name in ("scene", "file", "iou", "support")}
        objects.append(_objects(c, legend, crs))
        blocks.append(gpd.GeoDataFrame(columns, geometry=_moved(np.array(boxes), c, crs), crs=crs))
    for layer, frames in (("objects", objects), ("blocks", blocks)):
        frame = gpd.GeoDataFrame(pd.concat(frames, ignore_index=True), crs=crs)
        with warnings.catch_warnings():  # of pixels as coordinates: so it is meant
            warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
            frame.to_file(path, layer=layer, driver="GPKG")


def _moved(pixels: NDArray[np.object_], c: Counted, crs: CRS | None) -> NDArray[np.object_]:
    if crs is None or not len(pixels):
        return pixels
    return project(on_map(pixels, c.grid), c.grid.crs, crs)


def _objects(c: Counted, legend: Legend, crs: CRS | None) -> gpd.GeoDataFrame:
    """True objects, found or missed, and false alarms; what was found is shown as the truth.

    score: by which it was found, or of the false alarm. split, merged: see evaluate/objects.py.
    """
    table = c.objects.take(c.objects.from_truth | ~c.objects.matched)
    result = np.where(table.matched, "found", np.where(table.from_truth, "missed", "false alarm"))
    names = np.array([info.name for info in legend.labels], object)
    return gpd.GeoDataFrame(
        {
            "result": result,
            "class": names[table.label],
            "iou": np.round(table.iou, 4),
            "score": np.round(table.score, 4),
            "split": table.split,
            "merged": table.merged,
            "area_m2": np.round(table.area, 2),
            "scene": c.case.place,
        },
        geometry=_moved(table.pixels, c, crs),
        crs=crs,
    )
