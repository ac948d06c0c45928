"""The command line: each verb is one library function; imports happen inside the commands."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from geoseg import __version__
from geoseg.errors import GeosegError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")


class Verbs(click.Group):
    """Lists the verbs in the order of a day's work, and turns errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GeosegError as e:
            _fail(type(e).__name__, str(e), e.exit_code)
        except OSError as e:  # a disk that is full or gone, below what a sink could tell
            _fail("OSError", f"{e.filename or 'a file'}: {e.strerror or e}", 1)
        except (KeyboardInterrupt, click.Abort):
            _fail("Interrupted", "interrupted; no output was left half-written", 130)


def _fail(kind: str, message: str, exit_code: int) -> NoReturn:
    if "--json" in sys.argv:
        emit({"event": "error", "kind": kind, "message": message, "exit_code": exit_code})
    else:
        click.echo(f"geoseg: {message}", err=True)
    sys.exit(exit_code)


def emit(record: Any) -> None:
    """One JSON line on stdout, at once."""
    click.echo(json.dumps(record, default=str))
    sys.stdout.flush()


@click.group(cls=Verbs, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="geoseg")
def cli() -> None:
    """Georeferenced polygons out of imagery of any size, by deep learning.

    \b
    geoseg predict scene.tif -o buildings.gpkg
    """


def scene_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say how a scene is read and cut; the same in predict and plan."""
    for option in reversed(
        [
            click.option(
                "-m",
                "--model",
                multiple=True,
                metavar="MODEL",
                help="Bundle: name, folder or zip. Several: mean of probabilities.",
            ),
            click.option(
                "--aoi",
                type=click.Path(path_type=Path),
                help="Vector file, any CRS: only what lies inside is predicted.",
            ),
            click.option(
                "--bands",
                metavar="B,B,...",
                callback=_comma,
                help="Scene's bands for the model's: numbers from 1, or names.",
            ),
            click.option(
                "--gsd",
                type=float,
                metavar="M",
                help="Metres per pixel of the scene, if it does not know or is wrong.",
            ),
            click.option("--nodata", type=float, help="Value that means no data."),
            click.option(
                "--stretch",
                metavar="auto|none|LOW,HIGH",
                callback=_stretch,
                help="Values of the scene that become the model's range.",
            ),
            click.option("--tile", type=int, metavar="PX", help="Edge of the tiles."),
            click.option(
                "--overlap", type=int, metavar="PX", help="What neighbouring tiles share."
            ),
        ]
    ):
        function = option(function)
    return function


def runtime_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say how the model runs."""
    for option in reversed(
        [
            click.option("--device", default=None, metavar="auto|cpu|cuda|mps"),
            click.option(
                "--precision",
                default=None,
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            ),
            click.option("--runtime", default=None, metavar="auto|torch"),
            click.option("--batch", type=int, metavar="N", help="Tiles that go through at once."),
            click.option("--threads", type=int, metavar="N", help="CPU threads of the model."),
            click.option(
                "--tta",
                metavar="A,A,...",
                callback=_comma,
                help="Test-time augmentation: hflip, vflip, rot90, scale:0.75 ...",
            ),
        ]
    ):
        function = option(function)
    return function


