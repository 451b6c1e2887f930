"""Stand-ins: sinks that misbehave on command, a loop by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stageflow import Event


class RecordingSink:
    """Keeps what it is given, and can be waited for.

    Attributes:
        batches: What each call of `write` was given.
        closed: How often it was closed.
    """

    def __init__(self, wanted: int = 1) -> None:
        self.batches: list[tuple[Event, ...]] = []
        self.closed = 0
        self._wanted = wanted
        self.got_wanted = threading.Event()

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]

    def write(self, events: Sequence[Event]) -> None:
        self.batches.append(tuple(events))
        if len(self.events) >= self._wanted:
            self.got_wanted.set()

    def close(self) -> None:
        self.closed += 1


class GatedSink(RecordingSink):
    """Blocks in its first `write` until it is let go.

    Attributes:
        entered: Set when it has begun to write.
        gate: Set it to let the sink go on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.left = threading.Event()

    def write(self, events: Sequence[Event]) -> None:
        self.entered.set()
        assert self.gate.wait(30), "nobody opened the gate"
        super().write(events)

    def close(self) -> None:
        super().close()
        self.left.set()


class BrokenSink:
    """Raises whatever it is asked.

    Attributes:
        refused: How many events it has refused.
    """

    def __init__(self) -> None:
        self.refused = 0
        self.refusing = threading.Event()

    def write(self, events: Sequence[Event]) -> None:
        self.refused += len(events)
        self.refusing.set()
        raise OSError("disk full")

    def close(self) -> None:
        raise OSError("cannot close")


class _Timer:
    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class ManualLoop:
    """As much of an event loop as a timer needs; a test sets its clock.

    Attributes:
        now_s: What its clock shows.
        timers: Every timer that was ever set.
    """

    now_s: float = 0.0
    timers: list[_Timer] = field(default_factory=list)

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, callback: Callable[[], object]) -> _Timer:
        timer = _Timer(when, callback)
        self.timers.append(timer)
        return timer

    @property
    def pending(self) -> list[_Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def advance_to(self, now_s: float, *, early_s: float = 0.0) -> None:
        """Move the clock, calling what falls due; `early_s` before its time, as real loops may."""
        while due := sorted((t for t in self.pending if t.when <= now_s), key=lambda t: t.when):
            self.now_s = max(self.now_s, due[0].when - early_s)
            due[0].cancelled = True
            due[0].callback()
            assert len(self.timers) < 1_000, "timers are set again and again without end"
        self.now_s = now_s


class FakeDatabase:
    """A database of one dict."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Mapping[str, Any]] = {}

    async def get(self, collection: str, key: str) -> Mapping[str, Any] | None:
        return self.records.get((collection, key))

    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        self.records[collection, key] = record
