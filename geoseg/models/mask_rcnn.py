"""Mask R-CNN (He et al. 2017): objects with boxes, classes and masks, on torchvision's parts.

    encoder -> fpn -> rpn: boxes that may hold an object
                   -> heads: class and better box of each; a mask for those that remain

In training network(images, targets) gives the losses by name: objectness, rpn_box, class, box,
mask and keypoint. In evaluation network(images) gives one dict per picture: boxes (n, 4) left,
top, right, bottom in pixels; labels (n,), index into the classes; scores (n,); masks (n, M, M),
probabilities stretched over the box; keypoints (n, P, 3), x, y and a score. `targets`: one dict per
picture of boxes, labels, masks (n, H, W) and, if wanted, keypoints (n, P, 3), x, y and visibility.

Pictures come scaled and keep their size: tiles are read at the model's GSD.

Each child computes in the precision of its weights, or in that of autocast. What is numbers of
pixels (anchors, boxes, reading of features in them, non-maximum suppression) stays in float32
throughout: in bfloat16 a box at pixel 250.3 would lie at 250.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped]
from torchvision.ops import FeaturePyramidNetwork  # type: ignore[import-untyped]
from torchvision.ops.feature_pyramid_network import (  # type: ignore[import-untyped]
    LastLevelMaxPool,
)

from geoseg.errors import ModelError
from geoseg.models import Architecture
from geoseg.models.encoders import new_encoder
from geoseg.models.rcnn_options import LEVELS, Options
from geoseg.models.roi_heads import Heads, fitting
from geoseg.models.roi_pool import MAPS
from geoseg.models.rpn import Proposals

STRIDE = 32
FIRST = 2  # of the encoder's maps, in halvings
LAST = LEVELS + 1  # its last, which the pyramid halves once more

Targets = Iterable[Mapping[str, Tensor]]


class MaskRCNN(nn.Module):
    """The whole network; see the top of this file."""

    def __init__(self, classes: int, bands: int, options: Options) -> None:
        super().__init__()
        self.encoder, widths = new_encoder(options.encoder, bands=bands)
        self.encoder_name = options.encoder
        self.frozen_norms = options.freeze_norms
        maps = widths[FIRST:LAST]
        if len(maps) != LEVELS - 1 or not all(maps):
            raise ModelError(f"the encoder {options.encoder} has no maps of strides 4 to {STRIDE}")
        self.fpn = FeaturePyramidNetwork(maps, options.channels, LastLevelMaxPool())
        self.rpn = Proposals(options)
        self.heads = Heads(classes, options)

    def forward(
        self, images: Tensor, targets: Targets | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, objects in evaluation."""
        if self.training and targets is None:
            raise ValueError("training needs targets")
        sizes = [(images.shape[2], images.shape[3])] * len(images)
        maps = self.encoder(images)[FIRST:LAST]
        pyramid = self.fpn({str(i): fitting(one, self.fpn) for i, one in enumerate(maps)})
        known = [{**t, "labels": t["labels"] + 1} for t in targets or ()]  # 0 is the background
        proposals, losses = self.rpn(ImageList(images, sizes), pyramid, known or None)
        features = {name: pyramid[name].float() for name in MAPS}
        if not self.training:
            return self.heads.detect(features, proposals, sizes)
        return {
            "objectness": losses["loss_objectness"],
            "rpn_box": losses["loss_rpn_box_reg"],
            **self.heads.losses(features, proposals, sizes, known),
        }

    def train(self, mode: bool = True) -> MaskRCNN:
        """Training mode, but for the statistics of norms that are frozen."""
        super().train(mode)
        if self.frozen_norms:
            for module in self.encoder.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


def build(*, classes: int, bands: int, **arguments: Any) -> MaskRCNN:
    """Mask R-CNN over an encoder; `classes` counts those of objects, without a background.

    The arguments are those of `Options`.
    """
    if classes < 1:
        raise ModelError("mask_rcnn needs a class of objects")
    return MaskRCNN(classes, bands, Options.of(arguments))


MASK_RCNN = Architecture(build, lambda **_: STRIDE, task="instance-segmentation")
