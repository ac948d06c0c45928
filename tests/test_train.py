"""From a recipe to a bundle: windows, calibration, what a run measures, keeps and goes on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from planted import CRS, GSD, MILD, NAMES, PLAIN, plant_place, recipe

import geoseg
from geoseg import runtime
from geoseg.bundle import Bundle
from geoseg.data.sheets import load_places
from geoseg.data.split import TRAIN, VALIDATE, windows
from geoseg.errors import ConfigError, DataError, ModelError, OutputError
from geoseg.metrics import IGNORE, Confusion, ScoreHistogram
from geoseg.train import TrainConfig, train
from geoseg.train.calibrate import GENEROUS, choose, fit_temperature, sample
from geoseg.train.export import write_bundle
from geoseg.train.networks import new_network
from geoseg.train.run import resolve, run
from geoseg.train.validate import scores

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own

CONFIGS = Path(__file__).parents[1] / "configs"
Data = tuple[Path, list[dict[str, str]]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("places")
    return folder, [plant_place(folder, "north", 0), plant_place(folder, "south", 1)]


# --- calibration, threshold, scores ---------------------------------------------------------


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (200_000, 1))
    truth = (rng.random(200_000) < 1 / (1 + np.exp(-honest[:, 0]))).astype(np.uint8)
    temperature = fit_temperature(3 * honest, truth)
    assert temperature == pytest.approx(3, rel=0.05)
    histogram = ScoreHistogram()
    histogram.add(1 / (1 + np.exp(-3 * honest[:, 0] / temperature)), truth)
    chosen, _ = choose({"here": histogram})
    assert chosen["calibration_error"] < 0.01
    assert chosen["iou_best"] - GENEROUS <= chosen["iou"] <= chosen["iou_best"]


def test_temperature_of_several_classes() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (100_000, 4))
    probability = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    truth = (probability.cumsum(1) < rng.random((100_000, 1))).sum(1).astype(np.uint8)
    for factor in (0.5, 2.5):
        shifted = factor * honest + rng.normal(0, 5, (100_000, 1))  # softmax does not see it
        assert fit_temperature(shifted, truth) == pytest.approx(factor, rel=0.05)


class FakeBlocks(list[tuple[str, torch.Tensor, torch.Tensor]]):
    """Blocks whose image is what the network would say."""


def test_the_sample_is_even_and_bounded() -> None:
    blocks = FakeBlocks()
    for i in range(5):
        image = torch.full((2, 40, 40), float(i))
        target = torch.full((40, 40), i % 2, dtype=torch.uint8)
        target[:10] = IGNORE
        blocks.append(("here", image, target))
    logits, labels = sample(lambda image: image, blocks, most=1000)  # type: ignore[arg-type]
    assert logits.size <= 1000
    assert len(logits) == len(labels)
    _, counts = np.unique(logits[:, 0], return_counts=True)
    assert len(counts) == 5
    assert counts.max() == counts.min() >= 80
    assert (labels == logits[:, 0] % 2).all()


def test_scores_of_places_and_classes_by_hand() -> None:
    config = recipe([{"name": "x", "rasters": "x", "labels": "x"}], classes=2).data
    one, two = Confusion(3), Confusion(3)
    one.matrix = np.array([[90, 5, 0], [5, 10, 0], [0, 0, 0]])  # the second class is not there
    two.matrix = np.array([[50, 0, 10], [0, 20, 0], [0, 0, 30]])
    found = scores({"one": one, "two": two}, config)
    assert found.places == pytest.approx({"one": 10 / 20, "two": (1 + 30 / 40) / 2})
    assert found.iou == pytest.approx((10 / 20 + 0.875) / 2)
    assert found.classes == pytest.approx({NAMES[0]: 30 / 40, NAMES[1]: 30 / 40})


# --- what a run measures and keeps ----------------------------------------------------------


def test_same_seed_same_run_and_all_is_kept(data: Data, tmp_path: Path) -> None:
    root, places = data
    config = recipe(places, steps=3)
    one = run(config, root, tmp_path / "one", progress=False)
    workers = recipe(places, steps=3, workers=2)
    two = run(workers, root, tmp_path / "two", progress=False)
    for name in ("weights.safetensors", "log/metrics.csv", "sample.npz"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    other = run(recipe(places, steps=3, seed=1), root, tmp_path / "three", progress=False)
    weights = "weights.safetensors"
    assert (one / weights).read_bytes() != (other / weights).read_bytes()
    result = json.loads((one / "result.json").read_text())
    assert set(result["validation"]) == {"north", "south"}
    assert np.sum(result["confusion"]) == _validated(config, root)
    frame = gpd.read_file(one / "split.gpkg")
    assert set(frame["part"]) == {"train", "validate"}
    rows = (one / "log" / "metrics.csv").read_text().splitlines()
    assert rows[0] == "step,rate,loss,iou,place/north,place/south,class/roof"
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3"]
    assert [bool(row.split(",")[3]) for row in rows[1:]] == [False, True, True]
    assert not (one / "pixels").exists()


def _validated(config: TrainConfig, root: Path) -> int:
    """Labelled pixels of the validation blocks."""
    sheets = load_places(config.data, root, seed=0)
    return sum(
        int((s.target(w, VALIDATE) != IGNORE).sum()) for s in sheets for w in windows(s, VALIDATE)
    )


def test_what_a_recipe_leaves_out_is_measured_where_it_trains(tmp_path: Path) -> None:
    place = plant_place(tmp_path, "here", 0, dtype=np.uint16)
    config = recipe([place], data={"offset": None, "scale": None})
    sheets = load_places(config.data, tmp_path, seed=0)
    found = resolve(config, sheets, tmp_path, tmp_path).data
    trained = [sheets[0].image[:, *w.slices()].reshape(3, -1) for w in windows(sheets[0], TRAIN)]
    pixels = np.concatenate(trained, axis=1).astype(float)
    assert found.offset == pytest.approx(pixels.mean(1))
    assert found.scale == pytest.approx(pixels.std(1))
    assert found.value_range == pytest.approx(np.percentile(pixels, (0.1, 99.9)), rel=0.01)
    kept, _ = TrainConfig.load(tmp_path / "config.yaml")
    assert kept.data == found
    given = recipe([place], data={"value_range": (0, 9000)})
    known = resolve(given, sheets, tmp_path, tmp_path).data
    assert (known.offset, known.scale) == (given.data.offset, given.data.scale)
    assert known.value_range == (0, 9000)


def test_bytes_range_from_0_to_255(data: Data, tmp_path: Path) -> None:
    root, places = data
    config = recipe(places)
    sheets = load_places(config.data, root, seed=0)
    assert resolve(config, sheets, root, tmp_path).data.value_range == (0, 255)


def test_rasters_of_several_types_are_refused(data: Data, tmp_path: Path) -> None:
    root, places = data
    config = recipe([*places, plant_place(root, "deep", 2, dtype=np.uint16)])
    sheets = load_places(config.data, root, seed=0)
    with pytest.raises(DataError, match=r"uint8 \(.*uint16 \(deep\.tif\)"):
        resolve(config, sheets, root, tmp_path)


def test_labels_of_blocks_that_are_held_back_teach_nothing(data: Data, tmp_path: Path) -> None:
    root, (place, _) = data
    held = {"split": {"block": 19.2, "share": 0.2, "test": 0.2}}
    run(recipe([place], model=PLAIN, data=held), root, tmp_path / "honest", progress=False)
    split = gpd.read_file(tmp_path / "honest" / "split.gpkg").to_crs(CRS)
    away = split[split["part"] != "train"]
    assert set(away["part"]) == {"validate", "test"}
    labels = gpd.read_file(root / place["labels"])
    lies = away[["geometry"]].assign(kind="roof", geometry=away.buffer(-2 * GSD))
    pd.concat([labels, lies]).to_file(root / "poisoned.gpkg")
    poisoned = recipe([{**place, "labels": "poisoned.gpkg"}], model=PLAIN, data=held)
    run(poisoned, root, tmp_path / "poisoned", progress=False)
    weights, results = (
        [(tmp_path / name / file).read_bytes() for name in ("honest", "poisoned")]
        for file in ("weights.safetensors", "result.json")
    )
    assert weights[0] == weights[1]
    judged = [json.loads(result)["confusion"] for result in results]
    assert judged[0] != judged[1]  # the lies were seen where they may be


def test_nothing_to_learn_is_told_and_what_cannot_be_learnt(
    data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, (place, _) = data
    config = recipe([place], data={"attribute": "kind"}, model=PLAIN)
    elsewhere = gpd.read_file(root / place["labels"]).set_crs(3857, allow_override=True)
    elsewhere.to_file(root / "elsewhere.gpkg")
    wrong = recipe([{**place, "labels": "elsewhere.gpkg"}], model=PLAIN)
    with pytest.raises(DataError, match="no pixel of roof.*nothing to learn.*data check"):
        run(wrong, root, tmp_path / "wrong", progress=False)
    more = recipe([place], classes=2, model=PLAIN, steps=1)
    run(more, root, tmp_path / "more")
    assert "class pond has no pixel in the blocks that train" in capfd.readouterr().err
    run(config, root, tmp_path / "one")
    assert "no pixel" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"data": {"classes": [{"id": 1, "name": "roof", "color": "red"}]}},
            "'red' is not #rrggbb",
        ),
        ({"data": {"classes": [{"id": 1, "name": ""}], "attribute": None}}, "name of a class"),
    ],
)
def test_what_no_bundle_can_hold_is_told_before_the_training(
    data: Data, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    root, places = data
    content = recipe(places, model=PLAIN).model_dump()
    content["data"] |= change.pop("data", {})
    config = TrainConfig.model_validate(content | change)
    with pytest.raises(ModelError, match=message):
        run(config, root, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "last.ckpt").exists()


# --- bundles --------------------------------------------------------------------------------


def test_a_recipe_becomes_a_bundle(data: Data, tmp_path: Path) -> None:
    root, places = data
    path = tmp_path / "tiny.yaml"
    content = recipe(places).model_dump(mode="json", exclude_unset=True)
    content["data"]["places"][0]["about"] = "planted squares, public domain"
    path.write_text(yaml.safe_dump(content))
    made = train(path, output=tmp_path / "run", data=root, steps=2, progress=False)
    bundle = Bundle.open(made)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert bundle.spec.threshold == result["threshold"]
    assert bundle.spec.temperature == result["temperature"]
    assert bundle.spec.activation == "sigmoid"
    assert bundle.spec.tiling.stride == 8
    assert bundle.spec.scaling.clip is None
    assert "planted squares" in bundle.card
    assert "2 steps of 2 windows" in bundle.card
    assert bundle.check(runtime.load(bundle, precision="float32", threads=1)).ok
    (tmp_path / "run" / "metrics.json").write_text('{"elsewhere": {"iou": 0.5}}')
    again = Bundle.open(write_bundle(tmp_path / "run", tmp_path / "again"))
    assert again.spec.metrics["test: elsewhere"] == {"iou": 0.5}
    with pytest.raises(DataError, match="no finished run"):
        write_bundle(tmp_path)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], TrainConfig]:
    """A run on three classes in numbers of 16 bits, its place and its recipe."""
    root = tmp_path_factory.mktemp("several")
    place = plant_place(root, "here", 2, classes=3, dtype=np.uint16)
    config = recipe(
        [place],
        classes=3,
        data={"offset": None, "scale": None},
        augment=MILD,
        **{"batch": 4, "lr": 0.01, "encoder_lr": 1.0, "ema": 0.8, "steps": 40},
    )
    run(config, root, root / "run", progress=False)
    return root, place, config


def test_a_model_of_several_classes_finds_polygons_of_each(several: Any, tmp_path: Path) -> None:
    root, place, config = several
    path = write_bundle(root / "run", tmp_path / "bundle")
    bundle = Bundle.open(path)
    spec, result = bundle.spec, json.loads((root / "run" / "result.json").read_text())
    assert spec.activation == "softmax"
    assert spec.classes == config.data.channels
    assert spec.dtype == "uint16"
    assert spec.scaling.clip == spec.value_range
    assert spec.temperature == result["temperature"]
    assert "threshold" not in result
    assert set(result["classes"]) == set(NAMES)
    assert result["labels"] == ["background", *NAMES]
    assert np.sum(result["confusion"]) == _validated(config, root)
    assert bundle.check(runtime.load(bundle, precision="float32", threads=1)).ok
    out, mask = tmp_path / "out.gpkg", tmp_path / "mask.tif"
    geoseg.predict(root / place["rasters"], out, model=path, mask=mask)
    frame = gpd.read_file(out)
    assert set(frame["class"]) == set(NAMES)
    truth = gpd.read_file(root / place["labels"])
    for name in NAMES:
        found, wanted = (
            f.geometry.union_all()
            for f in (frame[frame["class"] == name], truth[truth["kind"] == name])
        )
        assert found.intersection(wanted).area / found.union(wanted).area > 0.7


# --- fine-tuning ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def started(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to go on from; its scaling is not one that would be measured."""
    root, places = data
    folder = tmp_path_factory.mktemp("start")
    config = recipe(places, model=PLAIN, steps=1, data={"offset": [9.0] * 3, "scale": [50.0] * 3})
    return train(config, output=folder, data=root, progress=False)


