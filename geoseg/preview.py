"""A picture of the result: polygons over the image, with a legend and a scale bar.

Drawing happens in pixels of the picture, through the inverse of the raster's geotransform, so
rotated and south-up rasters and those without CRS need no care of their own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import SceneError, UsageError
from geoseg.sinks.atomic import replacing

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

Color = tuple[int, int, int]
SMOOTH = 2  # polygons are drawn this many times larger, and reduced
MARGIN = 0.05  # of the polygons' extent, around it
SPARSE = 0.5  # share of pixels with data below which only the busiest part is shown
COARSE = 256  # pixels, longer edge of the look at where the scene has data

# Bright and far apart in hue, seen well over aerial imagery.
PALETTE = ("#00d5ff", "#ffb000", "#ff4f79", "#8fe03c", "#c08bff", "#ff7a1a", "#1ed6a4", "#ffe94d")


@dataclass(frozen=True, slots=True)
class _View:
    """The part of the raster that is shown.

    `window` is (row, col, height, width) in pixels of the raster, `shape` (height, width) in
    pixels of the picture, `to_picture` is the 3 x 3 matrix from CRS coordinates to (x, y) in it.
    """

    window: tuple[int, int, int, int]
    shape: tuple[int, int]
    to_picture: NDArray[np.float64]


def preview(
    result: str | Path,
    scene: str | Path,
    output: str | Path,
    *,
    width: int = 1600,
    bounds: tuple[float, float, float, float] | None = None,
    alpha: float = 0.25,
    colors: dict[int, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Draw the polygons of `result` over the image `scene` into `output` (.png or .jpg).

    width: of the picture in pixels. bounds: (left, bottom, right, top) of the part to show, in
    the scene's CRS. alpha: opacity of the fill, 0 to 1. colors: class id -> #rrggbb.
    """
    output = Path(output)
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"{output}: pictures end in .png or .jpg")
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha must be from 0 to 1, not {alpha}")
    if bounds is not None and not (bounds[0] < bounds[2] and bounds[1] < bounds[3]):
        raise UsageError(f"bounds are left, bottom, right, top, in this order, not {bounds}")
    if not 64 <= width <= 16384:
        raise UsageError(f"the width must be from 64 to 16384 pixels, not {width}")
    with replacing(output, overwrite=overwrite) as temp:
        picture = render(result, scene, width=width, bounds=bounds, alpha=alpha, colors=colors)
        picture.save(temp, quality=92)  # of JPEG
    return output


def render(
    result: str | Path,
    scene: str | Path,
    *,
    width: int = 1600,
    bounds: tuple[float, float, float, float] | None = None,
    alpha: float = 0.25,
    colors: dict[int, str] | None = None,
) -> Image:
    """The picture that `preview` saves, as a Pillow image."""
    import rasterio
    from PIL import Image

    try:
        with _no_georeference_is_fine(), rasterio.open(scene) as raster:
            frame = _read_polygons(Path(result), raster.crs)
            _must_meet(frame, raster, Path(result))
            view = _view(raster, frame, width, bounds)
            pixels = _read_image(raster, view)
            pixel_metres = _pixel_metres(raster, view)
    except rasterio.errors.RasterioError as e:
        raise SceneError(f"{scene}: cannot be read ({e})") from e
    palette = _class_colors(frame, colors or {})
    image = Image.fromarray(pixels)
    shown = _draw(image, frame, view, palette, alpha)
    return _with_strip(image, shown, palette, pixel_metres)


@contextmanager
def _no_georeference_is_fine() -> Iterator[None]:
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


# --- reading ---------------------------------------------------------------------------------


def _read_polygons(path: Path, crs: Any) -> GeoDataFrame:
    """The polygons in the raster's CRS, with the columns class and class_id."""
    import geopandas as gpd
    import pyogrio
    from pyogrio.errors import DataSourceError
    from pyproj import CRS

    if not path.is_file():
        raise UsageError(f"{path} does not exist")
    try:
        if path.suffix.lower() in (".parquet", ".geoparquet"):
            frame = gpd.read_parquet(path)
        else:
            layers = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
            if not layers:
                raise UsageError(f"{path}: no layer with geometries")
            frame = gpd.read_file(path, layer=layers[0])
    except (DataSourceError, OSError, ValueError) as e:
        raise UsageError(f"{path}: no vector file that can be read ({e})") from e
    if crs is not None and frame.crs is None:
        raise UsageError(
            f"{path}: has no CRS, but the scene has one: assign the one that it was made in"
        )
    if crs is not None:
        frame = frame.to_crs(CRS.from_wkt(crs.to_wkt()))
    frame = frame[frame.geom_type.isin(["Polygon", "MultiPolygon"]) & ~frame.geometry.is_empty]
    if "class" not in frame.columns:
        frame["class"] = "polygons"
    if "class_id" not in frame.columns or frame["class_id"].dtype.kind not in "iu":
        frame["class_id"] = frame["class"].astype("category").cat.codes + 1
    return frame


