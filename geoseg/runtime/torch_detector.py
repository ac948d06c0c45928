"""Networks that find objects, in torch: what they see as Detections, with scores to be believed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoseg.predictions import Detections
from geoseg.runtime.graphs import painted
from geoseg.runtime.torch_network import TorchNetwork
from geoseg.spec import ModelSpec

_NEAREST = 1e-6  # to 0 and 1 that a score is taken, which else would have no logit


class TorchDetector(TorchNetwork):
    """See geoseg.runtime.Detector; the network is as geoseg/models/mask_rcnn.py says."""

    def detect(self, batch: NDArray[np.float32], /) -> list[Detections]:
        """The objects of each picture, the surest first."""
        return [one for part in self._in_parts(batch, self._objects) for one in part]

    def predict(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """The objects painted, (N, K, H, W)."""
        return painted(self.detect(batch), self.spec, (batch.shape[2], batch.shape[3]))

    def _lower(self, child: nn.Module) -> None:
        """Such networks take inputs of any precision by themselves; boxes must stay float32."""
        child.to(torch.bfloat16)

    def _objects(self, x: Tensor) -> list[Detections]:
        return [self._detections(found) for found in self._network(x)]

    def _detections(self, found: dict[str, Tensor]) -> Detections:
        found = {**found, "scores": calibrated(found["scores"].float(), self.spec)}
        arrays = {
            name: value.float().cpu().numpy() for name, value in found.items() if name != "labels"
        }
        return Detections(labels=found["labels"].long().cpu().numpy(), **arrays)


def calibrated(scores: Tensor, spec: ModelSpec) -> Tensor:
    """Scores of objects as probabilities, by the model's temperature and bias."""
    if (spec.temperature, spec.bias) == (1, 0):
        return scores
    logits = torch.logit(scores, eps=_NEAREST)
    return torch.sigmoid(logits / spec.temperature + spec.bias)
