"""Objects that touch, cut apart: by shape, by confidence, by a boundary; in an array, in a run."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import bright_bundle
from rasterio.features import rasterize
from scipy import ndimage
from shapely import affinity

import geoseg
from geoseg import testing
from geoseg.cli import cli
from geoseg.data.borders import bordered
from geoseg.errors import DataError, MissingDependencyError, UsageError
from geoseg.grid import Tiling
from geoseg.instances import cut as cutting
from geoseg.instances.cut import Cuts, CuttingPolygonizer
from geoseg.instances.split import LEAST_STEP, Necks, split_objects
from geoseg.options import PredictOptions
from geoseg.predictions import Rows
from geoseg.runtime.fake import fake_spec
from geoseg.spec import ClassInfo
from geoseg.vectorize import Polygonizer, Polygons, features

ROWS, COLS = np.mgrid[:96, :96] + 0.5


def disc(row: float, col: float, radius: float) -> np.ndarray:
    return (ROWS - row) ** 2 + (COLS - col) ** 2 < radius**2


def blobs(seed: int, shape: tuple[int, int], grain: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels 0, 1 and 2, and a confidence that is a multiple of 1/255."""
    rng = np.random.default_rng(seed)
    hills = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, grain, grain))
    labels = np.where(hills[0] > 0, 1, 0).astype(np.uint8)
    labels[(hills[1] > hills[1].std()) & (labels > 0)] = 2
    rough = ndimage.gaussian_filter(rng.random(shape), 1)
    low, high = rough.min(), rough.max()
    confidence = np.rint(255 * (0.3 + 0.7 * (rough - low) / max(high - low, 1e-9))) / 255
    return labels, confidence.astype(np.float32)


any_blobs = st.builds(
    blobs,
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from([0.7, 1.5, 3.0]),
)


# --- shapes ---------------------------------------------------------------------------------


@st.composite
def convex_things(draw: st.DrawFn) -> np.ndarray:
    number = st.floats(0, 1)
    match draw(st.sampled_from(["box", "ellipse", "hull"])):
        case "box":
            thing = shapely.box(0, 0, 3 + 77 * draw(number), 1.5 + 28 * draw(number))
        case "ellipse":
            thing = affinity.scale(
                shapely.Point(0, 0).buffer(1, 64), 1.5 + 38 * draw(number), 1 + 19 * draw(number)
            )
        case _:
            points = draw(st.lists(st.tuples(number, number), min_size=3, max_size=8))
            thing = affinity.scale(
                shapely.MultiPoint(points).convex_hull, 80 * draw(number), 80 * draw(number)
            )
    thing = affinity.rotate(thing, 180 * draw(number))
    middle = thing.centroid
    thing = affinity.translate(
        thing, 48 - middle.x + draw(number) - 0.5, 48 - middle.y + draw(number) - 0.5
    )
    return shapely.contains_xy(thing, COLS, ROWS)


@given(convex_things())
@settings(max_examples=250)
def test_convex_things_stay_whole(mask: np.ndarray) -> None:
    assume(ndimage.label(mask)[1] == 1)
    assert (split_objects(mask, neck_m=1000, step_m=0) == mask).all()


@given(
    radius=st.floats(8, 20),
    share=st.floats(0.2, 0.6),
    angle=st.floats(0, np.pi),
    pixel=st.floats(0.05, 10),
)
def test_two_discs_are_cut_at_their_neck(
    radius: float, share: float, angle: float, pixel: float
) -> None:
    half_neck = share * radius
    wedge = 1 / np.tan(np.arcsin(share))  # the last pixels between the two are narrower than one
    assume(2 * (radius - half_neck) > LEAST_STEP + wedge + 2)
    half = np.sqrt(radius**2 - half_neck**2)  # of the way between the centres
    away = half * np.array([np.sin(angle), np.cos(angle)])
    one, two = disc(*(48 - away), radius), disc(*(48 + away), radius)
    both, how = one | two, {"pixel_m": pixel, "step_m": 0.0}
    neck_m = 2 * half_neck * pixel
    pieces = split_objects(both, neck_m=neck_m + (wedge + 2) * pixel, **how)
    assert pieces.max() == 2
    assert ((pieces > 0) == both).all()
    along = ((ROWS - 48) * away[0] + (COLS - 48) * away[1]) / half
    first = pieces == pieces[tuple((48 - away).astype(int))]
    assert along[first].max() <= 2.5  # pixels beyond the straight line between the two
    assert along[both & ~first].min() >= -2.5
    # a neck as wide as is asked for, as pixels can say it, is none
    assert split_objects(both, neck_m=neck_m - 3 * pixel, **how).max() == 1


