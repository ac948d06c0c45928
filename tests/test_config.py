"""YAML configurations: strict, with messages that name the file, the key and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from geoseg.config import Strict, load_yaml
from geoseg.errors import ConfigError


class Inner(Strict):
    """A part of a configuration."""

    steps: int
    learning_rate: float = 0.1


class Outer(Strict):
    """A configuration with parts."""

    name: str
    inner: Inner
    items: tuple[Inner, ...] = ()


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
        ("name: a\ninner: {steps: many}", "inner.steps: .*given: 'many'"),
        ("- a\n- b", "mapping of keys to values"),
        ("name: [a", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load(tmp_path, text)
    assert "recipe.yaml" in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "none.yaml", Outer)
