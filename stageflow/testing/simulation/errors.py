"""What a simulation refuses, and what it finds."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from types import FrameType
from typing import Any

from stageflow.run import carry_on


class SimulationError(RuntimeError):
    """Root of what the simulation itself raises."""


class RealIOError(SimulationError):
    """Something in the simulation asked for the real world.

    Attributes:
        operation: The method of the event loop that was called.
    """

    def __init__(self, operation: str) -> None:
        super().__init__(
            f"loop.{operation}() is real I/O, and time in a simulation is virtual: put a fake"
            " provider in its place (stageflow.providers.fake), or test this with a real loop (in a"
            " contract test: real_io = True)"
        )
        self.operation = operation


class DeadlockError(SimulationError):
    """Every task waits, and nothing is left that could wake one.

    Attributes:
        waiting: Each task that waits, and where, as ``name: file:line in function``.
    """

    def __init__(self, waiting: Sequence[str]) -> None:
        super().__init__(
            "every task waits, and no timer is set that could wake one:\n  " + "\n  ".join(waiting)
        )
        self.waiting = tuple(waiting)


class LivelockError(SimulationError):
    """Callbacks follow one another without end, and no time passes.

    Attributes:
        steps: How many callbacks ran at the same moment.
        now_s: That moment, in seconds of virtual time.
    """

    def __init__(self, steps: int, now_s: float, running: Sequence[str]) -> None:
        super().__init__(
            f"{steps} callbacks ran at {now_s:g} s of virtual time, and time does not pass; look"
            " for a loop around sleep(0):\n  " + "\n  ".join(running)
        )
        self.steps = steps
        self.now_s = now_s


class LeftBehindError(SimulationError):
    """What was simulated has ended, and tasks of it go on.

    Attributes:
        tasks: Each such task, and where it waits.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__("tasks were left behind:\n  " + "\n  ".join(tasks))
        self.tasks = tuple(tasks)


class TokenError(SimulationError):
    """A token cannot be replayed."""

    def __init__(self, token: str, problem: str) -> None:
        shown = token if len(token) <= 40 else f"{token[:40]}…"
        super().__init__(f"the token {shown!r} cannot be replayed: {problem}")
        self.token = token


def places(tasks: Collection[asyncio.Task[object]]) -> list[str]:
    """Where each task waits, one line each."""
    lines = []
    for task in tasks:
        frame = _innermost(task.get_coro())
        where = "has not begun"
        if frame is not None:
            code = frame.f_code
            where = f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
        lines.append(f"{task.get_name()}: {where}")
    return lines


def _innermost(awaited: object) -> FrameType | None:
    """The frame in which a coroutine waits; that of asyncio itself only if there is no other."""
    found: FrameType | None = None
    while awaited is not None:
        frame = _first(awaited, "cr_frame", "gi_frame")
        if found is None or (frame is not None and not _is_asyncio(frame)):
            found = frame
        if frame is not None and frame.f_code is carry_on.__code__:
            awaited = frame.f_locals["coroutine"]  # the engine steps a stage by hand
        else:
            awaited = _first(awaited, "cr_await", "gi_yieldfrom")
    return found


def _first(owner: object, *names: str) -> Any:
    return next((getattr(owner, name) for name in names if hasattr(owner, name)), None)


def _is_asyncio(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "asyncio"
