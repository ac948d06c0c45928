"""Networks in 8 bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_import import PLAIN, say, weights, write_onnx
from test_runtime_torch import ARGUMENTS, IMAGE, SPEC, unsettled

from geoseg import import_model, models, runtime
from geoseg.bundle import Bundle, card
from geoseg.cli import cli
from geoseg.errors import ModelError, SceneError, UsageError
from geoseg.exchange import export, quantize
from geoseg.runtime.torch_runtime import golden_sample

SCENE = Path(__file__).parent / "data" / "banepa_center.tif"
quantized = quantize.quantize


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)  # how well a network bears 8 bits depends on its weights
    network = unsettled(models.build("unet", classes=1, bands=3, **ARGUMENTS))
    folder = tmp_path_factory.mktemp("quantize")
    sample = golden_sample(SPEC, network, IMAGE)
    plain = Bundle.write(folder / "plain", SPEC, network.state_dict(), sample, card(SPEC))
    return export(plain, "bundle", folder / "demo").path


def test_it_is_smaller_and_nearly_the_same(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8"
    given = ["model", "quantize", str(bundle), "--scene", str(SCENE), "-o", str(path)]
    given += ["--chips", "2", "--tile", "128", "--json"]
    done = CliRunner().invoke(cli, given)
    assert done.exit_code == 0, done.output
    about = json.loads(done.stdout)
    assert about["bytes_after"] < 0.6 * about["bytes_before"]
    assert about["agreement"] > 0.9
    assert 0 < about["difference"] < 0.25
    assert set(about["iou"]) <= {"thing"}
    assert not (path / "weights.safetensors").exists()
    small = Bundle.open(path)
    loaded = runtime.load(small, runtime="onnx")
    assert loaded.description.startswith("onnx int8 cpu")
    right = Bundle.open(bundle).sample().scores
    difference = np.abs(loaded.predict(IMAGE) - right).max()
    np.testing.assert_allclose(difference, about["difference"], rtol=0.3)
    assert small.check(runtime.load(small, runtime="openvino")).ok


def test_what_8_bits_spoil_is_not_written(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "MOST", 1e-9)
    with pytest.raises(ModelError, match="demo-0 does not bear 8 bits: probabilities differ by"):
        quantized(bundle, SCENE, tmp_path / "int8", count=1, tile=64)
    assert not (tmp_path / "int8").exists()


def test_a_scene_that_is_too_small(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="two chips of 8192 pixels"):
        quantized(bundle, SCENE, tmp_path / "int8", tile=8192)


def test_a_model_in_8_bits_already(bundle: Path, tmp_path: Path) -> None:
    small = quantized(bundle, SCENE, tmp_path / "int8", count=1, tile=64).path
    with pytest.raises(ModelError, match="demo-0 is in 8 bits already"):
        quantized(small, SCENE, tmp_path / "again", count=1, tile=64)
    with pytest.raises(UsageError, match="0 chips: at least one is needed"):
        quantized(bundle, SCENE, tmp_path / "again", count=0)


def test_a_graph_of_another_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSEG_HOME", str(tmp_path / "home"))
    path = write_onnx(tmp_path / "net.onnx", weights(3, 3))  # its input is not called pixels
    say(path, PLAIN)
    model = import_model(path).path
    done = quantized(model, SCENE, tmp_path / "int8", count=1, tile=64)
    assert done.agreement > 0.9
    with pytest.raises(ModelError, match="net is an ONNX graph .* so it is not exported"):
        export(model, "openvino", tmp_path / "vino")


def test_comparing_counts_pixels() -> None:
    """Half of the pixels change: of one class, IoU is what remains of it."""

    class Fixed:
        def __init__(self, scores: list[float]) -> None:
            self.scores = np.array(scores, np.float32).reshape(1, 1, 1, 4)

        def predict(self, _: np.ndarray) -> np.ndarray:
            return self.scores

    one, two = Fixed([0.9, 0.9, 0.1, 0.1]), Fixed([0.9, 0.1, 0.9, 0.1])
    spec = replace(SPEC, threshold=0.5)
    agreement, iou = quantize._compared(spec, one, two, [IMAGE])  # type: ignore[arg-type]
    assert agreement == 0.5
    assert iou == {"thing": pytest.approx(1 / 3)}
