"""Sockets in the memory of a simulation, and how its event loop waits for them.

asyncio's own code makes connections, servers, datagrams and TLS of them.
"""

import asyncio
import errno
import select
import selectors
import socket
import weakref
from asyncio import events, selector_events
from collections import deque
from contextvars import copy_context
from functools import partial
from types import SimpleNamespace
from typing import Any

from stageflow.testing.simulation.errors import RealIOError
from stageflow.testing.simulation.hosts import ANY, LOOPBACK, PROCESS, Host, Network
from stageflow.testing.simulation.patches import threads

#: So many bytes are under way or unread before a sender has to wait.
_WINDOW_BYTES = 64 * 1024
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_END = b""
_new: Any = socket.socket.__new__
_poll: Any = getattr(select, "poll", None)
_warn: Any = getattr(asyncio.StreamWriter, "__del__", None)


class _Socket(socket.socket):
    """A socket of the simulated network, which does not block."""

    def __init__(self, family: int = -1, type: int = -1, *_: object, **__: object) -> None:  # noqa: A002
        self._io_refs, self._closed = 0, False
        self._family = socket.AF_INET if family == -1 else family
        self._kind = socket.SOCK_STREAM if type == -1 else type & 0xF
        loop: Any = asyncio.get_running_loop()
        self._loop, network = loop, loop.network
        self.network: Network = network
        self.host, self.number = network.here(), next(network.numbers)
        network.sockets[self.number] = self
        self.host.sockets[self] = None
        self.name: tuple[str, int] | None = None
        self.other_name: tuple[str, int] | None = None
        self.other: _Socket | None = None
        #: What is under way to it, and what has arrived: bytes, errors, or new connections.
        self._coming, self.inbox = deque[Any](), deque[Any]()
        self._pending, self._due_s = 0, 0.0
        #: For which events a callback is scheduled already.
        self.woken = 0
        self.listens = self._connecting = self._ended = False
        self._blocks = True

    family = property(lambda self: self._family)
    type = property(lambda self: self._kind)
    proto = property(lambda self: 0)

    def fileno(self) -> int:
        return -1 if self._closed else self.number

    def setblocking(self, flag: object) -> None:
        self._blocks = bool(flag)

    def gettimeout(self) -> float | None:
        return None if self._blocks else 0.0

    def setsockopt(self, *_: object) -> None: ...

    def getsockopt(self, _: int, name: int, *__: object) -> Any:
        refused = name == socket.SO_ERROR and self._kind != socket.SOCK_DGRAM and not self.other
        return errno.ECONNREFUSED if refused else 0

    def getsockname(self) -> Any:
        return self.name or (ANY, 0)

    def getpeername(self) -> Any:
        if self.other_name is None:
            raise OSError(errno.ENOTCONN, "the socket is not connected")
        return self.other_name

    def is_ready(self, event: int) -> bool:
        if event == _READ:
            return bool(self.inbox)
        room = self.other is None or self.other._pending < _WINDOW_BYTES
        return room and not self._connecting

    def _needs(self, event: int, name: str) -> None:
        if self._blocks:
            raise RealIOError(f"socket.{name}")
        if not self.is_ready(event):
            raise BlockingIOError(errno.EAGAIN, f"{name} would block")

    def bind(self, address: Any) -> None:
        there, ip = self.network.at(address[0], "bind")
        if there is not self.host or self.host.find(self._kind, ip, address[1]) is not None:
            raise OSError(errno.EADDRINUSE, f"{address} is in use, or not of {self.host.name!r}")
        self.name = ip, address[1] or next(self.network.ports)
        self.host.bound[(self._kind, *self.name)] = self

    def listen(self, backlog: int = 0) -> None:
        self.listens, self.context = True, copy_context()

    def accept(self) -> tuple[Any, Any]:
        self._needs(_READ, "accept")
        accepted = self.inbox.popleft()
        return accepted, accepted.other_name

    def connect(self, address: Any) -> None:
        self._needs(_WRITE, "connect")
        self.other_name, (host, _) = address[:2], self.network.at(address[0], "sock_connect")
        if self.name is None:
            self.bind((LOOPBACK if self.host is host else self.host.address, 0))
        if self._kind != socket.SOCK_DGRAM:
            self._connecting = True
            self.network.carry(self.host, host, partial(self._request, host))
            raise BlockingIOError(errno.EINPROGRESS, "it connects")

    def _request(self, host: Host) -> None:
        listener = host.find(self._kind, *self.other_name or ("", 0))
        if listener is not None and listener.listens and not self._closed:
            other = self.other = listener.context.run(_Socket, self._family, self._kind)
            other.other, other.name, other.other_name = self, self.other_name, self.name
            listener.arrive(other)
        self.network.carry(host, self.host, self._answered)

    def _answered(self) -> None:
        self._connecting = False
        self._loop.wake(self)

    def send(self, data: Any, *_: object) -> int:
        self._needs(_WRITE, "send")
        if self._kind == socket.SOCK_DGRAM:
            return self.sendto(data, self.other_name)
        if self.other is None or self._ended:
            raise BrokenPipeError(errno.EPIPE, "the connection is closed")
        plan, sent, at = self.network.plan, bytes(data[:_WINDOW_BYTES]), 0
        if self.network.strikes(plan.resets):
            self.reset()
            raise ConnectionResetError(errno.ECONNRESET, "the simulation reset the connection")
        if len(sent) > 1 and self.network.strikes(plan.split):
            at = 1 + int(self._loop.chance.random() * (len(sent) - 1))
        for part in (sent[:at], sent[at:]) if at else (sent,):
            self.other._pending += len(part)
            self._carry(self.other, part)
        return len(sent)

    def sendmsg(self, buffers: Any, *_: Any) -> int:
        return self.send(b"".join(buffers))

    def _carry(self, other: "_Socket", item: Any) -> None:
        other._coming.append(item)
        due_s = self.network.carry(self.host, other.host, other._next_arrives, other._due_s)
        other._due_s = due_s

    def _next_arrives(self) -> None:
        item = self._coming.popleft()
        if not self._closed:
            self.arrive(item)
        elif isinstance(item, bytes) and item:
            self.reset()

    def arrive(self, item: Any) -> None:
        self.inbox.append(item)
        self._loop.wake(self)

    def recv(self, size: int, *_: object) -> bytes:
        self._needs(_READ, "recv")
        item, inbox = self.inbox.popleft(), self.inbox
        if isinstance(item, tuple):
            return bytes(item[0][:size])
        if isinstance(item, Exception):
            raise item
        while item and inbox and isinstance(inbox[0], bytes) and inbox[0] and len(item) < size:
            item += inbox.popleft()
        if not item or item[size:]:
            inbox.appendleft(item[size:])
        self._pending -= len(item[:size])
        self._loop.wake(self.other)
        return bytes(item[:size])

    def recv_into(self, buffer: Any, *_: object) -> int:
        received = self.recv(len(buffer))
        buffer[: len(received)] = received
        return len(received)

    def recvfrom(self, size: int, *_: object) -> tuple[bytes, Any]:
        self._needs(_READ, "recvfrom")
        data, sender = self.inbox.popleft()
        return bytes(data[:size]), sender

    def sendto(self, data: Any, *address: Any) -> int:
        network, (ip, port) = self.network, address[-1][:2]
        host, _ = network.at(ip, "sock_sendto")
        if self.name is None:
            self.bind(("", 0))
        sender = LOOPBACK if host is self.host else self.host.address, self.getsockname()[1]

        def arrive() -> None:
            if (found := host.find(socket.SOCK_DGRAM, ip, port)) is not None:
                found.arrive((bytes(data), sender))

        lost = network.strikes(network.plan.loss)
        if not lost and network.open_at(self.host, host) == self._loop.time():
            network.carry(self.host, host, arrive)
        return len(data)

    def shutdown(self, how: int, last: object = _END) -> None:
        if how != socket.SHUT_RD and self.other is not None and not self._ended:
            self._ended = True
            self._carry(self.other, last)

    def close(self) -> None:
        if not self._closed:
            self.shutdown(socket.SHUT_WR)
            self._closed = True
            del self.network.sockets[self.number], self.host.sockets[self]
            if self.name and self.host.bound.get(key := (self._kind, *self.name)) is self:
                del self.host.bound[key]
            for one in self.inbox if self.listens else ():
                one.reset()

    def reset(self) -> None:
        """Close it as a crash does: what was sent before still arrives, and then an error."""
        error = ConnectionResetError(errno.ECONNRESET, "the other side reset the connection")
        self.shutdown(socket.SHUT_WR, error)
        self.close()


