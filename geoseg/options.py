"""The options of a prediction, one typed table for the library, the command line and YAML."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from geoseg.config import Strict, check
from geoseg.errors import UsageError
from geoseg.grid import Tiling
from geoseg.spec import ModelSpec

if TYPE_CHECKING:
    from geoseg.instances.cut import Cuts

Stretch = Literal["auto", "none"] | tuple[float, float]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Box = tuple[float, float, float, float]  # left, bottom, right, top


def check_bounds(bounds: Box | None) -> Box | None:
    """A ValueError where they are no rectangle."""
    if bounds is not None:
        left, bottom, right, top = bounds
        if not (all(map(isfinite, bounds)) and left < right and bottom < top):
            raise ValueError("left, bottom, right, top are needed, finite and in this order")
    return bounds


class PolygonOptions(Strict):
    """Which polygons come out, and where they go; of predict and vectorize.

    sieve:         regions of a class, or of the background, smaller than this (square metres) take
                   the class that most of their border with larger ones has.
    fill_holes:    holes in a class that are smaller than this (square metres) are filled.
    min_area:      drop polygons smaller than this, in square metres.
    min_width:     drop slivers: polygons narrower than this, in metres (by the rectangle of the
                   same area and perimeter).
    dissolve:      one MultiPolygon for each class; they are held in memory until the end.
    attributes:    more columns: deviation of the confidence, compactness, orientation, length and
                   width, vertices (see geoseg.vectorize.attributes).
    outline:       of polygons: pixel (their edges), or contour (where the probability passes the
                   decision level between two pixels: smooth); of pixels.
    regularize:    straight outlines with right angles, and circles, as of buildings; how far they
                   may move, in metres, or {class: metres}, and other classes keep theirs. 0 = off.
    simplify:      tolerance of outlines in metres, without gaps between neighbours; 0 = exact.
    smooth:        corners are rounded off, by up to so many metres, without gaps between
                   neighbours and after simplify; classes that are regularized keep theirs. 0 = off.
    crs:           CRS of the polygons, instead of the scene's.
    overwrite:     replace outputs that exist.
    """

    sieve: NonNegative = 0.0
    fill_holes: NonNegative = 0.0
    min_area: NonNegative = 0.0
    min_width: NonNegative = 0.0
    dissolve: bool = False
    attributes: bool = False
    outline: Literal["pixel", "contour"] = "pixel"
    regularize: NonNegative | dict[str, NonNegative] = 0.0
    simplify: NonNegative = 0.0
    smooth: NonNegative = 0.0
    crs: str | None = None
    overwrite: bool = False

    @property
    def whole_clusters(self) -> bool:
        """Whether polygons that touch are needed together."""
        return self.simplify > 0 or self.smooth > 0 or bool(self.regularize)

    @model_validator(mode="after")
    def _corners(self) -> Self:
        if self.smooth > 0 and not isinstance(self.regularize, dict) and self.regularize > 0:
            raise ValueError(
                "smooth: classes that are regularized keep their corners, and here all are: name "
                "those in regularize (building=1), or leave out one of the two"
            )
        return self

    def must_name(self, names: Mapping[int, str]) -> None:
        """A UsageError where an option names a class that is not among these."""
        named = self.regularize if isinstance(self.regularize, dict) else {}
        for name in named:
            if name not in names.values() and not (name.isdigit() and int(name) not in names):
                there = ", ".join(names.values()) or "numbers only"
                raise UsageError(f"regularize: there is no class {name!r}; there are: {there}")


class PredictOptions(PolygonOptions):
    """How to read the scene, run the model, stitch, and write; with those of PolygonOptions.

    aoi:           vector file; only what lies inside is predicted.
    bounds:        the same by (left, bottom, right, top), in the scene's CRS.
    bands:         the scene's bands for the model's, by number (from 1), name or colour.
    gsd:           metres per pixel of the scene, where its georeference is missing or wrong.
    nodata:        value that means no data, where the file does not say so.
    stretch:       values of the scene that become the model's value range: auto (by preflight),
                   none, or a pair (low, high).
    tile, overlap: edge of the tiles and what neighbours share, in pixels at the model's GSD;
                   chosen by the planner when not given.
    stitch:        blend (weighted mean over the overlaps) or crop; of pixels.
    merge:         how an object that several tiles see becomes one: objects (geoseg's rule), or
                   nms (suppression of boxes, as other tools do it: to compare).
    batch, device, precision, runtime, threads: how the model runs; chosen when not given.
    tta:           test-time augmentation: hflip, vflip, rot90, scale:0.75 ...
    threshold:     decision level of a one-class model, or least score of an object, instead of
                   the model's own.
    cut:           objects are cut apart where they are narrower than this, in metres, and wider
                   on both sides; or {class: metres}, and other classes stay whole. 0 = not at all.
    boundary:      class that is the line between objects: it cuts them apart, and its pixels go to
                   the nearest.
    mask:          also write the class mask as a COG.
    probabilities: also write the probability of each class as a COG.
    raster_grid:   both rasters on the model's grid (its GSD) or resampled to the scene's own.
    """

    aoi: Path | None = None
    bounds: Annotated[Box | None, AfterValidator(check_bounds)] = None
    bands: tuple[int | str, ...] | None = None
    gsd: Annotated[float, Field(gt=0)] | None = None
    nodata: float | None = None
    stretch: Stretch = "auto"
    tile: Count | None = None
    overlap: Annotated[int, Field(ge=0)] | None = None
    stitch: Literal["blend", "crop"] = "blend"
    merge: Literal["objects", "nms"] = "objects"
    batch: Count | None = None
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    runtime: str = "auto"
    threads: Count | None = None
    tta: tuple[str, ...] = ()
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    cut: NonNegative | dict[str, NonNegative] = 0.0
    boundary: str | None = None
    mask: Path | None = None
    probabilities: Path | None = None
    raster_grid: Literal["model", "scene"] = "model"

    @field_validator("stretch")
    @classmethod
    def _ordered(cls, stretch: Stretch) -> Stretch:
        if not isinstance(stretch, str):
            low, high = stretch
            if not (isfinite(low) and isfinite(high) and low < high):
                raise ValueError("two finite numbers are needed, the lower first")
        return stretch

    @field_validator("aoi", "mask", "probabilities")
    @classmethod
    def _home(cls, path: Path | None) -> Path | None:
        return path.expanduser() if path is not None else None

    @model_validator(mode="after")
    def _one_area(self) -> PredictOptions:
        if self.aoi is not None and self.bounds is not None:
            raise ValueError("aoi and bounds both say which area: leave one of them out")
        return self

    @property
    def area(self) -> Path | Box | None:
        """What only is predicted, as `Aoi.open` takes it; None for everything."""
        return self.aoi or self.bounds

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PredictOptions:
        """Options from keywords; a wrong one is a ConfigError that names it."""
        return check(values, cls, source="predict")

    def must_suit(self, spec: ModelSpec) -> None:
        """A UsageError where an option means nothing to a model of this kind."""
        only_pixels = {
            *("stitch", "mask", "probabilities", "raster_grid", "tta", "cut", "boundary"),
            *("outline", "sieve", "fill_holes", "dissolve"),
        }
        given = self.model_fields_set & (only_pixels if spec.finds_objects else {"merge"})
        idle = sorted(name for name in given if getattr(self, name))
        if idle:
            kind = "objects, not pixels" if spec.finds_objects else "pixels, not objects"
            raise UsageError(f"{', '.join(idle)}: {spec.id} finds {kind}; leave it out")
        self.must_name(spec.names)
        if self.cuts(spec) is not None and self.outline == "contour":
            raise UsageError("outline: cut objects follow the pixels; leave out contour, or cut")

    def cuts(self, spec: ModelSpec) -> Cuts | None:
        """What of a model's pixels is cut into objects; None for nothing."""
        if not self.cut and self.boundary is None:
            return None
        from geoseg.instances.cut import Cuts

        return Cuts.of(spec, self.cut, self.boundary, min_area_m2=self.min_area)

    def tiling(self, spec: ModelSpec) -> Tiling:
        """The model's tiling, with what the user fixed."""
        own = spec.tiling
        if self.tile is None and self.overlap is None:
            return own
        size = self.tile or own.size
        overlap = min(own.overlap, size // 4) if self.overlap is None else self.overlap
        return Tiling(size, overlap, own.stride, fixed=own.fixed, exact=self.tile is not None)
