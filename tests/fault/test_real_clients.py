"""Faults in front of real clients, on a server of the test's own: no call gets past them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiosqlite
import httpx
import openai
import pytest
import redis.asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from stageflow import ProviderRegistry
from stageflow.resilience import classify
from stageflow.testing import FaultType, inject_fault
from tests.utils.faulty import gathered
from tests.utils.openai_server import KEY, OpenAIServer
from tests.utils.redis_server import RedisServer

ASKED: Any = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}
PATH = "/chat/completions"


class World:
    """The clients by name, and how much each of their servers was asked."""

    def __init__(self, server: OpenAIServer, clients: dict[str, Any]) -> None:
        self.server = server
        self.clients = clients
        self.registry = ProviderRegistry(**clients)

    async def work_done(self) -> tuple[int, int, int]:
        """Return how many requests, commands of Redis and rows there have been."""
        stats = await self.clients["redis"].info("commandstats")
        own = ("cmdstat_info", "cmdstat_hello", "cmdstat_client|setinfo")
        commands = sum(stat["calls"] for name, stat in stats.items() if name not in own)
        rows = await self.clients["aiosqlite"].execute_fetchall("select count(*) from turns")
        return len(self.server.seen), commands, next(iter(rows))[0]


@pytest.fixture
async def world(redis: RedisServer, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(OpenAIServer())
        headers = {"Authorization": f"Bearer {KEY}"}
        http = httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False)
        await stack.enter_async_context(http)
        sync_http = httpx.Client(base_url=server.url, headers=headers, trust_env=False)
        stack.enter_context(sync_http)
        ai = openai.AsyncOpenAI(api_key=KEY, base_url=server.url, max_retries=0)
        await stack.enter_async_context(ai)
        sync_ai = openai.OpenAI(api_key=KEY, base_url=server.url, max_retries=0)
        stack.enter_context(sync_ai)
        cache = redis_client(redis.url)
        stack.push_async_callback(cache.aclose)
        sqlite = await stack.enter_async_context(aiosqlite.connect(tmp_path / "turns.db"))
        await sqlite.execute("create table turns (text)")
        await sqlite.commit()
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/turns.db")
        stack.push_async_callback(engine.dispose)
        yield World(
            server,
            {
                "httpx": http,
                "sync_httpx": sync_http,
                "openai": ai,
                "sync_openai": sync_ai,
                "redis": cache,
                "aiosqlite": sqlite,
                "engine": engine,
                "sessions": async_sessionmaker(engine),
            },
        )


def redis_client(url: str) -> Any:
    return redis.asyncio.Redis.from_url(url, decode_responses=True)


async def _httpx_stream(client: Any) -> Any:
    async with client.stream("POST", PATH, json=ASKED) as response:
        return await response.aread()


async def _httpx_sent(client: Any) -> Any:
    return await client.send(client.build_request("POST", PATH, json=ASKED))


async def _openai_stream(client: Any) -> Any:
    stream = await client.chat.completions.create(**ASKED, stream=True)
    return [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]


async def _openai_raw(client: Any) -> Any:
    raw = await client.chat.completions.with_raw_response.create(**ASKED)
    return raw.parse()


async def _openai_streaming_response(client: Any) -> Any:
    create = client.chat.completions.with_streaming_response.create
    async with create(**ASKED) as response:
        return await response.parse()


async def _openai_helper(client: Any) -> Any:
    async with client.chat.completions.stream(**ASKED) as stream:
        return [event.type async for event in stream]


async def _redis_pipeline(client: Any) -> Any:
    async with client.pipeline() as pipe:
        return await pipe.set("k", "v").get("k").execute()


async def _redis_pipeline_without_block(client: Any) -> Any:
    pipe = client.pipeline()
    pipe.set("k", "v")
    pipe.get("k")
    return await pipe.execute()


async def _redis_scan(client: Any) -> Any:
    return [key async for key in client.scan_iter()]


async def _redis_gathered(client: Any) -> Any:
    results = await asyncio.gather(client.set("k", "v"), return_exceptions=True)
    if isinstance(results[0], BaseException):
        raise results[0]
    return results


INSERT = "insert into turns values ('one')"


async def _aiosqlite_cursor(connection: Any) -> Any:
    async with connection.execute(INSERT) as cursor:
        return cursor.rowcount


async def _engine_connect(engine: Any) -> Any:
    async with engine.connect() as connection:
        await connection.execute(text(INSERT))
        await connection.commit()
        return True


async def _engine_begin(engine: Any) -> Any:
    async with engine.begin() as connection:
        await connection.execute(text(INSERT))
        return True


async def _session(sessions: Any) -> Any:
    async with sessions.begin() as session:
        await session.execute(text(INSERT))
        return True


#: How each client is used.
USES: dict[str, tuple[str, Callable[[Any], Awaitable[Any]]]] = {
    "httpx, post": ("httpx", lambda c: c.post(PATH, json=ASKED)),
    "httpx, stream": ("httpx", _httpx_stream),
    "httpx, send": ("httpx", _httpx_sent),
    "httpx, sync": (
        "sync_httpx",
        lambda c: asyncio.to_thread(lambda: c.post(PATH, json=ASKED)),
    ),
    "openai, create": ("openai", lambda c: c.chat.completions.create(**ASKED)),
    "openai, task": (
        "openai",
        lambda c: asyncio.create_task(c.chat.completions.create(**ASKED)),
    ),
    "openai, stream": ("openai", _openai_stream),
    "openai, options": (
        "openai",
        lambda c: c.with_options(timeout=5).chat.completions.create(**ASKED),
    ),
    "openai, raw": ("openai", _openai_raw),
    "openai, streaming response": ("openai", _openai_streaming_response),
    "openai, stream helper": ("openai", _openai_helper),
    "openai, sync": (
        "sync_openai",
        lambda c: asyncio.to_thread(lambda: c.chat.completions.create(**ASKED)),
    ),
    "redis, set": ("redis", lambda c: c.set("k", "v")),
    "redis, gathered": ("redis", _redis_gathered),
    "redis, pipeline": ("redis", _redis_pipeline),
    "redis, pipeline without a block": ("redis", _redis_pipeline_without_block),
    "redis, scan": ("redis", _redis_scan),
    "aiosqlite, execute": ("aiosqlite", lambda c: c.execute(INSERT)),
    "aiosqlite, cursor": ("aiosqlite", _aiosqlite_cursor),
    "sqlalchemy, connect": ("engine", _engine_connect),
    "sqlalchemy, begin": ("engine", _engine_begin),
    "sqlalchemy, session": ("sessions", _session),
}

SYNC = {"httpx, sync", "openai, sync"}


@pytest.mark.parametrize("use", USES)
async def test_a_fault_stands_in_for_the_answer_of_a_real_client(world: World, use: str) -> None:
    """No server is asked anything, and once the block is left the client works."""
    provider, call = USES[use]
    before = await world.work_done()
    for fault_type in (FaultType.RATE_LIMITED, FaultType.DISCONNECT, FaultType.TIMEOUT):
        options = {"duration_ms": 10} if fault_type is FaultType.TIMEOUT else {}
        with (
            inject_fault(provider, fault_type, **options) as injector,
            pytest.raises(Exception, match=f"{provider}'") as raised,
        ):
            await call(world.registry[provider])
        assert classify(raised.value).retryable
        assert injector.injected == 1
    if use not in SYNC | {"httpx, send"}:  # to build a request is a plain call
        with inject_fault(provider, FaultType.STALL), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await call(world.registry[provider])
    assert await world.work_done() == before
    assert await call(world.registry[provider]) is not None
    assert await world.work_done() != before


@pytest.mark.parametrize("use", USES)
async def test_a_slow_real_client_answers_all_the_same(world: World, use: str) -> None:
    """Its answer comes through the wrapper as it is."""
    provider, call = USES[use]
    before = await world.work_done()
    with inject_fault(provider, FaultType.SLOW, duration_ms=1, allow_unused=use in SYNC) as slow:
        assert await call(world.registry[provider]) is not None
    assert (slow.injected > 0) == (use not in SYNC)
    assert await world.work_done() != before


async def test_a_real_stream_breaks_midway(world: World) -> None:
    """The pieces before the break arrive."""
    got: list[Any] = []
    with inject_fault("openai", FaultType.CUT, after_pieces=2):
        stream = await world.registry["openai"].chat.completions.create(**ASKED, stream=True)
        with pytest.raises(ConnectionResetError):
            await gathered(stream, got)
        await stream.close()
    assert len(got) == 2


async def test_the_errors_of_a_real_client_can_be_caught(world: World) -> None:
    """Classes are the library's own, also those that are found on the client."""
    error = redis.asyncio.ConnectionError("gone")
    with inject_fault("redis", FaultType.ERROR, exception=error):
        with pytest.raises(redis.asyncio.RedisError):
            await world.registry["redis"].get("k")
        assert isinstance(world.registry["redis"], redis.asyncio.Redis)
        assert world.registry["httpx"].base_url == world.clients["httpx"].base_url
