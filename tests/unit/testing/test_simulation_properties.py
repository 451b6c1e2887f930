"""Properties that hold always, and properties that hold at some moment, in every order."""

from __future__ import annotations

import asyncio
import re

import pytest

from stageflow.testing import PropertyError, Simulation, explore, replay, simulate


async def counted(sim: Simulation, most: int) -> None:
    """Three tasks that hold something for a while."""
    used = 0

    async def use() -> None:
        nonlocal used
        await asyncio.sleep(0)
        used += 1
        await asyncio.sleep(0)
        used -= 1

    sim.always(lambda: used <= most, f"at most {most} at a time")
    await asyncio.gather(use(), use(), use())


def test_what_holds_always_is_checked_after_each_callback() -> None:
    """So it is found where it breaks, although all is well at the end; and the token repeats it."""
    explore(counted, 3, runs=30)
    with pytest.raises(PropertyError, match="at most 1 at a time: does not hold at 0 s") as caught:
        explore(counted, 1, runs=30)
    assert re.search(r", after a step of Task-\d+$", str(caught.value))
    assert caught.value.claim == "at most 1 at a time"
    with pytest.raises(PropertyError):
        replay(re.findall(r"sf1-[\w-]+", caught.value.__notes__[-1])[-1])


async def served(sim: Simulation, within_s: float, takes_s: float) -> None:
    """A reply that takes a while."""
    replies: list[str] = []
    sim.eventually(lambda: replies, within_s=within_s, message="a reply")
    await asyncio.sleep(takes_s)
    replies.append("yes")
    await asyncio.sleep(1)
    replies.clear()


def test_what_holds_eventually_need_not_hold_at_the_end() -> None:
    """The moment that ends the time is in time, and a later one is not."""
    simulate(served, 5.0, 5.0)
    with pytest.raises(PropertyError, match=r"a reply: did not hold by 5 s"):
        simulate(served, 5.0, 5.5)


def test_what_never_holds_is_found_at_the_end() -> None:
    """Whether there is a time or not; without a message it is named by its place."""

    async def main(sim: Simulation) -> None:
        sim.eventually(lambda: False)
        sim.always(lambda: True)
        await asyncio.sleep(2)

    with pytest.raises(PropertyError, match=r"properties.py:\d+: did not hold by the end, at 2 s"):
        simulate(main)


def test_a_failure_is_not_reduced_to_that_of_another_property() -> None:
    """In asyncio's own order the first property fails, in another order the second does."""

    async def main(sim: Simulation) -> None:
        log: list[int] = []

        async def add(number: int) -> None:
            await asyncio.sleep(0)
            log.append(number)

        sim.always(lambda: log[:1] != [0], "not the first")
        sim.always(lambda: log[:1] != [1], "not the second")
        await asyncio.gather(add(0), add(1))

    claims = set()
    for seed in range(20):
        with pytest.raises(PropertyError) as caught:
            simulate(main, seed=seed)
        claims.add((caught.value.claim, "own order once" in caught.value.__notes__[-1]))
    assert claims == {("not the first", False), ("not the second", True)}
