"""The STAC catalog of results: valid, complete, and true of the files that it names.

pystac has the schemas of STAC itself; those of extensions would have to be fetched, so what they
ask for is held here by hand.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pystac
import pytest
from models import bright_bundle
from pystac.validation import validate_dict

from geoseg.batch.catalog import write_catalog
from geoseg.batch.items import Item, Link
from geoseg.batch.outcome import Entry, Outcome, Output
from geoseg.bundle import Bundle
from geoseg.errors import OutputError

FOOTPRINT = {
    "type": "Polygon",
    "coordinates": [[[15, 45], [16, 45], [16, 46], [15, 46], [15, 45]]],
}
PARAMETERS = {"threshold": 0.4, "outputs": ["polygons", "mask"], "model": ["1220ab"]}

# What the schemas of file 2.1 and processing 1.2 say of the fields that are used.
TEXT = {"type": "string", "minLength": 1}
EXTENSIONS = {
    "type": "object",
    "properties": {
        "properties": {
            "required": ["processing:datetime", "processing:software", "processing:expression"],
            "properties": {
                "processing:level": {"const": "L4"},
                "processing:datetime": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT.*Z$"},
                "processing:software": {"additionalProperties": TEXT, "minProperties": 1},
                "processing:lineage": TEXT,
                "processing:expression": {"required": ["format", "expression"]},
                "proj:code": {"type": "string", "pattern": r"^[A-Z]+:\w+$"},
            },
        },
        "assets": {
            "minProperties": 1,
            "additionalProperties": {
                "required": ["type", "file:size", "file:checksum"],
                "properties": {
                    "file:size": {"type": "integer", "minimum": 0},
                    "file:checksum": {"type": "string", "pattern": "^1220[a-f0-9]{64}$"},
                },
            },
        },
    },
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(bright_bundle(tmp_path_factory.mktemp("models") / "bright"))


def output(folder: Path, role: Any, path: str) -> Output:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(path.encode() * 10)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Output(role, path, file.stat().st_size, f"1220{digest}")


def entry(folder: Path, name: str, **item: Any) -> Entry:
    outcome = Outcome(
        "done",
        polygons={"object": 3},
        area_m2={"object": 12.5},
        tiles=4,
        seconds=2.5,
        started="2026-11-27T08:00:00+00:00",
        footprint=FOOTPRINT,
        outputs=(
            output(folder, "polygons", f"polygons/{name}.gpkg"),
            output(folder, "mask", f"masks/{name}.tif"),
        ),
        about={"crs": "EPSG:32633"},
    )
    return Entry(Item(name, f"/archive/{name}.tif", **item), "done", 1, outcome)


def entries(folder: Path) -> list[Entry]:
    """One of every kind."""
    source = Link("derived_from", "https://host/items/S2.json", "application/geo+json", "S2")
    span = {"start_datetime": "2024-05-01T00:00:00Z", "end_datetime": "2024-05-02T00:00:00Z"}
    nowhere = entry(folder, "nowhere")
    assert nowhere.outcome is not None
    return [
        entry(folder, "plain"),
        entry(
            folder,
            "S2",
            datetime="2024-05-01T12:00:00+02:00",
            links=(source,),
            properties={"platform": "sentinel-2b", "eo:cloud_cover": 3},
        ),
        entry(folder, "span", properties=span),
        entry(folder, "odd", datetime="in spring"),
        replace(nowhere, outcome=replace(nowhere.outcome, footprint=None, about={"crs": "x"})),
        Entry(Item("broken", "/archive/broken.tif"), "failed", 2, Outcome("failed", "damaged")),
        Entry(Item("waits", "/archive/waits.tif"), "pending", 0, None),
    ]


DONE = ["plain", "S2", "span", "odd", "nowhere"]


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def test_it_is_valid_and_whole(tmp_path: Path, bundle: Bundle) -> None:
    path = write_catalog(tmp_path, iter(entries(tmp_path)), [bundle], PARAMETERS, title="Roofs")
    root = pystac.Catalog.from_file(str(path))
    items = list(root.get_items())
    assert [item.id for item in items] == DONE
    assert root.title == "Roofs"
    validate_dict(read(path), extensions=[])
    for file in sorted((tmp_path / "stac").glob("[im]*/*.json")):
        validate_dict(read(file), extensions=[])
    for item in items:
        jsonschema.validate(item.to_dict(), EXTENSIONS)
        assert item.get_root() is root
        for asset in item.get_assets().values():
            content = Path(str(asset.get_absolute_href())).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            assert asset.extra_fields["file:checksum"] == f"1220{digest}"
            assert asset.extra_fields["file:size"] == len(content)
        model = pystac.Item.from_file(
            str(tmp_path / "stac/items" / item.properties["processing:expression"]["expression"])
        )
        assert model.properties["mlm:name"] == "bright"
        assert all(Path(a.href).exists() for a in model.assets.values())
        assert item.properties["geoseg:parameters"] == PARAMETERS


def test_it_tells_what_a_result_comes_from(tmp_path: Path, bundle: Bundle) -> None:
    write_catalog(tmp_path, entries(tmp_path), [bundle], PARAMETERS)
    items = {name: read(tmp_path / f"stac/items/{name}.json") for name in DONE}
    from_ = {
        name: [(link["href"], link.get("type")) for link in item["links"]
               if link["rel"] == "derived_from"]
        for name, item in items.items()
    }  # fmt: skip
    model = ("../models/bright-1.json", "application/geo+json")
    assert from_["plain"] == [("/archive/plain.tif", "image/tiff; application=geotiff"), model]
    assert from_["S2"] == [("https://host/items/S2.json", "application/geo+json"), model]
    times = {name: item["properties"]["datetime"] for name, item in items.items()}
    predicted = "2026-11-27T08:00:02.500Z"
    assert times == {
        "plain": predicted,
        "S2": "2024-05-01T10:00:00.000Z",
        "span": None,
        "odd": predicted,
        "nowhere": predicted,
    }
    assert items["S2"]["properties"]["platform"] == "sentinel-2b"
    assert "eo:cloud_cover" not in items["S2"]["properties"]
    assert items["plain"]["bbox"] == [15, 45, 16, 46]
    assert items["nowhere"]["geometry"] is None
    assert items["plain"]["properties"]["proj:code"] == "EPSG:32633"


def test_secrets_of_signed_urls_stay_out(tmp_path: Path, bundle: Bundle) -> None:
    signed = replace(entry(tmp_path, "a"), item=Item("a", "https://host/a.tif?sig=secret"))
    write_catalog(tmp_path, [signed], [bundle], {})
    assert "secret" not in (tmp_path / "stac/items/a.json").read_text()


def test_again_only_what_changed_is_written(tmp_path: Path, bundle: Bundle) -> None:
    before = entries(tmp_path)
    write_catalog(tmp_path, before, [bundle], PARAMETERS)
    files = {p: p.stat().st_ino for p in (tmp_path / "stac").rglob("*.json")}
    assert len(files) == len(DONE) + 2
    first, *rest = before
    assert first.outcome is not None
    changed = replace(first, outcome=replace(first.outcome, tiles=5))
    gone = [e for e in rest if e.item.id != "odd"]
    write_catalog(tmp_path, [changed, *gone], [bundle], PARAMETERS)
    after = {p: p.stat().st_ino for p in (tmp_path / "stac").rglob("*.json")}
    assert {p.stem for p in files.keys() - after.keys()} == {"odd"}
    assert {p.stem for p in after if files[p] != after[p]} == {"plain", "catalog"}
    assert read(tmp_path / "stac/items/plain.json")["properties"]["geoseg:tiles"] == 5
    assert not list(tmp_path.rglob(".geoseg-*"))


def test_all_or_nothing(tmp_path: Path, bundle: Bundle) -> None:
    write_catalog(tmp_path, entries(tmp_path)[:1], [bundle], PARAMETERS)
    before = {p: p.read_text() for p in (tmp_path / "stac").rglob("*") if p.is_file()}

    def until_the_disk_is_full() -> Iterator[Entry]:
        yield from entries(tmp_path)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=r"could not be written \(the disk is full\)"):
        write_catalog(tmp_path, until_the_disk_is_full(), [bundle], {"threshold": 0.9})
    after = {p: p.read_text() for p in (tmp_path / "stac").rglob("*") if p.is_file()}
    assert after == before
    assert not list(tmp_path.rglob(".geoseg-*"))


def test_several_models(tmp_path: Path, bundle: Bundle) -> None:
    other = Bundle.open(bright_bundle(tmp_path / "dull", name="dull"))
    write_catalog(tmp_path / "out", [entry(tmp_path / "out", "a")], [bundle, other], {})
    item = read(tmp_path / "out/stac/items/a.json")
    models = [link["mlm:name"] for link in item["links"] if "mlm:name" in link]
    assert models == ["bright", "dull"]
    assert {p.stem for p in (tmp_path / "out/stac/models").iterdir()} == {"bright-1", "dull-1"}
