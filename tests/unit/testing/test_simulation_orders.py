"""Which orders a simulation tries: those that asyncio allows, with times from the seed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from stageflow.providers import FakeLLM, FakeSTT, LatencyProfile, Message, speech_of_text
from stageflow.testing import Scenario, Simulation, explore, simulate
from stageflow.testing.simulation.scenario import Order
from tests.utils.commands import run_command
from tests.utils.pythons import interpreters
from tests.utils.repeating import results

Main = Callable[[Simulation], Coroutine[Any, Any, Any]]

ROOT = Path(__file__).parents[3]


# ── what asyncio promises ───────────────────────────────────────────────────────────────────


async def callbacks(sim: Simulation) -> list[int]:
    """Callbacks of one task are called in their order, and before the task goes on."""
    order: list[int] = []
    for number in range(3):
        sim.loop.call_soon(order.append, number)
    await asyncio.sleep(0)
    return order


async def callbacks_of_callbacks(sim: Simulation) -> list[int]:
    """A callback's own callbacks are behind those that were ready before."""
    order: list[int] = []

    def first() -> None:
        order.append(0)
        sim.loop.call_soon(order.append, 2)

    sim.loop.call_soon(first)
    sim.loop.call_soon(order.append, 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return order


async def timers(sim: Simulation) -> list[int]:
    """Of one delay, set by one task."""
    order: list[int] = []
    for number in range(3):
        sim.loop.call_later(1, order.append, number)
    await asyncio.sleep(2)
    return order


async def done_callbacks(sim: Simulation) -> list[int]:
    """In the order in which they were added."""
    order: list[int] = []
    future = sim.loop.create_future()
    for number in range(3):
        future.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]
    future.set_result(None)
    await asyncio.sleep(0)
    return order


async def new_tasks(sim: Simulation) -> list[int]:
    """They start in the order in which they were created, before their creator goes on."""
    order: list[int] = []

    async def run(number: int) -> None:
        order.append(number)

    tasks = [asyncio.create_task(run(number)) for number in range(3)]
    await asyncio.sleep(0)
    seen = list(order)
    await asyncio.gather(*tasks)
    return seen


async def woken_tasks(sim: Simulation) -> list[int]:
    """The first task that waits for an event is woken first."""
    order: list[int] = []
    event = asyncio.Event()

    async def run(number: int) -> None:
        await event.wait()
        order.append(number)

    tasks = [asyncio.create_task(run(number)) for number in range(3)]
    await asyncio.sleep(0)
    event.set()
    await asyncio.sleep(0)
    seen = list(order)
    await asyncio.gather(*tasks)
    return seen


async def cancelled_task(sim: Simulation) -> list[int]:
    """A task has met its cancellation when the one that cancels it goes on."""
    order: list[int] = []

    async def rest() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            order.extend(range(3))

    task = asyncio.create_task(rest())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    return order


async def stream(sim: Simulation) -> list[int]:
    """A reader gets bytes in the order in which the transport's callbacks feed them."""
    reader = asyncio.StreamReader(loop=sim.loop)
    for number in range(3):
        sim.loop.call_soon(reader.feed_data, bytes([number]))
    sim.loop.call_soon(reader.feed_eof)
    return list(await reader.read())


async def queue(sim: Simulation) -> list[int]:
    """Items of one producer."""
    items: asyncio.Queue[int] = asyncio.Queue(1)

    async def produce() -> None:
        for number in range(3):
            await items.put(number)

    task = asyncio.create_task(produce())
    received = [await items.get() for _ in range(3)]
    await task
    return received


async def dropped_generator(sim: Simulation) -> list[int]:
    """One that is left in its middle cleans up, and is not left behind."""
    order: list[int] = [0]

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1)

    async for number in numbers():
        order.append(number)
        break
    return [*order, 2]


PROMISED = (
    *(callbacks, callbacks_of_callbacks, timers, done_callbacks, new_tasks, woken_tasks),
    *(cancelled_task, stream, queue, dropped_generator),
)


