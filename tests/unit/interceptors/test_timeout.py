"""The timeout interceptor bounds each call of what is inside of it."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from stageflow import (
    Interceptor,
    PipelineContext,
    RunResult,
    StageContext,
    StageOutput,
    StageSpec,
    StageTimeoutError,
    TimeoutInterceptor,
)
from stageflow.errors import InvalidConfigError
from stageflow.interceptors import CallNext
from stageflow.testing import ScriptedError, SimulationLoop
from tests.utils.assertions import only
from tests.utils.driving import cleaning_up_for, this_task
from tests.utils.factories import make_pipeline, make_spec
from tests.utils.virtual_time import run_virtual


def run(spec: StageSpec, *interceptors: Interceptor, **context: Any) -> RunResult:
    pipeline = make_pipeline(spec)
    return run_virtual(lambda: pipeline.run(PipelineContext(**context), interceptors=interceptors))


def assert_timed_out(result: RunResult, timeout_s: float) -> None:
    assert isinstance(result.failure, StageTimeoutError)
    assert result.failure.timeout_s == timeout_s
    assert result.duration_ms == timeout_s * 1000.0


@pytest.mark.parametrize("timeout_s", [0, -1, math.inf, math.nan, "1", None])
def test_a_limit_is_a_positive_finite_number(timeout_s: Any) -> None:
    """Anything else is refused where the interceptor is made."""
    with pytest.raises(InvalidConfigError, match=r"TimeoutInterceptor: timeout_s is .*positive"):
        TimeoutInterceptor(timeout_s)


def test_a_call_within_the_limit_goes_through() -> None:
    """Its output is untouched."""
    result = run(make_spec("a", pauses_s=(0.9,), outputs=("x",)), TimeoutInterceptor(1))
    assert result.outputs == {"x": "x by a"}


async def persistent(ctx: StageContext) -> StageOutput:
    try:
        await asyncio.sleep(9)
    except asyncio.CancelledError:
        await asyncio.sleep(0)
    return StageOutput.ok()


async def stubborn(ctx: StageContext) -> StageOutput:
    try:
        await asyncio.sleep(9)
    except asyncio.CancelledError:
        raise ScriptedError("while cleaning up") from None
    return StageOutput.ok()


too_late = pytest.mark.parametrize(
    "runner", [persistent, stubborn, make_spec("a", pauses_s=(9.0,)).runner]
)


@too_late
def test_too_late_is_too_late_whatever_the_stage_makes_of_it(runner: Any) -> None:
    """A stage that catches the cancellation, raises something else, or goes, has timed out.

    After one second of the loop, not after nine.
    """
    assert_timed_out(run(StageSpec("a", runner), TimeoutInterceptor(1)), 1)


def test_of_two_limits_the_nearer_one_counts() -> None:
    """Whichever of them stands outside."""
    slow = make_spec("a", pauses_s=(9.0,))
    assert_timed_out(run(slow, TimeoutInterceptor(1), TimeoutInterceptor(2)), 1)
    assert_timed_out(run(slow, TimeoutInterceptor(2), TimeoutInterceptor(1)), 1)


def test_the_stages_own_limit_and_the_interceptors_both_hold() -> None:
    """The nearer one fails the stage."""
    assert_timed_out(run(make_spec("a", pauses_s=(9.0,), timeout_s=1), TimeoutInterceptor(2)), 1)
    assert_timed_out(run(make_spec("a", pauses_s=(9.0,), timeout_s=2), TimeoutInterceptor(1)), 1)


class Again(Interceptor):
    """Calls up to three times, and notes what each attempt came to."""

    def __init__(self) -> None:
        self.attempts: list[str] = []

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        for _ in range(2):
            try:
                return await call_next(ctx)
            except StageTimeoutError:
                requests = this_task().cancelling()
                self.attempts.append(f"timeout at {ctx.now()}, {requests} requests")
        return await call_next(ctx)


@too_late
def test_inside_of_a_retry_each_attempt_has_the_whole_limit(runner: Any) -> None:
    """No attempt leaves a request to cancel behind that the next one would trip over."""
    again = Again()
    result = run(StageSpec("a", runner), again, TimeoutInterceptor(1))
    assert again.attempts == ["timeout at 1.0, 0 requests", "timeout at 2.0, 0 requests"]
    assert result.duration_ms == 3000.0
    assert isinstance(result.failure, StageTimeoutError)


@pytest.mark.simulate(order="asyncio")
async def test_a_cancellation_from_outside_is_not_a_timeout() -> None:
    """A run that is cancelled before the limit is cancelled."""
    ctx = PipelineContext()
    pipeline = make_pipeline(make_spec("a", pauses_s=(9.0,)))

    task = asyncio.create_task(pipeline.run(ctx, interceptors=[TimeoutInterceptor(5)]))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() == 1.0
    only(ctx.get_events(), "stage.a.cancelled")


@pytest.mark.simulate(order="asyncio")
async def test_a_cancellation_on_top_of_a_timeout_is_not_swallowed() -> None:
    """While the stage cleans up after its timeout the run is cancelled: the run ends cancelled."""
    ctx = PipelineContext()
    pipeline = make_pipeline(StageSpec("a", cleaning_up_for(2)))

    task = asyncio.create_task(pipeline.run(ctx, interceptors=[TimeoutInterceptor(1)]))
    await asyncio.sleep(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ctx.status == "cancelled"
    only(ctx.get_events(), "stage.a.cancelled")


@pytest.mark.simulate(order="asyncio")
async def test_a_limit_that_was_kept_does_not_fire_later() -> None:
    """A later stage of the same run is not hit by the limit of an earlier one."""
    pipeline = make_pipeline(make_spec("a", pauses_s=(0.5,)), make_spec("b", "a", pauses_s=(0.9,)))
    result = await pipeline.run(interceptors=[TimeoutInterceptor(1)])
    assert result.status == "completed"


def test_repr_names_the_limit() -> None:
    """So that the order of a stack of interceptors can be read."""
    assert repr(TimeoutInterceptor(1.5)) == "TimeoutInterceptor(1.5)"


class Abandoning(Interceptor):
    """Gives up on stage ``a`` after its first step, as a loop that is torn down does."""

    def applies_to(self, spec: StageSpec) -> bool:
        return spec.name == "a"

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        call: Any = call_next(ctx)
        call.send(None)
        call.close()
        return StageOutput.skip("abandoned")


@pytest.mark.simulate(order="asyncio")
async def test_a_call_that_is_given_up_is_closed() -> None:
    """The stage's clean-up runs, and its limit does not fire later."""
    cleaned: list[float] = []

    async def careful(ctx: StageContext) -> StageOutput:
        try:
            await asyncio.sleep(9)
        finally:
            cleaned.append(ctx.now())
        return StageOutput.ok()

    pipeline = make_pipeline(StageSpec("a", careful), make_spec("b", pauses_s=(5.0,)))
    result = await pipeline.run(interceptors=[Abandoning(), TimeoutInterceptor(6)])
    assert (result.status, result.duration_ms, cleaned) == ("completed", 5000.0, [0.0])


