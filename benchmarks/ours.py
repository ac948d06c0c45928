"""geoseg's side of the comparisons; runs in the environment that has geoseg installed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import common
import numpy as np
from nets import Clock, register

register()

BATCH = 4


# Bundles -----------------------------------------------------------------------------------------


def bundle_oneconv(out: str, classes: int = 2, kernel: int = 1, gsd: float = 0.3) -> dict[str, Any]:
    """A one-convolution model that finds bright pixels (neighbourhoods of `kernel` pixels)."""
    from geoseg.spec import ClassInfo

    arguments = {"kernel": kernel} if kernel > 1 else {}
    ids = [ClassInfo(0, "dark"), ClassInfo(1, "bright")][-classes:]
    return _write(out, "oneconv", "oneconv", arguments, tuple(ids), stride=1, gsd=gsd)


def bundle_unet(
    out: str, scene: str, encoder: str = "resnet34", share: float = 0.2, gsd: float = 0.3
) -> dict[str, Any]:
    """smp.Unet with random weights and one class, which covers about `share` of the scene."""
    from geoseg.spec import ClassInfo

    classes = (ClassInfo(1, "found"),)
    return _write(
        out,
        "unet",
        encoder,
        {"encoder": encoder},
        classes,
        stride=32,
        gsd=gsd,
        scene=scene,
        share=share,
    )


def _write(
    out: str,
    architecture: str,
    name: str,
    arguments: dict[str, Any],
    classes: tuple[Any, ...],
    *,
    stride: int,
    gsd: float,
    scene: str | None = None,
    share: float = 0.0,
) -> dict[str, Any]:
    import torch

    from geoseg import models
    from geoseg.bundle import Bundle, card
    from geoseg.grid import Tiling
    from geoseg.runtime.torch_runtime import golden_sample
    from geoseg.spec import Band, ModelSpec, Scaling

    torch.manual_seed(0)
    network = models.build(architecture, classes=len(classes), bands=3, **arguments).eval()
    image = (
        _sample(scene, 512)
        if scene
        else np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    )
    if share:
        _make_it_find(network, torch.from_numpy(image), share)
    spec = ModelSpec(
        name=name,
        version="0",
        architecture=architecture,
        arguments=arguments,
        bands=tuple(Band(n, n) for n in ("red", "green", "blue")),
        scaling=Scaling((0.0,) * 3, (255.0,) * 3),
        gsd=gsd,
        classes=classes,
        activation="sigmoid" if len(classes) == 1 else "softmax",
        tiling=replace(Tiling(), stride=stride),
    )
    # Random weights amplify roundings: what a trained network must not do does not matter here.
    sample = replace(
        golden_sample(spec, network, image),
        tolerance={"float32": 0.02, "float16": 0.2, "bfloat16": 0.5},
    )
    Bundle.write(out, spec, network.state_dict(), sample, card(spec), overwrite=True)
    return {}


def _make_it_find(network: Any, image: Any, share: float) -> None:
    """Change the head of a random network so that it finds about as much as a trained one does.

    Weights of one sign find regions instead of specks (about 400 polygons in 1024 x 1024 pixels
    of a town), and logits of a usual size keep the precisions comparable.
    """
    import torch

    head = network.segmentation_head[0]
    with torch.inference_mode():
        head.weight.data.abs_()
        head.bias.data.zero_()
        logits = network(image)
        head.weight.data *= 2 / logits.std()
        head.bias.data -= torch.quantile(network(image).flatten(), 1 - share)


def _sample(scene: str, size: int) -> np.ndarray:
    """(1, 3, size, size) of the scene's corner, in 0..1."""
    import rasterio

    with rasterio.open(scene) as source:
        data = source.read((1, 2, 3), window=((0, size), (0, size)))
    return (data[None] / 255).astype(np.float32)


# Cases -------------------------------------------------------------------------------------------


def predict(scene: str, out: str | None, bundle: str, **options: Any) -> dict[str, Any]:
    """geoseg.predict, from a path to written files."""
    from geoseg.predict import predict as run

    result: dict[str, Any] = {}
    with common.timed(result):
        done = run(scene, out, model=bundle, overwrite=True, **options)
        result["polygons"] = sum(done.polygons.values())
    return result | {"device": done.device, "tiles": done.tiles} | Clock.take()


def predict_eager(scene: str, out: str | None, bundle: str) -> dict[str, Any]:
    """The same with torch as it runs a network by itself: float32, nothing folded or laid out."""
    from unittest.mock import patch

    from geoseg.runtime.torch_runtime import TorchRuntime, network_of

    eager = lambda bundles, _: TorchRuntime(bundles[0].spec, network_of(bundles[0]))  # noqa: E731
    with patch("geoseg.loaded.load_network", eager):
        return predict(scene, out, bundle)


def model(scene: str, bundle: str, **options: Any) -> dict[str, Any]:
    """The network alone: the tiles that `predict` with these options computes, forward only.

    The pixels already lie on the device, in the runtime's precision and layout; what turns
    logits into probabilities, and all copying, counts for the pipeline.
    """
    import torch

    from geoseg import runtime
    from geoseg.bundle import Bundle
    from geoseg.options import PredictOptions
    from geoseg.predict import lay_tiles, open_scene

    opened = Bundle.open(bundle)
    given = PredictOptions.of(options)
    with open_scene(scene, opened.spec, given) as source:
        plan = lay_tiles(source, opened.spec, given, None)
    network = runtime.load(
        opened,
        device=given.device,
        precision=given.precision,
        batch_size=given.batch,
        threads=given.threads,
    )
    tile = np.resize(opened.sample().input[0], (1, 3, *plan.tile_shape)).astype(np.float32)
    for _ in range(2):  # a GPU's batch size is known after the first
        network.predict(tile)
    batch = torch.from_numpy(tile).expand(min(network.batch_size, len(plan)), -1, -1, -1)
    batch = batch.to(network.device, network.mode.dtype, memory_format=network.mode.layout)
    forward, counts = network._network, _counts(len(plan), len(batch))
    with torch.inference_mode():
        forward(batch)
        _wait(network.device)
        result: dict[str, Any] = {}
        with common.timed(result):
            for count in counts:
                forward(batch[:count])
            _wait(network.device)
    return result | {"device": network.description, "tiles": len(plan), "batch": len(batch)}


def _counts(total: int, batch: int) -> list[int]:
    full, rest = divmod(total, batch)
    return [batch] * full + [rest] * bool(rest)


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


CASES = {
    "bundle_oneconv": bundle_oneconv,
    "bundle_unet": bundle_unet,
    "predict": predict,
    "predict_eager": predict_eager,
    "model": model,
}

if __name__ == "__main__":
    common.child(CASES)
