"""The public API as users get it wrong: mypy must say so of every marked line, and of no other."""

from __future__ import annotations

from stageflow import (
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    StageContext,
    StageOutput,
    StageSpec,
    stage,
)
from stageflow.interceptors import RetryInterceptor, RetryPolicy
from stageflow.testing import Simulation, simulate


@stage
async def returns_text(question: str) -> str:
    return "text"


@stage  # E: type-var
def does_not_await(ctx: StageContext) -> StageOutput:
    return StageOutput.ok()


@stage
async def fine(ctx: StageContext) -> StageOutput:
    ctx.no_such_method()  # E: attr-defined
    await ctx.llm.complete("hello")  # E: arg-type
    return StageOutput.ok()


async def work(ctx: StageContext) -> StageOutput:
    return StageOutput.ok()


async def use() -> None:
    Pipeline("p", [fine], inputs=5)  # E: arg-type
    Pipeline(5, [fine])  # E: arg-type
    Pipeline("p")  # E: call-arg
    StageSpec("a", work, timeout=3)  # E: call-arg
    PipelineContext(["text"])  # E: arg-type
    PipelineContext(deadline_s="soon")  # E: arg-type
    graph = Pipeline("p", [fine]).build()
    PipelineOrchestrator(graph, interceptors=[RetryPolicy()])  # E: list-item
    RetryInterceptor(attempts=3)  # E: call-arg
    result = await PipelineOrchestrator(graph).run(PipelineContext())
    result.status = "done"  # E: assignment
    result.outputs.missing()  # E: attr-defined
    await Pipeline("p", [fine]).run(["a"])  # E: arg-type
    await returns_text(5)  # E: arg-type


async def no_coroutine(sim: Simulation) -> int:
    return 3


def plain(sim: Simulation) -> int:
    return 3


simulate(plain)  # E: arg-type
text: str = simulate(no_coroutine).value  # E: assignment
