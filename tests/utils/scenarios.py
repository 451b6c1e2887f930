"""Runs whose events must be the same on every Python and every event loop.

Needs nothing but the package: ``python -m tests.utils.scenarios`` prints the events as JSON, so
that another interpreter can be asked for its own. They are keyed by the loop's task factory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from stageflow import (
    Event,
    Pipeline,
    PipelineContext,
    StageContext,
    StageOutput,
    StageSpec,
    subpipeline,
)
from tests.utils.task_factories import Factory, factories
from tests.utils.virtual_time import run_virtual

Body = Callable[[StageContext], Awaitable[StageOutput]]

#: Seconds of the loop that one step takes. What is half a step apart must come in that order on a
#: busy machine, too.
STEP_S = 0.08


def taking(steps: float, error: type[Exception] | None = None, **outputs: object) -> Body:
    """A stage that takes some steps, and then raises or returns."""

    async def body(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(steps * STEP_S)
        if error is not None:
            raise error("as planned")
        return StageOutput.ok(outputs)

    return body


async def at_once(ctx: StageContext) -> StageOutput:
    """A stage that never suspends."""
    return StageOutput.ok()


async def cleaning_up(ctx: StageContext) -> StageOutput:
    """A stage that takes its time to go."""
    try:
        await asyncio.sleep(1_000)
    finally:
        await asyncio.sleep(STEP_S)
    return StageOutput.ok()


async def with_inner_timeout(ctx: StageContext) -> StageOutput:
    """A stage that cancels part of itself."""
    with suppress(TimeoutError):
        async with asyncio.timeout(STEP_S):
            await asyncio.sleep(1_000)
    return StageOutput.ok()


async def with_task_group(ctx: StageContext) -> StageOutput:
    """A stage with tasks of its own, one of which fails."""
    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(_fail())
            group.create_task(asyncio.sleep(1_000))
    return StageOutput.ok()


async def _fail() -> None:
    await asyncio.sleep(STEP_S)
    raise ValueError("as planned")


def _child() -> Pipeline:
    return Pipeline(
        "child",
        [StageSpec("c1", taking(1)), StageSpec("c2", cleaning_up), StageSpec("c3", at_once)],
    )


def pipelines() -> dict[str, Pipeline]:
    """The pipelines by the name of the scenario."""
    inner = ("inner-timeout", with_inner_timeout), ("task-group", with_task_group)
    return {
        "diamond": Pipeline(
            "diamond",
            [
                StageSpec("a", at_once),
                StageSpec("b", taking(2, x=1), ("a",), outputs=("x",)),
                StageSpec("c", taking(4, y=2), ("a",), outputs=("y",)),
                StageSpec("d", at_once, ("b", "c"), inputs=("x", "y")),
            ],
        ),
        "failing sibling": Pipeline(
            "failing sibling",
            [
                StageSpec("a", cleaning_up),
                StageSpec("b", taking(2, ValueError)),
                StageSpec("c", at_once, ("a",)),
            ],
        ),
        "stage timeout": Pipeline(
            "stage timeout",
            [
                StageSpec("a", at_once),
                StageSpec("b", cleaning_up, ("a",), timeout_s=2 * STEP_S, required=False),
                StageSpec("c", at_once, ("b",)),
            ],
        ),
        "inside": Pipeline("inside", [StageSpec(name, body) for name, body in inner]),
        "child": Pipeline(
            "parent",
            [subpipeline("run-child", _child(), timeout_s=4 * STEP_S), StageSpec("s", at_once)],
        ),
    }


async def play(pipeline: Pipeline, *, cancel: bool = False) -> list[tuple[str, str | None]]:
    """Run a pipeline; cancel it after some steps if asked to.

    Returns:
        Type and error code of each event, in order.
    """
    ctx = PipelineContext()
    run = asyncio.create_task(pipeline.run(ctx))
    if cancel:
        await asyncio.sleep(1.5 * STEP_S)
        run.cancel()
    with suppress(asyncio.CancelledError):
        await run
    return [_essence(event) for event in ctx.get_events()]


def _essence(event: Event) -> tuple[str, str | None]:
    return event.type, event.data.get("error_code")


async def play_all(factory: Factory | None = None) -> dict[str, list[tuple[str, str | None]]]:
    """Every scenario, run to its end and cancelled midway.

    Args:
        factory: The loop's task factory meanwhile.
    """
    asyncio.get_running_loop().set_task_factory(factory)
    played = {}
    for name, pipeline in pipelines().items():
        played[name] = await play(pipeline)
        played[f"{name}, cancelled"] = await play(pipeline, cancel=True)
    return played


def play_under_factories() -> dict[str, dict[str, list[tuple[str, str | None]]]]:
    """The same, in virtual time, under each task factory."""
    return {name: run_virtual(partial(play_all, factory)) for name, factory in factories().items()}


if __name__ == "__main__":
    print(json.dumps({"none": asyncio.run(play_all()), **play_under_factories()}))
