"""Models of other tools, made by code, become bundles that say what these models say."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
import torch
import yaml
from click.testing import CliRunner
from foreign import (
    PLAIN,
    RGB,
    SIX,
    THREE,
    deepness,
    mask_of,
    picture,
    say,
    weights,
    winners,
    write_onnx,
)
from hypothesis import given
from hypothesis import strategies as st
from models import bright_bundle
from numpy.typing import NDArray
from onnx import TensorProto, helper

import geoseg
from geoseg import registry
from geoseg.bundle import WEIGHTS, Bundle
from geoseg.cli import cli
from geoseg.errors import ConfigError, GeosegError, ModelError
from geoseg.exchange import contract as contract_module
from geoseg.exchange.contract import ScalingKeys, TilingKeys
from geoseg.grid import Tiling
from geoseg.testing import write_scene


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


# --- plain ONNX -----------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [SIX[:4], SIX], ids=["4 bands", "6 bands"])
def test_reflectance_with_a_z_score(tmp_path: Path, bands: list[str]) -> None:
    weight, count = weights(3, len(bands)), len(bands)
    mean, std = np.linspace(0.1, 0.4, count), np.linspace(0.2, 0.3, count)
    path = write_onnx(tmp_path / "clouds.onnx", weight, size=64)
    scaling = {"divide": 10000, "mean": mean.tolist(), "std": std.tolist()}
    changes = {"dtype": "uint16", "value_range": [0, 10000], "gsd": 10, "tiling": None}
    say(path, PLAIN, bands=bands, scaling=scaling, **changes)
    done = geoseg.import_model(path)
    assert done.path == registry.find("clouds")

    values = picture(count, 10000, "uint16")
    scene = write_scene(tmp_path / "scene.tif", values[::-1].copy(), transform=metres(10))
    with rasterio.open(scene, "r+") as dataset:  # other order: bands are found by name
        dataset.descriptions = bands[::-1]
    seen = (values / 10000 - mean[:, None, None]) / std[:, None, None]
    assert np.mean(mask_of(done.path, scene) == winners(weight, seen)) > 0.9995


def metres(size: float) -> Any:
    return rasterio.Affine(size, 0, 500_000, 0, -size, 5_800_000)


number = st.floats(-1000, 1000, allow_subnormal=False)
positive = st.floats(0.01, 1000)


@given(number, positive, number, positive, number)
def test_scaling_says_what_it_does(
    subtract: float, divide: float, mean: float, std: float, x: float
) -> None:
    z_score = ScalingKeys(subtract=subtract, divide=divide, mean=mean, std=std).of(2)
    min_max = ScalingKeys(subtract=subtract, divide=divide, minimum=mean, maximum=mean + std).of(1)
    wanted = ((x - subtract) / divide - mean) / std
    for scaling in (z_score, min_max):
        found = (x - scaling.offset[0]) / scaling.scale[0]
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6 * (1 + abs(mean) / std + 1 / std))
    assert len(z_score.offset) == 2


@pytest.mark.parametrize("keys", [{"mean": 1}, {"mean": 1, "std": 1, "minimum": 0, "maximum": 1}])
def test_scaling_is_one_of_two_kinds(keys: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="belong together"):
        ScalingKeys(**keys)


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "activation outside": ({}, {}),
    "activation inside": ({"tail": "Softmax"}, {"activation": "none"}),
    "old opset": ({"opset": 11}, {}),
    "channels last": ({"last": True}, {}),
    "channels last, inside, old": (
        {"last": True, "opset": 11, "tail": "Sigmoid"},
        {"activation": "softmax"},
    ),
    "bytes in": ({"kind": TensorProto.UINT8}, {"scaling": "none"}),
    "halves out": ({"output": TensorProto.FLOAT16}, {}),
    "one size": ({"size": 48}, {"tiling": {"overlap": 16}}),
    "numbers": (
        {"tail": "ArgMax", "output": TensorProto.INT64, "axes": 3},
        {"output": "classes", "activation": None},
    ),
    "numbers in a channel": (
        {"tail": "ArgMax", "output": TensorProto.INT32, "size": 48},
        {"output": "classes", "activation": None, "tiling": None},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_all_ways_of_saying_the_same(tmp_path: Path, way: str) -> None:
    made, said = WAYS[way]
    weight = weights(3, 3) / (255 if said.get("scaling") == "none" else 1)
    path = write_onnx(tmp_path / "net.onnx", weight, **made)
    if made.get("tail") == "ArgMax" and made.get("size"):  # the shape that exporters write
        model = onnx.load(path)
        for axis, size in zip(
            model.graph.output[0].type.tensor_type.shape.dim, "abcd", strict=True
        ):
            axis.dim_param = size
        onnx.save(model, path)
    say(path, PLAIN, **said)
    done = geoseg.import_model(path)
    assert sum((done.shares or {}).values()) == pytest.approx(1)
    values = picture(3, 255)
    scene = write_scene(tmp_path / "scene.tif", values, photometric="RGB")
    scale = 1 if said.get("scaling") == "none" else 255
    assert np.mean(mask_of(done.path, scene) == winners(weight, values / scale)) > 0.995


def test_nodes_in_any_order(tmp_path: Path) -> None:
    """As ONNX Runtime's converter to float16 leaves them."""
    weight = weights(3, 3)
    path = write_onnx(tmp_path / "net.onnx", weight, tail="Softmax")
    model = onnx.load(path)
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    say(path, PLAIN, activation="none")
    values = picture(3, 255)
    scene = write_scene(tmp_path / "s.tif", values, photometric="RGB")
    expected = winners(weight, values / 255)
    assert np.array_equal(mask_of(geoseg.import_model(path).path, scene), expected)


