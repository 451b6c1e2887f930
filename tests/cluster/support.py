"""Pipelines, a gate and a cluster for the tests of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from stageflow import Pipeline, ProviderRegistry, StageContext, StageOutput, stage
from stageflow.cluster import Dispatcher, RedisBroker, Worker


@dataclass
class Gate:
    """Where a stage waits until a test lets it go on, and what became of it."""

    entered: asyncio.Event
    go_on: asyncio.Event
    cleaned_up: asyncio.Event
    runs: list[tuple[str, str | None]]

    def registry(self) -> ProviderRegistry:
        """The gate as a provider."""
        return ProviderRegistry(gate=self)


@stage(inputs=["value"], outputs=["echo"])
async def echo(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(echo=ctx["value"])


@stage(outputs=["done"])
async def wait(ctx: StageContext) -> StageOutput:
    gate: Gate = ctx.provider("gate")
    gate.runs.append((ctx.pipeline_run_id, ctx.correlation_id))
    gate.entered.set()
    try:
        await gate.go_on.wait()
    finally:
        gate.cleaned_up.set()
    return StageOutput.ok(done=True)


@stage
async def refuse(ctx: StageContext) -> StageOutput:
    return StageOutput.fail("the shop is closed", retryable=True)


@stage
async def decline(ctx: StageContext) -> StageOutput:
    return StageOutput.refuse("We do not sell\nthat.")


@stage(outputs=["thing"])
async def make_a_thing(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(thing=object())


@stage(streams=["words"])
async def say(ctx: StageContext) -> StageOutput:
    words = ctx.open("words")
    for word in ("a", "b"):
        await words.put(word)
    return StageOutput.ok()


@stage(dependencies=["say"], inputs=["words"], outputs=["length"])
async def count(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(length=len([word async for word in ctx["words"]]))


ECHO = Pipeline("echo", [echo], inputs=["value"])
WAIT = Pipeline("wait", [wait])
DECLINE = Pipeline("decline", [decline, refuse])
REFUSE = Pipeline("refuse", [refuse])
SAY = Pipeline("say", [say, count])
THING = Pipeline("thing", [make_a_thing])


class Cluster:
    """A broker, with whatever workers and dispatchers a test starts; all end with it."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self._stack = stack

    def broker(self, **options: Any) -> RedisBroker:
        """A client of the broker."""
        broker = RedisBroker(self.url, **options)
        self._stack.push_async_callback(broker.close)
        return broker

    async def dispatcher(self, **options: Any) -> Dispatcher:
        """A dispatcher with a connection of its own."""
        return await self._stack.enter_async_context(Dispatcher(self.broker(), **options))

    async def worker(self, *pipelines: Pipeline, **options: Any) -> Callable[[], Awaitable[None]]:
        """A worker that serves; what is returned stops it."""
        orchestrators = [pipeline.orchestrator for pipeline in pipelines]
        worker = Worker(orchestrators, self.broker(), **{"lease_s": 1.0, "drain_s": 5.0} | options)
        stop = asyncio.Event()
        serving = asyncio.create_task(worker.serve(stop))

        async def end() -> None:
            stop.set()
            await serving

        self._stack.push_async_callback(end)
        return end


async def until(look: Callable[[], Awaitable[int]], value: int) -> None:
    """Return once what is looked at is `value`."""
    async with asyncio.timeout(120):
        while await look() != value:  # noqa: ASYNC110 - the broker tells nobody
            await asyncio.sleep(0)


async def number_of(found: Awaitable[Any]) -> int:
    """How many there are."""
    return len(await found)
