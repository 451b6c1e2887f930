"""The fault matrix of a tool: what runs is what a person has decided."""

from __future__ import annotations

import pytest

from tests.fault.matrix import PAGE
from tests.fault.tool_matrix import KEYS, Key, decided, played, section

pytestmark = pytest.mark.untraced

DECIDED = decided()


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_a_turn_goes_as_decided(key: Key) -> None:
    """The codes of the turn and of the call, and what is heard."""
    kind, choice = key
    assert list(played(kind, choice)) == DECIDED[kind][choice]


def test_each_cell_is_decided_and_no_other() -> None:
    written = {(kind, choice) for kind, row in DECIDED.items() for choice in row}
    assert written == {(str(kind), choice) for kind, choice in KEYS}


def test_the_page_has_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith(f"\n{section()}")
