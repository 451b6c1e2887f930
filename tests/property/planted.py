"""Bugs planted in the engine, to see whether the stress test finds them.

Each is a patch of the engine for the length of a block. Some show in every order of the ready
callbacks, some in a few only.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from stageflow.engine import context, graph, plan, stage_context, stream, timers
from stageflow.engine.run import Run
from stageflow.events import log as events
from stageflow.interceptors import retry
from stageflow.resilience import circuit_breaker as breaker
from stageflow.testing import SimulationError
from tests.property.stress import ORDERS, Tally, stress

#: Within so many schedules each has to be found.
MOST_SCHEDULES = 2_000

Bug = Callable[[], AbstractContextManager[Any]]


def _log(append: Callable[[list[Any], Any], None]) -> Bug:
    """Another way to put an event on record."""

    class Log(events.EventLog):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.append = lambda raw: append(self._raw, raw)

    return lambda: mock.patch.object(context, "EventLog", Log)


def _is(raw: Any, what: str) -> bool:
    return raw[2] is not None and str(raw[0]).endswith(f".{what}")


def _drop(what: str) -> Bug:
    return _log(lambda log, raw: None if _is(raw, what) else log.append(raw))


def _twice(what: str) -> Bug:
    return _log(lambda log, raw: log.extend([raw, raw] if _is(raw, what) else [raw]))


def _end_before_the_last(log: list[Any], raw: Any) -> None:
    log.append(raw)
    if raw[2] is None and len(log) > 2:
        log[-2:] = reversed(log[-2:])


@contextmanager
def _skip_a_number() -> Iterator[None]:
    number = events.EventLog.event_at

    def skipping(self: events.EventLog, position: int) -> events.Event:
        return number(self, position) if position < 3 else _later(number(self, position))

    def _later(event: events.Event) -> events.Event:
        fields = {name: getattr(event, name) for name in event.__slots__}
        return events.Event(**{**fields, "sequence": event.sequence + 1})

    with mock.patch.object(events.EventLog, "event_at", skipping):
        yield


@contextmanager
def _start_early() -> Iterator[None]:
    made = plan.Plan.__init__

    def impatient(self: plan.Plan, *args: Any) -> None:
        made(self, *args)
        # A latch that waits for several lets its stages through with the last but one.
        self.counts = tuple(max(1, count - 1) for count in self.counts)

    with mock.patch.object(plan.Plan, "__init__", impatient):
        yield


def _after(owner: type, name: str, then: Callable[..., Any]) -> Bug:
    """A method after which something else happens."""
    original = getattr(owner, name)

    def both(self: Any, *args: Any, **options: Any) -> Any:
        result = original(self, *args, **options)
        then(self, *args)
        return result

    return lambda: mock.patch.object(owner, name, both)


def _instead(owner: Any, name: str, then: Any) -> Bug:
    return lambda: mock.patch.object(owner, name, then)


def _cancel_one(self: Run) -> None:
    for task in tuple(self._suspended)[:1]:
        task.cancel()


#: A generator from before any simulation, which none of them sets back.
_CHANCE = random.Random()


def _cancel_in_any_order(self: Run) -> None:
    tasks = list(self._suspended)
    _CHANCE.shuffle(tasks)
    for task in tasks:
        task.cancel()


def _leak_a_task(self: Run) -> None:
    _LEAKED.append(self._loop.create_task(asyncio.sleep(0.5)))


_LEAKED: list[asyncio.Task[Any]] = []


def _write_of_a_failed_stage(self: Run, node: Any, *_: Any) -> None:
    self._scope.bag.put_all({key: f"{key} by {node.name}" for key in node.outputs}, node.name)


async def _no_letter(self: Run, result: Any) -> None:
    pass


@contextmanager
def _two_letters() -> Iterator[None]:
    capture = Run._capture

    async def twice(self: Run, result: Any) -> None:
        await capture(self, result)
        await capture(self, result)

    with mock.patch.object(Run, "_capture", twice):
        yield


def _count_twice(self: breaker.CircuitBreaker, *_: Any) -> None:
    if self.state is breaker.BreakerState.CLOSED:
        self._in_a_row += 1


def _always_permit(self: breaker.CircuitBreaker, clock: Any) -> Any:
    return self._permit


def _forget_the_cooldown(self: breaker.CircuitBreaker, *_: Any) -> None:
    self._opens_again_at_s = 0.0


@contextmanager
def _one_attempt_more() -> Iterator[None]:
    delay_s = retry.RetryInterceptor._delay_s

    def generous(self: Any, ctx: Any, attempt: int, failure: Any) -> float | None:
        return delay_s(self, ctx, attempt - 1, failure) if attempt > 1 else 0.1

    with mock.patch.object(retry.RetryInterceptor, "_delay_s", generous):
        yield


@contextmanager
def _never_expires() -> Iterator[None]:
    watch = timers.TimerHeap.set

    def forgetful(self: Any, when: float, on_expiry: Any) -> Any:
        return watch(self, when + 50.0, on_expiry)

    with mock.patch.object(timers.TimerHeap, "set", forgetful):
        yield


@contextmanager
def _forgive_lateness() -> Iterator[None]:
    """A stage that swallows the cancellation of its timeout has completed."""

    class Forgiving(timers.Timer):
        __slots__ = ()

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, False if name == "expired" else value)

    with mock.patch.object(timers, "Timer", Forgiving):
        yield


def _every_stage(**fields: Any) -> Bug:
    made = plan.Node.__init__

    def changed(self: plan.Node, *args: Any) -> None:
        made(self, *args)
        for name, value in fields.items():
            setattr(self, name, value)

    return _instead(plan.Node, "__init__", changed)


def _ignore_producers() -> Bug:
    connect = graph.StageGraph._connect
    return _instead(graph.StageGraph, "_connect", lambda self, *_: connect(self, {}, {}))


@contextmanager
def _keep_ready_stages() -> Iterator[None]:
    """A run that stops forgets to clear what is ready; drivers that are under way begin it."""
    stop = Run._stop

    def forgetful(self: Run, reason: str) -> None:
        ready = tuple(self._ready)
        stop(self, reason)
        self._ready.extend(ready)

    with mock.patch.object(Run, "_stop", forgetful):
        yield


@contextmanager
def _lose_a_driver() -> Iterator[None]:
    """Of several stages that become ready together, one driver too few is started."""
    spawn = Run._spawn

    def stingy(self: Run, wanted: int) -> None:
        spawn(self, min(wanted, 1))

    with mock.patch.object(Run, "_spawn", stingy):
        yield


def _work_afterwards(self: Run) -> None:
    """The first stage is run once more when the run has ended."""
    node = self._plan.nodes[0]
    ctx = stage_context.StageContext(self._scope, node.name, node.inputs, 0.0, node.provider)

    async def again() -> None:
        try:
            await node.execute(ctx)
        except Exception:
            return

    _LEAKED.append(self._loop.create_task(again()))


@contextmanager
def _drop_an_item() -> Iterator[None]:
    """Count the third item of each stream, and put the next one in its place."""
    put = stream.StreamWriter._put

    async def losing(self: stream.StreamWriter, item: Any) -> bool:
        accepted = await put(self, item)
        if accepted and self._stream.count == 3:
            self._stream._items.pop()
        return accepted

    with mock.patch.object(stream.StreamWriter, "_put", losing):
        yield


def _never_tell(self: stream.Stream, stage: str) -> None:
    """A reader that has ended still counts as a reader."""


@contextmanager
def _take_one_more() -> Iterator[None]:
    put = stream.StreamWriter._put

    async def greedy(self: stream.StreamWriter, item: Any) -> bool:
        self._stream.capacity += 1
        try:
            return await put(self, item)
        finally:
            self._stream.capacity -= 1

    with mock.patch.object(stream.StreamWriter, "_put", greedy):
        yield


@contextmanager
def _hide_failures() -> Iterator[None]:
    close = stream.Stream.close

    def well(self: stream.Stream, outcome: str, failure: Any = None) -> None:
        close(self, "completed" if outcome == "failed" else outcome, failure)

    with mock.patch.object(stream.Stream, "close", well):
        yield


BUGS: Mapping[str, Bug] = {
    "the failed event of a stage is dropped": _drop("failed"),
    "the cancelled event of a stage is dropped": _drop("cancelled"),
    "a stage completes twice": _twice("completed"),
    "the run's terminal event is not the last": _log(_end_before_the_last),
    "a sequence number is skipped": _skip_a_number,
    "a dependent starts early": _start_early,
    "a cancellation is swallowed": _instead(Run, "_cancel_suspended", lambda self: None),
    "only one of several stages is cancelled": _instead(Run, "_cancel_suspended", _cancel_one),
    "stages are cancelled in the order of a set": _instead(
        Run, "_cancel_suspended", _cancel_in_any_order
    ),
    "a task is leaked": _after(Run, "_conclude", _leak_a_task),
    "a stage runs after the end of the run": _after(Run, "_conclude", _work_afterwards),
    "a stage that was ready starts although the run stops": _keep_ready_stages,
    "the outputs of a failed stage are written": _after(
        Run, "_accept_error", _write_of_a_failed_stage
    ),
    "no dead letter is kept": _instead(Run, "_capture", _no_letter),
    "two dead letters are kept": _two_letters,
    "the breaker counts a failure twice": _after(breaker.CircuitBreaker, "fail", _count_twice),
    "an open breaker lets calls through": _instead(
        breaker.CircuitBreaker, "acquire", _always_permit
    ),
    "the breaker forgets its cool-down": _after(
        breaker.CircuitBreaker, "_open", _forget_the_cooldown
    ),
    "one attempt too many is made": _one_attempt_more,
    "limits of time are not kept": _never_expires,
    "a stage that swallows its timeout completes": _forgive_lateness,
    "an optional stage fails the run": _every_stage(required=True),
    "a required stage does not fail the run": _every_stage(required=False),
    "conditions are not looked at": _every_stage(condition=None),
}


#: Those that show where stages stream.
STREAM_BUGS: Mapping[str, Bug] = {
    "a stream loses an item": _drop_an_item,
    "a stream takes one item too many": _take_one_more,
    "a reader that has ended holds the producer back": _instead(
        stream.Stream, "leave", _never_tell
    ),
    "readers do not learn that the producer failed": _hide_failures,
    "the producer of an input is not waited for": _ignore_producers(),
    "who waits for an item is not woken": _instead(
        stream.Stream, "_wake_readers", lambda self: None
    ),
}


def search(name: str, chance: int = 0) -> int | None:
    """Let the stress test search for a bug.

    Args:
        name: A key of `BUGS` or `STREAM_BUGS`; the stress test runs without or with streams.
        chance: Seed of the examples.

    Returns:
        After how many schedules it was found; None if it was not, within `MOST_SCHEDULES`.
    """
    seen = Tally()

    def remember(tally: Tally) -> None:
        seen.schedules = tally.schedules

    try:
        with {**BUGS, **STREAM_BUGS}[name]():
            stress(MOST_SCHEDULES - ORDERS, chance, remember, streams=name in STREAM_BUGS)
    except (AssertionError, SimulationError, ExceptionGroup):
        # Counted up to the end of the example in which it showed.
        return min(seen.schedules + ORDERS + 1, MOST_SCHEDULES)
    finally:
        _LEAKED.clear()
    return None
