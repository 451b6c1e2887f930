"""The comparison of the simulation with other tools: what it counts, and how it shows that."""

from __future__ import annotations

import pytest

from tools.compare_simulation.__main__ import Cell, found
from tools.compare_simulation.peer import TOOLS, tried
from tools.compare_simulation.programs import drawn, locked, lost_update


def test_a_found_bug_is_counted_repeated_and_reduced() -> None:
    """The runs that reduce it do not count."""
    cell = tried(TOOLS["stageflow"], lost_update, 2, 200)
    assert all(1 < runs < 50 for runs in cell["runs"])
    assert cell["repeated"] == len(cell["deviations"]) == 2
    assert max(cell["deviations"]) <= 4


def test_random_numbers_repeat_and_a_correct_program_never_fails() -> None:
    """In the programs that decide two lines of the table."""
    assert tried(TOOLS["stageflow"], drawn, 3, 200)["repeated"] == 3
    assert tried(TOOLS["stageflow"], locked, 1, 20)["runs"] == [None]


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (None, "not finished"),
        ({"runs": [None, None]}, "never"),
        ({"runs": [3, 1, 8]}, "3 (8)"),
        ({"runs": [3, None, 8]}, "5.5 (8), 2 seeds"),
    ],
)
def test_a_cell_says_how_often_it_was_found(cell: Cell, shown: str) -> None:
    """A median over the seeds that found it, and how many these were if not all."""
    assert found(cell) == shown
