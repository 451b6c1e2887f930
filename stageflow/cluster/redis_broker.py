"""The broker on Redis streams: one stream per queue and pipeline, with one consumer group."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

from redis.exceptions import ResponseError

from stageflow._utils.closing import AsyncClosing
from stageflow.cluster.broker import Address, Broker, ClusterError, Delivery, Envelope
from stageflow.cluster.job import is_key
from stageflow.cluster.redis_link import AWAY, RedisLink

_log = logging.getLogger("stageflow.cluster")

#: The consumer group of the workers of a stream, also in the scripts.
_GROUP = "workers"
#: How many unread answers to keep for a sender, which submits again after an outage.
_ANSWERS = 100_000
_ANSWERS_AT_ONCE = 500
_ANSWERS_WAIT_S = 5.0
_TRIMMED_AT_ONCE = 1_000
#: How much of an entry that is set aside is kept.
_SHOWN_PARTS, _SHOWN_BYTES = 20, 1_000


class RedisBroker(AsyncClosing, Broker):
    """A `Broker` on Redis 6.2 or newer, or Valkey: one server, Sentinel's, or a cluster's.

    It connects at the first call. Acknowledged jobs survive a killed server that runs with
    ``appendonly yes``, and a power cut with ``appendfsync always``.

    Args:
        url: ``redis://host:port/0``, ``unix:///path``, ``redis+sentinel://host:port,…/service`` or
            ``redis+cluster://host:port,…``; ``rediss`` for TLS. With ``?replicas=N`` a write is
            acknowledged when N replicas have confirmed it.
        namespace: Prefix of all keys, so that several clusters can share a server.
        keep_s: How long to keep the result of a job, in seconds: a key that is sent again after
            that is a new job.
        patience_s: How long a call retries a server that cannot be reached, in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "stageflow",
        keep_s: float = 3600.0,
        patience_s: float = 30.0,
    ) -> None:
        self._link = RedisLink(url, namespace, patience_s=patience_s)
        self.where = self._link.where
        self._keep_s = keep_s
        self._workers = [self._named("workers"), self._named("worker-info")]

    async def close(self) -> None:
        await self._link.close()

    async def submit(self, envelope: Envelope, sender: str, *, limit: int) -> bytes | None:
        left = "" if envelope.remaining_s is None else f"{envelope.remaining_s:.6f}"
        keys = [self._named("job", envelope.key), self._stream(envelope.address)]
        arguments = [envelope.key, envelope.body, envelope.digest, left, limit]
        arguments.append(self._named("answers", sender))
        answer = await self._link.script("submit", keys, arguments)
        what, (queue, pipeline) = answer[0], envelope.address
        if what == b"full":
            text = (
                f"{answer[1]} jobs of pipeline {pipeline!r} wait or run in queue {queue!r}, which"
                " is all that the dispatcher allows; start more workers, or send less"
            )
            error = ClusterError(text, code="queue_full")
            error.retry_after_s = 1.0
            raise error
        if what == b"other":
            text = (
                f"the idempotency key {envelope.key!r} belongs to another job (pipeline, queue,"
                " inputs or outputs differ); give each job its own key"
            )
            raise ClusterError(text, code="idempotency_conflict")
        return bytes(answer[1]) if what == b"ended" else None

    async def answers(self, sender: str) -> AsyncIterator[tuple[str, bytes] | None]:
        stream, last, answered = self._named("answers", sender), b"0", 0
        read, wait_ms = self._link.client.xread, int(_ANSWERS_WAIT_S * 1000)
        while True:
            attempt = partial(read, {stream: last}, count=_ANSWERS_AT_ONCE, block=wait_ms)
            try:
                found = await self._link.once(attempt, waits_s=_ANSWERS_WAIT_S)
            except AWAY:
                found = await self._link.call(attempt, waits_s=_ANSWERS_WAIT_S)
                yield None
            for _, entries in found or ():
                for entry, fields in entries:
                    last = entry
                    answered += 1
                    if b"result" in fields and (key := _key_in(fields)) is not None:
                        yield key, fields[b"result"]
                    else:
                        _log.error("entry %s of %s is not an answer", entry.decode(), stream)
            if answered >= _TRIMMED_AT_ONCE:
                answered = 0
                await self._link.call(partial(self._link.client.xtrim, stream, minid=last))

    async def cancel(self, key: str) -> None:
        await self._link.script("cancel", [self._named("job", key), self._named("cancel")], [key])

    async def complete(
        self, key: str, answer: bytes, outcome: str, *, delivery: Delivery | None = None
    ) -> bool:
        keys = [self._named("job", key), self._named("counts")]
        arguments = [key, answer, outcome, int(self._keep_s), _ANSWERS]
        try:
            completed = bool(await self._link.script("complete", keys, arguments))
        except ResponseError as error:
            _log.error("job %s cannot be completed: %s", key, error)
            completed = False
        if delivery is not None and not completed:
            await self._set_aside(self._stream(delivery.address), delivery.receipt, [])
        return completed

    async def workers(self) -> Mapping[str, bytes]:
        flat = await self._link.script("workers", self._workers, [])
        return {name.decode(errors="replace"): info for name, info in _pairs(flat).items()}

    async def counts(self) -> dict[str, int]:
        """Return how many jobs have ended, by outcome."""
        read = self._link.client.hgetall
        found = await self._link.call(lambda: read(self._named("counts")))
        return {name.decode(): int(count) for name, count in found.items()}

    async def queued(self, queue: str, pipeline: str) -> int:
        """Return how many jobs of a pipeline wait or run in a queue."""
        stream = self._stream(Address(queue, pipeline))
        return int(await self._link.call(partial(self._link.client.xlen, stream)))

    async def join(
        self, worker: str, info: bytes, addresses: Collection[Address], *, ttl_s: float
    ) -> None:
        for address in addresses:
            await self._link.call(partial(self._make_group, self._stream(address)))
        await self._link.script("join", self._workers, [worker, info, ttl_s])

    async def leave(self, worker: str) -> None:
        # Its consumer stays in the groups: removing it would drop jobs that others must reclaim.
        await self._link.script("join", self._workers, [worker, b"", 0])

    async def take(
        self, worker: str, addresses: Sequence[Address], *, count: int, wait_s: float
    ) -> list[Delivery]:
        streams = [self._stream(address) for address in addresses]
        # Shuffled, so that a busy pipeline cannot starve the others.
        random.shuffle(streams)
        try:
            taken = await self._link.script("take", streams, [worker, count])
            if not taken:
                waiting = partial(self._wait, worker, streams, wait_s)
                taken = await self._link.call(waiting, waits_s=wait_s)
        except ResponseError as error:
            await self._restore_groups(streams, error)
            taken = []
        return await self._deliveries(taken, addresses)

    async def _wait(self, worker: str, streams: Sequence[str], wait_s: float) -> list[Any]:
        """Wait for the first job, or one of each stream; a script cannot wait."""
        new, wait_ms = dict.fromkeys(streams, ">"), max(1, int(wait_s * 1000))
        read = self._link.client.xreadgroup
        found = await read(_GROUP, worker, new, count=1, block=wait_ms)
        return [
            (stream, entry, list(chain(*fields.items())), 1)
            for stream, entries in found or ()
            for entry, fields in entries
        ]

    async def reclaim(
        self, worker: str, addresses: Sequence[Address], *, count: int, lease_s: float
    ) -> list[Delivery]:
        taken: list[Any] = []
        for address in addresses:
            left = count - len(taken)
            if left > 0:
                stream, arguments = self._stream(address), [worker, int(lease_s * 1000), left]
                try:
                    taken += await self._link.script("reclaim", [stream], arguments)
                except ResponseError as error:
                    await self._restore_groups([stream], error)
        return await self._deliveries(taken, addresses)

    async def renew(self, worker: str, held: Collection[Delivery]) -> dict[str, str]:
        keys = [k for d in held for k in (self._stream(d.address), self._named("job", d.key))]
        arguments = [worker, *(delivery.receipt for delivery in held)]
        states = await self._link.script("renew", keys, arguments) if keys else []
        found = zip(held, states, strict=True)
        return {d.key: state.decode() for d, state in found if state != b"held"}

    async def give_back(self, worker: str, held: Collection[Delivery]) -> None:
        keys = [self._stream(delivery.address) for delivery in held]
        if keys:
            await self._link.script("give_back", keys, [worker, *(d.receipt for d in held)])

    async def cancellations(self) -> AsyncIterator[str]:
        async with self._link.client.pubsub(ignore_subscribe_messages=True) as subscriber:
            while True:
                try:
                    if not subscriber.subscribed:
                        subscribe = partial(subscriber.subscribe, self._named("cancel"))
                        await self._link.once(subscribe)
                    get = partial(subscriber.get_message, timeout=_ANSWERS_WAIT_S)
                    message = await self._link.once(get, waits_s=_ANSWERS_WAIT_S)
                except AWAY:
                    # Wait for the server; the client then subscribes again by itself.
                    await self._link.call(self._link.client.ping)
                    continue
                if message is not None:
                    yield message["data"].decode(errors="replace")

    async def warn_unless_durable(self) -> None:
        """Log a warning for each setting by which the server may lose acknowledged jobs."""
        config: dict[str, str] = {}
        try:
            for pattern in ("append*", "maxmemory-policy"):  # version 6.2 takes one at a time
                read = partial(self._link.client.config_get, pattern)
                config |= await self._link.call(read)
        except (ResponseError, ClusterError) as error:  # some hosted services hide their settings
            _log.warning("cannot read whether the broker %s is durable: %s", self.where, error)
            return
        risks = []
        if config.get("appendonly") != "yes":
            risks.append("loses its jobs when it restarts; run it with appendonly yes")
        elif config.get("appendfsync") != "always":
            risks.append("may lose the last second in a power cut; run it with appendfsync always")
        if config.get("maxmemory-policy") != "noeviction":
            risks.append("drops jobs when memory is full; run it with maxmemory-policy noeviction")
        for risk in risks:
            _log.warning("the broker %s %s", self.where, risk)

    async def _restore_groups(self, streams: Sequence[str], error: ResponseError) -> None:
        """Create the groups again if `error` says that the server lost its data; else raise it."""
        if "NOGROUP" not in str(error):
            raise error
        # A new group begins before the jobs that have been sent since.
        for stream in streams:
            await self._link.call(partial(self._make_group, stream))

    async def _make_group(self, stream: str) -> None:
        try:
            await self._link.client.xgroup_create(stream, _GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _deliveries(
        self, taken: Sequence[Any], addresses: Sequence[Address]
    ) -> list[Delivery]:
        """Turn taken entries (stream, entry, flat fields, deliveries) into deliveries."""
        jobs: list[tuple[str, Any, dict[bytes, bytes]]] = []
        for one in taken:
            fields = _pairs(one[2])
            if (key := _key_in(fields)) is None:
                await self._set_aside(one[0].decode(), one[1].decode(), one[2])
            else:
                jobs.append((key, one, fields))
        if not jobs:
            return []
        by_stream = {self._stream(address).encode(): address for address in addresses}

        async def look() -> Any:
            pipeline = self._link.client.pipeline(transaction=False)
            pipeline.time()
            for key, *_ in jobs:
                pipeline.hexists(self._named("job", key), "cancelled")
            answers = await pipeline.execute(raise_on_error=False)
            if isinstance(answers[0], Exception):
                raise answers[0]
            return answers

        (seconds, microseconds), *flags = await self._link.call(look)
        now_s = seconds + microseconds / 1e6
        found = []
        for job, to_cancel in zip(jobs, flags, strict=True):
            key, (stream, entry, _, deliveries), fields = job
            try:
                body, until = fields[b"body"], fields[b"until"]
                remaining_s = float(until) - now_s if until else None
            except (KeyError, ValueError):
                body, remaining_s = b"", None  # the worker answers that it cannot be read
            address, receipt, cancelled = by_stream[stream], entry.decode(), to_cancel is True
            found.append(Delivery(key, address, receipt, body, remaining_s, deliveries, cancelled))
        return found

    async def _set_aside(self, stream: str, entry: str, flat: Sequence[bytes]) -> None:
        """Remove an entry that no worker can end, and keep the beginnings of its fields."""
        keys = [stream, self._named("unreadable"), self._named("counts")]
        shown = [part[:_SHOWN_BYTES] for part in flat[:_SHOWN_PARTS]]
        if await self._link.script("set_aside", keys, [entry, *shown]):
            _log.error("entry %s of %s is not a job that can end; it is set aside", entry, stream)

    def _named(self, *words: str) -> str:
        return ":".join((self._link.prefix, *words))

    def _stream(self, address: Address) -> str:
        return self._named("jobs", *address)


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _key_in(fields: Mapping[bytes, bytes]) -> str | None:
    key = fields.get(b"key", b"").decode("ascii", "replace")
    return key if is_key(key) else None
