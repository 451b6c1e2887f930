"""Circuit breakers that several processes share through Redis."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self

from stageflow._utils.closing import AsyncClosing
from stageflow._utils.tasks import cancel_all
from stageflow.cluster.redis_link import AWAY, FIRST_PAUSE_S, LONGEST_PAUSE_S, RedisLink
from stageflow.resilience import circuit_breaker as circuit

_log = logging.getLogger("stageflow.cluster")

_LISTEN_S = 5.0


class _SharedBreaker(circuit.CircuitBreaker):
    def __init__(
        self, provider: str, policy: circuit.BreakerPolicy | None, report: Callable[[str], None]
    ) -> None:
        super().__init__(provider, policy)
        self._report = report

    def _enter(
        self, state: circuit.BreakerState, now_s: float, reason: str
    ) -> circuit.BreakerTransition | None:
        change = super()._enter(state, now_s, reason)
        if state is not circuit.BreakerState.HALF_OPEN:
            self._report(self.provider)
        return change


class SharedBreakers(circuit.BreakerRegistry, AsyncClosing):
    """Breakers that open and close in all processes of a namespace.

    Each process decides by its own breaker, publishes its decisions in the background, and follows
    those of others. While Redis is away each process decides alone. After a cool-down each sends
    its own probes. An async context manager for one event loop.

    Args:
        url: See `RedisBroker`.
        policy: For providers that `policies` does not name.
        namespace: Processes with the same namespace share breakers.
        policies: By name of the provider.
    """

    def __init__(
        self,
        url: str,
        policy: circuit.BreakerPolicy | None = None,
        /,
        *,
        namespace: str = "stageflow",
        policies: dict[str, circuit.BreakerPolicy] | None = None,
    ) -> None:
        super().__init__(policy, **(policies or {}))
        # The patience does not matter: nothing waits for a call.
        self._link = RedisLink(url, namespace, patience_s=LONGEST_PAUSE_S)
        self._states = f"{self._link.prefix}:breakers"
        self._channel = f"{self._link.prefix}:breaker"
        self._name = uuid.uuid4().hex
        #: How often each breaker has changed since its state was published.
        self._unpublished: Counter[str] = Counter()
        self._changes = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        #: Set while changes of other processes arrive.
        self.heard = asyncio.Event()

    def __missing__(self, provider: str) -> circuit.CircuitBreaker:
        policy = self._policies.get(provider, self._policy)
        return self.setdefault(provider, _SharedBreaker(provider, policy, self._changed))

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        works = self._publish, self._listen
        self._tasks = [asyncio.create_task(self._repeat(work)) for work in works]
        return self

    async def close(self) -> None:
        """Stop publishing and listening."""
        await cancel_all(self._tasks)
        with suppress(*AWAY):
            await self._link.close()

    def _changed(self, provider: str) -> None:
        self._unpublished[provider] += 1
        if self._loop is None or self._loop.is_closed():
            self._changes.set()
        else:
            self._loop.call_soon_threadsafe(self._changes.set)  # the call may come from a thread

    async def _repeat(self, work: Callable[[], Any]) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await work()
            except Exception as error:  # also a refused password: the worker ends by that itself
                if pause_s == FIRST_PAUSE_S:
                    _log.warning(
                        "breakers are not shared: Redis at %s: %s", self._link.where, error
                    )
                self.heard.clear()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                pause_s = FIRST_PAUSE_S

    async def _publish(self) -> None:
        await self._changes.wait()
        self._changes.clear()
        for provider, changes in list(self._unpublished.items()):
            breaker, closed = self[provider], circuit.BreakerState.CLOSED
            state = closed if breaker.state is closed else circuit.BreakerState.OPEN
            arguments = [provider, str(state), breaker.cooldown_s, self._name]
            keys = [self._states, self._channel]
            try:
                await self._link.script_once("publish", keys, arguments)
            except Exception:
                self._changes.set()
                raise
            if self._unpublished[provider] == changes:  # else it has changed meanwhile
                del self._unpublished[provider]

    async def _listen(self) -> None:
        """Follow the states that are stored, then the changes that are published."""
        async with self._link.client.pubsub(ignore_subscribe_messages=True) as channel:
            await self._link.once(partial(channel.subscribe, self._channel))
            await self._catch_up()
            self.heard.set()
            while True:
                get = partial(channel.get_message, timeout=_LISTEN_S)
                message = await self._link.once(get, waits_s=_LISTEN_S)
                if message is not None:
                    with _readable(message["data"]):
                        provider, state, open_s, by = json.loads(message["data"])
                        self._follow(provider, circuit.BreakerState(state), float(open_s), by)

    async def _catch_up(self) -> None:
        client = self._link.client
        seconds, microseconds = await self._link.once(client.time)
        states = await self._link.once(partial(client.hgetall, self._states))
        for provider, stored in states.items():
            with _readable(stored):
                state, until_s, by = json.loads(stored)
                left_s = float(until_s) - seconds - microseconds / 1e6
                if state == circuit.BreakerState.OPEN and left_s > 0:
                    self._follow(provider.decode(), circuit.BreakerState.OPEN, left_s, by)

    def _follow(self, provider: str, state: circuit.BreakerState, open_s: float, by: str) -> None:
        if not isinstance(provider, str):
            raise TypeError("the provider is not a text")
        if by == self._name or provider in self._unpublished:
            return  # the change of this process is newer
        clock = asyncio.get_running_loop().time
        change = self[provider].follow(state, open_s, clock)
        del self._unpublished[provider]  # the others know it already
        if change is not None:
            _log.warning("breaker of %r: %s in another process", provider, state)


@contextmanager
def _readable(message: bytes) -> Iterator[None]:
    """Log a message that cannot be read; others still can."""
    try:
        yield
    except (ValueError, TypeError, RecursionError) as error:
        _log.error("ignored a message about a breaker, %.100r: %s", message, error)
