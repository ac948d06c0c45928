"""Evaluation of objects with scores: against pycocotools, and planted cases known by hand."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from models import bright_bundle
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_evaluate import check_page, ground, squares, vectors

import geoseg
from geoseg import average_precision as ap
from geoseg import testing
from geoseg.average_precision import Candidates, Ranking, averages, curves, rank
from geoseg.bundle import Bundle, Sample
from geoseg.errors import DataError, UsageError
from geoseg.evaluate import compare
from geoseg.evaluate import evaluate as run
from geoseg.evaluate.records import ranking_of
from geoseg.evaluate.tables import brief, text
from geoseg.grid import Tiling
from geoseg.metrics import overlapping
from geoseg.predictions import Detections
from geoseg.runtime.fake import FakeDetector, fake_instances

SQUARES = [(20, 20), (20, 120), (120, 20), (120, 120)]  # row, col of 40 x 40 pixels each
LIMITS = [(0.0, 9.5), (9.5, 13.5), (13.5, 1e9)]  # of areas: no object lies on a limit

# --- against pycocotools ---------------------------------------------------------------------

# (picture, class, outline): two rectangles with a corner in common, less than the box around them.
shape = st.tuples(*[st.integers(0, 2)] * 2, *[st.integers(2, 5)] * 4)
placed = st.tuples(st.sampled_from([0, 0, 0, 1]), st.sampled_from([1, 1, 1, 2]), shape)
scored = st.tuples(placed, st.integers(0, 5))


def outline(x: int, y: int, w: int, h: int, w2: int, h2: int) -> Any:
    return shapely.union(shapely.box(x, y, x + w, y + h), shapely.box(x, y, x + w2, y + h2))


def annotation(number: int, picture: int, label: int, sides: tuple[int, ...]) -> dict[str, Any]:
    x, y, w, h, w2, h2 = sides
    mask = np.zeros((16, 16), np.uint8, order="F")
    mask[y : y + h, x : x + w] = mask[y : y + h2, x : x + w2] = 1
    box = [x, y, max(w, w2), max(h, h2)]
    about = {"id": number, "image_id": picture + 1, "category_id": label, "iscrowd": 0}
    return {**about, "bbox": box, "area": int(mask.sum()), "segmentation": rle.encode(mask)}


def cocos(truth: list[Any], found: list[Any], kind: str, most: int) -> dict[str, Any]:
    """`eval` of COCOeval for `most` objects a picture, and for all of them."""
    with contextlib.redirect_stdout(io.StringIO()):
        sides = [COCO(), COCO()]
        for coco, own in zip(sides, (truth, found), strict=True):
            coco.dataset = {
                "images": [{"id": i, "height": 16, "width": 16} for i in (1, 2)],
                "categories": [{"id": 1}, {"id": 2}],
                "annotations": own,
            }
            coco.createIndex()
        judge = COCOeval(*sides, kind)
        judge.params.maxDets = [most, 1000]
        judge.params.areaRng = [[0, 1e9], *map(list, LIMITS)]
        judge.evaluate()
        judge.accumulate()
    return dict(judge.eval)


def ours(truth: list[Any], found: list[Any]) -> Ranking:
    """Each picture is a raster of one block."""
    parts = []
    for picture in (0, 1):
        own = [f for f in found if f[0][0] == picture]
        both = ([p for p, _ in own], [t for t in truth if t[0] == picture])
        shapes = [np.array([outline(*sides) for *_, sides in side], object) for side in both]
        labels = [np.array([label for _, label, _ in side], int) for side in both]
        pairs = overlapping(*shapes)
        pairs = pairs.take(labels[0][pairs.found] == labels[1][pairs.wanted])
        sides = [
            Candidates(label, shapely.area(s), np.zeros(len(s), np.int64))
            for label, s in zip(labels, shapes, strict=True)
        ]
        scores = np.array([s / 5 for _, s in own], float)
        indices, ious = (pairs.found, pairs.wanted), (pairs.iou, pairs.box_iou)
        parts.append(rank(sides[0], scores, sides[1], indices, ious, sizes=LIMITS))
    return Ranking.concatenate(parts, [1, 1])


@settings(max_examples=200)
@given(st.lists(placed, min_size=1, max_size=12), st.lists(scored, max_size=24))
def test_curves_are_those_of_pycocotools(truth: list[Any], found: list[Any]) -> None:
    most = 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ap, "MOST", most)
        ranking = ours(truth, found)
    known = [annotation(i, *t) for i, t in enumerate(truth, 1)]
    seen = [{**annotation(i, *p), "score": s / 5} for i, (p, s) in enumerate(found, 1)]
    for kind, boxes in (("segm", False), ("bbox", True)):
        expected = cocos(known, seen, kind, most)
        views = {ap.ALL: (0, 1), ap.CAPPED: (0, 0)} | {ap.SIZES + i: (1 + i, 1) for i in range(3)}
        for view, (area, cap) in views.items():
            got = curves(ranking, [1, 2], boxes=boxes, view=view)
            for name, axes in (("precision", (2, 0, 1)), ("recall", (1, 0))):
                theirs = expected[name][..., area, cap].transpose(axes)
                theirs = np.where(theirs < 0, np.nan, theirs)
                np.testing.assert_allclose(getattr(got, name)[0], theirs, rtol=1e-12)


def drawn(seed: int, count: int = 60) -> Ranking:
    """Random outcomes in four blocks and two classes."""
    rng = np.random.default_rng(seed)
    outcomes = rng.choice([0, 1, 2], (2, 2, 10, count), p=[0.3, 0.6, 0.1]).astype(np.uint8)
    return Ranking(
        rng.integers(1, 3, count),
        rng.permutation(count) / count,  # the order of equal ones would matter
        rng.integers(0, 4, count),
        *outcomes,
        rng.integers(1, 3, 2 * count),
        rng.integers(0, 4, 2 * count),
        np.ones((2, 2 * count), np.bool_),
    )


def repeated(ranking: Ranking, times: list[int]) -> Ranking:
    """With the objects of each block that often."""
    rows, true = (
        np.concatenate([np.flatnonzero(b == i) for i, n in enumerate(times) for _ in range(n)])
        for b in (ranking.block, ranking.true_block)
    )
    return Ranking(
        ranking.label[rows],
        ranking.score[rows],
        ranking.block[rows],
        ranking.masks[..., rows],
        ranking.boxes[..., rows],
        ranking.true_label[true],
        ranking.true_block[true],
        ranking.counts[:, true],
    )


@given(st.integers(0, 1000), st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any))
def test_blocks_with_weights_are_blocks_that_often(seed: int, times: list[int]) -> None:
    ranking = drawn(seed)
    weights = np.array([times, [1, 1, 1, 1]], float)
    weighed = averages(ranking, [1, 2], weights=weights)
    again, once = averages(repeated(ranking, times), [1, 2]), averages(ranking, [1, 2])
    for name in ap.MEASURES:
        assert weighed[name] == pytest.approx([again[name][0], once[name][0]], nan_ok=True), name


def test_ar100_takes_the_best_of_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ap, "MOST", 2)
    block = np.array([0, 0, 0, 1])
    objects = Candidates(np.ones(4, int), np.full(4, 9.0), block)
    pairs = (np.arange(4), np.arange(4))
    ranking = rank(objects, np.array([0.2, 0.9, 0.5, 0.1]), objects, pairs, (np.ones(4),) * 2)
    found = averages(ranking, [1])
    assert found["ar"] == found["ap"] == 1
    assert found["ar100"] == 0.75  # the third of the first block has no place


# --- whole scenes ---------------------------------------------------------------------------


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return vectors(tmp_path / "truth.gpkg", [ground(r, c, 40, 40) for r, c in SQUARES])


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return testing.planted_scene(tmp_path / "scene.tif", squares())


def detections(path: Path, objects: list[tuple[Any, float]], **columns: Any) -> Path:
    """A file as `geoseg predict` writes it; objects: (ground, score)."""
    shapes, scores = [o[0] for o in objects], [o[1] for o in objects]
    about = {"class": "house", "class_id": 1, "id": range(1, len(shapes) + 1)}
    return vectors(path, shapes, **{**about, "score": scores, "truncated": False, **columns})


def some(path: Path) -> Path:
    """Three of the four squares, one of them badly, and two that are not there."""
    return detections(
        path,
        [
            (ground(20, 20, 40, 40), 0.9),
            (ground(20, 120, 40, 32), 0.8),  # IoU 0.8
            (ground(80, 80, 20, 20), 0.7),
            (ground(120, 20, 40, 24), 0.6),  # IoU 0.6
            (ground(170, 90, 10, 10), 0.1),
        ],
    )


def test_average_precision_of_a_scene_is_that_by_hand(
    tmp_path: Path, truth: Path, scene: Path
) -> None:
    report = run(some(tmp_path / "found.gpkg"), truth, scene=scene, block=20).report
    values = {name: e["value"] for name, e in report["measures"].items()}
    # Recalls up to 0.25 and 0.5 at a precision of 1, up to 0.75 at 3 of 4.
    levels = {0.6: (51 + 25 * 0.75) / 101, 0.8: 51 / 101, 1.0: 26 / 101}
    at = [next(v for limit, v in levels.items() if iou <= limit + 1e-9) for iou in ap.IOUS]
    assert values["ap50"] == pytest.approx(levels[0.6])
    assert values["ap75"] == pytest.approx(levels[0.8])
    assert values["ap"] == values["box_ap"] == pytest.approx(np.mean(at))
    assert values["ar"] == values["ar100"] == pytest.approx((3 * 3 + 4 * 2 + 3 * 1) / 40)
    assert report["measures"]["ap"]["low"] < values["ap"] < report["measures"]["ap"]["high"]
    assert (values["object_f1"], values["object_iou"]) == pytest.approx((6 / 9, 0.8))
    assert (values["count_error"], values["split_rate"], values["merge_rate"]) == (0.25, 0, 0)
    found = report["detection"]
    assert (found["candidates"], found["least_score"]) == (5, 0.1)
    assert [s["truth"] for s in found["masks"]["sizes"]] == [0, 4, 0, 0]  # of 144 m²
    assert found["masks"]["sizes"][1]["ap"] == pytest.approx(values["ap"], abs=0.2)
    assert found["masks"]["sizes"][1]["ar"] == pytest.approx(values["ar"])
    assert found["masks"]["classes"][0]["ap"] == pytest.approx(values["ap"], rel=1e-5)
    assert [c["iou"] for c in found["curves"]] == [0.5, 0.75]
    assert found["curves"][0]["precision"][40:80:20] == [1, 0.75]
    assert found["thresholds"]["best"] == 0.6
    assert found["thresholds"]["best_f1"] == pytest.approx(6 / 8)
    assert not any("AP" in note for note in report["notes"])


def test_all_right_is_1_and_nothing_is_0(tmp_path: Path, truth: Path, scene: Path) -> None:
    right = detections(tmp_path / "r.gpkg", [(ground(r, c, 40, 40), 0.5) for r, c in SQUARES])
    result = run(right, truth, scene=scene)
    for name in ("ap", "ap50", "ap75", "ar", "ar100", "box_ap", "object_f1", "object_iou", "iou"):
        assert result[name] == pytest.approx(1), name
    assert any("No object has a score below 0.50" in note for note in result.report["notes"])
    wrong = detections(tmp_path / "w.gpkg", [(ground(90, 90, 9, 9), 0.5)])
    assert run(wrong, truth, scene=scene)["ap"] == 0


def test_low_scores_are_ranked_but_not_counted(tmp_path: Path, truth: Path, scene: Path) -> None:
    found = some(tmp_path / "found.gpkg")
    every, best = (run(found, truth, scene=scene, threshold=t) for t in (None, 0.65))
    assert best.report["threshold"] == 0.65
    assert best["ap"] == every["ap"]
    objects = best.report["objects"]
    assert (objects["hits"], objects["false_alarms"], objects["misses"]) == (2, 1, 2)
    assert best["count_error"] == -0.25
    assert best["recall"] == pytest.approx((1600 + 1280) / 6400, abs=1e-3)  # of pixels
    assert every["recall"] == pytest.approx((1600 + 1280 + 960) / 6400, abs=1e-3)


def test_scores_are_held_against_what_came_true(tmp_path: Path, truth: Path, scene: Path) -> None:
    report = run(some(tmp_path / "found.gpkg"), truth, scene=scene).report
    groups = {round(g["said"], 1): (g["seen"], g["count"]) for g in report["calibration"]}
    assert groups == {0.9: (1, 1), 0.8: (1, 1), 0.7: (0, 1), 0.6: (1, 1), 0.1: (0, 1)}
    expected = (0.1 + 0.2 + 0.7 + 0.4 + 0.1) / 5
    assert report["measures"]["ece"]["value"] == pytest.approx(expected)
    assert report["thresholds"] is None  # that is of pixels


def test_outside_of_the_area_no_object_counts(tmp_path: Path, truth: Path, scene: Path) -> None:
    area = vectors(tmp_path / "aoi.gpkg", [ground(0, 0, 100, 200)])
    found = detections(
        tmp_path / "found.gpkg",
        [
            (ground(150, 150, 40, 40), 0.95),  # wrong, but nobody looked there
            (ground(20, 20, 40, 40), 0.9),
            (ground(120, 20, 40, 40), 0.85),  # right, but that does not count either
            (ground(20, 120, 40, 40), 0.8),
        ],
    )
    report = run(found, truth, scene=scene, aoi=area).report
    assert report["measures"]["ap"]["value"] == 1
    assert report["detection"]["candidates"] == 2
    assert report["objects"]["predicted"] == 2
    assert report["measures"]["count_error"]["value"] == 0


def test_split_and_merged_objects(tmp_path: Path, scene: Path) -> None:
    truth = vectors(
        tmp_path / "truth.gpkg",
        [
            *(ground(10, c, 40, 40) for c in (10, 50)),  # a terrace of two
            ground(10, 110, 40, 40),  # a long house
            ground(110, 10, 40, 40),
            ground(110, 52, 6, 6),  # and its shed
            ground(110, 110, 40, 40),
        ],
    )
    found = vectors(
        tmp_path / "found.gpkg",
        [
            ground(10, 10, 40, 80),  # both of the terrace in one
            *(ground(10, c, 40, 18) for c in (110, 132)),  # the long house in two
            ground(110, 10, 40, 50),  # a shed merges nothing
            ground(110, 110, 40, 40),
            ground(112, 112, 4, 4),  # a speck splits nothing
        ],
    )
    report = run(found, truth, scene=scene, output=tmp_path / "report", threshold=0.4).report
    assert any("--threshold says nothing" in note for note in report["notes"])
    assert (report["objects"]["split"], report["objects"]["merged"]) == (1, 1)
    assert report["measures"]["split_rate"]["value"] == pytest.approx(1 / 6)
    assert report["measures"]["merge_rate"]["value"] == pytest.approx(1 / 6)
    assert report["classes"][1]["split_rate"] == pytest.approx(1 / 6, abs=1e-6)
    assert report["detection"] is None  # no scores
    assert report["measures"]["ap"]["value"] is None
    objects = gpd.read_file(tmp_path / "report" / "places.gpkg", layer="objects")
    assert objects["merged"].sum() == 2
    assert objects["split"].sum() == 3  # and its parts, which are false alarms


def test_a_double_is_a_split(tmp_path: Path, truth: Path, scene: Path) -> None:
    twice = [(ground(20, 20, 40, 40), 0.9), (ground(22, 22, 36, 36), 0.8)]
    report = run(detections(tmp_path / "t.gpkg", twice), truth, scene=scene).report
    assert (report["objects"]["split"], report["objects"]["false_alarms"]) == (1, 1)
    assert report["measures"]["split_rate"]["value"] == 0.25


def test_of_objects_that_overlap_the_surest_lies_on_top(tmp_path: Path, scene: Path) -> None:
    places = [ground(20, 20, 40, 40), ground(20, 40, 40, 60)]
    truth = vectors(tmp_path / "truth.gpkg", places[::-1], kind=["pond", "house"])
    found = detections(
        tmp_path / "found.gpkg",
        [(places[0], 0.9), (places[1], 0.6)],
        **{"class": ["house", "pond"], "class_id": [1, 2]},
    )
    report = run(found, truth, scene=scene, attribute="kind").report
    assert report["measures"]["object_f1"]["value"] == 1
    assert report["measures"]["ap"]["value"] == pytest.approx(1)
    assert [c["name"] for c in report["classes"]] == ["background", "house", "pond"]
    assert report["measures"]["iou"]["value"] == pytest.approx(1)  # the house covers the pond
    by_class = report["detection"]["boxes"]["classes"]
    assert [(c["name"], c["truth"], c["ap"]) for c in by_class] == [
        ("house", 1, 1.0),
        ("pond", 1, 1.0),
    ]


def test_a_score_is_a_probability(tmp_path: Path, truth: Path, scene: Path) -> None:
    for score in (87.0, float("nan"), "high"):
        file = detections(tmp_path / "found.gpkg", [(ground(0, 0, 9, 9), 0.5)], score=[score])
        with pytest.raises(DataError, match=r"found\.gpkg: the column 'score' must be a probab"):
            run(file, truth, scene=scene)
        file.unlink()


def test_a_prediction_without_objects(tmp_path: Path, truth: Path, scene: Path) -> None:
    some(tmp_path / "found.gpkg")
    frame = gpd.read_file(tmp_path / "found.gpkg").iloc[:0]
    frame.to_file(tmp_path / "none.gpkg")
    result = run(tmp_path / "none.gpkg", truth, scene=scene, output=tmp_path / "report")
    assert result["ap"] == result["object_recall"] == 0
    assert result["object_precision"] is None
    assert result.report["detection"]["least_score"] is None
    json.loads((tmp_path / "report" / "report.json").read_text(), parse_constant=pytest.fail)
    check_page(tmp_path / "report" / "report.html")


# --- reports ---------------------------------------------------------------------------------


@pytest.fixture
def reports(tmp_path: Path, truth: Path, scene: Path) -> list[Path]:
    """Of the same model with two thresholds, and of a better one."""
    found = [some(tmp_path / "some.gpkg")] * 2
    right = [(ground(r, c, 40, 36), 0.9 - 0.001 * c) for r, c in SQUARES]
    found += [detections(tmp_path / "right.gpkg", right)]
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for file, folder, threshold in zip(found, folders, (None, 0.65, None), strict=True):
        run(file, truth, scene=scene, block=20, output=folder, threshold=threshold)
    return folders


def test_blocks_hold_the_ranking(reports: list[Path]) -> None:
    report = json.loads((reports[0] / "report.json").read_text())
    again = ranking_of(report["blocks"])
    assert again is not None
    for boxes, prefix in ((False, ""), (True, "box_")):
        found = averages(again, [1], boxes=boxes)
        for name in ("ap", "ap50", "ap75", "ar"):
            assert found[name] == pytest.approx(report["measures"][prefix + name]["value"])


def test_reports_are_compared_by_average_precision(reports: list[Path]) -> None:
    result = compare(reports)
    assert result.rows[1].differences is not None
    assert result.rows[1].differences["ap"] == {"value": 0, "low": 0, "high": 0}
    assert result.rows[2].differences is not None
    gain = result.rows[2].differences["ap"]
    values = [row.measures["ap"]["value"] for row in result.rows]
    assert gain["value"] == pytest.approx(values[2] - values[0], abs=1e-5)
    assert gain["low"] < gain["value"] < gain["high"]
    pixels, objects = text(result).split("\n\n")
    assert len(pixels.splitlines()) == 4
    lines = [line.split()[0] for line in objects.splitlines()]
    assert lines[:4] == ["objects", "AP", "AP50", "AP75"]
    assert lines[-1] == "difference"  # of AP
    assert all("*" in line for line in objects.splitlines()[1:4])


def test_reports_without_the_new_keys_are_compared(reports: list[Path]) -> None:
    file = reports[0] / "report.json"
    report = json.loads(file.read_text())
    old = {k: v for k, v in report.items() if k not in ("detection", "against")}
    old["measures"] = {n: report["measures"][n] for n in ("iou", "f1", "boundary_f1", "ece")}
    old["measures"]["object_f1"] = report["measures"]["object_f1"]
    for block in old["blocks"]:
        del block["relations"], block["scored"]
    file.write_text(json.dumps(old))
    result = compare(reports)
    assert result.rows[0].measures["ap"]["value"] is None
    assert result.rows[1].differences is not None
    assert "ap" not in result.rows[1].differences
    assert "iou" in result.rows[1].differences


def test_a_report_shows_objects(reports: list[Path]) -> None:
    page = (reports[1] / "report.html").read_text()
    check_page(reports[1] / "report.html")
    for words in ("Objects by score", "Precision and recall", "found, missed, false alarms"):
        assert words in page
    objects = gpd.read_file(reports[1] / "places.gpkg", layer="objects")
    assert sorted(objects["result"]) == ["false alarm", "found", "found", "missed", "missed"]
    assert objects[objects["result"] == "found"]["score"].tolist() == [0.9, 0.8]
    shown = brief(json.loads((reports[1] / "report.json").read_text()))
    assert [line.split()[0] for line in shown.splitlines()[:3]] == ["objects", "AP", "AP50"]


# --- models ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sees every object of a planted scene, cut at the tile's edge, with a score of 0.9."""
    spec = fake_instances(name="planted", tiling=Tiling(size=64, overlap=16, stride=8))
    chip = np.zeros((1, 1, 64, 64), np.float32)
    state = {"0.weight": np.zeros((1, 1, 1, 1), np.float32)}
    folder = tmp_path_factory.mktemp("models") / "planted"
    return Bundle.write(folder, spec, state, Sample(chip, chip), "# planted\n")


