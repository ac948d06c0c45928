"""The OpenVINO runtime: a bundle's model.onnx on a CPU, and on Intel's GPUs and NPUs.

OpenVINO is fastest with graphs of one size, so a graph is compiled for each size of picture that
comes (tiles of a run have one). On a CPU two pictures go through at once.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoseg.bundle import GRAPH, WEIGHTS, Bundle
from geoseg.errors import GeosegError, MissingDependencyError, UsageError
from geoseg.predictions import Detections
from geoseg.runtime.cores import physical_cores
from geoseg.runtime.graphs import (
    disagreement,
    graph_of,
    objects_in,
    painted,
    too_little_memory,
)
from geoseg.spec import ModelSpec

if TYPE_CHECKING:
    import openvino

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
DEVICES = ("cpu", "gpu", "npu")
ENCODER = "encoder"  # see geoseg.exchange.onnx_graph
STREAMS = 2  # pictures at once on a CPU
KEPT = 2  # compiled graphs: that of the tiles, and one more

Outputs = dict[str, NDArray[Any]]  # of a graph, by name, in its order


@dataclass
class OpenVinoRuntime:
    """See geoseg.runtime.Runtime."""

    spec: ModelSpec
    folder: Folder
    device: str
    precision: str
    threads: int
    batch_size: int
    _compiled: dict[tuple[int, ...], list[Chain]] = field(default_factory=dict)

    @property
    def description(self) -> str:
        where = f"cpu ({self.threads} threads)" if self.device == "cpu" else self.device
        return f"openvino {self.precision} {where}"

    def predict(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        return np.concatenate([next(iter(each.values())) for each in self._run(batch)])

    def _run(self, batch: NDArray[np.float32]) -> list[Outputs]:
        """What the graph gives for each picture."""
        pictures = [np.ascontiguousarray(batch[i : i + 1]) for i in range(len(batch))]
        try:
            chains = self._chains(pictures[0].shape)
            if len(pictures) == 1 or len(chains) == 1:
                return [chains[0](one) for one in pictures]
            free: SimpleQueue[Chain] = SimpleQueue()
            for chain in chains:
                free.put(chain)
            with ThreadPoolExecutor(len(chains)) as pool:
                return list(pool.map(partial(_with_next, free), pictures))
        except RuntimeError as e:
            if any(word in str(e) for word in ("bad_alloc", "allocate", "out of memory")):
                raise too_little_memory(self.device, batch[:1]) from e
            why = str(e).strip().rpartition("\n")[2]
            raise GeosegError(f"{self.spec.id} fails in OpenVINO: {why}") from e

    def _chains(self, shape: tuple[int, ...]) -> list[Chain]:
        """As many as go through at once, compiled for pictures of that shape."""
        if shape not in self._compiled:
            while len(self._compiled) >= KEPT:
                del self._compiled[next(iter(self._compiled))]
            model = core().read_model(self.folder.path / GRAPH)
            model.reshape(list(shape))
            parts = split(model) if self.precision == "mixed" else [model]
            compiled = [
                core().compile_model(part, self.device.upper(), self._settings(precision))
                for part, precision in zip(parts, _parts(self.precision), strict=True)
            ]
            self._compiled[shape] = [Chain(compiled) for _ in range(self.batch_size)]
        return self._compiled[shape]

    def _settings(self, precision: str) -> dict[str, Any]:
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
        if self.device == "cpu":
            settings |= {
                "INFERENCE_NUM_THREADS": self.threads,
                "NUM_STREAMS": self.batch_size,
                "ENABLE_CPU_PINNING": False,  # our reader and writer need cores, too
            }
        return settings


class OpenVinoDetector(OpenVinoRuntime):
    """A network that finds objects; see geoseg.runtime.Detector."""

    def detect(self, batch: NDArray[np.float32], /) -> list[Detections]:
        """The objects of each picture, the surest first."""
        shape, every = (batch.shape[2], batch.shape[3]), self._run(batch)
        return [one for outputs in every for one in objects_in(outputs, self.spec, shape)]

    def predict(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """The objects painted, (N, K, H, W)."""
        return painted(self.detect(batch), self.spec, (batch.shape[2], batch.shape[3]))


class Folder:
    """The graph and its weights, checksums verified, for as long as this object lives: OpenVINO
    reads the weights when it compiles, and beside the graph."""

    def __init__(self, bundle: Bundle) -> None:
        graph, weights = graph_of(bundle)
        self.path = Path(tempfile.mkdtemp(prefix="geoseg-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        (self.path / GRAPH).write_bytes(graph)
        if weights is not None:
            (self.path / WEIGHTS).write_bytes(weights)


class Chain:
    """One picture at a time through one or more graphs, each fed by name with what came before."""

    def __init__(self, graphs: list[openvino.CompiledModel]) -> None:
        self._requests = [graph.create_infer_request() for graph in graphs]

    def __call__(self, picture: NDArray[np.float32]) -> Outputs:
        known: dict[str, Any] = {}
        for request in self._requests:
            graph = request.model_outputs
            inputs = {port: known.get(port.any_name, picture) for port in request.model_inputs}
            request.infer(inputs, share_inputs=True)
            known |= {port.any_name: request.get_tensor(port).data for port in graph}
        last = [(port.any_name, request.get_tensor(port)) for port in graph]
        return {name: np.array(tensor.data) for name, tensor in last}


def split(model: openvino.Model) -> list[openvino.Model]:
    """Encoder and decoder, cut where the graph's values are named 'encoder.N'; or no list."""
    import openvino as ov

    rest = model.clone()
    outputs = [o for o in _outputs(model) if _left_encoder(o)]
    inputs = []
    for output in [o for o in _outputs(rest) if _left_encoder(o)]:
        entrance = ov.op.Parameter(output.get_element_type(), output.get_partial_shape())
        entrance.output(0).set_names({output.any_name})
        for target in output.get_target_inputs():
            target.replace_source_output(entrance.output(0))
        inputs.append(entrance)
    own = [p for p in rest.get_parameters() if p.output(0).get_target_inputs()]
    decoder = ov.Model(rest.get_results(), [*own, *inputs], "decoder")
    used = [p for p in decoder.get_parameters() if p.output(0).get_target_inputs()]
    encoder = ov.Model(outputs, model.get_parameters(), "encoder")
    return [encoder, ov.Model(decoder.get_results(), used, "decoder")]


