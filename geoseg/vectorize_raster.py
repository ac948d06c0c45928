"""From a raster of classes, of any tool, to polygons.

The raster is read by bands of rows, which become polygons that leave as the rows have passed
them. Reading, outlining and writing overlap in threads; what comes out does not depend on it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

import geoseg
from geoseg.config import check
from geoseg.errors import UsageError
from geoseg.events import Listener, Progress, ignore
from geoseg.grid import Window
from geoseg.layer import Layer, cleaner, flat_crs, polygonizer, unit_of
from geoseg.options import PolygonOptions
from geoseg.reading import Ahead, ahead
from geoseg.scene.classes import ClassRaster, Probabilities, row_windows
from geoseg.sinks import vector_format
from geoseg.sinks.atomic import check_target, same_file
from geoseg.vectorize import Polygons
from geoseg.vectorize.contour import Crossings
from geoseg.vectorize.sieve import Cleaner

ZERO = -(2**31) + 15  # label that stands for class 0 where it has polygons: 0 has none


class VectorizeOptions(PolygonOptions):
    """How a raster of classes is read and outlined; with those of PolygonOptions.

    band:         the one that holds the classes, from 1; the only one where not given.
    nodata:       value that means no data, where the file does not say so.
    classes:      names by number: {1: building, 2: road}; those of the file where not given.
    background:   numbers that have no polygons; none of them: () .
    confidence:   raster of probabilities on the same grid: a band for each class, or one for all.
    connectivity: 4, or 8: pixels that meet at a point only are one (multi)polygon, too.
    gsd:          metres per pixel, where the raster has no CRS.
    threshold:    decision level of the only class, for contours.
    """

    band: Annotated[int, Field(ge=1)] | None = None
    nodata: float | None = None
    classes: dict[int, str] = Field(default_factory=dict)
    background: tuple[int, ...] = (0,)
    confidence: Path | None = None
    connectivity: Literal[4, 8] = 4
    gsd: Annotated[float, Field(gt=0)] | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @field_validator("confidence")
    @classmethod
    def _home(cls, path: Path | None) -> Path | None:
        return path.expanduser() if path is not None else None


@dataclass(frozen=True, slots=True)
class Vectorized:
    """What a run did. Areas in square metres; without a CRS or gsd in pixels."""

    output: Path
    polygons: dict[str, int]
    area_m2: dict[str, float]
    rows: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "output": str(self.output)}


def vectorize_raster(
    source: str | Path, output: str | Path, *, listener: Listener = ignore, **options: Any
) -> Vectorized:
    """Write the polygons of the connected pixels of each class in a raster of whole numbers.

    `options` are the fields of VectorizeOptions, `listener` is called with events (see
    geoseg.events). Raises a GeosegError; then no output has been touched.
    """
    opts = check(options, VectorizeOptions, source="vectorize")
    path = Path(output).expanduser()
    _check_target(path, source, opts)
    started = time.perf_counter()
    with ExitStack() as stack:
        raster = stack.enter_context(
            ClassRaster.open(source, band=opts.band, nodata=opts.nodata, gsd=opts.gsd)
        )
        for message in raster.scene.warnings:
            listener({"event": "warning", "topic": "crs", "message": _of_raster(message, opts)})
        names = {**raster.names, **opts.classes}
        scores = None
        if opts.confidence is not None:
            probabilities = stack.enter_context(Probabilities.open(opts.confidence, raster.grid))
            scores = _Scores(probabilities, names, opts)
        windows = row_windows(raster.scene, extra=8 * scores.count if scores else 0)
        progress = Progress(listener, {k: k for k in range(len(windows))}, scene=str(source))
        unit_m = 1.0
        if opts.gsd is not None:
            unit_m = unit_of(raster.grid, opts.gsd)
        how: dict[str, Any] = {"unit_m": unit_m, "metadata": _metadata(source, opts)}
        if opts.connectivity == 8:
            how["geometry"] = "MultiPolygon"
        with Layer.open(path, raster.grid, names, opts, **how) as layer:
            bands = ahead(_bands(raster, windows, scores, opts))
            clean = _cleaned(bands, cleaner(raster.grid, opts, unit_m=unit_m))
            with closing(ahead(_outline(clean, raster.grid.width, scores, opts))) as stream:
                for done, polygons in stream:
                    layer.add(polygons)
                    progress.advance(min(done, len(windows)))
    for note in layer.notes:
        listener({"event": "info", "topic": "output", "message": note})
    result = Vectorized(
        output=path,
        polygons=dict(layer.counts.polygons),
        area_m2=dict(layer.counts.area_m2),
        rows=raster.grid.height,
        seconds=time.perf_counter() - started,
    )
    listener({"event": "result", **result.as_dict()})
    return result


@dataclass(frozen=True, slots=True)
class _Band:
    """Rows as the Polygonizer takes them: (h, W) labels, data or not; (K, h, W) probabilities."""

    labels: NDArray[Any]
    valid: NDArray[np.bool_]
    scores: NDArray[np.float32] | None


def _bands(
    raster: ClassRaster, windows: Sequence[Window], scores: _Scores | None, opts: VectorizeOptions
) -> Iterator[_Band]:
    """Bands of rows; what has no polygons is 0, and class 0 is ZERO where it has some."""
    for window in windows:
        labels, valid = raster.read(window)
        if 0 not in opts.background and not labels.all():
            labels = np.where(labels == 0, np.int32(ZERO), labels)
        without = [number for number in opts.background if number != 0]
        if without or not valid.all():
            labels = np.where(np.isin(labels, without) | ~valid, 0, labels).astype(labels.dtype)
        yield _Band(labels, valid, scores.read(window) if scores else None)


def _cleaned(bands: Ahead[_Band], cleaner: Cleaner | None) -> Generator[_Band]:
    """The same, sieved and filled where that is asked for; so other numbers of rows."""
    with closing(bands):
        if cleaner is None:
            yield from bands
            return
        for band in bands:
            planes = () if band.scores is None else (band.scores,)
            found = cleaner.add(band.labels, band.valid, *planes)
            if found is None:
                yield _Band(band.labels[:0], band.valid[:0], None)
            else:
                yield _Band(found.labels, found.valid, *(found.planes or (None,)))
    if (found := cleaner.finish()) is not None:
        yield _Band(found.labels, found.valid, *(found.planes or (None,)))


def _outline(
    bands: Generator[_Band], width: int, scores: _Scores | None, opts: VectorizeOptions
) -> Iterator[tuple[int, Polygons]]:
    """Number of bands that are done, and the polygons that are final then."""
    outliner = polygonizer(width, opts, connectivity=opts.connectivity)
    crossings = None
    if scores is not None and opts.outline == "contour":
        crossings = Crossings(width, scores.ids, threshold=opts.threshold)
    done = 0
    with closing(bands):
        for done, band in enumerate(bands, start=1):
            if not len(band.labels):
                continue
            confidence = edges = None
            if scores is not None and band.scores is not None:
                confidence = scores.of(band.labels, band.scores)
                if crossings is not None:
                    edges = crossings.add(band.labels, band.scores, band.valid)
            yield done, _numbered(outliner.add(band.labels, confidence, edges))
    yield done, _numbered(outliner.finish())


def _numbered(polygons: Polygons) -> Polygons:
    """With 0 as the number of class 0."""
    return replace(polygons, label=np.where(polygons.label == ZERO, 0, polygons.label))


class _Scores:
    """Probabilities, and which of them is that of a class.

    ids: label of the class of each band; of a band that is for all, that of the only class.
    """

    def __init__(
        self, probabilities: Probabilities, names: Mapping[int, str], opts: VectorizeOptions
    ) -> None:
        self._probabilities, self.count = probabilities, len(probabilities.names)
        self.ids = self._found(probabilities, names, opts)
        self._places = {number: k for k, number in enumerate(self.ids)}

    def _found(
        self, probabilities: Probabilities, names: Mapping[int, str], opts: VectorizeOptions
    ) -> list[int]:
        named = {name.lower(): number for number, name in names.items()}
        numbers: Sequence[int | None] = [named.get(band.lower()) for band in probabilities.names]
        if self.count == 1:
            classes = sorted(set(names) - set(opts.background))
            if opts.outline == "contour" and len(classes) != 1:
                raise UsageError(
                    f"{probabilities.source}: has one band, so contours are those of one class: "
                    "say which with classes, as --classes 1=building"
                )
            numbers = [*classes[:1], 1][:1]
        elif None in numbers or len(set(numbers)) < self.count:
            if len(names) != self.count:
                raise UsageError(
                    f"{probabilities.source}: has {self.count} bands "
                    f"({', '.join(probabilities.names)}), and it is not known which class each is "
                    "of: name all of them with classes, in the order of the bands"
                )
            numbers = sorted(names)
        return [ZERO if n == 0 and 0 not in opts.background else int(n or 0) for n in numbers]

    def read(self, window: Window) -> NDArray[np.float32]:
        """(K, h, W) probabilities of the rows."""
        return self._probabilities.read(window)

    def of(self, labels: NDArray[Any], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """(h, W) the probability of each pixel's label."""
        if self.count == 1:
            only: NDArray[np.float32] = scores[0]
            return only
        found = np.zeros(labels.shape, np.float32)
        rest = labels != 0
        for number, plane in zip(self.ids, scores, strict=True):
            own = labels == number
            np.copyto(found, plane, where=own)
            rest &= ~own
        if rest.any():
            number = int(labels[rest][0])
            raise UsageError(
                f"{self._probabilities.source}: has no band for the class "
                f"{0 if number == ZERO else number}: give one, or name the classes with classes"
            )
        return found


def _check_target(path: Path, source: str | Path, opts: VectorizeOptions) -> None:
    """Refuse what could not be written at the end, or makes no sense, before anything is read."""
    check_target(path, overwrite=opts.overwrite, stale=vector_format(path).stale)
    for given in (source, opts.confidence):
        if given is not None and same_file(path, Path(given)):
            raise UsageError(f"{path} is an input of this run: name another output")
    if opts.crs is not None:
        flat_crs(opts.crs)
    if opts.outline == "contour" and opts.confidence is None:
        raise UsageError("outline: contours need confidence, the raster of probabilities")


def _of_raster(message: str, opts: VectorizeOptions) -> str:
    """What a scene without a place says, in words that fit a raster of classes."""
    size = ", taken to be as large as the model's (if they are not, give --gsd)"
    return message.replace(size, "; areas and lengths are in pixels (give gsd for metres)")


def _metadata(source: str | Path, opts: VectorizeOptions) -> dict[str, str]:
    return {
        "geoseg:version": geoseg.__version__,
        "geoseg:raster": str(source),
        "geoseg:options": json.dumps(opts.model_dump(mode="json"), sort_keys=True),
    }
