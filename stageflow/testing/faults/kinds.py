"""The effect of each type of fault on one call.

A kind is a frozen record of its options, which are checked when it is made. All waiting uses the
event loop's clock and can be cancelled. What is raised is not a `StageflowError`: it has the shape
of what services, sockets and drivers raise, for `classify` to judge.
"""

import asyncio
import errno
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, Self

from stageflow._utils.closing import closing_stream
from stageflow.errors import InvalidConfigError, Portable, nearest
from stageflow.providers.fake import require_amount
from stageflow.testing.wrapped import Call


class InjectedHTTPError(Portable, Exception):
    """An HTTP error as clients and SDKs raise it, with `status_code` and `response` (headers)."""

    def __init__(
        self, message: str, status_code: int, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.response = SimpleNamespace(status_code=status_code, headers=dict(headers or {}))


class InjectedDatabaseError(Portable, Exception):
    """An error of a database as drivers raise it, with its `sqlstate`."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


def connection_reset(provider: str, when: str) -> ConnectionResetError:
    """Return what a socket raises when the peer is gone."""
    text = f"connection to {provider!r} reset by peer, {when}"
    return ConnectionResetError(errno.ECONNRESET, text)


def refused(kind: str, field: str, found: object, fix: str) -> InvalidConfigError:
    """Return the error of an option that does not fit."""
    return InvalidConfigError(f"fault {kind}", field, found, fix)


def suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the fix for a name that is not `known`: the nearest one, or else `otherwise`."""
    hint = nearest(name, known)
    return f"did you mean {hint!r}?" if hint else otherwise


def require_count(kind: str, field: str, found: object) -> None:
    """Raise unless it is an integer of at least 0."""
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise refused(kind, field, found, "give an integer, 0 or more")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of fault. This one does nothing: the call reaches the provider."""

    of_pieces: ClassVar[bool] = False  # changes the pieces of a stream
    holds: ClassVar[bool] = False  # an answer never comes
    fits_plain: ClassVar[bool] = True  # can affect a call that is not asynchronous

    @property
    def replaces(self) -> bool:
        """Whether the call is not made at all."""
        return self._replaces()

    def affects(self, method: str) -> bool:
        """Return whether it can affect a call of that method."""
        return True

    async def answer(self, call: Call) -> Any:
        """Return the answer to a call that is awaited; it may be a stream."""
        await self._before()
        if self.replaces:
            return self.plain(call)
        answer = await call.forward()
        if self.of_pieces and hasattr(type(answer), "__aiter__"):
            return _Opened(answer, self._read(call, answer))
        return self.plain(replace(call, forward=lambda: answer))

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """Yield the pieces of a call that is iterated over."""
        await self._before()
        if self.replaces:
            self.plain(call)
        async with closing_stream(self._read(call, call.forward())) as pieces:
            async for piece in pieces:
                yield piece

    def plain(self, call: Call) -> Any:
        """Return the answer to a call that is not asynchronous."""
        found = None if self.replaces else call.forward()
        if (error := self._error(call)) is not None:
            raise error
        return found

    def _replaces(self) -> bool:
        return False

    def _error(self, call: Call) -> Exception | None:
        """Return what is raised: in place of the call if the fault `replaces` it, else after it."""
        return None

    async def _before(self) -> None:
        """Delay the call."""

    def _pieces(self, stream: Any) -> AsyncGenerator[Any, None]:
        """Yield what is left of a stream that the provider has opened."""
        return _first_pieces(stream)

    async def _read(self, call: Call, stream: Any) -> AsyncGenerator[Any, None]:
        async with closing_stream(self._pieces(stream)) as pieces:
            async for piece in pieces:
                yield piece
        if (error := self._error(call)) is not None:
            raise error


async def _first_pieces(stream: Any, limit: int | None = None) -> AsyncGenerator[Any, None]:
    """Yield the first `limit` pieces of a stream, or all; close it when its reader stops early."""
    left = math.inf if limit is None else limit
    async with closing_stream(stream):
        if left > 0:
            async for piece in stream:
                yield piece
                left -= 1
                if left <= 0:
                    break


class _Opened:
    """A stream that a call has answered, with a fault in its pieces."""

    def __init__(self, stream: Any, pieces: AsyncGenerator[Any, None]) -> None:
        self.__wrapped__ = stream
        self._pieces = pieces

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __aiter__(self) -> AsyncGenerator[Any, None]:
        return self._pieces

    def __anext__(self) -> Awaitable[Any]:
        return anext(self._pieces)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._pieces.aclose()


class _Replacing(Fault):
    def _replaces(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class _Late(Fault):
    duration_ms: float

    def __post_init__(self) -> None:
        kind = f"fault {type(self).__name__.upper()}"
        for field in ("duration_ms", "per_piece_ms"):
            require_amount(kind, field, getattr(self, field, 0), "milliseconds")

    async def _before(self) -> None:
        await asyncio.sleep(self.duration_ms / 1000.0)


@dataclass(frozen=True, kw_only=True)
class Timeout(_Replacing, _Late):
    """The client gives up after `duration_ms` without an answer. A plain call raises at once."""

    duration_ms: float = 3_000.0

    def _error(self, call: Call) -> Exception:
        return TimeoutError(f"no answer from {call.provider!r} within {self.duration_ms:g} ms")


@dataclass(frozen=True, kw_only=True)
class Slow(_Late):
    """The answer is right, and comes `duration_ms` late.

    Each piece of a stream is `per_piece_ms` later besides. A plain call is never late.
    """

    duration_ms: float = 500.0
    per_piece_ms: float = 0.0

    of_pieces = True
    fits_plain = False

    async def _pieces(self, stream: Any) -> AsyncGenerator[Any, None]:
        async with closing_stream(_first_pieces(stream)) as pieces:
            async for piece in pieces:
                await asyncio.sleep(self.per_piece_ms / 1000.0)
                yield piece


@dataclass(frozen=True, kw_only=True)
class Disconnect(Fault):
    """The connection is lost before the call, or `after_call`: then the provider does its work."""

    after_call: bool = False

    of_pieces = True

    def __post_init__(self) -> None:
        if not isinstance(self.after_call, bool):
            raise refused("DISCONNECT", "after_call", self.after_call, "give True or False")

    def _replaces(self) -> bool:
        return not self.after_call

    def _error(self, call: Call) -> Exception:
        when = "before it answered" if self.replaces else "where its answer should end"
        return connection_reset(call.provider, when)


@dataclass(frozen=True, kw_only=True)
class Stall(Fault):
    """The provider accepts the call, and nothing useful comes.

    A stream stops after `after_pieces`. With `keepalive_ms` empty pieces keep coming, as from a
    service that sends heartbeats and no words.
    """

    after_pieces: int = 0
    keepalive_ms: float | None = None

    of_pieces = True
    holds = True

    def __post_init__(self) -> None:
        require_count("STALL", "after_pieces", self.after_pieces)
        if self.keepalive_ms is not None:
            require_amount("fault STALL", "keepalive_ms", self.keepalive_ms, "milliseconds")
            if self.keepalive_ms == 0:
                raise refused("STALL", "keepalive_ms", 0, "give a positive number of milliseconds")

    def _replaces(self) -> bool:
        return self.after_pieces == 0

    def _error(self, call: Call) -> Exception:
        # A plain call would block its thread for ever.
        where = f"{call.provider}.{call.method}"
        fix = "it is not async; choose another fault, or annotate that it returns an Awaitable"
        return refused("STALL", "method", where, fix)

    async def answer(self, call: Call) -> Any:
        """Return a stream that stalls later, or wait for ever."""
        if not self.replaces:
            with suppress(InvalidConfigError):  # the error of an answer in one piece
                return await super().answer(call)
        return await asyncio.get_running_loop().create_future()

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """Yield from a stream that stops short without an end."""
        async with closing_stream(
            self._pieces(None if self.replaces else call.forward())
        ) as pieces:
            async for piece in pieces:
                yield piece

    async def _pieces(self, stream: Any) -> AsyncGenerator[Any, None]:
        if self.after_pieces:
            async with closing_stream(_first_pieces(stream, self.after_pieces)) as pieces:
                async for piece in pieces:
                    yield piece
        while self.keepalive_ms is not None:
            await asyncio.sleep(self.keepalive_ms / 1000.0)
            yield ""
        await asyncio.get_running_loop().create_future()


@dataclass(frozen=True, kw_only=True)
class Cut(Fault):
    """The connection breaks after `after_pieces`; an answer in one piece is lost as a whole."""

    after_pieces: int = 1

    of_pieces = True

    def __post_init__(self) -> None:
        require_count("CUT", "after_pieces", self.after_pieces)

    def _error(self, call: Call) -> Exception:
        return connection_reset(call.provider, "in the middle of its answer")

    def _pieces(self, stream: Any) -> AsyncGenerator[Any, None]:
        return _first_pieces(stream, self.after_pieces)


@dataclass(frozen=True, kw_only=True)
class Raises(_Replacing):
    """The provider answers with an error: an HTTP status, or any `exception` of your own.

    An exception class, or another function without arguments, makes a new one for each call.
    """

    message: str | None = None
    status_code: int | None = None
    exception: Exception | Callable[[], Exception] | None = None

    #: The options that describe an error, and so exclude `exception`.
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
            if (found := getattr(self, field)) is not None:
                raise refused("ERROR", field, found, "leave it out: the exception says it all")

    def _check_description(self) -> None:
        status = self.status_code
        if status is not None and not (isinstance(status, int) and 400 <= status <= 599):
            raise refused("ERROR", "status_code", status, "give an HTTP status from 400 to 599")

    def _error(self, call: Call) -> Exception:
        if isinstance(self.exception, Exception):
            return self.exception
        return self._described(call) if self.exception is None else self.exception()

    def _described(self, call: Call) -> Exception:
        message = self.message or f"{call.provider!r} is out of order"
        return InjectedHTTPError(message, self.status_code or 503)


@dataclass(frozen=True, kw_only=True)
class DatabaseRaises(Raises):
    """A database answers with an error: an SQLSTATE, or any `exception` of your own."""

    sqlstate: str | None = None

    described_by: ClassVar[tuple[str, ...]] = ("message", "sqlstate")

    def _check_description(self) -> None:
        if (status := self.status_code) is not None:
            raise refused("ERROR", "status_code", status, "a database has none; give sqlstate")
        state = self.sqlstate
        if state is not None and not (isinstance(state, str) and len(state) == 5):
            raise refused("ERROR", "sqlstate", state, "give five characters, such as '57P01'")

    def _described(self, call: Call) -> Exception:
        message = self.message or "terminating connection due to administrator command"
        return InjectedDatabaseError(message, self.sqlstate or "57P01")


@dataclass(frozen=True, kw_only=True)
class RateLimited(_Replacing):
    """HTTP 429, with the seconds to wait in its Retry-After header; None for no header."""

    retry_after_s: float | None = 1.0

    def __post_init__(self) -> None:
        if self.retry_after_s is not None:
            require_amount("fault RATE_LIMITED", "retry_after_s", self.retry_after_s, "seconds")

    def _error(self, call: Call) -> Exception:
        wait_s = self.retry_after_s
        headers = {} if wait_s is None else {"Retry-After": f"{wait_s:g}"}
        return InjectedHTTPError(f"{call.provider!r}: too many requests", 429, headers)


_NOT_GIVEN: Any = object()


@dataclass(frozen=True, kw_only=True)
class Reply(_Replacing):
    """The provider answers at once, with `reply`; a provider of no port needs one."""

    reply: Any = _NOT_GIVEN

    #: The answer of each method if no reply is given; other methods are left alone.
    by_method: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def affects(self, method: str) -> bool:
        """Return whether there is an answer in place of that method's."""
        return self.reply is not _NOT_GIVEN or method in self.by_method

    def plain(self, call: Call) -> Any:
        """Return the reply."""
        return self.by_method[call.method] if self.reply is _NOT_GIVEN else self.reply

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """Yield the reply as the only piece, unless it is a list or tuple of pieces."""
        reply = self.plain(call)
        for piece in reply if isinstance(reply, list | tuple) else (reply,):
            yield piece


@dataclass(frozen=True, kw_only=True)
class EmptyResult(Reply):
    """A tool returns an empty text."""

    reply: Any = ""


@dataclass(frozen=True, kw_only=True)
class InvalidResult(Reply):
    """A tool returns what JSON cannot hold."""

    reply: Any = b"\xff"


def replying(**by_method: Any) -> type[Reply]:
    """Return a kind of `Reply` that has an answer for some methods."""
    return type("Reply", (Reply,), {"by_method": by_method})
