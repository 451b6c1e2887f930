"""Two stages that write and read a stream, and how to run them."""

from __future__ import annotations

import asyncio
from typing import Any

from stageflow import Pipeline, PipelineContext, RunResult, StageContext, StageOutput, StageSpec
from stageflow.engine import StageFunction
from stageflow.testing import check_run
from tests.utils.virtual_time import run_virtual

WORDS = ("one", "two", "three")


async def say_words(ctx: StageContext) -> StageOutput:
    words = ctx.open("words")
    for word in WORDS:
        await words.put(word)
        await asyncio.sleep(1.0)
    return StageOutput.ok()


async def hear_words(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(heard=[word async for word in ctx["words"]])


def say(runner: StageFunction = say_words, name: str = "say", **fields: Any) -> StageSpec:
    """A stage that writes the stream ``words``."""
    return StageSpec(name, runner, **{"streams": ("words",), **fields})


def hear(runner: StageFunction = hear_words, name: str = "hear", **fields: Any) -> StageSpec:
    """A stage that reads it all."""
    given = {"dependencies": ("say",), "inputs": ("words",), "outputs": ("heard",), **fields}
    return StageSpec(name, runner, **given)


def run(*specs: StageSpec, context: PipelineContext | None = None, **options: Any) -> RunResult:
    """Run a pipeline in virtual time, and check its events."""
    pipeline = Pipeline("test", specs)
    result = run_virtual(lambda: pipeline.run(context or PipelineContext(), **options))
    check_run(pipeline, result)
    return result


def at(result: RunResult, kind: str) -> float:
    """When the event of that type was, in milliseconds since the run began."""
    (event,) = [event for event in result.events if event.type == kind]
    return event.offset_ms


async def wait_five_s(ctx: StageContext) -> StageOutput:
    await asyncio.sleep(5.0)
    return StageOutput.ok()
