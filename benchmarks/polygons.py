"""Cases of vectorize.py: a mask on disk to polygons in a GPKG, by geoseg and by others.

Runs in geoseg's environment, or for OpenCV in the peers'. Each side reads the same
GeoTIFF and writes one polygon per connected region with the number of its class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import numpy as np

GSD = 0.3
BLOCK = 512
CLASSES, SMOOTH = 6, 7.4  # land cover; the deviation of the smoothing, in pixels
DENSITY = 100_000 / 20_000**2  # buildings per pixel


# Masks -------------------------------------------------------------------------------------------


def buildings(out: str, size: int, seed: int) -> dict[str, Any]:
    """Rotated rectangles and L-shapes, 1 on 0."""
    import shapely
    from rasterio.features import rasterize

    if Path(out).exists():
        return {}
    rng = np.random.default_rng(seed)
    count = round(DENSITY * size**2)
    length, width = rng.uniform(25, 60, count), rng.uniform(15, 40, count)
    shapes = shapely.box(-length / 2, -width / 2, length / 2, width / 2)
    corner = shapely.box(length * 0.05, width * 0.05, length, width)
    shapes = np.where(rng.random(count) < 0.4, shapely.difference(shapes, corner), shapes)
    angle, place = rng.uniform(0, np.pi, count), rng.uniform(0, size, (count, 2))
    coords, owner = shapely.get_coordinates(shapes, return_index=True)
    x, y = coords.T
    cos, sin = np.cos(angle)[owner], np.sin(angle)[owner]
    turned = np.column_stack([x * cos - y * sin, x * sin + y * cos]) + place[owner]
    shapes = shapely.set_coordinates(shapes, turned)
    tree = shapely.STRtree(shapes)

    def rows(top: int, height: int) -> np.ndarray:
        near = shapes[tree.query(shapely.box(0, top, size, top + height))]
        shift = shapely.transform(near, lambda xy: xy - [0, top])
        return rasterize(shift, (height, size), dtype="uint8")

    _write(out, size, rows)
    return {}


def landcover(out: str, size: int, seed: int) -> dict[str, Any]:
    """The largest of smoothed noises, one for each of the classes 1 to 6."""
    from scipy.ndimage import gaussian_filter

    if Path(out).exists():
        return {}
    halo = int(4 * SMOOTH) + 1

    def noise(k: int, block: int) -> np.ndarray:
        rng = np.random.default_rng([seed, k, block % (2**31)])
        return rng.standard_normal((BLOCK, size), dtype=np.float32)

    def rows(top: int, height: int) -> np.ndarray:
        block = top // BLOCK
        best = np.full((height, size), -np.inf, np.float32)
        label = np.zeros((height, size), np.uint8)
        for k in range(CLASSES):
            field = np.concatenate([noise(k, block + d) for d in (-1, 0, 1)])
            field = field[BLOCK - halo : 2 * BLOCK + halo]
            field = gaussian_filter(field, SMOOTH, truncate=4)[halo : halo + height]
            better = field > best
            best[better], label[better] = field[better], k + 1
        return label

    _write(out, size, rows)
    return {}


def _write(out: str, size: int, rows: Any) -> None:
    import rasterio
    from affine import Affine

    part = Path(out).with_suffix(".part")
    how: dict[str, Any] = {"compress": "deflate", "tiled": True}
    how |= {"blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "IF_SAFER"}
    how |= {"crs": "EPSG:32645", "transform": Affine(GSD, 0, 350_000, 0, -GSD, 3_060_000)}
    with rasterio.open(
        part, "w", driver="GTiff", count=1, height=size, width=size, dtype="uint8", **how
    ) as file:
        for top in range(0, size, BLOCK):
            height = min(BLOCK, size - top)
            window = rasterio.windows.Window(0, top, size, height)
            file.write(rows(top, height), 1, window=window)
    part.rename(out)


# Sides -------------------------------------------------------------------------------------------


def geoseg(scene: str, out: str) -> dict[str, Any]:
    from geoseg import vectorize_raster

    result: dict[str, Any] = {}
    Path(out).unlink(missing_ok=True)
    with common.timed(result):
        found = vectorize_raster(scene, out)
    return result | {"polygons": sum(found.polygons.values())}


def rasterio_way(scene: str, out: str) -> dict[str, Any]:
    """As tutorials show it."""
    import geopandas as gpd
    import rasterio
    from rasterio.features import shapes
    from shapely.geometry import shape

    result: dict[str, Any] = {}
    Path(out).unlink(missing_ok=True)
    with common.timed(result):
        with rasterio.open(scene) as file:
            mask, transform, crs = file.read(1), file.transform, file.crs
        found = list(shapes(mask, mask=mask != 0, transform=transform))
        geometry = [shape(s) for s, _ in found]
        frame = gpd.GeoDataFrame(
            {"class_id": [int(v) for _, v in found]}, geometry=geometry, crs=crs
        )
        frame.to_file(out, driver="GPKG")
    return result | {"polygons": len(frame)}


def opencv(scene: str, out: str) -> dict[str, Any]:
    """Contours with holes, class by class; they run through the centres of pixels."""
    import cv2
    import geopandas as gpd
    import rasterio
    import shapely

    result: dict[str, Any] = {}
    Path(out).unlink(missing_ok=True)
    with common.timed(result):
        with rasterio.open(scene) as file:
            mask, transform, crs = file.read(1), file.transform, file.crs
        geometry, classes = [], []
        for number in np.unique(mask[mask != 0]).tolist():
            own = (mask == number).astype(np.uint8)
            rings, tree = cv2.findContours(own, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
            holes: dict[int, list[Any]] = {}
            points = [r[:, 0] for r in rings]
            for k, (_, _, _, parent) in enumerate(tree[0] if tree is not None else ()):
                if parent >= 0 and len(points[k]) > 2:
                    holes.setdefault(int(parent), []).append(points[k])
            for k, (_, _, _, parent) in enumerate(tree[0] if tree is not None else ()):
                if parent < 0 and len(points[k]) > 2:
                    geometry.append(shapely.Polygon(points[k], holes.get(k)))
                    classes.append(number)
        a, b, c, d, e, f = tuple(transform)[:6]
        moved = shapely.transform(
            np.array(geometry, object),
            lambda xy: np.column_stack(
                [a * xy[:, 0] + b * xy[:, 1] + c, d * xy[:, 0] + e * xy[:, 1] + f]
            ),
        )
        frame = gpd.GeoDataFrame({"class_id": classes}, geometry=moved, crs=crs)
        frame.to_file(out, driver="GPKG")
    return result | {"polygons": len(frame)}


def check(scene: str, out: str) -> dict[str, Any]:
    """How many pixels are of another class once the polygons are burnt again; how many invalid."""
    import geopandas as gpd
    import rasterio
    from rasterio.features import rasterize

    frame = gpd.read_file(out)
    with rasterio.open(scene) as file:
        mask, transform = file.read(1), file.transform
    pairs = zip(frame.geometry, frame["class_id"], strict=True)
    burnt = rasterize(pairs, mask.shape, transform=transform, dtype="uint8")
    off = [
        abs(frame.geometry[frame["class_id"] == k].area.sum() / GSD**2 - (mask == k).sum())
        for k in np.unique(mask[mask != 0])
    ]
    return {
        "different": int((burnt != mask).sum()),
        "invalid": int((~frame.is_valid).sum()),
        "area_off": float(max(off)),
    }


if __name__ == "__main__":
    common.child(
        {
            "buildings": buildings,
            "landcover": landcover,
            "geoseg": geoseg,
            "rasterio": rasterio_way,
            "opencv": opencv,
            "check": check,
        }
    )
