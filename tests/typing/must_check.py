"""The public API as users write it: mypy must have nothing to say about any line of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, assert_type

from stageflow import (
    ContextBag,
    Event,
    Interceptor,
    Message,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    ProviderRegistry,
    RunResult,
    RunStatus,
    StageContext,
    StageflowError,
    StageGraph,
    StageOutput,
    StageSpec,
    stage,
)
from stageflow.interceptors import CallNext, RetryInterceptor, RetryPolicy
from stageflow.testing import (
    Exploration,
    FaultInjector,
    FaultType,
    Outcome,
    Simulation,
    explore,
    inject_fault,
    simulate,
)


@stage
async def bare(ctx: StageContext) -> StageOutput:
    return StageOutput.ok()


@stage(inputs=["text"], outputs=["words"], timeout_s=1.0, provider="llm")
async def split(ctx: StageContext) -> StageOutput:
    answer = await ctx.llm.complete([Message("user", ctx["text"])])
    assert_type(answer, str)
    return StageOutput.ok(words=answer.split())


class Count:
    """A stage as an object."""

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        return StageOutput.ok({"count": len(ctx["words"])})


class MyModel:
    """A provider by its methods alone."""

    async def complete(self, messages: Sequence[Message]) -> str:
        return "yes"

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        yield "yes"


class Timed(Interceptor):
    """An interceptor of one's own."""

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        output = await call_next(ctx)
        assert_type(output, StageOutput)
        return output


class Sink:
    """An event sink by its methods alone."""

    def write(self, events: Sequence[Event]) -> None: ...

    def close(self) -> None: ...


async def use() -> None:
    """Define, build, run, read."""
    specs: list[StageSpec] = [
        bare,
        split,
        StageSpec("count", Count(), ("split",), inputs=("words",)),
    ]
    pipeline = Pipeline("p", specs, inputs=["text"])
    assert_type(pipeline.compose(pipeline), Pipeline)
    graph = pipeline.build()
    assert_type(graph, StageGraph)
    providers = ProviderRegistry(llm=MyModel())
    interceptors = [RetryInterceptor(RetryPolicy(attempts=2)), Timed()]
    orchestrator = PipelineOrchestrator(graph, interceptors=interceptors)
    ctx = PipelineContext({"text": "a"}, providers=providers, deadline_s=1.0, seed=3)
    with inject_fault("llm", FaultType.SLOW, duration_ms=5) as fault:
        result = await orchestrator.run(ctx)
        assert_type(fault, FaultInjector)
    assert_type(result, RunResult)
    assert_type(result.status, RunStatus)
    assert_type(result.unwrap(), dict[str, Any])
    assert_type(result.failure, StageflowError | None)
    assert_type(result.events, tuple[Event, ...])
    bag: Mapping[str, Any] = result.bag
    assert_type(result.bag, ContextBag)
    assert bag is result.bag


async def simulated(sim: Simulation, number: int) -> int:
    """Return the number: `simulate` keeps the type of this result."""
    return number


assert_type(simulate(simulated, 3), Outcome[int])
assert_type(explore(simulated, 3), Exploration[Outcome[int]])
asyncio.run(use())
