"""A COCO file and its pictures to a folder with a recipe that trains at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geoseg.bundle.files import installing
from geoseg.config import check
from geoseg.data.coco import ATTRIBUTE, CROWD, Coco, Picture, read_coco, write_pictures
from geoseg.errors import DataError
from geoseg.scene import Scene
from geoseg.train.config import TrainConfig
from geoseg.train.recipe import (
    about_raster,
    block,
    class_of,
    model_name,
    plain_name,
    training,
    write_recipe,
)

RECIPE = "recipe.yaml"
_WHOLE = 1024  # pixels: pictures up to this size go to one part of the split as a whole ...
_MANY = 10  # ... if there are so many


def import_coco(
    annotations: Path,
    images: Path,
    output: Path,
    *,
    gsd: float | None = None,
    name: str | None = None,
    steps: int = 1000,
    overwrite: bool = False,
) -> tuple[Path, Coco]:
    """The recipe in the folder `output`, which appears whole; and what was read.

    gsd: metres per pixel to train at, and of pictures that do not know their own.
    """
    coco = read_coco(annotations, images)
    used = {n for p in coco.pictures for _, n in p.objects} - {CROWD}
    if not used:
        raise DataError(f"{annotations}: no annotation has an area, so there is nothing to learn")
    content: dict[str, Any] = {
        "name": name or model_name(output.name),
        "data": _data(coco, gsd, annotations),
        **training(steps, objects=True),
    }
    with installing(output, overwrite=overwrite) as folder:
        write_pictures(coco.pictures, folder)
        content["data"] = {"root": str(folder.resolve()), **content["data"]}
        config = check(content, TrainConfig, source=f"a recipe for {annotations}")
        write_recipe(config, folder / RECIPE)
    return output / RECIPE, coco


def _data(coco: Coco, gsd: float | None, annotations: Path) -> dict[str, Any]:
    names = [n for _, n in sorted(coco.categories.items())]
    if len(names) > 254:
        raise DataError(f"{annotations}: has {len(names)} categories; up to 254 can be learnt")
    ids = (
        sorted(coco.categories) if 1 <= min(coco.categories) <= max(coco.categories) <= 254 else ()
    )
    classes = [
        {**class_of(i, n, [n]), "id": own}
        for i, (n, own) in enumerate(zip(names, ids or range(1, 255), strict=False), 1)
    ]
    with Scene.open(coco.pictures[0].file) as raster:
        about = about_raster(raster, gsd)
    unknown = about.pop("unknown")
    crowds = any(n == CROWD for p in coco.pictures for _, n in p.objects)
    return {
        "places": [_place(s, own, unknown, about["gsd"]) for s, own in _kinds(coco.pictures)],
        "classes": classes,
        "attribute": ATTRIBUTE,
        **({"ignore": [CROWD]} if crowds else {}),
        **about,
        "split": {"block": _block(coco.pictures, about["gsd"], gsd_known=not unknown), "most": 100},
    }


def _kinds(pictures: Sequence[Picture]) -> list[tuple[str, list[Picture]]]:
    """The pictures by the endings of their names: a place has one pattern."""
    kinds: dict[str, list[Picture]] = {}
    for picture in pictures:
        kinds.setdefault(Path(picture.name).suffix, []).append(picture)
    return list(kinds.items())


def _place(suffix: str, own: Sequence[Picture], unknown: bool, gsd: float) -> dict[str, Any]:
    place: dict[str, Any] = {
        "name": plain_name(suffix.strip(".") or "pictures"),
        "rasters": f"images/*{suffix}",
        "labels": "labels/*.gpkg",
    }
    return place | ({"gsd": gsd} if unknown else {})


def _block(pictures: Sequence[Picture], gsd: float, *, gsd_known: bool) -> float:
    """Edge of the blocks in metres: whole pictures, if these are many and small."""
    largest = max(max(p.size) for p in pictures)
    with Scene.open(pictures[0].file) as raster:
        own = raster.gsd[0] if gsd_known and raster.gsd else gsd
    if len(pictures) >= _MANY and largest * own <= _WHOLE * gsd:
        return math.ceil(largest * own / gsd + 1) * gsd
    area = sum(p.size[0] * p.size[1] for p in pictures) * own**2
    return block(area, min(min(p.size) for p in pictures) * own, gsd)
