"""Mask R-CNN as a graph: the same objects as torch's, in pictures of any size, without torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from test_runtime_detector import ARGUMENTS, SPEC, planted, trained

from geoseg import models, runtime
from geoseg.bundle import Bundle, card
from geoseg.errors import ModelError, UsageError
from geoseg.exchange import export
from geoseg.exchange.objects import Objects
from geoseg.exchange.quantize import quantize
from geoseg.predictions import Detections
from geoseg.runtime.graphs import objects_in
from geoseg.runtime.torch_detector import TorchDetector
from geoseg.runtime.torch_runtime import golden_sample

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


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["deepness", "emd", "openvino", "torchscript", "pt2"])
def test_formats_that_cannot_give_objects(plain: Path, tmp_path: Path, to: str) -> None:
    suffix = {"deepness": ".onnx", "emd": ".dlpk", "torchscript": ".pt", "pt2": ".pt2"}.get(to, "")
    with pytest.raises(ModelError, match=f"{to} files of geoseg cannot give; there are: bundle, "):
        export(plain, to, tmp_path / f"m{suffix}")
    assert not list(tmp_path.glob("m*"))


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
