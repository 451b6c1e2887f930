"""Child runs: a stage that runs another pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stageflow.context import StageContext
from stageflow.errors import ChildRunError
from stageflow.orchestrator import PipelineOrchestrator
from stageflow.pipeline import Pipeline
from stageflow.result import RunResult
from stageflow.stage import StageKind, StageOutput, StageSpec
from stageflow.stream import Stream


async def run_child(
    ctx: StageContext,
    pipeline: Pipeline | PipelineOrchestrator,
    inputs: Mapping[str, Any] | None = None,
    *,
    deadline_s: float | None = None,
) -> RunResult:
    """Run a pipeline as a child of the stage that calls this.

    The child has a run id and a bag of its own, shares the correlation id and the providers, and
    ends no later than its parent. It can read what the parent has written, and nothing that it
    writes reaches the parent but through the stage. When the parent is cancelled, the child is
    cancelled first and the stage that called it afterwards.

    Args:
        ctx: The context of the calling stage.
        pipeline: What to run; give an orchestrator to have interceptors around its stages.
        inputs: Inputs of the child run; what it needs besides is looked up in the parent's
            outputs, then in the parent's inputs; of a stream it is given this stage's reader.
        deadline_s: Limit of the child run in seconds.

    Returns:
        How the child run ended, if it completed.

    Raises:
        ChildRunError: The child run failed; names it and what failed there.
    """
    orchestrator = pipeline if isinstance(pipeline, PipelineOrchestrator) else pipeline.orchestrator
    parent = ctx.scope
    given = dict(inputs or {})
    for key in orchestrator.graph.inputs:
        for source in (parent.bag, parent.inputs):
            if key not in given and key in source:
                value = source[key]
                given[key] = value.reader(ctx.name) if isinstance(value, Stream) else value
    child = parent.context.child(ctx, given, deadline_s=deadline_s)
    result = await orchestrator.run(child)
    if result.failure is not None:
        raise ChildRunError(result.pipeline, result.pipeline_run_id, result.failure)
    return result


def subpipeline(
    name: str,
    pipeline: Pipeline | PipelineOrchestrator,
    *,
    dependencies: Sequence[str] = (),
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    kind: StageKind = StageKind.WORK,
    required: bool = True,
    timeout_s: float | None = None,
) -> StageSpec:
    """A stage that runs another pipeline as a child run.

    Args:
        name: Name of the stage.
        pipeline: What to run.
        dependencies: See `StageSpec`, as for everything below.
        inputs: Keys that the stage hands to the child; those that are absent are left out.
        outputs: Keys of the child's outputs that become the stage's.
        kind: What the stage is for.
        required: Whether the run fails when the child does.
        timeout_s: Limit of the child run in seconds.
    """

    async def execute(ctx: StageContext) -> StageOutput:
        absent = object()
        given = {key: ctx.get(key, absent) for key in inputs}
        result = await run_child(ctx, pipeline, {k: v for k, v in given.items() if v is not absent})
        return StageOutput.ok({key: result.bag[key] for key in outputs if key in result.bag})

    return StageSpec(
        name,
        execute,
        dependencies=tuple(dependencies),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        kind=kind,
        required=required,
        timeout_s=timeout_s,
    )
