"""Stages, child runs and dead-letter sinks that do not end in time are abandoned."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from stageflow import (
    Interceptor,
    Pipeline,
    PipelineContext,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
    run_child,
    subpipeline,
)
from stageflow.dlq import DeadLetter
from stageflow.errors import DeadLetterStoreError, InvalidContextError
from stageflow.interceptors import CallNext
from tests.utils.assertions import assert_events_sound
from tests.utils.driving import Body, cleaning_up_for


async def hung_clean_up(ctx: StageContext) -> StageOutput:
    try:
        await asyncio.sleep(1_000)
    finally:
        await asyncio.Event().wait()
    return StageOutput.ok()


async def two_hung_clean_ups(ctx: StageContext) -> StageOutput:
    try:
        await hung_clean_up(ctx)
    finally:
        await asyncio.Event().wait()
    return StageOutput.ok()


async def swallowing(ctx: StageContext) -> StageOutput:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1)


async def waiting_for_a_deaf_task(ctx: StageContext) -> StageOutput:
    return await asyncio.create_task(deaf(600))


async def deaf(until_s: float) -> StageOutput:
    loop = asyncio.get_running_loop()
    while loop.time() < until_s:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1)
    return StageOutput.ok()


HELD = [hung_clean_up, two_hung_clean_ups, swallowing, waiting_for_a_deaf_task]


async def failing(ctx: StageContext) -> StageOutput:
    await asyncio.sleep(0.25)
    raise ConnectionError


def nested(pipeline: Pipeline, depth: int) -> Pipeline:
    for level in range(depth):
        pipeline = Pipeline(f"level{level}", [subpipeline(f"child{level}", pipeline)])
    return pipeline


def seconds() -> float:
    return asyncio.get_running_loop().time()


async def others_have_ended() -> None:
    """Wait for the tasks that a run could not end."""
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
    gc.collect()


@pytest.mark.parametrize("depth", [0, 1, 4])
@pytest.mark.parametrize("held", HELD)
@pytest.mark.simulate(order="asyncio")
async def test_a_deadline_ends_a_run_whatever_a_stage_does(held: Body, depth: int) -> None:
    """The run ends with the grace period, and names the stage, however deep it is."""
    pipeline = nested(Pipeline("p", [StageSpec("held", held)]), depth)
    result = await pipeline.run(PipelineContext(deadline_s=0.5, grace_s=2))
    assert seconds() == 2.5
    assert result.status is RunStatus.FAILED
    assert result.failure is not None
    assert result.failure.code == "deadline_exceeded"
    assert "stage 'held' of pipeline 'p' did not end within the grace period of 2 s" in str(
        result.error
    )
    (stage,) = result.stages.values()
    assert (stage.status, stage.detail["error_code"]) == ("failed", "not_ended")
    await others_have_ended()
    assert_events_sound(pipeline, result.events)


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("held", HELD)
@pytest.mark.simulate(order="asyncio")
async def test_a_stage_that_outlasts_its_timeout_ends_its_run(held: Body, required: bool) -> None:
    """After the grace period the run fails, and what still goes on has one more."""
    stages = [StageSpec("held", held, timeout_s=0.5, required=required)]
    pipeline = Pipeline("p", [*stages, StageSpec("cleans", cleaning_up_for(1))])
    result = await pipeline.run(PipelineContext(grace_s=2))
    assert seconds() == (3.5 if held is hung_clean_up else 4.5)
    assert result.failure is not None
    assert (result.failure.code, result.failure.stage) == ("stage_timeout", "held")
    await others_have_ended()
    assert_events_sound(pipeline, result.events)


@pytest.mark.parametrize("held", HELD)
@pytest.mark.simulate(order="asyncio")
async def test_a_cancelled_run_ends_whatever_a_stage_does(
    held: Body, caplog: pytest.LogCaptureFixture
) -> None:
    """Its caller gets the cancellation, which names the stage; events and the log have it too."""
    ctx = PipelineContext(deadline_s=100, grace_s=3)
    run = asyncio.create_task(Pipeline("p", [StageSpec("held", held)]).run(ctx))
    for _ in range(5):
        await asyncio.sleep(0.5)
        run.cancel()
    with pytest.raises(asyncio.CancelledError, match="stage 'held' of pipeline 'p' did not end"):
        await run
    assert seconds() == 3.5
    assert ctx.status is RunStatus.CANCELLED
    assert [event.type for event in ctx.get_events()][-2:] == [
        "stage.held.failed",
        "pipeline.cancelled",
    ]
    assert "ended without a stage: stage 'held'" in caplog.text
    await others_have_ended()


@pytest.mark.parametrize(("deadline_s", "ends_at"), [(None, 30.25), (60, 90)])
@pytest.mark.simulate(order="asyncio")
async def test_a_failed_run_ends_whatever_a_stage_does(
    deadline_s: float | None, ends_at: float
) -> None:
    """A clean-up after a failure has until the deadline, or 30 s; the failure stays the first."""
    stages = [StageSpec("fails", failing), StageSpec("held", two_hung_clean_ups)]
    result = await Pipeline("p", stages).run(PipelineContext(deadline_s=deadline_s))
    assert seconds() == ends_at
    assert str(result.error).startswith("stage 'fails': ConnectionError; stage 'held' of")


@pytest.mark.parametrize("depth", range(5))
@pytest.mark.simulate(order="asyncio")
async def test_a_deadline_cuts_a_clean_up_at_any_depth(depth: int) -> None:
    """A child's clean-up after a failure ends with the deadline of the outermost run."""
    flat = Pipeline("flat", [StageSpec("fails", failing), StageSpec("slow", cleaning_up_for(1))])
    await nested(flat, depth).run(PipelineContext(deadline_s=0.5))
    assert seconds() == 0.5


