"""All that a run writes: polygons, class mask and probabilities of finished rows, or objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from geoseg.errors import UsageError
from geoseg.instances.cut import CuttingPolygonizer
from geoseg.instances.features import features as object_features
from geoseg.layer import (
    Counts,
    Layer,
    RowsCleaner,
    cleaner,
    flat_crs,
    output_crs,
    polygonizer,
    unit_of,
)
from geoseg.options import PredictOptions
from geoseg.predictions import Objects, Rows
from geoseg.sinks import RasterSink, VectorSink, vector_format
from geoseg.sinks.atomic import check_target, same_file, together
from geoseg.sinks.raster import (
    NO_CLASS,
    PROBABILITY_NODATA,
    PROBABILITY_SCALE,
    STALE,
    check_raster_suffix,
    encode_labels,
    encode_probabilities,
)
from geoseg.spec import BACKGROUND, ModelSpec
from geoseg.vectorize import Polygons
from geoseg.vectorize.contour import Crossings

if TYPE_CHECKING:
    from geoseg.grid import Grid

# Of objects; see geoseg.instances.features
OBJECT_COLUMNS: dict[str, pa.DataType] = {
    "id": pa.int64(),
    "class": pa.string(),
    "class_id": pa.int32(),
    "score": pa.float32(),
    "truncated": pa.bool_(),
    "area_m2": pa.float64(),
    "perimeter_m": pa.float64(),
}
OBJECT_ATTRIBUTES: dict[str, pa.DataType] = {
    "compactness": pa.float64(),
    "orientation": pa.float64(),
    "length_m": pa.float64(),
    "width_m": pa.float64(),
    "vertices": pa.int32(),
}


class Outputs:
    """Turns rows into the files that were asked for; counts what it wrote."""

    def __init__(
        self,
        grid: Grid,
        spec: ModelSpec,
        options: PredictOptions,
        *,
        layer: Layer | None,
        mask: RasterSink | None,
        probabilities: RasterSink | None,
        cutter: CuttingPolygonizer | None = None,
    ) -> None:
        self._layer, self._mask, self._probabilities = layer, mask, probabilities
        self._polygonizer = polygonizer(grid.width, options)
        self._cleaner: RowsCleaner | None = None
        if (rows_cleaner := cleaner(grid, options, unit_m=unit_of(grid, spec.gsd))) is not None:
            self._cleaner = RowsCleaner(rows_cleaner, [c.id for c in spec.classes])
        self._crossings: Crossings | None = None
        if options.outline == "contour":
            ids = [c.id for c in spec.classes]
            self._crossings = Crossings(grid.width, ids, threshold=spec.threshold)
        self._cutter = cutter
        self.counts = layer.counts if layer is not None else Counts()

    def write(self, rows: Rows) -> None:
        """Take in the next finished rows."""
        if self._mask is not None:
            self._mask.write(rows.row, encode_labels(rows.labels, rows.valid))
        if self._probabilities is not None:
            self._probabilities.write(rows.row, encode_probabilities(rows.scores, rows.valid))
        if self._layer is not None:
            clean = rows if self._cleaner is None else self._cleaner.add(rows)
            if clean is not None:
                self._layer.add(self._polygons(clean))

    def _polygons(self, rows: Rows) -> Polygons:
        """What is final with these rows."""
        if self._cutter is not None:
            return self._cutter.add(rows)
        edges = None
        if self._crossings is not None:
            edges = self._crossings.add(rows.labels, rows.scores, rows.valid)
        return self._polygonizer.add(rows.labels, rows.confidence, edges)

    @property
    def notes(self) -> list[str]:
        """What a format could not keep, and what was too large to be cut, for the user."""
        written = self._layer.notes if self._layer is not None else []
        return [*written, *(self._cutter.notes if self._cutter is not None else [])]

    def finish(self) -> None:
        """No more rows come: the polygons that were still open are final now."""
        if self._layer is not None:
            if self._cleaner is not None and (rows := self._cleaner.finish()) is not None:
                self._layer.add(self._polygons(rows))
            self._layer.add((self._cutter or self._polygonizer).finish())


class ObjectOutputs:
    """Turns finished objects into features; counts what it wrote."""

    def __init__(
        self, grid: Grid, spec: ModelSpec, options: PredictOptions, *, vectors: VectorSink
    ) -> None:
        self._vectors, self._next = vectors, 1
        self._how: dict[str, Any] = {
            "transform": grid.transform,
            "crs": grid.crs,
            "classes": spec.names,
            "to_crs": flat_crs(options.crs) if options.crs else None,
            "regularize_m": options.regularize,
            "simplify_m": options.simplify,
            "smooth_m": options.smooth,
            "min_area_m2": options.min_area,
            "min_width_m": options.min_width,
            "attributes": options.attributes,
            "unit_m": unit_of(grid, spec.gsd),
        }
        self.counts = Counts()
        self.truncated = 0

    def write(self, objects: Objects) -> None:
        """Take in objects that no later tile changes."""
        frame = object_features(objects, first_id=self._next, **self._how)
        self._next += len(frame)
        self.truncated += int(frame["truncated"].sum())
        self.counts.add(frame["class"], frame["area_m2"])
        self._vectors.write(frame)

    @property
    def notes(self) -> list[str]:
        """What a format could not keep, and objects that could not be made whole."""
        cut = (
            f"{self.truncated} object{'s' * (self.truncated != 1)} may go on beyond the edge of a "
            "tile (column truncated): larger tiles or overlaps would show more of them"
        )
        return [*self._vectors.notes, *([cut] if self.truncated else [])]


@contextmanager
def open_outputs(
    path: Path | None,
    grid: Grid,
    native: Grid,
    spec: ModelSpec,
    options: PredictOptions,
    *,
    metadata: Mapping[str, str],
) -> Iterator[Outputs | ObjectOutputs]:
    """Open every output that was asked for; they appear together when the block ends well."""
    with together() as commit, ExitStack() as stack:
        rasters: dict[str, Any] = {"target": native if options.raster_grid == "scene" else None}
        common: dict[str, Any] = {
            "metadata": metadata,
            "overwrite": options.overwrite,
            "commit": commit,
        }
        if spec.finds_objects and path is not None:
            crs = output_crs(grid.crs, options.crs)
            points = {"keypoints": pa.string()} if spec.arguments.get("keypoints") else {}
            more = OBJECT_ATTRIBUTES if options.attributes else {}
            layout: dict[str, Any] = {"columns": OBJECT_COLUMNS | more | points}
            layout["geometry"] = "MultiPolygon"  # a mask may be in several pieces
            sink = stack.enter_context(VectorSink.open(path, crs=crs, **layout, **common))
            yield ObjectOutputs(grid, spec, options, vectors=sink)
            return
        layer = mask = probabilities = cutter = None
        if options.mask is not None:
            mask = stack.enter_context(
                RasterSink.open(
                    options.mask,
                    grid,
                    nodata=NO_CLASS,
                    colors={c.id: c.color for c in spec.classes if c.id != BACKGROUND},
                    names={c.id: c.name for c in spec.classes},
                    descriptions=["class"],
                    **rasters,
                    **common,
                )
            )
        if options.probabilities is not None:
            probabilities = stack.enter_context(
                RasterSink.open(
                    options.probabilities,
                    grid,
                    bands=len(spec.classes),
                    dtype="uint16",
                    nodata=PROBABILITY_NODATA,
                    scale=PROBABILITY_SCALE,
                    descriptions=[c.name for c in spec.classes],
                    overviews="average",
                    **rasters,
                    **common,
                )
            )
        if path is not None:
            # Without a CRS pixels are taken to be as large as the user says, or as the model's.
            where: dict[str, Any] = {"metadata": metadata, "commit": commit}
            where["unit_m"] = unit_of(grid, spec.gsd)
            layer = stack.enter_context(Layer.open(path, grid, spec.names, options, **where))
            if (cuts := options.cuts(spec)) is not None:
                # Pieces get vertices where cuts end on a neighbour: only clusters know of these.
                clusters = options.whole_clusters or options.crs is not None
                cutter = CuttingPolygonizer(
                    grid.width, cuts, folder=path.parent, whole_clusters=clusters
                )
                stack.callback(cutter.close)
        outputs = Outputs(
            grid,
            spec,
            options,
            layer=layer,
            mask=mask,
            probabilities=probabilities,
            cutter=cutter,
        )
        yield outputs
        outputs.finish()


def check_asked(
    path: Path | None, options: PredictOptions, *, inputs: Iterable[str | Path | None]
) -> None:
    """Refuse what could not be written at the end, or would destroy an input, beforehand."""
    rasters = [p for p in (options.mask, options.probabilities) if p is not None]
    asked = [*([path] if path else []), *rasters]
    if not asked:
        raise UsageError("nothing to write: give an output, mask or probabilities")
    if len({p.absolute() for p in asked}) != len(asked):
        raise UsageError("two outputs have the same name: give each its own")
    if path is not None:
        vector_format(path)
    for raster in rasters:
        check_raster_suffix(raster)
    for target in asked:
        for source in (Path(i) for i in inputs if i is not None):
            if same_file(target, source):
                raise UsageError(f"{target} is an input of this run: name another output")
        stale = vector_format(target).stale if target == path else STALE
        check_target(target, overwrite=options.overwrite, stale=stale)
    if options.crs is not None:
        flat_crs(options.crs)
