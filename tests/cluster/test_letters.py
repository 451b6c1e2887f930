"""Dead letters of jobs, in a real PostgreSQL that may be away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest

from stageflow.cluster.job import dead_letter_id_of
from stageflow.cluster.worker import JobDeadLetterSink
from stageflow.dlq import DeadLetter, PostgresDeadLetterStore
from stageflow.errors import DeadLetterStoreError
from stageflow.testing.contracts.stores import _letter as some_letter
from tests.utils.descriptors import open_descriptors
from tests.utils.postgres import PostgresServer
from tests.utils.toxic_proxy import Ending, ToxicProxy, Toxics


@pytest.fixture
async def store(postgres: PostgresServer) -> AsyncIterator[PostgresDeadLetterStore]:
    """An empty store."""
    url = await postgres.make_database()
    async with PostgresDeadLetterStore(url, call_timeout_s=1.0) as opened:
        yield opened


@pytest.fixture
def letter() -> DeadLetter:
    """Some letter."""
    return some_letter(1)


async def test_a_turn_leaves_one_letter(store: PostgresDeadLetterStore, letter: DeadLetter) -> None:
    """Under an id that follows from its key; the first one stays, whatever a second one says."""
    for inputs in ({"items": ["tea"]}, {"items": ["milk"]}):
        sink = JobDeadLetterSink(store, "k", patience_s=20.0)
        assert (await sink.earlier() is None) == (inputs["items"] == ["tea"])
        await sink.put(replace(letter, inputs=inputs))
        assert sink.kept == dead_letter_id_of("k")
    (kept,) = await store.letters()
    assert (kept.id, kept.inputs) == (dead_letter_id_of("k"), {"items": ["tea"]})


async def test_a_letter_waits_for_its_database(
    postgres: PostgresServer,
    store: PostgresDeadLetterStore,
    letter: DeadLetter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is kept once the database is back."""
    sink = JobDeadLetterSink(store, "k", patience_s=60.0)
    postgres.stop()
    try:
        putting = asyncio.create_task(sink.put(letter))
        async with asyncio.timeout(120):
            while "cannot store the dead letter" not in caplog.text:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
        assert not putting.done()
    finally:
        postgres.start()
    await putting
    assert [one.id for one in await store.letters()] == [dead_letter_id_of("k")]


async def test_patience_ends(
    postgres: PostgresServer, store: PostgresDeadLetterStore, letter: DeadLetter
) -> None:
    """Then the writer of a letter gets an error; a job that is taken over runs all the same."""
    sink = JobDeadLetterSink(store, "k", patience_s=0.2)
    postgres.stop()
    try:
        with pytest.raises(DeadLetterStoreError):
            await sink.put(letter)
        assert sink.kept is None
        assert await sink.earlier() is None
    finally:
        postgres.start()


async def test_a_cancelled_call_ends_though_the_server_does_not_answer(
    postgres: PostgresServer,
) -> None:
    """Psycopg alone would wait ten seconds for the server to give up the query."""
    before = open_descriptors()
    async with (
        ToxicProxy(lambda: asyncio.open_unix_connection(postgres.socket_path)) as proxy,
        await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as other,
    ):
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
        store = PostgresDeadLetterStore(url, call_timeout_s=30.0)
        await store.letters()
        async with other.transaction():
            await other.execute("LOCK TABLE stageflow_dead_letters IN ACCESS EXCLUSIVE MODE")
            call = asyncio.ensure_future(store.letters())
            query = "SELECT pg_stat_clear_snapshot(), count(*) FROM pg_locks WHERE NOT granted"
            async with asyncio.timeout(20.0):
                while not (await (await other.execute(query)).fetchone() or (0, 0))[1]:
                    pass
            proxy.poison_open(Toxics(ending=Ending.BLACK_HOLE))
            proxy.toxics = Toxics(ending=Ending.BLACK_HOLE)
            began = time.monotonic()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert time.monotonic() - began < 3.0
        await store.close()
    assert open_descriptors() == before
