"""Writers of the plain formats; see geoseg.exchange.FORMATS."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from geoseg.bundle import WEIGHTS, Bundle, CheckReport, check_sample
from geoseg.bundle.files import ITEM
from geoseg.errors import ModelError, OutputError
from geoseg.exchange import item
from geoseg.exchange.network import axes, example, whole
from geoseg.exchange.onnx_graph import graph_of, quiet, stored_in, to_bytes
from geoseg.runtime.graphs import scores_in
from geoseg.runtime.onnx_runtime import new_session, runtime_on
from geoseg.runtime.torch_runtime import golden_sample, network_of
from geoseg.spec import ModelSpec, Scaling

Function = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def bundle(source: Bundle, path: Path, tile: int | None) -> CheckReport:
    """The bundle with its graph in it: a zip where the path ends in .zip, else a folder."""
    raw = source.file(WEIGHTS)
    graph = to_bytes(
        graph_of(whole(network_of(source), source.spec), source.spec, stored=stored_in(raw))
    )
    report = proved(source, "onnx float32", ran(source.spec, graph, raw))
    source.with_graph(graph, path)
    return report


def onnx(source: Bundle, path: Path, tile: int | None) -> CheckReport:
    """Scaled pixels to probabilities, or to objects; height and width are free, or `tile` both, and
    so is the batch where it gives probabilities."""
    spec = source.spec
    model = graph_of(whole(network_of(source), spec), spec, size=tile)
    alone = {**source.item, "assets": {}}
    model.metadata_props.update({"stac_item": json.dumps(alone, ensure_ascii=False)})
    raw = to_bytes(model)
    report = proved(source, "onnx float32", ran(spec, raw), size=tile)
    path.write_bytes(raw)
    return report


def openvino(source: Bundle, path: Path, tile: int | None) -> CheckReport:
    """A folder with the same graph in OpenVINO's own format and the item; weights in 16 bits, or in
    32 where the model would not agree with its golden sample in 16."""
    from geoseg.runtime.openvino_runtime import Chain, core

    engine = core()
    spec = source.spec
    graph = to_bytes(graph_of(whole(network_of(source), spec), spec, size=tile))
    import openvino as ov

    path.mkdir()
    item.write(source, path / ITEM, tile)
    how = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_MMAP": False}  # files may be written again

    def written(*, half: bool) -> CheckReport:
        network = engine.read_model(model=graph)
        try:
            ov.save_model(network, path / "model.xml", compress_to_fp16=half)
        except RuntimeError as e:  # all that it says is "iostream error"
            raise OutputError(f"{path} cannot be written ({e}): is the disk full?") from e
        compiled = engine.compile_model(path / "model.xml", "CPU", how)
        function = _by_name(Chain([compiled]), spec)
        return proved(source, "openvino float32", function, size=tile)

    try:
        return written(half=True)
    except ModelError:  # statistics of normalizing layers suffer most
        return written(half=False)


def torchscript(source: Bundle, path: Path, tile: int | None) -> CheckReport:
    """torch.jit, traced: deprecated by torch, but what many tools still open. Of objects tracing
    takes numbers for the size of the picture, so it is `tile`, or the model's own, only."""
    spec = source.spec
    size = (tile or spec.tiling.size) if spec.finds_objects else None
    module = whole(network_of(source), spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DeprecationWarning, and all that tracing has to say
        with torch.no_grad():
            trace: Any = torch.jit.trace
            traced = trace(module, example(spec, size), check_trace=False)
        buffer = io.BytesIO()  # torch hides what a full disk says
        torch.jit.save(traced, buffer)
        path.write_bytes(buffer.getvalue())
        load: Any = torch.jit.load
        again = load(str(path))
    run = _with_torch(again, module.outputs)
    return proved(source, "torch float32 (torchscript)", _by_name(run, spec), size=size)


def pt2(source: Bundle, path: Path, tile: int | None) -> CheckReport:
    """torch.export's archive."""
    spec = source.spec
    module = whole(network_of(source), spec)
    try:
        with quiet():
            program = torch.export.export(
                module, (example(spec),), dynamic_shapes=(axes(spec),), strict=False
            )
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as e:
        why = str(e).strip().partition("\n")[0]
        raise ModelError(f"{spec.id}: torch cannot export it: {why}") from e
    if spec.finds_objects:
        _allow_few(program)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getvalue())
    run = _with_torch(torch.export.load(path).module(), module.outputs)
    return proved(source, "torch float32 (pt2)", _by_name(run, spec))


def _allow_few(program: torch.export.ExportedProgram) -> None:
    """torch.export asserts that of whatever is counted there are two or more; a picture may have
    one object, or none, and the operations do not mind."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


# --- proofs ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proof:
    """A written file as a runtime: (N, C, H, W) pixels -> probabilities."""

    description: str
    predict: Function


def proved(
    source: Bundle,
    description: str,
    function: Function,
    *,
    size: int | None = None,
    unscale: Scaling | None = None,
    tolerance: float | None = None,
) -> CheckReport:
    """How a written file reproduces the golden sample; a ModelError if it does not.

    size:    the only size it takes; the golden sample is cut to that, or mirrored until it is as
             large, and torch says what is right.
    unscale: golden samples come scaled; what is done to them before a file that scales by itself.
    tolerance: instead of the bundle's, for a format that cannot say all that the model does.
    """
    sample = source.sample()
    if size is not None and size != sample.input.shape[2]:
        image = _of_size(sample.input, size)
        right = golden_sample(source.spec, network_of(source), image, half=False)
        sample = replace(sample, input=image, scores=right.scores)
    if unscale is not None:
        sample = replace(sample, input=_unscaled(sample.input, unscale))
    if tolerance is not None:
        sample = replace(sample, tolerance={"float32": tolerance})
    report = check_sample(sample, Proof(description, function), source.spec.id)
    if not report.ok:
        raise ModelError(f"{report}: nothing was written")
    return report


def _of_size(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    image = image[:, :, :size, :size]
    missing = [(0, 0), (0, 0), *((0, size - n) for n in image.shape[2:])]
    return np.ascontiguousarray(np.pad(image, missing, "symmetric"))


def _unscaled(image: NDArray[np.float32], scaling: Scaling) -> NDArray[np.float32]:
    offset, scale = (
        np.array(values, np.float32)[:, None, None] for values in (scaling.offset, scaling.scale)
    )
    return image * scale + offset


def ran(spec: ModelSpec, raw: bytes, stored: bytes | None = None) -> Function:
    """A graph in ONNX Runtime, as others run it; objects are painted."""
    return runtime_on(new_session(raw, stored), spec).predict


def _by_name(run: Callable[[NDArray[np.float32]], Mapping[str, Any]], spec: ModelSpec) -> Function:
    """What gives outputs by name as what gives scores; objects are painted."""
    return lambda batch: scores_in(run(batch), spec, (batch.shape[2], batch.shape[3]))


def _with_torch(
    module: nn.Module, names: Sequence[str]
) -> Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]:
    """A module as a function that gives its outputs by name."""

    def run(batch: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            given = module(torch.from_numpy(batch))
        given = given if isinstance(given, tuple) else (given,)
        return {name: value.numpy() for name, value in zip(names, given, strict=True)}

    return run
