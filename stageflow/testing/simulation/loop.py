"""An event loop with virtual time that draws the order of ready callbacks from a seed.

What one task schedules keeps its order, as asyncio promises. What different tasks schedule comes in
any order, since nobody knows how long each has waited before.
"""

import asyncio
import gc
import heapq
import random
import re
import weakref
from asyncio import events as asyncio_events
from bisect import insort
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import cached_property, partialmethod
from itertools import count
from threading import get_ident
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack, cast

from stageflow.resilience.circuit_breaker import forget_breakers
from stageflow.testing.simulation import errors
from stageflow.testing.simulation.hosts import PROCESS, is_gone, is_of_killed
from stageflow.testing.simulation.orders import Entry, Lane, Order, Tried
from stageflow.testing.simulation.patches import NumberedFuture, NumberedTask, patch, threads
from stageflow.testing.simulation.properties import Properties
from stageflow.testing.simulation.scenario import Schedule
from stageflow.testing.simulation.sockets import NetworkLoop
from stageflow.testing.simulation.trace import Trace

_T = TypeVar("_T")
Ts = TypeVarTuple("Ts")

#: How many callbacks at one moment of virtual time count as an endless loop.
MOST_STEPS_AT_ONCE = 100_000
#: How many callbacks run between two checks for progress, each with a garbage collection.
STEPS_A_LOOK = 50_000

#: asyncio's own factory of tasks that start at once; from Python 3.12 on.
_EAGER = getattr(asyncio, "eager_task_factory", object())
_UNNAMED = re.compile(r"Task-\d+$")
_current, _Task, _Handle = asyncio.current_task, asyncio.Task, asyncio.Handle
_FIFO = Schedule()


