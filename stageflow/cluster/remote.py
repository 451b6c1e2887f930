"""A stage that runs on other machines: its pipeline is a turn of its own, in a queue of its own."""

from __future__ import annotations

from collections.abc import Sequence

from stageflow.cluster.dispatcher import Dispatcher
from stageflow.context import StageContext
from stageflow.errors import ChildRunError
from stageflow.stage import StageKind, StageOutput, StageSpec

#: Under which name stages find their dispatcher among the providers.
PROVIDER = "cluster"


def remote_pipeline(
    name: str,
    pipeline: str,
    *,
    queue: str,
    dependencies: Sequence[str] = (),
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    kind: StageKind = StageKind.WORK,
    required: bool = True,
    timeout_s: float | None = None,
) -> StageSpec:
    """A stage that has another pipeline run by the workers of a queue, such as those with a GPU.

    It is to a cluster what `stageflow.subpipeline` is within one process. The dispatcher is the
    provider ``cluster``. The turn's key follows from the run and the stage, so that a run that is
    taken over by another worker meets the turn that the first has sent.

    Args:
        name: Name of the stage.
        pipeline: Name of the pipeline that the workers of the queue serve.
        queue: The queue.
        dependencies: See `StageSpec`, as for everything below.
        inputs: Keys that the stage hands on; those that are absent are left out.
        outputs: Keys of the outputs there that become the stage's.
        kind: What the stage is for.
        required: Whether the run fails when the turn does.
        timeout_s: Limit of the turn in seconds.
    """

    async def dispatch(ctx: StageContext) -> StageOutput:
        dispatcher: Dispatcher = ctx.provider(PROVIDER)
        absent = object()
        given = {key: ctx.get(key, absent) for key in inputs}
        limits = [limit for limit in (ctx.remaining_s(), timeout_s) if limit is not None]
        result = await dispatcher.run(
            pipeline,
            {key: value for key, value in given.items() if value is not absent},
            key=f"{ctx.pipeline_run_id}/{name}",
            queue=queue,
            deadline_s=max(min(limits), 0.001) if limits else None,
            outputs=outputs,
        )
        if result.failure is not None:
            raise ChildRunError(pipeline, result.pipeline_run_id or result.key, result.failure)
        return StageOutput.ok(result.outputs)

    return StageSpec(
        name,
        dispatch,
        dependencies=tuple(dependencies),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        kind=kind,
        required=required,
        timeout_s=timeout_s,
    )
