"""Overlapping scenes without doubled polygons: seams, pixels, objects, whole runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from archive import leftovers
from hypothesis import given, settings
from hypothesis import strategies as st
from models import bright_bundle
from numpy.typing import NDArray
from pyproj import CRS, Transformer

import geoseg
from geoseg import testing
from geoseg.batch import dedupe
from geoseg.batch.dataset import write_dataset
from geoseg.batch.dedupe import ROW, SCENE, Limits, Scene, deduped
from geoseg.batch.footprint import Coverage
from geoseg.batch.items import Item
from geoseg.batch.ledger import NAME, Ledger
from geoseg.batch.merge import object_rule
from geoseg.batch.outcome import Outcome, Output
from geoseg.batch.run import batch
from geoseg.batch.seams import Ground, Seams
from geoseg.errors import ConfigError, UsageError
from geoseg.grid import Grid, Tiling, plan
from geoseg.outputs import OBJECT_COLUMNS
from geoseg.sinks import VectorSink
from geoseg.vectorize.measure import area_perimeter

UTM = CRS("EPSG:32633")
EAST, NORTH = 500_000.0, 5_800_000.0

# Seams ------------------------------------------------------------------------------------------


@st.composite
def grounds(draw: st.DrawFn, most: int = 6) -> list[Ground]:
    """Scenes of any size and rotation, some with a hole, some exactly on another, or beside it."""
    number = st.integers(0, 40)
    out: list[Ground] = []
    for i in range(draw(st.integers(1, most))):
        if out and draw(st.integers(0, 4)) == 0:
            shape = draw(st.sampled_from(out)).shape
            step = draw(st.sampled_from([0.0, 0.5, 1.0])) * (shape.bounds[2] - shape.bounds[0])
            shape = moved(shape, step, 0)
        else:
            shape = shapely.box(0, 0, 5 + draw(number), 5 + draw(number))
            shape = turned(shape, draw(st.sampled_from([0.0, 0.0, 0.3, 1.1])))
            shape = moved(shape, draw(number), draw(number))
            if draw(st.booleans()):
                size = np.sqrt(shape.area) / 5
                shape = shape - shape.centroid.buffer(size, quad_segs=2)
        out.append(Ground(f"s{i}", shape, 0.01))
    return out


def moved(shape: Any, x: float, y: float) -> Any:
    return shapely.transform(shape, lambda points: points + np.array([x, y]))


def turned(shape: Any, angle: float) -> Any:
    turn = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return shapely.transform(shape, lambda points: points @ turn)


@settings(max_examples=100)
@given(grounds())
def test_each_place_belongs_to_the_scene_that_sees_it_deepest(several: list[Ground]) -> None:
    seams = Seams(several)
    owned = [g.shape - seams.foreign(i, 1e-6) for i, g in enumerate(several)]
    everything = shapely.union_all([g.shape for g in several])
    assert sum(shape.area for shape in owned) == pytest.approx(everything.area)  # no overlaps
    assert shapely.union_all(owned).area == pytest.approx(everything.area)  # no gaps
    points = np.random.default_rng(0).uniform(0, 80, (300, 2))
    for x, y in points:
        point = shapely.Point(x, y)
        depths = {
            i: depth(seams, i, x, y) for i, g in enumerate(several) if g.shape.contains(point)
        }
        best = [i for i, value in depths.items() if value > max(depths.values()) - 1e-6]
        if len(best) == 1 and everything.boundary.distance(point) > 1e-6:
            assert owned[best[0]].contains(point)


def depth(seams: Seams, index: int, x: float, y: float) -> float:
    edges = seams._depth(index)
    return min(((x - a) * c + (y - b) * d for a, b, c, d in edges), default=np.inf)


def test_seams_run_along_the_middle_of_overlaps() -> None:
    corners = [(0, 0), (8, 0), (0, 8), (8, 8)]
    seams = Seams(
        [
            Ground(str(i), shapely.box(x, y, x + 10, y + 10), 0.01)
            for i, (x, y) in enumerate(corners)
        ]
    )
    first = seams.grounds[0].shape - seams.foreign(0, 1e-6)
    assert first.symmetric_difference(shapely.box(0, 0, 9, 9)).area < 1e-9


def test_names_decide_where_scenes_are_the_same() -> None:
    square = shapely.box(0, 0, 10, 10)
    seams = Seams([Ground("a", square, 0.1), Ground("b", square, 0.1)])
    assert seams.foreign(0, 0).is_empty
    assert seams.foreign(1, 0).equals(square)
    with pytest.raises(ValueError, match="sorted by name"):
        Seams([Ground("b", square, 0.1), Ground("a", square, 0.1)])


# Features -----------------------------------------------------------------------------------------


@st.composite
def truths(draw: st.DrawFn) -> list[Any]:
    """Boxes that do not touch, of any length."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    found: list[Any] = []
    for _ in range(draw(st.integers(1, 15))):
        x, y = rng.uniform(0, 80, 2)
        w, h = rng.uniform(0.5, 30, 2) if rng.integers(3) else rng.uniform(0.5, 2, 2)
        shape = turned(shapely.box(0, 0, w, h), rng.uniform(0, 1.5))
        shape = moved(shape, x, y)
        if all(shape.distance(other) > 0.2 for other in found):
            found.append(shape)
    return found


