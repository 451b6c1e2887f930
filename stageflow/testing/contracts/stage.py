"""The contract of a stage: a test class to inherit, with one method to write."""

import asyncio
import functools
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stageflow.codec import DEFAULT_CODEC, Codec
from stageflow.engine import Interceptor, Pipeline, PipelineContext, StageOutput, StageSpec
from stageflow.engine.dead_letter import Unstorable
from stageflow.errors import StageflowError
from stageflow.events.log import STARTED, TERMINAL, Event, StageStatus
from stageflow.providers.registry import ProviderRegistry
from stageflow.testing.contracts import conduct, probes
from stageflow.testing.contracts.base import LoopContract, reason_to_skip
from stageflow.testing.faults import FaultPlan, FaultType, PlannedFault
from stageflow.testing.simulation import EPOCH_S, Schedule

Outcome = StageOutput | StageflowError


@dataclass(frozen=True)
class StageCase:
    """A stage, and what a run of it needs.

    Attributes:
        pipeline: The pipeline that has it.
        name: The stage's name.
        inputs: Values for it; the stage is given the keys that it declares.
        providers: What it calls.
        other_inputs: Other values for the same keys, to test whether concurrent runs mix theirs.
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
        """Return the inputs that the stage declares; copies if they can be copied."""
        return {key: probes.copied(inputs[key]) for key in self.spec.inputs if key in inputs}


class StageContractTest(LoopContract):
    """The contract of a stage; each test makes a new one.

    The tests run in simulated time; ``real_io = True`` runs them on a real loop, for a stage that
    does real I/O (see `LoopContract` for the limits of that).

    Example:
        >>> class TestListen(StageContractTest):
        ...     def make_stage(self) -> StageCase:
        ...         return StageCase(turn, "listen", {"audio": HELLO}, fakes())

    Attributes:
        cannot_fail: Why the stage cannot fail, even without inputs and with providers that are
            down; None if it can.
        blocking_limit_ms: How long one callback may hold the event loop, in real milliseconds.
        cleanup_limit_s: How long a cancelled stage may take to end, in seconds of virtual time;
            with `real_io` the limit is `patience_s`.
        orders: In how many orders two concurrent runs are tried; with `real_io`, how often.
        codec: The codec of your dead-letter store, if it has one of its own.
    """

    cannot_fail: str | None = None
    blocking_limit_ms: float = 50.0
    cleanup_limit_s: float = 1.0
    orders: int = 10
    codec: Codec = DEFAULT_CODEC

    ctx: PipelineContext

    def __init_subclass__(cls, **options: Any) -> None:
        """Let `make_stage` skip the test of a marked stage."""
        super().__init_subclass__(**options)
        if hasattr(make_stage := cls.make_stage, "skips_marked"):
            return

        @functools.wraps(make_stage)
        def make(self: Any) -> StageCase:
            case = make_stage(self)
            if (reason := reason_to_skip(case.spec, self)) is not None:
                import pytest  # noqa: PLC0415 - contracts can be imported without it

                pytest.skip(reason)
            return case

        make.skips_marked = True  # type: ignore[attr-defined]
        cls.make_stage = make  # type: ignore[method-assign]

    def make_stage(self) -> StageCase:
        """Return the stage under test, a new one for each call."""
        raise self._unwritten("def make_stage(self) -> StageCase")

    def create_test_context(self, case: StageCase | None = None) -> PipelineContext:
        """Return a context in which the stage completes; `get_emitted_events` reads from it."""
        case = case or self.make_stage()
        return self._context(case.chosen(case.inputs), case.providers)

    def create_failing_context(self, case: StageCase | None = None) -> PipelineContext:
        """Return a context without inputs, except those without which a stage is skipped."""
        case = case or self.make_stage()
        given = case.chosen(case.inputs)
        return self._context({key: given[key] for key in case.spec.needs}, case.providers)

    def get_emitted_events(self) -> tuple[Event, ...]:
        """Return the events of the latest context."""
        return self.ctx.get_events()

    def assert_event_emitted(self, event_type: str) -> Event:
        """Return the only event of that type; raise if there are none or several."""
        types = [event.type for event in self.get_emitted_events()]
        found = types.count(event_type)
        assert found == 1, f"{found} events {event_type!r} among {types}"
        return self.get_emitted_events()[types.index(event_type)]

    def assert_one_end(self, case: StageCase) -> Event:
        """Return the stage's only terminal event; raise if it is not the only one, and its last."""
        own = [event for event in self.get_emitted_events() if event.stage == case.name]
        ends = [event for event in own if event.what in TERMINAL]
        assert len(ends) == 1, f"{case.name} has {len(ends)} terminal events: {own}"
        assert own[-1] is ends[0], f"{case.name} goes on after {ends[0].type}"
        return ends[0]

    def test_emits_a_started_event(self) -> None:
        """The event has the run id and a time stamp, and comes before all others of the stage."""
        case = self.make_stage()
        self._execute(case, self.create_test_context(case))
        started = self.assert_event_emitted(f"stage.{case.name}.{STARTED}")
        run = self.ctx.pipeline_run_id
        assert started.pipeline_run_id == run, f"{started} is not of the run {run}"
        began = datetime.fromtimestamp(EPOCH_S, UTC)  # on a real loop, time passes since then
        in_time = started.timestamp == began or (self.real_io and started.timestamp > began)
        assert in_time, f"{started} has another clock than the run, which began at {began}"
        first = next(event for event in self.get_emitted_events() if event.stage == case.name)
        assert first == started, f"{case.name} begins with {first.type}"

    def test_emits_a_completed_event_when_it_succeeds(self) -> None:
        """The event has the duration, and no other event ends the stage."""
        case = self.make_stage()
        outcome = self._execute(case, self.create_test_context(case))
        end = self.assert_one_end(case)
        assert end.what == "completed", f"{case.name} {end.what}: {outcome}"
        assert end.data["duration_ms"] >= 0.0, f"{end.type} has the duration {end.data}"

    def test_emits_a_failed_event_when_it_fails(self) -> None:
        """The event has the code and text of the error, and no other event ends the stage."""
        case = self.make_stage()
        outcome = self._fail(case)
        if not self._may_fail(case):
            return
        assert isinstance(outcome, StageflowError) or outcome.status is StageStatus.FAILED, (
            f"{case.name} did not fail without inputs and with providers that are down; if it has"
            " no way to fail, say why: cannot_fail = '…'"
        )
        end = self.assert_one_end(case)
        assert end.what == "failed", f"{case.name} {end.what}, and its run failed"
        for key in ("error_code", "error_message"):
            assert end.data[key], f"the failed event has no {key}"
        assert end.data["duration_ms"] >= 0.0, f"{end.type} has the duration {end.data}"

    def test_cannot_fail_only_if_it_says_so(self) -> None:
        """A stage declared as one that cannot fail completes without inputs and providers."""
        case = self.make_stage()
        outcome = self._fail(case)
        if self.cannot_fail is not None:
            assert isinstance(outcome, StageOutput), f"{case.name} failed after all: {outcome}"
            assert outcome.status is not StageStatus.FAILED, f"{case.name} failed after all"

    def test_a_failure_has_a_message_for_the_user(self) -> None:
        """The message does not show internals."""
        case = self.make_stage()
        self._fail(case)
        if not self._may_fail(case):
            return
        failed = self.assert_event_emitted(f"stage.{case.name}.failed")
        words = failed.data["user_message"]
        assert words.endswith("."), f"the user is shown no sentence: {words!r}"
        assert failed.data["error_message"] not in words, f"the user is shown the error: {words!r}"

    def test_returns_an_output_with_a_valid_status(self) -> None:
        """The stage returns a completed `StageOutput`."""
        output = self._completed()
        assert output.status is StageStatus.COMPLETED, f"it was {output.status}: {output.reason}"

    def test_returns_the_outputs_that_it_declares(self) -> None:
        """The stage returns all declared outputs and streams, and no others."""
        case = self.make_stage()
        output = self._completed(case)
        declared, found = {*case.spec.outputs, *case.spec.streams}, set(output.outputs)
        assert found == declared, f"{case.name} declares {declared} and returned {found}"

    def test_returns_outputs_that_can_be_stored(self) -> None:
        """A dead letter can store the outputs, and returns them unchanged."""
        case = self.make_stage()
        for key, value in self._completed(case).outputs.items():
            again = self.codec.from_plain(self.codec.to_plain(value))
            assert not isinstance(again, Unstorable), (
                f"the output {key!r} of {case.name}, {value!r}, cannot be stored: return plain"
                " values, or set codec = Codec([StoredType(…)]) for its type, here and at the store"
            )
            same = probes.Picture(value).shows(again)
            assert same, f"the output {key!r} came back as {again!r}, was {value!r}"

    def test_returns_objects_of_its_own(self) -> None:
        """No output is a mutable input, which would change with the output."""
        case = self.make_stage()
        given = dict(self.create_test_context(case).inputs)
        output = _went_well(case, self._execute(case, self.ctx))
        for key, value in output.outputs.items():
            inputs = [which for which, other in given.items() if other is value]
            shared = inputs and not _is_hashable(value)
            assert not shared, f"the output {key!r} of {case.name} is its input {inputs}: copy it"

    def test_reads_only_what_it_declares(self) -> None:
        """The stage reads no key that its spec does not name."""
        asked = self._seen(lambda seen: seen.undeclared)
        assert not asked, f"it asks for {asked} and does not declare that: add it to its inputs"

    def test_leaves_its_inputs_as_they_are(self) -> None:
        """The inputs do not change, not even while the stage waits: other stages read them."""
        case = self.make_stage()
        given = dict(self.create_test_context(case).inputs)
        changed = self._changed(case, lambda: given)
        assert not changed, f"{case.name} changed its inputs {changed}: copy before you change"

    def test_leaves_the_process_as_it_is(self) -> None:
        """Environment and working directory stay; in simulated time, random generators do, too."""
        self._completed()  # loads what is loaded once
        case = self.make_stage()
        self.create_test_context(case)
        changed = self._changed(case, lambda: conduct.surroundings(chance=not self.real_io))
        assert not changed, f"{case.name} changed {', '.join(changed)}, which all code shares"

    def test_leaves_its_providers_open(self) -> None:
        """The stage closes no provider, because other runs use them."""
        closed = self._seen(lambda seen: seen.closed)
        assert not closed, f"it closes {closed}: let the code that opened a provider close it"

    def test_reads_only_the_clock_of_the_loop(self) -> None:
        """The stage reads no other clock: simulated and repeated runs have their own time."""
        clocks = self._seen(lambda seen: seen.clocks)
        assert self.real_io or not clocks, (
            f"it calls {', '.join(clocks)}: ctx.now() has the time of the loop,"
            " ctx.run.wall_clock() the date"
        )

    def test_keeps_no_context(self) -> None:
        """Nothing refers to the context once the stage has ended."""
        kept = self._seen(lambda seen: seen.kept)
        assert not kept, f"it keeps {', '.join(kept)}: keep no state on the stage"

    def test_can_be_cancelled_wherever_it_waits(self) -> None:
        """Cancelled at any step of the loop, the stage ends soon and leaves no task behind."""
        self._cancel_everywhere(self._cancelled)
        self._completed()  # or it may have waited for nothing

    def test_can_be_cancelled_while_its_reader_is_slow(self) -> None:
        """The stage also ends while it waits for the reader of its stream."""
        self._completed()
        if self.make_stage().spec.streams:
            self._cancel_everywhere(functools.partial(self._cancelled, slowly=True))

    def test_ends_when_its_reader_stops(self) -> None:
        """A stage that streams does not fail when its reader stops."""
        self._completed()
        case = self.make_stage()
        if not case.spec.streams:
            return
        pipeline = probes.read_by(case.spec, probes.Reader(case.spec.streams, takes=1))
        ctx = self.create_test_context(case)
        result = self._run(pipeline.run(ctx, interceptors=[probes.Narrow()]))
        end = self.assert_one_end(case)
        assert end.what == "completed", (
            f"{case.name} {end.what} when its reader had read one item: {result.error}; put()"
            " returns False then: stop, or go on without it"
        )

    def test_does_not_hold_the_loop(self) -> None:
        """No callback of the stage exceeds the limit; the error names the place."""
        self._completed()  # loads what is loaded once
        for _ in range(3):  # a busy machine may delay a callback, but hardly each time
            case = self.make_stage()
            watch = conduct.BlockingWatch()
            with watch.on_this_thread():
                self._execute(case, self.create_test_context(case))
            if watch.worst_ms <= self.blocking_limit_ms:
                return
        raise AssertionError(
            f"{case.name} held the event loop for {watch.worst_ms:.0f} ms, at {watch.place};"
            " await there, or move the work to a thread"
        )

    def test_two_runs_at_once_do_not_mix(self) -> None:
        """Each run ends as it would alone, whichever starts first."""
        self._completed()
        for seed in range(self.orders):
            alone = [_comparable(self._execute(*self._one_of_two(number))) for number in (0, 1)]
            both = self._together(seed)
            assert probes.Picture(alone).shows(both), (
                f"two runs of {self.make_stage().name} at once ended as {both}, and alone as"
                f" {alone}: keep no state on the stage"
            )

    def _context(self, inputs: Mapping[str, Any], providers: ProviderRegistry) -> PipelineContext:
        self.ctx = PipelineContext(inputs, providers=providers, seed=1, wall_clock=lambda: EPOCH_S)
        return self.ctx

    def _execute(
        self, case: StageCase, ctx: PipelineContext, *interceptors: Interceptor
    ) -> Outcome:
        bound = case.pipeline.stage(case.name, interceptors=[*interceptors, conduct.ClosesCalls()])
        try:
            return self._run(bound.execute(ctx))
        except StageflowError as error:
            return error

    def _seen(self, look: Callable[[conduct.Conduct], Mapping[str, None]]) -> list[str]:
        case = self.make_stage()
        everything = {key: probes.copied(value) for key, value in case.inputs.items()}
        watched = conduct.Conduct(case.spec, self._context(everything, case.providers))
        outcome = self._execute(case, self.ctx, watched)
        found = list(look(watched))
        if not found:
            _went_well(case, outcome)
        return found

    def _changed(self, case: StageCase, look: Callable[[], Mapping[str, Any]]) -> list[str]:
        before = {key: probes.Picture(value) for key, value in look().items()}
        changed: dict[str, None] = {}

        def compare(run: conduct.Runs, _: object) -> None:
            run()
            now = look()
            changed.update((key, None) for key in before if not before[key].shows(now[key]))

        with conduct.around_callbacks(compare):
            outcome = self._execute(case, self.ctx)
        if not changed:
            _went_well(case, outcome)
        return list(changed)

    def _may_fail(self, case: StageCase) -> bool:
        # A stage that has its inputs fails by its provider.
        return self.cannot_fail is None and not (case.spec.needs and case.spec.provider is None)

    def _fail(self, case: StageCase) -> Outcome:
        plan = FaultPlan(tuple(PlannedFault(n, FaultType.DISCONNECT) for n in case.providers))
        with plan.injected():
            return self._execute(case, self.create_failing_context(case))

    def _completed(self, case: StageCase | None = None) -> StageOutput:
        case = case or self.make_stage()
        return _went_well(case, self._execute(case, self.create_test_context(case)))

    async def _cancelled(self, probe: probes.CancellationProbe, *, slowly: bool = False) -> None:
        case = self.make_stage()
        ctx = self.create_test_context(case)
        around: list[Interceptor] = [probe, conduct.ClosesCalls()]
        if slowly:
            pipeline = probes.read_by(case.spec, probes.Reader(case.spec.streams, pause_s=0.01))
            around.insert(1, probes.Narrow())
            work: Coroutine[Any, Any, object] = pipeline.run(ctx, interceptors=around)
        else:
            work = case.pipeline.stage(case.name, interceptors=around).execute(ctx)
        task = await probe.cancelled(work)
        took_s = asyncio.get_running_loop().time() - (probe.cancelled_at_s or 0.0)
        if not task.cancelled():
            task.exception()
        assert not probe.swallowed, (
            f"{case.name} was cancelled while it waited (the loop's callback, or the stage's wait,"
            f" number {probe.point}), and went on: let CancelledError pass"
        )
        if probe.begun:
            end = self.assert_one_end(case)
            cancelled = end.what == "cancelled" or end.data.get("error_code") == "not_ended"
            assert self.real_io or not cancelled or took_s <= self.cleanup_limit_s, (
                f"{case.name} took {took_s:g} s to end once it was cancelled, more than"
                f" cleanup_limit_s = {self.cleanup_limit_s:g}"
            )

    def _one_of_two(self, number: int) -> tuple[StageCase, PipelineContext]:
        case = self.make_stage()
        inputs = case.other_inputs if number and case.other_inputs is not None else case.inputs
        return case, self._context(case.chosen(inputs), case.providers)

    def _together(self, seed: int) -> list[Any]:
        (case, first), (_, second) = self._one_of_two(0), self._one_of_two(1)
        bound = case.pipeline.stage(case.name, interceptors=[conduct.ClosesCalls()])

        async def main() -> list[Any]:
            runs = [bound.execute(ctx) for ctx in (first, second)]
            return [_comparable(end) for end in await asyncio.gather(*runs, return_exceptions=True)]

        return self._run(main(), Schedule(seed))


def _went_well(case: StageCase, outcome: Outcome) -> StageOutput:
    # A stage that fails early has not shown what the test looks for.
    assert isinstance(outcome, StageOutput), f"{case.name} failed: {outcome}"
    return outcome


def _comparable(outcome: Any) -> Any:
    if isinstance(outcome, StageOutput):
        return str(outcome.status), dict(outcome.outputs)
    if isinstance(outcome, StageflowError):
        return outcome.code, re.sub(r"0x[0-9a-f]+", "0x…", str(outcome))  # addresses of objects
    return outcome


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
