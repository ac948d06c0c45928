"""`geoseg vectorize`: any raster of classes on disk, from any tool, to polygons."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine
from scipy import ndimage

import geoseg
from geoseg import vectorize_raster
from geoseg.errors import ConfigError, OutputError, SceneError, UsageError
from geoseg.scene import classes
from geoseg.scene.files import quiet
from geoseg.sinks import read_metadata
from geoseg.sinks.raster import PROBABILITY_SCALE, encode_probabilities
from geoseg.vectorize.sieve import Cleaner

TRANSFORM = Affine(0.5, 0, 350_000, 0, -0.5, 3_060_000)


def write(path: Path, data: np.ndarray, *, tags: dict[str, str] | None = None, **profile) -> Path:
    data = data[None] if data.ndim == 2 else data
    count, height, width = data.shape
    how = {"crs": "EPSG:32645", "transform": TRANSFORM, "driver": "GTiff"} | profile
    descriptions, scale = how.pop("descriptions", ()), how.pop("scale", None)
    palette = how.pop("palette", None)
    with (
        quiet(),
        rasterio.open(
            path, "w", count=count, height=height, width=width, dtype=data.dtype, **how
        ) as out,
    ):
        out.write(data)
        if palette:
            out.write_colormap(1, palette)
        out.update_tags(1, **(tags or {}))
        for band, text in enumerate(descriptions, start=1):
            out.set_band_description(band, text)
        if scale:
            out.scales = (scale,) * count
    return path


@pytest.fixture(scope="session")
def scores() -> np.ndarray:
    noise = np.random.default_rng(5).standard_normal((3, 190, 230))
    weight = np.exp(12 * ndimage.gaussian_filter(noise, (0, 3, 3)))
    return (weight / weight.sum(axis=0)).astype(np.float32)


@pytest.fixture(scope="session")
def labels(scores: np.ndarray) -> np.ndarray:
    return scores.argmax(axis=0).astype(np.uint8)


def expected(mask: np.ndarray, valid: np.ndarray | None = None) -> set[tuple[bytes, int]]:
    found = list(rasterio.features.shapes(mask, mask=valid, transform=TRANSFORM))
    shapes = shapely.normalize([shapely.geometry.shape(s) for s, _ in found])
    return {(wkb, int(v)) for wkb, (_, v) in zip(shapely.to_wkb(shapes), found, strict=True)}


def written(path: Path) -> set[tuple[bytes, int]]:
    frame = gpd.read_file(path)
    shapes = shapely.to_wkb(shapely.normalize(frame.geometry.to_numpy()))
    assert frame.is_valid.all()
    return set(zip(shapes, frame.class_id, strict=True))


@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"},
        {"blockysize": 7, "compress": "lzw"},
    ],
    ids=["plain", "tiles", "strips"],
)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64"])
def test_every_kind_of_integers(labels, tmp_path, dtype, profile, monkeypatch) -> None:
    monkeypatch.setattr(classes, "BAND_BYTES", 50_000)  # many bands
    mask = labels.astype(dtype)
    path = write(tmp_path / "mask.tif", mask, **profile)
    result = vectorize_raster(path, tmp_path / "o.gpkg")
    assert written(tmp_path / "o.gpkg") == expected(labels, labels != 0)
    assert result.rows == 190
    for number in (1, 2):
        area = result.area_m2[str(number)]
        assert area == pytest.approx((labels == number).sum() / 4, rel=2e-3)  # scale of UTM


def test_nodata_background_and_zero(labels, tmp_path) -> None:
    path = write(tmp_path / "mask.tif", labels, nodata=2)
    vectorize_raster(path, tmp_path / "a.gpkg")
    assert written(tmp_path / "a.gpkg") == expected(labels, labels == 1)
    vectorize_raster(path, tmp_path / "b.gpkg", background=())
    assert written(tmp_path / "b.gpkg") == expected(labels, labels != 2)
    vectorize_raster(path, tmp_path / "c.gpkg", background=(1,), nodata=255)
    assert written(tmp_path / "c.gpkg") == expected(labels, labels != 1)


def test_eight_connectivity(tmp_path) -> None:
    path = write(tmp_path / "mask.tif", np.eye(5, dtype=np.uint8))
    assert vectorize_raster(path, tmp_path / "4.gpkg").polygons == {"1": 5}
    assert vectorize_raster(path, tmp_path / "8.gpkg", connectivity=8).polygons == {"1": 1}
    assert set(gpd.read_file(tmp_path / "8.gpkg").geom_type) == {"MultiPolygon"}


# Names --------------------------------------------------------------------------------------------


def aux(inside: str) -> str:
    return f'<PAMDataset><PAMRasterBand band="1">{inside}</PAMRasterBand></PAMDataset>'


RAT = aux(
    """<GDALRasterAttributeTable><FieldDefn index="0"><Name>Code</Name><Type>0</Type>
    <Usage>5</Usage></FieldDefn><FieldDefn index="1"><Name>Count</Name><Type>0</Type>
    <Usage>1</Usage></FieldDefn><FieldDefn index="2"><Name>Art</Name><Type>2</Type>
    <Usage>2</Usage></FieldDefn><Row index="0"><F>1</F><F>7</F><F>wood</F></Row>
    <Row index="1"><F>2</F><F>8</F><F>water</F></Row></GDALRasterAttributeTable>"""
)
CATEGORIES = aux(
    "<CategoryNames><Category/><Category>wood</Category><Category>water</Category></CategoryNames>"
)


@pytest.mark.parametrize("told", ["tags", "rat", "categories", "dbf", "options"])
def test_names_of_classes(labels, tmp_path, told) -> None:
    tags = {"CLASS_1": "wood", "CLASS_2": "water"} if told == "tags" else {}
    path = write(tmp_path / "mask.tif", labels, tags=tags, palette={1: (0, 99, 0, 255)})
    options = {"classes": {1: "wood", 2: "water"}} if told == "options" else {}
    if told in ("rat", "categories"):
        text = RAT if told == "rat" else CATEGORIES
        (tmp_path / "mask.tif.aux.xml").write_text(text)
    if told == "dbf":
        import pandas as pd
        import pyogrio

        table = pd.DataFrame({"VALUE": [1, 2], "COUNT": [3, 4], "CLASS_NAME": ["wood", "water"]})
        pyogrio.write_dataframe(table, tmp_path / "mask.tif.vat.dbf", driver="ESRI Shapefile")
    result = vectorize_raster(path, tmp_path / "o.parquet", **options)
    assert set(result.polygons) == {"wood", "water"}
    frame = gpd.read_parquet(tmp_path / "o.parquet")
    assert (frame.class_id == frame["class"].map({"wood": 1, "water": 2})).all()


def test_names_of_a_broken_table_are_numbers(labels, tmp_path) -> None:
    path = write(tmp_path / "mask.vrt.tif", labels)
    (tmp_path / "mask.vrt.tif.vat.dbf").write_bytes(b"no table")
    assert set(vectorize_raster(path, tmp_path / "o.gpkg").polygons) == {"1", "2"}


# Confidence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["float32", "uint16", "order", "one"])
def test_confidence(labels, scores, tmp_path, how) -> None:
    names = ["field", "wood", "water"]
    profile = {"descriptions": names}
    data = scores
    if how == "uint16":
        data = encode_probabilities(scores, np.ones(labels.shape, bool))
        profile |= {"nodata": 65535, "scale": PROBABILITY_SCALE}
    elif how == "order":
        profile = {}
    elif how == "one":
        data, profile = scores.max(axis=0), {}
    path = write(tmp_path / "mask.tif", labels)
    given = write(tmp_path / "scores.tif", data, **profile)
    vectorize_raster(
        path,
        tmp_path / "o.gpkg",
        confidence=given,
        classes=dict(enumerate(names)),
        background=(),
    )
    frame = gpd.read_file(tmp_path / "o.gpkg")
    own = scores.max(axis=0)
    for _, row in frame.sample(20, random_state=0).iterrows():
        inside = rasterio.features.rasterize([row.geometry], labels.shape, transform=TRANSFORM) > 0
        assert row.confidence == pytest.approx(own[inside].mean(), abs=2e-5)
        assert row.confidence_min == pytest.approx(own[inside].min(), abs=2e-5)


def test_contours_from_rasters(labels, scores, tmp_path) -> None:
    path = write(tmp_path / "mask.tif", labels)
    given = write(tmp_path / "scores.tif", scores, descriptions=["field", "wood", "water"])
    options = {"confidence": given, "classes": {0: "field", 1: "wood", 2: "water"}}
    vectorize_raster(path, tmp_path / "o.gpkg", outline="contour", background=(), **options)
    frame = gpd.read_file(tmp_path / "o.gpkg")
    assert len(frame) == len(expected(labels))
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())
    assert frame.area.sum() == pytest.approx(labels.size / 4)


# What is refused ----------------------------------------------------------------------------------


def test_what_is_refused(labels, scores, tmp_path) -> None:
    out = tmp_path / "o.gpkg"
    mask = write(tmp_path / "mask.tif", labels)

    def refused(error, match, source=mask, output=out, **options):
        with pytest.raises(error, match=match):
            vectorize_raster(source, output, **options)
        assert not out.exists()

    refused(SceneError, "holds float32 numbers", write(tmp_path / "f.tif", scores[0]))
    refused(SceneError, "say with band", write(tmp_path / "3.tif", np.stack([labels] * 3)))
    huge = write(tmp_path / "h.tif", labels.astype(np.uint32) * np.uint32(2**31 - 1))
    refused(SceneError, "has the value 4294967294", huge)
    refused(SceneError, "no such file", tmp_path / "missing.tif")
    (tmp_path / "text.tif").write_text("no raster")
    refused(SceneError, "not a raster", tmp_path / "text.tif")
    refused(geoseg.GeosegError, "has no band", band=4)
    refused(UsageError, "is no value of uint8", nodata=-1)
    refused(UsageError, "unknown suffix", output=tmp_path / "o.txt")
    refused(OutputError, "is not a folder", output=tmp_path / "text.tif" / "o.gpkg")
    refused(ConfigError, "did you mean 'simplify'", simplyfy=2)
    refused(ConfigError, "connectivity", connectivity=6)
    refused(UsageError, "no CRS that PROJ knows", crs="EPSG:1")
    refused(UsageError, "need confidence", outline="contour")
    small = write(tmp_path / "s.tif", scores[0, :-1])
    refused(SceneError, "must lie on the same grid", confidence=small)
    moved = write(tmp_path / "t.tif", scores[0], transform=TRANSFORM @ Affine.translation(1, 0))
    refused(SceneError, "does not lie where", confidence=moved)
    percent = write(tmp_path / "u.tif", (scores[0] * 100).astype(np.uint8))
    refused(SceneError, "without a scale", confidence=percent)
    refused(SceneError, "from 0 to 1", confidence=write(tmp_path / "v.tif", scores[0] * 100))
    several = write(tmp_path / "w.tif", scores)
    refused(UsageError, "not known which class", confidence=several)
    refused(
        UsageError, "no band for the class 1", confidence=several, classes={0: "a", 2: "b", 3: "c"}
    )
    vectorize_raster(mask, out)
    with pytest.raises(OutputError, match="already exists"):
        vectorize_raster(mask, out)


def test_a_damaged_raster_leaves_nothing(labels, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(classes, "BAND_BYTES", 20_000)
    path = write(tmp_path / "mask.tif", np.tile(labels, (4, 4)), blockysize=16)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SceneError, match="truncated or damaged"):
        vectorize_raster(path, tmp_path / "o.gpkg")
    assert [p.name for p in tmp_path.iterdir()] == ["mask.tif"]


def test_without_a_crs(labels, tmp_path) -> None:
    path = write(tmp_path / "mask.tif", labels, crs=None, transform=Affine.identity())
    said = []
    pixels = vectorize_raster(path, tmp_path / "a.gpkg", listener=said.append)
    assert pixels.area_m2["1"] == (labels == 1).sum()
    assert any("in pixels" in event.get("message", "") for event in said)
    metres = vectorize_raster(path, tmp_path / "b.gpkg", gsd=0.5)
    assert metres.area_m2["1"] == (labels == 1).sum() / 4


def test_events_and_metadata(labels, tmp_path) -> None:
    said: list = []
    path = write(tmp_path / "mask.tif", labels)
    vectorize_raster(path, tmp_path / "o.gpkg", listener=said.append, crs="EPSG:4326")
    assert said[0]["event"] == "start"
    assert said[-1]["event"] == "result"
    assert said[-2]["done"] == said[0]["tiles"]
    assert read_metadata(tmp_path / "o.gpkg")["geoseg:raster"] == str(path)
    assert gpd.read_file(tmp_path / "o.gpkg").crs == "EPSG:4326"


def test_the_command(labels, tmp_path) -> None:
    path = write(tmp_path / "mask.tif", labels)

    def run(*args):
        command = [sys.executable, "-m", "geoseg", "vectorize", str(path), "-o", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True)

    done = run(tmp_path / "a.gpkg", "--classes", "1=wood,2=water", "--min-area", 2)
    assert done.returncode == 0, done.stderr
    assert "of wood" in done.stdout
    done = run(tmp_path / "b.fgb", "--background", "none", "--connectivity", "8", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["polygons"].keys() == {"0", "1", "2"}
    done = run(tmp_path / "a.gpkg")
    assert done.returncode == 1
    assert done.stderr.startswith("geoseg: ")
    assert len(done.stderr.splitlines()) == 1
    assert run(tmp_path / "c.gpkg", "--classes", "wood").returncode == 2


@pytest.mark.parametrize("suffix", ["gpkg", "parquet", "fgb", "geojson", "geojsonl", "shp"])
def test_attributes_in_every_format(labels, tmp_path, suffix) -> None:
    path = write(tmp_path / "mask.tif", labels)
    out = tmp_path / f"o.{suffix}"
    vectorize_raster(path, out, attributes=True)
    frame = gpd.read_parquet(out) if suffix == "parquet" else gpd.read_file(out)
    short = {"confidence_std": "conf_std", "compactness": "compact", "orientation": "orient"}
    for name in ("confidence_std", "compactness", "orientation", "length_m", "width_m", "vertices"):
        assert (short.get(name, name) if suffix == "shp" else name) in frame


def test_dissolved(labels, tmp_path) -> None:
    path = write(tmp_path / "mask.tif", labels)
    result = vectorize_raster(path, tmp_path / "o.gpkg", dissolve=True)
    assert result.polygons == {"1": 1, "2": 1}
    frame = gpd.read_file(tmp_path / "o.gpkg").set_index("class_id")
    assert frame.is_valid.all()
    assert frame.area[1] == (labels == 1).sum() / 4
    empty = write(tmp_path / "empty.tif", np.zeros_like(labels))
    assert (
        vectorize_raster(empty, tmp_path / "e.gpkg", dissolve=True, attributes=True).polygons == {}
    )
    assert len(gpd.read_file(tmp_path / "e.gpkg")) == 0


# Cleaning -----------------------------------------------------------------------------------------


def test_sieved_and_filled(labels, scores, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(classes, "BAND_BYTES", 5_000)
    path = write(tmp_path / "mask.tif", labels, blockysize=8)
    given = write(tmp_path / "scores.tif", scores)
    names = {0: "field", 1: "wood", 2: "water"}
    options = {"confidence": given, "classes": names, "background": ()}
    vectorize_raster(path, tmp_path / "o.gpkg", sieve=20, **options)  # 80 pixels
    frame = gpd.read_file(tmp_path / "o.gpkg")
    cleaner = Cleaner(230, sieve=80 * 1.0005)  # true metres, in UTM off its middle
    valid = np.ones(labels.shape, bool)
    parts = [cleaner.add(labels + 1, valid), cleaner.finish()]
    clean = np.concatenate([p.labels for p in parts if p is not None]) - 1
    assert (clean != labels).any()
    assert written(tmp_path / "o.gpkg") == expected(clean)
    row = frame.loc[frame.area.idxmax()]
    inside = rasterio.features.rasterize([row.geometry], labels.shape, transform=TRANSFORM) > 0
    own = scores[row.class_id]
    assert row.confidence == pytest.approx(own[inside].mean(), abs=2e-5)
    assert row.confidence_min == pytest.approx(own[inside].min(), abs=2e-5)
    vectorize_raster(path, tmp_path / "c.gpkg", sieve=20, outline="contour", **options)
    assert len(gpd.read_file(tmp_path / "c.gpkg")) == len(frame)


def test_holes_of_a_square_metre(tmp_path) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[5:35, 5:35] = 7
    mask[10:12, 10:12] = 0  # 1 m²
    mask[20:30, 20:30] = 0
    path = write(tmp_path / "mask.tif", mask)
    vectorize_raster(path, tmp_path / "o.gpkg", fill_holes=2)
    (shape,) = gpd.read_file(tmp_path / "o.gpkg").geometry
    assert len(shape.interiors) == 1
    assert shape.area == 200


@pytest.mark.parametrize("crs", ["EPSG:4326", None])
def test_square_metres_where_units_are_others(tmp_path, crs) -> None:
    mask = np.zeros((30, 30), np.uint8)
    mask[5:25, 5:25] = 1
    mask[10:13, 10:13] = 0  # 9 pixels
    degrees = 1 / 111_320
    transform = Affine(degrees, 0, 10, 0, -degrees, 0) if crs else Affine(1, 0, 0, 0, -1, 0)
    path = write(tmp_path / "mask.tif", mask, crs=crs, transform=transform)
    for limit, holes in ((8.5, 1), (9.5, 0)):
        out = tmp_path / f"{limit}.gpkg"
        vectorize_raster(path, out, fill_holes=limit, **({} if crs else {"gsd": 1.0}))
        (shape,) = gpd.read_file(out).geometry
        assert len(shape.interiors) == holes