class SimulationLoop(NetworkLoop):
    """The loop. Its clock starts at 0 s, and jumps to the next timer when nothing is ready.

    Attributes:
        steps: How many callbacks have been called.
        order: What chooses the next callback.
        unhandled: What reached the loop's exception handler.
        trace: The latest steps of tasks; None if none are kept.
        properties: What is checked after each callback; None if nothing is.
    """

    _stopping: bool
    _closed: bool
    _check_closed: Callable[[], None]
    _thread_id: int | None

    def __init__(self, schedule: Schedule = _FIFO, tried: Tried | None = None) -> None:
        super().__init__()
        self.steps = self._count = 0
        self.unhandled: list[dict[str, Any]] = []
        self.trace: Trace | None = None
        self.properties: Properties | None = None
        self._now_s, self._left_in_pass = 0.0, 0
        #: How long a function of `run_in_executor` has slept while it runs.
        self._slept_s = 0.0
        #: The first ready callback of each lane, in the order in which they became ready. A lane is
        #: what keeps its order; what has none may be called in any order.
        self._ready: list[Entry] = []
        self._lane = self._common = Lane()
        #: When the callbacks that are no step of a task became ready: they are first in, first out.
        self._callbacks = deque[int]()
        self._lanes: Any = weakref.WeakKeyDictionary()
        self._timers: list[tuple[float, int, Lane | None, asyncio.TimerHandle]] = []
        self._serials, self._arrivals, self._checked = count(), 0, -1
        self._stretch = schedule.stretch
        self.order = Order(schedule, tried)
        self._drawn = self.order.drawn
        self._has_lanes = self._drawn and schedule.order == "tasks"
        self._seed = schedule.seed
        self._at_step: dict[int, list[Callable[[], object]]] = {}
        #: How many callbacks had been called when time passed last.
        self._ending, self._began = False, 0
        self._generators: Any = weakref.WeakValueDictionary()
        self._closing: list[asyncio.Task[None]] = []
        self._made: Any = weakref.WeakSet()
        #: The task that is simulated, what it waited for at the latest look, and since which look.
        self._main: Any = None
        self._awaited: object = None
        self._looks = self._mark = self._woken = 0

    @cached_property
    def chance(self) -> random.Random | None:
        """Random numbers for times, such as the latencies of fakes; None without a seed."""
        return None if self._seed is None else random.Random(f"times of {self._seed}")

    def time(self) -> float:
        """Return the seconds of virtual time since the loop was made."""
        return self._now_s + self._slept_s

    def pass_time(self, seconds: float) -> None:
        """Advance the time, like work that blocks the loop; in a thread, only for that thread."""
        if self._in_thread():
            self._slept_s += seconds
        else:
            self._advance(self._now_s + seconds)

    def _in_thread(self) -> bool:
        return threads[-1:] == [get_ident()] == [self._thread_id]

    def _advance(self, now_s: float) -> None:
        if now_s > self._now_s:
            self._now_s = now_s
            if not self._ending:
                self._began = self.steps

    def at_step(self, step: int, callback: Callable[[], object]) -> None:
        """Call `callback` just before the callback with that number, the first being 1."""
        self._at_step.setdefault(step, []).append(callback)

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Any = None
    ) -> asyncio.Handle:
        """Schedule a callback, as asyncio does."""
        if self._closed:
            self._check_closed()
        handle = _Handle(callback, args, self, context)
        if (task := _current(self)) is not None:
            self._woken = self.steps
        if self.trace is not None:
            self.trace.scheduled(handle)
        lane = task.lane if type(task) is NumberedTask else None
        self._append(lane or self._sender(task) if self._has_lanes else None, handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Any = None
    ) -> asyncio.Handle:
        """Schedule a callback; a thread that is not simulated is refused."""
        if asyncio_events._get_running_loop() is not self and not self._in_thread():
            raise errors.RealIOError("call_soon_threadsafe")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self, executor: Any, func: Callable[[Unpack[Ts]], _T], *args: *Ts
    ) -> asyncio.Future[_T]:
        """Call a function as a thread does: at any moment from now, and without the loop.

        It runs to its end in one step. What it sleeps delays its result, and nothing else.
        """
        self._check_closed()
        future: asyncio.Future[_T] = self.create_future()

        def done(settle: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                settle(value)

        def work() -> None:
            asyncio_events._set_running_loop(None)
            threads.append(get_ident())
            try:
                outcome: tuple[Any, Any] = future.set_result, func(*args)
            except Exception as error:
                outcome = future.set_exception, error
            finally:
                slept_s, self._slept_s = self._slept_s, 0.0
                threads.pop()
                asyncio_events._set_running_loop(self)
            self.call_at(self._now_s + slept_s, done, *outcome)

        lane = self.order.lane() if self._has_lanes else None
        handle = asyncio.Handle(work, (), self)
        if self.trace is not None:
            self.trace.scheduled(handle)
        self._append(lane, handle, lane)
        return future

    def _sender(self, task: Any) -> Lane:
        """Return the lane of what is scheduled now: that of the running task, or callback."""
        if type(task) is NumberedTask:
            if task.lane is None:
                task.lane = self.order.lane(task)
            lane: Lane = task.lane
            return lane
        if task is not None and task not in self._lanes:
            self._lanes[task] = self.order.lane(task)
        return self._lane if task is None else cast("Lane", self._lanes[task])

    def _append(self, lane: Lane | None, handle: Any, owner: Lane | None = None) -> None:
        arrival = self._arrivals = self._arrivals + 1
        self._count += 1
        if lane is None:
            self._ready.append((arrival, None, handle, self._common))
            return
        if owner is None:
            stepped = getattr(handle._callback, "__self__", None)
            if type(stepped) is NumberedTask:
                owner = stepped.lane or self._sender(stepped)
            elif isinstance(stepped, _Task):
                owner = self._sender(stepped)
            else:
                owner = self._common
                self._callbacks.append(arrival)
        if lane.is_ready:
            lane.behind.append((arrival, lane, handle, owner))
        else:
            lane.is_ready = True
            self._ready.append((arrival, lane, handle, owner))

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Any = None
    ) -> asyncio.TimerHandle:
        """Schedule a callback at a moment of virtual time."""
        self._check_closed()
        if self._stretch and self.chance is not None:
            when += max(0.0, when - self._now_s) * self._stretch * self.chance.random()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if self.trace is not None:
            self.trace.scheduled(timer)
        lane = self._sender(_current(self)) if self._has_lanes else None
        heapq.heappush(self._timers, (when, next(self._serials), lane, timer))
        return timer

    # A function for each part of it would take a tenth more time.
    def _run_once(self) -> None:  # noqa: C901, PLR0912
        """Call ready callbacks until `stop`; if there is none, let time pass to the next timer."""
        ready, callbacks, common = self._ready, self._callbacks, self._common
        order, at_step, timers, drawn = self.order, self._at_step, self._timers, self._drawn
        while not self._stopping:
            if not self._left_in_pass:  # asyncio looks at its timers once a pass
                if not self._count or (timers and timers[0][0] <= self._now_s):
                    self._fire_timers()
                self._left_in_pass = self._count
            self._left_in_pass -= 1
            self.steps += 1
            if at_step or not self.steps % 100:
                self._check()
            self._count -= 1
            position, possible = 0, ready
            if drawn and len(ready) > 1:
                if len(callbacks) > 1:  # only the first of them can be next
                    first = callbacks[0]
                    possible = [e for e in ready if e[3] is not common or e[0] == first]
                if len(possible) > 1:
                    position = ready.index(possible[order.position(possible)])
            _, lane, handle, owner = ready.pop(position)
            if lane is not None:
                if owner is common:
                    callbacks.popleft()
                if lane.behind:  # the next of its lane is ready then
                    insort(ready, lane.behind.popleft())
                else:
                    lane.is_ready = False
                self._lane = lane
            if not handle._cancelled and not (self.killed and is_of_killed(handle)):
                if self.trace is not None:
                    self.trace.begun(handle, self._now_s, order.passed)
                handle._run()
                if self.properties is not None:
                    self.properties.check(handle)
            order.passed = None

    def _check(self) -> None:
        """Do what is due at this step, and raise an error if nothing goes on."""
        for callback in self._at_step.pop(self.steps, ()):
            self._lane = self._common
            callback()
        if self.steps - self._began > MOST_STEPS_AT_ONCE:
            running = errors.places(self._tasks())
            raise errors.LivelockError(MOST_STEPS_AT_ONCE, self._now_s, running)
        if not self.steps % STEPS_A_LOOK:
            gc.collect()
            self._look()

    def _look(self) -> None:
        """Raise `DeadlockError` if what is simulated waits, beside timers that repeat for ever."""
        awaited = getattr(self._main, "_fut_waiter", None)
        if awaited is None or awaited is not self._awaited:
            self._awaited, self._looks, self._mark = awaited, 0, next(self._serials)
            return
        self._looks += 1
        # A timer that was set before may still wake it; tasks that wake each other may take longer.
        comes = any(n < self._mark and not timer.cancelled() for _, n, _, timer in self._timers)
        quiet = self._woken <= self.steps - STEPS_A_LOOK
        if not comes and (quiet or self._looks >= 10):
            self._raise_deadlock(self._looks * STEPS_A_LOOK)

    def _raise_deadlock(self, steps: int = 0) -> NoReturn:
        tasks = self._tasks()
        error = errors.DeadlockError(errors.places(tasks), steps, errors.cycle(tasks))
        for failed in [*self.unhandled, *self.unseen()]:
            error.add_note(f"Before that, nobody handled {failed.get('exception')!r}")
        raise error

    def _fire_timers(self) -> None:
        timers = self._timers
        if self._ending and not self._tasks():
            self.call_soon(self.stop)
        while timers and (
            timers[0][3]._cancelled or timers[0][0] <= self._now_s or not self._count
        ):
            when, _, lane, timer = heapq.heappop(timers)
            if not timer._cancelled:
                self._advance(when)
                self._append(lane, timer)
        if not self._count:
            self._raise_deadlock()

    @property
    def switches(self) -> int:
        """How often the callback chosen was not the first ready one."""
        return len(self.order.deviations)

    def run_forever(self) -> None:
        """Call callbacks until `stop`, as asyncio's loop does.

        Raises:
            DeadlockError: Nothing is ready, and no timer is set.
            LivelockError: Callbacks follow one another, and no time passes.
        """
        if asyncio_events._get_running_loop() is not None:
            raise RuntimeError("an event loop is running already; a simulation starts outside")
        patch()
        super().run_forever()

    def close(self) -> None:
        """Drop all callbacks, and refuse later ones."""
        super().close()
        self._main = self._awaited = self.order.passed = None  # cycles would keep tasks
        self._timers.clear()

    def __del__(self) -> None: ...  # nothing of the system is held, so nothing has to be closed

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return sorted(asyncio.all_tasks(self), key=hash)

    def unseen(self) -> list[dict[str, Any]]:
        """Return what tasks raised and nobody has looked at; servers log that a client has gone."""
        made: list[Any] = sorted(self._made, key=hash)
        failed = [task for task in made if task.done() and getattr(task, "_log_traceback", False)]
        found = [(task.exception(), self.hosts.get(task)) for task in failed]
        return [{"exception": error} for error, host in found if not is_gone(error, host)]

    def check_nothing_left(self) -> None:
        """Raise `LeftBehindError` if another task than the current one still runs."""
        if left := [task for task in self._tasks() if task is not asyncio.current_task(self)]:
            raise errors.LeftBehindError(errors.places(left))
        self._checked = self._arrivals + 1  # it ends with one more callback

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future that sorts by its age."""
        future = NumberedFuture(loop=self)
        future._serial = next(self._serials)
        return future

    def create_task(
        self, coro: Any, *, name: object = None, context: Any = None, **options: Any
    ) -> asyncio.Task[Any]:
        """Return a new task, whose name is numbered within the loop, so that it repeats."""
        self._check_closed()
        serial = next(self._serials)
        shown = f"Task-{serial}" if name is None else str(name)
        factory: Any = self.get_task_factory()
        task: asyncio.Task[Any]
        if factory is None or factory is _EAGER:
            if factory is not None:
                options["eager_start"] = True
            task = NumberedTask(serial, coro, loop=self, name=shown, context=context, **options)
        else:
            if context is not None:
                options["context"] = context  # a factory need not know what is not given
            task = factory(self, coro, **options)
            # asyncio numbers tasks without a name through the whole process.
            if hasattr(task, "set_name") and (name is not None or _UNNAMED.match(task.get_name())):
                task.set_name(shown)
        self._made.add(task)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            self.hosts[task] = process[0]
        return task

    def _asyncgen_firstiter_hook(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators[next(self._serials)] = generator
        if (process := PROCESS.get()) is not None:
            process[0].generators.add(generator)

    def _asyncgen_finalizer_hook(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self.is_closed():
            self._closing.append(self.create_task(generator.aclose()))

    async def shutdown_asyncgens(self) -> None:
        """Close the generators that were begun and not ended, in the order of their beginning."""
        for generator in list(self._generators.values()):
            try:
                await generator.aclose()
            except Exception as error:
                self.call_exception_handler({"message": "aclose() failed", "exception": error})

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep unhandled errors, for `run_in` to raise."""
        handle, task = context.get("handle"), context.get("future")
        process: object = PROCESS.get() if handle is None else handle._context.get(PROCESS)
        if process is None and task is not None:  # it was dropped, by whatever runs now
            process = self.hosts.get(task)
        if not is_gone(context.get("exception"), process):
            self.unhandled.append(context)

    #: Work that another loop does in a thread is done at once.
    has_threads = False


