"""YAML configurations: strict, with messages that name the file, the key and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import pytest
from pydantic import Field, model_validator

from geoseg.config import Strict, load_yaml
from geoseg.errors import ConfigError


class Inner(Strict):
    """A part of a configuration."""

    steps: int = Field(ge=1)
    learning_rate: float = 0.1

    @model_validator(mode="after")
    def _lucky(self) -> Self:
        if self.steps == 13:
            raise ValueError("13 brings bad luck")
        return self


class Outer(Strict):
    """A configuration with parts."""

    name: str
    inner: Inner
    items: tuple[Inner, ...] | None = Field(None, min_length=1)
    pair: tuple[float, float] = (0, 1)
    either: float | tuple[float, ...] = 0
    kinds: dict[Literal["on", "off"], int] | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.name != "a":
            raise ValueError("the name of all is a")
        return self


def load(tmp_path: Path, text: str) -> Outer:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_yaml(path, Outer)


def test_a_good_file(tmp_path: Path) -> None:
    config = load(tmp_path, "name: a\ninner: {steps: 3}\nitems: [{steps: 1}]\n")
    assert config == Outer(name="a", inner=Inner(steps=3), items=(Inner(steps=1),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae: a\ninner: {steps: 3}", "unknown key 'nmae'; did you mean 'name'?"),
        ("name: a\ninner: {stepps: 3, steps: 3}", "'inner.stepps'; did you mean 'steps'?"),
        ("name: a\ninner: {steps: 3}\nitems: [{steps: 1, learningrate: 2}]", "'learning_rate'?"),
        ("name: a\ninner: {steps: 3, zzz: 1}", "valid keys: steps, learning_rate"),
        ("name: a", "key 'inner' is missing"),
        ("name: a\ninner: {steps: many}", "inner.steps needs a whole number .given: 'many'.$"),
        ("name: a\ninner: 3", "inner needs a table of keys: steps, .* .given: 3.$"),
        ("name: a\ninner: {steps: 3}\nitems: 3", "items needs a list .given: 3.$"),
        ("name: a\ninner: {steps: 3}\npair: [1]", "yaml: pair needs one value more$"),
        ("name: a\ninner: {steps: 3}\npair: [1, 2, 3]", "pair needs fewer values, at most 2$"),
        ("name: a\ninner: {steps: 3}\neither: x", "either needs a number, or a list .given: 'x'.$"),
        ("name: a\ninner: {steps: 3}\neither: [x]", "yaml: either.0 needs a number .given: 'x'.$"),
        ("name: a\ninner: {steps: 3}\nkinds: {one: 1}", "unknown key 'kinds.one': there are 'on'"),
        ("name: a\ninner: {steps: 0}", "yaml: inner.steps needs a number of at least 1"),
        ("name: b\ninner: {steps: 3}", "recipe.yaml: the name of all is a$"),
        ("name: a\ninner: {steps: 13}", "recipe.yaml: inner: 13 brings bad luck$"),
        ("name: a\ninner: {steps: 3}\nitems: []", "items needs more values, at least 1$"),
        ("name: a\ninner: {steps: 3}\nitems: [{}]", "yaml: key 'items.0.steps' is missing$"),
        ("name: a\n1: b\ninner: {steps: 3}", "1 needs text for a key"),
        ("- a\n- b", "mapping of keys to values"),
        ("name: [a", "not valid YAML: line 1, column 9: "),
        ("name: a\n\tb: 3", "not valid YAML: line 2, column 1: [^\n]*$"),
        ("name: a\x07", "not valid YAML: [^\n<>]*$"),
        ("name: 2024-13-13", "not valid YAML: month must be in 1..12"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load(tmp_path, text)
    said = str(error.value)
    assert "recipe.yaml" in said
    assert not any(words in said for words in ("Input should", "Value error", "\n"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "none.yaml", Outer)
