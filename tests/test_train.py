"""Training on a scene of coloured rectangles made by code: data, augmentation, losses, loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import lightning
import numpy as np
import pytest
import torch
import yaml
from affine import Affine
from shapely.geometry import box

from geoseg import runtime
from geoseg.bundle import Bundle
from geoseg.config import load_yaml
from geoseg.errors import ConfigError, DataError
from geoseg.grid import Window
from geoseg.testing import planted_rectangles, write_scene
from geoseg.train import run as training_run
from geoseg.train import train, write_bundle
from geoseg.train.augment import Augment
from geoseg.train.calibrate import fit_temperature
from geoseg.train.config import AugmentConfig, LossConfig, TrainConfig
from geoseg.train.data import (
    IGNORE,
    TRAIN,
    UNUSED,
    VALIDATE,
    Onwards,
    Windows,
    cut,
    load_places,
    split_frame,
    validation_blocks,
)
from geoseg.train.loop import average, learning_rate
from geoseg.train.losses import cross_entropy, dice, loss
from geoseg.train.run import GENEROUS, choose, new_network, run

CONFIGS = Path(__file__).parents[1] / "configs"
CRS = "EPSG:32633"
LEFT, TOP, GSD = 400_000.0, 5_000_000.0, 0.3
TINY: dict[str, Any] = {
    "encoder": "tu-tf_efficientnet_lite0",
    "encoder_depth": 3,
    "decoder_channels": [16, 8, 8],
}


def plant_place(folder: Path, name: str, seed: int, size: int = 256) -> dict[str, str]:
    """A place of red rectangles on noisy green; the lowest eighth was not labelled."""
    mask = planted_rectangles((size, size), count=25, seed=seed, edge=(10, 30))
    rng = np.random.default_rng(seed)
    image = rng.normal(90, 12, (3, size, size))
    image[0][mask == 1] += 90
    image[1][mask == 0] += 40
    transform = Affine(GSD, 0, LEFT, 0, -GSD, TOP)
    write_scene(folder / f"{name}.tif", image.clip(0, 255).astype(np.uint8), transform=transform)
    squares = [
        box(LEFT + c * GSD, TOP - (r + 1) * GSD, LEFT + (c + 1) * GSD, TOP - r * GSD)
        for r, c in np.argwhere(mask)
    ]
    labels = gpd.GeoDataFrame(geometry=squares, crs=CRS).dissolve().explode()
    labels.to_file(folder / f"{name}.gpkg")
    known = box(LEFT, TOP - size * GSD * 7 / 8, LEFT + size * GSD, TOP)
    gpd.GeoDataFrame(geometry=[known], crs=CRS).to_crs(4326).to_file(folder / f"{name}_aoi.gpkg")
    return {
        "name": name,
        "rasters": f"{name}.tif",
        "labels": f"{name}.gpkg",
        "aoi": f"{name}_aoi.gpkg",
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("places")
    return folder, [plant_place(folder, "north", 0), plant_place(folder, "south", 1)]


def recipe(places: list[dict[str, str]], **schedule: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": "tiny",
            "data": {
                "root": ".",
                "places": places,
                "bands": [{"name": "red"}, {"name": "green"}, {"name": "blue"}],
                "classes": [{"id": 1, "name": "building"}],
                "gsd": GSD,
                "offset": [127.5] * 3,
                "scale": [127.5] * 3,
                "split": {"block": 19.2, "share": 0.2},
            },
            "model": {"architecture": "unet", "arguments": TINY},
            "schedule": {"steps": 4, "batch": 2, "chip": 64, "validate_every": 2, **schedule},
        }
    )


# --- data and split -------------------------------------------------------------------------


def test_labels_lie_on_the_image_and_the_unlabelled_is_ignored(data: Any) -> None:
    folder, places = data
    sheets = load_places(recipe(places).data, folder, seed=0)
    for seed, sheet in enumerate(sheets):
        mask = planted_rectangles((256, 256), count=25, seed=seed, edge=(10, 30))
        known = sheet.label != IGNORE
        assert (sheet.label[known] == mask[known]).all()
        assert known[:223].all()
        assert not known[225:].any()
        assert (sheet.part[~known] == UNUSED).all()


def test_blocks_of_the_split_never_overlap(data: Any) -> None:
    folder, places = data
    config = recipe(places).data
    sheets = load_places(config, folder, seed=0)
    for sheet in sheets:
        training, validating = sheet.target(TRAIN) != IGNORE, sheet.target(VALIDATE) != IGNORE
        assert not (training & validating).any()
        assert ((training | validating) == (sheet.label != IGNORE)).all()
        assert validating.any()
        for _, block in validation_blocks([sheet], 64):
            assert not (sheet.part[block.slices()] == TRAIN).any()
    frame = split_frame(sheets, 64)
    assert set(frame["part"]) == {"train", "validate"}
    again = load_places(config, folder, seed=0)
    assert all((a.part == b.part).all() for a, b in zip(sheets, again, strict=True))


def test_a_whole_place_can_be_kept_for_validation(data: Any) -> None:
    folder, places = data
    config = recipe(places).data
    split = config.split.model_copy(update={"places": ("south",)})
    north, south = load_places(config.model_copy(update={"split": split}), folder, seed=0)
    assert (north.part == TRAIN).any()
    assert set(np.unique(south.part)) == {UNUSED, VALIDATE}


def test_missing_data_is_told(data: Any) -> None:
    folder, places = data
    (folder / "text.gpkg").write_text("no vectors")
    for key, value, message in (
        ("rasters", "nowhere.tif", "no raster at"),
        ("labels", "nowhere.gpkg", "does not exist"),
        ("labels", "text.gpkg", "cannot be read as vectors"),
        ("aoi", "nowhere.gpkg", "does not exist"),
    ):
        wrong = [{**places[0], key: value}]
        with pytest.raises(DataError, match=message):
            load_places(recipe(wrong).data, folder, seed=0)


def test_windows_hold_no_validation_pixel_and_are_repeatable(data: Any) -> None:
    folder, places = data
    sheets = load_places(recipe(places).data, folder, seed=0)
    for sheet in sheets:
        sheet.image[:, sheet.part == VALIDATE] = 255  # mark them
    options: dict[str, Any] = {
        "blank": (0, 0, 0),
        "chip": 64,
        "zoom": (1.0, 1.0),
        "balance": 0.5,
        "focus": 0.5,
    }
    windows = Windows(sheets, **options, seed=3, length=30)
    for i in range(len(windows)):
        image, target = windows[i]
        assert image.shape == (3, windows.size, windows.size)
        assert (target[(image == 255).all(0)] == IGNORE).all()
        assert (target != IGNORE).any()
        again = Windows(sheets, **options, seed=3, length=30)[i]
        assert torch.equal(again[0], image)
        assert torch.equal(again[1], target)


def test_cut_pads_beyond_the_edge() -> None:
    array = np.arange(12).reshape(1, 3, 4)
    assert cut(array, Window(-1, 2, 3, 3), fill=9).tolist() == [[[9, 9, 9], [2, 3, 9], [6, 7, 9]]]
    assert (cut(array, Window(10, 10, 2, 2), fill=9) == 9).all()


def test_epochs_walk_through_the_samples() -> None:
    seen = [0]
    sampler = Onwards(3, lambda: seen[0])
    assert list(sampler) == [0, 1, 2]
    seen[0] = 6
    assert list(sampler) == [6, 7, 8]


# --- augmentation ---------------------------------------------------------------------------

STILL = AugmentConfig(
    brightness=0, contrast=0, saturation=0, gamma=0, band=0, blur=0, noise=0, coarse=0, gray=0
)


@pytest.mark.parametrize("rotate", [0.0, 1.0])
@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_image_and_label_move_together(rotate: float, cutmix: float) -> None:
    mask = np.stack([planted_rectangles((90, 90), count=6, seed=s) for s in range(4)])
    mask[:, :20, :20] = IGNORE
    targets = torch.from_numpy(mask)
    images = targets.float()[:, None].expand(-1, 3, -1, -1)  # the image shows its label
    config = STILL.model_copy(update={"rotate": rotate, "cutmix": cutmix})
    moved, labels = Augment(config, 64)(images, targets, torch.Generator().manual_seed(0))
    assert moved.shape == (4, 3, 64, 64)
    assert labels.shape == (4, 64, 64)
    assert set(labels.unique().tolist()) <= {0, 1, IGNORE}
    known = labels != IGNORE
    agree = (moved[:, 0].round() == labels)[known].float().mean()
    assert agree == 1 if rotate == 0 else agree > 0.95  # edges are interpolated


def test_appearance_changes_the_image_only_and_stays_in_range() -> None:
    images = torch.rand(8, 3, 90, 90) * 255
    targets = torch.zeros(8, 90, 90, dtype=torch.uint8)
    config = AugmentConfig(blur=1, noise=1, coarse=1, gray=0.5)
    changed, labels = Augment(config, 64)(images, targets, torch.Generator().manual_seed(0))
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert changed.isfinite().all()
    assert (labels[labels != IGNORE] == 0).all()
    again, _ = Augment(config, 64)(images, targets, torch.Generator().manual_seed(0))
    assert torch.equal(changed, again)


# --- losses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("term", ["cross_entropy", "dice"])
def test_ignored_pixels_never_count(term: str) -> None:
    config = LossConfig.model_validate({"cross_entropy": 0, "dice": 0, term: 1})
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 16, 16, generator=generator)
    target = torch.randint(0, 2, (2, 16, 16), generator=generator).to(torch.uint8)
    target[:, :5] = IGNORE
    changed = logits.clone()
    changed[:, :, :5] = 50
    assert loss(changed, target, config) == loss(logits, target, config)
    changed.requires_grad_()
    loss(changed, target, config).backward()
    assert changed.grad is not None
    assert (changed.grad[:, :, :5] == 0).all()
    assert (changed.grad[:, :, 5:] != 0).any()


def test_losses_by_hand() -> None:
    logits = torch.tensor([[[0.0, 20.0], [-20.0, 20.0]]])
    target = torch.tensor([[[1, 1], [0, IGNORE]]], dtype=torch.uint8)
    assert cross_entropy(logits, target).item() == pytest.approx(np.log(2) / 3)
    assert dice(logits, target).item() == pytest.approx(1 - (2 * 1.5 + 1) / (1.5 + 2 + 1))
    nothing = torch.full_like(target, IGNORE)
    assert cross_entropy(logits, nothing) == 0


# --- calibration and threshold --------------------------------------------------------------


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, 200_000)
    truth = (rng.random(200_000) < 1 / (1 + np.exp(-honest))).astype(np.uint8)
    assert fit_temperature(3 * honest, truth) == pytest.approx(3, rel=0.05)
    chosen = choose({"here": (3 * honest, truth)})
    assert chosen["calibration_error"] < 0.01
    assert chosen["iou_best"] - GENEROUS <= chosen["iou"] <= chosen["iou_best"]


# --- the loop -------------------------------------------------------------------------------


def test_schedule_and_average() -> None:
    assert learning_rate(0, 100, 0.1) == pytest.approx(0.1)
    assert learning_rate(10, 100, 0.1) == 1
    assert learning_rate(100, 100, 0.1) == pytest.approx(0)
    old, new = torch.tensor([0.0]), torch.tensor([1.0])
    assert average(old, new, 0, 0.99).item() == pytest.approx(0.9)
    assert average(old, new, 10_000, 0.99).item() == pytest.approx(0.01)


def losses(folder: Path) -> list[str]:
    """The lines of the log, in order."""
    return (folder / "log" / "metrics.csv").read_text().splitlines()


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_same_seed_same_run_and_all_is_kept(data: Any, tmp_path: Path) -> None:
    root, places = data
    config = recipe(places)
    one = run(config, root, tmp_path / "one", progress=False)
    two = run(config, root, tmp_path / "two", progress=False)
    assert losses(one) == losses(two)
    assert (one / "weights.safetensors").read_bytes() == (two / "weights.safetensors").read_bytes()
    result = json.loads((one / "result.json").read_text())
    assert set(result["validation"]) == {"north", "south"}
    assert (one / "split.gpkg").exists()
    other = recipe(places, lr=0.5)
    with pytest.raises(DataError, match="another recipe"):
        run(other, root, one, progress=False)


class Kill(lightning.Callback):
    """Ends a run in the middle of its second epoch."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            raise RuntimeError("killed")


