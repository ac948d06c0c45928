"""The results of a batch as a static STAC catalog: one Item per scene that is done.

::

    stac/
      catalog.json       root; links to the items
      items/ID.json      footprint, assets with checksums, how and from what they were made
      models/ID.json     MLM Items of the models

What the processing extension says of results of models (level L4, an expression that leads to
the MLM Item) is as the MLM extension's best practices want it. All links are relative, but those
to sources: the folder of a batch may be moved, or served as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import geoseg
from geoseg.batch.items import Item, Link
from geoseg.batch.outcome import Entry, Outcome, Output
from geoseg.bundle import Bundle
from geoseg.scene.files import shown
from geoseg.sinks.atomic import Commit, together, write_failure
from geoseg.spec import FILE_SCHEMA

PROCESSING_SCHEMA = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
PROJECTION_SCHEMA = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
FOLDER = "stac"
_VERSION, _GEOJSON, _JSON = "1.1.0", "application/geo+json", "application/json"
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_TYPES = {
    ".gpkg": "application/geopackage+sqlite3",
    ".parquet": "application/vnd.apache.parquet",
    ".fgb": "application/vnd.flatgeobuf",
    ".geojson": _GEOJSON,
    ".geojsonl": "application/geo+json-seq",
    ".shp": "application/vnd.shp",
    ".tif": _COG,
}
_TITLES = {
    "polygons": "Polygons",
    "mask": "Class of each pixel",
    "probabilities": "Probability of each class",
}
# Of the source's properties, those that mean the same of what is derived from it.
_KEPT = ("start_datetime", "end_datetime", "platform", "constellation", "instruments", "mission")


def write_catalog(
    folder: Path,
    entries: Iterable[Entry],
    bundles: Sequence[Bundle],
    parameters: Mapping[str, Any],
    *,
    title: str = "",
) -> Path:
    """Write the catalog of the scenes that are done into `folder`/stac; return its path.

    Items that have not changed are left alone; those of scenes that are no longer done go. All
    appear together, the root last. parameters: what the scenes were predicted with, JSON values.
    Raises OutputError.
    """
    root = folder / FOLDER
    about = f"{title or folder.absolute().name}: polygons by {_named(bundles)}"
    with together() as commit:
        _put(commit, root / "models", (_model(bundle) for bundle in bundles))
        names = _put(commit, root / "items", _results(entries, bundles, parameters))
        _put(commit, root, [("catalog", _catalog(about, names))])
    _remove_others(root / "items", set(names))
    return root / "catalog.json"


def _put(
    commit: Commit, folder: Path, documents: Iterable[tuple[str, Mapping[str, Any]]]
) -> list[str]:
    """Let (name, document) become files of `folder` with the others; return their names."""
    names, hidden = [], commit.folder(folder / "any.json")
    path = folder
    try:
        for name, document in documents:
            path = folder / f"{name}.json"
            text = json.dumps(document, indent=1, ensure_ascii=False, default=str)
            if not (path.is_file() and path.read_text(encoding="utf-8") == text):
                (hidden / path.name).write_text(text, encoding="utf-8")
            names.append(name)
    except OSError as e:
        raise write_failure(path, e, temp=hidden / path.name) from e
    commit.add(hidden, path, overwrite=True, stale=(), sync=False)
    return names


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove the items to which the root no longer leads."""
    for path in folder.glob("*.json"):
        if path.stem not in names:
            path.unlink(missing_ok=True)


# --- documents ------------------------------------------------------------------------------


def _catalog(about: str, names: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "Catalog",
        "stac_version": _VERSION,
        "id": "geoseg-batch",
        "title": about.partition(":")[0],
        "description": about,
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": _JSON},
            *({"rel": "item", "href": f"./items/{n}.json", "type": _GEOJSON} for n in names),
        ],
    }


def _model(bundle: Bundle) -> tuple[str, Mapping[str, Any]]:
    """The MLM Item of a model; its files stay where they are."""
    assets = {
        key: {**asset, "href": str(bundle.path.absolute() / asset["href"])}
        for key, asset in bundle.item["assets"].items()
    }
    return bundle.spec.id, {**bundle.item, "assets": assets}


