"""The torch runtime: modes that agree with the golden sample, memory, folding, tiles."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from geoseg import models, runtime
from geoseg.bundle import Bundle, card
from geoseg.errors import GeosegError, ModelError, UsageError
from geoseg.grid import Tiling
from geoseg.runtime import torch_runtime
from geoseg.runtime.fake import fake_spec
from geoseg.runtime.folding import fold_norms
from geoseg.runtime.torch_network import Mode, batch_that_fits
from geoseg.runtime.torch_runtime import TorchRuntime, golden_sample

ARGUMENTS = {"encoder": "resnet18", "decoder_channels": [16, 16, 8, 8, 8]}
SPEC = fake_spec(
    bands=3, name="demo", architecture="unet", arguments=ARGUMENTS, tiling=Tiling(64, 32, 32)
)
IMAGE = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSEG_HOME", str(tmp_path / "home"))


def unsettled(network: nn.Module) -> nn.Module:
    """With norms that are not the identity, as after training."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return unsettled(models.build("unet", classes=1, bands=3, **ARGUMENTS))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, network: nn.Module) -> Bundle:
    sample = replace(
        golden_sample(SPEC, network, IMAGE), tolerance={"float32": 1e-3, "bfloat16": 0.3}
    )
    path = tmp_path_factory.mktemp("bundle") / "demo"
    Bundle.write(path, SPEC, network.state_dict(), sample, card(SPEC))
    return Bundle.open(path)


# --- modes ----------------------------------------------------------------------------------


def test_loads_and_agrees(bundle: Bundle, tmp_path: Path) -> None:
    loaded = runtime.load(bundle, device="cpu")
    assert bundle.check(loaded).ok
    scores = loaded.predict(np.repeat(IMAGE, 3, axis=0))
    assert scores.shape == (3, 1, 64, 64)
    assert scores.dtype == np.float32
    assert scores.flags.c_contiguous
    remembered = json.loads((tmp_path / "home" / "cache" / "modes.json").read_text())
    (mode,) = remembered.values()
    assert loaded.description.startswith(f"torch {mode} cpu")


def test_what_was_measured_is_taken_again(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[Mode]] = []
    real = torch_runtime._fastest

    def fastest(*given: Any) -> Mode | None:
        tried.append(given[-1])
        return real(*given)

    monkeypatch.setattr(torch_runtime, "_fastest", fastest)
    runtime.load(bundle, device="cpu")
    runtime.load(bundle, device="cpu")
    assert len(tried[0]) > 1
    assert len(tried[1]) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_each_precision_can_be_asked_for(bundle: Bundle, precision: str) -> None:
    loaded = runtime.load(bundle, device="cpu", precision=precision)
    assert loaded.description.startswith(f"torch {precision}")
    assert bundle.check(loaded).ok


def test_mixed_lowers_all_but_the_encoder(network: nn.Module) -> None:
    mixed = copy.deepcopy(network)
    got = TorchRuntime(SPEC, mixed, mode=Mode("mixed", channels_last=True)).predict(IMAGE)
    assert {p.dtype for p in mixed.encoder.parameters()} == {torch.float32}
    assert {p.dtype for p in mixed.decoder.parameters()} == {torch.bfloat16}
    expected = TorchRuntime(SPEC, copy.deepcopy(network)).predict(IMAGE)
    np.testing.assert_allclose(got, expected, atol=0.1)


def test_a_mode_that_differs_is_not_taken(
    bundle: Bundle, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_runtime, "_fast_precisions", lambda _: ["bfloat16"])
    strict = replace(bundle.sample(), tolerance={"float32": 1e-3, "bfloat16": 1e-9})
    path = bundle.path.with_name("strict")
    strict_bundle = Bundle.open(Bundle.write(path, SPEC, network.state_dict(), strict, ""))
    assert "float32" in runtime.load(strict_bundle, device="cpu").description
    with pytest.raises(ModelError, match=r"does not reproduce .*bfloat16.* allowed 1e-09"):
        runtime.load(strict_bundle, device="cpu", precision="bfloat16")


def test_a_wrong_network_is_noticed(bundle: Bundle, network: nn.Module) -> None:
    state = dict(network.state_dict())
    state["segmentation_head.0.bias"] = state["segmentation_head.0.bias"] + 9
    path = bundle.path.with_name("wrong")
    Bundle.write(path, SPEC, state, bundle.sample(), "")
    with pytest.raises(ModelError, match="demo-0 does not reproduce its golden sample"):
        runtime.load(Bundle.open(path), device="cpu")


def test_weights_of_another_architecture(bundle: Bundle, network: nn.Module) -> None:
    spec = replace(SPEC, arguments={**ARGUMENTS, "decoder_channels": [32, 16, 8, 8, 8]})
    path = Bundle.write(
        bundle.path.with_name("other"), spec, network.state_dict(), bundle.sample(), ""
    )
    with pytest.raises(ModelError, match=r"other: the tensor 'decoder.blocks.0.* is 16 x .* needs"):
        runtime.load(Bundle.open(path), device="cpu")


def test_a_contract_that_the_architecture_cannot_keep(bundle: Bundle, network: nn.Module) -> None:
    spec = replace(SPEC, tiling=Tiling(64, 32, 16))
    path = Bundle.write(
        bundle.path.with_name("stride"), spec, network.state_dict(), bundle.sample(), ""
    )
    with pytest.raises(ModelError, match=r"tiles in steps of 32 pixels, model.json states 16"):
        runtime.load(Bundle.open(path), device="cpu")