def _must_meet(frame: GeoDataFrame, raster: Any, path: Path) -> None:
    """Refuse polygons of which none lies on the raster: the picture would look as if none were."""
    import shapely

    to_pixels = _to_pixels(raster)
    matrix, offset = to_pixels[:2, :2].T, to_pixels[:2, 2]
    pixels = shapely.transform(np.asarray(frame.geometry.array), lambda xy: xy @ matrix + offset)
    there = shapely.intersects(pixels, shapely.box(0, 0, raster.width, raster.height))
    if len(frame) and not there.any():
        spans = [
            f"{left:.8g} to {right:.8g}, {bottom:.8g} to {top:.8g}"
            for left, bottom, right, top in (frame.total_bounds, raster.bounds)
        ]
        raise UsageError(
            f"{path}: none of its polygons lies on {raster.name}: they span {spans[0]}, the scene "
            f"{spans[1]}; is it their scene, and is the CRS of both right?"
        )


def _view(
    raster: Any, frame: GeoDataFrame, width: int, bounds: tuple[float, float, float, float] | None
) -> _View:
    whole = (0, 0, raster.height, raster.width)
    if bounds is not None:
        window = _window_of(raster, bounds, 0.0)
        if window is None:
            raise UsageError(f"the bounds {bounds} lie outside of {raster.name}")
    else:
        window = _busiest_part(raster, frame) or whole
    row, col, height, cols = window
    factor = width / cols
    shape = (max(1, round(height * factor)), width)
    shift = np.array([[1, 0, -col], [0, 1, -row], [0, 0, 1]])
    scale = np.diag([width / cols, shape[0] / height, 1])
    return _View(window, shape, scale @ shift @ _to_pixels(raster))


def _to_pixels(raster: Any) -> NDArray[np.float64]:
    """The 3 x 3 matrix from CRS coordinates to (col, row)."""
    matrix: NDArray[np.float64] = np.array(raster.transform, dtype=np.float64).reshape(3, 3)
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _window_of(
    raster: Any, bounds: tuple[float, ...], margin: float
) -> tuple[int, int, int, int] | None:
    """Pixels of the raster around `bounds` (CRS units), widened by a share of their size."""
    left, bottom, right, top = bounds
    corners = np.array([[left, left, right, right], [bottom, top, bottom, top], [1, 1, 1, 1]])
    cols, rows, _ = _to_pixels(raster) @ corners
    border = margin * max(max(cols) - min(cols), max(rows) - min(rows)) + (32 if margin else 0)
    top_row = max(0, math.floor(min(rows) - border))
    left_col = max(0, math.floor(min(cols) - border))
    height = min(raster.height, math.ceil(max(rows) + border)) - top_row
    width = min(raster.width, math.ceil(max(cols) + border)) - left_col
    return (top_row, left_col, height, width) if height > 0 and width > 0 else None


def _busiest_part(raster: Any, frame: GeoDataFrame) -> tuple[int, int, int, int] | None:
    """Where a scene is almost empty (strips far apart): the part with the most polygons.

    The scene is cut along rows and columns without data, again and again, and the piece with
    the most polygons (or the most data, where there are none) is kept. None: show everything.
    """
    factor = max(1.0, max(raster.shape) / COARSE)
    shape = tuple(max(1, round(n / factor)) for n in raster.shape)
    data = raster.dataset_mask(out_shape=shape) > 0
    if data.mean() >= SPARSE or not data.any():
        return None
    weight = data.astype(np.float64)
    if len(frame):
        points = frame.geometry.representative_point()
        cols, rows, _ = _to_pixels(raster) @ np.array([points.x, points.y, np.ones(len(frame))])
        edges = (
            np.linspace(0, raster.height, shape[0] + 1),
            np.linspace(0, raster.width, shape[1] + 1),
        )
        weight = np.histogram2d(rows, cols, bins=edges)[0] + 1e-6 * weight
    part = [slice(0, shape[0]), slice(0, shape[1])]
    before = None
    while part != before and data[tuple(part)].mean() < SPARSE:
        before = list(part)
        for axis in (0, 1):
            inside = tuple(part)
            start, stop = _heaviest_run(
                data[inside].any(axis=1 - axis), weight[inside].sum(axis=1 - axis)
            )
            part[axis] = slice(part[axis].start + start, part[axis].start + stop)
    top, left = (
        math.floor(p.start * n / m) for p, n, m in zip(part, raster.shape, shape, strict=True)
    )
    bottom, right = (
        math.ceil(p.stop * n / m) for p, n, m in zip(part, raster.shape, shape, strict=True)
    )
    return top, left, bottom - top, right - left


