"""An event loop whose clock jumps to the next timer instead of waiting for it.

A test that waits an hour of the loop's time takes no time, and two runs of it meet their timers
in the same order, however loaded the machine is.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: Real seconds to wait for another thread when no timer is left; longer means a deadlock.
_PATIENCE_S = 10.0


class DeadlockError(RuntimeError):
    """Every task waits, and nothing is left that could wake one."""


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that, asked to wait, moves the clock on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            ready = super().select(_PATIENCE_S)
            if not ready:
                raise DeadlockError("every task waits, and no timer is set")
            return ready
        ready = super().select(0)
        if not ready and timeout > 0:
            self.now_s += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop that begins at 0 s and waits for nothing."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Seconds since the loop was made, in its own time."""
        return self._clock.now_s

    def pass_time(self, seconds: float) -> None:
        """Let time pass as work does that holds the loop."""
        self._clock.now_s += seconds


class CancellingLoop(VirtualTimeLoop):
    """Calls a function once, at the start of its n-th pass.

    Attributes:
        passes: How many passes there were since the function was set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0
        self._due: tuple[int, Callable[[], object]] | None = None
        select = self._clock.select

        def counting(timeout: float | None = None) -> Any:
            self.passes += 1
            if self._due is not None and self._due[0] == self.passes:
                self._due[1]()
                # What was called has work for this pass: no time is waited for.
                return select(0)
            return select(timeout)

        self._clock.select = counting  # type: ignore[method-assign]

    def at_pass(self, number: int, callback: Callable[[], object]) -> None:
        self.passes, self._due = 0, (number, callback)


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main` in a loop of virtual time, and make sure that no task outlives it.

    Args:
        main: An async function without arguments.

    Returns:
        What `main` returns.
    """

    async def guarded() -> T:
        result = await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks were left behind: {left}"
        return result

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(guarded())
