"""The fault matrix: what runs, what a person has decided, and what the page says are the same."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from stageflow.testing import FaultType
from tests.fault.matrix import PAGE, PROTECTIONS, Cell, all_cells, decided, keys, page
from tests.fault.turns import is_fit_for_users
from tests.utils.session import once

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

Key = tuple[str, FaultType, str]
DECIDED = decided()
KEYS = list(keys())


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[Key, Cell]:
    """Every outage, played once for all workers."""

    def play(folder: Path) -> None:
        (folder / "cells").write_bytes(pickle.dumps(all_cells()))

    played: dict[Key, Cell] = pickle.loads(
        (once(tmp_path_factory, "fault-matrix", play) / "cells").read_bytes()
    )
    return played


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_cell(key: Key, cells: dict[Key, Cell]) -> None:
    """The outage goes as decided: outcome, code, answers, dead letters, recovery and events."""
    provider, fault_type, protection = key
    outcome, code, share, dead_letter, recovery, events = DECIDED[provider][fault_type][protection]
    cell = cells[key]
    assert (cell.outcome, cell.code, cell.share) == (outcome, code, share)
    assert cell.dead_letter is dead_letter
    assert cell.events == tuple(events.split())
    earliest_ms, latest_ms = DECIDED["recovery"][recovery]
    assert earliest_ms <= cell.recovery_ms <= latest_ms


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_user_gets_the_decided_message(key: Key, cells: dict[Key, Cell]) -> None:
    """Where turns fail, the user reads the words decided for that code; else gets an answer."""
    cell = cells[key]
    if cell.outcome == "failed":
        assert cell.says == DECIDED["messages"][cell.code]
        assert is_fit_for_users(cell.says)
    else:
        assert cell.says == ""


def test_table_has_every_cell_and_no_other() -> None:
    """Each fitting fault of each provider is decided upon, for each protection."""
    providers: dict[str, Any] = {
        name: faults for name, faults in DECIDED.items() if name not in {"recovery", "messages"}
    }
    written = {
        (provider, fault, protection)
        for provider, faults in providers.items()
        for fault, row in faults.items()
        for protection in row
    }
    assert written == {(provider, str(fault), protection) for provider, fault, protection in KEYS}


def test_page_says_what_runs(cells: dict[Key, Cell]) -> None:
    """The page is the one that these runs write, and it has no empty cell."""
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(cells), "write it anew: python -m tests.fault.matrix --write"
    rows = [line for line in text.splitlines() if line.startswith("| ") and "**" in line]
    assert len(rows) * len(PROTECTIONS) == len(cells)
    for row in rows:
        filled = [part for part in row.strip("|").split("|") if part.strip()]
        assert len(filled) == 1 + len(PROTECTIONS)
