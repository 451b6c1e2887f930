"""``--loop``: run the tests on another event loop, with eager tasks, or in debug mode.

It is for the tests of the engine, and sets eager tasks and debug mode on simulated loops, too.
``python -m tools.pythons`` runs the tests on each.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

Loop = asyncio.AbstractEventLoop
LOOPS = ("asyncio", "uvloop", "debug") + (("eager",) if sys.version_info >= (3, 12) else ())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--loop", choices=LOOPS, help="which event loop asyncio creates")


def pytest_configure(config: pytest.Config) -> None:
    """Let asyncio create loops of the chosen kind, until the session ends."""
    kind = config.getoption("--loop")
    if kind is None:
        return
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    new = asyncio.new_event_loop
    if kind == "uvloop":
        import uvloop  # noqa: PLC0415 - not installed on every Python

        new = uvloop.new_event_loop
    from stageflow.testing import SimulationLoop  # noqa: PLC0415 - after coverage looks

    plain = SimulationLoop.__init__
    prepare = _PREPARE.get(kind, _leave)

    def new_event_loop() -> Loop:
        loop = new()
        prepare(loop)
        return loop

    def init(self: SimulationLoop, *arguments: Any, **options: Any) -> None:
        plain(self, *arguments, **options)
        prepare(self)

    patch.setattr(asyncio, "new_event_loop", new_event_loop)
    patch.setattr(asyncio.events, "new_event_loop", new_event_loop)
    patch.setattr(SimulationLoop, "__init__", init)


def _eager(loop: Loop, work: Any, **options: Any) -> asyncio.Task[Any]:
    # asyncio's own factory takes no option `eager_start`, which uvloop passes, before 3.13.3.
    return asyncio.Task(work, loop=loop, **(options | {"eager_start": True}))


def _leave(loop: Loop) -> None:
    pass


_PREPARE: dict[str, Callable[[Loop], None]] = {
    "eager": lambda loop: loop.set_task_factory(_eager),
    "debug": lambda loop: loop.set_debug(True),
}
