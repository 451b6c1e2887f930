"""Settings for all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.utils.postgres import PostgresServer
from tests.utils.redis_server import RedisServer
from tests.utils.session import keep_temporary_files_in_memory
from tests.utils.untouched import Watch

if TYPE_CHECKING:
    from stageflow.providers.local import LlamaServer

# By hand and not by its entry point, which would import the package before coverage looks.
pytest_plugins = ["stageflow.testing.plugin", "tests.utils.slow", "tests.utils.loops"]

# Chosen by --hypothesis-profile; a failure prints the line that reproduces it.
_COMMON = settings(
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("dev", _COMMON, max_examples=100)
settings.register_profile("fast", _COMMON, max_examples=20)
settings.register_profile("ci", _COMMON, max_examples=50)
settings.register_profile("nightly", _COMMON, max_examples=2_000)
settings.load_profile("dev")

# How often a server of the standard library looks whether it is to end: half a second by default.
BaseServer.serve_forever.__defaults__ = (0.02,)

_WATCH = pytest.StashKey[Watch]()


_settrace = sys.settrace


def settrace(function: Any) -> None:
    """Set the trace function of this thread, as soon as no other thread is doing so.

    Coverage traces each thread from its start. Before Python 3.13, `sys.settrace` raises while
    another thread is in it: the new thread ends before it begins, and what waits for it hangs.
    """
    for _ in range(1000):
        try:
            return _settrace(function)
        except RuntimeError:
            continue
    raise RuntimeError("sys.settrace was still in use after 1000 tries")


if sys.version_info < (3, 13):
    sys.settrace = settrace


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the session."""
    keep_temporary_files_in_memory()
    config.addinivalue_line("markers", "benchmark: measures a time, and holds it to a budget")
    config.stash[_WATCH] = watch = Watch(Path(__file__).parents[1])
    config.add_cleanup(watch.close)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Fail a test that reads or writes what the user's own commands keep in this clone."""
    touched = item.config.stash[_WATCH].touched()
    if touched:
        pytest.fail(
            f"opened or changed {', '.join(touched[:5])} of this clone, during this test or one "
            "that ran beside it: let it work in a folder of its own (tests/utils/working_copy.py)",
            pytrace=False,
        )


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL; a test that stops it starts it again."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A running Redis, empty, of the test's own."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def llama() -> Iterator[LlamaServer]:
    """The local language model; started by the first test that asks it."""
    from stageflow.providers.local import LlamaServer  # noqa: PLC0415 - after coverage looks

    with LlamaServer() as server:
        yield server
