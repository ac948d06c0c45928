"""The recipe of a training run: what `geoseg train RECIPE.yaml` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from geoseg.config import Strict, check, read_yaml
from geoseg.data.config import Count, DataConfig, Positive, Share
from geoseg.errors import ConfigError
from geoseg.spec import bad_name

Deviation = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Range = tuple[float, float]
ObjectTerm = Literal["objectness", "rpn_box", "class", "box", "mask", "keypoint"]


class NetworkConfig(Strict):
    """A registered architecture, its constructor arguments, and where its weights start from.

    encoder_weights: a package or file of pretrained weights, see geoseg/models/weights.py.
    start: a bundle (name, folder or zip) to go on from; it then says architecture and arguments.
    """

    architecture: str = "unet"
    arguments: dict[str, Any] = Field(default_factory=dict)
    encoder_weights: str | None = None
    start: str | None = None

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.start and {"architecture", "arguments", "encoder_weights"} & self.model_fields_set:
            raise ValueError("start: the bundle says the architecture and has all the weights")
        return self


class AugmentConfig(Strict):
    """Ranges and probabilities of the augmentations; see geoseg/train/augment.py.

    zoom: ground covered by a window, relative to chip * gsd (log-uniform). brightness, contrast,
    saturation, gamma, band: one plus or minus that much, per image (band: per image and band).
    hue: the colours turn by up to that share of a half circle. All others are probabilities:
    rotate (freely), blur, noise, coarse (pixels), gray, drop (a band), cutmix, match (takes the
    colours of an unlabelled place or, if there is none, of any; match_by: each
    band's histogram, or mean and covariance), variant (a variant stands in
    for the raster).
    """

    zoom: Range = (0.7, 1.6)
    rotate: Share = 0.5
    brightness: Deviation = 0.25
    contrast: Deviation = 0.3
    saturation: Share = 0.5
    gamma: Deviation = 0.3
    band: Deviation = 0.12
    hue: Share = 0.0
    blur: Share = 0.15
    noise: Share = 0.15
    coarse: Share = 0.1
    gray: Share = 0.05
    drop: Share = 0.0
    cutmix: Share = 0.0
    match: Share = 0.0
    match_by: Literal["histogram", "statistics"] = "histogram"
    variant: Share = 0.0

    @model_validator(mode="after")
    def _zoom(self) -> Self:
        if not 0.1 <= self.zoom[0] <= self.zoom[1] <= 10:
            raise ValueError("zoom: two numbers from 0.1 to 10, the lower one first")
        return self


class LossConfig(Strict):
    """The loss is the sum of the terms, each with its weight; see geoseg/train/losses.py.

    smoothing: of the targets of the cross entropy. class_weights: of the cross entropy and focal
    terms, one per label (background first, if there is one). gamma: of the focal term. alpha,
    beta: what false alarms and misses weigh in Tversky's. border, border_width: weight and width
    (metres) of the U-Net paper's emphasis on what separates two objects, in cross entropy.

    All that is for models of pixels. One of objects has the terms of its network, each 1 if
    `objects` gives no other weight: {mask: 2, box: 0.5}.
    """

    cross_entropy: Weight = 1.0
    focal: Weight = 0.0
    dice: Weight = 1.0
    jaccard: Weight = 0.0
    lovasz: Weight = 0.0
    tversky: Weight = 0.0
    boundary: Weight = 0.0
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    class_weights: tuple[Positive, ...] | None = None
    gamma: Weight = 2.0
    alpha: Weight = 0.3
    beta: Weight = 0.7
    border: Weight = 0.0
    border_width: Positive = 1.5
    objects: dict[ObjectTerm, Weight] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _something(self) -> Self:
        terms = ("cross_entropy", "focal", "dice", "jaccard", "lovasz", "tversky", "boundary")
        if not any(getattr(self, term) for term in terms):
            raise ValueError(f"all terms weigh 0; give one of {', '.join(terms)}")
        if self.tversky and not self.alpha + self.beta:
            raise ValueError("tversky: alpha and beta are both 0")
        return self


class ScheduleConfig(Strict):
    """AdamW with linear warm-up, then decay; the encoder learns at lr * encoder_lr.

    steps: of the optimizer, each on `batch` windows of `chip` pixels, gone through in
    `accumulate` parts. decay: cosine to 0, or (1 - t) ** power. ema: of the moving average of the
    weights, 0 for none. patience: stop when so many validations in a row brought nothing better.
    devices: how many GPUs (or processes on the CPU) share each batch.
    """

    steps: Count
    batch: Count = 8
    accumulate: Count = 1
    chip: Annotated[int, Field(ge=32, multiple_of=32)] = 192
    lr: Positive = 1e-3
    encoder_lr: Positive = 0.3
    weight_decay: Weight = 0.02
    warmup: Share = 0.05
    decay: Literal["cosine", "poly"] = "cosine"
    power: Positive = 0.9
    ema: Deviation = 0.998
    validate_every: Count = 250
    patience: Count | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: Count = 1
    workers: Annotated[int, Field(ge=0)] = 0
    threads: Count = 1
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.batch % (self.accumulate * self.devices):
            raise ValueError("batch must be a multiple of accumulate * devices")
        return self


class TrainConfig(Strict):
    """A whole recipe. `license` is the model's, `attribution` names what it owes to others."""

    name: str
    version: str = "0"
    description: str = ""
    license: str = "other"
    attribution: str = ""
    data: DataConfig
    model: NetworkConfig = NetworkConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig
    output: str = "runs"

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if trouble := bad_name(name):  # before a training whose bundle would be refused
            raise ValueError(trouble)
        return name

    @model_validator(mode="after")
    def _class_weights(self) -> Self:
        weights, labels = self.loss.class_weights, len(self.data.classes) + self.data.first
        if weights is not None and len(weights) != labels:
            raise ValueError(f"loss.class_weights needs {labels} numbers")
        return self

    @classmethod
    def load(cls, path: str | Path, data: str | Path | None = None) -> tuple[Self, Path]:
        """The recipe in a YAML file, and the folder of its data (`data`, if given).

        `extends: OTHER.yaml` (relative to the file) takes everything from there that the file
        does not say itself; `data.root` stays relative to the file that says it.
        """
        content, origin = _extended(Path(path), ())
        config = check(content, cls, source=str(path))
        root = Path(data) if data else (origin / config.data.root).resolve()
        if not root.is_dir():
            raise ConfigError(f"{path}: data.root: {root} is not a folder; say where with --data")
        return config, root


def _extended(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], Path]:
    """The content of a recipe merged over what it extends; the folder `data.root` refers to."""
    if path.resolve() in seen:
        raise ConfigError(f"{path}: extends itself")
    content = read_yaml(path)
    base = content.pop("extends", None)
    if base is None:
        return content, path.parent
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends: the path of another recipe is needed")
    below, origin = _extended(path.parent / base, (*seen, path.resolve()))
    own_data = content.get("data")
    if isinstance(own_data, Mapping) and "root" in own_data:
        origin = path.parent
    return _merged(below, content), origin


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`; tables are merged key by key, all else is replaced.

    A `model` is replaced as a whole: the arguments of one architecture mean nothing to another.
    """
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both and key != "model" else value
    return merged
