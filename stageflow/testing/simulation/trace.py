"""The steps of a simulation: as lines of text, and as a page of HTML."""

import asyncio
import json
import linecache
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stageflow._utils.files import atomic_write
from stageflow.events.log import Event
from stageflow.testing.simulation.errors import places

_TEMPLATE = Path(__file__).with_name("page.html")


class Step(NamedTuple):
    """A step of a task, at a moment of virtual time."""

    number: int  # among the steps of tasks
    now_s: float
    lane: int  # the number of its task
    task: str
    coroutine: str  # the name of what the task runs; empty if the task has a name of its own
    place: str  # where it goes on, as ``file:line in function``, and what it has waited for
    before: str | None  # the task that asyncio's own order has here; None if this is it
    by: int | None  # the number of the step that has scheduled it; None for the first


class Trace:
    """The latest steps of a simulation."""

    def __init__(self, most: int) -> None:
        self.steps = deque[Step](maxlen=most)
        self._count = 0
        #: The step under way, or the one that has scheduled the callback under way.
        self._by: int | None = None
        self._scheduled: dict[int, int | None] = {}

    def scheduled(self, handle: object) -> None:
        """Keep which step schedules a callback."""
        self._scheduled[id(handle)] = self._by

    def begun(self, handle: Any, now_s: float, passed: Any) -> None:
        """Keep the step that begins; `passed` is the handle before which it was drawn, or None."""
        self._by = self._scheduled.pop(id(handle), None)
        if (task := task_of(handle)) is not None:
            name = task.get_name()
            place = places([task])[0].removeprefix(f"{name}: ")
            runs = getattr(task.get_coro(), "__name__", "") if name.startswith("Task-") else ""
            first = task_of(passed)
            before = first.get_name() if first is not None else passed and "a callback"
            self.steps.append(
                Step(self._count, now_s, hash(task), name, runs, place, before, self._by)
            )
            self._by, self._count = self._count, self._count + 1

    def lines(self, most: int) -> list[str]:
        """Return a line for each of the latest steps."""
        return [
            f"{step.now_s:9.3f} s {'*' if step.before else ' '}{step.task}: {step.place}"
            for step in list(self.steps)[-most:]
        ]

    def page(self, path: Path, error: BaseException, notes: str, events: Sequence[Event]) -> None:
        """Write a page that shows a failure, and needs no other file."""
        runs = list(dict.fromkeys(event.pipeline_run_id for event in events))
        first = min((event.timestamp for event in events), default=None)
        data = {
            "error": type(error).__name__,
            "message": str(error),
            "notes": notes.replace("lines with *", "marked steps"),
            "steps": [{**step._asdict(), "source": _source(step.place)} for step in self.steps],
            "events": [
                ((e.timestamp - first).total_seconds(), runs.index(e.pipeline_run_id), e.type)
                for e in sorted(events, key=lambda event: event.timestamp)
                if first is not None
            ],
        }
        text = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
        path.parent.mkdir(parents=True, exist_ok=True)
        template = _TEMPLATE.read_text(encoding="utf-8")
        with atomic_write(path) as file:
            file.write(template.replace("{/* data */}", text))


def task_of(handle: Any) -> asyncio.Task[Any] | None:
    """Return the task whose step a handle is, or None."""
    owner = getattr(getattr(handle, "_callback", None), "__self__", None)
    return owner if isinstance(owner, asyncio.Task) else None


def _source(place: str) -> str:
    """Return the line of source of a place."""
    file, _, rest = place.partition(" in ")[0].rpartition(":")
    return linecache.getline(file, int(rest)).strip() if rest.isdecimal() else ""
