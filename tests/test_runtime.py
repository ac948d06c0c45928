"""The runtime seam: batching, fakes, augmentation and ensembles. No torch here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from geoseg import runtime
from geoseg.bundle import Bundle, Sample
from geoseg.errors import GeosegError, ModelError, UsageError
from geoseg.grid import Tile, Tiling, Window
from geoseg.predictions import Chip
from geoseg.runtime.augment import Augmented, Ensemble, resize
from geoseg.runtime.fake import FakeRuntime, constant, fake_spec, identity
from geoseg.spec import Band, ClassInfo, Scaling

Batch = NDArray[np.float32]


def chip(index: int, shape: tuple[int, int], bands: int = 1) -> Chip:
    rng = np.random.default_rng(index)
    window = Window(0, 0, *shape)
    data = rng.integers(0, 256, (bands, *shape)).astype(np.uint8)
    return Chip(Tile(index, window, window), data, rng.random(shape) > 0.2)


# --- run ------------------------------------------------------------------------------------


@given(
    edges=st.lists(st.sampled_from([8, 16]), max_size=12),
    batch_size=st.integers(1, 5),
)
def test_one_prediction_per_chip_in_order(edges: list[int], batch_size: int) -> None:
    sizes: list[int] = []

    def scores(batch: Batch) -> Batch:
        sizes.append(len(batch))
        return batch

    spec = fake_spec()
    network = FakeRuntime(spec, scores, batch_size)
    chips = [chip(i, (edge, 8)) for i, edge in enumerate(edges)]
    predictions = list(runtime.run(network, iter(chips), spec.scaling))
    assert [p.tile.index for p in predictions] == list(range(len(chips)))
    for given_chip, prediction in zip(chips, predictions, strict=True):
        expected = np.where(given_chip.valid, given_chip.data / np.float32(255), 0)
        np.testing.assert_allclose(prediction.scores, expected, rtol=1e-6)
        assert prediction.valid is given_chip.valid
    assert all(n <= batch_size for n in sizes)
    changes = sum(a != b for a, b in pairwise(edges))
    assert len(sizes) <= len(edges) // batch_size + changes + 1


def test_run_follows_a_batch_size_that_changes() -> None:
    network = identity(batch_size=4)
    seen: list[int] = []

    def halving(batch: Batch) -> Batch:
        seen.append(len(batch))
        network.batch_size = 2
        return batch

    network.function = halving
    list(runtime.run(network, (chip(i, (8, 8)) for i in range(8)), network.spec.scaling))
    assert seen == [4, 2, 2]


def test_run_reads_no_further_than_a_batch() -> None:
    taken: list[int] = []

    def chips() -> Any:
        for i in range(9):
            taken.append(i)
            yield chip(i, (8, 8))

    network = identity(batch_size=3)
    next(runtime.run(network, chips(), network.spec.scaling))
    assert taken == [0, 1, 2]


# --- load -----------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    spec = fake_spec(name="demo")
    sample = Sample(np.zeros((1, 1, 8, 8), np.float32), np.zeros((1, 1, 8, 8), np.float32))
    return Bundle.open(Bundle.write(tmp_path / "demo", spec, {}, sample, ""))


def test_load_wraps_what_is_asked(bundle: Bundle) -> None:
    plain = runtime.load(bundle, runtime="fake", batch_size=3)
    assert isinstance(plain, FakeRuntime)
    assert plain.batch_size == 3
    both = runtime.load([bundle, bundle], runtime="fake", tta=["hflip"])
    assert isinstance(both, Augmented)
    assert "ensemble demo-0 + demo-0 tta hflip" in both.description
    assert both.batch_size == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensor"}, "no runtime is named 'tensor'; there are: auto, torch"),
        ({"runtime": "fake", "batch_size": 0}, "batch size must be at least 1, not 0"),
        ({"runtime": "fake", "threads": -1}, "number of threads must be at least 1, not -1"),
        ({"runtime": "fake", "threads": 100_000}, r"at most the \d+ CPUs, not 100000"),
        ({"runtime": "fake", "tta": ["spin"]}, "no test-time augmentation is named 'spin'"),
        ({"runtime": "fake", "tta": ["scale:big"]}, "give a factor"),
        ({"runtime": "fake", "tta": ["scale:9"]}, r"must lie in 0.25..4"),
    ],
)
def test_senseless_options(bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        runtime.load(bundle, **options)
    with pytest.raises(UsageError, match="no model"):
        runtime.load([])


def test_nothing_here_needs_torch() -> None:
    code = (
        "import sys, geoseg.runtime, geoseg.runtime.augment, geoseg.runtime.fake\n"
        "import geoseg.bundle, geoseg.registry, geoseg.models\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- augmentation ---------------------------------------------------------------------------

FAKES = [("hflip",), ("vflip",), ("rot90",), ("d4",), ("hflip", "vflip", "rot90")]


@pytest.mark.parametrize("views", FAKES)
@pytest.mark.parametrize("shape", [(8, 8), (8, 24)])
def test_turns_come_back_to_their_pixels(views: Sequence[str], shape: tuple[int, int]) -> None:
    """A network that looks at single pixels cannot tell that it was turned."""
    batch = np.random.default_rng(0).random((2, 1, *shape), dtype=np.float32)
    network = Augmented(identity(), views)
    np.testing.assert_allclose(network.predict(batch), batch, rtol=1e-6)


@pytest.mark.parametrize("shape", [(8, 1), (1, 8), (1, 1)])
def test_turned_batches_run_forwards_in_memory(shape: tuple[int, int]) -> None:
    """Also along an axis of one pixel; torch takes no negative strides."""
    strides: list[int] = []

    def record(batch: Batch) -> Batch:
        strides.extend(batch.strides)
        return batch

    batch = np.random.default_rng(0).random((1, 1, *shape), dtype=np.float32)
    network = Augmented(FakeRuntime(fake_spec(tiling=Tiling(64, 16, 1)), record), ["d4"])
    np.testing.assert_allclose(network.predict(batch), batch, rtol=1e-6)
    assert min(strides) > 0


def test_turns_are_what_they_say() -> None:
    """A network that answers the position in its input shows from where each view looks."""

    def ramp(batch: Batch) -> Batch:
        return np.broadcast_to(np.arange(8, dtype=np.float32), batch.shape) / 8

    network = FakeRuntime(fake_spec(), ramp)
    batch = np.zeros((1, 1, 8, 8), np.float32)
    plain = ramp(batch)[0, 0]
    np.testing.assert_allclose(Augmented(network, ["hflip"]).predict(batch)[0, 0], 7 / 16)
    np.testing.assert_allclose(Augmented(network, ["vflip"]).predict(batch)[0, 0], plain)
    turned = [np.rot90(plain, -k) for k in range(4)]
    np.testing.assert_allclose(
        Augmented(network, ["rot90"]).predict(batch)[0, 0], np.mean(turned, axis=0)
    )
    eight = Augmented(network, ["d4"]).predict(batch)[0, 0]
    np.testing.assert_allclose(eight, np.rot90(eight))
    np.testing.assert_allclose(eight, eight[::-1])


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.3, 2.0])
def test_scales_keep_constants_and_sums(factor: float) -> None:
    network = Augmented(constant(0.2, 0.8), [f"scale:{factor}"])
    scores = network.predict(np.zeros((2, 1, 32, 48), np.float32))
    assert scores.shape == (2, 2, 32, 48)
    np.testing.assert_allclose(scores[:, 0], 0.2, rtol=1e-5)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)


def test_scaled_tiles_stay_on_the_stride() -> None:
    shapes: list[tuple[int, ...]] = []

    def record(batch: Batch) -> Batch:
        shapes.append(batch.shape[2:])
        return batch

    spec = fake_spec(tiling=Tiling(64, 16, stride=16))
    Augmented(FakeRuntime(spec, record), ["scale:0.7"]).predict(np.zeros((1, 1, 64, 96), "f4"))
    assert shapes == [(64, 96), (48, 64)]
    fixed = replace(spec, tiling=Tiling(64, 16, stride=16, fixed=True))
    with pytest.raises(UsageError, match="one size only"):
        Augmented(identity(fixed), ["scale:0.7"])


def test_resize_keeps_a_slope() -> None:
    """Pixel centres stay where they are on the ground."""
    x = np.tile(np.arange(64, dtype=np.float32) + 0.5, (1, 1, 64, 1))
    small = resize(x, 16, 16)[0, 0, 8, 2:-2]
    np.testing.assert_allclose(small, (np.arange(16)[2:-2] + 0.5) * 4, rtol=1e-5)
    large = resize(x, 128, 128)[0, 0, 8, 2:-2]
    np.testing.assert_allclose(large, (np.arange(128)[2:-2] + 0.5) / 2, rtol=1e-5)


# --- ensembles ------------------------------------------------------------------------------


def test_ensemble_is_the_mean() -> None:
    network = Ensemble([constant(0.2), constant(0.4), constant(0.9)])
    np.testing.assert_allclose(network.predict(np.zeros((1, 1, 8, 8), "f4")), 0.5)


def test_each_member_sees_its_own_scaling() -> None:
    first = fake_spec(bands=2, scaling=Scaling((10, 20), (2, 3)))
    second = fake_spec(bands=2, scaling=Scaling((0, 5), (100, 200)))
    raw = np.random.default_rng(0).random((1, 2, 4, 4)).astype(np.float32) * 100
    seen: list[Batch] = []

    def record(batch: Batch) -> Batch:
        seen.append(batch)
        return batch[:, :1]

    def scaled(spec: Any) -> Batch:
        offset, scale = np.array([spec.scaling.offset, spec.scaling.scale])[..., None, None]
        return ((raw - offset) / scale).astype(np.float32)

    Ensemble([FakeRuntime(first, record), FakeRuntime(second, record)]).predict(scaled(first))
    np.testing.assert_allclose(seen[0], scaled(first), rtol=1e-5)
    np.testing.assert_allclose(seen[1], scaled(second), rtol=1e-5, atol=1e-5)


def test_ensemble_of_several_classes_and_strides() -> None:
    a = fake_spec(classes=2, name="aaa", tiling=Tiling(64, 16, 16), threshold=0.4)
    b = fake_spec(classes=2, name="bbb", tiling=Tiling(96, 48, 24), threshold=0.6)
    spec = Ensemble([constant(0.5, 0.5, spec=s) for s in (a, b)]).spec
    assert spec.tiling == Tiling(96, 48, 48)
    assert spec.threshold == pytest.approx(0.5)
    assert spec.name == "aaa+bbb"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gsd": 0.5}, "ground sample distances differ, 0.3 m and 0.5 m"),
        ({"classes": (ClassInfo(1, "water"),)}, "classes differ, 1 thing and 1 water"),
        ({"bands": (Band("nir"),)}, "bands differ, band1 and nir"),
        ({"value_range": (0.0, 1.0)}, "value ranges differ"),
        ({"tiling": Tiling(64, 16, 8, fixed=True)}, "fixed tile sizes differ, None and 64"),
    ],
)
def test_members_that_do_not_agree(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Ensemble([identity(fake_spec()), identity(replace(fake_spec(name="other"), **change))])
    assert issubclass(ModelError, GeosegError)
