"""Foreign ONNX graphs as a bundle's model.onnx: (N, C, H, W) float32 in, probabilities out.

Nothing of the network is changed: nodes are put before and after it. Channels that come last are
moved, other types converted, the activation that is left to the caller is done, and numbers of
classes become a probability of 1 for that class.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import MissingDependencyError, ModelError

if TYPE_CHECKING:
    import onnx

MOST_BYTES = 2 << 30  # that a file of protocol buffers can hold
_SQUEEZE_BY_INPUT = 13  # opset from which it is told by an input which axis goes
_SOFTMAX_BY_AXIS = 13  # opset from which it is along one axis; earlier along all that follow


@dataclass(frozen=True, slots=True)
class Network:
    """What a graph says of itself; None where a size is free.

    size: edge of the only picture that it takes. outputs: name -> shape, or None.
    """

    proto: onnx.ModelProto
    channels: int | None
    channels_last: bool | None
    size: int | None
    outputs: dict[str, list[int | None] | None]

    @property
    def metadata(self) -> dict[str, str]:
        return {p.key: p.value for p in self.proto.metadata_props}

    @property
    def parameters(self) -> int:
        """Floating-point numbers among its constants."""
        floats = (1, 10, 11, 16)  # float32, float16, float64, bfloat16
        tensors = self.proto.graph.initializer
        return sum(_product(t.dims) for t in tensors if t.data_type in floats)


def read_graph(path: Path) -> Network:
    """The graph in an ONNX file, with the weights that may lie in files beside it."""
    onnx = need_onnx()
    try:
        proto = _sorted(onnx.load(path))
        onnx.checker.check_model(proto)
    except Exception as e:  # google.protobuf's, onnx's and the system's have no common base
        raise ModelError(f"{path}: no intact ONNX file ({_first_line(e)})") from e
    if proto.ByteSize() > MOST_BYTES:
        raise ModelError(f"{path}: refused, it is larger than {MOST_BYTES >> 30} GiB")
    return describe(proto, path)


def _sorted(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Nodes after those that they read from, as the format has it: ONNX Runtime's converter to
    float16, which Ultralytics calls for half=True, puts its own last."""
    known = {t.name for t in (*proto.graph.input, *proto.graph.initializer)}
    for node in proto.graph.node:
        if not known.issuperset(filter(None, node.input)):
            break
        known.update(node.output)
    else:
        return proto
    import onnx_ir as ir

    model = ir.from_proto(proto)
    model.graph.sort()
    return ir.to_proto(model)


def describe(proto: onnx.ModelProto, path: Path) -> Network:
    """What can be read from the graph's input and outputs."""
    constants = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs)
        raise ModelError(f"{path}: its network wants {len(inputs)} inputs ({names}), not a picture")
    shape = _shape(inputs[0])
    if shape is None or len(shape) != 4:
        raise ModelError(f"{path}: its network's input has {shape} axes, a picture has 4")
    if shape[0] not in (None, 1):
        raise ModelError(
            f"{path}: its network takes {shape[0]} pictures at once only: export it with a batch "
            "of one, or of any number"
        )
    last = _channels_last(shape)
    channels, edges = (shape[3], shape[1:3]) if last else (shape[1], shape[2:])
    if edges[0] != edges[1]:
        raise ModelError(
            f"{path}: its network takes pictures of {edges[0]} x {edges[1]} pixels only, geoseg's "
            "tiles are square: export it anew for square ones"
        )
    outputs = {o.name: _shape(o) for o in proto.graph.output}
    return Network(proto, channels, last, edges[0], outputs)


def adapted(
    network: Network, *, classes: int, activation: str, output: str, numbers: bool, last: bool
) -> bytes:
    """The graph of a bundle.

    activation: softmax, sigmoid or none. output: the one that is meant. numbers: it gives the
    number of a class per pixel, not a score for each. last: channels come last.
    """
    onnx = need_onnx()
    model = onnx.ModelProto()
    model.CopyFrom(network.proto)
    del model.metadata_props[:]
    graph = model.graph
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    _prepend(graph, last)
    scores = next(o for o in graph.output if o.name == output)
    taken = {name for node in graph.node for name in node.output}  # of a graph that was here before
    nodes = _Chain(onnx.helper, output, taken)
    if numbers:
        _one_hot(nodes, graph, scores, classes, version)
    else:
        if last:
            nodes.add("Transpose", perm=[0, 3, 1, 2])
        nodes.add("Cast", to=onnx.TensorProto.FLOAT)
        if activation == "sigmoid":
            nodes.add("Sigmoid")
        elif activation == "softmax" and version >= _SOFTMAX_BY_AXIS:
            nodes.add("Softmax", axis=1)
        elif activation == "softmax":
            nodes.add("Transpose", perm=[0, 2, 3, 1])
            nodes.add("Softmax", axis=3)
            nodes.add("Transpose", perm=[0, 3, 1, 2])
    graph.node.extend(nodes.nodes)
    shape = ["batch", classes, "rows", "cols"]
    del graph.output[:]
    graph.output.append(
        onnx.helper.make_tensor_value_info(nodes.name, onnx.TensorProto.FLOAT, shape)
    )
    raw: bytes = model.SerializeToString()
    return raw


