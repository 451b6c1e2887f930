"""The engine drives its stages: their task, their context variables, fairness and order."""

from __future__ import annotations

import asyncio
import contextvars
import time
from contextlib import suppress

import pytest

from stageflow import Pipeline, RunStatus, StageContext, StageOutput, StageSpec
from stageflow.testing import do_nothing
from tests.utils.driving import Body, both_ways, pipeline_of, resting, this_task

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def fail_within() -> None:
    await asyncio.sleep(1)
    raise ValueError("from within")


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_current_task_is_the_same_from_the_first_step_to_the_last(siblings: int) -> None:
    """A stage sees one and the same current task before and after it suspends."""
    seen: list[asyncio.Task[object] | None] = []

    async def subject(ctx: StageContext) -> StageOutput:
        seen.append(asyncio.current_task())
        await asyncio.sleep(1)
        seen.append(asyncio.current_task())
        return StageOutput.ok()

    result = await pipeline_of(subject, siblings, do_nothing).run()
    assert result.status is RunStatus.COMPLETED
    assert seen[0] is not None
    assert seen[0] is seen[1]


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_a_timeout_inside_a_stage_stays_inside(siblings: int) -> None:
    """asyncio.timeout within a stage cancels what it encloses and nothing else."""

    async def subject(ctx: StageContext) -> StageOutput:
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                try:
                    await asyncio.sleep(100)
                finally:
                    await asyncio.sleep(3)  # a clean-up that itself takes time
        return StageOutput.ok()

    result = await pipeline_of(subject, siblings, resting(10)).run()
    assert result.status is RunStatus.COMPLETED
    assert result.stages["subject"].duration_ms == 5_000
    assert this_task().cancelling() == 0


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_a_task_group_inside_a_stage_works(siblings: int) -> None:
    """A TaskGroup of a stage cancels its own tasks and raises its own error."""
    caught: list[float] = []

    async def subject(ctx: StageContext) -> StageOutput:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail_within())
                group.create_task(asyncio.sleep(50))
        except* ValueError:
            caught.append(ctx.now())
        return StageOutput.ok()

    result = await pipeline_of(subject, siblings, do_nothing).run()
    assert result.stages["subject"].duration_ms == 1_000
    assert caught == [1.0]


@pytest.mark.simulate(order="asyncio")
async def test_what_one_stage_leaves_of_a_cancellation_does_not_reach_the_next() -> None:
    """Two stages in a row whose TaskGroups fail both catch their own errors, and no more."""
    caught: list[str] = []

    async def grouping(ctx: StageContext) -> StageOutput:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail_within())
        except* ValueError:
            caught.append(ctx.name)
        return StageOutput.ok()

    names = ["a", "b", "c"]
    specs = [StageSpec(n, grouping, tuple(names[:i])) for i, n in enumerate(names)]
    assert (await Pipeline("groups", specs).run()).status is RunStatus.COMPLETED
    assert caught == ["a", "b", "c"]


@both_ways
@pytest.mark.simulate(order="asyncio")
async def test_context_variables_do_not_leak_between_stages(siblings: int) -> None:
    """A stage's context variables are seen by no other stage, nor by the caller."""
    seen: list[str] = []

    async def subject(ctx: StageContext) -> StageOutput:
        seen.append(variable.get())
        variable.set("first step")
        await asyncio.sleep(1)
        assert variable.get() == "first step"
        variable.set("second step")
        return StageOutput.ok()

    async def after(ctx: StageContext) -> StageOutput:
        seen.append(variable.get())
        variable.set("after")
        return StageOutput.ok()

    variable.set("caller")
    base = pipeline_of(subject, siblings, do_nothing)
    chain = [
        StageSpec("after", after, dependencies=("subject",)),
        StageSpec("last", after, dependencies=("after",)),
    ]
    await base.compose(Pipeline("more", chain)).run()
    assert seen == ["caller"] * 3
    assert variable.get() == "caller"


