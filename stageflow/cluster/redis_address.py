"""Clients of Redis by address: one server, Sentinel, or a cluster."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from stageflow._utils.extras import needs_extra

with needs_extra("cluster"):
    from redis.asyncio import Redis
    from redis.crc import key_slot
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import RedisError

_ADDRESS = re.compile(
    r"(rediss?)\+(sentinel|cluster)://((?:[^/?#]*@)?)([^@/?#]+)((?:/[^/?#]*)*)(\?[^#]*)?"
)
_HOST = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::(\d{1,5}))?|([\w.-]+)(?::(\d{1,5}))?")
#: How long one of several servers may take to say where to connect, in seconds.
_ASK_S = 1.0

Place = tuple[str, int]
#: Sends a command to the server at a place, and returns its answer.
Call = Callable[..., Awaitable[Any]]


def connected(url: str, namespace: str, **options: Any) -> tuple[Any, int]:
    """Return a client, and how many replicas have to confirm a write.

    If there are several servers, each new connection finds the one that takes writes. Raises
    ValueError or TypeError for a wrong address, or a setting that does not exist.
    """
    several = _ADDRESS.fullmatch(url)
    kind = hosts = path = ""
    if several is not None:
        scheme, kind, credentials, hosts, path, settings = several.groups(default="")
        name, _, database = path[1:].partition("/")
        if not name and kind == "sentinel":
            raise ValueError("the name of Sentinel's service is missing")
        first, path = hosts.split(",")[0], database if kind == "sentinel" else name
        url = f"{scheme}://{credentials}{first}/{path}{settings}"
    client = Redis.from_url(url, **options)
    pool: Any = client.connection_pool
    replicas = int(pool.connection_kwargs.pop("replicas", 0))
    if several is not None:
        own = {
            word: pool.connection_kwargs.pop(f"sentinel_{word}", None)
            for word in ("username", "password")
        }
        seeds = [_place(host, 26379 if kind == "sentinel" else 6379) for host in hosts.split(",")]
        base, asked = pool.connection_class, {**pool.connection_kwargs, "db": 0}
        if kind == "sentinel":
            ask = partial(_primary_by_sentinel, name)
            pool.connection_class = _following(base, asked | own, seeds, ask)
        else:
            slot, nodes = key_slot(f"{{{namespace}}}".encode()), [*seeds]
            ask = partial(_primary_of_slot, slot, seeds, nodes)
            pool.connection_class = _following(base, asked, nodes, ask)
    pool.make_connection()
    return client, replicas


async def _primary_by_sentinel(service: str, call: Call, _: Place) -> Place | None:
    found = await call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
    return None if found is None else (found[0].decode(), int(found[1]))


async def _primary_of_slot(
    slot: int, seeds: list[Place], known: list[Place], call: Call, seed: Place
) -> Place | None:
    """Ask a node of a cluster for the primary of a slot; `known` becomes its nodes and `seeds`."""
    found, named = None, [*seeds]
    for first, last, *nodes in await call("CLUSTER", "SLOTS"):
        # A node that does not know its own name means the address by which it was asked.
        places = [((node[0] or b"").decode() or seed[0], int(node[1])) for node in nodes]
        named += places
        if first <= slot <= last:
            found = places[0]
    known[:] = dict.fromkeys(named)
    return found


def _following(
    base: Any, asked: dict[str, Any], seeds: Sequence[Place], ask: Callable[[Call, Place], Any]
) -> Any:
    """Return a class of connections that ask one of `seeds` where to connect."""

    class Following(base):  # type: ignore[misc]
        async def _connect(self) -> None:
            self.host, self.port = await self._found()
            await super()._connect()

        async def _found(self) -> Place:
            problem: Exception | None = None
            for seed in random.sample(seeds, len(seeds)):  # a part of them may be outdated
                connection = base(**{**asked, "host": seed[0], "port": seed[1]})

                async def call(*words: object, to: Any = connection) -> Any:
                    await to.send_command(*words)
                    return await to.read_response()

                try:
                    async with asyncio.timeout(_ASK_S):
                        await connection.connect()
                        if (found := await ask(call, seed)) is not None:
                            return found  # type: ignore[no-any-return]
                except (RedisError, OSError) as error:
                    problem = error
                finally:
                    await connection.disconnect(nowait=True)
            text = f"none of {len(seeds)} servers says where to connect: {problem!r}"
            raise RedisConnectionError(text) from problem

    return Following


def _place(host: str, port: int) -> Place:
    match = _HOST.fullmatch(host)
    if match is None:
        raise ValueError("a host is malformed")
    return match[1] or match[3], int(match[2] or match[4] or port)
