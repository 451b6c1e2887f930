"""The stress test: generated workloads under faults, in many orders, with every invariant checked.

One example is a workload with faults and conditions; each is run in several orders, since drawing
one costs more than running it. ``python -m tools.stress_test`` runs it by hand.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from stageflow import (
    Event,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    RunResult,
    StageGraph,
)
from stageflow.codec import DEFAULT_CODEC
from stageflow.dlq import DeadLetter, InMemoryDeadLetterStore
from stageflow.errors import StreamFailedError
from stageflow.testing import (
    Scenario,
    Simulation,
    check_events,
    simulate,
)
from stageflow.testing.simulation.patches import owned
from stageflow.testing.strategies import scenarios
from tests.property.workloads import Reading, Record, Workload, workloads
from tests.utils.errors import code_of

#: Different orders in which each example is run. Twice as many found fewer of the planted bugs
#: within as many schedules: what differs most between two runs is the workload, not the order.
ORDERS = 10

#: Seconds of virtual time in which whatever still goes on after a run would show itself.
AFTERWARDS_S = 1_000.0


class Letters(InMemoryDeadLetterStore):
    """Keeps what it is given, once it is written; each letter takes a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[DeadLetter] = []

    async def put(self, letter: DeadLetter) -> None:
        self.puts.append(letter)
        await asyncio.sleep(0)
        DEFAULT_CODEC.encode(letter)


@functools.lru_cache(maxsize=1)
def _built(workload: Workload) -> tuple[Record, Pipeline, StageGraph]:
    """Return a graph that all runs of a workload share, and the record of the latest one."""
    record = Record()
    pipeline = workload.pipeline(record)
    return record, pipeline, pipeline.build()


async def check_run(sim: Simulation, workload: Workload) -> Counter[str]:
    """Run a workload once and check every invariant; return what happened, counted."""
    letters = Letters()
    record, pipeline, graph = _built(workload)
    record.clear()
    orchestrator = PipelineOrchestrator(
        graph, interceptors=workload.interceptors(), dead_letters=letters
    )
    ctx = sim.context(providers=workload.providers(), deadline_s=workload.deadline_s)
    result: RunResult | None = None
    try:
        result = await sim.interruptible(orchestrator.run(ctx))
    except asyncio.CancelledError:
        assert ctx.status in ("created", "cancelled", "failed"), f"cancelled, but {ctx.status}"
    sim.loop.check_nothing_left()
    took_s, begun = sim.loop.time(), len(record.begun)
    events = ctx.get_events()
    if not events:
        # The caller was cancelled before it had begun.
        return Counter(["never begun"])
    await asyncio.sleep(AFTERWARDS_S)
    assert len(record.begun) == begun, f"{record.begun[begun:]} began after the run had ended"
    assert ctx.get_events() == events, "there are events after the end of the run"
    check_events(pipeline, events)
    held = [event.stage for event in events if event.data.get("error_code") == "not_ended"]
    assert not held, f"{held} did not end, and the run ended without them"
    _check_bag(workload, ctx)
    _check_streams(workload, graph, ctx, record)
    _check_ending(workload, result, events)
    _check_letters(ctx, events, letters)
    _check_limits(workload, events, took_s)
    _check_order(workload, events, record)
    _check_breaker(workload, events, record)
    return Counter(_happenings(workload, events) | _happened_to_streams(record, events))


def _ended(events: Sequence[Event], what: str) -> set[str]:
    return {event.stage for event in events if event.stage is not None and event.what == what}


def _check_bag(workload: Workload, ctx: PipelineContext) -> None:
    completed = _ended(ctx.get_events(), "completed")
    written = {key: s.name for s in workload.stages if s.name in completed for key in s.outputs}
    opened = {e.data["stream"]: e.stage for e in ctx.get_events() if e.what == "stream_opened"}
    found = {key: ctx.bag.writer_of(key) for key in ctx.bag}
    expected = {**written, **opened}
    assert found == expected, f"the bag holds {found}, completed stages declare {expected}"
    assert all(ctx.bag[key] == f"{key} by {name}" for key, name in written.items())