def _heaviest_run(used: NDArray[np.bool_], weight: NDArray[np.float64]) -> tuple[int, int]:
    """(start, stop) of the run of used rows or columns that weighs most."""
    steps = np.flatnonzero(np.diff(np.concatenate([[False], used, [False]]).astype(np.int8)))
    runs = steps.reshape(-1, 2)
    start, stop = max(runs.tolist(), key=lambda run: float(weight[run[0] : run[1]].sum()))
    return start, stop


def _read_image(raster: Any, view: _View) -> NDArray[np.uint8]:
    """(H, W, 3): the first three bands (or one, as gray), nodata white."""
    from rasterio.enums import Resampling
    from rasterio.windows import Window

    row, col, height, width = view.window
    window = Window(col, row, width, height)
    bands = [1, 2, 3] if raster.count >= 3 else [1]
    coarser = view.shape[1] < width
    options = {"window": window, "out_shape": view.shape}
    mask = raster.dataset_mask(**options) > 0
    palette = raster.colorinterp[0].name == "palette" and len(bands) == 1
    if palette:
        table = raster.colormap(1)
        lookup = np.array([table.get(i, (0, 0, 0, 0))[:3] for i in range(256)], np.uint8)
        image = lookup[raster.read(1, **options)]
    else:
        resampling = Resampling.average if coarser else Resampling.bilinear
        data = raster.read(bands, resampling=resampling, **options)
        image = np.moveaxis(_to_bytes(data, mask), 0, 2)
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    image[~mask] = 255
    return np.ascontiguousarray(image)


