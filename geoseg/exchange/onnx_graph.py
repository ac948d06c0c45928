"""Networks as ONNX graphs, by torch's own exporter; weights inside, or in a safetensors file."""

from __future__ import annotations

import ast
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from geoseg.bundle import WEIGHTS
from geoseg.errors import MissingDependencyError, ModelError
from geoseg.exchange.network import Exportable, axes, example
from geoseg.runtime.graphs import INPUT
from geoseg.runtime.torch_network import ENCODER
from geoseg.spec import ModelSpec

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 18  # of ONNX Runtime 1.14 (2023) and later
_SMALL = 4096  # elements up to which a constant is computed when the graph is made


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that lies in a safetensors file: its values, and where they begin, in bytes."""

    values: NDArray[Any]
    offset: int


def stored_in(raw: bytes) -> dict[str, Stored]:
    """Tensors by name of a safetensors file: 8 bytes of length, a header in JSON, the values."""
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    values = safetensors.numpy.load(raw)
    return {
        name: Stored(values[name], 8 + length + about["data_offsets"][0])
        for name, about in header.items()
        if name != "__metadata__"
    }


def graph_of(
    network: Exportable,
    spec: ModelSpec,
    *,
    size: int | None = None,
    stored: Mapping[str, Stored] | None = None,
) -> ir.Model:
    """The network (see geoseg.exchange.network.whole) as an ONNX model.

    size:   the only size of pictures, one at a time; else batch, height and width are free.
    stored: tensors that are not put into the file, but looked for in weights.safetensors beside it.
    """
    need_onnx()
    import onnx_ir.passes.common as passes
    from onnxscript.optimizer import fold_constants

    model = _exported(network, spec, size)
    # Not torch's own optimization, which merges norms into convolutions: then the tensors would
    # not be those of the bundle. Whoever runs the graph does it when it is loaded.
    passes.InlinePass()(model)
    fold_constants(model, input_size_limit=16, output_size_limit=_SMALL)
    _name(model)
    for tidy in (
        passes.RemoveUnusedNodesPass(),
        passes.DeduplicateInitializersPass(_SMALL),
        passes.ClearMetadataAndDocStringPass(),
    ):
        tidy(model)
    for value in model.graph.initializers.values():  # which the last pass leaves as they are
        value.metadata_props.clear()
    if stored is not None:
        _point_into(model, stored)
    if spec.finds_objects:
        _of_any_number(model)
    model.producer_name = "geoseg"
    return model


def need_onnx() -> None:
    """A MissingDependencyError where the packages that write ONNX are not installed."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise MissingDependencyError("onnx or onnxscript", "export") from e


def _exported(network: Exportable, spec: ModelSpec, size: int | None) -> ir.Model:
    pixels, free = example(spec, size), axes(spec) if size is None else {}
    try:
        with quiet():
            program = torch.onnx.export(
                network,
                (pixels,),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(network.outputs),
                dynamic_shapes=(free,),
            )
    except _FAILURES as e:
        why = str(e).strip().partition("\n")[0]
        raise ModelError(f"{spec.id}: torch cannot export {spec.architecture}: {why}") from e
    if program is None:
        raise ModelError(f"{spec.id}: torch cannot export {spec.architecture}")
    shape = program.model.graph.inputs[0].shape
    if shape is None or any(isinstance(shape[axis], int) for axis in free):
        # As a network does that takes a size for a number: len(x) of a batch, for example.
        raise ModelError(
            f"{spec.id}: torch makes a graph of {spec.architecture} for pictures of one shape "
            "only; --to onnx --tile N may work"
        )
    return program.model


_FAILURES = (
    *(RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError, LookupError),
    *(torch.onnx.OnnxExporterError, AttributeError),
)


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter tells much of itself and of other packages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# --- names ----------------------------------------------------------------------------------

_SCOPES = "pkg.torch.onnx.name_scopes"  # where torch notes the modules around a node
_ENCODER = f"network.{ENCODER}"


def _name(model: ir.Model) -> None:
    """Nodes by the modules that they come from; what leaves the encoder is 'encoder.0' and so on.

    By these names a runtime can tell encoder and decoder apart, to compute them in precisions of
    their own.
    """
    import onnx_ir as ir

    scopes = {node: _scopes(node) for node in model.graph}
    inside = {node for node, names in scopes.items() if _ENCODER in names}
    left = 0
    for number, (node, names) in enumerate(scopes.items()):
        if len(names) > 1:
            node.name = f"{names[-2].removeprefix('network.')}/{node.op_type}.{number}"
        for value in node.outputs if node in inside else ():
            users = {use.node for use in value.uses() if use.node.op_type != "Shape"}
            if value.dtype == ir.DataType.FLOAT and not users <= inside:
                value.name = f"{ENCODER}.{left}"
                left += 1


def _of_any_number(model: ir.Model) -> None:
    """How many objects there are is a formula of the picture's size, of half a kilobyte at each
    value that it concerns: outputs say 'objects', the others nothing."""
    import onnx_ir as ir

    for value in (value for node in model.graph for value in node.outputs):
        if value not in model.graph.outputs:
            value.shape = value.type = None
        elif value.shape is not None and not isinstance(value.shape[0], int):
            value.shape = ir.Shape(["objects", *value.shape[1:]])


def _scopes(node: ir.Node) -> list[str]:
    names: list[str] = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    return names


# --- weights that lie elsewhere -------------------------------------------------------------


def _point_into(model: ir.Model, stored: Mapping[str, Stored]) -> None:
    """Take out the initializers that the file has; halves are widened by a Cast in the graph."""
    import onnx_ir as ir

    graph = model.graph
    kinds = {np.dtype("f2"): ir.DataType.FLOAT16, np.dtype("f4"): ir.DataType.FLOAT}
    casts = []
    for name, value in list(graph.initializers.items()):
        known = stored.get(name.removeprefix("network."))
        if known is None or known.values.dtype not in kinds or value.const_value is None:
            continue
        if not np.array_equal(value.const_value.numpy(), known.values):
            continue
        shape, kind = ir.Shape(known.values.shape), kinds[known.values.dtype]
        there = ir.ExternalTensor(
            WEIGHTS, known.offset, known.values.nbytes, kind, shape=shape, name=name
        )
        if kind == ir.DataType.FLOAT:
            value.const_value = there
            continue
        half = ir.Value(
            name=f"{name}:half",
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=shape,
            const_value=there,
        )
        cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT})
        cast.outputs[0].name = f"{name}:wide"
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[name]
        graph.register_initializer(half)
        casts.append(cast)
    if casts:
        graph.insert_before(graph[0], casts)


def to_bytes(model: ir.Model) -> bytes:
    """The content of a .onnx file."""
    import onnx_ir as ir

    raw: bytes = ir.to_proto(model).SerializeToString()
    return raw
