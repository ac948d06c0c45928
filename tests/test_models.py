"""Every architecture keeps the contract; encoders load; bad names and arguments are told."""

from __future__ import annotations

import itertools
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geoseg import models
from geoseg.errors import ModelError
from geoseg.models import fcn, transunet, unetformer

SMALL: dict[str, dict[str, Any]] = {
    "unet": {"encoder": "resnet18", "decoder_channels": [32, 16, 16, 8, 8]},
    "unetplusplus": {"encoder": "resnet18", "decoder_channels": [32, 16, 16, 8, 8]},
    "fpn": {"encoder": "resnet18", "decoder_pyramid_channels": 32},
    "pspnet": {"encoder": "tu-resnet18", "psp_out_channels": 32},
    "deeplabv3": {"encoder": "resnet18", "decoder_channels": 16},
    "deeplabv3plus": {"encoder": "resnet18", "decoder_channels": 16},
    "segformer": {"encoder": "mit_b0", "decoder_segmentation_channels": 16},
    "fcn": {"encoder": "resnet18"},
    "fcn_torchvision": {},
    "transunet": {"encoder": "tu-resnet18", "dim": 32, "depth": 2, "heads": 4},
    "unetformer": {"encoder": "resnet18", "decoder_channels": 32},
    "tiny": {"depth": 3},
}
SWIN = "tu-swin_tiny_patch4_window7_224"
LITE0 = "tu-tf_efficientnet_lite0"
# Other encoders and variants that need code of their own somewhere.
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("unet", {"encoder": "mit_b0"}),
    ("unet", {"encoder": SWIN}),
    ("unet", {"encoder": "tu-swinv2_tiny_window8_256"}),
    ("fcn", {"encoder": LITE0, "variant": 16}),
    ("fcn", {"encoder": "mit_b0", "variant": 32, "hidden": 16}),
    ("transunet", {"encoder": LITE0, "dim": 32, "depth": 1, "heads": 4, "grid": 3}),
    ("unetformer", {"encoder": LITE0}),
    ("unetformer", {"encoder": "mit_b0", "window": 5}),
    ("pspnet", {"encoder": "resnet18", "psp_out_channels": 32}),
    ("pspnet", {"encoder": LITE0, "psp_out_channels": 32}),
]
CASES = [*SMALL.items(), *OTHERS]


def test_every_architecture_is_tested_here() -> None:
    """But those that find objects: they have tests of their own."""
    tasks = {name: models.task_of(name) for name in models.ARCHITECTURES}
    assert set(SMALL) == {name for name, task in tasks.items() if task == "semantic-segmentation"}
    assert set(tasks) - set(SMALL) == {"mask_rcnn"}


@pytest.mark.parametrize(("architecture", "arguments"), CASES)
def test_contract_of_an_architecture(architecture: str, arguments: dict[str, Any]) -> None:
    """Logits on the input's pixels, of any tile in steps of the stride; always the same ones."""
    stride = models.stride_of(architecture, arguments)
    assert stride in (1, 8, 16, 32)
    network = models.build(architecture, classes=3, bands=4, **arguments).eval()
    with torch.inference_mode():
        for rows, columns in ((1, 1), (5, 2), (1, 3)):
            tiles = torch.randn(2, 4, rows * stride, columns * stride)
            given = tiles.clone()
            logits = network(tiles)
            assert logits.shape == (2, 3, *tiles.shape[2:])
            assert torch.equal(tiles, given)
        assert torch.equal(logits, network(tiles))
        torch.testing.assert_close(network(tiles[:1]), logits[:1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("bands", "classes"), [(1, 1), (3, 7), (13, 2)])
@pytest.mark.parametrize("architecture", SMALL)
def test_any_bands_and_classes(architecture: str, bands: int, classes: int) -> None:
    network = models.build(architecture, classes=classes, bands=bands, **SMALL[architecture])
    with torch.inference_mode():
        assert network.eval()(torch.zeros(1, bands, 32, 32)).shape == (1, classes, 32, 32)


@pytest.mark.parametrize(("architecture", "arguments"), CASES)
def test_every_parameter_learns(architecture: str, arguments: dict[str, Any]) -> None:
    """A backward pass reaches all parameters, with finite numbers; also in bfloat16."""
    torch.manual_seed(0)
    network = models.build(architecture, classes=2, bands=3, **arguments).train()
    # torch 2.14 on a CPU: bfloat16 gradients of 7 x 7 kernels on maps of 2 x 2 pixels are noise
    side = 128 if "hidden" in arguments else 64
    tiles, labels = torch.randn(2, 3, side, side), torch.randint(0, 2, (2, side, side))
    for precision in (torch.float32, torch.bfloat16):
        network.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            logits = network(tiles)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("architecture", "arguments", "millions"),
    [
        # "FCN-VGG16: 134 M", table 1 of arXiv 1411.4038v2, of 21 classes
        ("fcn", {"encoder": "vgg16", "hidden": 4096, "classes": 21}, 134),
        # 35.3 M in torchvision's documentation, of which 2.4 M are the auxiliary classifier
        ("fcn_torchvision", {"classes": 21}, 35.3 - 2.4),
        # the paper gives none; 105 M is what papers count that compare with it (arXiv 2310.12570)
        ("transunet", {"classes": 9}, 105),
        # "11.7 M", table 7 of arXiv 2109.08417, ResNet-18
        ("unetformer", {"classes": 6}, 11.7),
    ],
)
def test_size_is_the_paper_s(architecture: str, arguments: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        network = models.build(architecture, bands=3, **arguments)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.04)


