"""YOLO networks, as Ultralytics and Deepness have them, become models of objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import onnx
import pytest
import shapely
from foreign import (
    PLAIN,
    RGB,
    deepness,
    picture,
    say,
    weights,
    write_onnx,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import geoseg
from geoseg import runtime
from geoseg.bundle import Bundle
from geoseg.errors import ConfigError, GeosegError
from geoseg.runtime.yolo import suppress
from geoseg.testing import write_scene


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


def write_yolo(
    path: Path,
    boxes: NDArray[np.float32],
    *,
    across: bool = True,
    masks: bool = False,
    shape: tuple[int | str, ...] = (1, 3, 64, 64),
    metadata: Mapping[str, Any] | None = None,
    words: Callable[[Any], str] = json.dumps,
) -> Path:
    """A network that gives the same candidates (N, values) for every picture of 64 x 64; with
    masks also two prototypes: everything, and the left half of the picture. Where it takes several
    pictures (`shape`), it answers the first only."""
    rows = boxes.T if across else boxes
    protos = np.full((1, 2, 16, 16), 20, np.float32)
    protos[0, 1, :, 8:] = -20
    constants = [numpy_helper.from_array(rows[None].astype(np.float32), "rows")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, *rows.shape])]
    made = [("rows", "y")]
    if masks:
        constants.append(numpy_helper.from_array(protos, "protos"))
        outputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 2, 16, 16]))
        made.append(("protos", "z"))
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0)]
    nodes += [helper.make_node("Mul", ["m", "zero"], ["nothing"])]
    nodes += [helper.make_node("Add", [a, "nothing"], [b]) for a, b in made]
    constants.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    picture = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "yolo", [picture], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        helper.set_model_props(model, {k: words(v) for k, v in metadata.items()})
    onnx.save(model, path)
    return path


CARS = {"0": "car", "1": "ship"}


def candidates(objectness: bool) -> NDArray[np.float32]:
    """Two cars that are one, a ship over them, a faint car: centre, size, [object], car, ship."""
    rows = [
        [20, 20, 16, 8, 1, 0.9, 0.1],
        [21, 20, 16, 8, 1, 0.8, 0.1],
        [20, 20, 16, 8, 1, 0.1, 0.7],
        [50, 50, 8, 8, 1, 0.2, 0.0],
    ]
    return np.delete(np.array(rows, np.float32), [] if objectness else [4], axis=1)


KINDS = ["YOLO_v5_or_v7_default", "YOLO_v6", "YOLO_v9", "YOLO_Ultralytics"]


@pytest.mark.parametrize("kind", KINDS)
def test_yolo(tmp_path: Path, kind: str) -> None:
    old = kind in KINDS[:2]
    metadata = deepness(CARS, model_type="Detector", det_type=kind, det_conf=0.5, tile_size=64)
    path = write_yolo(tmp_path / "net.onnx", candidates(old), across=not old, metadata=metadata)
    say(path, {"bands": RGB})
    done = geoseg.import_model(path)
    spec = Bundle.open(done.path).spec
    assert (spec.task, spec.threshold, spec.names) == (
        "instance-segmentation",
        0.5,
        {1: "car", 2: "ship"},
    )
    scene = write_scene(tmp_path / "s.tif", picture(3, 255)[:, :64, :64], photometric="RGB")
    out = tmp_path / "out.gpkg"
    geoseg.predict(scene, out, model=done.path, threads=1)
    frame = gpd.read_file(out).sort_values("score", ascending=False)
    assert list(frame["class"]) == ["car", "ship"]  # classes do not compete
    np.testing.assert_allclose(frame.area, 16 * 8 * 0.09)
    assert frame["score"].iloc[0] == pytest.approx(0.9, abs=0.01)


def test_boxes_beyond_the_edge_are_compared_whole(tmp_path: Path) -> None:
    """Two that look alike inside of the picture, of which one is much wider; and one outside."""
    rows = [[0, 20, 20, 10, 0.9], [-15, 20, 50, 10, 0.8], [-15, 50, 20, 10, 0.7]]
    path = write_yolo(tmp_path / "net.onnx", np.array(rows, np.float32))
    say(path, {**PLAIN, "classes": ["car"], "detector": "YOLO_v9"}, activation=None, tiling=None)
    loaded = runtime.load(Bundle.open(geoseg.import_model(path).path), runtime="onnx", threads=1)
    (found,) = loaded.detect(np.zeros((1, 3, 64, 64), np.float32))
    assert found.boxes.tolist() == [[0, 15, 10, 25], [0, 15, 10, 25]]


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_yolo_with_masks(tmp_path: Path, runtime: str) -> None:
    rows = np.array([[32, 20, 20, 8, 0.9, 0.0, 1], [32, 50, 20, 8, 0.8, 1, 0]], np.float32)
    path = write_yolo(tmp_path / "net.onnx", rows, masks=True)
    contract = {**PLAIN, "classes": ["car"], "detector": "YOLO_Ultralytics_segmentation"}
    say(path, contract, activation=None, tiling=None)
    done = geoseg.import_model(path)
    scene = write_scene(tmp_path / "s.tif", picture(3, 255)[:, :64, :64], photometric="RGB")
    out = tmp_path / "out.gpkg"
    geoseg.predict(scene, out, model=done.path, runtime=runtime, threads=1)
    areas = gpd.read_file(out).sort_values("score").area / 0.09
    np.testing.assert_allclose(areas, [160, 80])


def test_unsure_masks_fill_their_boxes(tmp_path: Path) -> None:
    """Pixels at the edges of a large box are nearer to it than half a cell of its mask."""
    rows = np.array([[32, 32, 60, 60, 0.9, 0.02, 0]], np.float32)  # of logits of 20: 0.4
    path = write_yolo(tmp_path / "net.onnx", rows, masks=True)
    contract = {**PLAIN, "classes": ["car"], "detector": "YOLO_Ultralytics_segmentation"}
    say(path, contract, activation=None, tiling=None)
    scene = write_scene(tmp_path / "s.tif", picture(3, 255)[:, :64, :64], photometric="RGB")
    out = tmp_path / "out.gpkg"
    geoseg.predict(scene, out, model=geoseg.import_model(path).path, runtime="onnx", simplify=0)
    (area,) = gpd.read_file(out).area / 0.09
    assert area == pytest.approx(60 * 60 - 4)  # but for the corners


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"det_type": None}, "does not say: detector"),
        ({"det_type": "YOLO_Ultralytics_obb"}, "knows no det_type"),
        ({"class_names": {"0": "car"}}, "6 values per box, where 1 classes make 5"),
        ({"det_type": "YOLO_Ultralytics_segmentation"}, "1 outputs where 2 are needed"),
        ({"det_type": "YOLO_with_NMS"}, "4 values per box, where 6 are needed"),
    ],
)
def test_yolo_of_other_kinds(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    values = {"model_type": "Detector", "det_type": "YOLO_v9", "tile_size": 64, **changes}
    metadata = {k: v for k, v in deepness(CARS, **values).items() if v is not None}
    path = write_yolo(tmp_path / "net.onnx", candidates(objectness=False), metadata=metadata)
    say(path, {"bands": RGB})
    with pytest.raises(GeosegError, match=message):
        geoseg.import_model(path)


def ultralytics(**changes: Any) -> dict[str, Any]:
    """What Ultralytics 8 writes into its ONNX files, as `str` writes it."""
    said = {
        "author": "Ultralytics",
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "stride": 32,
        "task": "detect",
        "head": "Detect",
        "imgsz": [64, 64],
        "names": {0: "car", 1: "ship"},
        "args": {"nms": None},
        "end2end": False,
    }
    return {**said, **changes}


def objects(masks: bool) -> NDArray[np.float32]:
    """Two cars and a ship over each other, which the network let stand, and rows of nothing: left,
    top, right, bottom, score, class, [shares of two prototypes]."""
    rows = [
        [22, 16, 42, 24, 0.9, 0, 0, 1],
        [22, 16, 42, 26, 0.8, 0, 1, 0],
        [22, 16, 42, 24, 0.7, 1, 1, 0],
        *[[0] * 8] * 5,
    ]
    return np.array(rows, np.float32)[:, : None if masks else 6]


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("sign", [{"end2end": True}, {"args": {"nms": True}}, {}])
def test_yolo_that_has_sorted_out_its_boxes(
    tmp_path: Path, sign: dict[str, Any], masks: bool, free: bool
) -> None:
    path = write_yolo(
        tmp_path / "net.onnx",
        objects(masks),
        across=False,
        masks=masks,
        shape=("batch", 3, "height", "width") if free else (1, 3, 64, 64),
        metadata=ultralytics(task="segment" if masks else "detect", **sign),
        words=str,
    )
    say(path, {"bands": RGB, "gsd": 0.3})
    done = geoseg.import_model(path)
    assert done.kind == "ONNX of Ultralytics"
    spec = Bundle.open(done.path).spec
    assert spec.arguments["detector"] == "YOLO_with_NMS" + "_segmentation" * masks
    assert (spec.tiling.size, spec.tiling.stride if free else 32) == (64, 32)
    assert spec.license == "AGPL-3.0"
    batch = np.zeros((2, 3, 64, 64), np.float32)
    loaded = runtime.load(Bundle.open(done.path), runtime="onnx", batch_size=2, threads=1)
    for found in loaded.detect(batch):
        np.testing.assert_array_equal(found.boxes[:, 3] - found.boxes[:, 1], [8, 10, 8])
        assert found.labels.tolist() == [0, 0, 1]
        np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.7])
        if masks:
            inside = (found.masks > 0.5).mean((1, 2))
            np.testing.assert_allclose(inside, [0.5, 1, 1], atol=0.02)


@pytest.mark.parametrize("masks", [False, True])
def test_yolo_as_ultralytics_describes_it(tmp_path: Path, masks: bool) -> None:
    rows = np.c_[candidates(objectness=False), np.ones((4, 2), np.float32)]
    path = write_yolo(
        tmp_path / "net.onnx",
        rows if masks else rows[:, :6],
        masks=masks,
        metadata=ultralytics(task="segment" if masks else "detect"),
        words=str,
    )
    say(path, {})
    with pytest.raises(ConfigError, match="does not say: bands, gsd"):
        geoseg.import_model(path)
    say(path, {"bands": RGB, "gsd": 0.3})
    spec = Bundle.open(geoseg.import_model(path).path).spec
    assert spec.arguments["detector"] == "YOLO_Ultralytics" + "_segmentation" * masks
    assert spec.names == {1: "car", 2: "ship"}
    np.testing.assert_allclose(spec.scaling.scale, 255)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "obb"}, "not obb, which gives rotated boxes"),
        ({"task": "pose"}, "not pose, which gives boxes with keypoints"),
        ({"task": "classify"}, "not classify, which gives one class for a whole picture"),
        ({"task": "levitate"}, "not levitate$"),
        ({"head": "RTDETRDecoder"}, "not RT-DETR"),
        ({"names": {0: "car"}}, "6 values per box, where 1 classes make 5"),
        ({"end2end": True}, "4 values per box, where 6 are needed"),
        ({"names": "cars"}, "not as the format has it"),
    ],
)
def test_what_else_ultralytics_exports(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    metadata = ultralytics(**changes)
    path = write_yolo(
        tmp_path / "net.onnx", candidates(objectness=False), metadata=metadata, words=str
    )
    say(path, {"bands": RGB, "gsd": 0.3})
    with pytest.raises(GeosegError, match=message):
        geoseg.import_model(path)


def test_deepness_metadata_in_a_file_of_ultralytics(tmp_path: Path) -> None:
    """As Deepness' documentation has people do it: both are there, and Deepness' says more."""
    both = deepness(CARS, model_type="Detector", det_type="YOLO_Ultralytics", tile_size=64)
    metadata = {**{k: str(v) for k, v in ultralytics().items()}}
    metadata |= {k: json.dumps(v) for k, v in both.items()}
    path = write_yolo(
        tmp_path / "net.onnx", candidates(objectness=False), metadata=metadata, words=str
    )
    say(path, {"bands": RGB})
    done = geoseg.import_model(path)
    assert done.kind == "ONNX for Deepness"
    assert Bundle.open(done.path).spec.names == {1: "car", 2: "ship"}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (4, -0.8, "scores from -0.8 to 0.8"),  # the angle of a rotated box, or a logit
        (5, 3, "classes from 0 to 3"),
    ],
)
def test_numbers_that_cannot_be(tmp_path: Path, column: int, value: float, message: str) -> None:
    rows = objects(masks=False)
    rows[0, column] = value
    path = write_yolo(tmp_path / "net.onnx", rows, across=False)
    contract = {**PLAIN, "classes": ["car", "ship"], "detector": "YOLO_with_NMS"}
    say(path, contract, activation=None, tiling=None)
    with pytest.raises(ConfigError, match=message):
        geoseg.import_model(path)


@pytest.mark.parametrize("names", [["roof"], ["roof", "road", "tree"]])
def test_semantic_segmentation_of_ultralytics(tmp_path: Path, names: list[str]) -> None:
    """Numbers of classes; of a single one, 0 and 1."""
    several = max(len(names), 2)
    path = write_onnx(tmp_path / "net.onnx", weights(several, 3), size=64, tail="ArgMax", axes=3)
    model = onnx.load(path)
    said = ultralytics(task="semantic", names=dict(enumerate(names)))
    helper.set_model_props(model, {key: str(value) for key, value in said.items()})
    onnx.save(model, path)
    say(path, {"bands": RGB, "gsd": 0.3})
    spec = Bundle.open(geoseg.import_model(path).path).spec
    behind = ["background"] if len(names) == 1 else []
    assert [c.name for c in spec.classes] == behind + names
    assert [c.id for c in spec.classes] == ([0, 1] if behind else [1, 2, 3])


box = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 20)] * 2, st.integers(0, 1))


@given(st.lists(box, max_size=12), st.floats(0.1, 0.9))
def test_suppression(found: list[tuple[int, ...]], iou: float) -> None:
    rows = np.array(found, np.float64).reshape(-1, 5)
    boxes, labels = np.c_[rows[:, :2], rows[:, :2] + rows[:, 2:4]], rows[:, 4].astype(int)
    kept = suppress(boxes.astype(np.float32), labels, iou)

    def clash(i: int, j: int) -> bool:
        one, other = shapely.box(*boxes[i]), shapely.box(*boxes[j])
        share = one.intersection(other).area / one.union(other).area
        return bool(labels[i] == labels[j] and share > iou + 1e-6)

    assert not any(clash(i, j) for i in kept for j in kept if i < j)
    for lost in set(range(len(rows))) - set(kept.tolist()):
        assert any(labels[i] == labels[lost] for i in kept if i < lost)
