"""The pytest plugin, as a project meets it that has stageflow installed."""

from __future__ import annotations

import sys

import pytest

from tests.utils.commands import run_command
from tests.utils.plugin_project import project, run_tests

pytest_plugins = ["pytester"]
__all__ = ["project"]  # a fixture

PREAMBLE = """
import asyncio
import pytest
from stageflow import Message, ProviderRegistry
from stageflow.providers.fake import FakeLLM

registry = ProviderRegistry(llm=FakeLLM("fine"))

async def ask():
    try:
        return await registry.llm.complete([Message("user", "hi")])
    except Exception as error:
        return type(error).__name__
"""


def run(project: pytest.Pytester, tests: str) -> pytest.RunResult:
    return run_tests(project, PREAMBLE + tests)


_CASES = {
    # A marked test meets the fault however it runs its code; the next test does not.
    "marker_injects_into_sync_and_async_tests": (
        {"passed": 3},
        """
@pytest.mark.fault("llm", "disconnect")
async def test_async(faults):
    assert await ask() == "ConnectionResetError"
    assert faults["llm"].injected == 1

@pytest.mark.fault("llm", "timeout", duration_ms=1)
def test_sync(faults):
    assert asyncio.run(ask()) == "TimeoutError"
    assert list(faults) == ["llm"] and len(faults) == 1

def test_unmarked(faults):
    assert asyncio.run(ask()) == "fine"
    assert not faults
""",
    ),
    # A test's own marker wins over its class's; other providers keep theirs.
    "nearest_marker_is_the_innermost": (
        {"passed": 2},
        """
@pytest.mark.fault("llm", "timeout", duration_ms=1)
@pytest.mark.fault("stt", "empty", allow_unused=True)
class TestTurn:
    @pytest.mark.fault("llm", "disconnect")
    async def test_own(self, faults):
        assert await ask() == "ConnectionResetError"
        assert faults["llm"].fault_type == "disconnect"
        assert sorted(faults) == ["llm", "stt"]

    async def test_of_the_class(self):
        assert await ask() == "TimeoutError"
""",
    ),
    # A marker means the test: what its fixtures set up and tear down meets no fault.
    "fixtures_are_left_in_peace": (
        {"passed": 1},
        """
@pytest.fixture
async def said():
    yield await ask()
    assert await ask() == "fine"

@pytest.mark.fault("llm", "disconnect")
async def test_turn(said):
    assert said == "fine"
    assert await ask() == "ConnectionResetError"
""",
    ),
    # The fixture gives inject_fault to those who want a block of their own.
    "fixture_injects_within_a_block": (
        {"passed": 1},
        """
async def test_turn(faults):
    with faults.inject("llm", "disconnect") as llm:
        assert await ask() == "ConnectionResetError"
    assert await ask() == "fine"
    assert llm.injected == 1
""",
    ),
    # A test that fails under its fault leaves nothing behind for the next.
    "failing_test_takes_its_fault_along": (
        {"failed": 1, "passed": 1},
        """
@pytest.mark.fault("llm", "disconnect")
async def test_failing():
    assert False

async def test_next():
    assert await ask() == "fine"
""",
    ),
}


@pytest.mark.parametrize("name", _CASES)
def test_faults_meet_what_they_are_for(project: pytest.Pytester, name: str) -> None:
    """Tests with markers and fixtures of faults end as each case says."""
    outcomes, tests = _CASES[name]
    run(project, tests).assert_outcomes(**outcomes)


def test_what_does_not_fit_fails_the_test(project: pytest.Pytester) -> None:
    """A marker with an option that does not fit fails its test with the fix."""
    result = run(
        project,
        """
@pytest.mark.fault("llm", "timeout", duration=1)
def test_turn():
    pass
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*did you mean 'duration_ms'*"])


def test_marker_is_described(project: pytest.Pytester) -> None:
    """`pytest --markers` says what the marker does."""
    shown = run_tests(project, "", "--markers")
    shown.stdout.fnmatch_lines(["@pytest.mark.fault(provider, fault_type, *"])


def test_plugin_imports_the_kit_only_where_it_is_used() -> None:
    """Pytest imports the plugin at each start, and with it nothing else of the kit."""
    code = "import sys, stageflow.testing.plugin\nprint(*sys.modules)"
    shown = run_command([sys.executable, "-c", code], check=True).stdout.split()
    found = {name for name in shown if name.startswith("stageflow.testing.")}
    assert found == {"stageflow.testing.plugin"}
    foreign = {name.partition(".")[0] for name in shown} & {"hypothesis", "numpy", "openai"}
    assert foreign == set()