def test_size_of_segformer_is_the_paper_s() -> None:
    """3.8 M, table 1 of arXiv 2105.15203: B0 for the 150 classes of ADE20K."""
    network = models.build("segformer", classes=150, bands=3, encoder="mit_b0")
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(3.8, rel=0.04)


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


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_transposed_convolution_begins_as_interpolation(factor: int) -> None:
    scores = torch.randn(1, 2, 5, 6)
    with torch.inference_mode():
        ours = fcn.bilinear_upsampling(2, factor)(scores)
    expected = torch.nn.functional.interpolate(scores, scale_factor=factor, mode="bilinear")
    assert ours.shape == expected.shape
    inner = (..., slice(factor, -factor), slice(factor, -factor))  # the border sees zeros
    torch.testing.assert_close(ours[inner], expected[inner])


def test_skips_of_an_fcn_are_added_at_their_scale() -> None:
    """With a score of 1 at one pixel of one skip, the output is a tent over that pixel."""
    fuse = fcn.ScoreFusion([3, 4, 4, 4, 4, 4], 1, 8, 0)
    torch.nn.init.zeros_(fuse.last.weight)
    torch.nn.init.zeros_(fuse.last.bias)
    for number, scale in ((0, 16), (1, 8)):
        features = [torch.zeros(1, 4, 128 // 2**i, 128 // 2**i) for i in range(6)]
        features[{16: 4, 8: 3}[scale]][0, 0, 3, 4] = 1
        with torch.no_grad():
            fuse.skips[number].weight.fill_(1)
            out = fuse(features)[0, 0]
            fuse.skips[number].weight.zero_()
        assert out.shape == (128, 128)
        rows, columns = (out.sum(axis).nonzero().flatten() for axis in (1, 0))
        assert (rows.min() + rows.max() + 1) / 2 == 3.5 * scale
        assert (columns.min() + columns.max() + 1) / 2 == 4.5 * scale
        assert out.sum() == pytest.approx(scale**2)


def test_windowed_attention_is_attention_within_windows() -> None:
    """Against the formula, written out for every window and head."""
    torch.manual_seed(0)
    heads, window = 2, 3
    layer = unetformer.GlobalLocalAttention(8, heads, window)
    torch.nn.init.normal_(layer.bias)
    qkv = torch.randn(2, 24, 6, 9)
    got = layer._within_windows(qkv)
    places = [(y, x) for y in range(window) for x in range(window)]
    for n, top, left, head in itertools.product(range(2), (0, 3), (0, 3, 6), range(heads)):
        part = qkv[n, :, top : top + window, left : left + window].reshape(3, heads, 4, 9)
        q, k, v = part[:, head].transpose(1, 2)
        scores = q @ k.T / 4**0.5
        for i, j in itertools.product(range(9), range(9)):
            dy, dx = (places[i][axis] - places[j][axis] + window - 1 for axis in (0, 1))
            scores[i, j] += layer.bias[head, dy * (2 * window - 1) + dx]
        expected = (scores.softmax(1) @ v).T.reshape(4, window, window)
        found = got[n, 4 * head : 4 * head + 4, top : top + window, left : left + window]
        torch.testing.assert_close(found, expected)


def test_windows_see_beyond_themselves() -> None:
    """Cross-shaped means carry a change into the windows beside it, and only there."""
    layer = unetformer.GlobalLocalAttention(8, 2, 4)
    x = torch.zeros(1, 8, 16, 16)
    x[..., 5, 5] = 1  # in the window of rows and columns 4 to 7
    across = layer._across(x)[0, 0]
    assert across.sum() == pytest.approx(2)
    assert across.nonzero().tolist() == [
        *([i, 5] for i in (3, 4)),
        *([5, i] for i in (3, 4, 5, 6)),
        *([i, 5] for i in (6,)),
    ]


def test_position_embeddings_follow_the_tile() -> None:
    """On the grid that they were learned on they are themselves; on others interpolated."""
    network = models.build("transunet", classes=1, bands=3, **SMALL["transunet"], grid=4)
    transformer = network.transformer
    assert isinstance(transformer, transunet.Transformer)
    assert transformer._positions(torch.Size((4, 4))) is transformer.positions
    torch.nn.init.constant_(transformer.positions, 0.5)
    assert torch.allclose(transformer._positions(torch.Size((3, 9))), torch.tensor(0.5))


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
        ("unet", {"encoder": "tu-maxvit_tiny_rw_224"}, "tu-maxvit_tiny_rw_224 takes .* one size"),
        ("fcn", {"variant": 4}, "variant must be 8, 16 or 32"),
        ("fcn", {"encoder": "resnet43"}, "did you mean 'resnet34'"),
        ("fcn_torchvision", {"encoder": "resnet34"}, "encoder must be resnet50 or resnet101"),
        ("transunet", {"depth": 10**7}, "depth must be 1 to 100"),
        ("transunet", {"dim": 10, "heads": 3}, "transunet cannot be built"),
        ("unetformer", {"heads": 7}, "decoder_channels must be a multiple of heads"),
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
