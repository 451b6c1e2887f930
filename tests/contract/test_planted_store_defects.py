"""Each assertion about stores and sinks is held by one defect."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any
from unittest import mock

import pytest

from stageflow.dlq import Claim, InMemoryDeadLetterStore, UnreadableDeadLetter
from stageflow.errors import DeadLetterClaimedError, UnknownDeadLetterError
from stageflow.testing import SinkContractTest, StoreContractTest
from tests.utils.mocks import RecordingSink
from tests.utils.stage_cases import names_of_tests

pytestmark = pytest.mark.untraced


class Reverses(InMemoryDeadLetterStore):
    async def letters(self, state: Any = None) -> Any:
        return (await super().letters(state))[::-1]


class GivesAnother(InMemoryDeadLetterStore):
    async def get(self, dead_letter_id: str) -> Any:
        await super().get(dead_letter_id)
        return (await self.letters())[0]


class TakesAnyOther(InMemoryDeadLetterStore):
    async def put(self, letter: Any) -> None:
        if all(kept.id != letter.id for kept in await self.letters()):
            await super().put(letter)


class KeepsBoth(InMemoryDeadLetterStore):
    times = 0

    async def put(self, letter: Any) -> None:
        await super().put(letter)
        self.times += 1

    async def letters(self, state: Any = None) -> Any:
        return (await super().letters(state)) * self.times


class GivesNothing(InMemoryDeadLetterStore):
    async def get(self, dead_letter_id: str) -> Any:
        return None if dead_letter_id == "nobody" else await super().get(dead_letter_id)


class ClaimsNothing(InMemoryDeadLetterStore):
    async def claim(self, dead_letter_id: str, *, lease_s: float) -> Any:
        if dead_letter_id == "nobody":
            return None
        return await super().claim(dead_letter_id, lease_s=lease_s)


class ClaimsForAll(InMemoryDeadLetterStore):
    async def claim(self, dead_letter_id: str, *, lease_s: float) -> Claim:
        try:
            return await super().claim(dead_letter_id, lease_s=lease_s)
        except DeadLetterClaimedError:
            return Claim((await self.letters())[0], 1)


class CountsTwice(InMemoryDeadLetterStore):
    async def letters(self, state: Any = None) -> Any:
        kept = await super().letters(state)
        return tuple(dataclasses.replace(letter, attempts=2 * letter.attempts) for letter in kept)


class ReplaysAgain(InMemoryDeadLetterStore):
    async def finish(self, claim: Claim, replay_run_id: str) -> None:
        await super().put_back(claim, claim.letter)


class ForgetsTheRun(InMemoryDeadLetterStore):
    async def get(self, dead_letter_id: str) -> Any:
        return dataclasses.replace(await super().get(dead_letter_id), replay_run_id=None)


class DeletesInSilence(InMemoryDeadLetterStore):
    silent: type[Exception] = DeadLetterClaimedError

    async def delete(self, dead_letter_id: str) -> None:
        with suppress(self.silent):
            await super().delete(dead_letter_id)


class DeletesWhatNobodyPut(DeletesInSilence):
    silent = UnknownDeadLetterError


class DeletesNothing(InMemoryDeadLetterStore):
    left: tuple[Any, ...] = ()

    async def delete(self, dead_letter_id: str) -> None:
        self.left += tuple(one for one in await self.letters() if one.id == dead_letter_id)
        await super().delete(dead_letter_id)

    async def letters(self, state: Any = None) -> Any:
        return await super().letters(state) + self.left


class ReadsNothing(InMemoryDeadLetterStore):
    async def unreadable(self) -> Any:
        return tuple(UnreadableDeadLetter(one.id, "?", "?") for one in await self.letters())


STORES: list[tuple[Any, dict[str, str]]] = [
    (InMemoryDeadLetterStore, {}),
    (Reverses, {"keeps_letters_in_order": r"letters\(\) gave"}),
    (GivesAnother, {"keeps_letters_in_order": r"get\(\) gave another letter"}),
    (
        TakesAnyOther,
        {"a_letter_put_twice_is_there_once": "it was allowed, and DuplicateDeadLetterError was"},
    ),
    (
        KeepsBoth,
        {
            "a_letter_put_twice_is_there_once": r"after it was put twice letters\(\) gave",
            "keeps_letters_in_order": "gave",
            "a_deleted_letter_is_gone": "0001",
        },
    ),
    (
        GivesNothing,
        {
            "an_unknown_letter_is_refused": "it was allowed, and UnknownDeadLetterError was due",
        },
    ),
    (ClaimsNothing, {"an_unknown_letter_is_refused": "UnknownDeadLetterError was due"}),
    (ClaimsForAll, {"one_of_many_claims_succeeds": "10 claimed it"}),
    (CountsTwice, {"one_of_many_claims_succeeds": "one claim counts as 2 attempts"}),
    (ReplaysAgain, {"a_replayed_letter_is_not_replayed_again": "DeadLetterReplayedError was due"}),
    (DeletesInSilence, {"a_deleted_letter_is_gone": "allowed, and DeadLetterClaimedError was due"}),
    (DeletesWhatNobodyPut, {"a_deleted_letter_is_gone": "UnknownDeadLetterError was due"}),
    (DeletesNothing, {"a_deleted_letter_is_gone": "0002"}),
    (ReadsNothing, {"a_deleted_letter_is_gone": "UnreadableDeadLetter"}),
    (ForgetsTheRun, {"a_replayed_letter_is_not_replayed_again": "a replay by 'run-9' left"}),
]


@pytest.mark.parametrize(("cls", "expected"), STORES, ids=lambda value: str(value)[:60])
def test_a_defect_of_a_store_is_found(
    cls: type[InMemoryDeadLetterStore], expected: dict[str, str]
) -> None:
    """By exactly the tests that are there for it."""

    def open_store(self: object) -> AbstractAsyncContextManager[Any]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[Any]:
            yield cls()

        return opened()

    made = type("Made", (StoreContractTest,), {"open_store": open_store})()
    _check_red(made, StoreContractTest, expected)


# ── sinks ───────────────────────────────────────────────────────────────────────────────────────


class Twice(RecordingSink):
    def write(self, events: Sequence[Any]) -> None:
        super().write([*events, *events])


class Backwards(RecordingSink):
    def write(self, events: Sequence[Any]) -> None:
        super().write(events[::-1])


class Chatty(RecordingSink):
    def close(self) -> None:
        if not self.events:
            super().write([mock.Mock(type="closed")])


class Refusing(RecordingSink):
    def write(self, events: Sequence[Any]) -> None:
        super().write(events)
        if events:
            raise OSError("full")


ORDER, EMPTY, COUNTS = (
    "passes_every_event_on_once_and_in_order",
    "takes_an_empty_batch",
    "no_event_of_a_run_is_lost_or_refused",
)
SINKS: list[tuple[Any, dict[str, str]]] = [
    (RecordingSink, {}),
    (Twice, {ORDER: "it passed .* on, and was given"}),
    (Backwards, {ORDER: "it passed .* on, and was given"}),
    (Chatty, {EMPTY: r"it passed \['closed'\] on, and was given nothing"}),
    (Refusing, {COUNTS: "failed=8"}),
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("cls", "expected"), SINKS, ids=lambda value: str(value)[:60])
def test_a_defect_of_a_sink_is_found(cls: type[RecordingSink], expected: dict[str, str]) -> None:
    """By exactly the tests that are there for it."""
    fields = {
        "make_sink": lambda self: cls(),
        "read": lambda self, sink: [event.type for event in sink.events],
    }
    _check_red(type("Made", (SinkContractTest,), fields)(), SinkContractTest, expected)


def _check_red(made: Any, owner: type, expected: Mapping[str, str]) -> None:
    for name in sorted(names_of_tests(owner)):
        said = expected.get(name.removeprefix("test_"))
        if said is None:
            getattr(made, name)()
        else:
            with pytest.raises(AssertionError, match=said):
                getattr(made, name)()
