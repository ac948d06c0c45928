"""The truth looked at before anything is predicted: do the classes know what it says?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from geoseg.data.masks import MaskLabels
from geoseg.data.sheets import Truth, beside
from geoseg.errors import DataError
from geoseg.evaluate.places import Case
from geoseg.evaluate.predictions import grid_of
from geoseg.grid import Window
from geoseg.metrics import IGNORE
from geoseg.scene.files import open_dataset

_LOOK = 512  # pixels, edge of the windows of a mask that are looked at
_WINDOWS = 16
_MOST = 64  # values there: with more, a raster of classes is something else
_GROUND = 0.2  # of a mask that counts objects, at least, is none of them


def check_values(cases: Sequence[Case]) -> list[str]:
    """A remark on values of the truth that stand for no class; a DataError if none stands for any.

    Such values count as what no label covers. Of masks, parts are looked at; pictures are refused.
    """
    unknown: Counter[Any] = Counter()
    some, files = False, []
    first_of = {id(c.truth): c for c in reversed(cases)}
    for case in reversed(first_of.values()):
        truth = case.truth
        found, others = _of_features(truth) if truth.frame is not None else _of_mask(case)
        unknown += found
        some |= others
        files += [str(truth.place.labels)] if found else []
    remarks = [said for case in first_of.values() for said in _thin(case.truth)]
    if not unknown:
        return remarks
    said = ", ".join(f"{n} x {value}" for value, n in unknown.most_common(5))
    classes = ", ".join(f"{c.id} {c.name}" for c in cases[0].truth.meaning.classes)
    where = files[0] + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    if not some:
        raise DataError(
            f"classes do not match: {where} says {said}; the prediction has the classes {classes}"
        )
    return [
        *remarks,
        f"{where}: {said} stand for none of the classes ({classes}) and count as ground without "
        "a label.",
    ]


def _thin(truth: Truth) -> list[str]:
    """A remark on points and lines, which have no area that a prediction could cover."""
    thin = 0 if truth.frame is None else (shapely.get_dimensions(truth.frame.geometry) < 2).sum()
    if not thin:
        return []
    return [
        f"{truth.place.labels}: {thin} features are points or lines: they count as objects one "
        "pixel wide, which no prediction matches. Buffer them to the size of what they mark."
    ]


def _of_features(truth: Truth) -> tuple[Counter[Any], bool]:
    """Values that stand for no class, and whether any other does."""
    if truth.frame is None or truth.attribute is None:
        return Counter(), True
    values = truth.frame[truth.attribute].tolist()
    unknown = Counter(truth.meaning.unknown(values))
    return unknown, unknown.total() < len(values)


def _of_mask(case: Case) -> tuple[Counter[Any], bool]:
    file, *_ = _files(case)
    grid = grid_of(file)
    labels = MaskLabels(file, case.truth.meaning, grid)
    unknown: Counter[Any] = Counter()
    some = False
    values: Counter[float] = Counter()
    corners = [(r, c) for r in range(0, grid.height, _LOOK) for c in range(0, grid.width, _LOOK)]
    step = -(-len(corners) // _WINDOWS)
    for row, col in corners[::step]:
        window = Window(row, col, _LOOK, _LOOK).intersection(grid.window)
        unknown += labels.unknown(window)
        del unknown["0"]  # where there is no background, it means that nothing is known
        burnt = labels.burn(window)
        some |= bool(((burnt != IGNORE) & (burnt > 0)).any())
        values += _values(labels, window)
    _must_be_mask(file, labels, values)
    return unknown, some


def _values(labels: MaskLabels, window: Window) -> Counter[float]:
    """How many pixels have each value, or colour 0xrrggbb, whatever it may mean."""
    pixels, known = labels.read(window)
    flat = pixels[:, known].astype(np.float64)
    keys = flat[0] * 65536 + flat[1] * 256 + flat[2] if len(flat) >= 3 else flat[0]
    found, counts = np.unique(keys, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


def _must_be_mask(file: Path, labels: MaskLabels, values: Counter[float]) -> None:
    """Refuse pictures, of which every value but 0 would count as an object of the only class.

    Numbers of objects in place of classes are no picture: they leave out the ground.
    """
    with open_dataset(str(file)) as raster:
        bands = raster.count
    coloured = bands >= 3 and any(value % 0x010101 for value in values)
    many = len(values) > _MOST and (bands >= 3 or values[0] < _GROUND * values.total())
    if labels.meaning.colours or not (many or (coloured and not labels.meaning.anything)):
        return
    what = "colours" if bands >= 3 else "values"
    raise DataError(
        f"{file}: is a picture, not a mask: it has {bands} band{'s' * (bands > 1)} with "
        f"{len(values)} {what} where it was looked at. The truth is polygons or a raster of class "
        "ids; what colours stand for is said with --values CLASS=#rrggbb"
    )


def about_truth(cases: Iterable[Case]) -> list[dict[str, str]]:
    """The files of the truth, and by what to know them again: path, sha256."""
    files = dict.fromkeys(file for case in cases for file in _files(case))
    return [{"path": str(file), "sha256": _digest(file)} for file in files]


def _files(case: Case) -> list[Path]:
    """The files of a case's truth: labels, and the area if there is one."""
    place, root = case.truth.place, case.truth.root
    labels = beside(case.file, root, place, place.labels or "")
    return [labels, *([root / place.aoi] if place.aoi else [])]


def _digest(file: Path) -> str:
    if not file.is_file():  # a file geodatabase is a folder
        return ""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