_REAL_IO = """
    set_default_executor create_unix_connection create_unix_server connect_read_pipe
    connect_write_pipe subprocess_shell subprocess_exec add_signal_handler remove_signal_handler
"""


def _refuse(self: object, name: str, *_: Any, **__: Any) -> NoReturn:
    raise errors.RealIOError(name)


for _name in _REAL_IO.split():
    setattr(SimulationLoop, _name, partialmethod(_refuse, _name))


def run_in(loop: SimulationLoop, main: Coroutine[Any, Any, _T]) -> _T:
    """Run `main` in a loop, close the loop, and check that nothing is left.

    Raises:
        LeftBehindError: `main` has returned, and tasks still run.
        PropertyError: What must hold always, or at some moment, does not.
        ExceptionGroup: Callbacks raised, and nobody handled it.
    """

    async def guarded() -> _T:
        loop._main = asyncio.current_task()
        value = await main
        while loop._closing:  # generators that were left in their middle clean up
            await asyncio.wait([loop._closing.pop()])
        await loop.end_processes()
        loop.check_nothing_left()
        if loop.properties is not None:
            loop.properties.end()
        return value

    collects = gc.isenabled()
    gc.disable()
    forget_breakers()
    work: Any = guarded()
    work.__name__ = getattr(main, "__name__", "main")
    try:
        value: _T = loop.run_until_complete(work)
    finally:
        _end(loop)
        if collects:
            gc.enable()
    raise_unhandled([*loop.unhandled, *loop.unseen()])
    return value


def raise_unhandled(found: Sequence[dict[str, Any]]) -> None:
    """Raise the exceptions that an exception handler was given, if there are any."""
    if raised := [context["exception"] for context in found if "exception" in context]:
        raise ExceptionGroup("nobody handled what callbacks and tasks raised", raised)


def _end(loop: SimulationLoop) -> None:
    """Cancel the remaining tasks, so that no coroutine is dropped half done, and close the loop."""
    loop.trace = loop.properties = None
    try:
        if loop._checked != loop._arrivals and (tasks := loop._tasks()):
            for task in tasks:
                with suppress(RecursionError):  # tasks that await each other
                    task.cancel()
            # Time passes, too: a run that does not end ends with its grace period.
            loop._ending, loop._began = True, loop.steps
            with suppress(errors.DeadlockError, errors.LivelockError):
                loop.run_forever()
            loop._ending = False
        if loop._generators:
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
