"""The training loop: schedule, average, parts, processes, stopping, memory; and that it learns."""

from __future__ import annotations

import copy
import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.plugins import MixedPrecision
from planted import MILD, NAMES, PLAIN, UNET, plant_place, recipe
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException

from geoseg.data.sheets import Store, load_places
from geoseg.errors import GeosegError, MissingDependencyError, ModelError, UsageError
from geoseg.metrics import IGNORE
from geoseg.reading import normalize
from geoseg.spec import Scaling
from geoseg.train import learner as learning
from geoseg.train import loop, memory, pixels
from geoseg.train.config import TrainConfig
from geoseg.train.devices import Fabric, new_fabric, use_threads
from geoseg.train.learner import Job, Learner
from geoseg.train.networks import Scale, new_network, scaling_of
from geoseg.train.optimizer import MovingAverage, learning_rate, new_optimizer, set_rates
from geoseg.train.run import run
from geoseg.train.validate import Scores

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own

EXACT: dict[str, Any] = {"precision": "float32", "model": PLAIN, "loss": {"dice": 0}}


class Still:
    """No augmentation: the middle of a window."""

    def __init__(self, config: Any, chip: int, value_range: Any) -> None:
        self.chip = chip

    def __call__(self, images: Tensor, targets: Tensor, _: Any) -> tuple[Tensor, Tensor]:
        edge = (images.shape[-1] - self.chip) // 2
        middle = slice(edge, edge + self.chip)
        return images[..., middle, middle], targets[..., middle, middle]


def still(fabric: Fabric, job: Job) -> None:
    """Fit without augmentation, also in a process that was started for it."""
    learning.Augment = Still  # type: ignore[assignment,misc]
    loop.fit(fabric, job)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("places")
    return folder, [plant_place(folder, "north", 0), plant_place(folder, "south", 1)]


def new_job(config: TrainConfig, root: Path, folder: Path, network: nn.Module | None = None) -> Job:
    folder.mkdir()
    whole = config.data.model_copy(update={"value_range": (0.0, 255.0)})
    config = config.model_copy(update={"data": whole})
    sheets = load_places(config.data, root, seed=0, store=Store(folder / "pixels"))
    torch.manual_seed(0)
    network = network or new_network(config)[0]
    return Job(config, network, scaling_of(config, "uint8"), sheets, folder)


def new_learner(
    data: Any, folder: Path, network: nn.Module | None = None, **options: Any
) -> Learner:
    root, places = data
    job = new_job(recipe(places, **options), root, folder, network)
    fabric = new_fabric(job.config.schedule)
    fabric.launch()
    return Learner(fabric, job)


def columns(folder: Path) -> dict[str, list[str]]:
    """metrics.csv by column, without the empty fields."""
    with (folder / "log" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows if row[name]] for name in rows[0]}


# --- schedule, optimizer, average -----------------------------------------------------------


def test_schedules() -> None:
    cosine = recipe([{"name": "x", "rasters": "x", "labels": "x"}], steps=100, warmup=0.1).schedule
    assert learning_rate(0, cosine) == pytest.approx(0.1)
    assert learning_rate(10, cosine) == 1
    assert learning_rate(55, cosine) == pytest.approx(0.5)
    assert learning_rate(100, cosine) == pytest.approx(0)
    poly = cosine.model_copy(update={"decay": "poly", "power": 0.9})
    assert learning_rate(5, poly) == pytest.approx(0.6)
    assert learning_rate(55, poly) == pytest.approx(0.5**0.9)
    assert learning_rate(100, poly) == 0


def test_the_encoder_has_a_rate_of_its_own(data: Any) -> None:
    config = recipe(data[1], lr=0.01, encoder_lr=0.25, warmup=0)
    network, _ = new_network(config)
    optimizer = new_optimizer(network, config.schedule)
    set_rates(optimizer, 0, config.schedule)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == (0.0025 if name.startswith("encoder.") else 0.01)
    assert len(rates) == len(list(network.parameters()))


