"""Mask R-CNN as a graph: the same objects as torch's, in pictures of any size, without torch."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import shapely
import torch
from numpy.typing import NDArray
from test_runtime_detector import ARGUMENTS, SPEC, planted, trained

import geoseg
from geoseg import models, runtime
from geoseg.bundle import Bundle, Sample, card
from geoseg.errors import ModelError, UsageError
from geoseg.exchange import export
from geoseg.exchange.objects import Objects
from geoseg.exchange.quantize import quantize
from geoseg.instances.paste import paint
from geoseg.predictions import Detections
from geoseg.runtime.graphs import objects_in, scores_in
from geoseg.runtime.torch_detector import TorchDetector
from geoseg.runtime.torch_runtime import golden_sample
from geoseg.spec import Scaling

POINTS = 3
ALL = {**ARGUMENTS, "keypoints": POINTS, "keypoint_channels": 16, "picture": 96}
FULL = replace(SPEC, arguments=ALL, temperature=0.8, bias=0.1)
GRAPHS = ["onnx", "openvino"]
State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSEG_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def state() -> State:
    """Of a network whose scores are not all alike."""
    return trained().state_dict()


def network_with(state: State, arguments: dict[str, Any]) -> Any:
    """Such a network with other options; parts that the trained one lacks stay random."""
    torch.manual_seed(1)
    network = models.build("mask_rcnn", classes=2, bands=3, **arguments).eval()
    own = network.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    network.load_state_dict({**own, **fitting})
    return network


def scene(seed: int, height: int, width: int) -> NDArray[np.float32]:
    """A picture of planted pictures side by side, cut to that size."""
    tiles = planted(seed, 9)[0].numpy()
    rows = [np.concatenate(list(tiles[i : i + 3]), axis=2) for i in (0, 3, 6)]
    whole: NDArray[np.float32] = np.concatenate(rows, axis=1)[None, :, :height, :width]
    return np.ascontiguousarray(whole)


def same(found: Detections, right: Detections) -> None:
    assert len(found) == len(right)
    np.testing.assert_allclose(found.boxes, right.boxes, atol=2e-3)
    np.testing.assert_array_equal(found.labels, right.labels)
    np.testing.assert_allclose(found.scores, right.scores, atol=1e-4)
    for one, other in ((found.masks, right.masks), (found.keypoints, right.keypoints)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            np.testing.assert_allclose(one, other, atol=2e-3)


# --- the network said anew ------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"masks": False, "keypoints": 2, "keypoint_channels": 16},
        {"mask_loss": "softmax"},
        {"mask_head": "mlp"},
        {"picture": 64, "detections": 4, "proposals": [100, 11]},
        {"floor": 1.0},
    ],
    ids=str,
)
def test_it_is_the_network(state: State, changes: dict[str, Any]) -> None:
    network = network_with(state, {**ARGUMENTS, **changes})
    image = scene(7, 128, 160)
    (right,) = TorchDetector(SPEC, network).detect(image)
    assert (len(right) == 0) == ("floor" in changes)
    with torch.no_grad():
        module = Objects(network, SPEC).eval()
        given = module(torch.from_numpy(image))
    outputs = {n: v.numpy() for n, v in zip(module.outputs, given, strict=True)}
    same(objects_in(outputs, SPEC, (128, 160))[0], right)


def test_what_onnx_has_in_another_way_is_refused(state: State) -> None:
    with pytest.raises(ModelError, match=r"demo-0 reads boxes by RoIPool, .* runs with torch only"):
        Objects(network_with(state, {**ARGUMENTS, "roi": "pool"}), SPEC)


# --- as a graph -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, state: State) -> Path:
    network = network_with(state, ALL)
    sample = golden_sample(FULL, network, scene(1000, 96, 96))
    assert sample.scores.mean() > 0.01  # else it would prove nothing
    path = tmp_path_factory.mktemp("objects") / "plain"
    return Bundle.write(path, FULL, network.state_dict(), sample, card(FULL))


@pytest.fixture(scope="module")
def bundle(plain: Path) -> Bundle:
    done = export(plain, "bundle", plain.with_name("graph"))
    assert done.report is not None
    assert done.report.ok
    return Bundle.open(done.path)


@pytest.fixture(scope="module")
def right(plain: Path) -> Any:
    return runtime.load(Bundle.open(plain), runtime="torch", precision="float32")


@pytest.mark.parametrize("name", GRAPHS)
def test_it_finds_what_torch_finds(bundle: Bundle, right: Any, name: str) -> None:
    loaded: Any = runtime.load(bundle, runtime=name, threads=1)
    assert loaded.description == f"{name} float32 cpu (1 threads)"
    assert bundle.check(loaded).ok
    for seed, (height, width) in enumerate([(96, 96), (224, 160), (64, 256)]):
        image = scene(seed, height, width)
        (found,), (wanted,) = loaded.detect(image), right.detect(image)
        assert len(wanted) > 0
        assert found.keypoints is not None
        assert found.keypoints.shape == (len(found), POINTS, 3)
        same(found, wanted)
    two = np.concatenate([scene(5, 96, 96), scene(6, 96, 96)])
    for found, wanted in zip(loaded.detect(two), right.detect(two), strict=True):
        same(found, wanted)
    np.testing.assert_allclose(loaded.predict(two), right.predict(two), atol=2e-2)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_picture_of_nothing(bundle: Bundle, name: str) -> None:
    """Without a proposal nothing is left to be looked at, and no operator may stumble."""
    loaded: Any = runtime.load(bundle, runtime=name, threads=1)
    (found,) = loaded.detect(np.full((1, 3, 64, 96), np.nan, np.float32))
    assert len(found) == 0


def test_the_graph_is_small_and_others_can_open_it(bundle: Bundle) -> None:
    path = bundle.path / "model.onnx"
    assert path.stat().st_size < 250_000
    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(path)
    assert [o.name for o in session.get_outputs()] == [
        *("boxes", "labels", "scores", "masks", "keypoints")
    ]
    assert [o.shape[0] for o in session.get_outputs()] == ["objects"] * 5


def test_a_file_of_one_size(plain: Path, right: Any, tmp_path: Path) -> None:
    path = export(plain, "onnx", tmp_path / "m.onnx", tile=128).path
    session = onnxruntime.InferenceSession(path)
    image = scene(3, 128, 128)
    names = [o.name for o in session.get_outputs()]
    given = dict(zip(names, session.run(None, {"pixels": image}), strict=True))
    same(objects_in(given, FULL, (128, 128))[0], right.detect(image)[0])


# --- in other formats -----------------------------------------------------------------------

PICTURES = [scene(0, 96, 96), scene(1, 224, 160), np.full((1, 3, 96, 128), np.nan, np.float32)]


def test_openvino(plain: Path, right: Any, tmp_path: Path) -> None:
    """In pictures of several sizes; in one there is nothing. Weights are rounded to 16 bits."""
    folder = export(plain, "openvino", tmp_path / "folder").path
    assert sorted(p.name for p in folder.iterdir()) == ["model.bin", "model.json", "model.xml"]
    how = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", how)
    for image in PICTURES:
        given = {port.any_name: value for port, value in compiled(image).items()}
        found = scores_in(given, FULL, image.shape[2:])
        assert Sample.of_objects(image, right.predict(image)).difference(found) < 0.03


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
def test_torchscript(plain: Path, right: Any, tmp_path: Path) -> None:
    module: Any = torch.jit.load(export(plain, "torchscript", tmp_path / "m.pt", tile=128).path)
    counts = []
    for image in (scene(3, 128, 128), scene(4, 128, 128), np.full((1, 3, 128, 128), np.nan, "f4")):
        with torch.no_grad():
            given = module(torch.from_numpy(image))
        counts.append(_is_right(given, right, image))
    assert len(set(counts)) == 3
    assert counts[-1] == 0


def test_pt2(plain: Path, right: Any, tmp_path: Path) -> None:
    program = torch.export.load(export(plain, "pt2", tmp_path / "m.pt2").path).module()
    for image in PICTURES:
        _is_right(program(torch.from_numpy(image)), right, image)


def _is_right(given: tuple[torch.Tensor, ...], right: Any, image: NDArray[np.float32]) -> int:
    """How many objects were found, all of them as they should."""
    names = ("boxes", "labels", "scores", "masks", "keypoints")
    outputs = {name: value.numpy() for name, value in zip(names, given, strict=True)}
    (found,) = objects_in(outputs, FULL, (image.shape[2], image.shape[3]))
    same(found, right.detect(image)[0])
    return len(found)


def test_our_onnx_comes_back(plain: Path, right: Any, tmp_path: Path) -> None:
    path = export(plain, "onnx", tmp_path / "back.onnx").path
    back = Bundle.open(geoseg.import_model(path).path)
    assert (back.spec.finds_objects, back.spec.threshold) == (True, FULL.threshold)
    assert (back.spec.scaling, back.spec.classes) == (FULL.scaling, FULL.classes)
    loaded: Any = runtime.load(back, runtime="onnx", threads=1)
    for image in PICTURES:
        same(loaded.detect(image)[0], right.detect(image)[0])


# --- Deepness -------------------------------------------------------------------------------

BYTES = replace(
    SPEC,
    dtype="uint8",
    value_range=(0.0, 255.0),
    scaling=Scaling((100.0,) * 3, (100.0,) * 3),
)
LEVEL = 0.5


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory: pytest.TempPathFactory, state: State) -> Path:
    """A model for bytes."""
    network = network_with(state, ARGUMENTS)
    sample = golden_sample(BYTES, network, scene(1000, 96, 96))
    path = tmp_path_factory.mktemp("bytes") / "m"
    return Bundle.write(path, BYTES, network.state_dict(), sample, card(BYTES))


@pytest.fixture(scope="module")
def for_deepness(of_bytes: Path) -> tuple[Path, Any]:
    """The file, for pictures of 128 x 128, and the model that it was made of."""
    done = export(of_bytes, "deepness", of_bytes.with_name("model.onnx"), tile=128)
    return done.path, runtime.load(Bundle.open(of_bytes), runtime="torch", precision="float32")


def test_deepness_reads_it(for_deepness: tuple[Path, Any]) -> None:
    path, right = for_deepness
    session = onnxruntime.InferenceSession(path)
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert about["model_type"] == "Detector"
    assert about["class_names"] == {"0": "thing1", "1": "thing2"}
    assert about["det_type"] == "YOLO_Ultralytics_segmentation"
    assert (about["det_conf"], about["det_iou_thresh"], about["tile_size"]) == (0.5, 0.5, 128)
    most = 100
    shapes = [[1, 6 + most, most], [1, most, 32, 32]]
    assert [o.shape for o in session.get_outputs()] == shapes
    overlaps = []
    for seed in (3, 7):  # whose objects do not overlap
        image = scene(seed, 128, 128)
        outputs = session.run(None, {"pixels": (image * 100 + 100) / np.float32(255)})
        boxes, labels, scores, masks = as_deepness(outputs, 2, LEVEL, about["det_iou_thresh"])
        (wanted,) = right.detect(image)
        wanted = wanted.take(wanted.scores >= LEVEL)
        assert len(boxes) == len(wanted) > 3
        np.testing.assert_allclose(boxes, wanted.boxes, atol=1.01)  # it cuts decimals off
        np.testing.assert_array_equal(labels, wanted.labels)
        np.testing.assert_allclose(scores, wanted.scores, atol=1e-4)
        overlaps += [iou(a, b) for a, b in zip(masks, pasted(wanted, (128, 128)), strict=True)]
    assert np.mean(overlaps) > 0.75  # of objects of 14 to 28 pixels, by cells of 4


def test_deepness_comes_back(for_deepness: tuple[Path, Any]) -> None:
    path, right = for_deepness
    path.with_suffix(".yaml").write_text("bands: [band1, band2, band3]")
    back = Bundle.open(geoseg.import_model(path).path)
    loaded: Any = runtime.load(back, runtime="onnx", threads=1)
    overlaps, shape = [], (128, 128)
    for seed in (3, 7):  # whose objects do not overlap
        image = scene(seed, *shape)
        seen = (image * 100 + 100) / np.float32(255)  # as the scaling of the bundle does
        (found,), (wanted,) = loaded.detect(seen), right.detect(image)
        wanted, found = (one.take(one.scores >= 0.1) for one in (wanted, found))
        same(replace(found, masks=None), replace(wanted, masks=None))
        overlaps += [
            iou(a, b) for a, b in zip(pasted(found, shape), pasted(wanted, shape), strict=True)
        ]
    assert np.mean(overlaps) > 0.9
    (nothing,) = loaded.detect(np.full((1, 3, *shape), np.nan, np.float32))
    assert len(nothing) == 0


def as_deepness(
    outputs: list[NDArray[np.float32]], classes: int, level: float, most: float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """What Deepness 0.7 makes of a YOLO_Ultralytics_segmentation network, in our words.

    Boxes that no surer one of any class overlaps, in whole pixels; masks as probabilities in cells,
    cut to the box there, and only then made as large as the picture.
    """
    rows, protos = outputs[0][0].T.astype(float), outputs[1][0].astype(float)
    rows = rows[rows[:, 4 : 4 + classes].max(1) >= level]
    rows = rows[np.argsort(-rows[:, 4 : 4 + classes].max(1), kind="stable")]
    rows[:, :4] = np.c_[rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2]
    kept: list[NDArray[Any]] = []
    for row in rows:
        if all(inclusive_iou(row[:4], other[:4]) < most for other in kept):
            kept.append(row)
    rows = np.array(kept)
    boxes, scores = rows[:, :4].astype(int), rows[:, 4 : 4 + classes]
    soft = 1 / (1 + np.exp(-np.tensordot(rows[:, 4 + classes :], protos, 1)))
    y, x = np.indices(soft.shape[1:])
    left, top, right, bottom = (boxes / 4).T[:, :, None, None]
    soft *= (x >= left) & (x < right) & (y >= top) & (y < bottom)
    large = torch.nn.functional.interpolate(
        torch.from_numpy(soft)[None], scale_factor=4, mode="bilinear"
    )
    return boxes, scores.argmax(1), scores.max(1), large[0].numpy() >= 0.5


def inclusive_iou(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Of boxes whose last pixel belongs to them."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    common = (high - low + 1).clip(0).prod()
    areas = [(box[2:] - box[:2] + 1).prod() for box in (one, other)]
    return float(common / (sum(areas) - common))


def pasted(found: Detections, shape: tuple[int, int]) -> list[NDArray[np.bool_]]:
    """Masks as large as the picture."""
    ones = replace(found, scores=np.ones_like(found.scores), labels=np.zeros_like(found.labels))
    return [paint(ones.take(np.array([i])), 1, shape)[0] >= 0.5 for i in range(len(found))]


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


# --- Esri -----------------------------------------------------------------------------------


def test_esri(of_bytes: Path, tmp_path: Path) -> None:
    """As ArcGIS calls the function, for a block of bytes."""
    path = export(of_bytes, "emd", tmp_path / "m.dlpk", tile=128).path
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    about = json.loads((tmp_path / "demo.emd").read_text())
    assert about["ModelType"] == "ObjectDetection"
    assert about["InferenceFunction"] == "GeosegDetector.py"
    spec = importlib.util.spec_from_file_location("GeosegDetector", tmp_path / "GeosegDetector.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = module.GeosegDetector()
    function.initialize(model=str(tmp_path / "demo.emd"))
    how = function.getConfiguration(padding=16, threshold=LEVEL)
    assert (how["tx"], how["ty"], function.getGeometryType()) == (96, 96, 4)
    names = [f["name"] for f in json.loads(function.getFields())["fields"]]
    assert names == ["OID", "Class", "Confidence", "Shape"]

    pixels = (scene(3, 128, 128)[0] * 100 + 100).clip(0, 255).astype(np.uint8)
    blocks = {"raster_pixels": pixels, "raster_mask": np.ones_like(pixels)}
    features = json.loads(function.vectorize(**blocks)["output_vectors"])["features"]
    right: Any = runtime.load(Bundle.open(of_bytes), runtime="torch", precision="float32")
    (wanted,) = right.detect((pixels[None] - np.float32(100)) / 100)
    middle = (wanted.boxes[:, :2] + wanted.boxes[:, 2:]) / 2
    inside = ((middle >= 16) & (middle < 112)).all(1) & (wanted.scores >= LEVEL)
    assert inside.any()
    assert not inside.all()
    wanted = wanted.take(inside)
    values = [f["attributes"] for f in features]
    assert [v["Class"] for v in values] == [f"thing{label + 1}" for label in wanted.labels]
    np.testing.assert_allclose([v["Confidence"] for v in values], wanted.scores, atol=1e-4)
    for feature, mask in zip(features, pasted(wanted, (128, 128)), strict=True):
        rings = [shapely.Polygon(np.array(ring) + 16) for ring in feature["geometry"]["rings"]]
        # With y downwards counterclockwise is clockwise as one looks at it; holes go the other way.
        outer = shapely.union_all([ring for ring in rings if ring.exterior.is_ccw])
        shape = outer - shapely.union_all([ring for ring in rings if not ring.exterior.is_ccw])
        y, x = np.nonzero(mask)
        cells = shapely.union_all(shapely.box(x, y, x + 1, y + 1))
        assert cells.intersection(shape).area / cells.union(shape).area > 0.85


def test_esri_comes_back(of_bytes: Path, tmp_path: Path) -> None:
    path = export(of_bytes, "emd", tmp_path / "m.dlpk", tile=96).path
    back = Bundle.open(geoseg.import_model(path).path)
    loaded: Any = runtime.load(back, runtime="onnx", threads=1)
    right: Any = runtime.load(Bundle.open(of_bytes), runtime="torch", precision="float32")
    image = scene(5, 96, 96)
    same(loaded.detect(image * 100 + 100)[0], right.detect(image)[0])


# --- what is refused ------------------------------------------------------------------------


def test_no_fewer_bits(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the openvino runtime computes them in float32, not in"):
        runtime.load(bundle, runtime="openvino", precision="bfloat16")
    with pytest.raises(ModelError, match="finds objects: 8 bits are for models that give a class"):
        quantize(bundle.path, tmp_path / "scene.tif", tmp_path / "int8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "does not give objects .*scores"),
        ({"boxes": np.zeros((2, 3))}, "does not give objects .*are not those of 2 objects"),
        ({"labels": np.array([0, 2])}, "gives objects of classes that it does not have"),
    ],
)
def test_a_graph_that_gives_something_else(
    changes: dict[str, NDArray[Any] | None], message: str
) -> None:
    outputs: dict[str, Any] = {
        "boxes": np.zeros((2, 4)),
        "labels": np.array([0, 1]),
        "scores": np.ones(2),
        **changes,
    }
    given = {name: value for name, value in outputs.items() if value is not None}
    with pytest.raises(ModelError, match=message):
        objects_in(given, SPEC, (32, 32))