def test_a_bundle_of_a_graph_alone(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "net.onnx", weights(3, 3))
    say(path, PLAIN, license="MIT", attribution="Somebody", version="2")
    bundle = Bundle.open(geoseg.import_model(path, name="other").path)
    assert bundle.path.name == "other"
    assert not bundle.has(WEIGHTS)
    assert bundle.item["properties"]["mlm:framework"] == "ONNX"
    assert bundle.item["properties"]["mlm:total_parameters"] == 9
    assert "Somebody" in bundle.card
    assert "net.onnx" in bundle.card
    assert (bundle.spec.license, bundle.spec.id) == ("MIT", "other-2")
    assert bundle.sample().input.std() > 0.1  # a real picture, not an empty one
    with pytest.raises(ModelError, match="--runtime onnx"):
        bundle.weights()


def test_a_graph_that_was_imported_before(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "net.onnx", weights(3, 3))
    say(path, PLAIN)
    first = Bundle.open(geoseg.import_model(path).path)
    path.write_bytes(first.file("model.onnx"))
    say(path, PLAIN, activation="none")
    again = Bundle.open(geoseg.import_model(path, name="again").path)
    np.testing.assert_allclose(again.sample().scores, first.sample().scores, atol=1e-6)


def test_the_golden_sample_is_of_the_users_raster(tmp_path: Path) -> None:
    values = picture(3, 255)
    path = write_onnx(tmp_path / "net.onnx", weights(3, 3), size=32)
    say(path, PLAIN, tiling=None)
    scene = write_scene(tmp_path / "scene.tif", values, photometric="RGB")
    sample = Bundle.open(geoseg.import_model(path, sample=scene).path).sample()
    np.testing.assert_allclose(sample.input[0], values[:, 24:56, 34:66] / 255, atol=1e-6)


