"""`explore` finds order bugs of ordinary asyncio code that asyncio's own order does not show.

Each program has the bug, or is correct, as its argument says. So the search is tested by itself:
with asyncio's own order only, nothing here would be found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import pytest

from stageflow.testing import Scenario, explore, simulate

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

Program: TypeAlias = Callable[[bool], Coroutine[Any, Any, None]]


async def work(steps: int = 1) -> None:
    """Wait for replies that take no time."""
    for _ in range(steps):
        await asyncio.sleep(0)


async def overbooking(correct: bool) -> None:
    """Two buyers see the last seat as free; the second is usually late enough."""
    free, sold = 1, 0

    async def buy(delay: int) -> None:
        nonlocal free, sold
        await work(delay)
        if not free:
            return
        if correct:
            free -= 1
        await work()  # pays
        free, sold = 0, sold + 1

    await asyncio.gather(buy(0), buy(6))
    assert sold == 1, "one seat was sold twice"


async def sentinel_overtakes(correct: bool) -> None:
    """The end of a queue is announced by a task that does not wait for the producer."""
    queue: asyncio.Queue[int | None] = asyncio.Queue()
    done = asyncio.Event()

    async def produce() -> None:
        for number in range(3):
            await work()
            await queue.put(number)
        done.set()

    async def end() -> None:
        await work(8)
        if correct:
            await done.wait()
        await queue.put(None)

    async def consume() -> list[int]:
        got = []
        while (item := await queue.get()) is not None:
            got.append(item)
        return got

    got, *_ = await asyncio.gather(consume(), produce(), end())
    assert got == [0, 1, 2], "the end came before the last item"


async def lost_signal(correct: bool) -> None:
    """An event is cleared after the wait for it, and with it the signal that came meanwhile."""
    event, pending, handled = asyncio.Event(), 0, 0

    async def handle() -> None:
        nonlocal pending, handled
        while handled < 2:
            await event.wait()
            if correct:
                event.clear()
            count, pending = pending, 0
            await work()
            handled += count
            if not correct:
                event.clear()

    async def signal(delay: int) -> None:
        nonlocal pending
        await work(delay)
        pending += 1
        event.set()

    await asyncio.wait_for(asyncio.gather(handle(), signal(0), signal(8)), 10)


async def half_written(correct: bool) -> None:
    """A reader sees one of two fields that belong together."""
    account, lock = {"name": "old", "mail": "old"}, asyncio.Lock()

    async def write() -> None:
        async with lock:
            account["name"] = "new"
            await work()
            account["mail"] = "new"

    async def read() -> None:
        await work(5)
        if correct:
            async with lock:
                seen = set(account.values())
        else:
            seen = set(account.values())
        assert len(seen) == 1, "read in the middle of a write"

    await asyncio.gather(write(), read())


async def latest_request_wins(correct: bool) -> None:
    """The reply to an earlier request comes later, and replaces the newer one."""
    shown, newest = "", 0

    async def search(number: int, text: str) -> None:
        nonlocal shown, newest
        newest = max(newest, number)
        await work(2)
        if not correct or number == newest:
            shown = text

    async def type_letters() -> None:
        first = asyncio.create_task(search(1, "a"))
        await work(1)
        await asyncio.gather(first, search(2, "ab"))

    await type_letters()
    assert shown == "ab", "an old reply is shown"


async def closed_while_used(correct: bool) -> None:
    """A pool is closed once nobody seems to use it."""
    users, closed, idle = 0, False, asyncio.Event()

    async def use(delay: int) -> None:
        nonlocal users
        await work(delay)
        users += 1
        await work()
        assert not closed, "used after it was closed"
        users -= 1
        ended.append(delay)
        if len(ended) == 2:
            idle.set()

    async def close() -> None:
        nonlocal closed
        await work(9)
        while users:
            await work()
        if correct:
            await idle.wait()
        closed = True

    ended: list[int] = []
    await asyncio.gather(use(0), use(3), close())


async def two_leaders(correct: bool) -> None:
    """Each candidate checks the lease, and takes it after another step."""
    leader: list[str] = []
    lock = asyncio.Lock()

    async def elect(name: str, delay: int) -> None:
        await work(delay)
        if correct:
            async with lock:
                if not leader:
                    await work()
                    leader.append(name)
        elif not leader:
            await work()
            leader.append(name)

    await asyncio.gather(elect("a", 0), elect("b", 4), elect("c", 8))
    assert len(leader) == 1, f"leaders: {leader}"


async def charged_twice(correct: bool) -> None:
    """A retry starts although the first attempt has reached the bank."""
    charges: set[str] = set()
    total = 0
    answered = asyncio.Event()

    async def charge(key: str) -> None:
        nonlocal total
        await work(2)
        if not correct or key not in charges:
            charges.add(key)
            total += 1
        answered.set()

    async def pay() -> None:
        first = asyncio.create_task(charge("order-1"))
        await work(6)
        if not answered.is_set():
            await charge("order-1")
        await first

    await pay()
    assert total == 1, "charged twice"


async def left_out_of_shutdown(correct: bool) -> None:
    """A task that starts during the shutdown is in none of its lists."""
    tasks: set[asyncio.Task[None]] = set()
    saved, stopping = 0, False

    async def save() -> None:
        nonlocal saved
        await work()
        saved += 1

    async def serve() -> None:
        await work(2)
        if not (correct and stopping):
            tasks.add(asyncio.create_task(save()))

    async def stop() -> int:
        nonlocal stopping
        await work(6)
        stopping = True
        await asyncio.gather(*tasks)
        return len(tasks)

    known, _ = await asyncio.gather(stop(), serve())
    await work(3)
    assert known == len(tasks), "a task was not waited for"
    assert saved == len(tasks)


async def double_initialisation(correct: bool) -> None:
    """A client is made at its first use, which takes a while."""
    made: list[object] = []
    lock = asyncio.Lock()
    client: object | None = None

    async def connected() -> object:
        nonlocal client
        if client is None:
            await work()
            made.append(object())
            client = made[-1]
        return client

    async def request(delay: int) -> None:
        await work(delay)
        if correct:
            async with lock:
                await connected()
        else:
            await connected()

    await asyncio.gather(request(0), request(5))
    assert len(made) == 1, "two connections were opened"


PROGRAMS: tuple[Program, ...] = (
    *(overbooking, sentinel_overtakes, lost_signal, half_written, latest_request_wins),
    *(closed_while_used, two_leaders, charged_twice, left_out_of_shutdown, double_initialisation),
)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_the_search_finds_what_asyncio_s_own_order_hides(program: Program) -> None:
    """Within 300 orders; the correct program holds in as many orders as are tried."""
    simulate(program, False, scenario=Scenario(order="asyncio"))
    with pytest.raises((AssertionError, TimeoutError)):
        explore(program, False, runs=300)
    explore(program, True, runs=60)
