"""Streams: outputs that other stages read while a stage still writes them."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NamedTuple, Self
from weakref import ref

from stageflow.errors import StageflowError, StreamError, StreamFailedError, shown
from stageflow.events.log import CANCELLED, COMPLETED, FAILED

#: How many items a producer may be ahead of its slowest back-pressured reader by default.
CAPACITY = 16
#: Name of the reader that is the caller of the run.
CALLER = ""
_ENDED = {FAILED: "failed", CANCELLED: "was cancelled"}


class StreamRoute(NamedTuple):
    """The producer and the readers of a stream.

    Attributes:
        producer: Name of the stage that opens it.
        back_pressured: Names of the readers that the producer waits for.
        buffered: Names of the other readers: they may wait for the producer's end, so all items
            are kept until they read.
    """

    producer: str
    back_pressured: tuple[str, ...] = ()
    buffered: tuple[str, ...] = ()


class Stream:
    """The items of one stream, in order, and the position of each reader.

    A stage gets its own reader by ``ctx[key]``. Other code reads the stream itself, from
    ``result.outputs[key]`` or `PipelineContext.bag`, by ``async for``: each loop gets every item
    from the first, and the producer does not wait for it.

    An item is dropped once all back-pressured readers have read it, and all loops that run. All
    items are kept if the stream has a buffered reader, if no stage reads it, so that it is a
    result of the run, or if the run was started by `Pipeline.stream`.

    Attributes:
        key: Its key in the bag.
        producer: Name of the stage that writes it.
        capacity: How many items the producer may be ahead of the slowest back-pressured reader.
        count: How many items have been put.
        outcome: How its stage ended: ``completed``, ``failed`` or ``cancelled``; None while open.
        kept: Whether all items are kept.
    """

    def __init__(self, key: str, route: StreamRoute, *, capacity: int = CAPACITY) -> None:
        """Open a stream; in a stage, use `StageContext.open`."""
        self.key = key
        self.producer = route.producer
        self.capacity = capacity
        self.count = 0
        self.outcome: str | None = None
        self.kept = bool(route.buffered) or not route.back_pressured
        #: Whether a reader is open, or the stream is a result of the run.
        self.wanted = True
        #: Why its stage failed, or the text of the failure that cancelled it.
        self._failure: Any = None
        #: Called once, just before the first item is added.
        self._announce: Callable[[], None] | None = None
        #: The items that are kept; the first of them has the number `_first`.
        self._items: list[Any] | deque[Any] = [] if self.kept else deque()
        self._first = 0
        #: The readers of stages, until they close.
        self._readers = {
            name: StreamReader(self, back_pressured=name in route.back_pressured)
            for name in (*route.back_pressured, *route.buffered)
        }
        #: The open back-pressured readers, and the position of the slowest.
        self._back_pressured = [one for one in self._readers.values() if one.back_pressured]
        self._floor = 0
        #: The readers of loops outside of stages; a loop that was left is forgotten.
        self._outside: list[ref[StreamReader]] = []
        #: The latest `put`, or one that nobody has awaited.
        self._last_put: Any = None
        #: Whether an item was refused because no reader was left.
        self._refused = False
        #: The waiters for room, the next one first, and the waiters for an item.
        self._putting: deque[asyncio.Future[None]] = deque()
        self._unread: list[asyncio.Future[None]] = []

    @classmethod
    def of(cls, items: Iterable[Any], *, key: str = "items", producer: str = "") -> Self:
        """Return a completed stream of these items, for instance to test a stage alone."""
        stream = cls(key, StreamRoute(producer))
        stream._items = list(items)
        stream.count = len(stream._items)
        stream.outcome = COMPLETED
        return stream

    def __aiter__(self) -> StreamReader:
        reader = StreamReader(self)
        if not self.kept:
            self._outside.append(ref(reader, self._outside.remove))
        return reader

    def reader(self, stage: str) -> StreamReader:
        """Return the reader of that stage; a new buffered one if the stage declares none."""
        return self._readers.get(stage) or aiter(self)

    @property
    def whole(self) -> bool:
        """Whether it has completed and has every item."""
        return self.kept and self.outcome == COMPLETED and not self._refused

    def items(self) -> tuple[Any, ...]:
        """Return all items; raise `StreamError` if some were dropped or refused, or may follow."""
        if not self.whole:
            raise StreamError.not_kept(self.key, self._why_not_whole())
        return tuple(self._items)

    def _why_not_whole(self) -> str:
        if not self.kept:
            return "its items are dropped once all back-pressured readers have read them"
        if self.outcome is None:
            return f"stage {self.producer!r} has not ended"
        if self.outcome != COMPLETED:
            return f"stage {self.producer!r} {_ENDED[self.outcome]}"
        return "items were refused when no reader was left"

    def close(self, outcome: str, failure: StageflowError | None = None) -> None:
        """Accept no more items, and end the readers; for the engine."""
        self.outcome = outcome
        self._failure = failure
        if failure is not None and outcome == CANCELLED:
            # The error itself leads to the run, and so back to this stream.
            where = f"stage {failure.stage!r}: " if failure.stage else ""
            self._failure = f", as the run failed: {where}{shown(failure, str)}"
        self._announce = self._last_put = None
        self._readers.pop(CALLER, None)  # it would be a reference cycle
        _wake(self._putting)
        self._wake_readers()

    def detach(self) -> None:
        """Keep a failure without its traceback, which leads to the run and so back to here."""
        if isinstance(self._failure, StageflowError):
            self._failure = twin = copy.copy(self._failure)
            twin.__cause__ = None
            vars(twin).update(dict.fromkeys(vars(twin).keys() & {"cause"}))

    def drop_put(self) -> bool:
        """Return whether a call of `put` was not awaited, and close it; for the engine."""
        call, self._last_put = self._last_put, None
        if call is None or inspect.getcoroutinestate(call) != inspect.CORO_CREATED:
            return False
        call.close()  # else Python warns about it at some later time
        return True

    async def _wait_for_room(self) -> None:
        """Wait for room; waiters continue one at a time, in order."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._putting.append(waiter)
        try:
            await waiter
        except BaseException:
            self._putting.remove(waiter)
            # If it was woken already, the next waiter has to be woken in its place.
            self._let_in()
            raise
        self._putting.remove(waiter)

    def _let_in(self) -> None:
        full = self._back_pressured and self.count - self._floor >= self.capacity
        if self._putting and not full:
            _wake((self._putting[0],))

    def _advance(self) -> None:
        """Drop the items that all back-pressured readers have read, and wake a waiting writer."""
        readers, items = self._back_pressured, self._items
        if len(readers) == 1:
            self._floor = readers[0].position
        else:
            self._floor = min((reader.position for reader in readers), default=self.count)
        if isinstance(items, deque):
            held = self._floor
            for outside in self._outside:
                if (reader := outside()) is not None and not reader.closed:
                    held = min(held, reader.position)
            while self._first < held:
                items.popleft()
                self._first += 1
        if self._putting:
            self._let_in()

    def leave(self, stage: str) -> None:
        """Close the reader of that stage, if it has one; for the engine."""
        if stage in self._readers:
            self._readers[stage].close()

    def _left(self, reader: StreamReader) -> None:
        if reader.back_pressured:
            self._back_pressured.remove(reader)
            self._advance()
        declared = bool(self._readers)
        self._readers = {name: r for name, r in self._readers.items() if r is not reader}
        if declared and not self._readers:
            self.wanted = False
            _wake(self._putting)
        # Another task of the same stage may wait on this reader.
        self._wake_readers()

    def _wake_readers(self) -> None:
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
    """Reads a stream from its first item to its end; an async iterator.

    Attributes:
        back_pressured: Whether the producer waits for it.
        position: How many items it has read.
    """

    __slots__ = ("__weakref__", "_stream", "back_pressured", "closed", "position")

    def __init__(self, stream: Stream, *, back_pressured: bool = False) -> None:
        self._stream = stream
        self.back_pressured = back_pressured
        self.position = 0
        self.closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Wait for the next item and return it.

        Raises:
            StreamFailedError: The stage that writes the stream has failed, and all items are read.
            StreamError: The same if it was cancelled. Or the item was dropped before the reader
                began, which never happens to a stage that declares the stream as an input.
        """
        stream = self._stream
        while not self.closed:
            at = self.position - stream._first
            if at < 0:
                raise StreamError.not_kept(stream.key, stream._why_not_whole())
            if at < len(stream._items):
                item = stream._items[at]
                self.position += 1
                if self.position - 1 == (stream._floor if self.back_pressured else stream._first):
                    stream._advance()
                return item
            if stream.outcome == FAILED:
                raise StreamFailedError(stream.key, stream.producer, stream._failure)
            if stream.outcome == CANCELLED:
                writer = f"stage {stream.producer!r}, which writes the stream {stream.key!r}"
                problem = f"{writer}, was cancelled{stream._failure or ''}"
                raise StreamError(stream.key, problem, code="stream_cancelled")
            if stream.outcome is not None:
                break
            await stream._wait_for_item()
        raise StopAsyncIteration

    @property
    def rewindable(self) -> bool:
        """Whether it can start again: it has read nothing, or all items are kept."""
        return not self.closed and (not self.position or self._stream.kept)

    def rewind(self) -> None:
        """Start again at the first item; for a reader that is `rewindable`."""
        self.position = 0
        if self.back_pressured:
            self._stream._advance()

    def close(self) -> None:
        """Stop reading, so that the producer no longer waits for it; idempotent."""
        if not self.closed:
            self.closed = True
            self._stream._left(self)

    async def aclose(self) -> None:
        """Close it; the awaitable form of `close`, for ``contextlib.aclosing``."""
        self.close()

    def __repr__(self) -> str:
        return f"StreamReader({self._stream.key!r}, {self.position} read)"


class StreamWriter:
    """Writes a stream of a stage; `StageContext.open` returns one."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def put(self, item: Any) -> Coroutine[Any, Any, bool]:
        """Put an item, once the slowest back-pressured reader is less than `capacity` behind.

        Any task of the stage may put; tasks that wait continue in order. A call that is cancelled
        while it waits has put nothing. The item is not copied.

        Returns:
            Whether the item was accepted: False once all readers have closed or ended.

        Raises:
            StreamError: The stage has ended, and so has the stream.
        """
        stream, call = self._stream, self._put(item)
        last = stream._last_put
        # A call that has not begun stays, so that the end of the stage finds it.
        if last is None or last.cr_frame is None or last.cr_suspended:
            stream._last_put = call
        return call

    async def _put(self, item: Any) -> bool:
        stream = self._stream
        full = stream._back_pressured and stream.count - stream._floor >= stream.capacity
        if stream.count & 1023 == 1023 and not stream._putting:
            # A stage that only puts would keep the loop from its deadline and from its readers, so
            # each 1,024th item waits. A constant, as a look-up would cost each item.
            full = True
            asyncio.get_running_loop().call_soon(stream._let_in)
        if (full or stream._putting) and self.wanted:
            await stream._wait_for_room()
        if stream.outcome is not None:
            raise StreamError.closed(stream.key, stream.producer)
        if not stream.wanted:
            stream._refused = True
            return False
        if stream._announce is not None:
            stream._announce()
            stream._announce = None
        stream._items.append(item)
        stream.count += 1
        if stream._unread:
            stream._wake_readers()
        if stream._putting:
            stream._let_in()
        return True

    @property
    def wanted(self) -> bool:
        """Whether the next item would be accepted."""
        return self._stream.wanted and self._stream.outcome is None

    def __repr__(self) -> str:
        return f"StreamWriter({self._stream.key!r}, {self._stream.count} put)"


def _wake(waiting: Iterable[asyncio.Future[None]]) -> None:
    for waiter in waiting:
        if not waiter.done():
            waiter.set_result(None)
