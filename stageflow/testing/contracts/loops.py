"""What the tests of a contract run on: a simulated event loop, or a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from functools import cached_property
from itertools import count
from typing import Any, TypeVar

from stageflow.testing.contracts.cancellation import CancellationProbe
from stageflow.testing.contracts.overrides import Contract
from stageflow.testing.contracts.unawaited import every_call_awaited
from stageflow.testing.simulation import LeftBehindError, SimulationLoop, run_in
from stageflow.testing.simulation.errors import places

T = TypeVar("T")


class LoopContract(Contract):
    """A contract of something that runs in an event loop.

    In simulated time every order and every moment can be tried, but whatever is real I/O is
    refused. On a real loop the same tests run, and these promises are narrower:

    - A cancellation is tried wherever what is under test waits itself, not between the steps of
      tasks that it has started.
    - Tasks at once go in the order that the machine gives them, not in drawn ones.
    - The time to clean up has no limit but `patience_s`, and a task that was left behind is only
      found if it still goes on once `resources` are closed.

    Attributes:
        real_io: Whether what is under test does real I/O, and so needs a real event loop.
        patience_s: On a real loop, how long anything may take before it is said to hang, in
            seconds. It guards against waiting for ever, and is no limit to be held.
        most_cancellations: On a real loop, how many places at most a cancellation is tried at.
    """

    real_io: bool = False
    patience_s: float = 30.0
    most_cancellations: int = 50

    @cached_property
    def resources(self) -> AsyncExitStack:
        """What a maker has opened; it is closed in the loop that it was used in.

        Register a client where it is made, ``self.resources.push_async_exit(client)``, or enter
        it in a maker that is itself asynchronous.
        """
        return AsyncExitStack()

    def _run(self, work: Coroutine[Any, Any, T], loop: SimulationLoop | None = None) -> T:
        """Run in a new event loop, close what was opened, and make sure that nothing is left."""
        with every_call_awaited():
            closing = self._closing(work)
            if self.real_io:
                return _run_really(closing, self.patience_s)
            return run_in(loop if loop is not None else SimulationLoop(), closing)

    async def _closing(self, work: Coroutine[Any, Any, T]) -> T:
        async with self.resources:
            return await work

    def _points(self) -> Iterable[int]:
        """Where to cancel: the first place, the second, and so on."""
        return range(1, self.most_cancellations + 1) if self.real_io else count(1)

    def _cancel_everywhere(
        self, attempt: Callable[[CancellationProbe], Coroutine[Any, Any, None]]
    ) -> None:
        """Make one attempt after another, each cancelled later, until one ends before that."""
        for point in self._points():
            probe = CancellationProbe(point)
            self._run(attempt(probe))
            if probe.cancelled_at_s is None:
                return


def _run_really(work: Coroutine[Any, Any, T], patience_s: float) -> T:
    """As `run_in`, on an event loop of asyncio's own.

    Raises:
        AssertionError: It takes longer than `patience_s`.
        LeftBehindError: Tasks go on when it has ended.
        ExceptionGroup: Callbacks raised, and nobody handled it.
    """
    loop = asyncio.new_event_loop()
    raised: list[Exception] = []

    def keep(_: object, found: dict[str, Any]) -> None:
        if "exception" in found:
            raised.append(found["exception"])

    loop.set_exception_handler(keep)
    try:
        value = loop.run_until_complete(_guarded(work, patience_s))
    finally:
        loop.run_until_complete(_end(patience_s))
        loop.close()
    if raised:
        raise ExceptionGroup("nobody handled what callbacks and tasks raised", raised)
    return value


async def _guarded(work: Coroutine[Any, Any, T], patience_s: float) -> T:
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=patience_s)
    left = places(_others())
    if not task.done():
        raise AssertionError(f"it goes on after {patience_s:g} s:\n  " + "\n  ".join(left))
    value = task.result()
    if left:
        raise LeftBehindError(left)
    return value


async def _end(patience_s: float) -> None:
    """Cancel what is left, so that no coroutine is dropped in the middle; not for ever."""
    left = _others()
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=patience_s)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


def _others() -> set[asyncio.Task[Any]]:
    current = asyncio.current_task()
    return {task for task in asyncio.all_tasks() if task is not current}
