"""Probes around a stage, and pictures of values to compare."""

import asyncio
import copy
import dataclasses
import io
import pickle
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from types import MappingProxyType
from typing import Any, Self, TypeVar
from unittest import mock

from stageflow.engine import CallNext, Interceptor, Pipeline, StageContext, StageOutput, StageSpec
from stageflow.engine.stream import Stream
from stageflow.testing.simulation import SimulationLoop
from stageflow.testing.wrapped import opening

T = TypeVar("T")


class Waits(Generator[Any, Any, T]):
    """Awaits some work, and calls back just after its n-th wait has begun, on any loop the same."""

    def __init__(self, work: Awaitable[T], at: int, callback: Callable[[], object]) -> None:
        self.count = 0  # of the waits so far
        self.cancelled: list[BaseException] = []
        self._work, self._at, self._callback = work, at, callback
        self._steps: Any = work.__await__()

    def __await__(self) -> Self:
        return self

    @property
    def gi_yieldfrom(self) -> object:
        """The awaited object, for `places`."""
        return self._work

    def send(self, value: Any, /) -> Any:
        """Resume the work."""
        return self._waited(next(self._steps) if value is None else self._steps.send(value))

    def throw(self, error: Any, value: Any = None, traceback: Any = None, /) -> Any:
        """Resume the work with an error."""
        if isinstance(error, asyncio.CancelledError):
            self.cancelled.append(error)
        return self._waited(self._steps.throw(error if value is None else value))

    def _waited(self, awaited: Any) -> Any:
        self.count += 1
        if self.count == self._at:
            asyncio.get_running_loop().call_soon(self._callback)
        return awaited


class CancellationProbe(Interceptor):
    """Cancels a task at one point, and checks whether the stage passes the cancellation on.

    The point is the number of a callback, counted from `cancelled` on; on a real loop, of a wait of
    the stage and of what is around it.
    """

    _task: asyncio.Future[Any]

    def __init__(self, point: int) -> None:
        self.point, self.begun = point, False
        self.swallowed = False  # it did not end as cancelled, and asyncio is not the cause
        self.cancelled_at_s: float | None = None  # None if the task had ended before
        self._works: list[Waits[StageOutput]] = []
        self._excused: list[BaseException | None] = []

    async def cancelled(self, work: Awaitable[Any]) -> asyncio.Future[Any]:
        """Run `work` in a task that is cancelled at the point; return the task when it ends."""
        self._task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()
        if isinstance(loop, SimulationLoop):
            loop.at_step(loop.steps + self.point, self._cancel)
        await asyncio.wait([self._task])
        return self._task

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Call the stage, and check how it ends."""
        self.begun = True
        simulated = isinstance(asyncio.get_running_loop(), SimulationLoop)
        work = Waits(call_next(ctx), 0 if simulated else self.point, self._cancel)
        self._works.append(work)
        try:
            output: StageOutput = await work
        except Exception:
            self._look(ctx, work)
            raise
        self._look(ctx, work)
        return output

    def _look(self, ctx: StageContext, work: Waits[StageOutput]) -> None:
        if ctx.scope.stopping and not all(map(self._is_excused, work.cancelled)):
            self.swallowed = True

    def _is_excused(self, error: BaseException) -> bool:
        """Return whether asyncio has swallowed it: a TaskGroup that fails, or ``wait_for``."""
        traceback = error.__traceback__
        module = traceback.tb_frame.f_globals.get("__name__", "") if traceback is not None else ""
        return str(module).startswith("asyncio.") or any(error is one for one in self._excused)

    @contextmanager
    def excusing_groups(self) -> Iterator[None]:
        """Excuse a stage for a TaskGroup that has failed and so does not report a cancellation."""
        leave = asyncio.TaskGroup.__aexit__

        async def excused(group: asyncio.TaskGroup, *raised: Any) -> None:
            try:
                await leave(group, *raised)
            except BaseExceptionGroup:
                self._excused.append(raised[1])
                raise

        with mock.patch.object(asyncio.TaskGroup, "__aexit__", excused):
            yield

    def _cancel(self) -> None:
        if self._task.cancel():
            self.cancelled_at_s = asyncio.get_running_loop().time()
            for work in self._works:
                work.cancelled.clear()  # the stage itself has requested these


@dataclass(frozen=True)
class Reader:
    """A runner that reads streams at once: `pause_s` an item, and all items or `takes` of each."""

    keys: tuple[str, ...]
    pause_s: float = 0.0
    takes: int | None = None

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        """Read the streams."""
        async with asyncio.TaskGroup() as group:
            for key in self.keys:
                group.create_task(self._read(ctx[key]))
        return StageOutput.ok()

    async def _read(self, stream: Any) -> None:
        for _ in count() if self.takes is None else range(self.takes):
            if await anext(stream, self) is self:
                return
            await asyncio.sleep(self.pause_s)
        await stream.aclose()


def read_by(spec: StageSpec, reader: Reader) -> Pipeline:
    """Return a pipeline of a stage, given all its inputs, and its reader."""
    alone = dataclasses.replace(spec, dependencies=(), condition=None)
    name = f"{spec.name}-reader"
    beside = StageSpec(name, reader, dependencies=(spec.name,), inputs=reader.keys)
    return Pipeline(f"{spec.name}-read", [alone, beside], inputs=spec.inputs)


class Narrow(Interceptor):
    """Gives each stream room for one item only, so that the producer has to wait."""

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Run the stage with a context that opens such streams."""
        return await call_next(opening(ctx, lambda ctx, key, _: ctx.open(key, capacity=1)))


