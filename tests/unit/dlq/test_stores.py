"""The promises of dead-letter stores beyond the contract of the test kit."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stageflow import Pipeline, PipelineContext, StageSpec
from stageflow import errors as err
from stageflow.codec import DEFAULT_CODEC, Codec, StoredType
from stageflow.dlq import DeadLetterState, DeadLetterStore, InMemoryDeadLetterStore, replay
from stageflow.dlq.store import restore_dead_letter
from stageflow.testing import ScriptedStage
from tests.utils.dead_letters import NOON, STORES, Clock, make_letter, opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=STORES)
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[DeadLetterStore]:
    """A new store of each kind, with a clock to move on."""
    async with opened(request.param, tmp_path, clock) as store:
        yield store


async def test_a_store_names_itself_in_its_errors(store: DeadLetterStore) -> None:
    """A file by its path, the memory as such, whether a letter is not there or another one is."""
    where = str(getattr(store, "path", "memory"))
    for call in (store.get("nope"), store.claim("nope", lease_s=1)):
        with pytest.raises(err.UnknownDeadLetterError) as unknown:
            await call
        assert str(unknown.value).startswith(f"there is no dead letter 'nope' in {where};")
    await store.put(make_letter())
    with pytest.raises(err.DuplicateDeadLetterError) as duplicate:
        await store.put(make_letter(seed=8))
    assert str(duplicate.value).startswith(f"{where} holds another dead letter with the id")


async def test_a_claim_that_is_refused_says_until_when(store: DeadLetterStore) -> None:
    """To the second, in UTC."""
    await store.put(make_letter())
    await store.claim(make_letter().id, lease_s=60.25)
    with pytest.raises(err.DeadLetterClaimedError) as caught:
        await store.claim(make_letter().id, lease_s=1)
    assert caught.value.until == "1970-01-12T13:47:40+00:00"


@pytest.mark.parametrize(
    ("standing", "problem"),
    [
        (("odd", 0, None, None), "ValueError: 'odd' is not a valid DeadLetterState"),
        (("replaying", 1, "soon", None), "TypeError: "),
        (("replaying", 1, 1e300, None), "OverflowError: "),
    ],
    ids=["state", "lease", "far lease"],
)
def test_a_letter_that_stands_in_no_known_way_is_refused(
    standing: tuple[Any, ...], problem: str
) -> None:
    """The fields that a store keeps beside a letter's content are checked as well."""
    row = make_letter().id, DEFAULT_CODEC.encode(make_letter()), *standing
    with pytest.raises(err.CorruptDeadLetterError) as caught:
        restore_dead_letter(DEFAULT_CODEC, row)
    assert str(caught.value).startswith(f"dead letter {row[0]} cannot be read: {problem}")


async def test_letters_are_listed_by_state(store: DeadLetterStore) -> None:
    """Waiting, being replayed, replayed: each is listed under its own state alone."""
    for number in (1, 2, 3):
        await store.put(make_letter(number))
    await store.claim(make_letter(2).id, lease_s=5)
    await store.finish(await store.claim(make_letter(3).id, lease_s=5), "run-9")
    listed = {state: [x.id for x in await store.letters(state)] for state in DeadLetterState}
    assert listed == {state: [make_letter(n).id] for n, state in enumerate(DeadLetterState, 1)}
    replayed = await store.get(make_letter(3).id)
    assert (replayed.replay_run_id, replayed.lease_expires_at) == ("run-9", None)


async def test_a_claim_excludes_others_until_its_lease_ends(
    store: DeadLetterStore, clock: Clock
) -> None:
    """One replayer at a time; the end of a lease is exact; each claim counts an attempt."""
    letter = make_letter()
    await store.put(letter)
    first = await store.claim(letter.id, lease_s=60)
    assert (first.letter.state, first.letter.attempts) == (DeadLetterState.REPLAYING, 1)
    assert first.letter.lease_expires_at == datetime.fromtimestamp(NOON + 60, UTC)
    clock.now_s += 59.9
    with pytest.raises(err.DeadLetterClaimedError, match=letter.id):
        await store.claim(letter.id, lease_s=60)
    await store.renew(first, lease_s=60)
    clock.now_s += 59.9
    with pytest.raises(err.DeadLetterClaimedError):
        await store.claim(letter.id, lease_s=60)
    clock.now_s += 0.1
    second = await store.claim(letter.id, lease_s=60)
    assert second.letter.attempts == 2
    for late in (
        store.renew(first, lease_s=60),
        store.finish(first, "run-8"),
        store.put_back(first, letter),
    ):
        with pytest.raises(err.DeadLetterLeaseLostError, match=letter.id):
            await late
    await store.finish(second, "run-9")
    with pytest.raises(err.DeadLetterReplayedError, match=f"{letter.id}.*run-9"):
        await store.claim(letter.id, lease_s=60)
    with pytest.raises(err.DeadLetterLeaseLostError):
        await store.put_back(second, letter)


async def test_a_letter_that_is_put_back_waits_with_its_new_content(store: DeadLetterStore) -> None:
    """The failed replay's outputs are kept for the next one; the attempt stays counted."""
    letter = make_letter()
    await store.put(letter)
    claim = await store.claim(letter.id, lease_s=60)
    await store.put_back(claim, replace(claim.letter, failed_stage="ship"))
    assert await store.letters() == (replace(letter, failed_stage="ship", attempts=1),)
    assert (await store.claim(letter.id, lease_s=60)).letter.failed_stage == "ship"


@pytest.mark.parametrize(("size", "elsewhere"), [(1_000, False), (300_000, True)])
@pytest.mark.parametrize("kind", STORES)
async def test_a_large_letter_is_encoded_and_decoded_off_the_loop(
    kind: str, tmp_path: Path, size: int, elsewhere: bool
) -> None:
    """In another thread, when it is put, claimed, put back and listed."""
    threads = []

    def noted(text: object) -> str:
        threads.append(threading.get_ident())
        return str(text)

    codec = Codec([StoredType("text", Text, noted, lambda plain: Text(noted(plain)))])
    letter = make_letter(inputs={"items": [Text(size * "x")]})
    async with opened(kind, tmp_path, codec=codec) as store:
        await store.put(letter)
        claim = await store.claim(letter.id, lease_s=60)
        await store.put_back(claim, letter)
        assert await store.letters() == (replace(letter, attempts=1),)
    assert [thread != threading.get_ident() for thread in threads] == [elsewhere] * 4


@pytest.mark.parametrize("large", [False, True])
async def test_a_large_letter_is_checked_off_the_loop(
    monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """A replay searches all of its values for those that could not be stored."""
    threads = []

    def noted(*_: object) -> None:
        threads.append(threading.get_ident())

    monkeypatch.setitem(replay.__globals__, "check_fits", noted)
    store = InMemoryDeadLetterStore()
    ctx = PipelineContext({"a": "x" * (300_000 if large else 1)}, dead_letters=store)
    pipeline = Pipeline("p", [StageSpec("fail", ScriptedStage(ending="raise"))])
    await pipeline.run(ctx)
    assert ctx.dlq_entry is not None
    await replay(ctx.dlq_entry, pipeline.orchestrator, store)
    assert [thread != threading.get_ident() for thread in threads] == [large] * 2


class Text(str):
    """A text that tells where it is encoded."""
