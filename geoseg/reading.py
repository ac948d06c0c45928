"""From a scene to the network: chips in the plan's order, read ahead, and normalized.

The scene is read in bands of rows. What the next row of tiles shares with this one stays in
memory, only new rows are read, so every pixel of the file is decoded once, whatever the overlap.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from geoseg.grid import Grid, Plan, Tile, Window
from geoseg.jit import jit
from geoseg.predictions import Chip
from geoseg.spec import Scaling

T = TypeVar("T")
Span = tuple[int, int]  # columns: start, stop
_BAND = 64 << 20  # bytes that one read may bring beside the buffer


class Source(Protocol):
    """Anything that is read by windows: a Scene, or a fake one in tests."""

    @property
    def grid(self) -> Grid: ...

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(C, h, w) values and (h, w) validity; windows may reach beyond the grid."""


def chips(scene: Source, plan: Plan) -> Iterator[Chip]:
    """The chips of a plan, in its order; tiles without any valid pixel are left out.

    Memory: one row of tiles, in the scene's dtype, over the columns that the plan needs.
    """
    rows = [row for row in plan.rows if row]
    if not rows:
        return
    buffer = _Rows(scene, plan.tile_shape[0], _merged(_columns(row) for row in rows))
    spans = [_merged([_columns(row)]) for row in rows]
    for k, row in enumerate(rows):
        top, bottom = row[0].read.row, row[0].read.row_stop
        buffer.move_to(top)
        ahead_of = [(r[0].read.row, s) for r, s in zip(rows[k:], spans[k:], strict=True)]
        for start, stop, columns in _parts(max(top, buffer.filled), bottom, ahead_of):
            buffer.fill(start, stop, columns)
        for tile in row:
            if chip := buffer.cut(tile):
                yield chip


class _Rows:
    """A band of rows in memory that moves down the scene; rows before `filled` are read."""

    def __init__(self, scene: Source, height: int, columns: Sequence[Span]) -> None:
        self._scene, self._height = scene, height
        self._left, self._right = columns[0][0], columns[-1][1]
        self._top, self.filled = 0, -(1 << 62)
        self._data: NDArray[Any] | None = None
        self._valid = np.zeros((height, self._right - self._left), np.bool_)

    def move_to(self, top: int) -> None:
        """Make `top` the first row; rows that were read stay."""
        keep, shift = self.filled - top, top - self._top
        if self._data is not None and keep > 0 and shift > 0:
            self._data[:, :keep] = self._data[:, shift : shift + keep]
            self._valid[:keep] = self._valid[shift : shift + keep]
        self._top = top

    def fill(self, start: int, stop: int, columns: Sequence[Span]) -> None:
        """Read rows start..stop, of these columns."""
        for left, right in columns:
            row = start
            while row < stop:
                window = Window(row, left, min(self._step(right - left), stop - row), right - left)
                self._put(window, *self._scene.read(window))
                row = window.row_stop
        self.filled = stop

    def cut(self, tile: Tile) -> Chip | None:
        rows, cols = tile.read.slices(Window(self._top, self._left, 0, 0))
        valid = self._valid[rows, cols]
        if self._data is None or not valid.any():
            return None
        return Chip(tile, self._data[:, rows, cols].copy(), valid.copy())

    def _put(self, window: Window, data: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        if self._data is None:
            shape = (len(data), self._height, self._right - self._left)
            self._data = np.zeros(shape, data.dtype)
        rows, cols = window.slices(Window(self._top, self._left, 0, 0))
        self._data[:, rows, cols], self._valid[rows, cols] = data, valid

    def _step(self, width: int) -> int:
        """Rows to read at a time: a few, until the size of a pixel is known."""
        size = 16 if self._data is None else len(self._data) * self._data.dtype.itemsize
        return max(64, _BAND // (width * size))


def _columns(row: Sequence[Tile]) -> list[Span]:
    return [(tile.read.col, tile.read.col_stop) for tile in row]


def _merged(spans: Iterable[Iterable[Span]]) -> list[Span]:
    """Spans that touch or overlap made one, from left to right."""
    merged: list[Span] = []
    for left, right in sorted(span for group in spans for span in group):
        if merged and left <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], right))
        else:
            merged.append((left, right))
    return merged


