"""Charts as SVG, written by hand: small, sharp in print, and styled by the page's own CSS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geoseg.evaluate.pictures import shade

WIDTH, HEIGHT = 420, 320
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 42

# As attributes, not in the page's CSS: so they are also right where SVG is cut out of the page.
_MAIN, _WARM, _GREEN, _INK, _SOFT, _PALE = (
    *("#0b6e99", "#d55e00", "#009e73"),
    *("#1d2330", "#5d6675", "#e2e6ec"),
)
_STYLES = {
    "grid": f'stroke="{_PALE}"',
    "ideal": 'fill="none" stroke="#9aa3b0" stroke-dasharray="4 4"',
    "gap": f'stroke="{_WARM}" stroke-opacity="0.55" stroke-width="2"',
    "main": f'fill="none" stroke="{_MAIN}" stroke-opacity="0.5" stroke-width="2"',
    "dot": f'fill="{_MAIN}" fill-opacity="0.75" stroke="#fff"',
    "iou": f'fill="none" stroke="{_MAIN}" stroke-width="3.2"',
    "precision": f'fill="none" stroke="{_WARM}" stroke-width="2"',
    "recall": f'fill="none" stroke="{_GREEN}" stroke-width="2" stroke-dasharray="7 3"',
    "used": f'stroke="{_INK}" stroke-width="1.3"',
    "best": f'stroke="{_MAIN}" stroke-width="1.3" stroke-dasharray="3 3"',
    "text": f'font-size="12" fill="{_SOFT}"',
    "axis": f'font-size="12" fill="{_INK}"',
    "rail": f'stroke="{_PALE}" stroke-width="2"',
    "span": f'stroke="{_MAIN}" stroke-width="3" stroke-opacity="0.45" stroke-linecap="round"',
}


def _x(value: float) -> float:
    return round(LEFT + value * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float) -> float:
    return round(HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM), 1)


def _frame(across: str, up: str, about: str, content: list[str]) -> str:
    """Axes from 0 to 1 with a grid of quarters, and the content over it."""
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{about}">',
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts += [
            f'<line {_STYLES["grid"]} x1="{_x(tick)}" x2="{_x(tick)}" y1="{_y(0)}" y2="{_y(1)}"/>',
            f'<line {_STYLES["grid"]} x1="{_x(0)}" x2="{_x(1)}" y1="{_y(tick)}" y2="{_y(tick)}"/>',
            f'<text {_STYLES["text"]} x="{_x(tick)}" y="{_y(0) + 16}" '
            f'text-anchor="middle">{tick:g}</text>',
            f'<text {_STYLES["text"]} x="{_x(0) - 7}" y="{_y(tick) + 4}" '
            f'text-anchor="end">{tick:g}</text>',
        ]
    middle = (_y(0) + _y(1)) / 2
    parts += [
        *content,
        f'<text {_STYLES["axis"]} x="{(_x(0) + _x(1)) / 2}" y="{HEIGHT - 6}" '
        f'text-anchor="middle">{across}</text>',
        f'<text {_STYLES["axis"]} x="12" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 12 {middle})">{up}</text>',
        "</svg>",
    ]
    return "".join(parts)


def _line(points: Sequence[tuple[float, float]], kind: str) -> str:
    path = " ".join(f"{_x(x)},{_y(y)}" for x, y in points)
    return f'<polyline {_STYLES[kind]} points="{path}"/>'


def reliability(groups: Sequence[Mapping[str, Any]], what: str = "pixels") -> str:
    """Confidence against how often it came true; circles by the number of pixels, or objects."""
    total = sum(g["count"] for g in groups)
    points = [(g["said"], g["seen"]) for g in groups]
    content = [_line([(0, 0), (1, 1)], "ideal")]
    content += [
        f'<line {_STYLES["gap"]} x1="{_x(x)}" x2="{_x(x)}" y1="{_y(x)}" y2="{_y(y)}"/>'
        for x, y in points
    ]
    content.append(_line(points, "main"))
    for g, (x, y) in zip(groups, points, strict=True):
        radius = 2.5 + 9 * (g["count"] / total) ** 0.5
        content.append(
            f'<circle {_STYLES["dot"]} cx="{_x(x)}" cy="{_y(y)}" r="{radius:.1f}"><title>said '
            f"{x:.2f}, true in {y:.2f} of {g['count']:,} {what}</title></circle>"
        )
    return _frame("probability that the model says", "share that is true", "reliability", content)


def thresholds(about: Mapping[str, Any], used: float | None) -> str:
    """IoU (of objects F1), precision and recall for every decision level; those in use and best."""
    content = []
    measure = "iou" if "best_iou" in about else "f1"
    marks = [(about["best"], "best", "best")]
    if used is not None:
        marks.append((used, "used", "used"))
    for value, name, kind in marks:
        content.append(
            f'<line {_STYLES[kind]} x1="{_x(value)}" x2="{_x(value)}" y1="{_y(0)}" y2="{_y(1)}">'
            f"<title>{name}: {value:.3g}</title></line>"
        )
    for name, kind in (("precision", "precision"), ("recall", "recall"), (measure, "iou")):
        points = [(p["threshold"], p[name]) for p in about["curve"] if p[name] is not None]
        content.append(_line(points, kind))
    return _frame("threshold", "measure", "precision and recall by threshold", content)


def precision_recall(
    levels: Sequence[Mapping[str, Any]], used: tuple[float | None, float | None]
) -> str:
    """Precision at every recall, at an IoU of 0.5 and of 0.75; (recall, precision) in use."""
    content = []
    for level, kind in zip(levels, ("iou", "precision"), strict=True):
        steps = len(level["precision"]) - 1
        content.append(_line([(i / steps, p) for i, p in enumerate(level["precision"])], kind))
    recall, precision = used
    if recall is not None and precision is not None:
        content.append(
            f'<circle {_STYLES["dot"]} cx="{_x(recall)}" cy="{_y(precision)}" r="5">'
            f"<title>in use: precision {precision:.3f}, recall {recall:.3f}</title></circle>"
        )
    return _frame("recall", "precision", "precision by recall", content)


def whisker(estimate: Mapping[str, Any]) -> str:
    """A value between 0 and 1 with its interval, for a cell of a table."""
    if estimate["value"] is None:
        return ""
    value, low, high = (
        estimate[k] if estimate[k] is not None else estimate["value"]
        for k in ("value", "low", "high")
    )
    x, left, right = (3 + 114 * min(max(v, 0), 1) for v in (value, low, high))
    return (
        '<svg class="whisker" viewBox="0 0 120 14" aria-hidden="true">'
        f'<line {_STYLES["rail"]} x1="3" x2="117" y1="7" y2="7"/>'
        f'<line {_STYLES["span"]} x1="{left:.1f}" x2="{right:.1f}" y1="7" y2="7"/>'
        f'<circle cx="{x:.1f}" cy="7" r="3.2" fill="{_MAIN}"/></svg>'
    )


def scene(overview: Any, records: Sequence[Mapping[str, Any]]) -> str:
    """A scene's picture with its blocks coloured by IoU; pointing at one tells more."""
    picture = overview.picture
    parts = [
        f'<svg class="scene" viewBox="0 0 {picture.width} {picture.height}" role="img" '
        f'aria-label="blocks by IoU">',
        f'<image width="{picture.width}" height="{picture.height}" href="{picture.address}"/>',
    ]
    for (x, y, w, h), record in zip(overview.boxes, records, strict=True):
        iou = record["iou"]
        told = "no objects" if iou is None else f"IoU {iou:.2f}"
        place = "" if record["lon"] is None else f", {record['lat']:.5f}, {record['lon']:.5f}"
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{shade(iou)}" '
            f'fill-opacity="0.5" stroke="#fff" stroke-opacity="0.85">'
            f"<title>{told}{place}</title></rect>"
        )
        if iou is not None and min(w, h) > 34:
            at = f'x="{x + w / 2:.1f}" y="{y + h / 2 + 6:.1f}" text-anchor="middle"'
            parts += [
                f'<text {at} font-size="18" {color}>{iou:.2f}</text>'
                for color in (f'fill="{_INK}" stroke="{_INK}" stroke-width="4"', 'fill="#fff"')
            ]
    return "".join([*parts, "</svg>"])
