"""What is in a bag."""

from __future__ import annotations

import functools
from typing import Any

from hypothesis import strategies as st

from stageflow.bag import ContextBag
from stageflow.testing.strategies.definitions import Draw, stage_names


@functools.cache
def context_keys() -> st.SearchStrategy[str]:
    """Any string is a key."""
    return st.text(max_size=8)


@functools.cache
def context_values() -> st.SearchStrategy[Any]:
    """Values that can be written as JSON."""
    plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    return st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )


@st.composite
def context_bags(draw: Draw) -> ContextBag:
    """Bags into which some writers have written."""
    bag = ContextBag()
    for key, value in draw(st.dictionaries(context_keys(), context_values(), max_size=6)).items():
        bag.put(key, value, draw(stage_names()))
    return bag
