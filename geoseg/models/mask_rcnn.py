"""Mask R-CNN (He et al. 2017): objects with boxes, classes and masks, on torchvision's parts.

    encoder -> fpn -> rpn: boxes that may hold an object
                   -> heads: class and better box of each; a mask for those that remain

In training network(images, targets) gives the losses by name: objectness, rpn_box, class, box,
mask and keypoint. In evaluation network(images) gives one dict per picture: boxes (n, 4) left,
top, right, bottom in pixels; labels (n,), index into the classes; scores (n,); masks (n, M, M),
probabilities stretched over the box; keypoints (n, P, 3), x, y and a score. `targets`: one dict per
picture of boxes, labels, masks (n, H, W) and, if wanted, keypoints (n, P, 3), x, y and visibility.

Pictures come scaled and keep their size: tiles are read at the model's GSD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator  # type: ignore[import-untyped]
from torchvision.models.detection.faster_rcnn import (  # type: ignore[import-untyped]
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped]
from torchvision.models.detection.rpn import (  # type: ignore[import-untyped]
    RegionProposalNetwork,
    RPNHead,
)
from torchvision.ops import FeaturePyramidNetwork  # type: ignore[import-untyped]
from torchvision.ops.feature_pyramid_network import (  # type: ignore[import-untyped]
    LastLevelMaxPool,
)

from geoseg.errors import ModelError
from geoseg.models import Architecture
from geoseg.models.encoders import new_encoder
from geoseg.models.roi_heads import Heads, KeypointBranch, MaskBranch, new_pooler

LEVELS = 5  # of the pyramid: strides of 4, 8, 16, 32 and 64 pixels
_FIRST = 2  # of the encoder's maps, in halvings
STRIDE = 32

Targets = Sequence[Mapping[str, Tensor]]


class MaskRCNN(nn.Module):
    """The whole network; see the top of this file. Its options are those of `build`."""

    def __init__(
        self, encoder: nn.Module, fpn: nn.Module, rpn: RegionProposalNetwork, heads: Heads
    ) -> None:
        super().__init__()
        self.encoder, self.fpn, self.rpn, self.heads = encoder, fpn, rpn, heads

    def forward(
        self, images: Tensor, targets: Targets | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, objects in evaluation."""
        if self.training and targets is None:
            raise ValueError("training needs targets")
        known = [{**t, "labels": t["labels"] + 1} for t in targets] if targets else None
        shapes = [(images.shape[2], images.shape[3])] * len(images)
        maps = self.encoder(images)[_FIRST:]
        features = self.fpn({str(i): one for i, one in enumerate(maps)})
        # boxes are numbers of hundreds, which 16 bits would round to whole pixels
        proposals, losses = self.rpn(ImageList(images.float(), shapes), features, known)
        if self.training:
            named = {
                "objectness": losses["loss_objectness"],
                "rpn_box": losses["loss_rpn_box_reg"],
            }
            return {**named, **self.heads.losses(features, proposals, shapes, known)}
        found: list[dict[str, Tensor]] = self.heads.detect(features, proposals, shapes)
        return [{**one, "labels": one["labels"] - 1} for one in found]


class _ProposalHead(RPNHead):  # type: ignore[misc]
    """torchvision's, whose numbers leave it in float32 also under autocast."""

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, boxes = super().forward(maps)
        return [t.float() for t in logits], [t.float() for t in boxes]


