"""Play a plan in a world, and judge what came of it."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stageflow import (
    BreakerInterceptor,
    BreakerPolicy,
    Interceptor,
    PipelineContext,
    PipelineOrchestrator,
    ProviderRegistry,
    RetryInterceptor,
    RetryPolicy,
    RunResult,
    Stream,
    TimeoutInterceptor,
)
from stageflow.dlq import DeadLetter, InMemoryDeadLetterStore, replay, replay_context
from stageflow.errors import DeadLetterError, DeadLetterReplayedError
from stageflow.resilience import BreakerRegistry
from stageflow.testing import SimulationLoop
from tools.random_test.hooks import interceptor
from tools.random_test.oracle import Run, findings
from tools.random_test.plans import Plan, uses
from tools.random_test.playing import Play
from tools.random_test.worlds import World

#: Real seconds after which a play counts as hung.
PATIENCE_S = 30
#: What real time is shortened to.
_REAL_SCALE = 0.05


class HungError(BaseException):
    """The play did not end."""


class BrokenStore:
    """A dead-letter store that cannot store."""

    async def put(self, letter: DeadLetter) -> None:
        """Raise."""
        raise OSError("no space")


class SlowStore(InMemoryDeadLetterStore):
    """A dead-letter store that takes a while."""

    async def put(self, letter: DeadLetter) -> None:
        """Wait, then store."""
        await asyncio.sleep(0.001)
        await super().put(letter)


def _forgotten(warning: warnings.WarningMessage) -> bool:
    """Whether a coroutine was never awaited, other than those that plans themselves forget."""
    text = str(warning.message)
    return "never awaited" in text and "'sleep'" not in text and "'Execution." not in text


def _stored(result: RunResult) -> bool:
    """Whether a dead letter was stored, if one was due; maybe without a value."""
    error = result.dead_letter_error
    return error is None or error.code == "unstorable_value"


class Round:
    """One plan, played once in one world.

    Attributes:
        findings: What did not hold.
        log: What happened in the root runs, to compare with another play of the same.
    """

    def __init__(self, plan: Plan, world: World) -> None:
        self.plan, self.world = plan, world
        self.findings: list[str] = []
        self.log: list[tuple[str, float]] = []
        self.lines: list[str] = []
        self._unhandled: list[str] = []
        #: Whether a stage was left since Python hung: before 3.12 `wait_for` may lose the
        #: cancellation of a task, and the group that cancelled it then waits for ever.
        self._excused = False
        self._roots: set[str] = set()

    def play(self) -> list[str]:
        """Play the plan, and return what did not hold."""
        with self._watched():
            self._play()
        self.findings += [f"unhandled: {text}" for text in self._unhandled]
        return [] if self._excused else self.findings

    def _play(self) -> None:
        loop = self.world.make()
        try:
            if not isinstance(loop, SimulationLoop):
                loop.set_exception_handler(self._handle)
            loop.run_until_complete(self._main(loop))
            if isinstance(loop, SimulationLoop):
                self._unhandled += [str(one) for one in loop.unhandled]
        except HungError:
            self.findings.append(f"hung:\n{traceback.format_exc(limit=-6)}")
        except Exception:
            self.findings.append(f"the loop broke:\n{traceback.format_exc(limit=-6)}")
        finally:
            self._close(loop)

    def _handle(self, loop: object, context: dict[str, Any]) -> None:
        self._unhandled.append(f"{context.get('message')}: {context.get('exception')!r:.300}")

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        if not isinstance(loop, SimulationLoop):
            executor = getattr(loop, "_default_executor", None)
            if executor is not None:
                executor.shutdown(wait=True)
        loop.close()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Note what is warned of or raised where nobody can catch it, and end what hangs."""

        def hung(*_: object) -> None:
            raise HungError

        def unraisable(found: Any) -> None:
            self._unhandled.append(f"{found.err_msg} {found.exc_value!r:.300}")

        kept = sys.unraisablehook, signal.signal(signal.SIGALRM, hung)
        sys.unraisablehook = unraisable
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield
                gc.collect(1)  # what this play has made is young
            self._unhandled += [str(one.message) for one in caught if _forgotten(one)]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, kept[1])
            sys.unraisablehook = kept[0]

    async def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        virtual = self.world.virtual
        scale = 1.0 if virtual else _REAL_SCALE
        play = Play(virtual=virtual, threads=self.world.loop != "simulated", scale=scale)
        store: Any = {
            "memory": InMemoryDeadLetterStore,
            "slow": SlowStore,
            "raises": BrokenStore,
        }.get(self.plan.store or "", lambda: None)()
        orchestrator = PipelineOrchestrator(
            play.pipeline(self.plan).build(),
            interceptors=[self._interceptor(name, play) for name in self.plan.interceptors],
        )
        runs = await asyncio.gather(
            *(self._run(loop, orchestrator, play, store) for _ in range(self.plan.runs))
        )
        for run in runs:
            self._judge(run)
            if self.plan.store in {"memory", "slow"}:
                await self._replay(run, orchestrator, store)
        await self._settle(play)
        self._judge_children(play)
        self.findings += play.findings

    def _interceptor(self, name: str, play: Play) -> Interceptor:
        if name == "retry":
            return RetryInterceptor(RetryPolicy(3, 0.01 * play.scale, 0.02 * play.scale))
        if name == "breaker":
            policy = BreakerPolicy(failures=2, cooldown_s=0.02 * play.scale)
            return BreakerInterceptor(BreakerRegistry(policy))
        if name == "timeout":
            return TimeoutInterceptor(0.02 * play.scale)
        return interceptor(name, play)

    async def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        orchestrator: PipelineOrchestrator,
        play: Play,
        store: Any,
    ) -> Run:
        plan = self.plan
        limit_s = None if plan.deadline_s is None else plan.deadline_s * play.scale
        ctx = PipelineContext(
            deadline_s=limit_s, seed=7 if plan.runs == 1 else None, dead_letters=store
        )
        began = loop.time()
        cancelled: list[float] = []
        task = loop.create_task(orchestrator.run(ctx))

        def cancel(times: int) -> None:
            if times and not task.done() and task.cancel():
                cancelled.append(loop.time())
                loop.call_soon(cancel, times - 1)

        def count(turns: float) -> None:
            if turns > 0:
                loop.call_soon(count, turns - 1)
            else:
                cancel(plan.cancels)

        if plan.cancel is not None:
            kind, when = plan.cancel
            if kind == "time":
                loop.call_later(when * play.scale, cancel, plan.cancels)
            else:
                count(when)
        await asyncio.wait([task])
        self._close_run(ctx, play)
        result = None
        raised: BaseException | None = None
        try:
            result = task.result()
        except BaseException as error:
            if isinstance(error, HungError):
                raise
            raised = error
        return Run(plan, ctx, play, result, raised, began, loop.time(), cancelled)

    def _judge(self, run: Run) -> None:
        self.log += [(event.type, event.offset_ms) for event in run.events]
        if sys.version_info < (3, 12) and uses(self.plan, "wait_for", "child"):
            left = (event.data.get("error_code") == "not_ended" for event in run.events)
            self._excused |= self.plan.cancel is None and any(left)
        self._judge_one(run, "run")
        if self.plan.deadline_s is not None and self.world.virtual and run.returned_at is not None:
            late_s = run.returned_at - run.began_at - self.plan.deadline_s
            if late_s > 0.5 + uses(self.plan, "hang") * run.ctx.grace_s:
                self.findings.append(f"the run ended {late_s:.3f} s after its deadline")
        result = run.result
        if result is None or self.plan.store is None:
            return
        due = result.status == "failed" and result.failure is not None
        due = due and result.failure.category != "policy"  # type: ignore[union-attr]
        if self.plan.store == "raises":
            if due and result.dead_letter_error is None:
                self.findings.append("the store failed, and the result does not say so")
        elif due != (run.ctx.dlq_entry is not None) or not _stored(result):
            self.findings.append(
                f"a dead letter is {'' if due else 'not '}due, and there is"
                f" {run.ctx.dlq_entry is not None}, {result.dead_letter_error}"
            )

    async def _replay(self, run: Run, orchestrator: PipelineOrchestrator, store: Any) -> None:
        """Replay the dead letter of a run until it completes, and then once too often."""
        letter = run.ctx.dlq_entry
        if letter is None:
            return
        for stage in self.plan.stages:
            record, end = letter.stages.get(stage.name), run.ends.get(stage.name)
            if record is None or end is None or record.ending != end.type.rpartition(".")[2]:
                self.findings.append(
                    f"the letter says {record} of {stage.name}, whose end is {end}"
                )
        for _ in range(2):
            again = await self._resumed(run, letter.id, orchestrator, store)
            if again is None or again.raised is not None:
                return
            run = again
            if run.result is not None and run.result.status == "completed":
                try:
                    await replay(letter.id, orchestrator, store)
                except DeadLetterReplayedError:
                    return
                self.findings.append("a letter was replayed twice")
                return

    async def _resumed(
        self, run: Run, letter_id: str, orchestrator: PipelineOrchestrator, store: Any
    ) -> Run | None:
        """Replay a letter once; None if it cannot be replayed."""
        finished = finished_for_good(run)
        contexts: list[PipelineContext] = []

        def prepare(letter: DeadLetter, providers: ProviderRegistry | None) -> PipelineContext:
            contexts.append(replay_context(letter, providers))
            return contexts[0]

        loop = asyncio.get_running_loop()
        began, result = loop.time(), None
        raised: BaseException | None = None
        try:
            result = await replay(letter_id, orchestrator, store, prepare=prepare)
        except DeadLetterError as error:
            if not (await store.get(letter_id)).unstorable():
                self.findings.append(f"the replay was refused: {error}")
            return None
        except BaseException as error:
            if isinstance(error, (HungError, Exception)):
                raise
            raised = error
        ctx = contexts[0]
        self._close_run(ctx, run.play)
        again = Run(self.plan, ctx, run.play, result, raised, began, loop.time(), finished=finished)
        self._judge_one(again, "replay")
        return again

    def _close_run(self, ctx: PipelineContext, play: Play) -> None:
        if ctx.pipeline_run_id is not None:
            play.closed.add(ctx.pipeline_run_id)
            self._roots.add(ctx.pipeline_run_id)

    def _judge_one(self, run: Run, kind: str) -> None:
        found = list(findings(run))
        self.findings += [f"{kind}: {text}" for text in found]
        if found:
            self.lines += [kind, *_as_lines(run)]

    async def _settle(self, play: Play) -> None:
        """Wait, and make sure that nothing goes on."""
        count = len(play.records)
        await asyncio.sleep(1_000 if self.world.virtual else 0.01)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            self.findings.append(f"tasks are left: {[str(task)[:200] for task in left]}")
        if len(play.records) != count:
            self.findings.append("stages went on after all runs had returned")

    def _judge_children(self, play: Play) -> None:
        for run_id, ctx in play.contexts.items():
            # A context may have carried a later run meanwhile.
            if run_id not in self._roots and ctx.pipeline_run_id == run_id:
                self._judge_one(Run(play.plans[run_id], ctx, play, child=True), "child")


