"""STAC as a source: files, catalogs and an API give the same scenes, and the right bands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import pytest
from affine import Affine
from click.testing import CliRunner
from models import bright_bundle
from numpy.typing import NDArray
from pystac.validation import validate_dict
from servers import Files, StacApi, bucket, running

import geoseg
from geoseg.batch import stac
from geoseg.batch.items import Item
from geoseg.batch.stac import Search, is_stac, stac_items
from geoseg.cli import cli
from geoseg.config import check
from geoseg.errors import ConfigError, SceneError, UsageError
from geoseg.scene import Scene
from geoseg.scene.stack import stack
from geoseg.spec import Band
from geoseg.testing import planted_rectangles, write_scene

EO = "https://stac-extensions.github.io/eo/v1.1.0/schema.json"
COG, JP2 = "image/tiff; application=geotiff; profile=cloud-optimized", "image/jp2"
BANDS = (Band("B04", "red"), Band("B8A", "nir08"), Band("B11", "swir16"))
RGB = (Band("red"), Band("green"), Band("blue"))


def feature(name: str, assets: Mapping[str, Any], **properties: Any) -> dict[str, Any]:
    """A STAC item of 1.0; what it needs beside its assets."""
    west = properties.pop("west", 15.0)
    ring = [[west, 45], [west + 1, 45], [west + 1, 46], [west, 46], [west, 45]]
    return {
        "type": "Feature",
        "stac_version": properties.pop("stac_version", "1.0.0"),
        "stac_extensions": [EO],
        "id": name,
        "collection": properties.pop("collection", "s2"),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, 45, west + 1, 46],
        "properties": {"datetime": "2024-05-01T10:00:00Z", "eo:cloud_cover": 5, **properties},
        "links": [],
        "assets": dict(assets),
    }


def asset(href: str, *bands: tuple[str, str], **fields: Any) -> dict[str, Any]:
    named = [{"name": name, "common_name": common} for name, common in bands]
    told = {"eo:bands": named} if bands else {}
    return {"href": href, "type": COG, "roles": ["data"], **told, **fields}


def sentinel_assets(folder: str) -> dict[str, Any]:
    """As Earth Search lists them: every band as COG and as JPEG 2000, pictures, metadata."""
    colours = (("B04", "red"), ("B03", "green"), ("B02", "blue"))
    visual = asset(f"{folder}/TCI.tif", *colours, roles=["visual"])
    plain = {
        common: asset(f"{folder}/{name}.tif", (name, common))
        for name, common in (*colours, ("B08", "nir"), ("B8A", "nir08"), ("B11", "swir16"))
    }
    slow = {
        f"{key}-jp2": {**a, "type": JP2, "href": a["href"].replace(".tif", ".jp2")}
        for key, a in plain.items()
    }
    thumbnail = {"href": f"{folder}/L2A.jpg", "type": "image/jpeg", "roles": ["thumbnail"]}
    metadata = {"href": f"{folder}/meta.xml", "type": "application/xml", "roles": ["metadata"]}
    return {"visual": visual, **slow, **plain, "thumbnail": thumbnail, "metadata": metadata}


def collection(folder: Path, *features: Mapping[str, Any]) -> str:
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return str(path)


def parts_of(
    tmp_path: Path, assets: Mapping[str, Any], bands: Sequence[Band], *wanted: str, **item: Any
) -> tuple[str, ...]:
    source = collection(tmp_path, feature("a", assets, **item))
    (found,) = stac_items(source, bands, Search(assets=wanted))
    assert found.problem is None
    return tuple(p.removeprefix(f"{tmp_path}/") for p in found.parts or (found.source,))


# --- which assets ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bands", "wanted", "parts"),
    [
        (BANDS, (), ("B04", "B8A", "B11")),
        (RGB, (), ("B04", "B03", "B02")),
        ((Band("nir"), Band("b11")), (), ("B08", "B11")),  # not narrow infrared; any case
        ((Band("B08"), Band("B8A")), (), ("B08", "B8A")),
        ((Band("Near Infrared"),), (), ("B08",)),
        (RGB, ("B11", "nir", "red"), ("B11", "B08", "B04")),
    ],
)
def test_bands_are_found_by_any_of_their_names(
    tmp_path: Path, bands: Sequence[Band], wanted: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    assets = sentinel_assets("./tile")
    found = parts_of(tmp_path, assets, bands, *wanted)
    assert found == tuple(f"tile/{name}.tif#1" for name in parts)


def test_one_asset_may_have_all_bands(tmp_path: Path) -> None:
    assets = sentinel_assets("tile")
    assert parts_of(tmp_path, assets, RGB[::-1], "visual") == (
        "tile/TCI.tif#3",
        "tile/TCI.tif#2",
        "tile/TCI.tif#1",
    )
    naip = {"image": asset("x.tif", ("Red", "red"), ("Green", "green"), ("Blue", "blue"))}
    assert parts_of(tmp_path, naip, RGB) == ("x.tif#1", "x.tif#2", "x.tif#3")
    untold = {"image": asset("x.tif"), "overview": asset("o.tif", roles=["overview"])}
    assert parts_of(tmp_path, untold, RGB) == ("x.tif",)
    assert parts_of(tmp_path, {**untold, "other": asset("y.tif")}, RGB, "other") == ("y.tif",)


def test_bands_of_stac_1_1(tmp_path: Path) -> None:
    bands = [{"name": "B8A", "eo:common_name": "nir08"}, {"name": "B4", "eo:common_name": "red"}]
    assets = {"image": asset("x.tif", bands=bands), "b11": asset("y.tif", bands=[{"name": "B11"}])}
    wanted = (Band("B04", "red"), Band("B8A"), Band("B11", "swir16"))
    found = parts_of(tmp_path, assets, wanted, stac_version="1.1.0")
    assert found == ("x.tif#2", "x.tif#1", "y.tif#1")


def test_what_an_item_lacks_is_its_problem_alone(tmp_path: Path) -> None:
    poor = {"red": asset("B04.tif", ("B04", "red")), "pan": asset("P.tif"), "x": asset("x.jpg")}
    poor["x"]["type"] = "image/jpeg"
    poor["x"]["roles"] = ["thumbnail"]
    whole = feature("good", sentinel_assets("."))
    source = collection(tmp_path, feature("poor", poor), whole)
    bad, good = stac_items(source, BANDS)
    assert good.problem is None
    assert bad.problem == (
        "poor: has no asset for B8A, B11; it has red (B04), pan: choose with --assets"
    )
    bad, good = stac_items(source, BANDS, Search(assets=("visual",)))
    assert bad.problem is not None
    assert "poor: has no asset 'visual'; it has" in bad.problem
    assert good.problem == (
        "good: the asset 'visual' has no B8A, B11; it has visual (red, green, blue): choose "
        "with --assets"
    )
    with pytest.raises(UsageError, match="2 are given, the model takes 3 bands"):
        list(stac_items(source, BANDS, Search(assets=("red", "nir"))))


@pytest.mark.parametrize(
    ("href", "home", "is_at"),
    [
        ("./tile/B04.tif", None, "{folder}/tile/B04.tif"),
        ("B04.tif?sig=1", "https://host/c/items/a.json", "https://host/c/items/B04.tif?sig=1"),
        ("s3://bucket/B04.tif", None, "s3://bucket/B04.tif"),
        ("/vsis3/bucket/B04.tif", None, "/vsis3/bucket/B04.tif"),
        ("file:///data/B%2004.tif", None, "/data/B 04.tif"),
    ],
)
def test_hrefs(tmp_path: Path, href: str, home: str | None, is_at: str) -> None:
    item = feature("a", {"red": asset(href)})
    item["links"] = [{"rel": "self", "href": home}] if home else []
    (found,) = stac_items(collection(tmp_path, item), [Band("red")])
    assert found.source == is_at.format(folder=tmp_path)
    (link,) = found.links
    assert (link.rel, link.href) == ("derived_from", home or str(tmp_path / "items.json"))


# --- which items ----------------------------------------------------------------------------


def many() -> list[dict[str, Any]]:
    """Items that differ in all that a search asks for."""
    return [
        feature(
            f"S2_{i:02}",
            sentinel_assets(f"tiles/{i}"),
            west=10.0 + i,
            datetime=f"2024-{1 + i % 12:02}-15T10:00:00Z",
            collection="s2-l2a" if i % 5 else "s2-l1c",
            **{"eo:cloud_cover": 7 * i % 100},
        )
        for i in range(20)
    ]


def static_catalog(folder: Path, features: Sequence[dict[str, Any]]) -> str:
    """As pystac writes it: a catalog, collections in it, items in these."""
    root = pystac.Catalog("root", "all")
    extent = pystac.Extent(
        pystac.SpatialExtent([[-180, -90, 180, 90]]), pystac.TemporalExtent([[None, None]])
    )
    for name in sorted({f["collection"] for f in features}):
        child = pystac.Collection(name, name, extent)
        root.add_child(child)
        child.add_items(pystac.Item.from_dict(f) for f in features if f["collection"] == name)
    root.normalize_and_save(str(folder), pystac.CatalogType.SELF_CONTAINED)
    return str(folder / "catalog.json")


SEARCHES = {
    "collection": Search(collections=("s2-l1c",)),
    "place": Search(bbox=(13.2, 44.0, 17.5, 45.5)),
    "a place where nothing is": Search(bbox=(13.2, 50.0, 17.5, 51)),
    "year": Search(datetime="2024"),
    "months": Search(datetime="2024-05/2024-08"),
    "from": Search(datetime="2024-11-15T10:00:00Z/.."),
    "until": Search(datetime="../2024-02-15T09:59:59Z"),
    "clouds": Search(collections=("s2-l2a",), max_cloud=49),
    "some": Search(collections=("s2-l2a", "s2-l1c"), max_items=4),
    "all of it": Search(
        collections=("s2-l2a",), bbox=(11, 44, 26, 46), datetime="2024-03/..", max_cloud=60
    ),
}


def by_hand(search: Search, items: Sequence[dict[str, Any]]) -> list[str]:
    """The ids that a search means: the obvious implementation, for these items."""
    spans = {
        "2024": ("2024-01", "2024-12-31T"),
        "2024-05/2024-08": ("2024-05", "2024-08-31T"),
        "2024-11-15T10:00:00Z/..": ("2024-11-15T10:00:00Z", "9"),
        "../2024-02-15T09:59:59Z": ("", "2024-02-15T09:59:59Z"),
        "2024-03/..": ("2024-03", "9"),
        None: ("", "9"),
    }
    low, high = spans[search.datetime]
    box = search.bbox or (-180, -90, 180, 90)
    return [
        item["id"]
        for item in items
        if not search.collections or item["collection"] in search.collections
        if item["bbox"][0] <= box[2] and item["bbox"][2] >= box[0]
        if item["bbox"][1] <= box[3] and item["bbox"][3] >= box[1]
        if low <= item["properties"]["datetime"] <= high
        if search.max_cloud is None or item["properties"]["eo:cloud_cover"] <= search.max_cloud
    ][: search.max_items]


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_means_the_same_everywhere(tmp_path: Path, name: str) -> None:
    search, items = SEARCHES[name], many()
    expected = by_hand(search, items)
    assert expected or "nothing" in name

    def ids(source: str) -> list[str]:
        return [item.id for item in stac_items(source, RGB, search)]

    assert ids(collection(tmp_path, *items)) == expected
    (tmp_path / "catalog").mkdir()
    static = ids(static_catalog(tmp_path / "catalog", items))
    assert set(static) == set(expected) or (search.max_items and len(static) == search.max_items)
    for query in (True, False):
        api = StacApi(items, query=query)
        with running(api.app) as url:
            assert ids(url) == expected
    asked = api.searches[0]
    assert "query" not in asked
    assert asked.get("collections", []) == list(search.collections)


def test_the_api_does_the_selecting(tmp_path: Path) -> None:
    api = StacApi(many())
    with running(api.app) as url:
        items = list(stac_items(url, RGB, Search(collections=("s2-l2a",), max_cloud=30)))
        assert api.searches[0]["query"] == {"eo:cloud_cover": {"lte": 30}}
        first, *_ = items
        assert first.key == f"s2-l2a/{first.id}"
        assert first.footprint is not None
        assert first.datetime == "2024-02-15T10:00:00Z"
        assert first.properties["eo:cloud_cover"] == 7
        named = [i.id for i in stac_items(f"{url}/collections/s2-l1c", RGB)]
        paged = [i.id for i in stac_items(f"{url}/collections/s2-l1c/items", RGB)]
        assert named == paged == ["S2_00", "S2_05", "S2_10", "S2_15"]
        with pytest.raises(UsageError, match="--collection, --bbox or --datetime"):
            list(stac_items(url, RGB))


def test_pages_are_fetched_when_they_are_needed() -> None:
    api = StacApi(many())
    with running(api.app) as url:
        stream = stac_items(url, RGB, Search(datetime="2024"))
        next(stream)
        assert len(api.searches) == 1
        assert len(list(stream)) == 19
        assert len(api.searches) == 7


def test_an_api_that_fails_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stac, "_BACKOFF", 0.01)
    api = StacApi(many())
    with running(api.app) as url:
        api.faults.extend([503, 429, 502])
        assert len(list(stac_items(url, RGB, Search(datetime="2024")))) == 20
        api.faults.extend([503] * 100)
        with pytest.raises(SceneError, match="the STAC API does not answer") as caught:
            list(stac_items(url, RGB, Search(datetime="2024")))
        assert "\n" not in str(caught.value)
        api.faults.clear()
        api.faults.extend([400])
        with pytest.raises(SceneError, match="the STAC API does not answer"):
            list(stac_items(url, RGB, Search(datetime="2024")))


def test_broken_parts_of_a_catalog_are_problems_of_their_own(tmp_path: Path) -> None:
    source = static_catalog(tmp_path, many()[:6])
    gone, torn = (tmp_path / "s2-l2a" / f"S2_0{i}" / f"S2_0{i}.json" for i in (1, 2))
    gone.unlink()
    torn.write_text('{"type": "Feature", "id": 3')
    found = {item.id: item.problem for item in stac_items(source, RGB)}
    assert len(found) == 6
    assert {name for name, problem in found.items() if problem} == {"S2_01", "S2_02"}
    assert "S2_01.json: cannot be read as a STAC item" in str(found["S2_01"])


def test_a_catalog_over_http(tmp_path: Path) -> None:
    static_catalog(tmp_path, many())
    server = Files(tmp_path)
    with running(server.app) as url:
        items = list(stac_items(f"{url}/catalog.json", RGB, Search(collections=("s2-l1c",))))
        assert {item.id for item in items} == {"S2_00", "S2_05", "S2_10", "S2_15"}
        first = items[0]
        assert first.parts[0] == f"{url}/s2-l1c/S2_00/tiles/0/B04.tif#1"
        assert first.links[0].href == f"{url}/s2-l1c/S2_00/S2_00.json"
    assert not any("S2_01" in path for _, path, _ in server.requests)


def test_an_item_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "S2_03.json"
    item = many()[3]
    item["links"] = [{"rel": "self", "href": "https://elsewhere/S2_03.json"}]
    path.write_text(json.dumps(item))
    (found,) = stac_items(str(path), RGB)
    assert found.parts[0] == f"{tmp_path}/tiles/3/B04.tif#1"
    assert Item.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_stac_is_known_by_its_content(tmp_path: Path) -> None:
    index = {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {}}]}
    contents = {
        "items.geojson": (json.dumps({**index, "features": many()[:1]}), True),
        "catalog.txt": ("\ufeff" + json.dumps({"type": "Catalog", "stac_version": "1.1.0"}), True),
        "index.geojson": (json.dumps(index), False),
        "empty.geojson": (json.dumps({**index, "features": []}), False),
        "torn.json": ('{"stac_version": "1.0', False),
        "list.txt": ("a.tif\nb.tif\n", False),
        "numbers.json": ("[1, 2]", False),
    }
    for name, (text, _) in contents.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "image").write_bytes(bytes(2_000_000))
    server = Files(tmp_path)
    with running(server.app) as url:
        for name, (_, is_one) in contents.items():
            assert is_stac(str(tmp_path / name)) is is_one, name
            assert is_stac(f"{url}/{name}") is is_one, name
        for nothing in (f"{url}/image", f"{url}/none", str(tmp_path), str(tmp_path / "none")):
            assert not is_stac(nothing)
    with pytest.raises(SceneError, match=r"index\.geojson: is no STAC"):
        list(stac_items(str(tmp_path / "index.geojson"), RGB))
    torn = tmp_path / "torn.geojson"
    features = [{"stac_version": "1.0.0", "id": "x"}, many()[0]]
    torn.write_text(json.dumps({**index, "features": features}))
    bad, good = stac_items(str(torn), RGB)
    assert bad.id == "x"
    assert "cannot be read as a STAC item" in str(bad.problem)
    assert good.problem is None
    torn.write_text(json.dumps({"stac_version": "1.0.0", "type": "Catalog", "links": [{}]}))
    with pytest.raises(SceneError, match=r"torn\.geojson: is no valid STAC"):
        list(stac_items(str(torn), RGB))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"bbox": (13, 46, 14, 45)}, "bbox: degrees are needed"),
        ({"datetime": "spring"}, "'spring' is no date"),
        ({"datetime": "2024-05/2024-04"}, "ends before it begins"),
        ({"max_cloud": 101}, "max_cloud"),
        ({"colection": "s2"}, "unknown key 'colection'"),
    ],
)
def test_a_search_that_makes_no_sense(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(values, Search, source="batch")


def test_a_box_may_cross_the_date_line(tmp_path: Path) -> None:
    fiji = feature("fiji", sentinel_assets("."), west=178.5)
    source = collection(tmp_path, fiji, feature("bern", sentinel_assets("."), west=7.0))
    found = stac_items(source, RGB, Search(bbox=(179, 40, -179, 50)))
    assert [item.id for item in found] == ["fiji"]


# --- to the pixels --------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two scenes: bright rectangles on dark ground, red at 10 m, nir and swir at 20 m."""
    folder = tmp_path / "archive"
    for i in range(2):
        (folder / f"tiles/{i}").mkdir(parents=True)
        mask = planted_rectangles((150, 210), count=20, seed=i)
        for name, value in (("B04", 240), ("B8A", 220), ("B11", 250)):
            step = 1 if name == "B04" else 2
            coarse = mask if step == 2 else mask.repeat(2, 0).repeat(2, 1)
            rows, cols = np.indices(coarse.shape)
            ground = 1 + (rows * 7 + cols * 3) % 40
            data = np.where(coarse, value, ground).astype("uint8")[None]
            at = Affine(10 * step, 0, 500_000, 0, -10 * step, 5_000_000)
            write_scene(folder / f"tiles/{i}/{name}.tif", data, transform=at, compress="deflate")
    return folder


