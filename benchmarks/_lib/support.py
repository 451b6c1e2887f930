"""Helpers of every benchmark file: the one event loop, skipping, and how time is measured.

This module, like every helper here, can be imported with any commit of stageflow installed.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import importlib.util
import selectors
import statistics
import time
import timeit
from collections.abc import Callable, Coroutine, Sequence
from types import ModuleType
from typing import Any, NoReturn, TypeVar

import stageflow

T = TypeVar("T")

#: What a difference is taken to be off by at least, as a share of it, to either side.
DOUBT = 0.025
#: asv alarms if a time is more than so many times that of the other commit. On a machine whose
#: cores are all in use, two measurements of the same code differed by up to 1.4.
BOUND = 1.85
#: As many draws as go into this time, a pause before each, but not fewer or more than so many.
DRAWS_S, PAUSE_S, DRAW_S = 0.15, 0.002, 0.004
LEAST_DRAWS, DRAWS = 5, 20


class CpuTimed:
    """How the work of a class is measured: CPU time, by `timed` methods.

    CPU time of the process moves less than wall time when other programs want the machine too, and
    still too much to judge a change by.
    """

    timer = time.process_time
    unit = "seconds"


def timed(work: Callable[..., object]) -> Callable[..., dict[str, object]]:
    """Make a method that does some work into one that returns how long that takes."""

    @functools.wraps(work)
    def measured(self: CpuTimed, *params: Any) -> dict[str, object]:
        return bounded(draw_s(functools.partial(work, self, *params), type(self).timer))

    return measured


def draw_s(work: Callable[[], object], timer: Callable[[], float]) -> list[float]:
    """Return how long `work` takes in several draws, in seconds of `timer`."""
    clock = timeit.Timer(work, timer=timer)
    clock.timeit(1)  # fixtures are made at the first call
    number = max(1, round(DRAW_S / max(clock.timeit(1), 1e-9)))
    drawn: list[float] = []
    while len(drawn) < LEAST_DRAWS or (len(drawn) < DRAWS and sum(drawn) * number < DRAWS_S):
        time.sleep(PAUSE_S)  # what disturbs one draw need not disturb the next
        drawn.append(clock.timeit(number) / number)
    return drawn


def bounded(samples: Sequence[float]) -> dict[str, object]:
    """Return the least of some times as a result that asv compares with `BOUND`.

    Other programs only add to a time, so the least of several repeats best. asv calls two results
    different if their 99 % intervals do not overlap. That of two samples reaches 25 times as far as
    these are apart, to either side; so they are put as close as makes the intervals of two results
    touch at a ratio of `BOUND`.
    """
    least = min(samples)
    apart = least * (BOUND - 1) / (BOUND + 1) / 50
    return {"samples": [least - apart, least + apart], "number": 1}


def charted(samples: Sequence[float]) -> dict[str, object]:
    """A ratio or a difference, which asv draws and keeps, and by which no comparison fails.

    asv is given the two deciles, at least 5 % apart. Its 99 % interval for the median of two
    samples reaches 25 times as far as they are apart, to either side, and so below zero: no two
    such results are ever different to it. What decides is counted or exact, and ``stageflow pulse
    gate`` times both commits in turn.

    Args:
        samples: Two or more, all positive or all negative in the main.
    """
    low, *_, high = statistics.quantiles(samples, n=10, method="inclusive")
    middle = statistics.median(samples)
    apart = max((high - low) / 2, abs(middle) * DOUBT)
    return {"samples": [middle - apart, middle + apart], "number": 1}


@functools.cache
def event_loop() -> asyncio.AbstractEventLoop:
    """The one loop of this process, made when first asked for: asv forks after importing."""
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in the one loop; entering it costs about 12 µs."""
    return event_loop().run_until_complete(main)


@functools.cache
def precise_loop() -> asyncio.AbstractEventLoop:
    """A loop that keeps its timers to a fraction of a millisecond, made when first asked for.

    The usual one waits by epoll, for whole milliseconds, rounded up. Over a turn's six waits that
    adds up to more than what is looked for, and differently each time.
    """
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    atexit.register(loop.close)
    return loop


def run_precisely(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in the loop whose timers are precise."""
    return precise_loop().run_until_complete(main)


def from_older_commits(package: str, **homes: str) -> None:
    """Let a package of an older commit offer names that only its modules have.

    Args:
        package: A package in ``stageflow`` that hands on these names today.
        homes: By name, the module of the package that defines it in older commits.
    """
    facade = importlib.import_module(f"stageflow.{package}")
    for name, home in homes.items():
        # Before there were facades, ``kernels.voice`` was the module of that name.
        if isinstance(getattr(facade, name, None), ModuleType | None):
            module = importlib.import_module(f"stageflow.{package}.{home}")
            if hasattr(module, name):
                setattr(facade, name, getattr(module, name))


def requires(*names: str) -> Callable[..., NoReturn] | None:
    """Return the ``setup`` of a benchmark module, so that old commits skip it cleanly.

    Args:
        names: Attributes of the package ``stageflow``, or modules in it, such as
            ``kernels.voice``.

    Returns:
        None when all of them exist: any function there would make asv time single calls. Else a
        function that raises `NotImplementedError`, by which asv skips.
    """
    lacking = missing(*names)
    if not lacking:
        return None

    def skip(*_params: object) -> NoReturn:
        raise NotImplementedError(f"this commit of stageflow has no {', '.join(lacking)}")

    return skip


def missing(*names: str) -> list[str]:
    """Those of `names` that this commit of stageflow lacks; see `requires`."""
    return [name for name in names if not _exists(name)]


def _exists(name: str) -> bool:
    if hasattr(stageflow, name):
        return True
    try:
        return importlib.util.find_spec(f"stageflow.{name}") is not None
    except ModuleNotFoundError:
        return False
