"""geoseg batch: archives."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from geoseg.cli.base import (
    Verbs,
    as_json,
    bounds,
    comma,
    emit,
    given,
    joining_options,
    polygon_options,
    raster_grid,
    runtime_options,
    scene_options,
)


class Defaulting(Verbs):
    """`geoseg batch SOURCE` is `geoseg batch run SOURCE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Defaulting)
def batch() -> None:
    """Predict all scenes of an archive; go on where an earlier run ended.

    \b
    geoseg batch archive/ -o out --engine processes --workers 4
    geoseg batch status out
    """


@batch.command()
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder of all outputs and the ledger."
)
@click.option(
    "--config", type=click.Path(path_type=Path), help="YAML with these options (see configs/batch)."
)
@click.option(
    "--engine",
    type=click.Choice(["serial", "processes", "dask"]),
    help="One scene after the other, several processes, or a Dask cluster.",
)
@click.option("--workers", type=int, metavar="N", help="Scenes that are under way at once.")
@click.option(
    "--split", type=int, metavar="TILES", help="Scenes of more tiles are shared by the workers."
)
@click.option("--scheduler", metavar="tcp://...", help="An existing Dask cluster.")
@click.option(
    "--format",
    type=click.Choice(["gpkg", "parquet", "fgb", "geojson", "geojsonl", "shp", "none"]),
    help="Of the polygons, a file for each scene.",
)
@click.option(
    "--dataset",
    metavar="NAME",
    help="All polygons in one file: .parquet, .gpkg or .fgb, sorted by place.",
)
@click.option(
    "--dedupe",
    is_flag=True,
    default=None,
    help="In the dataset: once what overlapping scenes show; merged across their edges.",
)
@click.option("--mask", is_flag=True, default=None, help="Also class masks, as COGs.")
@click.option(
    "--probabilities", is_flag=True, default=None, help="Also probabilities of classes, as COGs."
)
@raster_grid
@click.option(
    "--retry-failed", is_flag=True, default=None, help="Try scenes again that have failed."
)
@click.option(
    "--collection",
    "collections",
    multiple=True,
    metavar="ID",
    help="Of STAC: of these collections.",
)
@click.option(
    "--bbox", metavar="W,S,E,N", callback=bounds, help="Of STAC: that meet this box, in degrees."
)
@click.option("--datetime", metavar="T[/T]", help="Of STAC: of this time: 2024-05, 2024-05/..")
@click.option("--max-cloud", type=float, metavar="PERCENT", help="Of STAC: not cloudier.")
@click.option("--max-items", type=int, metavar="N", help="Of STAC: no more than so many.")
@click.option(
    "--assets",
    metavar="A,A,...",
    callback=comma,
    help="Of STAC: assets for the model's bands, by key, name or colour.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option(
    "--overwrite", is_flag=True, default=None, help="Forget what was done; do all scenes anew."
)
@scene_options
@joining_options
@runtime_options
@polygon_options
@as_json
def run(
    sources: tuple[str, ...],
    output: Path | None,
    config: Path | None,
    model: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Predict all scenes of SOURCE (folder, glob, raster, list, tile index, STAC) into a folder.

    The same command goes on where an earlier one ended. Exit code 3: some scenes failed.
    `geoseg batch status OUTPUT` shows what became of each scene.
    """
    from geoseg.batch.config import asked as asked_for
    from geoseg.batch.plan import plan
    from geoseg.batch.run import batch as run_batch
    from geoseg.terminal import narrate, summary_of_batch, table

    asked = asked_for(
        config, sources=list(sources), output=output, model=list(model), options=given(options)
    )
    with narrate(as_json) as listener:
        if dry_run:
            planned = plan(**asked, listener=listener).as_dict()
            emit(planned) if as_json else click.echo(table(planned))
            return
        result = run_batch(**asked, listener=listener)
    if not as_json:
        click.echo(summary_of_batch(result))
    sys.exit(result.exit_code)


@batch.command()
@click.argument("output", type=click.Path(path_type=Path))
@as_json
def status(output: Path, as_json: bool) -> None:
    """Show what became of each scene of the batch in OUTPUT."""
    from geoseg.batch.status import status as look
    from geoseg.terminal import rows, table

    found = look(output)
    if as_json:
        for record in found.scenes():
            emit(record)
        emit(found.summary)
        return
    for page in found.pages():
        click.echo(rows(page))
    click.echo(table(found.summary))
