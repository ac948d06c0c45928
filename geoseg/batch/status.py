"""What became of each scene: the ledger, read while a run goes on or after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from geoseg.batch.ledger import NAME, Ledger
from geoseg.batch.outcome import STATES

PAGE = 500  # rows of a table that are held at a time


@dataclass(frozen=True, slots=True)
class Status:
    """Counts and sums of a ledger, and its scenes."""

    ledger: Path
    summary: dict[str, Any]

    def scenes(self) -> Iterator[dict[str, Any]]:
        """Each scene as plain values, in the order of the ledger."""
        with Ledger.open(self.ledger, create=False) as ledger:
            for entry in ledger.entries():
                yield entry.as_dict()

    def pages(self) -> Iterator[list[dict[str, Any]]]:
        """The scenes in tables of some hundred rows, without what a table has no room for."""
        rest = self.scenes()
        while page := list(islice(rest, PAGE)):
            yield [{k: v for k, v in row.items() if k not in ("source", "worker")} for row in page]


def status(output: str | Path) -> Status:
    """What the folder `output` of a batch holds: scenes by state, tiles, polygons, km2, seconds."""
    path = Path(output).expanduser() / NAME
    with Ledger.open(path, create=False) as ledger:
        counts, totals = ledger.counts(), ledger.totals()
    states: dict[str, int] = {state: counts[state] for state in STATES}
    return Status(path, {"scenes": counts.total(), **states, **totals})
