"""Changes of a simulation to Python: real I/O, the order of asyncio's sets, clocks, chance, ids."""

import asyncio
import builtins
import ctypes
import functools
import gc
import os
import pkgutil
import random
import sys
import threading
import time
import uuid
import weakref
from asyncio import events, taskgroups, tasks
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial, wraps
from threading import get_ident
from types import FunctionType
from typing import Any

from stageflow.testing.simulation.errors import RealIOError

#: The thread that runs a function of a loop's `run_in_executor`, while it does.
threads: list[int] = []


def _simulating(
    running: Callable[[], object] = events._get_running_loop,
    working: list[int] = threads,
    ident: Callable[[], int] = get_ident,
) -> bool:
    # At the interpreter's shutdown the globals of a module are gone, and audit hooks still run.
    return not getattr(running(), "has_threads", True) or working[-1:] == [ident()]


class _Numbered:
    """Hashes by the order of creation, so that any set iterates over it in the same order."""

    _serial: int

    def __hash__(self) -> int:
        return self._serial


class NumberedTask(_Numbered, asyncio.Task[Any]):
    """A task that hashes by its number; the loop keeps in `lane` what it has scheduled."""

    lane: Any = None

    # asyncio adds a new task to a set before its own constructor has returned.
    def __init__(self, serial: int, *args: Any, **options: Any) -> None:
        self._serial = serial
        super().__init__(*args, **options)


class NumberedFuture(_Numbered, asyncio.Future[Any]):
    """A future that hashes by its number, which the loop sets."""


class _OrderedSet(set[Any]):
    """A set in the order of insertion, for coroutines, and for tasks that others made."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__()
        self._order: dict[Any, None] = {}
        for item in items:
            self.add(item)

    def add(self, item: Any) -> None:
        super().add(item)
        self._order[item] = None

    def pop(self) -> Any:
        if not self:
            return super().pop()  # raises
        item = next(iter(self))
        self.remove(item)
        return item

    def __iter__(self) -> Iterator[Any]:
        # Other methods, and operators such as |=, bypass those above.
        others = (item for item in super().__iter__() if item not in self._order)
        return iter([*(item for item in self._order if item in self), *others])


class _Locked:
    """The attribute of a lock that says that it is locked; it also keeps which task locked it."""

    # Without `__get__` Python reads it from the lock itself.
    def __set__(self, lock: Any, locked: bool) -> None:
        lock.__dict__["_locked"] = locked
        if locked and _simulating() and (task := asyncio.current_task()) is not None:
            lock.__dict__["_holder"] = weakref.ref(task)


def _ordered(items: Iterable[Any] = ()) -> set[Any]:
    return _OrderedSet(items) if _simulating() else builtins.set(items)


def _listed(items: Iterable[Any] = ()) -> list[Any]:
    # all_tasks lists a set of tasks of all loops, whose layout depends on loops of the past.
    return sorted(items, key=hash) if _simulating() else builtins.list(items)


#: What Python reports to audit hooks, whichever library asks for it.
_AUDITED = {
    *("_thread.start_joinable_thread", "_thread.start_new_thread", "subprocess.Popen"),
    *("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.startfile", "os.system"),
    *("socket.__new__", "socket.bind", "socket.connect", "socket.sendmsg", "socket.sendto"),
    *("socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname", "socket.getnameinfo"),
}

#: What Python 3.11 does not report, and what no Python does: a child by "spawn", and work for the
#: threads and processes that an executor has already.
_CALLED = (
    ("_thread", "start_new_thread"),
    ("threading", "Thread.start"),
    ("multiprocessing.process", "BaseProcess.start"),
    ("concurrent.futures.thread", "ThreadPoolExecutor.submit"),
    ("concurrent.futures.process", "ProcessPoolExecutor.submit"),
    ("concurrent.futures._base", "Future.result"),
)

_replaced: set[str] = set()
#: Not empty while a thread of an `EventDispatcher` starts: it reads events, and acts on nothing.
_delivering: list[str] = []


def _refusing(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def refusing(*args: Any, **kwargs: Any) -> Any:
        if not _simulating() or _delivering or getattr(args[0], "_state", "") == "FINISHED":
            return original(*args, **kwargs)
        if not str(getattr(args[0], "name", "")).startswith("stageflow-"):
            raise RealIOError(name)
        _delivering.append(name)
        try:
            return original(*args, **kwargs)
        finally:
            _delivering.pop()

    return refusing


@functools.cache  # a hook cannot be removed, so there is one
def _audit() -> None:
    audited, delivering, simulating, refused = _AUDITED, _delivering, _simulating, RealIOError

    def hook(event: str, _: object) -> None:
        if event in audited and not delivering and simulating():
            raise refused(event.replace("__new__", "socket"))

    sys.addaudithook(hook)


def patch() -> None:
    """Order asyncio's sets and refuse real I/O wherever the running loop is a simulation."""
    if not _are_new("patched"):
        return
    # `wait`, `as_completed`, `TaskGroup`, `all_tasks` call these: a global hides the built-in one.
    vars(tasks).update(set=_ordered, list=_listed)
    vars(taskgroups).update(set=_ordered)
    if not hasattr(asyncio.Lock, "_locked"):
        vars(asyncio)["Lock"]._locked = _Locked()
    _audit()
    for module, path in _CALLED:
        # A module that nobody has imported yet has no executor whose threads are there already.
        if module in sys.modules and path not in _replaced:
            _replaced.add(path)
            owner, _, name = f"{module}.{path}".rpartition(".")
            owner = pkgutil.resolve_name(owner)
            setattr(owner, name, _refusing(getattr(owner, name), f"{module}.{path}"))


