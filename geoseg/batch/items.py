"""Item: one scene of an archive, as sources name it, engines carry it and the ledger keeps it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

_UNSAFE = re.compile(r"[^\w.+-]+")
_LONGEST = 120  # bytes of a name in UTF-8, as most file systems count: room for suffixes


@dataclass(frozen=True, slots=True)
class Link:
    """Where a scene comes from, as a STAC link: `derived_from` its source Item, for one."""

    rel: str
    href: str
    type: str | None = None
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One scene to predict; small, and made of plain values only (engines pickle it).

    id:         name of its outputs: file-name safe (see `safe_name`). Where two scenes of a run
                have the same one, the ledger tells them apart by their keys.
    source:     what Scene.open takes: a path, a URL, /vsi..., or the XML of a VRT. A local path
                is absolute, so that workers elsewhere find it.
    key:        what it is known by from run to run; `source`, where not given. A STAC item's is
                its collection and id, because signed URLs change.
    parts:      rasters of one band each, which a worker stacks (geoseg.scene.stack) when the
                scene's turn comes, in the order of the model's bands; `source` then only says,
                in messages, what the whole is called. Empty: `source` is opened.
    datetime:   when it was taken, RFC 3339.
    footprint:  GeoJSON geometry in longitude and latitude, where the source tells.
    properties: what else the source tells: STAC's properties, a table's columns.
    links:      for the catalog of the results.
    rows:       of a part of a big scene: the rows of tiles that are to be predicted.
    problem:    why it cannot be predicted, where the source knows already (an asset is missing):
                the scene then fails with this sentence, and the run goes on.
    """

    id: str
    source: str
    key: str = ""
    parts: tuple[str, ...] = ()
    datetime: str | None = None
    footprint: Mapping[str, Any] | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    problem: str | None = None
    rows: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", self.source)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the ledger's JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        links = tuple(Link(**link) for link in values.get("links", ()))
        return cls(**{**values, "parts": tuple(values.get("parts", ())), "links": links})


def safe_name(text: str) -> str:
    """`text` as a file name on any system: letters, digits, `_.+-`; cut where it is too long."""
    name = _UNSAFE.sub("_", text).strip("_.") or "scene"
    encoded = name.encode()
    if len(encoded) <= _LONGEST:
        return name
    return f"{encoded[: _LONGEST - 9].decode(errors='ignore')}-{digest(text)}"


def digest(text: str) -> str:
    """Eight hexadecimal digits that stand for `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
