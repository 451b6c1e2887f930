"""The steady load: started on time, judged by what it leaves, in virtual time and for real."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import stageflow as sf
from tests.utils.commands import run_command
from tests.utils.virtual_time import run_virtual
from tools.load import Report, _growth, carry

ROOT = Path(__file__).resolve().parents[3]
SOUND = Report(
    asked=1_000,
    ended=1_000,
    failed=0,
    seconds=2.0,
    latency_ms={},
    cpu_share=0.1,
    memory_growth=0.01,
    most_under_way=3,
    tasks=0,
    files=0,
)


def _turns(takes_s: float, fails: bool = False) -> sf.Pipeline:
    async def wait(ctx: sf.StageContext) -> sf.StageOutput:
        await asyncio.sleep(takes_s)
        if fails:
            raise ValueError("on purpose")
        return sf.StageOutput.ok()

    return sf.Pipeline("load", [sf.StageSpec("wait", wait)])


def _carried(pipeline: sf.Pipeline, rate_hz: float, seconds: float) -> Report:
    async def main() -> Report:
        turn = lambda: pipeline.run(sf.PipelineContext())  # noqa: E731 - a turn is a function
        return await carry([turn], rate_hz, seconds, lambda _: None)

    return run_virtual(main)


def test_turns_start_on_time_and_overlap() -> None:
    """Ten a second of 0.5 s each: all of them, five under way at once, none later than it takes."""
    found = _carried(_turns(0.5), rate_hz=10.0, seconds=3.0)
    assert (found.asked, found.ended, found.failed) == (30, 30, 0)
    assert found.most_under_way in (5, 6)
    assert found.latency_ms["p50"] == pytest.approx(500.0)
    assert found.latency_ms["max"] == pytest.approx(500.0)
    assert found.seconds == pytest.approx(2.9 + 0.5)
    assert found.tasks == 0


def test_failed_turns_are_counted() -> None:
    """A turn that fails does not count as carried."""
    found = _carried(_turns(0.1, fails=True), rate_hz=10.0, seconds=1.0)
    assert (found.ended, found.failed) == (0, 10)
    assert found.faults(10.0) == ["10 turns failed", "0 turns a second of 10 were carried"]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"failed": 1}, "1 turns failed"),
        ({"ended": 900}, "450 turns a second of 500 were carried"),
        ({"memory_growth": 0.06}, "memory grew by 6.0%, at most 5% is allowed"),
        ({"tasks": 2}, "2 tasks were left behind"),
        ({"files": 1}, "1 files were left open"),
    ],
)
def test_each_fault_is_named(changed: dict[str, float], fault: str) -> None:
    """Lost turns, growth and leftovers, each by itself."""
    assert SOUND.faults(500.0) == []
    assert replace(SOUND, **changed).faults(500.0) == [fault]  # type: ignore[arg-type]


def test_growth_leaves_the_warm_up_out() -> None:
    """The first fifth, in which caches fill, is not compared; a steady rise after it is seen."""
    assert _growth([50, 60, 100, 100, 100, 100, 100, 100, 100, 100]) == 0.0
    assert _growth([100 + n for n in range(20)]) == pytest.approx(117.5 / 105.5 - 1)
    assert _growth([1, 2, 3]) == 0.0


@pytest.mark.slow
def test_the_command_reports(tmp_path: Path) -> None:
    """A short load of real turns is carried, in words and as JSON."""
    report = tmp_path / "load.json"
    command = [sys.executable, "-m", "tools.load", "--rate", "50", "--seconds", "1"]
    done = run_command([*command, "--json", str(report)], cwd=ROOT)
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["ended"] == found["asked"] == 50
    assert (found["tasks"], found["files"]) == (0, 0)
    assert ("carried, and nothing grew" in done.stdout) == (done.returncode == 0)


def test_bad_arguments() -> None:
    """A rate that makes no sense is named, with exit code 2."""
    command = [sys.executable, "-m", "tools.load", "--rate", "0"]
    done = run_command(command, cwd=ROOT)
    assert done.returncode == 2
    assert "--rate and --seconds are positive numbers" in done.stderr