#: Modules whose objects are used, which does not change a value.
_USED = {"asyncio", "concurrent", "io", "logging", "queue", "socket", "threading", "unittest"}

#: The sign of a NaN in a float and in an array, which no comparison sees.
_NAN = b"\xff\xf8" + bytes(6), b"\x7f\xf8" + bytes(6)
_NAN_OF_ARRAYS = bytes(6) + b"\xf8\xff", bytes(6) + b"\xf8\x7f"


class Picture:
    """The contents of a value at one moment, to compare with another value or a later state."""

    def __init__(self, value: Any) -> None:
        self._copy = copied(value)
        self._sketch = _sketched(value)

    def shows(self, value: Any) -> bool:
        """Return whether the value is equal to the picture, or holds the same."""
        # What could not be copied would be compared with itself. A table compares element by
        # element, and an array has no truth value.
        with suppress(Exception):
            if self._copy is not value and (self._copy == value) is True:
                return True
        return self._sketch == _sketched(value)


def copied(value: Any) -> Any:
    """Return a deep copy, or the value itself if it cannot be copied: it holds a lock, a file."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def _sketched(value: Any) -> bytes:
    # Without a memo shared parts make no difference, and a cycle does not end.
    for without_memo in (True, False):
        pickler = _Sketcher(sketch := io.BytesIO(), 4)
        pickler.fast = without_memo
        with suppress(Exception):
            pickler.dump(value)
            return sketch.getvalue().replace(*_NAN).replace(*_NAN_OF_ARRAYS)
    return b""


class _Sketcher(pickle.Pickler):
    """Writes what a value holds. It is never read again, so nothing is refused."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if value is str:
            return NotImplemented
        reduced: Any = str, (getattr(value, "__qualname__", kind.__qualname__),)
        if kind is MappingProxyType:
            reduced = str, (dict(value),)
        elif kind is Stream:
            reduced = str, (value.items() if value.whole else (),)
        elif not _is_used(value):
            with suppress(Exception):
                reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):
            return str, (reduced,)
        parts: list[Any] = [kind.__qualname__, *reduced[1:]]
        if len(parts) > 2 and isinstance(parts[2], dict):
            # A property that is computed when it is first read is not a change.
            computed = {k for k, v in vars(kind).items() if isinstance(v, cached_property)}
            parts[2] = {k: v for k, v in parts[2].items() if k not in computed}
        parts[3:] = [list(items) for items in parts[3:] if items is not None]
        return str, tuple(parts)


def _is_used(value: Any) -> bool:
    """Return whether a value is a function, an iterator, a file, a queue, a mock or the like."""
    if callable(value) or hasattr(value, "__next__") or hasattr(value, "__anext__"):
        return True
    return any(b.__module__.partition(".")[0].strip("_") in _USED for b in type(value).__mro__)
