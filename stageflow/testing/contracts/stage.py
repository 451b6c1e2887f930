"""What every stage owes, whatever it does: a class to inherit, with one method to fill in."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stageflow.context import PipelineContext
from stageflow.dlq.codec import DEFAULT_CODEC
from stageflow.errors import StageflowError
from stageflow.events import STARTED, TERMINAL, Event, StageStatus
from stageflow.letter import Unstorable
from stageflow.orchestrator import PipelineOrchestrator
from stageflow.pipeline import Pipeline
from stageflow.providers.registry import ProviderRegistry
from stageflow.stage import StageOutput, StageSpec
from stageflow.stream import Stream
from stageflow.testing.contracts.blocking import BlockingWatch
from stageflow.testing.contracts.cancellation import CancellationProbe
from stageflow.testing.contracts.loops import LoopContract
from stageflow.testing.contracts.reading import Narrow, Reader, read_by
from stageflow.testing.contracts.unawaited import ClosesCalls
from stageflow.testing.faults import FaultType, inject_fault
from stageflow.testing.simulation import EPOCH_S, Schedule, SimulationLoop

Outcome = StageOutput | StageflowError


@dataclass(frozen=True)
class StageCase:
    """One stage, and what it takes to run it.

    Attributes:
        pipeline: The pipeline that has it.
        name: The stage's name.
        inputs: What it may read; of these, the stage is given the keys that it declares.
        providers: What it calls.
        other_inputs: Other values for the same keys, to see whether two runs at once mix theirs.
    """

    pipeline: Pipeline
    name: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    providers: ProviderRegistry = field(default_factory=ProviderRegistry)
    other_inputs: Mapping[str, Any] | None = None

    @property
    def spec(self) -> StageSpec:
        """The stage's place in its pipeline."""
        return next(spec for spec in self.pipeline.stages if spec.name == self.name)

    def chosen(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Of some inputs, those that the stage declares, as copies of its own."""
        declared = (key for key in self.spec.inputs if key in inputs)
        return {key: copy.deepcopy(inputs[key]) for key in declared}


class StageContractTest(LoopContract):
    """The contract of a stage; each test makes the stage anew.

    The tests run in simulated time; ``real_io = True`` runs them on a real loop, for a stage that
    does real I/O (see `LoopContract` for what that cannot promise).

    Example:
        >>> class TestListen(StageContractTest):
        ...     def make_stage(self) -> StageCase:
        ...         return StageCase(turn, "listen", {"audio": HELLO}, fakes())

    Attributes:
        cannot_fail: Why the stage has no way to fail, even without inputs and with providers that
            are down; None for a stage that has.
        blocking_limit_ms: How long one callback may hold the event loop, in real milliseconds.
        cleanup_limit_s: How long the stage may take to end once it is cancelled, in seconds of
            virtual time; with `real_io` only `patience_s` holds.
        orders: In how many orders two runs at once are tried; with `real_io`, how often.
    """

    cannot_fail: str | None = None
    blocking_limit_ms: float = 50.0
    cleanup_limit_s: float = 1.0
    orders: int = 10

    ctx: PipelineContext

    # ── to be filled in, and to be used ─────────────────────────────────────────────────────

    def make_stage(self) -> StageCase:
        """The stage under test, made anew.

        Raises:
            NotImplementedError: The subclass does not say which.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say which stage is under test: write"
            " def make_stage(self) -> StageCase"
        )

    def create_test_context(self, case: StageCase | None = None) -> PipelineContext:
        """A context in which the stage goes well; `get_emitted_events` speaks of it then."""
        case = case if case is not None else self.make_stage()
        self.ctx = self._context(case.chosen(case.inputs), case.providers)
        return self.ctx

    def create_failing_context(self, case: StageCase | None = None) -> PipelineContext:
        """A context in which the stage lacks all it needs: no inputs, no provider that answers."""
        case = case if case is not None else self.make_stage()
        self.ctx = self._context({}, case.providers)
        return self.ctx

    def get_emitted_events(self) -> tuple[Event, ...]:
        """What the latest context has seen."""
        return self.ctx.get_events()

    def assert_event_emitted(self, event_type: str) -> Event:
        """That exactly one event of that type was emitted; returns it."""
        events = self.get_emitted_events()
        found = [event for event in events if event.type == event_type]
        assert len(found) == 1, (
            f"{len(found)} events {event_type!r} among {[event.type for event in events]}"
        )
        return found[0]

    def assert_one_end(self, case: StageCase) -> Event:
        """That the stage has exactly one terminal event, its last; returns it."""
        own = [event for event in self.get_emitted_events() if event.stage == case.name]
        ends = [event for event in own if event.what in TERMINAL]
        assert len(ends) == 1, f"{case.name} has {len(ends)} terminal events: {own}"
        assert own[-1] is ends[0], f"{case.name} goes on after {ends[0].type}"
        return ends[0]

    # ── the contract: events ────────────────────────────────────────────────────────────────

    def test_emits_a_started_event(self) -> None:
        """With the run's id and a time stamp, before anything else of the stage."""
        case = self.make_stage()
        self._execute(case, self.create_test_context(case))
        started = self.assert_event_emitted(f"stage.{case.name}.{STARTED}")
        assert started.pipeline_run_id == self.ctx.pipeline_run_id
        began = datetime.fromtimestamp(EPOCH_S, UTC)  # on a real loop, time passes since then
        assert started.timestamp == began or (self.real_io and started.timestamp > began)
        assert next(e for e in self.get_emitted_events() if e.stage == case.name) is started

    def test_emits_a_completed_event_when_all_goes_well(self) -> None:
        """With its duration, and as its only end."""
        case = self.make_stage()
        outcome = self._execute(case, self.create_test_context(case))
        end = self.assert_one_end(case)
        assert end.what == "completed", f"{case.name} {end.what}: {outcome}"
        assert end.data["duration_ms"] >= 0.0

    def test_emits_a_failed_event_when_it_fails(self) -> None:
        """With code and message of the error, and as its only end."""
        case = self.make_stage()
        outcome = self._fail(case)
        if self.cannot_fail is not None:
            return
        assert isinstance(outcome, StageflowError) or outcome.status is StageStatus.FAILED, (
            f"{case.name} did not fail without inputs and with providers that are down; if it has"
            " no way to fail, say why: cannot_fail = '…'"
        )
        end = self.assert_one_end(case)
        assert end.what == "failed", f"{case.name} {end.what}, and its run failed"
        assert end.data["error_code"], "the failed event has no error_code"
        assert end.data["error_message"], "the failed event has no error_message"
        assert end.data["duration_ms"] >= 0.0

    def test_cannot_fail_only_if_it_says_so(self) -> None:
        """What is declared of it holds: it completes without inputs and providers."""
        case = self.make_stage()
        outcome = self._fail(case)
        if self.cannot_fail is not None:
            assert isinstance(outcome, StageOutput), f"{case.name} failed after all: {outcome}"
            assert outcome.status is not StageStatus.FAILED, f"{case.name} failed after all"

    def test_a_failure_can_be_told_to_the_user(self) -> None:
        """In words that give nothing of the inside away."""
        case = self.make_stage()
        self._fail(case)
        if self.cannot_fail is not None:
            return
        failed = self.assert_event_emitted(f"stage.{case.name}.failed")
        assert failed.data["user_message"].endswith(".")
        assert failed.data["error_message"] not in failed.data["user_message"], (
            f"the user is shown the error itself: {failed.data['user_message']!r}"
        )

    # ── the contract: inputs and outputs ────────────────────────────────────────────────────

    def test_returns_an_output_with_a_valid_status(self) -> None:
        """A `StageOutput`, completed."""
        output = self._completed(self.make_stage())
        assert output.status is StageStatus.COMPLETED

    def test_returns_the_outputs_that_it_declares(self) -> None:
        """All of them, streams included, and no others."""
        case = self.make_stage()
        output = self._completed(case)
        declared, found = {*case.spec.outputs, *case.spec.streams}, set(output.outputs)
        assert found == declared, f"{case.name} declares {declared} and returned {found}"

    def test_returns_outputs_that_can_be_stored(self) -> None:
        """A dead letter can hold them, and gives them back as they were."""
        case = self.make_stage()
        for key, value in self._completed(case).outputs.items():
            again = DEFAULT_CODEC.from_plain(DEFAULT_CODEC.to_plain(value))
            assert not isinstance(again, Unstorable), (
                f"the output {key!r} of {case.name}, {value!r}, cannot be stored: return plain"
                " values, dataclasses of the engine, or teach LetterCodec its type"
            )
            assert _items(again) == _items(value), (
                f"the output {key!r} came back as {again!r}, was {value!r}"
            )

    def test_reads_only_what_it_declares(self) -> None:
        """Given all there is, it asks for nothing that its spec does not name."""
        case = self.make_stage()
        outcome = self._execute(case, self.create_test_context(case))
        code = getattr(outcome, "code", None)
        assert code != "undeclared_input", f"{case.name}: {outcome}"
        _went_well(case, outcome)

    def test_leaves_its_inputs_as_they_are(self) -> None:
        """Other stages read the same objects."""
        case = self.make_stage()
        before, given = case.chosen(case.inputs), case.chosen(case.inputs)
        self.ctx = self._context(given, case.providers)
        outcome = self._execute(case, self.ctx)
        changed = [key for key in before if _items(given[key]) != _items(before[key])]
        assert not changed, f"{case.name} changed its inputs {changed}: copy before you change"
        _went_well(case, outcome)

    # ── the contract: the event loop ────────────────────────────────────────────────────────

    def test_can_be_cancelled_wherever_it_waits(self) -> None:
        """At each step of the loop: it ends as cancelled, soon, and leaves no task behind."""
        self._cancel_everywhere(self._cancelled)
        self._completed(self.make_stage())  # or it may have waited for nothing

    def test_can_be_cancelled_while_its_reader_is_slow(self) -> None:
        """As above, where it streams and has to wait until what it put is read."""
        self._completed(self.make_stage())
        if self.make_stage().spec.streams:
            self._cancel_everywhere(self._cancelled_while_read)

    def test_ends_well_when_its_reader_has_enough(self) -> None:
        """That nobody reads on is no failure of a stage that streams."""
        self._completed(self.make_stage())
        case = self.make_stage()
        if not case.spec.streams:
            return
        self.ctx = self._context(case.chosen(case.inputs), case.providers)
        pipeline = read_by(case.spec, Reader(case.spec.streams, takes=1))
        result = self._run(
            PipelineOrchestrator(pipeline.build(), interceptors=[Narrow()]).run(self.ctx)
        )
        end = self.assert_one_end(case)
        assert end.what == "completed", (
            f"{case.name} {end.what} when its reader had read one item: {result.error}; put()"
            " returns False then: stop, or go on without it"
        )

    def test_does_not_hold_the_loop(self) -> None:
        """No callback of it runs longer than the limit; the place that does is named."""
        self._completed(self.make_stage())  # whatever is loaded once is loaded
        case = self.make_stage()
        with BlockingWatch() as watch:
            self._execute(case, self.create_test_context(case))
        assert watch.worst_ms <= self.blocking_limit_ms, (
            f"{case.name} held the event loop for {watch.worst_ms:.0f} ms, at {watch.frame};"
            " await there, or move the work to a thread"
        )

    def test_two_runs_at_once_do_not_mix(self) -> None:
        """Each ends as it would alone, whichever goes first."""
        self._completed(self.make_stage())
        for seed in range(self.orders):
            case = self.make_stage()
            other = case.inputs if case.other_inputs is None else case.other_inputs
            alone = [self._alone(case.inputs), self._alone(other)]
            both = self._together(case.inputs, other, seed)
            assert both == alone, (
                f"two runs of {case.name} at once ended as {both}, and alone as {alone}: keep no"
                " state on the stage"
            )

    # ── how it is run ───────────────────────────────────────────────────────────────────────

    def _context(self, inputs: Mapping[str, Any], providers: ProviderRegistry) -> PipelineContext:
        return PipelineContext(inputs, providers=providers, seed=1, wall_clock=lambda: EPOCH_S)

    def _execute(self, case: StageCase, ctx: PipelineContext) -> Outcome:
        """Run the stage with the engine around it; its output, or the error that it raised."""
        bound = case.pipeline.stage(case.name, interceptors=[ClosesCalls()])
        try:
            return self._run(bound.execute(ctx))
        except StageflowError as error:
            return error

    def _fail(self, case: StageCase) -> Outcome:
        with ExitStack() as stack:
            for name in case.providers:
                stack.enter_context(inject_fault(name, FaultType.DISCONNECT))
            return self._execute(case, self.create_failing_context(case))

    def _completed(self, case: StageCase) -> StageOutput:
        return _went_well(case, self._execute(case, self.create_test_context(case)))

    async def _cancelled(self, probe: CancellationProbe) -> None:
        """Cancel a run at the probe's point, and see how the stage ends."""
        case = self.make_stage()
        ctx = self.create_test_context(case)
        orchestrator = PipelineOrchestrator(
            case.pipeline.build(), interceptors=[probe, ClosesCalls()]
        )
        await self._see_cancelled(case, probe, orchestrator.run_stage(ctx, case.name))

    async def _cancelled_while_read(self, probe: CancellationProbe) -> None:
        case = self.make_stage()
        self.ctx = self._context(case.chosen(case.inputs), case.providers)
        pipeline = read_by(case.spec, Reader(case.spec.streams, pause_s=0.01))
        orchestrator = PipelineOrchestrator(
            pipeline.build(), interceptors=[probe, Narrow(), ClosesCalls()]
        )
        await self._see_cancelled(case, probe, orchestrator.run(self.ctx))

    async def _see_cancelled(
        self, case: StageCase, probe: CancellationProbe, work: Coroutine[Any, Any, Any]
    ) -> None:
        task = asyncio.ensure_future(work)
        probe.aim(task)
        await asyncio.wait([task])
        took_s = asyncio.get_running_loop().time() - (probe.cancelled_at_s or 0.0)
        if not task.cancelled():
            task.exception()
        assert not probe.swallowed, (
            f"{case.name} was cancelled while it waited (the loop's callback, or the stage's wait,"
            f" number {probe.point}), and went on: let CancelledError pass"
        )
        if probe.begun:
            ended = self.assert_one_end(case).what
            assert self.real_io or ended != "cancelled" or took_s <= self.cleanup_limit_s, (
                f"{case.name} took {took_s:g} s to end once it was cancelled, more than"
                f" cleanup_limit_s = {self.cleanup_limit_s:g}"
            )

    def _alone(self, inputs: Mapping[str, Any]) -> Any:
        case = self.make_stage()
        ctx = self._context(case.chosen(inputs), case.providers)
        return _told(self._execute(case, ctx))

    def _together(
        self, inputs: Mapping[str, Any], other: Mapping[str, Any], seed: int
    ) -> list[Any]:
        case, second = self.make_stage(), self.make_stage()
        graph = case.pipeline.build()
        orchestrator = PipelineOrchestrator(graph, interceptors=[ClosesCalls()])
        contexts = [
            self._context(case.chosen(inputs), case.providers),
            self._context(case.chosen(other), second.providers),
        ]

        async def main() -> list[Any]:
            runs = [orchestrator.run_stage(ctx, case.name) for ctx in contexts]
            return [_told(end) for end in await asyncio.gather(*runs, return_exceptions=True)]

        return self._run(main(), SimulationLoop(Schedule(seed)))


def _went_well(case: StageCase, outcome: Outcome) -> StageOutput:
    """The output of a good run: what never gets far has shown nothing."""
    assert isinstance(outcome, StageOutput), f"{case.name} failed: {outcome}"
    return outcome


def _told(outcome: Any) -> Any:
    """What is compared of an end: status and outputs, or the error's code and text."""
    if isinstance(outcome, StageOutput):
        return (str(outcome.status), {key: _items(outcome.outputs[key]) for key in outcome.outputs})
    if isinstance(outcome, StageflowError):
        return (outcome.code, str(outcome))
    return outcome


def _items(value: Any) -> Any:
    """A value as it is, a stream as its items: two streams are never equal."""
    return value.items() if isinstance(value, Stream) else value