def _check_streams(
    workload: Workload, graph: StageGraph, ctx: PipelineContext, record: Record
) -> None:
    """Readers see what was put, in order, and how it ended; nobody is ahead too far."""
    events = ctx.get_events()
    closed = {e.data["stream"]: e for e in events if e.what == "stream_closed"}
    for key, event in closed.items():
        put = record.put.get(key, [])
        assert event.data["items"] == len(put), f"{key} had {len(put)} items: {event.data}"
        stream = ctx.bag[key]
        if stream.whole:
            assert list(stream.items()) == put, f"{key} kept {stream.items()} of {put}"
    for reading in record.readings:
        _check_reading(reading, record.put.get(reading.key, []), closed[reading.key], events)
    _check_ahead(workload, graph, events, record)


def _check_reading(
    reading: Reading, put: list[str], closed: Event, events: Sequence[Event]
) -> None:
    read, who = reading.items, f"{reading.stage} reads {reading.key}"
    assert read == put[: len(read)], f"{who}: {read} of {put}"
    outcome = closed.data["outcome"]
    if reading.finished:
        assert outcome == "completed", f"{who} to its end, and it {outcome}"
    if reading.finished or isinstance(reading.failure, StreamFailedError):
        assert len(read) == len(put), f"{who} to the end, but only {read} of {put}"
    if isinstance(reading.failure, StreamFailedError):
        end = next(e for e in events if e.stage == closed.stage and e.what in _ENDS)
        cause = reading.failure.cause
        assert cause is not None, f"{who}, and does not learn why it failed"
        assert cause.code == end.data["error_code"], f"{who}: {cause}, not {end.data}"
    elif code_of(reading.failure) == "stream_cancelled":
        assert outcome == "cancelled", f"{who}, sees a cancellation, and it {outcome}"


def _check_ahead(
    workload: Workload, graph: StageGraph, events: Sequence[Event], record: Record
) -> None:
    """A producer is at most its capacity ahead of a back-pressured reader, started or not."""
    capacity = {key: stage.capacity for stage in workload.stages for key in stage.streams}
    count: Counter[str] = Counter()
    ended_at = {e.stage: e.sequence for e in events if e.what in _ENDS} if record.ahead else {}
    for key, ahead, seen in record.ahead:
        count[key] += 1
        over = {stage for stage, at in ended_at.items() if at <= seen}
        for reader in graph.streams[key].back_pressured:
            by = ahead.get(reader, count[key])
            if by is not None and reader not in over:
                assert by <= capacity[key], f"{key} is {by} items ahead of {reader}"


def _check_ending(workload: Workload, result: RunResult | None, events: Sequence[Event]) -> None:
    last = events[-1]
    by_name = {stage.name: stage for stage in workload.stages}
    failed = {name for name in _ended(events, "failed") if by_name[name].required}
    code = last.data.get("error_code")
    if last.what == "completed":
        assert not failed, f"the run completed although {failed} failed"
        assert not _ended(events, "cancelled"), "the run completed, and cancelled stages"
    elif last.what == "failed":
        assert failed or code == "deadline_exceeded", "the run failed, and no required stage did"
    else:
        assert result is None, "the run was cancelled, and its caller did not notice"
    if result is not None:
        assert result.status == last.what
    for name in _ended(events, "completed"):
        stage = by_name[name]
        well = stage.ending in ("ok", "stubborn") or 0 < stage.recovers_at <= workload.attempts
        assert stage.runs, f"{name} completed, and its condition does not hold"
        assert well, f"{name} completed, and ends by {stage.ending}"


def _check_letters(ctx: PipelineContext, events: Sequence[Event], letters: Letters) -> None:
    last = events[-1]
    due = last.what == "failed" and last.data["error_category"] != "policy"
    assert len(letters.puts) == due, f"{len(letters.puts)} dead letters of a run that {last.what}"
    assert (ctx.dlq_entry is not None) == due


