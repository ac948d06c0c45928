"""Vector outputs: what goes in comes out, whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
from pyproj import CRS

from geoseg.errors import OutputError, UsageError
from geoseg.sinks import FORMATS, VectorSink, read_metadata
from geoseg.sinks.vector import COLUMNS, shapefile_names

UTM = CRS.from_epsg(32633)
METADATA = {"model": "buildings-v0", "configuration": json.dumps({"text": 'it\'s "é"', "n": 1})}
SUFFIXES = [fmt.suffixes[0] for fmt in FORMATS]
IN_DEGREES = (".geojson", ".geojsonl")


def frame(count: int, crs: CRS | None = UTM) -> gpd.GeoDataFrame:
    """Polygons side by side, each with a hole, at odd fractions of a metre."""
    x = 500_000.123456789 + 20 * np.arange(count)
    outer = shapely.box(x, 5_000_000, x + 10.7, 5_000_008.3)
    shapes = shapely.difference(outer, shapely.box(x + 2, 5_000_002, x + 4, 5_000_005))
    return gpd.GeoDataFrame(
        {
            "class": [f"class {i % 2 + 1}" for i in range(count)],
            "class_id": np.arange(count) % 2 + 1,
            "confidence": np.linspace(0.5, 1, count),
            "confidence_min": np.linspace(0.1, 0.5, count),
            "area_m2": shapely.area(shapes),
            "perimeter_m": shapely.length(shapes),
        },
        geometry=shapes,
        crs=crs,
    )


def read(path: Path) -> gpd.GeoDataFrame:
    """Rows in the order of `frame` (FlatGeobuf sorts them)."""
    found = gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path)
    return found.sort_values("confidence", ignore_index=True) if len(found) else found


def write(path: Path, *frames: gpd.GeoDataFrame, overwrite: bool = False) -> None:
    with VectorSink.open(path, crs=UTM, metadata=METADATA, overwrite=overwrite) as sink:
        for part in frames:
            sink.write(part)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    whole = frame(50)
    write(path, frame(0), whole[:20], whole[20:20], whole[20:])
    found = read(path)
    assert len(found) == 50
    names = shapefile_names(tuple(COLUMNS)) if suffix == ".shp" else {}
    for column in COLUMNS:
        values = found[names.get(column, column)].to_numpy()
        if column == "class":
            assert list(values) == list(whole[column])
        else:
            np.testing.assert_allclose(values, whole[column], rtol=1e-6)
    if suffix in IN_DEGREES:
        assert found.crs == CRS.from_epsg(4326)
        back = found.to_crs(UTM).geometry
        assert shapely.hausdorff_distance(back.array, whole.geometry.array).max() < 0.02
        assert shapely.is_ccw(shapely.get_exterior_ring(found.geometry.array)).all()
        assert (
            round(found.geometry[0].exterior.coords[0][0], 7)
            == (found.geometry[0].exterior.coords[0][0])
        )
    else:
        assert found.crs == UTM
        same = shapely.equals_exact(
            shapely.normalize(found.geometry.array), shapely.normalize(whole.geometry.array), 0
        )
        assert same.all()
    assert {p.stem for p in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize("frames", [(), (frame(0),)], ids=["never written", "an empty frame"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_found_is_a_valid_file(
    tmp_path: Path, suffix: str, frames: tuple[gpd.GeoDataFrame, ...]
) -> None:
    path = tmp_path / f"out{suffix}"
    write(path, *frames)
    if suffix == ".geojsonl":  # an empty sequence is an empty file
        assert path.read_bytes() == b""
        return
    found = read(path)
    assert len(found) == 0
    if suffix in IN_DEGREES:
        return  # GeoJSON has columns only in its features
    assert found.crs == UTM
    names = shapefile_names(tuple(COLUMNS)) if suffix == ".shp" else {}
    assert list(found.columns) == [*(names.get(c, c) for c in COLUMNS), "geometry"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with VectorSink.open(path, crs=UTM, metadata=METADATA) as sink:
        sink.write(frame(3))
    if suffix in (".shp", ".geojsonl"):
        assert read_metadata(path) == {}
        assert any("no place for metadata" in note for note in sink.notes)
    else:
        assert read_metadata(path) == METADATA
        assert sink.notes == []


def test_files_of_others_have_no_metadata(tmp_path: Path) -> None:
    for suffix in (".gpkg", ".geojson", ".fgb"):
        frame(3).to_file(tmp_path / f"other{suffix}")
        assert read_metadata(tmp_path / f"other{suffix}") == {}
    frame(3).to_parquet(tmp_path / "other.parquet")
    assert read_metadata(tmp_path / "other.parquet") == {}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_crs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with VectorSink.open(path, crs=None) as sink:
        sink.write(frame(5, crs=None))
    found = read(path)
    if suffix in IN_DEGREES:
        assert any("pixels" in note for note in sink.notes)
    else:
        assert found.crs is None
    assert shapely.hausdorff_distance(found.geometry.array, frame(5).geometry.array).max() < (
        1e-6 if suffix in IN_DEGREES else 1e-12
    )


SITES = [  # coordinate systems of a building site or a drawing
    'LOCAL_CS["site",UNIT["metre",1]]',
    'ENGCRS["site",EDATUM["x"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],'
    'LENGTHUNIT["metre",1]]',
]


@pytest.mark.parametrize("wkt", SITES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_crs_without_a_place_on_earth(tmp_path: Path, suffix: str, wkt: str) -> None:
    path, crs = tmp_path / f"out{suffix}", CRS.from_wkt(wkt)
    with VectorSink.open(path, crs=crs) as sink:
        sink.write(frame(5, crs=crs))
    found = read(path)
    if suffix in IN_DEGREES:
        assert "site is a CRS without a place on Earth" in " ".join(sink.notes)
    elif suffix != ".shp":
        assert found.crs is not None
        assert found.crs.name == "site"
    assert shapely.hausdorff_distance(found.geometry.array, frame(5).geometry.array).max() < (
        1e-6 if suffix in IN_DEGREES else 1e-12
    )


def test_geoparquet_says_what_it_holds(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "out.parquet"
    write(path, frame(5), frame(7))
    geo = json.loads(pq.read_metadata(path).metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert geo["version"] == "1.1.0"
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 32633}
    assert column["bbox"] == list(frame(7).total_bounds)
    assert column["covering"]["bbox"]["ymax"] == ["bbox", "ymax"]
    part = gpd.read_parquet(path, bbox=(500_000, 5_000_000, 500_015, 5_000_001))
    assert len(part) == 2


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb"])
def test_the_spatial_index_is_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write(path, frame(500))
    assert pyogrio.read_info(path)["capabilities"]["fast_spatial_filter"]
    assert len(gpd.read_file(path, bbox=(500_000, 5_000_000, 500_015, 5_000_001))) == 1


def test_geopackage_layer_is_named_as_the_file(tmp_path: Path) -> None:
    write(tmp_path / "my roofs.gpkg", frame(2))
    assert pyogrio.list_layers(tmp_path / "my roofs.gpkg").tolist() == [["my roofs", "Polygon"]]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_multipolygons_are_promoted_together(tmp_path: Path, suffix: str) -> None:
    mixed = frame(4)
    pair = shapely.multipolygons(
        shapely.box([500_000, 500_020], 4_999_900, [500_001, 500_021], 5e6)
    )
    mixed.geometry = [*mixed.geometry[:3], pair]
    path = tmp_path / f"out{suffix}"
    with VectorSink.open(path, crs=UTM, geometry="MultiPolygon") as sink:
        sink.write(mixed)
    found = read(path)
    if suffix != ".shp":  # which does not tell the two apart
        assert set(found.geom_type) == {"MultiPolygon"}
    assert shapely.get_num_geometries(found.geometry.array).tolist() == [1, 1, 1, 2]
    with (
        pytest.raises(ValueError, match="MULTIPOLYGON in a layer of Polygons"),
        VectorSink.open(tmp_path / f"other{suffix}", crs=UTM) as sink,
    ):
        sink.write(mixed)


def test_shapefile_names() -> None:
    columns = ("class", "confidence_min", "perimeter_m", "orientation_a", "orientation_b")
    assert shapefile_names(columns) == {
        "confidence_min": "conf_min",
        "perimeter_m": "perim_m",
        "orientation_a": "orientatio",
        "orientation_b": "orientat_2",
    }


def test_frames_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="columns"):
        write(tmp_path / "a.gpkg", frame(1), frame(1).drop(columns="confidence"))
    with pytest.raises(ValueError, match="for a file in"):
        write(tmp_path / "a.gpkg", frame(1, crs=CRS.from_epsg(32634)))
    assert list(tmp_path.iterdir()) == []


# --- what cannot be written is refused before anything is computed -----------------------------


def refused(path: Path, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match), VectorSink.open(path, crs=UTM):
        pytest.fail("must be refused on entering")


def test_refusals(tmp_path: Path) -> None:
    refused(tmp_path / "out.kml", UsageError, r"unknown suffix '\.kml'.*\.gpkg, \.parquet")
    refused(tmp_path / "out", UsageError, "no suffix")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "out.gpkg", OutputError, "is not a folder")
    (tmp_path / "folder.gpkg").mkdir()
    refused(tmp_path / "folder.gpkg", OutputError, "is a folder")
    (tmp_path / "old.gpkg").write_text("old")
    refused(tmp_path / "old.gpkg", OutputError, "already exists: pass --overwrite")
    assert (tmp_path / "old.gpkg").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "sidecar"),
    [
        ("b.shp", "b.dbf"),
        ("b.shp", "b.prj"),
        ("b.shp", "b.qix"),
        ("b.gpkg", "b.gpkg-wal"),
        ("b.gpkg", "b.gpkg-journal"),
    ],
)
def test_sidecars_of_another_file_are_a_reason_to_refuse(
    tmp_path: Path, name: str, sidecar: str
) -> None:
    (tmp_path / sidecar).write_text("old")
    refused(tmp_path / name, OutputError, f"{sidecar} already exists .* part of {name}: pass --ov")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(sidecar, "old")]
    write(tmp_path / name, frame(3), overwrite=True)
    assert len(read(tmp_path / name)) == 3


def test_sidecar_that_comes_meanwhile(tmp_path: Path) -> None:
    def run() -> None:
        with VectorSink.open(tmp_path / "b.shp", crs=UTM) as sink:
            sink.write(frame(3))
            (tmp_path / "b.dbf").write_text("old")

    with pytest.raises(OutputError, match=r"b\.dbf already exists"):
        run()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("b.dbf", "old")]


def test_folder_with_the_name_of_a_sidecar(tmp_path: Path) -> None:
    (tmp_path / "b.prj").mkdir()
    with (
        pytest.raises(OutputError, match=r"b\.prj is a folder"),
        VectorSink.open(tmp_path / "b.shp", crs=UTM, overwrite=True),
    ):
        pytest.fail("must be refused on entering")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_long_names(tmp_path: Path, suffix: str) -> None:
    """As long as its journals and sidecars can be; else one sentence before anything."""
    longest = "x" * (247 - len(suffix)) + suffix
    write(tmp_path / longest, frame(3))
    assert len(read(tmp_path / longest)) == 3
    for file in tmp_path.iterdir():
        file.unlink()
    too_long = "x" * (256 - len(suffix)) + suffix
    refused(tmp_path / too_long, OutputError, rf"{too_long}: cannot be written \(.*[Tt]oo long")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    refused(tmp_path / "out.gpkg", OutputError, "is not writable")


# --- whole, or not at all ----------------------------------------------------------------------


def fail(path: Path, error: BaseException, overwrite: bool = False) -> None:
    with VectorSink.open(path, crs=UTM, overwrite=overwrite) as sink:
        for _ in range(6):
            sink.write(frame(500))
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_exception_leaves_nothing(
    tmp_path: Path, suffix: str, error: type[BaseException]
) -> None:
    path = tmp_path / f"out{suffix}"
    with pytest.raises(error):
        fail(path, error())
    assert list(tmp_path.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("geoseg-write")]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_old_file_stays_until_the_new_is_complete(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write(path, frame(3))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(RuntimeError, match="midway"):
        fail(path, RuntimeError("midway"), overwrite=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    write(path, frame(5), overwrite=True)
    assert len(read(path)) == 5


def test_leftovers_of_an_old_file_go(tmp_path: Path) -> None:
    write(tmp_path / "a.gpkg", frame(3))
    for name in ("a.gpkg-wal", "a.gpkg-shm", "a.gpkg-journal", "a-wal"):
        (tmp_path / name).write_bytes(b"of an older database")
    write(tmp_path / "a.gpkg", frame(4), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-wal", "a.gpkg"]
    write(tmp_path / "b.shp", frame(3))
    with VectorSink.open(tmp_path / "b.shp", crs=None, overwrite=True) as sink:
        sink.write(frame(3, crs=None))
    assert not (tmp_path / "b.prj").exists()


def test_two_runs_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.gpkg"
    with VectorSink.open(path, crs=UTM, overwrite=True) as one:
        one.write(frame(3))
        with VectorSink.open(path, crs=UTM, overwrite=True) as two:
            two.write(frame(5))
        assert len(read(path)) == 5
    assert len(read(path)) == 3
    path.unlink()
    with (
        pytest.raises(OutputError, match="already exists"),
        VectorSink.open(path, crs=UTM),
    ):
        write(path, frame(7))
    assert len(read(path)) == 7
    assert [p.name for p in tmp_path.iterdir()] == ["out.gpkg"]


def run(script: str, *arguments: object) -> subprocess.Popen[str]:
    header = "import sys; sys.path.insert(0, sys.argv[1]); from test_sinks import *\n"
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            header + textwrap.dedent(script),
            Path(__file__).parent,
            *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_a_killed_run_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "out.gpkg"
    write(path, frame(3))
    before = path.read_bytes()
    script = """
        with VectorSink.open(sys.argv[2], crs=UTM, overwrite=True) as sink:
            while True:
                sink.write(frame(2000))
                print("written", flush=True)
        """
    with run(script, path) as process:
        for _ in range(8):
            assert process.stdout is not None
            assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_bytes() == before
    others = [p.name for p in tmp_path.iterdir() if p != path]
    assert all(name.startswith(".geoseg-") for name in others)


# Limits of the size of a file: every write beyond fails, as on a full disk.
LIMITED = """
    import resource
    folder, whole = Path(sys.argv[2]), frame(1500)
    for suffix in SUFFIXES:
        path = folder / f"out{suffix}"
        write(path, whole)
        size = max(p.stat().st_size for p in folder.iterdir())
        for p in folder.iterdir(): p.unlink()
        for limit in [4096, size // 3, size - 9000, size - 3000, size - 500, size - 20]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                write(path, whole)
                outcome = "complete" if len(read(path)) == 1500 else "silently incomplete"
            except OutputError as e:
                outcome = "told" if "could not be written" in str(e) else str(e)
                if ".tmp" in str(e): outcome = f"names its temporary file: {e}"
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            left = [p.name for p in folder.iterdir()]
            if outcome != "complete" and left: outcome += f", left {left}"
            for p in folder.iterdir(): p.unlink()
            print(suffix, outcome)
    """


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_full_disk_is_noticed_whenever_it_comes(tmp_path: Path) -> None:
    with run(LIMITED, tmp_path) as process:
        lines, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    outcomes = [line.split(" ", 1) for line in lines.splitlines()]
    assert len(outcomes) == 6 * len(SUFFIXES)
    assert {outcome for _, outcome in outcomes} <= {"told", "complete"}
    for suffix in SUFFIXES:  # SQLite's pages, unlike the rest, come before the end
        assert [o for s, o in outcomes if s == suffix].count("told") >= 2, outcomes


def test_full_disk(tmp_path: Path) -> None:
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", tmp_path], capture_output=True
        )
        if os.name == "posix" and os.geteuid() == 0
        else None
    )
    if mounted is None or mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        for suffix in SUFFIXES:
            if suffix == ".parquet":
                continue  # compresses these polygons to nothing
            with pytest.raises(OutputError, match="the disk is full"):
                write(tmp_path / f"out{suffix}", frame(1000), frame(4000))
            assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


MEMORY = """
    import resource
    with VectorSink.open(sys.argv[2], crs=UTM) as sink:
        part = frame(5000)
        for step in range(25):
            sink.write(part)
            if step in (6, 24):
                print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    """


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in KiB")
@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_memory_does_not_grow_with_the_features(tmp_path: Path, suffix: str) -> None:
    with run(MEMORY, tmp_path / f"out{suffix}") as process:
        lines, _ = process.communicate(timeout=60)
    early, late = map(int, lines.split())
    assert late - early < 40  # MiB, while 90,000 features came