def with_plain_input(network: Network, *, last: bool) -> bytes:
    """The graph of a bundle that finds objects: what it gives stays as it is.

    One picture at a time, though more may seem to be allowed: a graph that sorts out boxes does it
    for as many pictures as it was made with, and says nothing of the others.
    """
    model = need_onnx().ModelProto()
    model.CopyFrom(network.proto)
    del model.metadata_props[:]
    _picture(model.graph).type.tensor_type.shape.dim[0].dim_value = 1
    _prepend(model.graph, last)
    raw: bytes = model.SerializeToString()
    return raw


class _Chain:
    """Nodes one after the other, from the output `name` on."""

    def __init__(self, helper: Any, name: str, taken: Collection[str] = ()) -> None:
        self._helper, self.name, self.nodes = helper, name, list[Any]()
        self._taken = taken

    def add(self, kind: str, *more: str, **attributes: Any) -> None:
        following = f"geoseg_{kind}_{len(self.nodes)}"
        while following in self._taken:
            following += "_"
        given = [self.name, *more]
        self.nodes.append(self._helper.make_node(kind, given, [following], **attributes))
        self.name = following


def _prepend(graph: Any, last: bool) -> None:
    """float32 pictures with channels first, whatever the network takes."""
    onnx, picture = need_onnx(), _picture(graph)
    kind = picture.type.tensor_type.elem_type
    chain = _Chain(onnx.helper, "geoseg_pixels")
    if last:
        chain.add("Transpose", perm=[0, 2, 3, 1])
    if kind != onnx.TensorProto.FLOAT:
        chain.add("Cast", to=kind)
    if not chain.nodes:
        return
    for node in chain.nodes:  # the last of them gives what the network's first node looks for
        node.output[:] = [f"{name}_in" for name in node.output]
        node.input[:] = [n if n == "geoseg_pixels" else f"{n}_in" for n in node.input]
    chain.nodes[-1].output[:] = [picture.name]
    count, *sizes = picture.type.tensor_type.shape.dim
    dims = [count.dim_value or "batch", *(_dim(d) for d in sizes)]  # one picture stays one
    if last:
        dims = [dims[0], dims[3], dims[1], dims[2]]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*chain.nodes, *rest])
    graph.input.remove(picture)
    graph.input.append(
        onnx.helper.make_tensor_value_info("geoseg_pixels", onnx.TensorProto.FLOAT, dims)
    )


def _picture(graph: Any) -> Any:
    """The input that is no constant."""
    constants = {t.name for t in graph.initializer}
    return next(i for i in graph.input if i.name not in constants)


def _one_hot(nodes: _Chain, graph: Any, scores: Any, classes: int, version: int) -> None:
    """(N, H, W) or (N, 1, H, W) numbers -> (N, K, H, W) ones and zeros."""
    onnx = need_onnx()
    helper, int64, float32 = onnx.helper, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    graph.initializer.append(helper.make_tensor("geoseg_depth", int64, [1], [classes]))
    graph.initializer.append(helper.make_tensor("geoseg_values", float32, [2], [0.0, 1.0]))
    shape = _shape(scores)
    if shape is not None and len(shape) == 4:
        if version < _SQUEEZE_BY_INPUT:
            nodes.add("Squeeze", axes=[1])
        else:
            graph.initializer.append(helper.make_tensor("geoseg_axis", int64, [1], [1]))
            nodes.add("Squeeze", "geoseg_axis")
    nodes.add("Cast", to=int64)
    nodes.add("OneHot", "geoseg_depth", "geoseg_values", axis=1)


def _channels_last(shape: Sequence[int | None]) -> bool | None:
    """By sizes: channels are few. None: they do not tell."""
    first, last = shape[1], shape[3]
    if first is not None and (last is None or last > first):
        return False
    if last is not None and (first is None or first > last):
        return True
    return None if first is None else False


def _shape(value: Any) -> list[int | None] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
        for d in tensor.shape.dim
    ]


def _dim(dimension: Any) -> int | str:
    return dimension.dim_value if dimension.dim_value > 0 else dimension.dim_param or "free"


def _product(dims: Sequence[int]) -> int:
    total = 1
    for d in dims:
        total *= d
    return total


def need_onnx() -> Any:
    """The package onnx, or a MissingDependencyError."""
    try:
        import onnx
        import onnx.checker
    except ImportError as e:
        raise MissingDependencyError("onnx", "export") from e
    return onnx


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
