"""Pipelines whose stages rest, clean up or fail, alone or beside siblings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stageflow import Pipeline, StageContext, StageOutput, StageSpec

Body = Callable[[StageContext], Awaitable[StageOutput]]

both_ways = pytest.mark.parametrize("siblings", [0, 1, 3], ids=["inline", "task", "tasks"])


async def rest_a_day(ctx: StageContext) -> StageOutput:
    await asyncio.sleep(86_400)
    return StageOutput.ok()


async def nothing(ctx: StageContext) -> StageOutput:
    return StageOutput.ok()


def pipeline_of(body: Body, siblings: int, sibling: Body = rest_a_day, **spec: object) -> Pipeline:
    """`body` as the stage ``subject``, behind another stage and beside as many as asked for."""
    first = StageSpec("first", nothing)
    subject = StageSpec("subject", body, dependencies=("first",), **spec)  # type: ignore[arg-type]
    others = [StageSpec(f"sibling{n}", sibling, dependencies=("first",)) for n in range(siblings)]
    # The subject stands last, so that it is started once its siblings are under way.
    return Pipeline("driving", [first, *others, subject])
