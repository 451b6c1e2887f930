"""Hostile input of each kind is read, or refused with an error of this package."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.fuzzing import MOST_BYTES, fuzz, targets

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

#: `python -m tools.fuzz` tries 20,000 of each kind, and raw entries of streams.
COUNT = 2_000
KINDS = [
    "jobs",
    "answers",
    "workers",
    "letters",
    "recordings",
    "tokens",
    "raw tokens",
    "results",
    "addresses",
]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_becomes_of_hostile_input(kind: str, tmp_path: Path) -> None:
    """Neither an error from inside, nor much memory."""
    report = fuzz(targets(tmp_path)[kind], COUNT, seed=1)
    assert report.problems == []
    assert report.read + report.refused == report.tried == COUNT
    assert report.memory_mb < MOST_BYTES / 1e6


def test_every_kind_is_tried(tmp_path: Path) -> None:
    """None is left out of the tests."""
    assert list(targets(tmp_path)) == KINDS