def test_what_nobody_has_said_is_asked_for_at_once(tmp_path: Path, home: Path) -> None:
    path = write_onnx(tmp_path / "net.onnx", weights(3, 3))
    wanted = "bands, dtype, value_range, gsd, scaling, classes, activation, tiling.size"
    with pytest.raises(ConfigError, match=f"net.onnx does not say: {wanted}.*net.yaml"):
        geoseg.import_model(path)
    say(path, PLAIN, gsd=None, tiling={"size": 64})
    with pytest.raises(ConfigError, match=r"does not say: gsd, tiling.stride\."):
        geoseg.import_model(path)
    assert not home.exists()


LIES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"activation": "none"}, "gives values from .* no probabilities"),
    ({}, {"activation": "sigmoid"}, "add up to"),
    ({}, {"classes": ["background", "cloud"]}, "gives 3 channels, and 2 classes are named"),
    ({}, {"bands": ["red", "green"]}, "takes 3 bands, 2 are named"),
    ({"size": 32}, {}, "pictures of 32 x 32 pixels only"),
    ({"batch": 4}, {}, "takes 4 pictures at once only: export it with a batch of one"),
    ({}, {"scaling": {"mean": [1, 2], "std": 1}}, "2 numbers are given for 3 bands"),
    ({}, {"bandz": RGB}, "unknown key 'bandz'; did you mean 'bands'"),
    ({}, {"name": "b"}, "'b' is no name for a model"),
    ({}, {"output_name": "z"}, "has the outputs y: say which"),
    ({}, {"output": "classes", "classes": ["a", "b"]}, "fails on a picture|cannot load"),
]


@pytest.mark.parametrize(("made", "said", "message"), LIES, ids=range(len(LIES)))
def test_what_is_not_so_is_refused(
    tmp_path: Path, home: Path, made: dict[str, Any], said: dict[str, Any], message: str
) -> None:
    path = write_onnx(tmp_path / "net.onnx", weights(3, 3), **made)
    say(path, PLAIN, **said)
    with pytest.raises(GeosegError, match=message):
        geoseg.import_model(path)
    assert not home.exists()


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("net.onnx", b"no protocol buffer", "no intact ONNX"),
        ("net.tflite", b"", "geoseg imports .onnx"),
        ("net.json", b"{}", "mlm:input is missing"),
        ("net.emd", b"[", "no valid JSON"),
        ("net.emd", b"\x80\x04\x95", "no valid JSON"),
        ("net.json", b"\x80\x04\x95", "no valid JSON"),
        ("net.dlpk", b"PK", "no intact package"),
        ("net.pt", b"no checkpoint", "no checkpoint that torch can read|more than tensors"),
        ("none.pt", b"", "no checkpoint that torch can read .the file ends too early."),
        ("net.safetensors", b"short", "no intact safetensors"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(ModelError, match=message):
        geoseg.import_model(path)
    with pytest.raises(ModelError, match="no such file"):
        geoseg.import_model(tmp_path / f"other-{name}")


# --- Deepness -------------------------------------------------------------------------------


def test_deepness_with_several_classes(tmp_path: Path) -> None:
    weight, names = weights(3, 3), dict(zip("012", THREE, strict=True))
    path = write_onnx(
        tmp_path / "net.onnx", weight, size=32, tail="Softmax", metadata=deepness(names)
    )
    with pytest.raises(ConfigError, match="does not say: bands"):
        geoseg.import_model(path)
    say(path, {"bands": RGB})
    done = geoseg.import_model(path)
    spec = Bundle.open(done.path).spec
    assert (spec.gsd, spec.tiling.size, spec.tiling.overlap) == (0.3, 32, 8)
    assert [(c.id, c.name) for c in spec.classes] == list(enumerate(THREE))
    values = picture(3, 255)
    scene = write_scene(tmp_path / "scene.tif", values, photometric="RGB")
    seen = (values / 255 - np.array([0.5, 0.4, 0.3])[:, None, None]) / 0.2
    assert np.mean(mask_of(done.path, scene) == winners(weight, seen)) > 0.999


def test_deepness_with_one_channel(tmp_path: Path) -> None:
    weight = weights(1, 3)
    path = write_onnx(tmp_path / "net.onnx", weight, size=32, tail="Sigmoid")
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    metadata = deepness({"0": "no road", "1": "road"}, standardization_mean=[0.0] * 3)
    helper.set_model_props(model, {k: json.dumps(v) for k, v in metadata.items()})
    onnx.save(model, path)
    say(path, {"bands": RGB})
    spec = Bundle.open(geoseg.import_model(path).path).spec
    assert [(c.id, c.name) for c in spec.classes] == [(1, "road")]
    assert (spec.threshold, spec.activation) == (0.4, "sigmoid")


def test_deepness_of_other_kinds(tmp_path: Path) -> None:
    metadata = deepness({"0": "a"}, model_type="Regressor")
    path = write_onnx(tmp_path / "net.onnx", weights(1, 3), size=32, metadata=metadata)
    with pytest.raises(ModelError, match="not .regressor."):
        geoseg.import_model(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"resolution": "fine"},
        {"resolution": [30]},
        {"class_names": {"a": "b"}},
        {"tile_size": "large"},
        {"tiles_overlap": "some"},
        {"seg_thresh": "high"},
    ],
    ids=str,
)
def test_deepness_in_other_words(tmp_path: Path, changes: dict[str, Any]) -> None:
    metadata = deepness({"0": "a"}, **changes)
    path = write_onnx(tmp_path / "net.onnx", weights(1, 3), size=32, metadata=metadata)
    with pytest.raises(ModelError, match="net.onnx: .* does not understand it"):
        geoseg.import_model(path)


