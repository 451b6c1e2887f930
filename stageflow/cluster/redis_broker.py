"""The broker over Redis streams: one consumer group a stream, one stream a queue and pipeline."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from typing import Any

from redis.exceptions import ResponseError

from stageflow.closing import AsyncClosing
from stageflow.cluster import redis_scripts as lua
from stageflow.cluster.broker import Address, Delivery, Parcel, Renewal
from stageflow.cluster.errors import KeyConflictError, QueueFullError
from stageflow.cluster.redis_link import AWAY, RedisLink
from stageflow.cluster.turn import check_name

_log = logging.getLogger("stageflow.cluster")

#: How many answers are kept for a sender that does not read them; those beyond are asked for anew.
_ANSWERS = 100_000
_ANSWERS_AT_ONCE = 500
_ANSWERS_WAIT_S = 5.0
_TRIMMED_AT_ONCE = 1_000


class RedisBroker(AsyncClosing):
    """A `Broker` on one Redis server (version 7 or newer), or its replicas behind one address.

    All names begin with the namespace, so that several clusters share a server, and each of them
    may live on another (see docs/guides/cluster.md). What was acknowledged survives a server
    that is killed if it runs with ``appendonly yes``, and a power cut with ``appendfsync always``.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "stageflow",
        keep_s: float = 3600.0,
        patience_s: float = 30.0,
    ) -> None:
        """Prepare a broker; nothing is opened before the first call.

        Args:
            url: ``redis://host:port/0``, ``rediss://…`` or ``unix:///path``.
            namespace: What all names begin with.
            keep_s: How long the end of a turn is remembered, in seconds: a key that is sent again
                after that is a new turn.
            patience_s: How long a call waits for a server that is away, in seconds.

        Raises:
            InvalidConfigError: One of these is not of its kind.
        """
        check_name("RedisBroker", "namespace", namespace)
        self._link = RedisLink(url, patience_s=patience_s)
        self._prefix = f"{{{namespace}}}"
        self._keep_s = keep_s
        self._streams: dict[Address, str] = {}
        register = self._link.client.register_script
        self._submit = register(lua.SUBMIT)
        self._settle = register(lua.SETTLE)
        self._cancel = register(lua.CANCEL)
        self._join = register(lua.JOIN)
        self._cards = register(lua.CARDS)
        self._renew = register(lua.RENEW)
        self._take = register(lua.TAKE)
        self._take_over = register(lua.TAKE_OVER)
        self._give_back = register(lua.GIVE_BACK)

    @property
    def where(self) -> str:
        """Where the server is, without the password."""
        return self._link.where

    async def close(self) -> None:
        """See `Broker`."""
        await self._link.close()

    # ── a dispatcher's side ─────────────────────────────────────────────────────────────────

    async def submit(self, parcel: Parcel, sender: str, *, limit: int) -> bytes | None:
        """See `Sender`."""
        left = "" if parcel.remaining_s is None else f"{parcel.remaining_s:.6f}"
        answer = await self._link.script(
            self._submit,
            [self._turn(parcel.key), self._stream(parcel.address)],
            [parcel.key, parcel.body, parcel.digest, left, limit, self._answers(sender)],
        )
        what = answer[0]
        if what == b"full":
            raise QueueFullError(parcel.address.queue, parcel.address.pipeline, answer[1])
        if what == b"other":
            raise KeyConflictError(parcel.key)
        return bytes(answer[1]) if what == b"ended" else None

    async def answers(self, sender: str) -> AsyncIterator[tuple[str, bytes] | None]:
        """See `Sender`."""
        stream, last, answered = self._answers(sender), b"0", 0
        read, wait_ms = self._link.client.xread, int(_ANSWERS_WAIT_S * 1000)
        while True:
            try:
                found = await self._link.once(
                    partial(read, {stream: last}, count=_ANSWERS_AT_ONCE, block=wait_ms),
                    waits_s=_ANSWERS_WAIT_S,
                )
            except AWAY:
                await self._link.call(self._link.client.ping)
                yield None
                continue
            for _, entries in found or ():
                for entry, fields in entries:
                    last = entry
                    yield fields[b"key"].decode(), fields[b"result"]
                    answered += 1
            if answered >= _TRIMMED_AT_ONCE:
                answered = 0
                await self._link.call(partial(self._link.client.xtrim, stream, minid=last))

    async def cancel(self, key: str) -> None:
        """See `Sender`."""
        await self._link.script(self._cancel, [self._turn(key), f"{self._prefix}:cancel"], [key])

    async def settle(self, key: str, answer: bytes, outcome: str) -> bool:
        """See `Sender`."""
        keys = [self._turn(key), f"{self._prefix}:counts"]
        arguments = [key, answer, outcome, int(self._keep_s), _ANSWERS]
        return bool(await self._link.script(self._settle, keys, arguments))

    async def cards(self) -> Mapping[str, bytes]:
        """See `Sender`."""
        flat = await self._link.script(self._cards, self._worker_keys(), [])
        return {name.decode(): card for name, card in zip(flat[::2], flat[1::2], strict=True)}

    async def counts(self) -> dict[str, int]:
        """How many turns have ended, by outcome."""
        read = self._link.client.hgetall
        found = await self._link.call(lambda: read(f"{self._prefix}:counts"))
        return {name.decode(): int(count) for name, count in found.items()}

    async def queued(self, queue: str, pipeline: str) -> int:
        """How many turns of a pipeline wait or run in a queue."""
        stream = self._stream(Address(queue, pipeline))
        return int(await self._link.call(partial(self._link.client.xlen, stream)))

    # ── a worker's side ─────────────────────────────────────────────────────────────────────

    async def join(
        self, worker: str, card: bytes, addresses: Collection[Address], *, ttl_s: float
    ) -> None:
        """See `Receiver`."""
        for address in addresses:
            await self._link.call(partial(self._make_group, self._stream(address)))
        await self._link.script(self._join, self._worker_keys(), [worker, card, ttl_s])

    async def leave(self, worker: str) -> None:
        """See `Receiver`."""
        # Its consumer stays in the groups: removing it would drop what others have to take over.
        await self._link.script(self._join, self._worker_keys(), [worker, b"", 0])

    async def take(
        self, worker: str, addresses: Sequence[Address], *, count: int, wait_s: float
    ) -> list[Delivery]:
        """See `Receiver`."""
        streams = [self._stream(address) for address in addresses]
        # Each pipeline gets its turn, however busy the others are.
        random.shuffle(streams)
        try:
            taken = await self._link.script(self._take, streams, [worker, count])
            if not taken:
                waiting = partial(self._wait, worker, streams, wait_s)
                taken = await self._link.call(waiting, waits_s=wait_s)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            # The server has lost its memory; what was sent since is there all the same.
            for stream in streams:
                await self._link.call(partial(self._make_group, stream))
            taken = []
        return await self._deliveries(taken, addresses)

    async def _wait(self, worker: str, streams: Sequence[str], wait_s: float) -> list[Any]:
        """The first turn that comes, or one of each stream; a script cannot wait."""
        found = await self._link.client.xreadgroup(
            lua.GROUP,
            worker,
            dict.fromkeys(streams, ">"),
            count=1,
            block=max(1, int(wait_s * 1000)),
        )
        return [
            (stream, entry, list(chain(*fields.items())), 1)
            for stream, entries in found or ()
            for entry, fields in entries
        ]

    async def take_over(
        self, worker: str, addresses: Sequence[Address], *, count: int, lease_s: float
    ) -> list[Delivery]:
        """See `Receiver`."""
        taken: list[Any] = []
        for address in addresses:
            left = count - len(taken)
            if left > 0:
                arguments = [worker, int(lease_s * 1000), left]
                taken += await self._link.script(
                    self._take_over, [self._stream(address)], arguments
                )
        return await self._deliveries(taken, addresses)

    async def renew(self, worker: str, held: Collection[Delivery]) -> Renewal:
        """See `Receiver`."""
        keys = [k for d in held for k in (self._stream(d.address), self._turn(d.key))]
        arguments = [worker, *(delivery.receipt for delivery in held)]
        states = await self._link.script(self._renew, keys, arguments) if keys else []
        found = [(d.key, state) for d, state in zip(held, states, strict=True)]
        return Renewal(
            frozenset(key for key, state in found if state == b"lost"),
            frozenset(key for key, state in found if state == b"cancelled"),
        )

    async def give_back(self, worker: str, held: Collection[Delivery]) -> None:
        """See `Receiver`."""
        keys = [self._stream(delivery.address) for delivery in held]
        if keys:
            await self._link.script(self._give_back, keys, [worker, *(d.receipt for d in held)])

    @asynccontextmanager
    async def cancellations(self) -> AsyncIterator[AsyncIterator[str]]:
        """See `Receiver`."""
        subscriber = self._link.client.pubsub(ignore_subscribe_messages=True)

        async def keys() -> AsyncIterator[str]:
            while True:
                try:
                    if not subscriber.subscribed:
                        await subscriber.subscribe(f"{self._prefix}:cancel")
                    said = await subscriber.get_message(timeout=_ANSWERS_WAIT_S)
                except AWAY:
                    # Waits until the server is back; the client then subscribes again by itself.
                    await self._link.call(self._link.client.ping)
                    continue
                if said is not None:
                    yield said["data"].decode()

        try:
            yield keys()
        finally:
            await subscriber.aclose()

    async def warn_unless_durable(self) -> None:
        """Say in the log if what the server acknowledges may be lost."""
        read = partial(self._link.client.config_get, "append*", "maxmemory-policy")
        try:
            config = await self._link.call(read)
        except ResponseError as error:  # some services keep their settings to themselves
            _log.warning("whether the broker %s is durable cannot be told: %s", self.where, error)
            return
        for risk in _risks(config):
            _log.warning("the broker %s %s", self.where, risk)

    # ── how ─────────────────────────────────────────────────────────────────────────────────

    async def _make_group(self, stream: str) -> None:
        try:
            await self._link.client.xgroup_create(stream, lua.GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _deliveries(
        self, taken: Sequence[Any], addresses: Sequence[Address]
    ) -> list[Delivery]:
        """What was taken, as stream, entry, fields in a row and deliveries, as it is now."""
        if not taken:
            return []
        by_stream = {self._stream(address).encode(): address for address in addresses}
        told = [dict(zip(flat[::2], flat[1::2], strict=True)) for _, _, flat, _ in taken]

        async def look() -> Any:
            pipeline = self._link.client.pipeline(transaction=False)
            pipeline.time()
            for fields in told:
                pipeline.hexists(self._turn(fields[b"key"].decode()), "cancelled")
            return await pipeline.execute()

        (seconds, microseconds), *cancelled = await self._link.call(look)
        now_s = seconds + microseconds / 1e6
        return [
            Delivery(
                fields[b"key"].decode(),
                by_stream[stream],
                entry.decode(),
                fields[b"body"],
                float(fields[b"until"]) - now_s if fields[b"until"] else None,
                deliveries,
                bool(to_cancel),
            )
            for (stream, entry, _, deliveries), fields, to_cancel in zip(
                taken, told, cancelled, strict=True
            )
        ]

    def _stream(self, address: Address) -> str:
        stream = self._streams.get(address)
        if stream is None:
            stream = f"{self._prefix}:turns:{address.queue}:{address.pipeline}"
            self._streams[address] = stream
        return stream

    def _turn(self, key: str) -> str:
        return f"{self._prefix}:turn:{key}"

    def _answers(self, sender: str) -> str:
        return f"{self._prefix}:answers:{sender}"

    def _worker_keys(self) -> list[str]:
        return [f"{self._prefix}:workers", f"{self._prefix}:cards"]


def _risks(config: Mapping[str, str]) -> Iterator[str]:
    """What a server with these settings may lose, and the mend."""
    if config.get("appendonly") != "yes":
        yield "keeps turns in memory alone, and a restart loses them; run it with appendonly yes"
    elif config.get("appendfsync") != "always":
        yield "may lose its last second in a power cut; run it with appendfsync always"
    if config.get("maxmemory-policy") != "noeviction":
        yield "drops turns when its memory is full; run it with maxmemory-policy noeviction"
