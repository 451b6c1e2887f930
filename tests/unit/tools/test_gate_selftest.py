"""The gate's self-test: plants that fit, rates with honest intervals, and faults that are seen."""

from __future__ import annotations

import ast
import json
import math
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

import stageflow
from stageflow.pulse import PulseError
from stageflow.pulse.gate import Both, Budget, Catalogue, Exit, Gate, Limits, TimedSide
from stageflow.pulse.gate.worker import Block
from tools.gate_selftest import report
from tools.gate_selftest.__main__ import _added
from tools.gate_selftest.plants import (
    HALF_THE_WORK,
    LOST_OVERLAP,
    RARE_WAIT,
    SLOWDOWNS,
    TIMED_SLOWDOWN,
    LostOverlap,
    Slowdown,
)
from tools.gate_selftest.rounds import Pool, Round, evidence, values_of
from tools.gate_selftest.trials import Rate, faults, identical

LIMITS = Limits(counted_fail=1.095, counted_warn=1.02, timed_fail=1.2, timed_warn=1.05)
UNITS = {
    "exact.Work.track_tasks('voice')": "tasks",
    "counted.Operation.track_instructions('bag.write')": "instructions",
    "timed('bag.write')": "ns",
}
BUDGET = Budget(
    "Bag write", "timed('bag.write')", "ns", 1.0, 1e6, 1e6, Gate.PRE_MERGE, "engine", "bag", 1
)


def _round(instructions: float = 1_000.0, head_ns: float = 100.0) -> Round:
    """A round in which the head of each pair takes `head_ns`, and the base 100 ns."""

    def both() -> Mapping[str, Both]:
        base, head = (
            TimedSide([Block(tuple([ns] * 50), ns) for _ in range(3)]) for ns in (100.0, head_ns)
        )
        return {"bag.write": (base, head)}

    exact, counted, _ = UNITS
    return Round({exact: 4.0, counted: instructions}, [both(), both()])


def _pool(*rounds: Round) -> Pool:
    return Pool("quiet", rounds=list(rounds), loads=[0.5] * len(rounds))


@pytest.mark.parametrize(
    ("happened", "of", "low", "high"),
    # By hand, from the formula of the score interval with z = 1.96.
    [(0, 30, 0.0, 0.1135), (15, 30, 0.3315, 0.6685), (30, 30, 0.8865, 1.0)],
)
def test_interval_of_a_rate(happened: int, of: int, low: float, high: float) -> None:
    """None of thirty is not none of a thousand: the interval says how much is known."""
    assert Rate(happened, of).interval == pytest.approx((low, high), abs=1e-4)


