"""Typed configurations out of YAML files; a wrong key or value is told in one clear message."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from geoseg.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """Base of all configurations: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def load_yaml(path: str | Path, model: type[M]) -> M:
    """The YAML file at `path` as a `model`; raises ConfigError naming the file, key and remedy."""
    return check(read_yaml(path), model, source=str(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in the YAML file at `path`."""
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror})") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not valid YAML ({e})") from e
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a YAML mapping of keys to values is needed")
    return content


def check(content: Mapping[str, Any], model: type[M], *, source: str) -> M:
    """`content` as a `model`; `source` names where it came from in the ConfigError."""
    try:
        return model.model_validate(content)
    except ValidationError as e:
        raise ConfigError(f"{source}: {_explain(e, model)}") from e


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem in plain words, with the number of those that follow."""
    problems = error.errors()
    # a misspelt key is often also a missing one: the misspelling says more
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        message = f"unknown key {key!r}{_nearest(first['loc'], model)}"
    elif first["type"] == "missing":
        message = f"key {key!r} is missing"
    else:
        given = first["input"]
        shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
        message = f"{key}: {first['msg']}{shown}"
    more = len(problems) - 1
    return message + (f" (and {more} more)" if more else "")


def _nearest(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """', did you mean ...?' with the valid key nearest to the last part of `location`."""
    parent = _model_at(model, location[:-1])
    if parent is None:
        return ""
    valid = list(parent.model_fields)
    close = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid keys: {', '.join(valid)}"


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model class that holds the keys at `location`."""
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue  # an item of a list: its class was found with the list's name
        if current is None or part not in current.model_fields:
            return None
        current = _model_in(current.model_fields[part].annotation)
    return current


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model inside a type such as `tuple[Place, ...]` or `Loss | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_in(a)) is not None), None)