@pytest.mark.parametrize("order", ["tasks", "asyncio"])
@pytest.mark.parametrize("main", PROMISED)
def test_what_is_right_in_asyncio_is_right_in_every_order(main: Main, order: Order) -> None:
    """Callbacks are first in, first out, as asyncio documents them."""
    for outcome in explore(main, runs=200, scenario=Scenario(order=order)):
        assert outcome.value == [0, 1, 2]


@pytest.mark.parametrize("main", [callbacks, new_tasks, woken_tasks, done_callbacks])
def test_any_order_is_tried_on_request(main: Main) -> None:
    """For code that has to hold without that promise."""
    outcomes = explore(main, runs=200, scenario=Scenario(order="any"))
    assert len({tuple(outcome.value) for outcome in outcomes}) > 1


async def turns(sim: Simulation) -> list[int]:
    """Two tasks that take turns."""
    order: list[int] = []

    async def run(number: int) -> None:
        for _ in range(3):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(run(0), run(1))
    return order


@pytest.mark.parametrize(("order", "orders"), [("asyncio", 1), ("tasks", 10)])
def test_tasks_take_turns_in_any_order_but_in_asyncio_s(order: Order, orders: int) -> None:
    """Of the 20 orders of two times three steps, 10 begin with the task that starts first."""
    outcomes = explore(turns, runs=300, scenario=Scenario(order=order))
    assert len({tuple(outcome.value) for outcome in outcomes}) == orders


async def ahead(sim: Simulation) -> None:
    """One task of two is nine steps ahead."""
    steps = [0, 0]

    async def run(number: int) -> None:
        for _ in range(10):
            steps[number] += 1
            assert steps[0] - steps[1] < 9
            await asyncio.sleep(0)

    await asyncio.gather(run(0), run(1))


def test_one_task_can_be_far_ahead_of_another() -> None:
    """In a walk of equal steps that would happen once in 500 runs."""
    with pytest.raises(AssertionError):
        explore(ahead, runs=60)


# ── times ───────────────────────────────────────────────────────────────────────────────────


async def first_fake(sim: Simulation) -> str:
    """Two calls at once, of which the first is usually the faster one."""
    llm = FakeLLM("fine", latency=LatencyProfile(100, 900))
    stt = FakeSTT("heard", latency=LatencyProfile(300, 900))
    calls = {
        asyncio.create_task(llm.complete([Message("user", "hi")])),
        asyncio.create_task(stt.transcribe(speech_of_text("hi"))),
    }
    done, late = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait(late)
    return done.pop().result()


async def streamed(sim: Simulation) -> float:
    """When the first word of a stream comes."""
    llm = FakeLLM("one two", latency=LatencyProfile(500, 900), first_piece=LatencyProfile(50, 90))
    words = llm.stream([Message("user", "hi")])
    await anext(words)
    began = sim.loop.time()
    async for _ in words:
        pass
    return began


@pytest.mark.parametrize("order", ["tasks", "asyncio"])
def test_latencies_of_fakes_are_drawn_from_the_seed(order: Order) -> None:
    """So that either can be first; the same seed gives the same times again."""
    scenario = Scenario(order=order)
    outcomes = explore(first_fake, runs=100, scenario=scenario)
    assert {outcome.value for outcome in outcomes} == {"fine", "heard"}
    times = [outcome.elapsed_s for outcome in outcomes]
    assert len(set(times)) == 100
    assert times == [o.elapsed_s for o in explore(first_fake, runs=100, scenario=scenario)]
    assert len({outcome.value for outcome in explore(streamed, runs=20)}) == 20


def test_without_a_seed_fakes_keep_to_their_own() -> None:
    """Nothing is drawn then."""
    assert len({simulate(first_fake, seed=None).elapsed_s for _ in range(3)}) == 1