# --- Esri -----------------------------------------------------------------------------------

EMD: dict[str, Any] = {
    "Framework": "PyTorch",
    "ModelConfiguration": "other",
    "ModelName": "roads",
    "ModelType": "ImageClassification",
    "ModelFile": ".\\net.onnx",
    "ImageHeight": 32,
    "ImageWidth": 32,
    "ExtractBands": [0, 1, 2],
    "DataRange": [0, 255],
    "Padding": 4,
    "Classes": [
        {"Value": 0, "Name": "background", "Color": [0, 0, 0]},
        {"Value": 7, "Name": "road", "Color": [255, 16, 0]},
    ],
}
REST = {"bands": RGB, "gsd": 0.3, "scaling": {"divide": 255}, "activation": "softmax"}


@pytest.mark.parametrize("packed", [False, True], ids=["emd", "dlpk"])
def test_esri_with_onnx(tmp_path: Path, packed: bool) -> None:
    weight, path = weights(2, 3), tmp_path / "model.emd"
    write_onnx(tmp_path / "net.onnx", weight, size=32)
    path.write_text(json.dumps(EMD))
    if packed:
        path = tmp_path / "model.dlpk"
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("model.emd", "net.onnx"):
                archive.write(tmp_path / name, f"inside/{name}")
    with pytest.raises(ConfigError, match="does not say: bands, gsd, scaling, activation"):
        geoseg.import_model(path)
    say(path, REST)
    spec = Bundle.open(geoseg.import_model(path).path).spec
    assert [(c.id, c.name, c.color) for c in spec.classes] == [
        (0, "background", "#000000"),
        (7, "road", "#ff1000"),
    ]
    assert (spec.name, spec.tiling.overlap, spec.dtype) == ("roads", 8, "uint8")


