"""Models in the formats of other tools: opened as those open them, they give the same."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from models import bright_bundle, bright_spec
from numpy.typing import NDArray
from torch import nn

from geoseg import runtime
from geoseg.bundle import Bundle, Sample
from geoseg.cli import cli
from geoseg.errors import GeosegError, ModelError, OutputError, UsageError
from geoseg.exchange import FORMATS, export
from geoseg.exchange.deepness import metadata
from geoseg.exchange.network import whole
from geoseg.exchange.onnx_graph import graph_of
from geoseg.models.unetformer import GlobalLocalAttention

TILE = 96
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, TILE, TILE)).astype(np.float32)
SCALED = (PIXELS - 127.5) / 127.5


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_bundle(tmp_path_factory.mktemp("exchange") / "bright")


@pytest.fixture(scope="module")
def expected(bright: Path) -> NDArray[np.float32]:
    return runtime.load(Bundle.open(bright), runtime="torch", precision="float32").predict(SCALED)


@pytest.fixture(scope="module")
def exported(bright: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By format: the path of what was written, each once."""
    folder, done = tmp_path_factory.mktemp("exported"), {}

    def get(form: str) -> Path:
        if form not in done:
            size = TILE if form in ("deepness", "emd") else None
            done[form] = export(bright, form, folder / f"{form}{FORMATS[form].suffix}", tile=size)
            assert form == "mlm" or done[form].report.ok
        path: Path = done[form].path
        return path

    return get


def test_onnx_takes_any_batch_and_size(exported: Any, expected: NDArray[np.float32]) -> None:
    session = onnxruntime.InferenceSession(exported("onnx"))
    (scores,) = session.run(None, {"pixels": SCALED})
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    (part,) = session.run(None, {"pixels": SCALED[:1, :, :40, :72]})
    assert part.shape == (1, 1, 40, 72)
    model = onnx.load(exported("onnx"))
    onnx.checker.check_model(model)
    (about,) = (p.value for p in model.metadata_props if p.key == "stac_item")
    assert json.loads(about)["properties"]["mlm:name"] == "bright"


def test_a_bundle_with_a_graph_holds_its_weights_once(exported: Any, bright: Path) -> None:
    graph = onnx.load(exported("bundle") / "model.onnx", load_external_data=False).graph
    by_name = {i.name: i for i in graph.initializer}
    (weight,) = (i for name, i in by_name.items() if name.endswith("0.weight:half"))
    about = {e.key: e.value for e in weight.external_data}
    assert about["location"] == "weights.safetensors"
    raw = (bright / "weights.safetensors").read_bytes()
    there = raw[int(about["offset"]) :][: int(about["length"])]
    kernel = np.frombuffer(there, np.float16).reshape(1, 3, 3, 3)
    np.testing.assert_allclose(kernel[0, :, 1, 1], 8 / 3, rtol=1e-3)
    # so others can open it where it lies
    onnxruntime.InferenceSession(exported("bundle") / "model.onnx")


def test_deepness(exported: Any, expected: NDArray[np.float32]) -> None:
    session = onnxruntime.InferenceSession(exported("deepness"))
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert about == {
        "model_type": "Segmentor",
        "class_names": {"0": "background", "1": "object"},
        "resolution": 30.0,
        "tile_size": TILE,
        "tiles_size": TILE,
        "tiles_overlap": 17,
        "standardization_mean": [0.0, 0.0, 0.0],
        "standardization_std": [1.0, 1.0, 1.0],
        "seg_thresh": 0.5,
        "seg_small_segment": 0,
    }
    (only,) = session.get_inputs()
    assert only.shape == [1, 3, TILE, TILE]
    (scores,) = session.run(None, {only.name: PIXELS[:1] / 255})
    np.testing.assert_allclose(scores, expected[:1], atol=1e-5)


def test_deepness_of_several_classes() -> None:
    classes = (*bright_spec().classes, replace(bright_spec().classes[0], id=7, name="road"))
    about = metadata(bright_spec(classes=classes, activation="softmax"), 512)
    assert about["class_names"] == {"0": "object", "1": "road"}
    assert about["seg_thresh"] == 0  # the greatest counts


def test_deepness_of_tiles_smaller_than_the_overlap() -> None:
    assert metadata(bright_spec(), 8)["tiles_overlap"] == 50  # percent; 100 and more leave nothing


def test_esri(exported: Any, expected: NDArray[np.float32], tmp_path: Path) -> None:
    with zipfile.ZipFile(exported("emd")) as archive:
        archive.extractall(tmp_path)
    about = json.loads((tmp_path / "bright.emd").read_text())
    assert about["ModelType"] == "ImageClassification"
    assert about["ExtractBands"] == [0, 1, 2]
    assert about["Classes"] == [{"Value": 1, "Name": "object", "Color": [217, 95, 2]}]
    assert (about["ImageHeight"], about["ImageWidth"]) == (TILE, TILE)
    assert (tmp_path / about["ModelFile"]).is_file()
    path = tmp_path / about["InferenceFunction"]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, path.stem)()  # as ArcGIS finds it
    function.initialize(model=str(tmp_path / "bright.emd"))
    assert [p["name"] for p in function.getParameterInfo()][:2] == ["raster", "model"]
    how = function.getConfiguration(padding=8)
    assert (how["tx"], how["ty"]) == (TILE - 16, TILE - 16)
    mask = np.ones((3, TILE, TILE), np.uint8)
    blocks = {"raster_pixels": PIXELS[0].astype(np.uint8), "raster_mask": mask}
    found = function.updatePixels((0, 0), None, {"pixelType": "u1"}, **blocks)["output_pixels"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], (expected[0, 0] >= 0.5)[8:-8, 8:-8])


