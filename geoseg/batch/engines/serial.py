"""One scene after the other in this process: what the other engines are held against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from geoseg.batch.engines import Function
from geoseg.batch.items import Item
from geoseg.batch.outcome import Outcome


class Serial:
    """See geoseg.batch.engines.Engine."""

    workers, dashboard = 1, None

    def map(self, function: Function, items: Iterable[Item]) -> Iterator[tuple[Item, Outcome]]:
        for item in items:
            yield item, function(item)


@contextmanager
def engine(*, workers: int | None = None, scheduler: str | None = None) -> Iterator[Serial]:
    yield Serial()
