"""Networks in 8 bits: smaller, faster on a CPU, a little different; how much is measured.

Ranges of values inside the network are found on chips of the user's own scene (static
quantization by ONNX Runtime); what changes is told of other chips of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.bundle import GRAPH, TOLERANCE, WEIGHTS, Bundle
from geoseg.bundle.files import installing
from geoseg.errors import MissingDependencyError, ModelError, SceneError, UsageError
from geoseg.grid import plan
from geoseg.preflight import open_for, preflight
from geoseg.reading import chips, normalize
from geoseg.registry import find
from geoseg.runtime.graphs import graph_of
from geoseg.runtime.onnx_runtime import PRECISION, OnnxRuntime, new_session
from geoseg.spec import ModelSpec

MOST = 0.25  # difference of a probability on the golden sample that is still put down to 8 bits
SLACK = 1.25  # between machines, whose instructions for 8 bits differ

Batch = NDArray[np.float32]  # (1, C, H, W), scaled


@dataclass(frozen=True, slots=True)
class Quantized:
    """What 8 bits changed, on chips of the scene that they were not fitted to.

    agreement: share of pixels with the same class. iou: of each class, between before and after.
    difference: the largest of a probability, on the golden sample. bytes_before, bytes_after: of
    the network.
    """

    path: Path
    agreement: float
    iou: dict[str, float]
    difference: float
    bytes_before: int
    bytes_after: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}


def quantize(
    model: str | Path,
    scene: str | Path,
    output: str | Path,
    *,
    count: int = 16,
    tile: int = 512,
    overwrite: bool = False,
) -> Quantized:
    """Write a bundle with the model's graph in 8 bits to `output`; it runs by ONNX Runtime or
    OpenVINO.

    count: chips of `scene` that the ranges are fitted to; as many others tell what has changed.
    tile: their edge, in pixels at the model's GSD. Raises a ModelError where the model has no
    graph, or where 8 bits spoil it.
    """
    bundle = Bundle.open(find(model))
    if bundle.spec.finds_objects:
        raise ModelError(
            f"{bundle.spec.id} finds objects: 8 bits are for models that give a class to each pixel"
        )
    if count < 1:
        raise UsageError(f"{count} chips: at least one is needed")
    before, stored = graph_of(bundle)
    float32 = OnnxRuntime(bundle.spec, new_session(before, stored), "cpu", 1)
    if float32.description.startswith("onnx int8"):
        raise ModelError(f"{bundle.spec.id} is in 8 bits already: quantize what it was made of")
    pictures = _pictures(scene, bundle.spec, 2 * count, tile)
    if len(pictures) < 2:
        raise SceneError(f"{scene}: two chips of {tile} pixels with data are needed at least")
    after = _in_8_bits(before, stored, _Reader(float32.session.get_inputs()[0].name, pictures[::2]))
    int8 = OnnxRuntime(bundle.spec, new_session(after), "cpu", 1)
    sample = bundle.sample()
    difference = sample.difference(int8.predict(sample.input))
    if difference > MOST:
        raise ModelError(
            f"{bundle.spec.id} does not bear 8 bits: probabilities differ by {difference:.2g} on "
            f"its golden sample ({MOST:g} allowed)"
        )
    agreement, iou = _compared(bundle.spec, float32, int8, pictures[1::2])
    tolerance = dict.fromkeys((*TOLERANCE, "int8"), SLACK * difference)
    path = Path(output).expanduser()
    with installing(path, overwrite=overwrite) as partial:
        bundle.with_graph(after, partial, sample=replace(sample, tolerance=tolerance), alone=True)
    before_bytes = len(before) + len(stored or b"")
    return Quantized(path, agreement, iou, difference, before_bytes, len(after))


def _pictures(scene: str | Path, spec: ModelSpec, count: int, tile: int) -> list[Batch]:
    """Chips spread evenly over the scene, scaled as the model wants them."""
    tiling = spec.tiling if spec.tiling.fixed else replace(spec.tiling, size=tile, overlap=0)
    with open_for(scene, spec) as source:
        scaling = preflight(source, spec).scaling
        tiles = plan(source.grid, tiling)
        every = max(1, len(tiles) // count)
        chosen = {t.index for t in list(tiles.tiles)[::every]}
        return [
            normalize(chip.data, chip.valid, scaling)[None]
            for chip in chips(source, tiles)
            if chip.tile.index in chosen
        ]


class _Reader:
    """Pictures as ONNX Runtime's calibration takes them; `name` of the graph's input."""

    def __init__(self, name: str, pictures: Sequence[Batch]) -> None:
        self._name, self._rest = name, iter(pictures)

    def get_next(self) -> dict[str, Batch] | None:
        picture = next(self._rest, None)
        return None if picture is None else {self._name: picture}


def _in_8_bits(graph: bytes, stored: bytes | None, pictures: _Reader) -> bytes:
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as e:
        raise MissingDependencyError("onnx or onnxruntime", "export") from e

    with tempfile.TemporaryDirectory(prefix="geoseg-") as name:
        folder = Path(name)
        whole, merged, done = (folder / n for n in (GRAPH, "merged.onnx", "int8.onnx"))
        whole.write_bytes(graph)
        if stored is not None:
            (folder / WEIGHTS).write_bytes(stored)
        # norms go into the convolutions first: what has merged is quantized once
        quant_pre_process(onnx.load(whole), merged, skip_symbolic_shape=True)
        quantize_static(
            merged,
            done,
            pictures,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_kept(merged),
        )
        quantized = onnx.load(done)
        quantized.metadata_props.add(key=PRECISION, value="int8")
        raw: bytes = quantized.SerializeToString()
        return raw


def _kept(path: Path) -> list[str]:
    """What stays as it is: the first convolution, which sees the pixels, and the last, which
    decides; and norms that no convolution has taken in."""
    import onnx

    nodes = onnx.load(path).graph.node
    convs = [n.name for n in nodes if n.op_type == "Conv"]
    norms = [n.name for n in nodes if n.op_type == "BatchNormalization"]
    return [*convs[:1], *convs[-1:], *norms]


def _compared(
    spec: ModelSpec, one: OnnxRuntime, two: OnnxRuntime, pictures: Sequence[Batch]
) -> tuple[float, dict[str, float]]:
    """Share of pixels of the same class, and the IoU of each class."""
    same = total = 0
    both, either = (np.zeros(len(spec.classes), np.int64) for _ in range(2))
    for picture in pictures:
        a, b = (_labels(spec, runtime.predict(picture)[0]) for runtime in (one, two))
        same, total = same + int((a == b).sum()), total + a.size
        for i in range(len(spec.classes)):
            both[i] += ((a == i) & (b == i)).sum()
            either[i] += ((a == i) | (b == i)).sum()
    iou = {c.name: float(both[i] / either[i]) for i, c in enumerate(spec.classes) if either[i]}
    return same / total, iou


def _labels(spec: ModelSpec, scores: NDArray[np.float32]) -> NDArray[Any]:
    """(K, H, W) to (H, W): which class, by number in the contract; of one class -1 is none."""
    one = len(spec.classes) == 1
    labels: NDArray[Any] = np.where(scores[0] >= spec.threshold, 0, -1) if one else scores.argmax(0)
    return labels
