"""Runs a graph of stages in a context."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from stageflow.context import PipelineContext
from stageflow.dispatch import EventDispatcher
from stageflow.errors import InvalidConfigError, MissingRunInputError
from stageflow.events import StageStatus
from stageflow.graph import StageGraph
from stageflow.interceptors.base import Interceptor
from stageflow.letter import LetterBox, StageRecord
from stageflow.plan import Plan
from stageflow.result import RunResult
from stageflow.run import Run
from stageflow.stage import StageOutput


class PipelineOrchestrator:
    """Runs one graph, any number of times and any number of runs at once.

    All state is on the run; an orchestrator is bound to no event loop.
    """

    def __init__(
        self,
        graph: StageGraph,
        *,
        interceptors: Sequence[Interceptor] = (),
        dispatcher: EventDispatcher | None = None,
        dead_letters: LetterBox | None = None,
    ) -> None:
        """Bind a graph to its interceptors.

        Args:
            graph: What to run; from `Pipeline.build`.
            interceptors: Middleware around each stage, the outermost first.
            dispatcher: Where events go besides the run's own log.
            dead_letters: Where runs that fail for good are kept; child runs are not, as their
                failure is part of their parent's.

        Raises:
            InvalidConfigError: What stands in the graph's place is none, or an interceptor is none.
        """
        self.graph = _graph(graph)
        self.interceptors = _checked(interceptors)
        self._dispatcher = dispatcher
        self._plan = Plan(self.graph, self.interceptors, dead_letters)

    async def run(self, ctx: PipelineContext) -> RunResult:
        """Run the graph once.

        Returns:
            How the run ended. A failure is a result, not an exception.

        Raises:
            asyncio.CancelledError: The caller was cancelled; every stage has then been cancelled
                and has finished its clean-up, and ``ctx`` shows what was done.
            ContextInUseError: The context still carries another run.
            MissingRunInputError: The context lacks an input that the pipeline declares.
            BaseException: A stage raised one that is no `Exception`, as ``pytest.fail`` does; the
                run has then failed as if the stage were required.
        """
        return await self._begin(ctx).execute()

    async def resume(
        self, ctx: PipelineContext, finished: Mapping[str, StageRecord], *, reason: str
    ) -> RunResult:
        """Run the graph without the stages that have finished before.

        Their outputs are in the bag from the start, with their writers, and their events say
        that they were skipped. The run leaves no dead letter.

        Args:
            ctx: The context, with the inputs of the earlier run.
            finished: What the stages that are not to run have left, by name; all of them are
                stages of the graph.
            reason: Why they are skipped.

        Returns:
            How the run ended; raises as `run` does.
        """
        return await self._begin(ctx).execute(finished, reason)

    async def run_stage(self, ctx: PipelineContext, name: str) -> StageOutput:
        """Run a single stage as the engine would: events, limits, interceptors, checks.

        The inputs that the stage declares are taken from the inputs of ``ctx``.

        Returns:
            What the stage returned.

        Raises:
            StageflowError: The stage failed.
            UnknownStageError: The graph has no such stage.
        """
        spec = self.graph[name]
        alone = PipelineOrchestrator(
            StageGraph((spec,), name=self.graph.name),
            interceptors=self.interceptors,
            dispatcher=self._dispatcher,
        )
        # Resumed with nothing behind it: a stage on its own is no run to keep a letter of.
        result = await alone.resume(ctx, {}, reason="")
        result.unwrap()
        ended = result.stages[name]
        if ended.status is StageStatus.SKIPPED:
            return StageOutput.skip(ended.detail["reason"])
        if ended.status is StageStatus.FAILED:
            return StageOutput.fail(ended.detail["error_message"])
        return StageOutput.ok(result.bag)

    def _begin(self, ctx: PipelineContext) -> Run:
        if not isinstance(ctx, PipelineContext):
            raise InvalidConfigError(
                f"run of pipeline {self.graph.name!r}", "ctx", ctx, "give PipelineContext({…})"
            )
        missing = [key for key in self.graph.inputs if key not in ctx.inputs]
        if missing:
            raise MissingRunInputError(self.graph.name, missing, ctx.inputs)
        loop = asyncio.get_running_loop()
        scope = ctx.begin_run(self.graph.name, loop, self._plan.producers, self._plan.timeouts_s)
        if self._dispatcher is not None:
            self._dispatcher.attach(scope.log)
        return Run(scope, self._plan)


def _graph(given: object) -> StageGraph:
    if not isinstance(given, StageGraph):
        mend = "give a graph: pipeline.build()"
        raise InvalidConfigError("PipelineOrchestrator", "graph", given, mend)
    return given


def _checked(interceptors: object) -> tuple[Interceptor, ...]:
    if not isinstance(interceptors, list | tuple):
        raise InvalidConfigError(
            "PipelineOrchestrator", "interceptors", interceptors, "give a list of interceptors"
        )
    for interceptor in interceptors:
        if not isinstance(interceptor, Interceptor):
            mend = "call it: interceptors=[RetryInterceptor()]"
            if not isinstance(interceptor, type):
                mend = "give objects of a class that derives from Interceptor"
            raise InvalidConfigError("PipelineOrchestrator", "interceptors", interceptor, mend)
    return tuple(interceptors)
