"""The contracts of what users add: an interceptor, a dead-letter store, an event sink."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from typing import Any

from stageflow import engine, errors
from stageflow.dlq.store import DeadLetterStore
from stageflow.events import Event, EventDispatcher, EventSink, StageStatus
from stageflow.testing.contracts.base import Contract, LoopContract, on_subject
from stageflow.testing.contracts.probes import CancellationProbe
from stageflow.testing.invariants import check_run
from stageflow.testing.scripted import ScriptedStage
from stageflow.testing.simulation import EPOCH_S, Schedule


def _letter(number: int) -> engine.DeadLetter:
    return engine.DeadLetter(
        id=f"{number:032x}",
        created_at=datetime(2026, 1, 2, 3, 4, number, tzinfo=UTC),
        pipeline="shop",
        pipeline_run_id=f"run-{number}",
        correlation_id=None,
        failed_stage="pay",
        error=engine.FailureRecord("refused", "permanent", "no money", "Sorry."),
        inputs={"items": ["tea", "Ünï"]},
        stages={"pick": engine.StageRecord(StageStatus.COMPLETED, True, None, {"picked": b"\0"})},
    )


async def _refused(work: Awaitable[object], error: type[errors.StageflowError]) -> None:
    with suppress(error):
        await work
        raise AssertionError(f"it was allowed, and {error.__name__} was due")


class StoreContractTest(LoopContract):
    """The contract of a dead-letter store: `open_store`, empty and new for each test."""

    real_io = True

    def open_store(self) -> AbstractAsyncContextManager[DeadLetterStore]:
        """Return an empty store, open as long as it is entered."""
        raise self._unwritten("open_store")

    async def _subject(self) -> DeadLetterStore:
        return await self.resources.enter_async_context(self.open_store())

    @on_subject
    async def test_keeps_letters_in_order(self, store: DeadLetterStore) -> None:
        """Letters are equal to those that were put, read one by one or all together."""
        letters = tuple(map(_letter, (3, 1, 2)))
        for letter in letters:
            await store.put(letter)
        kept = await store.letters()
        assert kept == letters, f"letters() gave {kept}, and put were {letters}"
        assert await store.get(letters[1].id) == letters[1], "get() gave another letter"

    @on_subject
    async def test_a_letter_put_twice_is_there_once(self, store: DeadLetterStore) -> None:
        """A different letter with the same id is refused."""
        await store.put(_letter(1))
        await store.put(_letter(1))
        other = dataclasses.replace(_letter(1), pipeline="other")
        await _refused(store.put(other), errors.DuplicateDeadLetterError)
        kept = await store.letters()
        assert kept == (_letter(1),), f"after it was put twice letters() gave {kept}"

    @on_subject
    async def test_an_unknown_letter_is_refused(self, store: DeadLetterStore) -> None:
        """Reading or claiming a letter that does not exist raises."""
        await _refused(store.get("nobody"), errors.UnknownDeadLetterError)
        await _refused(store.claim("nobody", lease_s=1.0), errors.UnknownDeadLetterError)

    @on_subject
    async def test_one_of_many_claims_succeeds(self, store: DeadLetterStore) -> None:
        """Of several claims at once, one succeeds, and the letter is marked as being replayed."""
        await store.put(_letter(1))
        tries = (store.claim(_letter(1).id, lease_s=60.0) for _ in range(10))
        ends = await asyncio.gather(*tries, return_exceptions=True)
        claimed = [end for end in ends if not isinstance(end, BaseException)]
        refused = [end for end in ends if isinstance(end, errors.DeadLetterClaimedError)]
        assert (len(claimed), len(refused)) == (1, 9), f"{len(claimed)} claimed it"
        (letter,) = await store.letters(engine.DeadLetterState.REPLAYING)
        assert letter.attempts == 1, f"one claim counts as {letter.attempts} attempts"

    @on_subject
    async def test_a_replayed_letter_is_not_replayed_again(self, store: DeadLetterStore) -> None:
        """The letter keeps its state and the id of its replay."""
        await store.put(_letter(1))
        await store.finish(await store.claim(_letter(1).id, lease_s=60.0), "run-9")
        await _refused(store.claim(_letter(1).id, lease_s=60.0), errors.DeadLetterReplayedError)
        letter = await store.get(_letter(1).id)
        left = letter.state, letter.replay_run_id
        wanted = engine.DeadLetterState.REPLAYED, "run-9"
        assert left == wanted, f"a replay by 'run-9' left {left}"

    @on_subject
    async def test_a_deleted_letter_is_gone(self, store: DeadLetterStore) -> None:
        """A letter that is being replayed, or does not exist, cannot be deleted."""
        await store.put(_letter(1))
        await store.put(_letter(2))
        await store.claim(_letter(1).id, lease_s=60.0)
        await store.delete(_letter(2).id)
        await _refused(store.delete(_letter(1).id), errors.DeadLetterClaimedError)
        await _refused(store.delete(_letter(2).id), errors.UnknownDeadLetterError)
        left = [letter.id for letter in await store.letters()], await store.unreadable()
        assert left == ([_letter(1).id], ()), f"letters and unreadable ones left are {left}"


class SinkContractTest(Contract):
    """The contract of an event sink: `make_sink`, and `read` for what has reached its end."""

    def make_sink(self) -> EventSink:
        """Return a new sink."""
        raise self._unwritten("make_sink")

    def read(self, sink: EventSink) -> Sequence[str]:
        """Return the types of the events that a closed sink has passed on, in order."""
        raise self._unwritten("read")

    def test_passes_every_event_on_once_and_in_order(self) -> None:
        """The sink passes on all events of a run once its dispatcher is closed."""
        sink = self.make_sink()
        wanted, read = [event.type for event in self._run(sink)], list(self.read(sink))
        assert read == wanted, f"it passed {read} on, and was given {wanted}"

    def test_takes_an_empty_batch(self) -> None:
        """An empty batch raises nothing and passes nothing on."""
        sink = self.make_sink()
        sink.write([])
        sink.close()
        read = list(self.read(sink))
        assert read == [], f"it passed {read} on, and was given nothing"

    def test_no_event_of_a_run_is_lost_or_refused(self) -> None:
        """The dispatcher counts all events as written, and none as failed."""
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
            engine.StageSpec("a", ScriptedStage(("a.0",)), outputs=("a.0",)),
            engine.StageSpec("b", ScriptedStage(ending="raise"), ("a",), required=False),
            engine.StageSpec("c", ScriptedStage(ending="skip"), ("b",)),
        ]
        graph = engine.Pipeline("p", specs).build()
        orchestrator = engine.PipelineOrchestrator(graph, dispatcher=dispatcher)
        return asyncio.run(orchestrator.run(engine.PipelineContext())).events


class InterceptorContractTest(LoopContract):
    """The contract of an interceptor, or of several in a row; each test makes new ones.

    The tests run in simulated time; ``real_io = True`` runs them on a real loop, for an interceptor
    that does real I/O (see `LoopContract` for the limits of that).
    """

    def make_interceptors(self) -> Sequence[engine.Interceptor]:
        """Return what is under test, the outermost first, configured to let everything pass."""
        raise self._unwritten("make_interceptors")

    def test_a_completed_stage_stays_completed(self) -> None:
        """The outputs of the stage do not change."""
        self._ends_as_without(ScriptedStage(("k",), self._pauses_s, "ok"))

    def test_a_stage_that_never_suspends_completes(self) -> None:
        """A stage that never yields to the loop completes, too."""
        self._ends_as_without(ScriptedStage(("k",)))

    def test_a_stage_that_raises_fails_the_same_way(self) -> None:
        """The failure keeps its code and text."""
        self._ends_as_without(ScriptedStage(("k",), self._pauses_s, "raise"))

    def test_a_failed_output_fails_the_same_way(self) -> None:
        """A failure that the stage returns keeps its code and text, too."""
        self._ends_as_without(ScriptedStage(("k",), (), "fail"))

    def test_a_skipped_stage_stays_skipped(self) -> None:
        """The skip keeps its reason."""
        self._ends_as_without(ScriptedStage((), self._pauses_s, "skip"))

    def test_a_cancellation_passes(self) -> None:
        """Cancelled anywhere, the run ends as cancelled and leaves nothing behind."""
        ends = self._cancel_everywhere(self._cancelled)
        assert engine.RunStatus.CANCELLED in ends, "no cancellation reached the stage"

    def test_runs_at_once_do_not_mix(self) -> None:
        """Each of several runs ends with its own outputs, in any order."""
        for seed in range(20):
            ends = self._run(self._many(5), Schedule(seed))
            assert ends == list(range(5)), f"runs 0 to 4 ended with {ends}"

    def test_an_instance_serves_many_runs(self) -> None:
        """Later runs with the same instance end as the first one."""
        pipeline = _pipeline(ScriptedStage(("k",), self._pauses_s, "ok"))
        interceptors = self.make_interceptors()

        async def main() -> list[Any]:
            return [await self._outcome(pipeline, interceptors) for _ in range(6)]

        first, *others = self._run(main())
        assert others == [first] * 5, f"the first run ended as {first}, the others as {others}"

    @property
    def _pauses_s(self) -> tuple[float, ...]:
        return (0.001,) if self.real_io else (1.0,)

    async def _cancelled(self, probe: CancellationProbe) -> engine.RunStatus:
        pipeline = _pipeline(ScriptedStage(("k",), (*self._pauses_s, 0.0), "ok"))
        context = engine.PipelineContext(seed=1, wall_clock=lambda: EPOCH_S)
        interceptors = [probe, *self.make_interceptors()]
        task = await probe.cancelled(pipeline.run(context, interceptors=interceptors))
        if task.cancelled():
            stopped = context.status in ("created", "cancelled")
            assert stopped, f"the caller was cancelled, and the run {context.status}"
        else:
            check_run(pipeline, task.result())
        assert not probe.swallowed, "a cancelled stage came back: let CancelledError pass"
        ends = [event.what for event in context.get_events() if event.stage]
        assert ends[-1:] != ["failed"], "a cancellation became a failure"
        return context.status

    async def _many(self, runs: int) -> list[Any]:
        async def echo(ctx: engine.StageContext) -> engine.StageOutput:
            number = ctx["number"]
            await asyncio.sleep(self._pauses_s[0])
            return engine.StageOutput.ok(k=number)

        spec = engine.StageSpec("s", echo, inputs=("number",), outputs=("k",))
        pipeline = engine.Pipeline("p", [spec], inputs=["number"])
        bound = pipeline.bind(interceptors=self.make_interceptors())
        results = await asyncio.gather(*(bound.run(number=number) for number in range(runs)))
        return [result.unwrap()["k"] for result in results]

    def _ends_as_without(self, runner: ScriptedStage) -> None:
        pipeline = _pipeline(runner)
        without = self._run(self._outcome(pipeline, ()))
        within = self._run(self._outcome(pipeline, self.make_interceptors()))
        assert within == without, f"ends as {within}, and without it as {without}"

    async def _outcome(
        self, pipeline: engine.Pipeline, interceptors: Sequence[engine.Interceptor]
    ) -> Any:
        context = engine.PipelineContext(seed=1, wall_clock=lambda: EPOCH_S)
        result = await pipeline.run(context, interceptors=interceptors)
        check_run(pipeline, result)
        stage = result.stages["s"]
        # On a real loop it takes another time each time.
        detail = {k: v for k, v in stage.detail.items() if k != "duration_ms" or not self.real_io}
        return result.status, result.outputs, stage.status, detail, result.error


def _pipeline(runner: ScriptedStage) -> engine.Pipeline:
    spec = engine.StageSpec("s", runner, outputs=runner.outputs, provider="llm", timeout_s=100.0)
    return engine.Pipeline("p", [spec])
