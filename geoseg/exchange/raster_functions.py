"""Python raster functions of ArcGIS: classes of pixels, or objects, by a network in an ONNX file.

This file is part of a package that geoseg has written, and named there as the class that is meant:
ArcGIS finds it so, and calls its methods. It needs onnxruntime in the Python of ArcGIS, and for
objects scikit-image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

INSIDE = 0.5  # probability from which on a place belongs to an object


class _Network:
    """What both have in common; see 'Python raster functions' in Esri's documentation."""

    def initialize(self, **kwargs: Any) -> None:
        """`model` is the path of the .emd file, or its content."""
        if "model" not in kwargs:
            return
        import onnxruntime

        given, folder = str(kwargs["model"]), Path(__file__).parent
        if not given.lstrip().startswith("{"):
            folder = Path(given).parent
            given = Path(given).read_text(encoding="utf-8")
        self.definition = json.loads(given)
        usable = ("CUDAExecutionProvider", "CPUExecutionProvider")
        there = onnxruntime.get_available_providers()
        self.session = onnxruntime.InferenceSession(
            str(folder / self.definition["ModelFile"]), providers=[p for p in usable if p in there]
        )
        self.padding = int(self.definition["Padding"])

    def getParameterInfo(self) -> list[dict[str, Any]]:
        """What the user may set."""
        number = {"dataType": "numeric", "required": False}
        return [
            _parameter("raster", "Raster", dataType="raster", required=True),
            _parameter("model", "Model definition", dataType="string", required=True),
            _parameter("padding", "Padding", value=self.definition["Padding"], **number),
            _parameter("threshold", "Threshold", value=self.definition["Threshold"], **number),
        ]

    def getConfiguration(self, **scalars: Any) -> dict[str, Any]:
        """Blocks of pixels so large that with the padding they fit the network."""
        self.padding = int(scalars.get("padding", self.padding))
        self.threshold = float(scalars.get("threshold", self.definition["Threshold"]))
        return {
            "extractBands": tuple(self.definition["ExtractBands"]),
            "padding": self.padding,
            "tx": self.definition["ImageWidth"] - 2 * self.padding,
            "ty": self.definition["ImageHeight"] - 2 * self.padding,
            "fixedTileSize": 1,
            "dataRange": tuple(self.definition["DataRange"]),
            "inheritProperties": 2 | 4 | 8,  # no data, dimensions, resampling
            "inputMask": True,
        }

    def _run(self, blocks: dict[str, Any]) -> dict[str, Any]:
        """What the network gives, by name, for (bands, H, W) pixels, H and W at most its own."""
        pixels = np.where(blocks["raster_mask"] == 0, 0, blocks["raster_pixels"])
        height, width = pixels.shape[1:]
        full = [(0, 0), (0, self.definition["ImageHeight"] - height)]
        full.append((0, self.definition["ImageWidth"] - width))
        batch = np.pad(pixels.astype(np.float32), full)[None]
        names = [output.name for output in self.session.get_outputs()]
        values = self.session.run(names, {self.session.get_inputs()[0].name: batch})
        return dict(zip(names, values, strict=True))


class GeosegClassifier(_Network):
    """For 'Classify Pixels Using Deep Learning'."""

    def __init__(self) -> None:
        self.name = "geoseg classifier"
        self.description = "Classes of pixels by a network in an ONNX file"

    def updateRasterInfo(self, **kwargs: Any) -> dict[str, Any]:
        """One band of bytes."""
        kwargs["output_info"]["bandCount"] = 1
        kwargs["output_info"]["pixelType"] = "u1"
        return kwargs

    def updatePixels(self, tlc: Any, shape: Any, props: Any, **blocks: Any) -> dict[str, Any]:
        """(bands, H, W) pixels -> (1, H - 2 padding, W - 2 padding) class numbers."""
        height, width = blocks["raster_pixels"].shape[1:]
        classes = self._classes(self._run(blocks)["scores"][0])[:height, :width]
        inner = slice(self.padding, -self.padding or None)
        blocks["output_pixels"] = classes[None, inner, inner].astype(props["pixelType"], copy=False)
        return blocks

    def _classes(self, scores: Any) -> Any:
        values = np.array([c["Value"] for c in self.definition["Classes"]], np.uint8)
        if len(values) == 1:
            return np.where(scores[0] >= self.threshold, values[0], 0)
        return values[scores.argmax(0)]


class GeosegDetector(_Network):
    """For 'Detect Objects Using Deep Learning'."""

    FIELDS = (("OID", "OID"), ("Class", "String"), ("Confidence", "Double"))
    POLYGON = 4

    def __init__(self) -> None:
        self.name = "geoseg detector"
        self.description = "Objects by a network in an ONNX file"

    def getFields(self) -> str:
        """Of the features, as JSON."""
        return json.dumps({"fields": _fields(*self.FIELDS, ("Shape", "Geometry"))})

    def getGeometryType(self) -> int:
        """Polygons."""
        return self.POLYGON

    def vectorize(self, **blocks: Any) -> dict[str, str]:
        """(bands, H, W) pixels -> the objects whose centre lies inside of the padding, as another
        block has the others. x and y are pixels from the upper left corner inside of it."""
        found, features = self._run(blocks), list[dict[str, Any]]()
        limits = np.array(blocks["raster_pixels"].shape[:0:-1]) - 2 * self.padding
        for n, (box, score) in enumerate(zip(found["boxes"], found["scores"], strict=True)):
            middle = (box[:2] + box[2:]) / 2 - self.padding
            if score < self.threshold or (middle < 0).any() or (middle >= limits).any():
                continue
            rings = _rings(found["masks"][n], box) if "masks" in found else [_corners(box)]
            name = self.definition["Classes"][found["labels"][n]]["Name"]
            values = {"OID": len(features) + 1, "Class": name, "Confidence": float(score)}
            geometry = {"rings": [(ring - self.padding).tolist() for ring in rings]}
            if rings:
                features.append({"attributes": values, "geometry": geometry})
        table = {
            "displayFieldName": "",
            "geometryType": "esriGeometryPolygon",
            "fields": _fields(*self.FIELDS),
            "features": features,
        }
        return {"output_vectors": json.dumps(table)}


def _rings(mask: Any, box: Any) -> list[Any]:
    """Where a mask that is stretched over its box crosses INSIDE: (n, 2) x and y, closed, outer
    rings clockwise as one looks at them."""
    from skimage.measure import find_contours

    low, high = np.floor(box[:2]) - 1, np.ceil(box[2:]) + 1
    x, y = (np.arange(first, stop) + 0.5 for first, stop in zip(low, high, strict=True))
    across, down = _weights(x, box[0::2], len(mask)), _weights(y, box[1::2], len(mask))
    find: Any = find_contours
    contours = find(down @ mask @ across.T, INSIDE, positive_orientation="low")
    return [ring[:, ::-1] + low + 0.5 for ring in contours]


def _weights(at: Any, span: Any, size: int) -> Any:
    """How much each of `size` steps along a span counts at each place; nothing far beyond it."""
    steps = (at - span[0]) / (span[1] - span[0]) * size - 0.5
    return np.maximum(1 - np.abs(steps[:, None] - np.arange(size)), 0)


def _corners(box: Any) -> Any:
    left, top, right, bottom = box
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])


def _fields(*named: tuple[str, str]) -> list[dict[str, str]]:
    return [{"name": n, "type": f"esriFieldType{kind}", "alias": n} for n, kind in named]


def _parameter(name: str, title: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "displayName": title, "description": title, **more}
