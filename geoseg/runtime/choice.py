"""Which runtime runs a model, where nobody has said: the fastest on this machine that agrees.

What is installed and can run the model is timed on its golden sample, once; the winner's name is
remembered per model, machine and versions. Every runtime holds itself against the golden sample
when it is loaded, so one that does not agree never gets here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.bundle import GRAPH, WEIGHTS, Bundle
from geoseg.errors import GeosegError, MissingDependencyError, NeedsTorchError
from geoseg.runtime.remembered import recall, remember

if TYPE_CHECKING:
    from geoseg.runtime import Runtime

# Runtime -> the module that it needs, the file of a bundle that it runs, and the module to load.
CANDIDATES = {
    "torch": ("torch", WEIGHTS, "geoseg.runtime.torch_runtime"),
    "openvino": ("openvino", GRAPH, "geoseg.runtime.openvino_runtime"),
    "onnx": ("onnxruntime", GRAPH, "geoseg.runtime.onnx_runtime"),
}
_ROUNDS = 3
_PATIENCE = 1.0  # seconds that timing may take, all together


def candidates(bundle: Bundle) -> list[str]:
    """Runtimes that are installed and can run what the bundle holds."""
    return [
        name
        for name, (package, file, _) in CANDIDATES.items()
        if bundle.has(file) and importlib.util.find_spec(package) is not None
    ]


def fastest(bundle: Bundle, **options: Any) -> Runtime:
    """The bundle's network in the runtime that is fastest here; `options` as those of its load."""
    names = candidates(bundle)
    if not names:
        raise _nothing(bundle)
    if len(names) == 1:
        return _load(names[0], bundle, options)
    key = _key(bundle, names, options)
    if (known := recall(key)) in names:
        try:
            return _load(known, bundle, options)
        except GeosegError:  # a device that has gone: measure again
            names.remove(known)
    loaded, failures = {}, []
    for name in names:
        try:
            loaded[name] = _load(name, bundle, options)
        except GeosegError as e:
            failures.append(e)
    if not loaded:
        raise failures[0]
    winner = _shortest(loaded, bundle)
    remember(key, winner)
    return loaded[winner]


def _load(name: str, bundle: Bundle, options: dict[str, Any]) -> Runtime:
    module = importlib.import_module(CANDIDATES[name][2])
    runtime: Runtime = module.load(bundle, **options)
    return runtime


def _shortest(loaded: dict[str, Runtime], bundle: Bundle) -> str:
    """The one with the shortest pass per picture; in turns, as a machine is not always as quick."""
    image = bundle.sample().input
    times = {name: float("inf") for name in loaded}
    started = time.perf_counter()
    for round_ in range(1 + _ROUNDS):
        for name, runtime in loaded.items():
            batch = np.repeat(image, runtime.batch_size, axis=0)
            before = time.perf_counter()
            runtime.predict(batch)
            if round_:  # the first time is for getting warm
                taken = (time.perf_counter() - before) / len(batch)
                times[name] = min(times[name], taken)
        if round_ and time.perf_counter() - started > _PATIENCE:
            break
    return min(times, key=times.__getitem__)


def _key(bundle: Bundle, names: list[str], options: dict[str, Any]) -> str:
    """All that the winner depends on."""
    versions = " ".join(f"{name} {_version(CANDIDATES[name][0])}" for name in names)
    machine = f"{platform.node()} {platform.machine()} {os.cpu_count()}"
    asked = " ".join(f"{k}={v}" for k, v in sorted(options.items()))
    return f"{bundle.checksum} fastest of {versions} {machine} {asked}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # onnxruntime-gpu and others have names of their own
        return str(importlib.import_module(package).__version__)


def _nothing(bundle: Bundle) -> GeosegError:
    if bundle.has(GRAPH):
        return MissingDependencyError("onnxruntime", "onnx")
    export = f"; or, on a machine with torch, geoseg model export {bundle.spec.name} --to bundle"
    return NeedsTorchError(
        f"{bundle.path}: it has no {GRAPH}, so it",
        otherwise=export,
    )
