"""The torch runtime of networks that find objects: bundles, modes, scores, memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import box_iou

from geoseg import models, runtime
from geoseg.bundle import Bundle, Sample, card, check_sample
from geoseg.cli import cli
from geoseg.errors import GeosegError, ModelError, UsageError
from geoseg.grid import Tile, Tiling, Window
from geoseg.instances.paste import paint
from geoseg.predictions import Chip, Detections, InstancePrediction
from geoseg.runtime import torch_runtime
from geoseg.runtime.fake import FakeDetector, fake_instances, fake_spec
from geoseg.runtime.torch_detector import TorchDetector
from geoseg.runtime.torch_network import Mode
from geoseg.runtime.torch_runtime import golden_sample

ARGUMENTS: dict[str, Any] = {
    "encoder": "resnet18",
    "channels": 24,
    "box_hidden": 48,
    "mask_channels": 16,
    "proposals": [100, 60],
    "samples": [64, 32],
    "anchors": [[14, 20], [28, 36], [50, 60], [80, 90], [120, 150]],
    "aspect_ratios": [1.0],
}
SPEC = fake_instances(
    bands=3,
    classes=2,
    name="demo",
    architecture="mask_rcnn",
    arguments=ARGUMENTS,
    tiling=Tiling(96, 32, 32),
)
SIDE, CELL = 96, 32
STEPS = 60


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSEG_HOME", str(tmp_path / "home"))


def planted(seed: int, count: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Pictures of boxes (bright in band 1) and discs (in band 2), one or none in each cell."""
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)) * 0.2
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    targets = []
    for image in images:
        boxes, labels, masks = [], [], []
        for row, col in np.ndindex(SIDE // CELL, SIDE // CELL):
            if rng.random() < 0.4:
                continue
            half, label = rng.integers(7, 14, 2), int(rng.integers(2))
            v = (y - row * CELL - CELL / 2).abs() / int(half[0])
            u = (x - col * CELL - CELL / 2).abs() / int(half[1])
            mask = (u < 1) & (v < 1) if label == 0 else u**2 + v**2 < 1
            image[label] += mask
            middle = np.array([col, row]) * CELL + CELL / 2
            boxes.append([*(middle - half[::-1]), *(middle + half[::-1])])
            labels.append(label)
            masks.append(mask)
        targets.append(
            {
                "boxes": torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
                "labels": torch.tensor(labels, dtype=torch.int64),
                "masks": torch.stack(masks) if masks else torch.zeros(0, SIDE, SIDE, dtype=bool),
            }
        )
    return images, targets


def trained() -> nn.Module:
    """After a few steps on planted pictures: as with real ones it is sure of most, not of all.

    With a step that ends at zero, as in real training: else the statistics of norms are not those
    of the weights, and bits decide whether an object is seen.
    """
    torch.manual_seed(0)
    network = models.build("mask_rcnn", classes=2, bands=3, **ARGUMENTS).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / STEPS)
        losses = network(*planted(step, 3))
        optimizer.zero_grad()
        sum(losses.values(), torch.tensor(0.0)).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained()


@pytest.fixture(scope="module")
def image() -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = planted(1000, 4)[0][2:3].numpy()
    return pixels


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, network: nn.Module, image: NDArray[np.float32]
) -> Bundle:
    path = tmp_path_factory.mktemp("bundle") / "demo"
    sample = golden_sample(SPEC, network, image)
    assert sample.scores.mean((0, 2, 3)).min() > 0.01  # of each class: else it would prove nothing
    Bundle.write(path, SPEC, network.state_dict(), sample, card(SPEC))
    return Bundle.open(path)


def detector(bundle: Bundle, **options: Any) -> TorchDetector:
    loaded = runtime.load(bundle, device="cpu", **options)
    assert isinstance(loaded, TorchDetector)
    return loaded


# --- bundles --------------------------------------------------------------------------------