def test_both_sides_have_to_be_wider() -> None:
    mask = disc(48, 30, 20) | ((abs(ROWS - 48) < 4) & (COLS > 30) & (COLS < 90))
    assert split_objects(mask, neck_m=20).max() == 1  # a tail is no object
    mask |= disc(48, 80, 5)
    assert split_objects(mask, neck_m=20, step_m=4).max() == 1
    assert split_objects(mask | disc(48, 80, 9), neck_m=20, step_m=4).max() == 2


def test_small_pieces_join_their_widest_neighbour() -> None:
    mask = disc(48, 20, 14) | disc(48, 40, 9) | disc(48, 61, 14)
    pieces = split_objects(mask, neck_m=20)
    assert pieces.max() == 3
    small = np.bincount(pieces[mask]).astype(int)[1:].min()
    merged = split_objects(mask, neck_m=20, min_area_m2=small + 1)
    assert merged.max() == 2
    assert ((merged > 0) == mask).all()
    assert split_objects(mask, neck_m=20, min_area_m2=10**6).max() == 1
    # alone, even something small is an object
    assert split_objects(disc(48, 48, 2), neck_m=20, min_area_m2=100).max() == 1


def test_low_confidence_is_a_neck() -> None:
    row_of_houses = (abs(ROWS - 48) < 10) & (abs(COLS - 48) < 40)
    confidence = np.full(row_of_houses.shape, 0.99)
    confidence[:, [27, 28, 48, 49, 68, 69]] = 0.6  # of rows of houses the shape says nothing
    assert split_objects(row_of_houses, neck_m=15).max() == 1
    pieces = split_objects(row_of_houses, neck_m=15, confidence=confidence)
    assert pieces.max() == 4
    assert [pieces[48, c] for c in (20, 40, 60, 80)] == [1, 2, 3, 4]


def test_a_boundary_goes_to_the_nearest_object() -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[5:35, 5:55] = 1
    boundary = np.zeros(labels.shape, bool)
    boundary[5:35, 28:32] = True
    boundary[[5, 34], 5:55] = boundary[5:35, [5, 54]] = True
    pieces = split_objects(labels, neck_m=0, boundary=boundary)
    assert (pieces[5:35, 5:30] == 1).all()
    assert (pieces[5:35, 30:55] == 2).all()
    boundary[:] = labels  # nothing but boundary is one object
    assert (split_objects(labels, neck_m=0, boundary=boundary) == labels).all()


@given(any_blobs, st.floats(0, 20), st.booleans(), st.integers(0, 30))
def test_pieces_partition_each_object(
    blob: tuple[np.ndarray, np.ndarray], neck: float, sure: bool, least: int
) -> None:
    labels, confidence = blob
    given_too = {"confidence": confidence, "boundary": confidence < 0.45} if sure else {}
    pieces = split_objects(labels, neck_m=neck, min_area_m2=least, **given_too)
    assert pieces.dtype == np.int32
    assert ((pieces > 0) == (labels > 0)).all()
    assert set(np.unique(pieces)) - {0} == set(range(1, pieces.max() + 1))
    for number in range(1, pieces.max() + 1):
        own = pieces == number
        assert ndimage.label(own)[1] == 1
        assert len(np.unique(labels[own])) == 1
        if own.sum() < least:  # it had no neighbour
            around = ndimage.binary_dilation(own) & ~own
            assert not (labels[around] == labels[own][0]).any()


def test_what_makes_no_sense_is_refused() -> None:
    mask = np.ones((4, 4), np.uint8)
    for bad in ({"neck_m": -1}, {"neck_m": np.nan}, {"neck_m": 1, "pixel_m": 0}):
        with pytest.raises(UsageError, match="_m: "):
            split_objects(mask, **bad)
    with pytest.raises(UsageError, match="confidence: its shape"):
        split_objects(mask, neck_m=1, confidence=np.ones((3, 4)))
    with pytest.raises(UsageError, match="integers"):
        split_objects(mask.astype(float), neck_m=1)