@pytest.mark.filterwarnings("ignore")
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, places = data
    config = recipe(places, steps=6)
    whole = run(config, root, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patched:
        callbacks = training_run._callbacks
        patched.setattr(training_run, "_callbacks", lambda *a: [*callbacks(*a), Kill()])
        with pytest.raises(RuntimeError, match="killed"):
            run(config, root, tmp_path / "cut", progress=False)
    cut_short = run(config, root, tmp_path / "cut", progress=False)
    first, second = (f / "weights.safetensors" for f in (whole, cut_short))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_it_learns(data: Any, tmp_path: Path) -> None:
    root, places = data
    config = recipe(places, steps=60, batch=4, lr=0.01, validate_every=60, ema=0.8)
    folder = run(config, root, tmp_path / "run", progress=False)
    result = json.loads((folder / "result.json").read_text())
    assert result["iou"] > 0.8


@pytest.mark.filterwarnings("ignore")
def test_a_recipe_becomes_a_bundle(data: Any, tmp_path: Path) -> None:
    root, places = data
    path = tmp_path / "tiny.yaml"
    content = recipe(places).model_dump(mode="json")
    content["data"]["places"][0]["about"] = "planted squares, public domain"
    path.write_text(yaml.safe_dump(content))
    made = train(path, output=tmp_path / "run", data=root, steps=2, progress=False)
    bundle = Bundle.open(made)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert bundle.spec.threshold == result["threshold"]
    assert bundle.spec.temperature == result["temperature"]
    assert bundle.spec.tiling.stride == 8
    assert "planted squares" in bundle.card
    assert bundle.check(runtime.load(bundle, precision="float32", threads=1)).ok
    (tmp_path / "run" / "metrics.json").write_text('{"elsewhere": {"iou": 0.5}}')
    again = Bundle.open(write_bundle(tmp_path / "run", tmp_path / "again"))
    assert again.spec.metrics["test: elsewhere"] == {"iou": 0.5}
    with pytest.raises(DataError, match="no finished run"):
        write_bundle(tmp_path)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_builds_its_network(path: Path) -> None:
    config = load_yaml(path, TrainConfig)
    assert config.name == path.stem
    network = new_network(config).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, len(config.data.bands), 64, 64)).shape == (1, 1, 64, 64)
    assert sum(p.numel() for p in network.parameters()) * 2 < 12e6  # fits the package as float16


def test_a_recipe_with_an_unknown_key(tmp_path: Path, data: Any) -> None:
    shipped = CONFIGS / "buildings-v0.yaml"
    path = tmp_path / "recipe.yaml"
    path.write_text(shipped.read_text().replace("  steps:", "  setps:"))
    with pytest.raises(ConfigError, match=r"schedule\.setps.*did you mean 'steps'"):
        TrainConfig.load(path)
    path.write_text(shipped.read_text().replace("root: ../../shared", "root: ./nowhere"))
    with pytest.raises(ConfigError, match=r"data\.root"):
        TrainConfig.load(path)
