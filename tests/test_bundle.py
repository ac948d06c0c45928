"""Bundles go out and come back; what is broken, tampered with or hostile is refused."""

from __future__ import annotations

import functools
import http.server
import io
import json
import pickle
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
from click.testing import CliRunner
from PIL import Image
from pystac.validation import validate_dict

from geoseg import registry
from geoseg.bundle import (
    CARD,
    ITEM,
    SAMPLE,
    THUMBNAIL,
    WEIGHTS,
    Bundle,
    Sample,
    card,
    multihash,
    rounded,
)
from geoseg.bundle.files import installing
from geoseg.bundle.thumbnail import EDGE, GAP, OPACITY, draw_thumbnail
from geoseg.cli import cli
from geoseg.errors import ModelError, OutputError
from geoseg.grid import Tiling
from geoseg.runtime.fake import constant, fake_spec, identity
from geoseg.spec import Band

SPEC = fake_spec(bands=2, name="demo", version="1.0", description="A demo.", license="MIT")
STATE = {
    "0.weight": np.linspace(-1, 1, 2 * 9, dtype=np.float32).reshape(1, 2, 3, 3),
    "0.bias": np.array([1e-9], np.float32),
    "1.num_batches_tracked": np.array(7),
}
INPUT = np.linspace(0, 1, 2 * 8 * 8, dtype=np.float32).reshape(1, 2, 8, 8)
GOLDEN = Sample(INPUT, INPUT[:, :1].copy(), {"float32": 0.01})


def write(path: Path, **changes: Any) -> Path:
    spec = replace(SPEC, **changes)
    return Bundle.write(path, spec, STATE, GOLDEN, card(spec), overwrite=True)


