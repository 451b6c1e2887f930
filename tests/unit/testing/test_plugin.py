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


def test_marker_injects_into_sync_and_async_tests(project: pytest.Pytester) -> None:
    """A marked test meets the fault however it runs its code; the next test does not."""
    result = run(
        project,
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
    )
    result.assert_outcomes(passed=3)


def test_nearest_marker_is_the_innermost(project: pytest.Pytester) -> None:
    """A test's own marker wins over its class's; other providers keep theirs."""
    result = run(
        project,
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
    )
    result.assert_outcomes(passed=2)


def test_fixtures_are_left_in_peace(project: pytest.Pytester) -> None:
    """A marker means the test: what its fixtures set up and tear down meets no fault."""
    result = run(
        project,
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
    )
    result.assert_outcomes(passed=1)


def test_fixture_injects_within_a_block(project: pytest.Pytester) -> None:
    """The fixture gives inject_fault to those who want a block of their own."""
    result = run(
        project,
        """
async def test_turn(faults):
    with faults.inject("llm", "disconnect") as llm:
        assert await ask() == "ConnectionResetError"
    assert await ask() == "fine"
    assert llm.injected == 1
""",
    )
    result.assert_outcomes(passed=1)


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


def test_failing_test_takes_its_fault_along(project: pytest.Pytester) -> None:
    """A test that fails under its fault leaves nothing behind for the next."""
    result = run(
        project,
        """
@pytest.mark.fault("llm", "disconnect")
async def test_failing():
    assert False

async def test_next():
    assert await ask() == "fine"
""",
    )
    result.assert_outcomes(failed=1, passed=1)


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
