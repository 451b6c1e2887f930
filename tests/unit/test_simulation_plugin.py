"""Simulated tests in pytest: the marker, the fixture, and the option that repeats one run."""

from __future__ import annotations

import re

import pytest

from stageflow.testing.simulation import Scenario, Token
from tests.utils.plugin_project import project, run_tests

pytest_plugins = ["pytester"]
__all__ = ["project"]  # a fixture

RACE = """
import asyncio
import pytest

runs = []

class Race:
    @pytest.mark.simulate(runs=300, seed=10)
    async def test_race(self, sim):
        '''Fails only where the last of three comes first, the second second.'''
        order = []
        async def run(number):
            await asyncio.sleep(3600)
            order.append(number)
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(run(number))
        runs.append(order)
        print("RUN", order)
        assert order != [2, 1, 0]

class TestRace(Race):
    pass

def test_other():
    pass
"""


def token_in(result: pytest.RunResult) -> str:
    """The token that a failing run has printed."""
    found = re.search(r"pytest --simulate=(sf1-[\w-]+)", result.stdout.str())
    assert found is not None, result.stdout.str()
    return found.group(1)


def test_a_marked_test_runs_in_many_orders(project: pytest.Pytester) -> None:
    """As often as it says, in virtual time, with what pytest gives it."""
    result = run_tests(
        project,
        """
import asyncio
import pytest

seen = []

@pytest.fixture
def limit():
    return 60

@pytest.mark.simulate(runs=25)
async def test_wait(sim, limit):
    await asyncio.sleep(limit)
    assert sim.loop.time() == 60.0
    seen.append(sim.context().new_id())

def test_seen():
    assert len(seen) == len(set(seen)) == 25
""",
    )
    result.assert_outcomes(passed=2)


def test_a_failure_is_repeated_by_its_token(project: pytest.Pytester) -> None:
    """That run and no other, however many tests there are, without naming a file."""
    failed = run_tests(project, RACE)
    failed.assert_outcomes(passed=1, failed=1)
    assert failed.stdout.str().count("RUN") > 1
    again = run_tests(project, RACE, f"--simulate={token_in(failed)}")
    again.assert_outcomes(failed=1)
    assert [line for line in again.outlines if line.startswith("RUN")] == ["RUN [2, 1, 0]"]
    assert token_in(again) == token_in(failed)


def test_the_second_simulation_of_a_test_is_repeated(project: pytest.Pytester) -> None:
    """The first goes its own way, the one that failed as it did."""
    tests = """
from stageflow.testing.simulation import explore, simulate

def test_two():
    async def first(sim):
        print("FIRST", sim.random.random())

    async def second(sim):
        print("SECOND")
        assert sim.random.random() < 0.9

    simulate(first, seed=4)
    explore(second, runs=200)
"""
    failed = run_tests(project, tests)
    again = run_tests(project, tests, f"--simulate={token_in(failed)}")
    again.assert_outcomes(failed=1)

    def said(result: pytest.RunResult, word: str) -> list[str]:
        return [line for line in result.outlines if line.startswith(word)]

    assert said(again, "FIRST") == said(failed, "FIRST")
    assert len(said(again, "SECOND")) == 1 < len(said(failed, "SECOND"))


def test_arguments_of_a_token_stand_in_for_drawn_ones(project: pytest.Pytester) -> None:
    """What Hypothesis found is repeated with its data, without Hypothesis drawing any."""
    tests = """
from hypothesis import given, settings, strategies as st
from stageflow.testing.simulation import simulate

async def check(sim, numbers):
    print("CHECKED", numbers)
    assert sum(numbers) < 50

@settings(derandomize=True, database=None)
@given(st.lists(st.integers(0, 100)), st.integers(0, 9))
def test_sum(numbers, seed):
    simulate(check, numbers, seed=seed)
"""
    failed = run_tests(project, tests)
    failed.assert_outcomes(failed=1)
    again = run_tests(project, tests, f"--simulate={token_in(failed)}")
    again.assert_outcomes(failed=1)
    assert [line for line in again.outlines if line.startswith("CHECKED")] == ["CHECKED [50]"]


def test_each_run_has_its_faults_anew(project: pytest.Pytester) -> None:
    """A fault that comes and goes begins from its start in every run."""
    result = run_tests(
        project,
        """
import pytest
from stageflow import Message, ProviderRegistry
from stageflow.providers.fake import FakeLLM

@pytest.mark.fault("llm", "intermittent", script="fail, ok")
@pytest.mark.simulate(runs=5)
async def test_llm(sim):
    llm = ProviderRegistry(llm=FakeLLM("fine")).llm
    with pytest.raises(Exception):
        await llm.complete([Message("user", "hi")])
    assert await llm.complete([Message("user", "hi")]) == "fine"
    assert sim.faults[0].injected == 1
""",
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("tests", "problem"),
    [
        ("@pytest.mark.simulate\ndef test_sync(): pass", "is no async function"),
        ("@pytest.mark.simulate(times=3)\nasync def test_x(): pass", "takes runs and seed"),
        ("@pytest.mark.simulate(3)\nasync def test_x(): pass", "takes runs and seed, not 3"),
        ("def test_x(sim): pass", "sim is for tests that are marked"),
        ("@pytest.mark.simulate\nasync def test_x(faults): pass", "ask sim.faults"),
    ],
)
def test_misuse_is_told(project: pytest.Pytester, tests: str, problem: str) -> None:
    """With what to write instead."""
    result = run_tests(project, f"import pytest\n\n{tests}\n")
    told = "\n".join([*result.outlines, *result.errlines])
    assert problem in told
    assert "INTERNALERROR" not in told


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("nonsense", "does not begin"),
        ("sf1-nonsense", "damaged"),
    ],
)
def test_a_bad_token_is_told(project: pytest.Pytester, token: str, problem: str) -> None:
    """Before anything is run."""
    result = run_tests(project, "def test_x(): pass\n", f"--simulate={token}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert problem in "\n".join([*result.outlines, *result.errlines])


def test_a_token_of_another_project_is_told(project: pytest.Pytester) -> None:
    """Its test is not here."""
    token = token_in(run_tests(project, RACE))
    result = run_tests(project, "def test_x(): pass\n", f"--simulate={token}", ".")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "the token's test is not here" in "\n".join([*result.outlines, *result.errlines])


def test_a_token_without_a_test_is_told(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made outside of pytest, and Python repeats it."""
    result = run_tests(project, "def test_x(): pass\n", f"--simulate={Token(Scenario())}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "names no test" in "\n".join([*result.outlines, *result.errlines])
