"""What a simulation refuses, and what it finds."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence


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
            " provider in its place (stageflow.providers.fake), or test this with a real loop"
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
    """Where each task stands, one line each."""
    lines = []
    for task in tasks:
        stack = task.get_stack(limit=1)
        where = "has not begun"
        if stack:
            code = stack[-1].f_code
            where = f"{code.co_filename}:{stack[-1].f_lineno} in {code.co_qualname}"
        lines.append(f"{task.get_name()}: {where}")
    return lines