def test_a_network_that_fails(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> nn.Module:
        raise RuntimeError("sizes do not match\nand more")

    monkeypatch.setattr(torch_runtime, "fold_norms", fail)
    with pytest.raises(ModelError, match=r"fails on its golden sample: sizes do not match$"):
        runtime.load(bundle, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "no device is named 'gpu'"),
        ({"device": "meta"}, "does not run on 'meta'"),
        ({"device": "cuda:99"}, "'cuda:99' is not there"),
        ({"precision": "int4"}, "no precision is named 'int4'"),
    ],
)
def test_senseless_options(bundle: Bundle, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        runtime.load(bundle, **{"device": "cpu", **options})


# --- predicting -----------------------------------------------------------------------------


class Pixelwise(nn.Module):
    """Logits are the input's first channels."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, : self.classes]


@pytest.mark.parametrize("channels_last", [False, True])
def test_activations_and_temperature(channels_last: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    kept = x.copy()
    mode = Mode("float32", channels_last=channels_last)
    one = replace(SPEC, temperature=2.0)
    got = TorchRuntime(one, Pixelwise(), mode=mode).predict(x)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-x[:, :1] / 2)), rtol=1e-5)
    three = fake_spec(bands=3, classes=3, temperature=2.0)
    got = TorchRuntime(three, Pixelwise(3), mode=mode).predict(x)
    exp = np.exp(x / 2)
    np.testing.assert_allclose(got, exp / exp.sum(1, keepdims=True), rtol=1e-5)
    none = replace(three, activation="none")
    got = TorchRuntime(none, Pixelwise(3), mode=mode).predict(x)
    np.testing.assert_array_equal(got, x)
    np.testing.assert_array_equal(x, kept)
    assert got.flags.c_contiguous


def test_any_array_will_do() -> None:
    """Read-only, turned and strided batches: torch itself would warn or refuse."""
    x = np.broadcast_to(np.float32(0), (1, 3, 8, 8))[..., ::-1]
    assert (TorchRuntime(SPEC, Pixelwise()).predict(x) == 0.5).all()
    narrow = np.zeros((1, 3, 8, 1), np.float32)[..., ::-1]
    assert (TorchRuntime(SPEC, Pixelwise()).predict(narrow) == 0.5).all()


class Hungry(Pixelwise):
    """Runs out of memory above so many tiles at once."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.seen = limit, list[int]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    network = Hungry(limit=2)
    loaded = TorchRuntime(SPEC, network, batch_size=8)
    x = np.random.default_rng(0).normal(size=(9, 3, 8, 8)).astype(np.float32)
    expected = TorchRuntime(SPEC, Pixelwise(), batch_size=9).predict(x)
    np.testing.assert_array_equal(loaded.predict(x), expected)
    assert network.seen == [8, 4, 2, 2, 2, 2, 1]
    assert loaded.batch_size == 2
    with pytest.raises(GeosegError, match=r"too little memory for one tile of 16 x 8 .*--tile"):
        TorchRuntime(SPEC, Hungry(limit=0)).predict(np.zeros((1, 3, 8, 16), np.float32))


class Vast(Pixelwise):
    """Takes more memory than any machine has, or fails for another reason."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__()
        self.failure = failure

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.failure:
            raise self.failure
        return torch.empty(1 << 50)


@pytest.mark.parametrize("failure", [None, MemoryError(), RuntimeError("std::bad_alloc")])
def test_out_of_memory_on_a_cpu(failure: Exception | None) -> None:
    batch = np.zeros((1, 3, 8, 16), np.float32)
    with pytest.raises(GeosegError, match=r"^cpu has too little .* smaller tiles \(--tile\)$"):
        TorchRuntime(SPEC, Vast(failure)).predict(batch)
    with pytest.raises(RuntimeError, match="another"):
        TorchRuntime(SPEC, Vast(RuntimeError("another"))).predict(batch)


def test_batch_that_fits() -> None:
    assert batch_that_fits(1e9, 20e9, pixels=512**2) == 12
    assert batch_that_fits(1e9, 1e9, pixels=512**2) == 1
    assert batch_that_fits(1e6, 80e9, pixels=1024**2) == 16
    assert batch_that_fits(1e6, 80e9, pixels=8192**2) == 1


def test_tiles_with_enough_halo_equal_the_whole() -> None:
    torch.manual_seed(0)
    depth = 3
    spec = fake_spec(bands=2, tiling=Tiling(16, 8, 1))
    loaded = TorchRuntime(spec, models.build("tiny", classes=1, bands=2, depth=depth))
    x = np.random.default_rng(0).normal(size=(1, 2, 40, 40)).astype(np.float32)
    whole = loaded.predict(x)
    for row in range(depth, 40 - depth - 10, 8):
        part = loaded.predict(x[:, :, row - depth : row + 10 + depth])
        inner = part[:, :, depth:-depth]
        np.testing.assert_allclose(inner, whole[:, :, row : row + 10], atol=1e-6)


# --- folding --------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["resnet18", "tu-tf_efficientnet_lite0"])
def test_folding_changes_nothing_but_the_work(encoder: str) -> None:
    network = unsettled(models.build("unet", classes=2, bands=3, encoder=encoder))
    folded = fold_norms(network, torch.randn(1, 3, 64, 64))
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    x = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), network(x), rtol=1e-3, atol=1e-3)


class Shared(nn.Module):
    """A convolution whose output is also used bare: its norm cannot be folded away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + self.norm(y)


class Twice(Shared):
    """One norm for two layers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.norm(self.conv(x)))


@pytest.mark.parametrize("kind", [Shared, Twice])
def test_what_cannot_be_folded_stays(kind: type[Shared]) -> None:
    network = unsettled(kind())
    assert fold_norms(network, torch.randn(1, 3, 8, 8)) is network
