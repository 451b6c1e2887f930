"""A request to cancel a task is not a cancellation of its stage: who made it decides.

Before Python 3.13, a TaskGroup that failed leaves its own request behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from stageflow import (
    Interceptor,
    Pipeline,
    PipelineContext,
    RetryInterceptor,
    RetryPolicy,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
    TimeoutInterceptor,
    run_child,
)
from stageflow.providers import FakeLLM, Fallback
from stageflow.testing import StageCase, StageContractTest
from tests.utils.driving import Body, resting, this_task

Fails = Callable[[], Awaitable[None]]


async def down() -> None:
    await asyncio.sleep(0)
    raise ConnectionError("down")


async def group_fails() -> None:
    """Catch the failure of a group that waits for its tasks."""
    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(down())


async def group_in_a_generator_fails() -> None:
    """The same in a context manager, whose waiting cannot be seen from outside."""

    @asynccontextmanager
    async def workers() -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(down())
            yield

    with suppress(ExceptionGroup):
        async with workers():
            pass


async def request_is_swallowed() -> None:
    """Cancel the own task, and go on."""
    task = this_task()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.uncancel()


before = pytest.mark.parametrize(
    "fails", [group_fails, group_in_a_generator_fails, request_is_swallowed]
)


beside = resting(3)


async def outcome(
    body: Body, *interceptors: Interceptor, name: str = "ask"
) -> tuple[str, str | None]:
    """Run it as an optional stage beside another; return how it ended, and the code."""
    stages = [StageSpec(name, body, required=False), StageSpec("beside", beside)]
    only_it = [_only(interceptor, name) for interceptor in interceptors]
    result = await Pipeline("p", stages).run(interceptors=only_it)
    assert (result.status, str(result.stages["beside"].status)) == ("completed", "completed")
    stage = result.stages[name]
    return str(stage.status), stage.detail.get("error_code")


def _only(interceptor: Interceptor, name: str) -> Interceptor:
    interceptor.applies_to = lambda spec: spec.name == name  # type: ignore[method-assign]
    return interceptor


@before
@pytest.mark.simulate(order="asyncio")
async def test_a_time_limit_in_a_stage_stays_its_own(fails: Fails) -> None:
    """The stage fails by its limit, as if no group had failed."""

    async def ask(ctx: StageContext) -> StageOutput:
        async with asyncio.timeout(1):
            await fails()
            await asyncio.sleep(10)
        return StageOutput.ok()

    assert await outcome(ask) == ("failed", "operation_timeout")


@before
@pytest.mark.simulate(order="asyncio")
async def test_a_time_limit_around_a_stage_times_it_out(fails: Fails) -> None:
    """And a retry around that tries again."""
    began: list[float] = []

    async def ask(ctx: StageContext) -> StageOutput:
        began.append(ctx.now())
        await fails()
        await asyncio.sleep(10)
        return StageOutput.ok()

    retry = RetryInterceptor(RetryPolicy(attempts=2, base_delay_s=0.0))
    assert await outcome(ask, TimeoutInterceptor(1)) == ("failed", "stage_timeout")
    assert await outcome(ask, retry, TimeoutInterceptor(1)) == ("failed", "stage_timeout")
    assert began == [0.0, 3.0, 4.0]


@pytest.mark.parametrize("when", ["already", "later"])
@before
@pytest.mark.simulate(order="asyncio")
async def test_a_future_that_was_cancelled_fails_its_stage_alone(fails: Fails, when: str) -> None:
    """Nobody has cancelled the stage."""

    async def ask(ctx: StageContext) -> StageOutput:
        await fails()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if when == "already":
            future.cancel()
        else:
            loop.call_later(1, future.cancel)
        await future
        return StageOutput.ok()

    assert await outcome(ask) == ("failed", "stray_cancellation")
    assert await outcome(ask, TimeoutInterceptor(100)) == ("failed", "stray_cancellation")


@pytest.mark.simulate(order="asyncio")
async def test_a_cancellation_raised_by_hand_after_a_time_limit_fails_its_stage_alone() -> None:
    """The time limit's request has nothing to do with it."""

    async def ask(ctx: StageContext) -> StageOutput:
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.sleep(10)
        raise asyncio.CancelledError

    assert await outcome(ask) == ("failed", "stray_cancellation")