def numbered(path: Path) -> Path:
    """A scene whose pixels are the numbers of the four squares."""
    numbers = np.zeros((1, 200, 200), np.float32)
    for number, (row, col) in enumerate(SQUARES, start=1):
        numbers[0, row : row + 40, col : col + 40] = number
    return testing.write_scene(path, numbers)


def test_a_model_that_finds_objects(tmp_path: Path, model: Path, truth: Path) -> None:
    scene = numbered(tmp_path / "scene.tif")
    options = {"model": model, "runtime": "fake", "block": 20, "output": tmp_path / "report"}
    result = run(scene, truth, against_nms=True, keep=True, **options)
    for name in ("ap", "box_ap", "object_f1", "object_iou", "iou"):
        assert result[name] == pytest.approx(1), name
    report = result.report
    assert report["threshold"] == 0.5
    assert report["measures"]["ece"]["value"] == pytest.approx(0.1, abs=1e-6)
    other = report["against"]
    assert other["merge"] == "nms"
    assert other["measures"]["ap"]["value"] < 0.9  # the squares are cut by tiles
    assert other["measures"]["split_rate"]["value"] > 0
    gain = other["differences"]["ap"]
    assert gain["value"] == pytest.approx(1 - other["measures"]["ap"]["value"], abs=1e-5)
    assert gain["low"] > 0
    kept = {p.name for p in (tmp_path / "report" / "predictions").iterdir()}
    assert {"scene.gpkg", "scene-nms.gpkg"} <= kept
    page = (tmp_path / "report" / "report.html").read_text()
    assert "What merging brings" in page
    check_page(tmp_path / "report" / "report.html")
    lines = [line.split() for line in brief(report).splitlines()]
    assert lines[0] == ["objects", "merged", "plain", "NMS", "difference"]
    assert lines[1][:2] == ["AP", "1.000"]


