"""Labelled data: rasters with truth, at the model's GSD, split by place.

config.py    the `data` section of a recipe
labels.py    vectors (class by attribute) burnt on a grid; masks.py: masks (numbers, colours)
sheets.py    rasters with labels, decoded once, mapped into memory
split.py     blocks of ground, or whole places, to training, validation and test
stats.py     band statistics and class balance by streaming
check.py     bad labels, found and told; polygons.py, align.py: what it looks for
chips.py     chips for other tools: masks, COCO, YOLO
"""

from __future__ import annotations

from geoseg.data.config import DataConfig, PlaceConfig
from geoseg.data.sheets import Sheet, Store, load_places
from geoseg.data.split import TEST, TRAIN, UNUSED, VALIDATE, split_frame, write_split
from geoseg.data.stats import Statistics, measure

__all__ = [
    "TEST",
    "TRAIN",
    "UNUSED",
    "VALIDATE",
    "DataConfig",
    "PlaceConfig",
    "Sheet",
    "Statistics",
    "Store",
    "load_places",
    "measure",
    "split_frame",
    "write_split",
]