def test_a_run_goes_on_from_a_bundle(data: Data, started: Path, tmp_path: Path) -> None:
    root, places = data
    first = Bundle.open(started)
    left_out = {"offset": None, "scale": None}
    config = recipe(places, model={"start": str(started)}, steps=1, lr=1e-9, data=left_out)
    network, said = new_network(config)
    for name, array in first.weights().items():
        np.testing.assert_array_equal(network.state_dict()[name].numpy(), array.astype(np.float32))
    assert said == [f"goes on from {first.spec.id}"]
    bundle = Bundle.open(train(config, output=tmp_path, data=root, progress=False))
    assert bundle.spec.architecture == "tiny"
    assert bundle.spec.arguments == first.spec.arguments
    assert bundle.spec.scaling == first.spec.scaling  # what the weights have learned
    assert f"from {first.spec.id}" in bundle.card
    for name, array in bundle.weights().items():
        np.testing.assert_allclose(array, first.weights()[name], atol=1e-3)


def test_other_bands_and_classes_replace_what_they_must(data: Data, started: Path) -> None:
    given = Bundle.open(started).weights()
    bands = [{"name": name} for name in ("nir", "red", "green", "blue")]
    config = recipe(
        data[1],
        classes=2,
        model={"start": str(started)},
        data={"bands": bands, "offset": [0] * 4, "scale": [1] * 4},
    )
    network, said = new_network(config)
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    assert state["0.weight"].shape == (4, 4, 3, 3)
    np.testing.assert_allclose(state["0.weight"][:, :3], given["0.weight"] * 0.75, rtol=1e-3)
    np.testing.assert_array_equal(state["0.bias"], given["0.bias"])
    assert state["2.weight"].shape[0] == 3
    assert said[1:] == [
        "0.weight was made for red, green, blue, and adapted to nir, red, green, blue",
        "3 classes instead of 1: 2.weight, 2.bias begin anew",
    ]


