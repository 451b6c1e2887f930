"""Time limits: each called once, at its time, unless it was released before."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import pytest

from stageflow.engine.timers import TimerHeap
from tests.utils.mocks import ManualLoop


@pytest.fixture
def loop() -> ManualLoop:
    return ManualLoop()


@pytest.fixture
def timers(loop: ManualLoop) -> TimerHeap:
    return TimerHeap(cast("Any", loop))


def test_limits_expire_at_their_times_whatever_order_they_were_set_in(
    loop: ManualLoop, timers: TimerHeap
) -> None:
    """Three limits, set out of order, are called in the order of their times."""
    called: list[tuple[str, float]] = []

    def note(name: str) -> None:
        called.append((name, loop.now_s))

    for name, when in (("late", 3.0), ("early", 1.0), ("middle", 2.0)):
        timers.set(when, partial(note, name))
    loop.advance_to(10.0)
    assert called == [("early", 1.0), ("middle", 2.0), ("late", 3.0)]


def test_nothing_is_called_before_its_time(loop: ManualLoop, timers: TimerHeap) -> None:
    """A limit that is still ahead has not expired."""
    watch = timers.set(2.0, lambda: pytest.fail("too early"))
    loop.advance_to(1.999)
    assert not watch.expired


def test_a_released_limit_is_never_called(loop: ManualLoop, timers: TimerHeap) -> None:
    """Releasing one leaves the others in force."""
    called: list[str] = []
    released = timers.set(1.0, lambda: called.append("released"))
    kept = timers.set(2.0, lambda: called.append("kept"))
    released.release()
    loop.advance_to(10.0)
    assert called == ["kept"]
    assert (released.expired, kept.expired) == (False, True)


def test_limits_of_the_same_moment_keep_the_order_in_which_they_were_set(
    loop: ManualLoop, timers: TimerHeap
) -> None:
    """Equal times neither compare the timers nor change their order."""
    called: list[int] = []
    for number in range(5):
        timers.set(1.0, partial(called.append, number))
    loop.advance_to(1.0)
    assert called == [0, 1, 2, 3, 4]


def test_only_the_nearest_limit_has_a_timer(loop: ManualLoop, timers: TimerHeap) -> None:
    """A hundred limits cost one timer, and a nearer one takes it over."""
    for number in range(100):
        timers.set(10.0 + number, lambda: None)
    assert [timer.when for timer in loop.pending] == [10.0]
    timers.set(5.0, lambda: None)
    assert [timer.when for timer in loop.pending] == [5.0]


def test_a_timer_that_fires_a_little_early_still_counts(
    loop: ManualLoop, timers: TimerHeap
) -> None:
    """Loops round to the resolution of their clock; the limit is not put off by that."""
    called: list[float] = []
    timers.set(1.0, lambda: called.append(loop.now_s))
    loop.advance_to(1.0, early_s=1e-6)
    assert called == [1.0 - 1e-6]


def test_closing_forgets_every_limit(loop: ManualLoop, timers: TimerHeap) -> None:
    """No timer is left, nothing is called, and closing again is harmless."""
    timers.set(1.0, lambda: pytest.fail("called after close"))
    timers.close()
    timers.close()
    assert loop.pending == []
    loop.advance_to(10.0)


def test_a_limit_may_close_the_watchdog_that_calls_it(loop: ManualLoop, timers: TimerHeap) -> None:
    """A deadline that stops a run takes the limits of its stages with it."""
    timers.set(1.0, timers.close)
    timers.set(1.0, lambda: pytest.fail("called after close"))
    timers.set(2.0, lambda: pytest.fail("called after close"))
    loop.advance_to(10.0)
    assert loop.pending == []


def test_a_limit_may_set_another(loop: ManualLoop, timers: TimerHeap) -> None:
    """A limit that is set while limits fire is kept like any other, once."""
    called: list[float] = []
    timers.set(1.0, lambda: timers.set(2.0, lambda: called.append(loop.now_s)))
    timers.set(3.0, lambda: called.append(loop.now_s))
    loop.advance_to(10.0)
    assert called == [2.0, 3.0]


def test_when_all_limits_are_released_no_timer_is_set_again(
    loop: ManualLoop, timers: TimerHeap
) -> None:
    """A timers with nothing to watch leaves the loop alone after its last timer."""
    for when in (1.0, 2.0, 3.0):
        timers.set(when, lambda: None).release()
    loop.advance_to(1.0)
    assert loop.pending == []
