"""Task factories that a loop may have, other than none.

Needs nothing but asyncio, so that another interpreter can use them.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

Factory = Callable[..., asyncio.Task[Any]]
Loop = asyncio.AbstractEventLoop
Work = Coroutine[Any, Any, Any]


def first_step(loop: Loop, work: Work, **options: Any) -> asyncio.Task[Any]:
    """Take the first step before the task is returned, as the eager factory of Python 3.12 does."""
    outcome: list[Any] = []
    rest = _rest(work, outcome)
    rest.send(None)
    task = asyncio.Task(rest, loop=loop, **options)
    context = options.get("context") or contextvars.copy_context()
    creator = asyncio.current_task(loop)
    if creator is not None:
        asyncio.tasks._leave_task(loop, creator)
    asyncio.tasks._enter_task(loop, task)
    context.run(_step, outcome, work.send, None)
    asyncio.tasks._leave_task(loop, task)
    if creator is not None:
        asyncio.tasks._enter_task(loop, creator)
    return task


async def _rest(work: Work, outcome: list[Any]) -> Any:
    """Continue `work` after its first step, of which `outcome` holds the error and the value."""
    return await _steps(work, outcome)


@types.coroutine
def _steps(work: Work, outcome: list[Any]) -> Generator[Any, Any, Any]:
    try:
        yield
    except asyncio.CancelledError as thrown:
        if outcome[0] is None:
            _step(outcome, work.throw, thrown)
    while outcome[0] is None:
        try:
            sent = yield outcome[1]
        except BaseException as thrown:
            _step(outcome, work.throw, thrown)
        else:
            _step(outcome, work.send, sent)
    if isinstance(outcome[0], StopIteration):
        return outcome[0].value
    raise outcome[0]


def _step(outcome: list[Any], advance: Callable[[Any], Any], argument: Any) -> None:
    try:
        outcome[:] = None, advance(argument)
    except BaseException as error:
        outcome[:] = error, None


def wrapping(loop: Loop, work: Work, **options: Any) -> asyncio.Task[Any]:
    """Await the work within a coroutine of the factory's own, as tracing tools do."""

    async def wrapped() -> Any:
        return await work

    return asyncio.Task(wrapped(), loop=loop, **options)


def delaying(loop: Loop, work: Work, **options: Any) -> asyncio.Task[Any]:
    """Begin the work some turns of the loop later, as a limiter does."""

    async def delayed() -> Any:
        for _ in range(3):
            await asyncio.sleep(0)
        return await work

    return asyncio.Task(delayed(), loop=loop, **options)


class OwnTask(asyncio.Task[Any]):
    """A task of a class of the application's own."""


def own_class(loop: Loop, work: Work, **options: Any) -> asyncio.Task[Any]:
    """Make a task of another class."""
    return OwnTask(work, loop=loop, **options)


def factories() -> dict[str, Factory]:
    """The factories by name; asyncio's own eager one is among them if this Python has it."""
    found: dict[str, Factory] = {
        "first_step": first_step,
        "wrapping": wrapping,
        "delaying": delaying,
        "own_class": own_class,
    }
    if hasattr(asyncio, "eager_task_factory"):
        found["eager"] = asyncio.eager_task_factory
    return found
