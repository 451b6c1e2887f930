"""Carries events from runs to sinks, without ever making a run wait."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from stageflow.closing import Closing
from stageflow.durations import is_duration
from stageflow.errors import InvalidConfigError
from stageflow.events import EventBatch, EventLog, EventSink, RawEvent

_log = logging.getLogger("stageflow.dispatch")


@dataclass(frozen=True, slots=True)
class SinkStats:
    """What became of the events that were offered to one sink, in counts of events.

    Attributes:
        sink: Name of the sink's class.
        written: The sink took them.
        dropped: The buffer was full, the sink was still busy when the dispatcher closed, or the
            dispatcher was closed already.
        failed: The sink raised when it was given them.
    """

    sink: str
    written: int
    dropped: int
    failed: int


class _Lane:
    """One sink, its bounded buffer, and the thread that empties it."""

    def __init__(self, sink: EventSink, capacity: int, interval_s: float) -> None:
        self._sink = sink
        self._capacity = capacity
        self._interval_s = interval_s
        self._buffer: deque[tuple[EventLog, int]] = deque()
        self._written = self._dropped = self._failed = 0
        self._abandoned = False
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._pump, name=f"stageflow-{self.name}", daemon=True
        )
        self._thread.start()

    @property
    def name(self) -> str:
        return type(self._sink).__name__

    def offer(self, log: EventLog, position: int) -> None:
        if len(self._buffer) >= self._capacity:
            self._dropped += 1
        else:
            self._buffer.append((log, position))

    def stats(self) -> SinkStats:
        return SinkStats(self.name, self._written, self._dropped, self._failed)

    def end(self) -> None:
        """Flush, close the sink, and take nothing more."""
        self._capacity = 0  # what comes from now on would never be flushed
        self._closing.set()

    def join(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._abandoned = True
            self._dropped += len(self._taken())
            _log.error("event sink %s did not finish in time and was left behind", self.name)

    def _pump(self) -> None:
        # Waking on a clock, not on each event, keeps the producer's cost at one append.
        while not self._closing.wait(self._interval_s):
            self._drain()
        if not self._abandoned:
            self._drain()
        try:
            self._sink.close()
        except Exception:
            _log.exception("event sink %s could not be closed", self.name)

    def _taken(self) -> list[tuple[EventLog, int]]:
        """What waits; if two threads take at once, each event goes to one of them."""
        take, taken = self._buffer.popleft, []
        with suppress(IndexError):
            for _ in range(len(self._buffer)):
                taken.append(take())  # noqa: PERF401 - keeps what came before the other took all
        return taken

    def _drain(self) -> None:
        batch = EventBatch(self._taken())
        if not batch:
            return
        try:
            self._sink.write(batch)
        except Exception:
            if not self._failed:
                _log.exception("event sink %s is failing", self.name)
            self._failed += len(batch)
        else:
            self._written += len(batch)


class EventDispatcher(Closing):
    """Hands the events of any number of runs to any number of sinks.

    A run only appends to a buffer. Each sink has a thread that empties its buffer, so a sink that
    blocks, fails or never returns costs events (counted in `stats`), not time.

    Use it as a context manager, or call `close`.
    """

    def __init__(
        self, sinks: Sequence[EventSink], *, capacity: int = 10_000, interval_s: float = 0.05
    ) -> None:
        """Start one thread a sink.

        Args:
            sinks: Where the events go.
            capacity: How many events a sink may lag behind before further ones are dropped.
            interval_s: How often a sink is given what has come, in seconds.

        Raises:
            InvalidConfigError: The capacity is no positive integer, or the interval no positive,
                finite number.
        """
        if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 1:
            raise InvalidConfigError(
                "EventDispatcher", "capacity", capacity, "give a positive integer"
            )
        if not is_duration(interval_s):
            raise InvalidConfigError(
                "EventDispatcher", "interval_s", interval_s, "give a positive number of seconds"
            )
        self._lanes = tuple(_Lane(sink, capacity, interval_s) for sink in sinks)

    def attach(self, log: EventLog) -> None:
        """Let everything that is appended to `log` from now on reach the sinks too."""
        keep = log.append
        offers = tuple(lane.offer for lane in self._lanes)

        def append(raw: RawEvent) -> None:
            position = len(log)
            keep(raw)
            for offer in offers:
                offer(log, position)

        log.append = append

    def stats(self) -> tuple[SinkStats, ...]:
        """The counts of each sink, in the order in which the sinks were given."""
        return tuple(lane.stats() for lane in self._lanes)

    def close(self, timeout_s: float = 5.0) -> None:
        """Flush and close every sink; wait for that no longer than `timeout_s` in all."""
        deadline = time.monotonic() + timeout_s
        # All of them before any is waited for: one that hangs takes nothing from the others.
        for lane in self._lanes:
            lane.end()
        for lane in self._lanes:
            lane.join(deadline)
