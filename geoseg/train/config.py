"""The recipe of a training run: what `geoseg train RECIPE.yaml` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from geoseg.config import Strict, load_yaml
from geoseg.errors import ConfigError

Share = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Range = tuple[float, float]


class PlaceConfig(Strict):
    """One place: rasters (a path; its last part may be a pattern), labels, and what was labelled.

    `about` stands in the model card: where it is, whose data, which licence. `sample`: a chip of
    this place may go into the bundle as its golden sample.
    """

    name: str
    rasters: str
    labels: str
    aoi: str | None = None
    about: str = ""
    sample: bool = True


class BandConfig(Strict):
    """One input band, in the order of the raster's bands."""

    name: str
    common_name: str | None = None


class ClassConfig(Strict):
    """One class, as it will stand in masks and polygons."""

    id: int = Field(ge=1, le=254)
    name: str
    color: str = "#e6550d"


class SplitConfig(Strict):
    """Validation blocks: squares of `block` metres, a `share` of each place, at most `most`.

    `places` are kept for validation as a whole, to see how a recipe does on a place never seen.
    """

    block: Positive = 96.0
    share: Share = 0.15
    most: Count = 12
    places: tuple[str, ...] = ()


class DataConfig(Strict):
    """Where the data is (`root` is relative to the YAML file) and how it is read.

    Each place is drawn with a probability proportional to (its labelled area) ** `balance`;
    `focus` is the share of windows that are centred on a labelled object.
    """

    root: str
    places: tuple[PlaceConfig, ...] = Field(min_length=1)
    bands: tuple[BandConfig, ...]
    classes: tuple[ClassConfig, ...] = Field(min_length=1, max_length=1)
    gsd: Positive
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    balance: Share = 0.3
    focus: Share = 0.5
    split: SplitConfig = SplitConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not len(self.bands) == len(self.offset) == len(self.scale):
            raise ValueError("bands, offset and scale need as many entries each")
        names = [p.name for p in self.places]
        if len(set(names)) != len(names):
            raise ValueError("two places have the same name")
        unknown = set(self.split.places) - set(names)
        if unknown:
            raise ValueError(f"split.places: no place is named {sorted(unknown)[0]!r}")
        return self


class NetworkConfig(Strict):
    """A registered architecture, its constructor arguments, and where its weights start from."""

    architecture: str = "unet"
    arguments: dict[str, Any] = Field(default_factory=dict)
    encoder_weights: str | None = None


class AugmentConfig(Strict):
    """Ranges and probabilities of the augmentations; see geoseg/train/augment.py.

    zoom: ground covered by a window, relative to chip * gsd (log-uniform). brightness, contrast,
    saturation, gamma, band: one plus or minus that much, per image (band: per image and band).
    rotate, blur, noise, coarse, gray, cutmix: probability per image.
    """

    zoom: Range = (0.7, 1.6)
    rotate: Share = 0.5
    brightness: Deviation = 0.25
    contrast: Deviation = 0.3
    saturation: Share = 0.5
    gamma: Deviation = 0.3
    band: Deviation = 0.12
    blur: Share = 0.15
    noise: Share = 0.15
    coarse: Share = 0.1
    gray: Share = 0.05
    cutmix: Share = 0.0


class LossConfig(Strict):
    """Weights of the terms; `smoothing` draws the targets of the cross entropy towards 0.5."""

    cross_entropy: Weight = 1.0
    dice: Weight = 1.0
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


class ScheduleConfig(Strict):
    """AdamW with linear warm-up and cosine decay; the encoder learns at lr * encoder_lr."""

    steps: Count
    batch: Count = 8
    chip: Annotated[int, Field(ge=32, multiple_of=32)] = 192
    lr: Positive = 1e-3
    encoder_lr: Positive = 0.3
    weight_decay: Weight = 0.02
    warmup: Share = 0.05
    ema: Deviation = 0.998
    validate_every: Count = 250
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    threads: Count = 1
    seed: int = 0


class TrainConfig(Strict):
    """A whole recipe. `license` is the model's, `attribution` names what it owes to others."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: str = "0"
    description: str = ""
    license: str = "other"
    attribution: str = ""
    data: DataConfig
    model: NetworkConfig
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig
    output: str = "runs"

    @classmethod
    def load(cls, path: str | Path, data: str | Path | None = None) -> tuple[Self, Path]:
        """The recipe in a YAML file, and the folder of its data (`data`, if given)."""
        config = load_yaml(path, cls)
        root = Path(data) if data else (Path(path).parent / config.data.root).resolve()
        if not root.is_dir():
            raise ConfigError(f"{path}: data.root: {root} is not a folder; say where with --data")
        return config, root
