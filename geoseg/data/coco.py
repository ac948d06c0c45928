"""COCO annotations to what recipes read: pictures, and a layer of polygons for each.

Polygons keep their coordinates to the digit: those of a picture with a georeference become its
CRS's, others stay in pixels, as the picture's own coordinates are. A mask in run-lengths becomes
the outlines of its pixels. An annotation is one feature, in however many parts; what COCO calls a
crowd is ground on which nothing is known.

torchgeo's datasets are no source of ours. Those of objects (VHR10, and those with boxes) yield
pictures without a place, with what COCO files say already; its IntersectionDataset joins a raster
and vectors by place, but burns the vectors into one mask of classes, in which touching objects are
one, and reads the raster anew for each window. Rasters and layers that it knows how to download can
be named in a recipe as they lie.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.features import shapes as regions

from geoseg.errors import DataError, MissingDependencyError

CROWD = "crowd (unknown)"  # in the attribute, beside the names of the categories
ATTRIBUTE = "category"
_BESIDE = (".tfw", ".pgw", ".jgw", ".wld", ".prj")  # files that say where a picture lies
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Picture:
    """One image: its file, its name without folders, and (geometry in pixels, category) each."""

    file: Path
    name: str
    size: tuple[int, int]  # width, height
    objects: list[tuple[shapely.Geometry, str]]


@dataclass(frozen=True, slots=True)
class Coco:
    """categories: id -> name, in the file's order. left_out: annotations that have no area."""

    pictures: list[Picture]
    categories: Mapping[int, str]
    left_out: int


def read_coco(path: Path, images: Path) -> Coco:
    """What a COCO file says of pictures that lie in the folder `images`; raises DataError."""
    content = _content(path)
    categories = {int(c["id"]): str(c["name"]).strip() for c in content["categories"]}
    if len(set(categories.values())) < len(categories):
        raise DataError(f"{path}: two categories have the same name: give them different ones")
    known = {i["id"]: (int(i["width"]), int(i["height"])) for i in content["images"]}
    if len(known) < len(content["images"]):
        raise DataError(f"{path}: two images have the same id")
    objects: dict[Any, list[tuple[shapely.Geometry, str]]] = defaultdict(list)
    left_out = 0
    for each in content["annotations"]:
        number = f"{path}: annotation {each.get('id', '?')}"
        if each["image_id"] not in known or each["category_id"] not in categories:
            raise DataError(f"{number}: its image or category is not in the file")
        shape = _geometry(each, known[each["image_id"]], number)
        if shape.area <= 0:
            left_out += 1
            continue
        name = CROWD if each.get("iscrowd") else categories[each["category_id"]]
        objects[each["image_id"]].append((shape, name))
    pictures, names = [], set()
    for image in content["images"]:
        file = _file(path, images, str(image["file_name"]))
        # one folder takes all: where two folders have the same name in them, they tell them apart
        name = file.name
        if name in names:
            name = "_".join(Path(image["file_name"]).parts[-2:])
        names.add(name)
        pictures.append(Picture(file, name, known[image["id"]], objects[image["id"]]))
    if len(names) < len(pictures):
        raise DataError(f"{path}: two images are the same file")
    return Coco(pictures, categories, left_out)


def write_pictures(pictures: Sequence[Picture], folder: Path) -> None:
    """folder/images and folder/labels: the pictures, and a GeoPackage of the same name for each.

    Pictures are hard links where the disk allows it, so they take no room, and copies elsewhere.
    """
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for picture in pictures:
        target = folder / "images" / picture.name
        _link(picture.file, target)
        for suffix in _BESIDE:
            side = picture.file.with_suffix(suffix)
            if side.exists():
                _link(side, target.with_suffix(suffix))
        _write_layer(picture, folder / "labels" / f"{target.stem}.gpkg")


def _write_layer(picture: Picture, path: Path) -> None:
    transform, crs = _place(picture)
    shapes = shapely.transform(
        np.array([shape for shape, _ in picture.objects], object),
        lambda xy: np.column_stack(transform @ (xy[:, 0], xy[:, 1])),
    )
    frame = gpd.GeoDataFrame({ATTRIBUTE: [n for _, n in picture.objects]}, geometry=list(shapes))
    frame[ATTRIBUTE] = frame[ATTRIBUTE].astype("str")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*crs.* was not provided")  # as it is meant
        pyogrio.write_dataframe(
            frame.set_crs(crs) if crs else frame,
            path,
            driver="GPKG",
            geometry_type="MultiPolygon",
            promote_to_multi=True,
        )


