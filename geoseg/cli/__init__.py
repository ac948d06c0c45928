"""The command line: each verb is one library function; imports happen inside the commands."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from geoseg import __version__
from geoseg.cli.base import (
    CONTEXT,
    Verbs,
    as_json,
    bounds,
    classes,
    emit,
    given,
    joining_options,
    numbers,
    outline_options,
    overwrite,
    polygon_file,
    polygon_options,
    raster_grid,
    runtime_options,
    scene_options,
)
from geoseg.cli.batch import batch
from geoseg.cli.data import data
from geoseg.cli.learn import compare, evaluate, train
from geoseg.cli.model import model

LONG = ("predict", "vectorize", "train", "evaluate", "batch")  # verbs that tell that they live
PATIENCE = 30  # seconds to clean up, for a run that nobody waits for any more


@click.group(cls=Verbs, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="geoseg")
@click.pass_obj
def cli(take_over: Callable[[], None] | None) -> None:
    """Georeferenced polygons out of imagery of any size, by deep learning.

    \b
    geoseg predict scene.tif -o buildings.gpkg
    """
    if take_over is not None:
        take_over()


@cli.command()
@click.argument("scene")
@polygon_file(required=False)
@scene_options
@joining_options
@runtime_options
@polygon_options
@click.option("--mask", type=click.Path(path_type=Path), help="Also the class mask, as a COG.")
@click.option(
    "--probabilities",
    type=click.Path(path_type=Path),
    help="Also the probability of each class, as a COG.",
)
@raster_grid
@click.option(
    "--resume",
    is_flag=True,
    help="Keep what the model says beside the output until all is done; the same command then goes "
    "on where a run was killed.",
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
@click.argument("mask")
@polygon_file(required=True)
@click.option("--band", type=int, metavar="N", help="Band that holds the classes, from 1.")
@click.option("--nodata", type=float, help="Value that means no data.")
@click.option(
    "--classes", metavar="N=NAME,...", callback=classes, help="Names of classes: 1=building,2=road"
)
@click.option(
    "--background",
    metavar="none|N,N,...",
    callback=numbers,
    help="Numbers that have no polygons (0).",
)
@click.option(
    "--confidence",
    type=click.Path(path_type=Path),
    help="Raster of probabilities on the same pixels, for the columns of confidence.",
)
@click.option(
    "--connectivity",
    type=click.Choice(["4", "8"]),
    help="8: pixels of a class that meet at a point are one polygon, too.",
)
@click.option("--gsd", type=float, metavar="M", help="Metres per pixel, where there is no CRS.")
@click.option("--threshold", type=float, help="Decision level of the only class, for contours.")
@outline_options
@overwrite
@as_json
def vectorize(mask: str, output: Path, as_json: bool, **options: Any) -> None:
    """Write the polygons of MASK, a raster of class numbers from any tool."""
    from geoseg.terminal import narrate, summary_of_vectors
    from geoseg.vectorize_raster import vectorize_raster as run

    if options["connectivity"]:
        options["connectivity"] = int(options["connectivity"])
    with narrate(as_json) as listener:
        result = run(mask, output, listener=listener, **given(options))
    if not as_json:
        click.echo(summary_of_vectors(result))


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


for verb in (batch, data, train, evaluate, compare):
    cli.add_command(verb)


@cli.command()
@click.argument("result", type=click.Path(path_type=Path))
@click.argument("scene")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Picture (PNG)."
)
@click.option("--width", type=int, default=1600, show_default=True, help="Pixels across.")
@click.option("--bounds", metavar="W,S,E,N", callback=bounds, help="Part of the scene, in its CRS.")
@overwrite
def preview(result: Path, scene: str, output: Path, **options: Any) -> None:
    """Draw the polygons of RESULT over SCENE."""
    from geoseg.preview import preview as draw

    click.echo(draw(result, scene, output, **options))


cli.add_command(model)


@cli.command()
@as_json
def doctor(as_json: bool) -> None:
    """Versions, devices, models, and trouble with GDAL or PROJ."""
    from geoseg.doctor import examine
    from geoseg.terminal import table

    report = examine()
    record = report.as_dict()
    if as_json:
        emit(record)
    else:
        light = "light: no training, and models with model.onnx only"
        click.echo(table({**record, "engine": light} if report.engine == "light" else record))
    if report.trouble:
        sys.exit(1)


def main() -> None:
    """Entry point: SIGTERM ends a run as Ctrl-C does, with nothing half-written."""
    for name in ("stdout", "stderr"):  # closed by the caller: what is said goes nowhere
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  to the end
    cli(prog_name="geoseg", obj=_take_over)


def _take_over() -> None:
    """Signals, stdout and stdin of the process; called where an interrupt ends in a sentence."""

    def interrupt(signum: int, frame: object) -> NoReturn:
        # An impatient second one must not break off the clean-up, which waits for the threads.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell starts jobs in the background
            signal.signal(number, interrupt)
    if "--json" in sys.argv:
        from geoseg.terminal import claim_stdout, keep_alive

        claim_stdout()
        if click.get_current_context().invoked_subcommand in LONG and "status" not in sys.argv:
            keep_alive()
    # Without stdin descriptor 0 is free, and soon some file's.
    if os.environ.get("GEOSEG_WATCH_STDIN") and sys.stdin is not None:
        threading.Thread(target=_watch_stdin, daemon=True).start()


def _watch_stdin() -> None:
    """End as by SIGTERM when stdin ends: the program that started this one is gone."""
    while os.read(0, 4096):
        pass
    impatience = threading.Timer(PATIENCE, os._exit, args=(130,))
    impatience.daemon = True
    impatience.start()
    if os.name == "nt":  # os.kill would end the process at once there
        _thread.interrupt_main(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)
