"""The promises of every run, checked from its plan, its events and what its stages did and saw."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from stageflow import Event, PipelineContext, RunResult, Stream
from tools.random_test.plans import Plan, StagePlan, acts_of
from tools.random_test.playing import Play, Record

_TERMINAL = {"completed", "failed", "skipped", "cancelled"}
#: How an execution of a stage ends; one that hangs is closed.
_ENDED = {"returned", "raised", "closed"}
#: What a stage in the form of a function of parameters may return as it is, if it fits.
_BARE = {"none", "dict", "text", "class"}
#: Two times of a virtual clock are the same if they differ by less, in seconds.
_SAME_S = 1e-6
#: The ends of a stage that returned something which is not wrong in every case.
_ENDS = {
    "ok": {"completed"},
    "mapping": {"completed"},
    "skip": {"skipped"},
    "odd_reason": {"skipped", "failed"},
    "output_coroutine": {"completed", "failed"},
}


@dataclass
class Run:
    """A run that has ended.

    Attributes:
        plan: What was to be run.
        ctx: Its context.
        play: What its stages did.
        result: What `run()` returned; None for a child run, and if it raised.
        raised: What `run()` raised.
        began_at: When it was started, by the loop's clock.
        returned_at: When it returned.
        cancelled_at: When its caller was cancelled, each time.
        child: Whether a stage started it.
        finished: The stages that had finished, and that a replay does not run again.
    """

    plan: Plan
    ctx: PipelineContext
    play: Play
    result: RunResult | None = None
    raised: BaseException | None = None
    began_at: float = 0.0
    returned_at: float | None = None
    cancelled_at: list[float] = field(default_factory=list)
    child: bool = False
    finished: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.id = self.ctx.pipeline_run_id
        self.events = self.ctx.get_events()
        self.ends = {
            event.stage: event for event in self.events if event.stage and _word(event) in _TERMINAL
        }
        self.restored = {
            name
            for name, event in self.ends.items()
            if type(reason := event.data.get("reason")) is str
            and reason.startswith("restored from dead letter")
        }
        self.records: dict[str, list[Record]] = {stage.name: [] for stage in self.plan.stages}
        for record in self.play.records:
            if record.run == self.id:
                self.records[record.stage].append(record)

    @property
    def stopped_by(self) -> Event | None:
        """The event of the stage that failed the run, if one did."""
        for event in self.events:
            name = event.stage
            if name is None or _word(event) != "failed":
                continue
            if event.data.get("error_code") == "not_ended":
                continue  # the run had been stopped, and ended without it
            if self.stage(name).required or self.base_raised(name):
                return event
        return None

    def stage(self, name: str) -> StagePlan:
        """Return the plan of a stage."""
        return next(stage for stage in self.plan.stages if stage.name == name)

    def base_raised(self, name: str) -> bool:
        """Whether a stage raised something that is not an `Exception`."""
        stage = self.stage(name)
        last = self.last(name)
        if stage.form == "subpipeline":
            return any(_base_in(self.play, run) for run in self.children(stage))
        return (stage.condition == "base" and any(self.records[name])) or (
            last is not None
            and last.what == "raised"
            and not isinstance(last.detail, (Exception, asyncio.CancelledError))
        )

    def children(self, stage: StagePlan) -> list[str]:
        """Return the ids of the runs that a stage started, and of those that these started."""
        plans = [] if stage.child is None else [stage.child]
        for plan in plans:
            plans += [inner.child for inner in plan.stages if inner.child is not None]
        return [
            run_id
            for run_id, ctx in self.play.contexts.items()
            if self._is_above(ctx) and any(self.play.plans[run_id] is plan for plan in plans)
        ]

    def _is_above(self, ctx: PipelineContext) -> bool:
        while ctx.parent is not None and ctx.parent.pipeline_run_id != self.id:
            ctx = ctx.parent.context
        return ctx.parent is not None

    def last(self, name: str) -> Record | None:
        """Return the record of how the last execution of a stage ended."""
        ended = [one for one in self.records[name] if one.what in _ENDED]
        return ended[-1] if ended else None

    def saw(self, name: str, what: str) -> bool:
        """Whether a stage has such a record."""
        return any(record.what == what for record in self.records[name])


def _base_in(play: Play, run_id: str) -> bool:
    run = Run(play.plans[run_id], play.contexts[run_id], play, child=True)
    return any(run.base_raised(stage.name) for stage in run.plan.stages)


def _word(event: Event) -> str:
    return event.type.rpartition(".")[2]


def findings(run: Run) -> Iterator[str]:
    """Return the promises that a run broke."""
    if not run.events:
        if run.raised is None:
            yield "the run has no events"
        return
    yield from _numbers(run)
    yield from _ends(run)
    yield from _order(run)
    yield from _statuses(run)
    yield from _outcome(run)
    yield from _bag(run)
    yield from _streams(run)


def _numbers(run: Run) -> Iterator[str]:
    numbers = [event.sequence for event in run.events]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"the events are numbered {numbers}"
    offsets = [event.offset_ms for event in run.events]
    if offsets != sorted(offsets):
        yield f"the events' times run backwards: {offsets}"
    of_run = [event.type for event in run.events if event.stage is None]
    last = run.events[-1].type
    if of_run != ["pipeline.started", last] or run.events[0].type != "pipeline.started":
        yield f"the events of the run are {of_run}, and the last event is {last}"


def _ends(run: Run) -> Iterator[str]:
    for stage in run.plan.stages:
        events = [event for event in run.events if event.stage == stage.name]
        words = [_word(event) for event in events]
        ends = [word for word in words if word in _TERMINAL]
        if len(ends) != 1:
            yield f"stage {stage.name} has {len(ends)} terminal events: {words}"
        elif words[-1] != ends[0]:
            yield f"stage {stage.name} has an event after its terminal one: {words}"
        if words.count("started") > 1 or ("started" in words and words[0] != "started"):
            yield f"stage {stage.name} started late or twice: {words}"
        executions = [one for one in run.records[stage.name] if one.what == "began"]
        if executions and "started" not in words:
            yield f"stage {stage.name} was executed without a started event"
        if len(executions) > 1 and "retry" not in run.plan.interceptors:
            yield f"stage {stage.name} was executed {len(executions)} times"
        if executions and any(key not in run.ctx.bag for key in stage.needs):
            yield f"stage {stage.name} was executed without a parameter that it needs"
        if executions and stage.name in run.finished | run.restored:
            yield f"stage {stage.name} had finished, and the replay executed it again"
        unended = len(executions) - sum(one.what in _ENDED for one in run.records[stage.name])
        if unended:
            yield f"stage {stage.name} never ended"


def _order(run: Run) -> Iterator[str]:
    """A stage starts when what it waits for has ended, and none after the run has stopped."""
    started = {e.stage: e for e in run.events if e.stage and _word(e) == "started"}
    opened = {e.data.get("stream"): e for e in run.events if _word(e) == "stream_opened"}
    stopped = run.stopped_by
    for name, event in started.items():
        stage = run.stage(name)
        waits: list[Event] = []
        for dependency in stage.dependencies:
            producer = run.stage(dependency)
            end = run.ends.get(dependency)
            if end is None:
                continue
            keys = [key for key in producer.streams if key in stage.inputs]
            early = [opened[key] for key in keys if key in opened]
            only_streams = keys and not any(key in stage.inputs for key in producer.outputs)
            if only_streams and len(early) == len(keys):
                last = max(early, key=lambda one: one.sequence)
                end = min(last, end, key=lambda one: one.sequence)
            waits.append(end)
            if end.sequence > event.sequence:
                yield f"stage {name} started before {dependency} had ended"
        if stopped is not None and event.sequence > stopped.sequence:
            yield f"stage {name} started after the failure of {stopped.stage}"
        if run.play.virtual:
            due = max([one.offset_ms for one in waits], default=0.0)
            if abs(event.offset_ms - due) > _SAME_S * 1000:
                yield f"stage {name} started at {event.offset_ms} ms instead of {due} ms"


def _statuses(run: Run) -> Iterator[str]:
    stopped = run.stopped_by
    stop_at = stopped.sequence if stopped else None
    for stage in run.plan.stages:
        end = run.ends.get(stage.name)
        if end is None or stage.name in run.restored:
            continue
        before_stop = stop_at is None or end.sequence <= stop_at
        word = _word(end)
        possible = _possible(run, stage, end)
        if run.child or run.cancelled_at or _deadline_passed(run) or not before_stop or _self(run):
            # The run stopped: what was under way may have been cancelled, what was to come skipped.
            possible |= {"cancelled", "skipped"} if run.last(stage.name) is None else {"cancelled"}
            if any(one.what == "swallowed" for one in run.records[stage.name]):
                possible |= _TERMINAL
            if any(one.what == "raised" for one in run.records[stage.name]):
                possible |= {"failed"}
            last = run.last(stage.name)
            stopped_above = run.child and _word(run.events[-1]) == "cancelled"
            # Before Python 3.12, `wait_for` may lose the cancellation of its stage.
            lost = sys.version_info < (3, 12) and "wait_for" in {
                act.kind for act in acts_of(stage.body)
            }
            if (
                last is not None
                and last.what == "returned"
                and (stopped_above or not before_stop or lost)
            ):
                # Its timeout ended with the run, and asyncio may lose a cancellation.
                possible |= _returned(stage)
        if word not in possible:
            last = run.last(stage.name)
            told = f"{last.what} {last.detail!r:.80}" if last else "was not executed"
            why = {key: text for key, text in end.data.items() if type(text) is str}
            yield f"stage {stage.name} {told}, and its end is {word} ({why!r:.300})"
        if word == "cancelled" and run.last(stage.name) is None and run.saw(stage.name, "began"):
            yield f"stage {stage.name} was cancelled and has not ended"


def _possible(run: Run, stage: StagePlan, end: Event) -> set[str]:
    """Return the ends that a stage may have if nothing else stopped the run."""
    last = run.last(stage.name)
    if stage.form == "subpipeline":
        return {"completed", "failed"}
    if run.saw(stage.name, "hook_raised"):
        return {"failed", *(_returned(stage) if "retry" in run.plan.interceptors else ())}
    if last is None:
        return _unexecuted(run, stage)
    if run.play.virtual and stage.timeout_s is not None:
        began_ms = next(event.offset_ms for event in run.events if event.stage == stage.name)
        if end.offset_ms > began_ms + (stage.timeout_s * run.play.scale + _SAME_S) * 1000:
            return {"failed"}
    timed_out = _timed_out(run, stage, last)
    if last.what != "returned":
        by_nobody = isinstance(last.detail, asyncio.CancelledError) and not (
            timed_out
            or _timeouts(run, stage)
            or run.saw(stage.name, "stray")
            or run.saw(stage.name, "cancel_self")
        )
        return set() if by_nobody else {"failed"}
    possible = _returned(stage)
    if "completed" in possible and set(stage.streams) - _opened(run, stage):
        possible = {"failed"}
    swallowed = run.saw(stage.name, "swallowed") and _timeouts(run, stage)
    if timed_out or swallowed or "after_raises" in run.plan.interceptors:
        possible.add("failed")
    return possible


def _unexecuted(run: Run, stage: StagePlan) -> set[str]:
    if any(key not in run.ctx.bag for key in stage.needs) or stage.condition == "false":
        return {"skipped"}
    # A breaker may reject, an interceptor may wait longer than the timeout.
    may_fail = {"breaker", "before_raises", "wraps"} & set(run.plan.interceptors)
    if may_fail or stage.condition in {"raises", "odd", "base"}:
        return {"failed"}
    return set()


def _returned(stage: StagePlan) -> set[str]:
    """Return the ends that may follow from what a stage returned."""
    if stage.form in {"parameters", "defaults"} and stage.ending in _BARE:
        count = len(stage.outputs)
        # A function without a parameter that is an input may have forgotten to return.
        reads = any(map(str.isidentifier, stage.inputs))
        none_fits = count == 0 or (count == 1 and reads)
        fits = {"none": none_fits, "dict": count > 0}.get(stage.ending, count == 1)
        return {"completed"} if fits else {"failed"}
    if stage.ending == "missing":
        return {"failed"} if stage.outputs else {"completed"}
    return set(_ENDS.get(stage.ending, {"failed"}))


def _opened(run: Run, stage: StagePlan) -> set[str]:
    return {
        event.data["stream"]
        for event in run.events
        if event.stage == stage.name and _word(event) == "stream_opened"
    }


def _timeouts(run: Run, stage: StagePlan) -> bool:
    return stage.timeout_s is not None or "timeout" in run.plan.interceptors


def _timed_out(run: Run, stage: StagePlan, last: Record) -> bool:
    """Whether a time limit of the stage may have expired before its last execution ended."""
    began = [one for one in run.records[stage.name] if one.what in {"began", "condition"}]
    if "timeout" in run.plan.interceptors:
        return True
    if stage.timeout_s is None or not began:
        return False
    limit_s = stage.timeout_s * run.play.scale
    return last.at - began[0].at >= limit_s - 1e-4 or not run.play.virtual


def _deadline_passed(run: Run) -> bool:
    if run.child:
        return True
    if run.plan.deadline_s is None or run.returned_at is None:
        return False
    limit_s = run.plan.deadline_s * run.play.scale
    return run.returned_at - run.began_at >= limit_s - 1e-4 or not run.play.virtual


def _self(run: Run) -> bool:
    """Whether a stage cancelled the task in which it ran."""
    return any(run.saw(stage.name, "cancel_self") for stage in run.plan.stages)


def _outcome(run: Run) -> Iterator[str]:
    """The run's end follows from the ends of its stages."""
    status, last, stopped = run.ctx.status, _word(run.events[-1]), run.stopped_by
    if status != last:
        yield f"the context's status is {status}, and the last event is {last}"
    if last == "completed" and stopped is not None:
        yield f"stage {stopped.stage} failed, and the run completed"
    if run.child:
        return
    if run.raised is not None:
        yield from _raised(run, run.raised)
    elif run.result is None:
        yield "run() returned nothing"
    else:
        yield from _result(run, run.result)


