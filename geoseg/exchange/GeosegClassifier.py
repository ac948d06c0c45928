"""A Python raster function of ArcGIS: classes of pixels by a network in an ONNX file.

This file is part of a package that geoseg has written. ArcGIS finds the class by the name of the
file, and calls its methods; it needs onnxruntime in the Python of ArcGIS.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


class GeosegClassifier:
    """See 'Python raster functions' in Esri's documentation."""

    def __init__(self) -> None:
        self.name = "geoseg classifier"
        self.description = "Classes of pixels by a network in an ONNX file"

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

    def updateRasterInfo(self, **kwargs: Any) -> dict[str, Any]:
        """One band of bytes."""
        kwargs["output_info"]["bandCount"] = 1
        kwargs["output_info"]["pixelType"] = "u1"
        return kwargs

    def updatePixels(self, tlc: Any, shape: Any, props: Any, **blocks: Any) -> dict[str, Any]:
        """(bands, H, W) pixels -> (1, H - 2 padding, W - 2 padding) class numbers."""
        pixels = np.where(blocks["raster_mask"] == 0, 0, blocks["raster_pixels"])
        height, width = pixels.shape[1:]
        full = [(0, 0), (0, self.definition["ImageHeight"] - height)]
        full.append((0, self.definition["ImageWidth"] - width))
        batch = np.pad(pixels.astype(np.float32), full)[None]
        (scores,) = self.session.run(None, {self.session.get_inputs()[0].name: batch})
        classes = self._classes(scores[0])[:height, :width]
        inner = slice(self.padding, -self.padding or None)
        blocks["output_pixels"] = classes[None, inner, inner].astype(props["pixelType"], copy=False)
        return blocks

    def _classes(self, scores: Any) -> Any:
        values = np.array([c["Value"] for c in self.definition["Classes"]], np.uint8)
        if len(values) == 1:
            return np.where(scores[0] >= self.threshold, values[0], 0)
        return values[scores.argmax(0)]


def _parameter(name: str, title: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "displayName": title, "description": title, **more}
