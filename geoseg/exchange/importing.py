"""Models of other tools as bundles: geoseg model import.

What the file says of itself and what a YAML says beside it become the contract; the network becomes
model.onnx, or weights of one of geoseg's architectures. Then it is run on a real picture: what does
not run, gives other shapes, or no probabilities, is refused, and nothing is kept.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.bundle import Bundle, Sample, card
from geoseg.bundle.files import ITEM
from geoseg.errors import ConfigError, MissingDependencyError, ModelError
from geoseg.exchange.adapt import Network, adapted, describe, need_onnx, with_plain_input
from geoseg.exchange.chip import real_chip
from geoseg.exchange.contract import Contract, read_contract, spec_of
from geoseg.exchange.found import Found, find
from geoseg.registry import add_model
from geoseg.spec import ModelSpec, bad_name

ARCHITECTURE = "onnx"  # of models that are a graph and nothing else
Making = Callable[
    [Path, Found, Contract, Path | None, Path], tuple[Path, NDArray[np.float32], ModelSpec]
]
_SUM = 1e-3  # by which probabilities may miss 1


@dataclass(frozen=True, slots=True)
class Imported:
    """Where the bundle lies, what it was made of, and what it saw on the picture that it was tried
    on: class name -> share of the pixels; None for a bundle, which was added as it is."""

    path: Path
    kind: str
    shares: dict[str, float] | None

    def __str__(self) -> str:
        if self.shares is None:
            return f"{self.path}"
        seen = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        return f"{self.kind}; on a real picture: {seen}\n{self.path}"


def import_model(
    file: str | Path,
    *,
    contract: str | Path | None = None,
    sample: str | Path | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> Imported:
    """Make a bundle of a model of another tool, and keep it in the user's folder.

    `file` is ONNX (plain, or with Deepness' metadata), Esri's .emd or .dlpk, a STAC MLM Item, a
    checkpoint or TorchScript of torch; a bundle is added as it is. `contract` is a YAML with what
    the file does not say, that of the same name beside it when not given. `sample` is a raster on
    whose middle the model is tried, and which makes its golden sample. It is known as `name`, or
    by the name in the contract, or that of the file. Raises a ConfigError that lists what nobody
    has said, a ModelError where the network does not do what was said.
    """
    path = Path(file).expanduser()
    if name is not None and (trouble := bad_name(name)):
        raise ModelError(trouble)
    if bundle := _bundle_at(path):
        return Imported(add_model(bundle, name=name, overwrite=overwrite), "geoseg bundle", None)
    given = None if contract is None else Path(contract).expanduser()
    raster = None if sample is None else Path(sample).expanduser()
    with ExitStack() as stack:
        found = find(path, stack)
        terms = read_contract(path, found.said, given)
        if name is not None:
            terms = terms.model_copy(update={"name": name})
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geoseg-")))
        making = _making(found, terms)
        made, scores, spec = making(path, found, terms, raster, folder / "bundle")
        kept = add_model(made, name=spec.name, overwrite=overwrite)
    return Imported(kept, found.kind, _shares(spec, scores))


def _bundle_at(path: Path) -> Path | None:
    """The bundle that the file is, or belongs to."""
    if path.is_dir() or path.suffix.lower() == ".zip":
        return path
    if path.name == ITEM and (path.parent / "sample.npz").is_file():
        return path.parent
    return None


def _making(found: Found, terms: Contract) -> Making:
    if found.state is not None:
        return _of_checkpoint
    if found.finds_objects or (found.graph is not None and terms.detector is not None):
        return _of_detector
    return _of_graph


# --- graphs ---------------------------------------------------------------------------------


def _of_graph(
    path: Path, found: Found, terms: Contract, raster: Path | None, target: Path
) -> tuple[Path, NDArray[np.float32], ModelSpec]:
    spec = spec_of(terms, path, architecture=ARCHITECTURE)
    graph = found.graph or _graph_of_script(path, found, terms, spec)
    _must_fit(path, graph, spec)
    output = _output(path, graph, terms)
    last = _channels_last(path, graph, terms)
    raw = adapted(
        graph,
        classes=len(spec.classes),
        activation=terms.activation or "none",
        output=output,
        numbers=terms.output == "classes",
        last=last,
    )
    image = real_chip(spec, raster)
    run = _session(path, raw)
    scores = run(image)
    _must_be_probabilities(path, scores, image, spec)
    if not spec.tiling.fixed:
        _must_take_other_sizes(path, run, image, spec)
    bundle = Bundle.write_graph(
        target,
        spec,
        raw,
        Sample(image, scores),
        _card(spec, path, found, terms),
        parameters=graph.parameters,
    )
    return bundle, scores, spec


def _graph_of_script(path: Path, found: Found, terms: Contract, spec: ModelSpec) -> Network:
    """TorchScript as a graph that gives the same on a real picture."""
    import torch

    from geoseg.exchange.checkpoints import read_script, script_to_onnx

    assert found.script is not None
    last = terms.channels == "last"
    raw = script_to_onnx(
        found.script,
        bands=len(spec.bands),
        size=spec.tiling.size,
        fixed=spec.tiling.fixed,
        last=last,
    )
    image = real_chip(spec, None)
    seen = np.ascontiguousarray(image.transpose(0, 2, 3, 1)) if last else image
    with torch.no_grad():
        right = read_script(found.script)(torch.from_numpy(seen))
    graph = describe(need_onnx().load_from_string(raw), path)
    given = _session(path, raw)(seen)
    if given.shape != tuple(right.shape) or not np.allclose(given, right.numpy(), 1e-3, 1e-3):
        raise ModelError(f"{path}: as ONNX it gives something else than as TorchScript")
    return graph


def _must_fit(path: Path, graph: Network, spec: ModelSpec) -> None:
    if graph.channels is not None and graph.channels != len(spec.bands):
        raise ConfigError(
            f"{path}: its network takes {graph.channels} bands, {len(spec.bands)} are named"
        )
    if graph.size is not None and (not spec.tiling.fixed or spec.tiling.size != graph.size):
        raise ConfigError(
            f"{path}: its network takes pictures of {graph.size} x {graph.size} pixels only: leave "
            "tiling.size and tiling.fixed out"
        )


def _output(path: Path, graph: Network, terms: Contract) -> str:
    names = list(graph.outputs)
    if terms.output_name in names:
        return str(terms.output_name)
    if terms.output_name is None and len(names) == 1:
        return names[0]
    raise ConfigError(
        f"{path}: its network has the outputs {', '.join(names)}: say which in output_name, or "
        "of a YOLO the detector"
    )


def _channels_last(path: Path, graph: Network, terms: Contract) -> bool:
    if terms.channels is not None:
        return terms.channels == "last"
    if graph.channels_last is None:
        terms.must_say(path, {"channels": None})
    return bool(graph.channels_last)


# --- objects --------------------------------------------------------------------------------


def _of_detector(
    path: Path, found: Found, terms: Contract, raster: Path | None, target: Path
) -> tuple[Path, NDArray[np.float32], ModelSpec]:
    """A YOLO network, or one whose graph gives objects as those of geoseg do; its golden sample is
    what it finds, painted."""
    from geoseg.runtime import yolo
    from geoseg.runtime.graphs import OBJECTS, scores_in

    assert found.graph is not None
    own = terms.detector is None and set(OBJECTS) <= set(found.graph.outputs)
    if not own:
        terms.must_say(path, {"detector": terms.detector})
    architecture = ARCHITECTURE if own else "yolo"
    spec = spec_of(terms, path, architecture=architecture, task="instance-segmentation")
    _must_fit(path, found.graph, spec)
    raw = with_plain_input(found.graph, last=_channels_last(path, found.graph, terms))
    image, run = real_chip(spec, raster), _session(path, raw, every=True)
    values = run(image)
    outputs = dict(zip(found.graph.outputs, values, strict=True))
    if not own and (trouble := yolo.misfit(values, spec)):
        raise ConfigError(f"{path}: not a {terms.detector} with these classes: it gives {trouble}")
    if not spec.tiling.fixed:
        run(_higher(image, spec))
    painted = scores_in(outputs, spec, (image.shape[2], image.shape[3]))
    bundle = Bundle.write_graph(
        target,
        spec,
        raw,
        Sample.of_objects(image, painted),
        _card(spec, path, found, terms),
        parameters=found.graph.parameters,
    )
    return bundle, painted, spec


# --- checkpoints ----------------------------------------------------------------------------


def _of_checkpoint(
    path: Path, found: Found, terms: Contract, raster: Path | None, target: Path
) -> tuple[Path, NDArray[np.float32], ModelSpec]:
    from geoseg import models
    from geoseg.exchange.checkpoints import network_from
    from geoseg.runtime.torch_runtime import golden_sample

    if terms.architecture is None:
        spec_of(terms, path, architecture="unknown")  # what else is missing comes first
        terms.must_say(path, {"architecture": None})
    assert terms.architecture is not None
    assert found.state is not None
    architecture, arguments = terms.architecture, terms.arguments or {}
    stride = models.stride_of(architecture, arguments)
    tiling = {"size": 512 // stride * stride or stride, "stride": stride}
    terms = Contract.model_validate(
        {**terms.model_dump(exclude_none=True), "tiling": {**tiling, **_given(terms)}}
    )
    spec = spec_of(terms, path, architecture=architecture)
    if models.task_of(spec.architecture) != spec.task:
        raise ModelError(f"{path}: geoseg imports networks of pixels, not yet {spec.architecture}")
    if spec.activation != terms.activation:
        raise ConfigError(
            f"{path}: {len(spec.classes)} classes go with {spec.activation}, not {terms.activation}"
        )
    network = network_from(
        found.state,
        path,
        architecture=spec.architecture,
        arguments=arguments,
        classes=len(spec.classes),
        bands=len(spec.bands),
    )
    golden = golden_sample(spec, network, real_chip(spec, raster), half=False)
    _must_be_probabilities(path, golden.scores, golden.input, spec)
    about = _card(spec, path, found, terms)
    bundle = Bundle.write(target, spec, network.state_dict(), golden, about, half=False)
    return bundle, golden.scores, spec


def _given(terms: Contract) -> dict[str, Any]:
    return terms.tiling.model_dump(exclude_none=True) if terms.tiling else {}


# --- on a real picture ----------------------------------------------------------------------


def _session(path: Path, raw: bytes, *, every: bool = False) -> Any:
    """A function from a picture to the first output, or to `every` one."""
    from geoseg.runtime.onnx_runtime import new_session

    try:
        from onnxruntime import RunOptions
    except ImportError as e:
        raise MissingDependencyError("onnxruntime", "export") from e
    try:
        session = new_session(raw)
    except Exception as e:  # ONNX Runtime's errors have no base of their own
        raise ModelError(f"{path}: ONNX Runtime cannot load it ({_first_line(e)})") from e
    name, quiet = session.get_inputs()[0].name, RunOptions()
    quiet.log_severity_level = 4  # its errors are told as ours

    def run(image: NDArray[np.float32]) -> Any:
        try:
            outputs = session.run(None, {name: image}, quiet)
        except Exception as e:
            size = " x ".join(str(n) for n in image.shape)
            raise ModelError(f"{path}: fails on a picture of {size} ({_first_line(e)})") from e
        return outputs if every else outputs[0]

    return run


def _must_be_probabilities(
    path: Path, scores: NDArray[np.float32], image: NDArray[np.float32], spec: ModelSpec
) -> None:
    """One channel per class, as large as the picture, finite, 0 to 1, adding up to 1."""
    if scores.ndim != 4 or scores.shape[1] != len(spec.classes):
        channels = f"{scores.shape[1]} channels" if scores.ndim == 4 else f"{scores.ndim} axes"
        raise ConfigError(
            f"{path}: its network gives {channels}, and {len(spec.classes)} classes are named: one "
            "channel each is needed, and a single one is a class without a background; of a YOLO "
            "say the detector"
        )
    _must_be_as_large(path, scores, image)
    if not np.isfinite(scores).all():
        raise ModelError(f"{path}: gives numbers that are not finite, on a real picture")
    low, high, total = float(scores.min()), float(scores.max()), scores.sum(1)
    what = ""
    if low < -_SUM or high > 1 + _SUM:
        what = f"values from {low:.3g} to {high:.3g}"
    elif len(spec.classes) > 1 and np.abs(total - 1).max() > _SUM:
        what = f"values that add up to {float(total.min()):.3g} to {float(total.max()):.3g}"
    if what:
        raise ConfigError(
            f"{path}: gives {what}, no probabilities of classes that exclude each other: is the "
            "activation (softmax, sigmoid) in the contract right?"
        )


def _must_be_as_large(path: Path, scores: NDArray[np.float32], image: NDArray[np.float32]) -> None:
    (rows, cols), (high, wide) = scores.shape[2:], image.shape[2:]
    if (rows, cols) != (high, wide):
        raise ModelError(f"{path}: gives {rows} x {cols} pixels for a picture of {high} x {wide}")


def _must_take_other_sizes(
    path: Path, run: Any, image: NDArray[np.float32], spec: ModelSpec
) -> None:
    higher = _higher(image, spec)
    _must_be_as_large(path, run(higher), higher)


def _higher(image: NDArray[np.float32], spec: ModelSpec) -> NDArray[np.float32]:
    return np.concatenate([image, image[:, :, : spec.tiling.stride]], axis=2)


def _shares(spec: ModelSpec, scores: NDArray[np.float32]) -> dict[str, float]:
    if spec.finds_objects:
        pairs = zip(spec.classes, scores[0], strict=True)
        return {c.name: float((painted >= spec.threshold).mean()) for c, painted in pairs}
    if len(spec.classes) == 1:
        return {spec.classes[0].name: float((scores[:, 0] >= spec.threshold).mean())}
    winners = scores.argmax(1)
    return {c.name: float((winners == i).mean()) for i, c in enumerate(spec.classes)}


def _card(spec: ModelSpec, path: Path, found: Found, terms: Contract) -> str:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    origin = f"Imported from `{path.name}` ({found.kind}; SHA-256 {digest})."
    return card(spec, recipe=origin, attribution=terms.attribution or "")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