def build(
    *,
    classes: int,
    bands: int,
    encoder: str = "resnet50",
    channels: int = 256,
    anchors: Sequence[float | Sequence[float]] = (32, 64, 128, 256, 512),
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    roi: Literal["align", "pool"] = "align",
    masks: bool = True,
    mask_loss: Literal["sigmoid", "softmax"] = "sigmoid",
    mask_head: Literal["fcn", "mlp"] = "fcn",
    mask_channels: int = 256,
    keypoints: int = 0,
    box_hidden: int = 1024,
    proposals: tuple[int, int] = (2000, 1000),
    samples: tuple[int, int] = (256, 512),
    detections: int = 100,
    floor: float = 0.05,
    nms: float = 0.5,
) -> MaskRCNN:
    """Mask R-CNN over an encoder; the defaults are the paper's, as torchvision has them.

    classes: of objects. channels: of the pyramid. anchors: edge of the boxes that proposals start
    from, in pixels, one or several for each of the five levels (strides 4 to 64); aspect_ratios:
    height through width. roi: how a box's features are read, as in the paper's table 2c and d.
    masks: without them it is Faster R-CNN. mask_loss: a sigmoid for each class by itself, or a
    softmax over them (table 2b). mask_head: convolutions, or fully connected (table 2e).
    keypoints: how many an object has. proposals: boxes that are looked at in training and
    evaluation; samples: of those, how many the two stages learn from in a picture. detections: at
    most so many objects in a picture; floor: their least score; nms: IoU of two boxes from which
    on the lower one goes.
    """
    _check(classes, anchors, roi, mask_loss, mask_head)
    network, widths = new_encoder(encoder, bands=bands)
    maps = widths[_FIRST:]
    if len(maps) != LEVELS - 1 or not all(maps):
        raise ModelError(f"the encoder {encoder} has no maps of strides 4 to {STRIDE}")
    sizes = tuple(tuple(a) if isinstance(a, Sequence) else (a,) for a in anchors)
    generator = AnchorGenerator(sizes, (tuple(aspect_ratios),) * LEVELS)
    counts = generator.num_anchors_per_location()
    if len(set(counts)) > 1:
        raise ModelError(f"anchors: every level needs as many, not {counts}")
    rpn = RegionProposalNetwork(
        generator,
        _ProposalHead(channels, counts[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=samples[0],
        positive_fraction=0.5,
        pre_nms_top_n={"training": proposals[0], "testing": proposals[1]},
        post_nms_top_n={"training": proposals[0], "testing": proposals[1]},
        nms_thresh=0.7,
    )
    several = classes + 1  # the heads count the background
    heads = Heads(
        box_roi_pool=new_pooler(roi, 7),
        box_head=TwoMLPHead(channels * 7**2, box_hidden),
        box_predictor=FastRCNNPredictor(box_hidden, several),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=samples[1],
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=floor,
        nms_thresh=nms,
        detections_per_img=detections,
        mask=MaskBranch(channels, mask_channels, several, roi, mask_head, mask_loss)
        if masks
        else None,
        keypoint=KeypointBranch(channels, keypoints, roi) if keypoints else None,
    )
    fpn = FeaturePyramidNetwork(maps, channels, LastLevelMaxPool())
    return MaskRCNN(network, fpn, rpn, heads)


def _check(classes: int, anchors: Sequence[Any], roi: str, mask_loss: str, mask_head: str) -> None:
    if classes < 1:
        raise ModelError("Mask R-CNN needs a class of objects")
    if len(anchors) != LEVELS:
        raise ModelError(
            f"anchors: one for each of the {LEVELS} levels is needed, not {len(anchors)}"
        )
    for name, value, known in (
        ("roi", roi, ("align", "pool")),
        ("mask_loss", mask_loss, ("sigmoid", "softmax")),
        ("mask_head", mask_head, ("fcn", "mlp")),
    ):
        if value not in known:
            raise ModelError(f"{name}: {value!r} is none of {', '.join(known)}")


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of torchvision's maskrcnn_resnet50_fpn and its like, by our names."""
    renamed = {
        "backbone.body.": "encoder.",
        "backbone.fpn.": "fpn.",
        "roi_heads.mask_": "heads.mask.",
        "roi_heads.keypoint_": "heads.keypoint.",
        "roi_heads.": "heads.",
    }
    out = {}
    for name, tensor in state.items():
        prefix = next((p for p in renamed if name.startswith(p)), "")
        out[renamed.get(prefix, "") + name.removeprefix(prefix)] = tensor
    return out


MASK_RCNN = Architecture(build, lambda **_: STRIDE, task="instance-segmentation")