@pytest.mark.simulate(order="asyncio")
async def test_what_a_stage_does_when_it_is_closed_is_over_when_the_run_ends() -> None:
    """A stage that is left is closed: what does not await in its clean-up is executed."""
    cleaned: list[float] = []

    async def careful(ctx: StageContext) -> StageOutput:
        try:
            return await hung_clean_up(ctx)
        finally:
            cleaned.append(ctx.now())

    result = await Pipeline("p", [StageSpec("careful", careful)]).run(
        PipelineContext(deadline_s=1, grace_s=1)
    )
    assert cleaned == [2.0]
    assert not result.outputs
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("raises", [ValueError, KeyboardInterrupt])
@pytest.mark.simulate(order="asyncio")
async def test_an_error_of_a_stage_that_is_closed_stops_nothing(
    raises: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the next stage is closed as well."""

    async def clumsy(ctx: StageContext) -> StageOutput:
        try:
            return await hung_clean_up(ctx)
        except GeneratorExit:
            raise raises("while it is closed") from None

    stages = [StageSpec(name, clumsy) for name in "ab"]
    result = await Pipeline("p", stages).run(PipelineContext(deadline_s=1, grace_s=1))
    assert {name: str(stage.status) for name, stage in result.stages.items()} == {
        "a": "failed",
        "b": "failed",
    }
    assert caplog.text.count("while it is closed") >= 2


class Hanging(Interceptor):
    """Hangs when the stage inside is cancelled."""

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        try:
            return await call_next(ctx)
        finally:
            await asyncio.Event().wait()


@pytest.mark.simulate(order="asyncio")
async def test_an_interceptor_that_hangs_is_left_with_its_stage() -> None:
    """The run names the stage."""
    pipeline = Pipeline("p", [StageSpec("held", cleaning_up_for(1))])
    ctx = PipelineContext(deadline_s=1, grace_s=2)
    result = await pipeline.run(ctx, interceptors=[Hanging()])
    assert seconds() == 3
    assert "'held' of pipeline 'p' did not end" in str(result.error)


class GivesUp(Interceptor):
    """Closes what is inside after its first step."""

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        call: Any = call_next(ctx)
        call.send(None)
        await asyncio.sleep(1)
        call.close()
        return StageOutput.skip("given up")


@pytest.mark.simulate(order="asyncio")
async def test_a_child_run_whose_stage_is_closed_ends_with_it() -> None:
    """None of its stages goes on, and its context says so."""
    cleaned: list[float] = []

    async def working(ctx: StageContext) -> StageOutput:
        try:
            await asyncio.sleep(1_000)
        finally:
            cleaned.append(ctx.now())
        return StageOutput.ok()

    children: list[PipelineContext] = []

    async def noting(ctx: StageContext) -> StageOutput:
        children.append(ctx.run)
        return await working(ctx)

    async def branch(ctx: StageContext) -> StageOutput:
        await run_child(ctx, Pipeline("child", [StageSpec(name, noting) for name in "ab"]))
        return StageOutput.ok()

    result = await Pipeline("p", [StageSpec("branch", branch)]).run(interceptors=[GivesUp()])
    assert (str(result.stages["branch"].status), cleaned) == ("skipped", [1.0, 1.0])
    assert {child.status for child in children} == {RunStatus.CANCELLED}


class Box:
    """A sink of dead letters that takes as long as its method does."""

    def __init__(self, put: Callable[[], Any]) -> None:
        self._put = put

    async def put(self, letter: DeadLetter) -> None:
        await self._put()


@pytest.mark.parametrize("put", [lambda: asyncio.Event().wait(), lambda: deaf(600)])
@pytest.mark.parametrize("cancels", [0, 3])
@pytest.mark.simulate(order="asyncio")
async def test_a_store_that_hangs_is_left(
    put: Callable[[], Any], cancels: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The run ends as it would have, and says that its dead letter is lost, and where."""
    ctx = PipelineContext(dead_letters=Box(put), grace_s=4)
    run = asyncio.create_task(Pipeline("p", [StageSpec("fails", failing)]).run(ctx))
    await asyncio.sleep(1)
    for _ in range(cancels):
        run.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([run])
    assert seconds() == 4.25
    (record,) = [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert "in Box (not done within 4 s)" in record.getMessage()
    assert run.cancelled() is bool(cancels)
    assert cancels or isinstance(run.result().dead_letter_error, DeadLetterStoreError)
    assert (ctx.status, ctx.dlq_entry) == (RunStatus.FAILED, None)
    await others_have_ended()


@pytest.mark.parametrize("grace_s", [0, -1, float("inf"), "2", True, None])
def test_a_grace_period_is_a_positive_number(grace_s: Any) -> None:
    """Nothing else, not even "for ever"."""
    with pytest.raises(InvalidContextError, match="grace_s is"):
        PipelineContext(grace_s=grace_s)
