"""The hosts of a simulated network, and what is between them: time, loss, cuts and crashes."""

import asyncio
import ctypes
import math
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from functools import partial
from itertools import count
from typing import Any, TypeAlias, TypeVar, cast

from stageflow.providers import LatencyProfile
from stageflow.testing.simulation.errors import RealIOError
from stageflow.testing.simulation.scenario import NetworkPlan

_T = TypeVar("_T")
_Main: TypeAlias = Callable[..., Coroutine[Any, Any, object]]

ANY, LOOPBACK = "0.0.0.0", "127.0.0.1"  # noqa: S104 - no socket of the system
_SAME = {"": ANY, "::": ANY, "::1": LOOPBACK, "localhost": LOOPBACK}

#: The host of the running code, and its kills when that began; None for the simulated function.
PROCESS: ContextVar[tuple["Host", int] | None] = ContextVar("process", default=None)


def is_of_killed(handle: Any) -> bool:
    """Return whether a callback belongs to code that ended when its host was killed."""
    process = handle._context.get(PROCESS)
    return process is not None and process[1] < process[0].kills


def is_gone(error: object, process: object) -> bool:
    """Return whether an error says that a client or the simulation has ended, to a server."""
    return process is not None and isinstance(error, ConnectionError | asyncio.CancelledError)


class Host:
    """A machine of the simulated network, as `Network.host` returns it.

    Attributes:
        name: The name that others look up.
        address: Its IP address.
        kills: How often it was killed.
    """

    def __init__(self, network: "Network", name: str, address: str) -> None:
        self.network, self.name, self.address, self.kills = network, name, address, 0
        #: The sockets that are open, in the order of their opening, and by kind, address and port.
        self.sockets: dict[Any, None] = {}
        self.bound: dict[tuple[int, str, int], Any] = {}
        self.generators = weakref.WeakSet[Any]()
        self._main: _Main | None = None

    def start(self, main: _Main, *args: Any) -> None:
        """Run an async function on this host, until it returns or the simulation ends."""
        self._main = partial(main, *args)
        self.task(self._main())

    def task(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Return a new task that runs on this host; if the host is killed, it never ends."""
        context = self.network.context.copy()
        context.run(PROCESS.set, (self, self.kills))
        return cast("asyncio.Task[_T]", self.network.loop.create_task(work, context=context))

    def kill(self) -> None:
        """End all tasks where they are, without their ``finally``, and reset all connections.

        What these tasks hold is never freed, since Python would run their ``finally`` then.
        """
        self.kills, loop = self.kills + 1, self.network.loop
        loop.killed = True
        keep = ctypes.pythonapi.Py_IncRef
        for task in [task for task, host in loop.hosts.items() if host is self]:
            task._log_destroy_pending = False
            asyncio.tasks._unregister_task(task)
            keep(ctypes.py_object(task.get_coro()))
        for serial, generator in list(loop._generators.items()):
            if generator in self.generators:
                keep(ctypes.py_object(loop._generators.pop(serial)))
        for one in list(self.sockets):
            one.reset()

    def restart(self) -> None:
        """Kill the host, and start its latest `main` again."""
        self.kill()
        if self._main is not None:
            self.start(self._main)

    def find(self, kind: int, ip: str, port: int) -> Any:
        """Return the socket of an address, or None."""
        found = self.bound.get((kind, _SAME.get(ip, ip), port))
        return found or self.bound.get((kind, ANY, port))


class Network:
    """The simulated network, as `Simulation.network` returns it."""

    def __init__(self, loop: Any, plan: NetworkPlan) -> None:
        self.loop, self.plan, self.context = loop, plan, copy_context()
        self.sockets: dict[int, Any] = {}
        #: The numbers of sockets are above those of files.
        self.ports, self.numbers = count(49_152), count(1 << 30)
        self._latency = LatencyProfile(*plan.latency_ms)
        self._cut: dict[object, float] = {}
        self._hosts: dict[str, Host] = {}
        self.host("main")

    def host(self, name: str, main: _Main | None = None, *args: Any) -> Host:
        """Return the host of that name, made if there is none; start `main` there if given."""
        if name not in self._hosts:
            self._hosts[name] = Host(self, name, f"10.0.0.{len(self._hosts) + 1}")
        if main is not None:
            self._hosts[name].start(main, *args)
        return self._hosts[name]

    def here(self) -> Host:
        """Return the host of the running code; the simulated function itself runs on ``main``."""
        return (PROCESS.get() or (self._hosts["main"],))[0]

    def at(self, ip: str, operation: str) -> tuple[Host, str]:
        """Return the host of a name or an address, as seen from the running code, and its address.

        Raises:
            RealIOError: None has it.
        """
        if (own := _SAME.get(ip, ip)) in (ANY, LOOPBACK):
            return self.here(), own
        for host in self._hosts.values():
            if ip in (host.name, host.address):
                return host, host.address
        raise RealIOError(operation, ip)

    def cut(self, one: str, other: str | None = None, *, for_s: float = math.inf) -> None:
        """Block the network between two hosts, or between one and all others, for a time.

        Connections wait, and what was sent on them arrives afterwards; datagrams are lost.

        Args:
            one: Name of a host; the simulated function itself runs on ``main``.
            other: Name of the other one; None for all others.
            for_s: For how many seconds, from now.
        """
        path = one if other is None else frozenset((one, other))
        self._cut[path] = self.loop.time() + for_s

    def open_at(self, one: Host, other: Host) -> float:
        """Return when two hosts can reach each other, in seconds of virtual time."""
        paths = (frozenset((one.name, other.name)), *({one.name} ^ {other.name}))
        return max([float(self.loop.time()), *(self._cut.get(path, 0.0) for path in paths)])

    def strikes(self, share: float) -> bool:
        """Draw whether a fault with this probability happens."""
        return bool(share and self.loop.chance and self.loop.chance.random() < share)

    def carry(
        self, one: Host, other: Host, arrive: Callable[[], object], not_before_s: float = 0.0
    ) -> float:
        """Call `arrive` when what `one` sends now has come to `other`; return when that is."""
        if self.strikes(self.plan.cuts):
            self.cut(one.name, other.name, for_s=self.plan.cut_s)
        chance, (usual_ms, longest_ms) = self.loop.chance, self.plan.latency_ms
        took_ms = usual_ms if chance is None else self._latency.sample_ms(chance)
        at_s = max(self.open_at(one, other) + min(took_ms, longest_ms) / 1000, not_before_s)
        if at_s < math.inf:
            self.loop.call_at(at_s, arrive, context=self.context)
        return at_s