def test_bands_in_another_order_keep_their_kernels(data: Data, started: Path) -> None:
    given = Bundle.open(started).weights()["0.weight"].astype(np.float32)
    bands = [{"name": name} for name in ("blue", "red", "green")]
    config = recipe(data[1], model={"start": str(started)}, data={"bands": bands})
    network, _ = new_network(config)
    found = network.state_dict()["0.weight"].numpy()
    np.testing.assert_array_equal(found, given[:, [2, 0, 1]])


# --- what is wrong in a recipe --------------------------------------------------------------


@pytest.mark.parametrize("reserved", ["classes", "bands"])
def test_arguments_that_follow_from_the_data(data: Data, reserved: str) -> None:
    model = {"architecture": "tiny", "arguments": {reserved: 3}}
    with pytest.raises(
        ConfigError, match=f"{reserved}' follows from data.{reserved}; leave it out"
    ):
        new_network(recipe(data[1], model=model))


def test_a_start_that_is_not_there(data: Data) -> None:
    with pytest.raises(ModelError, match="no model is named 'nowhere'"):
        new_network(recipe(data[1], model={"start": "nowhere"}))


def test_a_split_without_validation_is_told(data: Data, tmp_path: Path) -> None:
    root, places = data
    config = recipe(places, data={"split": {"block": 19.2, "share": 0}})
    with pytest.raises(DataError, match="no block for 'validate'"):
        run(config, root, tmp_path / "run", progress=False)


