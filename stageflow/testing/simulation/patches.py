"""Changes of a simulation to Python itself: the order of asyncio's sets, and real I/O."""

import asyncio
import builtins
import functools
import sys
import weakref
from asyncio import events, taskgroups, tasks
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from threading import get_ident
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

    # The base class adds a new task to a set before its own constructor has returned.
    def __init__(self, serial: int, coroutine: Any, **options: Any) -> None:
        self._serial = serial
        super().__init__(coroutine, **options)


class NumberedFuture(_Numbered, asyncio.Future[Any]):
    """A future that hashes by its number."""

    def __init__(self, serial: int, loop: asyncio.AbstractEventLoop) -> None:
        self._serial = serial
        super().__init__(loop=loop)


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

    def __get__(self, lock: Any, owner: object = None) -> bool:
        return bool(lock.__dict__.get("_locked"))

    def __set__(self, lock: Any, locked: bool) -> None:
        lock.__dict__["_locked"] = locked
        task = asyncio.current_task() if locked and _simulating() else None
        lock.__dict__["_holder"] = weakref.ref(task) if task is not None else lambda: None


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
    # `wait`, `as_completed` and `TaskGroup` call `set`, `all_tasks` calls `list`: a global of the
    # module hides the built-in one, however users have imported these functions.
    vars(tasks).update(set=_ordered, list=_listed)
    vars(taskgroups).update(set=_ordered)
    if not hasattr(asyncio.Lock, "_locked"):
        vars(asyncio)["Lock"]._locked = _Locked()
    _audit()
    for module, path in _CALLED:
        # A module that nobody has imported yet has no executor whose threads are there already.
        if module in sys.modules and path not in _replaced:
            _replaced.add(path)
            owner_path, _, name = path.rpartition(".")
            owner = sys.modules[module]
            owner = attrgetter(owner_path)(owner) if owner_path else owner
            setattr(owner, name, _refusing(getattr(owner, name), f"{module}.{path}"))
