"""Models of other tools, made by code, become bundles that say what these models say."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import onnx
import pytest
import rasterio
import shapely
import torch
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from models import bright_bundle
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import geoseg
from geoseg import registry, runtime
from geoseg.bundle import WEIGHTS, Bundle
from geoseg.cli import cli
from geoseg.errors import ConfigError, GeosegError, ModelError
from geoseg.exchange import contract as contract_module
from geoseg.exchange.contract import ScalingKeys, TilingKeys
from geoseg.grid import Tiling
from geoseg.runtime.yolo import suppress
from geoseg.testing import write_scene

RNG = np.random.default_rng(1)
SIX = ["blue", "green", "red", "nir", "swir16", "swir22"]
RGB = ["red", "green", "blue"]
THREE = ["background", "cloud", "shadow"]
PLAIN: dict[str, Any] = {
    "bands": RGB,
    "dtype": "uint8",
    "gsd": 0.3,
    "scaling": {"divide": 255},
    "classes": THREE,
    "activation": "softmax",
    "tiling": {"size": 64, "overlap": 16, "stride": 1},
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


def weights(classes: int, bands: int) -> NDArray[np.float32]:
    """Of a 1 x 1 convolution, without a bias: (K, C)."""
    return RNG.normal(0, 3, (classes, bands)).astype(np.float32)


def write_onnx(
    path: Path,
    weight: NDArray[np.float32],
    *,
    size: int | None = None,
    opset: int = 17,
    last: bool = False,
    kind: int = TensorProto.FLOAT,
    tail: str | None = None,
    output: int = TensorProto.FLOAT,
    axes: int = 4,
    batch: int | str = "n",
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """A network of one 1 x 1 convolution. tail: Softmax, Sigmoid or ArgMax after it."""
    bands, edge = weight.shape[1], [size or "h", size or "w"]
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)]
    value = "f"
    if last:
        nodes.append(helper.make_node("Transpose", [value], ["t"], perm=[0, 3, 1, 2]))
        value = "t"
    nodes.append(helper.make_node("Conv", [value, "w"], ["c"], kernel_shape=[1, 1]))
    value = "c"
    if tail == "ArgMax":
        nodes.append(helper.make_node("ArgMax", [value], ["a"], axis=1, keepdims=int(axes == 4)))
        value = "a"
    elif tail:
        more = {"axis": 1} if tail == "Softmax" else {}
        nodes.append(helper.make_node(tail, [value], ["a"], **more))
        value = "a"
    if last and tail != "ArgMax":
        nodes.append(helper.make_node("Transpose", [value], ["l"], perm=[0, 2, 3, 1]))
        value = "l"
    nodes.append(helper.make_node("Cast", [value], ["y"], to=output))
    shape = [batch, *edge, bands] if last else [batch, bands, *edge]
    given = [batch, *edge] if axes == 3 else [batch, None, None, None]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", output, given)],
        [numpy_helper.from_array(weight[:, :, None, None], "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if metadata:
        helper.set_model_props(model, {k: json.dumps(v) for k, v in metadata.items()})
    onnx.save(model, path)
    return path


def say(path: Path, contract: Mapping[str, Any], **changes: Any) -> None:
    """Write the YAML beside a model; a key of None is left out."""
    merged = {k: v for k, v in {**contract, **changes}.items() if v is not None}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(merged))


def picture(bands: int, high: int, dtype: str = "uint8") -> NDArray[Any]:
    return RNG.integers(0, high, (bands, 80, 100), endpoint=True).astype(dtype)


def mask_of(path: Path, scene: Path, **options: Any) -> NDArray[np.uint8]:
    out = scene.with_name("mask.tif")
    options = {"runtime": "onnx", "threads": 1, **options}
    geoseg.predict(scene, model=path, mask=out, overwrite=True, **options)
    with rasterio.open(out) as mask:
        return mask.read(1)


def winners(weight: NDArray[np.float32], seen: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
    return np.einsum("kc,chw->khw", weight, seen).argmax(0)


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


def deepness(classes: dict[str, str], **changes: Any) -> dict[str, Any]:
    values = {
        "model_type": "Segmentor",
        "class_names": classes,
        "resolution": 30,
        "tile_size": 32,
        "tiles_overlap": 25,
        "standardization_mean": [0.5, 0.4, 0.3],
        "standardization_std": [0.2, 0.2, 0.2],
        "seg_thresh": 0.4,
    }
    return {**values, **changes}


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


# --- YOLO -----------------------------------------------------------------------------------


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
