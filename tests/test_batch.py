"""geoseg batch in one process: sources, ledger, resuming, failures, the command."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import rasterio
from archive import BROKEN, SIZE, features, leftovers, make_archive, states
from click.testing import CliRunner
from models import bright_bundle
from shapely.geometry import box, shape

import geoseg
from geoseg import testing
from geoseg.batch import plan as plan_module
from geoseg.batch import work as work_module
from geoseg.batch.items import Item, safe_name
from geoseg.batch.ledger import NAME, Ledger
from geoseg.batch.outcome import Outcome, Output
from geoseg.batch.plan import plan
from geoseg.batch.run import batch
from geoseg.batch.sources import listed
from geoseg.batch.status import status
from geoseg.cli import cli
from geoseg.errors import ConfigError, DataError, GeosegError, OutputError, UsageError
from geoseg.sinks.atomic import HiddenFolder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_bundle(tmp_path_factory.mktemp("models") / "bright")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive") / "in", 6)


def run(archive: Any, out: Path, model: Path, **options: Any) -> Any:
    return batch(archive, out, model=model, device="cpu", precision="float32", **options)


@pytest.fixture(scope="module")
def done(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A batch of the whole archive that nothing disturbed."""
    out = tmp_path_factory.mktemp("done") / "out"
    run(archive, out, model, mask=True)
    return out


# Sources ----------------------------------------------------------------------------------------


def test_folders_and_globs_name_scenes_by_their_paths(tmp_path: Path) -> None:
    for name in ("b/one.tif", "a/one.TIF", "top.vrt", ".hidden/x.tif", "a/one.tif.aux.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [i.id for i in listed([tmp_path])] == ["top", "a__one", "b__one"]
    assert [i.id for i in listed([f"{tmp_path}/*/*.tif"])] == ["b__one"]
    assert [i.id for i in listed([f"{tmp_path}/b/*"])] == ["one"]
    assert all(Path(i.source).is_absolute() for i in listed([tmp_path]))


def test_lists_and_tables_are_relative_to_themselves(tmp_path: Path) -> None:
    url = "https://example.org/x/y.tif?token=secret"
    (tmp_path / "l.txt").write_text(f"# a remark\nsub/a.tif\n\n{url}\n")
    one, two = listed([tmp_path / "l.txt"])
    assert (one.id, one.source) == ("a", str(tmp_path / "sub" / "a.tif"))
    assert (two.id, two.source) == ("y", url)
    (tmp_path / "t.csv").write_text("id,Path,datetime,cloud\nfirst/1,a.tif,2024-05-01,3\n")
    (row,) = listed([tmp_path / "t.csv"])
    assert (row.id, row.source) == ("first__1", str(tmp_path / "a.tif"))
    assert (row.datetime, row.properties) == ("2024-05-01", {"cloud": "3"})
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"no column names rasters \(there are: a, b\)"):
        list(listed([tmp_path / "t.csv"]))


def test_tile_indexes_tell_footprints(tmp_path: Path) -> None:
    frame = gpd.GeoDataFrame(
        {"location": ["a.tif", "/b.tif"], "year": [2023, 2024]},
        geometry=[box(5e5, 5e6, 5.01e5, 5.01e6), box(5e5, 5e6, 5.02e5, 5.01e6)],
        crs="EPSG:32633",
    )
    frame.to_file(tmp_path / "tiles.gpkg")
    one, two = listed([tmp_path / "tiles.gpkg"])
    assert [one.source, two.source] == [str(tmp_path / "a.tif"), "/b.tif"]
    assert one.properties == {"year": 2023}
    assert shape(one.footprint).bounds == pytest.approx((15, 45.153, 15.0127, 45.243), abs=0.01)


def test_what_holds_no_scene_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no scenes"):
        list(listed([tmp_path]))
    with pytest.raises(DataError, match="cannot be read"):
        list(listed([tmp_path / "none.txt"]))


def test_names_are_safe() -> None:
    assert safe_name("../a b/ü:x") == "a_b_ü_x"
    assert safe_name("...") == "scene"
    assert len(safe_name("x" * 500)) == 120
    assert safe_name("x" * 500) != safe_name("x" * 501)
    assert len(safe_name("日" * 500).encode()) <= 120  # file systems count bytes