def test_from_a_bundle_to_objects(bundle: Bundle) -> None:
    assert bundle.spec.finds_objects
    assert bundle.sample().scores.max() > 0.5
    loaded = detector(bundle)
    report = bundle.check(loaded)
    assert report.ok
    assert "of its objects differ" in str(report)
    assert report.as_dict()["measure"] == "painted"
    images, targets = planted(2000, 4)
    every = loaded.detect(images.numpy())
    assert len(every) == 4
    hits = 0
    for found, target in zip(every, targets, strict=True):
        assert isinstance(found, Detections)
        assert found.boxes.dtype == found.scores.dtype == np.float32
        assert (np.diff(found.scores) <= 0).all()
        sure = found.take(found.scores > 0.3)
        overlap = box_iou(torch.from_numpy(sure.boxes), target["boxes"])
        right = torch.from_numpy(sure.labels)[:, None] == target["labels"]
        hits += int(((overlap * right) > 0.5).any(0).sum())
    assert hits > 0.7 * sum(len(t["labels"]) for t in targets)


def test_a_picture_at_a_time_or_several(bundle: Bundle) -> None:
    images = planted(2000, 3)[0].numpy()
    loaded, several = (detector(bundle, precision="float32", batch_size=n) for n in (1, 3))
    for one, other in zip(loaded.detect(images), several.detect(images), strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.01)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)


def test_what_it_predicts_is_painted(bundle: Bundle, image: NDArray[np.float32]) -> None:
    loaded = detector(bundle, precision="float32")
    (found,) = loaded.detect(image)
    painted = loaded.predict(image)
    assert painted.shape == (1, 2, SIDE, SIDE)
    np.testing.assert_array_equal(painted[0], paint(found, 2, (SIDE, SIDE)))
    np.testing.assert_allclose(painted, bundle.sample().scores, atol=1e-3)


def test_through_the_network_of_tiles(bundle: Bundle) -> None:
    window = Window(0, 0, SIDE, SIDE)
    pixels = planted(2000, 1)[0][0].numpy()
    chip = Chip(Tile(0, window, window), pixels, np.ones((SIDE, SIDE), bool))
    (found,) = runtime.run(detector(bundle), [chip], SPEC.scaling)
    assert isinstance(found, InstancePrediction)
    assert set(found.labels.tolist()) <= {1, 2}


@pytest.mark.parametrize(
    "kind", [{"masks": False}, {"keypoints": 4, "keypoint_channels": 8}, {"mask_loss": "softmax"}]
)
def test_other_kinds_make_the_round_trip(
    kind: dict[str, Any], tmp_path: Path, image: NDArray[np.float32]
) -> None:
    torch.manual_seed(0)
    spec = replace(SPEC, arguments={**ARGUMENTS, **kind, "detections": 5, "floor": 0.0})
    network = models.build("mask_rcnn", classes=2, bands=3, **spec.arguments).eval()
    sample = golden_sample(spec, network, image)
    path = Bundle.write(tmp_path / "kind", spec, network.state_dict(), sample, "")
    bundle = Bundle.open(path)
    loaded = detector(bundle, precision="float32")
    assert bundle.check(loaded).ok
    (found,) = loaded.detect(image)
    assert len(found) == 5
    assert (found.masks is None) == (not kind.get("masks", True))
    assert (found.keypoints is not None) == ("keypoints" in kind)
    assert loaded.predict(image).max() > 0


# --- modes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_each_precision_can_be_asked_for(bundle: Bundle, precision: str) -> None:
    loaded = detector(bundle, precision=precision)
    assert loaded.description.startswith(f"torch {precision}")
    assert bundle.check(loaded).ok
    assert not any(isinstance(m, nn.BatchNorm2d) for m in loaded._network.encoder.modules())


def test_mixed_lowers_all_but_the_encoder(bundle: Bundle, network: nn.Module) -> None:
    mixed = copy.deepcopy(network)
    loaded = TorchDetector(SPEC, mixed, mode=Mode("mixed", channels_last=True))
    assert {p.dtype for p in mixed.encoder.parameters()} == {torch.float32}
    for child in ("fpn", "rpn", "heads"):
        lowered = mixed.get_submodule(child).parameters()
        assert {p.dtype for p in lowered} == {torch.bfloat16}
    assert bundle.check(loaded).ok


