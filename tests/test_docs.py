"""What the documents show must be so: commands parse, examples run, links lead somewhere."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import click
import pytest

from geoseg import registry
from geoseg.cli import cli
from geoseg.models import ARCHITECTURES, weights

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    lines = [line for doc in DOCUMENTS for line in doc.read_text().splitlines()]
    shown = [line.removeprefix("$ ").split(" #")[0].strip() for line in lines]
    return sorted({s for s, line in zip(shown, lines, strict=True) if line.startswith("$ geoseg")})


@pytest.mark.parametrize("line", commands())
def test_commands_in_the_documents_parse(line: str) -> None:
    command: click.Command = cli
    name, args = "geoseg", shlex.split(line)[1:]
    while isinstance(command, click.Group):
        if args[0] not in command.commands:
            args = ["run", *args]  # geoseg batch SOURCE
        name, args = args[0], args[1:]
        command = command.commands[name]
    command.make_context(name, args)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scene.tif").symlink_to(ROOT / "tests" / "data" / "banepa.tif")
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102
    assert "building" in capsys.readouterr().out
    assert (tmp_path / "buildings.gpkg").exists()


def test_the_example_of_training_is_a_doctest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```pycon\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    samples = ROOT / "tests" / "data"
    for name, file in (
        ("ortho.tif", "banepa_center.tif"),
        ("roofs.gpkg", "banepa_center_buildings.gpkg"),
        ("other.tif", "banepa.tif"),
        ("other.gpkg", "banepa_buildings.gpkg"),
    ):
        (tmp_path / name).symlink_to(samples / file)
    test = doctest.DocTestParser().get_doctest(example, {}, "README", "README.md", 0)
    assert len(test.examples) == 5
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_table_of_networks_is_that_of_the_registry() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    table = text[text.index("## Networks") : text.index("## Losses")]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(ARCHITECTURES) - {"tiny"}  # which is for tests


def named_weights() -> list[str]:
    """Weights of packages and hubs that documents, recipes and the code's own words name."""
    places = [*DOCUMENTS, *(ROOT / "configs").rglob("*.yaml"), *(ROOT / "geoseg").rglob("*.py")]
    words = "".join(p.read_text() for p in places)
    return sorted(set(re.findall(r"\b(?:torchgeo|pypi):[A-Za-z0-9_.-]*[A-Za-z0-9]", words)))


@pytest.mark.parametrize("name", named_weights())
def test_weights_that_are_named_exist(name: str) -> None:
    listed = {f"torchgeo:{entry}" for entry in weights._torchgeo_weights()}
    assert name in listed | set(weights._PACKAGES)


def test_models_that_are_named_exist() -> None:
    words = "".join(p.read_text() for p in DOCUMENTS)
    named = set(re.findall(r"(?:--model |start: )([a-z]+-v\d+)", words))
    assert named
    assert all(registry.find(name).exists() for name in named)
