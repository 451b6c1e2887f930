"""The contract of a stage finds what a stage changes in the process."""

from __future__ import annotations

import asyncio
import io
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable

import pytest

from stageflow import StageContext, StageOutput
from stageflow.testing.contracts.conduct import surroundings
from tests.utils.stage_cases import both_loops, contract, counted, declared

pytestmark = pytest.mark.untraced

CHANGES: dict[str, Callable[[], object]] = {
    "sys.path": lambda: sys.path.append("elsewhere"),
    "sys.stdout": lambda: setattr(sys, "stdout", io.StringIO()),
    "sys.stderr": lambda: setattr(sys, "stderr", io.StringIO()),
    "the recursion limit": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1),
    "the level of the root logger": lambda: logging.root.setLevel(logging.root.level + 1),
    "the time limit of sockets": lambda: socket.setdefaulttimeout(7.0),
    "the signal handlers": lambda: signal.signal(signal.SIGUSR2, lambda *_: None),
}


@both_loops
@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_what_all_code_shares_is_found(what: str, real_io: bool) -> None:
    """It is named, and undone."""

    async def changing(ctx: StageContext) -> StageOutput:
        CHANGES[what]()
        await asyncio.sleep(0)
        return await counted(ctx)

    before = surroundings(chance=True)
    made = contract(declared(changing), real_io=real_io)
    with pytest.raises(AssertionError, match=f"count changed {what}, which all code shares"):
        made.test_leaves_the_process_as_it_is()
    assert surroundings(chance=True) == before


@pytest.mark.parametrize("clock", [time.clock_gettime, time.clock_gettime_ns])
def test_a_clock_of_the_system_is_found(clock: Callable[[int], float]) -> None:
    """By the number of the clock, too."""

    async def looking(ctx: StageContext) -> StageOutput:
        clock(time.CLOCK_REALTIME)
        return await counted(ctx)

    with pytest.raises(AssertionError, match=rf"it calls {clock.__name__}\(\) at"):
        contract(declared(looking)).test_reads_only_the_clock_of_the_loop()
