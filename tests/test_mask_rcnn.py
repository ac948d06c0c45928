"""Mask R-CNN: the contract for encoders, bands, classes and options; parity with torchvision."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.detection import MaskRCNN as TheirMaskRCNN
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops import roi_pool as their_roi_pool

from geoseg import models
from geoseg.errors import ModelError
from geoseg.models import roi_heads, roi_pool, rpn
from geoseg.models.layouts import from_torchvision_detector
from geoseg.models.weights import load_encoder

SMALL: dict[str, Any] = {
    "encoder": "tu-mobilenetv3_small_050",
    "channels": 16,
    "box_hidden": 32,
    "mask_channels": 8,
    "keypoint_channels": 8,
    "proposals": [100, 50],
    "samples": [32, 16],
}
ENCODERS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "mit_b0"),
    *("tu-tf_efficientnet_lite0", "tu-swin_tiny_patch4_window7_224"),
)
# Each option that makes another network, by itself and beside others.
KINDS: list[dict[str, Any]] = [
    {},
    {"roi": "pool"},
    {"mask_loss": "softmax"},
    {"mask_head": "mlp"},
    {"mask_loss": "softmax", "mask_head": "mlp", "roi": "pool"},
    {"masks": False},
    {"keypoints": 4},
    {"keypoints": 2, "masks": False, "roi": "pool"},
    {"freeze_norms": True},
    {"anchors": [[8, 12], [16, 24], [32, 48], [64, 96], [128, 192]], "aspect_ratios": [1.0]},
]
LOSSES = {"objectness", "rpn_box", "class", "box"}


def build(*, classes: int = 3, bands: int = 3, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build("mask_rcnn", classes=classes, bands=bands, **{**SMALL, **arguments})


def targets_of(*boxes: tuple[int, int, int, int], side: int = 64) -> dict[str, Tensor]:
    """Filled boxes, of the classes 0, 1 and 2 in turn; their corners are the keypoints."""
    masks = torch.zeros((len(boxes), side, side), dtype=torch.uint8)
    points = torch.ones((len(boxes), 4, 3))
    for mask, corners, (x0, y0, x1, y1) in zip(masks, points, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
        corners[:, :2] = torch.tensor([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.arange(len(boxes)) % 3,
        "masks": masks,
        "keypoints": points,
    }


TARGETS = [targets_of((4, 4, 30, 24), (20, 30, 60, 60), (40, 2, 52, 20)), targets_of()]


def some(targets: list[dict[str, Tensor]], points: int) -> list[dict[str, Tensor]]:
    """Those targets with so many keypoints."""
    return [{**t, "keypoints": t["keypoints"][:, :points]} for t in targets]


def losses_of(arguments: dict[str, Any]) -> set[str]:
    mask = {"mask"} if arguments.get("masks", True) else set()
    return LOSSES | mask | ({"keypoint"} if arguments.get("keypoints") else set())


# --- contract -------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ENCODERS)
def test_contract_over_an_encoder(encoder: str) -> None:
    network = build(encoder=encoder, bands=4, floor=0.0, detections=7)
    images = torch.randn(2, 4, 64, 96)
    given = images.clone()
    losses = network.train()(images, [targets_of((4, 4, 30, 24), side=64), targets_of()])
    assert set(losses) == {*LOSSES, "mask"}
    assert all(v.isfinite() and v.ndim == 0 for v in losses.values())
    network.eval()
    with torch.inference_mode():
        found = network(images)
        again = network(images)
    assert torch.equal(images, given)
    assert len(found) == 2
    for one, other in zip(found, again, strict=True):
        assert set(one) == {"boxes", "labels", "scores", "masks"}
        assert all(torch.equal(one[k], other[k]) for k in one)
        assert one["boxes"].shape == (7, 4)
        assert (one["boxes"][:, 2:] > one["boxes"][:, :2]).all()
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"] <= torch.tensor([96, 64, 96, 64])).all()
        assert one["labels"].dtype == torch.int64
        assert set(one["labels"].tolist()) <= {0, 1, 2}
        assert one["masks"].shape == (7, 28, 28)
        assert one["masks"].dtype == one["scores"].dtype == torch.float32
        assert ((one["masks"] >= 0) & (one["masks"] <= 1)).all()
        assert (one["scores"].diff() <= 0).all()


@pytest.mark.parametrize("arguments", KINDS)
def test_every_option_runs_and_every_parameter_learns(arguments: dict[str, Any]) -> None:
    """A backward pass reaches all parameters, with finite numbers; also in bfloat16."""
    network = build(**arguments).train()
    images, points = torch.randn(2, 3, 64, 64), arguments.get("keypoints", 0)
    for low in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            losses = network(images, some(TARGETS, points))
        assert set(losses) == losses_of(arguments)
        assert all(v.dtype == torch.float32 for v in losses.values())
        sum(losses.values(), torch.tensor(0.0)).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    network.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        (found,) = network(images[:1])
    assert ("masks" in found) == arguments.get("masks", True)
    if points:
        assert found["keypoints"].shape == (len(found["scores"]), points, 3)
        assert ((found["keypoints"][..., 2] > 0) & (found["keypoints"][..., 2] <= 1.001)).all()


@pytest.mark.parametrize(("bands", "classes"), [(1, 1), (3, 7), (13, 2)])
def test_any_bands_and_classes(bands: int, classes: int) -> None:
    network = build(bands=bands, classes=classes, floor=0.0).eval()
    with torch.inference_mode():
        (found,) = network(torch.randn(1, bands, 64, 64))
    assert set(found["labels"].tolist()) <= set(range(classes))


def test_its_stride_and_task() -> None:
    assert models.stride_of("mask_rcnn", SMALL) == 32
    assert models.task_of("mask_rcnn") == "instance-segmentation"


@pytest.mark.parametrize("kind", [{}, {"keypoints": 4}, {"mask_head": "mlp", "roi": "pool"}])
@pytest.mark.parametrize("low", [False, True])
def test_nothing_to_learn_and_nothing_found(kind: dict[str, Any], low: bool) -> None:
    network = build(**kind, floor=1.0).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        losses = network(torch.randn(2, 3, 64, 64), [targets_of(), targets_of()])
        sum(losses.values(), torch.tensor(0.0)).backward()
        assert all(v.isfinite() for v in losses.values())
        assert losses["mask"] == losses["rpn_box"] == losses["box"] == 0
        with torch.inference_mode():
            found = network.eval()(torch.randn(2, 3, 64, 64))
    for one in found:
        assert one["boxes"].shape == (0, 4)
        assert one["masks"].shape == (0, 28, 28)
        assert one.get("keypoints", torch.empty(0, 4, 3)).shape == (0, 4, 3)


def test_a_picture_smaller_than_an_anchor() -> None:
    network = build(anchors=[100, 200, 300, 400, 500], floor=0.0)
    images, target = torch.randn(2, 3, 32, 32), targets_of((3, 5, 20, 30), side=32)
    assert all(v.isfinite() for v in network.train()(images, [target] * 2).values())
    with torch.inference_mode():
        assert len(network.eval()(images)[0]["scores"]) > 0


def test_larger_pictures_hold_more() -> None:
    """By their area, from that of the picture that the numbers are meant for."""
    for picture, found in ((0, 6), (128, 6), (32, 24)):
        network = build(floor=0.0, detections=6, picture=picture).eval()
        with torch.inference_mode():
            assert len(network(torch.randn(1, 3, 64, 64))[0]["scores"]) == found
            proposals = network.rpn.post_nms_top_n()
        assert proposals == 50 * found // 6


def test_no_proposal_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose boxes have become numbers that are none still gives losses to look at."""
    network = build().train()
    monkeypatch.setattr(network.rpn, "min_size", 1e6)
    losses = network(torch.randn(1, 3, 64, 64), [targets_of()])
    assert losses["class"] == losses["box"] == losses["mask"] == 0
    with torch.inference_mode():
        assert len(network.eval()(torch.randn(1, 3, 64, 64))[0]["scores"]) == 0


