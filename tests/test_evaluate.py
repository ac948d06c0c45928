"""Evaluation of planted scenes, whose figures are known by hand; reports and their comparison."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from affine import Affine
from click.testing import CliRunner
from models import bright_bundle, bright_spec
from numpy.typing import NDArray
from shapely.geometry import box

import geoseg
from geoseg import testing
from geoseg.bundle import Bundle, Sample
from geoseg.errors import DataError, OutputError, UsageError
from geoseg.evaluate import compare, count, predictions
from geoseg.evaluate import evaluate as run
from geoseg.evaluate.options import EvaluateOptions
from geoseg.evaluate.places import Legend, cases_of_files
from geoseg.evaluate.tables import brief, tables, text
from geoseg.evaluate.tally import Tally, bootstrap, estimates, measures
from geoseg.grid import Grid
from geoseg.metrics import IGNORE, boundary_counts
from geoseg.spec import ClassInfo

TRANSFORM = Affine(0.3, 0, 500_000, 0, -0.3, 5_800_000)
CRS = "EPSG:32633"
PIXEL = 0.09  # m²
SQUARES = [(20, 20), (20, 120), (120, 20), (120, 120)]  # row, col of 40 x 40 pixels each


def squares(shift: int = 0, skip: int = 0) -> NDArray[np.uint8]:
    """(200, 200): four squares, all moved to the right, the first `skip` left out."""
    mask = np.zeros((200, 200), np.uint8)
    for row, col in SQUARES[skip:]:
        mask[row : row + 40, col + shift : col + shift + 40] = 1
    return mask


def raster(path: Path, mask: NDArray[Any], **profile: Any) -> Path:
    return testing.write_scene(path, mask[None], **profile)


def ground(top: float, left: float, height: float, width: float) -> Any:
    """A box in map coordinates, from pixels."""
    x, y = TRANSFORM @ (left, top)
    return box(x, y - 0.3 * height, x + 0.3 * width, y)


def vectors(path: Path, shapes: list[Any], crs: str | None = CRS, **columns: Any) -> Path:
    frame = gpd.GeoDataFrame(columns, geometry=shapes, crs=CRS)
    if crs:
        frame.to_crs(crs).to_file(path)
    else:
        with pytest.warns(UserWarning, match="'crs' was not provided"):
            frame.set_crs(None, allow_override=True).to_file(path)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_bundle(tmp_path_factory.mktemp("models") / "bright")


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return vectors(tmp_path / "truth.gpkg", [ground(r, c, 40, 40) for r, c in SQUARES])


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return testing.planted_scene(tmp_path / "scene.tif", squares())


# --- finished predictions -------------------------------------------------------------------


def test_what_is_right_is_1_everywhere(tmp_path: Path, truth: Path) -> None:
    prediction = raster(tmp_path / "mask.tif", squares())
    result = run(prediction, truth, block=30)
    for name in ("iou", "f1", "precision", "recall", "accuracy", "boundary_f1", "object_f1"):
        assert result.report["measures"][name] == {"value": 1.0, "low": 1.0, "high": 1.0}, name
    assert result["area_error"] == 0
    assert result["ece"] is None  # a mask has no probabilities
    assert result.report["objects"]["mean_iou"] == 1
    assert result.report["confusion"] == [[200 * 200 - 4 * 1600, 0], [0, 4 * 1600]]


def test_a_shifted_mask_has_the_iou_of_the_shift(tmp_path: Path, truth: Path) -> None:
    prediction = raster(tmp_path / "mask.tif", squares(shift=10))
    report = run(prediction, truth, block=30).report
    both, either = 4 * 40 * 30, 4 * 40 * 50
    assert report["measures"]["iou"]["value"] == pytest.approx(both / either)
    assert report["measures"]["precision"]["value"] == pytest.approx(0.75)
    assert report["measures"]["object_f1"]["value"] == 1  # 0.6 is enough to be found
    assert report["objects"]["mean_iou"] == pytest.approx(0.6)
    assert report["objects"]["median_area_error"] == pytest.approx(0, abs=1e-6)
    assert report["measures"]["area_error"]["value"] == 0
    assert run(prediction, truth, block=30, match=0.61)["object_f1"] == 0


def test_polygons_of_a_scene_are_counted_and_sized(
    tmp_path: Path, truth: Path, scene: Path
) -> None:
    found = [
        ground(20, 20, 40, 40),  # right
        ground(20, 120, 40, 30),  # 0.75 of it
        ground(120, 20, 40, 10),  # a quarter: neither found nor right
        ground(0, 0, 8, 8),  # nothing there
    ]
    prediction = vectors(tmp_path / "found.gpkg", found, "EPSG:4326")
    report = run(prediction, truth, scene=scene, sizes=(10.0, 150.0)).report
    objects = report["objects"]
    assert (objects["hits"], objects["false_alarms"], objects["misses"]) == (2, 2, 2)
    assert objects["mean_iou"] == pytest.approx(0.875, abs=1e-3)
    assert objects["median_area_error"] == pytest.approx(0.125, abs=1e-3)
    assert [s["truth"] for s in objects["sizes"]] == [0, 4, 0]  # 1600 * 0.09 = 144 m²
    assert [s["predicted"] for s in objects["sizes"]] == [1, 3, 0]
    assert [s["found"] for s in objects["sizes"]] == [1, 3, 0]  # its older name
    assert objects["sizes"][1]["recall"] == 0.5
    assert objects["sizes"][1]["precision"] == pytest.approx(2 / 3)
    hits = 1600 + 1200 + 400
    assert report["measures"]["recall"]["value"] == pytest.approx(hits / 6400, abs=1e-3)
    assert report["measures"]["precision"]["value"] == pytest.approx(hits / (hits + 64), abs=1e-3)
    assert run(prediction, truth, scene=scene, min_area=10.0)["object_precision"] == pytest.approx(
        2 / 3
    )


def test_outside_of_the_area_nothing_counts(tmp_path: Path, truth: Path) -> None:
    prediction = raster(tmp_path / "mask.tif", squares(skip=2) | squares()[::-1, ::-1])
    wrong = run(prediction, truth)
    assert wrong["iou"] < 1
    area = vectors(tmp_path / "aoi.gpkg", [ground(100, 0, 100, 200)], "EPSG:3857")
    lower = squares(skip=2)
    lower[:100] = 0
    right = raster(tmp_path / "right.tif", squares(skip=2))
    report = run(right, truth, aoi=area).report
    assert report["measures"]["iou"]["value"] == 1
    assert report["objects"]["hits"] == 2
    assert report["objects"]["misses"] == 0
    assert report["scenes"][0]["pixels"] == pytest.approx(100 * 200, abs=400)


def test_outside_of_the_bounds_nothing_counts(
    tmp_path: Path, scene: Path, truth: Path, model: Path
) -> None:
    part = ground(100, 0, 100, 200)
    area = vectors(tmp_path / "aoi.gpkg", [part])
    prediction = raster(tmp_path / "mask.tif", squares(skip=2))
    for subject in ({"subject": prediction}, {"subject": scene, "model": model}):
        by_file = run(truth=truth, aoi=area, **subject).report
        by_box = run(truth=truth, bounds=part.bounds, **subject).report
        assert by_box["measures"] == by_file["measures"]
        assert by_box["objects"] == by_file["objects"]
        assert by_box["options"]["bounds"] == list(part.bounds)
        with pytest.raises(DataError, match="bounds: lies outside of the scene"):
            run(truth=truth, bounds=(0, 0, 9, 9), **subject)


def test_truth_on_another_grid_and_with_gaps(tmp_path: Path) -> None:
    prediction = raster(tmp_path / "mask.tif", squares())
    fine = np.kron(squares(), np.ones((2, 2), np.uint8))
    fine[:, :20] = IGNORE
    truth = raster(
        tmp_path / "truth.tif", fine, transform=TRANSFORM @ Affine.scale(0.5), nodata=255
    )
    report = run(prediction, truth).report
    assert report["measures"]["iou"]["value"] == 1
    assert report["scenes"][0]["pixels"] == 200 * 190


def test_several_classes_by_attribute_are_scikit_learns(tmp_path: Path) -> None:
    from sklearn import metrics as sk

    rng = np.random.default_rng(3)
    labels = np.repeat(np.repeat(rng.integers(1, 4, (20, 20)), 10, 0), 10, 1).astype(np.uint8)
    predicted = np.where(rng.random((200, 200)) < 0.8, labels, 2).astype(np.uint8)
    cells = [(r, c) for r in range(20) for c in range(20)]
    names = {1: "wood", 2: "field", 3: "lake"}
    truth = vectors(
        tmp_path / "truth.gpkg",
        [ground(10 * r, 10 * c, 10, 10) for r, c in cells],
        kind=[names[int(labels[10 * r, 10 * c])] for r, c in cells],
    )
    prediction = raster(tmp_path / "mask.tif", predicted)
    with pytest.raises(DataError, match="classes do not match: .*wood.*has the classes 1 class 1"):
        run(prediction, truth, attribute="kind")
    values = {f"class {i}": (name,) for i, name in names.items()}
    report = run(prediction, truth, attribute="kind", values=values).report
    expected = sk.jaccard_score(labels.ravel(), predicted.ravel(), average=None)
    assert [c["iou"] for c in report["classes"]] == pytest.approx(expected, rel=1e-5)
    assert report["measures"]["iou"]["value"] == pytest.approx(expected.mean())
    matrix = sk.confusion_matrix(labels.ravel(), predicted.ravel())
    assert report["confusion"] == matrix.tolist()
    assert report["measures"]["accuracy"]["value"] == pytest.approx(np.trace(matrix) / 40_000)


def test_probabilities_are_calibrated_and_the_best_threshold_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    mask = testing.planted_rectangles((200, 200), count=30, seed=4)
    scores = np.clip(0.15 + 0.3 * mask + rng.normal(0, 0.005, mask.shape), 0, 1)
    truth = raster(tmp_path / "truth.tif", mask)
    prediction = raster(tmp_path / "p.tif", scores.astype(np.float32))
    report = run(prediction, truth).report
    assert report["measures"]["iou"]["value"] == 0  # no score reaches a half
    assert 0.2 < report["thresholds"]["best"] < 0.4
    assert report["thresholds"]["best_iou"] == pytest.approx(1, abs=1e-3)
    share = mask.mean()
    expected = share * (1 - 0.45) + (1 - share) * 0.15
    assert report["measures"]["ece"]["value"] == pytest.approx(expected, abs=0.01)
    assert run(prediction, truth, threshold=0.3)["iou"] == pytest.approx(1, abs=1e-3)


def test_pixels_without_prediction_are_told(tmp_path: Path, truth: Path) -> None:
    mask = squares()
    mask[:100] = 255
    report = run(raster(tmp_path / "mask.tif", mask, nodata=255), truth, block=30).report
    assert report["measures"]["iou"]["value"] == 1
    assert report["objects"]["hits"] == 2
    assert report["objects"]["misses"] == 0
    assert any("50.0% of the pixels with truth have no prediction" in n for n in report["notes"])


def test_black_and_white_masks_are_understood(tmp_path: Path, truth: Path) -> None:
    prediction = raster(tmp_path / "mask.tif", squares() * 255)
    assert run(prediction, truth)["iou"] == 1
    white = raster(tmp_path / "truth.tif", squares() * 255)
    assert run(prediction, white)["iou"] == 1
    partly = squares()
    partly[:100] = 255  # beside other classes it means that nothing is known
    report = run(raster(tmp_path / "partly.tif", partly), truth).report
    assert report["scenes"][0]["lost_pixels"] == 100 * 200
    assert report["measures"]["iou"]["value"] == 1


def test_a_prediction_that_found_nothing_misses_all(tmp_path: Path, truth: Path) -> None:
    report = run(raster(tmp_path / "mask.tif", squares() * 0), truth).report
    assert report["measures"]["recall"]["value"] == 0
    assert report["measures"]["precision"]["value"] is None
    assert report["objects"]["misses"] == 4
    said = [n for n in report["notes"] if "nothing is predicted where there is truth" in n]
    assert len(said) == 1
    assert "mask.tif" in said[0]
    assert said[0] in brief(report)


def test_a_layer_without_polygons_is_a_prediction_and_told(
    tmp_path: Path, truth: Path, scene: Path
) -> None:
    empty = vectors(tmp_path / "empty.gpkg", [])
    report = run(empty, truth, scene=scene).report
    assert report["measures"]["iou"]["value"] == 0
    assert any("empty.gpkg: nothing is predicted" in note for note in report["notes"])
    found = run(vectors(tmp_path / "f.gpkg", [ground(20, 20, 40, 40)]), truth, scene=scene).report
    assert not any("nothing is predicted" in note for note in found["notes"])


def test_a_prediction_that_lies_elsewhere_is_refused(
    tmp_path: Path, truth: Path, scene: Path
) -> None:
    far = vectors(tmp_path / "far.gpkg", [ground(9000, 9000, 10, 10)], "EPSG:4326")
    with pytest.raises(DataError, match=r"far.gpkg: lies outside of the scene .*scene.tif: it is"):
        run(far, truth, scene=scene)
    good = vectors(tmp_path / "good.gpkg", [ground(20, 20, 40, 40)])
    other = testing.planted_scene(tmp_path / "other.tif", squares())
    with pytest.raises(DataError, match=r"far.gpkg: lies outside"):  # nor left out of several
        run([good, far], truth, scene=[scene, other])


def test_a_picture_is_no_truth(tmp_path: Path, scene: Path) -> None:
    prediction = raster(tmp_path / "mask.tif", squares())
    with pytest.raises(DataError, match=r"scene.tif: is a picture, not a mask: it has 3 bands"):
        run(prediction, scene)
    gray = np.random.default_rng(0).integers(1, 255, (200, 200)).astype(np.uint8)
    for name, values in (("gray", gray), ("height", gray * 1.37)):
        picture = raster(tmp_path / f"{name}.tif", values.astype(np.float32))
        with pytest.raises(DataError, match=rf"{name}.tif: is a picture, .*254 values"):
            run(prediction, picture)
    numbered = squares().astype(np.uint16)
    numbered[numbered > 0] = np.arange(6400) // 25 + 1  # objects, not classes
    assert run(prediction, raster(tmp_path / "objects.tif", numbered))["iou"] == 1
    red = np.stack([squares() * 200, squares() * 10, squares() * 30])
    colours = testing.write_scene(tmp_path / "red.tif", red)
    assert run(prediction, colours)["iou"] == 1  # one class: black, and what is not
    white = testing.write_scene(tmp_path / "white.tif", np.stack([squares() * 255] * 3))
    assert run(prediction, white)["iou"] == 1
    two = raster(tmp_path / "two.tif", squares() + squares(skip=2))
    with pytest.raises(DataError, match=r"red.tif: is a picture.*--values CLASS=#rrggbb"):
        run(two, colours)
    values = {"class 1": ("#c80a1e",), "class 2": ("#000000",)}
    assert run(two, colours, values=values)["recall"] > 0


# --- counting -------------------------------------------------------------------------------


def counted(tmp_path: Path, prediction: Path, truth: Path, **options: Any) -> count.Counted:
    legend = predictions.legend_of(prediction, "mask")
    wanted = EvaluateOptions(**options)
    (case,) = cases_of_files([prediction], [truth], [], legend, wanted)
    with predictions.Prediction.open(legend, mask=prediction) as opened:
        return count.count(case, opened, wanted)


@pytest.mark.parametrize(
    ("pixel", "metres"),
    [(0.07, 0.6), (0.15, 0.6), (0.3, 0.6), (0.301, 0.602), (0.5, 1.0), (10.02, 20.04), (30, 100)],
)
def test_the_tolerance_of_boundaries_is_that_of_the_ground(pixel: float, metres: float) -> None:
    assert EvaluateOptions().tolerance_for(pixel) == pytest.approx(metres)
    assert EvaluateOptions(tolerance=1.5).tolerance_for(pixel) == 1.5


def test_boundaries_of_fine_and_coarse_predictions_are_held_to_the_same(
    tmp_path: Path, truth: Path
) -> None:
    fine = np.kron(squares(shift=1), np.ones((4, 4), np.uint8))
    there = TRANSFORM @ Affine.scale(0.25)
    reports = [
        run(prediction, truth).report
        for prediction in (
            raster(tmp_path / "coarse.tif", squares(shift=1)),
            raster(tmp_path / "fine.tif", fine, transform=there),
        )
    ]
    assert [r["options"]["tolerance_m"] for r in reports] == pytest.approx([0.6, 0.6], abs=1e-3)
    assert [r["measures"]["boundary_f1"]["value"] for r in reports] == [1, 1]  # 0.3 m beside it


def test_windows_and_blocks_make_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = testing.planted_rectangles((230, 310), count=60, seed=8)
    predicted = testing.planted_rectangles((230, 310), count=60, seed=9) | mask
    truth = raster(tmp_path / "truth.tif", mask)
    prediction = raster(tmp_path / "mask.tif", predicted)
    whole = counted(tmp_path, prediction, truth, block=1000.0)
    assert len(whole.blocks) == 1
    expected = boundary_counts(predicted, mask, 1, 2.0)
    assert whole.tally.sum().edges[1].tolist() == expected.tolist()
    monkeypatch.setattr(count, "_TILE", 37)
    pieces = counted(tmp_path, prediction, truth, block=20.0)
    assert len(pieces.blocks) == 3 * 5  # of 66.7 pixels, the last ones up to half larger
    for name in ("confusion", "edges", "objects"):
        one, other = (getattr(c.tally.sum(), name) for c in (whole, pieces))
        assert one.tolist() == other.tolist(), name


def test_blocks_partition_the_grid_whatever_its_pixels() -> None:
    grid = Grid(None, Affine.identity(), 100, 253)
    seen = np.zeros((100, 253), int)
    for _, window in count.blocks(grid, 33.3):
        seen[window.slices()] += 1
    assert (seen == 1).all()
    coarse = dict(count.blocks(Grid(None, Affine.identity(), 50, 126), 16.65))
    for key, window in count.blocks(grid, 33.3):
        assert abs(window.row - 2 * coarse[key].row) <= 2


def test_an_object_counts_whole_where_its_inner_point_is_known(tmp_path: Path) -> None:
    truth = vectors(tmp_path / "truth.gpkg", [ground(20, 80, 40, 60), ground(120, 94, 40, 40)])
    mask = np.zeros((200, 200), np.uint8)
    mask[20:60, 80:140] = mask[120:160, 94:134] = 1
    prediction = raster(tmp_path / "mask.tif", mask)
    area = vectors(tmp_path / "aoi.gpkg", [ground(0, 0, 200, 112)])
    objects = run(prediction, truth, aoi=area).report["objects"]
    # the middle of the first is at 110, of the second at 114
    assert (objects["hits"], objects["false_alarms"], objects["misses"]) == (1, 0, 0)


# --- intervals ------------------------------------------------------------------------------


def tally(confusion: NDArray[Any]) -> Tally:
    zeros = Tally.zeros(2, len(confusion))
    return replace(zeros, confusion=confusion.astype(float))


def test_equal_blocks_leave_no_doubt_and_different_ones_do() -> None:
    equal = tally(np.tile([[90, 5], [5, 20]], (20, 1, 1)))
    found = estimates(equal, np.zeros(20), 1)["iou"]
    assert found["value"] == found["low"] == found["high"] == pytest.approx(20 / 30)
    half = np.where(np.arange(20)[:, None, None] < 10, [[90, 0], [0, 10]], [[90, 0], [10, 0]])
    found = estimates(tally(half), np.zeros(20), 1)["iou"]
    # IoU = share of the first kind among 20 draws: binomial, deviation sqrt(0.25 / 20)
    assert found["value"] == 0.5
    assert found["low"] == pytest.approx(0.5 - 1.96 * 0.112, abs=0.06)
    assert found["high"] == pytest.approx(0.5 + 1.96 * 0.112, abs=0.06)


def test_each_scene_keeps_its_number_of_blocks() -> None:
    kinds = np.where(np.arange(20)[:, None, None] < 10, [[90, 0], [0, 10]], [[90, 0], [10, 0]])
    found = estimates(tally(kinds), np.arange(20) // 10, 1)["iou"]
    assert found["low"] == found["high"] == 0.5  # each scene is all right or all wrong


def test_scenes_of_one_block_are_drawn_together() -> None:
    kinds = np.where(np.arange(20)[:, None, None] < 10, [[90, 0], [0, 10]], [[90, 0], [10, 0]])
    found = estimates(tally(kinds), np.arange(20), 1)["iou"]
    assert found["low"] < 0.4 < 0.6 < found["high"]


def test_one_block_has_no_interval() -> None:
    found = estimates(tally(np.array([[[90, 0], [0, 10]]])), np.zeros(1), 1)["iou"]
    assert found == {"value": 1.0, "low": None, "high": None}


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    hits = rng.integers(10, 90, 40)  # some places are hard, for both
    one, other = (
        np.array([[[900, 0], [100 - h - more, h + more]] for h in hits]) for more in (5, 0)
    )
    drawn = bootstrap([tally(one), tally(other)], np.zeros(40), 1)
    difference = drawn[0]["iou"] - drawn[1]["iou"]
    assert difference == pytest.approx(0.05)
    assert drawn[0]["iou"].std() > 0.02


def test_measures_of_nothing_are_not_numbers() -> None:
    values = measures(Tally.zeros(3, 1).sum(), 1)
    assert all(np.isnan(v) for v in values.values())


# --- models, reports ------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects what the page would fetch, and checks that tags are closed."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.open
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.fetched)
    assert "url(" not in path.read_text(encoding="utf-8")
    return page


def test_a_model_from_the_command_line(
    tmp_path: Path, model: Path, truth: Path, scene: Path
) -> None:
    command = [
        *(sys.executable, "-m", "geoseg", "evaluate", str(scene), "--model", str(model)),
        *("--truth", str(truth), "--block", "20", "-o", str(tmp_path / "report")),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1.000" in done.stdout
    assert f"wrote {tmp_path / 'report' / 'report.html'}" in done.stdout
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == [
        "places.gpkg",
        "report.html",
        "report.json",
    ]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["measures"]["iou"]["value"] == pytest.approx(1)
    assert report["name"] == "bright-1"
    assert len(report["blocks"]) == 9
    page = check_page(tmp_path / "report" / "report.html")
    assert page.tags.count("img") >= 2
    objects = gpd.read_file(tmp_path / "report" / "places.gpkg", layer="objects")
    assert objects["result"].tolist() == ["found"] * 4
    assert objects.crs.to_epsg() == 4326
    blocks = gpd.read_file(tmp_path / "report" / "places.gpkg", layer="blocks")
    assert len(blocks) == 9


KEYS = {
    *("report", "geoseg", "created", "name", "subject", "truth", "options", "pixel_m"),
    *("threshold", "measures", "classes", "confusion", "objects", "calibration"),
    *("thresholds", "scenes", "notes", "blocks", "detection", "against"),
}
MEASURES = {
    *("iou", "f1", "precision", "recall", "boundary_f1", "accuracy", "object_f1"),
    *("object_precision", "object_recall", "area_error", "ece", "brier"),
    *("object_iou", "count_error", "split_rate", "merge_rate"),
    *("ap", "ap50", "ap75", "ar", "ar100"),
    *("box_ap", "box_ap50", "box_ap75", "box_ar", "box_ar100"),
}


def test_the_report_keeps_its_keys(tmp_path: Path, truth: Path) -> None:
    prediction = raster(tmp_path / "mask.tif", squares(shift=5))
    run(prediction, truth, output=tmp_path / "report", block=20)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(report) == KEYS
    assert set(report["measures"]) == MEASURES
    assert set(report["scenes"][0]["measures"]) == MEASURES
    assert set(report["measures"]["iou"]) == {"value", "low", "high"}
    assert set(report["blocks"][0]) >= {"scene", "file", "row", "col", "lon", "lat", "iou"}
    check_page(tmp_path / "report" / "report.html")


def test_names_of_files_are_escaped_in_the_page(tmp_path: Path, truth: Path) -> None:
    name = "<script>alert('x')</script>&.tif".replace("/", "_")
    prediction = raster(tmp_path / name, squares(shift=5))
    run(prediction, truth, output=tmp_path / "report")
    check_page(tmp_path / "report" / "report.html")


def test_predicting_stays_in_the_area_and_its_margin(
    tmp_path: Path, model: Path, scene: Path, truth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geoseg.evaluate import subjects

    monkeypatch.setattr(subjects, "MARGIN", 20)
    area = vectors(tmp_path / "aoi.gpkg", [ground(100, 0, 100, 110)])
    report = run(scene, truth, model=model, aoi=area, output=tmp_path / "report", keep=True).report
    assert report["measures"]["iou"]["value"] == pytest.approx(1)
    assert report["objects"]["hits"] == 1
    kept = gpd.read_file(tmp_path / "report" / "predictions" / "scene.gpkg")
    assert len(kept) == 2  # also a part of the one that begins ten pixels beyond the area


def test_scenes_are_told_apart_and_added_up(tmp_path: Path) -> None:
    masks = [squares(), squares(shift=10)]
    paths = []
    for i, mask in enumerate(masks):
        (tmp_path / f"town{i}").mkdir()
        paths.append(raster(tmp_path / f"town{i}" / "mask.tif", mask))
    truth = raster(tmp_path / "truth.tif", squares())
    report = run(paths, truth, block=30).report
    assert [s["name"] for s in report["scenes"]] == ["town0/mask", "town1/mask"]
    assert [s["measures"]["iou"]["value"] for s in report["scenes"]] == [1, pytest.approx(0.6)]
    assert report["measures"]["iou"]["value"] == pytest.approx((6400 + 4800) / (6400 + 8000))
    assert sum(s["blocks"] for s in report["scenes"]) == len(report["blocks"]) == 2 * 4


def test_a_scene_without_truth_is_left_out_and_told(tmp_path: Path, truth: Path) -> None:
    here = raster(tmp_path / "here.tif", squares())
    away = raster(tmp_path / "away.tif", squares(), transform=Affine(0.3, 0, 9e5, 0, -0.3, 9e5))
    report = run([here, away], truth).report
    assert [s["name"] for s in report["scenes"]] == ["here"]
    assert any("outside of the scene" in n and "away.tif" in n for n in report["notes"])


def test_points_as_truth_are_told(tmp_path: Path) -> None:
    prediction = raster(tmp_path / "mask.tif", squares())
    points = vectors(tmp_path / "points.gpkg", [ground(r, c, 4, 4).centroid for r, c in SQUARES])
    notes = run(prediction, points).report["notes"]
    assert any(f"{len(SQUARES)} features are points or lines" in note for note in notes)


def test_few_blocks_are_told(tmp_path: Path, truth: Path) -> None:
    notes = run(raster(tmp_path / "mask.tif", squares()), truth).report["notes"]
    assert any("Only 1 block of ground has truth" in note for note in notes)


def test_without_a_crs_pixels_lie_on_pixels(tmp_path: Path) -> None:
    options = {"crs": None, "transform": Affine.identity()}
    prediction = raster(tmp_path / "mask.tif", squares(shift=10), **options)
    truth = raster(tmp_path / "truth.tif", squares(), **options)
    result = run(prediction, truth, gsd=0.5, output=tmp_path / "report")
    assert result["iou"] == pytest.approx(0.6)
    sizes = result.report["objects"]["sizes"]
    assert [s["truth"] for s in sizes] == [0, 0, 4, 0]  # 1600 pixels of 0.25 m²
    check_page(tmp_path / "report" / "report.html")


def test_a_model_on_a_scene_without_crs(tmp_path: Path, model: Path) -> None:
    options = {"crs": None, "transform": Affine.identity()}
    scene = testing.planted_scene(tmp_path / "scene.tif", squares(), **options)
    truth = raster(tmp_path / "truth.tif", squares(), **options)
    result = run(scene, truth, model=model, gsd=0.3, output=tmp_path / "report")
    assert result["iou"] == pytest.approx(1)
    assert result["object_f1"] == 1


# --- recipes --------------------------------------------------------------------------------


def recipe(tmp_path: Path, places: list[dict[str, Any]], **data: Any) -> Path:
    import yaml

    content = {
        "name": "tiny",
        "data": {
            "places": places,
            "bands": [{"name": n, "common_name": n} for n in ("red", "green", "blue")],
            "classes": [{"id": 1, "name": "object"}],
            "gsd": 0.3,
            **data,
        },
        "schedule": {"steps": 1},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_places_of_a_recipe_whole_and_in_blocks(
    tmp_path: Path, model: Path, truth: Path, scene: Path
) -> None:
    other = testing.planted_scene(tmp_path / "other.tif", squares(shift=10), seed=1)
    split = vectors(
        tmp_path / "split.gpkg",
        [ground(0, 0, 100, 100), ground(0, 100, 100, 100), ground(100, 0, 100, 200)],
        "EPSG:4326",
        place=["a", "a", "a"],
        file=["scene.tif"] * 3,
        part=["test", "validate", "train"],
    )
    file = recipe(
        tmp_path,
        [
            {"name": "a", "rasters": "scene.tif", "labels": "truth.gpkg"},
            {"name": "b", "rasters": other.name, "labels": "truth.gpkg", "use": "test"},
        ],
    )
    whole = run(model=model, recipe=file, part="test").report
    assert [s["name"] for s in whole["scenes"]] == ["b"]
    assert whole["measures"]["iou"]["value"] == pytest.approx(0.6, abs=0.01)
    both = run(model=model, recipe=file, part="test", split=split).report
    assert [s["name"] for s in both["scenes"]] == ["a", "b"]
    assert both["scenes"][0]["pixels"] == pytest.approx(100 * 100, abs=400)
    assert both["scenes"][0]["objects"] == 1
    assert both["scenes"][0]["measures"]["iou"]["value"] == pytest.approx(1)
    with pytest.raises(UsageError, match=r"no place of the recipe has `use: validate`.*--split"):
        run(model=model, recipe=file, part="validate")
    trained = shutil.copytree(model, tmp_path / "run" / "bundle")
    shutil.copy(split, tmp_path / "run" / "split.gpkg")
    same = run(model=trained, recipe=file, part="test").report  # the run's own split is found
    assert same["measures"] == both["measures"]


def test_other_classes_than_the_recipes_are_refused(tmp_path: Path, model: Path) -> None:
    places = [{"name": "a", "rasters": "s.tif", "labels": "t.gpkg", "use": "test"}]
    classes = [{"id": 1, "name": "wood"}, {"id": 2, "name": "lake"}]
    file = recipe(tmp_path, places, classes=classes)
    with pytest.raises(DataError, match="the model has 1 object .*; the recipe has 1 wood, 2 lake"):
        run(model=model, recipe=file)


# --- what is refused ------------------------------------------------------------------------


def test_errors_name_the_thing(tmp_path: Path, truth: Path, scene: Path, model: Path) -> None:
    prediction = raster(tmp_path / "mask.tif", squares())
    away = vectors(tmp_path / "away.gpkg", [ground(9000, 9000, 10, 10)])
    with pytest.raises(DataError, match=r"away.gpkg: lies outside of the scene .*mask.tif"):
        run(prediction, away)
    with pytest.raises(DataError, match=r"away.gpkg: lies outside of the scene .*scene.tif"):
        run(scene, away, model=model)
    nowhere = vectors(tmp_path / "nowhere.gpkg", [])
    with pytest.raises(DataError, match=r"nowhere.gpkg: has no polygons.*\(aoi\)"):
        run(prediction, nowhere)
    whole = prediction.read_bytes()
    (tmp_path / "torn.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"torn.tif: cannot be read.*get it anew"):
        run(prediction, tmp_path / "torn.tif")
    lost = vectors(tmp_path / "lost.gpkg", [ground(20, 20, 40, 40)], None)
    with pytest.raises(DataError, match=r"lost.gpkg: has no CRS"):
        run(prediction, lost)
    with pytest.raises(DataError, match=r"has no attribute 'kind'"):
        run(prediction, truth, attribute="kind")
    with pytest.raises(DataError, match=r"nothing.gpkg: no such prediction"):
        run(tmp_path / "nothing.gpkg", truth)
    with pytest.raises(UsageError, match=r"truth \(--truth\) is missing"):
        run(prediction)
    with pytest.raises(UsageError, match=r"tta: says how a model runs"):
        run(prediction, truth, tta=("hflip",))
    found = vectors(tmp_path / "found.gpkg", [ground(20, 20, 40, 40)])
    with pytest.raises(UsageError, match=r"of which scene are these polygons\? Name it"):
        run(found, truth)
    with pytest.raises(UsageError, match=r"block: 0\.001 m is less than 4 pixels"):
        run(prediction, truth, block=0.001)
    with pytest.raises(UsageError, match="tolerance: 1e\\+06 m is more than 100 pixels"):
        run(prediction, truth, tolerance=1e6)
    with pytest.raises(UsageError, match="unknown key 'tresh'"):
        run(prediction, truth, tresh=1)
    with pytest.raises(DataError, match="neither polygons, nor a mask"):
        run(scene, truth)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, truth: Path) -> None:
    prediction = raster(tmp_path / "mask.tif", squares())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(OutputError, match="holds something else than a report"):
        run(prediction, truth, output=tmp_path / "photos", overwrite=True)
    run(prediction, truth, output=tmp_path / "report")
    with pytest.raises(OutputError, match="pass --overwrite"):
        run(prediction, truth, output=tmp_path / "report")
    run(prediction, truth, output=tmp_path / "report", overwrite=True)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


# --- comparing ------------------------------------------------------------------------------


@pytest.fixture
def reports(tmp_path: Path, truth: Path) -> list[Path]:
    """Of a good and a bad prediction of the same scene."""
    folders = []
    for name, shift in (("good", 4), ("bad", 10)):
        (tmp_path / name).mkdir()
        prediction = raster(tmp_path / name / "scene.tif", squares(shift))
        folders.append(tmp_path / f"{name}-report")
        run(prediction, truth, output=folders[-1], block=20)
    return folders


def test_the_same_ground_is_compared_in_pairs(reports: list[Path], tmp_path: Path) -> None:
    result = compare(reports)
    assert not result.warnings
    assert [r.name for r in result.rows] == ["scene.tif (good-report)", "scene.tif (bad-report)"]
    assert result.scenes == ()  # one scene is the whole
    assert result.rows[0].differences is None
    difference = result.rows[1].differences["iou"]
    assert difference["value"] == pytest.approx(0.6 - 36 / 44, abs=1e-5)
    assert difference["low"] <= difference["value"] <= difference["high"] < 0
    shown = text(result).splitlines()
    assert len(shown) == 3 + 1 + 7  # of pixels, and of objects, a line for each measure
    assert "0.818 (" in shown[1]
    assert shown[1].count("*") >= 2  # the best of IoU and F1
    assert compare(reports[:1]).rows[0].measures["iou"]["value"] == pytest.approx(36 / 44)


def test_scenes_have_columns(tmp_path: Path) -> None:
    truth = raster(tmp_path / "truth.tif", squares())
    for name, shifts in (("one", (0, 10)), ("two", (5, 5))):
        (tmp_path / name).mkdir()
        masks = [
            raster(tmp_path / name / f"{s}.tif", squares(x))
            for s, x in zip("ab", shifts, strict=True)
        ]
        run(masks, truth, output=tmp_path / f"{name}-report", block=20)
    result = compare([tmp_path / "one-report", tmp_path / "two-report"])
    assert result.scenes == ("a", "b")
    assert result.rows[1].differences is not None
    _, one, two = tables(result, ("", "*"))[0]
    assert (one[6][:5], one[6][-1]) == ("1.000", "*")  # IoU of a
    assert (two[7][:5], two[7][-1]) == ("0.778", "*")  # 35 / 45, of b


def test_tables_as_files(reports: list[Path], tmp_path: Path) -> None:
    for suffix in (".md", ".html", ".csv"):
        compare(reports, tmp_path / f"table{suffix}")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 4 + 1 + 4
    assert "**0.818 (" in lines[2]
    for table in (lines[:4], lines[5:]):
        assert len({line.count("|") for line in table}) == 1
    assert "best" in (tmp_path / "table.html").read_text()
    check_page(tmp_path / "table.html")
    frame = pd.read_csv(tmp_path / "table.csv")
    assert frame["iou"].tolist() == pytest.approx([36 / 44, 0.6])
    gain = frame[[f"difference of iou{end}" for end in ("", " low", " high")]]
    assert gain.iloc[0].isna().all()
    assert gain.iloc[1, 0] == pytest.approx(0.6 - 36 / 44, abs=1e-5)
    assert gain.iloc[1, 1] < gain.iloc[1, 0] < gain.iloc[1, 2]
    assert "difference of object_f1" in frame
    with pytest.raises(UsageError, match="tables end in .md, .html, .csv"):
        compare(reports, tmp_path / "table.xlsx")
    with pytest.raises(OutputError, match="already exists"):
        compare(reports, tmp_path / "table.md")


def test_unlike_things_are_not_compared_silently(
    reports: list[Path], tmp_path: Path, scene: Path
) -> None:
    elsewhere = raster(tmp_path / "elsewhere.tif", squares())
    truth = raster(tmp_path / "t.tif", squares())
    run(elsewhere, truth, output=tmp_path / "other", block=30, tolerance=3.0)
    result = compare([reports[0], tmp_path / "other"])
    assert result.rows[1].differences is None
    assert result.scenes == ()
    told = " ".join(result.warnings)
    for what in ("other scenes", "another truth", "block_m is 30", "tolerance_m is 3"):
        assert what in told
    assert "warning: " in text(result)


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no report lies there"):
        compare([tmp_path])
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(DataError, match="is no report of"):
        compare([tmp_path])


def test_compare_from_the_command_line(reports: list[Path]) -> None:
    from test_events import check as check_event

    from geoseg.cli import cli

    done = CliRunner().invoke(cli, ["compare", *map(str, reports), "--json"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["event"] for row in rows] == ["row", "row", "result"]
    assert rows[-1]["reports"] == [row["name"] for row in rows[:-1]]
    assert rows[-1]["output"] is None
    for row in rows:
        check_event(row)
    assert rows[1]["differences"]["iou"]["high"] < 0


def test_the_names_of_the_package() -> None:
    assert geoseg.evaluate is run
    assert geoseg.compare is compare


def test_legends_know_the_background() -> None:
    one = Legend.of([ClassInfo(7, "roof")])
    assert one.background
    assert one.table()[[0, 7, 8, 255]].tolist() == [0, 1, IGNORE, IGNORE]
    cover = Legend.of([ClassInfo(3, "wood"), ClassInfo(1, "lake")])
    assert not cover.background
    assert cover.table()[[0, 1, 3]].tolist() == [IGNORE, 1, 0]


def cover_bundle(folder: Path) -> Path:
    """Softmax over dark, background and bright, in an order and with ids that are not sorted."""
    spec = bright_spec(
        name="cover",
        activation="softmax",
        classes=(ClassInfo(3, "bright"), ClassInfo(0, "background"), ClassInfo(2, "dark")),
    )
    weight = np.zeros((3, 3, 3, 3), np.float32)
    weight[0, :, 1, 1], weight[2, :, 1, 1] = 8, -8  # of the mean, -1 to 1
    bias = np.array([-3, 4, -3], np.float32)
    chip = np.linspace(-1, 1, 3 * 64 * 64, dtype=np.float32).reshape(1, 3, 64, 64)
    logits = np.einsum("nchw,kc->nkhw", chip, weight[:, :, 1, 1]) + bias[None, :, None, None]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    state = {"0.weight": weight, "0.bias": bias}
    return Bundle.write(folder, spec, state, Sample(chip, scores.astype(np.float32)), "# cover\n")


def test_a_model_of_several_classes(tmp_path: Path) -> None:
    ids = np.repeat(np.repeat(np.random.default_rng(0).choice([0, 2, 3], (10, 10)), 20, 0), 20, 1)
    gray = np.array([127, 0, 30, 225])[ids]  # by id
    picture = np.stack([gray] * 3).astype(np.uint8)
    scene = testing.write_scene(tmp_path / "scene.tif", picture)
    wrong = ids.copy()
    wrong[:20, :20] = 2 if ids[0, 0] != 2 else 3
    truth = raster(tmp_path / "truth.tif", wrong.astype(np.uint8))
    model = cover_bundle(tmp_path / "cover")
    report = run(scene, truth, model=model, block=15, output=tmp_path / "report").report
    assert [c["name"] for c in report["classes"]] == ["background", "bright", "dark"]
    assert report["measures"]["accuracy"]["value"] == pytest.approx(0.99)
    expected = [
        ((ids == i) & (wrong == i)).sum() / ((ids == i) | (wrong == i)).sum() for i in (3, 2)
    ]
    assert report["measures"]["iou"]["value"] == pytest.approx(np.mean(expected))
    assert report["measures"]["ece"]["value"] < 0.05  # it is sure of itself, and mostly right
    assert report["thresholds"] is None
    page = check_page(tmp_path / "report" / "report.html")
    assert page.tags.count("img") % 3 == 0  # image, truth, prediction


def test_an_evaluation_is_a_mapping_of_measures(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 20:50] = 1
    file = raster(tmp_path / "mask.tif", mask)
    found = run(file, file, block=30)
    assert found["iou"] == 1
    assert "boundary_f1" in found
    assert dict(found)["f1"] == 1
    with pytest.raises(KeyError, match="no measure 'iuo'; there are: iou, f1"):
        found["iuo"]