def test_a_wrong_network_is_noticed(bundle: Bundle, network: nn.Module) -> None:
    state = dict(network.state_dict())
    name = "heads.box_predictor.cls_score.bias"
    state[name] = state[name] + torch.tensor([3.0, 0, 0])
    path = bundle.path.with_name("wrong")
    Bundle.write(path, SPEC, state, bundle.sample(), "")
    with pytest.raises(ModelError, match=r"demo-0 does not reproduce its golden sample \(diff"):
        runtime.load(Bundle.open(path), device="cpu")


def noisy(network: nn.Module) -> None:
    chance = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        if weight.ndim > 1:
            weight.mul_(1 + 0.05 * torch.randn(weight.shape, generator=chance))


def bands_swapped(network: nn.Module) -> None:
    kernel = network.encoder.conv1.weight
    kernel.copy_(kernel[:, [1, 0, 2]])


def classes_swapped(network: nn.Module) -> None:
    for parameter in network.heads.box_predictor.cls_score.parameters():
        parameter.copy_(parameter[[0, 2, 1]])


def boxes_unrefined(network: nn.Module) -> None:
    network.heads.box_predictor.bbox_pred.weight.zero_()


def masks_swapped(network: nn.Module) -> None:
    for parameter in network.heads.mask.predictor.mask_fcn_logits.parameters():
        parameter.copy_(parameter[[0, 2, 1]])


@pytest.mark.parametrize(
    "spoil", [noisy, bands_swapped, classes_swapped, boxes_unrefined, masks_swapped]
)
def test_a_network_that_is_nearly_right_is_noticed(
    bundle: Bundle, network: nn.Module, spoil: Callable[[nn.Module], None]
) -> None:
    """Beyond what the lowest precision may change; that of the right one is far within it."""
    sample = bundle.sample()
    spoilt = copy.deepcopy(network)
    with torch.no_grad():
        spoil(spoilt)
    for mode in (Mode("float32", channels_last=True), Mode("bfloat16", channels_last=True)):
        wrong = TorchDetector(SPEC, copy.deepcopy(spoilt), mode=mode)
        assert bundle.check(wrong).difference > sample.tolerance["bfloat16"]
        right = TorchDetector(SPEC, copy.deepcopy(network), mode=mode)
        assert bundle.check(right).difference < sample.tolerance[mode.precision] / 2


