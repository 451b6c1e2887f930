"""Breakers of several processes agree through a real Redis, and go on without it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from stageflow.cluster import SharedBreakers
from stageflow.errors import CircuitOpenError
from stageflow.resilience import BreakerPolicy, BreakerState
from tests.utils.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
POLICY = BreakerPolicy(failures=2, cooldown_s=600.0)

#: Waits until it hears of an open breaker, says so, and ends.
_OTHER = """
import asyncio, sys
from stageflow.cluster import SharedBreakers
from stageflow.errors import CircuitOpenError

async def main():
    async with SharedBreakers(sys.argv[1]) as breakers:
        await breakers.heard.wait()
        print("listening", flush=True)
        clock = asyncio.get_running_loop().time
        while True:
            try:
                breakers["llm"].release(breakers["llm"].acquire(clock))
            except CircuitOpenError as error:
                print("open", error.retry_after_s > 500, flush=True)
                return
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


def clock() -> float:
    """The time of the loop."""
    return asyncio.get_running_loop().time()


def fail(breakers: SharedBreakers, times: int) -> None:
    """So many calls that fail."""
    for _ in range(times):
        breaker = breakers["llm"]
        breaker.fail(breaker.acquire(clock), clock)


async def until(breakers: SharedBreakers, state: BreakerState) -> None:
    """Return once the breaker is in `state`."""
    async with asyncio.timeout(120):
        while breakers["llm"].state is not state:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)


async def test_another_process_sees_an_open_breaker(redis: RedisServer) -> None:
    """It lets no call pass, for the rest of the cool-down."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _OTHER, redis.url, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"listening\n"
    async with SharedBreakers(redis.url, POLICY) as breakers:
        fail(breakers, 2)
        said, _ = await asyncio.wait_for(process.communicate(), 120)
    assert said == b"open True\n"


async def wait_s(breakers: SharedBreakers, longer_than_s: float) -> float:
    """For how long the breaker rejects calls, once that is longer than so many seconds."""
    async with asyncio.timeout(120):
        while True:
            try:
                breakers["llm"].release(breakers["llm"].acquire(clock))
            except CircuitOpenError as error:
                if (wait_s := error.retry_after_s or 0.0) > longer_than_s:
                    return wait_s
            await asyncio.sleep(0)


async def test_a_cool_down_that_has_grown_is_shared(redis: RedisServer) -> None:
    """Others do not call before it is over, also if a thread has reported the failed probe."""
    policy = BreakerPolicy(failures=1, cooldown_s=0.001, cooldown_factor=1e9, max_cooldown_s=500.0)
    async with SharedBreakers(redis.url, policy) as first, SharedBreakers(redis.url) as witness:
        await witness.heard.wait()
        fail(first, 1)
        await until(witness, BreakerState.OPEN)
        while first["llm"].state is not BreakerState.HALF_OPEN:
            with suppress(CircuitOpenError):
                probe = first["llm"].acquire(clock)
            await asyncio.sleep(0)
        await asyncio.to_thread(first["llm"].fail, probe, time.monotonic)
        assert 400.0 < await wait_s(witness, 100.0) <= 500.0


async def test_a_later_one_learns_the_state(redis: RedisServer) -> None:
    """It takes over the open breaker, with the rest of the cool-down."""
    async with SharedBreakers(redis.url, POLICY) as first, SharedBreakers(redis.url) as witness:
        await witness.heard.wait()
        fail(first, 2)
        await until(witness, BreakerState.OPEN)
    async with SharedBreakers(redis.url, POLICY) as later:
        await later.heard.wait()
        with pytest.raises(CircuitOpenError) as caught:
            later["llm"].acquire(clock)
    left_s = caught.value.retry_after_s
    assert left_s is not None
    assert 500 < left_s <= 600


async def test_a_breaker_that_closes_closes_the_others(redis: RedisServer) -> None:
    """One process finds that the provider answers again, and all use it."""
    async with SharedBreakers(redis.url, POLICY) as one, SharedBreakers(redis.url, POLICY) as other:
        await one.heard.wait()
        await other.heard.wait()
        fail(one, 2)
        await until(other, BreakerState.OPEN)
        other["llm"].reset(clock)
        await until(one, BreakerState.CLOSED)


async def test_each_goes_on_by_itself_without_redis(redis: RedisServer) -> None:
    """Its breaker opens by its own failures alone; when Redis is back the other hears of it."""
    async with SharedBreakers(redis.url, POLICY) as one, SharedBreakers(redis.url, POLICY) as other:
        await one.heard.wait()
        await other.heard.wait()
        redis.kill()
        fail(one, 2)
        with pytest.raises(CircuitOpenError):
            one["llm"].acquire(clock)
        other["llm"].release(other["llm"].acquire(clock))
        assert other["llm"].state is BreakerState.CLOSED
        redis.start()
        await until(other, BreakerState.OPEN)


async def test_failures_seen_here_count_only_here(redis: RedisServer) -> None:
    """That another's breaker is closed does not make this one forget what it has seen."""
    async with SharedBreakers(redis.url, POLICY) as one, SharedBreakers(redis.url, POLICY) as other:
        await one.heard.wait()
        await other.heard.wait()
        fail(other, 2)
        await until(one, BreakerState.OPEN)
        other["llm"].reset(clock)
        await until(one, BreakerState.CLOSED)
        fail(one, 1)
        assert one["llm"].follow(BreakerState.CLOSED, 0.0, clock) is None
        fail(one, 1)
        assert one["llm"].state is BreakerState.OPEN


async def test_a_breaker_that_opened_before_the_block_is_published(redis: RedisServer) -> None:
    """Changes from before the connection reach the others, too."""
    early = SharedBreakers(redis.url, POLICY)
    fail(early, 2)
    async with SharedBreakers(redis.url, POLICY) as other, early:
        await until(other, BreakerState.OPEN)
