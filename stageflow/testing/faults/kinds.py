"""The types of faults, and their effect on one call or on the stream that a stage writes.

What is raised is not a `StageflowError`: it has the shape of what services, sockets and drivers
raise, for `classify` to judge.
"""

import asyncio
import errno
import math
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, make_dataclass, replace
from enum import StrEnum
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, TypeAlias, cast

from stageflow._utils.closing import closing_stream
from stageflow.engine import CallNext, Interceptor, Pipeline, StageContext, StageOutput, StageSpec
from stageflow.engine.stream import StreamWriter
from stageflow.errors import InvalidConfigError, Portable, nearest
from stageflow.testing.wrapped import Call, opening


class FaultType(StrEnum):
    """Types of faults. In brackets the options, with their defaults."""

    TIMEOUT = "timeout"  # no answer within a time [duration_ms=3000]: TimeoutError
    ERROR = "error"  # the answer is an error [message, status_code=503 | sqlstate, exception]
    SLOW = "slow"  # the right answer, too late [duration_ms=500, per_piece_ms=0]
    INTERMITTENT = "intermittent"  # now and then [probability=0.5, seed=0 | script; fault, …]
    STALL = "stall"  # a stream opens, then nothing useful [after_pieces=0, keepalive_ms]
    CUT = "cut"  # a stream breaks midway [after_pieces=1]: ConnectionResetError
    RATE_LIMITED = "rate_limited"  # HTTP 429 [retry_after_s=1]
    EMPTY = "empty"  # an empty transcript, answer, sound; no record [reply: of no port, needed]
    INVALID = "invalid"  # corrupt sound, a malformed reply [reply: of no port, needed]
    DISCONNECT = "disconnect"  # the connection is lost [after_call=False]: ConnectionResetError


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
    """Return the error that a socket raises when its peer has closed."""
    text = f"connection to {provider!r} reset by peer, {when}"
    return ConnectionResetError(errno.ECONNRESET, text)


def refused(kind: str, field: str, found: object, fix: str) -> InvalidConfigError:
    """Return the error of an option that does not fit."""
    return InvalidConfigError(f"fault {kind}", field, found, fix)


def suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the fix for a name that is not `known`: the nearest one, or else `otherwise`."""
    hint = nearest(name, known)
    return f"did you mean {hint!r}?" if hint else otherwise


_Fits: TypeAlias = Callable[[Any], bool]


def _number(least: float = 0, most: float = sys.float_info.max, kind: Any = int | float) -> _Fits:
    return lambda n: isinstance(n, kind) and type(n) is not bool and least <= n <= most


_COUNT = _number(kind=int), "give an integer, 0 or more"
_LATE = _number(), "give a finite number of milliseconds, 0 or more"
#: Which values fit an option, and what to do about any other.
_FITTING: Mapping[str, tuple[_Fits, str]] = {
    "after_pieces": _COUNT,
    "after_items": _COUNT,
    "duration_ms": _LATE,
    "per_piece_ms": _LATE,
    "after_call": (lambda found: isinstance(found, bool), "give True or False"),
    "seed": (lambda found: isinstance(found, int | str), "give an integer or a string"),
    "keepalive_ms": (_number(sys.float_info.min), "give a positive number of milliseconds"),
    "retry_after_s": (_number(), "give a finite number of seconds, 0 or more"),
    "probability": (_number(0, 1), "give a share from 0 to 1"),
    "status_code": (_number(400, 599, int), "give an HTTP status from 400 to 599"),
    "message": (lambda found: isinstance(found, str), "give a string"),
    "sqlstate": (lambda s: isinstance(s, str) and len(s) == 5, "give five characters: '57P01'"),
    "exception": (
        lambda e: isinstance(e, Exception) or callable(e),
        "give an exception, or its class",
    ),
}
#: Other options may also be None.
_NEVER_NONE = {"after_pieces", "after_items", "duration_ms", "per_piece_ms", "after_call", "seed"}


def check_option(kind: str, name: str, found: object) -> None:
    """Raise unless a value fits an option of a fault."""
    fits, fix = _FITTING.get(name, (lambda _: True, ""))
    if not fits(found) and (found is not None or name in _NEVER_NONE):
        raise refused(kind, name, found, fix)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of fault. This one does nothing: the call reaches the provider."""

    of_pieces: ClassVar[bool] = False  # changes the pieces of a stream
    holds: ClassVar[bool] = False  # an answer never comes
    fits_plain: ClassVar[bool] = True  # can affect a call that is not asynchronous
    #: The options of some kinds: no call and no piece is late, and all pieces come.
    duration_ms = per_piece_ms = keepalive_ms = cast("Any", None)
    after_pieces = math.inf

    @property
    def replaces(self) -> bool:
        """Whether the call is not made at all."""
        return self.after_pieces == 0

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
        if self.replaces and not self.holds:
            self.plain(call)
        source = None if self.replaces else call.forward()
        async with closing_stream(self._read(call, source)) as pieces:
            async for piece in pieces:
                yield piece

    def plain(self, call: Call) -> Any:
        """Return the answer to a call that is not asynchronous."""
        found = None if self.replaces else call.forward()
        if (error := self._error(call)) is not None:
            raise error
        return found

    def _error(self, call: Call) -> Exception | None:
        """Return what is raised: in place of the call if the fault `replaces` it, else after it."""
        return None

    async def _before(self) -> None:
        if self.duration_ms is not None:
            await asyncio.sleep(self.duration_ms / 1000.0)

    async def _read(self, call: Call, stream: Any) -> AsyncGenerator[Any, None]:
        """Yield the pieces that are left of a stream that the provider has opened."""
        left = self.after_pieces
        async with closing_stream(stream):
            if left > 0:
                async for piece in stream:
                    if self.per_piece_ms is not None:
                        await asyncio.sleep(self.per_piece_ms / 1000.0)
                    yield piece
                    left -= 1
                    if left <= 0:
                        break
        while self.keepalive_ms is not None:
            await asyncio.sleep(self.keepalive_ms / 1000.0)
            yield ""
        if self.holds:
            await asyncio.get_running_loop().create_future()
        if (error := self._error(call)) is not None:
            raise error