@pytest.mark.parametrize("part", ["encoder", "heads"])
def test_a_network_that_fails(
    bundle: Bundle, network: nn.Module, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> nn.Module:
        raise RuntimeError("sizes do not match\nand more")

    broken = copy.deepcopy(network)
    broken.get_submodule(part).register_forward_pre_hook(fail)
    monkeypatch.setattr(broken.heads, "_boxes", fail)
    monkeypatch.setattr(torch_runtime.models, "build", lambda *_, **__: broken)
    with pytest.raises(ModelError, match=r"fails on its golden sample: sizes do not match$"):
        runtime.load(bundle, device="cpu")


@pytest.mark.parametrize("options", [{"tta": ["hflip"]}, {"members": 2}])
def test_objects_cannot_be_averaged(
    bundle: Bundle, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_runtime, "load", None)  # refused before anything is loaded
    members = [bundle] * options.pop("members", 1)
    with pytest.raises(UsageError, match=r"demo-0 finds objects, which cannot be averaged: give"):
        runtime.load(members, **options)


def test_model_check(bundle: Bundle) -> None:
    done = CliRunner().invoke(cli, ["model", "check", str(bundle.path), "--device", "cpu"])
    assert done.exit_code == 0
    assert "agrees with its golden sample: " in done.output
    assert "% of its objects differ" in done.output


def test_the_task_is_that_of_the_architecture(bundle: Bundle, tmp_path: Path) -> None:
    spec = fake_spec(bands=3, classes=2, architecture="mask_rcnn", arguments=ARGUMENTS)
    spec = replace(spec, name="demo", tiling=SPEC.tiling)
    path = Bundle.write(tmp_path / "a", spec, bundle.weights(), bundle.sample(), "")
    with pytest.raises(ModelError, match=r"mask_rcnn is an architecture for instance-segmentation"):
        runtime.load(Bundle.open(path), device="cpu")
    tiny = models.build("tiny", classes=2, bands=3)
    spec = replace(SPEC, architecture="tiny", arguments={})
    path = Bundle.write(tmp_path / "b", spec, tiny.state_dict(), bundle.sample(), "")
    with pytest.raises(ModelError, match=r"tiny is .* states instance-segmentation"):
        runtime.load(Bundle.open(path), device="cpu")


# --- scores and memory ----------------------------------------------------------------------


class Found(nn.Module):
    """One object in each picture, as sure as its brightest pixel says."""

    def __init__(self, limit: int = 100) -> None:
        super().__init__()
        self.limit, self.seen = limit, list[int]()

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        self.seen.append(len(x))
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [
            {
                "boxes": torch.tensor([[0.0, 0, 4, 4]]),
                "labels": torch.tensor([1]),
                "scores": one.max()[None],
            }
            for one in x
        ]


def pictures(*scores: float) -> NDArray[np.float32]:
    return np.array(scores, np.float32)[:, None, None, None] * np.ones((1, 3, 8, 8), np.float32)


def test_scores_are_calibrated() -> None:
    said = np.array([0.05, 0.5, 0.9, 0.999999, 1.0])
    honest = replace(SPEC, temperature=2.0, bias=-0.5)
    found = TorchDetector(honest, Found(), batch_size=5).detect(pictures(*said))
    clipped = np.clip(said, 1e-6, 1 - 1e-6)
    wanted = 1 / (1 + np.exp(-(np.log(clipped / (1 - clipped)) / 2 - 0.5)))
    got = np.concatenate([f.scores for f in found])
    np.testing.assert_allclose(got, wanted, rtol=0.02)
    assert (np.diff(got) >= 0).all()
    as_said = TorchDetector(SPEC, Found()).detect(pictures(*said))
    np.testing.assert_array_equal(np.concatenate([f.scores for f in as_said]), said.astype("f4"))


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    network = Found(limit=2)
    loaded = TorchDetector(SPEC, network, batch_size=8)
    said = np.linspace(0.1, 0.9, 9)
    found = loaded.detect(pictures(*said))
    np.testing.assert_allclose(np.concatenate([f.scores for f in found]), said, rtol=1e-6)
    assert network.seen == [8, 4, 2, 2, 2, 2, 1]
    with pytest.raises(GeosegError, match=r"too little memory for one tile of 8 x 8"):
        TorchDetector(SPEC, Found(limit=0)).detect(pictures(0.5))


# --- samples --------------------------------------------------------------------------------


def seen(*scores: float) -> Iterator[Detections]:
    """A box of 20 x 20 pixels, so sure, in each picture."""
    for score in scores:
        box = np.array([[0, 0, 20, 20]], np.float32)
        yield Detections(box, np.zeros(1, np.int64), np.array([score], np.float32))


def test_samples_are_compared_by_what_is_painted() -> None:
    blank = np.zeros((1, 1, 64, 64), np.float32)
    spec = fake_instances()
    full, half, none = (
        np.stack([paint(d, 1, (64, 64)) for d in seen(score)]) for score in (0.8, 0.4, 0.0)
    )
    sample = Sample.of_objects(blank, full)
    assert sample.difference(full) == 0
    assert sample.difference(half) == pytest.approx(0.5)
    assert sample.difference(none) == 1
    assert np.isnan(sample.difference(full * np.nan))
    faint = Sample.of_objects(blank, full / 1000)  # next to nothing is no reason to refuse
    assert faint.difference(none) == pytest.approx(0.4 * 0.8 / 1000 * 1000 / 40.96, rel=1e-3)
    assert Sample.of_objects(blank, none).difference(none) == 0
    report = check_sample(sample, FakeDetector(spec, lambda _: next(seen(0.4))), "m")
    assert not report.ok
    assert "m on fake float32 DIFFERS from its golden sample: 50.0% of its objects" in str(report)
    with pytest.raises(ValueError, match="no measure 'guess'"):
        replace(sample, measure="guess")


def test_the_measure_is_kept_in_the_bundle(bundle: Bundle) -> None:
    sample = bundle.sample()
    assert sample.measure == "painted"
    assert sample.allowed("torch bfloat16 cpu") == 0.04
    assert Sample(sample.input, sample.scores).measure == "largest"
