"""Small programs in plain asyncio: 14 with a bug that only some orders show, and correct ones.

Each is a function without parameters. They import nothing but the standard library, so that each
tool can run them in an environment of its own.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import datetime
from typing import Any

Program = Callable[[], Coroutine[Any, Any, None]]


async def pause(steps: int = 1) -> None:
    """Wait for something that takes no time, such as a cached reply."""
    for _ in range(steps):
        await asyncio.sleep(0)


# ── with a bug ──────────────────────────────────────────────────────────────────────────────


async def lost_update() -> None:
    """Two of five deposits read the same balance."""
    balance = 0
    lock = asyncio.Lock()

    async def deposit(number: int) -> None:
        nonlocal balance
        await pause(3 * number)
        async with lock:
            seen = balance
        await pause()
        async with lock:
            balance = seen + 1

    await asyncio.gather(*(deposit(number) for number in range(5)))
    assert balance == 5, f"lost {5 - balance} of 5 updates"


async def missed_wakeup() -> None:
    """A waiter looks, and begins to wait after it would have been notified."""
    ready, condition = False, asyncio.Condition()

    async def wait() -> None:
        seen = ready
        await pause()
        async with condition:
            if not seen:
                await condition.wait()

    async def notify() -> None:
        nonlocal ready
        await pause(4)
        ready = True
        async with condition:
            condition.notify_all()

    await asyncio.gather(wait(), notify())


async def lock_order() -> None:
    """Two transfers take two locks in opposite order."""
    first, second = asyncio.Lock(), asyncio.Lock()

    async def transfer(source: asyncio.Lock, target: asyncio.Lock, begins: int) -> None:
        await pause(begins)
        async with source:
            await pause()
            async with target:
                await pause()

    await asyncio.gather(transfer(first, second, 0), transfer(second, first, 4))


async def leak_on_cancel() -> None:
    """A connection leaks if the request is cancelled between its checkout and its `try`."""
    free = 1

    async def connect() -> None:
        nonlocal free
        await pause(2)
        free -= 1
        await pause()

    async def request() -> None:
        nonlocal free
        await connect()
        try:
            await pause(4)
        finally:
            free += 1

    task = asyncio.create_task(request())
    await pause(6)
    task.cancel()
    await asyncio.wait([task])
    assert free == 1, "a connection leaked"


async def queue_timeout() -> None:
    """A consumer that gives up drops the item that it was handed at the same moment."""
    items: asyncio.Queue[int] = asyncio.Queue()
    given_up, received = False, 0

    async def consume() -> None:
        nonlocal given_up, received
        getting = asyncio.ensure_future(items.get())
        await asyncio.wait([getting], timeout=1)
        if getting.done():
            received += 1
            return
        await pause()
        given_up = True
        getting.cancel()

    async def produce() -> None:
        await asyncio.sleep(1)
        await pause(3)
        if not given_up:
            items.put_nowait(1)

    await asyncio.gather(consume(), produce())
    assert given_up or received, "nobody answered"
    assert items.empty() or received == 0
    await pause(3)
    assert given_up is False or items.qsize() == 0, "an item is lost"


async def three_preemptions() -> None:
    """Two tasks have to take turns at exactly three places."""
    stage = 0

    async def advance(*stages: int) -> None:
        nonlocal stage
        for expected in stages:
            await pause(2)
            if stage == expected:
                stage = expected + 1
            await pause(2)

    await asyncio.gather(advance(0, 2, 9), advance(9, 1, 3))
    assert stage != 4, "the fourth stage"


async def semaphore_deadlock() -> None:
    """Each of three parents holds a permit while its children wait for one."""
    permits = asyncio.Semaphore(3)

    async def child() -> None:
        async with permits:
            await pause()

    async def parent(number: int) -> None:
        await pause(3 * number)
        async with permits:
            await asyncio.gather(child(), child())

    await asyncio.gather(*(parent(number) for number in range(3)))


async def slow_reply() -> None:
    """A reply to a request that has timed out is taken for that of the next one."""
    replies: asyncio.Queue[int] = asyncio.Queue()
    waiting = False

    async def serve(number: int) -> None:
        await pause(2 if number == 0 else 1)
        if waiting:
            replies.put_nowait(number)

    async def ask(number: int, patience: int) -> int | None:
        nonlocal waiting
        waiting = True
        server = asyncio.ensure_future(serve(number))
        servers.append(server)
        for _ in range(patience):
            await pause()
            if not replies.empty():
                waiting = False
                return replies.get_nowait()
        waiting = False
        return None

    servers: list[asyncio.Future[None]] = []
    for number in range(2):
        reply = await ask(number, 6)
        assert reply in (None, number), f"reply {reply} to request {number}"
    await asyncio.gather(*servers)


async def made_twice() -> None:
    """Two callers find no client yet, and both make one."""
    made: list[int] = []

    async def client(begins: int) -> int:
        await pause(begins)
        if not made:
            await pause()
            made.append(begins)
        return made[0]

    await asyncio.gather(client(0), client(3))
    assert len(made) == 1, "made twice"


async def stale_cache() -> None:
    """A reader stores what it read before a writer invalidated it."""
    store, cache = {"key": 1}, {}

    async def read() -> None:
        if "key" not in cache:
            value = store["key"]
            await pause()
            cache["key"] = value

    async def write() -> None:
        await pause(3)
        store["key"] = 2
        cache.pop("key", None)

    await asyncio.gather(read(), write())
    assert cache.get("key", 2) == 2, "the cache is stale"


async def changed_while_read() -> None:
    """A mapping changes while another task iterates over it."""
    members = dict.fromkeys(range(3), 0)

    async def broadcast() -> None:
        for _member in members:
            await pause()

    async def join() -> None:
        await pause(6)
        members[9] = 0

    await asyncio.gather(broadcast(), join())


async def closed_in_use() -> None:
    """A pool closes while a request is between its check and its use."""
    closed = False

    async def request() -> None:
        for _ in range(2):
            if not closed:
                await pause()
                assert not closed, "used after it was closed"

    async def close() -> None:
        nonlocal closed
        await pause(5)
        closed = True

    await asyncio.gather(request(), close())


async def pulse() -> None:
    """An event is cleared before a waiter that was woken checks its condition."""
    event, waiting = asyncio.Event(), 0

    async def wait() -> None:
        nonlocal waiting
        await pause(2)
        waiting += 1
        await event.wait()
        waiting -= 1

    async def ring() -> None:
        await pause(6)
        event.set()
        event.clear()

    await asyncio.gather(wait(), wait(), ring())
    assert waiting == 0


async def equal_timers() -> None:
    """Two timers of one delay, set by two tasks, fire in either order."""
    log: list[str] = []

    async def after(name: str) -> None:
        await asyncio.sleep(1)
        log.append(name)

    await asyncio.gather(after("begin"), after("end"))
    assert log == ["begin", "end"], "it ended before it began"


async def drawn() -> None:
    """Updates are lost if the waits, which are drawn, come in an unlucky order."""
    balance = 0

    async def deposit() -> None:
        nonlocal balance
        await pause(random.randrange(4))
        seen = balance
        await pause(uuid.uuid4().bytes[0] % 3)
        balance = seen + 1
        assert datetime.now().second < 60

    await asyncio.gather(*(deposit() for _ in range(4)))
    assert balance > 2, f"lost {4 - balance} of 4 updates"


BUGGY: tuple[Program, ...] = (
    *(lost_update, missed_wakeup, lock_order, leak_on_cancel, queue_timeout, three_preemptions),
    *(semaphore_deadlock, slow_reply, made_twice, stale_cache, changed_while_read, closed_in_use),
    *(pulse, equal_timers),
)


# ── correct ─────────────────────────────────────────────────────────────────────────────────


async def locked() -> None:
    """Updates under a lock, with a condition and a semaphore."""
    total, condition, permits = 0, asyncio.Condition(), asyncio.Semaphore(2)

    async def add() -> None:
        nonlocal total
        async with permits:
            await pause()
            async with condition:
                seen = total
                await pause()
                total = seen + 1
                condition.notify_all()

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(add())
        async with condition:
            await condition.wait_for(lambda: total == 4)


async def queued() -> None:
    """A queue with a timeout, whose items come in order."""
    items: asyncio.Queue[int] = asyncio.Queue(2)

    async def produce() -> None:
        for number in range(5):
            await items.put(number)
            await asyncio.sleep(0.3)

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        received = [await asyncio.wait_for(items.get(), 5) for _ in range(5)]
        try:
            await asyncio.wait_for(items.get(), 1)
        except TimeoutError:
            received.append(5)
    assert received == [0, 1, 2, 3, 4, 5]


async def fed() -> None:
    """A stream that two tasks feed, one after the other, by callbacks."""
    loop, reader, turn = asyncio.get_running_loop(), asyncio.StreamReader(), asyncio.Event()

    async def first() -> None:
        loop.call_soon(reader.feed_data, b"one ")
        turn.set()

    async def second() -> None:
        await turn.wait()
        loop.call_soon(reader.feed_data, b"two")
        loop.call_soon(reader.feed_eof)

    await asyncio.gather(first(), second())
    assert await reader.read() == b"one two"


async def generated() -> None:
    """A generator that is left in its middle, and cleans up."""

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(3):
                await pause()
                yield number
        finally:
            await asyncio.sleep(0.1)

    async def read() -> None:
        async for number in numbers():
            if number == 1:
                break

    await asyncio.gather(read(), read())


async def polled() -> None:
    """A task that polls does not keep the others waiting."""
    done = False

    async def work() -> None:
        nonlocal done
        await pause(5)
        done = True

    task = asyncio.ensure_future(work())
    while not done:
        await pause()
    await task


async def eight() -> None:
    """Eight tasks that take turns at a lock and a queue."""
    items: asyncio.Queue[int] = asyncio.Queue()
    lock = asyncio.Lock()

    async def work(number: int) -> None:
        for _ in range(3):
            async with lock:
                await pause()
            await items.put(number)
            await asyncio.sleep(0.01)

    await asyncio.gather(*(work(number) for number in range(8)))
    assert items.qsize() == 24


CORRECT: tuple[Program, ...] = (locked, queued, fed, generated, polled)
