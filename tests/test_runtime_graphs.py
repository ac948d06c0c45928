"""The runtimes that run a bundle's ONNX graph, and the choice between all that are installed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from test_runtime_torch import ARGUMENTS, IMAGE, unsettled
from test_runtime_torch import SPEC as PLAIN

from geoseg import models, runtime
from geoseg.bundle import Bundle, card
from geoseg.bundle.files import write_zip
from geoseg.errors import MissingDependencyError, ModelError, NeedsTorchError, UsageError
from geoseg.exchange import export
from geoseg.runtime import choice
from geoseg.runtime.fake import FakeRuntime
from geoseg.runtime.openvino_runtime import split
from geoseg.runtime.torch_runtime import golden_sample

SPEC = replace(PLAIN, temperature=2.0)
GRAPHS = ["onnx", "openvino"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSEG_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small U-Net without a graph."""
    network = unsettled(models.build("unet", classes=1, bands=3, **ARGUMENTS))
    sample = golden_sample(SPEC, network, IMAGE)
    path = tmp_path_factory.mktemp("graphs") / "plain"
    return Bundle.write(path, SPEC, network.state_dict(), sample, card(SPEC))


@pytest.fixture(scope="module")
def bundle(plain: Path) -> Bundle:
    """The same with one, which is no larger for it."""
    path = plain.with_name("graph")
    export(plain, "bundle", path)
    assert (path / "model.onnx").stat().st_size < 200_000
    return Bundle.open(path)


@pytest.mark.parametrize("name", GRAPHS)
def test_it_agrees_with_torch(bundle: Bundle, name: str) -> None:
    loaded = runtime.load(bundle, runtime=name, precision="float32", threads=1)
    assert loaded.description == f"{name} float32 cpu (1 threads)"
    assert bundle.check(loaded).ok
    batch = np.random.default_rng(1).normal(size=(3, 3, 96, 64)).astype(np.float32)
    right = runtime.load(bundle, runtime="torch", precision="float32").predict(batch)
    scores = loaded.predict(batch)
    assert scores.dtype == np.float32
    assert scores.flags.c_contiguous
    np.testing.assert_allclose(scores, right, atol=1e-4)
    np.testing.assert_allclose(loaded.predict(batch[:1]), right[:1], atol=1e-4)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_zip_is_as_good(bundle: Bundle, name: str, tmp_path: Path) -> None:
    files = {p.name: p.read_bytes() for p in bundle.path.iterdir()}
    write_zip(tmp_path / "m.zip", files)
    zipped = Bundle.open(tmp_path / "m.zip")
    assert zipped.check(runtime.load(zipped, runtime=name, precision="float32")).ok


