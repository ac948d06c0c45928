"""geoseg model: bundles, by name or path."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from geoseg.cli.base import Verbs, as_json, emit, overwrite

COLUMNS = ("name", "version", "source", "task", "classes", "bands", "gsd", "path")
keep_as = click.option("--name", help="Name to keep it under.")


@click.group(cls=Verbs)
def model() -> None:
    """List, show, check, get, add and remove models."""


@model.command("list")
@as_json
def list_(as_json: bool) -> None:
    """Models that can be named."""
    from geoseg.registry import list_models
    from geoseg.terminal import rows

    entries = list_models()
    if as_json:
        for entry in entries:
            emit(entry.as_dict())
        return
    names = [[c.name for c in entry.classes] for entry in entries]
    records = [
        {column: getattr(entry, column) for column in COLUMNS} | {"classes": classes}
        for entry, classes in zip(entries, names, strict=True)
    ]
    click.echo(rows(records))


@model.command()
@click.argument("name")
@as_json
def show(name: str, as_json: bool) -> None:
    """The contract of a model and its card."""
    from geoseg.bundle import Bundle
    from geoseg.registry import find

    bundle = Bundle.open(find(name))
    emit(bundle.item) if as_json else click.echo(bundle.card)


@model.command()
@click.argument("name")
@click.option("--device", default="auto")
@as_json
def check(name: str, device: str, as_json: bool) -> None:
    """Run the model's golden sample and compare."""
    from geoseg import runtime
    from geoseg.bundle import Bundle
    from geoseg.registry import find

    bundle = Bundle.open(find(name))
    report = bundle.check(runtime.load([bundle], device=device))
    emit(report.as_dict()) if as_json else click.echo(str(report))
    if not report.ok:
        sys.exit(1)


@model.command()
@click.argument("source")
@keep_as
@overwrite
@as_json
def pull(source: str, name: str | None, overwrite: bool, as_json: bool) -> None:
    """Get a model: folder, zip, http(s) address, or Hugging Face repository (owner/name)."""
    from geoseg.registry import pull as get

    _tell_kept(get(source, name=name, overwrite=overwrite), as_json)


@model.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@keep_as
@overwrite
@as_json
def add(bundle: Path, name: str | None, overwrite: bool, as_json: bool) -> None:
    """Keep a copy of BUNDLE (folder or zip, as geoseg train writes it), to be named from now on."""
    from geoseg.registry import add_model

    _tell_kept(add_model(bundle, name=name, overwrite=overwrite), as_json)


def _tell_kept(path: Path, as_json: bool) -> None:
    from geoseg.registry import ModelEntry

    if as_json:
        emit({"event": "result", **ModelEntry.of(path.name, path).as_dict()})
    else:
        click.echo(path)


@model.command()
@click.argument("name")
@as_json
def remove(name: str, as_json: bool) -> None:
    """Delete a model of your own."""
    from geoseg.registry import remove_model

    path = remove_model(name)
    emit({"event": "result", "name": name, "path": path}) if as_json else click.echo(path)