def test_esri_with_torchscript(tmp_path: Path) -> None:
    weight = weights(2, 3)
    write_script(tmp_path / "net.pt", weight)
    path = tmp_path / "model.emd"
    path.write_text(json.dumps({**EMD, "ModelFile": "net.pt"}))
    say(path, REST)
    done = geoseg.import_model(path)
    values = picture(3, 255)
    scene = write_scene(tmp_path / "scene.tif", values, photometric="RGB")
    found = mask_of(done.path, scene)
    assert np.mean(found == 7 * winners(weight, values / 255)) > 0.999


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ModelType": "ObjectDetection"}, "not 'ObjectDetection'"),
        ({"ModelFile": "../net.onnx"}, "does not lie beside it"),
        ({"ModelFile": "gone.onnx"}, "does not lie beside it"),
        ({"ModelFile": "beside.onnx", "Classes": None}, "does not understand it"),
        ({"ModelFile": "beside.onnx", "Classes": ["road"]}, "does not understand it"),
        ({"ModelFile": "beside.onnx", "ImageHeight": "a", "ImageWidth": "a"}, "not understand it"),
    ],
)
def test_esri_of_other_kinds(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_onnx(tmp_path / "net.onnx", weights(2, 3), size=32)
    (tmp_path / "in").mkdir()
    write_onnx(tmp_path / "in" / "beside.onnx", weights(2, 3), size=32)
    path = tmp_path / "in" / "model.emd"
    path.write_text(json.dumps({**EMD, **changes}))
    with pytest.raises(ModelError, match=message):
        geoseg.import_model(path)


# --- STAC MLM -------------------------------------------------------------------------------


def foreign_item(**changes: Any) -> dict[str, Any]:
    properties = {
        "gsd": 0.3,
        "mlm:name": "Foreign Model",
        "mlm:architecture": "U-Net",
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:input": [
            {
                "name": "rgb",
                "bands": RGB,
                "input": {
                    "shape": [-1, 3, 32, 32],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "float32",
                },
                "value_scaling": [{"type": "min-max", "minimum": 0, "maximum": 255}],
            }
        ],
        "mlm:output": [
            {
                "name": "classes",
                "tasks": ["semantic-segmentation"],
                "result": {"shape": [-1, 3, 32, 32], "dim_order": [], "data_type": "float32"},
                "classification:classes": [
                    {"value": i, "name": name, "color_hint": "AABBCC"}
                    for i, name in enumerate(THREE)
                ],
            }
        ],
        **changes,
    }
    asset = {"href": "./net.onnx", "roles": ["mlm:model"]}
    return {"type": "Feature", "properties": properties, "assets": {"model": asset}}


def test_a_foreign_item(tmp_path: Path) -> None:
    weight, path = weights(3, 3), tmp_path / "item.json"
    write_onnx(tmp_path / "net.onnx", weight, size=32)
    path.write_text(json.dumps(foreign_item()))
    with pytest.raises(ConfigError, match="does not say: dtype, value_range, activation"):
        geoseg.import_model(path)
    say(path, {"dtype": "uint8", "activation": "softmax", "name": "foreign"})
    done = geoseg.import_model(path)
    values = picture(3, 255)
    scene = write_scene(tmp_path / "scene.tif", values, photometric="RGB")
    assert np.mean(mask_of(done.path, scene) == winners(weight, values / 255)) > 0.999
    assert Bundle.open(done.path).spec.classes[1].color == "#aabbcc"


def test_scaling_without_a_formula_is_asked_for(tmp_path: Path) -> None:
    item = foreign_item()
    item["properties"]["mlm:input"][0]["pre_processing_function"] = {"expression": "own:scale"}
    write_onnx(tmp_path / "net.onnx", weights(3, 3), size=32)
    (tmp_path / "item.json").write_text(json.dumps(item))
    with pytest.raises(ConfigError, match="does not say: dtype, value_range, scaling, activation"):
        geoseg.import_model(tmp_path / "item.json")


def test_an_item_of_other_shape(tmp_path: Path) -> None:
    path, input_ = tmp_path / "net.json", {"bands": RGB, "input": {"shape": [1], "dim_order": []}}
    for item in ({**foreign_item(), "assets": [1]}, foreign_item(**{"mlm:input": [input_]})):
        path.write_text(json.dumps(item))
        with pytest.raises(ModelError, match="net.json: .* does not understand it"):
            geoseg.import_model(path)


