"""What is connected by pairs: numbers of clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoseg.jit import jit

Int64 = NDArray[np.int64]


def components(count: int, one: Int64, two: Int64) -> tuple[int, Int64]:
    """(number, (count,) component of each) of what the pairs (n,), (n,) of 0..count-1 connect.

    Components are numbered in the order of their first members.
    """
    return _components(count, np.asarray(one, np.int64), np.asarray(two, np.int64))


@jit
def _components(count: int, one: Int64, two: Int64) -> tuple[int, Int64]:
    parent = np.arange(count)
    for k in range(len(one)):
        a, b = _root(parent, one[k]), _root(parent, two[k])
        parent[max(a, b)] = min(a, b)
    number = 0
    component = np.empty(count, np.int64)
    for k in range(count):  # a parent comes before its children
        if parent[k] == k:
            component[k] = number
            number += 1
        else:
            component[k] = component[parent[k]]
    return number, component


@jit
def _root(parent: Int64, k: int) -> int:
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = parent[k]
    return k
