"""A stage's output that others read while the stage still writes it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self

from stageflow.errors import (
    StageflowError,
    StreamCancelledError,
    StreamClosedError,
    StreamFailedError,
    StreamNotKeptError,
)
from stageflow.events import CANCELLED, COMPLETED, FAILED

#: How many items a producer may be ahead of its slowest live reader unless it says otherwise.
CAPACITY = 16


class StreamRoute(NamedTuple):
    """Who writes a stream, and who reads it.

    Attributes:
        producer: Name of the stage that opens it.
        live: Names of the readers that hold the producer back. Nothing but this stream can make
            them wait for the producer, so they are sure to read on.
        late: Names of the other readers: they may have to wait for the producer's end, or for
            something that does, and so must not hold it back. All items are kept for them.
    """

    producer: str
    live: tuple[str, ...] = ()
    late: tuple[str, ...] = ()


class Stream:
    """The items of one stream, in order, and where each of its readers stands.

    A stage gets its own reader by ``ctx[key]``, and whoever holds the stream itself, as in
    ``result.outputs[key]`` or in `PipelineContext.bag` while the run goes on, reads it by
    ``async for``: each loop sees every item from the first, and holds nobody back.

    Items are dropped once all live readers have read them, unless all have to be kept: for a late
    reader, or because no stage reads the stream, so that it is the run's result.

    Attributes:
        key: The key under which it stands in the bag.
        producer: Name of the stage that writes it.
        capacity: How many items the producer may be ahead of the slowest live reader.
        count: How many items have been put.
        outcome: ``completed``, ``failed`` or ``cancelled``, as its stage; None while it is open.
        kept: Whether all items are kept.
    """

    __slots__ = (
        "_announce",
        "_failure",
        "_first",
        "_floor",
        "_items",
        "_live",
        "_putting",
        "_readers",
        "_refused",
        "_unread",
        "capacity",
        "count",
        "kept",
        "key",
        "outcome",
        "producer",
        "wanted",
    )

    def __init__(
        self,
        key: str,
        route: StreamRoute,
        *,
        capacity: int = CAPACITY,
        announce: Callable[[], None] | None = None,
    ) -> None:
        """Open a stream; in a stage, use `StageContext.open`.

        Args:
            key: Its key.
            route: Who writes it, and who will read it.
            capacity: How many items the producer may be ahead of the slowest live reader.
            announce: Called once, just before the first item is there.
        """
        self.key = key
        self.producer = route.producer
        self.capacity = capacity
        self.count = 0
        self.outcome: str | None = None
        self.kept = bool(route.late) or not route.live
        #: Whether somebody will read on, or it is the run's result.
        self.wanted = True
        self._failure: StageflowError | None = None
        self._announce = announce
        #: What is still held; the first of it has the number `_first`.
        self._items: list[Any] | deque[Any] = [] if self.kept else deque()
        self._first = 0
        #: The readers of stages, until they are closed.
        self._readers = {
            name: StreamReader(self, live=name in route.live) for name in (*route.live, *route.late)
        }
        #: The live readers that are open, and where the slowest of them stands.
        self._live = [reader for reader in self._readers.values() if reader.live]
        self._floor = 0
        #: Whether an item was refused because nobody was to read it.
        self._refused = False
        #: Those who wait: for room, the next one first, and for an item.
        self._putting: deque[asyncio.Future[None]] = deque()
        self._unread: list[asyncio.Future[None]] = []

    @classmethod
    def of(cls, items: Iterable[Any], *, key: str = "items", producer: str = "") -> Self:
        """A completed stream of these items, such as the input of a stage that is tested alone."""
        stream = cls(key, StreamRoute(producer))
        stream._items = list(items)
        stream.count = len(stream._items)
        stream.outcome = COMPLETED
        return stream

    # ── reading ─────────────────────────────────────────────────────────────────────────────

    def __aiter__(self) -> StreamReader:
        return StreamReader(self)

    def reader(self, stage: str) -> StreamReader:
        """The reader of that stage; a new one, which holds nobody back, if it declares none."""
        return self._readers.get(stage) or StreamReader(self)

    @property
    def whole(self) -> bool:
        """Whether it has completed and all that was ever to be put is still there."""
        return self.kept and self.outcome == COMPLETED and not self._refused

    def items(self) -> tuple[Any, ...]:
        """All items of a stream that is whole.

        Raises:
            StreamNotKeptError: Items were dropped, or refused, or may still come.
        """
        if not self.whole:
            raise StreamNotKeptError(self.key, self._why_not_whole())
        return tuple(self._items)

    def _why_not_whole(self) -> str:
        if not self.kept:
            return "its items are dropped once all live readers have read them"
        if self.outcome is None:
            return f"stage {self.producer!r} has not ended"
        if self.outcome != COMPLETED:
            return f"stage {self.producer!r} {_ENDED[self.outcome]}"
        return "items were refused when nobody was to read them any more"

    # ── writing ─────────────────────────────────────────────────────────────────────────────

    def close(self, outcome: str, failure: StageflowError | None = None) -> None:
        """Let no more items in, and tell readers how it ended; for the engine.

        Args:
            outcome: ``completed``, ``failed`` or ``cancelled``.
            failure: Why it failed.
        """
        self.outcome = outcome
        self._failure = failure
        self._announce = None
        _wake(self._putting)
        self._tell_readers()

    def _is_full(self) -> bool:
        return bool(self._live) and self.count - self._floor >= self.capacity

    async def _wait_for_room(self) -> None:
        """Wait for one's turn; those who wait are let in one at a time, in order."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._putting.append(waiter)
        try:
            await waiter
        except BaseException:
            self._putting.remove(waiter)
            # It may have been let in already, and does not come.
            self._let_in()
            raise
        self._putting.remove(waiter)

    def _let_in(self) -> None:
        if self._putting and not self._is_full():
            _wake((self._putting[0],))

    def _take(self, item: Any) -> None:
        if self._announce is not None:
            self._announce()
            self._announce = None
        self._items.append(item)
        self.count += 1
        if self._unread:
            self._tell_readers()
        if self._putting:
            self._let_in()

    # ── where readers stand ─────────────────────────────────────────────────────────────────

    def _advance(self) -> None:
        """The slowest live reader has gone on or has left: drop what is read, and make room."""
        live, items = self._live, self._items
        if len(live) == 1:
            self._floor = live[0].position
        else:
            self._floor = min((reader.position for reader in live), default=self.count)
        if isinstance(items, deque):
            while self._first < self._floor:
                items.popleft()
                self._first += 1
        if self._putting:
            self._let_in()

    def leave(self, stage: str) -> None:
        """Close the reader of that stage, if it has one; for the engine."""
        if stage in self._readers:
            self._readers[stage].close()

    def _left(self, reader: StreamReader) -> None:
        if reader.live:
            self._live.remove(reader)
            self._advance()
        declared = bool(self._readers)
        self._readers = {name: r for name, r in self._readers.items() if r is not reader}
        if declared and not self._readers:
            self.wanted = False
            _wake(self._putting)
        # Another task of the same stage may wait with this reader.
        self._tell_readers()

    def _tell_readers(self) -> None:
        waiting, self._unread = self._unread, []
        _wake(waiting)

    async def _wait_for_item(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unread.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter in self._unread:
                self._unread.remove(waiter)
            raise

    def __repr__(self) -> str:
        state = self.outcome or "open"
        return f"Stream({self.key!r} by {self.producer!r}, {self.count} items, {state})"


class StreamReader:
    """Goes through a stream from its first item to its end; an async iterator.

    Attributes:
        live: Whether it holds the producer back.
        position: How many items it has read.
        closed: Whether it reads no more.
    """

    __slots__ = ("_stream", "closed", "live", "position")

    def __init__(self, stream: Stream, *, live: bool = False) -> None:
        self._stream = stream
        self.live = live
        self.position = 0
        self.closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """The next item, once it is there.

        Raises:
            StreamFailedError: The stage that writes the stream has failed, and all that it had
                put before is read.
            StreamCancelledError: The same, when it was cancelled.
            StreamNotKeptError: The item has been dropped: no stage that is a reader meets this.
        """
        stream = self._stream
        while not self.closed:
            at = self.position - stream._first
            if at < 0:
                raise StreamNotKeptError(stream.key, stream._why_not_whole())
            if at < len(stream._items):
                item = stream._items[at]
                self.position += 1
                if self.live and self.position - 1 == stream._floor:
                    stream._advance()
                return item
            if stream.outcome == FAILED:
                raise StreamFailedError(stream.key, stream.producer, stream._failure)
            if stream.outcome == CANCELLED:
                raise StreamCancelledError(stream.key, stream.producer)
            if stream.outcome is not None:
                break
            await stream._wait_for_item()
        raise StopAsyncIteration

    @property
    def rewindable(self) -> bool:
        """Whether it can begin again: it has read nothing, or all items are kept."""
        return not self.closed and (not self.position or self._stream.kept)

    def rewind(self) -> None:
        """Begin again at the first item; for a reader that is `rewindable`."""
        self.position = 0
        if self.live:
            self._stream._advance()

    def close(self) -> None:
        """Read no more, and hold nobody back; doing so again changes nothing."""
        if not self.closed:
            self.closed = True
            self._stream._left(self)

    async def aclose(self) -> None:
        """The awaitable form of `close`, for ``contextlib.aclosing``."""
        self.close()

    def __repr__(self) -> str:
        return f"StreamReader({self._stream.key!r}, {self.position} read)"


class StreamWriter:
    """What a stage writes one of its streams with; from `StageContext.open`."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def put(self, item: Any) -> bool:
        """Hand an item to all readers, once the slowest live one is less than `capacity` behind.

        Any task of the stage may put; those that have to wait are let in one after another. A
        call that is cancelled while it waits has put nothing.

        Args:
            item: Any object; it is handed on as it is, not copied.

        Returns:
            Whether it was taken: False once all readers have closed or ended, so that there is no
            use in making more.

        Raises:
            StreamClosedError: The stage has ended, and with it the stream.
        """
        stream = self._stream
        if (stream._putting or stream._is_full()) and self.wanted:
            await stream._wait_for_room()
        if stream.outcome is not None:
            raise StreamClosedError(stream.key, stream.producer)
        if not stream.wanted:
            stream._refused = True
            return False
        stream._take(item)
        return True

    @property
    def wanted(self) -> bool:
        """Whether the next item would be taken."""
        return self._stream.wanted and self._stream.outcome is None

    def __repr__(self) -> str:
        return f"StreamWriter({self._stream.key!r}, {self._stream.count} put)"


_ENDED = {FAILED: "failed", CANCELLED: "was cancelled"}


def _wake(waiting: Sequence[asyncio.Future[None]] | deque[asyncio.Future[None]]) -> None:
    for waiter in waiting:
        if not waiter.done():
            waiter.set_result(None)
