"""Providers around providers: one that has another to fall back on, one that does not wait forever.

They nest: ``Fallback(Watched(first, 2.0), Watched(second, 2.0))`` goes to the second when the first
has shown no progress for two seconds.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar

from stageflow.breaker import BreakerPolicy, CircuitBreaker, speaks_against_provider
from stageflow.durations import is_duration
from stageflow.errors import CircuitOpenError, InvalidConfigError, NoProgressError
from stageflow.providers.registry import PORTS

T = TypeVar("T")

#: Methods of the ports that answer piece by piece; all others answer at once.
_STREAMING = frozenset({"stream"})
_ANSWERING = frozenset(m for _, methods in PORTS.values() for m in methods) - _STREAMING
_END = object()


class _Wrapper(ABC):
    """Has the methods of the provider that it wraps, and no others.

    Calls to the methods of a port go through `_call` and `_stream`; whatever else the provider has
    is handed out as it is.

    Attributes:
        name: What the wrapped provider is called in errors.
    """

    def __init__(self, provider: Any, name: str | None) -> None:
        self.name = name or getattr(provider, "name", None) or type(provider).__name__
        self._provider = provider

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {attribute!r}")
        own = getattr(self._provider, attribute)
        if attribute in _ANSWERING:
            return partial(self._call, attribute)
        return partial(self._stream, attribute) if attribute in _STREAMING else own

    @abstractmethod
    async def _call(self, method: str, /, *args: Any, **named: Any) -> Any:
        """Answer at once."""

    @abstractmethod
    def _stream(self, method: str, /, *args: Any, **named: Any) -> AsyncIterator[Any]:
        """Answer piece by piece."""


class Fallback(_Wrapper):
    """A provider with another one that takes over when it fails.

    A call that fails in a way that speaks against the first provider is made again at the second,
    at once. When the first has failed so often that its circuit breaker opens, calls go to the
    second directly, but for the breaker's probes; when these are answered, the first has its calls
    back. A stream that has already yielded cannot be switched and raises what the first raised.

    A cancellation tells nothing about a provider, and a time limit from outside is one: put
    `Watched` around the first provider if it may stall. On Python 3.11 a provider whose TaskGroup
    failed looks as if it had been cancelled, and is not followed: let it call without one.

    Attributes:
        breaker: The first provider's; its state can be read, forced open and reset.
    """

    def __init__(
        self,
        primary: Any,
        fallback: Any,
        *,
        policy: BreakerPolicy | None = None,
        name: str | None = None,
    ) -> None:
        """Choose the two.

        Args:
            primary: The provider that has the calls while it is healthy.
            fallback: The one that has them else; it needs the primary's methods of the port.
            policy: When calls go to the fallback directly, and for how long.
            name: What the primary is called in errors; the name of its class if left out.

        Raises:
            InvalidConfigError: The fallback lacks a method that the primary has.
        """
        super().__init__(primary, name)
        for method in sorted(_ANSWERING | _STREAMING):
            if hasattr(primary, method) and not callable(getattr(fallback, method, None)):
                raise InvalidConfigError(
                    "Fallback", "fallback", fallback, f"give a provider that also has {method}()"
                )
        self._fallback = fallback
        self.breaker = CircuitBreaker(self.name, policy)

    async def _call(self, method: str, /, *args: Any, **named: Any) -> Any:
        try:
            with self._judged():
                return await getattr(self._provider, method)(*args, **named)
        except Exception as error:
            if not _calls_for_another(error):
                raise
            return await getattr(self._fallback, method)(*args, **named)

    async def _stream(self, method: str, /, *args: Any, **named: Any) -> AsyncIterator[Any]:
        yielded = False
        try:
            with self._judged():
                async with _opened(getattr(self._provider, method)(*args, **named)) as pieces:
                    async for piece in pieces:
                        yielded = True
                        yield piece
                return
        except Exception as error:
            if yielded or not _calls_for_another(error):
                raise
        async with _opened(getattr(self._fallback, method)(*args, **named)) as pieces:
            async for piece in pieces:
                yield piece

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Ask the breaker for a call to the primary, and tell it the outcome."""
        clock = asyncio.get_running_loop().time
        permit = self.breaker.acquire(clock)
        try:
            yield
        except BaseException as error:
            if speaks_against_provider(error):
                self.breaker.fail(permit, clock)
            else:
                self.breaker.release(permit)
            raise
        self.breaker.succeed(permit, clock)

    def __repr__(self) -> str:
        return f"Fallback({self._provider!r}, {self._fallback!r})"


class Watched(_Wrapper):
    """A provider whose calls fail when they show no progress for a set time.

    Progress is an answer, or the next piece of a stream that is not empty: an empty one only shows
    that the connection is alive. The time that the reader of a stream takes does not count.
    """

    def __init__(
        self,
        provider: Any,
        progress_timeout_s: float,
        *,
        complete_by_stream: bool = True,
        name: str | None = None,
    ) -> None:
        """Choose what to watch, and how patiently.

        Args:
            provider: What is called.
            progress_timeout_s: Longest time without progress, in seconds.
            complete_by_stream: Whether a language model's ``complete`` is made of the pieces of
                its ``stream``, so that a long answer may take its time as long as it grows.
            name: What the provider is called in errors; the name of its class if left out.

        Raises:
            InvalidConfigError: The time is no positive, finite number.
        """
        limit = progress_timeout_s
        if not is_duration(limit):
            raise InvalidConfigError(
                "Watched", "progress_timeout_s", limit, "give a positive number of seconds"
            )
        super().__init__(provider, name)
        self.progress_timeout_s = limit
        self._complete_by_stream = complete_by_stream and hasattr(provider, "stream")

    async def _call(self, method: str, /, *args: Any, **named: Any) -> Any:
        if method == "complete" and self._complete_by_stream:
            return "".join([piece async for piece in self._stream("stream", *args, **named)])
        return await self._in_time(partial(getattr(self._provider, method), *args, **named))

    async def _stream(self, method: str, /, *args: Any, **named: Any) -> AsyncIterator[Any]:
        async with _opened(getattr(self._provider, method)(*args, **named)) as pieces:
            while (piece := await self._in_time(partial(_next_piece, pieces))) is not _END:
                yield piece

    async def _in_time(self, wait: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self.progress_timeout_s) as limit:
                return await wait()
        except Exception as error:
            # Whatever the provider made of its cancellation.
            if limit.expired():
                raise NoProgressError(self.name, self.progress_timeout_s) from error
            raise

    def __repr__(self) -> str:
        return f"Watched({self._provider!r}, {self.progress_timeout_s!r})"


def _calls_for_another(error: Exception) -> bool:
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        # The provider made an error of the cancellation: nobody waits for an answer any more.
        return False
    return isinstance(error, CircuitOpenError) or speaks_against_provider(error)


@asynccontextmanager
async def _opened(pieces: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close a stream at the end of a block, if it can be closed: not every iterator can."""
    try:
        yield pieces
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()


async def _next_piece(pieces: AsyncIterator[Any]) -> Any:
    async for piece in pieces:
        if piece:
            return piece
    return _END
