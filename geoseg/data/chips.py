"""Chips for other tools: images with masks, COCO or YOLO labels, by the parts of the split.

::

    OUT/
      classes.json                     id, name and colour of each class
      train/images/PLACE_FILE_ROW_COL.png (uint8 RGB) or .tif (all else, georeferenced)
      train/masks/...                  class ids; 0 background, 255 unlabelled   (mask)
      train/annotations.json           polygons                                  (coco)
      train/labels/...txt              polygons                                  (yolo)
      data.yaml                                                                  (yolo)

and the same in validate/ and test/. geoseg itself needs no chips: it trains from the rasters.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from rasterio.features import rasterize
from rasterio.features import shapes as regions

from geoseg.bundle.files import installing
from geoseg.data.config import DataConfig
from geoseg.data.labels import Labels, VectorLabels
from geoseg.data.sheets import Truth, open_scene
from geoseg.data.split import NAMES, belongs, windows
from geoseg.data.stats import Plot, survey
from geoseg.errors import DataError, UsageError
from geoseg.grid import Window
from geoseg.metrics import IGNORE
from geoseg.scene import Scene

Format = Literal["mask", "coco", "yolo"]
_LABELLED = 0.5  # of a chip, where the format does not know of unlabelled pixels
_LEAST = 1.0  # pixels: smaller slivers of objects are left out of COCO and YOLO


@dataclass(frozen=True, slots=True)
class Chip:
    """image (C, s, s), label (s, s) as in geoseg/data/labels.py; objects: (geometry, label)."""

    name: str
    image: NDArray[Any]
    label: NDArray[np.uint8]
    transform: Affine
    crs: Any
    objects: list[tuple[shapely.Geometry, int]]


def export(
    config: DataConfig,
    root: Path,
    output: Path,
    *,
    size: int = 512,
    format: Format = "mask",
    parts: Sequence[str] = ("train", "validate", "test"),
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, int]:
    """Write chips of `size` pixels to the folder `output`, which appears whole; how many by part.

    Chips do not overlap and lie inside the blocks of the split, so none is larger than a block;
    what is left at the edges of a block is padded. Chips without a labelled pixel are left out.
    COCO and YOLO cannot say that ground is unlabelled: for them chips are at least half labelled,
    and the rest of their image is black.
    """
    if size < 16:
        raise UsageError(f"chips of {size} pixels are too small: take at least 16")
    plots = survey(config, root, seed=seed)
    there = [NAMES[part] for part in NAMES if any((plot.parts == part).any() for plot in plots)]
    if not set(parts) & set(there):
        raise DataError(
            f"the split has no block for {' or '.join(parts)}: it has some for "
            f"{', '.join(there) or 'nothing'}"
        )
    with installing(output, overwrite=overwrite) as folder:
        folder.mkdir()
        classes = [{"id": c.id, "name": c.name, "color": c.color} for c in config.classes]
        _write_json(folder / "classes.json", classes)
        written = {}
        for part, name in NAMES.items():
            if name in parts and name in there:
                writer = _Writer(folder / name, config, format)
                for chip in _chips(config, root, plots, part, size):
                    if format == "mask" or (chip.label != IGNORE).mean() >= _LABELLED:
                        writer.add(chip)
                written[name] = writer.finish()
        if format == "yolo":
            _write_yaml(folder, config, list(written))
    return written


def _chips(
    config: DataConfig, root: Path, plots: Sequence[Plot], part: int, size: int
) -> Iterator[Chip]:
    for place in config.places:
        truth = Truth(place, config, root)
        own = [p for p in plots if p.place == place.name and (p.parts == part).any()]
        for plot in own:
            with open_scene(plot.path, place, config) as scene:
                labels = truth.labels(plot.path, scene.grid)
                area = truth.known(plot.path, scene.grid)
                if labels is not None:
                    yield from _of_raster(scene, labels, area, plot, part, size)


def _of_raster(
    scene: Scene, labels: Labels, area: Labels | None, plot: Plot, part: int, size: int
) -> Iterator[Chip]:
    side = min(size, plot.block)
    for block in windows(plot, part):
        for row in range(block.row, block.row_stop, side):
            for col in range(block.col, block.col_stop, side):
                window = Window(row, col, side, side)
                inside = window.intersection(block)
                values, valid = scene.read(inside)
                known = valid & belongs(plot, inside, part)
                if area is not None:
                    known &= area.burn(inside) > 0
                own = np.where(known, labels.burn(inside), np.uint8(IGNORE))
                if (own == IGNORE).all():
                    continue
                image = np.zeros((len(values), side, side), values.dtype)
                label = np.full((side, side), IGNORE, np.uint8)
                image[:, : inside.height, : inside.width] = values
                label[: inside.height, : inside.width] = own
                name = _name(plot)
                yield Chip(
                    f"{name}_{row}_{col}",
                    image,
                    label,
                    scene.grid.transform @ Affine.translation(col, row),
                    scene.grid.crs,
                    _objects(labels, inside, own),
                )


def _name(plot: Plot) -> str:
    """Of a place and its raster, that may be part of a file name."""
    stem = plot.path.stem
    both = stem if stem.lower() == plot.place.lower() else f"{plot.place}_{stem}"
    return re.sub(r"[^\w.-]+", "-", both)


def _objects(
    labels: Labels, window: Window, label: NDArray[np.uint8]
) -> list[tuple[shapely.Geometry, int]]:
    """Polygons in the window's pixels: those of the vectors, or connected regions of a mask."""
    if isinstance(labels, VectorLabels):
        return [
            (polygon, int(code))
            for shape, code in zip(*labels.shapes(window), strict=True)
            for polygon in [_polygonal(shape)]
            if code != IGNORE and polygon.area >= _LEAST and _known(polygon, label)
        ]
    found = regions(label, mask=label != IGNORE, connectivity=4)
    return [(shapely.geometry.shape(g), int(v)) for g, v in found if g]