class _Opened(AbstractAsyncContextManager[Any]):
    """A stream that a call has answered, with a fault in its pieces."""

    def __init__(self, stream: Any, pieces: AsyncGenerator[Any, None]) -> None:
        self.__wrapped__, self._pieces = stream, pieces

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __aiter__(self) -> AsyncGenerator[Any, None]:
        return self._pieces

    def __anext__(self) -> Awaitable[Any]:
        return anext(self._pieces)

    async def __aexit__(self, *error: object) -> None:
        await self._pieces.aclose()


@dataclass(frozen=True, kw_only=True)
class Timeout(Fault):
    """The client gives up after `duration_ms` without an answer. A plain call raises at once."""

    duration_ms: float = 3_000.0
    replaces = True

    def _error(self, call: Call) -> Exception:
        return TimeoutError(f"no answer from {call.provider!r} within {self.duration_ms:g} ms")


@dataclass(frozen=True, kw_only=True)
class Slow(Fault):
    """The answer is correct and `duration_ms` late.

    Each piece of a stream is `per_piece_ms` later besides. A plain call is never late.
    """

    duration_ms: float = 500.0
    per_piece_ms: float = 0.0
    of_pieces = True
    fits_plain = False


@dataclass(frozen=True, kw_only=True)
class Disconnect(Fault):
    """The connection is lost before the call, or `after_call`: then the provider does its work."""

    after_call: bool = False
    of_pieces = True

    @property
    def replaces(self) -> bool:
        """Whether the call is not made at all."""
        return not self.after_call

    def _error(self, call: Call) -> Exception:
        when = "before it answered" if self.replaces else "where its answer should end"
        return connection_reset(call.provider, when)


@dataclass(frozen=True, kw_only=True)
class Stall(Fault):
    """The provider accepts the call and sends nothing useful.

    A stream stops after `after_pieces`. With `keepalive_ms` empty pieces keep coming, as from a
    service that sends heartbeats and no words.
    """

    after_pieces: int = 0
    keepalive_ms: float | None = None
    of_pieces = True
    holds = True

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


@dataclass(frozen=True, kw_only=True)
class Cut(Fault):
    """The connection breaks after `after_pieces`; an answer in one piece is lost as a whole."""

    after_pieces: int = 1
    of_pieces = True
    replaces = False

    def _error(self, call: Call) -> Exception:
        return connection_reset(call.provider, "in the middle of its answer")


@dataclass(frozen=True, kw_only=True)
class Raises(Fault):
    """The provider answers with an error: an HTTP status, or any `exception` of your own.

    An exception class, or another function without arguments, makes a new one for each call.
    """

    message: str | None = None
    status_code: int | None = None
    exception: Exception | Callable[[], Exception] | None = None
    replaces = True
    #: The options that describe an error, and so exclude `exception`.
    described_by: ClassVar[tuple[str, ...]] = ("message", "status_code")

    def __post_init__(self) -> None:
        for field in self.described_by if self.exception is not None else ():
            if (found := getattr(self, field)) is not None:
                raise refused("ERROR", field, found, "leave it out: the exception says it all")

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

    def __post_init__(self) -> None:
        if (status := self.status_code) is not None:
            raise refused("ERROR", "status_code", status, "a database has none; give sqlstate")
        super().__post_init__()

    def _described(self, call: Call) -> Exception:
        message = self.message or "terminating connection due to administrator command"
        return InjectedDatabaseError(message, self.sqlstate or "57P01")


