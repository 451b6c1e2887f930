"""What the engine expects of a dead-letter store, and of an event sink."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

from stageflow.context import PipelineContext
from stageflow.dispatch import EventDispatcher
from stageflow.dlq.store import DeadLetterStore
from stageflow.errors import (
    DeadLetterClaimedError,
    DeadLetterReplayedError,
    DuplicateDeadLetterError,
    StageflowError,
    UnknownDeadLetterError,
)
from stageflow.events import Event, EventSink, StageStatus
from stageflow.letter import DeadLetter, LetterError, LetterState, StageRecord
from stageflow.orchestrator import PipelineOrchestrator
from stageflow.pipeline import Pipeline
from stageflow.stage import StageSpec
from stageflow.testing.contracts.loops import LoopContract
from stageflow.testing.contracts.overrides import Contract
from stageflow.testing.scripted import ScriptedStage


def _letter(number: int) -> DeadLetter:
    return DeadLetter(
        id=f"{number:032x}",
        created_at=datetime(2026, 1, 2, 3, 4, number, tzinfo=UTC),
        pipeline="shop",
        pipeline_run_id=f"run-{number}",
        correlation_id=None,
        failed_stage="pay",
        error=LetterError("refused", "permanent", "no money", "Sorry."),
        inputs={"items": ["tea", "Ünï"]},
        stages={"pick": StageRecord(StageStatus.COMPLETED, True, None, {"picked": b"\0"})},
    )


async def _refused(work: Awaitable[object], error: type[StageflowError]) -> None:
    try:
        await work
    except error:
        return
    raise AssertionError(f"it was allowed, and {error.__name__} was due")


class StoreContractTest(LoopContract):
    """The contract of a dead-letter store: `open_store`, empty and new for each test."""

    real_io = True

    def open_store(self) -> AbstractAsyncContextManager[DeadLetterStore]:
        """An empty store, open as long as it is entered.

        Raises:
            NotImplementedError: The subclass does not say which.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say which: write open_store")

    def _hold(self, check: Callable[[DeadLetterStore], Awaitable[None]]) -> None:
        async def main() -> None:
            async with self.open_store() as store:
                await check(store)

        self._run(main())

    def test_keeps_letters_in_order(self) -> None:
        """Equal to what was put, one by one and all together."""

        async def check(store: DeadLetterStore) -> None:
            letters = tuple(map(_letter, (3, 1, 2)))
            for letter in letters:
                await store.put(letter)
            assert await store.letters() == letters
            assert await store.get(letters[1].id) == letters[1]

        self._hold(check)

    def test_a_letter_put_twice_is_there_once(self) -> None:
        """And another one under its id is refused."""

        async def check(store: DeadLetterStore) -> None:
            await store.put(_letter(1))
            await store.put(_letter(1))
            other = dataclasses.replace(_letter(1), pipeline="other")
            await _refused(store.put(other), DuplicateDeadLetterError)
            assert await store.letters() == (_letter(1),)

        self._hold(check)

    def test_an_unknown_letter_is_refused(self) -> None:
        """To whoever asks for it, or claims it."""

        async def check(store: DeadLetterStore) -> None:
            await _refused(store.get("nobody"), UnknownDeadLetterError)
            await _refused(store.claim("nobody", lease_s=1.0), UnknownDeadLetterError)

        self._hold(check)

    def test_of_many_who_claim_one_succeeds(self) -> None:
        """And the letter says that it is being replayed."""

        async def check(store: DeadLetterStore) -> None:
            await store.put(_letter(1))
            tries = (store.claim(_letter(1).id, lease_s=60.0) for _ in range(10))
            ends = await asyncio.gather(*tries, return_exceptions=True)
            claimed = [end for end in ends if not isinstance(end, BaseException)]
            refused = [end for end in ends if isinstance(end, DeadLetterClaimedError)]
            assert (len(claimed), len(refused)) == (1, 9), f"{len(claimed)} claimed it"
            (letter,) = await store.letters(LetterState.REPLAYING)
            assert letter.attempts == 1

        self._hold(check)

    def test_a_replayed_letter_is_not_replayed_again(self) -> None:
        """Its state and its run stand."""

        async def check(store: DeadLetterStore) -> None:
            await store.put(_letter(1))
            await store.finish(await store.claim(_letter(1).id, lease_s=60.0), "run-9")
            await _refused(store.claim(_letter(1).id, lease_s=60.0), DeadLetterReplayedError)
            letter = await store.get(_letter(1).id)
            assert (letter.state, letter.replay_run_id) == (LetterState.REPLAYED, "run-9")

        self._hold(check)


class SinkContractTest(Contract):
    """The contract of an event sink: `make_sink`, and `read` for what has reached its end."""

    def make_sink(self) -> EventSink:
        """The sink under test, made anew; raises as `StoreContractTest.open_store`."""
        raise NotImplementedError(f"{type(self).__name__} does not say which: write make_sink")

    def read(self, sink: EventSink) -> Sequence[str]:
        """The types of the events that a closed sink has passed on, in order."""
        raise NotImplementedError(f"{type(self).__name__} cannot be read: write read")

    def test_passes_every_event_on_once_and_in_order(self) -> None:
        """Those of a run, through a dispatcher that is closed afterwards."""
        sink = self.make_sink()
        events = self._run(sink)
        assert list(self.read(sink)) == [event.type for event in events]

    def test_takes_an_empty_batch(self) -> None:
        """Without an error, and without passing anything on."""
        sink = self.make_sink()
        sink.write([])
        sink.close()
        assert list(self.read(sink)) == []

    def test_no_event_of_a_run_is_lost_or_refused(self) -> None:
        """The dispatcher counts them as written, none as failed."""
        sink = self.make_sink()
        with EventDispatcher([sink]) as dispatcher:
            events = self._events(dispatcher)
        (stats,) = dispatcher.stats()
        assert (stats.written, stats.failed, stats.dropped) == (len(events), 0, 0), stats

    def _run(self, sink: EventSink) -> Sequence[Event]:
        with EventDispatcher([sink]) as dispatcher:
            return self._events(dispatcher)

    def _events(self, dispatcher: EventDispatcher) -> Sequence[Event]:
        specs = [
            StageSpec("a", ScriptedStage(("a.0",)), outputs=("a.0",)),
            StageSpec("b", ScriptedStage(ending="raise"), ("a",), required=False),
            StageSpec("c", ScriptedStage(ending="skip"), ("b",)),
        ]
        graph = Pipeline("p", specs).build()
        orchestrator = PipelineOrchestrator(graph, dispatcher=dispatcher)
        return asyncio.run(orchestrator.run(PipelineContext())).events
