"""Work that asyncio hands to threads, in simulated time and in any order."""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from stageflow.testing import RealIOError, Simulation, explore, simulate


async def two_threads() -> tuple[str, ...]:
    """Two threads, and a task beside them."""
    order: list[str] = []

    async def beside() -> None:
        await asyncio.sleep(0)
        order.append("task")

    await asyncio.gather(
        asyncio.to_thread(order.append, "one"), asyncio.to_thread(order.append, "two"), beside()
    )
    return tuple(order)


def test_threads_and_tasks_come_in_any_order() -> None:
    """The same order in each repetition."""
    orders = [outcome.value for outcome in explore(two_threads, runs=60)]
    assert len(set(orders)) >= 4
    assert orders == [outcome.value for outcome in explore(two_threads, runs=60)]


def test_a_thread_that_sleeps_delays_its_result_alone() -> None:
    """Time passes for it, and the loop goes on."""

    def work() -> tuple[float, float]:
        began = time.monotonic()
        time.sleep(5)
        return began, time.monotonic()

    async def main(sim: Simulation) -> tuple[float, float, float]:
        thread = asyncio.ensure_future(asyncio.to_thread(work))
        await asyncio.sleep(1)
        at_s = sim.loop.time()
        return (at_s, *await thread)

    outcome = simulate(main)
    assert outcome.value == (1.0, 0.0, 5.0)
    assert outcome.elapsed_s == 5.0


def test_a_thread_calls_back_and_is_without_a_loop() -> None:
    """As in a real one; its failure reaches who awaits it."""

    def work(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        loop.call_soon_threadsafe(event.set)
        raise LookupError("lost")

    async def main(sim: Simulation) -> None:
        event = asyncio.Event()
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(None, work, loop, event)
        await event.wait()
        with pytest.raises(LookupError, match="lost"):
            await future

    explore(main, runs=20)


def blocks(loop: asyncio.AbstractEventLoop) -> object:
    return asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()


@pytest.mark.parametrize("work", [lambda _: socket.socket(), blocks])
def test_real_io_in_a_thread_is_refused(work: object) -> None:
    """So is waiting for the loop, which would never end."""

    async def main(sim: Simulation) -> None:
        await asyncio.to_thread(work, sim.loop)  # type: ignore[arg-type]

    with pytest.raises(RealIOError):
        simulate(main)


def test_an_executor_works_outside_afterwards() -> None:
    """Nothing of it is kept."""
    simulate(two_threads)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: 3).result() == 3
