"""Side effects of a stage: what it reads, calls, changes, keeps and blocks."""

import asyncio
import datetime as dt
import functools
import gc
import inspect
import locale
import logging
import operator
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections import Counter, UserDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, TypeAlias
from unittest import mock

from stageflow import engine
from stageflow.testing.simulation.errors import place_of

_DATES = (dt.datetime.now, dt.datetime.utcnow, dt.datetime.today, dt.date.today)
_TIMES = (time.time, time.time_ns, time.monotonic, time.monotonic_ns)
_CLOCKS = frozenset((*_DATES, *_TIMES, time.clock_gettime, time.clock_gettime_ns))
_CLOSING = frozenset(("close", "aclose", "disconnect", "shutdown"))
_READING = (
    *(engine.StageContext.__getitem__, UserDict.__getitem__, UserDict.__contains__),
    *(engine.ContextBag.__getitem__, engine.ContextBag.get, engine.ContextBag.__contains__),
)
_READS = frozenset(function.__code__ for function in _READING)

#: How often the thread of the loop is looked at, in seconds.
_INTERVAL_S = 0.005


class Conduct(engine.Interceptor):
    """Watches each call while a stage runs."""

    ctx: engine.StageContext

    def __init__(self, spec: engine.StageSpec, run: engine.PipelineContext) -> None:
        self.undeclared: dict[str, None] = {}  # keys that the stage reads and does not declare
        self.clocks: dict[str, None] = {}  # where it reads a clock that is not the loop's
        self.closed: dict[str, None] = {}  # the names of providers
        self._completed, self._declared = False, spec.inputs
        self._providers = dict(run.providers)
        self._inputs = run.inputs = UserDict(run.inputs)  # of Python, so that its calls are seen
        function: Any = getattr(spec, "function", spec.execute)  # as written
        while isinstance(function, functools.partial):
            function = function.func
        self._module = str(getattr(inspect.unwrap(function), "__module__", ""))

    async def around(
        self, ctx: engine.StageContext, call_next: engine.CallNext, /
    ) -> engine.StageOutput:
        """Run the stage with a profiler that sees each call."""
        self.ctx = ctx
        profiler = sys.getprofile()
        sys.setprofile(self._see)
        try:
            output = await call_next(ctx)
            self._completed = True
            return output
        finally:
            sys.setprofile(profiler)

    @property
    def kept(self) -> dict[str, None]:
        """Objects that are still referred to after the run; an error refers to everything."""
        if self._completed and self._is_kept():
            gc.collect()
        return {"its context": None} if self._completed and self._is_kept() else {}

    def _is_kept(self) -> bool:
        # One attribute and the argument refer to each, and the test to the run's context.
        scope, run = sys.getrefcount(self.ctx.scope), sys.getrefcount(self.ctx.scope.context)
        return sys.getrefcount(self.ctx) > 2 or scope > 2 or run > 3

    def _see(self, frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            if called in _CLOCKS and self._is_own(frame):
                self.clocks[f"{called.__qualname__}() at {place_of(frame)}"] = None
            elif called.__name__ in _CLOSING:
                self._close(called.__self__)
        elif event == "call" and frame.f_code.co_name in _CLOSING and frame.f_code.co_argcount:
            self._close(frame.f_locals.get(frame.f_code.co_varnames[0]))
        elif event == "call" and frame.f_code in _READS:
            self._read(frame.f_locals["self"], frame.f_locals["key"], frame.f_back)

    def _close(self, closed: object) -> None:
        self.closed.update((name, None) for name, p in self._providers.items() if p is closed)

    def _read(self, owner: object, key: str, caller: FrameType | None) -> None:
        # A child run reads from its parent what its own stages declare.
        engine = caller and str(caller.f_globals["__name__"]) == "stageflow.engine.pipeline"
        own = any(owner is one for one in (self.ctx, self._inputs, self.ctx.scope.bag))
        if own and key not in self._declared and not engine:
            self.undeclared[key] = None

    def _is_own(self, frame: FrameType) -> bool:
        module, package = str(frame.f_globals.get("__name__")), self._module.rpartition(".")[0]
        return module == self._module or bool(package and module.startswith(f"{package}."))


Runs: TypeAlias = Callable[[], None]


@contextmanager
def around_callbacks(around: Callable[[Runs, asyncio.Handle], None]) -> Iterator[None]:
    """Call `around` for each callback of this thread's loops, with what runs it and its handle."""
    run, here = asyncio.Handle._run, threading.get_ident()

    def run_around(handle: asyncio.Handle) -> None:
        if threading.get_ident() == here:
            around(lambda: run(handle), handle)
        else:
            run(handle)

    with mock.patch.object(asyncio.Handle, "_run", run_around):
        yield


class BlockingWatch:
    """Finds the longest callback: the loop measures its time, and a thread samples its place.

    While a call holds the interpreter's lock, the next sample waits, and is at that call's line.
    """

    def __init__(self) -> None:
        self.worst_ms, self.place = 0.0, ""
        self._seen_s: Counter[str] = Counter()

    @contextmanager
    def on_this_thread(self) -> Iterator[None]:
        """Watch the loops of this thread within a block."""
        stop = threading.Event()
        began = time.perf_counter()
        thread = threading.Thread(target=self._look, args=(threading.get_ident(), stop, began))
        thread.start()
        try:
            with around_callbacks(self._measure):
                yield
        finally:
            stop.set()
            thread.join()

    def _measure(self, run: Runs, handle: asyncio.Handle) -> None:
        seen_s = self._seen_s = Counter()
        began = time.perf_counter()
        run()
        took_ms = (time.perf_counter() - began) * 1000.0
        if took_ms > self.worst_ms:
            self.worst_ms = took_ms
            self.place = max(seen_s, key=seen_s.__getitem__, default=repr(handle))

    def _look(self, thread: int, stop: threading.Event, last: float) -> None:
        # The first look is at once: this thread may have begun only when the call had ended.
        while True:
            seen_s: Counter[str] = Counter()
            # Again if the next callback began between the two.
            while seen_s is not self._seen_s:
                seen_s, frame = self._seen_s, sys._current_frames()[thread]
            now = time.perf_counter()
            seen_s[place_of(_own(frame))] += now - last  # type: ignore[assignment]
            last = now
            if stop.wait(_INTERVAL_S):
                return


def _own(innermost: FrameType) -> FrameType:
    """Return the innermost frame that is not of Python or of the engine."""
    frame: FrameType | None = innermost
    # Any code that makes objects may call them.
    collecting = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None and frame.f_globals is not globals():
        module = f"{frame.f_globals.get('__name__')}."
        top = module.partition(".")[0]
        own = top not in sys.stdlib_module_names and not module.startswith("stageflow.engine.")
        if own and frame.f_code not in collecting:
            return frame
        frame = frame.f_back
    return innermost


class ClosesCalls(engine.Interceptor):
    """Closes the calls that a failed stage has not awaited; or Python would warn of each."""

    def failed(self, ctx: engine.StageContext, error: BaseException, /) -> None:
        """Close what the stage's frames refer to, unless the stage was cancelled."""
        if not isinstance(error, Exception):
            return
        begin_soon = {id(task.get_coro()) for task in asyncio.all_tasks()}
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        for held in (value for frame in frames for value in frame.f_locals.values()):
            made = inspect.iscoroutine(held) and id(held) not in begin_soon
            if made and inspect.getcoroutinestate(held) == inspect.CORO_CREATED:
                held.close()


@contextmanager
def every_call_awaited() -> Iterator[None]:
    """Raise an `AssertionError` if coroutines of the block are dropped without being awaited."""
    depth = sys.get_coroutine_origin_tracking_depth()
    calls: dict[str, None] = {}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", "coroutine .* was never awaited", RuntimeWarning)
            sys.set_coroutine_origin_tracking_depth(1)
            yield
    finally:
        sys.set_coroutine_origin_tracking_depth(depth)
        for warning in caught:
            call: Any = warning.source
            if inspect.iscoroutine(call):
                (file, line, function), *_ = call.cr_origin or [("an unknown place", 0, "?")]
                calls[f"{call.__qualname__}(…), called at {file}:{line} in {function}"] = None
            else:
                place = warning.filename, warning.lineno
                warnings.warn_explicit(warning.message, warning.category, *place, source=call)
    if calls:
        raise AssertionError("write await before the call: nobody awaited " + ", ".join(calls))


def _set_environ(environ: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


#: What all code of the process shares: how to read it, and how to set it.
_SHARED: Mapping[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "os.environ": (lambda: dict(os.environ), _set_environ),
    "the working directory": (os.getcwd, os.chdir),
    "sys.path": (sys.path.copy, partial(operator.setitem, sys.path, slice(None))),
    "sys.stdout": (lambda: sys.stdout, partial(setattr, sys, "stdout")),
    "sys.stderr": (lambda: sys.stderr, partial(setattr, sys, "stderr")),
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the locale": (
        partial(locale.setlocale, locale.LC_ALL),
        partial(locale.setlocale, locale.LC_ALL),
    ),
    "the handlers of the root logger": (
        logging.root.handlers.copy,
        partial(operator.setitem, logging.root.handlers, slice(None)),
    ),
    "the level of the root logger": (lambda: logging.root.level, logging.root.setLevel),
    "the time limit of sockets": (socket.getdefaulttimeout, socket.setdefaulttimeout),
    "the signal handlers": (
        _handlers,
        lambda handlers: [signal.signal(*item) for item in handlers.items() - _handlers().items()],
    ),
}


def surroundings(*, chance: bool) -> dict[str, Any]:
    """Return what all code of the process shares; with `chance`, also random generators."""
    found = {name: read() for name, (read, _) in _SHARED.items()}
    if chance:
        found["the global random generator (take ctx.random)"] = random.getstate()
        if "numpy.random" in sys.modules:
            state = sys.modules["numpy.random"].get_state()
            found["numpy's global random generator (make one from ctx.random)"] = str(state)
    return found


@contextmanager
def restored() -> Iterator[None]:
    """Undo what a block does to the process, so that each run does it again."""
    state, shared = random.getstate(), surroundings(chance=False)
    try:
        yield
    finally:
        random.setstate(state)
        for name, (read, write) in _SHARED.items():
            if read() != shared[name]:
                write(shared[name])