def _check_limits(workload: Workload, events: Sequence[Event], took_s: float) -> None:
    """Limits hold, but for the clean-up that they set off."""
    slack_s = 1e-6
    slowest_s = max(stage.cleanup_s for stage in workload.stages)
    if workload.deadline_s is not None:
        limit_s = workload.deadline_s + slowest_s + slack_s
        assert took_s <= limit_s, f"the run took {took_s} s of {workload.deadline_s} s"
    started = {event.stage: event.offset_ms for event in events if event.what == "started"}
    for stage in workload.stages:
        end = next(e for e in events if e.stage == stage.name and e.what in _ENDS)
        if stage.timeout_s is None or stage.name not in started:
            continue
        ran_s = (end.offset_ms - started[stage.name]) / 1000.0
        # A run that stops lets a stage clean up, and the clean-up may end in a completion.
        in_time = end.what == events[-1].what == "completed"
        extra_s = 0.0 if in_time else stage.cleanup_s
        assert ran_s <= stage.timeout_s + extra_s + slack_s, (
            f"{stage.name} {end.what} after {ran_s} s of {stage.timeout_s} s"
        )


_ENDS = {"completed", "failed", "skipped", "cancelled"}


def _check_order(workload: Workload, events: Sequence[Event], record: Record) -> None:
    """Work begins behind its dependencies, and as often as the policy says."""
    tries: Counter[str] = Counter()
    retries = Counter(event.stage for event in events if event.what == "retrying")
    dependencies = {stage.name: set(stage.dependencies) for stage in workload.stages}
    read = {
        stage.name: {
            other.name: set(stage.reads) & set(other.streams)
            for other in workload.stages
            if set(stage.reads) & set(other.streams)
        }
        for stage in workload.stages
    }
    ended_at = {e.stage: e.sequence for e in events if e.stage is not None and e.what in _ENDS}
    opened_at = {e.data["stream"]: e.sequence for e in events if e.what == "stream_opened"}
    for name, seen in record.begun:
        ended = {stage for stage, at in ended_at.items() if at <= seen}
        opened = {stream for stream, at in opened_at.items() if at <= seen}
        there = ended | {other for other in read[name] if read[name][other] <= opened}
        assert dependencies[name] <= there, f"{name} began before {dependencies[name] - there}"
        tries[name] += 1
    for name, count in tries.items():
        assert count <= workload.attempts, f"{name} was tried {count} times"
        assert count <= 1 + retries[name], f"{name} was tried {count} times without an event"
    ran = _ended(events, "completed") - set(tries)
    assert not ran, f"{ran} completed and never ran"
    if events[-1].what == "completed":
        swallowed = Counter(record.swallowed)
        late = {n for n in _ended(events, "completed") if swallowed[n] == tries[n]}
        assert not late, f"{late} completed although they were cancelled"


def _check_breaker(workload: Workload, events: Sequence[Event], record: Record) -> None:
    """It opens only for enough failures, and then lets nothing through until its cool-down."""
    if workload.failures is None:
        return
    calling = {stage.name for stage in workload.stages if stage.calls}
    failures, opened_at = 0, math.inf
    for event in events:
        if event.what == "breaker_open":
            needed = workload.failures if math.isinf(opened_at) else 1
            assert failures + 1 >= needed, f"the breaker opened after {failures + 1} failures"
            opened_at, opened = event.offset_ms, event.sequence
            closed = [e for e in events[opened:] if e.what == "breaker_half_open"]
            until = closed[0].sequence if closed else math.inf
            through = [n for n, seen in record.begun if n in calling and opened <= seen < until]
            assert not through, f"{through} passed the open breaker"
        elif event.what == "breaker_half_open":
            waited_s = (event.offset_ms - opened_at) / 1000.0
            assert waited_s >= workload.cooldown_s - 1e-6, f"half-open after {waited_s} s"
        elif event.stage in calling and event.what in ("failed", "retrying"):
            failures += 1


