"""A run that has ended is freed by reference counting, without the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from stageflow import (
    BreakerInterceptor,
    EventDispatcher,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    RetryInterceptor,
    RetryPolicy,
    StageContext,
    StageOutput,
    StageSpec,
    TimeoutInterceptor,
    run_child,
    stage,
    subpipeline,
)
from stageflow.interceptors import InMemoryTracer, TracingInterceptor
from tests.utils.driving import resting


class Value:
    """An object that can be watched."""


class Nowhere:
    """A sink that keeps nothing."""

    def write(self, events: Any) -> None:
        pass

    def close(self) -> None:
        pass


async def completing(ctx: StageContext) -> StageOutput:
    await asyncio.sleep(0)
    return StageOutput.ok(made=Value())


async def failing(ctx: StageContext) -> StageOutput:
    await asyncio.sleep(0)
    raise ConnectionError


async def failing_at_once(ctx: StageContext) -> StageOutput:
    raise ConnectionError


rest = resting(1_000)


async def held(ctx: StageContext) -> StageOutput:
    try:
        return await rest(ctx)
    finally:
        await asyncio.Event().wait()


async def limiting_itself(ctx: StageContext) -> StageOutput:
    try:
        async with asyncio.timeout(1):
            return await rest(ctx)
    except TimeoutError:
        return StageOutput.skip("no time")


async def writing(ctx: StageContext) -> StageOutput:
    parts = ctx.open("parts")
    for _ in range(3):
        await parts.put(Value())
    return StageOutput.ok()


async def breaking_off(ctx: StageContext) -> StageOutput:
    parts = ctx.open("parts")
    await parts.put(Value())
    raise ConnectionError


async def breaking_off_in_a_child(ctx: StageContext) -> StageOutput:
    parts = ctx.open("parts")
    await parts.put(Value())
    await run_child(ctx, Pipeline("c", [STAGES["failed"]]))
    return StageOutput.ok()


@stage
async def parts(value: Value) -> AsyncIterator[Value]:
    async with asyncio.timeout(1):
        while True:
            yield value


async def reading(ctx: StageContext) -> StageOutput:
    async for _ in ctx["parts"]:
        pass
    return StageOutput.ok()


@stage(thread=True)
def failing_in_a_thread(value: Value) -> Value:
    raise ConnectionError(value)


STAGES = {
    "completed": StageSpec("s", completing, outputs=("made",)),
    "failed": StageSpec("s", failing),
    "failed at once": StageSpec("s", failing_at_once),
    "optional and failed": StageSpec("s", failing, required=False),
    "timed out": StageSpec("s", rest, timeout_s=1.0),
    "cut by the deadline": StageSpec("s", rest),
    "limits itself": StageSpec("s", limiting_itself),
    "does not end": StageSpec("s", held),
    "failed in a thread": failing_in_a_thread,
}
PIPELINES = {
    **{name: Pipeline("p", [spec]) for name, spec in STAGES.items()},
    **{
        f"{name}, in a child": Pipeline(
            "p", [subpipeline("child", Pipeline("c", [spec]), outputs=spec.outputs)]
        )
        for name, spec in STAGES.items()
    },
    "streaming": Pipeline(
        "p",
        [
            StageSpec("write", writing, streams=("parts",)),
            StageSpec("read", reading, dependencies=("write",), inputs=("parts",)),
        ],
    ),
    **{
        f"streaming and failed {number}": Pipeline(
            "p", [spec, StageSpec("read", reader, inputs=("parts",))]
        )
        for number, (spec, reader) in enumerate(
            [
                (StageSpec("write", breaking_off, streams=("parts",)), reading),
                (StageSpec("write", breaking_off_in_a_child, streams=("parts",)), reading),
                (parts, rest),
            ]
        )
    },
}


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Keep the garbage collector off."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def run_once(orchestrator: PipelineOrchestrator, *, cancelled: bool) -> list[Any]:
    """Drop a run and its result, and return weak references to its context and an input."""
    value = Value()
    ctx = PipelineContext({"value": value}, deadline_s=5, grace_s=1)
    run = asyncio.ensure_future(orchestrator.run(ctx))
    if cancelled:
        await asyncio.sleep(0.5)
        run.cancel()
    await asyncio.wait([run])
    if not run.cancelled():
        run.result()
    watched: list[weakref.ref[Any]] = [weakref.ref(value), weakref.ref(ctx)]
    del value, ctx, run
    await asyncio.sleep(10)
    return watched


def left(watched: list[Any]) -> list[object]:
    return [found for reference in watched if (found := reference()) is not None]


def interceptors() -> list[Any]:
    tracing = [TracingInterceptor(InMemoryTracer()) for _ in range(2)]
    retry = RetryInterceptor(RetryPolicy(attempts=2, base_delay_s=0.0))
    return [*tracing, retry, BreakerInterceptor(), TimeoutInterceptor(60)]


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("intercepted", [False, True])
@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
@pytest.mark.usefixtures("uncollected")
@pytest.mark.simulate(order="asyncio")
async def test_nothing_is_left_of_a_run(
    pipeline: Pipeline, intercepted: bool, cancelled: bool
) -> None:
    """However it ends, and whatever stands around its stages."""
    around = interceptors() if intercepted else []
    orchestrator = PipelineOrchestrator(pipeline.build(), interceptors=around)
    assert left(await run_once(orchestrator, cancelled=cancelled)) == []


@pytest.mark.parametrize("name", [name for name in PIPELINES if "streaming" not in name])
@pytest.mark.usefixtures("uncollected")
@pytest.mark.simulate(order="asyncio")
async def test_nothing_is_left_of_a_run_that_its_caller_follows(name: str) -> None:
    """Also of one that failed, whose error leads to all that the run had."""
    value = Value()
    ctx = PipelineContext({"value": value}, deadline_s=5, grace_s=1)
    async with PIPELINES[name].stream(ctx) as run:
        await run.result()
    watched: list[Any] = [weakref.ref(value), weakref.ref(ctx)]
    del value, ctx, run
    await asyncio.sleep(10)
    assert left(watched) == []


@pytest.mark.usefixtures("uncollected")
def test_nothing_is_left_of_a_run_whose_events_a_sink_has_taken() -> None:
    """The dispatcher keeps no log once its events are written."""
    ctx = PipelineContext()
    with EventDispatcher([Nowhere()]) as dispatcher:
        graph = PIPELINES["completed"].build()
        asyncio.run(PipelineOrchestrator(graph, dispatcher=dispatcher).run(ctx))
    watched = [weakref.ref(ctx)]
    del ctx
    assert left(watched) == []


def test_a_context_keeps_what_its_latest_run_has_made() -> None:
    """The context outlives the run, and shows its outputs and events."""
    ctx = PipelineContext()
    asyncio.run(PIPELINES["completed"].run(ctx))
    assert (ctx.status, list(ctx.bag)) == ("completed", ["made"])
    assert ctx.get_events()[-1].pipeline_run_id == ctx.pipeline_run_id


async def test_a_run_that_its_caller_has_left_is_freed() -> None:
    """As when a client of a web server disconnects."""

    @stage
    async def numbers(first: Value) -> AsyncIterator[Value]:
        while True:
            yield first
            await asyncio.sleep(0)

    first = Value()
    watched = weakref.ref(first)
    async with Pipeline("p", [numbers]).stream(first=first) as run:
        async for number in run["numbers"]:
            assert number is first
            break
    del first, run, number
    assert watched() is None
