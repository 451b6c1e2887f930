"""Event loops for the tests of a contract: a simulated event loop, or a real one."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from functools import cached_property
from itertools import count
from typing import Any, TypeVar

from stageflow.resilience.circuit_breaker import forget_breakers
from stageflow.testing.contracts.base import Contract
from stageflow.testing.contracts.conduct import every_call_awaited, restored
from stageflow.testing.contracts.probes import CancellationProbe
from stageflow.testing.simulation import LeftBehindError, Schedule, SimulationLoop, run_in
from stageflow.testing.simulation.errors import places
from stageflow.testing.simulation.loop import raise_unhandled

S = TypeVar("S")
T = TypeVar("T")
_IN_ORDER = Schedule()


class LoopContract(Contract):
    """A contract of something that runs in an event loop.

    In simulated time all orders and moments can be tried, and real I/O is refused. On a real loop
    the same tests find less: a cancellation is tried only where what is under test waits itself,
    tasks run in the machine's order, the only limit of a clean-up is `patience_s`, and a task that
    is left behind is found only if it still runs once `resources` are closed.

    Attributes:
        real_io: Whether what is under test does real I/O, and so needs a real event loop.
        patience_s: On a real loop, after how many seconds a test is said to hang.
        most_cancellations: On a real loop, at how many places at most a cancellation is tried.
    """

    real_io: bool = False
    patience_s: float = 30.0
    most_cancellations: int = 50

    @cached_property
    def resources(self) -> AsyncExitStack:
        """Resources of makers: enter one here, and it is closed in the loop that used it."""
        return AsyncExitStack()

    def _run(self, work: Coroutine[Any, Any, T], schedule: Schedule = _IN_ORDER) -> T:
        """Run in a new event loop, close what was opened, and check that nothing is left."""
        forget_breakers()
        with every_call_awaited(), restored():
            closing = self._closing(work)
            if self.real_io:
                return _run_really(closing, self.patience_s)
            return run_in(SimulationLoop(schedule), closing)

    async def _closing(self, work: Coroutine[Any, Any, T]) -> T:
        async with self.resources:
            value = await work
        loop = asyncio.get_running_loop()
        if isinstance(loop, SimulationLoop):
            loop.check_nothing_left()
            timers = [timer for *_, timer in loop._timers if not timer.cancelled()]
            assert not timers, f"timers are set when it has ended: cancel {timers}"
        return value

    def _points(self) -> Iterable[int]:
        return range(1, self.most_cancellations + 1) if self.real_io else count(1)

    def _cancel_everywhere(
        self, attempt: Callable[[CancellationProbe], Coroutine[Any, Any, None]]
    ) -> None:
        """Make one attempt after another, each cancelled later, until one ends before that."""
        for point in self._points():
            probe = CancellationProbe(point)
            with probe.excusing_groups():
                self._run(attempt(probe))
            if probe.cancelled_at_s is None:
                return


def on_subject(test: Callable[[Any, S], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    """Run an async test in a new event loop, with what `_subject` makes there."""

    @functools.wraps(test)
    def run(self: Any) -> None:
        async def main() -> None:
            await test(self, await self._subject())

        self._run(main())

    # Otherwise pytest sees the signature of `test` and looks for a fixture of the subject's name.
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _run_really(work: Coroutine[Any, Any, T], patience_s: float) -> T:
    """Do what `run_in` does, on an event loop of asyncio's own, for `patience_s` at most."""
    loop = asyncio.new_event_loop()
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, found: unhandled.append(found))
    try:
        value = loop.run_until_complete(_guarded(work, patience_s))
    finally:
        loop.run_until_complete(_end(patience_s))
        loop.close()
    raise_unhandled(unhandled)
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
    """Cancel what is left, so that no coroutine is dropped in the middle, and wait a while."""
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
