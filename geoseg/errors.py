"""The one error tree of geoseg.

Every error that a user can cause is one of these; its message names the thing (file, key,
option), says what is wrong with it and what to do. The command line prints the message alone.

    GeosegError                 exit code 1
    ├── UsageError              exit code 2: an option or argument makes no sense
    │   └── ConfigError         ... in a YAML file
    ├── SceneError              a raster cannot be opened, read, or used with this model
    │   └── ContractError       the scene does not fit the model's contract (preflight)
    ├── AoiError                the area of interest is unusable
    │   └── OutsideError        ... for this scene: it lies elsewhere
    ├── ModelError              a bundle is missing, broken, tampered with, or cannot be built
    ├── DataError               training data or labels are unusable
    ├── OutputError             an output cannot be written
    └── MissingDependencyError  an optional package is not installed (names the pip extra)
        └── NeedsTorchError     ... torch: this is a light engine
"""

from __future__ import annotations

import importlib.metadata
import importlib.util


class GeosegError(Exception):
    """Base of all errors whose message is meant for the user."""

    exit_code = 1


class UsageError(GeosegError):
    """An option or argument makes no sense, alone or beside the others."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file has an unknown key or a value of the wrong kind."""


class SceneError(GeosegError):
    """A raster cannot be opened or read."""


class ContractError(SceneError):
    """A scene does not fit the model's contract, and cannot be made to fit."""


class AoiError(GeosegError):
    """An area of interest is empty, invalid, without CRS, or outside the scene."""


class OutsideError(AoiError):
    """The scene has no part in the area of interest."""


class ModelError(GeosegError):
    """A model bundle is missing, incomplete, tampered with, or cannot be built."""


class DataError(GeosegError):
    """Training data or labels cannot be used."""


class OutputError(GeosegError):
    """An output cannot be written, or exists already."""


class MissingDependencyError(GeosegError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        wanted = f"'geoseg[{extra}]'"
        if not _torch_is_here():  # which geoseg[...] would bring along
            wanted = " ".join(_packages_of(extra)) or wanted
        super().__init__(f"{package} is not installed: pip install {wanted}")


class NeedsTorchError(MissingDependencyError):
    """A light engine, without torch, was asked for what needs it; `what` begins the sentence."""

    def __init__(self, what: str, *, extra: str = "", otherwise: str = "") -> None:
        wanted = f"'geoseg[{extra}]'" if extra else "geoseg"
        message = f"{what} needs torch, which is not installed (light engine): pip install {wanted}"
        GeosegError.__init__(self, message + otherwise)


def need_torch(what: str, extra: str = "") -> None:
    """A NeedsTorchError where torch is not installed; `extra` is what pip has to add beside it."""
    if not _torch_is_here():
        raise NeedsTorchError(what, extra=extra)


def _torch_is_here() -> bool:
    return importlib.util.find_spec("torch") is not None


def _packages_of(extra: str) -> list[str]:
    """What an extra of geoseg installs, as for pip on a command line."""
    try:
        every = importlib.metadata.requires("geoseg") or []
    except importlib.metadata.PackageNotFoundError:  # a folder of source files
        return []
    this = (f"extra == '{extra}'", f'extra == "{extra}"')
    return [f"'{line.partition(';')[0].strip()}'" for line in every if line.endswith(this)]