def test_a_file_is_no_folder_for_a_run(data: Data, tmp_path: Path) -> None:
    root, places = data
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OutputError, match="file: cannot be the folder of a run"):
        run(recipe(places), root, tmp_path / "file", progress=False)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_with_something_else_is_no_folder_for_a_run(data: Data, tmp_path: Path) -> None:
    root, places = data
    folder, config = tmp_path / "mine", recipe(places, model=PLAIN, steps=1, validate_every=1)
    folder.mkdir()
    (folder / "recipe.yaml").write_text("# of my own\nname: tiny\n")
    for name in ("recipe.yaml", "ortho.tif"):
        (folder / name).touch()
        with pytest.raises(OutputError, match=f"mine holds something else than a run .*{name}"):
            run(config, root, folder, progress=False)
    assert (folder / "recipe.yaml").read_text() == "# of my own\nname: tiny\n"
    shutil.rmtree(folder)
    bad = config.model_copy(update={"data": config.data.model_copy(update={"gsd": 1e-3})})
    with pytest.raises(DataError):  # what an attempt leaves behind may be begun anew
        run(bad, root, folder, progress=False)
    assert (folder / "recipe.yaml").exists()
    run(config, root, folder, progress=False)
    (folder / "notes.txt").touch()  # beside a run
    run(config, root, folder, progress=False)


def test_a_recipe_with_an_unknown_key(tmp_path: Path) -> None:
    shipped = CONFIGS / "buildings-v0.yaml"
    path = tmp_path / "recipe.yaml"
    path.write_text(shipped.read_text().replace("  steps:", "  setps:"))
    with pytest.raises(ConfigError, match=r"schedule\.setps.*did you mean 'steps'"):
        TrainConfig.load(path)
    path.write_text(shipped.read_text().replace("root: ../../shared", "root: ./nowhere"))
    with pytest.raises(ConfigError, match=r"data\.root"):
        TrainConfig.load(path)


def test_the_default_model_fits_the_package() -> None:
    config, _ = TrainConfig.load(CONFIGS / "buildings-v1.yaml", CONFIGS)
    network = new_network(config)[0].eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)
    assert sum(p.numel() for p in network.parameters()) * 2 < 12e6  # as float16