@dataclass(frozen=True, kw_only=True)
class RateLimited(Fault):
    """HTTP 429, with the seconds to wait in its Retry-After header; None for no header."""

    retry_after_s: float | None = 1.0
    replaces = True

    def _error(self, call: Call) -> Exception:
        wait_s = self.retry_after_s
        headers = {} if wait_s is None else {"Retry-After": f"{wait_s:g}"}
        return InjectedHTTPError(f"{call.provider!r}: too many requests", 429, headers)


_NOT_GIVEN: Any = object()


@dataclass(frozen=True, kw_only=True)
class Reply(Fault):
    """The provider answers at once, with `reply`; a provider of no port needs one."""

    reply: Any = _NOT_GIVEN
    replaces = True
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


def replying(always: Any = _NOT_GIVEN, **by_method: Any) -> type[Reply]:
    """Return a kind of `Reply` that has an answer for all methods, or for some."""
    reply, methods = ("reply", Any, always), {"by_method": by_method}
    return make_dataclass("Reply", [reply], bases=(Reply,), namespace=methods, frozen=True)


#: The one option of each fault that fits a stream, and its default.
_OPTIONS: Mapping[FaultType, tuple[str, float]] = {
    FaultType.STALL: ("after_items", 0),
    FaultType.CUT: ("after_items", 1),
    FaultType.SLOW: ("duration_ms", 500.0),
}


class StreamFaultInjector(Interceptor):
    """Injects a fault into one stream; give it to the orchestrator as an interceptor.

    STALL: after ``after_items`` items, the stage's next ``put`` never returns. CUT: that ``put``
    raises `ConnectionResetError`, so the stage fails as when its service hangs up. SLOW: each
    ``put`` takes ``duration_ms`` longer.

    Example:
        >>> stalls = StreamFaultInjector(pipeline, "sentences", "stall", after_items=2)
        >>> await PipelineOrchestrator(pipeline.build(), interceptors=[stalls]).run(ctx)

    The options are ``after_items`` of STALL (default 0) and CUT (1), ``duration_ms`` of SLOW (500).

    Attributes:
        key: The stream, which a stage of the pipeline writes.
        fault_type: STALL, CUT or SLOW; the constructor takes its value as a string, too.
        injected: How many items have met it.

    Raises:
        InvalidConfigError: No stage writes such a stream, or fault and option do not fit.
    """

    def __init__(
        self, pipeline: Pipeline, key: str, fault_type: FaultType | str, **options: float
    ) -> None:
        written = [name for spec in pipeline.stages for name in spec.streams]
        if key not in written:
            known = ", ".join(map(repr, written)) or "none at all"
            fix = suggestion(str(key), written, f"{pipeline.name!r} writes {known}")
            raise InvalidConfigError("StreamFaultInjector", "key", key, fix)
        if not isinstance(fault_type, str) or fault_type not in _OPTIONS:
            fix = f"a stream can have {', '.join(_OPTIONS)}"
            raise InvalidConfigError("StreamFaultInjector", "fault_type", fault_type, fix)
        self.key = key
        self.fault_type = FaultType(fault_type)
        self.injected = 0
        kind, (field, default) = self.fault_type.name, _OPTIONS[self.fault_type]
        self._amount = options.pop(field, default)
        check_option(kind, field, self._amount)
        for name, found in options.items():
            raise refused(kind, name, found, f"of a stream, its one option is {field}")

    def applies_to(self, spec: StageSpec) -> bool:
        """Return whether the stage writes the stream."""
        return self.key in spec.streams

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Run the stage with a context whose stream has the fault."""
        return await call_next(opening(ctx, self._open))

    def _open(self, ctx: StageContext, key: str, capacity: int) -> StreamWriter:
        writer = ctx.open(key, capacity=capacity)
        return writer if key != self.key else cast("StreamWriter", _Writer(writer, self._strike))

    async def _strike(self, count: int) -> None:
        """Affect the item that follows `count` items."""
        if self.fault_type is FaultType.SLOW:
            self.injected += 1
            await asyncio.sleep(self._amount / 1000.0)
        elif count >= self._amount:
            self.injected += 1
            if self.fault_type is FaultType.CUT:
                raise connection_reset(self.key, f"after {count} items")
            await asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"StreamFaultInjector({self.key!r}, {str(self.fault_type)!r})"


class _Writer:
    def __init__(self, writer: StreamWriter, strike: Callable[[int], Awaitable[None]]) -> None:
        self._writer, self._strike, self._count = writer, strike, 0

    async def put(self, item: Any) -> bool:
        await self._strike(self._count)
        taken = await self._writer.put(item)
        self._count += taken
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)
