"""The queue for blocking calls: it has an end, and a caller that leaves it stops the work."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from stageflow.providers.local.helper import SerialExecutor, Stop
from tests.utils.errors import raises_code


def held(begun: threading.Event, go_on: threading.Event) -> None:
    begun.set()
    assert go_on.wait(30)


async def test_one_thing_after_another_in_one_thread() -> None:
    """In the order of the calls, and not in the loop's own thread."""
    executor = SerialExecutor("executor")
    done: list[int] = []

    def work(number: int, _: Stop) -> int:
        done.append(number)
        return threading.get_ident()

    calls = [executor.run(partial(work, n)) for n in range(5)]
    threads = set(await asyncio.gather(*calls))
    await executor.close()
    assert done == [0, 1, 2, 3, 4]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_a_line_that_is_full_refuses() -> None:
    """By its name and length, and takes the next call once there is room."""
    executor, begun, go_on = (
        SerialExecutor("the executor", most=2),
        threading.Event(),
        threading.Event(),
    )
    first = asyncio.create_task(executor.run(lambda _: held(begun, go_on)))
    second = asyncio.create_task(executor.run(lambda _: None))
    await asyncio.sleep(0)
    with raises_code("provider_busy", match="the executor has 2 calls") as raised:
        await executor.run(lambda _: None)
    assert raised.value.retryable
    go_on.set()
    await asyncio.gather(first, second)
    await executor.run(lambda _: None)
    await executor.close()


async def test_a_call_that_is_cancelled_in_the_line_never_begins() -> None:
    """And gives its place back."""
    executor, begun, go_on = (
        SerialExecutor("executor", most=2),
        threading.Event(),
        threading.Event(),
    )
    ran: list[Stop] = []
    first = asyncio.create_task(executor.run(lambda _: held(begun, go_on)))
    second = asyncio.create_task(executor.run(ran.append))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    third = asyncio.create_task(executor.run(lambda _: "third"))
    go_on.set()
    assert await third == "third"
    await first
    await executor.close()
    assert ran == []


async def test_work_learns_that_nobody_waits_for_it() -> None:
    """The caller is back while the work still goes on, and the work sees that it may end."""
    executor, begun = SerialExecutor("executor"), threading.Event()
    stops: list[Stop] = []
    interrupted = threading.Event()

    def work(stop: Stop) -> None:
        stops.append(stop)
        with stop.interrupting(interrupted.set):
            begun.set()
            assert interrupted.wait(30)

    task = asyncio.create_task(executor.run(work))
    await asyncio.to_thread(begun.wait, 30)
    assert [stop.asked for stop in stops] == [False]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await executor.close()
    assert [stop.asked for stop in stops] == [True]
    assert interrupted.is_set()


def test_what_is_asked_to_stop_before_it_begins_is_interrupted_at_once() -> None:
    """And after its block no more."""
    stop, interrupts = Stop(), list[int]()
    stop.ask()
    with stop.interrupting(lambda: interrupts.append(1)):
        assert interrupts == [1]
    stop.ask()
    assert interrupts == [1]


async def test_an_error_of_the_work_is_the_callers() -> None:
    """As it was raised."""
    executor = SerialExecutor("executor")
    with pytest.raises(ZeroDivisionError):
        await executor.run(lambda _: 1 // 0)
    await executor.close()