EPOCH_S = 1_000_000_000.0
"""Wall clock at the start of each simulation: 2001-09-09 01:46:40 UTC, in seconds."""

_CLOCKS = {"time": int(EPOCH_S)}
_CLOCKS |= dict.fromkeys(("monotonic", "perf_counter", "process_time", "thread_time"), 0)
#: Modules whose own waits and measurements need the real clock: Python's, and runners of tests.
_REAL = (sys.stdlib_module_names - {"time", "os", "random"}) | {"_pytest", "coverage", "hypothesis"}

#: Has the `loop` that runs on this thread, its `seed`, and the `source` of its random numbers.
_here = threading.local()


def _wrapped(real: Any, simulated: Callable[..., Any]) -> Any:
    @wraps(real)
    def wrapper(*args: Any, **options: Any) -> Any:
        loop = getattr(_here, "loop", None)
        return real(*args, **options) if loop is None else simulated(loop, *args, **options)

    return wrapper


def _replacements() -> dict[int, tuple[Any, Any]]:
    """Return each function of time and chance with what replaces it, by the function's id."""
    simulated: dict[Any, Callable[..., Any]] = {time.sleep: lambda loop, s: loop.pass_time(s)}
    for name, start in _CLOCKS.items():
        simulated[getattr(time, name)] = lambda loop, start=start: start + loop.time()
        in_ns = getattr(time, f"{name}_ns")
        simulated[in_ns] = lambda loop, s=start: s * 10**9 + round(loop.time() * 1e9)
    if hasattr(time, "clock_gettime"):
        wall = time.CLOCK_REALTIME
        simulated[time.clock_gettime] = lambda loop, c: time.time() if c == wall else loop.time()
        simulated[time.clock_gettime_ns] = lambda _, c: round(time.clock_gettime(c) * 1e9)
    for show in (time.localtime, time.gmtime, time.ctime):
        simulated[show] = lambda _, at=None, f=show: f(time.time() if at is None else at)
    asctime, strftime = time.asctime, time.strftime
    simulated[asctime] = lambda loop, at=None: asctime(at or time.localtime())
    simulated[strftime] = lambda loop, form, at=None: strftime(form, at or time.localtime())
    for name in ("urandom", "getrandom"):
        if hasattr(os, name):
            simulated[getattr(os, name)] = lambda loop, size, *_: _source().randbytes(size)
    return {id(real): (real, _wrapped(real, made)) for real, made in simulated.items()}


_REPLACEMENTS = _replacements()
#: The modules that were looked through.
_scanned: dict[str, object] = {}
#: How many modules there were when something was done for all of them, and the latest of them.
_latest: dict[str, object] = {}
#: Where modules hold such a function: what gets and what sets it, the function, what replaces it.
_places: list[tuple[Callable[[], Any], Callable[[Any], Any], Any, Any]] = []


def _are_new(done: str) -> bool:
    """Return whether modules were imported since this was asked last for what is `done`."""
    latest = len(sys.modules), id(sys.modules[next(reversed(sys.modules))])
    before, _latest[done] = _latest.get(done), latest
    return before != latest


def _find_places() -> None:
    if not _are_new("scanned"):
        return
    for name, module in list(sys.modules.items()):
        if _scanned.get(name) != id(module) and name.partition(".")[0] not in _REAL:
            _places.extend(_held(getattr(module, "__dict__", {})))
        _scanned[name] = id(module)


