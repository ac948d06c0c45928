"""Models for other tools: what a bundle holds in the formats that they read.

A format is a row of FORMATS: the suffix of its files, and the function that writes one. What is
written is run on the bundle's golden sample first, with the tool that others would run it with
where that is installed; what differs by more than the bundle's tolerance is not written.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geoseg.bundle import GRAPH, WEIGHTS, Bundle, CheckReport
from geoseg.bundle.files import installing
from geoseg.errors import ModelError, OutputError, UsageError, need_torch
from geoseg.registry import find


@dataclass(frozen=True, slots=True)
class Format:
    """suffix: of its files ('' for a folder or zip). writer: 'module:function', called as
    (bundle, path, tile) -> how the file reproduces the golden sample, or None where it holds no
    network. about: one line for the help."""

    suffix: str
    writer: str
    about: str


FORMATS = {
    "bundle": Format("", "geoseg.exchange.files:bundle", "with an ONNX graph: runs without torch"),
    "onnx": Format(".onnx", "geoseg.exchange.files:onnx", "ONNX of scaled pixels"),
    "deepness": Format(".onnx", "geoseg.exchange.deepness:write", "ONNX for QGIS' Deepness"),
    "emd": Format(".dlpk", "geoseg.exchange.esri:write", "Esri package: .emd, ONNX, function"),
    "openvino": Format("", "geoseg.exchange.files:openvino", "folder of .xml and .bin"),
    "torchscript": Format(".pt", "geoseg.exchange.files:torchscript", "torch.jit"),
    "pt2": Format(".pt2", "geoseg.exchange.files:pt2", "torch.export"),
    "mlm": Format(".json", "geoseg.exchange.item:write", "the STAC MLM item alone"),
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how it reproduces the golden sample."""

    path: Path
    format: str
    report: CheckReport | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}


def export(
    model: str | Path,
    to: str,
    output: str | Path,
    *,
    tile: int | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model (name, folder or zip) to `output` in the format `to`, one of FORMATS.

    tile: edge of the pictures, in pixels, of formats that know one size only; the model's own when
    not given. Raises a ModelError where the network cannot be exported, or where the file does not
    reproduce the golden sample; then nothing is written.
    """
    if to not in FORMATS:
        raise UsageError(f"no format is named {to!r}; there are: {', '.join(FORMATS)}")
    form, path, bundle = FORMATS[to], Path(output).expanduser(), Bundle.open(find(model))
    if form.suffix and path.suffix.lower() != form.suffix:
        raise UsageError(f"{path}: the name of a {to} file ends in {form.suffix}")
    if to != "mlm" and not bundle.has(WEIGHTS):
        raise ModelError(
            f"{bundle.spec.id} is an ONNX graph and no network of geoseg's, so it is not exported: "
            f"other tools open {bundle.path / GRAPH} itself"
        )
    stride = bundle.spec.tiling.stride
    if tile is not None and (tile < 1 or tile % stride):
        raise UsageError(f"tile: {tile} pixels are no multiple of the model's stride {stride}")
    if to != "mlm":
        need_torch("geoseg model export", "export")
    module, _, name = form.writer.partition(":")
    writer = getattr(importlib.import_module(module), name)
    with installing(path, overwrite=overwrite) as partial:
        try:
            report = writer(bundle, partial, tile)
        except OutputError as e:  # where it would lie is what the user knows
            raise OutputError(str(e).replace(str(partial), str(path))) from e
        except (MemoryError, RuntimeError) as e:
            from geoseg.runtime.torch_network import out_of_memory

            if not out_of_memory(e):
                raise
            size = tile or bundle.spec.tiling.size
            raise ModelError(
                f"{bundle.spec.id}: too little memory for a picture of {size} x {size} pixels: "
                "take smaller tiles (--tile)"
            ) from e
    return Exported(path, to, report)
