"""The errors of a simulation."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from types import FrameType
from typing import Any

from stageflow.engine.stepping import resume_in_context
from stageflow.errors import Portable


class SimulationError(Portable, RuntimeError):
    """Root of the errors that the simulation itself raises."""


class RealIOError(SimulationError):
    """A simulation requested real I/O: `operation` is a method of the loop, or a function.

    `address` is a name or an address that no simulated host has.
    """

    def __init__(self, operation: str, address: str | None = None) -> None:
        called = operation if "." in operation else f"loop.{operation}"
        host = "" if address is None else f" simulate that host, sim.host({address!r}, serve), or"
        super().__init__(
            f"{called}() is real I/O, and time in a simulation is virtual:{host} put a fake"
            " provider in its place (stageflow.providers.fake), or test this with a real loop (in a"
            " contract test: real_io = True)"
        )
        self.operation = operation


class DeadlockError(SimulationError):
    """Every task waits: `waiting` says where and for what, `cycle` names those of a cycle."""

    def __init__(self, waiting: Sequence[str], steps: int = 0, cycle: Sequence[str] = ()) -> None:
        text = "every task waits, and no timer is set that could wake one"
        if steps:
            text = f"what is simulated waits, and for {steps} callbacks only others have run"
        lines = [*waiting, f"a cycle: {' → '.join([*cycle, cycle[0]])}"] if cycle else waiting
        super().__init__(f"{text}:\n  " + "\n  ".join(lines))
        self.waiting, self.cycle = tuple(waiting), tuple(cycle)


class LivelockError(SimulationError):
    """An endless loop: `steps` callbacks ran at `now_s`, and virtual time did not advance."""

    def __init__(self, steps: int, now_s: float, running: Sequence[str]) -> None:
        text = f"{steps} callbacks ran at {now_s:g} s of virtual time, and time does not pass; look"
        super().__init__(f"{text} for a loop around sleep(0):\n  " + "\n  ".join(running))
        self.steps, self.now_s = steps, now_s


class LeftBehindError(SimulationError):
    """The simulated function has returned, and its `tasks` still run; the text has their places."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__("tasks were left behind:\n  " + "\n  ".join(tasks))
        self.tasks = tuple(tasks)


class PropertyError(SimulationError, AssertionError):
    """A property of `Simulation.always` or `eventually` does not hold; `claim` names it."""

    def __init__(self, claim: str, problem: str) -> None:
        super().__init__(f"{claim}: {problem}")
        self.claim = claim


class TokenError(SimulationError):
    """A token cannot be replayed."""

    def __init__(self, token: str, problem: str) -> None:
        shown = token if len(token) <= 40 else f"{token[:40]}…"
        super().__init__(f"the token {shown!r} cannot be replayed: {problem}")
        self.token = token


#: Frames of these modules are shown only if a task has no others.
_OURS = ("asyncio.", "stageflow.engine.")


def places(tasks: Collection[asyncio.Task[Any]]) -> list[str]:
    """Return a line for each task that says where it waits, for what, and who holds that."""
    lines = []
    for task in tasks:
        frames = list(_frames(task.get_coro()))
        own = [frame for frame in frames if not _module(frame).startswith(_OURS)] or frames
        lines.append(f"{task.get_name()}: {place_of(own[-1]) if own else 'has not begun'}")
        used, awaited = _waited_for(task, frames)
        lines[-1] += f", in {used}" if used else ""
        lines[-1] += f", waits for {', '.join(t.get_name() for t in awaited)}" if awaited else ""
    return lines


def cycle(tasks: Collection[asyncio.Task[Any]]) -> list[str]:
    """Return the names of tasks each of which waits for the next, and the last for the first."""
    seen: set[asyncio.Task[Any]] = set()

    def found(path: list[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
        for task in _waited_for(path[-1], list(_frames(path[-1].get_coro())))[1]:
            if task in path:
                return path[path.index(task) :]
            if task not in seen and (rest := found([*path, task])):
                return rest
        seen.add(path[-1])
        return []

    return [task.get_name() for task in next(filter(None, (found([task]) for task in tasks)), [])]


def _waited_for(task: Any, frames: list[FrameType]) -> tuple[str, list[asyncio.Task[Any]]]:
    """Return which of asyncio's objects a task is in, and the tasks that it waits for."""
    waiter, used = task._fut_waiter, ""
    awaited = [waiter] if isinstance(waiter, asyncio.Task) else getattr(waiter, "_children", ())
    for frame in frames:
        if _module(frame) in ("asyncio.locks", "asyncio.queues", "asyncio.taskgroups"):
            owner = frame.f_locals.get("self")
            if not used or "__" in used:
                used = f"{type(owner).__name__}.{frame.f_code.co_name}"
            held = getattr(owner, "_locked", False)
            holder = getattr(owner, "_holder", lambda: None)() if held else None
            awaited = [holder] if holder else getattr(owner, "_tasks", awaited)
    return used, [one for one in awaited if isinstance(one, asyncio.Task) and not one.done()]


def place_of(frame: FrameType) -> str:
    """Return where a frame is, as ``file:line in function``."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _frames(awaited: object) -> Iterator[FrameType]:
    """Yield the frames of a coroutine, and of what it awaits, from the outside inwards."""
    while awaited is not None:
        frame = _first(awaited, "cr_frame", "gi_frame")
        main = frame.f_locals.get("main") if frame is not None and of_kit(frame) else None
        if main is not None and _first(main, "cr_frame") is not None:
            awaited = main  # what is simulated, instead of what checks it
            continue
        if frame is not None:
            yield frame
        if frame is not None and frame.f_code is resume_in_context.__code__:
            awaited = frame.f_locals["coroutine"]  # the engine steps a stage by hand
        else:
            awaited = _first(awaited, "cr_await", "gi_yieldfrom")


def _first(owner: object, *names: str) -> Any:
    return next((getattr(owner, name) for name in names if hasattr(owner, name)), None)


def of_kit(frame: FrameType) -> bool:
    """Return whether a frame is of the simulation or of asyncio, and not of the code under test."""
    return _module(frame).startswith(("stageflow.testing.simulation", "asyncio.", "contextlib"))
