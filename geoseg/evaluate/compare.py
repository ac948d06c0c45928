"""Several reports in one table; of the same ground, also their differences, paired."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.errors import DataError, UsageError
from geoseg.evaluate.summary import plain, tally_of
from geoseg.evaluate.tally import bootstrap, interval
from geoseg.sinks.atomic import replacing

REPORT = "report.json"
MEASURES = {
    "iou": "IoU",
    "f1": "F1",
    "boundary_f1": "Boundary F1",
    "object_f1": "Object F1",
    "ece": "ECE",
}
_LOWER_IS_BETTER = {"ece"}
_KEY = ("scene", "file", "row", "col")

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One report: its measures and the IoU of each scene, all as {value, low, high}.

    differences: measure -> {value, low, high} of this report less the first, on the same blocks.
    """

    name: str
    path: str
    measures: dict[str, Record]
    scenes: dict[str, Record]
    differences: dict[str, Record] | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """rows: as given. scenes: those that all reports share, if there are several.

    warnings: why rows may not compare. unlike: measures that were not made alike.
    """

    rows: tuple[Row, ...]
    scenes: tuple[str, ...]
    warnings: tuple[str, ...]
    unlike: tuple[str, ...] = ()

    def as_dicts(self) -> list[dict[str, Any]]:
        """One plain record per row, for JSON."""
        return [asdict(row) for row in self.rows]

    @property
    def header(self) -> list[str]:
        return ["report", *MEASURES.values(), *(f"IoU {s}" for s in self.scenes), *self._paired]

    @property
    def _paired(self) -> list[str]:
        return ["difference of IoU"] if any(r.differences for r in self.rows) else []

    def cells(self, row: Row, *, bold: tuple[str, str] = ("", "")) -> list[str]:
        """The texts of a row; the best of a column stands between the two marks of `bold`."""
        columns = [(row.measures[name], self._best(name)) for name in MEASURES]
        columns += [(row.scenes[name], self._best_in(name)) for name in self.scenes]
        texts = []
        for estimate, best in columns:
            text = _text(estimate)
            is_best = best is not None and estimate["value"] == best and len(self.rows) > 1
            texts.append(f"{bold[0]}{text}{bold[1]}" if is_best else text)
        if self._paired:
            texts.append(_signed(row.differences["iou"]) if row.differences else "–")
        return [row.name, *texts]

    def _best(self, name: str) -> float | None:
        if name in self.unlike:
            return None
        values = [r.measures[name]["value"] for r in self.rows]
        known = [v for v in values if v is not None]
        pick = min if name in _LOWER_IS_BETTER else max
        return pick(known) if known else None

    def _best_in(self, scene: str) -> float | None:
        known = [v for r in self.rows if (v := r.scenes[scene]["value"]) is not None]
        return max(known) if known else None


def compare(
    reports: Sequence[str | Path], output: str | Path | None = None, *, overwrite: bool = False
) -> Comparison:
    """Put reports (folders of `geoseg evaluate`, or their report.json) into one table.

    output: also write it, as .md, .html or .csv. Where reports share their blocks of ground and
    truth, the difference to the first one is resampled block by block: what both find hard
    cancels out, so it says more than whether their intervals overlap.
    """
    if not reports:
        raise UsageError("which reports are compared? Name at least one")
    loaded = [(Path(p), _load(Path(p))) for p in reports]
    base = loaded[0][1]
    sets = [[s["name"] for s in report["scenes"]] for _, report in loaded]
    shared = tuple(name for name in sets[0] if all(name in other for other in sets))
    if all(len(names) == 1 for names in sets):
        shared = ()  # it would be the overall figure again
    names = _names([(path, report) for path, report in loaded])
    rows = tuple(
        Row(
            name=name,
            path=str(path),
            measures={m: report["measures"][m] for m in MEASURES},
            scenes={s["name"]: s["measures"]["iou"] for s in report["scenes"]},
            differences=_difference(report, base) if report is not base else None,
        )
        for name, (path, report) in zip(names, loaded, strict=True)
    )
    warnings = [
        w for name, (_, r) in zip(names, loaded, strict=True) for w in _unlike(r, base, name)
    ]
    tolerances = {round(report["options"]["tolerance_m"], 3) for _, report in loaded}
    unlike = ("boundary_f1",) if len(tolerances) > 1 else ()
    comparison = Comparison(rows, shared, tuple(warnings), unlike)
    if output is not None:
        _write(Path(output), comparison, overwrite)
    return comparison


def _load(path: Path) -> dict[str, Any]:
    file = path / REPORT if path.is_dir() else path.with_suffix(".json")  # also for report.html
    if not file.is_file():
        raise DataError(f"{path}: no report lies there: name a folder of `geoseg evaluate`")
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as e:
        raise DataError(f"{file}: cannot be read as a report ({e})") from e
    if not isinstance(report, dict) or report.get("report") != 1:
        raise DataError(f"{file}: is no report of `geoseg evaluate`, or one of another version")
    return report


def _names(loaded: Sequence[tuple[Path, Record]]) -> list[str]:
    """The names in the reports, with the folder where two are equal."""
    names = [str(report["name"]) for _, report in loaded]
    folders = [(p if p.is_dir() else p.parent).resolve().name for p, _ in loaded]
    return [
        name if names.count(name) == 1 else f"{name} ({folder})"
        for name, folder in zip(names, folders, strict=True)
    ]


