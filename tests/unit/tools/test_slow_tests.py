"""The fast set of tests: what is left out of it, how it is printed, and what may not be in it."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from coverage import Coverage

from tests.utils import session, slow

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep other plugins out of the runs."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


TESTS = """\
import pytest

@pytest.fixture
def redis():
    pass

def test_fast():
    pass

@pytest.mark.slow
def test_marked():
    pass

def test_with_a_server(redis):
    pass
"""

BUSY = """\
import subprocess
import sys
import time

WORK = "import time\\nwhile time.process_time() < 0.3: pass"

def test_computes():
    exec(WORK.replace("0.3", str(time.process_time() + 0.3)))

def test_waits_for_a_process():
    subprocess.run([sys.executable, "-c", WORK], check=True)

def test_sleeps():
    time.sleep(0.3)
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest in a project with that plugin, whose own tests are in its folder `tests`."""
    pytester.makeini("[pytest]\ntestpaths = tests\naddopts = --strict-markers\n")
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments, plugins=[slow])


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        ((), 1),
        (("-v",), 1),
        (("--all",), 3),
        (("tests/test_it.py",), 3),
        (("-k", "server"), 1),
        (("-m", "slow"), 2),
    ],
)
def test_a_plain_run_leaves_slow_tests_out(
    pytester: pytest.Pytester, arguments: tuple[str, ...], passed: int
) -> None:
    """The summary says how many, and how to run them; naming tests runs all of them."""
    pytester.mkdir("tests").joinpath("test_it.py").write_text(TESTS)
    result = run(pytester, *arguments)
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] == passed
    plain = arguments in {(), ("-v",)}
    assert ("left out 2 slow tests" in result.stdout.str()) is plain
    assert ("run everything with `make test`" in result.stdout.str()) is plain


def test_an_unmarked_slow_test_fails_the_fast_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own work counts and that of its processes; waiting does not, nor does it elsewhere."""
    monkeypatch.setattr(slow, "LIMIT_S", 0.2)
    pytester.mkdir("tests").joinpath("test_it.py").write_text(BUSY)
    result = run(pytester)
    assert result.parseoutcomes() == {"passed": 3, "errors": 2}
    result.stdout.fnmatch_lines(
        [
            "*the fast set allows 0.2 s: make it faster, or mark it with @pytest.mark.slow",
            "ERROR tests/test_it.py::test_computes*",
            "ERROR tests/test_it.py::test_waits_for_a_process*",
        ]
    )
    assert run(pytester, "--all").parseoutcomes() == {"passed": 3}


def test_the_collected_tests_are_kept_out_of_garbage_collections() -> None:
    """In a worker too: a collection would take as long as some hundred tests."""
    assert gc.get_freeze_count() > 0


@pytest.mark.parametrize("folder", [None, "/var/tmp"])
def test_temporary_files_are_kept_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str | None
) -> None:
    """Unless somebody names another place; child processes inherit it."""
    monkeypatch.setattr(session, "_MEMORY", tmp_path)
    monkeypatch.setattr(session, "_ENOUGH", 0)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    monkeypatch.delenv("TMPDIR", raising=False)
    if folder:
        monkeypatch.setenv("TMPDIR", folder)
    session.keep_temporary_files_in_memory()
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == (folder or str(tmp_path))


def test_slow_tests_have_more_workers_than_cores(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait; the fast set computes, and gets as many as pytest-xdist finds right."""
    monkeypatch.delenv(slow.WORKERS, raising=False)
    monkeypatch.setattr(pytestconfig.option, "all", True)
    assert slow.pytest_xdist_auto_num_workers(pytestconfig) == slow.cores() + 2
    monkeypatch.setenv(slow.WORKERS, "7")
    assert slow.pytest_xdist_auto_num_workers(pytestconfig) is None
    monkeypatch.delenv(slow.WORKERS)
    monkeypatch.setattr(pytestconfig.option, "all", False)
    assert slow.pytest_xdist_auto_num_workers(pytestconfig) is None


@pytest.mark.parametrize(
    ("folder", "mark", "options", "traced"),
    [
        ("engine", "", (), True),
        ("pulse", "", (), False),
        ("engine", "@pytest.mark.untraced", (), False),
        ("pulse", "@pytest.mark.untraced", ("--trace-all",), True),
    ],
)
def test_coverage_looks_at_what_a_floor_needs(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    *,
    folder: str,
    mark: str,
    options: tuple[str, ...],
    traced: bool,
) -> None:
    """Not at marked tests, and not at folders of what has no floor; or else at every test."""
    done: list[str] = []

    class Tracer:
        def start(self) -> None:
            done.append("start")

        def stop(self) -> None:
            done.append("stop")

    monkeypatch.setattr(Coverage, "current", Tracer)
    test = pytester.path / "tests/unit" / folder / "test_it.py"
    test.parent.mkdir(parents=True)
    test.write_text(f"import pytest\n\n{mark}\ndef test_it():\n    pass\n")
    run(pytester, *options).assert_outcomes(passed=1)
    assert done == ([] if traced else ["stop", "start"])


@pytest.mark.parametrize(("limit_s", "code"), [(0.0, 1), (400.0, 0)])
@pytest.mark.parametrize("options", [(), ("-n", "2", "-p", "xdist")], ids=["one", "workers"])
def test_a_fast_set_that_is_slow_as_a_whole_fails(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    *,
    options: tuple[str, ...],
    limit_s: float,
    code: int,
) -> None:
    """Also if no test of it takes long; what its workers took is added up."""
    monkeypatch.setattr(slow, "TOTAL_LIMIT_S", limit_s)
    test = pytester.path / "tests/test_it.py"
    test.parent.mkdir()
    test.write_text("def test_it():\n    assert sum(range(1_000_000))\n")
    # A worker is a process of its own.
    pytester.makeconftest(
        "from hypothesis import settings\n\n"
        'pytest_plugins = ["tests.utils.slow"]\nsettings.register_profile("fast")\n'
    )
    result = run(pytester, *options)
    assert result.ret == code
    assert ("make the slowest tests faster" in result.stdout.str()) is bool(code)


def test_each_worker_begins_to_import_at_another_module(
    pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    """A module that cannot be imported is left to the collection."""
    skipped = "import pytest; pytest.skip(allow_module_level=True)"
    folder = pytester.mkdir("parts")
    for number, body in enumerate(["print(0)", skipped, "print(2)", "1 / 0", "print(4)"]):
        (folder / f"test_part_{number}.py").write_text(body)
    pytester.syspathinsert()
    for worker, printed in (("gw0", "0 2 4"), ("gw1", "2 4 0")):
        config: Any = SimpleNamespace(
            workerinput={"workerid": worker, "workercount": 2},
            args=["parts"],
            getini=lambda _: ["parts"],
            rootpath=pytester.path,
        )
        slow._import_tests(config)
        assert capsys.readouterr().out.split() == printed.split()
        for name in [name for name in sys.modules if name.startswith("parts")]:
            del sys.modules[name]
