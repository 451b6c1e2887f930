"""What becomes of one call under each type of fault.

A kind is a frozen record of its options, which are checked when it is made. All waiting is done on
the event loop's clock, and can be cancelled.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from stageflow.testing.faults.errors import (
    InjectedDatabaseError,
    InjectedHTTPError,
    connection_reset,
)
from stageflow.testing.faults.options import is_integer, refused, require_amount, require_count


@dataclass(frozen=True, slots=True)
class Call:
    """A call on its way to a provider.

    Attributes:
        provider: The name under which the provider is registered.
        method: The method that was called.
        forward: Makes the call: gives what the method gives, to be awaited or iterated over.
    """

    provider: str
    method: str
    forward: Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of fault. This one does nothing: the call goes on to the provider."""

    def affects(self, method: str) -> bool:
        """Whether a call of that method can suffer from it."""
        return True

    async def before(self, call: Call) -> None:
        """Hold the call up, or raise in its place."""

    async def answer(self, call: Call) -> Any:
        """What a call gets that awaits one answer."""
        await self.before(call)
        return await call.forward()

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """What a call gets that iterates over an answer in pieces."""
        await self.before(call)
        async with aclosing(first_pieces(call.forward())) as pieces:
            async for piece in pieces:
                yield piece


async def first_pieces(stream: Any, limit: int | None = None) -> AsyncGenerator[Any, None]:
    """The first `limit` pieces of a stream, or all; it is closed when its reader stops early."""
    left = math.inf if limit is None else limit
    try:
        if left > 0:
            async for piece in stream:
                yield piece
                left -= 1
                if left <= 0:
                    break
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


# ── trouble on the way ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Timeout(Fault):
    """The client gives up: no answer within `duration_ms`."""

    duration_ms: float = 3_000.0

    def __post_init__(self) -> None:
        require_amount("TIMEOUT", "duration_ms", self.duration_ms, "milliseconds")

    async def before(self, call: Call) -> NoReturn:
        """Wait, then raise `TimeoutError`."""
        await asyncio.sleep(self.duration_ms / 1000.0)
        raise TimeoutError(f"no answer from {call.provider!r} within {self.duration_ms:g} ms")


@dataclass(frozen=True, kw_only=True)
class Slow(Fault):
    """The answer is right, and comes `duration_ms` later than it would.

    Of a stream, each piece is `per_piece_ms` later besides.
    """

    duration_ms: float = 500.0
    per_piece_ms: float = 0.0

    def __post_init__(self) -> None:
        require_amount("SLOW", "duration_ms", self.duration_ms, "milliseconds")
        require_amount("SLOW", "per_piece_ms", self.per_piece_ms, "milliseconds")

    async def before(self, call: Call) -> None:
        """Wait."""
        await asyncio.sleep(self.duration_ms / 1000.0)

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """The pieces, one by one."""
        async with aclosing(super().stream(call)) as pieces:
            async for piece in pieces:
                await asyncio.sleep(self.per_piece_ms / 1000.0)
                yield piece


@dataclass(frozen=True, kw_only=True)
class Disconnect(Fault):
    """The connection is lost: before the provider has begun, or `after_call`.

    In the second case the provider does its work, and nobody learns of it.
    """

    after_call: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.after_call, bool):
            raise refused("DISCONNECT", "after_call", self.after_call, "give True or False")

    async def before(self, call: Call) -> None:
        """Raise `ConnectionResetError`, unless the call is to be made first."""
        if not self.after_call:
            raise connection_reset(call.provider, "before it answered")

    async def answer(self, call: Call) -> Any:
        """Have the call made, then lose its answer."""
        await super().answer(call)
        raise connection_reset(call.provider, "its answer is lost")

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """All pieces, but where the stream should end, it breaks."""
        async with aclosing(super().stream(call)) as pieces:
            async for piece in pieces:
                yield piece
        raise connection_reset(call.provider, "where its answer should end")


