"""What a model from elsewhere wants and gives, as far as its file or a small YAML says.

A file of another tool says some of it, a YAML beside it the rest; what the YAML says wins. What
neither says and geoseg cannot do without is asked for by name, all at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, PositiveFloat, PositiveInt, model_validator

from geoseg.config import Strict, check, read_yaml
from geoseg.errors import ConfigError
from geoseg.grid import Tiling, round_up
from geoseg.runtime.yolo import IOU, LAYOUTS
from geoseg.spec import BACKGROUND, Band, ClassInfo, ModelSpec, Scaling, Task, bad_name

Numbers = FiniteFloat | tuple[FiniteFloat, ...]
Text = Annotated[str, Field(min_length=1)]
DTYPES = ("uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
COLORS = ("#e6550d", "#3182bd", "#31a354", "#756bb1", "#fdae6b", "#9ecae1", "#a1d99b", "#bcbddc")
_NONE = "#969696"  # of a background


class ScalingKeys(Strict):
    """What is done to the values of the raster before the network, in this order:

    cut to `clip`; `subtract`; `divide`; then (x - mean) / std, or minimum..maximum to 0..1.
    One number for all bands, or one per band.
    """

    clip: tuple[FiniteFloat, FiniteFloat] | None = None
    subtract: Numbers = 0.0
    divide: Numbers = 1.0
    mean: Numbers | None = None
    std: Numbers | None = None
    minimum: Numbers | None = None
    maximum: Numbers | None = None

    @model_validator(mode="after")
    def _pairs(self) -> ScalingKeys:
        z_score = (self.mean is None, self.std is None)
        min_max = (self.minimum is None, self.maximum is None)
        if len({*z_score}) > 1 or len({*min_max}) > 1 or not (z_score[0] or min_max[0]):
            raise ValueError("mean and std belong together, or minimum and maximum: one such pair")
        return self

    def of(self, bands: int) -> Scaling:
        """For so many bands."""
        subtract, divide = _each(self.subtract, bands), _each(self.divide, bands)
        if self.minimum is not None and self.maximum is not None:
            low, high = _each(self.minimum, bands), _each(self.maximum, bands)
            middle, width = low, [b - a for a, b in zip(low, high, strict=True)]
        else:
            middle = _each(0.0 if self.mean is None else self.mean, bands)
            width = _each(1.0 if self.std is None else self.std, bands)
        return Scaling(
            offset=tuple(s + m * d for s, m, d in zip(subtract, middle, divide, strict=True)),
            scale=tuple(w * d for w, d in zip(width, divide, strict=True)),
            clip=self.clip,
        )


def _each(value: Numbers, bands: int) -> list[float]:
    values = [value] * bands if isinstance(value, float | int) else list(value)
    if len(values) != bands:
        raise ConfigError(f"scaling: {len(values)} numbers are given for {bands} bands")
    return values


class BandKeys(Strict):
    """`common_name` as in the STAC eo extension."""

    name: Text
    common_name: Text | None = None


class ClassKeys(Strict):
    """`id` is the value in masks; 0 is the background, which never becomes polygons."""

    id: Annotated[int, Field(ge=0, le=254)]
    name: Text
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] | None = None


class TilingKeys(Strict):
    """Pixels. `fixed`: the network takes size x size only. `stride`: edges are multiples of it."""

    size: PositiveInt | None = None
    overlap: Annotated[int, Field(ge=0)] | None = None
    stride: PositiveInt | None = None
    fixed: bool | None = None


class Contract(Strict):
    """The keys of the YAML. None: not said.

    activation: what is still to be done to the output, 'none' where it is probabilities already.
    output:     'scores' (of each class, a channel each) or 'classes' (one number per pixel).
    output_name: which one is meant, where the network has several.
    channels:   where they stand in the input, 'first' or 'last'; asked for if shapes do not say.
    detector, iou: kind of YOLO, and from which overlap on two of its boxes are one object.
    architecture, arguments: of a checkpoint: rebuild the network (geoseg.models).
    """

    name: Text | None = None
    version: str | None = None
    description: str | None = None
    license: Text | None = None
    attribution: str | None = None
    bands: Annotated[tuple[Text | BandKeys, ...], Field(min_length=1)] | None = None
    dtype: Literal[DTYPES] | None = None  # type: ignore[valid-type]
    value_range: tuple[FiniteFloat, FiniteFloat] | None = None
    gsd: PositiveFloat | None = None
    scaling: ScalingKeys | Literal["none"] | None = None
    classes: Annotated[tuple[Text | ClassKeys, ...], Field(min_length=1)] | None = None
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    output: Literal["scores", "classes"] | None = None
    output_name: Text | None = None
    channels: Literal["first", "last"] | None = None
    tiling: TilingKeys | None = None
    detector: Literal[tuple(LAYOUTS)] | None = None  # type: ignore[valid-type]
    iou: Annotated[float, Field(gt=0, lt=1)] | None = None
    architecture: Text | None = None
    arguments: dict[str, Any] | None = None

    def must_say(self, source: Path, wanted: Mapping[str, object]) -> None:
        """A ConfigError with all keys of `wanted` whose value is None."""
        missing = [key for key, value in wanted.items() if value is None]
        if missing:
            raise ConfigError(
                f"{source} does not say: {', '.join(missing)}. Write it into "
                f"{source.with_suffix('.yaml').name} beside it, or a YAML given with --contract "
                "(docs/importing.md explains each key)"
            )


def read_contract(source: Path, said: Mapping[str, Any], given: Path | None) -> Contract:
    """What the model's own file has `said`, and over it the YAML: `given`, or beside `source`."""
    beside = source.with_suffix(".yaml")
    path = given or (beside if beside.is_file() and beside != source else None)
    told = read_yaml(path) if path else {}
    if path:
        check(told, Contract, source=str(path))
    tiling = {**(said.get("tiling") or {}), **(told.get("tiling") or {})}
    merged = {**said, **told, **({"tiling": tiling} if tiling else {})}
    return check(merged, Contract, source=str(source))


