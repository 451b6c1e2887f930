"""Whole runs: how they end, and what they leave, for each way in which a stage can end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stageflow import (
    ErrorCategory,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    RunResult,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
    StageStatus,
)
from stageflow.dlq import StageRecord
from stageflow.errors import StageFailedError
from tests.utils.assertions import assert_events_sound, assert_run_sound, only, types_of
from tests.utils.driving import both_ways, this_task
from tests.utils.factories import chain, make_pipeline, make_spec
from tests.utils.virtual_time import run_virtual


def run(*specs: StageSpec, inputs: dict[str, Any] | None = None, **context: Any) -> RunResult:
    """Run these stages, and check what holds for every run."""
    pipeline = make_pipeline(*specs, inputs=tuple(inputs or ()))
    result = run_virtual(lambda: pipeline.run(PipelineContext(inputs, **context)))
    assert_run_sound(pipeline, result)
    return result


def statuses(result: RunResult) -> dict[str, str]:
    return {name: str(stage.status) for name, stage in result.stages.items()}


def test_stages_that_need_not_wait_run_at_the_same_time() -> None:
    """The run takes as long as its critical path, to the digit."""
    result = run(
        make_spec("a", pauses_s=(1.0,)),
        make_spec("b", "a", pauses_s=(2.0,)),
        make_spec("c", "a", pauses_s=(5.0,)),
        make_spec("d", "b", "c", pauses_s=(1.0,)),
    )
    assert result.duration_ms == 7000.0
    assert types_of(result.events) == [
        "pipeline.started",
        "stage.a.started",
        "stage.a.completed",
        "stage.b.started",
        "stage.c.started",
        "stage.b.completed",
        "stage.c.completed",
        "stage.d.started",
        "stage.d.completed",
        "pipeline.completed",
    ]


def test_data_flows_from_stage_to_stage() -> None:
    """A stage reads inputs of the run and outputs of its ancestors."""

    async def double(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(doubled=2 * ctx["number"])

    async def add(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(total=ctx["doubled"] + ctx["number"])

    result = run(
        StageSpec("double", double, inputs=("number",), outputs=("doubled",)),
        StageSpec("add", add, ("double",), inputs=("doubled", "number"), outputs=("total",)),
        inputs={"number": 5},
    )
    assert result.outputs == {"doubled": 10, "total": 15}


def test_the_first_event_says_what_runs_and_the_last_how_long_it_took() -> None:
    """A reader of events alone knows the run."""
    result = run(make_spec("a", pauses_s=(1.5,)), correlation_id="call-5")
    assert result.events[0].data == {"pipeline": "test", "correlation_id": "call-5"}
    assert result.events[-1].data == {"duration_ms": 1500.0}
    assert {event.pipeline_run_id for event in result.events} == {result.pipeline_run_id}
    timestamps = [event.timestamp for event in result.events]
    assert timestamps == sorted(timestamps)


def test_a_context_runs_again_after_any_end() -> None:
    """Each run starts afresh: own id, own bag, own events from sequence 1."""
    pipeline = make_pipeline(
        make_spec("a", outputs=("x",)), make_spec("b", "a", pauses_s=(9.0,), timeout_s=1)
    )
    ctx = PipelineContext()
    results = [run_virtual(lambda: pipeline.run(ctx)) for _ in range(2)]
    assert len({result.pipeline_run_id for result in results}) == 2
    for result in results:
        assert (result.status, result.outputs) == (RunStatus.FAILED, {"x": "x by a"})
        assert_run_sound(pipeline, result)


@pytest.mark.simulate(order="asyncio")
async def test_a_context_in_use_is_free_again_once_its_run_was_cancelled() -> None:
    """The cancelled run leaves nothing that would block the next one."""
    ctx = PipelineContext()
    pipeline = make_pipeline(make_spec("a", pauses_s=(5.0,)))

    task = asyncio.create_task(pipeline.run(ctx))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await pipeline.run(ctx)).status is RunStatus.COMPLETED


@pytest.mark.simulate(order="asyncio")
async def test_many_runs_of_one_orchestrator_do_not_meet() -> None:
    """All state is on the run: each has its own inputs, outputs and events."""

    async def echo(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(ctx["number"] % 3)
        return StageOutput.ok(same=ctx["number"])

    pipeline = make_pipeline(
        StageSpec("echo", echo, inputs=("number",), outputs=("same",)),
        make_spec("after", "echo"),
        inputs=["number"],
    )
    orchestrator = PipelineOrchestrator(pipeline.build())

    contexts = [PipelineContext({"number": number}) for number in range(50)]
    results = await asyncio.gather(*map(orchestrator.run, contexts))
    assert [result.outputs for result in results] == [{"same": number} for number in range(50)]
    for result in results:
        assert_run_sound(pipeline, result)


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        ("raise", "stage_raised", "ScriptedError: b raises as its script says"),
        ("fail", "stage_failed", "as its script says"),
    ],
)
def test_a_required_stage_that_fails_fails_the_run(ending: str, code: str, message: str) -> None:
    """At once: siblings are cancelled, dependents skipped with the reason, outputs kept."""
    result = run(
        make_spec("a", outputs=("x",)),
        make_spec("b", "a", pauses_s=(1.0,), ending=ending),
        make_spec("sibling", "a", pauses_s=(9.0,)),
        make_spec("c", "b"),
        make_spec("d", "c"),
    )
    assert (result.status, result.duration_ms) == (RunStatus.FAILED, 1000.0)
    assert statuses(result) == {
        "a": "completed", "b": "failed", "sibling": "cancelled", "c": "skipped", "d": "skipped",
    }  # fmt: skip
    assert result.outputs == {"x": "x by a"}
    failed = only(result.events, "stage.b.failed").data
    assert (failed["error_code"], failed["error_message"]) == (code, message)
    for name in ("sibling", "c", "d"):
        assert result.stages[name].detail["reason"] == "stage 'b' failed"
    assert result.events[-1].data["failed_stage"] == "b"


@pytest.mark.parametrize(
    ("spec", "status", "duration_ms", "reason"),
    [
        (make_spec("a", ending="raise", outputs=("x",), required=False), "failed", 0.0, None),
        (
            make_spec("a", pauses_s=(9.0,), timeout_s=1, outputs=("x",), required=False),
            "failed",
            1000.0,
            None,
        ),
        (
            make_spec("a", ending="skip", pauses_s=(1.0,), outputs=("x",)),
            "skipped",
            1000.0,
            "as its script says",
        ),
        (
            make_spec(
                "a",
                ending="raise",
                inputs=("wanted",),
                outputs=("x",),
                condition=lambda ctx: bool(ctx["wanted"]),
            ),
            "skipped",
            0.0,
            "its condition does not hold",
        ),
    ],
    ids=["optional and failed", "optional and too long", "skips itself", "condition"],
)
def test_a_run_goes_on_without_what_a_stage_does_not_provide(
    spec: StageSpec, status: str, duration_ms: float, reason: str | None
) -> None:
    """Its end says why, and its dependents run and see its output as absent."""
    seen: list[Any] = []

    async def look(ctx: StageContext) -> StageOutput:
        seen.append(ctx.get("x", "absent"))
        return StageOutput.ok()

    result = run(spec, StageSpec("b", look, ("a",), inputs=("x",)), inputs={"wanted": False})
    assert (result.status, result.duration_ms) == (RunStatus.COMPLETED, duration_ms)
    assert statuses(result) == {"a": status, "b": "completed"}
    assert (seen, result.outputs, result.error) == (["absent"], {}, None)
    assert result.stages["a"].duration_ms == duration_ms
    assert only(result.events, f"stage.a.{status}").data.get("reason") == reason


def test_the_first_of_several_failures_is_the_runs() -> None:
    """The others are cancelled, and cannot fail any more."""
    result = run(
        make_spec("late", pauses_s=(2.0,), ending="raise"),
        make_spec("early", pauses_s=(1.0,), ending="raise"),
    )
    assert result.failure is not None
    assert result.failure.stage == "early"
    assert statuses(result) == {"early": "failed", "late": "cancelled"}


@pytest.mark.parametrize(
    ("returned", "code"),
    [
        (None, "invalid_output"),
        ({"x": 1}, "invalid_output"),
        (StageOutput(StageStatus.CANCELLED, {}), "invalid_output"),
        (StageOutput.ok(), "output_mismatch"),
        (StageOutput.ok(x=1, y=2), "output_mismatch"),
        (StageOutput.ok({"x": 1, 5: 2}), "output_mismatch"),  # type: ignore[dict-item]
    ],
    ids=repr,
)
def test_what_a_stage_returns_is_checked_against_what_it_declares(returned: Any, code: str) -> None:
    """Anything but its declared outputs, all of them, fails the stage; nothing is written."""

    async def wrong(ctx: StageContext) -> Any:
        return returned

    result = run(StageSpec("a", wrong, outputs=("x",)))
    assert result.failure is not None
    assert (result.failure.code, result.failure.stage) == (code, "a")
    assert result.outputs == {}


def test_a_failure_is_located_and_classified() -> None:
    """The run's failure names stage and run, and says whether a retry may help."""

    async def unreachable(ctx: StageContext) -> StageOutput:
        raise ConnectionRefusedError("no answer")

    result = run(StageSpec("a", unreachable))
    assert result.failure is not None
    assert result.failure.stage == "a"
    assert result.failure.pipeline_run_id == result.pipeline_run_id
    assert (result.failure.category, result.failure.retryable) == (ErrorCategory.TRANSIENT, True)
    data = only(result.events, "stage.a.failed").data
    assert (data["error_category"], data["retryable"]) == ("transient", True)


