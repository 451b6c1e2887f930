"""Many time limits on one timer of the event loop."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable


class Timer:
    """One time limit; `expired` if it has passed before it was released."""

    __slots__ = ("expired", "on_expiry")

    def __init__(self, on_expiry: Callable[[], object]) -> None:
        self.on_expiry: Callable[[], object] | None = on_expiry
        self.expired = False

    def release(self) -> None:
        """Do nothing when the time comes, and refer to nothing."""
        self.on_expiry = None


class TimerHeap:
    """The time limits of one run; only the earliest has a timer of the loop, which is costly."""

    __slots__ = ("_armed_for", "_count", "_heap", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Timer]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0
        self._count = 0

    def set(self, when: float, on_expiry: Callable[[], object]) -> Timer:
        """Call `on_expiry` at loop time `when` (seconds), unless the timer is released earlier."""
        timer = Timer(on_expiry)
        # The count keeps limits for the same time in the order in which they were set.
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, timer))
        if self._timer is None or when < self._armed_for:
            self._arm(when)
        return timer

    def close(self) -> None:
        """Drop every limit."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = when
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        # A loop may call a timer early by the resolution of its clock.
        now = max(self._loop.time(), self._armed_for)
        heap = self._heap
        while heap:
            when, _, timer = heap[0]
            if when > now and timer.on_expiry:
                self._arm(when)
                return
            heapq.heappop(heap)
            if timer.on_expiry:
                timer.expired = True
                timer.on_expiry()