def test_without_scikit_image_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(MissingDependencyError, match=r"geoseg\[instances\]"):
        split_objects(np.ones((9, 9), np.uint8), neck_m=1)
    with pytest.raises(MissingDependencyError, match="scikit-image"):
        CuttingPolygonizer(9, Cuts((1,), {}), folder=tmp_path)


# --- as the rows pass -----------------------------------------------------------------------


def stream(
    labels: np.ndarray, confidence: np.ndarray, cuts: Cuts, folder: Path, *, band: int, **how: bool
) -> Polygons:
    cutter = CuttingPolygonizer(labels.shape[1], cuts, folder=folder, **how)
    batches = []
    for top in range(0, len(labels), band):
        part = labels[top : top + band], confidence[top : top + band]
        batches.append(cutter.add(Rows(top, *part, part[0] > 0, part[1][None])))
    batches.append(cutter.finish())
    cutter.close()
    return Polygons.concat(batches)


def painted(polygons: Polygons, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) the number of each polygon, from 1 on, and 0; they may not overlap."""
    out = np.zeros(shape, np.int32)
    for number, geometry in enumerate(polygons.to_shapely(), start=1):
        own = rasterize([geometry], out_shape=shape, transform=Affine.identity()) > 0
        assert not out[own].any()
        out[own] = number
    return out


@given(any_blobs, st.integers(1, 80), st.booleans(), st.floats(0, 12), st.integers(0, 30))
@settings(max_examples=60)
def test_streaming_says_what_the_array_says(
    tmp_path_factory: pytest.TempPathFactory,
    blob: tuple[np.ndarray, np.ndarray],
    band: int,
    clusters: bool,
    neck: float,
    least: int,
) -> None:
    labels, confidence = blob
    folder = tmp_path_factory.getbasetemp()
    cuts = Cuts((1, 2), dict.fromkeys((1, 2), Necks.of(neck, None, least, 1.0)))
    got = stream(labels, confidence, cuts, folder, band=band, whole_clusters=clusters)
    wanted = split_objects(labels, neck_m=neck, min_area_m2=least, confidence=confidence)
    numbers = painted(got, labels.shape)
    pairs = np.unique(np.stack([numbers.ravel(), wanted.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(numbers)) == len(np.unique(wanted))
    index = np.arange(1, len(got) + 1)
    if len(got):
        np.testing.assert_array_equal(got.pixels, np.bincount(numbers.ravel())[1:])
        np.testing.assert_array_equal(got.label, ndimage.maximum(labels, numbers, index))
        mean = ndimage.mean(confidence, numbers, index)
        np.testing.assert_allclose(got.confidence_mean, mean, atol=1e-5)
        least_of = ndimage.minimum(confidence, numbers, index)
        np.testing.assert_allclose(got.confidence_min, least_of, atol=1e-5)
        for geometry, box in zip(got.to_shapely(), got.bbox, strict=True):
            assert geometry.bounds == tuple(box)
    assert (np.diff(got.cluster) >= 0).all()
    # and with all rows at once
    once = stream(labels, confidence, cuts, folder, band=10**6, whole_clusters=clusters)
    for name in Polygons.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(got, name), getattr(once, name))


def test_pieces_simplify_without_gaps(tmp_path: Path) -> None:
    labels, confidence = blobs(3, (300, 300), 5.0)
    cuts = Cuts((1, 2), dict.fromkeys((1, 2), Necks.of(8.0, None, 0.0, 1.0)))
    got = stream(labels, confidence, cuts, tmp_path, band=64, whole_clusters=True)
    uncut = Polygonizer(300, whole_clusters=True)
    assert len(got) > sum(map(len, (uncut.add(labels), uncut.finish()))) + 20
    assert shapely.coverage_is_valid(got.to_shapely())
    frame = features(got, transform=Affine.identity(), crs=None, classes={}, simplify_m=2.0)
    assert len(frame) == len(got)
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())


def test_classes_without_necks_and_uncut_polygons_are_untouched(tmp_path: Path) -> None:
    labels, confidence = blobs(3, (300, 300), 5.0)
    confidence = confidence + np.float32(0.0007)  # what 1/255 cannot say
    plain = Polygonizer(300)
    wanted = Polygons.concat([plain.add(labels, confidence), plain.finish()])
    got = stream(labels, confidence, Cuts((1, 2), {}), tmp_path, band=50)
    for name in Polygons.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
    cuts = Cuts((1, 2), {1: Necks.of(8.0, None, 0.0, 1.0)})
    for clusters in (False, True):
        got = stream(labels, confidence, cuts, tmp_path, band=50, whole_clusters=clusters)
        assert (got.label == 2).sum() == (wanted.label == 2).sum()
        assert (got.label == 1).sum() > (wanted.label == 1).sum()
        same = [sorted(p.confidence_mean[p.label == 2].tolist()) for p in (got, wanted)]
        assert same[0] == same[1]


def test_too_large_to_be_cut_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = (disc(48, 34, 16) | disc(48, 62, 16)).astype(np.uint8)
    cuts, sure = Cuts((1,), {1: Necks.of(25.0, None, 0.0, 1.0)}), np.ones(mask.shape, np.float32)
    assert len(stream(mask, sure, cuts, tmp_path, band=96)) == 2
    for name in ("LARGEST", "LARGEST_CLUSTER"):
        with monkeypatch.context() as patch:
            patch.setattr(cutting, name, 100)
            cutter = CuttingPolygonizer(96, cuts, folder=tmp_path)
            batches = [cutter.add(Rows(0, mask, sure, mask > 0, sure[None])), cutter.finish()]
            cutter.close()
            assert len(Polygons.concat(batches)) == 1
            assert "1 polygon" in cutter.notes[0]
            assert "stayed whole" in cutter.notes[0]


# --- a run ----------------------------------------------------------------------------------


def test_predict_gives_the_same_objects_whatever_the_tiles(tmp_path: Path) -> None:
    model = bright_bundle(tmp_path / "bright")
    scene = tmp_path / "scene.tif"
    mask = testing.planted_rectangles((300, 420), count=60, seed=1)
    testing.planted_scene(scene, mask)
    runs = {
        "whole": {},
        "cut": {"cut": 6},
        "tiles": {"cut": 6, "tile": 64, "overlap": 24},
        "named": {"cut": {"object": 6.0}},
        "simple": {"cut": 6, "simplify": 0.5},
        "moved": {"cut": 6, "crs": "EPSG:4326"},
    }
    frames = {}
    for name, options in runs.items():
        geoseg.predict(scene, tmp_path / f"{name}.gpkg", model=model, **options)
        frames[name] = gpd.read_file(tmp_path / f"{name}.gpkg")
    whole, cut = frames["whole"], frames["cut"]
    assert len(cut) > len(whole)
    assert cut.area.sum() == pytest.approx(whole.area.sum(), rel=1e-9)
    assert cut.area_m2.sum() == pytest.approx(whole.area_m2.sum(), rel=1e-9)
    assert cut.union_all().area == pytest.approx(cut.area.sum(), rel=1e-9)
    for same in ("tiles", "named"):
        assert (
            cut.geometry.normalize().geom_equals_exact(frames[same].geometry.normalize(), 0).all()
        )
    for name in ("simple", "moved"):
        assert len(frames[name]) == len(cut)
        assert shapely.coverage_is_valid(frames[name].geometry.to_numpy())
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".gpkg") == [
        "bright",
        "scene.tif",
    ]


def test_the_boundary_of_a_run_goes_to_its_objects(tmp_path: Path) -> None:
    classes = tuple(ClassInfo(i, n) for i, n in enumerate(("ground", "house", "tree", "edge")))
    spec = fake_spec(classes=4, tiling=Tiling(64, 16, 8))
    spec = replace(spec, classes=classes)
    options = PredictOptions.of({"boundary": "edge"})
    cuts = options.cuts(spec)
    labels = np.zeros((40, 60), np.uint8)
    labels[5:35, 5:55] = 1
    labels[5:35, 28:32] = 3  # between two houses
    labels[20:24, 40:44] = 3  # a patch inside of one
    scores = np.full((4, 40, 60), 0.1, np.float32)
    np.put_along_axis(scores, labels[None].astype(int), 0.6, axis=0)
    scores[1, labels == 3] = 0.2
    scores[0, labels == 3] = 0.1
    rows = Rows(0, labels, scores.max(0), np.ones(labels.shape, bool), scores)
    cutter = CuttingPolygonizer(60, cuts, folder=tmp_path)
    polygons = Polygons.concat([cutter.add(rows), cutter.finish()])
    cutter.close()
    assert polygons.label.tolist() == [1, 1]
    assert polygons.pixels.tolist() == [30 * 25, 30 * 25]
    # that it is a house or its edge: 0.6 + 0.1 and 0.2 + 0.6
    np.testing.assert_allclose(polygons.confidence_min, 0.7, atol=0.005)
    edge = (60 + 8 + 8) / 750, 60 / 750
    np.testing.assert_allclose(
        sorted(polygons.confidence_mean), sorted(0.7 + 0.1 * np.array(edge)), atol=0.005
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cut": {"roof": 5}}, "no class 'roof'; there are: object"),
        ({"boundary": "edge"}, "no class 'edge'"),
        ({"boundary": "object"}, "the only class"),
    ],
)
def test_wrong_options_are_refused(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    model = bright_bundle(tmp_path / "bright")
    scene = testing.planted_scene(tmp_path / "s.tif", np.ones((20, 20), np.uint8))
    with pytest.raises(UsageError, match=message):
        geoseg.predict(scene, tmp_path / "o.gpkg", model=model, **options)
    assert not (tmp_path / "o.gpkg").exists()


def test_on_the_command_line(tmp_path: Path) -> None:
    model = bright_bundle(tmp_path / "bright")
    mask = (disc(48, 34, 16) | disc(48, 62, 16)).astype(np.uint8)
    scene = testing.planted_scene(tmp_path / "s.tif", mask)
    common = ["predict", str(scene), "-m", str(model), "--json", "--overwrite"]
    for value, count in (("0", 1), ("8", 2), ("object=8", 2), ("2", 1)):
        out = str(tmp_path / "o.gpkg")
        done = CliRunner().invoke(cli, [*common, "-o", out, "--cut", value])
        assert done.exit_code == 0, done.output
        assert json.loads(done.output.splitlines()[-1])["polygons"] == {"object": count}
    for value in ("x", "a=", "=3", "1,2"):
        assert CliRunner().invoke(cli, [*common, "--cut", value]).exit_code == 2


# --- labels with a boundary -----------------------------------------------------------------


@pytest.mark.parametrize("crs", ["EPSG:32645", "EPSG:3857", "EPSG:4326"])
def test_outlines_become_a_class(crs: str, tmp_path: Path) -> None:
    houses = [shapely.box(x, 3_060_000, x + 10, 3_060_020) for x in (400_000, 400_010)]
    shed = shapely.box(400_030, 3_060_000, 400_031, 3_060_020)
    frame = gpd.GeoDataFrame({"kind": ["a", "b", "c"]}, geometry=[*houses, shed], crs="EPSG:32645")
    frame.to_crs(crs).to_file(tmp_path / "in.gpkg")
    out = tmp_path / "out.gpkg"
    command = ["data", "border", str(tmp_path / "in.gpkg"), "--width", "1", "-o", str(out)]
    done = CliRunner().invoke(cli, [*command, "--attribute", "kind"])
    assert done.exit_code == 0, done.output
    made = gpd.read_file(out)
    assert made.crs == crs
    assert made["kind"].tolist() == ["a", "b", "c", "boundary", "boundary"]
    areas = made.to_crs("EPSG:32645").area
    np.testing.assert_allclose(areas, [8 * 18, 8 * 18, 20, 56, 56], rtol=5e-3)
    assert CliRunner().invoke(cli, command).exit_code == 1  # it is there
    done = CliRunner().invoke(cli, [*command, "--overwrite", "--name", "house"])
    assert done.exit_code == 0, done.output
    assert gpd.read_file(out)["class"].tolist() == ["house"] * 3 + ["boundary"] * 2


def test_borders_need_a_width_and_a_crs() -> None:
    frame = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 9, 9)])
    with pytest.raises(UsageError, match="width: 0"):
        bordered(frame, 0)
    with pytest.raises(DataError, match="no CRS"):
        bordered(frame, 1)
    with pytest.raises(DataError, match="no polygons"):
        bordered(gpd.GeoDataFrame(geometry=[shapely.Point(0, 0)], crs=4326), 1)
