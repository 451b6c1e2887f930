"""Failed orders that are tried first the next time, and runs that workers share."""

from __future__ import annotations

import re

import pytest
import pytest_asyncio.plugin

from stageflow.testing import plugin
from tests.utils.plugin_project import project

pytest_plugins = ["pytester"]
__all__ = ["project"]  # a fixture

RARE = """
import asyncio
import pytest

runs = []

@pytest.mark.simulate(runs=RUNS)
async def test_rare():
    runs.append(1)
    order = []
    async def run(number):
        await asyncio.sleep(1)
        order.append(number)
        if len(order) == 1:
            print("RUN", len(runs), number)
    await asyncio.gather(*(run(number) for number in range(4)))
    assert FIXED or order[:2] != [2, 1]

def test_expected():
    from stageflow.testing import explore
    async def main():
        assert False
    with pytest.raises(AssertionError):
        explore(main)
"""


def run_rare(
    project: pytest.Pytester, *options: str, runs: int, fixed: bool = False
) -> pytest.RunResult:
    project.makepyfile(test_rare=RARE.replace("RUNS", str(runs)).replace("FIXED", str(fixed)))
    return project.runpytest_inprocess(*options, plugins=[pytest_asyncio.plugin, plugin])


def test_what_failed_is_tried_first_until_it_holds(project: pytest.Pytester) -> None:
    """So one run finds again what took many; a failure that a test expects is not kept."""
    run_rare(project, runs=1).assert_outcomes(passed=2)
    run_rare(project, runs=500).assert_outcomes(failed=1, passed=1)
    again = run_rare(project, runs=1)
    again.assert_outcomes(failed=1, passed=1)
    again.stdout.fnmatch_lines_random(["RUN 1 2", "*It leaves asyncio's own order *"])
    (kept,) = (project.path / ".pytest_cache/v/stageflow/simulations").iterdir()
    assert re.fullmatch(r'\{\s*"1": \[\s*\d+,\s*"[\d :]+"\s*\]\s*\}', kept.read_text())
    run_rare(project, runs=1, fixed=True).assert_outcomes(passed=2)
    assert kept.read_text() == "{}"
    run_rare(project, runs=1).assert_outcomes(passed=2)


def test_failures_are_pages_in_a_folder_if_an_option_asks_for_them(
    project: pytest.Pytester,
) -> None:
    """One for each failed test, and none for a failure that a test expects."""
    run_rare(project, "--simulate-pages=pages", runs=500).assert_outcomes(failed=1, passed=1)
    pages = [path.name for path in (project.path / "pages").iterdir()]
    assert "test_rare.py-test_rare-1.html" in pages


SHARED = """
import pytest

@pytest.mark.simulate(runs=3)
@pytest.mark.parametrize("name", ["a", "b"])
async def test_many(sim, name):
    sim.context()
    assert name == "a", sim.random.random()

@pytest.mark.simulate(order="asyncio")
async def test_one():
    pass
"""


@pytest.mark.slow  # starts workers
def test_workers_share_the_runs_that_the_option_asks_for(project: pytest.Pytester) -> None:
    """Each part has other seeds, and a token is that of the whole test."""
    project.makepyfile(SHARED)
    plugins = ("-p", "xdist.plugin", "-p", "pytest_asyncio.plugin", "-p", plugin.__name__)
    result = project.runpytest_subprocess(*plugins, "-n2", "--simulate-runs=5")
    result.assert_outcomes(passed=3, failed=2)
    shown = result.stdout.str()
    assert set(re.findall(r"test_many\[(.*)\]: (\d) runs", shown)) == {
        *(("a-part 1 of 2", "2"), ("a-part 2 of 2", "3"))
    }
    tokens = set(re.findall(r"--simulate=(\S+)", shown))
    assert len(tokens) == 2
    again = project.runpytest_inprocess(
        f"--simulate={tokens.pop()}", plugins=[pytest_asyncio.plugin, plugin]
    )
    again.assert_outcomes(failed=1)