def spec_of(
    contract: Contract,
    source: Path,
    *,
    architecture: str,
    task: Task = "semantic-segmentation",
) -> ModelSpec:
    """The contract of a bundle; raises a ConfigError that names all that nobody has said."""
    tiling = contract.tiling or TilingKeys()
    value_range = contract.value_range or ((0.0, 255.0) if contract.dtype == "uint8" else None)
    free = {} if tiling.fixed else {"tiling.stride": tiling.stride}
    wanted: dict[str, object] = {
        "bands": contract.bands,
        "dtype": contract.dtype,
        "value_range": value_range,
        "gsd": contract.gsd,
        "scaling": contract.scaling,
        "classes": contract.classes,
        "activation": contract.activation if _is_to_be_told(contract) else "none",
        "tiling.size": tiling.size,
        **free,
    }
    contract.must_say(source, wanted)
    assert contract.bands is not None
    assert contract.classes is not None
    assert contract.gsd is not None
    assert contract.scaling is not None
    assert contract.dtype is not None
    arguments = contract.arguments or {}
    if contract.detector is not None:
        arguments = {"detector": contract.detector, "iou": contract.iou or IOU}
    assert value_range is not None
    bands = tuple(
        Band(b) if isinstance(b, str) else Band(b.name, b.common_name) for b in contract.bands
    )
    keys = ScalingKeys() if contract.scaling == "none" else contract.scaling
    classes = classes_of(contract.classes)
    name = _as_name(contract.name or source.stem)
    if trouble := bad_name(name):
        raise ConfigError(f"{source}: {trouble}; say another one in name")
    return ModelSpec(
        name=name,
        version=contract.version or "",
        architecture=architecture,
        bands=bands,
        scaling=keys.of(len(bands)),
        gsd=contract.gsd,
        classes=classes,
        tiling=_tiling(tiling),
        task=task,
        activation="none" if task == "instance-segmentation" else _meaning(classes),
        threshold=contract.threshold or 0.5,
        dtype=contract.dtype,
        value_range=value_range,
        arguments=arguments,
        description=contract.description or "",
        license=contract.license or "other",
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _is_to_be_told(contract: Contract) -> bool:
    """Whether there is an activation: not of numbers of classes, nor of YOLO (inside)."""
    return contract.output != "classes" and contract.detector is None


def _as_name(stem: str) -> str:
    """A name of a file, or of another tool, as that of a model: other characters become '-'."""
    return re.sub(r"[^a-zA-Z0-9_.-]+", "-", stem).lstrip("-._0123456789").rstrip("-._") or "model"


def _meaning(classes: tuple[ClassInfo, ...]) -> Literal["sigmoid", "softmax"]:
    """What the probabilities of a bundle are: of one class, or of classes that exclude others."""
    return "sigmoid" if len(classes) == 1 else "softmax"


def classes_of(given: tuple[str | ClassKeys, ...]) -> tuple[ClassInfo, ...]:
    """A class called 'background' gets the id 0, others without an id 1, 2 ... in their order."""
    found: list[ClassInfo] = []
    following = 1
    for entry in given:
        if isinstance(entry, ClassKeys):
            number, name, color = entry.id, entry.name, entry.color
        elif entry.strip().lower() == "background":
            number, name, color = BACKGROUND, entry, None
        else:
            number, name, color = following, entry, None
            following += 1
        shade = _NONE if number == BACKGROUND else COLORS[(number - 1) % len(COLORS)]
        found.append(ClassInfo(number, name, color or shade))
    return tuple(found)


def _tiling(keys: TilingKeys) -> Tiling:
    """Overlap and, of networks of one size, steps are ours to choose: an eighth of the tile."""
    assert keys.size is not None
    stride = keys.stride or 1
    overlap = keys.overlap
    if overlap is None:  # a tile of one stride has none
        overlap = min(round_up(keys.size // 8, stride), keys.size - stride)
    return Tiling(size=keys.size, overlap=overlap, stride=stride, fixed=bool(keys.fixed))
