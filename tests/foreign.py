"""Models of other tools, made by code, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import rasterio
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import geoseg

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