def _made(cls: Any, *args: Any, **options: Any) -> Any:
    loop = events._get_running_loop()
    simulated = cls is socket.socket and getattr(loop, "network", None) is not None
    return _new(_Socket if simulated and not threads else cls)


def _polling() -> Any:
    """Return what `select.poll` does: HTTP clients ask it whether an idle connection has ended."""
    network, asked = getattr(events._get_running_loop(), "network", None), list[int]()
    if network is None:
        return _poll()

    def poll(*_: object) -> list[tuple[int, int]]:
        known = network.sockets
        return [(fd, select.POLLIN) for fd in asked if fd not in known or known[fd].inbox]

    return SimpleNamespace(register=lambda fd, *_: asked.append(fd), poll=poll)


def _dropped(writer: Any) -> None:
    """Do not warn of a writer that a cancelled server has dropped open: it holds no file."""
    if not isinstance(writer._loop, NetworkLoop):
        _warn(writer)
    elif not writer._loop.is_closed():
        writer.close()


class _Selector(selectors._BaseSelectorImpl):
    """Knows which callbacks wait for which socket."""

    def __init__(self, loop: "NetworkLoop") -> None:
        super().__init__()
        self._loop = loop

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        sock = self._loop.known("add_reader").sockets.get(fileobj)
        if sock is None:
            raise RealIOError("add_reader")
        key = super().register(fileobj, events, data)
        self._loop.wake(sock)
        return key

    select: Any = None  # nobody polls it