def test_a_call_may_suspend_any_number_of_times_within_the_limit() -> None:
    """The stage's awaits and caught exceptions are the same as without the interceptor."""

    async def busy(ctx: StageContext) -> StageOutput:
        for _ in range(3):
            await asyncio.sleep(0.1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.sleep(9)
        await asyncio.sleep(0.1)
        return StageOutput.ok(at=round(ctx.now(), 6))

    assert run(StageSpec("a", busy, outputs=("at",)), TimeoutInterceptor(1)).outputs == {"at": 0.5}


def test_an_exception_thrown_into_the_first_wait_reaches_the_stage() -> None:
    """The stage may catch it and go on, or return at once."""

    async def forgiving(ctx: StageContext) -> StageOutput:
        try:
            async with asyncio.timeout(0.1):
                await asyncio.sleep(9)
        except TimeoutError:
            return StageOutput.ok(at=ctx.now())
        return StageOutput.ok(at=None)

    result = run(StageSpec("a", forgiving, outputs=("at",)), TimeoutInterceptor(1))
    assert result.outputs == {"at": 0.1}


def test_work_before_the_first_await_counts() -> None:
    """A call that has worked for 0.75 s before it waits has 0.25 s left of its one second."""

    async def busy(ctx: StageContext) -> StageOutput:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulationLoop)
        loop.pass_time(0.75)
        await asyncio.sleep(9)
        return StageOutput.ok()

    assert_timed_out(run(StageSpec("a", busy), TimeoutInterceptor(1)), 1)
