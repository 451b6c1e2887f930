"""The memory of sinks for runs is bounded."""

from __future__ import annotations

from stageflow.telemetry.runs import OpenRuns


def test_the_oldest_goes_for_the_newest() -> None:
    """And is returned, so that the sink can end what it kept for it."""
    runs: OpenRuns[int] = OpenRuns(limit=2)
    assert [runs.begin("a", 1), runs.begin("b", 2), runs.begin("c", 3)] == [None, None, 1]
    assert dict(runs) == {"b": 2, "c": 3}


def test_a_run_that_begins_again_takes_its_own_place() -> None:
    """Nobody has to go for it, and it counts as the newest."""
    runs: OpenRuns[int] = OpenRuns(limit=2)
    runs.begin("a", 1)
    runs.begin("b", 2)
    assert runs.begin("a", 3) is None
    assert runs.begin("c", 4) == 2
    assert dict(runs) == {"a": 3, "c": 4}