def _known(polygon: shapely.Geometry, label: NDArray[np.uint8]) -> bool:
    """Whether at least half of a polygon lies where labels are known."""
    inside = rasterize([polygon], label.shape, dtype="uint8") > 0
    return bool(inside.any() and (label[inside] != IGNORE).mean() >= 0.5)


def _polygonal(shape: shapely.Geometry) -> shapely.MultiPolygon:
    parts = [g for g in shapely.get_parts(shape) if g.geom_type == "Polygon" and g.area > 0]
    return shapely.MultiPolygon(parts)


# --- files ----------------------------------------------------------------------------------


@dataclass
class _Writer:
    """One part in one format; objects are of the classes only, never of the background."""

    folder: Path
    config: DataConfig
    format: Format
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "images").mkdir(parents=True)
        if self.format != "coco":
            (self.folder / ("masks" if self.format == "mask" else "labels")).mkdir()

    def add(self, chip: Chip) -> None:
        picture = chip.image.dtype == np.uint8 and len(chip.image) == 3
        if self.format != "mask":
            chip.image[:, chip.label == IGNORE] = 0
        file = _write_image(self.folder / "images" / chip.name, chip, chip.image, picture)
        objects = [(g, v) for g, v in chip.objects if v >= self.config.first]
        if self.format == "mask":
            _write_image(self.folder / "masks" / chip.name, chip, self._ids(chip)[None], picture)
        elif self.format == "coco":
            self._coco(file, chip, objects)
        else:
            lines = [line for shape, v in objects for line in self._yolo(shape, v, len(chip.label))]
            text = "".join(f"{line}\n" for line in lines)
            (self.folder / "labels" / f"{chip.name}.txt").write_text(text)
        self.images.append({"id": len(self.images) + 1, "file_name": f"images/{file.name}"})
        self.images[-1] |= {"height": chip.label.shape[0], "width": chip.label.shape[1]}

    def finish(self) -> int:
        if self.format == "coco":
            categories = [{"id": c.id, "name": c.name} for c in self.config.classes]
            content = {
                "images": self.images,
                "annotations": self.annotations,
                "categories": categories,
            }
            _write_json(self.folder / "annotations.json", content)
        return len(self.images)

    def _ids(self, chip: Chip) -> NDArray[np.uint8]:
        """Labels as class ids."""
        table = np.full(256, IGNORE, np.uint8)
        if self.config.background:
            table[0] = 0
        for label, each in enumerate(self.config.classes, self.config.first):
            table[label] = each.id
        ids: NDArray[np.uint8] = table[chip.label]
        return ids

    def _coco(self, file: Path, chip: Chip, objects: list[tuple[shapely.Geometry, int]]) -> None:
        for shape, label in objects:
            rings = [_flat(piece) for piece in without_holes(shape)]
            left, top, right, bottom = shape.bounds
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": len(self.images) + 1,
                    "category_id": self.config.classes[label - self.config.first].id,
                    "segmentation": rings,
                    "area": round(shape.area, 2),
                    "bbox": [round(v, 2) for v in (left, top, right - left, bottom - top)],
                    "iscrowd": 0,
                }
            )

    def _yolo(self, shape: shapely.Geometry, label: int, side: int) -> Iterator[str]:
        """A line for each part: the format knows neither holes nor objects in several parts."""
        for part in shapely.get_parts(shape):
            if part.area >= _LEAST:
                points = (f"{v / side:.6f}" for v in _flat(part))
                yield f"{label - self.config.first} {' '.join(points)}"


def without_holes(shape: shapely.Geometry) -> list[shapely.Polygon]:
    """Polygons without holes that cover the same: cut through each hole, as COCO has none."""
    pieces = []
    for part in shapely.get_parts(shape):
        if part.geom_type != "Polygon" or part.is_empty:
            continue
        if not part.interiors:
            pieces.append(part)
            continue
        x = shapely.Polygon(part.interiors[0]).representative_point().x
        left, bottom, right, top = part.bounds
        for half in (shapely.box(left, bottom, x, top), shapely.box(x, bottom, right, top)):
            pieces += without_holes(shapely.intersection(part, half))
    return pieces


def _flat(polygon: shapely.Polygon) -> list[float]:
    """x, y, x, y ... of the outline, the first point not repeated."""
    xy = shapely.get_coordinates(polygon.exterior)[:-1]
    return [round(float(v), 2) for v in xy.ravel()]


def _write_image(path: Path, chip: Chip, pixels: NDArray[Any], picture: bool) -> Path:
    """PNG beside a picture (uint8 RGB), else a GeoTIFF; pixels: (C, h, w)."""
    if picture:
        file = path.with_name(f"{path.name}.png")
        Image.fromarray(pixels.transpose(1, 2, 0).squeeze()).save(file)
        return file
    file = path.with_name(f"{path.name}.tif")
    profile = {
        "driver": "GTiff",
        "count": len(pixels),
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype,
        "crs": chip.crs,
        "transform": chip.transform,
        "compress": "deflate",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # rasters may have none
        with rasterio.open(file, "w", **profile) as out:
            out.write(pixels)
    return file


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_yaml(folder: Path, config: DataConfig, parts: list[str]) -> None:
    """data.yaml as Ultralytics reads it; it looks for labels/ beside images/."""
    keys = {"train": "train", "validate": "val", "test": "test"}
    lines = ["path: .", *(f"{keys[part]}: {part}/images" for part in parts), "names:"]
    lines += [f"  {i}: {json.dumps(c.name)}" for i, c in enumerate(config.classes)]
    (folder / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