def _as_lines(run: Run) -> Iterator[str]:
    """Return the events of a run, for a report."""
    for event in run.events:
        data: Mapping[str, Any] = event.data
        shown = {key: data[key] for key in ("error_code", "reason", "stream") if key in data}
        yield f"{event.offset_ms:8.2f} ms  {event.type}  {shown or ''}"


def finished_for_good(run: Run) -> frozenset[str]:
    """Return the stages that a replay must not execute again.

    A stage may run again if it has written a stream that is gone, or depends on such a stage.
    """
    again: set[str] = set()
    finished: set[str] = set()
    stopped = run.stopped_by
    limit_ms = float("inf")
    if run.events[-1].data.get("error_code") == "deadline_exceeded":
        limit_ms = (run.plan.deadline_s or 0) * run.play.scale * 1000
    for stage in run.plan.stages:
        end = run.ends.get(stage.name)
        if end is None or stage.name in run.restored:
            finished.add(stage.name)
            continue
        kept = all(
            type(value := run.ctx.bag.get(key)) is not Stream or value.whole
            for key in stage.streams
        )
        word = end.what
        if not kept or again & set(stage.dependencies):
            again.add(stage.name)
        elif word == "completed" or (
            (word == "skipped" or (word == "failed" and not stage.required))
            and run.last(stage.name) is not None
            and (stopped is None or end.sequence < stopped.sequence)
            and end.offset_ms < limit_ms
        ):
            finished.add(stage.name)
    return frozenset(finished)