def test_the_moving_average_by_hand() -> None:
    network = nn.BatchNorm1d(1)
    average = MovingAverage(network, 0.99)
    values = [1.0, 2.0, 5.0]
    for value in values:
        with torch.no_grad():
            network.weight.fill_(value)
            network.running_mean.fill_(-value)
            network.num_batches_tracked += 1
        average.update(network)
    expected = 1.0
    for count, value in enumerate(values[1:], 1):
        keep = (1 + count) / (10 + count)
        expected = keep * expected + (1 - keep) * value
    assert average.network.weight.item() == pytest.approx(expected)
    assert average.network.running_mean.item() == pytest.approx(-expected)
    assert average.network.num_batches_tracked == 3
    average.count = 10_000
    average.network.weight.fill_(0)
    average.update(network)
    assert average.network.weight.item() == pytest.approx(5 * 0.01)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("clip", [None, (10.0, 200.0)])
def test_pixels_are_scaled_in_training_as_from_the_bundle(dtype: Any, clip: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 8)).astype(dtype)
    scaling = Scaling((100.0, 127.5, 3.3), (50.0, 127.5, 0.7), clip)
    seen = Scale(scaling, torch.device("cpu"))(torch.from_numpy(pixels.astype(np.float32))[None])
    expected = normalize(pixels, np.ones((8, 8), bool), scaling)
    np.testing.assert_allclose(seen[0].numpy(), expected, rtol=1e-6, atol=1e-6)


# --- parts and processes --------------------------------------------------------------------


def test_every_window_is_gone_through_once_whatever_the_processes() -> None:
    place = [{"name": "x", "rasters": "x", "labels": "x"}]
    one = recipe(place, steps=5, batch=6).schedule
    three = recipe(place, steps=5, batch=6, devices=3).schedule
    assert list(loop.shares(one, 2, 0)) == [list(range(i, i + 6)) for i in (12, 18, 24)]
    ranks = [list(loop.shares(three, 2, rank)) for rank in range(3)]
    together = [[*a, *b, *c] for a, b, c in zip(*ranks, strict=True)]
    assert together == list(loop.shares(one, 2, 0))
    assert list(loop.shares(one, 5, 0)) == []


def gradients(learner: Learner, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    learner._backward(images, targets)
    return {n: p.grad.clone() for n, p in learner.bare.named_parameters() if p.grad is not None}


def test_parts_have_the_gradient_of_the_whole_batch(data: Any, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 64, 64, generator=g) * 255
    targets = torch.randint(0, 2, (8, 64, 64), generator=g).to(torch.uint8)
    targets[:3, 5:] = IGNORE  # parts with few labels count less
    targets[0] = IGNORE
    found = [
        gradients(
            new_learner(data, tmp_path / str(n), batch=8, accumulate=n, **EXACT), images, targets
        )
        for n in (1, 2, 8)
    ]
    assert found[0]
    for other in found[1:]:
        for name, gradient in found[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-7)


def test_steps_that_overflow_in_float16_are_left_out(data: Any, tmp_path: Path) -> None:
    root, places = data
    config = recipe(places, steps=1000, batch=4, accumulate=2, warmup=0, **EXACT)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**80)
    fabric = Fabric(accelerator="cpu", plugins=MixedPrecision("16-mixed", "cpu", scaler))
    fabric.launch()
    learner = Learner(fabric, new_job(config, root, tmp_path / "run"))
    images = torch.rand(4, 3, 92, 92, generator=torch.Generator().manual_seed(0)) * 255
    targets = (images[:, 0] > 128).to(torch.uint8)
    before = copy.deepcopy(learner.bare.state_dict())
    learner.learn(images, targets)
    assert all(torch.equal(v, before[k]) for k, v in learner.bare.state_dict().items())
    for _ in range(90):  # the scale is halved until it fits
        learner.learn(images, targets)
    moved = max(float((v - before[k]).abs().max()) for k, v in learner.bare.state_dict().items())
    assert 0.001 < moved < 0.1
    learner.save()
    again = Learner(fabric, new_job(config, root, tmp_path / "again"))
    again.folder = learner.folder
    scale = scaler.get_scale()
    scaler.load_state_dict({**scaler.state_dict(), "scale": 1.0})
    again.resume()
    assert scaler.get_scale() == scale < 2.0**80


