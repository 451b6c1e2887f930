"""The engine behaves the same under every event loop, task factory and Python that is at hand."""

from __future__ import annotations

import asyncio
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop

from stageflow import Pipeline, PipelineContext, RunStatus, StageContext, StageOutput, StageSpec
from stageflow.testing import Scenario, Simulation, SimulationLoop, simulate
from tests.utils.commands import run_command
from tests.utils.driving import resting
from tests.utils.pythons import interpreters
from tests.utils.scenarios import play_all
from tests.utils.task_factories import Factory, delaying, factories, first_step
from tests.utils.virtual_time import run_virtual

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def expected() -> dict[str, list[list[str | None]]]:
    """Return the results of every scenario in virtual time, where nothing can be late."""
    played: dict[str, list[list[str | None]]] = json.loads(json.dumps(run_virtual(play_all)))
    return played


@pytest.mark.parametrize("factory", [None, first_step])
def test_uvloop_gives_the_same_events(factory: Factory | None) -> None:
    """Under uvloop each scenario gives the events that it gives in virtual time."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        played = json.loads(json.dumps(runner.run(play_all(factory))))
    assert played == expected()


def test_asyncio_gives_the_same_events_in_real_time() -> None:
    """Under asyncio's own loop each scenario gives the events that it gives in virtual time."""
    assert json.loads(json.dumps(asyncio.run(play_all()))) == expected()


@pytest.mark.parametrize("factory", factories().values())
def test_a_task_factory_changes_no_events(factory: Factory) -> None:
    """Each scenario gives the same events under each task factory."""
    played = run_virtual(partial(play_all, factory))
    assert json.loads(json.dumps(played)) == expected()


@pytest.mark.parametrize("factory", factories().values())
def test_a_simulation_can_have_a_task_factory(factory: Factory) -> None:
    """A run completes in every order of callbacks, whatever makes the tasks."""

    async def main(sim: Simulation, scenario: Scenario) -> None:
        await play_all(factory)

    for seed in range(20):
        simulate(main, Scenario(seed=seed))


@pytest.mark.parametrize("factory", factories().values())
@pytest.mark.simulate(order="asyncio")
async def test_stages_run_in_tasks_of_the_factory(factory: Factory) -> None:
    """A stage runs in a task that the factory made, so that its tools see the stage."""
    made: list[asyncio.Task[Any]] = []

    def noting(*args: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(factory(*args, **options))
        return made[-1]

    async def look(ctx: StageContext) -> StageOutput:
        assert asyncio.current_task() in made
        await asyncio.sleep(1)
        assert asyncio.current_task() in made
        return StageOutput.ok()

    asyncio.get_running_loop().set_task_factory(noting)
    result = await Pipeline("p", [StageSpec(name, look) for name in "abc"]).run()
    assert len(made) == 3
    result.unwrap()


@pytest.mark.parametrize("factory", factories().values())
@pytest.mark.parametrize("passes", range(8))
def test_a_loop_that_ends_early_ends_its_runs(factory: Factory, passes: int) -> None:
    """A loop that cancels all tasks ends a run, even one whose drivers have not begun."""
    ctx = PipelineContext()
    specs = [StageSpec(name, resting(1_000)) for name in "abc"]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        run = loop.create_task(Pipeline("p", specs).run(ctx))
        loop.set_task_factory(factory)
        for _ in range(passes):
            await asyncio.sleep(0)
        assert not run.done()

    with asyncio.Runner(loop_factory=SimulationLoop) as runner:
        runner.run(main())
    assert ctx.status in {RunStatus.CANCELLED, RunStatus.CREATED}


@pytest.mark.simulate(order="asyncio")
async def test_a_run_ends_when_a_stranger_cancels_a_driver_before_it_begins() -> None:
    """A task that a factory made may end before the driver in it began; the run is cancelled."""
    made = asyncio.Queue[asyncio.Task[Any]]()

    def noting(*args: Any, **options: Any) -> asyncio.Task[Any]:
        task = delaying(*args, **options)
        made.put_nowait(task)
        return task

    loop = asyncio.get_running_loop()
    ctx = PipelineContext()
    specs = [StageSpec(name, resting(1)) for name in "abc"]
    run = loop.create_task(Pipeline("p", specs).run(ctx))
    loop.set_task_factory(noting)
    (await made.get()).cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert ctx.status is RunStatus.CANCELLED


@pytest.mark.simulate(order="asyncio")
async def test_a_factory_that_raises_fails_the_run() -> None:
    """A factory that refuses a second task fails the stage that suspended; the run ends."""
    ctx = PipelineContext()

    async def wait(ctx: StageContext) -> StageOutput:
        asyncio.get_running_loop().set_task_factory(refuse)
        await asyncio.sleep(1)
        return StageOutput.ok()

    def refuse(loop: object, work: Any) -> asyncio.Task[Any]:
        work.close()
        raise RuntimeError("no more tasks")

    result = await Pipeline("p", [StageSpec(name, wait) for name in "ab"]).run(ctx)
    asyncio.get_running_loop().set_task_factory(None)
    assert result.error == "stage 'a': RuntimeError: no more tasks"


@pytest.mark.parametrize("python", interpreters())
def test_another_python_gives_the_same_events(python: str) -> None:
    """Each other Python gives the events that this one gives, under each task factory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = run_command(
        [python, "-W", "error", "-m", "tests.utils.scenarios"], cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    played = json.loads(done.stdout)
    assert played.keys() >= {"none", *factories()} - {"eager"}
    assert ("eager" in played) != ("python3.11" in python)
    assert played == dict.fromkeys(played, expected())
