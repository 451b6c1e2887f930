"""Run a coroutine function in virtual time, for tests that cannot be marked.

`@pytest.mark.simulate(order="asyncio")` is for all others: those that run once, from their first
line to their last. A test with ``@given``, and one that compares two runs, calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from stageflow.testing import SimulationLoop, run_in

T = TypeVar("T")


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main` in virtual time and in asyncio's own order; return what it returns."""
    return run_in(SimulationLoop(), main())
