"""Try each fault of a provider on your own stage, in 200 orders, in virtual time.

The stage calls a shop's stock service: a provider of your own can be any object, under any name.
The injected faults are counted, because a fault that no call meets proves nothing.

    no fault       200 of 200 turns answered, at most 0.3 s
    timeout        200 of 200 turns answered, at most 1.0 s
    error          200 of 200 turns answered, at most 0.0 s
    disconnect     200 of 200 turns answered, at most 0.0 s
    stall          200 of 200 turns answered, at most 1.0 s
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

from stageflow import Pipeline, ProviderRegistry, RunResult, StageContext, stage
from stageflow.testing import FaultType, Simulation, explore, inject_fault


@stage(required=False, timeout_s=1.0, provider="stock")
async def left(ctx: StageContext, item: str) -> int:
    """Ask how many of the item are left."""
    count: int = await ctx.provider("stock").count(item)
    return count


@stage
async def answer(item: str, left: int | None = None) -> str:
    """Return a sentence, also if `left` has failed."""
    known = "I cannot look that up right now" if left is None else f"{left} are left"
    return f"Of the {item}: {known}."


turn = Pipeline("turn", [left, answer])


class Stock:
    """A service that takes 300 ms."""

    async def count(self, item: str) -> int:
        """Count the item."""
        await asyncio.sleep(0.3)
        return len(item)


def try_fault(fault: FaultType | None, runs: int = 200) -> None:
    """Run the turn in that many orders under a fault, and print how many were answered."""
    answered, longest_ms = 0, 0.0

    async def one_turn(sim: Simulation) -> RunResult:
        context = sim.context({"item": "tea"}, providers=ProviderRegistry(stock=Stock()))
        with nullcontext() if fault is None else inject_fault("stock", fault) as injected:
            result = await turn.run(context)
        assert injected is None or injected.injected == 1
        return result

    for outcome in explore(one_turn, runs=runs):
        answered += outcome.value["answer"].startswith("Of the tea: ")
        longest_ms = max(longest_ms, outcome.value.duration_ms)
    name = "no fault" if fault is None else fault
    print(f"{name:<14} {answered} of {runs} turns answered, at most {longest_ms / 1000:.1f} s")


if __name__ == "__main__":
    for each in (
        None,
        FaultType.TIMEOUT,
        FaultType.ERROR,
        FaultType.DISCONNECT,
        FaultType.STALL,
    ):
        try_fault(each)