@pytest.fixture(params=["demo", "demo.zip"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    return Bundle.open(write(tmp_path / request.param))


def edit(folder: Path, name: str, raw: bytes, *, honest: bool = True) -> None:
    """Replace a file of a bundle and, when honest, its checksum."""
    (folder / name).write_bytes(raw)
    item = json.loads((folder / ITEM).read_text())
    for asset in item["assets"].values():
        if honest and asset["href"] == f"./{name}":
            asset["file:checksum"] = multihash(raw)
    (folder / ITEM).write_text(json.dumps(item))


# --- there and back -------------------------------------------------------------------------


def test_comes_back_as_written(bundle: Bundle) -> None:
    assert bundle.spec == SPEC
    assert bundle.card == card(SPEC)
    weights = bundle.weights()
    assert {k: v.dtype.name for k, v in weights.items()} == {
        "0.weight": "float16",
        "0.bias": "float32",
        "1.num_batches_tracked": "int64",
    }
    np.testing.assert_allclose(weights["0.weight"], STATE["0.weight"], atol=1e-3)
    assert weights["0.bias"] == STATE["0.bias"]
    sample = bundle.sample()
    np.testing.assert_array_equal(sample.input, GOLDEN.input)
    np.testing.assert_array_equal(sample.scores, GOLDEN.scores)
    assert sample.tolerance == {"float32": 0.01}


def test_a_zip_is_the_same_every_time_and_may_hold_one_folder(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.zip"), write(tmp_path / "b.zip")
    assert first.read_bytes() == second.read_bytes()
    write(tmp_path / "demo")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for file in (tmp_path / "demo").iterdir():
            archive.write(file, f"demo/{file.name}")
    assert Bundle.open(tmp_path / "c.zip").sample().tolerance == GOLDEN.tolerance


def zipped(folder: Path, prefix: str, *others: str) -> Path:
    """The files of a bundle in a zip, under names that begin with `prefix`; and others."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.writestr(prefix + file.name, file.read_bytes())
        for name in others:
            archive.writestr(name, "x")
    return path


@pytest.mark.parametrize(
    ("prefix", "others"),
    [
        ("demo/", ("__MACOSX/demo/._model.json", "__MACOSX/._demo")),
        ("demo/", ("__MACOSX/demo/model.json",)),
        ("", ("__MACOSX/._model.json",)),
        ("./", ()),
        ("./demo/", ("./readme.txt", ".DS_Store")),
        ("", ("older/model.json",)),
        ("repository-main/models/demo/", ("repository-main/setup.py",)),
    ],
)
def test_zips_of_other_tools(tmp_path: Path, prefix: str, others: tuple[str, ...]) -> None:
    path = zipped(write(tmp_path / "demo"), prefix, *others)
    bundle = Bundle.open(path)
    assert bundle.weights().keys() == STATE.keys()
    assert bundle.card == card(SPEC)


def test_is_a_stac_item_with_mlm(bundle: Bundle) -> None:
    """What the MLM 1.5 schema requires; the schema itself would have to be fetched."""
    validate_dict(dict(bundle.item), extensions=[])  # STAC's own schemas come with pystac
    item = pystac.Item.from_dict(dict(bundle.item))
    assert item.id == "demo-1.0"
    p = item.properties
    for name in ("mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"):
        assert name in p
    (given,), (result,) = p["mlm:input"], p["mlm:output"]
    assert {"name", "input"} <= given.keys()
    assert {"name", "tasks", "result"} <= result.keys()
    for structure in (given["input"], result["result"]):
        assert {"shape", "dim_order", "data_type"} <= structure.keys()
    assert "bands" in given["input"]["dim_order"]
    assert [b["name"] for b in p["bands"]] == given["bands"]
    assert "mlm:hyperparameters" not in p  # empty, which the schema forbids
    models = [a for a in item.assets.values() if "mlm:model" in (a.roles or ())]
    assert [a.extra_fields["mlm:artifact_type"] for a in models] == ["safetensors.torch.save_file"]
    others = [a for a in item.assets.values() if a not in models]
    assert not any("mlm:artifact_type" in a.extra_fields for a in others)
    assert models[0].extra_fields["file:checksum"] == bundle.checksum
    assert bundle.checksum.startswith("1220")
    assert len(bundle.checksum) == 4 + 64


def test_half_keeps_vectors_and_refuses_what_it_cannot_hold() -> None:
    assert rounded(STATE, half=False)["0.weight"].dtype == np.float32
    with pytest.raises(ModelError, match="'a' has values beyond float16"):
        rounded({"a": np.full((1, 1), 1e5, np.float32)})
    with pytest.raises(ModelError, match="'a' has values that are no finite"):
        rounded({"a": np.array([np.nan], np.float32)})


def test_check_tells_the_largest_difference(bundle: Bundle) -> None:
    report = bundle.check(identity(SPEC))
    assert report.ok
    assert report.difference == 0
    wrong = bundle.check(constant(0.5, spec=SPEC))
    assert not wrong.ok
    assert wrong.difference == pytest.approx(0.5, abs=0.01)
    assert "DIFFERS" in str(wrong)
    assert wrong.as_dict()["ok"] is False
    assert not bundle.check(constant(float("nan"), spec=SPEC)).ok
    with pytest.raises(ModelError, match=r"gives \(1, 2, 8, 8\), its golden sample \(1, 1, 8, 8\)"):
        bundle.check(constant(0.5, 0.5, spec=SPEC))


def test_tolerance_of_a_runtime_and_precision() -> None:
    sample = replace(GOLDEN, tolerance={"float32": 0.1, "bfloat16": 0.2, "onnx/bfloat16": 0.3})
    assert sample.allowed("torch bfloat16 channels_last cpu") == 0.2
    assert sample.allowed("onnx bfloat16 cpu") == 0.3
    assert sample.allowed("torch float16") == 0.1


def test_card_tells_what_is_known() -> None:
    spec = replace(SPEC, metrics={"Bern": {"IoU": 0.8, "F1": 0.9}, "Graz": {"IoU": 0.7}})
    text = card(spec, data="Roofs.", places="Bern", recipe="configs/x.yaml", limits="Snow.")
    row = "| Bern | 0.800 | 0.900 |"
    for part in ("# demo, version 1.0", "A demo.", "MIT", "Roofs.", row, "Snow."):
        assert part in text
    assert "| Graz | 0.700 |  |" in text
    assert "## Attribution" not in text
    assert "| IoU | 0.500 |" in card(replace(SPEC, metrics={"IoU": 0.5}))


# --- writing --------------------------------------------------------------------------------


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    target = write(tmp_path / "demo")
    with pytest.raises(OutputError, match="exists already"):
        Bundle.write(target, SPEC, STATE, GOLDEN, "")

    def interrupted() -> None:
        with installing(tmp_path / "new") as partial:
            partial.mkdir()
            (partial / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]
    write(target, description="Another.")
    assert Bundle.open(target).spec.description == "Another."
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize("folder", [True, False])
def test_what_another_run_wrote_meanwhile_stays(tmp_path: Path, folder: bool) -> None:
    target = tmp_path / "there"

    def put(path: Path, text: str) -> None:
        if folder:
            path.mkdir()
        (path / "x" if folder else path).write_text(text)

    def second() -> None:
        with installing(target) as partial:
            put(partial, "second")
            put(target, "first")

    with pytest.raises(OutputError, match="there was written by another run meanwhile"):
        second()
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    assert (target / "x" if folder else target).read_text() == "first"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with installing(tmp_path / "new") as partial:
        partial.mkdir()
        (partial / "x").touch()
    assert (tmp_path / "new" / "x").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write(tmp_path / "file" / "demo")
    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        Bundle.write(tmp_path / ("x" * 300), SPEC, STATE, GOLDEN, "")


# --- what is refused ------------------------------------------------------------------------


def refused(path: Path, message: str, use: Callable[[Bundle], object] = lambda b: None) -> None:
    """Opening, or then using, fails with one line that names the bundle."""
    with pytest.raises(ModelError, match=message) as caught:
        use(Bundle.open(path))
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text


@pytest.mark.parametrize("name", [ITEM, WEIGHTS, SAMPLE])
def test_missing_files(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "demo")
    (folder / name).unlink()
    refused(folder, f"{name} is missing")


def test_nothing_there_or_no_bundle(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such model folder or zip")
    (tmp_path / "text.zip").write_text("hello")
    refused(tmp_path / "text.zip", "neither a model folder nor an intact zip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no valid JSON"),
        ("[]", "no JSON object"),
        ("{}", "'properties' is missing"),
        ('{"properties": {"mlm:input": 1}}', "not a model item"),
    ],
)
def test_broken_item(tmp_path: Path, text: str, message: str) -> None:
    folder = write(tmp_path / "demo")
    (folder / ITEM).write_text(text)
    refused(folder, message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("geoseg:tiling", {"size": 16, "stride": 32}, "smaller than the model's stride"),
        ("geoseg:activation", "relu", "no activation 'relu'"),
        ("mlm:hyperparameters", ["depth"], "mlm:hyperparameters must be an object"),
        ("mlm:hyperparameters", {"classes": 4}, "'classes' is no argument"),
        ("description", "\ud800", "no valid JSON .*surrogates not allowed"),
        ("gsd", -1, "not positive"),
        ("mlm:tasks", ["generative"], "no task 'generative'"),
    ],
)
def test_senseless_item(tmp_path: Path, key: str, value: object, message: str) -> None:
    folder = write(tmp_path / "demo")
    item = json.loads((folder / ITEM).read_text())
    item["properties"][key] = value
    (folder / ITEM).write_text(json.dumps(item))
    refused(folder, message)


@pytest.mark.parametrize(
    ("assets", "message"),
    [
        ([], "the assets in model.json are no object"),
        (None, "the assets in model.json are no object"),
        ({"weights": "weights.safetensors"}, "the asset 'weights' in model.json has no href"),
        ({"weights": {"href": 5}}, "the asset 'weights' in model.json has no href"),
    ],
)
def test_senseless_assets(tmp_path: Path, assets: object, message: str) -> None:
    folder = write(tmp_path / "demo")
    item = json.loads((folder / ITEM).read_text())
    (folder / ITEM).write_text(json.dumps({**item, "assets": assets}))
    refused(folder, message)


def test_asset_whose_name_no_file_can_have(tmp_path: Path) -> None:
    folder = write(tmp_path / "demo")
    item = json.loads((folder / ITEM).read_text())
    item["assets"]["odd"] = {"href": "a\0b", "file:checksum": multihash(b"")}
    (folder / ITEM).write_text(json.dumps(item))
    refused(folder, "cannot be read: embedded null byte", lambda b: b.copy_to(tmp_path))


def test_tampered_weights(tmp_path: Path) -> None:
    folder = write(tmp_path / "demo")
    raw = bytearray((folder / WEIGHTS).read_bytes())
    raw[-1] ^= 1
    edit(folder, WEIGHTS, bytes(raw), honest=False)
    refused(folder, "does not have the checksum", Bundle.weights)


def test_no_checksum(tmp_path: Path) -> None:
    folder = write(tmp_path / "demo")
    item = json.loads((folder / ITEM).read_text())
    for asset in item["assets"].values():
        del asset["file:checksum"]
    (folder / ITEM).write_text(json.dumps(item))
    refused(folder, "states no sha2-256", Bundle.weights)


def pickled() -> bytes:
    return pickle.dumps(STATE)


def torch_saved() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled())
    return buffer.getvalue()


@pytest.mark.parametrize("disguise", [pickled, torch_saved])
def test_pickle_in_disguise(tmp_path: Path, disguise: Callable[[], bytes]) -> None:
    folder = write(tmp_path / "demo")
    edit(folder, WEIGHTS, disguise())
    refused(folder, "is a Python pickle under another name", Bundle.weights)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: struct.pack("<Q", 1 << 60) + raw[8:],
        lambda raw: raw.replace(b'"F16"', b'"F17"'),
        lambda raw: raw + b"more",
    ],
)
def test_damaged_safetensors(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = write(tmp_path / "demo")
    edit(folder, WEIGHTS, damage((folder / WEIGHTS).read_bytes()))
    refused(folder, "no intact safetensors", Bundle.weights)


def sample_of(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "raw",
    [
        b"no zip",
        sample_of(input=INPUT),
        sample_of(input=INPUT, scores=INPUT[:, :, :4], tolerance=np.array("{}")),
        sample_of(input=INPUT, scores=INPUT, tolerance=np.array("{")),
        sample_of(input=INPUT, scores=INPUT, tolerance=np.array([{}], dtype=object)),
        sample_of(input=INPUT, scores=INPUT[:, :1], tolerance=np.array('{"float32": 1e999}')),
        sample_of(input=INPUT + 0j, scores=INPUT[:, :1], tolerance=np.array("{}")),
        sample_of(input=INPUT, scores=INPUT[:, :1], tolerance=np.array("[" * 100_000)),
    ],
)
def test_broken_sample(tmp_path: Path, raw: bytes) -> None:
    folder = write(tmp_path / "demo")
    edit(folder, SAMPLE, raw)
    refused(folder, "golden sample", Bundle.sample)


@pytest.mark.parametrize(
    ("shape", "classes", "fixed", "message"),
    [
        ((4, 8, 8), 1, False, "it has 4 bands and 1 classes, the model 2 and 1"),
        ((2, 8, 8), 3, False, "it has 2 bands and 3 classes, the model 2 and 1"),
        ((2, 0, 0), 1, False, "an edge of 0 pixels"),
        ((2, 8, 12), 1, False, "an edge of 12 pixels is no multiple of 8"),
        ((2, 8, 8), 1, True, "an edge of 8 pixels, but tiles are fixed to 16"),
    ],
)
def test_sample_of_another_model(
    tmp_path: Path, shape: tuple[int, int, int], classes: int, fixed: bool, message: str
) -> None:
    folder = write(tmp_path / "demo", tiling=Tiling(16, 4, 8, fixed=fixed))
    scores = np.zeros((1, classes, *shape[1:]), np.float32)
    raw = sample_of(input=np.zeros((1, *shape), np.float32), scores=scores, tolerance="{}")
    edit(folder, SAMPLE, raw)
    refused(folder, f"no intact golden sample .*{message}", Bundle.sample)


def test_assets_outside_of_the_bundle_are_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "demo")
    text = (folder / ITEM).read_text()
    (folder / ITEM).write_text(text.replace(f"./{WEIGHTS}", f"../{WEIGHTS}"))
    refused(folder, "states no sha2-256", Bundle.weights)


def _link(info: zipfile.ZipInfo) -> None:
    info.external_attr = 0o120777 << 16


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("../escaped", None, "points out of the zip"),
        ("a/../../escaped", None, "points out of the zip"),
        ("/etc/escaped", None, "points out of the zip"),
        ("C:escaped", None, "points out of the zip"),
        ("./../escaped", None, "points out of the zip"),
        ("./C:escaped", None, "points out of the zip"),
        ("__MACOSX/../../escaped", None, "points out of the zip"),
        ("./model.json", None, "two members have the same name"),
        ("..\\escaped", None, "points out of the zip"),
        ("link", _link, "is a link"),
    ],
)
def test_hostile_zips(
    tmp_path: Path, name: str, change: Callable[[zipfile.ZipInfo], None] | None, message: str
) -> None:
    path = write(tmp_path / "demo.zip")
    info = zipfile.ZipInfo(name)
    if change:
        change(info)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "x")
    refused(path, message)


def test_zips_of_several_models_or_none(tmp_path: Path) -> None:
    several = zipped(write(tmp_path / "demo"), "a/", "b/model.json")
    refused(several, "several models lie in it: a, b")
    (tmp_path / "none").mkdir()
    refused(zipped(tmp_path / "none", "", "__MACOSX/model.json"), "model.json is missing")


def test_zip_with_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = zipped(write(tmp_path / "demo"), "", "\u00e4\u00e4")
    path.write_bytes(path.read_bytes().replace("\u00e4\u00e4".encode(), b"\xff" * 4))
    refused(path, "neither a model folder nor an intact zip")


def test_zip_bomb(tmp_path: Path) -> None:
    path = write(tmp_path / "demo.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(64 << 20))
    refused(path, "would unpack to 67 MB")


def test_cut_zip_and_damaged_member(tmp_path: Path) -> None:
    path = write(tmp_path / "demo.zip")
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    refused(path, "neither a model folder nor an intact zip")
    spot = raw.index(WEIGHTS.encode()) + len(WEIGHTS) + 4
    path.write_bytes(raw[:spot] + bytes(8) + raw[spot + 8 :])
    refused(path, "cannot be read from the zip", Bundle.weights)


# --- models by name -------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's models in a folder of their own; one model in the package."""
    monkeypatch.setenv("GEOSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(registry, "BUNDLED", tmp_path / "package")
    write(tmp_path / "package" / "buildings-v0", name="buildings-v0")
    return tmp_path / "home" / "models"


def test_find_by_name_and_path(home: Path, tmp_path: Path) -> None:
    assert registry.find("buildings-v0") == tmp_path / "package" / "buildings-v0"
    path = write(tmp_path / "elsewhere.zip")
    assert registry.find(path) == path
    write(home / "mine.zip")
    assert registry.find("mine") == home / "mine.zip"
    with pytest.raises(ModelError, match=r"did you mean buildings-v0.*geoseg model list"):
        registry.find("building-v0")
    with pytest.raises(ModelError, match="no model is named 'zzz'"):
        registry.find("zzz")
    for odd in ("x" * 300, "a\0b", "~nobody-of-that-name/model"):
        with pytest.raises(ModelError, match="no model is named"):
            registry.find(odd)


def test_list_models(home: Path) -> None:
    write(home / "mine")
    first, second = registry.list_models()
    assert (first.name, first.source) == ("buildings-v0", "package")
    assert (second.name, second.source, second.gsd) == ("mine", "user", 0.3)
    assert [c.name for c in second.classes] == ["thing"]
    assert second.bands == ("band1", "band2")
    record = json.loads(json.dumps(second.as_dict()))
    assert record["classes"] == [{"id": 1, "name": "thing", "color": SPEC.classes[0].color}]
    assert (record["id"], record["license"], record["description"]) == (
        "demo-1.0",
        "MIT",
        "A demo.",
    )
    assert (record["dtype"], record["value_range"]) == (SPEC.dtype, list(SPEC.value_range))
    assert record["path"] == str(home / "mine")
    assert record["thumbnail"] == str(home / "mine" / "thumbnail.png")


def test_a_broken_model_hides_no_other(home: Path) -> None:
    write(home / "mine")
    (write(home / "broken") / ITEM).write_text("{")
    with pytest.raises(ModelError, match="broken"):
        registry.list_models()
    told: list[ModelError] = []
    assert [m.name for m in registry.list_models(skip=told.append)] == ["buildings-v0", "mine"]
    assert "broken" in str(told)
    shown = CliRunner().invoke(cli, ["model", "list"])
    assert shown.exit_code == 0
    assert "mine" in shown.stdout
    assert "warning: left out:" in shown.stderr
    lines = CliRunner().invoke(cli, ["model", "list", "--json"]).stdout.splitlines()
    assert [json.loads(line).get("event") for line in lines] == ["warning", None, None]


def test_a_thumbnail_is_found_where_there_is_one(home: Path) -> None:
    folder = write(home / "mine")
    picture = folder / "thumbnail.png"
    assert registry.list_models()[1].as_dict()["thumbnail"] == str(picture)
    picture.unlink()  # it was not sent along
    assert registry.list_models()[1].thumbnail is None


@pytest.mark.parametrize("alone", [True, False])
def test_the_thumbnail_is_the_image_and_the_classes_over_it(alone: bool) -> None:
    """Of one class what reaches the threshold is coloured, of several the likeliest."""
    bands = (Band("blue"), Band("green"), Band("red"))
    spec = fake_spec(bands=3, classes=1 if alone else 2)
    spec = replace(spec, bands=bands, threshold=0.4)
    image = np.zeros((1, 3, 200, 64), np.float32)
    image[:, 2, 100:] = 1  # red below
    roof = np.zeros((1, 1, 200, 64), np.float32)
    roof[..., :32], roof[..., 32:40] = 0.9, 0.45
    scores = roof if alone else np.concatenate((1 - roof, roof), axis=1)
    picture = Image.open(io.BytesIO(draw_thumbnail(spec, Sample(image, scores)))).convert("RGB")
    assert picture.size == (64 + GAP + 64, EDGE)
    before, after = (np.asarray(picture)[:, part] for part in (slice(64), slice(64 + GAP, None)))
    assert (before[:90] == 0).all()
    assert (before[110:] == (255, 0, 0)).all()
    right = 40 if alone else 32
    assert (after[:, right:] == before[:, right:]).all()
    colour = np.array(list(bytes.fromhex(spec.classes[-1].color[1:])))
    assert np.abs(after[:90, :right] - OPACITY * colour).max() <= 4  # 128 colours in all
    mixed = OPACITY * colour + (1 - OPACITY) * np.array([255, 0, 0])
    assert np.abs(after[110:, :right] - mixed).max() <= 4


def test_add_and_remove_from_the_command_line(home: Path, tmp_path: Path) -> None:
    def geoseg(*words: object) -> Any:
        return CliRunner().invoke(cli, ["model", *map(str, words)])

    source = write(tmp_path / "run" / "bundle")
    added = json.loads(geoseg("add", source, "--name", "roofs", "--json").stdout)
    listed = [json.loads(line) for line in geoseg("list", "--json").stdout.splitlines()]
    assert added == {"event": "result", **listed[1]}
    assert (added["name"], added["path"]) == ("roofs", str(home / "roofs"))
    assert "roofs" in geoseg("list").stdout
    refused = geoseg("add", source, "--name", "roofs")
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    assert geoseg("add", source, "--name", "roofs", "--overwrite").stdout == f"{home / 'roofs'}\n"
    gone = json.loads(geoseg("remove", "roofs", "--json").stdout)
    assert gone == {"event": "result", "name": "roofs", "path": str(home / "roofs")}
    assert list(home.iterdir()) == []
    assert source.is_dir()


def test_a_zip_gives_way_to_what_is_added(home: Path, tmp_path: Path) -> None:
    write(home / "demo.zip", version="0")
    source = write(tmp_path / "new", version="2")
    with pytest.raises(ModelError, match=r"demo\.zip exists already.*--overwrite"):
        registry.add_model(source)
    registry.add_model(source, overwrite=True)
    assert [p.name for p in home.iterdir()] == ["demo"]
    assert Bundle.open(registry.find("demo")).spec.version == "2"


def test_only_own_models_are_removed(home: Path) -> None:
    own = write(home / "buildings-v0.zip")  # which hides the one of the package
    assert registry.remove_model("buildings-v0") == own
    with pytest.raises(ModelError, match="comes with geoseg and stays"):
        registry.remove_model("buildings-v0")
    for name in ("nothing", "../package/buildings-v0", "", "."):
        with pytest.raises(ModelError, match="none of your models is named"):
            registry.remove_model(name)
    broken = write(home / "broken")
    (broken / ITEM).write_text("{")
    registry.remove_model("broken")
    assert [e.name for e in registry.list_models()] == ["buildings-v0"]


def test_nothing_broken_is_added(home: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "demo")
    edit(folder, WEIGHTS, b"changed", honest=False)
    with pytest.raises(ModelError, match="does not have the checksum"):
        registry.add_model(folder)
    with pytest.raises(ModelError, match="no such model folder or zip"):
        registry.add_model(tmp_path / "missing")
    assert not home.exists()


@pytest.mark.parametrize("form", ["demo", "demo.zip"])
def test_pull_local(home: Path, tmp_path: Path, form: str) -> None:
    source = write(tmp_path / form)
    assert registry.pull(source) == home / "demo"
    assert Bundle.open(registry.find("demo")).spec == SPEC
    assert {p.name for p in (home / "demo").iterdir()} == {ITEM, WEIGHTS, SAMPLE, THUMBNAIL, CARD}
    with pytest.raises(ModelError, match="exists already: take another name"):
        registry.pull(source)
    assert registry.pull(source, name="second") == home / "second"
    registry.pull(source, overwrite=True)
    assert sorted(p.name for p in home.iterdir()) == ["demo", "second"]


def test_pull_checks_first(home: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "demo")
    (folder / "stray.py").write_text("print('hello')")
    registry.pull(folder, name="clean")
    assert not (home / "clean" / "stray.py").exists()
    edit(folder, WEIGHTS, b"changed", honest=False)
    with pytest.raises(ModelError, match="does not have the checksum"):
        registry.pull(folder)
    with pytest.raises(ModelError, match="no name for a model"):
        registry.pull(write(tmp_path / "good"), name="../out")
    with pytest.raises(ModelError, match="^'xxx.*no name for a model.* a hundred at most$"):
        registry.pull(tmp_path / "good", name="x" * 300)
    assert [p.name for p in home.iterdir()] == ["clean"]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_pull_over_http(
    home: Path, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    write(tmp_path / "demo.zip")
    assert registry.pull(f"{server}/demo.zip") == home / "demo"
    with pytest.raises(ModelError, match=r"none.zip cannot be fetched: .*[Nn]ot [Ff]ound"):
        registry.pull(f"{server}/none.zip")
    (tmp_path / "page.html").write_text("<html>")
    with pytest.raises(ModelError, match="intact zip"):
        registry.pull(f"{server}/page.html")


@pytest.mark.parametrize(
    ("source", "name", "revision"),
    [
        ("hf:somebody/demo@v1", "somebody/demo", "v1"),
        ("somebody/demo", "somebody/demo", None),
    ],
)
def test_pull_from_hugging_face(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    name: str,
    revision: str | None,
) -> None:
    import huggingface_hub

    real = write(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in real.iterdir():  # the hub's cache is made of links
        (snapshot / file.name).symlink_to(file)
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert registry.pull(source) == home / "demo"
    assert (asked["repository"], asked["revision"]) == (name, revision)
    assert "*.safetensors" in asked["allow_patterns"]
    assert not any(p.is_symlink() for p in (home / "demo").iterdir())


def test_pull_of_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_: Any, **__: Any) -> str:
        raise OSError("no network\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=r"hf:a/b cannot be fetched: no network$"):
        registry.pull("a/b")
    with pytest.raises(ModelError, match="no such folder or zip"):
        registry.pull("nothing")
    assert not home.exists()
