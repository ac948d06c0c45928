"""What the values of labels stand for: of an attribute, a mask's pixels, or their colours."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.data.config import ClassConfig, Value
from geoseg.metrics import IGNORE

_WHOLE = re.compile(r"[+-]?[0-9]{1,15}(\.0*)?")
_COLOUR = re.compile(r"#[0-9a-f]{6}")


class Meaning:
    """What a value of the labels (of an attribute, a pixel, a colour '#rrggbb') stands for."""

    def __init__(
        self,
        classes: tuple[ClassConfig, ...],
        *,
        background: bool = True,
        ignore: tuple[Value, ...] = (),
    ) -> None:
        first = 1 if background else 0
        self.rest = 0 if background else IGNORE
        self.classes = classes
        self.table: dict[int | str, int] = {}
        for label, each in enumerate(classes, first):
            for value in each.values or (each.name, each.id):
                self.table[_key(value)] = label
        self.table |= {_key(value): IGNORE for value in ignore}
        # the only class, without values: whatever is there is meant
        self.anything = len(classes) == 1 and not classes[0].values

    def of(self, values: Iterable[Any]) -> NDArray[np.uint8]:
        """The labels of features with these values of the attribute; unknown ones are `rest`."""
        other = 1 if self.anything else self.rest
        return np.array([self.table.get(_key(v), other) for v in values], np.uint8)

    def unknown(self, values: Iterable[Any]) -> list[Any]:
        """Those of the values that stand for no class."""
        return [] if self.anything else [v for v in values if _key(v) not in self.table]

    def of_pixels(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """(h, w) labels of a mask (bands, h, w) of class numbers, or of colours (3 or 4 bands)."""
        values, keys = self.keyed(pixels)
        out = np.full(values.shape, self.rest, np.uint8)
        if self.anything:
            out[(pixels[:3] != 0).any(0) if len(pixels) >= 3 else values != 0] = 1
        for key, label in keys.items():
            if label == IGNORE or not self.anything:
                out[values == key] = label
        return out

    @property
    def colours(self) -> bool:
        """Whether any class is told by a colour."""
        return any(map(_is_colour, self.table))

    def keyed(self, pixels: NDArray[Any]) -> tuple[NDArray[Any], dict[int, int]]:
        """(h, w) numbers of a mask's pixels, a colour being 0xrrggbb; the label of each number."""
        if len(pixels) >= 3 and self.colours:
            red, green, blue = (band.astype(np.int32) for band in pixels[:3])
            colours = {int(str(k)[1:], 16): v for k, v in self.table.items() if _is_colour(k)}
            return red * 65536 + green * 256 + blue, colours
        return pixels[0], {k: v for k, v in self.table.items() if isinstance(k, int)}


def _key(value: Any) -> int | str:
    """1, 1.0 and '1' are the same class; so are ' water' and 'Water'."""
    if isinstance(value, int | float | np.number):
        return int(value) if float(value).is_integer() else str(value)
    text = str(value).strip().lower()
    return int(float(text)) if _WHOLE.fullmatch(text) else text


def _is_colour(key: int | str) -> bool:
    return isinstance(key, str) and _COLOUR.fullmatch(key) is not None
