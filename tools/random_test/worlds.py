"""Worlds: event loops, task factories and modes in which a plan is played."""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from stageflow.testing import Schedule, SimulationLoop

uvloop: Any
try:
    import uvloop
except ImportError:  # a Python without a wheel of it
    uvloop = None


class StuckError(Exception):
    """Nothing is ready, no timer is set, and no thread works: nothing would ever happen."""


class _JumpingSelector(selectors.DefaultSelector):
    """Lets virtual time pass instead of waiting."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready; jump to the next timer if nothing is."""
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.loop.working:
            return super().select(10)
        if timeout is None:
            raise StuckError("every task waits for another")
        self.loop.jump()
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop with virtual time; threads work in real time.

    Attributes:
        working: How many threads are at work; time stands still meanwhile.
    """

    def __init__(self) -> None:
        selector = _JumpingSelector()
        super().__init__(selector)
        selector.loop = self
        self.working = 0
        self._now = 0.0

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def jump(self) -> None:
        """Jump to the next timer."""
        # asyncio drops cancelled timers from the front before it selects.
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        self._now = max(self._now, timers[0].when())

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        """Run in a thread, and hold time meanwhile."""
        self.working += 1
        future = super().run_in_executor(executor, func, *args)
        inner: Any = future

        def ended(_: object) -> None:
            self.working -= 1

        inner.add_done_callback(ended)
        return future


@dataclass(frozen=True)
class World:
    """Where a plan is played.

    Attributes:
        loop: ``simulated``, ``virtual``, ``asyncio`` or ``uvloop``.
        factory: The loop's task factory: none, ``eager`` or ``wrapping``.
        debug: Whether the loop is in debug mode.
        seed: Of the order of a simulated loop.
    """

    loop: str
    factory: str | None = None
    debug: bool = False
    seed: int = 0

    @property
    def virtual(self) -> bool:
        """Whether time is virtual."""
        return self.loop in {"simulated", "virtual"}

    def make(self) -> asyncio.AbstractEventLoop:
        """Return a new loop of this kind."""
        loop: asyncio.AbstractEventLoop
        if self.loop == "simulated":
            loop = SimulationLoop(Schedule(seed=self.seed))
        elif self.loop == "virtual":
            loop = VirtualLoop()
        elif self.loop == "asyncio":
            loop = asyncio.SelectorEventLoop()
        else:
            loop = uvloop.new_event_loop()
        loop.set_task_factory(_FACTORIES[self.factory])
        loop.set_debug(self.debug)
        return loop

    def __str__(self) -> str:
        """Return its words in one line."""
        words = [self.loop, f"{self.factory} tasks" if self.factory else ""]
        return ", ".join([word for word in words if word] + ["debug"] * self.debug)


def _wrapping(loop: Any, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    options.pop("eager_start", None)

    async def wrapped() -> Any:
        return await coro

    task = asyncio.Task(wrapped(), loop=loop, **options)
    # If the task is cancelled before it begins, nobody awaits the coroutine inside.
    task.add_done_callback(lambda _: coro.close())
    return task


def _eager(loop: Any, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    # asyncio's own takes no option `eager_start`, which uvloop passes, before 3.13.3.
    return asyncio.Task(coro, loop=loop, **(options | {"eager_start": True}))


_FACTORIES: dict[str | None, Callable[..., Any] | None] = {None: None, "wrapping": _wrapping}
if sys.version_info >= (3, 12):
    _FACTORIES["eager"] = _eager

LOOPS = ("simulated", "virtual", "asyncio") + (("uvloop",) if uvloop else ())


def worlds() -> list[World]:
    """Return the worlds that this Python has."""
    return [
        World(loop, factory, debug)
        for loop in LOOPS
        for factory in _FACTORIES
        for debug in (False, True)
    ]