def test_against_nms_from_the_command_line(tmp_path: Path, model: Path, truth: Path) -> None:
    from geoseg.cli import cli

    scene = numbered(tmp_path / "scene.tif")
    command = ["evaluate", str(scene), "--model", str(model), "--truth", str(truth)]
    done = CliRunner().invoke(cli, [*command, "--runtime", "fake", "--against-nms"])
    assert done.exit_code == 0, done.output
    assert "plain NMS" in done.output


def test_an_area_cuts_no_object(tmp_path: Path, model: Path, truth: Path) -> None:
    area = vectors(tmp_path / "aoi.gpkg", [ground(0, 0, 200, 100)])
    scene = numbered(tmp_path / "scene.tif")
    result = run(scene, truth, model=model, runtime="fake", aoi=area)
    assert result["ap"] == result["object_iou"] == pytest.approx(1)
    assert result.report["objects"]["hits"] == 2


def test_against_nms_needs_a_model_of_objects(
    tmp_path: Path, model: Path, truth: Path, scene: Path
) -> None:
    found = some(tmp_path / "found.gpkg")
    with pytest.raises(UsageError, match=r"which model is run twice\? Name it \(--model\)"):
        run(found, truth, scene=scene, against_nms=True)
    bright = bright_bundle(tmp_path / "bright")
    with pytest.raises(UsageError, match="bright-1 finds no objects that could be merged"):
        run(scene, truth, model=bright, against_nms=True)
    with pytest.raises(UsageError, match="nms is the merge already"):
        run(scene, truth, model=model, against_nms=True, merge="nms")


