"""What Ultralytics writes into the ONNX files that it exports: values in Python's words.

Its networks see bytes divided by 255. Of which bands, and at which scale, it does not know.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geoseg.errors import ModelError
from geoseg.exchange.adapt import Network

BYTES = 255.0
DETECTORS = {"detect": "YOLO_Ultralytics", "segment": "YOLO_Ultralytics_segmentation"}
SORTED_OUT = {"detect": "YOLO_with_NMS", "segment": "YOLO_with_NMS_segmentation"}
_OTHERS = {
    "obb": "rotated boxes",
    "pose": "boxes with keypoints",
    "classify": "one class for a whole picture",
    "depth": "depths",
}


def is_of_ultralytics(graph: Network) -> bool:
    return graph.metadata.get("author") == "Ultralytics" and "task" in graph.metadata


def said_by(path: Path, graph: Network) -> dict[str, Any]:
    """Its keys in those of a Contract; a ModelError where the network is of another task."""
    values = {key: _value(text) for key, text in graph.metadata.items()}
    task, names = values["task"], values["names"]
    if values.get("head") == "RTDETRDecoder":
        raise ModelError(f"{path}: geoseg imports YOLO networks of Ultralytics, not RT-DETR")
    if task not in (*DETECTORS, "semantic"):
        what = f", which gives {_OTHERS[task]}" if task in _OTHERS else ""
        raise ModelError(
            f"{path}: geoseg imports Ultralytics' tasks detect, segment and semantic, not "
            f"{task}{what}"
        )
    ordered = [str(name) for _, name in sorted(names.items())]
    said: dict[str, Any] = {
        "dtype": "uint8",
        "scaling": {"divide": BYTES},
        "license": str(values["license"]).partition(" ")[0],
    }
    if graph.size is None:
        said["tiling"] = {"size": max(values["imgsz"]), "stride": int(values["stride"])}
    if task == "semantic":
        return said | _semantic(ordered, graph)
    kinds = SORTED_OUT if _has_sorted_out(values, graph) else DETECTORS
    classes = [{"id": i, "name": name} for i, name in enumerate(ordered, start=1)]
    return said | {"classes": classes, "detector": kinds[task]}


def _has_sorted_out(values: Mapping[str, Any], graph: Network) -> bool:
    """Whether rows are objects; older versions do not say it, but their graphs have sizes."""
    if values.get("end2end") is True or (values.get("args") or {}).get("nms") is True:
        return True
    shape, *more = graph.outputs.values()
    shares = more[0][1] if more and more[0] is not None else 0
    return shape is not None and len(shape) == 3 and shares is not None and shape[2] == 6 + shares


def _semantic(names: list[str], graph: Network) -> dict[str, Any]:
    """Numbers of classes per pixel, of a single class 0 and 1; or else a channel for each."""
    shape = next(iter(graph.outputs.values()))
    if shape is None or len(shape) != 3:
        return {"classes": names}
    return {"classes": names if len(names) > 1 else ["background", *names], "output": "classes"}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
