"""Child runs: a stage that runs another pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from stageflow.engine.orchestrator import PipelineOrchestrator, RunHandle
from stageflow.engine.pipeline import Pipeline
from stageflow.engine.result import RunResult
from stageflow.engine.stage import StageKind, StageOutput, StageSpec
from stageflow.engine.stage_context import StageContext
from stageflow.engine.stream import CALLER, Stream, StreamReader, StreamWriter
from stageflow.errors import ChildRunError, InvalidConfigError, StageflowError


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
        raise InvalidConfigError("run_child", "ctx", ctx, "write run_child(ctx, pipeline)")
    if inputs is not None and not isinstance(inputs, Mapping):
        raise InvalidConfigError("run_child", "inputs", inputs, "give a mapping of keys to values")
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
        raise ChildRunError(result.pipeline, result.pipeline_run_id, result.failure)
    return result


async def _hand_on(items: StreamReader, writer: StreamWriter) -> None:
    with suppress(StageflowError), closing(items):  # the run's result has its failure
        async for item in items:
            if not await writer.put(item):
                return


def _orchestrator(owner: str, pipeline: object) -> PipelineOrchestrator:
    if isinstance(pipeline, Pipeline):
        return pipeline.orchestrator
    if not isinstance(pipeline, PipelineOrchestrator):
        fix = "give a Pipeline, or a PipelineOrchestrator"
        raise InvalidConfigError(owner, "pipeline", pipeline, fix)
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
        absent = object()
        read = {key: ctx.get(key, absent) for key in inputs}
        given = {key: value for key, value in read.items() if value is not absent}
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
