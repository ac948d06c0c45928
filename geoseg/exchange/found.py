"""What is found in files of other tools: their words for a contract in ours, and the network.

A kind of file is a row of SOURCES: the suffixes, and the function that reads one.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from geoseg.bundle.files import refuse_traps
from geoseg.errors import ModelError, need_torch
from geoseg.exchange import ultralytics
from geoseg.exchange.adapt import Network, read_graph
from geoseg.runtime.yolo import LAYOUTS

BYTES = 255.0  # by which Deepness divides


@dataclass(frozen=True, slots=True)
class Found:
    """A model of another tool.

    kind:    what it is, for the model card.
    said:    keys of a Contract that the file states.
    graph:   its network as an ONNX graph, or
    state:   the file of a checkpoint, or
    script:  the file of a TorchScript module.
    finds_objects: it gives boxes, not scores of pixels.
    """

    kind: str
    said: Mapping[str, Any] = field(default_factory=dict)
    graph: Network | None = None
    state: Mapping[str, Any] | None = None
    script: Path | None = None
    finds_objects: bool = False


def find(path: Path, stack: ExitStack) -> Found:
    """What lies in the file; `stack` keeps what had to be unpacked until it is closed."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    match path.suffix.lower():
        case ".onnx":
            return onnx_file(path)
        case ".emd":
            return esri(path)
        case ".dlpk":
            return esri(_unpacked(path, stack))
        case ".json":
            return mlm(path)
        case ".pt" | ".pth" | ".ckpt" | ".safetensors" | ".bin":
            return torch_file(path)
    raise ModelError(
        f"{path}: geoseg imports .onnx, .emd, .dlpk, .json (STAC MLM), and of torch .pt, .pth, "
        ".ckpt and .safetensors; a folder or zip of geoseg is added as it is"
    )


# --- ONNX -----------------------------------------------------------------------------------


def onnx_file(path: Path) -> Found:
    """A plain graph, or one with the metadata of Ultralytics, of Deepness (which people add to
    it), or that geoseg has exported."""
    graph = read_graph(path)
    metadata, own = graph.metadata, dict[str, Any]()
    if ultralytics.is_of_ultralytics(graph):
        with _understanding(path):
            own = ultralytics.said_by(path, graph)
    if "model_type" in metadata and "class_names" in metadata:
        with _understanding(path):
            said = _sized(own | _deepness(path, graph), graph)
        finds_objects = "detector" in str(metadata["model_type"]).lower()
        return Found("ONNX for Deepness", said, graph, finds_objects=finds_objects)
    if "stac_item" in metadata:
        item = _json(metadata["stac_item"], f"{path}: its stac_item")
        said = _sized(_item(item, path), graph)
        return Found("ONNX of geoseg", said, graph, finds_objects=_finds_objects(item, path))
    if own:
        return Found("ONNX of Ultralytics", _sized(own, graph), graph)
    return Found("ONNX", _sized({}, graph), graph)


def _sized(said: Mapping[str, Any], graph: Network) -> dict[str, Any]:
    """What was said, but the size of tiles by the graph, where it takes one size only."""
    if graph.size is None:
        return dict(said)
    tiling = {**(said.get("tiling") or {}), "size": graph.size, "fixed": True}
    if tiling.get("overlap", 0) >= graph.size // 2:
        del tiling["overlap"]
    return {**said, "tiling": tiling}


def _deepness(path: Path, graph: Network) -> dict[str, Any]:
    """Deepness' keys in ours. Networks see bytes divided by 255; bands are left to the user."""
    values = {key: _value(value) for key, value in graph.metadata.items()}
    kind = str(values["model_type"]).lower()
    if kind not in ("segmentor", "detector"):
        raise ModelError(f"{path}: geoseg imports Deepness' Segmentor and Detector, not {kind!r}")
    names = values["class_names"]
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{path}: class_names is no table of numbers and names")
    said: dict[str, Any] = {
        "dtype": "uint8",
        "scaling": _standardization(values),
        "activation": "none",  # its documentation wants probabilities
        "classes": _named(names, graph),
    }
    if resolution := values.get("resolution"):
        said["gsd"] = float(resolution) / 100  # centimetres
    size = values.get("tile_size", values.get("tiles_size"))
    if size is not None:
        overlap = round(float(values.get("tiles_overlap", 15)) / 100 * int(size))
        said["tiling"] = {"size": int(size), "overlap": overlap, "fixed": True}
    level = "seg_thresh" if kind == "segmentor" else "det_conf"
    if 0 < float(values.get(level) or 0) < 1:
        said["threshold"] = float(values[level])
    return said | (_detector(path, values, names) if kind == "detector" else {})


