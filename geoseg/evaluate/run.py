"""`geoseg evaluate`: run models or take finished predictions, hold them against the truth."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geoseg
from geoseg.bundle.files import installing
from geoseg.config import check
from geoseg.errors import DataError, OutputError, UsageError
from geoseg.evaluate.checks import about_truth, check_values
from geoseg.evaluate.count import Counted, count
from geoseg.evaluate.detection import against
from geoseg.evaluate.map import write_map
from geoseg.evaluate.options import EvaluateOptions
from geoseg.evaluate.page import need_jinja, page
from geoseg.evaluate.places import Case, Elsewhere, agreed, cases_of_files, cases_of_recipe
from geoseg.evaluate.records import block_records
from geoseg.evaluate.subjects import NMS, Finished, Models, Subject, scene_of
from geoseg.evaluate.summary import Record, figures, notes
from geoseg.events import Listener, ignore
from geoseg.loaded import Model
from geoseg.options import PredictOptions

CUT = 0.1  # a prediction without lower scores was cut off before it could be ranked
REPORT, PAGE, MAP, PREDICTIONS = "report.json", "report.html", "places.gpkg", "predictions"

Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Evaluation(Mapping[str, float | None]):
    """A finished evaluation: measure -> value over all scenes.

    report: what report.json says. output: its folder, if asked for.
    """

    report: Mapping[str, Any]
    output: Path | None

    def __getitem__(self, measure: str) -> float | None:
        """The overall value of a measure: iou, f1, object_f1, ece ...; None where undefined."""
        if measure not in self.report["measures"]:
            raise KeyError(f"no measure {measure!r}; there are: {', '.join(self)}")
        value: float | None = self.report["measures"][measure]["value"]
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.report["measures"])

    def __len__(self) -> int:
        return len(self.report["measures"])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: all but the blocks."""
        about = {k: v for k, v in self.report.items() if k != "blocks"}
        return {**about, "output": str(self.output) if self.output else None}


def evaluate(
    subject: Paths | None = None,
    truth: Paths | None = None,
    *,
    model: Model | None = None,
    recipe: str | Path | None = None,
    scene: Paths | None = None,
    aoi: Paths | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    listener: Listener = ignore,
    **options: Any,
) -> Evaluation:
    """Measure how good a model or a finished prediction is.

    subject: with `model` the scene(s) to predict, else the finished prediction(s): polygons (of
    `scene`), a class mask or probabilities. truth: vectors in any CRS or mask rasters of class
    ids, one for all scenes or one each. aoi: what was labelled; outside of it is not background
    but unknown. recipe: in place of all these; its places that are kept for a part.
    output: a folder for report.html, report.json and places.gpkg. `options` are the fields of
    EvaluateOptions and PredictOptions. Raises a GeosegError; then nothing was written.

    Objects count, whole, where a point inside of them lies on labelled ground.
    """
    need_jinja()
    own = {k: v for k, v in options.items() if k in EvaluateOptions.model_fields}
    wanted = check(own, EvaluateOptions, source="evaluate")
    others = PredictOptions.of({k: v for k, v in options.items() if k not in own})
    subjects, truths, aois, scenes = (_paths(p) for p in (subject, truth, aoi, scene))
    target = None if output is None else Path(output).expanduser()
    _check_target(target, overwrite)
    if recipe is None:
        subjects = subjects or _missing("a scene or prediction")
        truths = truths or _missing("the truth (--truth)")
    elif subjects or truths or aois:
        raise UsageError("the recipe says scenes and truth, so give none besides")
    what: Subject
    if model is not None:
        what = Models(model, others, listener)
    else:
        _only_for_models(others, recipe)
        if wanted.against_nms:
            raise UsageError("against_nms: which model is run twice? Name it (--model)")
        what = Finished(subjects, others)
        scenes = scenes or _scenes_of(subjects)
    if recipe is not None:
        cases = _recipe_cases(Path(recipe), what, wanted)
    else:
        cases = cases_of_files(
            subjects,
            truths,
            aois,
            what.legend,
            wanted,
            scenes=None if model is not None else scenes,
            gsd=others.gsd,
        )
    cases = [replace(case, bounds=wanted.bounds) for case in cases]
    other = what.with_nms() if wanted.against_nms and isinstance(what, Models) else None
    with _folder(target, overwrite) as (folder, work):
        remarks, counted = _count_all(what, cases, work, wanted)
        report = _report(what, counted, wanted, others, remarks)
        if other is not None:
            _, beside = _count_all(other, cases, work, wanted)
            report["against"] = {
                "merge": NMS,
                **against(counted, beside, other.legend, wanted.sizes),
            }
        if target is not None:
            _write(folder, work, report, counted, what, wanted)
    return Evaluation(report, target)


def _missing(thing: str) -> list[Path]:
    raise UsageError(f"{thing} is missing: say what is held against what")


def _paths(paths: Paths | None) -> list[Path]:
    several = [paths] if isinstance(paths, str | Path) else paths or []
    return [Path(p).expanduser() for p in several]


def _only_for_models(options: PredictOptions, recipe: object) -> None:
    """Without a model nothing is predicted, so nearly all options of a prediction say nothing."""
    if recipe is not None:
        raise UsageError("recipe: which model is evaluated? Name it (--model)")
    idle = options.model_fields_set - {"threshold", "gsd", "min_area"}
    if idle:
        raise UsageError(
            f"{', '.join(sorted(idle))}: says how a model runs; without --model, what is given "
            "is taken as a finished prediction"
        )


def _scenes_of(predictions: Sequence[Path]) -> list[Path]:
    """Those that the predictions name, if all of them do; else the predictions themselves."""
    found = [scene_of(p) or p for p in predictions]
    return found if any(a != b for a, b in zip(found, predictions, strict=True)) else []