def _base(run: Run) -> list[BaseException]:
    """Return what stages raised that is not an `Exception`."""
    return [
        record.detail
        for stage in run.plan.stages
        for record in run.records[stage.name]
        if record.what == "raised" and run.base_raised(stage.name)
    ]


def _raised(run: Run, raised: BaseException) -> Iterator[str]:
    if isinstance(raised, asyncio.CancelledError):
        if not run.cancelled_at and not _self(run):
            yield "run() raised CancelledError, and nobody cancelled"
    elif isinstance(raised, GeneratorExit) and _anywhere(run.plan, _exits):
        return  # it closes the coroutines that await the task which raised it
    elif not _anywhere(run.plan, lambda stage: stage.condition == "base") and not any(
        record.what == "raised" and record.detail is raised for record in run.play.records
    ):
        yield f"run() raised {type(raised).__name__}: {raised!r:.200}"


def _result(run: Run, result: RunResult) -> Iterator[str]:
    last, base = _word(run.events[-1]), _base(run)
    if run.cancelled_at:
        yield "the caller was cancelled, and run() returned a result"
    if result.status != last:
        yield f"the result's status is {result.status}, and the last event is {last}"
    # What waits around a stage may be cancelled meanwhile, and that is what passes on then.
    if base and "wraps" not in run.plan.interceptors:
        yield f"a stage raised {base[0]!r:.80}, and run() returned"
    if last == "failed":
        yield from _failure(run, result)
    elif last == "cancelled" and not _self(run):
        yield "the run was cancelled by nobody"
    elif last == "completed" and result.failure is not None:
        yield "the run completed with a failure"


