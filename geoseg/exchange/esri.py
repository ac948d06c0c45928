"""Esri's deep learning package (.dlpk): a zip of a model definition (.emd), the network as ONNX,
and the Python raster function that ArcGIS calls for each block of pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from geoseg.bundle import Bundle, CheckReport
from geoseg.bundle.files import write_zip
from geoseg.exchange.files import proved, ran
from geoseg.exchange.network import Scaled, whole
from geoseg.exchange.onnx_graph import graph_of, to_bytes
from geoseg.runtime.torch_runtime import network_of
from geoseg.spec import ModelSpec

FUNCTIONS = Path(__file__).with_name("raster_functions.py")


def write(source: Bundle, path: Path, tile: int | None) -> CheckReport:
    """A .dlpk file; `tile` is the edge of its pictures, which come as they are in the raster."""
    spec, size = source.spec, tile or source.spec.tiling.size
    network = Scaled(whole(network_of(source), spec), spec.scaling)
    raw = to_bytes(graph_of(network, spec, size=size))
    report = proved(source, "onnx float32", ran(spec, raw), size=size, unscale=spec.scaling)
    contents = {
        f"{spec.name}.emd": (json.dumps(definition(spec, size), indent=2) + "\n").encode(),
        f"{spec.name}.onnx": raw,
        _function(spec): FUNCTIONS.read_bytes(),
        "README.md": source.card.encode(),
    }
    write_zip(path, contents)
    return report


def definition(spec: ModelSpec, size: int) -> dict[str, Any]:
    """The .emd: bands by number from 0, cell sizes in metres, colours as three numbers."""
    return {
        "Framework": "ONNX",
        "ModelConfiguration": "geoseg",
        "ModelName": spec.name,
        "Version": spec.version,
        "ModelType": "ObjectDetection" if spec.finds_objects else "ImageClassification",
        "ModelFile": f"{spec.name}.onnx",
        "InferenceFunction": _function(spec),
        "Description": spec.description or spec.name,
        "ImageHeight": size,
        "ImageWidth": size,
        "ExtractBands": list(range(len(spec.bands))),
        "Bands": [b.name for b in spec.bands],
        "DataRange": list(spec.value_range),
        "BatchSize": 1,
        "Padding": min(spec.tiling.overlap // 2, size // 4),  # tiles may be smaller than was meant
        "MinCellSize": {"x": spec.gsd / 2, "y": spec.gsd / 2},
        "MaxCellSize": {"x": spec.gsd * 2, "y": spec.gsd * 2},
        "CellSize": spec.gsd,
        "IsMultispectral": len(spec.bands) != 3,
        "Threshold": spec.threshold,
        "Classes": [
            {
                "Value": c.id,
                "Name": c.name,
                "Color": [int(c.color[i : i + 2], 16) for i in (1, 3, 5)],
            }
            for c in spec.classes
        ],
    }


def _function(spec: ModelSpec) -> str:
    """ArcGIS looks for a class by the name of its file."""
    return "GeosegDetector.py" if spec.finds_objects else "GeosegClassifier.py"
