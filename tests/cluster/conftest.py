"""Fixtures for the tests of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.cluster.support import Cluster, Gate
from tests.utils.redis_server import RedisServer


@pytest.fixture
async def gate() -> Gate:
    """A gate that is shut."""
    return Gate(asyncio.Event(), asyncio.Event(), asyncio.Event(), [])


@pytest.fixture
async def cluster(redis: RedisServer) -> AsyncIterator[Cluster]:
    """A broker that runs, without workers."""
    async with AsyncExitStack() as stack:
        yield Cluster(redis.url, stack)
