"""What the verbs share: how errors are told, and options that mean the same everywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from geoseg.errors import GeosegError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")


def polygon_file(*, required: bool) -> Callable[..., Any]:
    """Where polygons go; the same in predict and vectorize."""
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        required=required,
        help="Polygons: .gpkg .parquet .fgb .geojson .geojsonl .shp",
    )


class Verbs(click.Group):
    """Lists the verbs in the order of a day's work, and turns errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GeosegError as e:
            _fail(type(e).__name__, str(e), e.exit_code)
        except BrokenPipeError:  # nobody reads on, as with head: click ends quietly
            raise
        except OSError as e:  # a disk that is full or gone, below what a sink could tell
            _fail("OSError", f"{e.filename or 'a file'}: {e.strerror or e}", 1)
        except (KeyboardInterrupt, click.Abort):
            _fail("Interrupted", "interrupted; no output was left half-written", 130)


def _fail(kind: str, message: str, exit_code: int) -> NoReturn:
    told = False
    if "--json" in sys.argv:
        with suppress(OSError):  # what failed may be stdout itself
            emit({"event": "error", "kind": kind, "message": message, "exit_code": exit_code})
            told = True
    if not told:
        click.echo(f"geoseg: {message}", err=True)
    sys.exit(exit_code)


def emit(record: Any) -> None:
    """One JSON line on stdout, at once."""
    from geoseg.terminal import print_json

    print_json(record)


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
                "--bounds",
                metavar="W,S,E,N",
                callback=bounds,
                help="Only what lies inside of these, in the scene's CRS.",
            ),
            click.option(
                "--bands",
                metavar="B,B,...",
                callback=comma,
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


def joining_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say how tiles become one; the same in predict and batch."""
    for option in reversed(
        [
            click.option(
                "--stitch",
                type=click.Choice(["blend", "crop"]),
                help="How overlapping tiles are joined.",
            ),
            click.option(
                "--merge",
                type=click.Choice(["objects", "nms"]),
                help="How objects that several tiles see become one.",
            ),
        ]
    ):
        function = option(function)
    return function


raster_grid = click.option(
    "--raster-grid",
    type=click.Choice(["model", "scene"]),
    help="Pixels of those rasters: at the model's GSD, or the scene's own.",
)


def runtime_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say how the model runs."""
    for option in reversed(
        [
            click.option("--device", default=None, metavar="auto|cpu|cuda|mps|..."),
            click.option(
                "--precision",
                default=None,
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            ),
            click.option("--runtime", default=None, metavar="auto|torch|onnx|openvino"),
            click.option("--batch", type=int, metavar="N", help="Tiles that go through at once."),
            click.option("--threads", type=int, metavar="N", help="CPU threads of the model."),
            click.option(
                "--tta",
                metavar="A,A,...",
                callback=comma,
                help="Test-time augmentation: hflip, vflip, rot90, scale:0.75 ...",
            ),
        ]
    ):
        function = option(function)
    return function


def comma(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
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


def _cut(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    pairs = [text.rpartition("=") for text in value.split(",")]
    try:
        if len(pairs) == 1 and not pairs[0][1]:
            return float(value)
        if not all(name.strip() for name, _, _ in pairs):
            raise ValueError
        return {name.strip(): float(metres) for name, _, metres in pairs}
    except ValueError:
        raise click.BadParameter("metres, or CLASS=METRES with a comma between") from None


def bounds(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    try:
        west, south, east, north = (float(v) for v in value.split(","))
    except ValueError:
        raise click.BadParameter("four numbers W,S,E,N") from None
    return west, south, east, north


def values(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> dict[str, list[str]] | None:
    pairs = [text.partition("=") for text in value]
    if not all(name and equals and said for name, equals, said in pairs):
        raise click.BadParameter("a class, '=', and what the attribute says for it")
    return {name.strip(): said.split(",") for name, _, said in pairs} or None


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Only what the user said; the defaults live in PredictOptions."""
    return {k: v for k, v in options.items() if v is not None and v != ()}


def polygon_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which polygons come out of a prediction."""
    for option in reversed(
        [
            click.option(
                "--threshold", type=float, help="Decision level, or least score of an object."
            ),
            click.option(
                "--cut",
                metavar="M|CLASS=M,...",
                callback=_cut,
                help="Cut objects apart where they are narrower than M metres, and wider on both "
                "sides (houses: 5).",
            ),
            click.option(
                "--boundary",
                metavar="CLASS",
                help="Class that is the line between objects: cuts them apart, and goes to them.",
            ),
        ]
    ):
        function = option(function)
    return outline_options(function)


def outline_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of polygons, wherever they come from; the same in predict and vectorize."""
    for option in reversed(
        [
            click.option(
                "--sieve",
                type=float,
                metavar="M2",
                help="Regions smaller than this take the class around them.",
            ),
            click.option(
                "--fill-holes", type=float, metavar="M2", help="Fill holes smaller than this."
            ),
            click.option(
                "--min-area", type=float, metavar="M2", help="Drop polygons smaller than this."
            ),
            click.option(
                "--outline",
                type=click.Choice(["pixel", "contour"]),
                help="Along pixels, or smooth: where the probability passes the decision level.",
            ),
            click.option(
                "--regularize",
                metavar="M|CLASS=M,...",
                callback=_cut,
                help="Straight outlines with right angles, moved by up to M metres (houses: 1).",
            ),
            click.option(
                "--simplify", type=float, metavar="M", help="Tolerance of outlines, in metres."
            ),
            click.option(
                "--smooth",
                type=float,
                metavar="M",
                help="Round off corners, by up to M metres (two pixels or so).",
            ),
            click.option(
                "--min-width", type=float, metavar="M", help="Drop polygons narrower than this."
            ),
            click.option(
                "--dissolve",
                is_flag=True,
                default=None,
                help="One feature per class, in memory until the end.",
            ),
            click.option(
                "--attributes",
                is_flag=True,
                default=None,
                help="More columns: compactness, orientation, length, width, vertices ...",
            ),
            click.option("--crs", help="CRS of the polygons, instead of the raster's."),
        ]
    ):
        function = option(function)
    return function


def classes(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    pairs = [text.partition("=") for text in value.split(",")]
    try:
        if not all(name.strip() for _, _, name in pairs):
            raise ValueError
        return {int(number): name.strip() for number, _, name in pairs}
    except ValueError:
        raise click.BadParameter("NUMBER=NAME with a comma between: 1=building,2=road") from None


def numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    try:
        return [] if value == "none" else [int(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter("none, or whole numbers with a comma between") from None
