"""geoseg model: bundles, by name or path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from geoseg.cli.base import Verbs, as_json, emit, given, overwrite

COLUMNS = ("name", "version", "source", "task", "classes", "bands", "gsd", "path")
keep_as = click.option("--name", help="Name to keep it under.")


@click.group(cls=Verbs)
def model() -> None:
    """List, show, check, get, add, import, export, quantize and remove models."""


@model.command("list")
@as_json
def list_(as_json: bool) -> None:
    """Models that can be named."""
    from geoseg.registry import list_models
    from geoseg.terminal import rows

    def tell(broken: Exception) -> None:
        message = f"left out: {broken}"
        if as_json:
            emit({"event": "warning", "topic": "model", "message": message})
        else:
            click.echo(f"warning: {message}", err=True)

    entries = list_models(skip=tell)
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
@click.option("--runtime", "which", default="auto", metavar="auto|torch|onnx|openvino")
@as_json
def check(name: str, device: str, which: str, as_json: bool) -> None:
    """Run the model's golden sample and compare."""
    from geoseg import runtime
    from geoseg.bundle import Bundle
    from geoseg.registry import find

    bundle = Bundle.open(find(name))
    report = bundle.check(runtime.load([bundle], runtime=which, device=device))
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


@model.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--contract",
    type=click.Path(path_type=Path),
    help="YAML with what the file does not say; FILE's name with .yaml when not given.",
)
@click.option(
    "--sample", type=click.Path(path_type=Path), help="Raster on whose middle it is tried."
)
@keep_as
@overwrite
@as_json
def import_(
    file: Path,
    contract: Path | None,
    sample: Path | None,
    name: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make a model of FILE, another tool's: ONNX, Deepness, Esri, STAC MLM, torch."""
    from geoseg.exchange.importing import import_model
    from geoseg.registry import ModelEntry

    done = import_model(file, contract=contract, sample=sample, name=name, overwrite=overwrite)
    if as_json:
        entry = ModelEntry.of(done.path.name, done.path).as_dict()
        emit({"event": "result", "kind": done.kind, "shares": done.shares, **entry})
    else:
        click.echo(str(done))


@model.command()
@click.argument("name")
@click.option(
    "--to",
    required=True,
    metavar="FORMAT",
    help="bundle (with an ONNX graph: runs without torch), onnx, deepness, emd, openvino, "
    "torchscript, pt2 or mlm.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--tile", type=int, metavar="PX", help="Edge of the tiles, of formats with one size.")
@overwrite
@as_json
def export(
    name: str, to: str, output: Path, tile: int | None, overwrite: bool, as_json: bool
) -> None:
    """Write a model in a format that other tools read, checked on its golden sample."""
    from geoseg.exchange import export as run

    done = run(name, to, output, tile=tile, overwrite=bool(overwrite))
    if as_json:
        emit(done.as_dict())
    else:
        click.echo("\n".join(str(part) for part in (done.report, done.path) if part))


@model.command()
@click.argument("name")
@click.option("--scene", required=True, help="Raster whose chips the ranges are fitted to.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--chips", "count", type=int, default=16, help="So many are fitted to.")
@click.option("--tile", type=int, default=512, help="Their edge, in pixels.")
@overwrite
@as_json
def quantize(name: str, scene: str, output: Path, as_json: bool, **options: Any) -> None:
    """Write a model in 8 bits, fitted to a scene; tells what that changes there."""
    from geoseg.exchange.quantize import quantize as run
    from geoseg.terminal import table

    done = run(name, scene, output, **given(options)).as_dict()
    emit(done) if as_json else click.echo(table(done))