def _happenings(workload: Workload, events: Sequence[Event]) -> set[str]:
    """Yield what happened, in the words of the table."""
    found = {f"run {events[-1].what}"}
    required = {stage.name: stage.required for stage in workload.stages}
    for event in events[1:-1]:
        assert event.stage is not None
        if event.what in ("retrying", "breaker_open", "breaker_half_open", "breaker_closed"):
            found.add(event.what)
        if event.what in ("skipped", "cancelled"):
            found.add(f"stage {event.what}")
        if event.what == "failed":
            found.add("stage failed" if required[event.stage] else "optional stage failed")
            if event.data["error_code"] == "stage_timeout":
                found.add("stage timed out")
            if event.data["error_code"] == "circuit_open":
                found.add("rejected by the breaker")
    if events[-1].data.get("error_code") == "deadline_exceeded":
        found.add("deadline passed")
    return found


def _happened_to_streams(record: Record, events: Sequence[Event]) -> set[str]:
    found = {f"stream {e.data['outcome']}" for e in events if e.what == "stream_closed"}
    for reading in record.readings:
        if reading.finished:
            found.add("stream read to its end")
        elif isinstance(reading.failure, StreamFailedError):
            found.add("reader sees a failure")
    if record.refused:
        found.add("item refused")
    return found


Example = tuple[Workload, Scenario]


def examples(*, streams: bool = False) -> st.SearchStrategy[Example]:
    """A workload with a model that is in trouble, or with streams, and conditions.

    Where stages stream, the model is well: a limit would hide who waits for ever.
    """
    if streams:
        return st.tuples(workloads(streams=True), scenarios(max_steps=60))
    return st.builds(_bounded, workloads(), scenarios(providers=["llm"], max_steps=12))


def _bounded(workload: Workload, scenario: Scenario) -> Example:
    """A model that falls silent for ever needs a limit somewhere."""
    if scenario.faults.faults and workload.deadline_s is None:
        workload = dataclasses.replace(workload, deadline_s=500.0)
    return workload, scenario


@dataclasses.dataclass
class Tally:
    """The counts of a stress test.

    Attributes:
        schedules: Number of runs, each in an order of its own.
        happened: The number of runs in which each thing happened.
    """

    schedules: int = 0
    happened: Counter[str] = dataclasses.field(default_factory=Counter)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.schedules + other.schedules, self.happened + other.happened)


def check_orders(example: Example, tally: Tally, orders: int = ORDERS, first: int = 0) -> None:
    """Run one example in several orders, cancelled a step later each time; and one of them twice.

    Args:
        example: What to run.
        tally: Where to count.
        orders: How many orders.
        first: Number of the first order, so that parts of a stress test differ.
    """
    workload, drawn = example
    assert drawn.seed is not None
    with owned():  # all of them, as `explore` does: it takes as long as a short run
        for number in range(first, first + orders):
            at = None if drawn.cancel_at_step is None else drawn.cancel_at_step + number - first
            # The engine has to hold in any order, also where asyncio promises one.
            scenario = dataclasses.replace(
                drawn, seed=drawn.seed + number, cancel_at_step=at, order="any"
            )
            outcome = simulate(check_run, workload, scenario=scenario)
            tally.schedules += 1
            tally.happened.update(outcome.value.keys())
        if orders:
            again = simulate(check_run, workload, scenario=scenario)
            tally.schedules += 1
            assert again.log == outcome.log, f"two runs of one seed differ: {outcome.token}"


def stress(
    schedules: int,
    chance: int,
    progress: Callable[[Tally], object] | None = None,
    *,
    streams: bool = False,
) -> Tally:
    """Run that many schedules, without shrinking what fails.

    Args:
        schedules: How many at least.
        chance: Seed of the examples.
        progress: Called after each example.
        streams: Of which kind the examples are.

    Raises:
        AssertionError: Something does not hold; its note says how to run it again.
    """
    tally = Tally()

    @seed(chance)
    @settings(
        max_examples=math.ceil(schedules / (ORDERS + 1)),
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(examples(streams=streams))
    def every(example: Example) -> None:
        check_orders(example, tally)
        if progress is not None:
            progress(tally)

    every()
    return tally