def _place(picture: Picture) -> tuple[Affine, Any]:
    """From pixels to coordinates, and their CRS if there is one; the size is checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(picture.file) as raster:
                size, transform, crs = (raster.width, raster.height), raster.transform, raster.crs
        except RasterioIOError as e:
            raise DataError(f"{picture.file}: cannot be read as a picture ({e})") from e
    if size != picture.size:
        raise DataError(
            f"{picture.file}: is of {size[0]} x {size[1]} pixels, the annotations are for "
            f"{picture.size[0]} x {picture.size[1]}: they belong to another file"
        )
    return transform, crs


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)


def _content(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The three lists of a COCO file, each entry with the keys that it must have."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from e
    except (ValueError, RecursionError) as e:
        raise DataError(f"{path}: no valid JSON ({e})") from e
    wanted = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("image_id", "category_id"),
        "categories": ("id", "name"),
    }
    for section, keys in wanted.items():
        entries = content.get(section) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{path}: has no list {section!r}: is this a COCO file of objects?")
        for number, entry in enumerate(entries):
            missing = [k for k in keys if not isinstance(entry, dict) or k not in entry]
            if missing:
                raise DataError(f"{path}: {section}[{number}] has no {missing[0]!r}")
    if not content["images"]:
        raise DataError(f"{path}: lists no image")
    return dict(content)


def _file(path: Path, images: Path, name: str) -> Path:
    """The file of a picture, with the folders of its name or without them."""
    for candidate in (images / name, images / Path(name).name):
        if candidate.is_file():
            return candidate
    raise DataError(f"{path}: {name} does not lie in {images}: say where with --images")


def _geometry(annotation: Mapping[str, Any], size: tuple[int, int], source: str) -> Any:
    """The object in pixels; its box where nothing else is known."""
    outline, box = annotation.get("segmentation"), annotation.get("bbox")
    try:
        if isinstance(outline, Mapping):
            return _from_runs(outline, size)
        if outline:
            return _from_rings(outline)
        if box:
            left, top, width, height = map(float, box)
            return shapely.box(left, top, left + width, top + height)
    except (ValueError, TypeError, shapely.errors.GEOSException) as e:
        raise DataError(f"{source}: its outline cannot be read ({e})") from e
    raise DataError(f"{source}: has neither segmentation nor bbox")


def _from_rings(rings: Sequence[Sequence[float]]) -> Any:
    """Rings of x, y, x, y ...: all of them belong to the object, as COCO knows no holes.

    Not by pycocotools, which would make pixels of them.
    """
    polygons = []
    for ring in rings:
        points = np.asarray(ring, float).reshape(-1, 2)
        if len(points) >= 3:
            polygons.append(shapely.Polygon(points))
    mended = shapely.make_valid(np.array(polygons, object), method="structure")
    return _polygonal(shapely.union_all(mended))


def _from_runs(runs: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """The regions of a mask in run-lengths, compressed or not."""
    try:
        from pycocotools import mask as masks
    except ImportError as e:
        raise MissingDependencyError("pycocotools", "train") from e
    width, height = size
    if list(runs.get("size", ())) != [height, width]:
        raise ValueError(f"run-lengths of {runs.get('size')} in an image of {[height, width]}")
    packed = masks.frPyObjects(runs, height, width) if isinstance(runs["counts"], list) else runs
    pixels: NDArray[np.uint8] = np.ascontiguousarray(masks.decode(packed))
    found = [shapely.geometry.shape(g) for g, v in regions(pixels, pixels > 0) if v]
    return _polygonal(shapely.union_all(found))


def _polygonal(shape: Any) -> Any:
    """The areas of a geometry, as one multipolygon."""
    parts = [g for g in shapely.get_parts(shape) if g.geom_type == "Polygon" and g.area > 0]
    return shapely.MultiPolygon(parts)
