"""Simulated tests in pytest: the marker, the fixture, and the option that repeats one run."""

from __future__ import annotations

import re

import pytest

from stageflow.testing import Scenario, Token
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


FIRST_IN_FIRST_OUT = """
import asyncio
import pytest

runs = []
orders = set()

@pytest.mark.simulate(order="asyncio")
async def test_order(sim, tmp_path):
    order = []
    async def run(number):
        await asyncio.sleep(3600)
        order.append(number)
    await asyncio.gather(*map(run, range(20)))
    assert order == list(range(20))
    assert sim.loop.time() == 3600
    runs.append(tmp_path)

@pytest.mark.fault("llm", "error", allow_unused=True)
@pytest.mark.simulate(order="asyncio")
async def test_fault(sim):
    assert [fault.provider for fault in sim.faults] == ["llm"]

@pytest.mark.simulate(order="asyncio", runs=30, stretch=0.1)
async def test_times(sim):
    order = []
    async def run(seconds):
        await asyncio.sleep(seconds)
        order.append(seconds)
    asyncio.get_running_loop().call_soon(order.append, 0)
    await asyncio.gather(run(0.1), run(0.105))
    assert order.pop(0) == 0
    orders.add(tuple(order))

def test_runs():
    assert len(runs) == 1
    assert len(orders) == 2
"""


def test_a_marked_test_runs_once_in_asyncio_s_own_order(project: pytest.Pytester) -> None:
    """In virtual time, first in, first out, with fixtures and faults; more runs differ in time."""
    run_tests(project, FIRST_IN_FIRST_OUT).assert_outcomes(passed=4)


SICK = """
import asyncio
import pytest

pytestmark = pytest.mark.simulate(order="asyncio")

async def test_deadlock():
    await asyncio.Event().wait()

async def test_left_behind():
    test_left_behind.task = asyncio.create_task(asyncio.sleep(1), name="forgotten")

async def test_thread():
    await asyncio.open_connection("192.0.2.1", 9)

async def test_callback():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(1)
"""