def _anywhere(plan: Plan, test: Callable[[StagePlan], bool]) -> bool:
    """Whether a stage of the plan, or of one inside of it, passes a test."""
    return any(
        test(stage) or (stage.child is not None and _anywhere(stage.child, test))
        for stage in plan.stages
    )


def _exits(stage: StagePlan) -> bool:
    return any(act.value == "generator_exit" for act in acts_of(stage.body))


def _failure(run: Run, result: RunResult) -> Iterator[str]:
    stopped = run.stopped_by
    failure = result.failure
    if failure is None:
        yield "the run failed without a failure"
        return
    for text in (result.error, result.user_message):
        if not isinstance(text, str) or not text:
            yield f"the failure has the text {text!r}"
    if failure.code == "deadline_exceeded":
        if not _deadline_passed(run):
            yield "the run failed by a deadline that had not passed"
        return
    if stopped is None:
        yield f"the run failed by {failure.code}, and no required stage failed"
        return
    if run.events[-1].data.get("failed_stage") != stopped.stage:
        yield f"stage {stopped.stage} failed first, and the run names {run.events[-1].data!r}"
    if failure.code != stopped.data.get("error_code"):
        yield f"the run failed by {failure.code}, the stage by {stopped.data.get('error_code')}"


def _bag(run: Run) -> Iterator[str]:
    """The bag holds the outputs of the completed stages, as they returned them, and no more."""
    expected: dict[str, str] = {}
    for stage in run.plan.stages:
        end = run.ends.get(stage.name)
        if end is not None and (_word(end) == "completed" or stage.name in run.restored):
            expected |= dict.fromkeys(stage.outputs, stage.name)
        expected |= dict.fromkeys(_opened(run, stage), stage.name)
    keys = set(run.ctx.bag)
    if run.restored:
        if not {key for key, name in expected.items() if name not in run.restored} <= keys:
            yield f"the bag lacks {set(expected) - keys}"
        return
    if keys != set(expected):
        yield f"the bag holds {sorted(keys)} instead of {sorted(expected)}"
    for key in keys & set(expected):
        value = run.ctx.bag[key]
        made = run.play.values.get((run.id or "", key), run)
        if type(value) is not Stream and made is not run and value is not made:
            yield f"the bag's {key!r} is not what {expected[key]} returned"