def predicted(source: str, model: Path, out: Path) -> gpd.GeoDataFrame:
    geoseg.predict(source, out, model=model)
    return gpd.read_file(out)


def pixels(source: str) -> NDArray[Any]:
    with Scene.open(source) as scene:
        return scene.read(scene.grid.window)[0]


def test_the_whole_way_from_an_api_to_polygons(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local files, http and S3 give the same pixels, and the same polygons."""
    model = bright_bundle(tmp_path / "bright", bands=BANDS, gsd=10.0)
    local = stack([archive / f"tiles/0/{b.name}.tif" for b in BANDS])
    truth = predicted(local, model, tmp_path / "local.gpkg")
    assert len(truth) > 5

    with running(Files(archive).app) as files, bucket(archive, "archive") as environment:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        roots = {"http": f"{files}/tiles/0", "s3": "s3://archive/tiles/0"}
        api = StacApi([feature(name, sentinel_assets(root)) for name, root in roots.items()])
        with running(api.app) as url:
            items = list(stac_items(url, BANDS, Search(collections=("s2",))))
        assert [item.id for item in items] == ["http", "s3"]
        for item in items:
            source = stack(item.parts, names=[b.name for b in BANDS], name=item.source)
            np.testing.assert_array_equal(pixels(source), pixels(local))
            frame = predicted(source, model, tmp_path / f"{item.id}.gpkg")
            assert frame.geom_equals_exact(truth, 0).all()

    vrt = tmp_path / "scene.vrt"
    vrt.write_text(local)
    out = tmp_path / "cli.gpkg"
    arguments = ["predict", str(vrt), "-o", str(out), "--model", str(model), "--json"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert gpd.read_file(out).geom_equals_exact(truth, 0).all()


def test_batch_from_an_api_to_a_catalog(archive: Path, tmp_path: Path) -> None:
    """A scene whose file is missing and one that lacks a band fail alone, with their reasons."""
    model = bright_bundle(tmp_path / "bright", bands=BANDS, gsd=10.0)
    out = tmp_path / "out"
    with running(Files(archive).app) as files:
        features = [feature(f"S2_{i}", sentinel_assets(f"{files}/tiles/{i}")) for i in range(3)]
        features.append(feature("poor", {"red": asset(f"{files}/tiles/0/B04.tif")}))
        with running(StacApi(features).app) as url:
            arguments = ["batch", url, "--collection", "s2", "-o", str(out), "--model", str(model)]
            done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 3, done.output
    events = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    failed = {e["id"]: e["error"] for e in events if e["event"] == "scene" and e["error"]}
    assert failed.keys() == {"S2_2", "poor"}
    assert "/tiles/2/B04.tif: does not exist (HTTP 404)" in failed["S2_2"]
    assert "poor: has no asset for B8A, B11; it has red" in failed["poor"]

    items = list(pystac.Catalog.from_file(str(out / "stac" / "catalog.json")).get_items())
    assert [item.id for item in items] == ["S2_0", "S2_1"]
    for i, item in enumerate(items):
        validate_dict(item.to_dict(), extensions=[])
        local = stack([archive / f"tiles/{i}/{b.name}.tif" for b in BANDS])
        truth = predicted(local, model, tmp_path / f"{i}.gpkg")
        found = gpd.read_file(str(item.assets["polygons"].get_absolute_href()))
        assert found.geom_equals_exact(truth, 0).all()
        assert item.datetime == datetime(2024, 5, 1, 10, tzinfo=UTC)
