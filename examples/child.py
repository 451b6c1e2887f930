"""A pipeline as a stage of another one: an order reserves its items by a pipeline of the stock.

The child run has its own id, bag and events, ends no later than its parent, and hands over only the
outputs that are named. If it fails, the error of the parent names the stage of the child.

    2 apples: sold for 1.00
    9 apples: failed (only 5 left)
    it was the stage reserved of the pipeline stock
"""

from __future__ import annotations

import asyncio

from stageflow import ChildRunError, Pipeline, StageOutput, stage, subpipeline

STOCK = {"apple": 5}
PRICES = {"apple": 0.5}

# ── the pipeline that is shared: it knows nothing of orders ─────────────────────────────────


@stage
async def left(item: str) -> int:
    """Count what is left of the item."""
    return STOCK[item]


@stage
async def reserved(left: int, amount: int) -> int | StageOutput:
    """Reserve the amount, or fail with the number that is left."""
    return amount if amount <= left else StageOutput.fail(f"only {left} left")


stock = Pipeline("stock", [left, reserved])

# ── the pipeline of an order ────────────────────────────────────────────────────────────────

reserve = subpipeline("reserve", stock, inputs=["item", "amount"], outputs=["reserved"])


@stage
async def price(item: str, reserved: int) -> float:
    """Return what the order costs."""
    return PRICES[item] * reserved


order = Pipeline("order", [reserve, price])


async def main() -> None:
    """Run an order that succeeds, and one that fails."""
    sold = await order.run(item="apple", amount=2)
    print(f"2 apples: sold for {sold['price']:.2f}")
    refused = await order.run(item="apple", amount=9)
    failure = refused.failure
    assert isinstance(failure, ChildRunError)
    print(f"9 apples: {refused.status} ({failure.cause})")
    print(f"it was the stage {failure.cause.stage} of the pipeline {failure.child_pipeline}")


if __name__ == "__main__":
    asyncio.run(main())