def _results(
    entries: Iterable[Entry], bundles: Sequence[Bundle], parameters: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in entries:
        if entry.state == "done" and entry.outcome is not None:
            yield entry.item.id, _result(entry.item, entry.outcome, bundles, parameters)


def _result(
    item: Item, outcome: Outcome, bundles: Sequence[Bundle], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """The Item of one scene."""
    code = str(outcome.about.get("crs", ""))
    projected = {"proj:code": code} if code.startswith("EPSG:") else {}
    extensions = [PROCESSING_SCHEMA, FILE_SCHEMA, *([PROJECTION_SCHEMA] if projected else [])]
    geometry = outcome.footprint or item.footprint
    return {
        "type": "Feature",
        "stac_version": _VERSION,
        "stac_extensions": extensions,
        "id": item.id,
        "geometry": geometry,
        **({"bbox": _bbox(geometry)} if geometry else {}),
        "properties": {
            "title": f"{item.id} by {_named(bundles)}",
            **_times(item, outcome),
            **{k: v for k in _KEPT if (v := item.properties.get(k)) is not None},
            **projected,
            "gsd": bundles[0].spec.gsd,
            "processing:level": "L4",
            "processing:datetime": _finished(outcome),
            "processing:software": {"geoseg": geoseg.__version__},
            "processing:lineage": f"geoseg batch of {_named(bundles)}",
            "processing:expression": {"format": "stac-mlm", "expression": _model_href(bundles[0])},
            "geoseg:parameters": dict(parameters),
            "geoseg:polygons": dict(outcome.polygons),
            "geoseg:area_m2": dict(outcome.area_m2),
            "geoseg:tiles": outcome.tiles,
            "geoseg:seconds": round(outcome.seconds, 3),
        },
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": _JSON},
            {"rel": "parent", "href": "../catalog.json", "type": _JSON},
            *map(_link, _origin(item)),
            *map(_model_link, bundles),
        ],
        "assets": {output.role: _asset(output) for output in outcome.outputs},
    }


def _asset(output: Output) -> dict[str, Any]:
    suffix = PurePosixPath(output.path).suffix.lower()
    return {
        "href": f"../../{output.path}",
        "title": _TITLES[output.role],
        **({"type": _TYPES[suffix]} if suffix in _TYPES else {}),
        "roles": ["data"],
        "file:size": output.bytes,
        "file:checksum": output.checksum,
    }


def _origin(item: Item) -> Sequence[Link]:
    """What the scene comes from: as its source says, else the raster itself."""
    known = [link for link in item.links if link.rel == "derived_from"]
    if known:
        return known
    picture = item.source.lower().endswith((".tif", ".tiff"))
    kind = "image/tiff; application=geotiff" if picture else None
    return [Link("derived_from", shown(item.source), kind, item.id)]


def _link(link: Link) -> dict[str, Any]:
    told = {"rel": link.rel, "href": link.href, "type": link.type, "title": link.title}
    return {key: value for key, value in told.items() if value is not None}


def _model_link(bundle: Bundle) -> dict[str, Any]:
    return {
        "rel": "derived_from",
        "href": _model_href(bundle),
        "type": _GEOJSON,
        "title": f"Model {bundle.spec.id}",
        "mlm:name": bundle.spec.name,
        "processing:level": "L4",
    }


def _model_href(bundle: Bundle) -> str:
    return f"../models/{bundle.spec.id}.json"


def _named(bundles: Sequence[Bundle]) -> str:
    return ", ".join(bundle.spec.id for bundle in bundles)


# --- place and time -------------------------------------------------------------------------


def _bbox(geometry: Mapping[str, Any]) -> list[float]:
    """West, south, east, north of a GeoJSON geometry."""
    import shapely

    return [float(v) for v in shapely.from_geojson(json.dumps(geometry)).bounds]


def _times(item: Item, outcome: Outcome) -> dict[str, Any]:
    """When the scene was taken, or, as STAC wants a time: when it was predicted."""
    taken = _rfc3339(item.datetime)
    if taken is None and {"start_datetime", "end_datetime"} <= item.properties.keys():
        return {"datetime": None}
    return {"datetime": taken or _finished(outcome)}


def _finished(outcome: Outcome) -> str:
    started = _moment(outcome.started) or datetime.now(UTC)
    return _stamp(started + timedelta(seconds=outcome.seconds))


def _rfc3339(text: str | None) -> str | None:
    moment = _moment(text)
    return None if moment is None else _stamp(moment)


def _moment(text: str | None) -> datetime | None:
    """A time as tables and STAC write it; without a zone it is in UTC."""
    try:
        moment = datetime.fromisoformat((text or "").strip())
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