async def sleep_race(sim: Simulation) -> None:
    """Right as long as the shorter sleep ends first."""
    order: list[float] = []

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append(seconds)

    await asyncio.gather(sleep(0.1), sleep(0.105))
    assert order == [0.1, 0.105]


async def timeout_race(sim: Simulation) -> None:
    """Right as long as the limit is not over first."""
    await asyncio.wait_for(asyncio.sleep(0.1), 0.105)


@pytest.mark.parametrize("order", ["tasks", "asyncio"])
@pytest.mark.parametrize("main", [sleep_race, timeout_race])
def test_near_timers_come_in_every_order_where_sleeps_are_stretched(
    main: Main, order: Order
) -> None:
    """By at most the given share, and only on request; the token repeats it."""
    explore(main, runs=100, scenario=Scenario(order=order))
    explore(main, runs=100, scenario=Scenario(order=order, stretch=0.01))
    with pytest.raises((AssertionError, TimeoutError)) as caught:
        explore(main, runs=100, scenario=Scenario(order=order, stretch=0.1))
    token = caught.value.__notes__[0].split("token='")[-1].split("('")[-1].split("'")[0]
    with pytest.raises((AssertionError, TimeoutError)):
        simulate(main, token=token)


def test_a_stretched_sleep_is_late_within_its_bound() -> None:
    """Never early, and no later than its share."""

    async def sleeps(sim: Simulation) -> None:
        await asyncio.sleep(10)

    outcomes = explore(sleeps, runs=200, scenario=Scenario(stretch=0.5))
    times = [outcome.elapsed_s for outcome in outcomes]
    assert 10 <= min(times) < 10.5
    assert 14.5 < max(times) <= 15


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"order": "fifo"}, "order='fifo': give 'tasks', 'asyncio' or 'any'"),
        ({"stretch": -0.1}, "stretch=-0.1: give a share"),
        ({"stretch": float("inf")}, "stretch=inf: give a share"),
        ({"stretch": 0.1, "seed": None}, "stretch=0.1: it is drawn from a seed"),
        ({"switches": -1}, "switches=-1: give a number from 0 up"),
        ({"cancel_at_step": 0}, "cancel_at_step=0: the first callback is 1"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused(fields: dict[str, Any], told: str) -> None:
    """With what to give instead."""
    with pytest.raises(ValueError, match=told):
        Scenario(**fields)


@pytest.mark.parametrize("runs", [0, -1])
def test_exploring_nothing_is_refused(runs: int) -> None:
    """It would pass whatever the function does."""
    with pytest.raises(ValueError, match=f"runs={runs}: give a whole number from 1"):
        explore(callbacks, runs=runs)


# ── the same run everywhere ─────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("python", [sys.executable, *interpreters()])
def test_one_seed_is_one_run_in_every_process(python: str) -> None:
    """For any hashes of strings, addresses of objects, and earlier simulations."""
    printed = set()
    for size in (7, 3_000):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": str(size),
        }
        command = [python, "-m", "tests.utils.repeating", str(size)]
        done = run_command(command, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr
        printed.add(done.stdout)
    assert len(printed) == 1
    if python == sys.executable:
        assert printed == {f"{results()}\n"}


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_few_switches_are_spread_over_the_run(limit: int) -> None:
    """They disturb its end, too, and not its start alone."""

    async def main(sim: Simulation) -> list[int]:
        async def work() -> None:
            for _ in range(60):
                await asyncio.sleep(0)
                if sim.loop.switches > len(at):
                    at.append(sim.loop.steps)

        at: list[int] = []
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(work())
        return at

    outcomes = explore(main, runs=300, scenario=Scenario(switches=limit))
    assert max(outcome.switches for outcome in outcomes) == limit
    at = [step / outcome.steps for outcome in outcomes for step in outcome.value]
    quarters = Counter(min(int(4 * share), 3) for share in at)
    assert all(quarters[quarter] >= 0.03 * len(at) for quarter in range(4)), quarters
