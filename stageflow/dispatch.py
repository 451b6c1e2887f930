"""Carries events from runs to sinks, without ever making a run wait."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

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

    def close(self, deadline: float) -> None:
        self._capacity = 0  # what comes from now on would never be flushed
        self._closing.set()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._abandoned = True
            self._dropped += len(self._buffer)
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

    def _drain(self) -> None:
        take = self._buffer.popleft
        batch = EventBatch([take() for _ in range(len(self._buffer))])
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


class EventDispatcher:
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
        """
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
        for lane in self._lanes:
            lane.close(deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
