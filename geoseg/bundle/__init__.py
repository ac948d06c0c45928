"""Model bundles: a folder or a zip with all that is needed to run a model and to trust it.

::

    buildings/
      model.json           the contract: STAC Item with MLM; lists the files, sizes and checksums
      weights.safetensors  the network's tensors
      model.onnx           and/or the whole network as a graph: scaled pixels in, probabilities out
      sample.npz           golden input and output, and how far a runtime may be from it
      thumbnail.png        what the model makes of the golden input, for lists of models
      README.md            the model card

Tensors of the graph that lie in weights.safetensors are not stored twice: ONNX lets a graph point
into another file. With a graph a model runs without torch; a model of another tool may have nothing
else.

A bundle is data: nothing in it is executed or unpickled. A zip is read in place, member by member,
and never unpacked.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from geoseg.bundle.files import ITEM, Read, folder_files, installing, is_plain, write_zip, zip_files
from geoseg.bundle.model_card import card as card
from geoseg.bundle.thumbnail import draw_thumbnail
from geoseg.errors import ModelError
from geoseg.spec import ModelSpec, from_item, to_item

WEIGHTS, GRAPH, SAMPLE, CARD = "weights.safetensors", "model.onnx", "sample.npz", "README.md"
THUMBNAIL = "thumbnail.png"
MULTIHASH_SHA256 = "1220"  # function 0x12 (sha2-256), 0x20 bytes: how STAC's file:checksum begins
MAX_SAMPLE_BYTES = 256 << 20

# Largest difference of a probability that a runtime may show on the golden sample. At 0.03 fewer
# than one pixel in a thousand changes its class (a U-Net on aerial images: 0.1 changes two).
TOLERANCE = {"float32": 0.002, "float16": 0.03, "bfloat16": 0.03, "mixed": 0.03}

# Of a model that finds objects, what is painted may differ by so much of itself. The largest
# difference says nothing there: of two boxes that are as good, a last bit decides which one stays,
# and in float32 as in bfloat16 the best reproduction may differ by 1 in some pixels. Mask R-CNN of
# EfficientNet-Lite0 on planted objects, clear and faint, and on roofs: float32 by other kernels
# 0.0000, weights rounded to 16 bits (TF32 on a GPU does as much) 0.001 to 0.004, where 100 objects
# are the most 0.018; mixed 0.002 to 0.017; bfloat16 0.006 to 0.034, on 1024 pixels once 0.046. Of
# networks that are wrong: bands in another order 0.09 or more, noise of 5 % on all weights 0.1 to
# 0.5, on those of the heads alone 0.03 to 0.07, a class that takes the mask of another 0.04 to 0.1;
# noise on those of the mask head alone (0.01) is not noticed.
OBJECT_TOLERANCE = {"float32": 0.02, "float16": 0.04, "bfloat16": 0.04, "mixed": 0.04}
LEAST_PAINTED = 0.01  # of a picture, to which a difference is put in proportion

Measure = Literal["largest", "painted"]

_NO_SAMPLE = (
    *(KeyError, ValueError, TypeError, OSError, EOFError, MemoryError, RecursionError),
    *(NotImplementedError, zipfile.BadZipFile, zlib.error),
)


class Predictor(Protocol):
    """What a check needs of a runtime: see geoseg.runtime.Runtime."""

    @property
    def description(self) -> str: ...

    def predict(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """A golden sample.

    input:     (1, C, H, W) float32, as the network sees it: scaled.
    scores:    (1, K, H, W) float32, the probabilities that the model gave when it was made; of one
               that finds objects, these painted.
    tolerance: the greatest difference, by 'precision' or 'runtime/precision'.
    measure:   how it is measured: the 'largest' difference of a probability, or the share of what
               is 'painted' that differs.
    """

    input: NDArray[np.float32]
    scores: NDArray[np.float32]
    tolerance: Mapping[str, float] = field(default_factory=lambda: dict(TOLERANCE))
    measure: Measure = "largest"

    def __post_init__(self) -> None:
        a, b = self.input.shape, self.scores.shape
        if len(a) != 4 or len(b) != 4 or a[0] != 1 or b[0] != 1 or a[2:] != b[2:]:
            raise ValueError(f"{a} and {b} are not (1, C, H, W) and (1, K, H, W)")
        if not all(0 <= t < math.inf for t in self.tolerance.values()):
            raise ValueError(f"a tolerance of {dict(self.tolerance)} is no finite number")
        if self.measure not in get_args(Measure):
            raise ValueError(f"geoseg knows no measure {self.measure!r}")

    @classmethod
    def of_objects(cls, image: NDArray[np.float32], painted: NDArray[np.float32]) -> Sample:
        """Of a model that finds objects, as geoseg.instances.paste paints them."""
        return cls(image, painted, dict(OBJECT_TOLERANCE), "painted")

    def difference(self, scores: NDArray[np.float32]) -> float:
        """How far other scores are from these."""
        if self.measure == "largest":
            return float(np.abs(scores - self.scores).max())
        other = np.abs(scores - self.scores).sum(dtype=np.float64)
        every = np.maximum(scores, self.scores).sum(dtype=np.float64)
        return float(other / max(every, LEAST_PAINTED * scores.size))

    def must_fit(self, spec: ModelSpec) -> None:
        """A ValueError where a network with this contract could not see or give it."""
        _, bands, height, width = self.input.shape
        classes, tiling = self.scores.shape[1], spec.tiling
        if (bands, classes) != (len(spec.bands), len(spec.classes)):
            raise ValueError(
                f"it has {bands} bands and {classes} classes, "
                f"the model {len(spec.bands)} and {len(spec.classes)}"
            )
        for edge in (height, width):
            if tiling.fixed and edge != tiling.size:
                raise ValueError(f"an edge of {edge} pixels, but tiles are fixed to {tiling.size}")
            if edge < 1 or edge % tiling.stride:
                raise ValueError(f"an edge of {edge} pixels is no multiple of {tiling.stride}")

    def allowed(self, description: str) -> float:
        """The tolerance of a runtime whose description begins 'torch float32 ...'."""
        runtime, _, rest = description.partition(" ")
        precision = rest.partition(" ")[0]
        for key in (f"{runtime}/{precision}", precision, "float32"):
            if key in self.tolerance:
                return self.tolerance[key]
        return TOLERANCE["float32"]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """How a runtime reproduces the golden sample: the difference, see Sample."""

    model: str
    runtime: str
    difference: float
    tolerance: float
    measure: Measure = "largest"

    @property
    def ok(self) -> bool:
        # not `difference > tolerance`: a NaN is no agreement
        return self.difference <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        word = "agrees with" if self.ok else "DIFFERS from"
        told = (
            f"probabilities differ by {self.difference:.2g} at most ({self.tolerance:.2g} allowed)"
        )
        if self.measure == "painted":
            told = f"{self.difference:.1%} of its objects differ ({self.tolerance:.0%} allowed)"
        return f"{self.model} on {self.runtime} {word} its golden sample: {told}"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle: its structure has been checked, its large files not yet read."""

    path: Path
    spec: ModelSpec
    item: Mapping[str, Any]
    card: str
    _read: Read = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open the folder or zip at `path`; what is wrong with it is a ModelError."""
        path = Path(path)
        files, read = zip_files(path) if path.is_file() else folder_files(path)
        if ITEM not in files:
            raise ModelError(f"{path}: {ITEM} is missing; is this a geoseg model?")
        item = _parse(read(ITEM), f"{path}: {ITEM}")
        spec = from_item(item, source=f"{path}: {ITEM}")
        if SAMPLE not in files:
            raise ModelError(f"{path}: {SAMPLE} is missing")
        card = read(CARD).decode("utf-8", "replace") if CARD in files else ""
        bundle = cls(path, spec, item, card, read)
        if bundle._network not in files:
            raise ModelError(f"{path}: {bundle._network} is missing")
        return bundle

    def has(self, name: str) -> bool:
        """Whether model.json lists a file of that name."""
        return name in self._assets()

    def weights(self) -> dict[str, NDArray[Any]]:
        """The network's tensors by name, float16 or float32, after the checksum was verified."""
        if self._network == GRAPH:
            raise ModelError(
                f"{self.path}: it has no {WEIGHTS}, only {GRAPH}: use --runtime onnx or openvino"
            )
        raw = self.file(WEIGHTS)
        # torch.save writes a zip around a pickle, older ones the bare pickle
        if raw.startswith((b"PK\x03\x04", b"\x80")) and raw[8:9] != b"{":
            raise ModelError(
                f"{self.path}: {WEIGHTS} is a Python pickle under another name; geoseg loads "
                "safetensors only, because a pickle can run any code"
            )
        try:
            return dict(safetensors.numpy.load(raw))
        except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as e:
            raise ModelError(f"{self.path}: {WEIGHTS} is no intact safetensors file ({e})") from e

    def sample(self) -> Sample:
        """The golden sample."""
        try:
            sample = _parse_sample(self.file(SAMPLE))
            sample.must_fit(self.spec)
        except _NO_SAMPLE as e:
            raise ModelError(f"{self.path}: {SAMPLE} is no intact golden sample ({e})") from e
        return sample

    def check(self, runtime: Predictor) -> CheckReport:
        """Run the golden sample and compare."""
        return check_sample(self.sample(), runtime, self.spec.id)

    @property
    def checksum(self) -> str:
        """Multihash of the weights, as model.json states it: identifies the model."""
        return self._stated(self._network)

    @property
    def thumbnail(self) -> Path | None:
        """The picture that model.json lists with the role of a thumbnail, if it is a file."""
        for name, asset in self._assets().items():
            roles, picture = asset.get("roles"), self.path / name
            if isinstance(roles, list) and "thumbnail" in roles and picture.is_file():
                return picture
        return None

    def file(self, name: str) -> bytes:
        """The content of a file that model.json lists, after its checksum was verified."""
        stated, raw = self._stated(name), self._read(name)
        if multihash(raw) != stated:
            raise ModelError(
                f"{self.path}: {name} does not have the checksum that {ITEM} states: it was "
                "changed or damaged; get the model again"
            )
        return raw

    def copy_to(self, folder: Path) -> None:
        """Write the files that belong to the bundle, checksums verified, into `folder`."""
        for name in self._assets():
            (folder / name).write_bytes(self.file(name))
        (folder / CARD).write_text(self.card, encoding="utf-8")
        (folder / ITEM).write_bytes(self._read(ITEM))

    @property
    def _network(self) -> str:
        """The file without which there is no network."""
        return GRAPH if self.has(GRAPH) and not self.has(WEIGHTS) else WEIGHTS

    def _assets(self) -> dict[str, Mapping[str, Any]]:
        """File name -> its asset. What points outside of the bundle does not belong to it."""
        stated = self.item.get("assets", {})
        if not isinstance(stated, Mapping):
            raise ModelError(f"{self.path}: the assets in {ITEM} are no object")
        assets: dict[str, Mapping[str, Any]] = {}
        for key, asset in stated.items():
            if not isinstance(asset, Mapping) or not isinstance(asset.get("href"), str):
                raise ModelError(f"{self.path}: the asset {key!r} in {ITEM} has no href")
            name = asset["href"].removeprefix("./")
            if is_plain(name):
                assets[name] = asset
        return assets

    def _stated(self, name: str) -> str:
        stated = self._assets().get(name, {}).get("file:checksum")
        if not isinstance(stated, str) or not stated.startswith(MULTIHASH_SHA256):
            raise ModelError(f"{self.path}: {ITEM} states no sha2-256 file:checksum for {name}")
        return stated

    @staticmethod
    def write(
        path: str | Path,
        spec: ModelSpec,
        state: Mapping[str, Any],
        sample: Sample,
        card: str,
        *,
        half: bool = True,
        overwrite: bool = False,
    ) -> Path:
        """Write a bundle: a zip if `path` ends in .zip, else a folder. It appears whole or not.

        `state` is the network's state_dict (torch tensors or arrays). `half` stores kernels and
        matrices as float16, so round them (see `rounded`) before the golden sample is made.
        """
        arrays = rounded(state, half=half)
        contents = {
            WEIGHTS: safetensors.numpy.save(arrays),
            SAMPLE: _sample_bytes(sample),
            THUMBNAIL: draw_thumbnail(spec, sample),
            CARD: card.encode(),
        }
        item = to_item(spec, _assets(contents))
        item["properties"]["mlm:total_parameters"] = sum(
            a.size for a in arrays.values() if a.dtype.kind == "f"
        )
        return _install(Path(path), item, contents, overwrite=overwrite)

    @staticmethod
    def write_graph(
        path: str | Path,
        spec: ModelSpec,
        graph: bytes,
        sample: Sample,
        card: str,
        *,
        parameters: int | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write a bundle whose network is an ONNX file alone, `graph` with all weights in it.

        `parameters` is their number, where it is known. Otherwise as `write`.
        """
        contents = {
            GRAPH: graph,
            SAMPLE: _sample_bytes(sample),
            THUMBNAIL: draw_thumbnail(spec, sample),
            CARD: card.encode(),
        }
        item = to_item(spec, _assets(contents))
        item["properties"]["mlm:framework"] = "ONNX"
        if parameters is not None:
            item["properties"]["mlm:total_parameters"] = parameters
        return _install(Path(path), item, contents, overwrite=overwrite)

    def with_graph(
        self,
        graph: bytes,
        path: str | Path,
        *,
        sample: Sample | None = None,
        alone: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Write this bundle to `path`, with the ONNX file `graph` in it.

        What the graph does not hold itself it finds in weights.safetensors of the same folder;
        `alone` leaves that out. `sample` is the golden sample, where it is another.
        """
        contents = {GRAPH: graph, CARD: self.card.encode()}
        contents[SAMPLE] = self.file(SAMPLE) if sample is None else _sample_bytes(sample)
        if self.has(WEIGHTS) and not alone:
            contents[WEIGHTS] = self.file(WEIGHTS)
        if self.has(THUMBNAIL):
            contents[THUMBNAIL] = self.file(THUMBNAIL)
        item = {**self.item, "assets": to_item(self.spec, _assets(contents))["assets"]}
        return _install(Path(path), item, contents, overwrite=overwrite)


def check_sample(sample: Sample, runtime: Predictor, model: str) -> CheckReport:
    """Run a golden sample and compare."""
    scores = runtime.predict(sample.input)
    if scores.shape != sample.scores.shape:
        raise ModelError(
            f"{model}: the network gives {scores.shape}, its golden sample {sample.scores.shape}"
        )
    allowed = sample.allowed(runtime.description)
    return CheckReport(
        model, runtime.description, sample.difference(scores), allowed, sample.measure
    )


def rounded(state: Mapping[str, Any], *, half: bool = True) -> dict[str, NDArray[Any]]:
    """The tensors as numpy arrays, as a bundle stores them.

    With `half`, kernels and matrices are float16; vectors (biases, statistics of normalizing
    layers), which weigh nothing and whose small values float16 would lose, stay float32.
    """
    return {name: _rounded(name, value, half=half) for name, value in state.items()}


def _rounded(name: str, value: Any, *, half: bool) -> NDArray[Any]:
    if hasattr(value, "detach"):  # a torch tensor; this module does not import torch
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
    if array.dtype.kind != "f":
        return array
    if not np.isfinite(array).all():
        raise ModelError(f"the tensor {name!r} has values that are no finite numbers")
    if not half or array.ndim < 2:
        return array.astype(np.float32, copy=False)
    if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
        raise ModelError(f"the tensor {name!r} has values beyond float16: write with half=False")
    return array.astype(np.float16)


def multihash(raw: bytes) -> str:
    """sha2-256 as STAC's file:checksum wants it."""
    return MULTIHASH_SHA256 + hashlib.sha256(raw).hexdigest()


def _install(
    path: Path, item: Mapping[str, Any], contents: Mapping[str, bytes], *, overwrite: bool
) -> Path:
    text = json.dumps(item, indent=2, allow_nan=False) + "\n"
    contents = {**contents, ITEM: text.encode()}
    with installing(path, overwrite=overwrite) as partial:
        if partial.suffix == ".zip":
            write_zip(partial, contents)
        else:
            partial.mkdir()
            for name, raw in contents.items():
                (partial / name).write_bytes(raw)
    return path


_KEYS = {
    WEIGHTS: "weights",
    GRAPH: "graph",
    SAMPLE: "sample",
    THUMBNAIL: "thumbnail",
    CARD: "readme",
}


def _assets(contents: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    about: dict[str, dict[str, Any]] = {
        WEIGHTS: {
            "title": "Weights",
            "type": "application/octet-stream; application=safetensors",
            "roles": ["mlm:model", "mlm:weights", "data"],
            "mlm:artifact_type": "safetensors.torch.save_file",
        },
        GRAPH: {
            "title": "Network as an ONNX graph",
            "type": "application/octet-stream; framework=onnx",
            "roles": ["mlm:compiled", "data"] if WEIGHTS in contents else ["mlm:model", "data"],
            "mlm:artifact_type": "onnx",
        },
        SAMPLE: {
            "title": "Golden input and output",
            "type": "application/octet-stream",
            "roles": ["metadata"],
        },
        THUMBNAIL: {
            "title": "What the model makes of the golden input",
            "type": "image/png",
            "roles": ["thumbnail"],
        },
        CARD: {"title": "Model card", "type": "text/markdown", "roles": ["metadata"]},
    }
    return {
        _KEYS[name]: {
            "href": f"./{name}",
            **about[name],
            "file:size": len(raw),
            "file:checksum": multihash(raw),
        }
        for name, raw in contents.items()
    }


def _sample_bytes(sample: Sample) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        input=sample.input,
        scores=sample.scores,
        tolerance=np.array(json.dumps(dict(sample.tolerance))),
        measure=np.array(sample.measure),
    )
    return buffer.getvalue()


def _parse_sample(raw: bytes) -> Sample:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        if sum(m.file_size for m in archive.infolist()) > MAX_SAMPLE_BYTES:
            raise ValueError(f"it would unpack to more than {MAX_SAMPLE_BYTES >> 20} MiB")
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        tolerance = json.loads(str(arrays["tolerance"]))
        if not all(arrays[name].dtype.kind in "fiu" for name in ("input", "scores")):
            raise ValueError("its values are no real numbers")
        return Sample(
            arrays["input"].astype(np.float32, copy=False),
            arrays["scores"].astype(np.float32, copy=False),
            {str(k): float(v) for k, v in dict(tolerance).items()},
            cast(Measure, str(arrays["measure"]) if "measure" in arrays else "largest"),
        )


def _parse(raw: bytes, source: str) -> dict[str, Any]:
    try:
        item = json.loads(raw)
        json.dumps(item, ensure_ascii=False).encode()  # half a character could not be written
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{source} is no valid JSON ({e})") from e
    if not isinstance(item, dict):
        raise ModelError(f"{source} is no JSON object")
    return item
