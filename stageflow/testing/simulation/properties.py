"""Properties of a simulation that hold always, or at some moment; checked after each callback."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from stageflow.testing.simulation.errors import PropertyError

Predicate: TypeAlias = Callable[[], object]


class Properties:
    """The properties of one simulation, whose clock is `now_s`."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._always: list[tuple[Predicate, str]] = []
        self._open: list[tuple[Predicate, str, float]] = []

    def always(self, holds: Predicate, message: str) -> None:
        """Let `check` raise as soon as `holds` is not true."""
        self._always.append((holds, message or _place(holds)))

    def eventually(self, holds: Predicate, within_s: float, message: str) -> None:
        """Let `check` raise if `holds` is true after no callback within that time."""
        self._open.append((holds, message or _place(holds), self._now_s() + within_s))

    def check(self, handle: Any) -> None:
        """Raise `PropertyError` if one of them is broken after the callback of `handle`."""
        now_s = self._now_s()
        for holds, shown in self._always:
            if not holds():
                owner: Any = getattr(handle._callback, "__self__", None)
                task = isinstance(owner, asyncio.Task)
                step = f", after a step of {owner.get_name()}" if task else ""
                raise PropertyError(shown, f"does not hold at {now_s:g} s{step}")
        for _, shown, deadline_s in self._open:
            if now_s > deadline_s:  # it is too late for what this callback has changed
                raise PropertyError(shown, f"did not hold by {deadline_s:g} s")
        self._open = [one for one in self._open if not one[0]()]

    def end(self) -> None:
        """Raise `PropertyError` for the first that never held."""
        for holds, shown, _ in self._open:
            if not holds():
                raise PropertyError(shown, f"did not hold by the end, at {self._now_s():g} s")


def _place(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)
