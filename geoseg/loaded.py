"""A model with its network, as runs use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from geoseg import registry, runtime
from geoseg.bundle import Bundle
from geoseg.grid import Plan
from geoseg.options import PredictOptions
from geoseg.predictions import Chip
from geoseg.reading import ahead, chips
from geoseg.scene import Scene
from geoseg.spec import ModelSpec, Scaling

Model = str | Path | Sequence[str | Path]


def load_network(bundles: list[Bundle], options: PredictOptions) -> runtime.Runtime:
    """The model, or the mean of several, as the options say."""
    return runtime.load(
        bundles,
        runtime=options.runtime,
        device=options.device,
        precision=options.precision,
        batch_size=options.batch,
        threads=options.threads,
        tta=options.tta,
    )


class Loaded:
    """A model that runs share: its network is loaded when one first needs it, and stays.

    For one run at a time. Options that say how the model runs (device, tta ...) load it anew
    where they are others than before.
    """

    def __init__(self, model: Model) -> None:
        self.paths = find_models(model)
        self._network: tuple[tuple[Any, ...], runtime.Runtime] | None = None

    @cached_property
    def bundles(self) -> list[Bundle]:
        return [Bundle.open(path) for path in self.paths]

    def spec(self, options: PredictOptions) -> ModelSpec:
        """The contract, with the decision level that the options give."""
        spec = runtime.contract(self.bundles)
        return spec if options.threshold is None else replace(spec, threshold=options.threshold)

    def network(self, options: PredictOptions) -> runtime.Runtime:
        """Ready to predict as the options say."""
        how = tuple(getattr(options, name) for name in _HOW)
        if self._network is None or self._network[0] != how:
            self._network = None  # two at once may not fit into memory
            self._network = how, load_network(self.bundles, options)
        return self._network[1]

    def predictions(
        self,
        scene: Scene,
        tiles: Plan,
        scaling: Scaling,
        options: PredictOptions,
        on_chip: Callable[[Chip], None] | None = None,
    ) -> Iterator[runtime.Prediction]:
        """What the network sees in each tile that has data, in the plan's order."""
        read = ahead(_shown(chips(scene, tiles), on_chip))
        return runtime.run(self.network(options), read, scaling)


_HOW = ("runtime", "device", "precision", "batch", "threads", "tta")


def _shown(chips: Iterator[Chip], look: Callable[[Chip], None] | None) -> Iterator[Chip]:
    for chip in chips:
        if look is not None:
            look(chip)
        yield chip


def find_models(model: Model) -> list[Path]:
    """Where the bundles are that `model` names."""
    names = [model] if isinstance(model, str | Path) else list(model)
    return [registry.find(name) for name in names]
