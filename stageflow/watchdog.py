"""Time limits: many of them, with one timer of the event loop."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable


class Watch:
    """One time limit that is being kept.

    Attributes:
        expired: Whether it has passed while it was kept.
    """

    __slots__ = ("expired", "on_expiry", "released")

    def __init__(self, on_expiry: Callable[[], object]) -> None:
        self.on_expiry = on_expiry
        self.expired = False
        self.released = False


class Watchdog:
    """Keeps the time limits of one run.

    A timer of the loop costs several microseconds to set and to cancel. Here only the nearest
    limit has one; the others wait in a heap, and one that is released is dropped when its turn
    comes.
    """

    __slots__ = ("_armed_for", "_count", "_heap", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Watch]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0
        self._count = 0

    def watch(self, when: float, on_expiry: Callable[[], object]) -> Watch:
        """Call `on_expiry` at loop time `when` (seconds), unless the watch is released before."""
        watch = Watch(on_expiry)
        # The count keeps limits of the same moment in the order in which they were set.
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, watch))
        if self._timer is None or when < self._armed_for:
            self._arm(when)
        return watch

    def close(self) -> None:
        """Forget every limit."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = when
        self._timer = self._loop.call_at(when, self._bark)

    def _bark(self) -> None:
        self._timer = None
        # A loop may call a timer early by the resolution of its clock.
        now = max(self._loop.time(), self._armed_for)
        heap = self._heap
        while heap:
            when, _, watch = heap[0]
            if when > now and not watch.released:
                self._arm(when)
                return
            heapq.heappop(heap)
            if not watch.released:
                watch.expired = True
                watch.on_expiry()
