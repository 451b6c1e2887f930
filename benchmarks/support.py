"""What every benchmark file needs: the one event loop, skipping, and how time is measured.

This module, like every helper here, can be imported with any commit of stageflow installed.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib.util
import selectors
import statistics
import time
import timeit
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn, TypeVar

import stageflow

T = TypeVar("T")

#: What a timing is taken to be off by at least, as a share of it, to either side.
DOUBT = 0.025
DRAWS = 10
DRAW_S = 0.01


class CpuTimed:
    """How the work of a class is measured: CPU time, by `timed` methods.

    CPU time of the process moves less than wall time when other programs want the machine too, and
    still too much to judge a change by.
    """

    timer = time.process_time
    unit = "seconds"


def timed(work: Callable[..., object]) -> Callable[..., dict[str, object]]:
    """Make a method that does some work into one that tells how long that takes, for the chart."""

    @functools.wraps(work)
    def measured(self: CpuTimed, *params: Any) -> dict[str, object]:
        return charted(draw_s(functools.partial(work, self, *params), type(self).timer))

    return measured


def draw_s(work: Callable[[], object], timer: Callable[[], float]) -> list[float]:
    """How long `work` takes, in seconds of `timer`, by ten draws of 10 ms or one execution each."""
    clock = timeit.Timer(work, timer=timer)
    clock.timeit(1)  # fixtures are made at the first call
    number = max(1, round(DRAW_S / max(clock.timeit(1), 1e-9)))
    return [took_s / number for took_s in clock.repeat(DRAWS, number)]


def charted(samples: Sequence[float]) -> dict[str, object]:
    """A result that asv draws and keeps, and by which it never fails a comparison.

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


def requires(*names: str) -> Callable[..., NoReturn] | None:
    """What a benchmark module assigns to ``setup``, so that old commits skip it cleanly.

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
