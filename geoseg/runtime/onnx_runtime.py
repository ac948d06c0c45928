"""The ONNX runtime: a bundle's model.onnx by ONNX Runtime, without torch.

Which processors it can use depends on the package that is installed: onnxruntime (CPU; on macOS
CoreML as well), onnxruntime-gpu (CUDA, TensorRT), onnxruntime-directml (any GPU on Windows).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoseg.bundle import GRAPH, WEIGHTS, Bundle
from geoseg.errors import GeosegError, MissingDependencyError, ModelError, UsageError
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
    import onnxruntime

# Device -> ONNX Runtime's provider of it, the preferred first. TensorRT builds an engine for
# minutes, so it has to be asked for by name.
PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "cpu": "CPUExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_ASKED_FOR = "tensorrt"
PRECISION = "geoseg:precision"  # metadata of a graph in 8 bits


@dataclass
class OnnxRuntime:
    """See geoseg.runtime.Runtime."""

    spec: ModelSpec
    session: onnxruntime.InferenceSession
    device: str
    threads: int
    batch_size: int = 1

    @property
    def description(self) -> str:
        where = f"cpu ({self.threads} threads)" if self.device == "cpu" else self.device
        about = self.session.get_modelmeta().custom_metadata_map
        return f"onnx {about.get(PRECISION, 'float32')} {where}"

    def predict(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        parts = []
        for first in range(0, len(batch), self.batch_size):
            part = np.ascontiguousarray(batch[first : first + self.batch_size])
            parts.append(np.asarray(next(iter(self._run(part).values())), np.float32))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, part: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The outputs by name, in the graph's order."""
        names = [output.name for output in self.session.get_outputs()]
        try:
            outputs = self.session.run(names, {self.session.get_inputs()[0].name: part})
        except _failures() as e:
            if any(word in str(e) for word in ("bad_alloc", "allocate", "out of memory")):
                raise too_little_memory(self.device, part) from e
            raise GeosegError(f"{self.spec.id} fails in ONNX Runtime: {_first_line(e)}") from e
        return dict(zip(names, outputs, strict=True))


class OnnxDetector(OnnxRuntime):
    """A network that finds objects; see geoseg.runtime.Detector."""

    def detect(self, batch: NDArray[np.float32], /) -> list[Detections]:
        """The objects of each picture, the surest first."""
        shape, found = (batch.shape[2], batch.shape[3]), list[Detections]()
        for first in range(0, len(batch), self.batch_size):
            part = np.ascontiguousarray(batch[first : first + self.batch_size])
            found += objects_in(self._run(part), self.spec, shape)
        return found

    def predict(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """The objects painted, (N, K, H, W)."""
        return painted(self.detect(batch), self.spec, (batch.shape[2], batch.shape[3]))


def load(
    bundle: Bundle,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
) -> OnnxRuntime:
    """The graph of a bundle on the first of the device's providers that agrees with its golden
    sample."""
    if precision not in ("auto", "float32"):
        raise UsageError(
            f"the onnx runtime computes as the graph says, in float32: no precision {precision!r}"
        )
    raw, stored = graph_of(bundle)
    threads = threads or physical_cores()
    names = devices_for(device)
    reports = []
    for name in names:
        number = int(device.partition(":")[2] or 0)
        try:
            session = new_session(
                raw, stored, provider=PROVIDERS[name], number=number, threads=threads
            )
        except _failures() as e:
            if name != names[-1]:  # a package for GPUs on a machine without its libraries
                continue
            raise ModelError(f"{bundle.path}: {GRAPH} cannot be run: {_first_line(e)}") from e
        runtime = runtime_on(session, bundle.spec, name, threads, batch_size)
        report = bundle.check(runtime)
        if report.ok:
            return runtime
        reports.append(report)
    raise disagreement(bundle, reports)


def runtime_on(
    session: onnxruntime.InferenceSession,
    spec: ModelSpec,
    device: str = "cpu",
    threads: int = 1,
    batch_size: int | None = None,
) -> OnnxRuntime:
    """The runtime of the model's kind; its batch size is 1 where the graph takes one picture."""
    kind = OnnxDetector if spec.finds_objects else OnnxRuntime
    alone = session.get_inputs()[0].shape[0] == 1
    return kind(spec, session, device, threads, 1 if alone else batch_size or 1)


def devices_for(device: str) -> list[str]:
    """Devices to be tried; what is not there is a UsageError."""
    ort = _onnxruntime()
    there = [name for name, p in PROVIDERS.items() if p in ort.get_available_providers()]
    if device == "auto":
        return [name for name in there if name != _ASKED_FOR]
    kind, _, number = device.partition(":")
    if kind not in PROVIDERS or (number and not number.isdigit()):
        raise UsageError(
            f"the onnx runtime knows no device {device!r}; there are: auto, {', '.join(PROVIDERS)}"
        )
    if kind not in there:
        raise UsageError(
            f"the device {device!r} is not among those of this onnxruntime ({', '.join(there)})"
        )
    return [kind]


def new_session(
    raw: bytes,
    stored: bytes | None = None,
    *,
    provider: str = PROVIDERS["cpu"],
    number: int = 0,
    threads: int = 1,
) -> onnxruntime.InferenceSession:
    """A graph ready to run; `stored` is the safetensors file that it points into."""
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Waiting threads would take the cores from our reader and writer.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if stored is not None:
        options.add_external_initializers_from_files_in_memory([WEIGHTS], [stored], [len(stored)])
    given: list[Any] = [(provider, {"device_id": number})] if _has_devices(provider) else [provider]
    if provider != PROVIDERS["cpu"]:  # for what the provider cannot do
        given.append(PROVIDERS["cpu"])
    session = ort.InferenceSession(raw, options, providers=given)
    if provider not in session.get_providers():
        raise RuntimeError(f"{provider} does not start on this machine")
    return session


def _has_devices(provider: str) -> bool:
    return provider in (PROVIDERS["cuda"], PROVIDERS["tensorrt"], PROVIDERS["directml"])


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as e:
        raise MissingDependencyError("onnxruntime", "onnx") from e
    return onnxruntime


def _failures() -> tuple[type[BaseException], ...]:
    """What a session raises; its errors have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        *("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "RuntimeException"),
        *("NotImplemented", "NoSuchFile", "NoModel", "ModelLoaded", "EPFail", "EngineError"),
    )
    known = [getattr(state, name) for name in names if hasattr(state, name)]
    return (*known, RuntimeError, ValueError, MemoryError)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
