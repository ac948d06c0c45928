"""The OpenVINO runtime: a bundle's model.onnx on a CPU, and on Intel's GPUs and NPUs.

OpenVINO is fastest with graphs of one size, so a graph is compiled for each size of batch that comes
(tiles of a run have one). On a CPU several pictures at once take a stream of the cores each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoseg.bundle import GRAPH, WEIGHTS, Bundle
from geoseg.errors import GeosegError, MissingDependencyError, UsageError
from geoseg.runtime.cores import physical_cores
from geoseg.runtime.graphs import disagreement, graph_of, too_little_memory
from geoseg.spec import ModelSpec

if TYPE_CHECKING:
    import openvino

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
DEVICES = ("cpu", "gpu", "npu")
KEPT = 2  # compiled graphs: that of the tiles, and one more


@dataclass
class OpenVinoRuntime:
    """See geoseg.runtime.Runtime."""

    spec: ModelSpec
    folder: tempfile.TemporaryDirectory[str]  # of the graph, whose weights are read late
    device: str
    precision: str
    threads: int
    batch_size: int
    _compiled: dict[tuple[int, ...], Any] = field(default_factory=dict)

    @property
    def description(self) -> str:
        where = f"cpu ({self.threads} threads)" if self.device == "cpu" else self.device
        return f"openvino {self.precision} {where}"

    def predict(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        try:
            queue = self._queue((1, *batch.shape[1:]))
            out: list[NDArray[np.float32] | None] = [None] * len(batch)

            def done(request: Any, index: int) -> None:
                out[index] = request.get_output_tensor(0).data.astype(np.float32)

            queue.set_callback(done)
            for index in range(len(batch)):
                queue.start_async({0: np.ascontiguousarray(batch[index : index + 1])}, index)
            queue.wait_all()
        except RuntimeError as e:
            if any(word in str(e) for word in ("bad_alloc", "allocate", "out of memory")):
                raise too_little_memory(self.device, batch[:1]) from e
            why = str(e).strip().rpartition("\n")[2]
            raise GeosegError(f"{self.spec.id} fails in OpenVINO: {why}") from e
        return np.concatenate([one for one in out if one is not None])

    def _queue(self, shape: tuple[int, ...]) -> Any:
        """Requests of the graph compiled for pictures of that shape."""
        if shape not in self._compiled:
            import openvino as ov

            while len(self._compiled) >= KEPT:
                del self._compiled[next(iter(self._compiled))]
            model = core().read_model(Path(self.folder.name) / GRAPH)
            model.reshape(list(shape))
            compiled = core().compile_model(model, self.device.upper(), self._settings())
            self._compiled[shape] = ov.AsyncInferQueue(compiled, self.batch_size)
        return self._compiled[shape]

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISIONS[self.precision]}
        if self.device == "cpu":
            settings |= {
                "INFERENCE_NUM_THREADS": self.threads,
                "NUM_STREAMS": self.batch_size,
                "ENABLE_CPU_PINNING": False,  # our reader and writer need cores, too
            }
        return settings


def load(
    bundle: Bundle,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
) -> OpenVinoRuntime:
    """The graph of a bundle in the fastest precision that agrees with its golden sample."""
    where = find_device(device)
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(
            f"no precision is named {precision!r}; there are: auto, {', '.join(PRECISIONS)}"
        )
    threads = threads or physical_cores()
    streams = batch_size or (threads if where == "cpu" else 1)
    folder = _unpacked(bundle)
    reports = []
    for name in _precisions(where) if precision == "auto" else [precision]:
        runtime = OpenVinoRuntime(bundle.spec, folder, where, name, threads, streams)
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


def first_output(compiled: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A compiled graph as a function."""
    return lambda batch: np.asarray(compiled(batch)[0])


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
    return [*fast, "float32"]


def _unpacked(bundle: Bundle) -> tempfile.TemporaryDirectory[str]:
    """A folder of our own with the graph and its weights, checksums verified."""
    graph, weights = graph_of(bundle)
    folder = tempfile.TemporaryDirectory(prefix="geoseg-", ignore_cleanup_errors=True)
    (Path(folder.name) / GRAPH).write_bytes(graph)
    if weights is not None:
        (Path(folder.name) / WEIGHTS).write_bytes(weights)
    return folder
