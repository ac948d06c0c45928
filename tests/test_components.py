"""Components against scipy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geoseg.components import components


@given(st.data())
def test_they_are_scipys_in_the_order_of_their_first_members(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    member = st.integers(0, count - 1)
    pairs = np.array(data.draw(st.lists(st.tuples(member, member), max_size=40)), np.int64)
    one, two = pairs.reshape(-1, 2).T
    links = coo_array((np.ones(len(one)), (one, two)), shape=(count, count))
    right_number, right = connected_components(links, directed=False)
    number, component = components(count, one, two)
    assert number == right_number
    np.testing.assert_array_equal(component, right)


def test_nothing_at_all() -> None:
    none = np.empty(0, np.int64)
    number, component = components(0, none, none)
    assert (number, component.tolist()) == (0, [])
