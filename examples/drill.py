"""A fault drill of one's own stage: each fault of its provider, in 200 orders, in virtual time.

The stage asks a shop's stock service, which is no provider that the engine knows: any object will
do, under any name. A fault that is never met would prove nothing, so that is counted, too.

    no fault       200 of 200 turns answered, at most 0.3 s
    timeout        200 of 200 turns answered, at most 1.0 s
    error          200 of 200 turns answered, at most 0.0 s
    disconnect     200 of 200 turns answered, at most 0.0 s
    stall          200 of 200 turns answered, at most 1.0 s
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

from stageflow import Pipeline, ProviderRegistry, RunResult, StageContext, StageOutput, stage
from stageflow.testing.faults import FaultType, inject_fault
from stageflow.testing.simulation import Simulation, explore


@stage(inputs=["item"], outputs=["left"], required=False, timeout_s=1.0, provider="stock")
async def look_up(ctx: StageContext) -> StageOutput:
    """How many of the item are left."""
    return StageOutput.ok(left=await ctx.provider("stock").count(ctx["item"]))


@stage(dependencies=["look_up"], inputs=["item", "left"], outputs=["answer"])
async def answer(ctx: StageContext) -> StageOutput:
    """A sentence, also if the number is not to be had."""
    left = ctx.get("left")
    known = "I cannot look that up right now" if left is None else f"{left} are left"
    return StageOutput.ok(answer=f"Of the {ctx['item']}: {known}.")


turn = Pipeline("turn", [look_up, answer], inputs=["item"])


class Stock:
    """A service that takes 300 ms."""

    async def count(self, item: str) -> int:
        """How many of the item there are."""
        await asyncio.sleep(0.3)
        return len(item)


def drill(fault: FaultType | None, runs: int = 200) -> None:
    """Run the turn in that many orders under a fault, and say how it fared."""
    answered, longest_ms = 0, 0.0

    async def one_turn(sim: Simulation) -> RunResult:
        context = sim.context({"item": "tea"}, providers=ProviderRegistry(stock=Stock()))
        with nullcontext() if fault is None else inject_fault("stock", fault) as injected:
            result = await turn.run(context)
        assert injected is None or injected.injected == 1
        return result

    for outcome in explore(one_turn, runs=runs):
        answered += outcome.value.unwrap()["answer"].startswith("Of the tea: ")
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
        drill(each)
