"""A real picture to try an imported model on: of the user's own raster, or the package's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoseg.bundle import Bundle
from geoseg.errors import SceneError
from geoseg.grid import Window, round_up
from geoseg.reading import normalize
from geoseg.registry import BUNDLED, DEFAULT_MODEL
from geoseg.spec import ModelSpec

EDGE = 256  # pixels, where the model leaves it open
_COLOURS = ("red", "green", "blue")


def real_chip(spec: ModelSpec, raster: Path | None) -> NDArray[np.float32]:
    """(1, C, H, W), scaled as the network wants it: from the middle of `raster`, or else roofs and
    trees in the golden sample of the default model, whose values are spread over the model's range;
    bands that it does not have are taken from those that it has."""
    edge = edge_of(spec)
    if raster is not None:
        return _of_raster(spec, raster, edge)
    seen = _package_picture()
    low, high = spec.value_range
    names = [(b.common_name or b.name).lower() for b in spec.bands]
    order = [_COLOURS.index(n) if n in _COLOURS else i % 3 for i, n in enumerate(names)]
    index = _mirrored(edge, seen.shape[1])
    values = low + seen[order][:, index][:, :, index] * (high - low)
    return _scaled(spec, values.astype(np.float32), np.ones((edge, edge), np.bool_))


def edge_of(spec: ModelSpec) -> int:
    """Of a picture to try: the network's only one, or a small one that its stride allows."""
    if spec.tiling.fixed:
        return spec.tiling.size
    return round_up(min(EDGE, spec.tiling.size), spec.tiling.stride)


def _of_raster(spec: ModelSpec, raster: Path, edge: int) -> NDArray[np.float32]:
    from geoseg.preflight import open_for, preflight

    with open_for(raster, spec) as scene:
        scaling = preflight(scene, spec).scaling
        row, col = ((n - edge) // 2 for n in (scene.grid.height, scene.grid.width))
        values, valid = scene.read(Window(max(row, 0), max(col, 0), edge, edge))
    if valid.mean() < 0.5:
        raise SceneError(f"{raster}: its middle has no data: take another sample")
    out = np.empty(values.shape, np.float32)
    normalize(values, valid, scaling, out=out)
    return out[None]


def _scaled(
    spec: ModelSpec, values: NDArray[np.float32], valid: NDArray[np.bool_]
) -> NDArray[np.float32]:
    out = np.empty(values.shape, np.float32)
    normalize(values, valid, spec.scaling, out=out)
    return out[None]


def _package_picture() -> NDArray[np.float32]:
    """(3, H, W) red, green, blue in 0..1."""
    bundle = Bundle.open(BUNDLED / DEFAULT_MODEL)
    scaling, (low, high) = bundle.spec.scaling, bundle.spec.value_range
    offset, scale = (
        np.array(v, np.float32)[:, None, None] for v in (scaling.offset, scaling.scale)
    )
    picture: NDArray[np.float32] = bundle.sample().input[0] * scale + offset
    return ((picture - low) / (high - low)).clip(0, 1)


def _mirrored(edge: int, length: int) -> NDArray[np.intp]:
    """Indexes that go forth and back over 0..length."""
    index = np.arange(edge) % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)
