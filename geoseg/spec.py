"""The contract of a model: what it wants to see and what it gives, to and from STAC MLM JSON.

`model.json` in a bundle is a STAC Item (1.1) with the MLM extension v1.5. What MLM has no field
for carries the prefix `geoseg:`. Unknown fields are kept out, missing ones named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from geoseg.errors import ModelError, UsageError
from geoseg.grid import Tiling

MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
CLASSIFICATION_SCHEMA = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
FILE_SCHEMA = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
EO_SCHEMA = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
VERSION_SCHEMA = "https://stac-extensions.github.io/version/v1.2.0/schema.json"

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_.\-]+[a-zA-Z0-9]")  # MLM's schema also allows spaces

Task = Literal["semantic-segmentation", "instance-segmentation"]
Activation = Literal["sigmoid", "softmax", "none"]
BACKGROUND = 0  # the class id that is never turned into polygons


@dataclass(frozen=True, slots=True)
class Band:
    """One input band: `name` (red, nir, B08 ...); `common_name` as in the STAC eo extension."""

    name: str
    common_name: str | None = None


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class: `id` is its value in masks (0 = background, 255 is no data), `color` #rrggbb."""

    id: int
    name: str
    color: str = "#e6550d"

    def __post_init__(self) -> None:
        if not 0 <= self.id <= 254:
            raise ModelError(f"class {self.name!r}: id {self.id} is not in 0..254")
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", self.color):
            raise ModelError(f"class {self.name!r}: color {self.color!r} is not #rrggbb")


