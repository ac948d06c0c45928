"""geoseg data: labelled data, before training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from geoseg.cli.base import Verbs, as_json, emit, given, overwrite


@click.group(cls=Verbs)
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


def geopackage(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    if value.suffix.lower() != ".gpkg":
        raise click.BadParameter(f"{value}: is written as a GeoPackage: name it .gpkg")
    return value


gpkg_output = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    callback=geopackage,
    help="GeoPackage (.gpkg).",
)


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
@click.option("--name", help="Name of the model; else that of the recipe.")
@click.option("--steps", type=int, help="Steps to train for.")
@click.option("--objects", is_flag=True, default=None, help="Tell objects apart (Mask R-CNN).")
@click.option("--start", metavar="MODEL", help="Go on from this model: name, folder or zip.")
@overwrite
@as_json
def data_recipe(
    scene: str,
    labels: str,
    output: Path,
    classes: str | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write a recipe for SCENE (or 'tiles/*.tif') and LABELS (polygons, or masks)."""
    from geoseg.train.recipe import model_name, recipe, write_recipe

    wanted = [name.strip() for name in classes.split(",")] if classes else None
    options["name"] = options["name"] or model_name(output.stem)
    made = recipe(scene, labels, classes=wanted, **given(options))
    written = write_recipe(made, output, overwrite=overwrite)
    emit({"event": "result", "output": str(written)}) if as_json else click.echo(written)


@data.command("import")
@click.argument("annotations", type=click.Path(path_type=Path))
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of the pictures; that of ANNOTATIONS if not given.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write."
)
@click.option("--gsd", type=float, metavar="M", help="Metres per pixel to train at.")
@click.option("--name", help="Name of the model; else that of the folder.")
@click.option("--steps", type=int, help="Steps to train for.")
@overwrite
def data_import(annotations: Path, images: Path | None, output: Path, **options: Any) -> None:
    """Turn COCO ANNOTATIONS (JSON) and their pictures into a recipe that finds such objects."""
    from geoseg.train.coco import import_coco

    folder = images or annotations.parent
    path, coco = import_coco(annotations, folder, output, **given(options))
    objects = sum(len(p.objects) for p in coco.pictures)
    click.echo(f"{path}: {objects} objects in {len(coco.pictures)} pictures")
    if coco.left_out:
        click.echo(f"warning: {coco.left_out} annotations have no area: left out", err=True)


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
        warnings = len(findings) - errors
        counts = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
        click.echo(counts if findings else "all well")
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
@gpkg_output
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


@data.command("border")
@click.argument("labels", type=click.Path(path_type=Path))
@click.option("--width", type=float, required=True, metavar="M", help="Of the border, in metres.")
@gpkg_output
@click.option("--attribute", default="class", show_default=True, help="Holds the class.")
@click.option("--name", default="object", show_default=True, help="Class, if there is none yet.")
@click.option("--border", default="boundary", show_default=True, help="Class of the border.")
@overwrite
def data_border(labels: Path, width: float, output: Path, overwrite: bool, **names: str) -> None:
    """Turn the outlines of LABELS into a class of their own, which parts objects that touch."""
    from geoseg.data.borders import bordered
    from geoseg.data.labels import read_raw
    from geoseg.sinks.atomic import check_target, replacing

    check_target(output, overwrite=overwrite)
    frame = bordered(read_raw(labels), width, **names)
    with replacing(output, overwrite=overwrite) as temp:
        frame.to_file(temp, driver="GPKG")
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
    from geoseg.data.sheets import block_pixels
    from geoseg.train.config import TrainConfig

    config, folder = TrainConfig.load(recipe, root)
    if (block := block_pixels(config.data)) < options["size"]:
        click.echo(
            f"warning: chips are of {block} pixels: no larger than a block of the split "
            f"({config.data.split.block:g} m)",
            err=True,
        )
    written = export(config.data, folder, output, seed=config.schedule.seed, **given(options))
    if as_json:
        emit({"output": output, **written})
    else:
        click.echo(f"{output}: " + ", ".join(f"{n} {part}" for part, n in written.items()))


@data.command("style")
@click.argument("scene", type=click.Path(path_type=Path))
@click.option(
    "--like",
    "styles",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Raster with the look that is wanted; may be given several times.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Raster (GeoTIFF)."
)
@click.option("--gsd", type=float, required=True, metavar="M", help="Metres per pixel: a recipe's.")
@click.option(
    "--features",
    default="vgg19",
    show_default=True,
    help="vgg19 (downloads), a file with its weights, or efficientnet-lite0 (weaker).",
)
@overwrite
def data_style(
    scene: Path, styles: tuple[Path, ...], output: Path, features: str, **options: Any
) -> None:
    """Repaint SCENE in the look of others, for `variants` of a place (neural style transfer)."""
    from tqdm import tqdm

    from geoseg.train.style import Stylizer, stylize_raster

    with tqdm(unit="tile", delay=1) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        stylizer = Stylizer(features=features)
        stylize_raster(scene, styles, output, stylizer=stylizer, progress=progress, **options)
    click.echo(output)
