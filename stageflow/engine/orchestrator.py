"""Run a graph of stages in a context, also while its streams are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self
from weakref import ref

from stageflow import errors as err
from stageflow._utils.closing import Closing
from stageflow._utils.tasks import shielded
from stageflow.engine.context import PipelineContext, RunScope
from stageflow.engine.dead_letter import DeadLetterSink, StageRecord
from stageflow.engine.graph import StageGraph
from stageflow.engine.interceptor import Interceptor, check_hooks
from stageflow.engine.plan import Plan
from stageflow.engine.result import RunResult
from stageflow.engine.run import Run
from stageflow.engine.stage import StageOutput
from stageflow.engine.stage_context import StageContext
from stageflow.engine.stream import CALLER, Stream, StreamRoute
from stageflow.errors.data import require_methods
from stageflow.events.dispatcher import EventDispatcher
from stageflow.events.log import CANCELLED, Event, EventLog, RawEvent, StageStatus
from stageflow.providers.registry import ProviderRegistry


class PipelineOrchestrator(Closing):
    """Runs one graph any number of times, also several runs at once; not bound to an event loop."""

    def __init__(
        self,
        graph: StageGraph,
        *,
        interceptors: Sequence[Interceptor] = (),
        dispatcher: EventDispatcher | None = None,
        dead_letters: DeadLetterSink | None = None,
        providers: ProviderRegistry | None = None,
    ) -> None:
        """Bind a graph to its interceptors.

        Args:
            graph: The graph to run, from `Pipeline.build`.
            interceptors: Middleware around each stage, the outermost first.
            dispatcher: Hands events to sinks; the log of each run gets them anyway.
            dead_letters: The sink for dead letters of runs that fail; a child run leaves none.
            providers: The providers of runs whose context has none.

        Raises:
            InvalidConfigError: One of these is something else, or has an async method where a
                plain one is needed, or the reverse.
        """
        given: object = graph
        if not isinstance(given, StageGraph):
            fix = "give a graph: pipeline.build()"
            raise err.InvalidConfigError("PipelineOrchestrator", "graph", graph, fix)
        self.graph = graph
        self.interceptors = _checked(interceptors)
        if dispatcher is not None:
            require_methods("PipelineOrchestrator", "dispatcher", dispatcher, plain=("attach",))
        if dead_letters is not None:
            require_methods("PipelineOrchestrator", "dead_letters", dead_letters, awaited=("put",))
        registry: object = providers
        if registry is not None and not isinstance(registry, ProviderRegistry):
            fix = "give ProviderRegistry(llm=…, …)"
            raise err.InvalidConfigError("PipelineOrchestrator", "providers", providers, fix)
        self._dispatcher = dispatcher
        self._own: EventDispatcher | None = None
        #: An orchestrator for each stage that was run by itself.
        self._alone: dict[str, PipelineOrchestrator] = {}
        self._providers = providers
        self._plan = Plan(self.graph, self.interceptors, dead_letters)

    def close(self) -> None:
        """Flush and close the sinks of `Pipeline.bind`."""
        if self._own is not None:
            self._own.close()

    async def run(
        self, ctx: PipelineContext | Mapping[str, Any] | None = None, /, **inputs: Any
    ) -> RunResult:
        """Run the graph once.

        Args:
            ctx: The context of the run, or its inputs.
            **inputs: The inputs by name, instead of a context.

        Returns:
            The result of the run. A failure is a result, not an exception.

        Raises:
            asyncio.CancelledError: The caller was cancelled. Every stage has then been cancelled
                and has finished its clean-up; ``ctx`` shows what was done.
            InvalidContextError: The context is in use by another run, an input is missing, or a
                name is not an input of the pipeline, or is given twice.
            InvalidConfigError: ``ctx`` is something else.
            BaseException: A stage raised one that is not an `Exception`, as ``pytest.fail`` does;
                the run has then failed as if the stage were required.
        """
        if type(ctx) is not PipelineContext or inputs:
            ctx = self._context(ctx, inputs)
        return await self._begin(ctx).execute()

    def stream(
        self, ctx: PipelineContext | Mapping[str, Any] | None = None, /, **inputs: Any
    ) -> RunHandle:
        """Return a run whose streams are read while it goes on; takes and raises as `run` does."""
        return RunHandle(self, self._context(ctx, inputs))

    async def resume(
        self, ctx: PipelineContext, finished: Mapping[str, StageRecord], *, reason: str
    ) -> RunResult:
        """Run the graph without the stages that have already finished; raise as `run` does.

        The outputs of these are in the bag from the start, and events record them as skipped. The
        run leaves no dead letter.

        Args:
            ctx: The context, with the inputs of the earlier run.
            finished: The records of the finished stages, by name; each is a stage of the graph.
            reason: Why they are skipped.
        """
        return await self._begin(ctx).execute(finished, reason)

    async def run_stage(self, ctx: PipelineContext, name: str) -> StageOutput:
        """Run a single stage as in a run: with events, limits, interceptors and checks.

        The stage takes its declared inputs from the inputs of ``ctx``.

        Raises:
            StageflowError: The stage failed.
            UnknownStageError: The graph has no such stage.
        """
        if name not in self._alone:
            spec = self.graph[name]
            self._alone[name] = PipelineOrchestrator(
                StageGraph((spec,), name=self.graph.name, inputs=spec.needs),
                interceptors=self.interceptors,
                dispatcher=self._dispatcher,
            )
        alone = self._alone[name]
        # Resume, because a run by `run` could leave a dead letter.
        result = await alone.resume(ctx, {}, reason="")
        result.unwrap()
        ended = result.stages[name]
        if ended.status is StageStatus.SKIPPED:
            return StageOutput.skip(ended.detail["reason"])
        if ended.status is StageStatus.FAILED:
            return StageOutput.fail(ended.detail["error_message"])
        return StageOutput.ok(result.bag)

    def _context(self, ctx: object, inputs: Mapping[str, Any]) -> PipelineContext:
        name = f"pipeline {self.graph.name!r}"
        known = (*self.graph.inputs, *self.graph.optional_inputs)
        if unknown := [key for key in inputs if key not in known]:
            raise err.InvalidContextError(
                f"{name} has no input {', '.join(map(repr, unknown))}"
                f" (inputs: {list(known)}){err.did_you_mean(unknown[0], known)}"
            )
        if isinstance(ctx, PipelineContext):
            if inputs:
                fix = "give the inputs in the context, or by name alone"
                raise err.InvalidConfigError(f"run of {name}", "ctx", ctx, fix)
            return ctx
        if ctx is None or isinstance(ctx, Mapping):
            if twice := [key for key in inputs if ctx and key in ctx]:
                problem = f"{name} was given the input {', '.join(map(repr, twice))}"
                raise err.InvalidContextError(f"{problem} in a mapping and by name; give it once")
            return PipelineContext({**(ctx or {}), **inputs})
        fix = "give the inputs by name, or PipelineContext({…})"
        if isinstance(ctx, StageContext):
            fix = "write run_child(ctx, pipeline) in a stage"
        raise err.InvalidConfigError(f"run of {name}", "ctx", ctx, fix)

    def _check(self, ctx: PipelineContext) -> None:
        missing = [key for key in self.graph.inputs if key not in ctx.inputs]
        if missing:
            stages = (self.graph[key] for key in missing if key in self.graph)
            hint = "".join(
                f"; stage {spec.name!r} writes {[*spec.outputs, *spec.streams]}: read one of these"
                for spec in stages
            )
            names, items = ", ".join(map(repr, missing)), ", ".join(f"{key}=…" for key in missing)
            raise err.InvalidContextError(
                f"pipeline {self.graph.name!r} needs the input {names}; write run({items})"
                f"{err.misspelt(missing, ctx.inputs)}{hint}",
                code="missing_run_input",
            )

    def _begin(self, ctx: PipelineContext, handle: RunHandle | None = None) -> Run:
        self._check(ctx)
        if self._providers is not None and not ctx.providers:
            ctx.providers = self._providers
        loop = asyncio.get_running_loop()
        scope = RunScope(ctx, self.graph.name, loop, self._plan.producers, self._plan.timeouts_s)
        if self._dispatcher is not None:
            self._dispatcher.attach(scope.log)
        if handle is not None:
            handle._follow(scope.log)
        run = Run(scope, self._plan)
        if handle is not None and handle._streams:
            scope.streams.prepared.update(handle._streams)
        return run


class RunHandle:
    """A run that goes on in an ``async with`` block, while the block reads its streams.

    ``async for item in run[key]`` gets every item, whenever it begins and whatever others read: the
    run keeps all items of its streams. Leaving the block cancels a run that has not ended.
    """

    def __init__(
        self,
        orchestrator: PipelineOrchestrator,
        context: PipelineContext,
        pressed: Collection[str] = (),
    ) -> None:
        """Prepare a run, whose caller always reads the streams `pressed`, which wait for it."""
        orchestrator._check(context)
        self.context = context
        self._orchestrator = orchestrator
        self._pipeline = f"pipeline {orchestrator.graph.name!r}"
        # The caller is one more reader of each stream, and a buffered one never leaves.
        self._streams: dict[str, Stream] = {}
        for key, route in orchestrator.graph.streams.items():
            waited_for = (*route.back_pressured, *([CALLER] if key in pressed else ()))
            buffered = (*route.buffered, *([CALLER] if key not in pressed else ()))
            self._streams[key] = Stream(key, StreamRoute(route.producer, waited_for, buffered))
        self._task: asyncio.Task[RunResult] | None = None
        self._log: EventLog | None = None
        #: Set when an event is recorded, and when the run has ended; None while nobody waits.
        self._changed: asyncio.Event | None = None

    def __getitem__(self, key: str) -> Stream:
        """Return a stream, also before its stage opens it; an error follows its last item.

        Raises:
            StreamError: The pipeline has no such stream, or the block has not been entered.
        """
        self._entered()
        if key in self._streams:
            return self._streams[key]
        names = sorted(self._streams)
        problem = f"{self._pipeline} has no stream {key!r} (streams: {names})"
        fix = f"{err.did_you_mean(key, names)}; outputs are in (await run.result()).outputs"
        raise err.StreamError(key, problem + fix, code="undeclared_stream")

    async def events(self) -> AsyncIterator[Event]:
        """Yield the events of the run as they are recorded, from the first to the last."""
        task = self._entered()
        position = 0
        while True:
            while self._log is not None and position < len(self._log):
                yield self._log.event_at(position)
                position += 1
            if task.done():
                return
            if self._changed is None:
                self._changed = asyncio.Event()
            await self._changed.wait()

    def _follow(self, log: EventLog) -> None:
        # The traceback of a failure leads here, and the handle has the failure.
        keep, handle = log.append, ref(self)

        def append(raw: RawEvent) -> None:
            keep(raw)
            if (found := handle()) is not None:
                found._wake()

        self._log, log.append = log, append

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def result(self) -> RunResult:
        """Wait for the end of the run and return its result; a failure is a result.

        Raises:
            StreamError: The run was cancelled, as when the block is left before it ends.
        """
        task = self._entered()
        await asyncio.wait((task,))
        if task.cancelled():
            problem = f"the run of {self._pipeline} was cancelled; await run.result() within its"
            fix = " block: leaving the block cancels the run"
            raise err.StreamError(None, problem + fix, code="stream_cancelled")
        return task.result()

    def _entered(self) -> asyncio.Task[RunResult]:
        if self._task is None:
            problem = f"the run of {self._pipeline} has not begun; write"
            fix = " 'async with pipeline.stream(…) as run:', and use run within the block"
            raise err.StreamError(None, problem + fix, code="stream_closed")
        return self._task

    async def __aenter__(self) -> Self:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._execute())
            self._task.add_done_callback(self._close)
        return self

    async def _execute(self) -> RunResult:
        return await self._orchestrator._begin(self.context, self).execute()

    async def __aexit__(self, kind: object, *raised: object) -> None:
        task = self._entered()
        task.cancel()
        ended, cancelled = await shielded(task)
        if cancelled:
            raise asyncio.CancelledError
        with suppress(asyncio.CancelledError):
            if kind is None or ended.cancelled():
                ended.result()  # raises what a run may raise; a cancelled one is freed by that

    def _close(self, task: asyncio.Task[RunResult]) -> None:
        """Close the streams that no stage has closed, as when the run never began."""
        self._wake()
        error = None if task.cancelled() else task.exception()
        for stream in self._streams.values():
            if stream.outcome is None:
                stream.close(CANCELLED, error if isinstance(error, err.StageflowError) else None)


def _checked(interceptors: object) -> tuple[Interceptor, ...]:
    if not isinstance(interceptors, list | tuple):
        fix = "give a list of interceptors"
        raise err.InvalidConfigError("PipelineOrchestrator", "interceptors", interceptors, fix)
    for interceptor in interceptors:
        if not isinstance(interceptor, Interceptor):
            fix = "call it: interceptors=[RetryInterceptor()]"
            if not isinstance(interceptor, type):
                fix = "give objects of a class that derives from Interceptor"
            raise err.InvalidConfigError("PipelineOrchestrator", "interceptors", interceptor, fix)
        check_hooks(interceptor)
    return tuple(interceptors)