def test_nothing_tried_says_nothing() -> None:
    """Without a trial anything is possible."""
    assert Rate(0, 0).interval == (0.0, 1.0)
    assert math.isnan(Rate(0, 0).share)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, to plant into."""
    return Path(
        shutil.copytree(
            Path(stageflow.__file__).parent,
            tmp_path / "stageflow",
            ignore=shutil.ignore_patterns("static", "__pycache__"),
        )
    )


@pytest.mark.parametrize(
    "plant", [*SLOWDOWNS, TIMED_SLOWDOWN, RARE_WAIT], ids=lambda plant: plant.layer
)
def test_slowdowns_fit_the_code(plant: Slowdown, package: Path) -> None:
    """Each is planted into the function that it names, behind the docstring, and nowhere else."""
    before = (package / plant.file).read_text(encoding="utf-8").splitlines()
    replace(plant, statement="_ = None").into(package, 3)
    after = (package / plant.file).read_text(encoding="utf-8")
    assert [line for line in after.splitlines() if line.strip() != "_ = None"] == before
    name = plant.function.rpartition(".")[2]
    planted = [
        node.name
        for node in ast.walk(ast.parse(after))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for statement in node.body
        if ast.unparse(statement) == "_ = None"
    ]
    assert planted == [name] * 3


def test_the_lost_overlap_fits_the_code(package: Path) -> None:
    """Where it is planted, memory waits for the profile that it ran beside."""
    HALF_THE_WORK.into(Path(shutil.copytree("benchmarks", package.parent / "benchmarks")))
    LOST_OVERLAP.into(package)
    assert 'dependencies=("profile",)' in (package / LOST_OVERLAP.file).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "plant",
    [
        lambda package: Slowdown("", "engine/bag.py", "ContextBag.gone", "").into(package, 1),
        lambda package: Slowdown("", "engine/bag.py", "Gone.write", "").into(package, 1),
        lambda package: LostOverlap("", "engine/bag.py", "no such text", "", ()).into(package),
    ],
)
def test_a_plant_that_no_longer_fits_says_so(plant: Callable[[Path], None], package: Path) -> None:
    """Code that moved does not make a self-test that plants nothing."""
    with pytest.raises(PulseError, match=r"does not fit the code: engine/bag\.py.*fix plants\.py"):
        plant(package)


def test_identical_rounds_do_not_alarm() -> None:
    """Rounds that are alike are compared as often as asked, each real one once, and none alarms."""
    pool = _pool(*[_round() for _ in range(7)])
    found = identical(pool, UNITS, LIMITS, draws=20, chance=random.Random(1))
    assert (found.alarms, found.resampled) == (Rate(0, 3), Rate(0, 20))
    assert found.named == Rate(0, 23)
    assert found.scatter == 0.0


def test_a_gate_that_alarms_is_found_out() -> None:
    """A counted series that jumps by a fifth in every other round alarms in half of the draws."""
    pool = _pool(*[_round(1_000.0 if n % 2 else 1_200.0) for n in range(8)])
    found = identical(pool, UNITS, LIMITS, draws=200, chance=random.Random(1))
    assert 0.15 < found.resampled.share < 0.45  # base low and head high: 4/8 * 4/7
    assert found.scatter == pytest.approx(0.2)
    assert found.worst == "counted.Operation.track_instructions('bag.write')"
    assert set(found.culprits) == {found.worst}


def test_the_resampled_timings_are_those_of_the_pairs() -> None:
    """A benchmark that was slower in all pairs, and again, is slower in each resample."""
    pool = _pool(*[_round(head_ns=150.0) for _ in range(4)])
    found = identical(pool, UNITS, LIMITS, draws=10, chance=random.Random(1))
    assert found.resampled == Rate(10, 10)
    assert set(found.culprits) == {"timed('bag.write')"}


def test_no_fault_of_the_gate_reads_as_a_verdict() -> None:
    """For each fault, the exit code is the one that names it."""
    pool = _pool(_round(), _round())
    found = faults(pool, UNITS, LIMITS, [BUDGET])
    assert len(found) >= 8
    assert [one for one in found if one.found is not one.expected] == []
    assert {one.expected for one in found} == {Exit.INSUFFICIENT_DATA, Exit.BROKEN}


def test_evidence_keeps_the_pairs_of_all_processes() -> None:
    """Blocks of several pairs of processes are those of one run."""
    one = _round()
    found = evidence(UNITS, one.values, one.values, [*one.timed, *one.timed])
    cpu = found.timings["timed('bag.write')"].cpu
    assert cpu is not None
    assert cpu.samples == 4 * 3


def test_recorded_rounds_survive_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool made anew over the same folder has the rounds of its condition, value for value."""
    one = _round()
    monkeypatch.setattr("tools.gate_selftest.rounds.values_of", lambda *_: one.values)
    monkeypatch.setattr("tools.gate_selftest.rounds.time_pairs", lambda *_, **__: one.timed[0])
    found = Catalogue({}, ())
    pool = Pool("quiet", tmp_path)
    for _ in range(2):
        pool.record(tmp_path, tmp_path, found)
    again = Pool("quiet", tmp_path)
    assert again.rounds == pool.rounds == [one, one]
    assert again.loads == pool.loads
    assert Pool("loaded", tmp_path).rounds == []