def test_objects_that_a_graph_does_not_give(tmp_path: Path) -> None:
    item = foreign_item(**{"mlm:tasks": ["instance-segmentation"]})
    path = write_onnx(tmp_path / "net.onnx", weights(3, 3), metadata={"stac_item": item})
    with pytest.raises(ConfigError, match="does not say: detector"):
        geoseg.import_model(path)


def test_a_model_that_lies_elsewhere(tmp_path: Path) -> None:
    item = foreign_item()
    item["assets"]["model"]["href"] = "https://example.org/net.onnx"
    (tmp_path / "item.json").write_text(json.dumps(item))
    with pytest.raises(ModelError, match="download it"):
        geoseg.import_model(tmp_path / "item.json")


@pytest.mark.parametrize("href", ["../net.onnx", "{}/net.onnx", "..\\net.onnx"])
def test_a_model_outside_of_the_folder_is_not_read(tmp_path: Path, href: str) -> None:
    write_onnx(tmp_path / "net.onnx", weights(3, 3), size=32)
    item, path = foreign_item(), tmp_path / "below" / "item.json"
    item["assets"]["model"]["href"] = href.format(tmp_path)
    path.parent.mkdir()
    path.write_text(json.dumps(item))
    with pytest.raises(ModelError, match="is an ONNX file beside it"):
        geoseg.import_model(path)


def test_a_bundle_is_added_as_it_is(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "net.onnx", weights(3, 3))
    say(path, PLAIN)
    made = geoseg.import_model(path).path
    for source in (made, made / "model.json"):
        done = geoseg.import_model(source, name="again", overwrite=True)
        assert Bundle.open(done.path).spec.id == "net"
        assert done.path.name == "again"


# --- torch ----------------------------------------------------------------------------------


