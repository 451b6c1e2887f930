"""Hand events from runs to sinks without delaying a run."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakSet

from stageflow._utils.closing import Closing
from stageflow._utils.fork import renew_after_fork
from stageflow.errors import InvalidConfigError
from stageflow.errors.data import require_counts, require_durations, require_methods
from stageflow.events.log import EventBatch, EventLog, EventSink, RawEvent

_log = logging.getLogger("stageflow.events")

#: How long the end of the process waits for all sinks, in seconds.
_EXIT_S = 5.0


@dataclass(frozen=True, slots=True)
class SinkStats:
    """Counts of the events for one sink, which is named by its class; if it raises, they `failed`.

    Events are `dropped` when the buffer is full, the dispatcher has been closed, or the sink is
    still busy then.
    """

    sink: str
    written: int
    dropped: int
    failed: int


class _Lane:
    """One sink, its bounded buffer, and the thread that empties it."""

    def __init__(self, sink: EventSink, capacity: int, interval_s: float) -> None:
        self._sink = sink
        self.name = type(sink).__name__
        self._capacity = self._room = capacity
        self._interval_s = interval_s
        self._reset()
        self._start()
        renew_after_fork(self)

    def _reset(self) -> None:
        self._buffer: deque[tuple[EventLog, int]] = deque()
        self._written = self._dropped = self._failed = 0
        self._forked = self._abandoned = False
        self._closing = threading.Event()

    def _start(self) -> None:
        # A process of `multiprocessing` ends without calling the functions of `atexit`.
        if (util := sys.modules.get("multiprocessing.util")) and os.getpid() not in _flushing:
            _flushing.add(os.getpid())
            util.Finalize(None, _flush, exitpriority=10)
        self._thread = threading.Thread(
            target=self._pump, args=(self._forked,), name=f"stageflow-{self.name}", daemon=True
        )
        self._forked = False
        self._thread.start()
        _open.add(self)

    def after_fork(self) -> None:
        """Let the first event start a thread; the parent writes what waits."""
        closed = self._closing.is_set()
        self._reset()
        self._forked, self._room = not closed, 0

    def offer(self, log: EventLog, position: int) -> None:
        if len(self._buffer) >= self._room:
            if not self._forked:
                self._dropped += 1
                return
            self._room = self._capacity
            self._start()
        self._buffer.append((log, position))

    def stats(self) -> SinkStats:
        return SinkStats(self.name, self._written, self._dropped, self._failed)

    def end(self) -> None:
        """Flush, close the sink, and drop further events."""
        self._room = 0
        self._forked = False
        self._closing.set()

    def join(self, deadline: float) -> None:
        _open.discard(self)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._abandoned = True
            self._dropped += len(self._taken())
            _log.error("event sink %s did not finish in time and was left behind", self.name)

    def _pump(self, forked: bool) -> None:
        if forked and (renew := getattr(self._sink, "after_fork", None)) is not None:
            try:
                renew()
            except Exception:
                _log.exception("event sink %s could not be reopened", self.name)
        # Polling keeps the producer's cost at one append.
        while not self._closing.wait(self._interval_s):
            self._drain()
        if not self._abandoned:
            self._drain()
        try:
            self._sink.close()
        except Exception:
            _log.exception("event sink %s could not be closed", self.name)

    def _taken(self) -> list[tuple[EventLog, int]]:
        """Return the waiting events; of two threads, one gets each event."""
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


#: The open lanes, and the processes of `multiprocessing` that flush them.
_open: WeakSet[_Lane] = WeakSet()
_flushing: set[int] = set()


def _close(lanes: Iterable[_Lane], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    # End all before waiting for any, so that one that hangs does not delay the others.
    for lane in lanes:
        lane.end()
    for lane in lanes:
        lane.join(deadline)


@atexit.register
def _flush() -> None:
    _close(tuple(_open), _EXIT_S)


class EventDispatcher(Closing):
    """Hands the events of any number of runs to any number of sinks.

    A run only appends to a buffer, which a thread of each sink empties. A sink that blocks or fails
    costs events (counted in `stats`), not time.

    Use it as a context manager, or call `close`; otherwise it is flushed when the process ends. In
    a forked process the first event starts new threads, which call the sink's method
    ``after_fork``, if it has one, to open its own files and connections.
    """

    def __init__(
        self, sinks: Sequence[EventSink], *, capacity: int = 10_000, interval_s: float = 0.05
    ) -> None:
        """Start a thread for each sink.

        Args:
            sinks: Where the events go.
            capacity: How many events a sink may lag behind before further ones are dropped.
            interval_s: How often a sink receives a batch, in seconds.

        Raises:
            InvalidConfigError: A sink lacks a plain ``write`` or ``close``, or a number is wrong.
        """
        if not isinstance(sinks, Sequence):
            raise InvalidConfigError("EventDispatcher", "sinks", sinks, "give a list of sinks")
        for sink in sinks:
            require_methods("EventDispatcher", "a sink", sink, plain=("write", "close"))
        require_counts("EventDispatcher", capacity=capacity)
        require_durations("EventDispatcher", interval_s=interval_s)
        self._lanes = tuple(_Lane(sink, capacity, interval_s) for sink in sinks)

    def attach(self, log: EventLog) -> None:
        """Hand all further events of `log` to the sinks."""
        keep = log.append
        offers = tuple(lane.offer for lane in self._lanes)

        def append(raw: RawEvent) -> None:
            position = len(log)
            keep(raw)
            for offer in offers:
                offer(log, position)

        log.append = append

    def stats(self) -> tuple[SinkStats, ...]:
        """Return the counts of each sink, in the order of the sinks."""
        return tuple(lane.stats() for lane in self._lanes)

    def close(self, timeout_s: float = 5.0) -> None:
        """Flush and close every sink within `timeout_s` seconds in all."""
        _close(self._lanes, timeout_s)