def test_two_processes_do_what_one_does(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, places = data
    states = []
    for devices in (1, 2):
        config = recipe(places, steps=2, batch=4, devices=devices, device="cpu", **EXACT)
        job = new_job(config, root, tmp_path / str(devices))
        with monkeypatch.context() as patched:  # in this process; the others end with it
            patched.setattr(learning, "Augment", learning.Augment)
            new_fabric(config.schedule).launch(partial(still, job=job))
        states.append(torch.load(job.folder / "last.ckpt", weights_only=True))
    one, two = states
    assert one["step"] == two["step"] == 2
    assert one["best"] == pytest.approx(two["best"], abs=1e-3)
    for part in ("network", "average"):
        for name, tensor in one[part].items():
            torch.testing.assert_close(two[part][name], tensor, rtol=1e-4, atol=1e-6)
    folders = (tmp_path / "1", tmp_path / "2")
    for name in ("loss", "place/north", "place/south"):
        one_log, two_log = (np.array(columns(folder)[name], float) for folder in folders)
        np.testing.assert_allclose(two_log, one_log, atol=1e-3)


def test_pixels_go_to_other_processes_by_name(data: Any, tmp_path: Path) -> None:
    root, places = data
    (sheet, _) = load_places(recipe(places).data, root, seed=0, store=Store(tmp_path))
    sent = bytes(ForkingPickler.dumps(sheet.image))
    assert len(sent) < 1000 < sheet.image.nbytes
    assert np.array_equal(ForkingPickler.loads(sent), sheet.image)
    part = sheet.image[1:, 5:9]
    assert np.array_equal(ForkingPickler.loads(bytes(ForkingPickler.dumps(part))), part)


def test_errors_of_other_processes_are_told(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, places = data

    def fails(*_: Any) -> None:
        raise ProcessRaisedException(f"Process 1 ...\nTraceback ...\n{said}\n", 1, 99)

    monkeypatch.setattr(Fabric, "launch", fails)
    for said, kind in (
        ("geoseg.errors.GeosegError: cuda has too little memory", GeosegError),
        ("KeyError: 'a fault of ours'", ProcessRaisedException),
    ):
        with pytest.raises(kind, match=said.partition(": ")[2]):
            run(recipe(places, devices=2), root, tmp_path / "run", progress=False)


# --- when it ends, and what is kept ---------------------------------------------------------


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Validations that have these IoUs."""
    script = iter(values)

    def validate(self: Learner, _: Any) -> Any:
        return Scores(next(script), {"north": 0.5, "south": 0.5}, {"roof": 0.5})

    monkeypatch.setattr(Learner, "validate", validate)


@pytest.mark.parametrize(
    ("patience", "ious", "done", "chosen"),
    [
        (2, [0.1, 0.5, 0.4, 0.3, 0.9], 4, 2),
        (2, [0.1, 0.2, 0.3, 0.4, 0.5], 5, 5),
        (3, [0.1, float("nan"), 0.6, 0.2, 0.1], 5, 3),
        (None, [0.9, 0.5, 0.4, 0.3, 0.1], 5, 5),
    ],
)
def test_stopping_keeps_the_best(
    data: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patience: int | None,
    ious: list[float],
    done: int,
    chosen: int,
) -> None:
    root, places = data
    config = recipe(places, steps=5, validate_every=1, patience=patience, model=PLAIN)
    after: dict[int, Tensor] = {}
    judge = Learner.judge

    def remembering(self: Learner, iou: float) -> None:
        after[self.step] = next(self.judged.parameters()).clone()
        judge(self, iou)

    scripted(monkeypatch, ious)
    monkeypatch.setattr(Learner, "judge", remembering)
    folder = run(config, root, tmp_path / "run", progress=False)
    result = json.loads((folder / "result.json").read_text())
    assert (result["steps_done"], result["best_step"]) == (done, chosen)
    weights = load_file(folder / "weights.safetensors")
    assert torch.equal(weights["0.weight"], after[chosen])


def test_a_loss_that_is_no_number_ends_the_run(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, places = data
    monkeypatch.setattr(pixels, "loss", lambda logits, *_, **__: logits.sum() * float("nan"))
    with pytest.raises(GeosegError, match="loss of step 1 is no number.*schedule.lr"):
        run(recipe(places, model=PLAIN), root, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_weights_that_no_bundle_can_hold_end_the_run(data: Any, tmp_path: Path) -> None:
    root, places = data
    config = recipe(places, model=PLAIN, steps=1, lr=1e30, warmup=0, ema=0, precision="float32")
    with pytest.raises(GeosegError, match="after step 1 the tensor.*make schedule.lr smaller"):
        run(config, root, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "last.ckpt").exists()


# --- memory ---------------------------------------------------------------------------------


class Hungry(nn.Module):
    """Runs out of memory on more than so many windows."""

    def __init__(self, most: int, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.most, self.error, self.inner = most, error, nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise self.error()
        out: Tensor = self.inner(x)
        return out


def on_cpu() -> Exception:
    return RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")


def on_gpu() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")


def in_onednn() -> Exception:
    return RuntimeError("could not create a primitive")


@pytest.mark.parametrize("error", [on_cpu, on_gpu, MemoryError])
@pytest.mark.parametrize(
    ("most", "accumulate", "told"),
    [
        (3, 1, "for 12 windows of 64 pixels at a time, but 3 fit: set schedule.accumulate to 4"),
        (1, 2, "for 6 windows of 64 pixels at a time, but 1 fit: set schedule.accumulate to 12"),
        (0, 1, "not even one fits: make schedule.chip smaller"),
    ],
)
def test_out_of_memory_tells_what_fits(
    data: Any, tmp_path: Path, error: Any, most: int, accumulate: int, told: str
) -> None:
    network = Hungry(most, error)
    learner = new_learner(data, tmp_path / "run", network, batch=12, accumulate=accumulate)
    images, targets = torch.zeros(12, 3, 92, 92), torch.zeros(12, 92, 92, dtype=torch.uint8)
    with pytest.raises(GeosegError, match=told):
        learner.learn(images, targets)


class Poisoned(Hungry):
    """Fails for ever once more than so many windows came after the first try."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 1 and len(x) > self.most:
            self.most, self.error = 0, in_onednn
        return super().forward(x)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (on_cpu, "12 windows of 64 pixels at a time, but 3 fit: set schedule.accumulate to 4"),
        (in_onednn, "12 windows of 64 pixels at a time: make schedule.accumulate larger"),
    ],
)
def test_what_fits_is_found_before_onednn_breaks(
    data: Any, tmp_path: Path, error: Any, told: str
) -> None:
    learner = new_learner(data, tmp_path / "run", Poisoned(3, error), batch=12)
    images, targets = torch.zeros(12, 3, 92, 92), torch.zeros(12, 92, 92, dtype=torch.uint8)
    with pytest.raises(GeosegError, match=told):
        learner.learn(images, targets)