def test_a_deadlock_a_task_left_behind_and_real_io_fail(project: pytest.Pytester) -> None:
    """So does what a callback raises; each failure says how to run it again."""
    result = run_tests(project, SICK)
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines_random(
        [
            "*DeadlockError: every task waits*",
            "*LeftBehindError: tasks were left behind:*",
            "*RealIOError: loop.sock_connect() is real I/O*",
            "*ZeroDivisionError*",
        ]
    )
    again = run_tests(project, SICK, f"--simulate={token_in(result)}")
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["*DeadlockError*"])


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
    """Hypothesis' failing data is repeated, without Hypothesis drawing any."""
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
        ("@pytest.mark.simulate\ndef test_sync(): pass", "but is not async"),
        (
            "@pytest.mark.simulate(times=3)\nasync def test_x(): pass",
            "seed, order and stretch, not times",
        ),
        ("@pytest.mark.simulate(3)\nasync def test_x(): pass", "seed, order and stretch, not 3"),
        *(
            (f"@pytest.mark.simulate({arguments})\nasync def test_x(): pass", problem)
            for arguments, problem in {
                "order='random'": "give 'tasks', 'asyncio' or 'any'",
                "stretch=-1": "give a share of the delay",
                "stretch='much'": "simulate cannot take",
                "runs=0": "takes runs from 1 up, not 0",
                "runs=-5": "takes runs from 1 up, not -5",
                "runs=None": "takes runs from 1 up, not None",
                "runs=1.5": "takes runs from 1 up, not 1.5",
                "order='asyncio', runs=0": "takes runs from 1 up, not 0",
                "seed=None": "it is None; give 0",
            }.items()
        ),
        ("def test_x(sim): pass", "sim is for tests that are marked"),
    ],
)
def test_misuse_is_an_error(project: pytest.Pytester, tests: str, problem: str) -> None:
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
def test_a_bad_token_is_an_error(project: pytest.Pytester, token: str, problem: str) -> None:
    """Before anything is run."""
    result = run_tests(project, "def test_x(): pass\n", f"--simulate={token}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert problem in "\n".join([*result.outlines, *result.errlines])


def test_a_token_of_another_project_is_an_error(project: pytest.Pytester) -> None:
    """Its test is not here."""
    token = token_in(run_tests(project, RACE))
    result = run_tests(project, "def test_x(): pass\n", f"--simulate={token}", ".")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "the token's test is not here" in "\n".join([*result.outlines, *result.errlines])


def test_a_token_without_a_test_is_an_error(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made outside of pytest, and Python repeats it."""
    result = run_tests(project, "def test_x(): pass\n", f"--simulate={Token(Scenario())}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "names no test" in "\n".join([*result.outlines, *result.errlines])


COMBINED = """
import unittest
import pytest
from hypothesis import given, settings, strategies as st
from stageflow import Message, ProviderRegistry
from stageflow.providers.fake import FakeLLM
from stageflow.testing.simulation import explore

HI = [Message("user", "hi")]
runs = []
simulated = pytest.mark.simulate(runs=3)
fault = pytest.mark.fault("llm", "error", exception=KeyError("one's own"))

@pytest.fixture
def llm(faults):
    registry = ProviderRegistry(llm=FakeLLM("fine"))
    yield lambda: registry.llm
    assert len(faults) == (faults.marked != ())

@pytest.fixture
async def made():
    return "made"

async def failing(llm):
    with pytest.raises(KeyError):
        await llm().complete(HI)

@fault
@simulated
async def test_fixture(sim, llm, faults):
    await failing(llm)
    assert faults["llm"].injected == sim.faults[0].injected == 1

@fault
@simulated
async def test_without_sim(llm, made):
    assert made == "made"
    await failing(llm)

@pytest.mark.parametrize("error", [
    pytest.param("ValueError", marks=pytest.mark.fault("llm", "error", exception=ValueError)),
    pytest.param("KeyError", marks=fault),
    pytest.param("none"),
])
@simulated
async def test_parametrized(error, llm):
    try:
        await llm().complete(HI)
        raised = "none"
    except Exception as caught:
        raised = type(caught).__name__
    assert raised == error

@pytest.mark.fault(provider="llm", fault_type="timeout", duration_ms=1)
class TestClass:
    @pytest.mark.simulate(order="asyncio")
    async def test_method(self, llm):
        with pytest.raises(TimeoutError):
            await llm().complete(HI)

    @fault
    @simulated
    async def test_nearest(self, llm):
        await failing(llm)

    @settings(max_examples=5, database=None)
    @given(number=st.integers(0, 9))
    @simulated
    async def test_given(self, sim, number):
        runs.append(number)
        with pytest.raises(TimeoutError):
            await ProviderRegistry(llm=FakeLLM("fine")).llm.complete(HI)
        assert sim.loop.time() == 0.001

@simulated
async def test_block(sim, faults):
    with faults.inject("llm", "disconnect") as llm, pytest.raises(ConnectionResetError):
        await ProviderRegistry(llm=FakeLLM("fine")).llm.complete(HI)
    assert llm.injected == 1

@pytest.mark.fault("llm", "intermittent", script="fail, ok")
def test_runs_of_its_own(faults):
    async def main(sim):
        llm = ProviderRegistry(llm=FakeLLM("fine")).llm
        with pytest.raises(Exception):
            await llm.complete(HI)
        assert await llm.complete(HI) == "fine"
    explore(main, runs=4)
    assert faults["llm"].injected == 4

def test_examples():
    assert len(runs) >= 15 and len(runs) % 3 == 0
"""


def test_markers_and_fixtures_go_together_with_simulations(project: pytest.Pytester) -> None:
    """The faults of the markers are those of each run, whatever else the test is marked with."""
    run_tests(project, COMBINED).assert_outcomes(passed=11)


ABUSED = """
import unittest
import pytest
from hypothesis import given, settings, strategies as st
from stageflow import ProviderRegistry
from stageflow.providers.fake import FakeLLM

@pytest.fixture
def context(sim):
    return sim.context()

simulated = pytest.mark.simulate(runs=2)

@simulated
async def test_fixture_of_sim(context):
    pass

@pytest.mark.fault("lmm", "error")
@simulated
async def test_misspelt(sim):
    pass

@pytest.mark.fault("llm")
@simulated
async def test_incomplete(sim):
    pass

@pytest.mark.fault("llm", "error", duration_ms=3)
@simulated
async def test_option(sim):
    pass

@pytest.mark.fault("lmm", "error")
def test_misspelt_without_simulation():
    pass

@pytest.mark.fault("lmm", "error", allow_unused=True)
@simulated
async def test_allowed(sim):
    pass

@pytest.mark.fault("lmm", "error", allow_unused=True)
def test_allowed_without_simulation():
    pass

@pytest.mark.fault("lmm", "error")
def test_skipped():
    pytest.skip("not here")
"""


def test_what_does_not_go_together_fails_its_own_test(project: pytest.Pytester) -> None:
    """With what to write instead, and not the whole session."""
    result = run_tests(project, ABUSED)
    result.assert_outcomes(passed=2, failed=4, skipped=1, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "*sim belongs to one run, and a fixture is made once for all of them*",
            "*nothing in the block asked for a provider 'lmm', did you mean 'llm'?*",
            "*missing 1 required positional argument: 'fault_type'*",
            "*there is no such option; the options that fit are message*",
        ]
    )


SLOW_GIVEN = """
import asyncio
import pytest
from hypothesis import given, settings, strategies as st

@pytest.mark.simulate(runs=5)
@settings(derandomize=True, database=None, deadline=None, max_examples=50)
@given(numbers=st.lists(st.integers(0, 100)))
async def test_sum(sim, numbers):
    order = []
    async def run(number):
        await asyncio.sleep(1)
        order.append(number)
    await asyncio.gather(*map(run, numbers))

    assert order == numbers or sum(numbers) < 50
"""


def test_an_example_of_hypothesis_is_repeated(project: pytest.Pytester) -> None:
    """A token holds the order, Hypothesis finds the example."""
    failed = run_tests(project, SLOW_GIVEN)
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["*: test_sum(*"])
    again = run_tests(project, SLOW_GIVEN, f"--simulate={token_in(failed)}")
    again.assert_outcomes(failed=1)


def test_a_method_of_a_unittest_case_is_refused(project: pytest.Pytester) -> None:
    """It would run without its set-up, as nobody but unittest knows it."""
    tests = """
import unittest
import pytest

class TestCase(unittest.IsolatedAsyncioTestCase):
    @pytest.mark.simulate
    async def test_x(self):
        pass
"""
    result = run_tests(project, tests)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "belongs to a unittest.TestCase" in "\n".join([*result.outlines, *result.errlines])


def test_the_number_of_runs_is_an_option_and_the_orders_are_counted(
    project: pytest.Pytester,
) -> None:
    """A line for each simulated test; one that is of asyncio's own order stays one run."""
    source = """
import asyncio
import pytest

@pytest.mark.simulate(runs=3)
async def test_pair():
    await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

@pytest.mark.simulate(order="asyncio")
async def test_one():
    pass
"""
    result = run_tests(project, source, "--simulate-runs=40")
    result.assert_outcomes(passed=2)
    shown = result.stdout.str()
    assert re.search(r"::test_pair: 40 runs, \d orders", shown)
    assert "test_one: " not in shown
