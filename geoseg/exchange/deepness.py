"""ONNX with the metadata that QGIS' Deepness plugin reads (plugin version 0.7).

Deepness shows the network one square picture at a time, pixels divided by 255, and expects
probabilities. So scaling and activation are in the graph; its own standardization is switched off.
It knows no Mask R-CNN, so objects come as a YOLO's candidates, of which it makes objects again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from geoseg.bundle import Bundle, CheckReport
from geoseg.errors import ModelError
from geoseg.exchange.candidates import Candidates
from geoseg.exchange.files import proved, ran
from geoseg.exchange.network import Scaled, whole
from geoseg.exchange.objects import Objects
from geoseg.exchange.onnx_graph import graph_of, to_bytes
from geoseg.models.rcnn_options import Options
from geoseg.runtime.torch_runtime import network_of
from geoseg.spec import ModelSpec, Scaling

DIVISOR = 255.0
MASKS_DIFFER = 0.1  # share of what is painted, as masks come with a quarter of the resolution
MOST_OVERLAP = 50  # percent: tiles may be smaller than those that the overlap was meant for


def write(source: Bundle, path: Path, tile: int | None) -> CheckReport:
    """A .onnx file for Deepness; `tile` is the edge of its pictures."""
    spec, size = source.spec, tile or source.spec.tiling.size
    if spec.dtype != "uint8":
        raise ModelError(
            f"{spec.id}: Deepness shows networks bytes divided by 255; this one wants {spec.dtype}"
        )
    scaling = Scaling(
        tuple(o / DIVISOR for o in spec.scaling.offset),
        tuple(s / DIVISOR for s in spec.scaling.scale),
    )
    network = whole(network_of(source), spec)
    given = Candidates(network) if isinstance(network, Objects) else network
    model = graph_of(Scaled(given, scaling), spec, size=size)
    values = metadata(spec, size)
    model.metadata_props.update({key: json.dumps(value) for key, value in values.items()})
    raw = to_bytes(model)
    looser = None
    if spec.finds_objects:
        read = {"detector": values["det_type"], "iou": values["det_iou_thresh"], "steep": 1}
        spec, looser = replace(spec, arguments=read), MASKS_DIFFER
    run = ran(spec, raw)
    report = proved(source, "onnx float32", run, size=size, unscale=scaling, tolerance=looser)
    path.write_bytes(raw)
    return report


def metadata(spec: ModelSpec, size: int) -> dict[str, Any]:
    """Deepness' keys. Its code reads tile_size, its documentation says tiles_size."""
    return {
        **(_detector(spec) if spec.finds_objects else _segmentor(spec)),
        "resolution": spec.gsd * 100,  # centimetres per pixel
        "tile_size": size,
        "tiles_size": size,
        "tiles_overlap": min(round(100 * spec.tiling.overlap / size), MOST_OVERLAP),
        "standardization_mean": [0.0] * len(spec.bands),
        "standardization_std": [1.0] * len(spec.bands),
    }


def _segmentor(spec: ModelSpec) -> dict[str, Any]:
    names = [c.name for c in spec.classes]
    if len(names) == 1:  # one channel: Deepness then has two classes, below and above the level
        names = ["background", *names]
    return {
        "model_type": "Segmentor",
        "class_names": _numbered(names),
        "seg_thresh": spec.threshold if len(spec.classes) == 1 else 0.0,
        "seg_small_segment": 0,
    }


def _detector(spec: ModelSpec) -> dict[str, Any]:
    options = Options.of(spec.arguments)
    return {
        "model_type": "Detector",
        "class_names": _numbered([c.name for c in spec.classes]),
        "det_type": "YOLO_Ultralytics_segmentation" if options.masks else "YOLO_Ultralytics",
        "det_conf": spec.threshold,
        "det_iou_thresh": options.nms,  # no more than the network has done itself
    }


def _numbered(names: list[str]) -> dict[str, str]:
    return {str(i): name for i, name in enumerate(names)}
