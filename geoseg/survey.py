"""`geoseg plan`: what a run over a scene would read, hold and take, without running it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoseg import registry, runtime
from geoseg.aoi import Aoi
from geoseg.bundle import Bundle
from geoseg.events import Listener, ignore
from geoseg.grid import Plan
from geoseg.loaded import Model, find_models, load_network
from geoseg.options import PredictOptions
from geoseg.planning import computed_share, cost_of, row_buffers
from geoseg.predict import check, lay_tiles, open_scene
from geoseg.scene import Scene


@dataclass(frozen=True, slots=True)
class Survey:
    """What a run would do. Sizes in pixels at the model's GSD, times in seconds, bytes."""

    scene: str
    model: str
    device: str
    gsd: float
    height: int
    width: int
    tiles: int
    tile_height: int
    tile_width: int
    computed_over_scene: float
    read_bytes: int
    row_buffer_bytes: int
    seconds_per_tile: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def survey(
    source: str | Path,
    *,
    model: Model = registry.DEFAULT_MODEL,
    listener: Listener = ignore,
    **options: Any,
) -> Survey:
    """Lay the tiles over `source` and time the model on one of them.

    `read_bytes` are those of the decoded pixels; tiles without data, which cost nothing in a
    run, are only known when they are read, so time and bytes are upper bounds.
    """
    opts = PredictOptions.of(options)
    bundles = [Bundle.open(path) for path in find_models(model)]
    spec = runtime.contract(bundles)
    with open_scene(source, spec, opts) as scene:
        aoi = Aoi.open(opts.area, scene.grid) if opts.area else None
        check(scene, spec, opts, aoi, listener)
        tiles = lay_tiles(scene, spec, opts, aoi)
        itemsize = scene.dtype.itemsize
        read = bytes_to_read(scene, tiles)
    network = load_network(bundles, opts)
    seconds = seconds_per_tile(network, (len(spec.bands), *tiles.tile_shape))
    return Survey(
        scene=scene.source,
        model=spec.id,
        device=network.description,
        gsd=spec.gsd,
        height=tiles.grid.height,
        width=tiles.grid.width,
        tiles=len(tiles),
        tile_height=tiles.tile_shape[0],
        tile_width=tiles.tile_shape[1],
        computed_over_scene=round(computed_share(tiles.grid, tiles), 3),
        read_bytes=read,
        row_buffer_bytes=row_buffers(tiles, cost_of(spec, itemsize)),
        seconds_per_tile=round(seconds, 4),
        seconds=round(seconds * len(tiles), 3),
    )


def bytes_to_read(scene: Scene, tiles: Plan) -> int:
    """Bytes of the decoded pixels that a run over these tiles takes from the file."""
    zoom = scene.native.pixels / scene.grid.pixels
    owned = sum(tile.write.pixels for tile in tiles.tiles)
    return round(owned * zoom * len(scene.bands) * scene.dtype.itemsize)


def seconds_per_tile(network: runtime.Runtime, shape: tuple[int, int, int]) -> float:
    """Seconds of a pass over (C, H, W): the second one; the first also sets up kernels."""
    tile = np.zeros((1, *shape), np.float32)
    network.predict(tile)
    started = time.perf_counter()
    network.predict(tile)
    return time.perf_counter() - started
