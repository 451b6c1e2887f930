"""A shop whose stages fail on request, and the letter that a failed run leaves."""

from __future__ import annotations

import asyncio
from typing import Any

from stageflow import (
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    StageContext,
    StageOutput,
    stage,
)
from stageflow import errors as err
from tests.utils.dead_letters import NOON


class Shop:
    """A pipeline whose stages behave as configured, and that counts what ran.

    pick (outputs picked) → taste (optional) ∥ quote (skips itself) ∥ pay → ship → thank
    """

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.pauses_s: dict[str, float] = {}
        self.picked: Any = ("tea", b"\0")

        async def act(name: str) -> None:
            self.ran.append(name)
            await asyncio.sleep(self.pauses_s.get(name, 0.1))
            if name in self.failing:
                raise self.failing[name]

        @stage(inputs=["items"], outputs=["picked"])
        async def pick(ctx: StageContext) -> StageOutput:
            await act("pick")
            return StageOutput.ok(picked=self.picked)

        @stage(dependencies=["pick"], required=False, outputs=["flavour"])
        async def taste(ctx: StageContext) -> StageOutput:
            await act("taste")
            return StageOutput.ok(flavour="fine")

        @stage(dependencies=["pick"], outputs=["discount"])
        async def quote(ctx: StageContext) -> StageOutput:
            await act("quote")
            return StageOutput.skip("no discount today")

        @stage(
            dependencies=["taste", "quote"],
            inputs=["picked", "flavour", "discount"],
            outputs=["paid"],
            provider="bank",
        )
        async def pay(ctx: StageContext) -> StageOutput:
            await act("pay")
            seen = (ctx["picked"], ctx.get("flavour"), ctx.get("discount"))
            return StageOutput.ok(paid=seen)

        @stage(dependencies=["pay"], outputs=["shipped"])
        async def ship(ctx: StageContext) -> StageOutput:
            await act("ship")
            return StageOutput.ok(shipped=True)

        self.pipeline = Pipeline("shop", [pick, taste, quote, pay, ship], inputs=["items"])

    def orchestrator(self, store: Any = None) -> PipelineOrchestrator:
        return PipelineOrchestrator(self.pipeline.build(), dead_letters=store)


def context(**options: Any) -> PipelineContext:
    return PipelineContext({"items": ["tea"]}, seed=7, wall_clock=lambda: NOON, **options)


BROKE = err.StageFailedError("no money")