@pytest.mark.parametrize("name", GRAPHS)
def test_without_a_graph(plain: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"it has no model.onnx: .* model export demo --to bundle"):
        runtime.load(Bundle.open(plain), runtime=name)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_was_changed(bundle: Bundle, name: str, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    bundle.copy_to(changed)
    with (changed / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match=r"model.onnx does not have the checksum"):
        runtime.load(Bundle.open(changed), runtime=name)


def test_a_graph_that_is_none(bundle: Bundle, tmp_path: Path) -> None:
    broken = Bundle.open(bundle.with_graph(b"no graph", tmp_path / "broken"))
    with pytest.raises(ModelError, match=r"model.onnx cannot be run"):
        runtime.load(broken, runtime="onnx")


@pytest.mark.parametrize("name", GRAPHS)
def test_another_network_is_noticed(
    bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = bundle.sample()
    wrong = replace(sample, scores=1 - sample.scores)
    monkeypatch.setattr(Bundle, "sample", lambda _: wrong)
    with pytest.raises(ModelError, match=rf"demo-0 does not reproduce .*{name} float32 cpu"):
        runtime.load(bundle, runtime=name, precision="float32")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("onnx", {"device": "mps"}, "knows no device 'mps'; there are: auto, cuda"),
        ("onnx", {"device": "tensorrt"}, "'tensorrt' is not among those of this onnxruntime"),
        ("onnx", {"precision": "float16"}, "in float32: no precision 'float16'"),
        ("openvino", {"device": "cuda"}, "knows no device 'cuda'; there are: auto, cpu, gpu"),
        ("openvino", {"device": "npu"}, "'npu' is not there"),
        ("openvino", {"precision": "int4"}, "no precision is named 'int4'"),
    ],
)
def test_senseless_options(
    bundle: Bundle, name: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        runtime.load(bundle, runtime=name, **options)


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_package_is_named(
    bundle: Bundle, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'geoseg\[{name}\]'"):
        runtime.load(bundle, runtime=name)


def test_openvino_splits_encoder_and_decoder(bundle: Bundle) -> None:
    model = openvino.Core().read_model(bundle.path / "model.onnx")
    model.reshape([1, 3, 64, 64])
    whole = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    encoder, decoder = split(model)
    left = {o.any_name for o in encoder.outputs}
    assert left == {f"encoder.{i}" for i in range(5)}
    assert {i.any_name for i in decoder.inputs} - left <= {"pixels"}
    first, second = (
        openvino.Core().compile_model(m, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for m in (encoder, decoder)
    )
    known = {o.any_name: v for o, v in first(IMAGE).items()} | {"pixels": IMAGE}
    given = {i: known[i.any_name] for i in second.inputs}
    np.testing.assert_allclose(second(given)[0], whole(IMAGE)[0], atol=1e-5)


def test_openvino_mixed_is_near(bundle: Bundle) -> None:
    mixed = runtime.load(bundle, runtime="openvino", precision="float32", batch_size=1)
    mixed.precision = "mixed"  # type: ignore[attr-defined]  asked for by auto alone
    mixed._compiled.clear()  # type: ignore[attr-defined]
    np.testing.assert_allclose(mixed.predict(IMAGE), bundle.sample().scores, atol=0.1)


# --- the choice -----------------------------------------------------------------------------


def _fakes(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> list[str]:
    """Runtimes that take so long by a clock of their own; the names of those that were loaded."""
    clock, loaded = [0.0], []
    monkeypatch.setattr(choice.time, "perf_counter", lambda: clock[0])

    def load(name: str, bundle: Bundle, options: dict[str, Any]) -> FakeRuntime:
        loaded.append(name)
        if seconds[name] < 0:
            raise ModelError("does not reproduce its golden sample")

        def function(x: Any) -> Any:
            clock[0] += seconds[name] * len(x)
            return x[:, :1]

        return FakeRuntime(SPEC, function, 2, name)

    monkeypatch.setattr(choice, "_load", load)
    return loaded


def test_the_fastest_is_taken_and_remembered(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = _fakes(monkeypatch, {"torch": 0.03, "openvino": 0.01, "onnx": 0.02})
    assert runtime.load(bundle).description == "openvino"
    assert sorted(loaded) == ["onnx", "openvino", "torch"]
    loaded.clear()
    assert runtime.load(bundle).description == "openvino"
    assert loaded == ["openvino"]  # nothing else is even imported
    assert runtime.load(bundle, threads=1).description == "openvino"
    assert len(loaded) == 4  # under other conditions it is measured again


def test_one_that_does_not_agree_is_left_out(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fakes(monkeypatch, {"torch": 0.03, "openvino": -1, "onnx": 0.02})
    assert runtime.load(bundle).description == "onnx"
    _fakes(monkeypatch, {"torch": 0.03, "openvino": 0.01, "onnx": -1})  # it was remembered
    assert runtime.load(bundle).description == "openvino"
    _fakes(monkeypatch, {"torch": -1, "openvino": -1, "onnx": -1})
    with pytest.raises(ModelError, match="does not reproduce"):
        runtime.load(bundle, threads=1)


def test_what_can_run_a_bundle(
    bundle: Bundle, plain: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert choice.candidates(bundle) == ["torch", "openvino", "onnx"]
    assert choice.candidates(Bundle.open(plain)) == ["torch"]
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NeedsTorchError, match="it has no model.onnx, so it needs torch"):
        runtime.load(Bundle.open(plain))
    with pytest.raises(MissingDependencyError, match="pip install 'onnxruntime"):
        runtime.load(bundle)


def test_a_bundle_of_a_graph_alone(bundle: Bundle, tmp_path: Path) -> None:
    """As models of other tools come."""
    import onnx

    folder = tmp_path / "foreign"
    folder.mkdir()
    model = onnx.load(bundle.path / "model.onnx")  # with its weights
    raw = model.SerializeToString()
    bundle.with_graph(raw, folder)
    (folder / "weights.safetensors").unlink()
    item = json.loads((folder / "model.json").read_text())
    del item["assets"]["weights"]
    (folder / "model.json").write_text(json.dumps(item))
    alone = Bundle.open(folder)
    assert choice.candidates(alone) == ["openvino", "onnx"]
    assert alone.check(runtime.load(alone, runtime="onnx")).ok
    assert alone.checksum != bundle.checksum
    with pytest.raises(ModelError, match=r"only model.onnx: use --runtime onnx"):
        runtime.load(alone, runtime="torch")