class NetworkLoop(selector_events.BaseSelectorEventLoop):
    """An event loop whose sockets are those of a simulated network; without one it has none."""

    _selector: _Selector
    _transports: Any

    def __init__(self) -> None:
        super().__init__(_Selector(self))
        self.network: Network | None = None
        #: Those of the tasks that are not of the simulated function itself.
        self.hosts: Any = weakref.WeakKeyDictionary()
        self.killed = False  # whether a host ever was
        if socket.socket.__new__ is not _made:  # to set it makes Python forget what it has cached
            vars(select)["poll"] = _polling
            if _warn is not None:
                asyncio.StreamWriter.__del__ = _dropped  # type: ignore[method-assign]
            socket.socket.__new__ = _made  # type: ignore[method-assign]

    def _make_self_pipe(self) -> None: ...

    _close_self_pipe = _make_self_pipe

    def known(self, operation: str) -> Network:
        """Return the network; raise `RealIOError` without one."""
        if self.network is None:
            raise RealIOError(operation)
        return self.network

    async def getaddrinfo(self, host: Any, port: Any, **options: int) -> list[Any]:
        """Look a name up among the hosts of the simulation, which takes time."""
        network, arrived = self.known("getaddrinfo"), asyncio.Event()
        name = host.decode() if isinstance(host, bytes) else host
        unnamed = ANY if options.get("flags", 0) & socket.AI_PASSIVE else LOOPBACK
        ip, asked = network.at(name or unnamed, "getaddrinfo")[1], options.get("type")
        network.carry(network.here(), network.here(), arrived.set)
        await arrived.wait()
        kinds = [asked] if asked else [socket.SOCK_STREAM, socket.SOCK_DGRAM]
        return [(socket.AF_INET, kind, 0, "", (ip, int(port or 0))) for kind in kinds]

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """Look up the name of an address."""
        host, ip = self.known("getnameinfo").at(sockaddr[0], "getnameinfo")
        return ip if flags & socket.NI_NUMERICHOST else host.name, str(sockaddr[1])

    def _start_serving(self, factory: Any, sock: Any, *options: Any) -> None:
        context = sock.context = copy_context()
        if PROCESS.get() is None:
            # What serves a connection is cancelled at the end, and not left behind.
            context.run(PROCESS.set, (sock.host, 0))
        context.run(super()._start_serving, factory, sock, *options)  # type: ignore[misc]

    def wake(self, sock: Any) -> None:
        """Schedule what waits until a socket can be read, or written."""
        for event in (_READ, _WRITE):
            handle = self._waiting(sock, event)
            if handle is not None and not sock.woken & event and sock.is_ready(event):
                sock.woken |= event
                self.call_soon(self._poll, sock, event, context=handle._context)

    def _waiting(self, sock: Any, event: int) -> Any:
        key = self._selector.get_map().get(sock.number)
        return None if key is None else key.data[event == _WRITE]

    def _poll(self, sock: Any, event: int) -> None:
        sock.woken &= ~event
        handle = self._waiting(sock, event)
        if handle is not None and sock.is_ready(event):
            try:
                handle._callback(*handle._args)
            finally:
                self.wake(sock)

    async def end_processes(self) -> None:
        """Cancel what runs on hosts, and for connections of servers, and wait for it."""
        for _ in range(10):  # Python 3.12 waits for connections that nobody closes, once cancelled
            tasks = sorted((task for task in self.hosts if not task.done()), key=hash)
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=60)

    def close(self) -> None:
        """Drop what waits."""
        for transport in list(self._transports.values()):
            transport._sock, transport._closing = None, True  # it does not warn that it is open
            if (tls := getattr(transport._protocol, "_app_transport", None)) is not None:
                tls._closed = True
        if self.network is not None:  # a cycle
            self.network._hosts.clear()
        self.network = None
        super().close()
