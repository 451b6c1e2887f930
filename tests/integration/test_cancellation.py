"""Every way in which a run or a stage is cancelled, times out or is abandoned."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from contextlib import suppress

import pytest

from stageflow import (
    Pipeline,
    PipelineContext,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
    StageTimeoutError,
)
from stageflow.testing import do_nothing
from tests.utils.assertions import assert_events_sound, assert_run_sound, only, types_of
from tests.utils.driving import (
    Body,
    both_ways,
    cleaning_up_for,
    pipeline_of,
    rest_a_day,
    resting,
    this_task,
)
from tests.utils.factories import make_pipeline, make_spec

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def failing_after(duration_s: float) -> Body:
    """A stage that fails after some seconds."""

    async def body(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(duration_s)
        raise RuntimeError("broken")

    return body


def beside_a_failure(body: Body, siblings: int, after_s: float, **spec: object) -> Pipeline:
    """Stages of this body, beside one that fails after some seconds."""
    failing = Pipeline("failing", [StageSpec("failing", failing_after(after_s))])
    return pipeline_of(body, siblings, body, **spec).compose(failing)


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_cancelling_the_caller_reaches_every_stage_at_once(siblings: int) -> None:
    """A cancellation from outside reaches all stages in the same moment, slow clean-ups or not."""
    arrived_at: dict[str, float] = {}
    cleaned_up_at: dict[str, float] = {}

    async def body(ctx: StageContext) -> StageOutput:
        try:
            await asyncio.sleep(1_000)
        finally:
            arrived_at[ctx.name] = ctx.now()
            await asyncio.sleep(7)
            cleaned_up_at[ctx.name] = ctx.now()
        return StageOutput.ok()

    ctx = PipelineContext()
    pipeline = pipeline_of(body, siblings, body)
    run = asyncio.create_task(pipeline.run(ctx))
    await asyncio.sleep(2)
    run.cancel()
    with pytest.raises(asyncio.CancelledError, match="the run was cancelled"):
        await run
    assert len(arrived_at) == siblings + 1
    assert set(arrived_at.values()) == {2.0}
    assert set(cleaned_up_at.values()) == {9.0}
    assert ctx.status is RunStatus.CANCELLED
    events = ctx.get_events()
    assert_events_sound(pipeline, events)
    assert events[-1].type == "pipeline.cancelled"
    assert sum(t.endswith(".cancelled") for t in types_of(events)) == siblings + 2
    assert only(events, "stage.subject.cancelled").data["reason"] == "the run was cancelled"


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_a_failing_sibling_cancels_at_once(siblings: int) -> None:
    """When a required stage fails, the others are cancelled in that moment and awaited.

    The caller's task is left without a cancellation.
    """
    arrived_at: list[float] = []

    async def body(ctx: StageContext) -> StageOutput:
        try:
            await asyncio.sleep(1_000)
        finally:
            arrived_at.append(ctx.now())
            await asyncio.sleep(4)
        return StageOutput.ok()

    result = await beside_a_failure(body, siblings, 3).run()
    assert this_task().cancelling() == 0
    await asyncio.sleep(1)
    assert result.status is RunStatus.FAILED
    assert result.duration_ms == 7_000
    assert arrived_at == [3.0] * (siblings + 1)


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_a_cancelled_caller_stays_cancelled_when_the_run_fails_too(siblings: int) -> None:
    """A cancellation that arrives while a failed run cleans up is not lost."""
    ctx = PipelineContext()
    run = asyncio.create_task(beside_a_failure(cleaning_up_for(10), siblings, 1).run(ctx))
    await asyncio.sleep(5)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert types_of(ctx.get_events())[-1] == "pipeline.failed"
    assert ctx.get_events()[-1].offset_ms == 11_000


@both_ways
@pytest.mark.parametrize(
    ("deadline_s", "duration_ms"), [(None, 25_000), (15, 15_000)], ids=["no deadline", "deadline"]
)
@pytest.mark.simulate(order="asyncio")
async def test_only_the_deadline_cuts_a_clean_up_short(
    siblings: int, deadline_s: float | None, duration_ms: float
) -> None:
    """A stage that cleans up after a sibling's failure may take longer than its own timeout."""
    pipeline = beside_a_failure(cleaning_up_for(20), siblings, 5, timeout_s=10.0)
    result = await pipeline.run(PipelineContext(deadline_s=deadline_s))
    assert result.duration_ms == duration_ms
    assert result.failure is not None
    assert result.failure.stage == "failing"


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_a_stage_that_swallows_the_cancellation_does_not_save_the_run(siblings: int) -> None:
    """A stage that catches the caller's cancellation and goes on delays the end, no more."""

    async def stubborn(ctx: StageContext) -> StageOutput:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1_000)
        await asyncio.sleep(1)
        return StageOutput.ok()

    ctx = PipelineContext()
    pipeline = pipeline_of(stubborn, siblings, stubborn).compose(
        Pipeline("next", [StageSpec("next", do_nothing, dependencies=("subject",))])
    )
    run = asyncio.create_task(pipeline.run(ctx))
    await asyncio.sleep(2)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert ctx.status is RunStatus.CANCELLED
    events = ctx.get_events()
    assert only(events, "stage.next.skipped").data["reason"] == "the run was cancelled"
    assert "stage.next.started" not in types_of(events)


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_a_stage_that_cancels_its_own_task_cancels_the_run(siblings: int) -> None:
    """A stage that cancels its current task cancels the run, wherever it is driven."""

    async def subject(ctx: StageContext) -> StageOutput:
        this_task().cancel()
        await asyncio.sleep(1)
        return StageOutput.ok()

    ctx = PipelineContext()
    with pytest.raises(asyncio.CancelledError):
        await pipeline_of(subject, siblings).run(ctx)
    assert ctx.status is RunStatus.CANCELLED
    while this_task().cancelling():
        this_task().uncancel()


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_a_stray_cancellation_is_a_failure_of_the_stage(siblings: int) -> None:
    """A CancelledError that nobody asked for fails the stage and is named as such."""

    async def subject(ctx: StageContext) -> StageOutput:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1, future.cancel)
        await future
        return StageOutput.ok()

    pipeline = pipeline_of(subject, siblings)
    result = await pipeline.run()
    assert_run_sound(pipeline, result)
    assert result.status is RunStatus.FAILED
    assert result.failure is not None
    assert result.failure.code == "stray_cancellation"


