"""Where labelled data lies and how it is read: the `data` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from geoseg.config import Strict
from geoseg.spec import BACKGROUND, ClassInfo

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Value = int | str

Use = Literal["train", "validate", "test", "unlabelled"]


class PlaceConfig(Strict):
    """One place: rasters (a path; its last part may be a pattern), labels, and what was labelled.

    labels: a vector file in any CRS, or mask rasters; a '*' in the path stands for what the '*'
        of `rasters` stood for. layer: of a vector file with several.
    aoi: a vector file; what lies outside of it is unlabelled, not background.
    gsd: metres per pixel, for rasters that do not know. variants: rasters of the same pixels with
        another look ('*' as in masks), one of which may stand in for the raster in training.
    use: 'train' gives blocks to training, validation and test as `split` says; 'validate' and
        'test' keep the whole place for that; 'unlabelled' only lends its look to other places.
    about: stands in the model card (where it is, whose data, which licence). sample: a chip of
        this place may go into the bundle as its golden sample.
    """

    name: str
    rasters: str
    labels: str | None = None
    layer: str | None = None
    aoi: str | None = None
    gsd: Positive | None = None
    variants: tuple[str, ...] = ()
    use: Use = "train"
    about: str = ""
    sample: bool = True

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if self.labels is None and self.use != "unlabelled":
            raise ValueError(f"place {self.name}: labels are missing (or say use: unlabelled)")
        return self


class BandConfig(Strict):
    """One input band, in the order of the raster's bands."""

    name: str
    common_name: str | None = None


class ClassConfig(Strict):
    """One class, as it will stand in masks and polygons.

    values: what the labels say for it: values of the attribute, values of a mask's pixels, or
    colours of a mask as '#rrggbb'. Without: the class's name or id; for the only class, anything.
    """

    id: int = Field(ge=1, le=254)
    name: str
    color: str = "#e6550d"
    values: tuple[Value, ...] = ()


class SplitConfig(Strict):
    """Each place is cut into squares of `block` metres, which are dealt out at random.

    share, test: of the labelled blocks of a place, for validation and for test; `most`: at most
    so many each. file: a split that was written before and maybe edited, in place of dealing.
    """

    block: Positive = 96.0
    share: Share = 0.15
    test: Share = 0.0
    most: Count = 12
    file: str | None = None


class DataConfig(Strict):
    """Where the data is (`root` is relative to the YAML file) and how it is read.

    attribute: of vector labels, holds the class. background: what no label covers is class 0
    (inside of the AOI); else it is unlabelled, as are labels with a value in `ignore`.
    gsd: metres per pixel to train at. offset, scale: the network sees (value - offset) / scale,
    one of each per band; value_range: least and greatest ordinary value of all bands. What is
    left out of these three is measured on the training blocks.

    Each place is drawn with a probability proportional to (its labelled area) ** `balance`;
    `focus` is the share of windows that are centred on a labelled object, all classes alike.
    """

    root: str = "."
    places: tuple[PlaceConfig, ...] = Field(min_length=1)
    bands: tuple[BandConfig, ...] = Field(min_length=1)
    classes: tuple[ClassConfig, ...] = Field(min_length=1, max_length=254)
    attribute: str | None = None
    background: bool = True
    ignore: tuple[Value, ...] = ()
    gsd: Positive
    offset: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    value_range: tuple[float, float] | None = None
    balance: Share = 0.3
    focus: Share = 0.5
    split: SplitConfig = SplitConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("offset", "scale"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.bands):
                raise ValueError(f"{name} needs one number per band, {len(self.bands)} in all")
        if self.scale is not None and not all(self.scale):
            raise ValueError("a scale of 0 would divide by zero")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError("value_range: the lower number comes first")
        _all_differ("two places have the same name", [p.name for p in self.places])
        _all_differ("two classes have the same id", [c.id for c in self.classes])
        _all_differ("two classes share a value", [v for c in self.classes for v in c.values])
        if len(self.classes) == 1 and not self.background:
            raise ValueError("one class needs a background to differ from")
        return self

    @property
    def channels(self) -> tuple[ClassInfo, ...]:
        """The classes in the order of the network's channels.

        One class and a background share one channel (sigmoid); of several, the background is
        the first (softmax).
        """
        classes = tuple(ClassInfo(c.id, c.name, c.color) for c in self.classes)
        if self.background and len(classes) > 1:
            return (ClassInfo(BACKGROUND, "background", "#000000"), *classes)
        return classes

    @property
    def first(self) -> int:
        """What labels hold for the first of `classes`: 1 where 0 is the background, else 0.

        Labels count the classes in the order of the recipe; ids only appear in outputs.
        """
        return 1 if self.background else 0


def _all_differ(message: str, values: list[object]) -> None:
    if len(set(values)) != len(values):
        raise ValueError(message)
