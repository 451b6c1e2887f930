"""Stages that block the event loop are found, measured in the loop itself, and named."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from stageflow import StageContext, StageOutput
from stageflow.testing.contracts.conduct import BlockingWatch, _own, around_callbacks
from tests.utils.stage_cases import both_loops, contract, counted, declared

pytestmark = pytest.mark.untraced


SLOW_TEXT = "a" * 21
MANY = json.dumps([{"n": n} for n in range(150_000)])


async def matches(ctx: StageContext) -> StageOutput:
    re.match("(a+)+$", SLOW_TEXT + "b")
    return await counted(ctx)


async def parses(ctx: StageContext) -> StageOutput:
    await asyncio.sleep(0)
    found = json.loads(MANY)
    return await counted(ctx) if found else StageOutput.ok(count=0)


async def sorts(ctx: StageContext) -> StageOutput:
    sorted(range(300_000), key=str)
    return await counted(ctx)


async def waits_without_await(ctx: StageContext) -> StageOutput:
    time.sleep(0.03)  # noqa: ASYNC251 - on purpose
    return await counted(ctx)


async def waits_in_a_task(ctx: StageContext) -> StageOutput:
    async with asyncio.TaskGroup() as group:
        group.create_task(waits_without_await(ctx))
    return await counted(ctx)


@both_loops
@pytest.mark.parametrize(
    ("runner", "place"),
    [
        (matches, "matches"),
        (parses, "parses"),
        (sorts, "sorts"),
        (waits_without_await, "waits_without_await"),
        (waits_in_a_task, "waits_without_await"),
    ],
)
def test_what_holds_the_loop_is_found_and_named(runner: Any, place: str, real_io: bool) -> None:
    """Also what holds the interpreter's lock, so that no other thread can look."""
    made = contract(declared(runner), real_io=real_io, blocking_limit_ms=20.0)
    said = rf"held the event loop for \d\d+ ms, at .*blocking\.py:\d+ in {place};"
    with pytest.raises(AssertionError, match=said):
        made.test_does_not_hold_the_loop()


def test_a_thread_that_begins_late_has_seen_the_call() -> None:
    """On a busy machine it gets its first turn when the call has held the interpreter and ended."""
    watch, stop, go = BlockingWatch(), threading.Event(), threading.Event()
    main, began = threading.get_ident(), time.perf_counter() - 0.3
    stop.set()

    def look() -> None:
        go.wait()
        watch._look(main, stop, began)

    thread = threading.Thread(target=look)
    thread.start()
    go.set()
    while thread.is_alive():
        pass
    ((place, seen_s),) = watch._seen_s.items()
    assert place.endswith("in test_a_thread_that_begins_late_has_seen_the_call")
    assert seen_s > 0.29


def test_a_busy_machine_is_not_mistaken_for_a_stage_that_holds_the_loop() -> None:
    """A delay that happens once or twice, and not each time, is not the stage's doing."""
    runs: list[int] = []

    async def held_up(ctx: StageContext) -> StageOutput:
        runs.append(1)  # the first run is not measured
        time.sleep(0.03 if len(runs) in {2, 3} else 0)  # noqa: ASYNC251
        return await counted(ctx)

    contract(declared(held_up), blocking_limit_ms=25.0).test_does_not_hold_the_loop()
    assert len(runs) == 4


async def test_callbacks_of_other_threads_are_left_alone() -> None:
    """Each is run once, whichever thread's it is; afterwards all is as it was."""
    seen: list[int] = []
    ran: list[int] = []
    original = asyncio.Handle._run

    def around(run: Callable[[], None], handle: asyncio.Handle) -> None:
        seen.append(threading.get_ident())
        run()

    async def beside() -> None:
        ran.append(threading.get_ident())

    with around_callbacks(around):
        thread = threading.Thread(target=asyncio.run, args=(beside(),))
        thread.start()
        await asyncio.to_thread(thread.join)
    assert asyncio.Handle._run is original
    assert set(seen) == {threading.get_ident()}
    assert len(ran) == 1
    assert ran[0] not in seen


def test_a_callback_without_code_of_its_own_is_named() -> None:
    """A function of C, as the loop itself calls it."""
    watch = BlockingWatch()
    with watch.on_this_thread():
        asyncio.run(_sleeping())
    assert watch.worst_ms >= 30.0
    assert watch.place
    assert "blocking.py" not in watch.place


async def _sleeping() -> None:
    asyncio.get_running_loop().call_soon(time.sleep, 0.03)
    await asyncio.sleep(0)


def test_the_place_is_the_innermost_that_is_the_users() -> None:
    """Not one of Python's or of the engine's, unless there is no other."""
    seen: list[Any] = []

    def look(*_: object) -> str:
        seen.append(_own(sys._getframe(1)).f_code.co_name)
        return ""

    def called_by(module: str, then: Any) -> None:
        scope = {"__name__": module, "then": then}
        exec(compile("def inside(): then()\ninside()", "x", "exec"), scope)

    for module in ("json", "stageflow.engine.run", "stageflow.kernels.voice", "engine"):
        called_by(module, look)
    assert seen == ["called_by", "called_by", "inside", "inside"]


def test_a_look_counts_for_the_callback_that_it_saw() -> None:
    """The next callback may begin while the watching thread looks."""
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    reads = itertools.chain([before], itertools.repeat(after))

    class Watch(BlockingWatch):
        @property
        def _seen_s(self) -> Counter[str]:
            return next(reads)

        @_seen_s.setter
        def _seen_s(self, value: Counter[str]) -> None:
            pass

    stop = threading.Event()
    stop.set()
    Watch()._look(threading.get_ident(), stop, time.perf_counter())
    assert not before
    assert len(after) == 1