def _to_bytes(data: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """uint8 as it is; other types stretched between the 2nd and 98th percentile of each band."""
    if data.dtype == np.uint8:
        return data
    values = data.astype(np.float64).real
    known = mask & np.isfinite(values).all(axis=0)
    stretched = np.zeros(data.shape, np.uint8)
    for band, target in zip(values, stretched, strict=True):
        if not known.any():
            continue
        low, high = np.percentile(band[known], (2, 98))
        scaled = (np.nan_to_num(band) - low) / max(high - low, 1e-12)
        target[:] = np.clip(scaled * 255, 0, 255).astype(np.uint8)
    return stretched


def _pixel_metres(raster: Any, view: _View) -> float | None:
    """Width of a pixel of the picture on the ground; None without CRS."""
    from pyproj import CRS, Geod, Transformer

    if raster.crs is None:
        return None
    middle = view.shape[0] / 2
    ends = np.linalg.inv(view.to_picture) @ [[0, view.shape[1]], [middle, middle], [1, 1]]
    lonlat = Transformer.from_crs(CRS.from_wkt(raster.crs.to_wkt()), 4326, always_xy=True)
    lon, lat = lonlat.transform(ends[0], ends[1])
    metres = float(Geod(ellps="WGS84").line_length(lon, lat))
    return metres / view.shape[1] if np.isfinite(metres) and metres > 0 else None


# --- drawing ---------------------------------------------------------------------------------


def _class_colors(frame: GeoDataFrame, given: dict[int, str]) -> dict[tuple[int, str], Color]:
    """(class_id, class) -> colour, in the order of the ids."""
    pairs = frame[["class_id", "class"]].drop_duplicates().sort_values("class_id")
    keys = [(int(i), str(name)) for i, name in pairs.itertuples(index=False)]
    texts = (given.get(key[0], PALETTE[(key[0] - 1) % len(PALETTE)]) for key in keys)
    return {key: _rgb(text) for key, text in zip(keys, texts, strict=True)}


def _rgb(text: str) -> Color:
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


def _draw(
    image: Image, frame: GeoDataFrame, view: _View, palette: dict[Any, Color], alpha: float
) -> dict[tuple[int, str], int]:
    """Draw onto the image, class by class; returns how many polygons of each are in sight."""
    import shapely
    from PIL import Image as Images
    from PIL import ImageDraw, ImageFilter

    matrix, offset = view.to_picture[:2, :2].T, view.to_picture[:2, 2]
    shapes = shapely.transform(
        np.asarray(frame.geometry.array), lambda xy: (xy @ matrix + offset) * SMOOTH
    )
    size = (image.width * SMOOTH, image.height * SMOOTH)
    seen = shapely.intersects(shapes, shapely.box(0, 0, *size))
    ids, names = frame["class_id"].to_numpy(), frame["class"].astype(str).to_numpy()
    counts = {}
    line = round(SMOOTH * max(1.5, image.width / 800))
    for (number, name), color in palette.items():
        chosen = shapes[seen & (ids == number) & (names == name)]
        counts[number, name] = len(chosen)
        chosen = chosen[np.argsort(-shapely.area(chosen))]  # what lies in a hole is drawn later
        fill, edge = Images.new("L", size), Images.new("L", size)
        fill_draw, edge_draw = ImageDraw.Draw(fill), ImageDraw.Draw(edge)
        for polygon in shapely.get_parts(chosen):
            _draw_polygon(polygon, fill_draw, edge_draw, line)
        image.paste(color, mask=fill.reduce(SMOOTH).point(lambda v: round(v * alpha)))
        # A dark halo keeps the bright line visible on bright ground.
        outline = edge.reduce(SMOOTH)
        halo = outline.filter(ImageFilter.BoxBlur(line / SMOOTH)).point(lambda v: v // 2)
        image.paste((0, 0, 0), mask=halo)
        image.paste(color, mask=outline)
    return counts


def _draw_polygon(polygon: Any, fill: Any, edge: Any, line: int) -> None:
    rings = [polygon.exterior, *polygon.interiors]
    points = [list(map(tuple, np.asarray(ring.coords)[:, :2].tolist())) for ring in rings]
    fill.polygon(points[0], fill=255)
    for hole in points[1:]:
        fill.polygon(hole, fill=0)
    for ring in points:
        edge.line(ring, fill=255, width=line, joint="curve")


def _with_strip(
    image: Image,
    counts: dict[tuple[int, str], int],
    palette: dict[tuple[int, str], Color],
    pixel_metres: float | None,
) -> Image:
    """The image above a strip with the classes, their numbers, and a scale bar."""
    from PIL import Image as Images
    from PIL import ImageDraw

    unit = max(12, image.width // 80)  # height of the letters
    font = _font(unit)
    items = [(palette[key], f"{key[1]}  {counts[key]:,}") for key in palette]
    items = items or [((200, 200, 200), "no polygons")]
    gap, pad = unit * 2, unit
    bar = None if pixel_metres is None else _scale_bar(image.width * 0.2, pixel_metres)
    reserved = pad if bar is None else round(bar[0]) + 2 * pad + gap
    places, x, y = [], pad, pad
    for color, text in items:
        needed = unit + unit // 2 + math.ceil(font.getlength(text))
        if x > pad and x + needed > image.width - reserved:
            x, y = pad, y + unit * 2
        places.append((x, y, color, text))
        x += needed + gap
    strip = Images.new("RGB", (image.width, y + 2 * unit), (255, 255, 255))
    draw = ImageDraw.Draw(strip)
    ink = (40, 40, 40)
    for x, y, color, text in places:
        pale = tuple(round(255 + (v - 255) * 0.5) for v in color)
        draw.rectangle((x, y, x + unit, y + unit), fill=pale, outline=color, width=2)
        draw.text((x + unit * 1.5, y + unit / 2), text, fill=ink, font=font, anchor="lm")
    if bar is not None:
        _draw_bar(draw, strip.width - pad, unit, bar, font, ink)
    whole = Images.new("RGB", (image.width, image.height + strip.height))
    whole.paste(image, (0, 0))
    whole.paste(strip, (0, image.height))
    return whole


def _scale_bar(longest: float, pixel_metres: float) -> tuple[float, str]:
    """(length in pixels, text) of the longest round distance of at most `longest` pixels."""
    power = 10.0 ** math.floor(math.log10(longest * pixel_metres))
    metres = next(m * power for m in (5, 2, 1) if m * power <= longest * pixel_metres)
    if metres >= 1000:
        text = f"{metres / 1000:g} km"
    else:
        text = f"{metres:g} m" if metres >= 1 else f"{metres * 100:g} cm"
    return metres / pixel_metres, text


def _draw_bar(
    draw: Any, right: int, unit: int, bar: tuple[float, str], font: Any, ink: Color
) -> None:
    length, text = bar
    left, base = right - length, round(unit * 2.1)
    tick = unit // 2
    draw.line(
        [(left, base - tick), (left, base), (right, base), (right, base - tick)],
        fill=ink,
        width=max(2, unit // 8),
    )
    draw.text(((left + right) / 2, base - unit // 3), text, fill=ink, font=font, anchor="ms")


def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
