"""A database provider whose server, lock, pool or connection fails."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from sqlite3 import connect as sqlite_connect
from typing import Any

import psycopg
import pytest

from stageflow import PipelineContext, PipelineOrchestrator, RunResult, StageStatus
from stageflow.errors import StageflowError
from stageflow.kernels import chat
from stageflow.providers import Database, FakeLLM, ProviderRegistry, SqlDatabase
from stageflow.resilience import classify
from tests.utils.descriptors import open_descriptors
from tests.utils.errors import code_of
from tests.utils.postgres import PostgresServer, connected, fresh_collection
from tests.utils.toxic_proxy import Ending, ToxicProxy, Toxics


async def failure_of(call: Any) -> StageflowError:
    """Return the classified failure of a call."""
    try:
        await call
    except Exception as error:
        return classify(error)
    raise AssertionError("the call did not fail")


async def chat_turn(database: Database, user_id: str) -> RunResult:
    """A turn of the chat kernel with that database."""
    providers = ProviderRegistry(llm=FakeLLM(), db=database)
    ctx = PipelineContext({"text": "hello", "user_id": user_id}, providers=providers)
    return await PipelineOrchestrator(chat().build()).run(ctx)


def stage_errors(result: RunResult) -> dict[str, str]:
    """The code of each stage that failed."""
    return {
        name: ended.detail["error_code"]
        for name, ended in result.stages.items()
        if ended.status is StageStatus.FAILED
    }


async def test_a_server_stopped_and_started_costs_a_turn_its_memory_only(
    postgres: PostgresServer,
) -> None:
    """Without its database a turn is answered all the same, and the next one remembers again."""
    user_id = fresh_collection()
    before = open_descriptors()
    async with SqlDatabase(postgres.url) as database:
        first = await chat_turn(database, user_id)
        postgres.stop()
        try:
            second = await chat_turn(database, user_id)
        finally:
            postgres.start()
        third = await chat_turn(database, user_id)
    assert [bool(r.outputs["answer"]) for r in (first, second, third)] == [True] * 3
    assert stage_errors(first) == stage_errors(third) == {}
    assert set(stage_errors(second)) == {"memory", "persist"}
    assert set(stage_errors(second).values()) <= {"connection_failed", "service_unavailable"}
    assert [turn["user"] for turn in third.outputs["history"]] == ["hello"]
    assert open_descriptors() == before


@asynccontextmanager
async def table_locked(postgres: PostgresServer) -> AsyncIterator[psycopg.AsyncConnection]:
    """Another connection holds the table."""
    async with await connected(postgres) as connection, connection.transaction():
        await connection.execute("LOCK TABLE stageflow_records IN ACCESS EXCLUSIVE MODE")
        yield connection


async def waiting(connection: psycopg.AsyncConnection, count: int, what: str = "Lock") -> None:
    """Return once as many other connections wait for that: a lock, or a timeout to sleep."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = %s AND datid IS NOT NULL"
    async with asyncio.timeout(60.0):
        while await (await connection.execute(query, (what,))).fetchone() != (count,):
            # What is shown is kept for the length of a transaction.
            await connection.execute("SELECT pg_stat_clear_snapshot()")


async def test_a_lock_held_by_another_is_busy_and_passes(postgres: PostgresServer) -> None:
    """A call waits for a lock as long as it was set to, and succeeds when it is gone."""
    collection = fresh_collection()
    async with SqlDatabase(postgres.url, lock_timeout_s=0.05) as database:
        await database.put(collection, "key", {"n": 1})
        async with table_locked(postgres):
            failures = [
                await failure_of(database.get(collection, "key")),
                await failure_of(database.put(collection, "key", {"n": 2})),
            ]
        assert [(code_of(f), f.retryable) for f in failures] == [("database_busy", True)] * 2
        assert await database.get(collection, "key") == {"n": 1}


