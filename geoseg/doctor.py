"""`geoseg doctor`: versions, devices, models, and the usual trouble with GDAL and PROJ."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

import geoseg
from geoseg.runtime.cores import physical_cores

if TYPE_CHECKING:
    from geoseg.registry import ModelEntry

PACKAGES = (
    "rasterio", "pyogrio", "geopandas", "shapely", "pyproj", "numpy", "numba", "pyarrow",
)  # fmt: skip
TORCH = ("torch", "torchvision", "segmentation-models-pytorch", "timm", "torchgeo")
ENGINES = ("onnxruntime", "openvino")  # that run models, too


@dataclass(frozen=True, slots=True)
class Report:
    """What `examine` found; `trouble` is empty on a healthy machine.

    engine: 'full', or 'light', which has no torch: it predicts with models that have a graph, and
    does not train. models: those that can be named; without_runtime: those of them that nothing
    which is installed can run.
    """

    geoseg: str
    engine: Literal["full", "light"]
    python: str
    platform: str
    cores: int
    packages: dict[str, str]
    gdal: dict[str, str]
    devices: tuple[str, ...]
    models: tuple[str, ...]
    without_runtime: tuple[str, ...]
    trouble: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def examine() -> Report:
    """Look at this machine as a run of geoseg would find it."""
    trouble: list[str] = []
    models = _models(trouble)
    return Report(
        geoseg=geoseg.__version__,
        engine=_kind(),
        python=f"{platform.python_version()} ({sys.executable})",
        platform=platform.platform(),
        cores=os.cpu_count() or 1,
        packages=_packages(trouble),
        gdal=_gdal(trouble),
        devices=_devices(trouble),
        models=tuple(entry.name for entry in models),
        without_runtime=tuple(entry.name for entry in models if not entry.runtimes),
        trouble=tuple(trouble),
    )


def _packages(trouble: list[str]) -> dict[str, str]:
    """Versions. A light engine has no torch."""
    engines = {name: v for name in ENGINES if (v := _version(name, [])) != "missing"}
    wanted = PACKAGES if _kind() == "light" else (*TORCH, *PACKAGES)
    return {**{name: _version(name, trouble) for name in wanted}, **engines}


def _kind() -> Literal["full", "light"]:
    """Light: what predicts without torch is there, torch is not."""
    torch, *others = (_version(name, []) != "missing" for name in ("torch", *ENGINES))
    return "light" if any(others) and not torch else "full"


def _version(package: str, trouble: list[str]) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        trouble.append(f"{package} is not installed: pip install geoseg brings it")
        return "missing"


def _gdal(trouble: list[str]) -> dict[str, str]:
    """Versions that rasterio and pyogrio carry, and a test that PROJ finds its database."""
    import pyogrio
    import pyproj
    import rasterio
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    trouble += [
        f"{name} is set to {os.environ[name]}: another GDAL's files can break this one; "
        f"unset it for geoseg"
        for name in ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "GDAL_DRIVER_PATH")
        if name in os.environ
    ]
    try:
        CRS.from_epsg(3857).to_wkt()
        pyproj.CRS.from_epsg(3857)
    except (CRSError, pyproj.exceptions.CRSError) as e:
        trouble.append(f"PROJ does not find its database ({e}); unset PROJ_LIB and PROJ_DATA")
    return {
        "rasterio's": rasterio.__gdal_version__,
        "pyogrio's": ".".join(map(str, pyogrio.__gdal_version__)),
        "PROJ of pyproj": pyproj.proj_version_str,
    }


def _devices(trouble: list[str]) -> tuple[str, ...]:
    if _version("torch", []) == "missing":
        return (f"cpu ({physical_cores()} threads)",)
    try:
        import torch
    except (ImportError, OSError) as e:
        trouble.append(f"torch does not load ({e}): reinstall torch and torchvision together")
        return ()
    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return tuple(found)


def _models(trouble: list[str]) -> list[ModelEntry]:
    from geoseg.registry import list_models

    return list_models(skip=lambda broken: trouble.append(str(broken)))
