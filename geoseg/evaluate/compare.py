"""Several reports in one table; of the same ground, also their differences, paired."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.errors import DataError, UsageError
from geoseg.evaluate.records import ranking_of, tally_of
from geoseg.evaluate.tables import ALL, write
from geoseg.evaluate.tally import differences

REPORT = "report.json"
_NOTHING: dict[str, float | None] = {"value": None, "low": None, "high": None}
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
            measures={m: report["measures"].get(m, _NOTHING) for m in ALL},
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
        write(Path(output), comparison, overwrite)
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
    records = [[side[key] for key in keys] for side in (ours, theirs)]
    found = differences(
        [tally_of(r) for r in records],
        np.array([key[0] for key in keys]),
        1 if base["classes"][0]["id"] == 0 else 0,
        [report["measures"], base["measures"]],
        rankings=[ranking_of(r) for r in records],
    )
    return {name: found[name] for name in ALL if name in found}