async def test_a_locked_sqlite_file_is_busy_and_passes(tmp_path: Path) -> None:
    """A writer that another process keeps out gives up in time; readers go on meanwhile."""
    path = tmp_path / "db"
    async with SqlDatabase(f"sqlite:///{path}", lock_timeout_s=0.05) as database:
        await database.put("c", "key", {"n": 1})
        with closing(sqlite_connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            failure = await failure_of(database.put("c", "key", {"n": 2}))
            assert await database.get("c", "key") == {"n": 1}
        assert code_of(failure) == "database_busy"
        await database.put("c", "key", {"n": 3})
        assert await database.get("c", "key") == {"n": 3}


async def test_a_pool_without_a_free_connection_is_busy_and_passes(
    postgres: PostgresServer,
) -> None:
    """A call that gets no connection in time fails as busy; those that hold them end well."""
    collection = fresh_collection()
    options: dict[str, Any] = {"pool_size": 2, "pool_timeout_s": 0.05, "lock_timeout_s": 5.0}
    async with SqlDatabase(postgres.url, statement_timeout_s=5.0, **options) as database:
        await database.put(collection, "key", {"n": 1})
        async with table_locked(postgres) as holder:
            held = [asyncio.ensure_future(database.get(collection, "key")) for _ in range(2)]
            await waiting(holder, 2)
            failure = await failure_of(database.get(collection, "key"))
        assert await asyncio.gather(*held) == [{"n": 1}] * 2
        assert code_of(failure) == "database_busy"
        assert await database.get(collection, "key") == {"n": 1}


@asynccontextmanager
async def slow_writes(postgres: PostgresServer, seconds: float) -> AsyncIterator[None]:
    """Each write of a record takes that long inside the server."""
    async with await connected(postgres) as connection:
        await connection.execute(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END $$;"
            "CREATE TRIGGER dawdle BEFORE INSERT ON stageflow_records EXECUTE FUNCTION"
            " dawdle()".encode()
        )
    try:
        yield
    finally:
        async with await connected(postgres) as connection:
            await connection.execute("DROP FUNCTION dawdle CASCADE")


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(
    postgres: PostgresServer,
) -> None:
    """The limit of a statement is kept where it runs: nothing goes on behind the caller's back."""
    collection = fresh_collection()
    async with SqlDatabase(postgres.url, statement_timeout_s=0.05) as database:
        await database.put(collection, "key", {"is": "old"})
        async with slow_writes(postgres, 30.0):
            failure = await failure_of(database.put(collection, "key", {"is": "new"}))
        assert (code_of(failure), failure.retryable) == ("operation_timeout", True)
        assert await database.get(collection, "key") == {"is": "old"}


async def test_a_cancelled_query_gives_its_connection_back(postgres: PostgresServer) -> None:
    """With one connection and each call cancelled while it waits, the next one is served."""
    collection = fresh_collection()
    before = open_descriptors()
    options: dict[str, Any] = {"pool_size": 1, "lock_timeout_s": 30.0, "statement_timeout_s": 30.0}
    async with SqlDatabase(postgres.url, **options) as database:
        await database.put(collection, "key", {"is": "old"})
        async with table_locked(postgres) as holder:
            for _ in range(3):
                call = asyncio.ensure_future(database.put(collection, "key", {"is": "new"}))
                await waiting(holder, 1)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                # The server got the cancellation: it does not go on waiting for the lock.
                await waiting(holder, 0)
        assert await database.get(collection, "key") == {"is": "old"}
    assert open_descriptors() == before


async def test_a_server_that_stops_in_the_middle_of_a_call_says_so(
    postgres: PostgresServer,
) -> None:
    """A call that was waiting when the server was stopped fails as transient, and works later."""
    collection = fresh_collection()
    options: dict[str, Any] = {"statement_timeout_s": 30.0, "call_timeout_s": 30.0}
    async with SqlDatabase(postgres.url, **options) as database:
        await database.put(collection, "key", {"is": "old"})
        async with slow_writes(postgres, 30.0):
            watcher = await connected(postgres)
            call = asyncio.ensure_future(failure_of(database.put(collection, "key", {"is": "new"})))
            await waiting(watcher, 1, "Timeout")
            await asyncio.to_thread(postgres.stop)
            try:
                failure = await call
            finally:
                await asyncio.to_thread(postgres.start)
                await watcher.close()
        assert code_of(failure) in {"service_unavailable", "connection_failed"}
        assert failure.retryable
        assert await database.get(collection, "key") == {"is": "old"}


@asynccontextmanager
async def proxied(postgres: PostgresServer) -> AsyncIterator[tuple[ToxicProxy, str]]:
    """The server behind a proxy, and the URL of that."""
    async with ToxicProxy(lambda: asyncio.open_unix_connection(postgres.socket_path)) as proxy:
        yield proxy, f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"


@pytest.mark.parametrize(
    ("toxics", "becomes"),
    [
        (Toxics(ending=Ending.CUT), "connection_failed"),
        (Toxics(ending=Ending.RESET), "connection_failed"),
        (Toxics(ending=Ending.CUT, after_bytes=100), "connection_failed"),
        (Toxics(ending=Ending.BLACK_HOLE), "operation_timeout"),
        (Toxics(ending=Ending.BLACK_HOLE, after_bytes=100), "operation_timeout"),
        (Toxics(bandwidth_bytes_per_s=50), "operation_timeout"),
    ],
    ids=repr,
)
async def test_a_connection_that_cannot_be_made_ends_in_time(
    postgres: PostgresServer, toxics: Toxics, becomes: str
) -> None:
    """For each fault while connecting, the call ends, and the next one connects."""
    gc.collect()
    before = open_descriptors()
    async with (
        proxied(postgres) as (proxy, url),
        SqlDatabase(url, call_timeout_s=2.0) as database,
    ):
        proxy.toxics = toxics
        failure = await failure_of(database.get("c", "key"))
        assert (code_of(failure), failure.retryable) == (becomes, True)
        proxy.toxics = Toxics()
        assert await database.get("c", "missing") is None
    gc.collect()  # the traceback of the failure is in a cycle with a connection half made
    assert open_descriptors() == before


async def test_a_connection_whose_server_vanished_is_found_out_before_it_is_used(
    postgres: PostgresServer,
) -> None:
    """A half-open connection in the pool costs a call no failure: it is tried, and replaced."""
    collection = fresh_collection()
    async with proxied(postgres) as (proxy, url), SqlDatabase(url, pool_size=1) as database:
        await database.put(collection, "key", {"n": 1})
        assert proxy.accepted == 1
        proxy.abandon_open()
        assert await database.get(collection, "key") == {"n": 1}
        assert proxy.accepted == 2


async def test_a_mute_connection_is_thrown_away(postgres: PostgresServer) -> None:
    """A connection on which nothing comes any more fails one call by its limit, and no other."""
    collection = fresh_collection()
    before = open_descriptors()
    async with (
        proxied(postgres) as (proxy, url),
        SqlDatabase(url, pool_size=1, call_timeout_s=0.4) as database,
    ):
        await database.put(collection, "key", {"n": 1})
        proxy.poison_open(Toxics(ending=Ending.BLACK_HOLE))
        proxy.toxics = Toxics(ending=Ending.BLACK_HOLE)
        began = time.monotonic()
        failure = await failure_of(database.get(collection, "key"))
        took_s = time.monotonic() - began
        assert code_of(failure) == "operation_timeout"
        # SQLAlchemy alone would take 2 s more.
        assert 0.4 <= took_s < 1.5
        proxy.toxics = Toxics()
        assert await database.get(collection, "key") == {"n": 1}
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert open_descriptors() == before
