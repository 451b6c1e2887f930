"""An event loop in which time is virtual, and the order of ready callbacks is drawn from a seed.

asyncio calls ready callbacks in the order in which they became ready. In the real world that order
depends on networks and on other processes; here it depends on a number. So a run that goes wrong
in one order of ten thousand can be found, and then repeated.

What is scheduled, and how tasks are stepped, is asyncio's own: this loop only chooses what is next.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import sys
import weakref
from asyncio import events as asyncio_events
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack

from stageflow.testing.simulation.errors import (
    DeadlockError,
    LeftBehindError,
    LivelockError,
    RealIOError,
    places,
)

T = TypeVar("T")
Args = TypeVarTuple("Args")

#: So many callbacks at one moment of virtual time are taken for a loop without end.
MOST_STEPS_AT_ONCE = 100_000


@dataclass(frozen=True)
class Schedule:
    """The order in which ready callbacks are called.

    Attributes:
        seed: What the order is drawn from; None is asyncio's own, first in, first out.
        switches: How often at most something else than the first is chosen; None sets no limit.
            A failure that needs few of them is easier to understand.
    """

    seed: int | None = None
    switches: int | None = None


class _Numbered:
    """Hashes by the order of creation, not by the address in memory.

    asyncio and its users keep tasks and futures in sets. With addresses, `gather`, `wait` and
    `TaskGroup` would go through them in another order in each process.
    """

    _serial: int

    def __hash__(self) -> int:
        return self._serial


class _Task(_Numbered, asyncio.Task[Any]):
    # The base class adds a new task to a set before its own constructor has come back.
    def __init__(self, serial: int, coroutine: Any, **options: Any) -> None:
        self._serial = serial
        super().__init__(coroutine, **options)


class _Future(_Numbered, asyncio.Future[Any]):
    def __init__(self, serial: int, loop: asyncio.AbstractEventLoop) -> None:
        self._serial = serial
        super().__init__(loop=loop)


def _refused(operation: str) -> Any:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise RealIOError(operation)

    refuse.__name__ = operation
    refuse.__doc__ = "Refuse: this is real I/O."
    return refuse


class SimulationLoop(asyncio.AbstractEventLoop):
    """The loop. Its clock starts at 0 s, and jumps to the next timer when nothing is ready.

    Attributes:
        steps: How many callbacks have been called.
        switches: How often another than the first ready callback was chosen.
        unhandled: What reached the loop's exception handler.
    """

    def __init__(self, schedule: Schedule = Schedule()) -> None:
        self.steps = 0
        self.switches = 0
        self.unhandled: list[dict[str, Any]] = []
        self._now_s = 0.0
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._serials = count()
        limit = schedule.switches
        self._limit = sys.maxsize if limit is None else limit
        self._random = random.Random(schedule.seed) if schedule.seed is not None else None
        self._at_step: dict[int, list[Callable[[], object]]] = {}
        self._running = self._stopping = self._closed = self._debug = False
        self._factory: Any = None
        self._handler: Any = None
        self._generators: weakref.WeakSet[AsyncGenerator[Any, Any]] = weakref.WeakSet()

    # ── time and order ──────────────────────────────────────────────────────────────────────

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._now_s

    def pass_time(self, seconds: float) -> None:
        """Let time pass as work does that holds the loop."""
        self._now_s += seconds

    def at_step(self, step: int, callback: Callable[[], object]) -> None:
        """Call `callback` just before the callback with that number, the first being 1."""
        self._at_step.setdefault(step, []).append(callback)

    def call_soon(
        self,
        callback: Callable[[Unpack[Args]], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """As asyncio's; what is called next among the ready is up to the schedule."""
        self._check_open()
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Args]], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's, in seconds of virtual time."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Args]], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's, in seconds of virtual time."""
        self._check_open()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._serials), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing: a timer that was cancelled is dropped when its turn comes."""

    def _run_next(self) -> None:
        """Call one ready callback; if there is none, let time pass up to the next timer."""
        timers, ready = self._timers, self._ready
        while timers and (timers[0][2].cancelled() or timers[0][0] <= self._now_s or not ready):
            when, _, timer = heapq.heappop(timers)
            if not timer.cancelled():
                self._now_s = max(self._now_s, when)
                ready.append(timer)
        if not ready:
            raise DeadlockError(places(self._tasks()))
        self.steps += 1
        for callback in self._at_step.pop(self.steps, ()):
            callback()
        handle = ready.pop(self._choice(len(ready)))
        if not handle.cancelled():
            handle._run()

    def _choice(self, ready: int) -> int:
        if self._random is None or ready < 2 or self.switches >= self._limit:
            return 0
        chosen = int(self._random.random() * ready)
        if chosen:
            self.switches += 1
        return chosen

    # ── running ─────────────────────────────────────────────────────────────────────────────

    def run_forever(self) -> None:
        """Call callbacks until `stop`, as asyncio's loop does.

        Raises:
            DeadlockError: Nothing is ready, and no timer is set.
            LivelockError: Callbacks follow one another, and no time passes.
        """
        self._check_open()
        if self._running or asyncio_events._get_running_loop() is not None:
            raise RuntimeError("an event loop is running already; a simulation starts outside")
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(self._generators.add, self._finalize)
        self._running = True
        asyncio_events._set_running_loop(self)
        try:
            self._run_until_stopped()
        finally:
            self._running = self._stopping = False
            asyncio_events._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _run_until_stopped(self) -> None:
        moment_s, began = self._now_s, self.steps
        while not self._stopping:
            self._run_next()
            if self._now_s != moment_s:
                moment_s, began = self._now_s, self.steps
            elif self.steps - began > MOST_STEPS_AT_ONCE:
                raise LivelockError(MOST_STEPS_AT_ONCE, moment_s, places(self._tasks()))

    def run_until_complete(self, future: Any) -> Any:
        """As asyncio's."""
        task = asyncio.ensure_future(future, loop=self)
        task.add_done_callback(self._stop_with)
        try:
            self.run_forever()
        finally:
            task.remove_done_callback(self._stop_with)
        return task.result()

    def _stop_with(self, _: object) -> None:
        self._stopping = True

    def stop(self) -> None:
        """As asyncio's."""
        self._stopping = True

    def is_running(self) -> bool:
        """As asyncio's."""
        return self._running

    def is_closed(self) -> bool:
        """As asyncio's."""
        return self._closed

    def close(self) -> None:
        """As asyncio's."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("Event loop is closed")

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return sorted(asyncio.all_tasks(self), key=hash)

    def check_nothing_left(self) -> None:
        """Make sure that no task goes on but the one that asks.

        Raises:
            LeftBehindError: Some do.
        """
        left = [task for task in self._tasks() if task is not asyncio.current_task(self)]
        if left:
            raise LeftBehindError(places(left))

    # ── tasks and futures ───────────────────────────────────────────────────────────────────

    def create_future(self) -> asyncio.Future[Any]:
        """As asyncio's."""
        return _Future(next(self._serials), self)

    def create_task(
        self, coro: Any, *, name: object = None, context: Any = None, **options: Any
    ) -> asyncio.Task[Any]:
        """As asyncio's; names are numbered within the loop, so that they repeat."""
        self._check_open()
        serial = next(self._serials)
        if self._factory is not None:
            task: asyncio.Task[Any] = self._factory(self, coro, context=context, **options)
            return task
        shown = f"Task-{serial}" if name is None else str(name)
        return _Task(serial, coro, loop=self, name=shown, context=context, **options)

    def set_task_factory(self, factory: Any) -> None:
        """As asyncio's."""
        self._factory = factory

    def get_task_factory(self) -> Any:
        """As asyncio's."""
        return self._factory

    # ── asynchronous generators ─────────────────────────────────────────────────────────────

    def _finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators.discard(generator)
        if not self._closed:
            self.create_task(generator.aclose())

    async def shutdown_asyncgens(self) -> None:
        """As asyncio's."""
        for generator in list(self._generators):
            await generator.aclose()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing: there is no executor."""

    # ── errors ──────────────────────────────────────────────────────────────────────────────

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody handled, for whoever runs the simulation to raise."""
        if self._handler is not None:
            self._handler(self, context)
        else:
            self.unhandled.append(context)

    default_exception_handler = call_exception_handler

    def set_exception_handler(self, handler: Any) -> None:
        """As asyncio's."""
        self._handler = handler

    def get_exception_handler(self) -> Any:
        """As asyncio's."""
        return self._handler

    def get_debug(self) -> bool:
        """As asyncio's."""
        return self._debug

    def set_debug(self, enabled: bool) -> None:
        """As asyncio's."""
        self._debug = enabled

    # ── the real world ──────────────────────────────────────────────────────────────────────

    call_soon_threadsafe = _refused("call_soon_threadsafe")
    run_in_executor = _refused("run_in_executor")
    set_default_executor = _refused("set_default_executor")
    getaddrinfo = _refused("getaddrinfo")
    getnameinfo = _refused("getnameinfo")
    create_connection = _refused("create_connection")
    create_server = _refused("create_server")
    sendfile = _refused("sendfile")
    start_tls = _refused("start_tls")
    create_unix_connection = _refused("create_unix_connection")
    create_unix_server = _refused("create_unix_server")
    connect_accepted_socket = _refused("connect_accepted_socket")
    create_datagram_endpoint = _refused("create_datagram_endpoint")
    connect_read_pipe = _refused("connect_read_pipe")
    connect_write_pipe = _refused("connect_write_pipe")
    subprocess_shell = _refused("subprocess_shell")
    subprocess_exec = _refused("subprocess_exec")
    add_reader = _refused("add_reader")
    remove_reader = _refused("remove_reader")
    add_writer = _refused("add_writer")
    remove_writer = _refused("remove_writer")
    sock_recv = _refused("sock_recv")
    sock_recv_into = _refused("sock_recv_into")
    sock_recvfrom = _refused("sock_recvfrom")
    sock_recvfrom_into = _refused("sock_recvfrom_into")
    sock_sendall = _refused("sock_sendall")
    sock_sendto = _refused("sock_sendto")
    sock_connect = _refused("sock_connect")
    sock_accept = _refused("sock_accept")
    sock_sendfile = _refused("sock_sendfile")
    add_signal_handler = _refused("add_signal_handler")
    remove_signal_handler = _refused("remove_signal_handler")


def run_in(loop: SimulationLoop, main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in a loop, close the loop, and make sure that nothing is left of it.

    Returns:
        What `main` returns.

    Raises:
        LeftBehindError: Tasks go on when it has returned.
        ExceptionGroup: Callbacks raised, and nobody handled it.
    """

    async def guarded() -> T:
        value = await main
        loop.check_nothing_left()
        return value

    try:
        value: T = loop.run_until_complete(guarded())
    finally:
        _end(loop)
    raised = [found["exception"] for found in loop.unhandled if "exception" in found]
    if raised:
        raise ExceptionGroup("nobody handled what callbacks and tasks raised", raised)
    return value


def _end(loop: SimulationLoop) -> None:
    """Cancel what is left, so that no coroutine is dropped in the middle, and close."""
    try:
        for task in loop._tasks():
            task.cancel()
        last = loop.steps + MOST_STEPS_AT_ONCE
        while loop._ready and loop._tasks() and loop.steps < last:
            loop._run_next()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