def _comma(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(parts):
        raise click.BadParameter("names or numbers with a comma between, none left out")
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _stretch(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    if value is None or value in ("auto", "none"):
        return value
    try:
        low, high = (float(v) for v in value.split(","))
    except ValueError:
        raise click.BadParameter("auto, none, or two numbers LOW,HIGH") from None
    return low, high


def _bounds(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    try:
        west, south, east, north = (float(v) for v in value.split(","))
    except ValueError:
        raise click.BadParameter("four numbers W,S,E,N") from None
    return west, south, east, north


def _values(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> dict[str, list[str]] | None:
    pairs = [text.partition("=") for text in value]
    if not all(name and equals and said for name, equals, said in pairs):
        raise click.BadParameter("a class, '=', and what the attribute says for it")
    return {name.strip(): said.split(",") for name, _, said in pairs} or None


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Only what the user said; the defaults live in PredictOptions."""
    return {k: v for k, v in options.items() if v is not None and v != ()}


@cli.command()
@click.argument("scene")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Polygons: .gpkg .parquet .fgb .geojson .geojsonl .shp",
)
@scene_options
@click.option(
    "--stitch", type=click.Choice(["blend", "crop"]), help="How overlapping tiles are joined."
)
@runtime_options
@click.option("--threshold", type=float, help="Decision level of a one-class model.")
@click.option("--min-area", type=float, metavar="M2", help="Drop polygons smaller than this.")
@click.option("--simplify", type=float, metavar="M", help="Tolerance of outlines, in metres.")
@click.option("--crs", help="CRS of the polygons, instead of the scene's.")
@click.option("--mask", type=click.Path(path_type=Path), help="Also the class mask, as a COG.")
@click.option(
    "--probabilities",
    type=click.Path(path_type=Path),
    help="Also the probability of each class, as a COG.",
)
@click.option(
    "--raster-grid",
    type=click.Choice(["model", "scene"]),
    help="Pixels of those rasters: at the model's GSD, or the scene's own.",
)
@overwrite
@as_json
def predict(
    scene: str, output: Path | None, model: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Segment SCENE (file, VRT, URL) and write georeferenced polygons."""
    from geoseg.predict import predict as run
    from geoseg.registry import DEFAULT_MODEL
    from geoseg.terminal import narrate, summary

    with narrate(as_json) as listener:
        result = run(
            scene, output, model=model or DEFAULT_MODEL, listener=listener, **given(options)
        )
    if not as_json:
        click.echo(summary(result))


@cli.command()
@click.argument("scene")
@as_json
def info(scene: str, as_json: bool) -> None:
    """Show what geoseg sees in SCENE."""
    from geoseg.preflight import describe
    from geoseg.terminal import table

    about = describe(scene).as_dict()
    emit(about) if as_json else click.echo(table(about))


@cli.command()
@click.argument("scene")
@scene_options
@runtime_options
@as_json
def plan(scene: str, model: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Show tiles, reads, memory and estimated time of a run, without running it."""
    from geoseg.registry import DEFAULT_MODEL
    from geoseg.survey import survey
    from geoseg.terminal import narrate, table

    with narrate(as_json) as listener:
        estimate = survey(
            scene, model=model or DEFAULT_MODEL, listener=listener, **given(options)
        ).as_dict()
    emit(estimate) if as_json else click.echo(table(estimate))


@cli.group(cls=Verbs)
def data() -> None:
    """Write a recipe for labelled data; check, measure, split and export it.

    \b
    geoseg data recipe scene.tif buildings.gpkg -o mine.yaml
    geoseg data check mine.yaml
    """


def recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The recipe, and where its data lies."""
    for decorate in (
        click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data."),
        click.argument("recipe", type=click.Path(path_type=Path)),
    ):
        function = decorate(function)
    return function


@data.command("recipe")
@click.argument("scene")
@click.argument("labels")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Recipe (YAML)."
)
@click.option("--aoi", help="Vector file: what was labelled; outside nothing is known.")
@click.option("--attribute", metavar="NAME", help="Attribute of the polygons with the class.")
@click.option(
    "--classes", metavar="A,B,...", help="Of its values (or the mask's), those that count."
)
@click.option("--gsd", type=float, metavar="M", help="Metres per pixel to train at.")
@click.option("--name", help="Of the model.")
@click.option("--steps", type=int, help="Of the training.")
@overwrite
def data_recipe(
    scene: str, labels: str, output: Path, classes: str | None, overwrite: bool, **options: Any
) -> None:
    """Write a recipe for SCENE (or 'tiles/*.tif') and LABELS (polygons, or masks)."""
    from geoseg.train.recipe import recipe, write_recipe

    wanted = [name.strip() for name in classes.split(",")] if classes else None
    made = recipe(scene, labels, classes=wanted, **given(options))
    click.echo(write_recipe(made, output, overwrite=overwrite))


@data.command("check")
@recipe_options
@as_json
def data_check(recipe: Path, root: Path | None, as_json: bool) -> None:
    """Find bad labels: misplaced, invalid, empty, of no class. Exit code 1 if there are errors."""
    from geoseg.data.check import examine
    from geoseg.train.config import TrainConfig

    config, folder = TrainConfig.load(recipe, root)
    findings = examine(config.data, folder, seed=config.schedule.seed)
    for finding in findings:
        emit(finding.as_dict()) if as_json else click.echo(str(finding))
    errors = sum(finding.severity == "error" for finding in findings)
    if not as_json:
        click.echo(
            f"{errors} errors, {len(findings) - errors} warnings" if findings else "all well"
        )
    if errors:
        sys.exit(1)


@data.command("stats")
@recipe_options
@as_json
def data_stats(recipe: Path, root: Path | None, as_json: bool) -> None:
    """Show class balance and band statistics, and what to write into the recipe by them."""
    from geoseg.data.stats import described, measure_files, survey
    from geoseg.terminal import rows, table
    from geoseg.train.config import TrainConfig

    config, folder = TrainConfig.load(recipe, root)
    plots = survey(config.data, folder, seed=config.schedule.seed)
    found = described(config.data, plots, measure_files(config.data, plots))
    if as_json:
        emit(found)
        return
    click.echo(
        rows(
            [
                {"place": place, "part": part, **shares}
                for place, parts in found["balance"].items()
                for part, shares in parts.items()
            ]
        )
    )
    click.echo("\n" + rows([{"band": name, **v} for name, v in found["bands"].items()]))
    click.echo("\nfor the recipe\n" + table(found["suggested"], "  "))


@data.command("split")
@recipe_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="GeoPackage (.gpkg)."
)
@overwrite
def data_split(recipe: Path, root: Path | None, output: Path, overwrite: bool) -> None:
    """Write which blocks train, validate and test: to look at, or to edit (data.split.file)."""
    from geoseg.data.split import write_split
    from geoseg.data.stats import survey
    from geoseg.sinks.atomic import check_target, replacing
    from geoseg.train.config import TrainConfig

    check_target(output, overwrite=overwrite)
    config, folder = TrainConfig.load(recipe, root)
    plots = survey(config.data, folder, seed=config.schedule.seed)
    with replacing(output, overwrite=overwrite) as temp:
        write_split(plots, temp)
    click.echo(output)


@data.command("chips")
@recipe_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the chips."
)
@click.option("--size", type=int, default=512, show_default=True, help="Pixels along a chip.")
@click.option("--format", type=click.Choice(["mask", "coco", "yolo"]), default="mask")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(["train", "validate", "test"]),
    help="Only this; may be given several times.",
)
@overwrite
@as_json
def data_chips(
    recipe: Path, root: Path | None, output: Path, as_json: bool, **options: Any
) -> None:
    """Export chips for other tools; geoseg itself trains straight from the rasters."""
    from geoseg.data.chips import export
    from geoseg.train.config import TrainConfig

    config, folder = TrainConfig.load(recipe, root)
    written = export(config.data, folder, output, seed=config.schedule.seed, **given(options))
    if as_json:
        emit({"output": output, **written})
    else:
        click.echo(f"{output}: " + ", ".join(f"{n} {part}" for part, n in written.items()))


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the data, if elsewhere.")
@click.option("--steps", type=int, help="Train for this many steps instead.")
def train(recipe: Path, output: Path | None, data: Path | None, steps: int | None) -> None:
    """Train a model by RECIPE (YAML, see configs/) and write its bundle."""
    from geoseg.train import train as run

    click.echo(run(recipe, output=output, data=data, steps=steps))


@cli.command()
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
@click.option("--recipe", type=click.Path(path_type=Path), help="A recipe that names the places.")
@click.option("--part", type=click.Choice(["test", "validate"]), help="Of the recipe's places.")
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
    callback=_values,
    help="What the attribute says for a class, if not its name or id.",
)
@click.option("--block", type=float, metavar="M", help="Edge of the blocks for the intervals.")
@click.option("--tolerance", type=float, metavar="M", help="By how much boundaries may be off.")
@click.option("--sizes", metavar="M2,M2,...", callback=_comma, help="Limits of object sizes.")
@click.option("--worst", type=int, metavar="N", help="How many places are shown.")
@click.option("--keep", is_flag=True, default=None, help="Keep the predictions in the report.")
@scene_options
@runtime_options
@click.option("--threshold", type=float, help="Decision level of a one-class model.")
@click.option("--min-area", type=float, metavar="M2", help="Drop polygons smaller than this.")
@click.option("--simplify", type=float, metavar="M", help="Tolerance of outlines, in metres.")
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
    from geoseg.evaluate.compare import brief
    from geoseg.terminal import narrate

    with narrate(as_json) as listener:
        result = run(subjects or None, model=model or None, listener=listener, **given(options))
    emit({"event": "result", **result.as_dict()}) if as_json else click.echo(brief(result.report))
    if result.output and not as_json:
        click.echo(f"wrote {result.output / 'report.html'}")


