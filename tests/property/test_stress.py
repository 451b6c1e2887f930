"""The stress test holds: `stress.py` says what runs, and what is checked."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings

from stageflow.testing import Scenario, Token, replay, simulate
from tests.property import stress
from tests.property.stress import Example, Tally, check_orders, check_run, examples
from tests.property.workloads import Workload, WorkStage
from tools import stress_test

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

#: So many parts, that several processes can share them.
PARTS = 8

#: How many schedules the parts are to run together, in a usual run and with the nightly profile.
USUAL, NIGHTLY = 16_000, 500_000


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "streams"])
@pytest.mark.parametrize("part", range(PARTS))
def test_every_schedule_holds(part: int, streams: bool) -> None:
    """Every invariant holds for any pipeline, faults, order and moment of a cancellation."""
    most = settings().max_examples
    wanted = (NIGHTLY if most >= 1_000 else USUAL) / PARTS / (2 if streams else 1)
    orders = max(1, math.ceil(wanted / most) - 1)
    tally = Tally()

    @given(examples(streams=streams))
    def every(example: Example) -> None:
        check_orders(example, tally, orders, first=part * 1_000)

    every()
    assert tally.schedules >= wanted


TROUBLE = {
    "run failed",
    "run completed",
    "run cancelled",
    "never begun",
    "stage failed",
    "stage skipped",
    "stage cancelled",
    "stage timed out",
    "optional stage failed",
    "retrying",
    "deadline passed",
    "breaker_open",
    "breaker_half_open",
    "rejected by the breaker",
}
OF_STREAMS = {
    "stream completed",
    "stream failed",
    "stream cancelled",
    "stream read to its end",
    "reader sees a failure",
    "item refused",
    "run completed",
    "run cancelled",
    "retrying",
}


@pytest.mark.parametrize(
    ("streams", "rare"), [(False, TROUBLE), (True, OF_STREAMS)], ids=["plain", "streams"]
)
def test_what_can_happen_does(streams: bool, rare: set[str], pytestconfig: pytest.Config) -> None:
    """No promise is kept only because nothing ever goes wrong."""
    if pytestconfig.getoption("--loop") == "eager":
        rare = rare - {"never begun"}  # an eager task begins at once
    seen: set[str] = set()
    for chance in range(100):
        seen |= stress.stress(500, chance, streams=streams).happened.keys()
        if rare <= seen:
            return
    pytest.fail(f"never seen: {', '.join(sorted(rare - seen))}")


WORKLOAD = Workload(
    (
        WorkStage("a", naps_s=(1.0,), outputs=("a.0",)),
        WorkStage("b", calls=1, naps_s=(0.5,), ending="transient", recovers_at=2),
        WorkStage("c", ("a", "b"), ending="raise", required=False),
        WorkStage("d", ("a",), naps_s=(7.0,), timeout_s=1.5, cleanup_s=0.25),
    ),
    deadline_s=9.0,
    attempts=3,
    failures=2,
)

PROCESS = """
import sys
from stageflow.testing.simulation import simulate
from tests.property.stress import check_run
from tests.property.test_stress import WORKLOAD
for seed in range(50):
    sys.stdout.buffer.write(simulate(check_run, WORKLOAD, seed=seed).log)
"""


def test_another_process_sees_the_same_events() -> None:
    """Byte for byte, whatever the hashes of strings are there."""
    here = b"".join(simulate(check_run, WORKLOAD, seed=seed).log for seed in range(50))
    for hash_seed in ("1", "77"):
        there = subprocess.run(
            [sys.executable, "-c", PROCESS],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
        ).stdout
        assert there == here
    assert here.count(b".retrying") >= 50


def test_a_failure_is_reproduced_by_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workload, faults and order: what fails here fails by its token alone."""
    outcome = simulate(check_run, WORKLOAD, scenario=Scenario(7, switches=9, cancel_at_step=12))
    token = Token.parse(outcome.token)
    assert token.main == "tests.property.stress:check_run"
    assert token.args == (WORKLOAD,)
    assert replay(outcome.token).log == outcome.log
    monkeypatch.setattr(stress, "_check_bag", _refuse)
    with pytest.raises(AssertionError, match="refused"):
        replay(outcome.token)


