"""Cancels at one point, and sees who comes back all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Self, TypeVar

from stageflow.context import StageContext
from stageflow.errors import InvalidOutputError, OutputMismatchError, StageFailedError
from stageflow.interceptors.base import CallNext, Interceptor
from stageflow.stage import StageOutput
from stageflow.testing.simulation import SimulationLoop

T = TypeVar("T")

#: What becomes of a stage's return value before an interceptor sees it, if it is no success.
_RETURNED = (StageFailedError, InvalidOutputError, OutputMismatchError)


class Waits(Generator[Any, Any, T]):
    """Awaits some work, and calls back just after it has begun to wait for the n-th time.

    On a real loop that can be repeated, as the order and the number of its callbacks cannot.

    Attributes:
        count: How often the work has waited so far.
    """

    def __init__(self, work: Awaitable[T], at: int, callback: Callable[[], object]) -> None:
        self.count = 0
        self._work = work
        self._steps: Any = work.__await__()
        self._at = at
        self._callback = callback

    def __await__(self) -> Self:
        return self

    @property
    def gi_yieldfrom(self) -> object:
        """What is being awaited: whoever asks where a task waits can look through this."""
        return self._work

    def send(self, value: Any, /) -> Any:
        """Go on; see `Generator.send`."""
        return self._waited(next(self._steps) if value is None else self._steps.send(value))

    def throw(self, error: Any, value: Any = None, traceback: Any = None, /) -> Any:
        """Go on with an error; see `Generator.throw`."""
        return self._waited(self._steps.throw(error if value is None else value))

    def _waited(self, awaited: Any) -> Any:
        self.count += 1
        if self.count == self._at:
            asyncio.get_running_loop().call_soon(self._callback)
        return awaited


class CancellationProbe(Interceptor):
    """Cancels a task at one point, and sees whether the stage came back although it was cancelled.

    Attributes:
        point: Where: before a callback, counted from `aim` on, if the loop is simulated; on a real
            one after the stage, with what stands around it, has begun to wait so many times.
        begun: Whether the stage was called.
        swallowed: Whether it returned, be it a failure.
        cancelled_at_s: When the task was cancelled, in the loop's seconds; None if it had ended
            before.
    """

    def __init__(self, point: int) -> None:
        self.point = point
        self.begun = False
        self.swallowed = False
        self.cancelled_at_s: float | None = None
        self._task: asyncio.Future[Any] | None = None

    def aim(self, task: asyncio.Future[Any]) -> None:
        """Choose the task that is cancelled."""
        self._task = task
        loop = asyncio.get_running_loop()
        if isinstance(loop, SimulationLoop):
            loop.at_step(loop.steps + self.point, self._cancel)

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Call the stage, and look at the task that it ran in."""
        self.begun = True
        work: Awaitable[StageOutput] = call_next(ctx)
        if not isinstance(asyncio.get_running_loop(), SimulationLoop):
            work = Waits(work, self.point, self._cancel)
        try:
            output = await work
        except _RETURNED:
            self._look()
            raise
        self._look()
        return output

    def _look(self) -> None:
        task = asyncio.current_task()
        self.swallowed = task is not None and task.cancelling() > 0

    def _cancel(self) -> None:
        assert self._task is not None, "aim first"
        if self._task.cancel():
            self.cancelled_at_s = asyncio.get_running_loop().time()
