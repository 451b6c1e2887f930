"""The storm holds: see `storm.py` for what is run, and what must hold of it."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings

from stageflow.testing.simulation import Scenario, Token, replay, simulate
from stageflow.testing.workloads import Workload, WorkStage
from tests.property import storm
from tests.property.storm import Example, Tally, blow, examples, weather

#: So many parts, that several processes can share them.
PARTS = 8

#: How many schedules the parts are to run together, in a usual run and with the nightly profile.
USUAL, NIGHTLY = 16_000, 500_000


@pytest.mark.parametrize("part", range(PARTS))
def test_the_storm_holds(part: int) -> None:
    """Whatever the pipeline, the faults, the order and the moment of the cancellation."""
    most = settings().max_examples
    wanted = (NIGHTLY if most >= 1_000 else USUAL) / PARTS
    orders = max(1, math.ceil(wanted / most) - 1)
    tally = Tally()

    @given(examples())
    def every(example: Example) -> None:
        blow(example, tally, orders, first=part * 1_000)

    every()
    assert tally.schedules >= wanted


def test_what_can_happen_does() -> None:
    """No promise is kept only because nothing ever goes wrong."""
    rare = {
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
    seen: set[str] = set()
    for chance in range(100):
        seen |= storm.storm(500, chance).happened.keys()
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
from pathlib import Path
from stageflow.testing.simulation import simulate
from tests.property.storm import weather
from tests.property.test_storm import WORKLOAD
for seed in range(50):
    sys.stdout.buffer.write(simulate(weather, WORKLOAD, seed=seed).log)
"""


def test_another_process_sees_the_same_storm() -> None:
    """Byte for byte, whatever the hashes of strings are there."""
    here = b"".join(simulate(weather, WORKLOAD, seed=seed).log for seed in range(50))
    for hash_seed in ("1", "77"):
        there = subprocess.run(
            [sys.executable, "-c", PROCESS],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
        ).stdout
        assert there == here
    assert here.count(b".retrying") >= 50


def test_a_failure_of_the_storm_travels_in_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workload, faults and order: what fails here fails by its token alone."""
    outcome = simulate(weather, WORKLOAD, scenario=Scenario(7, switches=9, cancel_at_step=12))
    token = Token.parse(outcome.token)
    assert token.main == "tests.property.storm:weather"
    assert token.args == (WORKLOAD,)
    assert replay(outcome.token).log == outcome.log
    monkeypatch.setattr(storm, "_check_bag", _refuse)
    with pytest.raises(AssertionError, match="refused"):
        replay(outcome.token)


def _refuse(*_: object) -> None:
    raise AssertionError("refused")


def test_a_workload_survives_being_written_down() -> None:
    """What is as usual is left out, and comes back."""
    plain = WORKLOAD.to_dict()
    assert Workload.from_dict(plain) == WORKLOAD
    assert plain["stages"][2] == {
        "name": "c",
        "dependencies": ("a", "b"),
        "ending": "raise",
        "required": False,
    }


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
        outcome = simulate(weather, calm, seed=seed)
        assert outcome.elapsed_s == calm.critical_path_s() + storm.AFTERWARDS_S


def _shards(folder: Path, count: int, *options: str) -> list[str]:
    """Run all shards of a small storm; the files that they kept."""
    files = [str(folder / f"{index}.json") for index in range(1, count + 1)]
    for index, file in enumerate(files, start=1):
        shard = ["--schedules", "100", "--shard", f"{index}/{count}", "--json", file]
        assert storm.main([*shard, *options]) == 0
    return files


def test_shards_of_a_storm_are_put_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No shard draws what another has drawn, and the whole has seen what they saw together."""
    files = _shards(tmp_path, 3, "--seed", "5")
    seen = [storm.Report.load(Path(file)).tally for file in files]
    alone = [storm.storm(math.ceil(100 / 3), chance) for chance in (15, 16, 17)]
    assert seen == alone
    assert seen[0].happened != seen[1].happened
    capsys.readouterr()
    assert storm.main(["--merge", *files]) == 0
    printed = capsys.readouterr().out
    assert f"{sum(tally.schedules for tally in alone):,} schedules held" in printed
    failed = sum(tally.happened["run failed"] for tally in alone)
    assert re.search(rf"run failed +in +{failed} of them", printed)
    assert storm.main(["--merge", *files[1:]]) == 2
    assert "missing: 1/3" in capsys.readouterr().err


def test_what_breaks_in_a_shard_breaks_the_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merge names the shard and how to run it again; shards of two storms are refused."""
    first, second = _shards(tmp_path, 2)
    other = str(tmp_path / "other.json")
    assert storm.main(["--schedules", "90", "--shard", "2/2", "--json", other]) == 0
    capsys.readouterr()
    assert storm.main(["--merge", first, other]) == 2
    assert "of 2 storms" in capsys.readouterr().err
    monkeypatch.setattr(storm, "_check_bag", _refuse)
    assert storm.main(["--schedules", "100", "--shard", "2/2", "--json", second]) == 1
    assert storm.main(["--merge", first, second]) == 1
    assert re.search(r"shard 2/2: AssertionError: refused\n.*--simulate=", capsys.readouterr().out)
