"""The streams of one run: who may open them, who waits for that, and whose end closes them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from stageflow.bag import ContextBag
from stageflow.errors import (
    InvalidConfigError,
    StageflowError,
    StreamClosedError,
    StreamReopenedError,
    UndeclaredStreamError,
)
from stageflow.events import (
    STREAM_CLOSED,
    STREAM_FIRST_ITEM,
    STREAM_OPENED,
    EventLog,
    stage_event_type,
)
from stageflow.stream import Stream, StreamRoute, StreamWriter


class EarlyLatch(NamedTuple):
    """What stages wait for that read streams of one producer.

    Attributes:
        keys: The streams that have to be open.
        latch: The latch that is then counted down; at the producer's end if they never are.
    """

    keys: frozenset[str]
    latch: int


class StreamBoard:
    """All streams of one run.

    The engine tells it when a stage ends, and hears from it which latches to count down.
    """

    __slots__ = (
        "_bag",
        "_early",
        "_ended",
        "_log",
        "_loop",
        "_opened",
        "_read",
        "_release",
        "_routes",
        "_written",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        log: EventLog,
        bag: ContextBag,
        *,
        routes: Mapping[str, StreamRoute],
        written: Mapping[str, Sequence[str]],
        read: Mapping[str, Sequence[str]],
        early: Mapping[str, Sequence[EarlyLatch]],
        release: Callable[[list[int]], None],
    ) -> None:
        """Begin without a stream.

        Args:
            loop: The run's loop.
            log: Where events go.
            bag: Where streams go.
            routes: Who writes and reads each stream, by key.
            written: For each stage that writes streams, by name, their keys.
            read: The same for each stage that reads some.
            early: For each producer, by name, what waits for its streams.
            release: Counts latches down while a stage runs.
        """
        self._loop = loop
        self._log = log
        self._bag = bag
        self._routes = routes
        self._written = written
        self._read = read
        self._early = {stage: list(waiting) for stage, waiting in early.items()}
        self._release = release
        self._opened: dict[str, dict[str, Stream]] = defaultdict(dict)
        self._ended: set[str] = set()

    def open(self, stage: str, started_at: float, key: str, capacity: int) -> StreamWriter:
        """Open a stream, or go on with it in another attempt; see `StageContext.open`."""
        owned = self._written.get(stage, ())
        if key not in owned:
            raise UndeclaredStreamError(key, owned)
        if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 1:
            raise InvalidConfigError(
                f"stream {key!r}", "capacity", capacity, "give a positive whole number"
            )
        if stage in self._ended:
            raise StreamClosedError(key, stage)
        stream = self._opened[stage].get(key)
        if stream is None:
            stream = self._open(stage, started_at, key)
        elif stream.count:
            raise StreamReopenedError(key, stream.count)
        stream.capacity = capacity
        return StreamWriter(stream)

    def _open(self, stage: str, started_at: float, key: str) -> Stream:
        def announce() -> None:
            elapsed_ms = (self._loop.time() - started_at) * 1000.0
            self._tell(STREAM_FIRST_ITEM, stage, stream=key, elapsed_ms=elapsed_ms)

        route = self._routes[key]
        stream = Stream(key, route, announce=announce)
        for reader in (*route.live, *route.late):
            if reader in self._ended:
                stream.leave(reader)
        self._bag.put(key, stream, stage)
        opened = self._opened[stage]
        opened[key] = stream
        self._tell(STREAM_OPENED, stage, stream=key)
        waiting = self._early.get(stage, [])
        passed = [early for early in waiting if early.keys <= opened.keys()]
        if passed:
            self._early[stage] = [early for early in waiting if early not in passed]
            self._release([early.latch for early in passed])
        return stream

    def unopened(self, stage: str) -> list[str]:
        """The streams that the stage declares and has not opened."""
        opened = self._opened[stage]
        return sorted(key for key in self._written.get(stage, ()) if key not in opened)

    def has_put(self, stage: str) -> bool:
        """Whether the stage has put an item into any of its streams."""
        return any(stream.count for stream in self._opened[stage].values())

    def end(
        self, stage: str, outcome: str, at: float, failure: StageflowError | None = None
    ) -> list[int]:
        """Close the streams that a stage writes, and the readers that it has.

        Args:
            stage: Name of the stage that has ended.
            outcome: ``completed``, ``failed`` or ``cancelled``.
            at: When, by the loop's clock, in seconds.
            failure: Why it failed.

        Returns:
            The latches that still waited for it to open a stream.
        """
        self._leave(stage)
        for key, stream in self._opened[stage].items():
            stream.close(outcome, failure)
            kind = stage_event_type(stage, STREAM_CLOSED)
            data = {"stream": key, "items": stream.count, "outcome": outcome}
            self._log.append((kind, at, stage, data))
        return [early.latch for early in self._early.pop(stage, [])]

    def abandon(self, begun: Collection[str | None]) -> None:
        """The run stops: stages that have not begun will never read."""
        for stage in sorted(self._read.keys() - begun):
            self._leave(stage)

    def _leave(self, stage: str) -> None:
        self._ended.add(stage)
        for key in self._read.get(stage, ()):
            stream = self._opened[self._routes[key].producer].get(key)
            if stream is not None:
                stream.leave(stage)

    def _tell(self, what: str, stage: str, **data: object) -> None:
        self._log.append((stage_event_type(stage, what), self._loop.time(), stage, data))