def test_frozen_norms_keep_their_statistics() -> None:
    for frozen in (False, True):
        network = build(freeze_norms=frozen).train()
        before = {k: v.clone() for k, v in network.encoder.named_buffers()}
        network(torch.randn(1, 3, 64, 64), [targets_of()])
        same = all(torch.equal(v, before[k]) for k, v in network.encoder.named_buffers())
        assert same == frozen
        assert network.heads.training


# --- precision ------------------------------------------------------------------------------


def test_pixels_are_counted_in_float32() -> None:
    """bfloat16 has eight bits: beyond 256 its neighbours are two pixels apart."""
    network = build(aspect_ratios=[0.7]).eval()
    maps = [torch.zeros(1, 16, 1024 // s, 1024 // s) for s in (4, 8, 16, 32, 64)]
    images = ImageList(torch.zeros(1, 3, 1024, 1024), [(1024, 1024)])
    (exact,) = network.rpn.anchor_generator(images, maps)
    (low,) = network.rpn.anchor_generator(images, [m.bfloat16() for m in maps])
    assert low.dtype == torch.float32
    assert torch.equal(low, exact)


def test_in_the_precision_of_its_weights() -> None:
    """As the torch runtime has it: all in bfloat16, or all but the encoder."""
    images = torch.randn(1, 3, 256, 256)
    network = build(floor=0.0, detections=10).eval()
    with torch.inference_mode():
        (exact,) = network(images)
        for child in ("fpn", "rpn", "heads"):
            network.get_submodule(child).bfloat16()
        (mixed,) = network(images)
        (low,) = network.bfloat16()(images.bfloat16())
    for found in (mixed, low):
        assert all(v.dtype == torch.float32 for k, v in found.items() if k != "labels")
        assert float(found["scores"].mean() - exact["scores"].mean()) == pytest.approx(0, abs=0.02)
    edges = torch.cat([mixed["boxes"], low["boxes"]])
    assert not torch.equal(edges, edges.bfloat16().float())


# --- parts ----------------------------------------------------------------------------------


def test_anchors_have_an_area() -> None:
    network = build(anchors=[2, 3, 4, 5, 6], aspect_ratios=[0.1, 10.0])
    boxes = torch.cat(network.rpn.anchor_generator.cell_anchors)
    assert (boxes[:, 2:] - boxes[:, :2] >= 2).all()


def test_softmax_masks_compete() -> None:
    """A mask of the own class is the softmax over classes and background; trained so too."""
    network = build(mask_loss="softmax").eval()
    branch = network.heads.mask
    features = {name: torch.randn(1, 16, 16 // 2**i, 16 // 2**i) for i, name in enumerate("0123")}
    boxes = [torch.tensor([[3.0, 3, 40, 50], [10, 10, 30, 30]])]
    with torch.inference_mode():
        logits = branch(features, boxes, [(64, 64)])
        (got,) = branch.infer(features, boxes, [(64, 64)], [torch.tensor([2, 3])])
        assert torch.allclose(got, logits.softmax(1)[torch.arange(2), [2, 3]])
        target = {"masks": torch.ones(1, 64, 64, dtype=torch.uint8), "labels": torch.tensor([2])}
        loss = branch.loss(features, boxes, [(64, 64)], [target], [torch.tensor([0, 0])])
    torch.testing.assert_close(loss, -logits.log_softmax(1)[:, 2].mean())


def test_many_boxes_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    features = {name: torch.randn(3, 16, 16 // 2**i, 16 // 2**i) for i, name in enumerate("0123")}
    boxes = [torch.rand(n, 4) * 30 + torch.tensor([0.0, 0, 30, 30]) for n in (5, 0, 8)]
    labels = [torch.randint(1, 4, (len(b),)) for b in boxes]
    branch = build().heads.mask.eval()
    with torch.inference_mode():
        whole = branch.infer(features, boxes, [(64, 64)] * 3, labels)
        monkeypatch.setattr(roi_heads, "_AT_ONCE", 4)
        parts = branch.infer(features, boxes, [(64, 64)] * 3, labels)
    assert [len(p) for p in parts] == [5, 0, 8]
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other)


def test_true_masks_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = (torch.rand(9, 40, 40) > 0.5).to(torch.uint8)
    boxes = torch.rand(30, 4) * 20 + torch.tensor([0.0, 0, 20, 20])
    matched = torch.randint(0, 9, (30,))
    expected = project_masks_on_boxes(masks, boxes, matched, 28)
    monkeypatch.setattr(roi_heads, "_AT_ONCE", 4)
    assert torch.equal(roi_heads._masks_in_boxes(masks, boxes, matched), expected)
    assert torch.equal(roi_heads._masks_in_boxes(masks.bool(), boxes, matched), expected)


def test_objects_are_matched_as_by_torchvision() -> None:
    network = build(anchors=[8, 16, 32, 64, 100])
    maps = [torch.zeros(1, 16, 128 // s, 128 // s) for s in (4, 8, 16, 32, 64)]
    (anchors,) = network.rpn.anchor_generator(
        ImageList(torch.zeros(1, 3, 128, 128), [(128, 128)]), maps
    )
    boxes = torch.rand(30, 4) * 60 + torch.tensor([0.0, 0, 60, 60])
    boxes = torch.cat([boxes, boxes[:1], boxes[1:2] + 0.1])  # two alike, and nearly so
    targets = [{"boxes": boxes}, {"boxes": boxes[:0]}]
    got = network.rpn.assign_targets_to_anchors([anchors] * 2, targets)
    expected = RegionProposalNetwork.assign_targets_to_anchors(network.rpn, [anchors] * 2, targets)
    for ours, theirs in zip(got[0], expected[0], strict=True):
        assert torch.equal(ours, theirs)
    objects = got[0][0] == 1  # the boxes of others are not looked at
    assert torch.equal(got[1][0][objects], expected[1][0][objects])
    assert set(got[0][0].tolist()) == {-1.0, 0.0, 1.0}
    best, _, nearest = rpn.match(anchors, torch.tensor([[500.0, 500, 510, 510]]))
    assert not best.any()
    assert not nearest.any()  # far from all: an object of no anchor


def test_roi_align_is_torchvision_s() -> None:
    """Boxes of all levels, beyond the border, and narrower than a pixel; also the gradients."""
    features = {str(i): torch.randn(2, 5, 256 // s, 256 // s) for i, s in enumerate((4, 8, 16, 32))}
    corner, side = torch.rand(2, 60, 2) * 280 - 20, torch.rand(2, 60, 1) ** 3 * 300
    boxes = list(torch.cat([corner, corner + side * (torch.rand(2, 60, 2) + 0.5)], 2))
    grads = []
    for pooler in (roi_pool.RoIAlign(7), MultiScaleRoIAlign(list("0123"), 7, 2)):
        for one in features.values():
            one.grad = None
            one.requires_grad_()
        out = pooler(features, boxes, [(256, 256)] * 2)
        (out * torch.linspace(0, 1, out.numel()).view(out.shape)).sum().backward()
        grads.append([out.detach(), *(one.grad for one in features.values())])
    assert all(g.any() for g in grads[1][:-1])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)


def test_masks_are_doubled_as_by_torchvision() -> None:
    ours = roi_heads._MaskPredictor(6, 5, 3)
    nn.init.normal_(ours.conv5_mask.bias)
    theirs = MaskRCNNPredictor(6, 5, 3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 6, 14, 14)
    torch.testing.assert_close(ours(x), theirs(x))


def test_roi_pool_rounds() -> None:
    """Each box from the map of its size, by torchvision's RoIPool, which cuts at whole cells."""
    features = {str(i): torch.randn(2, 3, 256 // s, 256 // s) for i, s in enumerate((4, 8, 16, 32))}
    boxes = [torch.tensor([[3.0, 3, 40, 50], [1, 1, 250, 240]]), torch.tensor([[0.0, 0, 130, 140]])]
    got = roi_pool.new_pooler("pool", 7)(features, boxes, [(256, 256)] * 2)
    wanted = [
        their_roi_pool(features["0"][:1], [boxes[0][:1]], 7, 1 / 4),
        their_roi_pool(features["2"][:1], [boxes[0][1:]], 7, 1 / 16),
        their_roi_pool(features["1"][1:], [boxes[1]], 7, 1 / 8),
    ]
    assert torch.equal(got, torch.cat(wanted))


def test_points_of_a_heat_map() -> None:
    logits = torch.full((1, 2, 56, 56), -20.0)
    logits[0, 0, 10, 20] = 20  # one cell
    logits[0, 1, 30, 40] = logits[0, 1, 30, 41] = 20  # between two
    (found,) = roi_heads.points_of(logits, torch.tensor([[100.0, 200, 156, 312]]))
    torch.testing.assert_close(found[0], torch.tensor([120.5, 221.0, 1.0]))
    torch.testing.assert_close(found[1], torch.tensor([141.0, 261.0, 1.0]))
    (unsure,) = roi_heads.points_of(torch.zeros(1, 1, 56, 56), torch.tensor([[0.0, 0, 56, 56]]))
    assert unsure[0, 2] < 0.01


# --- torchvision ----------------------------------------------------------------------------

SIDE = 96


def torchvisions(frozen: bool) -> nn.Module:
    """torchvision's Mask R-CNN of 3 classes and a background, which leaves pictures alone."""
    still: dict[str, Any] = {
        "min_size": SIDE,
        "max_size": SIDE,
        "image_mean": [0.0] * 3,
        "image_std": [1.0] * 3,
    }
    still["box_detections_per_img"] = 30
    if frozen:
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50",
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            trainable_layers=5,
        )
        network = TheirMaskRCNN(backbone, 4, **still)
    else:
        network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4, **still)
    network.transform.postprocess = lambda found, *_: found  # masks as they are, not pasted
    return network


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """With norms that fit the features, and heads that are sure of something."""
    torch.manual_seed(0)
    network = torchvisions(frozen=False)
    nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.5)
    nn.init.normal_(network.rpn.head.cls_logits.weight, std=0.1)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.backbone.train()(torch.randn(2, 3, SIDE, SIDE))
    for norm in norms:
        norm.momentum = 0.1
    return network


def ours_of(theirs: nn.Module, **arguments: Any) -> nn.Module:
    network = models.build("mask_rcnn", classes=3, bands=3, **arguments)
    state = from_torchvision_detector(theirs.state_dict())
    counts = {k: v for k, v in network.state_dict().items() if k.endswith("batches_tracked")}
    network.load_state_dict({**counts, **state})
    return network


def test_what_it_finds_is_torchvision_s(theirs: nn.Module) -> None:
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        expected = theirs.eval()(list(images))
        found = ours_of(theirs, detections=30).eval()(images)
    assert all(len(e["scores"]) > 10 for e in expected)
    assert set(torch.cat([e["labels"] for e in expected]).tolist()) == {1, 2, 3}
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["labels"], other["labels"] - 1)
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=0, atol=1e-3)
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=1e-5)
        torch.testing.assert_close(one["masks"], other["masks"][:, 0], rtol=0, atol=1e-4)


def test_what_it_learns_is_torchvision_s(theirs: nn.Module) -> None:
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    targets = [
        targets_of((4, 4, 70, 54), (20, 30, 60, 90), (70, 2, 92, 50), side=SIDE),
        targets_of((50, 50, 80, 90), side=SIDE),
    ]
    counted = [{**t, "labels": t["labels"] + 1} for t in targets]
    ours = ours_of(theirs)
    # torchvision draws the size of a picture, even where there is one: so seeded only after that
    hooks = [n.rpn.register_forward_pre_hook(lambda *_: _seed(7)) for n in (theirs, ours)]
    with torch.no_grad():
        expected = theirs.train()(list(images), counted)
        found = ours.train()(images, targets)
    for hook in hooks:
        hook.remove()
    names = {
        "objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "box": "loss_box_reg",
        "mask": "loss_mask",
    }
    assert set(found) == set(names)
    for name, theirs_name in names.items():
        torch.testing.assert_close(found[name], expected[theirs_name], rtol=1e-5, atol=1e-6)


def test_frozen_norms_are_torchvision_s(theirs: nn.Module) -> None:
    """Its FrozenBatchNorm2d, in training: the same features, but for how they are rounded."""
    other = torchvisions(frozen=True)
    state = {k: v for k, v in theirs.state_dict().items() if not k.endswith("batches_tracked")}
    other.load_state_dict(state)
    ours = ours_of(other, freeze_norms=True).train()
    images = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = other.train().backbone(images)
        maps = ours.encoder(images)[2:]
        found = ours.fpn({str(i): one for i, one in enumerate(maps)})
    assert list(found) == list(expected)
    for name, features in found.items():
        torch.testing.assert_close(features, expected[name], rtol=1e-3, atol=1e-3)


def _seed(number: int) -> None:
    torch.manual_seed(number)


def as_in_2018(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names in maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth, which torchvision still offers."""
    old = {}
    for name, tensor in state.items():
        name = name.replace("_blocks.0.0.", "_blocks.0.").replace("_blocks.1.0.", "_blocks.1.")
        name = name.replace("_blocks.2.0.", "_blocks.2.").replace("_blocks.3.0.", "_blocks.3.")
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for i in range(4):
            name = name.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.")
        if not name.endswith("num_batches_tracked"):
            old[name] = tensor
    return old


def test_a_file_of_torchvision_s_is_a_start(theirs: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
    old = as_in_2018(theirs.state_dict())
    assert "roi_heads.mask_head.mask_fcn4.bias" in old
    torch.save(old, path)
    same = models.build("mask_rcnn", classes=3, bands=3)
    said = load_encoder(same, path)
    assert said == [f"goes on from the detector {path}, with all its classes"]
    expected = from_torchvision_detector(theirs.state_dict())
    for name, tensor in same.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, expected[name]), name
    other = models.build("mask_rcnn", classes=1, bands=4, anchors=[[8, 12]] * 5, mask_channels=64)
    (said,) = load_encoder(other, path, bands=["red", "green", "blue", "nir"])
    assert "heads.box_predictor.bbox_pred, heads.box_predictor.cls_score, heads.mask.head" in said
    assert "rpn.head.cls_logits" in said
    assert "fpn" not in said.replace(str(path), "")
    unet = models.build("unet", classes=1, bands=3, encoder="resnet50")
    assert load_encoder(unet, path) == []
    assert isinstance(unet.encoder, ResNet)
    assert torch.equal(unet.encoder.layer4[2].bn3.bias, expected["encoder.layer4.2.bn3.bias"])


def test_size_is_torchvision_s() -> None:
    """44.4 M of 91 classes, in torchvision's documentation."""
    with torch.device("meta"):
        network = models.build("mask_rcnn", classes=90, bands=3)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(44_401_393, rel=0.002)


# --- what cannot be built -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "resnet43"}, "did you mean 'resnet34'"),
        ({"chanels": 3}, "no argument 'chanels' .did you mean 'channels'"),
        ({"channels": 0}, "channels must be 1 to 4096, not 0"),
        ({"channels": "x"}, "channels must be 1 to 4096, not 'x'"),
        ({"mask_channels": 2.5}, "mask_channels must be"),
        ({"box_hidden": 10**9}, "box_hidden must be"),
        ({"keypoints": -1}, "keypoints must be 0 to 1000"),
        ({"proposals": 100}, "proposals: two whole numbers are needed, not 100"),
        ({"proposals": [100, "many"]}, "proposals must be"),
        ({"samples": [1, 2, 3]}, "samples: two whole numbers"),
        ({"detections": True}, "detections must be"),
        ({"picture": -1}, "picture must be 0 to 100000"),
        ({"floor": 1.5}, "floor: 1.5 is no number in 0..1"),
        ({"nms": "a"}, "nms: 'a' is no number in 0..1"),
        ({"anchors": [32, 64]}, r"anchors: one entry for each of the 5 levels .* not \[32, 64\]"),
        ({"anchors": 32}, "anchors: one entry for each"),
        ({"anchors": [0, 1, 2, 3, 4]}, "are no edges of 2 pixels or more"),
        ({"anchors": [8, 8, 8, 8, "a"]}, "are no edges of 2 pixels"),
        ({"anchors": [8, 8, 8, 8, [8, 9]]}, r"each level needs equally many, not \[1, 2\]"),
        ({"aspect_ratios": []}, "are no positive numbers"),
        ({"aspect_ratios": [1, -1]}, "are no positive numbers"),
        ({"aspect_ratios": [float("nan")]}, "are no positive numbers"),
        ({"roi": "warp"}, "roi: 'warp' is neither of align, pool"),
        ({"mask_loss": ["softmax"]}, "mask_loss: .* is neither of sigmoid, softmax"),
        ({"masks": 1}, "masks: 1 is neither true nor false"),
        ({"masks": False, "mask_head": "mlp"}, "mean nothing without masks"),
        ({"encoder": "tu-convnext_atto", "channels": 8}, ""),
        ({"encoder": "tu-vit_tiny_patch16_224"}, "mask_rcnn|tu-vit_tiny_patch16_224"),
    ],
)
def test_what_cannot_be_built(arguments: dict[str, Any], message: str) -> None:
    if not message:
        build(**arguments)
        return
    with pytest.raises(ModelError, match=message):
        build(**arguments)


def test_no_class_and_no_targets() -> None:
    with pytest.raises(ModelError, match="needs a class of objects"):
        build(classes=0)
    with pytest.raises(ValueError, match="training needs targets"):
        build().train()(torch.zeros(1, 3, 32, 32))


def test_options_are_told_apart() -> None:
    """Each of the options that make another network is in the list above."""
    assert {"roi", "mask_loss", "mask_head", "masks", "keypoints", "freeze_norms"} <= set(
        itertools.chain.from_iterable(KINDS)
    )


def test_a_larger_picture_gets_more_by_its_area() -> None:
    """So that what is found in a place does not depend on how large the tile around it is."""
    network = models.build(
        "mask_rcnn",
        classes=1,
        bands=3,
        encoder="resnet18",
        channels=16,
        box_hidden=16,
        mask_channels=16,
        proposals=[50, 20],
        detections=5,
        floor=0.0,
        nms=1.0,
        picture=64,
    ).eval()
    with torch.inference_mode():
        for edge, most in ((32, 5), (64, 5), (128, 20)):
            (found,) = network(torch.randn(1, 3, edge, edge))
            assert len(found["scores"]) == most
