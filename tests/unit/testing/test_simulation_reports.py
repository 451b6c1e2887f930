"""The report of a failed simulation: the last steps, and in a deadlock who waits for whom."""

from __future__ import annotations

import asyncio
import json
import re
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stageflow.testing import DeadlockError, Simulation, explore, replay, simulate


async def lost_update(sim: Simulation) -> None:
    """Two tasks read before either writes."""
    total = 0

    async def add() -> None:
        nonlocal total
        seen = total
        await asyncio.sleep(1)
        total = seen + 1

    async with asyncio.TaskGroup() as group:
        group.create_task(add(), name="first")
        group.create_task(add(), name="second")
    assert total == 2


def failure() -> AssertionError:
    with pytest.raises(AssertionError) as caught:
        simulate(lost_update)
    return caught.value


def test_a_failure_shows_what_ran_last() -> None:
    """A line for each step: virtual time, task, and the line where it went on."""
    (note,) = failure().__notes__
    how, shown = note.split("\nWhat ran last ")
    lines = shown.splitlines()
    assert lines[0] == "(virtual time, task, where it went on):"
    told = [re.sub(r"/\S*/", "", line).split() for line in lines[1:]]
    assert all(re.fullmatch(r"\S+\.py:\d+", line[3]) for line in told)
    assert {(line[0], line[2]) for line in told} >= {
        *(("0.000", "first:"), ("0.000", "second:"), ("1.000", "first:"), ("1.000", "second:"))
    }
    assert how.startswith("To run exactly this again")


def test_a_replay_shows_what_ran_last() -> None:
    """As the failure that it repeats."""
    first = failure()
    with pytest.raises(AssertionError) as again:
        replay(re.findall(r"sf1-[\w-]+", first.__notes__[-1])[-1])
    assert again.value.__notes__ == first.__notes__


def test_a_failure_begins_in_the_code_under_test() -> None:
    """None of the frames of the loop are between the call and the code."""
    files = [frame.filename for frame in traceback.extract_tb(failure().__traceback__)]
    assert [file.rpartition("/")[2] for file in files] == [
        *("test_simulation_reports.py", "simulate.py", "test_simulation_reports.py")
    ]


async def locks(sim: Simulation) -> None:
    """Two locks, in opposite order."""
    one, two = asyncio.Lock(), asyncio.Lock()

    async def both(first: asyncio.Lock, second: asyncio.Lock) -> None:
        async with first:
            await asyncio.sleep(0)
            async with second:
                pass

    async with asyncio.TaskGroup() as group:
        group.create_task(both(one, two), name="a")
        group.create_task(both(two, one), name="b")


async def each_other(sim: Simulation) -> None:
    """Two tasks that await each other, by gather."""
    tasks: dict[str, asyncio.Task[Any]] = {}

    async def awaits(other: str) -> None:
        await asyncio.sleep(0)
        await asyncio.gather(tasks[other])

    def begin(name: str, work: Coroutine[Any, Any, None]) -> None:
        tasks[name] = asyncio.create_task(work, name=name)

    begin("a", awaits("b"))
    begin("b", awaits("a"))
    await asyncio.wait(tasks.values())


@pytest.mark.parametrize("main", [locks, each_other])
def test_a_deadlock_shows_the_cycle(main: Any) -> None:
    """Each task with what it is in and which task it waits for, and the cycle by name."""
    with pytest.raises(DeadlockError) as caught:
        explore(main, runs=50)
    assert set(caught.value.cycle) == {"a", "b"}
    assert "a cycle: " in str(caught.value)
    lines = {line.partition(":")[0]: line for line in caught.value.waiting}
    assert lines["a"].endswith(", waits for b")
    assert lines["b"].endswith(", waits for a")
    assert main is each_other or ", in Lock.acquire" in lines["a"]


@pytest.mark.parametrize(
    ("wait", "used"),
    [
        (lambda: asyncio.Event().wait(), "Event.wait"),
        (lambda: asyncio.Queue[int]().get(), "Queue.get"),
        (lambda: full().join(), "Queue.join"),
        (lambda: asyncio.Semaphore(0).acquire(), "Semaphore.acquire"),
        (lambda: asyncio.Barrier(2).wait(), "Barrier.wait"),
    ],
)
def test_a_deadlock_without_a_cycle_names_what_is_waited_for(
    wait: Callable[[], Coroutine[Any, Any, object]], used: str
) -> None:
    """Nobody sets an event, puts an item, or the like."""

    async def main(sim: Simulation) -> None:
        await wait()

    with pytest.raises(DeadlockError, match=f", in {used}\n") as caught:
        simulate(main)
    assert caught.value.cycle == ()


def full() -> asyncio.Queue[int]:
    queue = asyncio.Queue[int]()
    queue.put_nowait(1)
    return queue


@pytest.mark.parametrize("again", [False, True])
def test_a_failure_is_a_page_on_request(tmp_path: Path, again: bool) -> None:
    """It has the steps of the note, and by which each is woken, and needs no other file."""
    path = tmp_path / "new" / "page.html"
    token = re.findall(r"sf1-[\w-]+", failure().__notes__[-1])[-1]
    run = partial(replay, token) if again else partial(simulate, lost_update)
    with pytest.raises(AssertionError) as caught:
        run(page=path)
    text = path.read_text()
    assert f"\nThe same as a page: {path}" in caught.value.__notes__[-1]
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    (data,) = re.findall(r'<script type="application/json" id="data">(.*)</script>', text)
    steps = json.loads(data)["steps"]
    assert [(s["task"], s["now_s"], s["source"]) for s in steps if s["task"] == "first"] == [
        ("first", 0.0, "async def add() -> None:"),
        ("first", 1.0, "await asyncio.sleep(1)"),
    ]
    woken = {steps[step["by"]]["task"] for step in steps[1:3]}
    assert woken == {"Task-0"}
    assert steps[0]["by"] is None
    assert {bool(step["before"]) for step in steps} <= {False, True}
