"""The comparison with other engines: its own side of it, which needs none of them."""

from __future__ import annotations

import asyncio
import json

import pytest

from benchmarks._lib.workloads import Shape, layered
from tools import compare_engines as engines
from tools.compare_engines import BRANCHES, ENGINES, Once, Step


def test_what_is_printed_is_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Each graph has a cost above zero, and stageflow beside itself is 1."""
    assert engines.main(["--only", "stageflow", "--rounds", "1", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert [cost["graph"] for cost in report["costs"]] == list(engines.GRAPHS)
    assert all(cost["stage_us"]["median"] > 0 for cost in report["costs"])
    assert {cost["ratio"]["median"] for cost in report["costs"]} == {1.0}
    assert report["ends_at_once"] is report["cancels"] is True


def test_an_engine_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """With the command that installs it."""
    assert engines.main(["--only", "langgraph"]) == 2
    assert "langgraph; add --install" in capsys.readouterr().err


def test_the_programs_of_the_page_are_counted_and_run() -> None:
    """The shortest are those of stageflow, and they run."""
    counts = engines.line_counts()
    assert counts in engines.PROGRAMS.read_text(encoding="utf-8")
    rows = [list(map(int, row.split("|")[2:-1])) for row in counts.splitlines()[2:]]
    assert len(rows) == 3
    assert all(own < min(others) for own, *others in rows)
    engines.check_programs(["stageflow"])


def _wrong(leave_out: str | None, backwards: bool) -> engines.Engine:
    """An engine that leaves a stage out, or runs all of them in the wrong order."""

    def engine(shape: Shape, step: Step) -> Once:
        async def once() -> None:
            for name in reversed(shape.names) if backwards else shape.names:
                if name != leave_out:
                    await step(name)

        return once

    return engine


@pytest.mark.parametrize(("leave_out", "backwards"), [("s1_0", False), (None, True)])
def test_an_engine_that_does_not_do_the_work_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, leave_out: str | None, backwards: bool
) -> None:
    """An engine that leaves work out or does not wait would win otherwise."""
    monkeypatch.setitem(ENGINES, "stageflow", _wrong(leave_out, backwards))
    with pytest.raises(RuntimeError, match="stageflow ran"):
        engines.costs("chain of 10", ["stageflow"], 1)


def test_uneven_branches_tell_layers_from_dependencies() -> None:
    """By definition: the longest path of waits is the critical path; layer by layer takes 1.5."""
    paths = [
        sum(engines.BRANCHES_S[name] for name in path)
        for path in (("a1", "a2", "end"), ("b1", "b2", "end"))
    ]
    assert max(paths) == pytest.approx(engines.CRITICAL_PATH_S)
    barriers = sum(max(map(engines.BRANCHES_S.__getitem__, layer)) for layer in BRANCHES.layers)
    assert barriers / engines.CRITICAL_PATH_S == pytest.approx(1.5)


def test_a_sibling_that_goes_on_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """`asyncio.gather` alone ends at once, and leaves the other one running."""

    def bare(shape: Shape, step: Step) -> Once:
        async def once() -> None:
            await asyncio.gather(*map(step, layered([2, 1]).layers[0]))

        return once

    monkeypatch.setitem(ENGINES, "stageflow", bare)
    assert engines.failure_leaves("stageflow") == (True, False)
