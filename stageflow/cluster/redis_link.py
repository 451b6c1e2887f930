"""A connection to Redis that outlives it: calls wait while the server is away, up to a limit."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stageflow.cluster.errors import BrokerUnavailableError
from stageflow.durations import is_duration
from stageflow.errors import InvalidConfigError

T = TypeVar("T")

_log = logging.getLogger("stageflow.cluster")

#: What a server that is starting, changing its role, full, or gone is met by.
AWAY = (
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    OutOfMemoryError,
    TimeoutError,
    OSError,
)
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
#: How many scripts go to the server at once.
_BATCH = 256


class _Asked(NamedTuple):
    script: AsyncScript
    keys: list[str]
    arguments: list[Any]
    end: asyncio.Future[Any]


class RedisLink:
    """A client of one Redis server."""

    def __init__(self, url: str, *, patience_s: float, call_timeout_s: float = 5.0) -> None:
        """Prepare a client; nothing is opened before the first call.

        Args:
            url: ``redis://host:port/0``, ``rediss://…`` or ``unix:///path``.
            patience_s: How long a call waits for a server that is away, in seconds.
            call_timeout_s: Limit of a single attempt, in seconds, besides what it waits on purpose.

        Raises:
            InvalidConfigError: The URL is none of these, or a number is not positive.
        """
        for name, value in (("patience_s", patience_s), ("call_timeout_s", call_timeout_s)):
            if not is_duration(value):
                raise InvalidConfigError("Redis", name, value, "give a positive number of seconds")
        try:
            # Untyped: its annotations allow for every way to decode answers at once.
            # The shapes of answers depend on the protocol, and newer clients choose another.
            self.client: Any = Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0))
        except ValueError as error:
            mend = "give redis://host:port/0, rediss://… or unix:///path"
            raise InvalidConfigError("Redis", "url", url, mend) from error
        at = self.client.connection_pool.connection_kwargs
        #: Where it is, without the password.
        self.where: str = at.get("path") or f"{at.get('host')}:{at.get('port')}"
        self._patience_s = patience_s
        self._call_timeout_s = call_timeout_s
        self._is_away = False
        self._queue: list[_Asked] = []
        self._sending: asyncio.Task[None] | None = None

    async def once(self, attempt: Callable[[], Awaitable[T]], *, waits_s: float = 0.0) -> T:
        """The outcome of `attempt`, made once; raises one of `AWAY` if the server is away.

        Args:
            attempt: A call.
            waits_s: How long it waits on purpose, in seconds.
        """
        task = asyncio.current_task()
        asked = task.cancelling() if task is not None else 0
        try:
            async with asyncio.timeout(self._call_timeout_s + waits_s):
                return await attempt()
        except AWAY:
            if task is not None and task.cancelling() > asked:
                # The client turns a cancellation into a lost connection if both come at once.
                raise asyncio.CancelledError from None
            raise

    async def call(self, attempt: Callable[[], Awaitable[T]], *, waits_s: float = 0.0) -> T:
        """The same of a call that may be repeated, which it is as long as the server is away.

        Raises:
            BrokerUnavailableError: It was away for longer than one has patience.
        """
        return await self._patiently(partial(self.once, attempt, waits_s=waits_s))

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                answer = await attempt()
            except AWAY as error:
                if loop.time() + pause_s > give_up_at:
                    raise BrokerUnavailableError(self.where, self._patience_s, error) from error
                if not self._is_away:
                    self._is_away = True
                    _log.warning("Redis at %s is away (%s); trying again", self.where, error)
            else:
                if self._is_away:
                    self._is_away = False
                    _log.warning("Redis at %s is back", self.where)
                return answer
            # Spread, so that a server that comes back is not met by everybody at once.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def script(self, script: AsyncScript, keys: list[str], arguments: list[Any]) -> Any:
        """The answer of a Lua script, which may be repeated; raises as `call`.

        Scripts that are asked for while another batch is under way go together in the next one:
        the server writes to its disk once a batch.
        """
        return await self._patiently(partial(self._ask, script, keys, arguments))

    async def _ask(self, script: AsyncScript, keys: list[str], arguments: list[Any]) -> Any:
        end: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append(_Asked(script, keys, arguments, end))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())
        return await end

    async def _send_all(self) -> None:
        while self._queue:
            batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
            try:
                answers = await self.once(partial(self._send, batch))
            except (*AWAY, RedisError) as error:
                answers = [error] * len(batch)
            for asked, answer in zip(batch, answers, strict=True):
                if asked.end.done():
                    continue  # whoever asked was cancelled
                if isinstance(answer, Exception):
                    asked.end.set_exception(answer)
                else:
                    asked.end.set_result(answer)

    async def _send(self, batch: list[_Asked]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for script, keys, arguments, _ in batch:
            pipeline.evalsha(script.sha, len(keys), *keys, *arguments)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            # A server that has been started anew; none of these has done anything.
            for text in {asked.script.script for asked in batch}:
                await self.client.script_load(text)
            return await self._send(batch)
        return answers

    async def close(self) -> None:
        """Close all connections."""
        if self._sending is not None:
            await asyncio.wait((self._sending,))
        await self.client.aclose()