def _recipe_cases(recipe: Path, what: Subject, wanted: EvaluateOptions) -> list[Case]:
    from geoseg.train.config import TrainConfig

    config, root = TrainConfig.load(recipe, wanted.data)
    if wanted.split is None and isinstance(what, Models):
        wanted = wanted.model_copy(update={"split": _split_of_run(what.paths)})
    what.legend = agreed(what.legend, config.data)
    return cases_of_recipe(config.data, root, wanted)


def _split_of_run(models: Sequence[Path]) -> Path | None:
    """The split beside the one model, if it lies where it was trained: RUN/bundle."""
    split = Path(models[0]).resolve().parent / "split.gpkg"
    return split if len(models) == 1 and split.is_file() else None


# --- counting -------------------------------------------------------------------------------


def _count_all(
    what: Subject, cases: Sequence[Case], work: Path, wanted: EvaluateOptions
) -> tuple[list[str], list[Counted]]:
    """Remarks, and the counts of all cases that have truth where their scene is."""
    remarks, counted = check_values(cases), []
    for case in cases:
        try:
            what.prepare(case, work)
            with what.open(case, work) as prediction:
                own = count(case, prediction, wanted)
        except Elsewhere as e:
            if len(cases) == 1:
                raise
            remarks.append(f"{e}; it was left out.")
            continue
        if own.blocks:
            counted.append(own)
        else:
            remarks.append(f"{case.file}: no pixel of it has truth; it was left out.")
    if not counted:
        raise DataError(f"nothing could be compared: {remarks[-1]}")
    return remarks, counted


def _report(
    what: Subject,
    counted: Sequence[Counted],
    wanted: EvaluateOptions,
    others: PredictOptions,
    remarks: Sequence[str],
) -> dict[str, Any]:
    """What report.json says; its keys are kept from version to version."""
    blocks = block_records(counted, what.legend.first)
    first = counted[0]
    measured = figures(counted, what.legend, wanted.sizes)
    found: Record | None = measured["detection"]
    one = what.probable and len(what.legend.classes) == 1
    return {
        "report": 1,
        "geoseg": geoseg.__version__,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "name": what.name,
        "subject": what.about,
        "truth": about_truth([c.case for c in counted]),
        "options": {
            "predict": others.model_dump(mode="json", exclude_unset=True, exclude_none=True),
            "bounds": list(wanted.bounds) if wanted.bounds else None,
            "block_m": first.block_m,
            "tolerance_m": round(wanted.tolerance_for(first.pixel_m), 4),
            "match": wanted.match,
            "sizes": list(wanted.sizes),
        },
        "pixel_m": round(first.pixel_m, 4),
        "threshold": what.threshold if found or one else None,
        **measured,
        "against": None,
        "notes": [
            *remarks,
            *_on_scores(what, others, found),
            *notes(counted, len(blocks), what.legend.first),
        ],
        "blocks": blocks,
    }


def _on_scores(what: Subject, others: PredictOptions, found: Record | None) -> list[str]:
    """Remarks on a finished prediction: on a threshold that has nothing to be applied to, and on
    objects that were left out before they could be ranked."""
    if isinstance(what, Models):
        return []
    if found is None:
        idle = others.threshold is not None and not what.probable
        said = "The prediction has neither probabilities nor scores: --threshold says nothing."
        return [said] if idle else []
    least = found["least_score"]
    if least is None or least <= CUT:
        return []
    return [
        f"No object has a score below {least:.2f}: AP counts what was left out as never found. To "
        "compare it with others, predict with a low --threshold."
    ]


# --- the folder -----------------------------------------------------------------------------


def _check_target(target: Path | None, overwrite: bool) -> None:
    """Refuse a folder that holds anything but an older report that may be replaced."""
    if target is None or not target.exists():
        return
    if not target.is_dir():
        raise OutputError(f"{target} is a file: name a folder for the report")
    if not any(target.iterdir()):
        return
    if not (target / REPORT).is_file():
        raise OutputError(f"{target} holds something else than a report: name another folder")
    if not overwrite:
        raise OutputError(f"{target} holds a report: pass --overwrite, or name another folder")


@contextmanager
def _folder(target: Path | None, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """(folder of the report, folder for predictions); the first appears whole at the end."""
    if target is None:
        with tempfile.TemporaryDirectory(prefix="geoseg-") as name:
            yield Path(name), Path(name)
        return
    with installing(target, overwrite=overwrite) as folder:
        work = folder / PREDICTIONS
        work.mkdir(parents=True)
        yield folder, work


def _write(
    folder: Path,
    work: Path,
    report: Mapping[str, Any],
    counted: Sequence[Counted],
    what: Subject,
    wanted: EvaluateOptions,
) -> None:
    """report.html, report.json and places.gpkg; predictions are kept if that is asked for."""
    html = page(report, counted, lambda c: what.open(c.case, work), wanted.worst)
    (folder / PAGE).write_text(html, encoding="utf-8")
    (folder / REPORT).write_text(as_json(report), encoding="utf-8")
    write_map(folder / MAP, counted, report["blocks"], what.legend)
    if not wanted.keep:
        shutil.rmtree(work)


def as_json(report: Mapping[str, Any]) -> str:
    """Indented, but for the blocks: one of them a line."""
    head = json.dumps({k: v for k, v in report.items() if k != "blocks"}, indent=1)
    lines = ",\n  ".join(json.dumps(b, separators=(",", ":")) for b in report["blocks"])
    return f'{head[:-2]},\n "blocks": [\n  {lines}\n ]\n}}\n'
