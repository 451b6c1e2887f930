"""One run of a plan: its state, and the drivers that execute it; see docs/explanation/run.md.

A *driver* is a task that takes ready stages one after another. When a stage suspends, every other
ready stage gets a driver before the loop has control again: only stages that overlap cost a task.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections import deque
from collections.abc import Coroutine, Generator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from stageflow import errors as err
from stageflow import events as ev
from stageflow.engine.capture import capture
from stageflow.engine.context import RunScope, RunStatus
from stageflow.engine.dead_letter import StageRecord
from stageflow.engine.plan import Node, Plan
from stageflow.engine.result import RunResult
from stageflow.engine.run_streams import RunStreams
from stageflow.engine.stage import StageOutput, check_output
from stageflow.engine.stage_context import StageContext
from stageflow.engine.stepping import TaskCancelledError, resume_in_context, this_task, yield_once
from stageflow.errors.base import described, shown
from stageflow.events.log import StageStatus
from stageflow.resilience.classification import classify

_COMPLETED = StageStatus.COMPLETED
_CANCELLED = "the run was cancelled"
#: What a stage may raise, or not, that its timeout replaces.
_OVERRIDDEN = (Exception, asyncio.CancelledError, type(None))

#: How long, in seconds and in stages, a driver may run before it yields to the loop.
SLICE_S = 0.002
SLICE_STAGES = 256

_log = logging.getLogger("stageflow.engine")
#: When a stage has started and ended, in seconds of the loop's clock.
Span: TypeAlias = tuple[float, float]


class Run:
    """One run: its state, and the drivers that execute it; the caller's task only waits."""

    def __init__(self, scope: RunScope, plan: Plan) -> None:
        self._scope = scope
        self._plan = plan
        self._loop = scope.loop
        self._log = scope.log
        #: For each latch, how many stages it still waits for.
        self._waiting = list(plan.counts)
        #: For each latch, the stages that may start when it opens.
        self._opens = plan.opens
        self._ready = deque(plan.roots)
        self._base = contextvars.copy_context()
        #: The drivers' tasks, each under a token, and how many of them have not begun.
        self._drivers: dict[object, asyncio.Task[None]] = {}
        self._unstarted = 0
        #: Drivers that are suspended in a stage, in this order, each with the rest of the stage.
        self._suspended: dict[asyncio.Task[None], Generator[Any, Any, StageOutput]] = {}
        #: Resolved when the last driver has ended.
        self._finished: asyncio.Future[None] | None = None
        self._cancelled = False  # the caller
        #: Why the run stops early; None while it goes on.
        self._stopping: str | None = None
        self._failure: err.StageflowError | None = None
        #: What a stage refused with, and its name, for the last event.
        self._refusal: dict[str, str] | None = None
        #: The stage that failed the run; None if its deadline did.
        self._failed_stage: str | None = None
        #: An error that broke a driver, to be raised to the caller.
        self._crash: BaseException | None = None
        self._streams: RunStreams | None = None
        if plan.graph.streams:
            self._streams = scope.streams = RunStreams(scope, plan, self._open_early)

    async def execute(
        self, finished: Mapping[str, StageRecord] | None = None, reason: str = ""
    ) -> RunResult:
        """Execute the run; see `PipelineOrchestrator.run` and `resume`."""
        scope = self._scope
        self._log.append((ev.RUN_STARTED, scope.started_at, None, scope.origin()))
        if scope.own_deadline is not None:
            scope.timers.set(scope.own_deadline, self._pass_deadline)
        if finished is not None:
            self._restore(finished, reason)
        if self._ready:
            self._spawn(1)
        while self._drivers:
            self._finished = self._loop.create_future()
            try:
                await self._finished
            except (asyncio.CancelledError, GeneratorExit) as error:
                if self._interrupt(isinstance(error, GeneratorExit)):
                    raise
        result = self._conclude()
        if self._stopping is not None and finished is None:
            await self._capture(result)
        if self._crash is not None:
            raise self._crash
        if self._cancelled or result.status is RunStatus.CANCELLED:
            raise asyncio.CancelledError("; ".join((_CANCELLED, *scope.held)))
        return result

    def _interrupt(self, closed: bool) -> bool:
        """Stop the run; end it if its caller was not cancelled but closed, and return that."""
        if closed and self._loop.is_closed():
            return True
        self._stop(_CANCELLED)
        if closed:
            self._abandon()
            self._conclude()
            return True
        parent = self._scope.context.parent
        # A parent that stops closes the stage that runs this child when its own time is up.
        if not self._cancelled and (parent is None or not parent.stopping):
            self._abandon_after_grace()
        self._cancelled = True
        return False

    def _restore(self, finished: Mapping[str, StageRecord], reason: str) -> None:
        """Record stages as finished, and find the stages that may start."""
        plan, scope = self._plan, self._scope
        done = {number for number, node in enumerate(plan.nodes) if node.name in finished}
        # A latch that opens later, as for a stream, must not start a finished stage.
        self._opens = tuple(tuple(n for n in opened if n not in done) for opened in plan.opens)
        self._ready = deque(n for n in plan.roots if n not in done)
        for number in sorted(done):
            node = plan.nodes[number]
            record = finished[node.name]
            scope.bag.put_all(record.outputs, node.name)
            data = {"reason": f"{reason}: {record.ending}"}
            skipped = ev.stage_event_type(node.name, ev.SKIPPED)
            self._log.append((skipped, scope.started_at, node.name, data))
            self._count_down(node.latches)
            if node.streaming:
                self._end_streams(node, ev.COMPLETED, scope.started_at)

    async def _capture(self, result: RunResult) -> None:
        self._cancelled |= await capture(self._scope, self._plan, result)

    def _conclude(self) -> RunResult:
        scope = self._scope
        ended_at = self._loop.time()
        duration_ms = (ended_at - scope.started_at) * 1000.0
        data: dict[str, Any] = {"duration_ms": duration_ms}
        if self._stopping is None:
            status, kind = RunStatus.COMPLETED, ev.RUN_COMPLETED
        else:
            self._end_the_rest(ended_at)
            if self._refusal is not None and not self._cancelled:
                status, kind = RunStatus.COMPLETED, ev.RUN_COMPLETED
                data.update(self._refusal)
            elif self._failure is not None:
                status, kind = RunStatus.FAILED, ev.RUN_FAILED
                data.update(described(self._failure), failed_stage=self._failed_stage)
            else:
                status, kind = RunStatus.CANCELLED, ev.RUN_CANCELLED
        self._log.append((kind, ended_at, None, data))
        scope.end(status)
        if self._streams is not None:
            self._streams.detach()
        failure, self._failure = self._failure, None
        run_id, bag = scope.pipeline_run_id, scope.bag
        return RunResult(scope.pipeline_name, run_id, status, duration_ms, bag, self._log, failure)

    def _end_the_rest(self, now: float) -> None:
        """Record the end of each stage that has not begun, or has not ended."""
        begun, scope = self._log.begun(), self._scope
        for node in self._plan.nodes:
            if node.name not in begun:
                kind = ev.stage_event_type(node.name, ev.SKIPPED)
                self._log.append((kind, now, node.name, {"reason": self._stopping}))
            elif (started_at := begun[node.name]) is not None:
                why = f"did not end within the grace period of {scope.context.grace_s:g} s"
                fix = "let CancelledError pass, and limit the clean-up"
                error = self._crash or err.StageDefectError(f"{why}: {fix}", code="not_ended")
                held = classify(error).located(node.name, scope.pipeline_run_id)
                self._record_end(node, ev.FAILED, (started_at, now), held)
                scope.held.append(f"stage {node.name!r} of pipeline {scope.pipeline_name!r} {held}")
                _log.error("run %s ended without a stage: %s", held.pipeline_run_id, scope.held[-1])
        if self._failure is not None:
            for text in scope.held:
                self._failure.add_note(text)

    async def _drive(self) -> None:  # noqa: C901, PLR0912, PLR0915 - the hot loop
        """Run ready stages one after another until none is left for this driver."""
        nodes, ready, base = self._plan.nodes, self._ready, self._base
        waiting, opens = self._waiting, self._opens
        scope, append, now = self._scope, self._log.append, self._loop.time
        task = this_task()
        ended_at = now()
        slice_ends, slice_left = ended_at + SLICE_S, SLICE_STAGES
        while ready:
            node = nodes[ready.popleft()]
            # Nothing has run since the last stage ended, so its end is the start of this one.
            started_at = ended_at
            append((node.started, started_at, node.name, None))
            ctx = StageContext(scope, node.name, node.inputs, started_at, node.provider)
            try:
                if node.guarded and (reason := node.why_skip(ctx)) is not None:
                    output = StageOutput.skip(reason)
                else:
                    variables = base.copy()
                    coroutine: Any = node.execute(ctx)
                    try:
                        awaited = variables.run(coroutine.send, None)
                    except StopIteration as stop:
                        output = stop.value
                    else:
                        rest = resume_in_context(coroutine, variables, awaited, ctx)
                        output = await self._suspend(task, node, ctx, rest)
                        slice_ends, slice_left = now() + SLICE_S, SLICE_STAGES
                ended_at = now()
                output = check_output(output, node.outputs)
                if output.status is _COMPLETED:
                    if node.streaming:
                        self._end_streams(node, ev.COMPLETED, ended_at)
                    if output.outputs:
                        scope.bag.put_all(output.outputs, node.name)
                    elif output.user_message is not None:
                        self._refuse(node, output.user_message, (started_at, ended_at))
                        return
                    append((node.completed, ended_at, node.name, started_at))
                else:
                    why = output.reason if type(output.reason) is str else shown(output.reason)
                    self._record_end(node, ev.SKIPPED, (started_at, ended_at), why)
            except BaseException as error:
                if self._loop.is_closed():
                    raise  # the coroutine is being closed
                if not self._drivers:
                    return  # the run has ended without this stage
                ended_at = now()
                self._accept_error(node, error, (started_at, ended_at))
            if self._stopping is not None:
                return
            for latch in node.latches:
                waiting[latch] = left = waiting[latch] - 1
                if not left:
                    ready.extend(opens[latch])
            slice_left -= 1
            if task.cancelling():
                slice_left = 0  # the request is for this stage, and must not reach the next
            if ready and (slice_left <= 0 or ended_at > slice_ends):
                await self._yield_to_loop(task)
                ended_at = now()
                slice_ends, slice_left = ended_at + SLICE_S, SLICE_STAGES

    async def _suspend(
        self,
        task: asyncio.Task[Any],
        node: Node,
        ctx: StageContext,
        rest: Generator[Any, Any, StageOutput],
    ) -> StageOutput:
        """Wait for a stage that has suspended, no longer than its timeout."""
        self._spawn(len(self._ready))
        timeout_s = node.timeout_s
        timer = None
        if timeout_s is not None:
            timer = ctx.limit(timeout_s, partial(self._cancel_late, node, task, rest))
        self._suspended[task] = rest
        try:
            return await rest  # type: ignore[misc,no-any-return]
        except TaskCancelledError:
            # The stage cancelled its own task, or somebody cancels all tasks of the loop.
            self._stop(_CANCELLED)
            raise
        finally:
            self._suspended.pop(task, None)
            if timer is not None and timeout_s is not None:
                timer.release()
                if timer.expired and isinstance(sys.exception(), _OVERRIDDEN):
                    # The stage is late, whatever it made of the cancellation.
                    raise err.StageTimeoutError(timeout_s)

    def _spawn(self, wanted: int) -> None:
        """Create drivers until `wanted` of them have not begun."""
        plain = self._loop.get_task_factory() is None
        for _ in range(self._unstarted, wanted):
            token = object()
            driver = self._driver(token)
            if plain:
                # A driver at its first await also handles a cancellation before its task begins.
                driver.send(None)
            task = self._loop.create_task(driver)
            if not plain:
                # A factory may run the first step at once, or wrap the driver.
                task.add_done_callback(partial(self._check_begun, token, driver))
            self._drivers[token] = task
            self._unstarted += 1

    async def _driver(self, token: object) -> None:
        try:
            await yield_once()
        except asyncio.CancelledError:
            self._stop(_CANCELLED)
        self._unstarted -= 1
        try:
            await self._drive()
        except BaseException as error:
            # The loop may be closed during a run; nobody can receive the error then.
            if not self._loop.is_closed():
                # No stage may raise this one: ``pytest.fail``, or a defect of the engine.
                self._fail(classify(error), "the run broke off")
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise  # asyncio raises these out of the loop
                self._crash = error
        finally:
            self._remove(token)

    def _check_begun(
        self, token: object, driver: Coroutine[Any, Any, None], _: asyncio.Task[None]
    ) -> None:
        """Cancel the run if a task has ended before its driver began."""
        if token in self._drivers:
            driver.close()
            self._unstarted -= 1
            self._stop(_CANCELLED)
            self._remove(token)

    def _remove(self, token: object) -> None:
        """Forget a driver that has ended; resume the caller after the last one."""
        self._drivers.pop(token, None)
        if self._drivers or self._loop.is_closed():
            return
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    async def _yield_to_loop(self, task: asyncio.Task[Any]) -> None:
        """Give control to the loop; the other ready stages get drivers meanwhile."""
        self._spawn(len(self._ready) - 1)
        outdated = task.cancelling()
        while task.cancelling():
            task.uncancel()
        try:
            await yield_once()
        except asyncio.CancelledError:
            # Before Python 3.13, a request that was taken back may be delivered all the same.
            if not outdated:
                self._stop(_CANCELLED)

    def _record_end(
        self, node: Node, what: str, span: Span, why: err.StageflowError | str | None
    ) -> None:
        """Record the end of a stage that has not completed, and the failure or the reason."""
        started_at, ended_at = span
        failure = why if isinstance(why, err.StageflowError) else None
        data: dict[str, Any] = {"reason": why} if failure is None else described(failure)
        data["duration_ms"] = (ended_at - started_at) * 1000.0
        if node.streaming:
            self._end_streams(node, what, ended_at, failure or self._failure)
        self._log.append((ev.stage_event_type(node.name, what), ended_at, node.name, data))

    def _accept_error(self, node: Node, error: BaseException, span: Span) -> None:
        kind = type(error)  # isinstance would ask the error itself for its class
        if issubclass(kind, asyncio.CancelledError):
            if self._stopping is not None:
                self._record_end(node, ev.CANCELLED, span, self._stopping)
                return
            error = err.StageDefectError.stray_cancellation()
        where = (node.name, self._scope.pipeline_run_id)
        try:
            failure = classify(error).located(*where)
            self._record_end(node, ev.FAILED, span, failure)
        except Exception:  # raised by the error's own code
            failure = err.StageRaisedError(error).located(*where)
            self._record_end(node, ev.FAILED, span, failure)
        ordinary = issubclass(kind, (Exception, asyncio.CancelledError))
        if node.required or not ordinary:
            self._fail(failure, f"stage {node.name!r} failed", node.name)
        if not ordinary:
            raise error

    def _refuse(self, node: Node, message: str, span: Span) -> None:
        """End the run with an answer for the user; the first one is kept."""
        data = {"refusal": message, "duration_ms": (span[1] - span[0]) * 1000.0}
        self._log.append((node.completed, span[1], node.name, data))
        if self._stopping is None:
            self._refusal = {"refusal": message, "refused_by": node.name}
            self._stop(f"stage {node.name!r} refused")

    def _end_streams(
        self, node: Node, ending: str, ended_at: float, failure: err.StageflowError | None = None
    ) -> None:
        """Close the streams that a stage writes and reads; start stages that waited for them."""
        streams = self._streams
        assert streams is not None, "a run with streaming stages has streams"
        # A stage that was skipped has nothing to write: its streams are complete.
        outcome = ev.COMPLETED if ending == ev.SKIPPED else ending
        self._count_down(streams.end(node.name, outcome, ended_at, failure))

    def _open_early(self, latches: list[int]) -> None:
        """Start the stages that waited for a stream which a running stage has opened."""
        self._count_down(latches)
        # A task of a suspended stage may run this; a driver must not inherit its variables.
        self._base.copy().run(self._spawn, len(self._ready))

    def _count_down(self, latches: Sequence[int]) -> None:
        for latch in latches:
            self._waiting[latch] -= 1
            if not self._waiting[latch] and self._stopping is None:
                self._ready.extend(self._opens[latch])

    def _pass_deadline(self) -> None:
        if self._stopping is not None:
            # A clean-up that outlasts the deadline is cancelled once more.
            self._cancel_suspended()
            self._abandon_after_grace()
            return
        limit_s = self._scope.context.deadline_s
        assert limit_s is not None, "only a run with a limit of its own keeps one"
        failure = err.DeadlineExceededError(limit_s)
        failure.pipeline_run_id = self._scope.pipeline_run_id
        self._fail(failure, f"the run passed its deadline of {limit_s:g} s")

    def _fail(self, failure: err.StageflowError, reason: str, stage: str | None = None) -> None:
        if self._stopping is None:
            self._failure, self._failed_stage = failure, stage
            self._stop(reason)

    def _stop(self, reason: str) -> None:
        """Start nothing more, and cancel suspended stages; the first reason is kept."""
        if self._stopping is not None:
            return
        self._stopping = reason
        self._scope.stopping = True
        self._ready.clear()
        if self._streams is not None:
            self._streams.abandon(self._log.begun(), self._failure)
        # The timeout of a stage does not cut its clean-up short.
        scope = self._scope
        scope.timers.close()
        if self._suspended:
            if scope.deadline is not None and self._loop.time() < scope.deadline:
                scope.timers.set(scope.deadline, self._pass_deadline)
            else:
                self._abandon_after_grace()
            self._cancel_suspended()

    def _cancel_late(self, node: Node, task: asyncio.Task[Any], rest: object) -> None:
        """Cancel a stage whose time is up; end the run if it goes on beyond the grace period."""

        def give_up() -> None:
            if self._suspended.get(task) is rest:
                failure = err.StageTimeoutError(node.timeout_s or 0.0)
                failure.located(node.name, self._scope.pipeline_run_id)
                self._fail(failure, f"stage {node.name!r} did not end", node.name)

        task.cancel()
        self._scope.timers.set(self._loop.time() + self._scope.context.grace_s, give_up)

    def _cancel_suspended(self) -> None:
        for task in tuple(self._suspended):
            task.cancel()

    def _abandon_after_grace(self) -> None:
        grace_s = self._scope.context.grace_s
        self._scope.timers.set(self._loop.time() + grace_s, self._abandon)

    def _abandon(self) -> None:
        """End the run without the stages that are still suspended, and close these."""
        for rest in tuple(self._suspended.values()):
            try:
                rest.close()
            except BaseException:
                _log.exception("run %s: closing a stage failed", self._scope.pipeline_run_id)
        self._suspended.clear()
        for token, driver in tuple(self._drivers.items()):
            driver.cancel()
            self._remove(token)