def test_what_is_counted_is_what_is_delivered(
    tmp_path: Path, model: Path, truth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cut at the left of a tile is doubtful; the threshold decides before merging."""
    planted = FakeDetector.detect

    def doubtful(self: FakeDetector, batch: Any) -> list[Detections]:
        found = planted(self, batch)
        return [replace(d, scores=np.where(d.boxes[:, 0] == 0, 0.3, 0.8)) for d in found]

    monkeypatch.setattr(FakeDetector, "detect", doubtful)
    scene = numbered(tmp_path / "scene.tif")
    options = {"model": model, "runtime": "fake", "tile": 48, "overlap": 8}
    own = run(scene, truth, **options, keep=True, output=tmp_path / "report")
    predictions = tmp_path / "report" / "predictions"
    for threshold, file in ((0.5, "scene.gpkg"), (None, "scene-ranked.gpkg")):
        again = run(predictions / file, truth, scene=scene, threshold=threshold)
        names = ("ap", "box_ap", "ece") if threshold is None else ("object_f1", "iou", "split_rate")
        assert {n: again[n] for n in names} == {n: own[n] for n in names}
    delivered = tmp_path / "delivered.gpkg"
    geoseg.predict(scene, delivered, **options)
    assert run(delivered, truth, scene=scene)["object_f1"] == own["object_f1"]
    filtered = run(predictions / "scene-ranked.gpkg", truth, scene=scene, threshold=0.5)
    assert filtered["object_iou"] > own["object_iou"]  # doubtful parts made others whole
