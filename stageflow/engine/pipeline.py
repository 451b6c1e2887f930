"""Pipelines: define, compose, build and run a named set of stages, also within a stage."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stageflow import errors as err
from stageflow.engine import validation
from stageflow.engine.context import PipelineContext
from stageflow.engine.dead_letter import DeadLetterSink
from stageflow.engine.graph import StageGraph
from stageflow.engine.interceptor import Interceptor
from stageflow.engine.orchestrator import PipelineOrchestrator, RunHandle
from stageflow.engine.result import RunResult
from stageflow.engine.stage import StageKind, StageOutput, StageSpec
from stageflow.engine.stage_context import StageContext
from stageflow.engine.stream import CALLER, Stream, StreamReader, StreamWriter
from stageflow.events.dispatcher import EventDispatcher
from stageflow.events.log import EventSink
from stageflow.providers.registry import ProviderRegistry


class Pipeline:
    """A named, immutable set of stages.

    A pipeline may be *open*: a stage may depend on one that another pipeline provides. `compose`
    joins two pipelines; `build` requires that nothing is missing.

    Attributes:
        name: The pipeline's name.
        stages: The specs, in the order given.
        inputs: Keys of the inputs that a run requires.
        optional_inputs: Keys of the inputs for which every reader has a default.
    """

    def __init__(
        self, name: str, specs: Iterable[StageSpec], *, inputs: Sequence[str] | None = None
    ) -> None:
        """Define a pipeline.

        Args:
            name: The pipeline's name.
            specs: The stages, in any order.
            inputs: Keys of all inputs of a run; `build` then refuses a stage that reads something
                else which no stage produces. By default that is an input of the pipeline.

        Raises:
            PipelineDefinitionError: A problem that no composition can fix: a malformed spec, two
                stages of one name, a cycle, or two producers of one output.
            InvalidConfigError: The name is not a text, or the specs or inputs are not a list.
        """
        self._strict = inputs is not None
        inputs = () if inputs is None else inputs
        validation.check_header(name, specs, inputs)
        self.name = name
        self.stages: tuple[StageSpec, ...] = tuple(specs)
        self._declared = tuple(inputs)
        problems = validation.spec_problems(name, self.stages)
        # Check also the readable part of a faulty pipeline, to report all problems at once.
        specs = validation.readable(self.stages) if problems else self.stages
        self._graph = StageGraph(specs, name=name, inputs=self._declared, strict=self._strict)
        self.inputs = self._graph.inputs
        self.optional_inputs = self._graph.optional_inputs
        problems += validation.structural_problems(self._graph, self._declared)
        if problems:
            raise err.PipelineDefinitionError(name, problems)

    def compose(self, other: Pipeline) -> Pipeline:
        """Join two pipelines; the result has this one's name, and its stages first.

        Composition is associative, and composing a pipeline with itself changes nothing. The
        result declares the inputs that either declares.

        Raises:
            ComposeConflictError: Both have a stage of the same name, defined differently.
            PipelineDefinitionError: Together they have a cycle, or two producers of one output.
            InvalidConfigError: The other is not a pipeline.
        """
        given: object = other
        if not isinstance(given, Pipeline):
            raise err.InvalidConfigError("Pipeline.compose", "other", other, "give a Pipeline")
        own = {spec.name: spec for spec in self.stages}
        conflicts = [s.name for s in other.stages if s.name in own and own[s.name] != s]
        if conflicts:
            raise err.ComposeConflictError(self.name, other.name, conflicts)
        added = (spec for spec in other.stages if spec.name not in own)
        inputs = tuple(dict.fromkeys((*self._declared, *other._declared)))
        strict = self._strict or other._strict
        return Pipeline(self.name, (*self.stages, *added), inputs=inputs if strict else None)

    def with_stages(self, specs: Iterable[StageSpec]) -> Pipeline:
        """Return a pipeline of the same name and inputs with these stages; raise as creating it."""
        return Pipeline(self.name, specs, inputs=self._declared if self._strict else None)

    def build(self) -> StageGraph:
        """Return the compiled graph.

        Raises:
            PipelineDefinitionError: A dependency, or the producer of an input, is missing.
        """
        if self._unresolved:
            raise err.PipelineDefinitionError(self.name, self._unresolved)
        return self._graph

    @cached_property
    def _unresolved(self) -> list[err.Problem]:
        # Kept, since `run` with interceptors builds each time, and annotations are slow to read.
        return validation.unresolved_problems(self._graph, strict=self._strict)

    @cached_property
    def orchestrator(self) -> PipelineOrchestrator:
        """The orchestrator without interceptors; built at first use, raises as `build` does."""
        return PipelineOrchestrator(self.build())

    def bind(
        self,
        *,
        interceptors: Sequence[Interceptor] = (),
        sinks: Sequence[EventSink] = (),
        dead_letters: DeadLetterSink | None = None,
        providers: ProviderRegistry | None = None,
    ) -> PipelineOrchestrator:
        """Return an orchestrator for many runs with the same surroundings, as in a server.

        Use it as a context manager, or `close` it, to flush and close the sinks.

        Args:
            interceptors: Middleware around each stage, the outermost first.
            sinks: Where the events of all runs go.
            dead_letters: The sink for dead letters of runs that fail.
            providers: The providers of runs whose context has none.

        Raises:
            PipelineDefinitionError: As `build` does.
            InvalidConfigError: One of these is something else.
        """
        graph, letters = self.build(), dead_letters
        bound = PipelineOrchestrator(
            graph, interceptors=interceptors, dead_letters=letters, providers=providers
        )
        if sinks or not isinstance(sinks, Sequence):
            bound._dispatcher = bound._own = EventDispatcher(sinks)
        return bound

    async def run(
        self,
        ctx: PipelineContext | Mapping[str, Any] | None = None,
        /,
        *,
        interceptors: Sequence[Interceptor] = (),
        **inputs: Any,
    ) -> RunResult:
        """Run the pipeline once; see `PipelineOrchestrator.run`.

        For many runs with interceptors, `bind` the pipeline instead, which folds them once.
        """
        return await self._orchestrator(interceptors).run(ctx, **inputs)

    def stream(
        self,
        ctx: PipelineContext | Mapping[str, Any] | None = None,
        /,
        *,
        interceptors: Sequence[Interceptor] = (),
        **inputs: Any,
    ) -> RunHandle:
        """Run the pipeline and read its streams meanwhile; takes what `run` takes."""
        return self._orchestrator(interceptors).stream(ctx, **inputs)

    def _orchestrator(self, interceptors: Sequence[Interceptor]) -> PipelineOrchestrator:
        if not interceptors:
            return self.orchestrator
        return PipelineOrchestrator(self.build(), interceptors=interceptors)

    def stage(self, name: str, *, interceptors: Sequence[Interceptor] = ()) -> BoundStage:
        """Return one stage to run alone, as in its pipeline; `UnknownStageError` if it has none."""
        spec = self._graph[name]
        return BoundStage(spec.name, PipelineOrchestrator(self._graph, interceptors=interceptors))

    def draw(self) -> str:
        """Return the pipeline as a Mermaid flowchart."""
        return self._graph.to_mermaid()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pipeline):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.name, self.stages, self._declared, self._strict

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, [{', '.join(spec.name for spec in self.stages)}])"


@dataclass(frozen=True, slots=True)
class BoundStage:
    """A single stage that runs as in its pipeline: with events, limits and checks."""

    name: str
    _orchestrator: PipelineOrchestrator

    async def execute(self, ctx: PipelineContext) -> StageOutput:
        """Run the stage in `ctx`; see `PipelineOrchestrator.run_stage`."""
        return await self._orchestrator.run_stage(ctx, self.name)


async def run_child(
    ctx: StageContext,
    pipeline: Pipeline | PipelineOrchestrator,
    inputs: Mapping[str, Any] | None = None,
    *,
    deadline_s: float | None = None,
    streams: Sequence[str] = (),
) -> RunResult:
    """Run a pipeline as a child of the stage that calls this.

    The child has a run id and a bag of its own, shares the correlation id and the providers, and
    ends no later than its parent. It can read the parent's outputs; its own reach the parent only
    through the stage. If the parent is cancelled, the child is cancelled before the stage.

    Args:
        ctx: The context of the calling stage.
        pipeline: The pipeline to run, or an orchestrator with interceptors.
        inputs: Inputs of the child run. Others come from the parent's outputs, then from its
            inputs; for a stream, it gets this stage's reader.
        deadline_s: Limit of the child run in seconds.
        streams: Streams of the child whose items go on, as they come, into streams of the same
            name that the calling stage declares.

    Raises:
        ChildRunError: The child run failed; the error names the run and its failure.
        StreamError: The child or the calling stage has no such stream.
    """
    if not hasattr(ctx, "too_late"):
        raise err.InvalidConfigError("run_child", "ctx", ctx, "write run_child(ctx, pipeline)")
    if inputs is not None and not isinstance(inputs, Mapping):
        raise err.InvalidConfigError(
            "run_child", "inputs", inputs, "give a mapping of keys to values"
        )
    if ctx.ended:
        raise ctx.too_late("started a child run")
    orchestrator = _orchestrator("run_child", pipeline)
    parent = ctx.scope
    given = dict(inputs or {})
    graph = orchestrator.graph
    for key in (*graph.inputs, *graph.optional_inputs):
        for source in (parent.bag, parent.inputs):
            if key not in given and key in source:
                value = source[key]
                given[key] = value.reader(ctx.name) if isinstance(value, Stream) else value
    child = parent.context.child(given, parent=parent, stage=ctx.name, deadline_s=deadline_s)
    if streams:
        async with RunHandle(orchestrator, child, streams) as run, asyncio.TaskGroup() as group:
            for key in streams:
                group.create_task(_hand_on(run[key].reader(CALLER), ctx.open(key)))
            result = await run.result()
    else:
        result = await orchestrator.run(child)
    if result.failure is not None:
        raise err.ChildRunError(result.pipeline, result.pipeline_run_id, result.failure)
    return result


async def _hand_on(items: StreamReader, writer: StreamWriter) -> None:
    with suppress(err.StageflowError), closing(items):  # the run's result has its failure
        async for item in items:
            if not await writer.put(item):
                return


def _orchestrator(owner: str, pipeline: object) -> PipelineOrchestrator:
    if isinstance(pipeline, Pipeline):
        return pipeline.orchestrator
    if not isinstance(pipeline, PipelineOrchestrator):
        fix = "give a Pipeline, or a PipelineOrchestrator"
        raise err.InvalidConfigError(owner, "pipeline", pipeline, fix)
    return pipeline


def subpipeline(
    name: str,
    pipeline: Pipeline | PipelineOrchestrator,
    *,
    dependencies: Sequence[str] = (),
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    streams: Sequence[str] = (),
    kind: StageKind = StageKind.WORK,
    required: bool = True,
    timeout_s: float | None = None,
) -> StageSpec:
    """Return a stage that runs another pipeline as a child run.

    Args:
        name: Name of the stage.
        pipeline: The pipeline to run.
        dependencies: See `StageSpec`, also for the arguments below.
        inputs: Keys that the stage hands to the child; absent inputs are left out.
        outputs: Keys of the child's outputs that become the stage's outputs.
        streams: Keys of the child's streams that become the stage's streams.
        kind: The purpose of the stage.
        required: Whether the run fails when the child does.
        timeout_s: Limit of the child run in seconds.

    Raises:
        InvalidConfigError: `pipeline` is something else.
        PipelineDefinitionError: It cannot be built.
    """
    orchestrator = _orchestrator("subpipeline", pipeline)

    async def execute(ctx: StageContext) -> StageOutput:
        given = {key: ctx[key] for key in inputs if key in ctx}
        result = await run_child(ctx, orchestrator, given, streams=streams)
        if result.refusal is not None:
            return StageOutput.refuse(result.refusal)
        return StageOutput.ok({key: result.bag[key] for key in outputs if key in result.bag})

    return StageSpec(
        name,
        execute,
        # The pipeline refuses what is not a list.
        dependencies=dependencies,  # type: ignore[arg-type]
        inputs=inputs,  # type: ignore[arg-type]
        outputs=outputs,  # type: ignore[arg-type]
        streams=streams,  # type: ignore[arg-type]
        kind=kind,
        required=required,
        timeout_s=timeout_s,
    )
