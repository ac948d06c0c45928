"""Cases of regularize.py: outlines of buildings along pixels, and what sides make of them.

Runs in geoseg's environment, or for buildingregulariser in the peers'. `truth` and `model` write
outlines with the label that each belongs to; the sides write theirs; `score` compares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import numpy as np

GSD = 0.3
LEAST = 20  # pixels of a building that counts


def _labels(place: str) -> tuple[Any, Any]:
    """(polygons, CRS): the labels in metres."""
    import geopandas as gpd

    files = [Path(place) / "buildings.gpkg", Path(place) / "banepa_center_buildings.gpkg"]
    frame = gpd.read_file(next(f for f in files if f.exists()))
    frame = frame.to_crs(frame.estimate_utm_crs()).explode(index_parts=False)
    return np.asarray(frame.geometry.array), frame.crs


def truth(place: str, out: str, model: str) -> dict[str, Any]:
    """The labels on pixels, each a polygon of its own."""
    import shapely
    from affine import Affine
    from rasterio.features import rasterize

    from geoseg.vectorize import Polygonizer, Polygons

    labels, crs = _labels(place)
    left, bottom, right, top = shapely.total_bounds(labels)
    transform = Affine(GSD, 0, left - 3, 0, -GSD, top + 3)
    shape = (int((top - bottom + 6) / GSD), int((right - left + 6) / GSD))
    numbered = [(label, number) for number, label in enumerate(labels, start=1)]
    mask = rasterize(numbered, out_shape=shape, transform=transform, dtype="int32")
    polygonizer = Polygonizer(shape[1], whole_clusters=True)
    found = Polygons.concat([polygonizer.add(mask), polygonizer.finish()])
    rows = np.flatnonzero(found.pixels >= LEAST)
    shapes = found.to_shapely(transform)
    _keep(out, shapes, found.cluster, labels[found.label[rows] - 1], rows, crs)
    return {}


def model(place: str, out: str, model: str) -> dict[str, Any]:
    """What a model predicts; of the labels those that it found."""
    import geopandas as gpd
    import shapely

    import geoseg
    from geoseg.vectorize.regularize.neighbours import joined

    labels, crs = _labels(place)
    folder = Path(place)
    images = [folder / "image.tif", *folder.glob("images/*.tif"), folder / "banepa_center.tif"]
    target = Path(out).with_suffix(".gpkg")
    image = next(i for i in images if i.exists())
    geoseg.predict(image, target, model=model, min_area=LEAST * GSD**2, overwrite=True)
    found = gpd.read_file(target).to_crs(crs).explode(index_parts=False)
    shapes, cluster = joined(np.asarray(found.geometry.array), 0.001)
    order = np.argsort(cluster, kind="stable")
    shapes, cluster = shapes[order], cluster[order]
    one, two = shapely.STRtree(labels).query(shapes, predicate="intersects")
    fit = _iou(shapes[one], labels[two]) >= 0.5
    _keep(out, shapes, cluster, labels[two[fit]], one[fit], crs)
    return {}


def _keep(out: str, shapes: Any, cluster: Any, labels: Any, rows: Any, crs: Any) -> None:
    import shapely

    np.savez(
        out,
        shapes=shapely.to_wkb(shapes),
        cluster=cluster,
        labels=shapely.to_wkb(labels),
        rows=rows,
        crs=crs.to_wkt(),
    )


def _open(file: str) -> tuple[Any, Any, str]:
    import shapely

    kept = np.load(file, allow_pickle=True)
    return shapely.from_wkb(kept["shapes"]), kept["cluster"], str(kept["crs"])


def _measured(out: str, shapes: Any, side: Any) -> dict[str, Any]:
    """Runs a side on a few polygons, then on all."""
    import shapely

    side(slice(0, 100))
    result: dict[str, Any] = {"polygons": len(shapes)}
    with common.timed(result):
        made = side(slice(None))
    np.savez(out, shapes=shapely.to_wkb(made))
    return result


def pixels(file: str, out: str) -> dict[str, Any]:
    shapes, _, _ = _open(file)
    return _measured(out, shapes, lambda rows: shapes[rows])


def douglas(file: str, out: str, tolerance: float) -> dict[str, Any]:
    import shapely

    shapes, _, _ = _open(file)
    return _measured(out, shapes, lambda rows: shapely.simplify(shapes[rows], tolerance))


def geoseg(file: str, out: str, tolerance: float) -> dict[str, Any]:
    """As vectorize and predict do it: clusters are known."""
    from pyproj import CRS

    from geoseg.vectorize.regularize import regular_shapes

    shapes, cluster, crs = _open(file)
    how = {"crs": CRS(crs)}
    return _measured(
        out,
        shapes,
        lambda rows: regular_shapes(shapes[rows], tolerance, groups=cluster[rows], **how),
    )


def buildingregulariser(file: str, out: str, tolerance: float) -> dict[str, Any]:
    """On one core, otherwise with its defaults; polygons that it loses are None."""
    import geopandas as gpd
    from buildingregulariser import regularize_geodataframe

    shapes, _, crs = _open(file)
    frame = gpd.GeoDataFrame({"number": np.arange(len(shapes))}, geometry=list(shapes), crs=crs)

    def side(rows: slice) -> Any:
        made = regularize_geodataframe(frame[rows], num_cores=1, simplify_tolerance=tolerance)
        back = np.full(len(frame[rows]), None, object)
        back[made["number"]] = made.geometry.array
        return back

    return _measured(out, shapes, side)


def score(file: str, out: str) -> dict[str, Any]:
    """A side's polygons against their labels."""
    import shapely

    kept = np.load(file, allow_pickle=True)
    labels = shapely.from_wkb(kept["labels"])
    made = shapely.from_wkb(np.load(out, allow_pickle=True)["shapes"])
    some = made[kept["rows"]]
    iou = np.nan_to_num(_iou(some, labels))  # 0 for those that are lost
    there = np.flatnonzero(~shapely.is_missing(some))
    far = shapely.hausdorff_distance(some[there], labels[there])
    valid = shapely.make_valid(made[~shapely.is_missing(made)])
    return {
        "polygons": len(some),
        "iou": iou.mean(),
        "iou_5": np.quantile(iou, 0.05),
        "hausdorff": far.mean(),
        "hausdorff_median": np.median(far),
        "vertices": shapely.get_num_coordinates(some[there]).mean() - 1,
        "right": np.mean([_right(shape) for shape in some[there]]),
        "overlap": shapely.area(valid).sum() - shapely.area(shapely.union_all(valid)),
        "lost": int(shapely.is_missing(made).sum()),
    }


def _iou(one: Any, two: Any) -> Any:
    import shapely

    common_ = shapely.area(shapely.intersection(one, two))
    return common_ / (shapely.area(one) + shapely.area(two) - common_)


def _right(shape: Any) -> float:
    """Share of the outline within a degree of the longest edge's direction or at right angles."""
    import shapely

    steps = np.diff(shapely.get_coordinates(shapely.get_exterior_ring(_largest(shape))), axis=0)
    length, angle = np.hypot(*steps.T), np.arctan2(steps[:, 1], steps[:, 0])
    turn = (angle - angle[length.argmax()] + np.pi / 4) % (np.pi / 2) - np.pi / 4
    return float(length[abs(turn) < np.radians(1)].sum() / length.sum())


def _largest(shape: Any) -> Any:
    import shapely

    parts = shapely.get_parts(shape)
    return parts[shapely.area(parts).argmax()]


if __name__ == "__main__":
    common.child(
        {
            "truth": truth,
            "model": model,
            "pixels": pixels,
            "douglas": douglas,
            "geoseg": geoseg,
            "buildingregulariser": buildingregulariser,
            "score": score,
        }
    )