class NoOrdinaryError(BaseException):
    """An error outside `Exception`, such as pytest.fail and pytest.skip raise."""


@both_ways
@pytest.mark.parametrize("suspends", [False, True], ids=["at once", "later"])
@pytest.mark.simulate(order="asyncio")
async def test_what_no_stage_may_fail_by_ends_the_run_and_reaches_the_caller(
    siblings: int, suspends: bool
) -> None:
    """A BaseException fails its stage and the run, even an optional one's, and is raised as is."""
    thrown = NoOrdinaryError("must not be reached")
    ctx = PipelineContext()

    async def subject(ctx: StageContext) -> StageOutput:
        if suspends:
            await asyncio.sleep(1)
        raise thrown

    with pytest.raises(NoOrdinaryError) as raised:
        await pipeline_of(subject, siblings, required=False).run(ctx)
    assert raised.value is thrown
    assert ctx.status is RunStatus.FAILED
    *_, last = events = ctx.get_events()
    ends = {event.stage: event.what for event in events if event.what != "started"}
    begun = {event.stage for event in events if event.what == "started"}
    assert ends["subject"] == "failed"
    assert {ends[f"sibling{n}"] for n in range(siblings)} <= {"cancelled"}
    assert begun <= ends.keys()
    assert (last.type, last.data["failed_stage"]) == ("pipeline.failed", "subject")
    assert "NoOrdinaryError: must not be reached" in last.data["error_message"]


@pytest.mark.simulate(order="asyncio")
async def test_a_stage_that_raises_the_sign_of_a_closed_coroutine_completes_no_run() -> None:
    """A GeneratorExit on a loop that lives is the stage's own, and is not lost either."""
    ctx = PipelineContext()

    async def subject(ctx: StageContext) -> StageOutput:
        raise GeneratorExit

    with pytest.raises(GeneratorExit):
        await pipeline_of(subject, 1).run(ctx)
    assert ctx.status is RunStatus.FAILED