def _parts(
    start: int, stop: int, rows: Sequence[tuple[int, list[Span]]]
) -> Iterator[tuple[int, int, list[Span]]]:
    """Cut rows start..stop where a later row of tiles begins, which may need other columns.

    `rows`: (first row, columns) of this row of tiles and the later ones. Each part comes with
    the columns that any of them needs there, so that they are read together and once.
    """
    cuts = [start, *(top for top, _ in rows if start < top < stop), stop]
    begin, columns = start, _merged(spans for top, spans in rows if top <= start)
    for at in cuts[1:-1]:
        wider = _merged(spans for top, spans in rows if top <= at)
        if wider != columns:
            yield begin, at, columns
            begin, columns = at, wider
    if begin < stop:
        yield begin, stop, columns


class Ahead(Iterator[T]):
    """What `ahead` gives: an iterator to be closed where it is left before its end."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._shelf: _Shelf[T] = _Shelf(depth)
        self._given = iter(self._shelf)
        self._thread = threading.Thread(
            target=self._shelf.fill, args=(items,), name="geoseg-ahead", daemon=True
        )

    def __next__(self) -> T:
        """The next item. An interrupt leaves at once: it is `close` that waits."""
        if self._thread.ident is None:
            self._thread.start()
        try:
            return next(self._given)
        except Exception:  # the end, or what was raised in the thread: it ends, too
            self._thread.join()
            raise

    def close(self) -> None:
        """Let the thread end after the item at hand, and wait for it."""
        self._shelf.close()
        if self._thread.ident is not None:
            self._thread.join()

    __del__ = close


def ahead(items: Iterable[T], depth: int = 2) -> Ahead[T]:
    """The same items, made in a thread of their own, up to `depth` of them in advance.

    An exception in the thread is raised where the next item is asked for.
    """
    return Ahead(items, depth)


class _Shelf(Generic[T]):
    """A bounded queue between two threads that either side can leave."""

    def __init__(self, depth: int) -> None:
        self._items: deque[T] = deque()
        self._depth, self._changed = max(1, depth), threading.Condition()
        self._finished = self._closed = False
        self._error: BaseException | None = None

    def fill(self, items: Iterable[T]) -> None:
        """The producer: runs in its thread until the items end or the shelf is closed."""
        iterator = iter(items)
        try:
            while not self._closed:
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                if not self._put(item):
                    break
            if hasattr(iterator, "close"):
                iterator.close()
        except BaseException as error:  # noqa: BLE001  it is raised in the consumer
            self._error = error
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def _put(self, item: T) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            self._items.append(item)
            self._changed.notify_all()
            return not self._closed

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._finished)
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self._error:
            raise self._error

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()


def normalize(
    data: NDArray[Any],
    valid: NDArray[np.bool_],
    scaling: Scaling,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """(clip(value) - offset) / scale as float32 (C, H, W); 0 where not valid."""
    if len(data) != len(scaling.offset):
        raise ValueError(f"{len(data)} bands of data, scaling for {len(scaling.offset)}")
    result = np.empty(data.shape, np.float32) if out is None else out
    # 32 bits hold a pixel of 8 or 16 bits exactly; larger ones need more until the offset is off.
    real = np.float32 if data.dtype.itemsize <= 2 or data.dtype == np.float32 else np.float64
    low, high = scaling.clip or (-np.inf, np.inf)
    everywhere = bool(valid.all())
    for band, offset, scale, target in zip(
        data, scaling.offset, scaling.scale, result, strict=True
    ):
        numbers = (real(low), real(high), real(offset), real(1 / scale))
        _normalize(band, valid, everywhere, *numbers, target)
    return result


@jit(error_model="numpy")
def _normalize(band, valid, everywhere, low, high, offset, gain, out):  # type: ignore[no-untyped-def]
    for i in range(band.shape[0]):
        if everywhere:  # without a test per pixel the compiler vectorizes
            for j in range(band.shape[1]):
                value = min(max(type(low)(band[i, j]), low), high)
                out[i, j] = (value - offset) * gain
        else:
            for j in range(band.shape[1]):
                value = min(max(type(low)(band[i, j]), low), high)
                out[i, j] = (value - offset) * gain if valid[i, j] else 0.0