def _detector(path: Path, values: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Classes of objects have no background; Deepness divides by 255 and does no more."""
    kind = values.get("det_type")
    if kind is not None and kind not in LAYOUTS:
        raise ModelError(
            f"{path}: geoseg knows no det_type {kind!r}; there are: {', '.join(LAYOUTS)}"
        )
    ordered = sorted(names.items(), key=lambda pair: int(pair[0]))
    said: dict[str, Any] = {
        "scaling": {"divide": BYTES},
        "classes": [{"id": i, "name": str(name)} for i, (_, name) in enumerate(ordered, start=1)],
    }
    if kind is not None:
        said["detector"] = kind
    if 0 < float(values.get("det_iou_thresh") or 0) < 1:
        said["iou"] = float(values["det_iou_thresh"])
    return said


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # some tools write plain words


def _standardization(values: Mapping[str, Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {"divide": BYTES}
    if "standardization_mean" in values and "standardization_std" in values:
        keys["mean"] = values["standardization_mean"]
        keys["std"] = values["standardization_std"]
    return keys


def _named(names: Mapping[str, Any], graph: Network) -> list[str]:
    """Classes in the order of their numbers. A single channel stands for the second of two: what
    is below the level is the first."""
    ordered = [str(name) for _, name in sorted(names.items(), key=lambda pair: int(pair[0]))]
    shape = next(iter(graph.outputs.values()))
    single = shape is not None and len(shape) == 4 and shape[1] == 1
    return ordered[1:] if single and len(ordered) == 2 else ordered


# --- Esri -----------------------------------------------------------------------------------


def esri(path: Path) -> Found:
    """A model definition (.emd) and the file that it names, beside it.

    What is done to pixels and scores stands in Esri's Python function, which geoseg does not run:
    so `scaling` and `activation` are asked for, but in packages that geoseg itself has written.
    """
    emd = _json(path.read_bytes(), str(path))
    kind = emd.get("ModelType")
    objects = kind == "ObjectDetection" and emd.get("ModelConfiguration") == "geoseg"
    if kind not in ("ImageClassification", "PixelClassification") and not objects:
        raise ModelError(f"{path}: geoseg imports classes of pixels, not {kind!r}")
    name = emd.get("ModelFile")
    if not isinstance(name, str):
        raise ModelError(f"{path}: its ModelFile names no file")
    model = _beside(path, name)
    if model is None:
        raise ModelError(f"{path}: its ModelFile {name!r} does not lie beside it")
    with _understanding(path):
        said = _esri_said(emd)
    if model.suffix.lower() == ".onnx":
        graph = read_graph(model)
        said = _sized(said, graph)
        return Found("Esri model definition", said, graph, finds_objects=objects)
    found = torch_file(model)
    if found.script is None:
        raise ModelError(f"{path}: {name} is neither ONNX nor TorchScript, so geoseg cannot run it")
    return Found("Esri model definition", said, script=found.script)


def _esri_said(emd: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "name": emd.get("ModelName"),
        "version": str(emd["Version"]) if "Version" in emd else None,
        "description": emd.get("Description"),
        "bands": emd.get("Bands"),
        "gsd": emd.get("CellSize"),
        "value_range": emd.get("DataRange"),
        "threshold": emd.get("Threshold"),
        "classes": [_esri_class(c) for c in emd["Classes"]] if "Classes" in emd else None,
    }
    if emd.get("DataRange") == [0, 255]:
        said["dtype"] = "uint8"
    if emd.get("ModelConfiguration") == "geoseg":  # our own: scaling and activation in the graph
        said |= {"scaling": "none", "activation": "none"}
    height, width = emd.get("ImageHeight"), emd.get("ImageWidth")
    if height and height == width:
        padding = emd.get("Padding", emd.get("ModelPadding"))
        overlap = {"overlap": 2 * int(padding)} if padding is not None else {}
        said["tiling"] = {"size": int(height), "fixed": True, **overlap}
    return {key: value for key, value in said.items() if value is not None}


def _esri_class(entry: Mapping[str, Any]) -> dict[str, Any]:
    color = entry.get("Color")
    told = {"id": entry.get("Value"), "name": entry.get("Name")}
    if isinstance(color, list) and len(color) == 3 and all(isinstance(c, int) for c in color):
        told["color"] = "#" + "".join(f"{min(max(c, 0), 255):02x}" for c in color)
    return told


def _beside(path: Path, name: str) -> Path | None:
    """The file that `path` names, if it lies in the same folder or below."""
    inside = PurePosixPath(name.replace("\\", "/"))
    model = path.parent / inside
    return None if inside.is_absolute() or ".." in inside.parts or not model.is_file() else model


def _unpacked(path: Path, stack: ExitStack) -> Path:
    """The .emd of a package, unpacked for as long as it is needed."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geoseg-")))
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_traps(path, archive.infolist())
            archive.extractall(folder)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as e:
        raise ModelError(f"{path}: no intact package ({e})") from e
    definitions = sorted(folder.rglob("*.emd"))
    if len(definitions) != 1:
        raise ModelError(f"{path}: {len(definitions)} model definitions (.emd) in it, not one")
    return definitions[0]


# --- STAC MLM -------------------------------------------------------------------------------


