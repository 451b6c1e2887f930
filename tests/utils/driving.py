"""Pipelines whose stages rest, clean up or fail, alone or beside siblings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stageflow import Pipeline, StageContext, StageOutput, StageSpec
from stageflow.testing import do_nothing

Body = Callable[[StageContext], Awaitable[StageOutput]]

both_ways = pytest.mark.parametrize("siblings", [0, 1, 3], ids=["inline", "task", "tasks"])


def this_task() -> asyncio.Task[Any]:
    """The task that runs this."""
    task = asyncio.current_task()
    assert task is not None
    return task


def resting(duration_s: float) -> Body:
    """A stage that takes so long."""

    async def body(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(duration_s)
        return StageOutput.ok()

    return body


rest_a_day = resting(86_400)


def cleaning_up_for(duration_s: float, after_s: float = 1_000) -> Body:
    """A stage that would take long, and takes some seconds to go when it is cancelled."""

    async def body(ctx: StageContext) -> StageOutput:
        try:
            await asyncio.sleep(after_s)
        finally:
            await asyncio.sleep(duration_s)
        return StageOutput.ok()

    return body


def pipeline_of(body: Body, siblings: int, sibling: Body = rest_a_day, **spec: object) -> Pipeline:
    """`body` as the stage ``subject``, behind another stage and beside as many as asked for."""
    first = StageSpec("first", do_nothing)
    subject = StageSpec("subject", body, dependencies=("first",), **spec)  # type: ignore[arg-type]
    others = [StageSpec(f"sibling{n}", sibling, dependencies=("first",)) for n in range(siblings)]
    # The subject stands last, so that it is started once its siblings are under way.
    return Pipeline("driving", [first, *others, subject])