@dataclass(frozen=True, slots=True)
class Scaling:
    """The network sees (clip(value, *clip) - offset) / scale, per band, value as in the raster."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if len(self.offset) != len(self.scale):
            raise ModelError("scaling: as many offsets as scales are needed, one per band")
        if any(s == 0 for s in self.scale):
            raise ModelError("scaling: a scale of 0 would divide by zero")
        if not all(math.isfinite(v) for v in (*self.offset, *self.scale)):
            raise ModelError("scaling: offset and scale must be finite numbers")
        if self.clip and not _is_range(*self.clip):
            raise ModelError(f"scaling: the clip {self.clip} is no range of values")

    def after(self, low: float, high: float, *, target: tuple[float, float]) -> Scaling:
        """This scaling for values that first have to be stretched from low..high to `target`."""
        if not _is_range(low, high):
            raise UsageError(
                f"stretch: {low:g} to {high:g} is no range of values; give two finite numbers, "
                "the lower one first"
            )
        gain = (target[1] - target[0]) / (high - low)
        shift = target[0] - low * gain
        return Scaling(
            offset=tuple((o - shift) / gain for o in self.offset),
            scale=tuple(s / gain for s in self.scale),
            clip=(low, high),
        )


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All that is known of a model besides its weights.

    bands, scaling: in the order of the network's channels. dtype, value_range: of the rasters
    that it was trained on. gsd: metres per pixel. classes: in the order of the output channels
    (one class with a sigmoid). threshold: decision level of a sigmoid. temperature: the scores
    are divided by it before the activation, fitted on validation data so that probabilities are
    honest (Guo et al. 2017). arguments: rebuild the network through `geoseg.models.build`.

    Of an instance model: classes are those of objects, without a background; activation is
    'none'; threshold is the least score of an object that is delivered; the logit of a score is
    divided by the temperature and the bias added (Platt 1999), so that of objects with a score
    of 0.8 eight in ten are right.
    """

    name: str
    version: str
    architecture: str
    bands: tuple[Band, ...]
    scaling: Scaling
    gsd: float
    classes: tuple[ClassInfo, ...]
    tiling: Tiling
    task: Task = "semantic-segmentation"
    activation: Activation = "sigmoid"
    threshold: float = 0.5
    temperature: float = 1.0
    bias: float = 0.0
    dtype: str = "uint8"
    value_range: tuple[float, float] = (0.0, 255.0)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    license: str = "other"
    created: str = "2026-01-01T00:00:00Z"
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.scaling.offset) != len(self.bands):
            raise ModelError(
                f"model {self.name}: {len(self.bands)} bands, "
                f"but scaling for {len(self.scaling.offset)}"
            )
        if not self.bands:
            raise ModelError(f"model {self.name}: no bands")
        if not 0 < self.gsd < math.inf:
            raise ModelError(f"model {self.name}: a GSD of {self.gsd} m is not positive and finite")
        if not self.classes:
            raise ModelError(f"model {self.name}: no classes")
        if self.activation == "sigmoid" and len(self.classes) != 1:
            raise ModelError(f"model {self.name}: a sigmoid has one class, not {len(self.classes)}")
        if len({c.id for c in self.classes}) != len(self.classes):
            raise ModelError(f"model {self.name}: two classes have the same id")
        if len({c.name for c in self.classes}) != len(self.classes):
            raise ModelError(f"model {self.name}: two classes have the same name")
        if not self.names:
            raise ModelError(f"model {self.name}: its only class is {BACKGROUND}, the background")
        for field_name, known in (("task", Task), ("activation", Activation)):
            if (value := getattr(self, field_name)) not in get_args(known):
                raise ModelError(
                    f"model {self.name}: geoseg knows no {field_name} {value!r}; "
                    f"there are: {', '.join(get_args(known))}"
                )
        if not 0 < self.threshold < 1:
            raise ModelError(f"model {self.name}: threshold {self.threshold} is not in 0..1")
        if not 0 < self.temperature < math.inf:
            raise ModelError(
                f"model {self.name}: temperature {self.temperature} is not positive and finite"
            )
        if not math.isfinite(self.bias):
            raise ModelError(f"model {self.name}: bias {self.bias} is not finite")
        if self.finds_objects and BACKGROUND in {c.id for c in self.classes}:
            raise ModelError(f"model {self.name}: the background (0) is no class of objects")
        if self.finds_objects and self.activation != "none":
            raise ModelError(f"model {self.name}: an instance model has the activation 'none'")
        if not _is_range(*self.value_range):
            raise ModelError(
                f"model {self.name}: the value range {self.value_range} is empty or not finite"
            )
        for reserved in ("architecture", "bands", "classes"):
            if reserved in self.arguments:
                raise ModelError(
                    f"model {self.name}: {reserved!r} is no argument of an architecture; it "
                    "follows from the contract"
                )

    @property
    def names(self) -> dict[int, str]:
        """Class id -> name, without the background."""
        return {c.id: c.name for c in self.classes if c.id != BACKGROUND}

    @property
    def finds_objects(self) -> bool:
        """Whether it gives objects (Detections), or else scores of pixels."""
        return self.task == "instance-segmentation"

    @property
    def id(self) -> str:
        return model_id(self.name, self.version)


def model_id(name: str, version: str) -> str:
    """How a model of that name and version is called."""
    return f"{name}-{version}" if version else name


def bad_name(name: str) -> str | None:
    """What is wrong with the name of a model, with the rule; None where it is a good one."""
    if _NAME.fullmatch(name):
        return None
    return (
        f"{name!r} is no name for a model: at least three letters, digits, '.', '_' or '-', the "
        "first a letter, the last a letter or digit"
    )


def _is_range(low: float, high: float) -> bool:
    """Finite, the lower first, and neither nothing nor everything to float32."""
    return 1e-30 <= high - low <= 1e30


