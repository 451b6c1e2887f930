"""Programs whose runs have to repeat, whatever asyncio keeps in sets; printed for other processes.

``python -m tests.utils.repeating N`` prints what each gives, after N objects and an event loop of
N tasks have changed where objects are and how asyncio's own tables are laid out.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from stageflow.testing.simulation import Scenario, Simulation, simulate

Program = Callable[[Simulation], Coroutine[Any, Any, list[Any]]]


async def nap(number: int) -> int:
    await asyncio.sleep(0.01)
    return number


async def as_completed(sim: Simulation) -> list[int]:
    """Coroutines that are handed over as they are."""
    return [await first for first in asyncio.as_completed([nap(number) for number in range(12)])]


async def wait(sim: Simulation) -> list[int]:
    """Futures that no loop made, and what is left in both sets."""
    made: list[asyncio.Future[Any]] = [asyncio.Future() for _ in range(12)]
    made += [asyncio.gather(nap(number)) for number in range(12)]
    done, pending = await asyncio.wait(made, timeout=1)
    return [made.index(future) for future in (*pending, *done)]


async def popped(sim: Simulation) -> list[int]:
    """`done.pop()`, as the documents show it."""
    made: list[asyncio.Future[Any]] = [asyncio.gather(nap(number)) for number in range(12)]
    done, _ = await asyncio.wait(made)
    return [made.index(done.pop()) for _ in range(len(done))]


async def all_tasks(sim: Simulation) -> list[str]:
    """Tasks of numbers that are far apart, so that they share places in a table."""
    tasks = []
    for number in range(40):
        tasks.append(asyncio.create_task(nap(number)))
        for _ in range(number % 7 * 5):
            sim.loop.create_future()
    names = [task.get_name() for task in asyncio.all_tasks()]
    await asyncio.gather(*tasks)
    return names


async def stopped(tasks: int) -> list[int]:
    order: list[int] = []

    async def rest(number: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            order.append(number)

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise LookupError

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(tasks):
                group.create_task(rest(number))
            group.create_task(fail())
    except* LookupError:
        pass
    return order


async def task_group(sim: Simulation) -> list[int]:
    """A group that stops its tasks."""
    return await stopped(40)


async def own_factory(sim: Simulation) -> list[Any]:
    """The same where a factory makes tasks; names are as in any other process."""
    sim.loop.set_task_factory(lambda loop, coro, **more: asyncio.Task(coro, loop=loop, **more))
    named = asyncio.create_task(nap(1))
    return [named.get_name(), await named, *await stopped(12)]


async def eager(sim: Simulation) -> list[Any]:
    """The same where tasks start at once, from Python 3.12 on."""
    sim.loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))
    tasks = {asyncio.create_task(nap(number)) for number in range(12)}
    return [*[task.get_name() for task in tasks], *[await t for t in tasks], *await stopped(12)]


async def shutdown(sim: Simulation) -> list[int]:
    """Generators that are closed at the end; the list is filled after the run."""
    closed: list[int] = []

    async def numbers(number: int) -> AsyncIterator[int]:
        try:
            yield number
        finally:
            closed.append(number)

    sim.kept = [numbers(number) for number in range(12)]  # type: ignore[attr-defined]
    for one in sim.kept:  # type: ignore[attr-defined]
        await anext(one)
    return closed


async def collected(sim: Simulation) -> list[Any]:
    """Generators in cycles, which only a collection of garbage finds."""
    seen: list[Any] = []

    async def numbers(number: int, own: list[Any]) -> AsyncIterator[int]:
        try:
            yield number
        finally:
            await asyncio.sleep(0)
            seen.append(number)

    for number in range(300):
        own: list[Any] = []
        own.append(numbers(number, own))
        await anext(own[0])
        seen.append(sim.loop.steps)
    return seen


PROGRAMS: tuple[Program, ...] = (
    *(as_completed, wait, popped, all_tasks, task_group),
    *(own_factory, eager, shutdown, collected),
)


def results() -> str:
    """Return the results of each program under three seeds, and under none."""
    found: dict[str, list[Any]] = {}
    for program in PROGRAMS:
        outcomes = [simulate(program, scenario=Scenario(seed)) for seed in (None, 1, 2, 3)]
        found[program.__name__] = [[o.value, o.steps, o.elapsed_s] for o in outcomes]
    return json.dumps(found)


async def _many(count: int) -> None:
    await asyncio.gather(*[asyncio.sleep(0) for _ in range(count)])


if __name__ == "__main__":
    size = int(sys.argv[1])
    clutter = [[object()] for _ in range(size)]
    asyncio.run(_many(size))
    gc.set_threshold(100 + size)
    print(results())
