"""geoseg: georeferenced polygons out of imagery of any size, by deep learning.

Everything here is imported on first use, so that `import geoseg` costs next to nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from geoseg.batch.run import batch
    from geoseg.batch.status import status as batch_status
    from geoseg.doctor import examine as doctor
    from geoseg.errors import GeosegError
    from geoseg.evaluate.compare import compare
    from geoseg.evaluate.run import evaluate
    from geoseg.exchange import export as export_model
    from geoseg.exchange.importing import import_model
    from geoseg.exchange.quantize import quantize as quantize_model
    from geoseg.instances.frames import merge_instances
    from geoseg.instances.split import split_objects
    from geoseg.predict import Result, predict
    from geoseg.preflight import describe as info
    from geoseg.preview import preview
    from geoseg.registry import add_model, list_models, pull, remove_model
    from geoseg.survey import survey as plan
    from geoseg.train import train
    from geoseg.train.recipe import recipe
    from geoseg.vectorize import vectorize
    from geoseg.vectorize.regularize import regularize
    from geoseg.vectorize_raster import vectorize_raster

# Each verb of the command line is one of these functions.
_HOME = {
    "predict": "geoseg.predict:predict",
    "batch": "geoseg.batch.run:batch",
    "batch_status": "geoseg.batch.status:status",
    "Result": "geoseg.predict:Result",
    "info": "geoseg.preflight:describe",
    "plan": "geoseg.survey:survey",
    "preview": "geoseg.preview:preview",
    "recipe": "geoseg.train.recipe:recipe",
    "train": "geoseg.train:train",
    "evaluate": "geoseg.evaluate.run:evaluate",
    "compare": "geoseg.evaluate.compare:compare",
    "vectorize": "geoseg.vectorize:vectorize",
    "vectorize_raster": "geoseg.vectorize_raster:vectorize_raster",
    "regularize": "geoseg.vectorize.regularize:regularize",
    "split_objects": "geoseg.instances.split:split_objects",
    "merge_instances": "geoseg.instances.frames:merge_instances",
    "doctor": "geoseg.doctor:examine",
    "add_model": "geoseg.registry:add_model",
    "export_model": "geoseg.exchange:export",
    "import_model": "geoseg.exchange.importing:import_model",
    "quantize_model": "geoseg.exchange.quantize:quantize",
    "remove_model": "geoseg.registry:remove_model",
    "list_models": "geoseg.registry:list_models",
    "pull": "geoseg.registry:pull",
    "GeosegError": "geoseg.errors:GeosegError",
}

__all__ = [
    "GeosegError",
    "Result",
    "__version__",
    "add_model",
    "batch",
    "batch_status",
    "compare",
    "doctor",
    "evaluate",
    "export_model",
    "import_model",
    "info",
    "list_models",
    "merge_instances",
    "plan",
    "predict",
    "preview",
    "pull",
    "quantize_model",
    "recipe",
    "regularize",
    "remove_model",
    "split_objects",
    "train",
    "vectorize",
    "vectorize_raster",
]


class _Package(ModuleType):
    """`geoseg.predict` is the function, also once the module of that name has been imported."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'geoseg' has no attribute {name!r}")
        module, _, attribute = _HOME[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted(__all__)


sys.modules[__name__].__class__ = _Package