def test_what_a_batch_has_made_is_no_source(tmp_path: Path) -> None:
    for name in ("a.tif", f"out/{NAME}", "out/masks/a.tif", "sub/out/masks/b.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [i.id for i in listed([tmp_path])] == ["a", "sub__out__masks__b"]
    assert [i.id for i in listed([f"{tmp_path}/**/*.tif"])] == ["a", "sub__out__masks__b"]
    assert [i.id for i in listed([tmp_path / "out" / "masks"])] == ["a"]  # if it is asked for
    assert [i.id for i in listed([f"{tmp_path}/out/masks/*"])] == ["a"]
    with pytest.raises(DataError, match="no scenes"):
        list(listed([tmp_path / "out"]))


def test_a_source_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        list(listed([tmp_path / "archiv"]))


@pytest.mark.parametrize("name", ["list.txt", "table.csv"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_list_that_is_not_utf8_is_said(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_text("location\r\nhäuser.tif\r\n", encoding=encoding)
    with pytest.raises(DataError, match="UTF-8"):
        list(listed([tmp_path / name]))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all names are Unicode")
def test_a_name_that_is_not_utf8_fails_alone(tmp_path: Path, model: Path) -> None:
    for name in (b"h\xe4user.tif", b"h\xf6fe.tif"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).touch()  # noqa: PTH118
    result = run(tmp_path, tmp_path / "out", model)
    assert (result.scenes, result.failed) == (2, 2)
    for row in status(tmp_path / "out").scenes():
        assert "not UTF-8" in row["error"], row


# Ledger -----------------------------------------------------------------------------------------


def test_the_ledger_tells_scenes_of_one_name_apart(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / NAME) as ledger:
        assert ledger.enroll([Item("a", "/x/a.tif"), Item("A", "/y/A.tif")]) == 2
        first = [entry.item.id for entry in ledger.entries()]
        assert first[0] == "a"
        assert first[1].startswith("A-")
    with Ledger.open(tmp_path / NAME) as ledger:  # in another order they keep their names
        assert ledger.enroll([Item("A", "/y/A.tif"), Item("a", "/x/a.tif")]) == 0
        assert [entry.item.id for entry in ledger.entries()] == first


def test_the_ledger_keeps_what_happened(tmp_path: Path) -> None:
    item = Item("a", "/a.tif", properties={"cloud": 3})
    output = Output("polygons", "polygons/a.gpkg", 5, "1220ab")
    outcome = Outcome("done", polygons={"house": 3}, seconds=1.5, tiles=2, outputs=(output,))
    with Ledger.open(tmp_path / NAME) as ledger:
        ledger.enroll([item, Item("b", "/b.tif")])
        assert [i.id for i in ledger.waiting()] == ["a", "b"]
        ledger.begin("a")
        assert ledger.counts() == {"running": 1, "pending": 1}
        ledger.finish("a", outcome)
    with Ledger.open(tmp_path / NAME, create=False) as ledger:
        (entry,) = ledger.entries("done")
        assert (entry.item, entry.attempts, entry.outcome) == (item, 1, outcome)
        assert ledger.totals() == {"tiles": 2, "polygons": 3, "km2": 0, "seconds": 1.5}


def test_a_ledger_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no database at all, but long enough to be looked at" * 20)
    with pytest.raises(OutputError, match="is damaged"), Ledger.open(tmp_path / NAME):
        pass
    (tmp_path / NAME).unlink()
    with sqlite3.connect(tmp_path / NAME) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(OutputError, match="another version"), Ledger.open(tmp_path / NAME):
        pass
    with pytest.raises(OutputError, match="holds no ledger"):
        status(tmp_path / "nowhere")


def test_a_database_of_others_stays_as_it_is(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / NAME) as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    before = (tmp_path / NAME).read_bytes()
    for create in (True, False):
        opened = Ledger.open(tmp_path / NAME, create=create)
        with pytest.raises(OutputError, match="is no ledger"), opened:
            pass
    assert (tmp_path / NAME).read_bytes() == before


def test_a_ledger_that_is_looked_at_cannot_be_written(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / NAME) as ledger:
        ledger.enroll([Item("a", "/a.tif")])
        assert status(tmp_path).summary["pending"] == 1  # while a run has it open
    opened = Ledger.open(tmp_path / NAME, create=False)
    with pytest.raises(OutputError, match="readonly"), opened as ledger:
        ledger.begin("a")


# Runs -------------------------------------------------------------------------------------------


def test_each_scene_is_as_predict_makes_it(archive: Path, done: Path, model: Path) -> None:
    alone = done.parent / "alone.gpkg"
    geoseg.predict(archive / "s003.tif", alone, model=model, device="cpu", precision="float32")
    one, other = gpd.read_file(alone), gpd.read_file(done / "polygons" / "s003.gpkg")
    assert len(one) > 0
    assert one.equals(other)
    with rasterio.open(done / "masks" / "s003.tif") as mask:
        assert mask.read(1).any()


def test_broken_scenes_fail_alone_with_their_reason(done: Path) -> None:
    found = {row["id"]: row for row in status(done).scenes()}
    assert {name for name, row in found.items() if row["state"] == "failed"} == set(BROKEN)
    assert sum(row["state"] == "done" for row in found.values()) == 6
    for name, reason in BROKEN.items():
        assert reason in found[name]["error"], found[name]
    assert not leftovers(done)


def test_the_ledger_knows_where_and_what(done: Path, archive: Path) -> None:
    with Ledger.open(done / NAME, create=False) as ledger:
        entry = next(e for e in ledger.entries("done") if e.item.id == "s000")
    assert entry.outcome is not None
    assert entry.outcome.km2 == pytest.approx((96 * 0.3) ** 2 / 1e6, rel=2e-3)
    with rasterio.open(archive / "s000.tif") as scene:
        west, south, east, north = rasterio.warp.transform_bounds(
            scene.crs, "EPSG:4326", *scene.bounds
        )
    assert shape(entry.outcome.footprint).bounds == pytest.approx(
        (west, south, east, north), abs=1e-6
    )
    assert shape(entry.outcome.footprint).exterior.is_ccw
    roles = {output.role: output for output in entry.outcome.outputs}
    assert set(roles) == {"polygons", "mask"}
    path = done / roles["mask"].path
    assert roles["mask"].bytes == path.stat().st_size
    assert roles["mask"].checksum.startswith("1220")


def test_the_same_command_touches_nothing(archive: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(archive, out, model)
    before = {p: p.stat().st_mtime_ns for p in (out / "polygons").iterdir()}
    again = run(archive, out, model)
    assert {p: p.stat().st_mtime_ns for p in (out / "polygons").iterdir()} == before
    assert (again.done, again.failed, again.exit_code) == (first.done, first.failed, 3) == (6, 5, 3)
    attempts = {row["id"]: row["attempts"] for row in status(out).scenes()}
    assert set(attempts.values()) == {1}
    (archive / "s000.tif").rename(archive / "moved.tif")
    try:
        more = run(archive, out, model, retry_failed=True)
    finally:
        (archive / "moved.tif").rename(archive / "s000.tif")
    assert (more.done, more.failed) == (7, 5)
    attempts = {row["id"]: row["attempts"] for row in status(out).scenes()}
    assert {name for name, number in attempts.items() if number == 2} == set(BROKEN)


def test_outputs_that_are_gone_are_made_anew(archive: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(archive, out, model)
    reference = features(out)
    (out / "polygons" / "s001.gpkg").unlink()
    seen: list[Mapping[str, Any]] = []
    run((), out, model, listener=seen.append)
    assert features(out) == reference
    assert any(e["event"] == "warning" and "s001" in e["message"] for e in seen)
    assert [e["id"] for e in seen if e["event"] == "scene"] == ["s001"]


def test_what_a_killed_run_left_is_done_anew(archive: Path, model: Path, tmp_path: Path) -> None:
    """Its outputs are there, the ledger does not know: one file comes of it."""
    out = tmp_path / "out"
    run(archive, out, model)
    reference = features(out)
    with Ledger.open(out / NAME) as ledger:
        ledger.again(names=["s002"])
        ledger.begin("s002")
    (out / "polygons" / ".geoseg-x.tmp").mkdir()
    with HiddenFolder(out / "polygons") as of_another:  # geoseg predict, beside this batch
        result = run(archive, out, model)
        assert of_another.exists() or os.name == "nt"
    assert (result.done, result.failed) == (6, 5)
    assert features(out) == reference
    assert not leftovers(out)


def test_a_raster_that_has_changed_is_done_anew(model: Path, tmp_path: Path) -> None:
    source, out = make_archive(tmp_path / "in", 3, broken=False), tmp_path / "out"
    run(source, out, model)
    before, told = features(out), []
    os.utime(source / "s000.tif", ns=(1, 1))  # only looks like another one
    mask = testing.planted_rectangles((SIZE, SIZE), count=3, seed=99)
    testing.planted_scene(source / "s001.tif", mask, seed=99)
    (source / "s002.tif").unlink()  # it was done, and may go
    run((), out, model, listener=told.append)
    (message,) = [e["message"] for e in told if e["event"] == "warning"]
    assert message.startswith("rasters of 2 scenes that were done have changed")
    assert message.endswith(": s000, s001")
    after = features(out)
    assert [f for f in after if f[0] != "s001.gpkg"] == [f for f in before if f[0] != "s001.gpkg"]
    assert after != before


def test_asking_how_it_stands_leaves_nothing(archive: Path, model: Path, tmp_path: Path) -> None:
    run(archive, tmp_path / "out", model)
    before = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert status(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == before


def test_other_settings_are_refused(
    archive: Path, model: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path / "out"
    run(archive / "s000.tif", out, model)
    reference = features(out)
    with pytest.raises(UsageError, match=r"other settings \(threshold None, now 0.4\)"):
        run(archive, out, model, threshold=0.4)
    other = bright_bundle(tmp_path / "other", name="other")
    changed = bright_bundle(tmp_path / "changed")
    weights = changed / "weights.safetensors"
    item = json.loads((changed / "model.json").read_text())
    assert geoseg.plan(archive / "s000.tif", model=other).model == "other-1"
    raw = weights.read_bytes()[:-1] + b"\x01"
    weights.write_bytes(raw)
    for asset in item["assets"].values():
        if asset["href"].endswith(weights.name):
            from geoseg.bundle import multihash

            asset["file:checksum"] = multihash(raw)
    (changed / "model.json").write_text(json.dumps(item))
    with pytest.raises(UsageError, match=r"other settings \(another model\)"):
        run(archive, out, changed)
    assert run(archive / "s000.tif", out, model, threads=1).done == 1  # comes to the same
    assert features(out) == reference
    result = run(archive / "s001.tif", out, model, threshold=0.4, overwrite=True)
    assert (result.scenes, result.done) == (1, 1)
    assert [p.name for p in (out / "polygons").iterdir()] == ["s001.gpkg"]


def test_scenes_outside_of_the_area_are_skipped(archive: Path, model: Path, tmp_path: Path) -> None:
    with rasterio.open(archive / "s002.tif") as scene:
        area = gpd.GeoDataFrame(geometry=[box(*scene.bounds).buffer(-3)], crs=scene.crs)
    area.to_file(tmp_path / "aoi.gpkg")
    result = run(f"{archive}/s*.tif", tmp_path / "out", model, aoi=tmp_path / "aoi.gpkg")
    assert (result.done, result.skipped, result.failed, result.exit_code) == (1, 5, 0, 0)
    reasons = [r["error"] for r in status(tmp_path / "out").scenes() if r["state"] == "skipped"]
    assert all("outside" in reason for reason in reasons)


def test_a_full_disk_ends_the_run_and_the_next_goes_on(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, true = tmp_path / "out", work_module.predict

    def fails(source: Any, **how: Any) -> Any:
        if "s002" in source:
            raise OutputError("x.gpkg: could not be written (the disk is full)")
        return true(source, **how)

    monkeypatch.setattr(work_module, "predict", fails)
    with pytest.raises(OutputError, match="disk is full.*run the command again"):
        run(archive, out, model)
    assert sorted(states(out).values()).count("done") == 2
    assert "running" not in states(out).values()
    monkeypatch.undo()
    assert run(archive, out, model).done == 6


def test_an_interrupted_run_goes_on(archive: Path, model: Path, tmp_path: Path, done: Path) -> None:
    def impatient(event: Mapping[str, Any]) -> None:
        if event["event"] == "scene" and event["id"] == "s001":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(archive, tmp_path / "out", model, listener=impatient)
    assert set(states(tmp_path / "out").values()) == {"done", "failed", "pending"}
    run((), tmp_path / "out", model)
    assert states(tmp_path / "out") == states(done)
    assert features(tmp_path / "out") == features(done)


def test_a_mistake_in_the_code_ends_one_scene(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(source: Any, **how: Any) -> Any:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(work_module, "predict", broken)
    result = run(archive / "s000.tif", tmp_path / "out", model)
    assert (result.done, result.failed) == (0, 1)
    (row,) = status(tmp_path / "out").scenes()
    assert "s000.tif: ZeroDivisionError: division by zero" in row["error"]


def test_what_makes_no_sense_is_refused_before_anything_is_made(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"treshold": 0.5}, "unknown key 'treshold'"),
        ({"dataset": "a/b.parquet"}, "a file name is needed"),
        ({"dataset": "b.txt"}, "ends in .parquet"),
        ({"scheduler": "tcp://x"}, "of the engine dask"),
        ({"workers": 2}, "the engine serial is one"),
        ({"format": "none"}, "nothing to write"),
        ({"crs": "EPSG:0"}, "no CRS"),
    ]
    for options, message in wrong:
        with pytest.raises(ConfigError if "crs" not in options else GeosegError, match=message):
            run(archive, out, model, **options)
    with pytest.raises(DataError, match="holds no scenes"):
        run(tmp_path, out, model)
    with pytest.raises(UsageError, match="give a SOURCE"):
        run((), out, model)
    assert not out.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(OutputError, match="not empty"):
        run(archive, tmp_path / "full", model)


def test_one_run_at_a_time(archive: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")

    def second(event: Mapping[str, Any]) -> None:
        if event["event"] == "start":
            with pytest.raises(OutputError, match="another run is at work"):
                run(archive, tmp_path / "out", model)

    assert run(archive / "s000.tif", tmp_path / "out", model, listener=second).done == 1


# Plan, report, command ---------------------------------------------------------------------------


def test_a_plan_writes_nothing(
    archive: Path, model: Path, tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(archive, tmp_path / "out", model=model, device="cpu")
    assert (planned.scenes, planned.to_do, planned.opened) == (11, 11, 11)
    assert planned.unusable == 2  # what only the pixels tell is not known yet
    assert planned.read_bytes >= 6 * 3 * 96 * 96
    assert not (tmp_path / "out").exists()
    before = (done / NAME).read_bytes()
    same = {"model": model, "device": "cpu", "precision": "float32", "mask": True}
    assert plan(archive, done, **same).to_do == 0
    assert plan(archive, done, **same, retry_failed=True).to_do == 5
    assert (done / NAME).read_bytes() == before
    monkeypatch.setattr(plan_module, "LOOKED", 3)
    few = plan(f"{archive}/s*.tif", tmp_path / "out", model=model, device="cpu")
    whole = plan(f"{archive}/s00[0-5].tif", tmp_path / "out", model=model, device="cpu")
    assert few.opened <= 3
    assert few.tiles == whole.tiles == 6


def test_the_report_tells_what_failed(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert page.count("<path") == 6 + 2  # of those that opened; two have no data, or too few bands
    for name, reason in BROKEN.items():
        assert name in page
        assert reason in page
    assert "http" not in page  # fetches nothing


def test_the_command(archive: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "geoseg", "batch", str(archive), "-o", str(out)]
    command += ["-m", str(model), "--device", "cpu"]
    found = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert found.returncode == 3, found.stderr
    events = [json.loads(line) for line in found.stdout.splitlines()]
    events = [event for event in events if event["event"] != "alive"]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "start"
    assert kinds[-1] == "result"
    assert kinds.count("scene") == 11
    assert events[0]["scenes"] == events[0]["tiles"] == 11
    last = events[-1]
    assert (last["scenes"], last["done"], last["failed"], last["skipped"]) == (11, 6, 5, 0)
    assert len(last["outputs"]) == 6
    assert all(Path(p).is_file() for p in [*last["outputs"], last["report"]])
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["tiles"] == 11


def test_status_on_the_command_line(done: Path) -> None:
    lines = CliRunner().invoke(cli, ["batch", "status", str(done), "--json"]).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["id"] for r in records[:-1]] == sorted([*BROKEN, *(f"s{i:03}" for i in range(6))])
    assert (records[-1]["done"], records[-1]["failed"], records[-1]["pending"]) == (6, 5, 0)
    text = CliRunner().invoke(cli, ["batch", "status", str(done)]).stdout
    assert "corrupt  failed" in text


def test_the_command_takes_a_file(archive: Path, model: Path, tmp_path: Path) -> None:
    config = tmp_path / "batch.yaml"
    config.write_text(f"sources: ['{archive}/s*.tif']\nmodel: '{model}'\ndevice: cpu\n")
    asked = ["batch", "--config", str(config), "-o", str(tmp_path / "out"), "--dry-run", "--json"]
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["to_do"] == 6
    config.write_text("souces: [x]\n")
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 2
    assert "unknown key 'souces'" in result.output