def write_script(path: Path, weight: NDArray[np.float32]) -> Path:
    network = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
    network.weight.data = torch.from_numpy(weight[:, :, None, None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has deprecated TorchScript
        torch.jit.script(network).save(str(path))
    return path


TINY = {**PLAIN, "architecture": "tiny", "arguments": {"depth": 1}}


def tiny_state(weight: NDArray[np.float32], prefix: str = "") -> dict[str, torch.Tensor]:
    kernel = np.zeros((*weight.shape, 3, 3), np.float32)
    kernel[:, :, 1, 1] = weight
    state = {"0.weight": torch.from_numpy(kernel), "0.bias": torch.zeros(len(weight))}
    return {prefix + name: value for name, value in state.items()}


SAVED: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "state_dict": lambda state: state,
    "module.": lambda state: {"model_state_dict": {f"module.{k}": v for k, v in state.items()}},
    "lightning": lambda state: {
        "state_dict": {f"model.{k}": v for k, v in state.items()}
        | {"criterion.weight": torch.ones(3)},
        "epoch": 3,
    },
}


@pytest.mark.parametrize("way", SAVED)
def test_checkpoints(tmp_path: Path, way: str) -> None:
    weight, path = weights(3, 3), tmp_path / "net.ckpt"
    torch.save(SAVED[way](tiny_state(weight)), path)
    say(path, TINY, architecture=None)
    with pytest.raises(ConfigError, match="does not say: architecture"):
        geoseg.import_model(path)
    say(path, TINY)
    done = geoseg.import_model(path)
    np.testing.assert_array_equal(
        Bundle.open(done.path).weights()["0.weight"][:, :, 1, 1],
        weight,  # not rounded
    )
    values = picture(3, 255)
    scene = write_scene(tmp_path / "scene.tif", values, photometric="RGB")
    found = mask_of(done.path, scene, runtime="torch", precision="float32")
    assert np.mean(found == winners(weight, values / 255)) > 0.999


def test_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(tiny_state(weights(2, 3)), path)
    say(path, TINY)
    with pytest.raises(ModelError, match="'0.weight' is 2 x 3 x 3 x 3"):
        geoseg.import_model(path)


def test_a_checkpoint_of_smp_by_torchgeo(tmp_path: Path) -> None:
    import segmentation_models_pytorch as smp

    path = tmp_path / "net.ckpt"
    torch.manual_seed(0)
    network = smp.Unet("resnet18", encoder_weights=None, in_channels=4, classes=1)
    hyper = {"model": "unet", "backbone": "resnet18", "task": "binary", "in_channels": 4}
    state = {f"model.{k}": v for k, v in network.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": hyper}, path)
    contract = {"activation": None, "tiling": None, "classes": ["field"]}
    say(path, PLAIN, bands=SIX[:4], **contract)
    bundle = Bundle.open(geoseg.import_model(path).path)
    assert bundle.spec.architecture == "unet"
    assert bundle.spec.tiling.stride == 32
    sample = bundle.sample()
    with torch.no_grad():
        right = network.eval()(torch.from_numpy(sample.input)).sigmoid()
    np.testing.assert_allclose(sample.scores, right.numpy(), atol=1e-5)


class _Evil:
    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_code_in_a_checkpoint_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, buffer = tmp_path / "net.pth", io.BytesIO()
    torch.save({"state_dict": {"0.weight": torch.zeros(1)}, "callbacks": _Evil()}, buffer)
    for raw in (buffer.getvalue(), pickle.dumps(_Evil())):
        path.write_bytes(raw)
        with pytest.raises(ModelError, match="refused, it is no checkpoint or") as refused:
            geoseg.import_model(path)
        assert "weights_only" not in str(refused.value)  # torch tells how to run the code
    assert "run" not in capsys.readouterr().out


# --- command --------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "my net.onnx", weights(3, 3))
    contract = tmp_path / "said.yaml"
    contract.write_text(yaml.safe_dump(PLAIN))
    command = ["model", "import", str(path), "--contract", str(contract)]
    told = CliRunner().invoke(cli, [*command, "--json"])
    assert told.exit_code == 0, told.output
    result = json.loads(told.output)
    assert (result["name"], result["kind"]) == ("my-net", "ONNX")
    assert set(result["shares"]) == set(THREE)
    again = CliRunner().invoke(cli, command)
    assert again.exit_code == 1
    assert "exists already" in again.output
    assert CliRunner().invoke(cli, [*command, "--overwrite"]).exit_code == 0


# --- our own exports ------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "overlap"), [(32, 0), (64, 32), (512, 64)])
def test_an_overlap_that_nobody_states_fits_the_tile(size: int, overlap: int) -> None:
    """As of a geoseg model for small tiles, whose own overlap is too large for them."""
    keys = TilingKeys(size=size, stride=32, fixed=True)
    assert contract_module._tiling(keys) == Tiling(size, overlap, 32, fixed=True)


def test_an_archive_of_torch_export_is_none_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"model.pt2: geoseg imports .onnx"):
        geoseg.import_model(tmp_path / "model.pt2")


@pytest.mark.parametrize(
    ("to", "file"), [("onnx", "back.onnx"), ("deepness", "back.onnx"), ("emd", "back.dlpk")]
)
def test_what_we_export_comes_back(tmp_path: Path, to: str, file: str) -> None:
    from geoseg.exchange import export

    bundle, path = bright_bundle(tmp_path / "bright"), tmp_path / file
    export(bundle, to, path, tile=64)
    if to == "deepness":  # which has no words for them
        say(path, {"bands": RGB})
    done = geoseg.import_model(path)
    scene = write_scene(tmp_path / "scene.tif", picture(3, 255), photometric="RGB")
    right = mask_of(bundle, scene, runtime="torch", precision="float32")
    assert np.mean(mask_of(done.path, scene) == right) > 0.999
    assert Bundle.open(done.path).spec.gsd == pytest.approx(0.3)