@pytest.mark.simulate(order="asyncio")
async def test_a_fault_of_the_engine_itself_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of a driver outside of any stage fails the run and reaches its caller."""

    def broken(*_: object) -> None:
        raise RuntimeError("a fault of the driver")

    monkeypatch.setattr("stageflow.engine.run.Run._accept_error", broken)
    ctx = PipelineContext()

    with pytest.raises(RuntimeError, match="a fault of the driver"):
        await pipeline_of(failing_after(1), 1).run(ctx)
    assert ctx.status is RunStatus.FAILED


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_a_stage_that_ends_the_process_ends_it(ending: type[BaseException]) -> None:
    """KeyboardInterrupt and SystemExit leave the loop, as asyncio lets them; no run completes."""
    ctx = PipelineContext()

    async def subject(ctx: StageContext) -> StageOutput:
        raise ending

    async def main() -> None:
        await pipeline_of(subject, 1).run(ctx)

    with pytest.raises(ending), asyncio.Runner() as runner:
        runner.run(main())
    assert ctx.status is RunStatus.FAILED
    gc.collect()  # asyncio says of the driver's task that nobody asked how it ended


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_a_timed_out_stage_is_cancelled_on_time(siblings: int) -> None:
    """A stage's timeout strikes at its moment, and the stage may clean up after it."""
    result = await pipeline_of(cleaning_up_for(2), siblings, do_nothing, timeout_s=30.0).run()
    assert this_task().cancelling() == 0
    assert isinstance(result.failure, StageTimeoutError)
    assert result.failure.timeout_s == 30.0
    assert result.error == "stage 'subject': timeout: not finished after 30 s"
    assert result.stages["subject"].duration_ms == 32_000


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_a_stage_that_swallows_its_timeout_has_failed_all_the_same(siblings: int) -> None:
    """Too late is too late: what a stage returns after its timeout is not taken."""

    async def subject(ctx: StageContext) -> StageOutput:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1_000)
        return StageOutput.ok(answer=1)

    result = await pipeline_of(
        subject, siblings, do_nothing, timeout_s=5.0, outputs=("answer",)
    ).run()
    assert result.failure is not None
    assert result.failure.code == "stage_timeout"
    assert result.stages["subject"].detail["error_code"] == "stage_timeout"
    assert result.outputs == {}


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_a_timeout_hides_no_crash(siblings: int) -> None:
    """An error outside `Exception` reaches the caller, also from a clean-up after a timeout."""

    async def subject(ctx: StageContext) -> StageOutput:
        try:
            await asyncio.sleep(1_000)
        finally:
            raise NoOrdinaryError

    with pytest.raises(NoOrdinaryError):
        await pipeline_of(subject, siblings, do_nothing, timeout_s=5.0, outputs=("answer",)).run()


@pytest.mark.simulate(order="asyncio")
async def test_a_timeout_around_the_run_cancels_it() -> None:
    """asyncio.timeout around a run ends it, and becomes a TimeoutError as for anything else.

    What was done before stays readable on the context, for want of a result.
    """
    ctx = PipelineContext()
    pipeline = make_pipeline(make_spec("a", outputs=("x",)), make_spec("b", "a", pauses_s=(9.0,)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await pipeline.run(ctx)
    assert ctx.status is RunStatus.CANCELLED
    assert dict(ctx.bag) == {"x": "x by a"}


@pytest.mark.parametrize("after_passes", range(8))
@pytest.mark.simulate(order="asyncio")
async def test_a_cancellation_in_any_pass_of_the_loop_is_complete(after_passes: int) -> None:
    """Whenever a run is cancelled, it ends as cancelled or as done, and leaves no task."""
    ctx = PipelineContext()
    layers = [
        StageSpec(
            f"{layer}-{n}",
            resting(0),
            dependencies=tuple(f"{layer - 1}-{m}" for m in range(3)) if layer else (),
        )
        for layer in range(2)
        for n in range(3)
    ]
    run = asyncio.create_task(Pipeline("layers", layers).run(ctx))
    for _ in range(after_passes):
        await asyncio.sleep(0)
    run.cancel()
    with suppress(asyncio.CancelledError):
        await run
    events = ctx.get_events()
    if events:
        assert events[-1].type in {"pipeline.cancelled", "pipeline.completed"}
        terminal = [e.stage for e in events if e.stage and e.what != "started"]
        assert sorted(terminal) == sorted(spec.name for spec in layers)


def test_the_end_of_the_loop_ends_a_run() -> None:
    """When asyncio.run is interrupted, drivers are cancelled, also those without a turn yet."""
    ctx = PipelineContext()

    async def main() -> None:
        run = asyncio.create_task(pipeline_of(rest_a_day, 5).run(ctx))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not run.done()

    with asyncio.Runner() as runner:
        runner.run(main())
    assert ctx.status is RunStatus.CANCELLED


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_closed_in_the_middle_of_a_run_complains_of_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The coroutines of an abandoned run can be collected without an error of their own."""
    loop = asyncio.new_event_loop()
    run = loop.create_task(pipeline_of(rest_a_day, 3).run())
    for _ in range(5):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del run
    gc.collect()
    assert all("was destroyed but it is pending" in record.message for record in caplog.records)


def test_a_stage_of_a_closed_loop_cleans_up_among_its_own_variables() -> None:
    """The garbage collector runs in a context with other variables."""
    seen: list[str] = []

    async def rest(ctx: StageContext) -> StageOutput:
        variable.set("its own")
        try:
            await asyncio.sleep(9)
        finally:
            seen.append(variable.get())
        return StageOutput.ok()

    loop = asyncio.new_event_loop()
    run = loop.create_task(Pipeline("p", [StageSpec("a", rest)]).run())
    for _ in range(5):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del run
    gc.collect()
    assert seen == ["its own"]
