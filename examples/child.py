"""A pipeline in a stage of another one: an order is checked by a pipeline that others use, too.

The child has a run id, a bag and events of its own, ends no later than its parent, and hands over
only the outputs that are named. When it fails, the parent is told which stage of the child it was.

    2 apples: sold for 1.00
    9 apples: failed (only 5 left)
    it was the stage check of the pipeline stock
"""

from __future__ import annotations

import asyncio

from stageflow import (
    ChildRunError,
    Pipeline,
    PipelineContext,
    RunResult,
    StageContext,
    StageOutput,
    stage,
    subpipeline,
)

STOCK = {"apple": 5}
PRICES = {"apple": 0.5}

# ── the pipeline that is shared: it knows nothing of orders ─────────────────────────────────


@stage(inputs=["item"], outputs=["left"])
async def count(ctx: StageContext) -> StageOutput:
    """How many there are."""
    return StageOutput.ok(left=STOCK[ctx["item"]])


@stage(dependencies=["count"], inputs=["left", "amount"], outputs=["reserved"])
async def check(ctx: StageContext) -> StageOutput:
    """Reserve them, or say how many are left."""
    if ctx["left"] < ctx["amount"]:
        return StageOutput.fail(f"only {ctx['left']} left")
    return StageOutput.ok(reserved=ctx["amount"])


stock = Pipeline("stock", [count, check], inputs=["item", "amount"])

# ── the pipeline of an order ────────────────────────────────────────────────────────────────

reserve = subpipeline("reserve", stock, inputs=["item", "amount"], outputs=["reserved"])


@stage(dependencies=["reserve"], inputs=["item", "reserved"], outputs=["price"])
async def charge(ctx: StageContext) -> StageOutput:
    """What is to be paid."""
    return StageOutput.ok(price=PRICES[ctx["item"]] * ctx["reserved"])


order = Pipeline("order", [reserve, charge], inputs=["item", "amount"])


async def buy(amount: int) -> RunResult:
    """Order some apples."""
    return await order.run(PipelineContext({"item": "apple", "amount": amount}))


def main() -> None:
    """One order that goes well, and one that does not."""
    sold, refused = asyncio.run(buy(2)), asyncio.run(buy(9))
    print(f"2 apples: sold for {sold.unwrap()['price']:.2f}")
    failure = refused.failure
    assert isinstance(failure, ChildRunError)
    print(f"9 apples: {refused.status} ({failure.cause})")
    print(f"it was the stage {failure.cause.stage} of the pipeline {failure.child_pipeline}")


if __name__ == "__main__":
    main()