def _scenes_of(report: Record) -> Any:
    return sorted(s["name"] for s in report["scenes"])


def _truth_of(report: Record) -> Any:
    return sorted(t["sha256"] for t in report["truth"])


def _classes_of(report: Record) -> Any:
    return [c["name"].lower() for c in report["classes"]]


def _unlike(report: Record, base: Record, name: str) -> list[str]:
    """Sentences on what is not the same as in the first report."""
    checks = {
        "other scenes": _scenes_of,
        "another truth": _truth_of,
        "other classes": _classes_of,
    }
    found = [
        f"{name}: was held against {what} than {base['name']}"
        for what, of in checks.items()
        if of(report) != of(base)
    ]
    for key in ("block_m", "tolerance_m", "match"):
        ours, theirs = report["options"][key], base["options"][key]
        if abs(ours - theirs) > 0.01 * abs(theirs):
            found.append(f"{name}: {key} is {ours:g}, of {base['name']} {theirs:g}")
    return found


def _difference(report: Record, base: Record) -> dict[str, Record] | None:
    """Paired differences to the first report; None where blocks or truth are not the same."""
    ours, theirs = ({tuple(b[k] for k in _KEY): b for b in r["blocks"]} for r in (report, base))
    alike = report["options"]["block_m"] == base["options"]["block_m"] and all(
        of(report) == of(base) for of in (_truth_of, _classes_of)
    )
    if set(ours) != set(theirs) or not alike or len(ours) < 2:
        return None
    keys = sorted(ours)
    tallies = [tally_of([side[key] for key in keys]) for side in (ours, theirs)]
    first = 1 if base["classes"][0]["id"] == 0 else 0
    drawn = bootstrap(tallies, np.array([key[0] for key in keys]), first)
    result: dict[str, Record] = {}
    for name in MEASURES:
        values = (report["measures"][name]["value"], base["measures"][name]["value"])
        if None not in values:
            spread = interval(drawn[0][name] - drawn[1][name])
            low, high = (plain(v) for v in spread) if spread else (None, None)
            result[name] = {"value": plain(values[0] - values[1]), "low": low, "high": high}
    return result


# --- how it looks ---------------------------------------------------------------------------


def _text(estimate: Record) -> str:
    if estimate["value"] is None:
        return "–"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}–{estimate['high']:.3f})"


def _signed(estimate: Record) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:+.3f}"
    return f"{estimate['value']:+.3f} ({estimate['low']:+.3f} to {estimate['high']:+.3f})"


def text(comparison: Comparison) -> str:
    """The table for a terminal, the best of each column with a star; warnings below."""
    table = [comparison.header, *(comparison.cells(r, bold=("", " *")) for r in comparison.rows)]
    return "\n".join([_aligned(table), *(f"warning: {w}" for w in comparison.warnings)])


def brief(report: Record) -> str:
    """The main figures of one report, for a terminal."""
    scenes = report["scenes"]
    lines = [["", *MEASURES.values()]]
    lines += [[s["name"], *(_text(s["measures"][m]) for m in MEASURES)] for s in scenes]
    if len(scenes) > 1:
        lines.append(["all", *(_text(report["measures"][m]) for m in MEASURES)])
    return "\n".join([_aligned(lines), *(f"note: {note}" for note in report["notes"])])


def _aligned(table: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )


def markdown(comparison: Comparison) -> str:
    """The table in Markdown, the best of each column in bold."""
    table = [comparison.cells(r, bold=("**", "**")) for r in comparison.rows]
    lines = [comparison.header, ["---", *["---:"] * (len(comparison.header) - 1)], *table]
    rows = ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines]
    notes = [f"Warning: {w}." for w in comparison.warnings]
    return "\n".join([*rows, *(["", *notes] if notes else [])]) + "\n"


def comma_separated(comparison: Comparison) -> str:
    """One line per report; value, low and high in columns of their own."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [*MEASURES, *(f"iou {s}" for s in comparison.scenes)]
    parts = ("value", "low", "high")
    writer.writerow(
        ["report", *(f"{c} {p}".removesuffix(" value") for c in columns for p in parts)]
    )
    for row in comparison.rows:
        estimates = [row.measures[m] for m in MEASURES] + [row.scenes[s] for s in comparison.scenes]
        writer.writerow([row.name, *(e[p] for e in estimates for p in parts)])
    return buffer.getvalue()


def _html(comparison: Comparison) -> str:
    from geoseg.evaluate.page import template

    return template("compare.html.j2").render(
        header=comparison.header,
        rows=[comparison.cells(row, bold=("*", "")) for row in comparison.rows],
        warnings=comparison.warnings,
        paired=any(row.differences for row in comparison.rows),
    )


_FORMATS = {".md": markdown, ".html": _html, ".csv": comma_separated}


def _write(output: Path, comparison: Comparison, overwrite: bool) -> None:
    form = _FORMATS.get(output.suffix.lower())
    if form is None:
        raise UsageError(f"{output}: tables end in {', '.join(_FORMATS)}")
    with replacing(output, overwrite=overwrite) as temp:
        temp.write_text(form(comparison), encoding="utf-8")