@pytest.mark.parametrize("answer", [{"error": "KeyError: 1"}, {"late": "too busy"}])
def test_an_unmeasured_comparison_is_not_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, str]
) -> None:
    """Comparing nothing with nothing would never alarm."""
    worker = MagicMock()
    worker.return_value.__enter__.return_value.measure.return_value = {"x": answer}
    monkeypatch.setattr("tools.gate_selftest.rounds.Worker", worker)
    with pytest.raises(PulseError, match=next(iter(answer.values()))):
        values_of(tmp_path, tmp_path, ["x"])


def _found(**changed: Any) -> dict[str, Any]:
    rate = {"happened": 0, "of": 100, "low": 0.0, "high": 0.037}
    caught = {"happened": 100, "of": 100, "low": 0.963, "high": 1.0}
    return {
        "at": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789abcdef",
        "machine": {"cpus": 2, "system": "Linux", "arch": "x86_64", "python": "3.11.7"},
        "limits": {"counted_fail": 1.095, "counted_warn": 1.02, "timed_fail": 1.2},
        "series": 3,
        "identical": [
            {
                "condition": "quiet",
                "load": 0.5,
                "alarms": rate,
                "resampled": rate,
                "named": rate,
                "scatter": 0.00001,
                "worst": "counted.x",
            }
        ],
        "planted": [
            {
                "layer": "bag write",
                "series": "counted.x",
                "planted": 0.05,
                "failed": rate,
                "caught": caught,
            }
        ],
        "others": [{"what": "a tail", "by": "budgets", "found": "3", "caught": True}],
        "faults": [{"what": "nothing matched", "expected": 4, "found": 4}],
        **changed,
    }


def test_the_page_says_what_was_met() -> None:
    """Each table has its row, with the interval, and nothing is missed."""
    text = report.markdown(_found())
    assert "MISSED" not in text
    assert "0 of 100, 0.0% [0.0% to 3.7%]" in text
    assert "| bag write | `counted.x` | +5.0% |" in text
    assert "| nothing matched | 4 (INSUFFICIENT_DATA) | 4 (INSUFFICIENT_DATA) |" in text


@pytest.mark.parametrize(
    "changed",
    [
        {"faults": [{"what": "nothing matched", "expected": 4, "found": 0}]},
        {"others": [{"what": "a tail", "by": "budgets", "found": "0", "caught": False}]},
        {
            "planted": [
                {
                    "layer": "a kernel",
                    "series": "exact.x",
                    "planted": 0.01,
                    "failed": {"happened": 99, "of": 100, "low": 0.9, "high": 1.0},
                    "caught": {"happened": 99, "of": 100, "low": 0.9, "high": 1.0},
                }
            ]
        },
    ],
)
def test_the_page_says_what_was_missed(changed: dict[str, Any]) -> None:
    """A fault that read as fine, and an overlap not caught once of a hundred times, are missed."""
    assert report.markdown(_found(**changed)).count("MISSED") == 1


def test_short_runs_add_up() -> None:
    """Rows of other commits stay; one of the same rounds, and more, takes the place of theirs."""
    rate = {"happened": 1, "of": 20, "low": 0.0, "high": 0.2}
    row = {**_found()["identical"][0], "at": "2026-02-03", "commit": "fedcba", "alarms": rate}
    more = {**row, "alarms": {**rate, "happened": 0, "of": 30}}
    found = _added(_added(_found(), [row]), [more])
    assert [one["commit"] for one in found["identical"]] == ["0123456789abcdef", "fedcba"]
    text = report.markdown(found)
    assert "| as it was | 2026-02-03, fedcba |" in text
    assert "In all, 0 of 130 real comparisons alarmed, which is 0.0% to 2.9%" in text


def test_the_stored_result_is_the_page(tmp_path: Path) -> None:
    """The page of the repository is made from the figures that stand beside it."""
    docs = Path(__file__).resolve().parents[3] / "docs"
    found = json.loads((docs / "gate-selftest.json").read_text(encoding="utf-8"))
    assert (docs / "gate-selftest.md").read_text(encoding="utf-8") == report.markdown(found)
