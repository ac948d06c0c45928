"""Pictures of a report: places with hits, misses and false alarms painted, scenes as a whole."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoseg.errors import SceneError
from geoseg.evaluate.count import Counted
from geoseg.evaluate.places import known
from geoseg.evaluate.predictions import Prediction
from geoseg.evaluate.sketch import ALARM, FILL, HIT, MISS, Pixels, rgb, sketch
from geoseg.grid import Grid, Window
from geoseg.metrics import IGNORE
from geoseg.scene import Scene
from geoseg.spec import Band

CROP, OVERVIEW = 400, 900  # pixels across
QUALITY = 72  # of JPEG
_RGB = tuple(Band(name, name) for name in ("red", "green", "blue"))


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG as a data address, and its size in pixels."""

    address: str
    width: int
    height: int


class View:
    """The image of a scene in windows of a prediction's grid; gray where there is none to see."""

    def __init__(self, scene: Scene | None, grid: Grid, close: ExitStack) -> None:
        self.scene, self.grid, self._close = scene, grid, close
        self.limits: NDArray[np.float64] | None = None  # (2, C) values shown black and white

    @classmethod
    def open(cls, file: Path, grid: Grid, pixel_m: float, step: float) -> Self:
        """At `step` pixels of the grid per pixel of the picture."""
        with ExitStack() as stack:
            scene = _open(file, pixel_m * step, pixel_m)
            if scene is not None:
                stack.enter_context(scene)
                if scene.crs != grid.crs or not _parallel(scene.grid, grid):
                    scene = None
            return cls(scene, grid, stack.pop_all())
        raise AssertionError("unreachable: an ExitStack without callbacks swallows nothing")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def read(self, window: Window, width: int) -> Pixels:
        """The window as a picture so wide."""
        height = max(1, round(width * window.height / max(1, window.width)))
        if self.scene is None:
            return np.full((height, width, 3), 225, np.uint8)
        data, valid = self.scene.read(self._there(window))
        if self.limits is None:
            self.limits = _limits(data, valid)
        image = np.moveaxis(_to_bytes(data, self.limits), 0, 2)
        image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
        image[~valid] = 255
        resized = Image.fromarray(np.ascontiguousarray(image)).resize(
            (width, height), Image.Resampling.LANCZOS
        )
        return np.array(resized)

    def _there(self, window: Window) -> Window:
        """The same ground in pixels of the scene's own grid."""
        if self.scene is None:
            raise AssertionError("there is no scene")
        move = ~self.scene.grid.transform @ self.grid.transform
        left, top = move @ (window.col, window.row)
        right, bottom = move @ (window.col_stop, window.row_stop)
        row, col = round(min(top, bottom)), round(min(left, right))
        return Window(
            row, col, max(1, round(abs(bottom - top))), max(1, round(abs(right - left)))
        ).intersection(Window(row, col, 20_000, 20_000))


def _open(file: Path, gsd: float, pixel_m: float) -> Scene | None:
    """Red, green and blue if the file has them, else its first bands."""
    for bands in (_RGB, (1, 2, 3), (1,)):
        try:
            with Scene.open(file) as plain:
                given = None if plain.gsd else pixel_m
            return Scene.open(file, bands=bands, gsd=gsd, scene_gsd=given)
        except SceneError:
            continue
    return None


def _parallel(one: Grid, other: Grid) -> bool:
    move = ~one.transform @ other.transform
    turned = max(abs(move.b), abs(move.d)) >= 1e-6 * abs(move.a)
    return bool(not turned and move.a > 0 and move.e > 0)