def _outputs(model: openvino.Model) -> list[Any]:
    return [out for op in model.get_ordered_ops() for out in op.outputs()]


def _left_encoder(output: Any) -> bool:
    return any(name.startswith(f"{ENCODER}.") and name[8:].isdigit() for name in output.get_names())


def _parts(precision: str) -> list[str]:
    return ["float32", "bfloat16"] if precision == "mixed" else [precision]


def _with_next(free: SimpleQueue[Chain], picture: NDArray[np.float32]) -> Outputs:
    chain = free.get()
    try:
        return chain(picture)
    finally:
        free.put(chain)


def load(
    bundle: Bundle,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
) -> OpenVinoRuntime:
    """The graph of a bundle in the fastest precision that agrees with its golden sample."""
    where, objects = find_device(device), bundle.spec.finds_objects
    if precision not in ("auto", "mixed", *PRECISIONS):
        raise UsageError(
            f"no precision is named {precision!r}; there are: auto, {', '.join(PRECISIONS)}"
        )
    if objects and precision not in ("auto", "float32"):
        raise UsageError(
            f"{bundle.spec.id} finds objects, whose boxes are numbers of pixels: the openvino "
            f"runtime computes them in float32, not in {precision}"
        )
    kind = OpenVinoDetector if objects else OpenVinoRuntime
    threads = threads or physical_cores()
    streams = batch_size or (STREAMS if where == "cpu" and threads > 1 else 1)
    folder = Folder(bundle)
    reports = []
    fast = ["float32"] if objects else _precisions(where)
    for name in fast if precision == "auto" else [precision]:
        runtime = kind(bundle.spec, folder, where, name, threads, streams)
        report = bundle.check(runtime)
        if report.ok:
            return runtime
        reports.append(report)
    raise disagreement(bundle, reports)


def core() -> openvino.Core:
    """OpenVINO's engine; a MissingDependencyError where it is not installed."""
    try:
        import openvino as ov
    except ImportError as e:
        raise MissingDependencyError("openvino", "openvino") from e
    return ov.Core()


def find_device(name: str) -> str:
    """cpu, gpu or npu; auto is the CPU, beside which Intel's GPUs are no faster by themselves."""
    there = [d.partition(".")[0].lower() for d in core().available_devices]
    where = "cpu" if name == "auto" else name
    if where not in DEVICES:
        raise UsageError(
            f"the openvino runtime knows no device {name!r}; there are: auto, {', '.join(DEVICES)}"
        )
    if where not in there:
        raise UsageError(f"the device {name!r} is not there, or OpenVINO cannot use it")
    return where


def _precisions(device: str) -> list[str]:
    """Those for which the device has instructions of its own, the fastest first."""
    able = core().get_property(device.upper(), "OPTIMIZATION_CAPABILITIES")
    fast = [name for name, word in (("bfloat16", "BF16"), ("float16", "FP16")) if word in able]
    return [*fast, *(["mixed"] if "bfloat16" in fast and device == "cpu" else []), "float32"]
