"""Circuit breakers that several processes share through Redis, and keep without it."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Self

from stageflow.breaker import (
    BreakerChange,
    BreakerPolicy,
    BreakerRegistry,
    BreakerState,
    CircuitBreaker,
)
from stageflow.closing import AsyncClosing
from stageflow.cluster.redis_link import AWAY, RedisLink
from stageflow.cluster.tasks import cancel_all
from stageflow.cluster.turn import check_name

_log = logging.getLogger("stageflow.cluster")

_LISTEN_S = 5.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0

#: States, channel; provider, state, seconds that it stays open, who says so.
_TELL = """
local time = redis.call('TIME')
local until_s = string.format('%.6f', time[1] + time[2] / 1000000 + ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode({ARGV[2], until_s, ARGV[4]}))
redis.call('EXPIRE', KEYS[1], 86400)
redis.call('PUBLISH', KEYS[2], cjson.encode({ARGV[1], ARGV[2], ARGV[3], ARGV[4]}))
"""


class _SharedBreaker(CircuitBreaker):
    """Says when it has opened or closed."""

    def __init__(
        self, provider: str, policy: BreakerPolicy | None, tell: Callable[[str], None]
    ) -> None:
        super().__init__(provider, policy)
        self._tell = tell

    def _enter(self, state: BreakerState, now_s: float, reason: str) -> BreakerChange | None:
        change = super()._enter(state, now_s, reason)
        if state is not BreakerState.HALF_OPEN:
            self._tell(self.provider)
        return change


class SharedBreakers(BreakerRegistry, AsyncClosing):
    """Breakers whose opening and closing all processes of a namespace hear of.

    Each process decides by its own breaker, without a word to Redis; what it has decided is told in
    the background, and what others tell is taken over. With Redis away each goes on by itself, and
    they agree again when it is back. Each process sends its own probes when a cool-down is over.
    It is an async context manager, of one event loop.
    """

    def __init__(
        self,
        url: str,
        policy: BreakerPolicy | None = None,
        /,
        *,
        namespace: str = "stageflow",
        policies: dict[str, BreakerPolicy] | None = None,
    ) -> None:
        """Choose the server and the policies.

        Args:
            url: As `RedisBroker` takes it.
            policy: For every provider that has none of its own.
            namespace: Whose breakers these are.
            policies: By name of the provider.

        Raises:
            InvalidConfigError: The URL or the namespace is none.
        """
        super().__init__(policy, **(policies or {}))
        check_name("SharedBreakers", "namespace", namespace)
        # How long a single attempt is made does not matter: nobody waits for it.
        self._link = RedisLink(url, patience_s=_LONGEST_PAUSE_S)
        self._states, self._channel = f"{{{namespace}}}:breakers", f"{{{namespace}}}:breaker"
        self._script = self._link.client.register_script(_TELL)
        self._name = uuid.uuid4().hex
        self._untold: set[str] = set()
        self._to_tell = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        #: Set while changes of others are heard.
        self.heard = asyncio.Event()

    def __missing__(self, provider: str) -> CircuitBreaker:
        """See `BreakerRegistry`."""
        policy = self._policies.get(provider, self._policy)
        breaker = self[provider] = _SharedBreaker(provider, policy, self._changed)
        return breaker

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._whatever_happens(work)) for work in (self._tell, self._hear)
        ]
        return self

    async def close(self) -> None:
        """Neither tell nor hear of anything any more."""
        await cancel_all(self._tasks)
        with suppress(*AWAY):
            await self._link.close()

    def _changed(self, provider: str) -> None:
        self._untold.add(provider)
        self._to_tell.set()

    async def _whatever_happens(self, work: Callable[[], Any]) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await work()
            except AWAY as error:
                if pause_s == _FIRST_PAUSE_S:
                    _log.warning(
                        "breakers are not shared: Redis at %s: %s", self._link.where, error
                    )
                self.heard.clear()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                pause_s = _FIRST_PAUSE_S

    async def _tell(self) -> None:
        """Tell what has changed here; what changes several times is told once."""
        await self._to_tell.wait()
        self._to_tell.clear()
        for provider in list(self._untold):
            breaker = self[provider]
            state = BreakerState.CLOSED
            if breaker.state is not BreakerState.CLOSED:
                state = BreakerState.OPEN
            arguments = [provider, str(state), breaker.policy.cooldown_s, self._name]
            try:
                telling = partial(self._script, [self._states, self._channel], arguments)
                await self._link.once(telling)
            except AWAY:
                self._to_tell.set()
                raise
            self._untold.discard(provider)

    async def _hear(self) -> None:
        """Take over what is known, and then what is said."""
        async with self._link.client.pubsub(ignore_subscribe_messages=True) as said:
            await self._link.once(partial(said.subscribe, self._channel))
            await self._catch_up()
            self.heard.set()
            while True:
                message = await said.get_message(timeout=_LISTEN_S)
                if message is not None:
                    provider, state, open_s, by = json.loads(message["data"])
                    self._take_over(provider, state, float(open_s), by)

    async def _catch_up(self) -> None:
        client = self._link.client
        seconds, microseconds = await self._link.once(client.time)
        states = await self._link.once(partial(client.hgetall, self._states))
        for provider, told in states.items():
            state, until_s, by = json.loads(told)
            left_s = float(until_s) - seconds - microseconds / 1e6
            if state == BreakerState.OPEN and left_s > 0:
                self._take_over(provider.decode(), state, left_s, by)

    def _take_over(self, provider: str, state: str, open_s: float, by: str) -> None:
        if by == self._name or provider in self._untold:
            return  # what was found out here, and is about to be told, is newer
        clock = asyncio.get_running_loop().time
        change = self[provider].follow(BreakerState(state), open_s, clock)
        self._untold.discard(provider)  # it is known already
        if change is not None:
            _log.warning("breaker of %r: %s, as another process says", provider, state)