def test_other_errors_are_not_taken_for_want_of_memory(data: Any, tmp_path: Path) -> None:
    network = Hungry(0, lambda: RuntimeError("a fault of ours"))
    learner = new_learner(data, tmp_path / "run", network)
    images, targets = torch.zeros(2, 3, 92, 92), torch.zeros(2, 92, 92, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        learner.learn(images, targets)


@pytest.mark.parametrize(
    ("chip", "told"),
    [
        (256, "for 32 windows of 256 pixels at a time, but (4|8|16) fit: set schedule.accumulate"),
        (1024, "for the network and a batch of 32 windows of 1024 pixels: make schedule.chip or"),
    ],
)
def test_memory_ends_in_words_on_a_cpu(data: Any, tmp_path: Path, chip: int, told: str) -> None:
    """Where Linux would kill the process: what is free here is made little.

    In a process of its own: one that has run other tests holds memory that it may use again, so
    what fits it depends on them.
    """
    root, places = data
    schedule = {"chip": chip, "batch": 32, "steps": 1, "precision": "float32"}
    content = recipe(places, model=LARGE, **schedule).model_dump_json()
    command = [sys.executable, "-c", STARVED, content, str(root), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(f"cpu has too little memory {told}", done.stdout), done.stdout


LARGE: dict[str, Any] = {"architecture": "tiny", "arguments": {"width": 48, "depth": 3}}
STARVED = """
import sys
from pathlib import Path
import numpy as np
from geoseg.errors import GeosegError
from geoseg.train import TrainConfig, memory
from geoseg.train.run import run

memory.free_memory = lambda: 700 << 20
try:
    config = TrainConfig.model_validate_json(sys.argv[1])
    run(config, Path(sys.argv[2]), Path(sys.argv[3]), progress=False)
except GeosegError as e:
    print(e)
assert len(np.ones(800 << 20, np.uint8))  # and is as before
"""


def test_free_memory_is_that_of_the_tightest_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    own = groups / "memory" / "batch" / "job"
    for folder in (proc / "self", own, groups / "box"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(memory, "_PROC", proc)
    monkeypatch.setattr(memory, "_GROUPS", groups)
    assert memory.free_memory() is None
    (proc / "meminfo").write_text("MemFree: 1 kB\nMemAvailable:  900 kB\nSwapFree:  100 kB\n")
    (proc / "self" / "cgroup").write_text("1:cpu:/a\n4:memory:/batch/job\n0::/box\n")
    assert memory.free_memory() == 1000 << 10
    (groups / "box" / "memory.max").write_text("900000\n")
    (groups / "box" / "memory.current").write_text("500000\n")
    (groups / "box" / "memory.stat").write_text("anon 9\ninactive_file 1000\nactive_file 2000\n")
    assert memory.free_memory() == 403_000
    stat = "inactive_file 0\nactive_file 0\ntotal_inactive_file 5\ntotal_active_file 6\n"
    (own / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (own / "memory.usage_in_bytes").write_text("100\n")
    (own / "memory.stat").write_text(stat)
    (own.parent / "memory.limit_in_bytes").write_text("300000\n")
    (own.parent / "memory.usage_in_bytes").write_text("100000\n")
    (own.parent / "memory.stat").write_text(stat)
    assert memory.free_memory() == 200_011
    (groups / "box" / "memory.max").write_text("max\n")
    assert memory.free_memory() == 200_011


# --- what cannot be -------------------------------------------------------------------------


def test_devices_that_are_not_there(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, schedule, message in (
        (0, {"device": "cuda"}, "'cuda' is not there"),
        (1, {"device": "cuda", "devices": 2}, "devices: 2, but there is 1 x cuda"),
        (0, {"device": "cpu", "precision": "float16"}, "float16 needs a GPU; take bfloat16"),
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda n=gpus: n)
        with pytest.raises(UsageError, match=message):
            new_fabric(recipe(data[1], **schedule).schedule)


@pytest.mark.filterwarnings("default")
def test_too_many_threads_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with pytest.warns(UserWarning, match=r"schedule.threads: 100000 threads on \d+ CPUs"):
        use_threads(100_000)
    use_threads(1)
    assert asked == [100_000, 1]


def test_lightning_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    from geoseg.train import devices

    monkeypatch.setitem(__import__("sys").modules, "lightning.fabric", None)
    with pytest.raises(
        MissingDependencyError, match=r"lightning is not installed.*geoseg\[train\]"
    ):
        importlib.reload(devices)


def test_a_network_of_another_size_is_told(data: Any, tmp_path: Path) -> None:
    learner = new_learner(data, tmp_path / "run", nn.Conv2d(3, 1, 3, stride=2))
    images, targets = torch.zeros(2, 3, 92, 92), torch.zeros(2, 92, 92, dtype=torch.uint8)
    with pytest.raises(ModelError, match=r"gives \(2, 1, 31, 31\) for \(2, 3, 64, 64\)"):
        learner.learn(images, targets)


def test_a_part_that_cannot_be_normalized_is_told(data: Any, tmp_path: Path) -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))
    learner = new_learner(data, tmp_path / "run", network, batch=2, accumulate=2)
    images, targets = torch.zeros(2, 3, 92, 92), torch.zeros(2, 92, 92, dtype=torch.uint8)
    with pytest.raises(UsageError, match="two windows at a time"):
        learner.learn(images, targets)


# --- learning -------------------------------------------------------------------------------

DEEPLAB = {
    "architecture": "deeplabv3plus",
    "arguments": {"encoder": "tu-tf_efficientnet_lite0", "decoder_channels": 32},
}
LEARNING: dict[str, Any] = {
    **{"batch": 4, "lr": 0.01, "encoder_lr": 1.0, "ema": 0.8},
    "augment": MILD,
}


@pytest.mark.parametrize("model", [{"architecture": "unet", "arguments": UNET}, DEEPLAB])
def test_it_learns(data: Any, tmp_path: Path, model: Any) -> None:
    root, places = data
    config = recipe(places, model=model, steps=60, validate_every=60, **LEARNING)
    folder = run(config, root, tmp_path / "run", progress=False)
    assert json.loads((folder / "result.json").read_text())["iou"] > 0.95


def test_it_learns_three_classes(tmp_path: Path) -> None:
    places = [plant_place(tmp_path, name, seed, classes=3) for name, seed in (("a", 2), ("b", 4))]
    config = recipe(places, classes=3, steps=80, validate_every=80, **LEARNING)
    folder = run(config, tmp_path, tmp_path / "run", progress=False)
    result = json.loads((folder / "result.json").read_text())
    assert result["iou"] > 0.9
    assert set(result["classes"]) == set(NAMES)
    log = columns(folder)
    assert float(log["iou"][-1]) > 0.9
    assert {f"class/{name}" for name in NAMES} <= set(log)
