"""geoseg train, evaluate and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geoseg.cli.base import (
    as_json,
    comma,
    emit,
    given,
    overwrite,
    polygon_options,
    runtime_options,
    scene_options,
    values,
)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the data, if elsewhere.")
@click.option("--steps", type=int, help="Train for this many steps instead.")
@as_json
def train(recipe: Path, as_json: bool, **options: Any) -> None:
    """Train a model by RECIPE (YAML, see configs/) and write its bundle."""
    from geoseg.train import train as run

    if as_json:
        run(recipe, progress=False, listener=emit, **options)
    else:
        click.echo(run(recipe, **options))


@click.command()
@click.argument("subjects", nargs=-1, metavar="SCENE... | PREDICTION...")
@click.option(
    "--truth",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Vectors in any CRS, or a mask of class ids; one for all scenes, or one each.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder of the report (HTML, JSON)."
)
@click.option(
    "--recipe", type=click.Path(path_type=Path), help="A training recipe that names the places."
)
@click.option(
    "--part",
    type=click.Choice(["test", "validate"]),
    help="Which of the recipe's places and blocks; test if not given.",
)
@click.option(
    "--split", type=click.Path(path_type=Path), help="split.gpkg of a run: blocks of that part too."
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of its data, if elsewhere.")
@click.option(
    "--scene",
    "scene",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Image that a finished PREDICTION was made of.",
)
@click.option("--attribute", metavar="NAME", help="Attribute of the truth that holds the class.")
@click.option(
    "--values",
    multiple=True,
    metavar="CLASS=V,V,...",
    callback=values,
    help="What the attribute says for a class, if not its name or id.",
)
@click.option("--block", type=float, metavar="M", help="Edge of the blocks for the intervals.")
@click.option(
    "--tolerance", type=float, metavar="M", help="By how much boundaries may be off; mostly 0.6."
)
@click.option("--sizes", metavar="M2,M2,...", callback=comma, help="Limits of object sizes.")
@click.option("--worst", type=int, metavar="N", help="How many places are shown.")
@click.option("--keep", is_flag=True, default=None, help="Keep the predictions in the report.")
@click.option(
    "--against-nms",
    is_flag=True,
    default=None,
    help="Of a model that finds objects: also with plain NMS in place of merging, side by side.",
)
@scene_options
@runtime_options
@polygon_options
@overwrite
@as_json
def evaluate(
    subjects: tuple[str, ...], model: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Measure a model on SCENEs, or a finished PREDICTION, against the truth.

    \b
    geoseg evaluate scene.tif --model M --truth t.gpkg --aoi labelled.gpkg -o report
    geoseg evaluate buildings.gpkg --scene scene.tif --truth t.gpkg -o report
    geoseg evaluate --model M --recipe recipe.yaml --part test -o report
    """
    from geoseg.evaluate import evaluate as run
    from geoseg.evaluate.tables import brief
    from geoseg.terminal import narrate

    with narrate(as_json) as listener:
        result = run(subjects or None, model=model or None, listener=listener, **given(options))
    emit({"event": "result", **result.as_dict()}) if as_json else click.echo(brief(result.report))
    if result.output and not as_json:
        click.echo(f"wrote {result.output / 'report.html'}")


@click.command()
@click.argument("reports", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Also write it: .md, .html or .csv"
)
@overwrite
@as_json
def compare(reports: tuple[Path, ...], output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Put several REPORTs of evaluate into one table."""
    from geoseg.evaluate.compare import compare as run
    from geoseg.evaluate.tables import text

    comparison = run(reports, output, overwrite=overwrite)
    if not as_json:
        click.echo(text(comparison))
        if output:
            click.echo(f"wrote {output}")
        return
    for row in comparison.as_dicts():
        emit({"event": "row", **row})
    for warning in comparison.warnings:
        emit({"event": "warning", "topic": "compare", "message": warning})
    about = {"scenes": comparison.scenes, "unlike": comparison.unlike, "output": output}
    emit({"event": "result", "reports": [row.name for row in comparison.rows], **about})