@pytest.mark.simulate(order="asyncio")
async def test_the_error_in_a_failed_group_is_retried_like_any_other() -> None:
    """Raised alone, it is what the provider did."""
    attempts = 0

    async def ask(ctx: StageContext) -> StageOutput:
        nonlocal attempts
        attempts += 1
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(down())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return StageOutput.ok()

    retry = RetryInterceptor(RetryPolicy(attempts=3, base_delay_s=0.0))
    assert await outcome(ask, retry) == ("failed", "connection_failed")
    assert attempts == 3


class Grouping(FakeLLM):
    """A model that asks in a group, which fails, and raises its error."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__()
        self._alone = alone

    async def complete(self, messages: Any) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(down())
        except ExceptionGroup as errors:
            if self._alone:
                raise errors.exceptions[0] from None
            raise
        return "never"

    async def stream(self, messages: Any) -> AsyncIterator[str]:
        yield await self.complete(messages)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("in_a_task", [True, False])
@pytest.mark.simulate(order="asyncio")
async def test_a_fallback_takes_over_from_a_failed_group(in_a_task: bool, alone: bool) -> None:
    """For an answer at once and for a stream, in the stage's task and in one of its own."""
    llm = Fallback(Grouping(alone=alone), FakeLLM(["yes", "yes"]))

    async def answers() -> list[str]:
        streamed = "".join([piece async for piece in llm.stream([])])
        return [await llm.complete([]), streamed]

    async def ask(ctx: StageContext) -> StageOutput:
        answered = await (asyncio.create_task(answers()) if in_a_task else answers())
        return StageOutput.ok() if answered == ["yes", "yes"] else StageOutput.fail(str(answered))

    assert await outcome(ask) == ("completed", None)


@pytest.mark.parametrize("suspends", [True, False])
@pytest.mark.simulate(order="asyncio")
async def test_a_request_that_a_stage_leaves_does_not_reach_the_next(suspends: bool) -> None:
    """A stage that cancels its task and returns has completed, and so do those behind it."""

    async def leaving(ctx: StageContext) -> StageOutput:
        if suspends:
            await asyncio.sleep(1)
        this_task().cancel()
        return StageOutput.ok()

    names = ["a", "b", "c"]
    bodies = [leaving, beside, leaving]
    specs = [
        StageSpec(name, body, tuple(names[:number]))
        for number, (name, body) in enumerate(zip(names, bodies, strict=True))
    ]
    specs += [StageSpec("d", beside, ("a",)), StageSpec("e", beside, ("c",))]
    result = await Pipeline("p", specs).run()
    assert {str(stage.status) for stage in result.stages.values()} == {"completed"}


@before
@pytest.mark.simulate(order="asyncio")
async def test_a_stage_that_does_cancel_its_task_cancels_the_run(fails: Fails) -> None:
    """Also after a group has failed, and if its clean-up waits for a task that it cancels."""

    async def ask(ctx: StageContext) -> StageOutput:
        await fails()
        helper = asyncio.create_task(asyncio.sleep(10))
        asyncio.get_running_loop().call_later(1, this_task().cancel)
        try:
            await asyncio.sleep(10)
        finally:
            helper.cancel()
            with suppress(asyncio.CancelledError):
                await helper
        return StageOutput.ok()

    ctx = PipelineContext()
    with pytest.raises(asyncio.CancelledError):
        await Pipeline("p", [StageSpec("ask", ask)]).run(ctx)
    assert ctx.status is RunStatus.CANCELLED


@pytest.mark.simulate(order="asyncio")
async def test_a_group_that_fails_beside_a_child_run_cancels_nothing_else() -> None:
    """The child is cancelled with its group, and the stage goes on."""
    child = Pipeline("child", [StageSpec("beside", beside)])

    async def ask(ctx: StageContext) -> StageOutput:
        with suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(down())
                await run_child(ctx, child)
        await run_child(ctx, child)
        return StageOutput.ok()

    assert await outcome(ask) == ("completed", None)


@pytest.mark.parametrize("real_io", [False, True])
def test_the_contract_accepts_a_stage_whose_group_fails(real_io: bool) -> None:
    """It lets its cancellation pass, so it is not said to have gone on."""

    async def grouping(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(0.001)
        await group_fails()
        return StageOutput.ok()

    class Contract(StageContractTest):
        def make_stage(self) -> StageCase:
            return StageCase(Pipeline("p", [StageSpec("grouping", grouping)]), "grouping")

    contract = Contract()
    contract.real_io = real_io
    contract.test_can_be_cancelled_wherever_it_waits()