def mlm(path: Path) -> Found:
    """A STAC Item with the MLM extension, whose model is an ONNX file beside it."""
    item = _json(path.read_bytes(), str(path))
    if "mlm:input" not in (item.get("properties") or {}):
        raise ModelError(f"{path}: no STAC Item with the MLM extension (mlm:input is missing)")
    said = _item(item, path)
    with _understanding(path):
        href = _onnx_asset(item, path)
    graph = read_graph(href)
    said = _sized(said, graph)
    return Found("STAC MLM Item", said, graph, finds_objects=_finds_objects(item, path))


def _finds_objects(item: Mapping[str, Any], path: Path) -> bool:
    with _understanding(path):
        return "instance-segmentation" in (item["properties"].get("mlm:tasks") or ())


def _onnx_asset(item: Mapping[str, Any], path: Path) -> Path:
    hrefs = [
        str(asset.get("href"))
        for asset in (item.get("assets") or {}).values()
        if isinstance(asset, Mapping) and "mlm:model" in (asset.get("roles") or [])
    ]
    for href in hrefs:
        if "://" in href and href.partition("?")[0].endswith(".onnx"):
            raise ModelError(
                f"{path}: its model lies at {href}: download it beside and correct href"
            )
        if href.endswith(".onnx") and (model := _beside(path, href)) is not None:
            return model
    told = ", ".join(hrefs) or "none"
    raise ModelError(f"{path}: no asset with the role mlm:model is an ONNX file beside it ({told})")


def _item(item: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What an Item says in the words of MLM, and in those that geoseg adds."""
    with _understanding(path):
        p = item["properties"]
        given, gives = p["mlm:input"][0], p["mlm:output"][0]
        common = {
            b["name"]: b.get("eo:common_name") for b in p.get("bands", ()) if isinstance(b, Mapping)
        }
        names = [b if isinstance(b, str) else b["name"] for b in given.get("bands") or ()]
        classes = [
            {
                "id": c["value"],
                "name": c.get("name") or c.get("title") or c.get("description"),
                **({"color": f"#{c['color_hint'].lower()}"} if c.get("color_hint") else {}),
            }
            for c in gives.get("classification:classes") or ()
        ]
        said = {
            "name": p.get("mlm:name"),
            "version": p.get("version"),
            "description": p.get("description"),
            "license": p.get("license"),
            "bands": [{"name": n, "common_name": common.get(n)} for n in names] or None,
            "dtype": p.get("geoseg:source_dtype"),
            "value_range": p.get("geoseg:value_range"),
            "gsd": p.get("gsd"),
            "scaling": None if given.get("pre_processing_function") else _mlm_scaling(given),
            "classes": classes or None,
            "threshold": p.get("geoseg:threshold"),
            "tiling": p.get("geoseg:tiling") or _mlm_tiling(given),
        }
        if "geoseg:activation" in p:  # a graph of geoseg's has it inside
            said["activation"] = "none"
    return {key: value for key, value in said.items() if value is not None}


def _mlm_tiling(given: Mapping[str, Any]) -> dict[str, Any] | None:
    sizes = dict(zip(given["input"]["dim_order"], given["input"]["shape"], strict=True))
    height, width = sizes.get("height", -1), sizes.get("width", -1)
    return {"size": height, "fixed": True} if height == width and height > 0 else None


def _mlm_scaling(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """value_scaling, one entry for all bands or one per band; None where it says nothing, or in
    words that no formula stands behind."""
    entries = given.get("value_scaling")
    if not entries:
        return None
    kinds = {e["type"] for e in entries}
    keys = {
        "z-score": {"mean": "mean", "std": "stddev"},
        "min-max": {"minimum": "minimum", "maximum": "maximum"},
        "offset": {"subtract": "value"},
        "scale": {"divide": "value"},
    }
    if len(kinds) != 1 or (kind := next(iter(kinds))) not in keys:
        return None
    one = len(entries) == 1
    return {
        ours: entries[0][theirs] if one else [e[theirs] for e in entries]
        for ours, theirs in keys[kind].items()
    }


# --- torch ----------------------------------------------------------------------------------


def torch_file(path: Path) -> Found:
    """TorchScript, or the tensors of a checkpoint with what its trainer says of the network."""
    need_torch(f"{path}: importing a file of torch")
    from geoseg.exchange.checkpoints import is_torchscript, read_checkpoint

    if is_torchscript(path):
        return Found("TorchScript", script=path)
    state, said = read_checkpoint(path)
    return Found("checkpoint of torch", said, state=state)


@contextmanager
def _understanding(path: Path) -> Iterator[None]:
    """What is said in another shape than the format's documentation has it, as a ModelError."""
    try:
        yield
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError) as e:
        raise ModelError(
            f"{path}: what it says of its model is not as the format has it, so geoseg does not "
            f"understand it ({e!r})"
        ) from e


def _json(text: str | bytes, source: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{source} is no valid JSON ({e})") from e
    if not isinstance(content, dict):
        raise ModelError(f"{source} is no JSON object")
    return content