def to_item(spec: ModelSpec, assets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`spec` as a STAC Item; `assets` are the files of the bundle, as STAC assets."""
    if trouble := bad_name(spec.name):
        raise ModelError(trouble)
    offset, scale = spec.scaling.offset, spec.scaling.scale
    bands = [b.name for b in spec.bands]
    described = [
        {"name": b.name, **({"eo:common_name": b.common_name} if b.common_name else {})}
        for b in spec.bands
    ]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [
            MLM_SCHEMA,
            CLASSIFICATION_SCHEMA,
            FILE_SCHEMA,
            EO_SCHEMA,
            VERSION_SCHEMA,
        ],
        "id": spec.id,
        "geometry": None,
        "properties": {
            "title": spec.name,
            "description": spec.description or spec.name,
            "license": spec.license,
            "datetime": spec.created,
            "version": spec.version,
            "gsd": spec.gsd,
            "bands": described,
            "mlm:name": spec.name,
            "mlm:architecture": spec.architecture,
            "mlm:tasks": [spec.task],
            "mlm:framework": "PyTorch",
            # the schema wants at least one, or none of the field
            **({"mlm:hyperparameters": dict(spec.arguments)} if spec.arguments else {}),
            "mlm:input": [
                {
                    "name": "chip",
                    "bands": bands,
                    "input": {
                        "shape": [-1, len(bands), -1, -1],
                        "dim_order": ["batch", "bands", "height", "width"],
                        "data_type": "float32",
                    },
                    "value_scaling": [
                        {"type": "z-score", "mean": o, "stddev": s}
                        for o, s in zip(offset, scale, strict=True)
                    ],
                    "resize_type": None,
                }
            ],
            "mlm:output": [
                {
                    "name": "objects" if spec.finds_objects else "scores",
                    "tasks": [spec.task],
                    "result": _objects() if spec.finds_objects else _scores(len(spec.classes)),
                    "classification:classes": [
                        {"value": c.id, "name": c.name, "color_hint": c.color[1:].upper()}
                        for c in spec.classes
                    ],
                }
            ],
            "geoseg:activation": spec.activation,
            "geoseg:threshold": spec.threshold,
            "geoseg:temperature": spec.temperature,
            **({"geoseg:bias": spec.bias} if spec.bias else {}),
            "geoseg:source_dtype": spec.dtype,
            "geoseg:value_range": list(spec.value_range),
            "geoseg:clip": list(spec.scaling.clip) if spec.scaling.clip else None,
            "geoseg:tiling": {
                "size": spec.tiling.size,
                "overlap": spec.tiling.overlap,
                "stride": spec.tiling.stride,
                "fixed": spec.tiling.fixed,
            },
            "geoseg:metrics": dict(spec.metrics),
        },
        "links": [],
        # STAC 1.1 wants the bands of an item on an asset, too: on the model itself.
        "assets": {
            key: {**asset, **({"bands": described} if "mlm:model" in asset["roles"] else {})}
            for key, asset in assets.items()
        },
    }


def _scores(classes: int) -> dict[str, Any]:
    return {
        "shape": [-1, classes, -1, -1],
        "dim_order": ["batch", "class", "height", "width"],
        "data_type": "float32",
    }


def _objects() -> dict[str, Any]:
    """A row per object: its box, class and score. MLM has no words for its mask."""
    dim_order = ["batch", "object", "value"]
    return {"shape": [-1, -1, 6], "dim_order": dim_order, "data_type": "float32"}


def from_item(item: Mapping[str, Any], *, source: str) -> ModelSpec:
    """The contract in a STAC Item; `source` names the file in error messages."""
    try:
        return _from_item(item)
    except KeyError as e:
        raise ModelError(f"{source}: {e.args[0]!r} is missing; is this a geoseg bundle?") from e
    except (UsageError, ModelError) as e:
        raise ModelError(f"{source}: {e}") from e
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as e:
        raise ModelError(f"{source}: not a model item that geoseg understands ({e})") from e


def _from_item(item: Mapping[str, Any]) -> ModelSpec:
    p = _mapping(item["properties"], "properties")
    inputs, outputs = p["mlm:input"][0], p["mlm:output"][0]
    common = {b["name"]: b.get("eo:common_name") for b in p.get("bands", ())}
    names = [_text(b if isinstance(b, str) else b["name"], "a band") for b in inputs["bands"]]
    offset, scale = _affine_scaling(inputs.get("value_scaling"), len(names))
    clip = p.get("geoseg:clip")
    return ModelSpec(
        name=_text(p["mlm:name"], "mlm:name"),
        version=_string(p.get("version", ""), "version"),
        architecture=_text(p["mlm:architecture"], "mlm:architecture"),
        task=p["mlm:tasks"][0],
        bands=tuple(Band(n, _common_name(common.get(n))) for n in names),
        scaling=Scaling(offset, scale, None if clip is None else _pair(clip, "geoseg:clip")),
        gsd=_number(p["gsd"], "gsd"),
        classes=tuple(_class(c) for c in outputs["classification:classes"]),
        tiling=_tiling(_mapping(p["geoseg:tiling"], "geoseg:tiling")),
        activation=p["geoseg:activation"],
        threshold=_number(p.get("geoseg:threshold", 0.5), "geoseg:threshold"),
        temperature=_number(p.get("geoseg:temperature", 1.0), "geoseg:temperature"),
        bias=_number(p.get("geoseg:bias", 0.0), "geoseg:bias"),
        dtype=_text(p.get("geoseg:source_dtype", "uint8"), "geoseg:source_dtype"),
        value_range=_pair(p.get("geoseg:value_range", [0.0, 255.0]), "geoseg:value_range"),
        arguments=_mapping(p.get("mlm:hyperparameters", {}), "mlm:hyperparameters"),
        description=_string(p.get("description", ""), "description"),
        license=_text(p.get("license", "other"), "license"),
        created=_text(p.get("datetime") or "2026-01-01T00:00:00Z", "datetime"),
        metrics=_mapping(p.get("geoseg:metrics", {}), "geoseg:metrics"),
    )


def _common_name(value: object) -> str | None:
    return None if value is None else _text(value, "eo:common_name")


def _class(entry: Mapping[str, Any]) -> ClassInfo:
    color = _text(entry.get("color_hint", "E6550D"), "color_hint").lower()
    return ClassInfo(
        _integer(entry["value"], "the value of a class"),
        _text(entry["name"], "the name of a class"),
        f"#{color}",
    )


def _tiling(entry: Mapping[str, Any]) -> Tiling:
    values: dict[str, Any] = {
        key: (_flag if key == "fixed" else _integer)(value, f"geoseg:tiling {key}")
        for key, value in entry.items()
    }
    return Tiling(**values)


def _affine_scaling(
    entries: list[Mapping[str, Any]] | None, bands: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """MLM value_scaling (one entry per band, or one for all) as offsets and scales."""
    if not entries:
        return (0.0,) * bands, (1.0,) * bands
    pairs = []
    for entry in entries:
        match entry["type"]:
            case "z-score":
                pairs.append((_at(entry, "mean"), _at(entry, "stddev")))
            case "min-max":
                low, high = _at(entry, "minimum"), _at(entry, "maximum")
                pairs.append((low, high - low))
            case "offset":
                pairs.append((_at(entry, "value"), 1.0))
            case "scale":
                pairs.append((0.0, _at(entry, "value")))
            case other:
                raise ModelError(f"value_scaling of type {other!r} is not supported")
    if len(pairs) == 1:
        pairs *= bands
    if len(pairs) != bands:
        raise ModelError(f"{len(pairs)} value_scaling entries for {bands} bands")
    return tuple(o for o, _ in pairs), tuple(s for _, s in pairs)


# --- values out of JSON, strictly -----------------------------------------------------------

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def _wrong(key: str, wanted: str, value: object) -> ModelError:
    return ModelError(f"{key} must be {wanted}, not {value!a:.60}")


def _number(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(key, "a number", value)
    return float(value)


def _at(entry: Mapping[str, Any], key: str) -> float:
    return _number(entry[key], key)


def _integer(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(key, "a whole number", value)
    return value


def _flag(value: object, key: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, "true or false", value)
    return value


def _pair(value: object, key: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise _wrong(key, "two numbers", value)
    return _number(value[0], key), _number(value[1], key)


def _string(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise _wrong(key, "text", value)
    return value


def _text(value: object, key: str) -> str:
    """One line that can be written anywhere, and not empty."""
    text = _string(value, key)
    if not text or _CONTROL.search(text):
        raise _wrong(key, "a line of text", value)
    return text


def _mapping(value: object, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(key, "an object", value)
    return value