def _refuse(*_: object) -> None:
    raise AssertionError("refused")


def test_a_workload_travels_in_a_token() -> None:
    """It comes back equal, tuples included."""
    token = Token(Scenario(), f"{__name__}:_refuse", (WORKLOAD,))
    assert Token.parse(str(token)).args == (WORKLOAD,)


def test_a_calm_workload_takes_its_critical_path() -> None:
    """To the last bit, in any order."""
    calm = Workload(
        (
            WorkStage("a", naps_s=(0.1, 0.2)),
            WorkStage("b", calls=2),
            WorkStage("c", ("a",), naps_s=(3.3,)),
            WorkStage("d", ("b", "c"), naps_s=(0.7,), runs=False),
            WorkStage("e", ("a", "d"), calls=1),
        ),
        call_s=0.9,
    )
    for seed in range(20):
        outcome = simulate(check_run, calm, seed=seed)
        assert outcome.elapsed_s == critical_path_s(calm) + stress.AFTERWARDS_S


def critical_path_s(workload: Workload) -> float:
    """Return how long a run without streams and trouble takes, in seconds of virtual time."""
    ends: dict[str, float] = {}
    left = list(workload.stages)
    while left:
        stage = next(s for s in left if all(d in ends for d in s.dependencies))
        left.remove(stage)
        at_s = max((ends[name] for name in stage.dependencies), default=0.0)
        if stage.runs:
            # Added one by one, as the clock adds them.
            for takes_s in (*stage.naps_s, *[workload.call_s] * stage.calls):
                at_s += takes_s
        ends[stage.name] = at_s
    return max(ends.values(), default=0.0)


def _shards(folder: Path, count: int, *options: str) -> list[str]:
    """Run all shards of a small stress test; return the files that they wrote."""
    files = [str(folder / f"{index}.json") for index in range(1, count + 1)]
    for index, file in enumerate(files, start=1):
        shard = ["--schedules", "100", "--shard", f"{index}/{count}", "--json", file]
        assert stress_test.main([*shard, *options]) == 0
    return files


def test_shards_are_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No shard draws what another has drawn, and the whole has seen what they saw together."""
    files = _shards(tmp_path, 3, "--seed", "5")
    seen = [stress_test.Report.load(Path(file)).tally for file in files]
    half = math.ceil(math.ceil(100 / 3) / 2)
    alone = [
        stress.stress(half, chance) + stress.stress(half, chance, streams=True)
        for chance in (15, 16, 17)
    ]
    assert seen == alone
    assert seen[0].happened != seen[1].happened
    capsys.readouterr()
    assert stress_test.main(["--merge", *files]) == 0
    printed = capsys.readouterr().out
    assert f"{sum(tally.schedules for tally in alone):,} schedules held" in printed
    failed = sum(tally.happened["run failed"] for tally in alone)
    assert re.search(rf"run failed +in +{failed} of them", printed)
    assert stress_test.main(["--merge", *files[1:]]) == 2
    assert "missing: 1/3" in capsys.readouterr().err


def test_what_breaks_in_a_shard_breaks_the_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merge names the shard and how to run it again; shards of two stress tests are refused."""
    first, second = _shards(tmp_path, 2)
    other = str(tmp_path / "other.json")
    assert stress_test.main(["--schedules", "90", "--shard", "2/2", "--json", other]) == 0
    capsys.readouterr()
    assert stress_test.main(["--merge", first, other]) == 2
    assert "of 2 stress tests" in capsys.readouterr().err
    monkeypatch.setattr(stress, "_check_bag", _refuse)
    assert stress_test.main(["--schedules", "100", "--shard", "2/2", "--json", second]) == 1
    assert stress_test.main(["--merge", first, second]) == 1
    assert re.search(r"shard 2/2: AssertionError: refused\n.*--simulate=", capsys.readouterr().out)
