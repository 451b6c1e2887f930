"""Dead letters of turns, in a real PostgreSQL that may be away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from stageflow.cluster.letters import TurnLetterBox
from stageflow.cluster.turn import letter_id_of
from stageflow.dlq.postgres import PostgresDeadLetterStore
from stageflow.errors import DeadLetterStoreError
from stageflow.letter import DeadLetter
from stageflow.testing.contracts.stores import _letter as some_letter
from tests.utils.postgres import PostgresServer


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
        box = TurnLetterBox(store, "k", patience_s=20.0)
        assert (await box.earlier() is None) == (inputs["items"] == ["tea"])
        await box.put(replace(letter, inputs=inputs))
        assert box.kept == letter_id_of("k")
    (kept,) = await store.letters()
    assert (kept.id, kept.inputs) == (letter_id_of("k"), {"items": ["tea"]})


async def test_a_letter_waits_for_its_database(
    postgres: PostgresServer,
    store: PostgresDeadLetterStore,
    letter: DeadLetter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is kept once the database is back."""
    box = TurnLetterBox(store, "k", patience_s=60.0)
    postgres.stop()
    try:
        putting = asyncio.create_task(box.put(letter))
        async with asyncio.timeout(20):
            while "has to wait" not in caplog.text:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
        assert not putting.done()
    finally:
        postgres.start()
    await putting
    assert [one.id for one in await store.letters()] == [letter_id_of("k")]


async def test_patience_ends(
    postgres: PostgresServer, store: PostgresDeadLetterStore, letter: DeadLetter
) -> None:
    """Then whoever puts a letter is told; a turn that is taken over is run, rather than not."""
    box = TurnLetterBox(store, "k", patience_s=0.2)
    postgres.stop()
    try:
        with pytest.raises(DeadLetterStoreError):
            await box.put(letter)
        assert box.kept is None
        assert await box.earlier() is None
    finally:
        postgres.start()
