"""From a scene to polygons.

A Scene is cut into Tiles; each Tile reads a Chip; a Runtime turns a batch of Chips into
Predictions; a Mosaic stitches them and yields Rows, or whole Objects; the Outputs turn these into
features and rasters and write them. Reading and the network run ahead in threads of their own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import geoseg
from geoseg import registry
from geoseg.aoi import Aoi
from geoseg.bundle import Bundle
from geoseg.events import Listener, Progress, ignore
from geoseg.grid import Plan, plan
from geoseg.instances.mosaic import InstanceMosaic
from geoseg.kept import Resuming
from geoseg.loaded import Loaded, Model
from geoseg.options import PredictOptions
from geoseg.outputs import check_asked, open_outputs
from geoseg.planning import cost_of, fit_memory
from geoseg.predictions import Chip
from geoseg.preflight import Finding, Preflight, open_for, preflight
from geoseg.reading import ahead
from geoseg.scene import Scene
from geoseg.spec import ModelSpec
from geoseg.stitch import Mosaic


@dataclass(frozen=True, slots=True)
class Result:
    """What a run did. Areas in square metres."""

    output: Path | None
    mask: Path | None
    probabilities: Path | None
    polygons: dict[str, int]
    area_m2: dict[str, float]
    tiles: int
    seconds: float
    model: str
    device: str
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        paths = {k: str(v) if (v := getattr(self, k)) else None for k in _PATHS}
        return {**asdict(self), **paths}


_PATHS = ("output", "mask", "probabilities")


def predict(
    source: str | Path,
    output: str | Path | None = None,
    *,
    model: Model | Loaded = registry.DEFAULT_MODEL,
    listener: Listener = ignore,
    on_chip: Callable[[Chip], None] | None = None,
    resume: bool = False,
    **options: Any,
) -> Result:
    """Segment the raster `source` and write polygons to `output`.

    `model` is a bundle (name, folder or zip), or several whose probabilities are averaged; or
    one that is `Loaded`, to use it for many scenes.
    `options` are the fields of `geoseg.options.PredictOptions`. `listener` is called with events
    (see geoseg.events), `on_chip` with each chip that is read, in the thread that reads. With
    `resume` what the network says is kept beside the output until all is done, and a run goes on
    with what an earlier one has left there. Raises a GeosegError; then no output has been touched.
    """
    opts = PredictOptions.of(options)
    path = Path(output).expanduser() if output is not None else None
    loaded = model if isinstance(model, Loaded) else Loaded(model)
    check_asked(path, opts, inputs=(source, opts.aoi, *loaded.paths))
    spec = loaded.spec(opts)
    opts.must_suit(spec)
    first = path or opts.mask or opts.probabilities
    if resume and first:
        loaded = Resuming(loaded, first, listener)
    started = time.perf_counter()

    with open_scene(source, spec, opts) as scene:
        aoi = Aoi.open(opts.area, scene.grid) if opts.area else None
        contract = check(scene, spec, opts, aoi, listener)
        tiles = lay_tiles(scene, spec, opts, aoi)
        network = loaded.network(opts)
        order = {tile.index: i for i, tile in enumerate(tiles.tiles, start=1)}
        progress = Progress(
            listener, order, scene=scene.source, model=spec.id, device=network.description
        )
        mosaic = new_mosaic(tiles, spec, opts, aoi)
        metadata = _metadata(scene.source, loaded.bundles, network.description, opts)
        predictions = ahead(loaded.predictions(scene, tiles, contract.scaling, opts, on_chip))
        with (
            closing(predictions),  # the last: an interrupt cleans up before it waits for a tile
            open_outputs(path, scene.grid, scene.native, spec, opts, metadata=metadata) as out,
        ):
            for prediction in predictions:
                for finished in mosaic.add(prediction):
                    out.write(finished)
                progress.update(prediction.tile)
            for finished in mosaic.finish():
                out.write(finished)
    if isinstance(loaded, Resuming):
        loaded.forget()
    for note in [*out.notes, *mosaic.notes]:
        listener({"event": "info", "topic": "output", "message": note})
    result = Result(
        output=path,
        mask=opts.mask,
        probabilities=opts.probabilities,
        polygons=dict(out.counts.polygons),
        area_m2=dict(out.counts.area_m2),
        tiles=len(tiles),
        seconds=time.perf_counter() - started,
        model=spec.id,
        device=network.description,
        findings=contract.findings,
    )
    listener({"event": "result", **result.as_dict()})
    return result


def open_scene(source: str | Path, spec: ModelSpec, options: PredictOptions) -> Scene:
    """The scene as the model wants it and the options say."""
    return open_for(source, spec, bands=options.bands, nodata=options.nodata, scene_gsd=options.gsd)


def check(
    scene: Scene,
    spec: ModelSpec,
    options: PredictOptions,
    aoi: Aoi | None,
    listener: Listener = ignore,
) -> Preflight:
    """Hold the scene against the model's contract and tell what differs."""
    contract = preflight(scene, spec, stretch=options.stretch, aoi=aoi)
    for finding in contract.findings:
        listener({"event": finding.level, "topic": finding.topic, "message": finding.message})
    return contract


def lay_tiles(scene: Scene, spec: ModelSpec, options: PredictOptions, aoi: Aoi | None) -> Plan:
    """The plan of a run: tiles as large as the memory for one row of them allows."""
    tiling = fit_memory(options.tiling(spec), scene.grid.width, cost_of(spec, scene.dtype.itemsize))
    return plan(scene.grid, tiling, keep=aoi.intersects if aoi else None)


def new_mosaic(tiles: Plan, spec: ModelSpec, options: PredictOptions, aoi: Aoi | None) -> Any:
    """What makes one of the predictions of all tiles: a Mosaic of pixels, or one of objects.

    Its `add` takes what the model gives, and yields what `write` of its outputs takes.
    """
    mask = aoi.mask if aoi else None
    if spec.finds_objects:
        return InstanceMosaic(tiles, threshold=spec.threshold, mask=mask, merge=options.merge)
    ids = [c.id for c in spec.classes]
    return Mosaic(tiles, ids, mode=options.stitch, threshold=spec.threshold, mask=mask)


def _metadata(
    source: str, bundles: list[Bundle], device: str, options: PredictOptions
) -> dict[str, str]:
    """What is written into the outputs, so that a file tells how it was made."""
    return {
        "geoseg:version": geoseg.__version__,
        "geoseg:model": ", ".join(b.spec.id for b in bundles),
        "geoseg:scene": source,
        "geoseg:device": device,
        "geoseg:options": json.dumps(options.model_dump(mode="json"), sort_keys=True),
    }