def _streams(run: Run) -> Iterator[str]:
    """A stream ends as its stage does; readers get its items in order, and all if it completes."""
    for name in run.records:
        yield from _read(run, name)
    for stage in run.plan.stages:
        events = [event for event in run.events if event.stage == stage.name]
        closed = [event.data for event in events if _word(event) == "stream_closed"]
        if sorted(data["stream"] for data in closed) != sorted(_opened(run, stage)):
            yield f"stage {stage.name} opened {_opened(run, stage)} and closed {closed}"
        end = _word(events[-1]) if events else ""
        for data in closed:
            if (data["outcome"] == "completed") != (end in {"completed", "skipped"}):
                yield f"the stream {data['stream']} {data['outcome']}, its stage {end}"


def _read(run: Run, name: str) -> Iterator[str]:
    """A reader gets the next item each time; after a rewind it begins with the first."""
    readers: dict[int, int] = {}
    for record in run.records[name]:
        if record.what == "read":
            key, reader, (_, number) = record.detail
            due = readers.get(id(reader), 0)
            while (key, due) in run.play.withdrawn and number != due:
                due += 1
            if number not in (due, 0):
                yield f"stage {name} missed items of {key}: read {number}, not {due}"
            readers[id(reader)] = number + 1
        elif record.what == "read_all":
            key, reader = record.detail
            producer = next(stage for stage in run.plan.stages if key in stage.streams)
            end = run.ends.get(producer.name)
            whole = end is None or _word(end) == "completed" or producer.name in run.restored
            if end is not None and not whole and not reader.closed:
                yield f"stage {name} read all of {key}, whose stage {_word(end)}"
