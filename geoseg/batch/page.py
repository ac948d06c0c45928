"""The report of a batch: one HTML file that needs nothing else."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from heapq import nlargest
from pathlib import Path
from typing import Any

import numpy as np

import geoseg
from geoseg.batch.ledger import Ledger
from geoseg.batch.outcome import STATES, Entry
from geoseg.scene.files import shown
from geoseg.sinks.atomic import replacing

COLORS = {
    "done": "#31a354",
    "failed": "#d7301f",
    "skipped": "#9e9e9e",
    "pending": "#ffffff",
    "running": "#3182bd",
}
WIDTH, HEIGHT = 1040, 560  # of the map, at most
MOST_SHAPES = 20_000
LISTED = 200  # failed scenes
SLOWEST = 10


def write_page(path: Path, ledger: Ledger, *, model: str) -> None:
    """Write the report: a map of the footprints by state, counts, slowest and failed scenes."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("geoseg.batch", ""), autoescape=True)
    counts = ledger.counts()
    text = environment.get_template("report.html.j2").render(
        model=model,
        name=path.absolute().parent.name,
        geoseg=geoseg.__version__,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        counts={state: counts[state] for state in STATES if counts[state]},
        totals=ledger.totals(),
        colors=COLORS,
        classes=_classes(ledger),
        map=_map(ledger),
        failed=_listed(ledger, "failed"),
        skipped=_listed(ledger, "skipped"),
        slowest=[e.as_dict() for e in nlargest(SLOWEST, ledger.entries("done"), key=_seconds)],
        most=LISTED,
    )
    with replacing(path, overwrite=True) as temp:
        temp.write_text(text, encoding="utf-8")


def _seconds(entry: Entry) -> float:
    return entry.outcome.seconds if entry.outcome else 0.0


def _listed(ledger: Ledger, state: Any) -> list[dict[str, Any]]:
    entries = ledger.entries(state)
    return [
        {**entry.as_dict(), "source": shown(entry.item.source)[:200]}
        for entry, _ in zip(entries, range(LISTED), strict=False)
    ]


def _classes(ledger: Ledger) -> list[tuple[str, int, float]]:
    """Name, polygons and km2 of each class."""
    polygons: Counter[str] = Counter()
    area: defaultdict[str, float] = defaultdict(float)
    for entry in ledger.entries("done"):
        if entry.outcome is not None:
            polygons.update(entry.outcome.polygons)
            for name, m2 in entry.outcome.area_m2.items():
                area[name] += m2
    return [(name, count, area[name] / 1e6) for name, count in polygons.most_common()]


def _map(ledger: Ledger) -> dict[str, Any] | None:
    """Outlines of the footprints as SVG paths, in equirectangular pixels; None without any."""
    rings: list[Any] = []
    names, states = [], []
    for entry in ledger.entries():
        footprint = (entry.outcome and entry.outcome.footprint) or entry.item.footprint
        if footprint is None or len(rings) >= MOST_SHAPES:
            continue
        for ring in _rings(footprint):
            rings.append(ring)
            names.append(entry.item.id)
            states.append(entry.state)
    if not rings:
        return None
    points = np.concatenate(rings)
    low, high = points.min(axis=0), points.max(axis=0)
    squeeze = float(np.cos(np.radians((low[1] + high[1]) / 2)))
    size = np.maximum((high - low) * [squeeze, 1], 1e-9)
    scale = min(WIDTH / size[0], HEIGHT / size[1])
    shapes = [
        {
            "path": _path(ring, low, high, squeeze, scale),
            "name": name,
            "state": state,
        }
        for ring, name, state in zip(rings, names, states, strict=True)
    ]
    return {
        "width": round(float(size[0] * scale), 1),
        "height": round(float(size[1] * scale), 1),
        "shapes": shapes,
        "bounds": [round(float(v), 5) for v in (*low, *high)],
    }


def _rings(footprint: Mapping[str, Any]) -> list[Any]:
    """Outer rings, thinned to what a small map shows."""
    coordinates = footprint.get("coordinates") or []
    polygons = coordinates if footprint.get("type") == "MultiPolygon" else [coordinates]
    rings = (np.asarray(polygon[0], float)[:-1, :2] for polygon in polygons if polygon)
    return [ring[:: max(1, len(ring) // 8)] for ring in rings]


def _path(ring: Any, low: Any, high: Any, squeeze: float, scale: float) -> str:
    """A ring in longitude and latitude, on the map."""
    x, y = (ring[:, 0] - low[0]) * squeeze * scale, (high[1] - ring[:, 1]) * scale
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
