"""Providers around providers, which nest.

``Fallback(IdleTimeout(first, 2.0), second)`` calls the second when the first stalls for 2 seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

from stageflow._utils.closing import closing_stream
from stageflow._utils.tasks import is_made_of_cancellation
from stageflow.errors import CircuitOpenError, InvalidConfigError, NoProgressError
from stageflow.errors.data import require_durations
from stageflow.providers.ports import CHECKS, Answer, invalid_reply, require_tools
from stageflow.providers.registry import PORTS
from stageflow.resilience import BreakerPolicy, CircuitBreaker, RetryPolicy, classify
from stageflow.resilience.circuit_breaker import speaks_against_provider

T = TypeVar("T")

#: Methods of the ports that yield pieces; all others return an answer.
_STREAMING = frozenset({"stream"})
_ANSWERING = frozenset(m for _, methods in PORTS.values() for m in methods) - _STREAMING
_ANSWERING |= {"append"}  # which a database may lack
_END = object()
_chance = random.Random()


class _Wrapper:
    """An object with the attributes of its provider; subclasses define what yields its `_items`."""

    #: Yields the pieces of a stream, or the answer of another method as the only item.
    _items: Callable[..., AsyncIterator[Any]]

    def __init__(self, provider: Any, name: str | None = None, *settings: Any) -> None:
        self._settings = settings
        self.name = name or getattr(provider, "name", None) or type(provider).__name__
        self._provider = provider

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {attribute!r}")
        own = getattr(self._provider, attribute)
        if attribute not in _ANSWERING and attribute not in _STREAMING:
            return own
        call: Any = partial(self._call if attribute in _ANSWERING else self._items, attribute)
        call.__wrapped__ = own  # so that it has its signature
        return call

    async def _call(self, method: str, /, *args: Any, **named: Any) -> Any:
        (answer,) = [item async for item in self._items(method, *args, **named)]
        return answer

    def __repr__(self) -> str:
        given = ", ".join(map(repr, (self._provider, *self._settings)))
        return f"{type(self).__name__}({given})"


def items_of(
    provider: Any, method: str, args: tuple[Any, ...], named: dict[str, Any]
) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
    """Call a provider, and yield the pieces of a stream, or another answer as the only item."""
    call = getattr(provider, method)(*args, **named)
    return closing_stream(call if method in _STREAMING else _once(call))


async def _once(call: Awaitable[Any]) -> AsyncIterator[Any]:
    yield await call


class Checked(_Wrapper):
    """A provider whose invalid replies raise `InvalidReplyError`, which `Fallback` reacts to."""

    async def _call(self, method: str, /, *args: Any, **named: Any) -> Any:
        reply = await getattr(self._provider, method)(*args, **named)
        return CHECKS[method](reply) if method in CHECKS else reply

    async def _items(self, method: str, /, *args: Any, **named: Any) -> AsyncIterator[Any]:
        has_text = False
        async with items_of(self._provider, method, args, named) as pieces:
            async for piece in pieces:
                if not isinstance(piece, str):
                    raise invalid_reply("the language model", piece, "no text")
                has_text = has_text or bool(piece.strip() or getattr(piece, "tool_calls", ()))
                yield piece
        if not has_text:
            raise invalid_reply("the language model", "", "nothing that could be said")


class Fallback(_Wrapper):
    """A provider, and a second one for the calls in which it fails.

    A failure that counts against the primary makes the fallback answer at once. While the primary's
    circuit breaker is open, only probes reach it. A stream that has yielded raises instead.
    Cancellations, such as a time limit from outside, do not count: wrap a primary that may stall in
    `IdleTimeout`.

    Args:
        primary: The provider that is called while it is healthy.
        fallback: The provider that is called otherwise; it must have the primary's methods.
        policy: When the primary's circuit breaker, `breaker`, opens, and for how long.
        name: The primary's name in errors; None takes the name of its class.
    """

    def __init__(
        self,
        primary: Any,
        fallback: Any,
        *,
        policy: BreakerPolicy | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(primary, name, fallback)
        for method in sorted((_ANSWERING | _STREAMING) - {"append"}):
            if hasattr(primary, method) and not callable(getattr(fallback, method, None)):
                fix = f"give a provider that also has {method}()"
                raise InvalidConfigError("Fallback", "fallback", fallback, fix)
        self._fallback = fallback
        self.breaker = CircuitBreaker(self.name, policy)

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "append":
            getattr(self._fallback, attribute)  # without it there is none
        return super().__getattr__(attribute)

    async def _items(self, method: str, /, *args: Any, **named: Any) -> AsyncIterator[Any]:
        yielded = False
        try:
            with self._judged():
                async with items_of(self._provider, method, args, named) as items:
                    async for item in items:
                        yielded = True
                        yield item
        except Exception as error:
            # After a cancellation nobody waits for an answer any more.
            if yielded or is_made_of_cancellation(error):
                raise
            if not (isinstance(error, CircuitOpenError) or speaks_against_provider(error)):
                raise
            require_tools(self._fallback, named)
            async with items_of(self._fallback, method, args, named) as items:
                async for item in items:
                    yield item

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Ask the breaker for a call of the primary, and report the outcome."""
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


