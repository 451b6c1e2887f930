"""A pytest plugin with two sets of tests: the fast set, which a plain `pytest` runs, and all.

A test is slow if it carries the marker ``slow``, or uses a fixture that starts a server or a
browser. A run that names tests, by a path, ``-k``, ``-m`` or ``--lf``, includes the slow ones among
them. The fast set tries fewer examples of each property.

Coverage does not look at tests with the marker ``untraced``, nor at those of `UNTRACED`: the
tracer makes Python code two to three times as slow, and these tests run lines thousands of times
that others have covered, or lines without a floor.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Generator
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from coverage import Coverage
from hypothesis import settings

T = TypeVar("T")

#: More processor time than this, in seconds, makes a test slow; its child processes count as well.
#: On a loaded machine, the same work takes up to twice the processor time.
LIMIT_S = 4.0
#: The fast set fails if its tests together take more. They take about 150 s.
TOTAL_LIMIT_S = 400.0
#: Fixtures that start a server or a browser.
SERVERS = frozenset({"browser", "llama", "postgres", "redis"})

#: Folders and files of tests that no coverage floor needs (tools/coverage_floors.py).
UNTRACED = tuple(
    f"tests/{path}"
    for path in (
        *("contract/", "e2e/", "fault/", "property/", "typing/", "unit/_utils/"),
        "unit/benchmarks/",
        *("unit/cli/", "unit/dlq/", "unit/errors/", "unit/kernels/", "unit/providers/"),
        *("unit/pulse/", "unit/telemetry/", "unit/testing/", "unit/timeline/", "unit/tools/"),
        *("unit/test_facades.py", "unit/test_plain_english.py", "unit/test_public_api.py"),
        # They test other processes, or what is around the engine.
        *("integration/test_alert", "integration/test_bench.py", "integration/test_continuous.py"),
        *("integration/test_gate", "integration/test_local_providers.py"),
        *("integration/test_other_loops_and_pythons.py", "integration/test_packaging.py"),
        *("integration/test_pulse_demo.py", "integration/test_voice_figures.py"),
        "integration/test_workflow",
    )
)

#: The variable in which pytest-xdist looks for how many workers `-n auto` starts.
WORKERS = "PYTEST_XDIST_AUTO_NUM_WORKERS"

#: How many tests were left out.
_LEFT_OUT: pytest.StashKey[int] = pytest.StashKey()
_BEGAN_S: pytest.StashKey[float] = pytest.StashKey()
#: How much processor time the tests took.
_TOOK_S: pytest.StashKey[float] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that runs everything."""
    parser.addoption("--all", action="store_true", help="run the slow tests as well")
    parser.addoption("--trace-all", action="store_true", help="let coverage look at every test")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Let all cores run the fast set, unless somebody wants to look at it or says how many."""
    option = config.option
    option.all |= bool(
        config.args_source is config.ArgsSource.ARGS
        or option.keyword
        or option.markexpr
        or getattr(option, "lf", False)
    )
    watched = option.usepdb or option.collectonly or option.capture == "no"
    worker = hasattr(config, "workerinput")
    if not (option.all or watched or worker) and getattr(option, "numprocesses", 0) is None:
        option.numprocesses, option.dist = "auto", "worksteal"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Start two workers more than there are cores, as slow tests wait for half of their time."""
    return cores() + 2 if config.option.all and WORKERS not in os.environ else None


def cores() -> int:
    """Return how many cores these tests may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and prepare the fast set."""
    config.addinivalue_line(
        "markers",
        "slow: needs a server, a browser, asv, a process of seconds, or seconds of computing;"
        " a plain pytest leaves it out",
    )
    config.addinivalue_line("markers", "untraced: runs without coverage, fixtures included")
    if not config.option.all and not config.getoption("hypothesis_profile", None):
        settings.load_profile("fast")
    # The tests start hundreds of interpreters, and each would compile the package again.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, T, T]:
    """Collect no garbage while thousands of tests are being made: there is none."""
    gc.disable()
    try:
        _import_tests(session.config)
        return (yield)
    finally:
        gc.enable()


