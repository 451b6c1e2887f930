"""For any error of a stage, it has one last event, and the run ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stageflow import (
    Pipeline,
    PipelineContext,
    RetryInterceptor,
    RunResult,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
    subpipeline,
)
from stageflow.dlq import InMemoryDeadLetterStore
from stageflow.errors import StageflowError
from stageflow.interceptors import InMemoryTracer, TracingInterceptor
from stageflow.testing import SimulationLoop
from tests.utils.assertions import assert_events_sound
from tests.utils.driving import resting


class Raises:
    """Raises, whatever it is used for."""

    def __init__(self, error: type[BaseException] = RuntimeError) -> None:
        self._error = error

    def __get__(self, *_: object) -> Any:
        raise self._error("by the error itself")


def refuse(*_: object) -> Any:
    raise RuntimeError("by the error itself")


def made(base: type[BaseException] = ValueError, **members: Any) -> Callable[[], BaseException]:
    """Return a maker of errors of a class with these members."""
    return lambda: type("Odd", (base,), members)("odd")


def nested(error: BaseException) -> BaseException:
    """Return it in 1,500 groups, one in the other."""
    for _ in range(1_500):
        error = BaseExceptionGroup("group", [error])
    return error


ORDINARY: dict[str, Callable[[], BaseException]] = {
    "str raises": made(__str__=refuse),
    "str and repr raise": made(__str__=refuse, __repr__=refuse),
    "str returns no string": made(__str__=lambda self: 5),
    "every look-up raises": made(__getattribute__=refuse),
    "one of ours whose str raises": made(StageflowError, __str__=refuse),
    "one of ours without a code": made(StageflowError, code=Raises()),
    "one of ours without a message": made(StageflowError, user_message=Raises(AttributeError)),
    "one of ours that is final": made(StageflowError, __setattr__=refuse),
    "no module": made(__module__=None),
    "a deep group": lambda: nested(ConnectionError("deep down")),
    "a group without members": lambda: type("Odd", (ExceptionGroup,), {"exceptions": ()})(
        "odd", [ValueError()]
    ),
    "a status that raises": made(status_code=Raises()),
    "arguments that cannot be shown": lambda: ValueError(type("Odd", (), {"__repr__": refuse})()),
    "StopAsyncIteration": StopAsyncIteration,
    "StopIteration": StopIteration,
    "CancelledError by hand": asyncio.CancelledError,
}


def raising(make: Callable[[], BaseException], *, suspends: bool) -> Any:
    async def raises(ctx: StageContext) -> StageOutput:
        if suspends:
            await asyncio.sleep(1)
        raise make()

    return raises


async def result_of(run: Awaitable[RunResult]) -> RunResult:
    """Return the result; an error that cannot be shown would end pytest itself."""
    try:
        return await run
    except BaseException as error:
        raise AssertionError(f"run() raised {type(error).__name__}") from None


beside = resting(3)


@pytest.mark.parametrize("suspends", [True, False])
@pytest.mark.parametrize("make", ORDINARY.values(), ids=ORDINARY)
@pytest.mark.simulate(order="asyncio")
async def test_an_optional_stage_may_raise_anything(
    make: Callable[[], BaseException], suspends: bool
) -> None:
    """It has failed, and the stages beside and behind it go on."""
    odd = StageSpec("odd", raising(make, suspends=suspends), required=False)
    pipeline = Pipeline(
        "p", [odd, StageSpec("beside", beside), StageSpec("next", beside, ("odd",))]
    )
    interceptors = [RetryInterceptor(), TracingInterceptor(InMemoryTracer())]
    for around in ([], interceptors):
        result = await result_of(pipeline.run(interceptors=around))
        assert (result.status, str(result.stages["odd"].status)) == ("completed", "failed")
        assert_events_sound(pipeline, result.events)


@pytest.mark.parametrize("make", ORDINARY.values(), ids=ORDINARY)
@pytest.mark.simulate(order="asyncio")
async def test_a_required_stage_may_raise_anything(make: Callable[[], BaseException]) -> None:
    """The run has failed, says why, and leaves a dead letter; so does a parent."""
    child = Pipeline("p", [StageSpec("odd", raising(make, suspends=True))])
    for pipeline in (child, Pipeline("parent", [subpipeline("child", child)])):
        store = InMemoryDeadLetterStore()
        result = await result_of(pipeline.run(PipelineContext(dead_letters=store)))
        assert result.status is RunStatus.FAILED
        assert result.error
        assert len(await store.letters()) == 1
        assert_events_sound(pipeline, result.events)


class Fatal(BaseException):
    """Not an error that a stage may fail by."""


FATAL: dict[str, Callable[[], BaseException]] = {
    "GeneratorExit": GeneratorExit,
    "a class of its own": Fatal,
    "str raises": made(Fatal, __str__=refuse),
    "str raises a fatal one": made(Fatal, __str__=Raises(Fatal)),
    "a deep group": lambda: nested(Fatal()),
}


@pytest.mark.parametrize("suspends", [True, False])
@pytest.mark.parametrize("make", FATAL.values(), ids=FATAL)
@pytest.mark.simulate(order="asyncio")
async def test_a_base_exception_ends_the_run_with_one_event_a_stage(
    make: Callable[[], BaseException], suspends: bool
) -> None:
    """Also of an optional stage; the caller gets it as it is."""
    odd = StageSpec("odd", raising(make, suspends=suspends), required=False)
    pipeline = Pipeline("p", [StageSpec("beside", beside), odd])
    ctx = PipelineContext()
    with pytest.raises(AssertionError, match=r"GeneratorExit|Fatal|Odd|BaseExceptionGroup"):
        await result_of(pipeline.run(ctx))
    assert ctx.status is RunStatus.FAILED
    assert_events_sound(pipeline, ctx.get_events())
    assert "stage.odd.failed" in [event.type for event in ctx.get_events()]


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("suspends", [True, False])
def test_a_stage_that_ends_the_process_has_one_last_event(
    ending: type[BaseException], suspends: bool
) -> None:
    """And so have the stages beside it, once the loop has ended."""
    pipeline = Pipeline(
        "p", [StageSpec("beside", beside), StageSpec("odd", raising(ending, suspends=suspends))]
    )
    ctx = PipelineContext()

    async def main() -> None:
        await pipeline.run(ctx)

    with pytest.raises(ending), asyncio.Runner(loop_factory=SimulationLoop) as runner:
        runner.run(main())
    assert_events_sound(pipeline, ctx.get_events())
