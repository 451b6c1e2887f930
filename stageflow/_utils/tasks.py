"""Wait for tasks and cancel them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

T = TypeVar("T")

_CANCEL_AGAIN_S = 0.1


async def shielded(work: Awaitable[T]) -> tuple[asyncio.Future[T], bool]:
    """Wait until `work` has ended; return it, and whether the caller was cancelled meanwhile.

    The caller has to raise that cancellation itself.
    """
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            cancelled = True
    return task, cancelled


async def off_loop(work: Callable[[], T], *, large: bool) -> T:
    """Return what `work` returns; run large work in a thread, so that the loop continues."""
    if large and getattr(asyncio.get_running_loop(), "has_threads", True):
        return await asyncio.to_thread(_without_stop_iteration, work)
    return work()


def _without_stop_iteration(work: Callable[[], T]) -> T:
    try:
        return work()
    except StopIteration as error:
        # A future cannot hold it, so code that awaits the thread would wait forever.
        raise RuntimeError("the function in the thread raised StopIteration") from error


def is_made_of_cancellation(error: BaseException) -> bool:
    """Return whether an error was raised from a cancellation of the current task.

    `cancelling` alone does not show it: before Python 3.13, a failed TaskGroup may not withdraw its
    own request. A cancellation behind a `TimeoutError` came from the time limit.
    """
    task = asyncio.current_task()
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting and task is not None and task.cancelling():
        link = waiting.pop()
        if isinstance(link, asyncio.CancelledError):
            return True
        if link is not None and id(link) not in seen and not isinstance(link, TimeoutError):
            seen.add(id(link))
            waiting += (link.__cause__, link.__context__, *getattr(link, "exceptions", ()))
    return False


async def cancel_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended: some libraries swallow a cancellation."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)
