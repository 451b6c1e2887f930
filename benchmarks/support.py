"""What every benchmark file needs: the one event loop, skipping, and how long to measure.

This module, like every helper here, can be imported with any commit of stageflow installed.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib.util
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import stageflow

T = TypeVar("T")


class CpuTimed:
    """How the ``time_*`` benchmarks of a class are measured: CPU time, in short samples.

    CPU time of the process hardly moves when other programs want the machine too. Ten samples in
    two processes of their own show what is left of the noise.
    """

    timer = time.process_time
    rounds = 2
    repeat = (3, 5, 0.5)
    sample_time = 0.01
    warmup_time = 0.02


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
    missing = [name for name in names if not _exists(name)]
    if not missing:
        return None

    def skip(*_params: object) -> NoReturn:
        raise NotImplementedError(f"this commit of stageflow has no {', '.join(missing)}")

    return skip


def _exists(name: str) -> bool:
    if hasattr(stageflow, name):
        return True
    try:
        return importlib.util.find_spec(f"stageflow.{name}") is not None
    except ModuleNotFoundError:
        return False