@cli.command()
@click.argument("reports", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Also write it: .md, .html or .csv"
)
@overwrite
@as_json
def compare(reports: tuple[Path, ...], output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Put several REPORTs of evaluate into one table."""
    from geoseg.evaluate.compare import compare as run
    from geoseg.evaluate.compare import text

    comparison = run(reports, output, overwrite=overwrite)
    if not as_json:
        click.echo(text(comparison))
        return
    for row in comparison.as_dicts():
        emit({"event": "row", **row})
    for warning in comparison.warnings:
        emit({"event": "warning", "topic": "compare", "message": warning})


@cli.command()
@click.argument("result", type=click.Path(path_type=Path))
@click.argument("scene")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Picture (PNG)."
)
@click.option("--width", type=int, default=1600, show_default=True, help="Pixels across.")
@click.option(
    "--bounds", metavar="W,S,E,N", callback=_bounds, help="Part of the scene, in its CRS."
)
@overwrite
def preview(result: Path, scene: str, output: Path, **options: Any) -> None:
    """Draw the polygons of RESULT over SCENE."""
    from geoseg.preview import preview as draw

    click.echo(draw(result, scene, output, **options))


@cli.group(cls=Verbs)
def model() -> None:
    """List, show, check and get models."""


@model.command("list")
@as_json
def list_(as_json: bool) -> None:
    """Models that can be named."""
    from geoseg.registry import list_models
    from geoseg.terminal import rows

    entries = [entry.as_dict() for entry in list_models()]
    if as_json:
        for entry in entries:
            emit(entry)
    else:
        click.echo(rows(entries))


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
@click.option("--name", help="Name to keep it under.")
def pull(source: str, name: str | None) -> None:
    """Get a model: folder, zip, http(s) address, or Hugging Face repository (owner/name)."""
    from geoseg.registry import pull as get

    click.echo(get(source, name=name))


@cli.command()
@as_json
def doctor(as_json: bool) -> None:
    """Versions, devices, models, and trouble with GDAL or PROJ."""
    from geoseg.doctor import examine
    from geoseg.terminal import table

    report = examine()
    emit(report.as_dict()) if as_json else click.echo(table(report.as_dict()))
    if report.trouble:
        sys.exit(1)


def main() -> None:
    """Entry point: SIGTERM ends a run as Ctrl-C does, with nothing half-written."""

    def interrupt(signum: int, frame: object) -> NoReturn:
        # An impatient second one must not break off the clean-up, which waits for the threads.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for name in ("stdout", "stderr"):  # closed by the caller: what is said goes nowhere
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  to the end
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell starts jobs in the background
            signal.signal(number, interrupt)
    cli(prog_name="geoseg")