@pytest.mark.simulate(order="asyncio")
async def test_a_long_chain_does_not_starve_the_loop() -> None:
    """A chain of stages that never suspend lets other tasks have their turns."""
    turns = 0

    chain = [
        StageSpec(f"s{n}", do_nothing, dependencies=(f"s{n - 1}",) if n else ())
        for n in range(10_000)
    ]
    run = asyncio.create_task(Pipeline("chain", chain).run())
    while not run.done():
        turns += 1
        await asyncio.sleep(0)
    assert (await run).status is RunStatus.COMPLETED
    assert turns >= 10_000 // 256


def test_busy_stages_give_way_by_the_clock() -> None:
    """Stages that compute give the loop its turn after some milliseconds, however few they are."""
    turns = 0

    async def busy(ctx: StageContext) -> StageOutput:
        until = time.monotonic() + 0.003
        while time.monotonic() < until:
            pass
        return StageOutput.ok()

    async def main() -> None:
        nonlocal turns
        chain = [
            StageSpec(f"s{n}", busy, dependencies=(f"s{n - 1}",) if n else ()) for n in range(10)
        ]
        run = asyncio.create_task(Pipeline("busy", chain).run())
        while not run.done():
            turns += 1
            await asyncio.sleep(0)

    asyncio.run(main())
    assert turns >= 9


@pytest.mark.simulate(order="asyncio")
async def test_a_stage_starts_the_moment_its_last_dependency_ends() -> None:
    """Between the end of a stage and the start of what waited for it, no time passes."""

    def taking(duration_s: float) -> Body:
        async def body(ctx: StageContext) -> StageOutput:
            await asyncio.sleep(duration_s)
            return StageOutput.ok()

        return body

    specs = [
        StageSpec("a", taking(1)),
        StageSpec("b", taking(2)),
        StageSpec("c", taking(5), dependencies=("a",)),
        StageSpec("d", taking(1), dependencies=("a", "b")),
        StageSpec("e", taking(1), dependencies=("c", "d")),
    ]

    result = await Pipeline("moments", specs).run()
    started = {e.stage: e.offset_ms for e in result.events if e.what == "started" and e.stage}
    assert started == {"a": 0, "b": 0, "c": 1_000, "d": 2_000, "e": 6_000}
    path = (
        Pipeline("moments", specs).build().critical_path({"a": 1, "b": 2, "c": 5, "d": 1, "e": 1})
    )
    assert result.duration_ms == path.length * 1000 == 7_000


@pytest.mark.simulate(order="asyncio")
async def test_ready_stages_that_suspend_overlap() -> None:
    """A hundred stages that wait ten seconds each take ten seconds together."""
    result = await Pipeline("wide", [StageSpec(f"s{n}", resting(10)) for n in range(100)]).run()
    assert result.duration_ms == 10_000


@pytest.mark.simulate(order="asyncio")
async def test_ready_stages_are_all_under_way_within_three_passes_of_the_loop() -> None:
    """However many stages are ready, none waits for the loop to go round for each of the others."""
    started = 0

    async def wait(ctx: StageContext) -> StageOutput:
        nonlocal started
        started += 1
        await asyncio.sleep(10)
        return StageOutput.ok()

    run = asyncio.create_task(
        Pipeline("wide", [StageSpec(f"s{n}", wait) for n in range(100)]).run()
    )
    for _ in range(4):  # the first pass only lets the caller begin
        await asyncio.sleep(0)
    assert started == 100
    await run


@pytest.mark.simulate(order="asyncio")
async def test_stages_that_never_suspend_cost_at_most_one_task() -> None:
    """A wide graph of stages that do not wait is driven by one task besides the caller's."""
    tasks: set[asyncio.Task[object] | None] = set()

    async def note(ctx: StageContext) -> StageOutput:
        tasks.add(asyncio.current_task())
        return StageOutput.ok()

    await Pipeline("wide", [StageSpec(f"s{n}", note) for n in range(100)]).run()
    assert len(tasks) == 1