def _limits(data: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    if data.dtype == np.uint8 or not valid.any():
        return np.array([[0.0] * len(data), [255.0] * len(data)])
    return np.asarray(np.percentile(data[:, valid].astype(np.float64), (2, 98), axis=1))


def _to_bytes(data: NDArray[Any], limits: NDArray[np.float64]) -> Pixels:
    low, high = limits[:, :, None, None]
    scaled = (data - low) / np.maximum(high - low, 1e-9)
    return np.asarray(np.clip(scaled * 255, 0, 255), np.uint8)


def jpeg(pixels: Pixels) -> Picture:
    """A picture that lies in the page itself."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/jpeg;base64,{text}", pixels.shape[1], pixels.shape[0])


# --- places ---------------------------------------------------------------------------------


class Site:
    """A raster whose places are shown: image, truth and prediction, opened once."""

    def __init__(self, counted: Counted, prediction: Prediction, view: View) -> None:
        self.prediction, self.view = prediction, view
        self.truth = counted.case.labels(counted.grid)
        self.areas = counted.case.areas(counted.grid)
        self.legend = prediction.legend
        self.objects = counted.objects if counted.ranking is not None else None

    @classmethod
    @contextmanager
    def open(cls, counted: Counted, prediction: Prediction) -> Iterator[Self]:
        step = crop_step(counted)
        view = View.open(counted.case.file, counted.grid, counted.pixel_m, step)
        with prediction, view:
            yield cls(counted, prediction, view)

    def place(self, window: Window) -> list[tuple[str, Picture]]:
        """(caption, picture) of a block: the image, and what is right and wrong on it.

        Of objects with scores, and of pixels of one class, hits, misses and false alarms; of
        several classes the truth and the prediction.
        """
        longest = max(window.width, window.height)
        image = self.view.read(window, max(1, round(CROP * window.width / longest)))
        truth, predicted = self.truth.burn(window), self.prediction.labels(window)
        unknown = ~known(self.areas, window) | (truth == IGNORE) | (predicted == IGNORE)
        unknown, truth, predicted = (
            _resized(a, image.shape[:2]) for a in (unknown, truth, predicted)
        )
        if self.objects is not None:
            painted = {"compared": sketch(image, self.objects, window)}
        elif len(self.legend.classes) == 1:
            painted = {"compared": _painted(image, truth == 1, predicted == 1)}
        else:
            painted = {"truth": self._colored(image, truth)}
            painted["prediction"] = self._colored(image, predicted)
        pictures = {"image": image, **{k: _dim(p, unknown) for k, p in painted.items()}}
        return [(caption, jpeg(pixels)) for caption, pixels in pictures.items()]

    def _colored(self, image: Pixels, labels: NDArray[np.uint8]) -> Pixels:
        """The classes in their colours; the background stays as it is."""
        for label in range(self.legend.first, len(self.legend.labels)):
            image = _paint(image, labels == label, self.legend.labels[label].color, 0.6)
        return image


def _painted(image: Pixels, truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Pixels:
    layers = {HIT: truth & predicted, MISS: truth & ~predicted, ALARM: predicted & ~truth}
    for color, where in layers.items():
        image = _paint(image, where, color, FILL[color])
    return image


def _resized(array: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """The nearest pixels of (h, w) as (H, W)."""
    rows, cols = (
        np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1)
        for n, m in zip(shape, array.shape, strict=True)
    )
    return array[np.ix_(rows, cols)]


def _paint(image: Pixels, where: NDArray[np.bool_], color: str, alpha: float) -> Pixels:
    """Filled with the colour, and outlined with it in full."""
    out = image.astype(np.float32)
    inner = where.copy()
    for axis in (0, 1):
        for step in (1, -1):
            inner &= np.roll(where, step, axis)
    out[where] = out[where] * (1 - alpha) + rgb(color) * alpha
    out[where & ~inner] = rgb(color)
    return out.astype(np.uint8)


def _dim(image: Pixels, where: NDArray[np.bool_]) -> Pixels:
    """Ground that does not count: pale, so that it is seen but not read."""
    out = image.copy()
    out[where] = (out[where].astype(np.float32) * 0.3 + 255 * 0.7).astype(np.uint8)
    return out


def chosen(records: Sequence[dict[str, Any]], worst: int, least: float) -> list[tuple[int, str]]:
    """(index, 'worst' or 'typical') of the blocks that are shown.

    The worst by IoU of those where objects are or were predicted on at least `least` of the
    ground, and three around the median of these.
    """
    worth = [i for i, r in enumerate(records) if r["iou"] is not None and r["support"] >= least]
    worth.sort(key=lambda i: float(records[i]["iou"]))
    first = [(i, "worst") for i in worth[:worst]]
    middle = len(worth) // 2
    typical = worth[max(0, middle - 1) : middle + 2] if worst else []
    taken = {i for i, _ in first}
    return first + [(i, "typical") for i in typical if i not in taken]


# --- scenes ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Overview:
    """A scene, cut to its blocks, and where these lie on the picture: (x, y, width, height).

    objects: the same with what was found, missed, and not there; of objects with scores.
    """

    picture: Picture
    boxes: tuple[tuple[float, float, float, float], ...]
    objects: Picture | None


def overview(counted: Counted, view: View) -> Overview:
    """The part of a scene that has truth, with its blocks."""
    top = min(w.row for w in counted.windows)
    left = min(w.col for w in counted.windows)
    bottom = max(w.row_stop for w in counted.windows)
    right = max(w.col_stop for w in counted.windows)
    part = Window(top, left, bottom - top, right - left)
    longest = max(part.width, part.height)
    width = max(1, min(OVERVIEW, round(OVERVIEW * part.width / longest)))
    image = view.read(part, width)
    drawn = None if counted.ranking is None else jpeg(sketch(image, counted.objects, part))
    scale = width / part.width
    boxes = tuple(
        ((w.col - left) * scale, (w.row - top) * scale, w.width * scale, w.height * scale)
        for w in counted.windows
    )
    return Overview(jpeg(image), boxes, drawn)


def overview_step(counted: Counted) -> float:
    """Pixels of the grid per pixel of the overview."""
    rows = max(w.row_stop for w in counted.windows) - min(w.row for w in counted.windows)
    cols = max(w.col_stop for w in counted.windows) - min(w.col for w in counted.windows)
    return max(1.0, max(rows, cols) / OVERVIEW)


def crop_step(counted: Counted) -> float:
    """Pixels of the grid per pixel of a crop; less than 1 where the scene is finer."""
    edge = max(max(w.width, w.height) for w in counted.windows)
    return max(1e-3, edge / CROP) if edge else 1.0


def shade(iou: float | None) -> str:
    """Colour of an IoU: from purple (0) over teal to yellow (1), as viridis."""
    if iou is None:
        return "none"
    stops = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
    at = min(max(iou, 0.0), 1.0) * (len(stops) - 1)
    low = min(math.floor(at), len(stops) - 2)
    rgb = [a + (b - a) * (at - low) for a, b in zip(stops[low], stops[low + 1], strict=True)]
    return "#" + "".join(f"{round(v):02x}" for v in rgb)
