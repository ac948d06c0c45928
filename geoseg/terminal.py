"""How a run looks in a terminal: a progress bar, warnings, a summary; or JSON lines."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from geoseg.events import Event, Listener

if TYPE_CHECKING:
    from geoseg.batch.run import BatchResult
    from geoseg.predict import Result
    from geoseg.vectorize_raster import Vectorized


@contextmanager
def narrate(as_json: bool) -> Iterator[Listener]:
    """A listener: JSON lines on stdout, or words and (on a terminal) a bar on stderr."""
    if as_json:
        yield print_json
        return
    from tqdm import tqdm

    bar: tqdm[Any] | None = None

    def listen(event: Event) -> None:
        nonlocal bar
        match event["event"]:
            case "info" | "warning":
                print(f"{event['event']}: {event['message']}", file=sys.stderr)
            case "start" if sys.stderr.isatty():
                unit = "tile"
                if "model" in event:
                    print(f"{event['model']} on {event['device']}", file=sys.stderr)
                else:
                    unit = "band"  # of rows
                if "scenes" in event:
                    unit = "scene"
                    if event["dashboard"]:
                        print(f"dashboard: {event['dashboard']}", file=sys.stderr)
                bar = tqdm(total=event["tiles"], unit=unit, file=sys.stderr, leave=False)
            case "scene" if event["state"] != "done":
                print(f"{event['id']}: {event['state']}: {event['error']}", file=sys.stderr)
            case "progress" if bar is not None:
                if "km2" in event:
                    speed = event["km2"] / max(event["seconds"], 0.01)
                    said = f"{speed:.3g} km²/s, {event['failed']} failed"
                    bar.set_postfix_str(said, refresh=False)
                bar.update(event["done"] - bar.n)

    try:
        yield listen
    finally:
        if bar is not None:
            bar.close()


PULSE = 2.0  # seconds between two signs of life
_LAST = ("result", "error")  # events after which there are none
_protocol: int | None = None  # descriptor of the lines, where stdout was claimed for them
_writing, _ended = threading.Lock(), threading.Event()


def claim_stdout() -> None:
    """Keep stdout for JSON lines: what else is printed, by C libraries too, goes to stderr."""
    global _protocol
    try:
        if sys.stdout.fileno() != 1:
            return  # a test's, or nobody's
        _protocol = os.dup(1)
        os.dup2(sys.stderr.fileno(), 1)
    except io.UnsupportedOperation:
        return


def keep_alive() -> None:
    """Write an "alive" event now, and others from a thread until the run has ended.

    Imports and large tiles take their time, in which a run would else be as silent as a dead one.
    """
    if _protocol is not None:
        print_json({"event": "alive"})
        threading.Thread(target=_beat, daemon=True).start()


def _beat() -> None:
    with suppress(OSError):  # the run itself finds out that nobody reads on
        while not _ended.wait(PULSE):
            with _writing:
                if not _ended.is_set():
                    _write({"event": "alive"})


def print_json(record: Any) -> None:
    """One JSON line on stdout, at once."""
    with _writing:
        if isinstance(record, Mapping) and record.get("event") in _LAST:
            _ended.set()
        _write(record)


def _write(record: Any) -> None:
    line = json.dumps(record, default=str) + "\n"
    if _protocol is None:
        sys.stdout.write(line)
        sys.stdout.flush()
        return
    rest = line.encode()  # no buffer: what cannot be written is not tried again at the end
    while rest:
        rest = rest[os.write(_protocol, rest) :]


def summary(result: Result) -> str:
    """One line per output and per class."""
    lines = _per_class(result) if result.output is not None else []
    written = [p for p in (result.output, result.mask, result.probabilities) if p is not None]
    lines += [f"wrote {path}" for path in written]
    lines.append(f"{_count(result.tiles, 'tile')} in {result.seconds:.1f} s on {result.device}")
    return "\n".join(lines)


def summary_of_vectors(result: Vectorized) -> str:
    """The same of a raster that was vectorized."""
    lines = [*_per_class(result), f"wrote {result.output}"]
    return "\n".join([*lines, f"{_count(result.rows, 'row')} in {result.seconds:.1f} s"])


def summary_of_batch(result: BatchResult) -> str:
    """What a batch did, and where it is told in full."""
    counts = [f"{_count(result.scenes, 'scene')}: {result.done:,} done"]
    counts += [f"{n:,} {name}" for name in ("failed", "skipped") if (n := getattr(result, name))]
    return "\n".join(
        [
            ", ".join(counts),
            f"{_count(result.polygons, 'polygon')} on {result.km2:,.3g} km²",
            f"wrote {result.output}",
            f"report {result.report}",
            f"{_count(result.tiles, 'tile')}; {result.seconds:.1f} s",
        ]
    )


def _per_class(result: Result | Vectorized) -> list[str]:
    return [
        f"{_count(count, 'polygon')} of {name}, {result.area_m2[name]:,.0f} m²"
        for name, count in result.polygons.items()
    ] or ["no polygons found"]


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def table(values: Mapping[str, Any], indent: str = "") -> str:
    """`key  value` lines; mappings and lists of mappings inside are indented."""
    width = max((len(k) for k in values), default=0)
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}", table(value, indent + "  ")]
        elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
            lines += [f"{indent}{key}", rows(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key:<{width}}  {_plain(value)}")
    return "\n".join(lines)


def rows(records: Sequence[Mapping[str, Any]], indent: str = "") -> str:
    """Records as aligned columns under their keys."""
    if not records:
        return f"{indent}none"
    keys = list(records[0])
    cells = [keys, *([_plain(r.get(k)) for k in keys] for r in records)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(keys))]
    return "\n".join(
        indent + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def _plain(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.6g}"
        case int():
            return f"{value:,}"
        case str():
            return value
        case Sequence():
            return ", ".join(map(_plain, value)) or "-"
        case _:
            return str(value)