def test_openvino(exported: Any, expected: NDArray[np.float32]) -> None:
    import openvino

    folder = exported("openvino")
    assert sorted(p.name for p in folder.iterdir()) == ["model.bin", "model.json", "model.xml"]
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU")
    np.testing.assert_allclose(compiled(SCALED)[0], expected, atol=0.02)


def test_openvino_in_32_bits_where_16_are_too_few(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    spec = bright_spec()
    weight = np.zeros((1, 3, 3, 3), np.float32)
    weight[:, :, 1, 1] = 0.3 + 2.0**-13  # no float16
    state = {"0.weight": weight, "0.bias": np.zeros(1, np.float32)}
    chip = np.ones((1, 3, 64, 64), np.float32)
    right = np.full((1, 1, 64, 64), 1 / (1 + np.exp(-weight.sum())), np.float32)
    sample = Sample(chip, right, {"float32": 1e-5})
    exact = Bundle.write(tmp_path / "exact", spec, state, sample, "# exact\n", half=False)
    report = export(exact, "openvino", tmp_path / "folder").report
    assert report is not None
    assert report.ok


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
def test_torch(exported: Any, expected: NDArray[np.float32]) -> None:
    traced = torch.jit.load(exported("torchscript"))
    program = torch.export.load(exported("pt2")).module()
    for module in (traced, program):
        np.testing.assert_allclose(module(torch.from_numpy(SCALED)), expected, atol=1e-5)


def test_mlm(exported: Any, bright: Path) -> None:
    assert json.loads(exported("mlm").read_text()) == json.loads(
        (bright / "model.json").read_text()
    )


# --- what cannot be written -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "caffe"}, "no format is named 'caffe'; there are: bundle, onnx"),
        ({"to": "onnx", "output": "m.pt"}, "m.pt: the name of a onnx file ends in .onnx"),
        ({"to": "onnx", "tile": 0}, "0 pixels are no multiple of the model's stride 1"),
    ],
)
def test_senseless_options(
    bright: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given = {"output": "m.onnx", **options}
    with pytest.raises(UsageError, match=message):
        export(bright, given.pop("to"), tmp_path / given.pop("output"), **given)


def test_what_is_there_stays(bright: Path, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        export(bright, "mlm", tmp_path / "m.json")
    assert (tmp_path / "m.json").read_text() == "mine"
    export(bright, "mlm", tmp_path / "m.json", overwrite=True)


def _written(folder: Path, **changes: Any) -> Path:
    """A bundle whose golden sample is wrong, or whose contract is another."""
    spec = bright_spec(**changes)
    state = {"0.weight": np.zeros((1, 3, 3, 3), np.float32), "0.bias": np.zeros(1, np.float32)}
    sample = Sample(np.zeros((1, 3, 32, 32), np.float32), np.ones((1, 1, 32, 32), np.float32))
    return Bundle.write(folder, spec, state, sample, "")


@pytest.mark.skipif(os.name == "nt", reason="limits files by rlimit")
@pytest.mark.parametrize("form", ["openvino", "torchscript", "onnx", "bundle"])
def test_a_disk_that_is_full_is_one_sentence(bright: Path, tmp_path: Path, form: str) -> None:
    """As a limit of 100 bytes to each file is."""
    target = tmp_path / "out" / f"x{FORMATS[form].suffix}"
    target.parent.mkdir()
    code = "import resource, signal, sys; from geoseg import exchange, errors; import torch, onnx\n"
    code += "import geoseg.exchange.files, geoseg.runtime.openvino_runtime as r; r.core()\n"
    code += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    code += f"try: exchange.export({str(bright)!r}, {form!r}, {str(target)!r})\n"
    code += "except errors.OutputError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith(f"{target} cannot be written"), done.stderr
    assert list(target.parent.iterdir()) == []


def test_a_file_that_gives_something_else_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(ModelError, match="DIFFERS from its golden sample.*nothing was written"):
        export(_written(tmp_path / "wrong"), "onnx", path)
    assert not path.exists()


def test_what_a_format_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="bytes divided by 255; this one wants uint16"):
        export(_written(tmp_path / "a", dtype="uint16"), "deepness", tmp_path / "m.onnx")


class _Counting(nn.Module):
    """A network for batches of as many pictures as it was exported with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1].reshape(len(x), 1, *x.shape[2:])


def test_a_graph_for_one_shape_only_is_refused() -> None:
    spec = bright_spec()
    with pytest.raises(ModelError, match="a graph of tiny for pictures of one shape only"):
        graph_of(whole(_Counting(), spec), spec)


def test_attention_in_windows_takes_any_number_of_pictures() -> None:
    """Of UNetFormer, whose whole graph takes half a minute."""
    module, batch = GlobalLocalAttention(16, 2, 4).eval(), torch.randn(2, 16, 8, 12)
    free = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(module, (batch,), dynamic_shapes=free, strict=False).module()
    three = torch.randn(3, 16, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(program(three), module(three))


def test_command(bright: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    given = ["model", "export", str(bright), "--to", "mlm", "-o", str(path), "--json"]
    done = CliRunner().invoke(cli, given)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == {"path": str(path), "format": "mlm", "report": None}


def test_a_missing_package_is_named(
    bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(GeosegError, match=r"not installed: pip install 'geoseg\[export\]'"):
        export(bright, "onnx", tmp_path / "m.onnx")


def test_a_picture_that_no_memory_holds_is_told(bright: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="too little memory for a picture of 9600000 x 9600000"):
        export(bright, "onnx", tmp_path / "m.onnx", tile=9_600_000)
    assert not list(tmp_path.iterdir())
