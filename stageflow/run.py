"""One run of a plan: its state, and the drivers that bring it to its end.

A *driver* takes ready stages one after another and runs each in its own copy of the run's context
variables. As long as stages finish without suspending, one driver does it all; the moment a stage
suspends, every other stage that is ready gets a driver in a task of its own, before the loop has
control again. So stages that could overlap do, and those that could not cost no task.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any

from stageflow import events as ev
from stageflow.board import StreamBoard
from stageflow.classification import classify
from stageflow.context import RunScope, RunStatus, StageContext
from stageflow.dlq.capture import bury
from stageflow.errors import (
    DeadlineExceededError,
    ErrorCategory,
    StageflowError,
    StageTimeoutError,
    StrayCancellationError,
)
from stageflow.events import StageStatus
from stageflow.letter import StageRecord
from stageflow.plan import Node, Plan
from stageflow.result import RunResult
from stageflow.stage import StageOutput, check_output
from stageflow.watchdog import Watch

_COMPLETED = StageStatus.COMPLETED
_CANCELLED = "the run was cancelled"

#: How long, and how many stages, one driver may hold the loop before others get their turn.
SLICE_S = 0.002
SLICE_STAGES = 256


@types.coroutine
def carry_on(
    coroutine: Generator[Any, Any, StageOutput],
    variables: contextvars.Context,
    awaited: Any,
) -> Generator[Any, Any, StageOutput]:
    """Carry a suspended stage to its end, inside its own context variables."""
    advance: Callable[[Any], Any]
    while True:
        argument: Any
        try:
            argument = yield awaited
            advance = coroutine.send
        except GeneratorExit:
            variables.run(coroutine.close)
            raise
        except BaseException as error:
            argument = error
            advance = coroutine.throw
        try:
            awaited = variables.run(advance, argument)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


@types.coroutine
def _next_turn() -> Generator[None, None, None]:
    """Leave the loop its turn; cheaper than ``asyncio.sleep(0)``, and needs no running task."""
    yield


class Run:
    """One run: its state, and the drivers that bring it to its end.

    The caller's own task never drives. asyncio does not tell whether a cancellation that arrives
    inside a stage came from the caller or from, say, an ``asyncio.timeout`` of the stage itself;
    one that arrives where the caller waits can only mean the whole run, and reaches all stages
    at once.
    """

    __slots__ = (
        "_base",
        "_cancelled",
        "_crash",
        "_failure",
        "_finished",
        "_log",
        "_loop",
        "_plan",
        "_ready",
        "_scope",
        "_stopping",
        "_streams",
        "_suspended",
        "_tasks",
        "_unstarted",
        "_waiting",
    )

    def __init__(self, scope: RunScope, plan: Plan) -> None:
        self._scope = scope
        self._plan = plan
        self._loop = scope.loop
        self._log = scope.log
        #: For each latch, how many stages it still waits for.
        self._waiting = list(plan.counts)
        #: Stages that may start now. Empty, or promised to a driver, when the loop has control.
        self._ready = deque(plan.roots)
        self._base = contextvars.copy_context()
        #: Tasks of the drivers, and how many of them have not begun.
        self._tasks: set[asyncio.Task[None]] = set()
        self._unstarted = 0
        #: Drivers that are suspended within a stage, in the order in which they did: those that a
        #: stop has to cancel. A set would give them in another order each time.
        self._suspended: dict[asyncio.Task[None], None] = {}
        #: Resolved when the last driver has ended.
        self._finished: asyncio.Future[None] | None = None
        #: Whether the caller was cancelled.
        self._cancelled = False
        #: Why the run stops early; None while it goes on.
        self._stopping: str | None = None
        self._failure: StageflowError | None = None
        #: What broke a driver and is the caller's to see; None if nothing did.
        self._crash: BaseException | None = None
        #: The run's streams; None if its pipeline has none.
        self._streams: StreamBoard | None = None
        if plan.graph.streams:
            self._streams = scope.streams = StreamBoard(
                scope.loop,
                scope.log,
                scope.bag,
                routes=plan.graph.streams,
                written=plan.written,
                read=plan.read,
                early=plan.early,
                release=self._open_early,
            )

    # ── the run as a whole ──────────────────────────────────────────────────────────────────

    async def execute(
        self, finished: Mapping[str, StageRecord] | None = None, reason: str = ""
    ) -> RunResult:
        """Bring the run to its end; see `PipelineOrchestrator.run` and `resume`."""
        scope = self._scope
        self._log.append((ev.RUN_STARTED, scope.started_at, None, self._origin()))
        if scope.own_deadline is not None:
            scope.watchdog.watch(scope.own_deadline, self._pass_deadline)
        if finished is not None:
            self._restore(finished, reason)
        if self._ready:
            self._spawn(1)
        while self._tasks:
            self._finished = self._loop.create_future()
            try:
                await self._finished
            except asyncio.CancelledError:
                self._cancelled = True
                self._stop(_CANCELLED)
        scope.watchdog.close()
        result = self._conclude()
        if self._stopping is not None:
            if finished is None:
                await self._bury(result)
            if self._crash is not None:
                raise self._crash
            if self._cancelled or result.failure is None:
                raise asyncio.CancelledError(_CANCELLED)
        return result

    def _restore(self, finished: Mapping[str, StageRecord], reason: str) -> None:
        """Take stages as done, and find out which may start then."""
        plan, scope = self._plan, self._scope
        opened = list(plan.roots)
        for node in plan.nodes:
            record = finished.get(node.name)
            if record is None:
                continue
            scope.bag.put_all(record.outputs, node.name)
            data = {"reason": f"{reason}: {record.ending}"}
            skipped = node.event_type(ev.SKIPPED)
            self._log.append((skipped, scope.started_at, node.name, data))
            latches = node.latches
            if self._streams is not None and node.streaming:
                latches += tuple(self._streams.end(node.name, ev.COMPLETED, scope.started_at))
            for latch in latches:
                self._waiting[latch] -= 1
                if not self._waiting[latch]:
                    opened.extend(plan.opens[latch])
        self._ready = deque(n for n in opened if plan.nodes[n].name not in finished)

    async def _bury(self, result: RunResult) -> None:
        """Keep a dead letter if one is due; a cancellation meanwhile has to wait for it."""
        scope, plan, failure = self._scope, self._plan, result.failure
        box = plan.dead_letters if plan.dead_letters is not None else scope.context.dead_letters
        if box is None or failure is None or scope.context.parent is not None:
            return
        if failure.category is not ErrorCategory.POLICY:
            burial = await bury(box, scope, plan.graph, result)
            result.dead_letter_error = burial.error
            self._cancelled = self._cancelled or burial.cancelled

    def _origin(self) -> dict[str, Any]:
        context = self._scope.context
        data: dict[str, Any] = {
            "pipeline": self._scope.pipeline_name,
            "correlation_id": context.correlation_id,
        }
        if context.parent is not None:
            data["parent_run_id"] = context.parent_run_id
            data["parent_stage_id"] = context.parent_stage_id
        return data

    def _conclude(self) -> RunResult:
        scope = self._scope
        ended_at = self._loop.time()
        duration_ms = (ended_at - scope.started_at) * 1000.0
        data: dict[str, Any] = {"duration_ms": duration_ms}
        if self._stopping is None:
            status, kind = RunStatus.COMPLETED, ev.RUN_COMPLETED
        else:
            self._skip_the_rest(ended_at)
            if self._failure is not None:
                status, kind = RunStatus.FAILED, ev.RUN_FAILED
                data.update(_described(self._failure), failed_stage=self._failure.stage)
            else:
                status, kind = RunStatus.CANCELLED, ev.RUN_CANCELLED
        self._log.append((kind, ended_at, None, data))
        scope.status = status
        return RunResult(
            scope.pipeline_name,
            scope.pipeline_run_id,
            status,
            duration_ms,
            scope.bag,
            scope.log,
            self._failure,
        )

    def _skip_the_rest(self, now: float) -> None:
        begun = {event.stage for event in self._log.snapshot()}
        for node in self._plan.nodes:
            if node.name not in begun:
                self._log.append(
                    (node.event_type(ev.SKIPPED), now, node.name, {"reason": self._stopping})
                )

    # ── drivers ─────────────────────────────────────────────────────────────────────────────

    async def _drive(self) -> None:  # noqa: C901, PLR0912 - the hot loop
        """Run ready stages one after another until none is left for this driver."""
        plan, ready, waiting, base = self._plan, self._ready, self._waiting, self._base
        scope, append, now = self._scope, self._log.append, self._loop.time
        ended_at = now()
        slice_ends, slice_left = ended_at + SLICE_S, SLICE_STAGES
        while ready:
            node = plan.nodes[ready.popleft()]
            # Nothing has run since the last stage ended, so no time has passed.
            started_at = ended_at
            append((node.started, started_at, node.name, None))
            ctx = StageContext(scope, node.name, node.inputs, started_at, node.provider)
            try:
                if node.condition is not None and not node.condition(ctx):
                    output = StageOutput.skip("its condition does not hold")
                else:
                    variables = base.copy()
                    coroutine: Any = node.execute(ctx)
                    try:
                        awaited = variables.run(coroutine.send, None)
                    except StopIteration as stop:
                        output = stop.value
                    else:
                        rest = carry_on(coroutine, variables, awaited)
                        output = await self._suspend(node, ctx, rest)
                        slice_ends, slice_left = now() + SLICE_S, SLICE_STAGES
                ended_at = now()
                output = check_output(output, node.outputs)
                if output.status is _COMPLETED:
                    if node.streaming:
                        self._end_streams(node, ev.COMPLETED, ended_at)
                    if output.outputs:
                        scope.bag.put_all(output.outputs, node.name)
                    append((node.completed, ended_at, node.name, started_at))
                else:
                    self._accept_skip(node, output, started_at, ended_at)
            except GeneratorExit:
                raise  # the coroutine is closed, as that of a loop which has gone is
            except BaseException as error:
                ended_at = now()
                self._accept_error(node, error, started_at, ended_at)
            if self._stopping is not None:
                return
            for latch in node.latches:
                waiting[latch] -= 1
                if not waiting[latch]:
                    ready.extend(plan.opens[latch])
            slice_left -= 1
            if ready and (slice_left <= 0 or ended_at > slice_ends):
                await self._give_way()
                ended_at = now()
                slice_ends, slice_left = ended_at + SLICE_S, SLICE_STAGES

    async def _suspend(
        self, node: Node, ctx: StageContext, rest: Awaitable[StageOutput]
    ) -> StageOutput:
        """Wait for a stage that has suspended, no longer than its timeout."""
        self._spawn(len(self._ready))
        task = _this_task()
        timeout_s = node.timeout_s
        watch: Watch | None = None
        if timeout_s is not None:
            watch = ctx.limit(timeout_s, task.cancel)
        self._suspended[task] = None
        try:
            return await rest
        except asyncio.CancelledError:
            if task.cancelling() and not ctx.timed_out:
                # The stage cancelled its own task, or somebody cancels all tasks that there are.
                self._stop(_CANCELLED)
            raise
        finally:
            del self._suspended[task]
            # The next stage of this driver begins with a clean slate: on Python 3.11 even a
            # TaskGroup leaves a request to cancel behind.
            while task.cancelling():
                task.uncancel()
            if watch is not None and timeout_s is not None:
                watch.released = True
                if watch.expired:
                    # Whatever the stage made of it: too late is too late.
                    raise StageTimeoutError(timeout_s)

    def _spawn(self, wanted: int) -> None:
        """See to it that `wanted` ready stages have a driver of their own coming."""
        while self._unstarted < wanted:
            self._unstarted += 1
            driver = self._driver()
            # Brought to its first line here, it also sees a cancellation before its first turn.
            driver.send(None)
            self._tasks.add(self._loop.create_task(driver))

    async def _driver(self) -> None:
        try:
            await _next_turn()
        except asyncio.CancelledError:
            self._stop(_CANCELLED)
        self._unstarted -= 1
        task = _this_task()
        try:
            await self._drive()
        except BaseException as error:
            # A loop that was closed in the middle of a run closes its coroutines when they are
            # collected; there is nobody to tell then.
            if not self._loop.is_closed():
                self._break_off(error)
        finally:
            self._tasks.discard(task)
            if not self._tasks and not self._loop.is_closed():
                self._tell_the_caller()

    def _break_off(self, error: BaseException) -> None:
        """End the run by what no stage may fail by, ``pytest.fail`` say, or a fault of our own."""
        self._fail(classify(error), "the run broke off")
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error  # asyncio lets these out of the loop
        self._crash = error

    def _tell_the_caller(self) -> None:
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    async def _give_way(self) -> None:
        """Let the loop do something else; the other ready stages go on meanwhile."""
        self._spawn(len(self._ready) - 1)
        try:
            await _next_turn()
        except asyncio.CancelledError:
            self._stop(_CANCELLED)

    # ── how stages end ──────────────────────────────────────────────────────────────────────

    def _accept_skip(
        self, node: Node, output: StageOutput, started_at: float, ended_at: float
    ) -> None:
        if node.streaming:
            self._end_streams(node, ev.SKIPPED, ended_at)
        data = {"duration_ms": (ended_at - started_at) * 1000.0, "reason": output.reason}
        self._log.append((node.event_type(ev.SKIPPED), ended_at, node.name, data))

    def _accept_error(
        self, node: Node, error: BaseException, started_at: float, ended_at: float
    ) -> None:
        data: dict[str, Any] = {"duration_ms": (ended_at - started_at) * 1000.0}
        if isinstance(error, asyncio.CancelledError):
            if self._stopping is not None:
                if node.streaming:
                    self._end_streams(node, ev.CANCELLED, ended_at)
                data["reason"] = self._stopping
                self._log.append((node.event_type(ev.CANCELLED), ended_at, node.name, data))
                return
            error = StrayCancellationError()
        failure = classify(error).located(node.name, self._scope.pipeline_run_id)
        data.update(_described(failure))
        if node.streaming:
            self._end_streams(node, ev.FAILED, ended_at, failure)
        self._log.append((node.event_type(ev.FAILED), ended_at, node.name, data))
        ordinary = isinstance(error, Exception)
        if node.required or not ordinary:
            self._fail(failure, f"stage {node.name!r} failed")
        if not ordinary:
            raise error

    def _end_streams(
        self, node: Node, ending: str, ended_at: float, failure: StageflowError | None = None
    ) -> None:
        """Close what a stage writes and reads, and let start who waited in vain for its streams."""
        streams = self._streams
        assert streams is not None, "a pipeline with streams has a board for them"
        # A stage that found nothing more to do has ended its streams in good order.
        outcome = ev.COMPLETED if ending == ev.SKIPPED else ending
        self._count_down(streams.end(node.name, outcome, ended_at, failure))

    def _open_early(self, latches: list[int]) -> None:
        """Let start who waited for a stream that a stage under way has opened."""
        self._count_down(latches)
        # The stage may be suspended, and opening it in one of its tasks: no driver comes by here.
        # The new driver is not to inherit the context variables of the stage.
        self._base.copy().run(self._spawn, len(self._ready))

    def _count_down(self, latches: list[int]) -> None:
        for latch in latches:
            self._waiting[latch] -= 1
            if not self._waiting[latch] and self._stopping is None:
                self._ready.extend(self._plan.opens[latch])

    def _pass_deadline(self) -> None:
        if self._stopping is not None:
            # A clean-up that outlasts the deadline is asked once more to come to its end.
            self._cancel_suspended()
            return
        limit_s = self._scope.context.deadline_s
        assert limit_s is not None, "only a run with a limit of its own keeps one"
        failure = DeadlineExceededError(limit_s)
        failure.pipeline_run_id = self._scope.pipeline_run_id
        self._fail(failure, f"the run passed its deadline of {limit_s:g} s")

    def _fail(self, failure: StageflowError, reason: str) -> None:
        if self._stopping is None:
            self._failure = failure
            self._stop(reason)

    def _stop(self, reason: str) -> None:
        """Start nothing more, and cancel what is under way; the first reason stays."""
        if self._stopping is not None:
            return
        self._stopping = reason
        self._scope.stopping = True
        self._ready.clear()
        if self._streams is not None:
            self._streams.abandon({event.stage for event in self._log.snapshot()})
        # A stage that is cleaning up is not cut short by the timeout of its work.
        scope = self._scope
        scope.watchdog.close()
        if scope.own_deadline is not None and self._loop.time() < scope.own_deadline:
            scope.watchdog.watch(scope.own_deadline, self._pass_deadline)
        self._cancel_suspended()

    def _cancel_suspended(self) -> None:
        for task in tuple(self._suspended):
            task.cancel()


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None, "a driver runs in a task"
    return task


def _described(failure: StageflowError) -> dict[str, Any]:
    return {
        "error_code": failure.code,
        "error_message": str(failure),
        "error_category": str(failure.category),
        "retryable": failure.retryable,
        "user_message": failure.user_message,
    }
