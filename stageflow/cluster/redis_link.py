"""A Redis client whose calls wait while the server cannot be reached, up to a limit.

Atomic operations are scripts in Lua; each begins with its keys and arguments. A job is a hash; its
content is an entry of its address's stream, read by one consumer group. While a job has no
``result`` it waits or runs. Scripts use the server's time, so that the clocks of the machines need
not agree. Those that end jobs run even when the server's memory is full: they make room.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from stageflow._utils.extras import needs_extra
from stageflow._utils.tasks import cancel_all
from stageflow._utils.text import shown_address
from stageflow.cluster.broker import BrokerUnavailableError, ClusterError
from stageflow.cluster.job import check_name
from stageflow.cluster.redis_address import connected
from stageflow.errors import InvalidConfigError
from stageflow.errors.data import require_durations

with needs_extra("cluster"):
    from redis import exceptions as of_redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import RedisError, ResponseError

T = TypeVar("T")

_log = logging.getLogger("stageflow.cluster")

#: What a call raises if the server is starting, changing its role, full, busy, or unreachable.
AWAY = (RedisConnectionError, of_redis.TimeoutError, TimeoutError, OSError)
#: The other errors of such a server, by their classes and by codes that have none.
_NOT_NOW = (
    *(of_redis.AskError, of_redis.ClusterDownError, of_redis.InvalidResponse),
    *(of_redis.OutOfMemoryError, of_redis.ReadOnlyError, of_redis.TryAgainError),
)
_NOT_NOW_CODES = ("BUSY", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "UNBLOCKED")
_REFUSALS = (
    of_redis.AuthenticationError,
    of_redis.AuthorizationError,
    of_redis.NoPermissionError,
)
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
#: How long `close` waits for calls under way, in seconds.
_CLOSE_S = 1.0
_BATCH = 256
#: How long to wait for replicas to confirm a batch, in milliseconds.
_REPLICAS_WAIT_MS = 1_000


#: Text, keys and arguments of a script, and where its answer is set.
_Call: TypeAlias = tuple[str, list[str], list[Any], asyncio.Future[Any]]


class RedisLink:
    """A client of the Redis server that holds the keys of a namespace."""

    def __init__(
        self, url: str, namespace: str, *, patience_s: float, call_timeout_s: float = 5.0
    ) -> None:
        """Prepare a client, which connects at the first call; a call retries for `patience_s`."""
        check_name("Redis", "namespace", namespace)
        #: Prefix of all keys. Its braces put them into one slot of a cluster.
        self.prefix = f"{{{namespace}}}"
        require_durations("Redis", patience_s=patience_s, call_timeout_s=call_timeout_s)
        #: Address of the server, without the password.
        self.where = shown_address(url)
        try:
            # Untyped: its annotations are unions. The shapes of answers depend on the protocol.
            # Its own limit of reading would end calls that wait.
            self.client, self._replicas = connected(
                url, namespace, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=None
            )
        except (ValueError, TypeError):
            fix = (
                "give redis://host:port/0, rediss://…, unix:///path,"
                " redis+sentinel://host:port,…/service or redis+cluster://host:port,…"
            )
            # Without the cause, whose text may hold the password.
            raise InvalidConfigError("Redis", "url", self.where, fix) from None
        self._patience_s = patience_s
        self._call_timeout_s = call_timeout_s
        self._is_away = False
        #: Before version 7, Redis takes no flags of scripts.
        self._takes_flags = True
        self._queue: list[_Call] = []
        self._sending: asyncio.Task[None] | None = None

    async def once(self, attempt: Callable[[], Awaitable[T]], *, waits_s: float = 0.0) -> T:
        """Make a call that waits for `waits_s`; raise one of `AWAY` if the server is away."""
        task = asyncio.current_task()
        asked = task.cancelling() if task is not None else 0
        try:
            async with asyncio.timeout(self._call_timeout_s + waits_s):
                return await attempt()
        except (*AWAY, RedisError) as error:
            if task is not None and task.cancelling() > asked:
                # The client turns a cancellation into a lost connection if both come at once.
                raise asyncio.CancelledError from None
            if (meaning := await self._outage(error)) is error:
                raise
            raise meaning from error

    async def _outage(self, error: Exception) -> Exception:
        """Return what `_meaning` does; connect again if another server may take writes now."""
        meaning = self._meaning(error)
        if isinstance(meaning, RedisConnectionError):
            await self.client.connection_pool.disconnect(inuse_connections=False)
        return meaning

    def _meaning(self, error: Exception) -> Exception:
        """Return one of `AWAY` for a server that cannot serve now, and otherwise a final error."""
        # The answer to a new connection is the cause of a `ConnectionError`.
        answer = error
        while isinstance(answer.__cause__, RedisError):
            answer = answer.__cause__
        text = str(answer)
        # Before version 7 the answer to a script has the code of the call in it.
        in_script = re.search(r"@user_script: \d+: -([A-Z]+) ", text)
        code = in_script[1] if in_script else text.partition(" ")[0]
        if isinstance(answer, _NOT_NOW) or (
            isinstance(answer, ResponseError)
            and (code in _NOT_NOW_CODES or "Script killed" in text)
        ):
            return RedisConnectionError(text)
        if isinstance(answer, _REFUSALS) or code == "DENIED" or "DB index" in text:
            return ClusterError(
                f"the broker {self.where} refuses this client ({text}); correct user, password and"
                " database in its URL, or the user's rights",
                code="broker_refused",
            )
        return error

    async def call(self, attempt: Callable[[], Awaitable[T]], *, waits_s: float = 0.0) -> T:
        """Make an idempotent call, and retry it for `patience_s` while the server is away."""
        return await self._retry_while_unavailable(partial(self.once, attempt, waits_s=waits_s))

    async def _retry_while_unavailable(self, attempt: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                answer = await attempt()
            except AWAY as error:
                if loop.time() + pause_s > give_up_at:
                    raise BrokerUnavailableError(self.where, self._patience_s, error) from error
                if not self._is_away:
                    self._is_away = True
                    _log.warning("Redis at %s cannot be reached (%s); retrying", self.where, error)
            else:
                if self._is_away:
                    self._is_away = False
                    _log.warning("Redis at %s answers again", self.where)
                return answer
            # Random, so that clients do not all return at the same moment.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def script(self, name: str, keys: list[str], arguments: list[Any]) -> Any:
        """Run an idempotent script of the folder ``scripts``; raises as `call`.

        Scripts that are called while a batch is under way form the next batch: the server writes
        to its disk once per batch.
        """
        return await self._retry_while_unavailable(partial(self.script_once, name, keys, arguments))

    async def script_once(self, name: str, keys: list[str], arguments: list[Any]) -> Any:
        """Run a script; raises as `once`."""
        end: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((script_text(name), keys, arguments, end))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())
        return await end

    async def _send_all(self) -> None:
        while self._queue:
            batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
            answers: list[Any] = [RedisConnectionError("the client has been closed")] * len(batch)
            try:
                answers = await self.once(partial(self._send, batch))
            except Exception as error:
                answers = [error] * len(batch)
            finally:
                for (*_, end), answer in zip(batch, answers, strict=True):
                    if end.done():
                        continue  # the caller was cancelled
                    if isinstance(answer, Exception):
                        end.set_exception(self._meaning(answer))
                    else:
                        end.set_result(answer)
            if problems := [answer for answer in answers if isinstance(answer, Exception)]:
                await self._outage(problems[0])

    async def _send(self, batch: list[_Call]) -> list[Any]:
        answers = await self._sent(batch, by_digest=True)
        unknown = [
            n for n, answer in enumerate(answers) if isinstance(answer, of_redis.NoScriptError)
        ]
        if unknown:  # the server has restarted; by their text it learns them
            try:
                await self.client.eval("#!lua flags=allow-oom\nreturn 1", 0)
            except ResponseError as error:
                self._takes_flags = "near '#'" not in str(error)
            again = await self._sent([batch[n] for n in unknown], by_digest=False)
            for n, answer in zip(unknown, again, strict=True):
                answers[n] = answer
        return answers

    async def _sent(self, batch: list[_Call], *, by_digest: bool) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        call = pipeline.evalsha if by_digest else pipeline.eval
        for script, keys, arguments, _ in batch:
            text = script if self._takes_flags else script.replace("#!", "--", 1)
            call(_digest(text) if by_digest else text, len(keys), *keys, *arguments)
        if self._replicas:
            pipeline.execute_command("WAIT", self._replicas, _REPLICAS_WAIT_MS)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        confirmed = answers.pop() if self._replicas else 0
        if isinstance(confirmed, Exception):
            raise confirmed
        if confirmed < self._replicas:
            text = f"{confirmed} of {self._replicas} replicas have confirmed a write"
            raise RedisConnectionError(text)
        return answers

    async def close(self) -> None:
        """Close all connections."""
        if self._sending is not None:
            await asyncio.wait((self._sending,), timeout=_CLOSE_S)
            await cancel_all((self._sending,))
        await self.client.aclose()


@lru_cache
def script_text(name: str) -> str:
    """Return a script in Lua."""
    return Path(__file__).with_name("scripts").joinpath(f"{name}.lua").read_text("utf-8")


@lru_cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
