"""Properties of a simulation that hold always, or at some moment; checked after each callback."""

from collections.abc import Callable
from typing import Any, TypeAlias

from stageflow.testing.simulation.errors import PropertyError
from stageflow.testing.simulation.trace import task_of

Predicate: TypeAlias = Callable[[], object]


class Properties:
    """The properties of one simulation, whose clock is `now_s`."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        #: What has to hold always, what to hold once, with their texts, and by when.
        self.always: list[tuple[Predicate, str]] = []
        self.open: list[tuple[Predicate, str, float]] = []

    def check(self, handle: Any) -> None:
        """Raise `PropertyError` if one of them is broken after the callback of `handle`."""
        now_s = self._now_s()
        for holds, shown in self.always:
            if not holds():
                task = task_of(handle)
                step = f", after a step of {task.get_name()}" if task is not None else ""
                raise PropertyError(shown, f"does not hold at {now_s:g} s{step}")
        for _, shown, deadline_s in self.open:
            if now_s > deadline_s:  # it is too late for what this callback has changed
                raise PropertyError(shown, f"did not hold by {deadline_s:g} s")
        self.open = [one for one in self.open if not one[0]()]

    def end(self) -> None:
        """Raise `PropertyError` for the first that never held."""
        for holds, shown, _ in self.open:
            if not holds():
                raise PropertyError(shown, f"did not hold by the end, at {self._now_s():g} s")


def place(function: Any) -> str:
    """Return the file and line of a function."""
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)