def _held(module: dict[str, Any]) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Find places in a module, and in its functions: ``clock=time.time``, a data class's."""
    spaces = [module]
    for value in list(module.values()):
        # `isinstance` would ask a lazy proxy for its class, and so load what nobody has asked for.
        for function in list(vars(value).values()) if issubclass(type(value), type) else [value]:
            if type(function) is FunctionType:
                spaces.append(function.__kwdefaults__ or {})
                for cell in function.__closure__ or ():
                    with suppress(ValueError):  # it is empty
                        if found := _REPLACEMENTS.get(id(cell.cell_contents)):
                            at = cell, "cell_contents"
                            yield partial(getattr, *at), partial(setattr, *at), *found
    for space in spaces:
        for key, value in list(space.items()):
            if found := _REPLACEMENTS.get(id(value)):
                yield partial(space.get, key), partial(space.__setitem__, key), *found


#: The names of the class itself, which is of C and refuses to have them set.
_DATETIME = gc.get_referents(datetime.__dict__)[0]
_DATES = {name: _DATETIME[name] for name in ("now", "utcnow")}
_seed = random.Random.seed


def _source() -> Any:
    """Return what ids and unseeded generators are drawn from; most runs need none."""
    _here.source = _here.source or random.Random(f"process of {_here.seed}")
    return _here.source


def _seeded(self: random.Random, a: Any = None, version: int = 2) -> None:
    """Seed a generator without a seed of its own from the simulation."""
    own = a is None and getattr(_here, "loop", None) is not None
    _seed(self, _source().getrandbits(256) if own else a, version)


def _set(dates: dict[str, Any], seed: Any, module_seed: Any) -> None:
    _DATETIME.update(dates)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime))
    random.Random.seed = seed  # type: ignore[method-assign]
    random.seed = module_seed


_lock = threading.Lock()
#: What restores Python, and how many simulations use it: patching takes as long as a short one.
_patched, _users = ExitStack(), 0


@contextmanager
def owned() -> Iterator[None]:
    """Let simulations own `time`, `datetime`, `random`, `os.urandom`, `secrets`, `uuid`, NumPy."""
    global _users  # noqa: PLW0603 - threads of one process share what is patched
    with _lock:
        _users += 1
        if _users == 1:
            _patched.enter_context(_patch())
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _patched.close()


def _numpy() -> Any:
    # Its entry in `sys.modules` may be gone: pytest's `pytester` drops what its runs have imported.
    return getattr(sys.modules.get("numpy"), "random", None)


@contextmanager
def _patch() -> Iterator[None]:
    _find_places()
    state, module_seed = random.getstate(), random.seed
    numpy = _numpy()
    numbers = numpy.get_state() if numpy else None
    # Ids of version 1 come from C, and are above the latest one.
    ids = {name: vars(uuid)[name] for name in (*_IDS, "_node")}
    replaced = [place for place in _places if place[0]() is place[2]]
    for _, put, _, wrapper in replaced:
        put(wrapper)
    bound = partial(_seeded, random._inst)
    now = classmethod(lambda cls, tz=None: cls.fromtimestamp(time.time(), tz))
    utcnow = classmethod(lambda cls: cls.now(UTC).replace(tzinfo=None))
    _set({"now": now, "utcnow": utcnow}, _seeded, bound)
    try:
        yield
    finally:
        _set(_DATES, _seed, module_seed)
        for get, put, real, wrapper in replaced:
            if get() is wrapper:
                put(real)
        vars(uuid).update(ids)
        random.setstate(state)
        if numpy:
            numpy.set_state(numbers)


_IDS = [name for name in vars(uuid) if name.startswith(("_last_", "_generate_time"))]


@contextmanager
def following(loop: Any, seed: int | None) -> Iterator[None]:
    """Let clocks, random numbers and ids of this thread follow a loop; within `owned`."""
    # Python asks programs for the node of ids of version 1, and marks one that is drawn like this.
    vars(uuid).update(dict.fromkeys(_IDS), _node=(seed or 0) & 0xFF_FFFF_FFFF | 1 << 40)
    _here.loop, _here.seed, _here.source = loop, seed, None
    # Other numbers than those that the order is drawn from.
    _seed(random._inst, (1 << 64) + (seed or 0))
    if numpy := _numpy():
        numpy.seed((seed or 0) & 0xFFFF_FFFF)  # and not drawn: a run without NumPy has the same ids
    try:
        yield
    finally:
        _here.loop = None