def _import_tests(config: pytest.Config) -> None:
    """Import the tests, each worker beginning elsewhere.

    In a new clone pytest compiles each module, which takes longer than all else of the collection.
    So each worker compiles a part and finds the rest compiled by the others.
    """
    worker = getattr(config, "workerinput", None)
    if worker is None or config.args != config.getini("testpaths"):
        return
    names = [
        ".".join(file.relative_to(config.rootpath).with_suffix("").parts)
        for path in config.args
        for file in sorted((config.rootpath / path).rglob("test_*.py"))
    ]
    begin = len(names) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    for name in names[begin:] + names[:begin]:
        with suppress(Exception, pytest.skip.Exception):  # the collection reports it
            importlib.import_module(name)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what uses a server."""
    if SERVERS.intersection(getattr(item, "fixturenames", ())):
        item.add_marker("slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the slow tests out of the fast set."""
    if config.option.all:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
    config.stash[_LEFT_OUT] = len(slow)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a fast set that is slow; a worker of pytest-xdist tells its controller the figures."""
    stash = session.config.stash
    took_s = stash.get(_TOOK_S, 0.0)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = (stash.get(_LEFT_OUT, 0), took_s)
    elif took_s > TOTAL_LIMIT_S and not session.config.option.all:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the figures from a worker."""
    if "figures" in getattr(node, "workeroutput", ()):
        stash = node.config.stash
        stash[_LEFT_OUT], took_s = node.workeroutput["figures"]
        stash[_TOOK_S] = stash.get(_TOOK_S, 0.0) + took_s


@pytest.hookimpl(tryfirst=True)  # the loop of a worker of pytest-xdist ends the calls of this hook
def pytest_runtestloop() -> None:
    """Keep what was collected, thousands of tests, out of each garbage collection from now on."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what was left out, and how to run it."""
    if not config.option.all:
        terminalreporter.write_sep("-", "fast set")
        terminalreporter.write_line(
            f"left out {config.stash.get(_LEFT_OUT, 0)} slow tests (servers, browser, asv,"
            " processes, many schedules); run everything with `make test` or `pytest --all`"
        )
        took_s = config.stash.get(_TOOK_S, 0.0)
        terminalreporter.write_line(f"the tests took {took_s:.0f} s of processor time")
        if took_s > TOTAL_LIMIT_S:
            terminalreporter.write_line(
                f"the fast set may take {TOTAL_LIMIT_S:g} s: make the slowest tests faster, or mark"
                " them with @pytest.mark.slow (`pytest --durations=20` lists them)",
                red=True,
            )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, T, T]:
    """Keep coverage away from tests that are not to be traced."""
    tracing = Coverage.current()
    untraced = item.get_closest_marker("untraced") or item.nodeid.startswith(UNTRACED)
    if tracing is None or not untraced or item.config.option.trace_all:
        return (yield)
    tracing.stop()
    try:
        return (yield)
    finally:
        tracing.start()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, T, T]:
    """Note the processor time before the fixtures are set up."""
    item.stash[_BEGAN_S] = _cpu_s()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, T, T]:
    """Fail a test of the fast set that is slow."""
    result = yield
    took_s = _cpu_s() - item.stash[_BEGAN_S]
    stash = item.config.stash
    stash[_TOOK_S] = stash.get(_TOOK_S, 0.0) + took_s
    if took_s > LIMIT_S and not item.config.option.all:
        pytest.fail(
            f"this test took {took_s:.1f} s of processor time, and the fast set allows"
            f" {LIMIT_S:g} s: make it faster, or mark it with @pytest.mark.slow",
            pytrace=False,
        )
    return result


def _cpu_s() -> float:
    """Return the processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