@pytest.mark.simulate(order="asyncio")
async def test_runs_that_raise_one_and_the_same_object_have_a_failure_each() -> None:
    """Each names its own stage and run, although their stages share an error of the module."""
    shared = StageFailedError("out of order")

    async def broken(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(1)
        raise shared

    pipelines = [Pipeline("p", [StageSpec(name, broken)]) for name in "ab"]
    results = await asyncio.gather(*[pipeline.run() for pipeline in pipelines])
    assert [result.error for result in results] == [f"stage {n!r}: out of order" for n in "ab"]
    for result in results:
        assert result.failure is not None
        assert result.failure.pipeline_run_id == result.pipeline_run_id


def test_a_condition_that_raises_fails_its_stage() -> None:
    """As if the stage itself had raised."""

    def broken(ctx: StageContext) -> bool:
        raise ValueError("no idea")

    result = run(make_spec("a", condition=broken))
    assert result.error == "stage 'a': ValueError: no idea"


def test_a_stage_whose_condition_holds_runs() -> None:
    """The condition sees the declared inputs."""
    result = run(
        make_spec("a", inputs=("wanted",), outputs=("x",), condition=lambda ctx: ctx["wanted"]),
        inputs={"wanted": True},
    )
    assert result.outputs == {"x": "x by a"}


def test_a_stage_that_starts_late_is_skipped_after_its_own_time() -> None:
    """Its duration does not count what others took before."""
    result = run(
        make_spec("a", pauses_s=(2.0,)), make_spec("b", "a", ending="skip", pauses_s=(0.5,))
    )
    assert result.stages["b"].duration_ms == 500.0


def test_each_stage_has_a_limit_of_its_own() -> None:
    """One that is near does not shorten one that is far, and one that was kept does not fire."""
    result = run(
        make_spec("a", pauses_s=(0.5,), timeout_s=1),
        make_spec("b", pauses_s=(5.0,), timeout_s=6),
        make_spec("c", "a", pauses_s=(3.0,), timeout_s=4),
    )
    assert (result.status, result.duration_ms) == (RunStatus.COMPLETED, 5000.0)


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_a_deadline_bounds_the_whole_run(siblings: int) -> None:
    """Running stages are cancelled, stages that have not started are skipped, the others stay."""
    result = await make_pipeline(
        make_spec("a", outputs=("x",), pauses_s=(1.0,)),
        *[make_spec(f"sibling{n}", "a", pauses_s=(99.0,)) for n in range(siblings)],
        make_spec("b", "a", pauses_s=(9.0,)),
        make_spec("c", "b"),
    ).run(PipelineContext(deadline_s=3))
    assert this_task().cancelling() == 0
    assert (result.status, result.duration_ms) == (RunStatus.FAILED, 3000.0)
    assert result.failure is not None
    assert (result.failure.code, result.failure.category) == (
        "deadline_exceeded",
        ErrorCategory.SYSTEMIC,
    )
    others = {f"sibling{n}": "cancelled" for n in range(siblings)}
    assert statuses(result) == {"a": "completed", "b": "cancelled", "c": "skipped"} | others
    assert result.outputs == {"x": "x by a"}
    assert "deadline" in result.stages["b"].detail["reason"]
    assert result.failure.pipeline_run_id == result.pipeline_run_id


@pytest.mark.simulate(order="asyncio")
async def test_a_deadline_holds_although_an_optional_stage_swallows_its_cancellation() -> None:
    """Its output after the deadline does not count for the run's end."""

    async def deaf(ctx: StageContext) -> StageOutput:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return StageOutput.ok()

    pipeline = make_pipeline(StageSpec("a", deaf, required=False))
    ctx = PipelineContext(deadline_s=2)
    result = await pipeline.run(ctx)
    assert result.status is RunStatus.FAILED
    assert result.failure is not None
    assert result.failure.code == "deadline_exceeded"
    assert result.duration_ms == 3000.0
    assert_events_sound(pipeline, result.events)


def test_a_run_with_the_same_seed_is_the_same_byte_for_byte() -> None:
    """Ids, random numbers, times and order: all come from the seed and the loop."""

    async def draw(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(ctx.random.random())
        return StageOutput.ok({f"{ctx.name}.drawn": ctx.random.random()})

    pipeline = Pipeline(
        "p", [StageSpec(name, draw, outputs=(f"{name}.drawn",)) for name in ("a", "b", "c")]
    )

    def replay(seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        ctx = PipelineContext(seed=seed, wall_clock=lambda: 1_000_000.0)
        result = run_virtual(lambda: pipeline.run(ctx))
        return [event.to_dict() for event in result.events], result.outputs

    assert replay(7) == replay(7)
    assert replay(7) != replay(8)


def test_a_failure_while_cleaning_up_does_not_replace_the_first_one() -> None:
    """A sibling's error during its cancellation is its own end, not the run's error."""

    async def clumsy(ctx: StageContext) -> StageOutput:
        try:
            await asyncio.sleep(9)
        finally:
            raise ValueError("while cleaning up")

    result = run(StageSpec("clumsy", clumsy), make_spec("broken", pauses_s=(1.0,), ending="raise"))
    assert result.failure is not None
    assert result.failure.stage == "broken"
    assert statuses(result) == {"broken": "failed", "clumsy": "failed"}


@pytest.mark.parametrize("passes", [1, 2, 3], ids="after {} passes of the loop".format)
@pytest.mark.parametrize("spared", [False, True], ids=["every task", "all but the caller"])
@pytest.mark.simulate(order="asyncio")
async def test_cancelling_every_task_that_there_is_ends_a_run_in_order(
    passes: int, spared: bool
) -> None:
    """As the end of asyncio.run does: before the first stage, between two, or within one.

    Somebody who spares the caller has cancelled the run all the same, and it says so.
    """
    length = 1_000
    pipeline = chain(length)
    ctx = PipelineContext()

    task = asyncio.create_task(pipeline.run(ctx))
    for _ in range(passes):
        await asyncio.sleep(0)
    for other in asyncio.all_tasks() - {asyncio.current_task(), task if spared else None}:
        other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ctx.status is RunStatus.CANCELLED
    assert_events_sound(pipeline, ctx.get_events())
    skipped = only(ctx.get_events(), f"stage.s{length - 1}.skipped")
    assert skipped.data["reason"] == "the run was cancelled"


@pytest.mark.simulate(order="asyncio")
async def test_a_run_that_has_ended_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is kept until its deadline."""
    timers: list[asyncio.TimerHandle] = []

    loop = asyncio.get_running_loop()
    call_at = loop.call_at

    def watched(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(call_at(*arguments, **options))
        return timers[-1]

    monkeypatch.setattr(loop, "call_at", watched)
    await chain(2).run(PipelineContext(deadline_s=60))
    assert timers
    assert all(timer.cancelled() for timer in timers)


@pytest.mark.simulate(order="asyncio")
async def test_a_resumed_run_takes_what_was_finished_wherever_it_stands() -> None:
    """Also what stands behind a stage that is to run."""
    record = StageRecord(StageStatus.COMPLETED, True, None, {"y": 1})
    pipeline = make_pipeline(
        make_spec("a", outputs=("x",)), make_spec("b", outputs=("y",)), make_spec("c", "a", "b")
    )
    orchestrator = PipelineOrchestrator(pipeline.build())
    result = await orchestrator.resume(PipelineContext(), {"b": record}, reason="again")
    assert result.outputs == {"x": "x by a", "y": 1}
    assert statuses(result) == {"a": "completed", "b": "skipped", "c": "completed"}
    assert result.stages["b"].detail == {"reason": "again: completed"}


def test_nothing_starts_once_the_run_has_failed() -> None:
    """Not even what was ready, and had a driver of its own coming."""
    result = run(
        make_spec("suspends", pauses_s=(1.0,)),
        make_spec("fails", ending="raise"),
        make_spec("ready", outputs=("x",)),
    )
    assert statuses(result)["ready"] == "skipped"
    assert result.outputs == {}
