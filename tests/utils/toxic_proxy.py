"""A TCP proxy on this machine that does to connections what networks do."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from tests.utils.listener import Listener

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_CHUNK_BYTES = 4096


class Ending(StrEnum):
    """The end of a connection."""

    CUT = "cut"  # closed in the ordinary way, but too early
    RESET = "reset"  # the client meets ECONNRESET
    BLACK_HOLE = "black_hole"  # open, and nothing comes through any more, either way
    HALF_OPEN = "half_open"  # the server is gone and nobody says so, until the client sends again


@dataclass(frozen=True, slots=True)
class Toxics:
    """The treatment of one connection.

    Attributes:
        latency_s: How long each piece of what the server sends is held back, in seconds.
        bandwidth_bytes_per_s: How fast the server's bytes come through.
        ending: How the connection ends; None lets it live.
        after_bytes: How many of the server's bytes come through before that.
    """

    latency_s: float = 0.0
    bandwidth_bytes_per_s: float = math.inf
    ending: Ending | None = None
    after_bytes: int = 0


HEALTHY = Toxics()


@dataclass(eq=False)
class _Link:
    """One connection through the proxy."""

    client: Streams
    server: Streams
    toxics: Toxics
    passed_bytes: int = 0
    ended: Ending | None = None


class ToxicProxy(Listener):
    """Forwards connections to a server, with toxics.

    Attributes:
        toxics: What is done to connections from now on.
        script: What is done to the next ones, one after another, before `toxics` holds.
        accepted: How many connections have come.
        reached: Set when the first one has.
    """

    def __init__(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        """Say how the server is reached."""
        super().__init__()
        self.toxics = HEALTHY
        self.script: deque[Toxics] = deque()
        self.accepted = 0
        self.reached = asyncio.Event()
        self._connect = connect
        self._open: set[_Link] = set()

    def poison_open(self, toxics: Toxics) -> None:
        """Change what is done to the connections that are open now, counting bytes anew."""
        for link in self._open:
            link.toxics = toxics
            link.passed_bytes = 0

    def abandon_open(self) -> None:
        """Take the server away from the connections that are open, without a word to clients."""
        for link in self._open:
            link.ended = Ending.HALF_OPEN
            link.server[1].transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one connection, and pass it on."""
        self.accepted += 1
        self.reached.set()
        toxics = self.script.popleft() if self.script else self.toxics
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._serve(_Link((reader, writer), await self._connect(), toxics))
        except (asyncio.CancelledError, OSError):
            # The proxy closes, or one of the two ends has gone: the connection is over.
            pass
        finally:
            writer.close()
            self.tasks.discard(task)

    async def _serve(self, link: _Link) -> None:
        if link.toxics == Toxics(ending=Ending.BLACK_HOLE):
            link.ended = Ending.BLACK_HOLE
        self._open.add(link)
        ways = [asyncio.create_task(way(link)) for way in (_send_up, _send_down)]
        self.tasks.update(ways)
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            link.server[1].transport.abort()
            self._open.discard(link)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self.tasks.difference_update(ways)


async def _send_up(link: _Link) -> None:
    """Forward what the client sends until it has no more to say."""
    while data := await link.client[0].read(_CHUNK_BYTES):
        if link.ended is Ending.HALF_OPEN:
            _reset(link.client[1])
            return
        if link.ended is None:
            link.server[1].write(data)
            await link.server[1].drain()


async def _send_down(link: _Link) -> None:
    """Forward what the server sends, as the toxics have it."""
    while link.ended is None and (data := await link.server[0].read(_CHUNK_BYTES)):
        toxics = link.toxics
        await asyncio.sleep(toxics.latency_s + len(data) / toxics.bandwidth_bytes_per_s)
        left_bytes = toxics.after_bytes - link.passed_bytes
        ends = toxics.ending is not None and len(data) > left_bytes
        link.client[1].write(data[:left_bytes] if ends else data)
        await link.client[1].drain()
        link.passed_bytes += len(data)
        if ends:
            link.ended = toxics.ending
    if link.ended is Ending.RESET:
        _reset(link.client[1])
    elif link.ended is Ending.HALF_OPEN:
        link.server[1].transport.abort()
    if link.ended in (Ending.BLACK_HOLE, Ending.HALF_OPEN):
        await asyncio.get_running_loop().create_future()


def _reset(writer: asyncio.StreamWriter) -> None:
    # To linger for 0 s is to close with RST in place of FIN.
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