def scene(ground: Ground, shapes: Sequence[Any], batches: int = 1, **columns: Any) -> Scene:
    """A scene with these polygons, which come in several parts."""
    geometry = np.array([*shapes, None], object)[:-1]
    area, perimeter = area_perimeter(geometry, None)
    content = {
        "class": ["thing"] * len(geometry),
        "class_id": np.ones(len(geometry), np.int32),
        "confidence": np.full(len(geometry), 0.5, np.float32),
        "confidence_min": np.full(len(geometry), 0.25, np.float32),
        "area_m2": area,
        "perimeter_m": perimeter,
        SCENE: ground.name,
        ROW: np.arange(len(geometry)),
        **columns,
    }
    frame = gpd.GeoDataFrame(content, geometry=geometry)

    def frames() -> Iterator[gpd.GeoDataFrame]:
        for rows in np.array_split(np.arange(len(frame)), batches):
            yield frame.iloc[rows]

    bounds = np.array([ground.shape.bounds, *(shape.bounds for shape in shapes)])
    extent = (*bounds[:, :2].min(0).tolist(), *bounds[:, 2:].max(0).tolist())
    return Scene(ground, extent, frames)


def every(frames: Iterator[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    several = list(frames)
    if not several:
        return scene(Ground("", shapely.Polygon(), 1.0), [], score=[]).frames().__next__()
    return pd.concat(several, ignore_index=True)


def of_pixels(frame: gpd.GeoDataFrame) -> NDArray[np.bool_]:
    return np.zeros(len(frame), np.bool_)


def of_objects(frame: gpd.GeoDataFrame) -> NDArray[np.bool_]:
    return np.ones(len(frame), np.bool_)


def polygons(shapes: Any) -> list[Any]:
    parts = shapely.get_parts(shapes)
    return [p for p in parts if p.geom_type == "Polygon" and p.area > 1e-4]


@settings(max_examples=40)
@given(grounds(), truths(), st.integers(1, 3))
def test_what_scenes_see_in_parts_comes_out_whole_and_once(
    several: list[Ground], truth: list[Any], batches: int
) -> None:
    """Against the obvious implementation: the union of all that all scenes see, in memory."""
    seen = [polygons(shapely.intersection(truth, g.shape)) for g in several]
    scenes = [scene(g, shapes, batches) for g, shapes in zip(several, seen, strict=True)]
    found = every(deduped(scenes, None, is_object=of_pixels))
    whole = polygons(
        shapely.union_all([shape for shapes in seen for shape in shapes], grid_size=1e-6)
    )
    wide = [p for p in whole if p.buffer(-0.02).area]
    mine = [p for p in found.geometry if p.buffer(-0.02).area]
    together = shapely.union_all(found.geometry.array)
    assert together.symmetric_difference(shapely.union_all(whole)).area < 0.1
    assert found.area.sum() == pytest.approx(together.area, abs=1e-3)  # nothing is there twice
    assert len(mine) == len(wide)
    assert np.sort([p.area for p in mine]) == pytest.approx(
        np.sort([p.area for p in wide]), abs=0.1
    )
    assert found["area_m2"].to_numpy() == pytest.approx(found.area.to_numpy())
    assert found["perimeter_m"].to_numpy() == pytest.approx(found.length.to_numpy())


@settings(max_examples=40)
@given(grounds(), truths(), st.integers(0, 9))
def test_objects_are_merged_as_if_all_were_in_memory(
    several: list[Ground], truth: list[Any], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scenes, frames = [], []
    for ground in several:
        near = [moved(shape, *rng.normal(0, 0.05, 2)) for shape in truth if rng.integers(6)]
        shapes = polygons(shapely.intersection(near, ground.shape))
        scores = rng.uniform(0.5, 1, len(shapes)).astype(np.float32)
        labels = rng.integers(1, 3, len(shapes)).astype(np.int32)
        truncated = np.zeros(len(shapes), np.bool_)
        columns = {"score": scores, "class_id": labels, "truncated": truncated}
        scenes.append(scene(ground, shapes, **columns))
        frames.extend(scenes[-1].frames())
    views = gpd.GeoDataFrame(
        {SCENE: [g.name for g in several]}, geometry=[g.shape for g in several]
    )
    layer = pd.concat(frames, ignore_index=True)
    expected = geoseg.merge_instances(layer, views, view=SCENE, label="class_id")
    found = every(deduped(scenes, None, is_object=of_objects))
    assert len(found) == len(expected)
    assert table(found) == pytest.approx(table(expected))


def table(frame: gpd.GeoDataFrame) -> NDArray[np.float64]:
    """Places, sizes and columns, in one order."""
    shapes, values = frame.geometry.array, frame[["score", "class_id"]].to_numpy(float)
    rows = np.column_stack([shapely.bounds(shapes), shapely.area(shapes), values]).round(6)
    return rows[np.lexsort(rows.T)]


def test_a_class_may_be_of_objects_and_another_of_pixels() -> None:
    one, two = (
        Ground("a", shapely.box(0, 0, 10, 10), 0.1),
        Ground("b", shapely.box(8, 0, 18, 10), 0.1),
    )
    house, wood = shapely.box(7, 1, 9.5, 3), shapely.box(2, 5, 16, 8)
    scenes = [
        scene(
            g,
            [s & g.shape for s in (house, wood)],
            **{"class": ["house", "wood"], "class_id": [1, 2]},
        )
        for g in (one, two)
    ]
    found = every(deduped(scenes, None, is_object=lambda f: (f["class"] == "house").to_numpy()))
    found = found.set_index("class")
    assert found.loc["house"].geometry.equals(house)
    assert found.loc["wood"].geometry.equals(wood)
    assert found["scenes"].tolist() == [2, 2]


def test_joined_polygons_tell_the_truth_about_themselves() -> None:
    one, two = (
        Ground("a", shapely.box(0, 0, 10, 10), 0.1),
        Ground("b", shapely.box(8, 0, 20, 10), 0.1),
    )
    wood = shapely.box(2, 5, 15.5, 8)
    more = {"confidence_std": np.array([0.1], np.float32), "compactness": 0.0, "vertices": 0}
    more |= {"orientation": 0.0, "length_m": 0.0, "width_m": 0.0}
    values = ((0.6, 0.2), (0.8, 0.4))
    scenes = [
        scene(g, [wood & g.shape], confidence=np.float32(v), confidence_min=np.float32(low), **more)
        for g, (v, low) in zip((one, two), values, strict=True)
    ]
    (row,) = every(deduped(scenes, None, is_object=of_pixels)).itertuples()
    assert row.confidence == pytest.approx(0.6 * 7 / 13.5 + 0.8 * 6.5 / 13.5)  # the seam is at 9
    assert row.confidence_min == pytest.approx(0.2)
    assert row.confidence_std == pytest.approx(np.hypot(0.1, 0.1), rel=1e-3)
    assert (row.area_m2, row.perimeter_m, row.vertices) == pytest.approx((40.5, 33, 4))
    assert (row.length_m, row.width_m) == pytest.approx((13.5, 3))
    assert (row.scene, row.scenes) == ("a", 2)


def test_strips_that_differences_of_grids_leave_go_and_limits_hold() -> None:
    one, two = (
        Ground("a", shapely.box(0, 0, 10, 10), 0.5),
        Ground("b", shapely.box(8, 0, 20, 10), 0.5),
    )
    alone = [shapely.box(8.7, 1, 9.8, 3), shapely.box(7, 5, 9.6, 8)]  # of a; b sees nothing
    scenes = [scene(one, alone), scene(two, [])]
    found = every(deduped(scenes, None, is_object=of_pixels))
    (left,) = found.geometry
    assert left.bounds == pytest.approx((7, 5, 9, 8))
    few = list(deduped(scenes, None, is_object=of_pixels, limits=Limits(min_area_m2=7)))
    assert sum(map(len, few)) == 0


def test_what_is_held_does_not_grow_with_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    add = dedupe._Joiner.add

    def counted(self: Any, index: int, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        out = add(self, index, frame)
        held.append(0 if self._held is None else len(self._held))
        return out

    monkeypatch.setattr(dedupe._Joiner, "add", counted)
    most = {}
    for count in (4, 16):
        strip = [
            Ground(f"{i:03}", shapely.box(8 * i, 0, 8 * i + 10, 10), 0.1) for i in range(count)
        ]
        dots = [
            moved(shapely.box(0, 0, 0.5, 0.5), x, y)
            for x in np.arange(0, 8 * count, 0.8)
            for y in range(9)
        ]
        scenes = [scene(g, polygons(shapely.intersection(dots, g.shape))) for g in strip]
        held.clear()
        assert sum(map(len, deduped(scenes, None, is_object=of_pixels))) == len(dots)
        most[count] = max(held)
    assert most[16] <= 1.3 * most[4]
    assert most[16] < 60


# Where data are -----------------------------------------------------------------------------------


def covered(valid: NDArray[np.bool_], transform: Affine) -> Any:
    source = testing.ArrayScene(np.zeros((1, *valid.shape), np.uint8), valid)
    coverage = Coverage(Grid(None, transform, *valid.shape))
    for chip in source.chips(plan(source.grid, Tiling(size=128, overlap=16, stride=1))):
        coverage(chip)
    return coverage.outline(Grid(None, transform, *valid.shape))


def test_a_full_scene_is_outlined_by_its_edges() -> None:
    transform = Affine(0.3, 0, EAST, 0, -0.3, NORTH)
    valid = np.ones((700, 1000), np.bool_)
    valid[::50, ::50] = False  # single dark pixels are no holes
    assert covered(valid, transform).equals(shapely.box(EAST, NORTH - 210, EAST + 300, NORTH))


def test_edges_of_nodata_and_large_holes_are_outlined() -> None:
    rows, cols = np.mgrid[:900, :1200]
    valid = (rows + cols > 600) & ((rows - 600) ** 2 + (cols - 800) ** 2 > 100**2)
    found = covered(valid, Affine.identity())
    triangle = shapely.Polygon([(0, 0), (600, 0), (0, 600)])
    hole = shapely.Point(800, 600).buffer(100)
    expected = shapely.box(0, 0, 1200, 900) - triangle - hole
    assert found.symmetric_difference(expected).area < 0.01 * expected.area
    assert shapely.get_num_coordinates(found) < 60
    assert covered(np.zeros((50, 50), np.bool_), Affine.identity()).is_empty


# Whole runs ---------------------------------------------------------------------------------------

FINE = 3  # pixels of the truth for one of a scene, along a side
SIZE, GSD = 480, 0.3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_bundle(tmp_path_factory.mktemp("models") / "bright")


def plant(count: int, seed: int, edge: tuple[int, int] = (25, 120)) -> NDArray[np.uint8]:
    """Rectangles that do not touch, on a finer grid."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((SIZE * FINE,) * 2, np.uint8)
    gap = 3 * FINE
    for _ in range(count):
        h, w = rng.integers(*edge, 2) * FINE
        r, c = rng.integers(0, SIZE * FINE - 20 * FINE, 2)
        if not truth[max(0, r - gap) : r + h + gap, max(0, c - gap) : c + w + gap].any():
            truth[r : r + h, c : c + w] = 1
    return truth


def cut_out(path: Path, truth: NDArray[np.uint8], row: int, col: int, size: int = SIZE) -> None:
    """A scene of the truth from there on (in its pixels)."""
    high, wide = (min(size, (SIZE * FINE - at) // FINE) * FINE for at in (row, col))
    middle = FINE // 2
    mask = truth[row + middle : row + high : FINE, col + middle : col + wide : FINE]
    step = GSD / FINE
    transform = Affine(GSD, 0, EAST + col * step, 0, -GSD, NORTH - row * step)
    testing.planted_scene(path, mask, seed=row + col, transform=transform)


def make_mosaic(folder: Path, truth: NDArray[np.uint8], *, shifted: bool) -> None:
    """Nine scenes that overlap by about 24 pixels; with `shifted` of other grids each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        for j in range(3):
            at = np.array([i, j]) * 152 * FINE
            if shifted:
                at = np.maximum(0, at + rng.integers(-12, 12, 2))
            cut_out(folder / f"s{i}{j}.tif", truth, *at.tolist(), size=180)


def run(source: Any, out: Path, model: Path, **options: Any) -> gpd.GeoDataFrame:
    options = {"dataset": "all.parquet", "device": "cpu", "precision": "float32", **options}
    batch(source, out, model=model, **options)
    return gpd.read_parquet(out / "all.parquet")


def best_iou(frame: gpd.GeoDataFrame, other: gpd.GeoDataFrame) -> NDArray[np.float64]:
    one, two = frame.geometry.array, other.geometry.array
    i, j = shapely.STRtree(two).query(one, "intersects")
    iou = shapely.area(shapely.intersection(one[i], two[j])) / shapely.area(
        shapely.union(one[i], two[j])
    )
    best = np.zeros(len(one))
    np.maximum.at(best, i, iou)
    return best


@pytest.mark.parametrize("shifted", [False, True])
def test_a_mosaic_in_scenes_is_as_if_predicted_at_once(
    model: Path, tmp_path: Path, shifted: bool
) -> None:
    truth = plant(60, seed=1)
    (tmp_path / "whole").mkdir()
    cut_out(tmp_path / "whole" / "all.tif", truth, 0, 0)
    make_mosaic(tmp_path / "in", truth, shifted=shifted)
    whole = run(tmp_path / "whole", tmp_path / "one", model)
    found = run(tmp_path / "in", tmp_path / "many", model, dedupe=True)
    plain = sum(len(gpd.read_parquet(p)) for p in (tmp_path / "many" / "polygons").iterdir())
    assert len(found) == len(whole) < plain
    assert best_iou(whole, found).min() > (0.95 if shifted else 1 - 1e-4)
    assert found["scenes"].max() >= 3
    area, perimeter = area_perimeter(np.asarray(found.geometry.array), UTM)
    assert found["area_m2"].to_numpy() == pytest.approx(area)
    assert found["perimeter_m"].to_numpy() == pytest.approx(perimeter)
    assert not leftovers(tmp_path)


def test_neither_order_nor_resuming_changes_a_byte(model: Path, tmp_path: Path) -> None:
    make_mosaic(tmp_path / "in", plant(60, seed=2), shifted=True)
    scenes = sorted((tmp_path / "in").iterdir())
    run(scenes, tmp_path / "one", model, dedupe=True)
    np.random.default_rng(0).shuffle(scenes)  # type: ignore[arg-type]
    run(scenes[:5], tmp_path / "two", model, dedupe=True)
    run(scenes[5:], tmp_path / "two", model, dedupe=True)
    one, two = ((tmp_path / name / "all.parquet").read_bytes() for name in ("one", "two"))
    assert one == two


def test_scenes_end_where_their_data_do(model: Path, tmp_path: Path) -> None:
    """Nodata in half of each scene, which the other one shows; and big scenes in parts."""
    truth = plant(60, seed=4)
    (tmp_path / "whole").mkdir()
    (tmp_path / "in").mkdir()
    cut_out(tmp_path / "whole" / "all.tif", truth, 0, 0)
    rows, cols = np.mgrid[:SIZE, :SIZE]
    for name, dark in (("a", rows + cols > 1.1 * SIZE), ("b", rows + cols < 0.9 * SIZE)):
        cut_out(tmp_path / "in" / f"{name}.tif", truth, 0, 0)
        with rasterio.open(tmp_path / "in" / f"{name}.tif", "r+") as raster:
            raster.write(np.where(dark, 0, raster.read()))
            raster.nodata = 0
    whole = run(tmp_path / "whole", tmp_path / "one", model)
    found = run(tmp_path / "in", tmp_path / "many", model, dedupe=True)
    assert len(found) == len(whole)
    assert best_iou(whole, found).min() > 1 - 1e-4
    split = run(tmp_path / "in", tmp_path / "split", model, dedupe=True, split=4, tile=128)
    assert len(split) == len(whole)
    assert valid(tmp_path / "split") == valid(tmp_path / "many")
    assert all(
        shapely.from_wkt(text).area < 0.7 * (SIZE * GSD) ** 2 for text in valid(tmp_path / "split")
    )


def valid(out: Path) -> list[str]:
    with Ledger.open(out / NAME, create=False) as ledger:
        return [e.outcome.valid or "" for e in ledger.entries() if e.outcome is not None]


def test_detections_of_two_scenes_become_one_dataset(tmp_path: Path) -> None:
    """Parts as a model of objects leaves them, in two CRS; both see one of three objects."""
    things = [shapely.box(20, 20, 30, 30), shapely.box(45, 10, 55, 90), shapely.box(80, 60, 95, 80)]
    left = [shapely.box(0, 0, 60, 100), shapely.box(40, 0, 100, 100)]
    with Ledger.open(tmp_path / NAME) as ledger:
        for i, (ground, code) in enumerate(zip(left, (32633, 3857), strict=True)):
            seen = [t & ground for t in things if t.intersects(ground)]
            count = len(seen)
            content = {
                "id": range(count),
                "class": ["thing"] * count,
                "class_id": np.ones(count, np.int32),
                "score": np.full(count, 0.5 + 0.1 * i, np.float32),
                "truncated": [False] * count,
            }
            shapes = [moved(t, EAST, NORTH) for t in seen]
            frame = gpd.GeoDataFrame(content, geometry=shapes, crs=UTM).to_crs(code)
            frame["area_m2"], frame["perimeter_m"] = area_perimeter(
                np.asarray(frame.geometry.array), frame.crs
            )
            path = f"s{i}.parquet"
            columns = OBJECT_COLUMNS
            with VectorSink.open(
                tmp_path / path, crs=frame.crs, columns=columns, geometry="MultiPolygon"
            ) as sink:
                sink.write(frame)
            ledger.enroll([Item(f"s{i}", f"s{i}")])
            valid = moved(ground, EAST, NORTH).wkt
            about = {"crs": "EPSG:32633", "gsd": 0.5}
            outcome = Outcome("done", polygons={"thing": count}, valid=valid, about=about)
            outcome = replace(outcome, outputs=(Output("polygons", path, 0, ""),))
            ledger.finish(f"s{i}", outcome)
        told: list[Any] = []
        how: dict[str, Any] = {"metadata": {}, "dedupe": True, "listener": told.append}
        assert write_dataset(tmp_path / "all.gpkg", ledger, tmp_path, **how) == 3
    assert "4 polygons of single scenes became 3" in told[-1]["message"]
    found = gpd.read_file(tmp_path / "all.gpkg").sort_values("area_m2")
    assert found.crs == "EPSG:4326"
    assert found["area_m2"].to_numpy() == pytest.approx([100, 300, 800], rel=2e-3)
    assert found["scenes"].tolist() == [1, 1, 2]
    assert found["score"].to_numpy() == pytest.approx([0.5, 0.6, 0.6])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [False, False]),
        ({"cut": 2.0}, [True, True]),
        ({"regularize": {"house": 1.0, "wood": 0.0}}, [True, False]),
        ({"regularize": {"house": 1.0}, "cut": {"wood": 3.0}}, [True, True]),
        ({"boundary": "edge", "cut": 0.0}, [True, True]),
    ],
)
def test_options_say_whose_outlines_are_of_objects(
    config: dict[str, Any], expected: list[bool]
) -> None:
    frame = gpd.GeoDataFrame({"class": ["house", "wood"]}, geometry=[shapely.Polygon()] * 2)
    assert object_rule(config)(frame).tolist() == expected
    assert object_rule({})(frame.assign(score=0.5)).all()


def test_it_can_be_asked_for_later(model: Path, tmp_path: Path) -> None:
    make_mosaic(tmp_path / "in", plant(60, seed=2), shifted=True)
    doubled = run(tmp_path / "in", tmp_path / "out", model)
    once = run(tmp_path / "in", tmp_path / "out", model, dedupe=True)
    again = run(tmp_path / "in", tmp_path / "out", model)
    assert len(once) < len(doubled) == len(again)
    assert "scenes" not in again.columns


def test_sheets_that_only_touch_are_joined(model: Path, tmp_path: Path) -> None:
    truth = plant(40, seed=3)
    (tmp_path / "in").mkdir()
    (tmp_path / "whole").mkdir()
    cut_out(tmp_path / "whole" / "all.tif", truth, 0, 0)
    for i in range(2):
        for j in range(2):
            size = SIZE // 2
            at = size * FINE
            cut_out(tmp_path / "in" / f"s{i}{j}.tif", truth, i * at, j * at, size=size)
    whole = run(tmp_path / "whole", tmp_path / "one", model)
    found = run(tmp_path / "in", tmp_path / "many", model, dedupe=True)
    assert len(found) == len(whole)
    assert best_iou(whole, found).min() > 1 - 1e-4


def test_scenes_of_two_zones_become_one_mosaic(model: Path, tmp_path: Path) -> None:
    """The same ground in the UTM zones 32 and 33, whose grids are turned against each other."""
    (tmp_path / "in").mkdir()
    lon, lat = 12.0, 52.0
    size, reach = 300, 45.0  # pixels; metres from the middle of a scene to that of the other
    zones = {32: 9, 33: 15}
    rng = np.random.default_rng(0)
    places = rng.uniform(-60, 60, (60, 2))
    things: list[Any] = []
    for x, y in places:
        thing = shapely.box(x, y, x + rng.uniform(5, 20), y + rng.uniform(5, 20))
        if all(thing.distance(t) > 2 for t in things):
            things.append(thing)
    local = CRS.from_proj4(f"+proj=laea +lon_0={lon} +lat_0={lat} +datum=WGS84")
    for side, zone in zip((-1, 1), zones, strict=True):
        crs = CRS(f"EPSG:326{zone}")
        there = Transformer.from_crs(local, crs, always_xy=True)
        x, y = there.transform(side * reach / 2, 0)
        transform = Affine(GSD, 0, x - size * GSD / 2, 0, -GSD, y + size * GSD / 2)
        rows, cols = np.mgrid[:size, :size] + 0.5
        where = there.transform(*(transform @ (cols, rows)), direction="INVERSE")
        mask = np.zeros((size, size), np.uint8)
        for thing in things:
            mask |= shapely.contains_xy(thing, *where)
        testing.planted_scene(
            tmp_path / "in" / f"z{zone}.tif", mask, transform=transform, crs=f"EPSG:326{zone}"
        )
    found = run(tmp_path / "in", tmp_path / "out", model, dedupe=True).to_crs(local)
    with Ledger.open(tmp_path / "out" / NAME, create=False) as ledger:
        assert all(e.outcome and e.outcome.valid for e in ledger.entries())
    middle = shapely.box(-60, -40, 60, 40)
    inner = gpd.GeoDataFrame(geometry=[t for t in things if middle.contains(t)], crs=local)
    assert best_iou(inner, found).min() > 0.9
    assert len(found[found.within(middle)]) == len(inner)
    assert (found["scenes"] == 2).any()


def test_nothing_to_merge(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        testing.planted_scene(tmp_path / "in" / f"{name}.tif", np.zeros((96, 96), np.uint8))
    found = run(tmp_path / "in", tmp_path / "out", model, dedupe=True)
    assert len(found) == 0
    assert {"class", "scene", "scenes"} <= set(found.columns)


def test_it_needs_a_dataset_and_single_polygons(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --dataset NAME, too"):
        batch(tmp_path, tmp_path / "out", model=model, dedupe=True)
    with pytest.raises(UsageError, match="leave out dissolve"):
        batch(tmp_path, tmp_path / "out", model=model, dedupe=True, dataset="a.fgb", dissolve=True)
