"""Settings for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.utils.postgres import PostgresServer
from tests.utils.redis_server import RedisServer

if TYPE_CHECKING:
    from stageflow.providers.local.llm import LlamaServer

# By hand and not by its entry point, which would import the package before coverage looks.
pytest_plugins = ["stageflow.testing.plugin"]

# Chosen by --hypothesis-profile; a failure prints the line that reproduces it.
_COMMON = settings(
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("dev", _COMMON, max_examples=100)
settings.register_profile("ci", _COMMON, max_examples=50)
settings.register_profile("nightly", _COMMON, max_examples=2_000)
settings.load_profile("dev")


def pytest_configure(config: pytest.Config) -> None:
    """Register this repository's own markers."""
    config.addinivalue_line("markers", "benchmark: measures a time, and holds it to a budget")


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
    from stageflow.providers.local.llm import LlamaServer  # noqa: PLC0415 - after coverage looks

    with LlamaServer() as server:
        yield server
