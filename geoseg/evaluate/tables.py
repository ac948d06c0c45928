"""Reports as tables: for a terminal, in Markdown, HTML and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import UsageError
from geoseg.sinks.atomic import replacing

if TYPE_CHECKING:
    from geoseg.evaluate.compare import Comparison

MEASURES = {
    "iou": "IoU",
    "f1": "F1",
    "boundary_f1": "Boundary F1",
    "object_f1": "Object F1",
    "ece": "ECE",
}
OBJECTS = {  # a table of their own; AP where objects have scores
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ar": "AR",
    "box_ap": "Box AP",
    "object_f1": "Object F1",
    "object_iou": "Object IoU",
    "count_error": "Count error",
    "split_rate": "Split",
    "merge_rate": "Merged",
}
ALL = tuple(dict.fromkeys((*MEASURES, *OBJECTS)))
_NO_DIFFERENCE: Mapping[str, Any] = {"value": None, "low": None, "high": None}
_LOWER_IS_BETTER = {"ece", "split_rate", "merge_rate"}

Record = Mapping[str, Any]
Table = list[list[str]]  # the first line is the header
Marks = tuple[str, str]  # before and after the best of a column


def tables(comparison: Comparison, marks: Marks = ("", "")) -> list[Table]:
    """One of pixels, with the IoU of each scene, and one of objects; with paired differences."""
    rows = comparison.rows
    columns = [
        (title, _marked(comparison, name, [r.measures[name] for r in rows], marks))
        for name, title in MEASURES.items()
    ]
    columns += [
        (f"IoU {scene}", _marked(comparison, "iou", [r.scenes[scene] for r in rows], marks))
        for scene in comparison.scenes
    ]
    there = [n for n in OBJECTS if any(r.measures[n]["value"] is not None for r in rows)]
    objects = [
        (OBJECTS[name], _marked(comparison, name, [r.measures[name] for r in rows], marks))
        for name in there
    ]
    of_objects = "ap" if "ap" in there else "object_f1"
    found = [_table(comparison, "report", columns, "iou")]
    return [*found, _table(comparison, "objects", objects, of_objects)] if objects else found


def _table(
    comparison: Comparison, title: str, columns: Sequence[tuple[str, list[str]]], pair: str
) -> Table:
    """With the difference of one measure to the first report as the last column."""
    rows = comparison.rows
    paired = [(r.differences or {}).get(pair) for r in rows]
    if any(paired):
        name = (MEASURES | OBJECTS)[pair]
        columns = [*columns, (f"difference of {name}", [_signed(d) if d else "–" for d in paired])]
    lines = [[row.name, *(texts[i] for _, texts in columns)] for i, row in enumerate(rows)]
    return [[title, *(name for name, _ in columns)], *lines]


def _marked(
    comparison: Comparison, name: str, estimates: Sequence[Record], marks: Marks
) -> list[str]:
    """The texts of a column; of several, the best stands between the two marks."""
    known: list[float] = [e["value"] for e in estimates if e["value"] is not None]
    best = None
    if known and name not in comparison.unlike and len(estimates) > 1:
        if name == "count_error":
            best = min(known, key=abs)
        else:
            best = min(known) if name in _LOWER_IS_BETTER else max(known)
    texts = [_text(e, name) for e in estimates]
    return [
        f"{marks[0]}{t}{marks[1]}" if best is not None and e["value"] == best else t
        for e, t in zip(estimates, texts, strict=True)
    ]


def _text(estimate: Record, name: str = "") -> str:
    if estimate["value"] is None:
        return "–"
    if name == "count_error":
        return _signed(estimate)
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}–{estimate['high']:.3f})"


def _signed(estimate: Record) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:+.3f}"
    return f"{estimate['value']:+.3f} ({estimate['low']:+.3f} to {estimate['high']:+.3f})"


# --- for a terminal -------------------------------------------------------------------------


def text(comparison: Comparison) -> str:
    """The tables, that of objects on its side, the best of each measure with a star; warnings."""
    found = tables(comparison, ("", " *"))
    shown = [found[0], *map(_turned, found[1:])]
    return "\n".join(
        ["\n\n".join(map(_aligned, shown)), *(f"warning: {w}" for w in comparison.warnings)]
    )


def brief(report: Record) -> str:
    """The main figures of one report; of a model of objects these come first."""
    scenes = [(s["name"], s["measures"]) for s in report["scenes"]]
    rows = [*scenes, ("all", report["measures"])] if len(scenes) > 1 else scenes
    lines = [[name, *(_text(values[m]) for m in MEASURES)] for name, values in rows]
    shown = [[["", *MEASURES.values()], *lines], _turned(objects_of(report))]
    if report["detection"] is not None:
        shown.reverse()
    found = "\n\n".join(_aligned(table) for table in shown if len(table) > 1)
    return "\n".join([found, *(f"note: {note}" for note in report["notes"])])


def objects_of(report: Record) -> Table:
    """The measures of objects: of all, then with another merge and the gain over it (if that was
    asked for), then of each scene, without intervals."""
    names = [n for n in OBJECTS if report["measures"][n]["value"] is not None]
    table = [["objects", *(OBJECTS[n] for n in names)]]
    against, scenes = report["against"], report["scenes"]
    own = "merged" if against else "all" if len(scenes) > 1 else scenes[0]["name"]
    table.append([own, *(_text(report["measures"][n], n) for n in names)])
    if against:
        found, gain = against["measures"], against["differences"]
        table.append([f"plain {against['merge'].upper()}", *(_text(found[n], n) for n in names)])
        table.append(["difference", *(_signed(gain[n]) if n in gain else "–" for n in names)])
    if len(scenes) > 1:
        for scene in scenes:
            plain = [{**scene["measures"][n], "low": None} for n in names]
            table.append([scene["name"], *map(_text, plain, names)])
    return table


def _turned(table: Table) -> Table:
    return [list(column) for column in zip(*table, strict=True)]


def _aligned(table: Table) -> str:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )


# --- files ----------------------------------------------------------------------------------


def markdown(comparison: Comparison) -> str:
    """The tables in Markdown, the best of each column in bold."""
    parts = ["\n".join(_markdown(table)) for table in tables(comparison, ("**", "**"))]
    parts += ["\n".join(f"Warning: {w}." for w in comparison.warnings)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _markdown(table: Table) -> list[str]:
    header, *rows = table
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines]


def comma_separated(comparison: Comparison) -> str:
    """One line per report; value, low and high in columns of their own.

    At the end the differences to the first report, of all measures, where there are any.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    paired = [m for m in ALL if any(m in (r.differences or {}) for r in comparison.rows)]
    columns = [*ALL, *(f"iou {s}" for s in comparison.scenes)]
    columns += [f"difference of {m}" for m in paired]
    parts = ("value", "low", "high")
    writer.writerow(
        ["report", *(f"{c} {p}".removesuffix(" value") for c in columns for p in parts)]
    )
    for row in comparison.rows:
        estimates = [row.measures[m] for m in ALL] + [row.scenes[s] for s in comparison.scenes]
        estimates += [(row.differences or {}).get(m, _NO_DIFFERENCE) for m in paired]
        writer.writerow([row.name, *(e[p] for e in estimates for p in parts)])
    return buffer.getvalue()


def _html(comparison: Comparison) -> str:
    from geoseg.evaluate.page import template

    return template("compare.html.j2").render(
        tables=tables(comparison, ("*", "")),
        warnings=comparison.warnings,
        paired=any(row.differences for row in comparison.rows),
    )


_FORMATS = {".md": markdown, ".html": _html, ".csv": comma_separated}


def write(output: Path, comparison: Comparison, overwrite: bool) -> None:
    """Write the tables in the format that the suffix names."""
    form = _FORMATS.get(output.suffix.lower())
    if form is None:
        raise UsageError(f"{output}: tables end in {', '.join(_FORMATS)}")
    with replacing(output, overwrite=overwrite) as temp:
        temp.write_text(form(comparison), encoding="utf-8")