@dataclass(frozen=True, kw_only=True)
class Stall(Fault):
    """The provider takes the call, and then nothing useful comes, for good.

    A stream stops after `after_pieces`. With `keepalive_ms` empty pieces keep coming, as from a
    service that sends heartbeats and no words.
    """

    after_pieces: int = 0
    keepalive_ms: float | None = None

    def __post_init__(self) -> None:
        require_count("STALL", "after_pieces", self.after_pieces)
        if self.keepalive_ms is not None:
            require_amount("STALL", "keepalive_ms", self.keepalive_ms, "milliseconds")
            if self.keepalive_ms == 0:
                raise refused("STALL", "keepalive_ms", 0, "give a positive number of milliseconds")

    async def before(self, call: Call) -> None:
        """Wait for ever."""
        await asyncio.get_running_loop().create_future()

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """A stream that stops short without an end."""
        if self.after_pieces:
            async with aclosing(first_pieces(call.forward(), self.after_pieces)) as pieces:
                async for piece in pieces:
                    yield piece
        if self.keepalive_ms is None:
            await self.before(call)
        while self.keepalive_ms is not None:
            await asyncio.sleep(self.keepalive_ms / 1000.0)
            yield ""


@dataclass(frozen=True, kw_only=True)
class Cut(Fault):
    """The connection breaks in the middle of an answer.

    A stream gives `after_pieces`, or as many as it has, and breaks. An answer in one piece is lost
    as a whole, after the provider has done its work.
    """

    after_pieces: int = 1

    def __post_init__(self) -> None:
        require_count("CUT", "after_pieces", self.after_pieces)

    async def answer(self, call: Call) -> NoReturn:
        """Have the call made, then lose its answer."""
        await call.forward()
        raise connection_reset(call.provider, "in the middle of its answer")

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """A stream that breaks off."""
        async with aclosing(first_pieces(call.forward(), self.after_pieces)) as pieces:
            async for piece in pieces:
                yield piece
        raise connection_reset(call.provider, f"after {self.after_pieces} pieces of its answer")


# ── answers that are errors ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Raises(Fault):
    """The provider answers with an error: an HTTP status, or any `exception` of your own.

    An exception class, or another function without arguments, makes a new one for each call.
    """

    message: str | None = None
    status_code: int | None = None
    exception: Exception | Callable[[], Exception] | None = None

    #: What stands beside `exception` only where nobody gives one.
    described_by: ClassVar[tuple[str, ...]] = ("message", "status_code")

    def __post_init__(self) -> None:
        if self.message is not None and not isinstance(self.message, str):
            raise refused("ERROR", "message", self.message, "give a string")
        self._check_description()
        if self.exception is None:
            return
        if not isinstance(self.exception, Exception) and not callable(self.exception):
            raise refused("ERROR", "exception", self.exception, "give an exception, or its class")
        for field in self.described_by:
            if getattr(self, field) is not None:
                raise refused(
                    "ERROR", field, getattr(self, field), "leave it out: the exception says it all"
                )

    def _check_description(self) -> None:
        status = self.status_code
        if status is not None and not (is_integer(status) and 400 <= status <= 599):
            raise refused("ERROR", "status_code", status, "give an HTTP status from 400 to 599")

    async def before(self, call: Call) -> NoReturn:
        """Raise."""
        if isinstance(self.exception, Exception):
            raise self.exception
        if self.exception is not None:
            raise self.exception()
        raise self._described(call)

    def _described(self, call: Call) -> Exception:
        message = self.message or f"{call.provider!r} is out of order"
        return InjectedHTTPError(message, self.status_code or 503)


@dataclass(frozen=True, kw_only=True)
class DatabaseRaises(Raises):
    """A database answers with an error: an SQLSTATE, or any `exception` of your own."""

    sqlstate: str | None = None

    described_by: ClassVar[tuple[str, ...]] = ("message", "sqlstate")

    def _check_description(self) -> None:
        if self.status_code is not None:
            raise refused(
                "ERROR", "status_code", self.status_code, "a database has none; give sqlstate"
            )
        state = self.sqlstate
        if state is not None and not (isinstance(state, str) and len(state) == 5):
            raise refused("ERROR", "sqlstate", state, "give five characters, such as '57P01'")

    def _described(self, call: Call) -> Exception:
        message = self.message or "terminating connection due to administrator command"
        return InjectedDatabaseError(message, self.sqlstate or "57P01")


@dataclass(frozen=True, kw_only=True)
class RateLimited(Fault):
    """HTTP 429, with the time to wait in seconds in its Retry-After header; None for no header."""

    retry_after_s: float | None = 1.0

    def __post_init__(self) -> None:
        if self.retry_after_s is not None:
            require_amount("RATE_LIMITED", "retry_after_s", self.retry_after_s, "seconds")

    async def before(self, call: Call) -> NoReturn:
        """Raise."""
        wait_s = self.retry_after_s
        headers = {} if wait_s is None else {"Retry-After": f"{wait_s:g}"}
        raise InjectedHTTPError(f"{call.provider!r}: too many requests", 429, headers)
