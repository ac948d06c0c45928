"""The report as one HTML file that needs nothing else: no scripts, no addresses to fetch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import MissingDependencyError
from geoseg.evaluate import charts
from geoseg.evaluate.count import Counted
from geoseg.evaluate.pictures import (
    Picture,
    Site,
    View,
    chosen,
    overview,
    overview_step,
    shade,
)
from geoseg.evaluate.predictions import Prediction
from geoseg.evaluate.sketch import ALARM, HIT, MISS
from geoseg.evaluate.summary import SUPPORT
from geoseg.evaluate.tables import objects_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2 import Template

TITLES = {
    "iou": "IoU",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "accuracy": "Overall accuracy",
    "boundary_f1": "Boundary F1",
    "object_f1": "Object F1",
    "object_precision": "Object precision",
    "object_recall": "Object recall",
    "area_error": "Area error",
    "ece": "ECE",
    "brier": "Brier",
    "object_iou": "Object IoU",
    "count_error": "Count error",
    "split_rate": "Split",
    "merge_rate": "Merged",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ar": "AR",
    "box_ap": "Box AP",
}
SIGNED = ("area_error", "count_error")  # shown as +3.2 %
OBJECTS = ("object_f1", "object_precision", "object_recall")
RELATIONS = ("count_error", "split_rate", "merge_rate")
PIXELS = ("iou", "f1", "precision", "recall", "boundary_f1")
MOST_SCENES = 12  # whose overviews are shown


def need_jinja() -> None:
    """Say what is missing before hours of predicting."""
    if find_spec("jinja2") is None:
        raise MissingDependencyError("jinja2", "evaluate")


def template(name: str) -> Template:
    """A template of this folder, with values escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "estimate": estimate, "percent": percent}
    return environment.get_template(name)


def number(value: float | None, digits: int = 3) -> str:
    """0.512, or a dash where there is nothing to measure."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """+3.2 %, with its sign."""
    return "–" if value is None else f"{value:+.1%}".replace("%", " %")


def estimate(value: Mapping[str, Any]) -> str:
    """0.512 (0.480 to 0.541)."""
    if value["value"] is None or value["low"] is None:
        return number(value["value"])
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def page(
    report: Mapping[str, Any],
    counted: Sequence[Counted],
    reopen: Callable[[Counted], Prediction],
    worst: int,
) -> str:
    """The HTML of a report; `reopen` gives the prediction of a raster again, for its pictures."""
    from markupsafe import Markup

    safe = Markup  # of charts: numbers and our own words only
    records = report["blocks"]
    found = report["detection"]
    keys: tuple[str, ...] = (*PIXELS, *OBJECTS, *RELATIONS, "area_error", "ece")
    if found:
        averages = ("ap", "ap50", "ap75", "ar", "box_ap")
        keys = (*averages, *OBJECTS, "object_iou", *RELATIONS, "iou", "area_error", "ece")
    return template("report.html.j2").render(
        r=report,
        titles=TITLES,
        one=len([c for c in report["classes"] if c["id"]]) == 1,
        first=next(i for i, c in enumerate(report["classes"]) if c["id"]),
        whisker=lambda e: safe(charts.whisker(e)),
        keys=[name for name in keys if report["measures"][name]["value"] is not None],
        signed=SIGNED,
        reliability=safe(
            charts.reliability(report["calibration"], "objects" if found else "pixels")
        ),
        thresholds=safe(charts.thresholds(report["thresholds"], report["threshold"]))
        if report["thresholds"]
        else "",
        curves=safe(_precision_recall(report)) if found and found["curves"] else "",
        object_thresholds=safe(charts.thresholds(found["thresholds"], report["threshold"]))
        if found and found["thresholds"]
        else "",
        merging=objects_of(report)[:4] if report["against"] else None,
        overviews=[(title, safe(svg), o) for title, svg, o in _overviews(counted, records)],
        places=_places(records, counted, reopen, worst),
        colors={"hit": HIT, "miss": MISS, "alarm": ALARM},
        scale=[shade(i / 10) for i in range(11)],
    )


def _precision_recall(report: Mapping[str, Any]) -> str:
    used = (report["measures"][f"object_{name}"]["value"] for name in ("recall", "precision"))
    recall, precision = used
    return charts.precision_recall(report["detection"]["curves"], (recall, precision))


def _overviews(
    counted: Sequence[Counted], records: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, Picture | None]]:
    """Of each scene the title, the picture with its blocks, and that with its objects."""
    shown: list[tuple[str, str, Picture | None]] = []
    start = 0
    for c in counted:
        own = records[start : start + len(c.blocks)]
        start += len(c.blocks)
        if len(shown) < MOST_SCENES:
            with View.open(c.case.file, c.grid, c.pixel_m, overview_step(c)) as view:
                seen = overview(c, view)
                shown.append((_title(c), charts.scene(seen, own), seen.objects))
    return shown


def _places(
    records: Sequence[dict[str, Any]],
    counted: Sequence[Counted],
    reopen: Callable[[Counted], Prediction],
    worst: int,
) -> list[dict[str, Any]]:
    """The blocks that are shown: what they are, and their pictures."""
    owners = [(c, i) for c in counted for i in range(len(c.blocks))]
    shown = []
    with ExitStack() as stack:
        sites: dict[int, Site] = {}  # each raster is opened once
        for index, kind in chosen(records, worst, SUPPORT):
            c, own = owners[index]
            if id(c) not in sites:
                sites[id(c)] = stack.enter_context(Site.open(c, reopen(c)))
            pictures = sites[id(c)].place(c.windows[own])
            shown.append({"kind": kind, "title": _title(c), "pictures": pictures, **records[index]})
    return shown


def _title(c: Counted) -> str:
    name = c.case.file.name
    return c.case.place if c.case.place == c.case.file.stem else f"{c.case.place}: {name}"
