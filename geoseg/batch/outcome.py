"""What became of a scene: what a worker reports, and what the ledger keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from geoseg.batch.items import Item

State = Literal["pending", "running", "done", "failed", "skipped"]
STATES: tuple[State, ...] = ("pending", "running", "done", "failed", "skipped")
Role = Literal["polygons", "mask", "probabilities"]


@dataclass(frozen=True, slots=True)
class Output:
    """A file that a scene gave. path: relative to the folder of the run, with `/` between.

    checksum: multihash of its content, as STAC's file:checksum wants it.
    """

    role: Role
    path: str
    bytes: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a scene ended; plain values only, so that any engine can carry it.

    state:     done, failed or skipped; or stopped, where no other scene would fare better (a full
               disk, a damaged model): the run then ends, and the scene waits for the next one. Of
               a big scene also split, where it has parts (`rows` in about), and part of each.
    error:     the sentence for users: why it failed or was skipped.
    kind:      the class of the error.
    polygons:  by the name of the class; and their areas in square metres.
    km2:       area of the whole scene. footprint: GeoJSON geometry in longitude and latitude.
    valid:     WKT of what has data (see Coverage), in the CRS of the scene.
    worker:    host and process. started: RFC 3339, UTC. seconds: from opening to the last output.
    warnings:  of preflight, a sentence each.
    about:     what else the catalog of the results tells: CRS, shape, gsd, device ...
    """

    state: Literal["done", "failed", "skipped", "stopped", "split", "part"]
    error: str | None = None
    kind: str | None = None
    polygons: Mapping[str, int] = field(default_factory=dict)
    area_m2: Mapping[str, float] = field(default_factory=dict)
    tiles: int = 0
    seconds: float = 0.0
    km2: float = 0.0
    started: str | None = None
    worker: str = ""
    footprint: Mapping[str, Any] | None = None
    valid: str | None = None
    outputs: tuple[Output, ...] = ()
    warnings: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Number of polygons."""
        return sum(self.polygons.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the ledger's JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        outputs = tuple(Output(**output) for output in values.get("outputs", ()))
        return cls(
            **{**values, "outputs": outputs, "warnings": tuple(values.get("warnings", ()))},
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A scene in the ledger. attempts: how often it was begun. outcome: of the last one."""

    item: Item
    state: State
    attempts: int
    outcome: Outcome | None

    def as_dict(self) -> dict[str, Any]:
        """What `geoseg batch status --json` shows of it."""
        last = self.outcome or Outcome("failed")
        return {
            "id": self.item.id,
            "state": self.state,
            "attempts": self.attempts,
            "seconds": round(last.seconds, 3),
            "tiles": last.tiles,
            "polygons": last.total,
            "worker": last.worker,
            "error": last.error,
            "source": self.item.source,
        }
