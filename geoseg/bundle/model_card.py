"""The model card of a bundle: markdown out of its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geoseg.spec import ModelSpec


def card(
    spec: ModelSpec,
    *,
    data: str = "",
    places: str = "",
    recipe: str = "",
    attribution: str = "",
    limits: str = "",
) -> str:
    """A model card in markdown; the paragraphs that are not given are left out.

    `spec.metrics` becomes a table: {row: {column: number}}, or {name: number}.
    """
    bands = ", ".join(b.name for b in spec.bands)
    classes = ", ".join(f"{c.name} ({c.id})" for c in spec.classes)
    facts = {
        "Task": spec.task,
        "Classes": classes,
        "Input": f"{bands}; {spec.dtype} {spec.value_range[0]:g} to {spec.value_range[1]:g}",
        "Ground sample distance": f"{spec.gsd:g} m",
        "Architecture": f"{spec.architecture} {_arguments(spec)}".strip(),
        "Licence": spec.license,
        "Made": spec.created[:10],
    }
    sections = {
        "Training data": data,
        "Places": places,
        "Recipe": recipe,
        "Results": _metrics_table(spec.metrics),
        "Limits": limits,
        "Attribution": attribution,
    }
    lines = [
        f"# {spec.name}, version {spec.version}",
        "",
        spec.description or spec.name,
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    for title, text in sections.items():
        if text:
            lines += ["", f"## {title}", "", text.strip()]
    command = f"geoseg predict scene.tif -o out.gpkg --model {spec.name}"
    return "\n".join([*lines, "", "## Use", "", "```", command, "```", ""])


def _arguments(spec: ModelSpec) -> str:
    return ", ".join(f"{k}={v}" for k, v in spec.arguments.items())


def _metrics_table(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return ""
    if not all(isinstance(row, Mapping) for row in metrics.values()):
        rows = [f"| {name} | {_number(value)} |" for name, value in metrics.items()]
        return "\n".join(["| measure | value |", "|---|---|", *rows])
    columns = list(dict.fromkeys(c for row in metrics.values() for c in row))
    header = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join(
        [
            *header,
            *(
                f"| {name} | {' | '.join(_number(row.get(c, '')) for c in columns)} |"
                for name, row in metrics.items()
            ),
        ]
    )


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