class IdleTimeout(_Wrapper):
    """A provider whose calls fail when they make no progress for a set time.

    Progress is an answer, or a piece of a stream that is not empty. The time that the reader of a
    stream takes does not count.

    Args:
        provider: The provider.
        progress_timeout_s: The longest time without progress, positive, in seconds.
        complete_by_stream: Whether ``complete`` joins the pieces of ``stream``, so that an answer
            may take longer while it grows.
        name: The provider's name in errors; None takes the name of its class.
    """

    def __init__(
        self,
        provider: Any,
        progress_timeout_s: float,
        *,
        complete_by_stream: bool = True,
        name: str | None = None,
    ) -> None:
        require_durations("IdleTimeout", progress_timeout_s=progress_timeout_s)
        super().__init__(provider, name, progress_timeout_s)
        self.progress_timeout_s = progress_timeout_s
        self._complete_by_stream = complete_by_stream and hasattr(provider, "stream")

    async def _call(self, method: str, /, *args: Any, **named: Any) -> Any:
        if method == "complete" and self._complete_by_stream:
            pieces = [piece async for piece in self._items("stream", *args, **named)]
            whole = "".join(pieces)
            last = pieces[-1] if pieces else ""
            return last.with_text(whole) if isinstance(last, Answer) else whole
        return await self._in_time(partial(getattr(self._provider, method), *args, **named))

    async def _items(self, method: str, /, *args: Any, **named: Any) -> AsyncIterator[Any]:
        async with items_of(self._provider, method, args, named) as pieces:
            while (piece := await self._in_time(partial(_next_piece, pieces))) is not _END:
                yield piece

    async def _in_time(self, wait: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self.progress_timeout_s) as limit:
                return await wait()
        except Exception as error:
            # The provider may turn its cancellation into another error.
            if limit.expired():
                raise NoProgressError(self.name, self.progress_timeout_s) from error
            raise


class Retry(_Wrapper):
    """A provider whose failed calls are made again, if the failure is ``retryable``.

    Unlike a retry of the stage, it repeats one call of several, such as that for one sentence.
    A stream that has yielded is not repeated. The caller's time limit bounds all attempts.
    """

    def __init__(
        self, provider: Any, policy: RetryPolicy | None = None, *, name: str | None = None
    ) -> None:
        self.policy = policy if policy is not None else RetryPolicy()
        super().__init__(provider, name, self.policy)

    async def _items(self, method: str, /, *args: Any, **named: Any) -> AsyncIterator[Any]:
        yielded = False
        for attempt in itertools.count(1):
            try:
                async with items_of(self._provider, method, args, named) as items:
                    async for item in items:
                        yielded = True
                        yield item
                return
            except Exception as error:
                if yielded or is_made_of_cancellation(error):
                    raise
                # A simulation that draws times has its own source.
                chance = getattr(asyncio.get_running_loop(), "chance", None) or _chance
                delay_s = self.policy.delay_s(attempt, classify(error), chance)
                if delay_s is None:
                    raise
            await asyncio.sleep(delay_s)


async def _next_piece(pieces: AsyncIterator[Any]) -> Any:
    async for piece in pieces:
        if piece != "" or isinstance(piece, Answer):
            return piece
    return _END
