"""Typed configurations out of YAML files; a wrong key or value is told in one clear message."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

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
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: not text in UTF-8") from e
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise ConfigError(f"{path}: not valid YAML: {_where(e)}") from e
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a YAML mapping of keys to values is needed")
    return content


def check(content: Mapping[str, Any], model: type[M], *, source: str) -> M:
    """`content` as a `model`; `source` names where it came from in the ConfigError."""
    try:
        return model.model_validate(content)
    except ValidationError as e:
        raise ConfigError(f"{source}: {_explain(e, model, content)}") from e


def _where(error: Exception) -> str:
    """What YAML does not like, on one line: 'line 3, column 7: ...'."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).replace('in "<unicode string>", ', "").split())


# What a value of a kind needs to be, by pydantic's name of what is wrong with it.
_NEEDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    "string_type": "text",
    "path_type": "a path",
    "dict_type": "a table of keys and values",
    "invalid_key": "text for a key",
    "literal_error": "{expected}",
    "finite_number": "a finite number",
    "greater_than": "a number greater than {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number less than {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
    "missing": "one value more",  # of a list
    "too_short": "more values, at least {min_length}",
    "too_long": "fewer values, at most {max_length}",
}


def _explain(error: ValidationError, model: type[BaseModel], content: Mapping[str, Any]) -> str:
    """The first problem in plain words, with the number of those that follow."""
    by_key: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for problem in error.errors():
        by_key.setdefault(_location(problem, content), []).append(problem)
    # a list is also too short when what is in it is wrong: that says more
    keys = [k for k in by_key if not any(k == other[: len(k)] and k != other for other in by_key)]
    # a misspelt key is often also a missing one: the misspelling says more
    first = min(keys, key=lambda k: by_key[k][0]["type"] != "extra_forbidden")
    more = len(keys) - 1
    return _in_words(first, by_key[first], model) + (f" (and {more} more)" if more else "")


def _location(problem: ErrorDetails, content: Any) -> tuple[int | str, ...]:
    """Where a problem is; without pydantic's marks for the alternatives that a value has."""
    kept: list[int | str] = []
    for part in problem["loc"]:
        inside = isinstance(content, Mapping) and part in content
        if inside or isinstance(part, int):
            kept.append(part)
            listed = isinstance(content, list | tuple) and isinstance(part, int)
            there = inside or (listed and 0 <= int(part) < len(content))
            content = content[part] if there else None
    if problem["type"] == "missing":  # said of what is not there: a key; or of the list, a value
        key = problem["loc"][-1]
        kept = [*kept, key] if isinstance(key, str) else kept[:-1]
    return tuple(kept)


def _in_words(
    location: tuple[int | str, ...], problems: Sequence[ErrorDetails], model: type[BaseModel]
) -> str:
    """One thing that is wrong; `problems` are one for each alternative that a value has."""
    key, first = ".".join(map(str, location)), problems[0]
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_nearest(location, model)}"
    if first["type"] == "missing" and isinstance(first["loc"][-1], str):
        return f"key {key!r} is missing"
    if first["type"] == "value_error":
        return f"{key}: {first['ctx']['error']}" if key else str(first["ctx"]["error"])
    given = first["input"]
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    needs = ", or ".join(_need(p, location, model) for p in problems)
    if first["loc"][-1:] == ("[key]",):
        return f"unknown key {key!r}: there are {needs}"
    return f"{key} needs {needs}{shown}"


def _need(problem: ErrorDetails, location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    if problem["type"] == "model_type" and (inner := _model_at(model, location)):
        return f"a table of keys: {', '.join([*inner.model_fields][:5])} ..."
    if words := _NEEDS.get(problem["type"]):
        return words.format(**problem.get("ctx", {}))
    return problem["msg"].removeprefix("Input should be ")


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
